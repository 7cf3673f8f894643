"""Schema first: compares any JSON value with a struct's type, and reports all that does not fit, at once.

The types of `specs.meta`, `specs.domain` and `specs.node` are read through msgspec's own type information,
so that there is one description of each kind. `walk` returns the value with what is unknown or null pruned
and whole floats as integers, so that msgspec can convert it afterwards; what was wrong stays in place, for
the semantic checks that follow look at the same value. Deliberately not here: what fields mean together.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import inspect as types

from specs.problems import MAX_PROBLEMS, Keys, Problem, Reason, shown

MAX_FREE_DEPTH: Final = 64  # of what no schema bounds, such as managedFields

_INT64: Final = 1 << 63
_KEPT: Final = {("data",), ("stringData",), ("metadata", "annotations")}  # and read by clients alone
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Unknown(enum.Enum):
    """What becomes of fields that no struct has (Kubernetes' fieldValidation); all but STRICT prune them."""

    STRICT = "Strict"
    WARN = "Warn"
    IGNORE = "Ignore"


@dataclass(slots=True)
class Report:
    """Collects problems, and stops collecting when there are too many to read. What stands below the fields
    `hidden` is quoted in none."""

    unknown: Unknown = Unknown.STRICT
    problems: list[Problem] = field(default_factory=list)
    hidden: tuple[str, ...] = ()

    def add(self, keys: Keys, message: str, reason: Reason = "FieldValueInvalid") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(keys, message, reason))

    def warn(self, keys: Keys, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(keys, message, warning=True))

    def has_unknown(self, keys: Keys, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            warning = self.unknown is Unknown.WARN
            reason: Reason = "FieldValueInvalid" if warning else "FieldValueForbidden"
            self.problems.append(Problem(keys, message, reason, warning=warning, unknown=True))


@dataclass(frozen=True, slots=True)
class Later:
    """Fields and values that are known but not built: `fields` by path without indices, `values` by path and
    value. Each says why it is refused."""

    fields: Mapping[str, str]
    values: Mapping[tuple[str, str], str]


def walk(value: object, wanted: types.Type, keys: Keys, report: Report, later: Later) -> Any:
    """The value, cleaned; problems go into the report. The caller has bounded its depth."""
    return _Walk(report, later).at(value, wanted, keys, {})


class _Walk:
    """One walk over one object."""

    def __init__(self, report: Report, later: Later) -> None:
        self.report = report
        self.later = later

    def at(self, value: object, wanted: types.Type, keys: Keys, extra: Mapping[str, Any]) -> Any:
        if isinstance(wanted, types.Metadata):
            return self.at(value, wanted.type, keys, wanted.extra or {})
        if isinstance(wanted, types.StructType):
            return self._struct(value, wanted, keys)
        if isinstance(wanted, types.ListType):
            return self._list(value, wanted, keys)
        if isinstance(wanted, types.DictType):
            return self._dict(value, wanted, keys)
        if isinstance(wanted, types.LiteralType):
            return self._literal(value, wanted, keys)
        if isinstance(wanted, types.UnionType):
            return self._quantity(value, keys)
        return self._scalar(value, wanted, keys, extra)

    def _type(self, keys: Keys, words: str, value: object) -> None:
        what = "" if keys[:1] and keys[0] in self.report.hidden else f", is {shown(value)}"
        self.report.add(keys, f"must be {words}{what}", "FieldValueTypeInvalid")

    def _struct(self, value: object, wanted: types.StructType, keys: Keys) -> Any:
        if not isinstance(value, Mapping):
            self._type(keys, "an object", value)
            return value
        fields = {one.encode_name: one for one in wanted.fields}
        clean: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                self._type(keys, "an object with text keys, has the key", key)
            elif key not in fields:
                self._unknown(keys, key, inner, tuple(fields))
            elif inner is None and keys in ((), ("metadata",)):
                continue  # kubectl writes `creationTimestamp: null` and `status: null` itself
            else:
                clean[key] = self.at(inner, fields[key].type, (*keys, key), {})
        for name, one in fields.items():
            if one.required and name not in clean:
                self.report.add((*keys, name), "is required", "FieldValueRequired")
        return clean

    def _unknown(self, keys: Keys, key: str, value: object, fields: Sequence[str]) -> None:
        path = (*keys, key)
        reason = self.later.fields.get(_plain(path))
        if reason is not None:
            if value is not None:
                self.report.add(path, reason, "FieldValueForbidden")
        elif keys == ("metadata",) and key in ("selfLink", "clusterName"):
            return  # retired fields of Kubernetes, in old exports
        elif self.report.unknown is not Unknown.IGNORE:
            close = difflib.get_close_matches(key[:64], fields, n=1, cutoff=0.6) or [
                name for name in fields if name.lower() == key.lower().replace("_", "").replace("-", "")
            ]
            message = "unknown field" + (f", did you mean {close[0]}?" if close else "")
            self.report.has_unknown(path, message)

    def _list(self, value: object, wanted: types.ListType, keys: Keys) -> Any:
        if not isinstance(value, list | tuple):
            self._type(keys, "a list", value)
            return value
        if wanted.max_length is not None and len(value) > wanted.max_length:
            self.report.add(keys, f"has {len(value)} items, at most {wanted.max_length} are allowed")
            return []
        if wanted.min_length is not None and len(value) < wanted.min_length:
            self.report.add(keys, f"must have at least {wanted.min_length} item, has {len(value)}")
        return [self.at(item, wanted.item_type, (*keys, i), {}) for i, item in enumerate(value)]

    def _dict(self, value: object, wanted: types.DictType, keys: Keys) -> Any:
        if not isinstance(value, Mapping):
            self._type(keys, "an object", value)
            return value
        clean = {}
        for key, inner in value.items():
            if isinstance(key, str) and _NOT_XML.search(key) is None:
                clean[key] = self.at(inner, wanted.value_type, (*keys, key), {})
            else:
                self.report.add(keys, f"has the key {shown(key)}, keys must be plain text")
        return clean

    def _literal(self, value: object, wanted: types.LiteralType, keys: Keys) -> Any:
        if not isinstance(value, str):
            self._type(keys, _choice([str(one) for one in wanted.values]), value)
        elif value not in wanted.values:
            reason = self.later.values.get((_plain(keys), value))
            if reason is not None:
                self.report.add(keys, reason, "FieldValueForbidden")
                return value
            words = {str(one).lower(): str(one) for one in wanted.values}
            close = difflib.get_close_matches(value[:64].lower(), words, n=1)
            hint = f" (did you mean {words[close[0]]}?)" if close else ""
            message = f"must be {_choice(list(words.values()))}, is {shown(value)}{hint}"
            self.report.add(keys, message, "FieldValueNotSupported")
        return value

    def _quantity(self, value: object, keys: Keys) -> Any:
        """The only union there is: text or a whole number. Its range is a semantic check."""
        if isinstance(value, str):
            return self._text(value, keys)
        value = _whole(value)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _INT64:
            self._type(keys, "a quantity such as 512Mi", value)
        return value

    def _scalar(self, value: object, wanted: types.Type, keys: Keys, extra: Mapping[str, Any]) -> Any:
        if isinstance(wanted, types.StrType):
            if not isinstance(value, str):
                self._type(keys, f"text{_quoting(value)}", value)
                return value
            return self._string(value, wanted, keys, extra)
        if isinstance(wanted, types.BoolType):
            if not isinstance(value, bool):
                self._type(keys, "true or false", value)
        elif isinstance(wanted, types.IntType | types.FloatType):
            return self._number(value, wanted, keys)
        else:
            assert isinstance(wanted, types.AnyType), wanted
            if _is_deep(value):
                self.report.add(keys, f"is nested more than {MAX_FREE_DEPTH} deep")
                return None
        return value

    def _text(self, value: str, keys: Keys) -> str:
        kept = keys[:1] in _KEPT or keys[:2] in _KEPT
        found = (_NOT_TEXT if kept else _NOT_XML).search(value)
        if found is not None:
            where = "text" if kept else "XML"
            self.report.add(keys, f"has the character U+{ord(found[0]):04X}, which cannot stand in {where}")
        return value

    def _string(self, value: str, wanted: types.StrType, keys: Keys, extra: Mapping[str, Any]) -> str:
        if wanted.max_length is not None and len(value) > wanted.max_length:
            self.report.add(keys, f"has {len(value)} characters, at most {wanted.max_length} are allowed")
        elif wanted.min_length is not None and len(value) < wanted.min_length:
            self.report.add(keys, "must not be empty")
        elif wanted.pattern is not None and not _matches(wanted.pattern, value):
            self.report.add(keys, f"must be {extra.get('words', wanted.pattern)}, is {shown(value)}")
        else:
            self._text(value, keys)
        return value

    def _number(self, value: object, wanted: types.IntType | types.FloatType, keys: Keys) -> Any:
        integral = isinstance(wanted, types.IntType)
        value = _whole(value) if integral else value
        if isinstance(value, bool) or not isinstance(value, int if integral else int | float):
            self._type(keys, "a whole number" if integral else "a number", value)
            return value
        assert isinstance(value, int | float)
        if not -_INT64 <= value < _INT64:  # also false for NaN
            self.report.add(keys, "must fit in 64 bits")
        elif not _inside(value, wanted):
            self.report.add(keys, f"must be {_range(wanted)}, is {shown(value)}")
        return value


def _plain(keys: Keys) -> str:
    return ".".join(key for key in keys if isinstance(key, str))


def _is_deep(value: object) -> bool:
    """Whether a value without a schema is too deep for what recurses over it later."""
    level = [value]
    for _ in range(MAX_FREE_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (
                outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
            )
        ]
        if not level:
            return False
    return True


def _whole(value: object) -> object:
    """JSON has one kind of number: 2.0 and 1e3 are whole."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _INT64 else value


def _matches(pattern: str, value: str) -> bool:
    """As JSON Schema means it: Python's `$` would let a newline follow, `\\Z` does not."""
    anchored = pattern[:-1] + r"\Z" if pattern.endswith("$") else pattern
    return re.search(anchored, value) is not None


def _inside(value: float, wanted: types.IntType | types.FloatType) -> bool:
    return (
        (wanted.ge is None or value >= wanted.ge)
        and (wanted.gt is None or value > wanted.gt)
        and (wanted.le is None or value <= wanted.le)
        and (wanted.lt is None or value < wanted.lt)
    )


def _range(wanted: types.IntType | types.FloatType) -> str:
    if wanted.ge is not None and wanted.le is not None:
        return f"between {wanted.ge} and {wanted.le}"
    bounds = {"at least": wanted.ge, "more than": wanted.gt, "at most": wanted.le, "less than": wanted.lt}
    return " and ".join(f"{words} {shown(bound)}" for words, bound in bounds.items() if bound is not None)


def _choice(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _quoting(value: object) -> str:
    scalar = isinstance(value, bool | int | float)
    return " (put it in quotes)" if scalar else ""
