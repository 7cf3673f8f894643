"""YAML 1.2 (and JSON) texts as plain values, with the line and column of every field, safely.

libyaml scans and parses; its events are built into values here, in one pass without recursion, by the
*core schema* of YAML 1.2 alone: null, true/false, numbers, text. So `52:54:00:12:34:56`, `on`, `12:30`,
`2026-11-22` and `1_0` are text, `1e3` is 1000.0, `0o17` is 15, and `0777` is 777: the core schema has no
octal with a bare zero (kubectl, which reads YAML 1.1, would say 511: write 0o777). Refused, each with its
place and all at once as far as the syntax allows: duplicate keys, keys that are not text, merge keys, tags
outside the core schema, infinities, numbers beyond 64 bits, a line break that only YAML 1.1 knows.

Texts come from strangers: an alias costs what it stands for (MAX_NODES and MAX_TEXT after expansion, never
expanded here), depth, document and stream are bounded before anything deeper is entered. Even so it can
take a second per 10 MiB, so servers call it outside their event loop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import yaml

from specs.problems import MAX_PROBLEMS, Keys, Problem, shown

MAX_NODES: Final = 50_000
MAX_TEXT: Final = 1024 * 1024  # characters of one document's scalars, each counted wherever an alias puts it
MAX_DEPTH: Final = 32
MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_STREAM_BYTES: Final = 16 * 1024 * 1024
MAX_DOCUMENTS: Final = 10_000

# What YAML cannot contain, and U+0085, U+2028, U+2029: libyaml breaks lines there, YAML 1.2 does not, so the
# same text would mean two things. One compiled search is cheaper than letting the scanner find them.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_MAYBE_NUMBER = frozenset("+-.0123456789")
_TAG = "tag:yaml.org,2002:"

_Event = Any  # PyYAML's events say nothing of their types

# The marks of a value: for a mapping or a sequence the (line, column, marks) of each entry, else None.
_Marks = dict[Any, Any] | None


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its value (dict, list, str, int, float, bool), where it begins, and whether it was
    faulty, in which case its value may be looked at for further problems but never acted upon."""

    value: Any
    line: int
    column: int
    faulty: bool
    _marks: _Marks = field(repr=False, default=None)

    def position(self, keys: Keys) -> tuple[int, int]:
        """(line, column) from 1 of the key, or of the list's item, at a path; of its nearest parent where
        the path leads to nothing."""
        place, marks = (self.line, self.column), self._marks
        for key in keys:
            found = marks.get(key) if marks is not None else None
            if found is None:
                break
            place, marks = (found[0], found[1]), found[2]
        return place


@dataclass(frozen=True, slots=True)
class Loaded:
    documents: tuple[Document, ...]
    problems: tuple[Problem, ...]


def load(text: str | bytes) -> Loaded:
    """Read every document of a stream. Never raises: what is wrong stands in `problems`."""
    if len(text) > MAX_STREAM_BYTES:
        return _refused(f"has more than {MAX_STREAM_BYTES // 1024 // 1024} MiB", 1, 1)
    if not isinstance(text, str):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode("utf-8", "replace")
            return _refused("is not UTF-8", *_place(before, len(before)))
    text = text.removeprefix("\ufeff")
    found = _FORBIDDEN.search(text)
    if found is not None:
        message = f"has the character U+{ord(found[0]):04X}, which must be written as an escape"
        return _refused(message, *_place(text, found.start()))
    return _Stream(_without_surrogates(text)).load()


def _refused(message: str, line: int, column: int) -> Loaded:
    return Loaded((), (Problem((), f"the text {message}", line=line, column=column),))


