"""Label and field selectors, as Kubernetes writes them: text in, a predicate over objects out.

`app=web,tier!=db,env in (a,b),gpu,!old` for labels; `metadata.name=web` for the fields that a resource
allows. A selector that cannot be read is refused, never ignored: an ignored selector selects everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.api.errors import bad_request

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?"
_SET = re.compile(rf"^\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUALS = re.compile(rf"^\s*({_KEY})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)\s*$")
_EXISTS = re.compile(rf"^\s*(!?)\s*({_KEY})\s*$")
_FIELD = re.compile(r"\s*([^=!\s]*)\s*(==|=|!=)\s*(.*?)\s*", re.DOTALL)
_SPLIT = re.compile(r",(?![^(]*\))")  # commas outside parentheses
_MAX_TERMS = 100

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
    return Selector(
        tuple(_label_term(t) for t in _terms(labels)),
        tuple(_field_term(t, allowed) for t in _terms(fields)),
    )


def _terms(text: str) -> list[str]:
    terms = _SPLIT.split(text) if text.strip() else []
    if len(terms) > _MAX_TERMS:
        raise bad_request(f"a selector has at most {_MAX_TERMS} terms")
    return terms


def _label_term(text: str) -> Term:
    if found := _SET.match(text):
        key, word, listed = found.groups()
        values = frozenset(v.strip() for v in listed.split(","))
        return _in(key, values) if word == "in" else _not_in(key, values)
    if found := _EQUALS.match(text):
        key, sign, value = found.groups()
        return _not_in(key, frozenset({value})) if sign == "!=" else _in(key, frozenset({value}))
    if found := _EXISTS.match(text):
        absent, key = found.groups()
        return _absent(key) if absent else _present(key)
    raise bad_request(f"unable to parse the label selector at {text.strip()[:80]!r}")


def _in(key: str, values: frozenset[str]) -> Term:
    return lambda labels: labels.get(key) in values if key in labels else False


def _not_in(key: str, values: frozenset[str]) -> Term:
    return lambda labels: labels.get(key) not in values


def _present(key: str) -> Term:
    return lambda labels: key in labels


def _absent(key: str) -> Term:
    return lambda labels: key not in labels


def _field_term(text: str, allowed: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], bool, str]:
    found = _FIELD.fullmatch(text)
    if found is None:
        raise bad_request(f"unable to parse the field selector at {text.strip()[:80]!r}")
    name, sign, value = found.groups()
    if name not in allowed:
        known = ", ".join(sorted(allowed))
        raise bad_request(f"field label not supported: {name[:80]} (supported: {known})")
    return allowed[name], sign != "!=", value


def _at(body: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = body
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)
