"""YAML as its 1.2 core schema means it, with places, and without a way to make the reader work for long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from specs import yamldoc
from specs.problems import Keys


def value(text: str) -> Any:
    loaded = yamldoc.load(text)
    assert loaded.problems == ()
    return loaded.documents[0].value


def problems(text: str | bytes) -> list[str]:
    return [f"{p.line}:{p.column}: {p}" for p in yamldoc.load(text).problems]


SCALARS: list[tuple[str, Any]] = [
    ("52:54:00:12:34:56", "52:54:00:12:34:56"),
    ("12:30", "12:30"),
    ("12:30:45", "12:30:45"),
    ("2026-11-22", "2026-11-22"),
    ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z"),
    ("on", "on"),
    ("off", "off"),
    ("yes", "yes"),
    ("no", "no"),
    ("y", "y"),
    ("1_0", "1_0"),
    ("0b11", "0b11"),
    ("0777", 777),
    ("010", 10),
    ("0o777", 511),
    ("0o8", "0o8"),
    ("0x1F", 31),
    ("0xg", "0xg"),
    ("-0x1F", "-0x1F"),
    ("-7", -7),
    ("+7", 7),
    ("0", 0),
    ("1e3", 1000.0),
    ("1.10", 1.1),
    ("1.", 1.0),
    (".5", 0.5),
    (".", "."),
    ("-.5e-1", -0.05),
    ("1e", "1e"),
    ("1.2.3", "1.2.3"),
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("tRUE", "tRUE"),
    ("false", False),
    ("null", None),
    ("~", None),
    ("nil", "nil"),
    ("'1'", "1"),
    ('"true"', "true"),
    ("'null'", "null"),
    ("! 1", "1"),
    ("!!str 1", "1"),
    ("!!int 0x10", 16),
    ("!!float 1", 1.0),
    ("!!bool true", True),
    ("!!null ~", None),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("12.0.0", "12.0.0"),
    ("128Mi", "128Mi"),
    ("=", "="),
    ("|\n  a\n  1\n", "a\n1\n"),
    ('"\\U0001F600"', "😀"),
]


@pytest.mark.parametrize(("text", "meant"), SCALARS)
def test_a_scalar_means_what_the_core_schema_says(text: str, meant: Any) -> None:
    found = value(f"k: {text}")["k"]
    assert (type(found), found) == (type(meant), meant)


REFUSED = [
    ("a: 1\na: 2", ['2:1: the key "a" is there twice, first in line 1']),
    ("a: {b: 1, 'b': 2}", ['1:11: a: the key "b" is there twice, first in line 1']),
    ("1: a", ['1:1: the key "1" must be text: put it in quotes']),
    ("true: a", ['1:1: the key "true" must be text: put it in quotes']),
    ("~: a", ['1:1: the key "~" must be text: put it in quotes']),
    ("? [a, b]\n: 1", ["1:3: the key must be text, is a mapping or list"]),
    ("a: &x b\n*x : 1", ["2:1: the key must be text, is an alias"]),
    ("<<: {a: 1}", ["1:1: the key <<: merge keys are not part of YAML 1.2, write the fields out"]),
    ("a: !custom 1", ['1:4: a: the tag "!custom" is not allowed']),
    ("a: !!timestamp 2026-01-01", ['1:4: a: the tag "tag:yaml.org,2002:timestamp" is not allowed']),
    (
        "a: !!python/name:os.system x",
        ['1:4: a: the tag "tag:yaml.org,2002:python/name:os.system" is not allowed'],
    ),
    ("a: !!set {b: 1}", ['1:4: a: the tag "tag:yaml.org,2002:set" is not allowed']),
    ("a: !!int x", ['1:4: a: "x" is no !!int']),
    ("a: !!int true", ['1:4: a: "true" is no !!int']),
    ("a: .nan", ["1:4: a: .nan is not allowed: numbers must be finite"]),
    ("a: [-.inf]", ["1:5: a[0]: -.inf is not allowed: numbers must be finite"]),
    ("a: 1e999", ['1:4: a: "1e999" is too large for a number']),
    ("a: 18446744073709551616", ["1:4: a: a whole number must fit in 64 bits, or be text in quotes"]),
    ("a: " + "9" * 5000, ["1:4: a: a whole number must fit in 64 bits, or be text in quotes"]),
    ("a: *b", ["1:4: a: the alias *b has no anchor before it, or is inside of it"]),
    ("a: &b [*b]", ["1:8: a[0]: the alias *b has no anchor before it, or is inside of it"]),
    ("a: &x 1\n---\nb: *x", ["3:4: b: the alias *x has no anchor before it, or is inside of it"]),
    ("a: b: c", ["1:5: YAML: mapping values are not allowed in this context"]),
    ("a: 'b", None),
    ("\ta: 1", None),
    ("%YAML 3.0\n---\na: 1", None),
    ("a\x01", ["1:2: the text has the character U+0001, which must be written as an escape"]),
    ("a: b\u2028c: d", ["1:5: the text has the character U+2028, which must be written as an escape"]),
    ("a: \ud800", ["1:4: the text has the character U+D800, which must be written as an escape"]),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_what_means_two_things_or_none_is_refused_with_its_place(
    text: str, expected: list[str] | None
) -> None:
    found = problems(text)
    assert len(found) == 1
    if expected is not None:
        assert found == expected


def test_text_that_is_not_utf8_is_refused_with_its_place() -> None:
    assert problems(b"a: 1\nb: \xff") == ["2:4: the text is not UTF-8"]


def test_all_problems_of_all_documents_are_told_up_to_the_first_error_of_syntax() -> None:
    text = "a: 1\na: !x 2\n1: 3\n---\nb: .inf\n---\nc: d: e\n---\nf: .nan"
    assert [p[:4] for p in problems(text)] == ["2:1:", "2:4:", "3:1:", "5:4:", "7:5:"]


def test_a_document_with_a_problem_is_marked_faulty_and_the_others_are_not() -> None:
    loaded = yamldoc.load("a: 1\n---\nb: 1\nb: 2\n---\nc: 3")
    assert [(d.value, d.faulty) for d in loaded.documents] == [
        ({"a": 1}, False),
        ({"b": 1}, True),
        ({"c": 3}, False),
    ]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n---\n", "\ufeff"])
def test_empty_documents_are_left_out(text: str) -> None:
    assert yamldoc.load(text) == yamldoc.Loaded((), ())


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert yamldoc.load(b"\xef\xbb\xbfa: 1").documents[0].value == {"a": 1}


PLACES: list[tuple[Keys, tuple[int, int]]] = [
    ((), (2, 1)),
    (("a",), (2, 1)),
    (("a", "b"), (3, 3)),
    (("a", "b", 0), (3, 7)),
    (("a", "b", 1), (3, 10)),
    (("a", "b", 7), (3, 3)),
    (("a", "nothing", "there"), (2, 1)),
    (("c", 0), (5, 5)),
    (("c", 0, "d"), (5, 5)),
    (("c", 1, "d"), (6, 5)),
    (("c", 1, "e"), (7, 5)),
    (("f", "b"), (3, 3)),
    (("nothing",), (2, 1)),
]


@pytest.mark.parametrize(("keys", "place"), PLACES)
def test_every_field_has_a_place_and_what_is_missing_has_its_parents(
    keys: Keys, place: tuple[int, int]
) -> None:
    text = "# head\na: &a\n  b: [1, 2]\nc:\n  - d: 1\n  - d: 2\n    e: 3\nf: *a\n"
    assert yamldoc.load(text).documents[0].position(keys) == place


JSON: list[tuple[str, Any]] = [
    ('{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
    ('{\n\t"a":1,\n\t"b":\t"c"\n}\n', {"a": 1, "b": "c"}),
    ('{"a":"\\u00e9\\/\\n"}', {"a": "é/\n"}),
    ('{"a":"\\ud83d\\ude00!","b":"\\\\ud83d\\\\ude00"}', {"a": "😀!", "b": "\\ud83d\\ude00"}),
    ('{"a": 1E3, "b": -0}', {"a": 1000.0, "b": 0}),
    ("[]", []),
]


@pytest.mark.parametrize(("text", "meant"), JSON)
def test_json_is_read_as_json(text: str, meant: Any) -> None:
    assert value(text) == meant


def nested(depth: int) -> list[str]:
    """One nested value in each of YAML's notations."""
    block = "".join("  " * level + "a:\n" for level in range(depth)) + "  " * depth + "b"
    return ["[" * depth + "]" * depth, "{a: " * depth + "b" + "}" * depth, "- " * depth + "b", block]