def _place(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1


def _without_surrogates(text: str) -> str:
    r"""JSON writes 😀 as \ud83d\ude00, which YAML does not know: the one way in which it is no superset."""
    if _SURROGATES.search(text) is None:
        return text
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text

    def joined(found: re.Match[str]) -> str:
        high, low = int(found[2], 16), int(found[3], 16)
        return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _SURROGATES.sub(joined, text)


class _Stop(Exception):
    pass


_NO_KEY: Final = object()  # a mapping expects a key
_BAD_KEY: Final = object()  # the key was refused: its value is read and dropped


@dataclass(slots=True)
class _Frame:
    """An open mapping or sequence."""

    value: dict[str, Any] | list[Any]
    marks: dict[Any, Any]
    anchor: str | None
    place: tuple[int, int]
    nodes_before: int
    text_before: int
    is_key: bool
    key: Any = _NO_KEY
    key_place: tuple[int, int] = (0, 0)
    height: int = 1  # of the tree below, aliases included


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    marks: _Marks
    nodes: int
    text: int
    height: int


class _Stream:
    """The state of one reading."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.documents: list[Document] = []
        self.problems: list[Problem] = []
        self.frames: list[_Frame] = []
        self.anchors: dict[str, _Anchored] = {}
        self.nodes = 0
        self.text_size = 0
        self.begin = 0
        self.root: tuple[Any, _Marks, tuple[int, int]] = (None, None, (1, 1))
        self.problems_before = 0

    def load(self) -> Loaded:
        handlers: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.DocumentStartEvent: self._start,
            yaml.DocumentEndEvent: self._end,
        }
        try:
            parser = yaml.CSafeLoader(self.text)
            while parser.check_event():
                event: _Event = parser.get_event()
                handler = handlers.get(type(event))
                if handler is not None:
                    if event.end_mark.index - self.begin > MAX_DOCUMENT_BYTES:
                        self._too_long(event)
                    handler(event)
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except _Stop:
            pass
        return Loaded(tuple(self.documents), tuple(self.problems))

    # Documents

    def _start(self, event: _Event) -> None:
        if len(self.documents) >= MAX_DOCUMENTS:
            self._stop(f"more than {MAX_DOCUMENTS} documents", _at(event))
        self.begin = event.end_mark.index
        self.anchors = {}
        self.nodes = 0
        self.text_size = 0
        self.root = (None, None, _at(event))
        self.problems_before = len(self.problems)

    def _end(self, event: _Event) -> None:
        end = event.start_mark.index
        if end - self.begin > MAX_DOCUMENT_BYTES // 4:
            size = len(self.text[self.begin : end].encode())
            if size > MAX_DOCUMENT_BYTES:
                self._too_long(event)
        value, marks, (line, column) = self.root
        faulty = len(self.problems) > self.problems_before
        if value is not None or faulty:
            self.documents.append(Document(value, line, column, faulty, marks))
        self.begin = event.end_mark.index

    # Nodes

    def _scalar(self, event: _Event) -> None:
        size = len(event.value)
        self._count(1, size, event)
        if self._expects_key():
            self._key(event)
            return
        value = event.value if _is_text(event) else self._resolved(event)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(value, None, 1, size, 0)
        self._add(value, None, _at(event), 0)

    def _alias(self, event: _Event) -> None:
        anchored = self.anchors.get(event.anchor)
        if anchored is None:
            self._problem(
                f"the alias *{event.anchor} has no anchor before it, or is inside of it", _at(event)
            )
            anchored = _Anchored(None, None, 1, 0, 0)
        self._count(anchored.nodes, anchored.text, event)
        if len(self.frames) + anchored.height > MAX_DEPTH:
            self._stop(f"nested more than {MAX_DEPTH} deep", _at(event))
        if self._expects_key():
            self._bad_key("must be text, is an alias", _at(event))
        else:
            self._add(anchored.value, anchored.marks, _at(event), anchored.height)

    def _open(self, event: _Event) -> None:
        self._count(1, 0, event)
        if len(self.frames) >= MAX_DEPTH:
            self._stop(f"nested more than {MAX_DEPTH} deep", _at(event))
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            self._problem(f"the tag {shown(event.tag)} is not allowed", _at(event))
        if event.anchor is not None:
            self.anchors.pop(event.anchor, None)  # an alias inside of its own anchor finds nothing
        is_key = self._expects_key()
        if is_key:
            self._bad_key("must be text, is a mapping or list", _at(event))
        self.frames.append(
            _Frame(
                {} if mapping else [], {}, event.anchor, _at(event), self.nodes - 1, self.text_size, is_key
            )
        )

    def _close(self, _event: _Event) -> None:
        frame = self.frames.pop()
        if frame.anchor is not None:
            nodes = self.nodes - frame.nodes_before
            text = self.text_size - frame.text_before
            self.anchors[frame.anchor] = _Anchored(frame.value, frame.marks, nodes, text, frame.height)
        if not frame.is_key:
            self._add(frame.value, frame.marks, frame.place, frame.height)

    def _add(self, value: Any, marks: _Marks, place: tuple[int, int], height: int) -> None:
        if not self.frames:
            self.root = (value, marks, place)
            return
        frame = self.frames[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.marks[len(frame.value)] = (*place, marks)
            frame.value.append(value)
            return
        if frame.key is not _BAD_KEY:
            frame.marks[frame.key] = (*frame.key_place, marks)
            frame.value[frame.key] = value
        frame.key = _NO_KEY

    # Keys

    def _expects_key(self) -> bool:
        return (
            bool(self.frames) and self.frames[-1].key is _NO_KEY and isinstance(self.frames[-1].value, dict)
        )

    def _key(self, event: _Event) -> None:
        frame, key, place = self.frames[-1], event.value, _at(event)
        assert isinstance(frame.value, dict)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(key, None, 1, len(key), 0)
        if not _is_text(event):
            if key == "<<":
                self._bad_key("<<: merge keys are not part of YAML 1.2, write the fields out", place)
                return
            if not isinstance(self._resolved(event), str):
                self._bad_key(f"{shown(key)} must be text: put it in quotes", place)
                return
        if key in frame.value:
            line = frame.marks[key][0]
            self._bad_key(f"{shown(key)} is there twice, first in line {line}", place)
            return
        frame.key, frame.key_place = key, place

    def _bad_key(self, message: str, place: tuple[int, int]) -> None:
        self.frames[-1].key = _BAD_KEY
        self._problem(f"the key {message}", place)

    # Scalars by the core schema

    def _resolved(self, event: _Event) -> Any:
        text, tag = event.value, event.tag
        wanted = tag.removeprefix(_TAG) if tag is not None and tag.startswith(_TAG) else tag
        if wanted not in (None, "null", "bool", "int", "float"):
            self._problem(f"the tag {shown(tag)} is not allowed", _at(event))
            return text
        value = self._plain(text, event)
        if wanted is not None:
            if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
                return float(value)
            if wanted != _core_type(value):
                self._problem(f"{shown(text)} is no !!{wanted}", _at(event))
        return value

    def _plain(self, text: str, event: _Event) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in _MAYBE_NUMBER:
            return text
        if _INT.fullmatch(text) is not None:
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            value = int(text, base) if len(text) <= 66 else 1 << 64  # int() of many digits is quadratic
            if not -(1 << 63) <= value < (1 << 64):
                self._problem("a whole number must fit in 64 bits, or be text in quotes", _at(event))
                return 0
            return value
        if _NOT_FINITE.fullmatch(text) is not None:
            self._problem(f"{text} is not allowed: numbers must be finite", _at(event))
            return 1.0
        if _FLOAT.fullmatch(text) is not None:
            number = float(text)
            if math.isinf(number):
                self._problem(f"{shown(text)} is too large for a number", _at(event))
                return 1.0
            return number
        return text

    # Problems

    def _count(self, nodes: int, text: int, event: _Event) -> None:
        self.nodes += nodes
        self.text_size += text
        if self.text_size > MAX_TEXT:
            self._stop(
                f"more than {MAX_TEXT >> 10} KiB of text in one document, aliases expanded", _at(event)
            )
        if self.nodes > MAX_NODES:
            self._stop(f"more than {MAX_NODES} nodes in one document, aliases expanded", _at(event))

    def _too_long(self, event: _Event) -> None:
        self._stop(f"more than {MAX_DOCUMENT_BYTES // 1024} KiB in one document", _at(event))

    def _problem(self, message: str, place: tuple[int, int]) -> None:
        keys: list[str | int] = []
        for frame in self.frames:
            if isinstance(frame.value, list):
                keys.append(len(frame.value))
            elif isinstance(frame.key, str):
                keys.append(frame.key)
        self.problems.append(Problem(tuple(keys), message, line=place[0], column=place[1]))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Stop

    def _stop(self, message: str, place: tuple[int, int]) -> None:
        self._problem(message, place)
        raise _Stop

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        message = ", ".join(part for part in (error.context, error.problem) if part)
        self.problems.append(Problem((), f"YAML: {message}", line=line, column=column))


def _at(event: _Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _is_text(event: _Event) -> bool:
    """Quoted, a block, or tagged as text; everything else is resolved."""
    if event.tag is None:
        return bool(event.style)
    return event.tag in ("!", _TAG + "str")


def _core_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "bool", int: "int", float: "float"}.get(type(value), "str")
