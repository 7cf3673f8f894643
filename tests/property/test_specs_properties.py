"""What holds for every spec, text and fragment, not only for those that somebody thought of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specs import paths, quantity, yamldoc
from specs.domain import Domain
from specs.node import Node
from specs.schema import components
from specs.validate import decode, load_file_objects
from tests.specscase import domain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


# Quantities


@given(
    st.from_regex(
        r"[+-]?[0-9]{1,6}(\.[0-9]{0,4})?([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", fullmatch=True
    )
)
def test_the_canonical_form_of_a_quantity_is_the_same_number_and_stays_as_it_is(text: str) -> None:
    try:
        written = quantity.canonical(text)
    except ValueError as error:
        assert "finer" in str(error) or "exponent" in str(error)
        return
    assert quantity.parse(written) == quantity.parse(text)
    assert quantity.canonical(written) == written


@given(st.text(max_size=70))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    try:
        quantity.parse(text)
    except ValueError as error:
        assert str(error)


# YAML


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t1.~<", max_size=60))
@settings(max_examples=300)
def test_no_text_makes_the_reader_raise_and_what_it_reads_has_places(text: str) -> None:
    loaded = yamldoc.load(text)
    lines = text.count("\n") + 2
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in loaded.problems)
    for document in loaded.documents:
        for keys in _paths(document.value):
            line, column = document.position(keys)
            assert 1 <= line <= lines
            assert column >= 1


def _paths(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*keys, key))


WRITTEN = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(WRITTEN, max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc xyz:-{'\"é", max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), PLAIN, min_size=1, max_size=4))
def test_what_json_or_a_yaml_writer_wrote_is_read_back(value: dict[str, Any]) -> None:
    as_json = msgspec.json.encode(value)
    found = yamldoc.load(as_json)
    assert found.problems == ()
    assert found.documents[0].value == value
    indented = msgspec.json.format(as_json)
    assert yamldoc.load(indented).documents[0].value == value


# Validation


def _shapes(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that often fit a schema and often do not."""
    if "$ref" in schema:
        return _shapes(known[schema["$ref"].rpartition("/")[2]], known, depth)
    if "allOf" in schema:
        return _shapes(schema["allOf"][0], known, depth)
    properties = schema.get("properties")
    if properties and depth < 6:
        parts = {name: _shapes(inner, known, depth + 1) for name, inner in properties.items()}
        required = {name: parts.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(required, optional=parts) | JSON
    if schema.get("type") == "array":
        return st.lists(_shapes(schema["items"], known, depth + 1), max_size=2) | JSON
    choices: list[st.SearchStrategy[Any]] = [JSON, st.sampled_from(["a", "32Mi", "/a/b", "0", 1, 2.0, True])]
    if "enum" in schema:
        choices += [st.sampled_from(schema["enum"])] * 3
    if "pattern" in schema:
        choices += [st.from_regex(schema["pattern"], fullmatch=False)]
    return st.one_of(choices)


SCHEMAS = components()


@given(st.one_of(_shapes(SCHEMAS["Domain"], SCHEMAS), _shapes(SCHEMAS["Node"], SCHEMAS), JSON))
@settings(max_examples=150)
def test_any_value_is_an_object_or_problems_and_never_an_exception(value: Any) -> None:
    decoded, problems = decode(value)
    assert (decoded is None) == bool(problems)
    assert all(str(problem) and problem.message.isprintable() for problem in problems)
    if decoded is not None:
        assert isinstance(decoded, Domain | Node)
        assert decode(msgspec.to_builtins(decoded))[0] == decoded


@given(st.text(max_size=40), st.sampled_from(["name", "namespace", "uid"]))
@example("web-1\n", "name")
def test_no_odd_text_gets_into_an_identity(text: str, field: str) -> None:
    value = domain()
    value["metadata"][field] = text
    decoded, _ = decode(value)
    if decoded is not None:
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(text) <= 63


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_file_is_objects_or_problems(text: str | bytes) -> None:
    objects, problems = load_file_objects(text, "f")
    assert objects == []
    assert all(problem.file == "f" for problem in problems)


# Paths


@given(st.text("/.a~", max_size=12), st.lists(st.text("/.a", max_size=6), max_size=3))
def test_an_allowed_path_lies_below_an_allowed_directory_however_it_is_resolved(
    path: str, allowed: list[str]
) -> None:
    if paths.is_allowed(path, allowed):
        parts = path.split("/")
        assert ".." not in parts
        assert any(parts[: len(one.split("/"))] == one.split("/") and one not in ("", "/") for one in allowed)