@pytest.mark.parametrize("index", range(4))
def test_depth_is_bounded_and_what_is_within_is_read(index: int) -> None:
    assert yamldoc.load(nested(32)[index]).problems == ()
    assert "nested more than 32 deep" in problems(nested(33)[index])[0]


def test_an_alias_cannot_hide_depth() -> None:
    text = "a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20
    assert "nested more than 32 deep" in problems(text)[0]


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
HOSTILE = {
    "a bomb of aliases": (LAUGHS, "more than 50000 nodes"),
    "a long text said often": (
        "a: &a " + "x" * 100_000 + "\nb: [" + "*a," * 1400 + "]",
        "more than 1024 KiB of text",
    ),
    "a list of long texts said often": (
        "a: &a [" + "x" * 50_000 + "," + "x" * 50_000 + "]\nb: [" + "*a," * 1400 + "]",
        "more than 1024 KiB of text",
    ),
    "20,000 brackets": ("[" * 20000 + "]" * 20000, "nested more than 32"),
    "as many as fit": ("[" * 262_000, "nested more than 32"),
    "braces": ("{a: " * 60_000, "nested more than 32"),
    "dashes": ("- " * 130_000, "nested more than 32"),
    "question marks": ("? " * 130_000, "the key must be text"),
    "a plain list of 1.2 MB": ("- a\n" * 300_000, "more than 50000 nodes"),
    "one long scalar": ("a: " + "x" * 300_000, "more than 256 KiB"),
    "many wide characters": ("a: " + "é" * 140_000, "more than 256 KiB"),
    "too much in all": ("a: 1\n---\n" * 2_000_000, "more than 16 MiB"),
    "too many documents": ("a\n---\n" * 10_001, "more than 10000 documents"),
    "an endless quote": ('"' + "a\n" * 100_000, "quoted scalar"),
    "anchors": ("a: " + "&a " * 80_000, "YAML"),
    "duplicate keys": ("a: 1\n" * 20_000, "is there twice"),
    "one flow mapping of many keys": ("{" + "a,b:," * 20_000, ""),
    "a long number": ("a: " + "1" * 200_000, "64 bits"),
    "a long fraction": ("a: 0." + "1" * 200_000 + "e5x", ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_answered_quickly(name: str) -> None:
    text, expected = HOSTILE[name]
    started = time.process_time()
    loaded = yamldoc.load(text)
    spent = time.process_time() - started
    if expected:
        assert expected in loaded.problems[0].message
    assert spent < 5.0
    assert len(loaded.problems) <= 200


def test_fifty_thousand_nodes_are_read_with_aliases_or_without() -> None:
    inner = "a: &a [" + "x," * 998 + "]\n"  # the mapping, its key, the list and 998 entries: 1001 nodes
    most = inner + "".join(f"b{i}: *a\n" for i in range(48))  # 1000 each, with their keys
    assert yamldoc.load(most).problems == ()
    assert "more than 50000 nodes" in problems(most + "c: *a\n")[0]
