"""JSONPath as kubectl's users write it: `{.items[*].metadata.name}`, templates, ranges and simple filters.

A template is text with expressions in braces: paths (`.a.b`, `['a.b']`, `[0]`, `[-1]`, `[1:3]`, `[0,2]`,
`[*]`, `..x`), filters (`[?(@.type=="Ready")]`), literals (`{"\\n"}`) and `{range …}…{end}`. A field that is
missing gives nothing, and an index that is out of bounds is an error where a template is rendered, as with
kubectl; what kubectl refuses (double quotes in brackets) or takes for text (a path without braces) is read as
it is meant. Filters of several conditions (`&&`, `||`) are refused, also where kubectl finds nothing by them.
Parsed first and then evaluated, so that a wrong expression is refused before anything was asked of a server.
"""

from __future__ import annotations

import json
import operator as operators
import re

from controller.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Step = tuple[str, Any]
    Path = list[Step]

_FIELD = re.compile(r"((?:[^\s.\[\]{}'\"()=<>!&|,\\]|\\.)+)")
_INDEX = re.compile(r"\[(-?\d+)\]")
_SLICE = re.compile(r"\[(-?\d*):(-?\d*)(?::(-?\d*))?\]")
_UNION = re.compile(r"\[(-?\d+(?:\s*,\s*-?\d+)+|'[^']*'(?:\s*,\s*'[^']*')+)\]")
_QUOTED = re.compile(r"\[(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")\]")
_FILTER = re.compile(r"\[\?\(\s*@((?:[^()=<>!\s]|\[[^\]]*\])*)\s*(?:(==|!=|<=|>=|<|>)\s*([^)]*?)\s*)?\)\]")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_CONDITIONS = re.compile(r"\[\?\((.*?)\)\]")
_BLANKS = re.compile(r"\s+(?![^\[]*\])")  # none of those in brackets
_MISSING = object()
_ORDER = {"<": operators.lt, ">": operators.gt, "<=": operators.le, ">=": operators.ge}


