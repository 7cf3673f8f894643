"""The three-way merge of apply: cases as Kubernetes' jsonmergepatch has them, and what must hold for any."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cli.merge3 import LAST_APPLIED, applied, encoded, last_applied, three_way, with_last_applied

CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "an added field is set": ({}, {"a": 1}, {}, {"a": 1}),
    "a changed field is set": ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
    "a field no longer applied is removed": ({"a": 1}, {}, {"a": 1}, {"a": None}),
    "a field of others stays": ({}, {"a": 1}, {"a": 1, "b": 2}, {}),
    "a field of others that was never applied stays": (None, {"a": 1}, {"a": 1, "b": 2}, {}),
    "a removed field that is gone already needs nothing": ({"a": 1}, {}, {}, {}),
    "a field that drifted is set back": ({"a": 1}, {"a": 1}, {"a": 3}, {"a": 1}),
    "maps are merged": (
        {"m": {"x": 1, "y": 1}},
        {"m": {"x": 2}},
        {"m": {"x": 1, "y": 1, "z": 1}},
        {"m": {"x": 2, "y": None}},
    ),
    "a list is one value": ({"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 2]}, {"l": [1, 3]}),
    "true is not 1": ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}),
    "1 is 1.0": ({"a": 1}, {"a": 1.0}, {"a": 1}, {}),
    "a map replaces a value": ({"a": 1}, {"a": {"b": 1}}, {"a": 1}, {"a": {"b": 1}}),
    "a value replaces a map": ({"a": {"b": 1}}, {"a": 1}, {"a": {"b": 1}}, {"a": 1}),
    "an empty map is set": ({}, {"a": {}}, {}, {"a": {}}),
    "a map that was applied and is gone is removed whole": (
        {"m": {"x": 1}},
        {},
        {"m": {"x": 1}},
        {"m": None},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_patch_sets_what_is_wanted_and_removes_only_what_was_applied(name: str) -> None:
    before, wanted, live, patch = CASES[name]
    assert three_way(before, wanted, live) == patch


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2)
no_nulls = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from("abcd"), no_nulls, max_size=4)


@given(objects, objects, objects)
def test_after_the_patch_all_that_is_wanted_is_there(
    before: dict[str, Any], wanted: dict[str, Any], live: dict[str, Any]
) -> None:
    after = applied(live, three_way(before, wanted, live))
    assert covers(after, wanted)


@given(objects, objects, objects)
def test_applying_the_same_again_changes_nothing(
    before: dict[str, Any], wanted: dict[str, Any], live: dict[str, Any]
) -> None:
    after = applied(live, three_way(before, wanted, live))
    assert three_way(wanted, wanted, after) == {}


@given(objects, objects)
def test_what_others_set_beside_it_stays(wanted: dict[str, Any], others: dict[str, Any]) -> None:
    live = {**wanted, "others": others}
    assert applied(live, three_way(wanted, {**wanted, "mine": 1}, live)) == {**live, "mine": 1}


@given(objects, objects)
def test_what_is_no_longer_applied_is_gone(before: dict[str, Any], wanted: dict[str, Any]) -> None:
    after = applied(before, three_way(before, wanted, before))
    assert after == wanted or covers(after, wanted)
    assert set(after) == set(wanted)


@given(objects, objects, objects)
def test_merging_leaves_its_arguments_as_they_are(
    before: dict[str, Any], wanted: dict[str, Any], live: dict[str, Any]
) -> None:
    copies = copy.deepcopy((before, wanted, live))
    applied(live, three_way(before, wanted, live))
    assert copies == (before, wanted, live)


def covers(after: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(after, dict) and all(k in after and covers(after[k], v) for k, v in wanted.items())
    return bool(after == wanted)


def test_annotation_is_in_the_bytes_that_kubectl_writes() -> None:
    raw = {
        "kind": "Domain",
        "apiVersion": "domctl.io/v1",
        "metadata": {"name": "web", "labels": {"b": "<&>", "a": "ü\u2028"}},
        "spec": {"n": 4.0, "x": 1.5, "t": True, "z": None},
    }
    text = with_last_applied(raw, "default")["metadata"]["annotations"][LAST_APPLIED]
    assert text == (
        '{"apiVersion":"domctl.io/v1","kind":"Domain","metadata":{"annotations":{},'
        '"labels":{"a":"ü\\u2028","b":"\\u003c\\u0026\\u003e"},"name":"web","namespace":"default"},'
        '"spec":{"n":4,"t":true,"x":1.5,"z":null}}\n'
    )


def test_annotation_of_a_file_is_not_nested_into_itself() -> None:
    once = with_last_applied({"metadata": {"name": "a", "annotations": {"x": "y"}}}, "")
    twice = with_last_applied(once, "")
    assert once == twice
    assert twice["metadata"]["annotations"]["x"] == "y"


def test_what_was_applied_is_read_back() -> None:
    raw = {"metadata": {"name": "a"}, "spec": {"vcpus": 1}}
    found = last_applied(with_last_applied(raw, "ns"))
    assert found == {"metadata": {"name": "a", "namespace": "ns", "annotations": {}}, "spec": {"vcpus": 1}}


@pytest.mark.parametrize("text", ["", "{", "[]", "1", None, 7])
def test_an_annotation_that_cannot_be_read_counts_as_none(text: object) -> None:
    assert last_applied({"metadata": {"annotations": {LAST_APPLIED: text}}}) is None


@given(st.recursive(scalars, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=3), s)))
def test_encoding_is_json_with_the_same_value(value: object) -> None:
    assert json.loads(encoded(value)) == value


def test_of_a_secret_the_annotation_has_names_alone() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"token": "aHVudGVyMg=="}}
    sent = with_last_applied(secret, "default")
    assert sent["data"] == secret["data"]
    assert last_applied(sent) == {
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "default", "annotations": {}},
        "data": {"token": "***"},
    }
