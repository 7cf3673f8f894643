"""The kinds as OpenAPI v3 schemas, made from their types: what clients validate, explain and merge by.

`components()` is what stands under `components.schemas`. Each kind carries its group, version and kind, by
which kubectl finds it; lists say how server-side apply merges them; descriptions come from docstrings (a
line `field: text` describes a field, see `specs.meta.Struct`). Every `$ref` leads somewhere, nothing may be
null, and nothing is said in a way that JSON Schema and OpenAPI 3.0 read differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from specs.kinds import KINDS, Kind
from specs.meta import VERSION

_REF: Final = "#/components/schemas/"
_GVK: Final = "x-kubernetes-group-version-kind"
# Lists whose items are told apart by a field: merged item by item, not replaced as a whole.
_LIST_KEYS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("DomainSpec", "disks"): ("name",),
    ("DomainSpec", "filesystems"): ("target",),
    ("DomainSpec", "interfaces"): ("name",),
    ("DomainSpec", "serials"): ("name",),
    ("DomainSpec", "consoles"): ("name",),
    ("DomainStatus", "conditions"): ("type",),
    ("DomainStatus", "requests"): ("name",),
    ("DomainStatus", "pending"): ("field",),
    ("MigrationStatus", "conditions"): ("type",),
    ("NodeStatus", "conditions"): ("type",),
    ("NodeSpec", "taints"): ("key", "effect"),
    ("ObjectMeta", "ownerReferences"): ("uid",),
}
_SETS: Final = frozenset(
    {("ObjectMeta", "finalizers"), ("NodeSpec", "allowedPaths"), ("NodeStatus", "orphans")}
)
# Lists that strategic merge patches merge as well: clients make patches by what is said here, and
# `controller.api.strategic` takes them so.
_PATCHED: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("ObjectMeta", "finalizers"): {"x-kubernetes-patch-strategy": "merge"},
    ("ObjectMeta", "ownerReferences"): {
        "x-kubernetes-patch-merge-key": "uid",
        "x-kubernetes-patch-strategy": "merge",
    },
}
_QUANTITY: Final[dict[str, Any]] = {
    "description": "An amount as Kubernetes writes it: 512Mi, 2G, 1.5Gi, 1024.",
    "oneOf": [{"type": "string"}, {"type": "integer"}],
    "x-kubernetes-int-or-string": True,
}
_FIELD = re.compile(r"([a-z][A-Za-z0-9_]*): (.*)")


def components(prefix: str = "", kinds: Sequence[Kind] = KINDS) -> dict[str, Any]:
    """All schemas of `kinds` by name, their lists included; `prefix` stands before every name."""
    _, raw = msgspec.json.schema_components(
        [kind.struct for kind in kinds], ref_template=f"{_REF}{prefix}{{name}}"
    )
    found = {f"{prefix}{name}": _struct(name, schema, prefix) for name, schema in raw.items()}
    found[f"{prefix}Quantity"] = _QUANTITY
    for kind in kinds:
        found[f"{prefix}{kind.kind}"][_GVK] = [_gvk(kind, kind.kind)]
        found[f"{prefix}{kind.kind}List"] = _list_of(kind, prefix)
    return found


def _gvk(kind: Kind, word: str) -> dict[str, str]:
    return {"group": kind.group, "version": VERSION, "kind": word}


def _list_of(kind: Kind, prefix: str) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "description": f"A list of {kind.kind} objects.",
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "items": {"type": "array", "items": {"$ref": f"{_REF}{prefix}{kind.kind}"}},
        },
        _GVK: [_gvk(kind, f"{kind.kind}List")],
    }


def _struct(name: str, schema: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    summary, fields = described(str(schema.get("description", "")))
    properties = {}
    for field, value in schema["properties"].items():
        made = _described(_value(value, prefix), fields.get(field))
        if made.get("type") == "array":
            made |= {**_merging(name, field), **_PATCHED.get((name, field), {})}
        if isinstance(made.get("additionalProperties"), Mapping):
            made["x-kubernetes-map-type"] = "granular"
        properties[field] = made
    result: dict[str, Any] = {"description": summary, "type": "object", "properties": properties}
    if schema.get("required"):
        result["required"] = list(schema["required"])
    return result


def _described(schema: dict[str, Any], text: str | None) -> dict[str, Any]:
    """OpenAPI 3.0 ignores whatever stands beside a `$ref`."""
    if text is None:
        return schema
    if "$ref" in schema:
        return {"description": text, "allOf": [schema]}
    return {"description": text, **schema}


def _merging(name: str, field: str) -> dict[str, Any]:
    keys = _LIST_KEYS.get((name, field))
    if keys is not None:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
    return {"x-kubernetes-list-type": "set" if (name, field) in _SETS else "atomic"}


def _value(schema: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """One value's schema: enums get a type, the union of text and number is a quantity."""
    if "anyOf" in schema:
        return {"$ref": f"{_REF}{prefix}Quantity"}
    result = {key: value for key, value in schema.items() if key != "title"}
    if "enum" in result:
        result = {"type": "string", "enum": list(result["enum"])}
    for inner in ("items", "additionalProperties"):
        if isinstance(result.get(inner), Mapping):
            result[inner] = _value(result[inner], prefix)
    if not result or result == {"type": "object"}:
        return {"x-kubernetes-preserve-unknown-fields": True, **result}
    return result


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """A struct's docstring as its summary and the texts of its fields, by their names on the wire."""
    summary: list[str] = []
    fields: dict[str, list[str]] = {}
    target = summary
    for line in (line.strip() for line in docstring.splitlines()):
        found = _FIELD.fullmatch(line)
        if found is not None:
            target = fields.setdefault(_camel(found[1]), [])
        target.append(line if found is None else found[2])
    return _text(summary), {name: _text(lines) for name, lines in fields.items()}


def _text(lines: list[str]) -> str:
    return " ".join(line for line in lines if line)


def undescribed() -> Iterator[str]:
    """Fields of the kinds that no docstring describes; there should be none."""
    for name, schema in components().items():
        for field, value in schema.get("properties", {}).items():
            if "description" not in value and not name.endswith("List"):
                yield f"{name}.{field}"


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