class Template:
    """A parsed template. `render` gives text, `values` what its first path finds."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._parts = _template(source)

    def render(self, value: object) -> str:
        return "".join(_render(self._parts, value, value))

    def values(self, value: object) -> list[Any]:
        for kind, content in self._parts:
            if kind == "path":
                return _walk(content, [value])
        return []


def relaxed(source: str) -> str:
    """`a.b`, `.a.b` and `{.a.b}` alike, as custom-columns and wait take them."""
    source = source.strip()
    if source.startswith("{"):
        return source
    return "{" + (source if source.startswith((".", "[")) else f".{source}") + "}"


def _template(source: str) -> list[tuple[str, Any]]:
    root: list[tuple[str, Any]] = []
    stack = [root]
    position = 0
    while position < len(source):
        opened = source.find("{", position)
        if opened < 0:
            stack[-1].append(("text", source[position:]))
            break
        if opened > position:
            stack[-1].append(("text", source[position:opened]))
        closed = _closing(source, opened)
        expression = source[opened + 1 : closed].strip()
        position = closed + 1
        if expression == "end":
            if len(stack) == 1:
                raise _wrong(source, "{end} without {range}")
            stack.pop()
        elif expression.startswith("range"):
            inner: list[tuple[str, Any]] = []
            stack[-1].append(("range", (path(expression[5:].strip()), inner)))
            stack.append(inner)
        elif expression[:1] in {'"', "'"}:
            stack[-1].append(("text", _literal(expression, source)))
        else:
            for word in _BLANKS.split(expression):
                stack[-1].append(("path", path(word)))
    if len(stack) > 1:
        raise _wrong(source, "{range} without {end}")
    return root


def _closing(source: str, opened: int) -> int:
    quote = ""
    position = opened + 1
    while position < len(source):
        char = source[position]
        if char == "\\":
            position += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "}":
            return position
        position += 1
    raise _wrong(source, "unclosed {")


def path(source: str) -> Path:
    """The steps of one path expression."""
    rest = source.removeprefix("$").removeprefix("@")
    steps: Path = []
    while rest:
        if rest.startswith(".."):
            match = _FIELD.match(rest, 2)
            if not match:
                raise _wrong(source, "a name must follow ..")
            steps.append(("descend", _plain(match[1])))
            rest = rest[match.end() :]
        elif rest.startswith("."):
            match = _FIELD.match(rest, 1)
            if match:
                steps.append(("all", None) if match[1] == "*" else ("field", _plain(match[1])))
                rest = rest[match.end() :]
            elif rest == "." or rest.startswith(".["):
                rest = rest[1:]
            else:
                raise _wrong(source, f"cannot read {rest!r}")
        else:
            step, rest = _bracket(rest, source)
            steps.append(step)
    return steps


def _bracket(rest: str, source: str) -> tuple[Step, str]:
    if rest.startswith("[*]"):
        return ("all", None), rest[3:]
    if match := _INDEX.match(rest):
        return ("index", int(match[1])), rest[match.end() :]
    if match := _UNION.match(rest):
        parts = [part.strip() for part in match[1].split(",")]
        steps: Path = [("quoted", p[1:-1]) if p.startswith("'") else ("index", int(p)) for p in parts]
        return ("union", steps), rest[match.end() :]
    if match := _SLICE.match(rest):
        numbers = [int(part) if part else None for part in match.groups()]
        return ("slice", slice(*numbers)), rest[match.end() :]
    if match := _QUOTED.match(rest):
        return ("quoted", match[1] if match[1] is not None else match[2]), rest[match.end() :]
    if match := _CONDITIONS.match(rest):
        _check_single(match[1], source)
    if match := _FILTER.match(rest):
        wanted = _literal(match[3], source) if match[2] else None
        return ("filter", (path(match[1]), match[2] or "", wanted)), rest[match.end() :]
    raise _wrong(source, f"cannot read {rest!r}")


def _check_single(condition: str, source: str) -> None:
    """kubectl has no filters of several conditions. Raises CliError."""
    joined = re.search("[&|]", _TEXT.sub("''", condition))
    if joined:
        raise CliError(
            f"error parsing jsonpath {source}, unrecognized character in action: "
            f"U+{ord(joined[0]):04X} '{joined[0]}'",
            hint="a filter has one condition, as kubectl's have: && and || are not there",
        )


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _literal(text: str, source: str) -> Any:
    text = text.strip()
    if text[:1] == "'" and _TEXT.fullmatch(text):
        text = '"' + text[1:-1].replace('"', '\\"') + '"'
    try:
        return json.loads(text)
    except ValueError:
        raise _wrong(source, f"cannot read {text!r}") from None


def _wrong(source: str, why: str) -> CliError:
    return CliError(f"error parsing jsonpath {source}: {why}")


def _walk(steps: Sequence[Step], values: list[Any], *, strict: bool = False) -> list[Any]:
    """What the steps find. With `strict`, raises CliError for an index that is out of bounds."""
    for kind, argument in steps:
        if kind == "union":
            values = [found for step in argument for found in _walk([step], values, strict=strict)]
            continue
        if strict and kind == "index":
            _check_index(argument, values)
        values = [found for value in values for found in _step(kind, argument, value)]
    return values


def _check_index(index: int, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, list) and not -len(value) <= index < len(value):
            raise CliError(
                f"error executing jsonpath: array index out of bounds: index {index}, length {len(value)}"
            )


def _step(kind: str, argument: Any, value: Any) -> Iterator[Any]:
    if kind == "field":
        if isinstance(value, dict) and argument in value:
            yield value[argument]
    elif kind == "quoted":
        plain = _plain(argument)
        if isinstance(value, dict) and plain in value:
            yield value[plain]
        else:  # kubectl takes it for a path
            yield from _walk(path("." + argument), [value])
    elif kind == "all":
        yield from _inside(value)
    elif kind == "index":
        if isinstance(value, list) and -len(value) <= argument < len(value):
            yield value[argument]
    elif kind == "slice":
        yield from value[argument] if isinstance(value, list) else ()
    elif kind == "filter":
        items = value if isinstance(value, list) else ()
        yield from (item for item in items if _matches(argument, item))
    else:
        yield from _descend(argument, value)


def _inside(value: Any) -> list[Any]:
    """Maps in the order of their keys, as Go has them."""
    if isinstance(value, dict):
        return [value[key] for key in sorted(value)]
    return value if isinstance(value, list) else []


def _descend(name: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict) and name in value:
        yield value[name]
    for one in _inside(value):
        yield from _descend(name, one)


def _matches(condition: tuple[Path, str, Any], item: Any) -> bool:
    steps, operator, wanted = condition
    found = _walk(steps, [item])
    if not operator:
        return bool(found)
    value: Any = found[0] if found else _MISSING
    if operator in {"==", "!="}:
        same = value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
        return same == (operator == "==")
    try:
        return bool(_ORDER[operator](value, wanted))
    except TypeError:
        return False


def _render(parts: Sequence[tuple[str, Any]], here: object, root: object) -> Iterator[str]:
    for kind, content in parts:
        if kind == "text":
            yield str(content)
        elif kind == "range":
            steps, inner = content
            for value in _walk(steps, [here], strict=True):
                yield from _render(inner, value, root)
        else:
            yield " ".join(text(value) for value in _walk(content, [here], strict=True))


def text(value: object) -> str:
    """A value as kubectl writes it: strings bare, the rest as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
