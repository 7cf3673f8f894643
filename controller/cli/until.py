"""Waiting for objects to become what was asked for, by watching and never by guessing.

One list and one watch per kind and namespace serve any number of objects. A goal looks at an object (None:
gone) and says whether it is met, or can no longer be. What is not met when time is up is returned with the
last reason that the object gave, for the user to see.
"""

from __future__ import annotations

import time

from controller.cli import lists
from controller.cli.errors import StatusError, printable
from controller.cli.watch import Scope, follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.resources import Resource

    Object = dict[str, Any]
    Met = Callable[[Object | None], bool]

FOREVER_S = 7 * 86400.0  # what kubectl takes a negative timeout for
_TELL_EVERY_S = 5.0
_TELL_AT_LEAST_EVERY_S = 30.0


class Awaited:
    """One object that is waited for, and what it said last."""

    def __init__(self, resource: Resource, namespace: str, name: str, uid: str = "") -> None:
        self.resource = resource
        self.namespace = namespace
        self.name = name
        self.uid = uid
        self.last: Object | None = None

    @property
    def label(self) -> str:
        return f"{self.resource.word}/{printable(self.name)}"


class Wait:
    """One wait. `on_met` and `on_pending` tell the user; `hopeless` gives a reason to stop early or "".
    `since`: a revision at which nothing that is awaited had ended; what happened after it is heard, though
    the object be gone again by now."""

    def __init__(self, client: Client, met: Met, timeout_s: float) -> None:
        self._client = client
        self._met = met
        self._until = time.monotonic() + (FOREVER_S if timeout_s < 0 else timeout_s)
        self.since = ""
        self.on_met: Callable[[Awaited], None] = _ignore
        self.on_pending: Callable[[Awaited], None] = _ignore
        self.hopeless: Callable[[Object], str] = _never

    def run(self, awaited: Sequence[Awaited]) -> list[Awaited]:
        """Those that did not get there."""
        groups: dict[tuple[str, str], list[Awaited]] = {}
        for one in awaited:
            groups.setdefault((one.resource.plural, one.namespace), []).append(one)
        return [left for group in groups.values() for left in _Group(self, group).run()]

    @property
    def client(self) -> Client:
        return self._client

    @property
    def until(self) -> float:
        return self._until

    def verdict(self, one: Awaited, value: Object | None) -> bool | None:
        """True: met; False: it never will be; None: not yet."""
        one.last = value
        if value is not None and one.uid and value["metadata"].get("uid") != one.uid:
            value = None  # another object of the same name
        if self._met(value):
            return True
        return False if value is not None and self.hopeless(value) else None


class _Group:
    """Those of one kind and namespace."""

    def __init__(self, wait: Wait, group: list[Awaited]) -> None:
        first = group[0]
        query = [lists.by_name(first.name)] if len(group) == 1 else []
        self._wait = wait
        self._scope = Scope(first.resource.path(first.namespace), query)
        self._pending = {one.name: one for one in group}
        self._lost: list[Awaited] = []

    def run(self) -> list[Awaited]:
        """Those that did not get there."""
        wait, tick_s, revision = self._wait, _TELL_EVERY_S, self._wait.since
        while True:
            revision = revision or self._list()
            now = time.monotonic()
            if not self._pending or now >= wait.until:
                return [*self._lost, *self._pending.values()]
            revision = self._watch(revision, min(wait.until, now + tick_s))
            if time.monotonic() < wait.until:
                tick_s = min(tick_s * 2, _TELL_AT_LEAST_EVERY_S)
                for one in self._pending.values():
                    wait.on_pending(one)

    def _list(self) -> str:
        listed = lists.read(self._wait.client, self._scope.path, self._scope.query)
        there = {one["metadata"]["name"]: one for one in lists.items(listed)}
        for name in list(self._pending):
            self._look(name, there.get(name))
        return lists.revision(listed) or "0"

    def _watch(self, revision: str, until: float) -> str:
        """Look at changes until all is met or `until`; the revision to go on from, "" to list again."""
        try:
            for event, value in follow(self._wait.client, self._scope, revision, until):
                meta = value.get("metadata") or {}
                revision = str(meta.get("resourceVersion") or revision)
                self._look(str(meta.get("name")), None if event == "DELETED" else value)
                if not self._pending:
                    break
        except StatusError as error:
            if not error.is_expired:
                raise
            return ""
        return revision

    def _look(self, name: str, value: Object | None) -> None:
        one = self._pending.get(name)
        verdict = self._wait.verdict(one, value) if one is not None else None
        if one is None or verdict is None:
            return
        del self._pending[name]
        if verdict:
            self._wait.on_met(one)
        else:
            self._lost.append(one)


def condition(value: Object, name: str) -> Object | None:
    """A condition by its type, in any case."""
    for one in (value.get("status") or {}).get("conditions") or ():
        if str(one.get("type", "")).casefold() == name.casefold():
            return dict(one)
    return None


def conditions(value: Object) -> list[str]:
    """The types of the conditions that an object has."""
    found = (value.get("status") or {}).get("conditions") or ()
    return sorted(printable(str(one.get("type", ""))) for one in found)


def is_condition(value: Object, name: str, wanted: str = "True") -> bool:
    """The condition says so, and of what the spec is now."""
    found = condition(value, name)
    if found is None or str(found.get("status", "")).casefold() != wanted.casefold():
        return False
    generation = (value.get("metadata") or {}).get("generation")
    observed = found.get("observedGeneration", (value.get("status") or {}).get("observedGeneration"))
    return not (isinstance(generation, int) and isinstance(observed, int)) or observed >= generation


def reason_of(value: Object | None) -> str:
    """Why an object is not ready, in its own words."""
    if value is None:
        return "it does not exist"
    found = condition(value, "Ready")
    if found is None:
        return "it says nothing of itself yet"
    parts = (str(found.get("reason") or ""), str(found.get("message") or ""))
    return printable(": ".join(part for part in parts if part))


def _ignore(one: Awaited) -> None:
    pass


def _never(value: Object) -> str:
    return ""
