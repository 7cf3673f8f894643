"""metadata.managedFields: who set which fields, and what apply and other changes make of that. Pure.

As Kubernetes has it: each manager (by name, operation and subresource) owns a set of fields. Apply owns what
it names, takes away what it named before and nobody else owns, and conflicts where it would change what
another owns. Any other change takes over what it changes. Fields that nobody owns conflict with nobody:
so what the controller itself writes into status, which goes to the store directly and is not tracked here.
The names and words (`before-first-apply`, `ancient-changes`, the conflict's message) are Kubernetes' own, for
clients know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, Final

import msgspec

from controller.api.fieldsets import (
    NOTHING,
    FieldSet,
    Malformed,
    Path,
    Shape,
    flatten,
    from_v1,
    merge,
    remove,
    shape_of,
    shown,
    to_v1,
    with_parents,
)
from specs.meta import API_VERSION
from specs.schema import components

Body = dict[str, Any]
APPLY: Final = "Apply"
UPDATE: Final = "Update"
BEFORE_FIRST_APPLY: Final = "before-first-apply"
ANCIENT: Final = "ancient-changes"
MAX_UPDATERS: Final = 10  # more are summed up as ANCIENT, as Kubernetes does
MAX_ENTRIES: Final = 100
SHOWN: Final = 500  # conflicts that are told one by one
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL: Final = "kubectl"
# Nobody's fields: what names the object and what the server keeps.
_UNTRACKED: Final = frozenset(
    {
        "name",
        "namespace",
        "generateName",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "clusterName",
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Manager:
    """Who. `subresource` is empty or `status`."""

    operation: str
    name: str
    subresource: str = ""

    def __str__(self) -> str:
        return f'"{self.name}"' + (f' with subresource "{self.subresource}"' if self.subresource else "")


@dataclass(frozen=True, slots=True)
class Owned:
    """What, since when (RFC 3339)."""

    fields: FieldSet
    time: str = ""
    api_version: str = API_VERSION  # as which the manager saw the object


Managers = Mapping[Manager, Owned]


class Conflicts(Exception):
    """What an apply would change and another owns."""

    def __init__(self, clashes: Managers) -> None:
        super().__init__("apply conflicts")
        self._clashes = clashes

    def listed(self) -> list[tuple[str, str]]:
        """With whom, in Kubernetes' words, and about which field: as many as can be read."""
        every = ((who, path) for who, fields in self._by_manager() for path in fields)
        return [(who, shown(path)) for who, path in islice(every, SHOWN)]

    def message(self) -> str:
        listed = self.listed()
        count = sum(len(owned.fields) for owned in self._clashes.values())
        if count == 1:
            who, path = listed[0]
            return f"Apply failed with 1 conflict: conflict with {who}: {path}"
        lines: list[str] = []
        for who, fields in groupby(listed, lambda one: one[0]):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {path}" for _, path in fields]
        if count > len(listed):
            lines.append(f"and {count - len(listed)} more")
        return f"Apply failed with {count} conflicts: " + "\n".join(lines)

    def _by_manager(self) -> list[tuple[str, list[Path]]]:
        return [
            (
                str(who) if who.operation == APPLY else f"{who} using {owned.api_version}",
                sorted(owned.fields),
            )
            for who, owned in sorted(self._clashes.items())
        ]


