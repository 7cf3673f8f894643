"""Label and field selectors, as Kubernetes writes them: text in, a predicate over objects out.

`app=web,tier!=db,env in (a,b),gpu,!old` for labels; `metadata.name=web` for the fields that a resource
allows. A selector that cannot be read is refused, never ignored: an ignored selector selects everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.api.errors import ApiError, bad_request
from specs.metarules import key_fault, value_fault

_BLANK: Final = " \t\r\n"
_WORDS: Final = re.compile(rf"==|!=|[=!(),<>]|[^=!(),<>{_BLANK}]+")
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_MAX_NUMBER: Final = 2**63 - 1
_FIELD_TERM: Final = re.compile(r"(?:[^\\,]|\\.?)+", re.DOTALL)
_SIGN: Final = re.compile("!=|==|=")
_PLAIN: Final = re.compile(r"(?:[^\\,=]|\\[\\,=])*", re.DOTALL)
_MAX_TERMS: Final = 100

Labels = Mapping[str, str]
Term = Callable[[Labels], bool]


@dataclass(frozen=True, slots=True)
class Selector:
    """Matches when every label term and every field term does."""

    labels: tuple[Term, ...] = ()
    fields: tuple[tuple[tuple[str, ...], bool, str], ...] = ()

    @property
    def matches_all(self) -> bool:
        return not self.labels and not self.fields

    @property
    def name(self) -> str:
        """The one name that can match, "" if there may be several."""
        for path, equal, value in self.fields:
            if equal and path == ("metadata", "name"):
                return value
        return ""

    @property
    def namespace(self) -> str:
        for path, equal, value in self.fields:
            if equal and path == ("metadata", "namespace"):
                return value
        return ""

    def matches(self, body: Mapping[str, Any]) -> bool:
        found = body.get("metadata", {}).get("labels")
        labels = found if isinstance(found, dict) else {}
        return all(term(labels) for term in self.labels) and all(
            (_at(body, path) == value) is equal for path, equal, value in self.fields
        )


def parse(labels: str, fields: str, allowed: Mapping[str, tuple[str, ...]]) -> Selector:
    """Raises ApiError (400)."""
    of_labels, of_fields = _label_terms(labels), _field_terms(fields)
    if max(len(of_labels), len(of_fields)) > _MAX_TERMS:
        raise bad_request(f"a selector has at most {_MAX_TERMS} terms")
    return Selector(
        tuple(_label_term(words) for words in of_labels),
        tuple(_field_term(text, allowed) for text in of_fields),
    )


def _label_terms(text: str) -> list[list[str]]:
    """The words of each term: commas end terms, but for those in parentheses."""
    if not text.strip(_BLANK):
        return []
    terms: list[list[str]] = [[]]
    inside = False
    for word in _WORDS.findall(text):
        if word == "," and not inside:
            terms.append([])
            continue
        inside = word == "(" or (inside and word != ")")
        terms[-1].append(word)
    return terms


def _label_term(words: Sequence[str]) -> Term:
    match words:
        case [key]:
            return _present(_key(key))
        case ["!", key]:
            return _absent(_key(key))
        case [key, "in" | "notin" as word, "(", *listed, ")"]:
            return _AMONG[word](_key(key), frozenset(map(_value, _listed(words, listed))))
        case [key, "=" | "==" | "!=" as sign, *rest] if len(rest) < 2:
            return _AMONG[sign](_key(key), frozenset({_value("".join(rest))}))
        case [key, "<" | ">" as sign, value]:
            return _compared(_key(key), sign, _value(value))
    raise _unreadable(words)


def _listed(words: Sequence[str], listed: Sequence[str]) -> list[str]:
    """What stands between the commas, which may be nothing."""
    values = [""]
    for word in listed:
        if word == ",":
            values.append("")
        elif values[-1]:
            raise _unreadable(words)
        else:
            values[-1] = word
    return values


def _unreadable(words: Sequence[str]) -> ApiError:
    return bad_request(f"unable to parse the label selector at {' '.join(words)[:80]!r}")


def _key(word: str) -> str:
    if fault := key_fault(word):
        raise bad_request(f"unable to parse the label selector: it {fault}")
    return word


def _value(word: str) -> str:
    """A value that no label can have is no value: that nothing has it would be true of everything."""
    if fault := value_fault(word):
        raise bad_request(f"unable to parse the label selector: a value {fault}")
    return word


def _in(key: str, values: frozenset[str]) -> Term:
    return lambda labels: key in labels and labels[key] in values


def _not_in(key: str, values: frozenset[str]) -> Term:
    return lambda labels: key not in labels or labels[key] not in values


_AMONG: Final[Mapping[str, Callable[[str, frozenset[str]], Term]]] = {
    "in": _in,
    "=": _in,
    "==": _in,
    "notin": _not_in,
    "!=": _not_in,
}


def _compared(key: str, sign: str, value: str) -> Term:
    """Larger or smaller as a whole number; a label that is none is neither."""
    bound = _number(value)
    if bound is None:
        raise bad_request(f"unable to parse the label selector: {value[:80]!r} must be a whole number")

    def term(labels: Labels) -> bool:
        found = _number(labels.get(key, ""))
        return found is not None and (found > bound if sign == ">" else found < bound)

    return term


def _number(text: str) -> int | None:
    """As in a label, which begins with no sign, and of 64 bits."""
    number = int(text) if _NUMBER.fullmatch(text) else None
    return number if number is not None and number <= _MAX_NUMBER else None


def _present(key: str) -> Term:
    return lambda labels: key in labels


def _absent(key: str) -> Term:
    return lambda labels: key not in labels


def _field_terms(text: str) -> list[str]:
    """What stands between the commas that no backslash is before; nothing is no term."""
    return [term for term in _FIELD_TERM.findall(text) if term.strip()]


def _field_term(text: str, allowed: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], bool, str]:
    sign = _SIGN.search(text)
    if sign is None or not _PLAIN.fullmatch(value := text[sign.end() :].strip()):
        raise bad_request(f"unable to parse the field selector at {text.strip()[:80]!r}")
    name = text[: sign.start()].strip()
    if name not in allowed:
        known = ", ".join(sorted(allowed))
        raise bad_request(f"field label not supported: {name[:80]} (supported: {known})")
    return allowed[name], sign[0] != "!=", re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)


def _at(body: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = body
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)
