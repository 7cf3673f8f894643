"""Selectors, merge patches and ages: pure functions against Kubernetes' documented meaning."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import tables
from controller.api.errors import ApiError
from controller.api.patch import merge
from controller.api.selectors import parse

ALLOWED = {"metadata.name": ("metadata", "name")}


def matches(labels: str, **have: str) -> bool:
    return parse(labels, "", ALLOWED).matches({"metadata": {"labels": have}})


@pytest.mark.parametrize(
    ("selector", "have", "expected"),
    [
        ("", {}, True),
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "1"}, True),
        ("a=1", {}, False),
        ("a=", {"a": ""}, True),
        ("a=", {}, False),
        ("a!=1", {}, True),
        ("a!=1", {"a": "1"}, False),
        ("a in (1, 2)", {"a": "2"}, True),
        ("a in (1,2)", {"a": "3"}, False),
        ("a notin (1,2)", {"a": "3"}, True),
        ("a notin (1,2)", {}, True),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"a": "1"}, False),
        ("a=1,b in (x,y),!c", {"a": "1", "b": "y"}, True),
        ("a=1,b in (x,y),!c", {"a": "1", "b": "y", "c": ""}, False),
        ("domctl.io/x=1", {"domctl.io/x": "1"}, True),
        (" a = 1 ", {"a": "1"}, True),
        ("a in (1,,2)", {"a": ""}, True),
        ("a in ()", {"a": ""}, True),
        ("a in ()", {"a": "1"}, False),
        ("a notin (,1)", {"a": ""}, False),
        ("a in(1),b", {"a": "1", "b": ""}, True),
        ("in in (in)", {"in": "in"}, True),
        ("a>1", {"a": "2"}, True),
        ("a > 1", {"a": "1"}, False),
        ("a<10", {"a": "9"}, True),
        ("a<10", {"a": "x"}, False),
        ("a<10", {}, False),
        ("a>1", {"a": "9" * 19}, False),
    ],
)
def test_label_selectors_mean_what_they_mean_on_kubernetes(
    selector: str, have: dict[str, str], expected: bool
) -> None:
    assert matches(selector, **have) is expected


BAD = [
    *("a===1", "=1", "a in 1", "a in (1", "a b", "a=1,,b=2", "a=ü", ",", "a=1,", "!a=1", "a!", "a in (1) b"),
    *("a>x", "a>", "a>-1", "a<9223372036854775808", "a/b/c", "A.io/b", "-a", "a" * 64, "a=" + "b" * 64),
    *(
        "a=-b",
        "a != (b)",
        "a notin (b c)",
        "a notin (b;c)",
        'a notin ("b")',
        "a notin (b,(c))",
        "a notin (-b)",
    ),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_selector_that_cannot_be_read_is_refused_and_not_ignored(bad: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(bad, "", ALLOWED)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    "bad",
    [
        *("metadata.name", "spec.x=1", "=1", "metadata.name>1", "metadata.name=a=b", "metadata.name!=a\\"),
        r"metadata.name!=\a",
    ],
)
def test_a_field_selector_of_an_unknown_field_is_refused(bad: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse("", bad, ALLOWED)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("selector", "name", "expected"),
    [
        ("metadata.name=a", "a", True),
        ("metadata.name==a,,", "b", False),
        ("metadata.name!=a", "b", True),
        (r"metadata.name=a\,b\=c\\", "a,b=c\\", True),
        ("metadata.name=a,metadata.name!=a", "a", False),
        ("metadata.name!=(a,metadata.name!=b)", "b)", False),
    ],
)
def test_field_selectors_mean_what_they_mean_on_kubernetes(selector: str, name: str, expected: bool) -> None:
    assert parse("", selector, ALLOWED).matches({"metadata": {"name": name}}) is expected


@given(st.text(max_size=60) | st.text("a=!(),<> in\\", max_size=12))
def test_no_text_makes_the_selectors_fail_otherwise(text: str) -> None:
    for arguments in ((text, ""), ("", text)):
        try:
            parse(*arguments, ALLOWED).matches({"metadata": {"name": "x", "labels": {"a": "1"}}})
        except ApiError as error:
            assert error.code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def difference(old: Any, new: Any) -> Any:
    """The merge patch that makes `new` of `old` (RFC 7396), where there is one."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    gone = {key: None for key in old if key not in new}
    return gone | {k: difference(old.get(k), v) for k, v in new.items() if k not in old or old[k] != v}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


@given(OBJECT, OBJECT)
def test_a_merge_patch_of_the_difference_makes_the_new_object(old: Any, new: Any) -> None:
    old, new = without_nulls(old), without_nulls(new)
    assert merge(old, difference(old, new)) == new


@given(JSON, st.sampled_from(sorted(tables.COLUMNS)))
def test_no_object_makes_a_cell_fail(value: Any, kind: str) -> None:
    body = {"metadata": {"name": "x"}, "spec": value, "status": value, "involvedObject": value}
    now = datetime.datetime.now(datetime.UTC)
    for column in tables.COLUMNS[kind]:
        column.cell(body, now)