@dataclass(frozen=True, slots=True)
class Change:
    """How one object became another, field by field."""

    set: FieldSet
    removed: FieldSet

    @classmethod
    def between(cls, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Change:
        return cls(
            frozenset(p for p, value in after.items() if p not in before or before[p] != value),
            frozenset(p for p in before if p not in after),
        )


@lru_cache(maxsize=32)
def shape_for(kind: str) -> Shape:
    schemas = components()
    return shape_of(schemas[kind], schemas)


def decode(entries: object, api_version: str = API_VERSION) -> dict[Manager, Owned]:
    """Raises Malformed. An empty entry, by which a client gives up all, is nobody. `api_version`: what one
    that says none means."""
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise Malformed(f"must be a list of at most {MAX_ENTRIES} entries")
    found: dict[Manager, Owned] = {}
    for entry in entries:
        if entry == {}:
            continue
        who, owned = _entry(entry, api_version)
        before = found.get(who)
        found[who] = owned if before is None else replace(owned, fields=owned.fields | before.fields)
    return found


def _entry(entry: object, api_version: str) -> tuple[Manager, Owned]:
    if not isinstance(entry, dict):
        raise Malformed("entries must be objects")
    texts = {
        name: entry.get(name) or ""
        for name in ("manager", "operation", "subresource", "time", "apiVersion", "fieldsType")
    }
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > 128:
            raise Malformed(f"{name} must be text of at most 128 characters")
    if texts["operation"] not in {APPLY, UPDATE}:
        raise Malformed('operation must be "Apply" or "Update"')
    if texts["fieldsType"] not in {"", "FieldsV1"}:
        raise Malformed('fieldsType must be "FieldsV1"')
    who = Manager(texts["operation"], texts["manager"], texts["subresource"])
    fields = from_v1(entry.get("fieldsV1") or {})
    return who, Owned(fields, texts["time"], texts["apiVersion"] or api_version)


def stored(body: Body) -> dict[Manager, Owned]:
    """The managers of an object in the store. What cannot be read there is nobody's."""
    try:
        return decode(body["metadata"].get("managedFields") or [], body["apiVersion"])
    except Malformed:
        return {}


def encode(managers: Managers) -> list[Body]:
    def entry(who: Manager, owned: Owned) -> Body:
        written: Body = {
            "manager": who.name,
            "operation": who.operation,
            "apiVersion": owned.api_version,
            "time": owned.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_v1(owned.fields),
            "subresource": who.subresource,
        }
        return {name: value for name, value in written.items() if value != ""}

    order = sorted(managers.items(), key=lambda one: (one[0].operation, one[1].time, one[0]))
    return [entry(who, owned) for who, owned in order if owned.fields]


def with_managers(body: Body, managers: Managers) -> Body:
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    entries = encode(managers)
    if entries:
        metadata["managedFields"] = entries
    return {**body, "metadata": metadata}


def tracked(body: Body, subresource: str) -> Body:
    """What a change through this door may own: status by its own door, all else by any other (scale is a
    view of the spec)."""
    if subresource == "status":
        return {subresource: body[subresource]} if subresource in body else {}
    rest = {k: v for k, v in body.items() if k not in {"apiVersion", "kind", "status"}}
    metadata = rest.get("metadata")
    if isinstance(metadata, dict):
        rest["metadata"] = {k: v for k, v in metadata.items() if k not in _UNTRACKED}
        if not rest["metadata"]:
            del rest["metadata"]
    return rest


def fields_of(body: Body, shape: Shape, subresource: str = "") -> dict[tuple[str, ...], Any]:
    return flatten(tracked(body, subresource), shape)


def updated(before: Body, after: Body, managers: Managers, who: Manager, at: str) -> dict[Manager, Owned]:
    """Who owns what when `who` has made `after` of `before` by any change but apply; `before` is {} for a
    new object. An object that nobody owned anything of goes untracked until it is applied."""
    if before and not managers:
        return {}
    shape = shape_for(after["kind"])
    change = Change.between(
        fields_of(before, shape, who.subresource), fields_of(after, shape, who.subresource)
    )
    left = _without(managers, change.set | change.removed, except_for=None)
    if change.set:
        mine = left[who].fields if who in left else NOTHING
        left[who] = Owned(mine | change.set, at, after["apiVersion"])
    return _capped(left)


def _without(managers: Managers, fields: FieldSet, except_for: Manager | None) -> dict[Manager, Owned]:
    left = {
        who: owned if who == except_for else replace(owned, fields=owned.fields - fields)
        for who, owned in managers.items()
    }
    return {who: owned for who, owned in left.items() if owned.fields}


def _capped(managers: dict[Manager, Owned]) -> dict[Manager, Owned]:
    updaters = [who for who in managers if who.operation == UPDATE]
    if len(updaters) <= MAX_UPDATERS:
        return managers
    updaters.sort(key=lambda who: (managers[who].time, who))
    old = updaters[: len(updaters) - MAX_UPDATERS + 1]
    left = {who: owned for who, owned in managers.items() if who not in old}
    for who in old:
        ancient = Manager(UPDATE, ANCIENT, who.subresource)
        already = left[ancient].fields if ancient in left else NOTHING
        left[ancient] = replace(managers[who], fields=already | managers[who].fields)
    return left


@dataclass(frozen=True, slots=True)
class Application:
    """One apply: who says what, when, and whether conflicts are taken over."""

    who: Manager
    config: Body
    at: str
    force: bool = False


def applied(live: Body, asked: Application, managers: Managers) -> tuple[Body, dict[Manager, Owned]]:
    """The object and its managers after an apply; `live` has at least its envelope. Raises Conflicts."""
    who, shape = asked.who, shape_for(live["kind"])
    before = fields_of(live, shape, who.subresource)
    if not managers and before:
        everything = frozenset(before)
        first = Manager(UPDATE, BEFORE_FIRST_APPLY, who.subresource)
        managers = {first: Owned(everything, asked.at, live["apiVersion"])}
    config = tracked(asked.config, who.subresource)
    mine = frozenset(flatten(config, shape))
    others: FieldSet = frozenset().union(*(o.fields for m, o in managers.items() if m != who))
    kept = with_parents(others | mine)
    last = managers[who].fields if who in managers else NOTHING
    merged = merge(live, config, shape)
    result = remove(merged, last - kept, kept, shape)
    change = Change.between(before, fields_of(result, shape, who.subresource))
    clashes = {m: o.fields & change.set for m, o in managers.items() if m != who and o.fields & change.set}
    if not asked.force and who.name == _KUBECTL:
        clashes = _not_client_side(live, clashes, shape, before)
    if clashes and not asked.force:
        raise Conflicts({m: replace(managers[m], fields=fields) for m, fields in clashes.items()})
    left = _without(managers, change.set | change.removed, except_for=who)
    if who not in left or left[who].fields != mine or change.set or change.removed:
        left[who] = Owned(mine, asked.at, live["apiVersion"])
    if not mine:
        del left[who]
    return result, _capped(left)


def _not_client_side(
    live: Body, clashes: dict[Manager, FieldSet], shape: Shape, before: Mapping[Any, Any]
) -> dict[Manager, FieldSet]:
    """What kubectl itself applied from its side is no conflict with kubectl, if it still stands there."""
    annotations = live["metadata"].get("annotations")
    text = annotations.get(LAST_APPLIED) if isinstance(annotations, dict) else None
    try:
        last = msgspec.json.decode(text) if isinstance(text, str) else None
    except (msgspec.DecodeError, RecursionError):
        last = None
    if not isinstance(last, dict):
        return clashes
    said = fields_of(last, shape)
    own = frozenset(path for path, value in said.items() if path in before and before[path] == value)
    left = {who: fields - own for who, fields in clashes.items()}
    return {who: fields for who, fields in left.items() if fields}
