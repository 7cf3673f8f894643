"""The schemas that clients are given: complete, sound, and in agreement with what validation accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from specs import yamldoc
from specs.kinds import KINDS
from specs.schema import components, described, undescribed
from specs.validate import decode
from tests.specscase import EXAMPLES, domain, node

PREFIX = "io.domctl.v1."
SCHEMAS = components(PREFIX)


def against(schema: Mapping[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """The part of OpenAPI that our schemas use, as any validator reads it."""
    if "$ref" in schema:
        yield from against(SCHEMAS[schema["$ref"].removeprefix("#/components/schemas/")], value, path)
    for part in schema.get("allOf", ()):
        yield from against(part, value, path)
    if "oneOf" in schema and sum(not list(against(part, value)) for part in schema["oneOf"]) != 1:
        yield f"{path}: oneOf"
    if not is_of(schema.get("type"), value):
        yield f"{path}: type"
    elif isinstance(value, dict):
        yield from against_object(schema, value, path)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1 << 30):
            yield f"{path}: items"
        for item in value:
            yield from against(schema.get("items", {}), item, f"{path}[]")
    else:
        yield from against_scalar(schema, value, path)


def is_of(kind: str | None, value: object) -> bool:
    if kind is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    types: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
    }
    return isinstance(value, types.get(kind, ()))


def against_object(schema: Mapping[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    yield from (f"{path}.{name}: required" for name in schema.get("required", ()) if name not in value)
    known = schema.get("properties", {})
    for name, inner in value.items():
        if name in known:
            yield from against(known[name], inner, f"{path}.{name}")
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from against(schema["additionalProperties"], inner, f"{path}.{name}")
        elif known:
            yield f"{path}.{name}: unknown"


def against_scalar(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if "enum" in schema and value not in schema["enum"]:
            yield f"{path}: enum"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30):
            yield f"{path}: length"
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            yield f"{path}: pattern"
    elif not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: range"


def examples() -> Iterator[dict[str, Any]]:
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        yield from (document.value for document in yamldoc.load(path.read_text()).documents)


@pytest.mark.parametrize("value", list(examples()), ids=lambda value: value["metadata"]["name"])
def test_every_example_is_valid_by_the_schema(value: dict[str, Any]) -> None:
    assert list(against(SCHEMAS[PREFIX + value["kind"]], value)) == []


WRONG = [
    (domain(vcpus=0), ".spec.vcpus: range"),
    (domain(vcpus="1"), ".spec.vcpus: type"),
    (domain(state="on"), ".spec.state: enum"),
    (domain(memory=True), ".spec.memory: oneOf"),
    (domain(disks=[{"name": "A"}]), ".spec.disks[].name: pattern"),
    (domain(disks=[{}]), ".spec.disks[].name: required"),
    (domain(shutdown=[]), ".spec.shutdown: items"),
    (domain(x=1), ".spec.x: unknown"),
    (node(uri=""), ".spec.uri: length"),
    (node(overcommit={"vcpus": 0}), ".spec.overcommit.vcpus: range"),
    (node(insecure="yes"), ".spec.insecure: type"),
]


@pytest.mark.parametrize(("value", "problem"), WRONG)
def test_what_the_schema_refuses_validation_refuses_too(value: dict[str, Any], problem: str) -> None:
    assert problem in list(against(SCHEMAS[PREFIX + value["kind"]], value))
    assert decode(value)[0] is None


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from walk(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from walk(inner)


def test_every_reference_leads_somewhere() -> None:
    references = {one["$ref"] for one in walk(SCHEMAS) if isinstance(one.get("$ref"), str)}
    assert len(references) > 15
    assert all(one.removeprefix("#/components/schemas/") in SCHEMAS for one in references)


def test_nothing_may_be_null_and_no_word_means_two_things_in_two_dialects() -> None:
    for one in walk(SCHEMAS):
        assert "anyOf" not in one
        assert one.get("type") != "null"
        assert "exclusiveMinimum" not in one
        assert "enum" not in one or one["type"] == "string"
        assert "$ref" not in one or list(one) == ["$ref"]
        assert not isinstance(one.get("type"), list)


def test_every_field_is_described() -> None:
    assert list(undescribed()) == []
    assert all(SCHEMAS[name]["description"] for name in SCHEMAS)


def test_every_kind_and_its_list_say_what_they_are() -> None:
    for kind in KINDS:
        for name in (kind.kind, f"{kind.kind}List"):
            assert SCHEMAS[PREFIX + name]["x-kubernetes-group-version-kind"] == [
                {"group": kind.group, "version": "v1", "kind": name}
            ]


def test_devices_merge_by_name_and_the_ladder_as_a_whole() -> None:
    spec = SCHEMAS[PREFIX + "DomainSpec"]["properties"]
    assert spec["disks"]["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["filesystems"]["x-kubernetes-list-map-keys"] == ["target"]
    assert spec["shutdown"]["x-kubernetes-list-type"] == "atomic"
    placement = SCHEMAS[PREFIX + "Placement"]["properties"]
    assert placement["nodeSelector"]["x-kubernetes-map-type"] == "granular"
    assert SCHEMAS[PREFIX + "NodeSpec"]["properties"]["allowedPaths"]["x-kubernetes-list-type"] == "set"


def test_the_keys_of_a_list_are_required_scalars_of_its_items() -> None:
    """Otherwise an item could have none, and nobody could own it."""
    keyed = [
        (field["items"]["$ref"].rpartition("/")[2], key)
        for schema in SCHEMAS.values()
        for name, field in schema.get("properties", {}).items()
        if name != "ownerReferences"  # free items: those without uid are owned as a whole
        for key in field.get("x-kubernetes-list-map-keys", ())
    ]
    assert len(keyed) >= 12
    for item, key in keyed:
        assert key in SCHEMAS[item]["required"], (item, key)
        assert SCHEMAS[item]["properties"][key]["type"] == "string", (item, key)


def test_a_docstring_is_a_summary_and_texts_of_fields() -> None:
    text = (
        "Sum of\n    two lines: not a field.\n\n    a_b: First\n        and second.\n    c: Third: yes.\n    "
    )
    assert described(text) == (
        "Sum of two lines: not a field.",
        {"aB": "First and second.", "c": "Third: yes."},
    )
