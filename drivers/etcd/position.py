"""How far a watch is: what of a server's events is new, and which progress can be believed. Pure.

A progress mark says "everything up to here was delivered". Progress that the server volunteers is that,
and so is progress asked for since 3.4.25 and 3.5.8. Before, the answer could overtake events (#15220): it
counts only when the next answer comes, a second or more later, and no event came in between. Should an
event come below a mark nevertheless, Compacted is raised instead of delivering it late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from aetcd import rpc

from drivers.errors import Compacted
from drivers.etcd.convert import key_value
from drivers.store import Change, ChangeSet, KeyValue

CONFIRM_S = 1.0


class Position:
    """`delivered` is the last revision whose changes were delivered; `reached` is that, or a later mark."""

    def __init__(self, revision: int) -> None:
        self.delivered = revision
        self.reached = revision
        self._doubtful: tuple[int, float] | None = None  # progress to be confirmed, and when it came

    def take(self, events: Sequence[Any]) -> Iterator[ChangeSet]:
        """Group the events of one response by revision. Repeated ones are dropped: a stream begins with
        what is known, and a member that was reset repeats itself (#15520)."""
        self._doubtful = None
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            if revision <= self.delivered:
                continue
            if revision <= self.reached:
                raise Compacted(f"a change at {revision} came after the progress mark {self.reached}")
            change_set = ChangeSet(int(revision), tuple(_change(event) for event in group))
            yield change_set
            self.delivered = self.reached = change_set.revision

    def progress(self, revision: int, *, is_sure: bool, now: float) -> ChangeSet | None:
        """The mark that a progress message of the server allows, if any."""
        if is_sure:
            return self._mark(revision)
        if self._doubtful is None:
            self._doubtful = (revision, now)
            return None
        confirmed, came_at = self._doubtful
        if now - came_at < CONFIRM_S:
            return None
        self._doubtful = (revision, now)
        return self._mark(confirmed)

    def lose(self) -> None:
        """The stream ended: what it said last is not confirmed by the next one."""
        self._doubtful = None

    def _mark(self, revision: int) -> ChangeSet:
        self.reached = max(self.reached, revision)
        return ChangeSet(self.reached, ())


def orders_progress(version: tuple[int, ...]) -> bool:
    """Whether progress that was asked for comes behind the events before it; no for an unknown version."""
    return version >= (3, 5, 8) or (3, 4, 25) <= version < (3, 5)


def _change(event: Any) -> Change:
    kv = key_value(event.kv)
    previous = key_value(event.prev_kv) if event.HasField("prev_kv") else None
    if event.type == rpc.Event.DELETE:
        return Change("delete", KeyValue(kv.key, b"", 0, kv.mod_revision), previous)
    return Change("put", kv, previous)
