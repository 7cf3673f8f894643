"""Sets of fields: from objects and FieldsV1 and back, merging and removing.

Golden cases marked SMD are re-expressed from the published test tables of structured-merge-diff
(typed/merge_test.go, typed/toset_test.go, fieldpath/serialize_test.go and merge/*_test.go; no code taken).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.api.fieldsets import (
    Fields,
    Free,
    Items,
    Leaf,
    Malformed,
    Shape,
    ambiguous,
    flatten,
    from_v1,
    merge,
    remove,
    shape_of,
    shown,
    to_v1,
    with_parents,
)

NONE: frozenset[tuple[str, ...]] = frozenset()
A, B = 'k:{"name":"a"}', 'k:{"name":"b"}'
SHAPE = Fields(
    {
        "n": Leaf(),
        "s": Fields({"x": Leaf(), "y": Leaf()}),
        "labels": Fields(other=Leaf()),
        "atomic": Leaf(),
        "set": Items((), Leaf()),
        "list": Items(("name",), Fields({"name": Leaf(), "value": Leaf(), "more": Fields({"z": Leaf()})})),
        "ports": Items(("port", "protocol"), Fields({"port": Leaf(), "protocol": Leaf()})),
        "free": Free(),
    }
)


def fields(value: Any, shape: Shape = SHAPE) -> Any:
    """As FieldsV1, which reads well."""
    return to_v1(frozenset(flatten(value, shape)))


TO_SET: list[tuple[Any, Any]] = [  # SMD: toset_test
    ({}, {}),
    ({"n": 1}, {"f:n": {}}),
    ({"n": None}, {"f:n": {}}),
    ({"s": {"x": 1}}, {"f:s": {"f:x": {}}}),
    ({"s": {}}, {"f:s": {}}),
    ({"labels": {"a": "1", "b/c": ""}}, {"f:labels": {"f:a": {}, "f:b/c": {}}}),
    ({"atomic": [1, {"a": 2}]}, {"f:atomic": {}}),
    ({"atomic": {"a": {"b": 1}}}, {"f:atomic": {}}),
    ({"set": ["b", "a", 1, True]}, {"f:set": {'v:"a"': {}, 'v:"b"': {}, "v:1": {}, "v:true": {}}}),
    ({"set": []}, {}),
    ({"list": [{"name": "a", "value": 1}]}, {"f:list": {A: {".": {}, "f:name": {}, "f:value": {}}}}),
    (
        {"ports": [{"port": 80, "protocol": "TCP"}]},
        {"f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:protocol": {}}}},
    ),
    ({"free": {"a": {"b": 1}, "l": [1]}}, {"f:free": {"f:a": {".": {}, "f:b": {}}, "f:l": {}}}),
    ({"unknown": 1}, {}),
]


@pytest.mark.parametrize(("value", "expected"), TO_SET)
def test_an_object_has_the_fields_that_its_schema_says(value: Any, expected: Any) -> None:
    assert fields(value) == expected


@pytest.mark.parametrize(("value", "expected"), TO_SET)
def test_fields_v1_reads_back_to_the_same_set(value: Any, expected: Any) -> None:
    assert from_v1(expected) == frozenset(flatten(value, SHAPE))


SERIALIZED = [  # SMD: fieldpath/serialize_test; keys are read in any order and spacing
    ('{"f:a":{"f:b":{}}}', {("f:a", "f:b")}),
    ('{"f:a":{".":{},"f:b":{}}}', {("f:a",), ("f:a", "f:b")}),
    ('{"k:{\\"b\\": 1, \\"a\\": \\"x\\"}":{}}', {('k:{"a":"x","b":1}',)}),
    ('{"v:\\"\\\\u0061\\"":{}}', {('v:"a"',)}),
    ('{"i:3":{"f:x":{}}}', {("i:3", "f:x")}),
    ("{}", set()),
]


@pytest.mark.parametrize(("text", "expected"), SERIALIZED)
def test_fields_v1_is_read_in_any_spelling(text: str, expected: set[tuple[str, ...]]) -> None:
    assert from_v1(json.loads(text)) == expected


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"f:a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [1, [], {"f:a": 1}, {"f:a": None}, {"x": {}}, {"": {}}, {"k:": {}}, {"k:[1]": {}}, {"v:{}": {}},
     {"i:x": {}}, {'k:{"a":{}}': {}}, {"v:" + "[" * 5000: {}}, nested(500)],
)  # fmt: skip
def test_a_set_that_cannot_be_read_is_malformed(value: Any) -> None:
    with pytest.raises(Malformed):
        from_v1(value)


MERGES: list[tuple[Any, Any, Any]] = [  # SMD: merge_test
    ({"n": 1}, {"n": 2}, {"n": 2}),
    ({"s": {"x": 1}}, {"s": {"y": 2}}, {"s": {"x": 1, "y": 2}}),
    ({"labels": {"a": "1"}}, {"labels": {"b": "2"}}, {"labels": {"a": "1", "b": "2"}}),
    ({"atomic": [1, 2]}, {"atomic": [3]}, {"atomic": [3]}),
    ({"atomic": {"a": 1}}, {"atomic": {"b": 1}}, {"atomic": {"b": 1}}),
    ({"set": ["a", "b"]}, {"set": ["c"]}, {"set": ["a", "b", "c"]}),
    ({"set": ["a", "b", "c"]}, {"set": ["b", "a"]}, {"set": ["b", "a", "c"]}),
    ({"set": ["a", "b", "c", "d"]}, {"set": ["c", "x", "a"]}, {"set": ["c", "b", "x", "a", "d"]}),
    ({"set": ["a", "a"]}, {"set": ["b"]}, {"set": ["a", "b"]}),
    (
        {"list": [{"name": "a", "value": 1}, {"name": "b", "value": 1}]},
        {"list": [{"name": "b", "value": 2}]},
        {"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2}]},
    ),
    ({"list": []}, {"list": [{"name": "a"}]}, {"list": [{"name": "a"}]}),
    ({"list": [{"name": "a"}]}, {"list": []}, {"list": [{"name": "a"}]}),
    ({"list": "broken"}, {"list": [{"name": "a"}]}, {"list": [{"name": "a"}]}),
    ({"s": {"x": 1}}, {"s": 5}, {"s": 5}),
    ({}, {"s": {"x": 1}}, {"s": {"x": 1}}),
    ({"free": {"a": [1], "b": {"c": 1}}}, {"free": {"a": [2], "b": {"d": 1}}},
     {"free": {"a": [2], "b": {"c": 1, "d": 1}}}),
]  # fmt: skip


@pytest.mark.parametrize(("live", "applied", "expected"), MERGES)
def test_what_is_applied_is_merged_by_the_schema(live: Any, applied: Any, expected: Any) -> None:
    before = json.dumps([live, applied])
    merged = merge(live, applied, SHAPE)
    assert merged == expected
    assert merge(merged, applied, SHAPE) == merged, "again changes nothing"
    assert json.dumps([live, applied]) == before, "arguments stay as they are"


def test_removing_takes_items_whole_and_never_their_keys() -> None:
    value = {"list": [{"name": "a", "value": 1}, {"name": "b", "value": 2, "more": {"z": 1}}]}
    whole = frozenset({("f:list", A), ("f:list", A, "f:name"), ("f:list", A, "f:value")})
    assert remove(value, whole, NONE, SHAPE) == {"list": [value["list"][1]]}
    part = frozenset({("f:list", A, "f:name"), ("f:list", A, "f:value"), ("f:list", B, "f:more", "f:z")})
    left = {"list": [{"name": "a"}, {"name": "b", "value": 2}]}
    assert remove(value, part, NONE, SHAPE) == left


def test_what_becomes_empty_goes_unless_somebody_keeps_it() -> None:
    value = {"s": {"x": 1}, "labels": {"a": "1"}, "set": ["a"], "n": 1}
    gone = frozenset({("f:s", "f:x"), ("f:labels", "f:a"), ("f:set", 'v:"a"')})
    assert remove(value, gone, NONE, SHAPE) == {"n": 1}
    kept = with_parents([("f:labels",)])
    assert remove(value, gone, kept, SHAPE) == {"n": 1, "labels": {}}


def test_lists_whose_items_cannot_be_told_apart_are_named_and_owned_as_a_whole() -> None:
    value = {"list": [{"name": "a"}, {"name": "a"}], "set": ["x", "x"], "ports": [{"port": 1}]}
    assert dict(ambiguous(value, SHAPE)) == {
        "list": 'duplicate entries for key [name="a"]',
        "set": "duplicate entries in a set",
        "ports": "an item lacks protocol, by which items are told apart",
    }
    assert fields(value) == {"f:list": {}, "f:ports": {}, "f:set": {'v:"x"': {}}}


def test_paths_are_shown_as_kubernetes_shows_them() -> None:
    path = ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:set", 'v:"x"')
    assert shown(path) == '.spec.ports[port=80,protocol="TCP"].set[="x"]'
    assert shown(("f:l", "i:2")) == ".l[2]"


def test_the_shape_follows_the_openapi_extensions() -> None:
    components = {"Item": {"type": "object", "properties": {"name": {"type": "string"}}}}
    item = {"$ref": "#/components/schemas/Item"}
    schema = {
        "properties": {
            "m": {"type": "array", "items": item, "x-kubernetes-list-type": "map",
                  "x-kubernetes-list-map-keys": ["name"]},
            "s": {"type": "array", "x-kubernetes-list-type": "set"},
            "a": {"type": "array", "items": item},
            "w": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {}},
            "l": {"type": "object", "additionalProperties": {"type": "string"}},
            "r": {"description": "d", "allOf": [item]},
            "f": {"x-kubernetes-preserve-unknown-fields": True},
        }
    }  # fmt: skip
    named = Fields({"name": Leaf()})
    assert shape_of(schema, components) == Fields(
        {
            "m": Items(("name",), named),
            "s": Items((), Leaf()),
            "a": Leaf(),
            "w": Leaf(),
            "l": Fields(other=Leaf()),
            "r": named,
            "f": Free(),
        }
    )
