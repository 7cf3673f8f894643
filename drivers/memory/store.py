"""MemoryStore: keys with their versions, a history of change sets, leases, and watches over them.

Each key keeps its versions since the last compaction, so that pages can be read at an old revision; the
history keeps one ChangeSet for each revision, so that a watch may begin in the past. `compact` cuts both.
Leases are ended by a timer of the running loop and, to be exact, at the beginning of every call.

What stands between the clients and the keys (a wire, a restart, a backup) is built on `peek`,
`changes_after`, `on_change` and `backup`.
"""

from __future__ import annotations

import asyncio
import builtins
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from drivers.errors import Compacted, LeaseLost, StoreRefused, StoreUnavailable
from drivers.store import (
    Change,
    ChangeSet,
    Compare,
    Delete,
    KeyValue,
    Page,
    Put,
    StoreStatus,
    TxnResult,
    Write,
    check_txn,
    compared,
)


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    expires_at: float
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Versions:
    """One key's life since the last compaction: parallel lists; None stands for a deletion."""

    revisions: list[int] = field(default_factory=list)
    values: list[KeyValue | None] = field(default_factory=list)

    def at(self, revision: int) -> KeyValue | None:
        index = bisect_right(self.revisions, revision) - 1
        return self.values[index] if index >= 0 else None


@dataclass(frozen=True, slots=True)
class Backup:
    """All that a store has on its disk. A lease is kept with its whole TTL, for that is what it comes back
    with after a restart (seen with etcd 3.4: 2 s were left, then 9 s)."""

    revision: int = 1
    compacted: int = 0
    versions: Mapping[str, tuple[tuple[int, ...], tuple[KeyValue | None, ...]]] = field(default_factory=dict)
    history: tuple[ChangeSet, ...] = ()
    leases: Mapping[int, int] = field(default_factory=dict)


EMPTY = Backup()


class MemoryStore:
    """A Store in memory. `clock` gives seconds on the running loop's scale (usually `loop.time`);
    `progress_s` is how often a watch without changes yields a progress mark. It begins with what is in
    `backup`; `first_lease` is the first lease id it gives away, for ids are never used again."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        cluster_id: int = 0xD0_0D,
        progress_s: float = 1.0,
        backup: Backup = EMPTY,
        first_lease: int = 1,
    ) -> None:
        self._clock = clock
        self._cluster_id = cluster_id
        self._progress_s = progress_s
        self._revision = backup.revision
        self._compacted = backup.compacted  # the oldest revision that can be read; 0: never compacted
        self._versions = {k: _Versions(list(r), list(v)) for k, (r, v) in backup.versions.items()}
        self._order = sorted(self._versions)  # code points sort as their UTF-8 does
        self._history = list(backup.history)
        self._leases = {id_: _Lease(ttl_s, clock() + ttl_s) for id_, ttl_s in backup.leases.items()}
        self._last_lease = first_lease - 1
        self._waiting: dict[asyncio.Future[None], None] = {}  # ordered: runs can be repeated
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.on_change: list[Callable[[ChangeSet], None]] = []
        for key in self._order:
            if (kv := self._current(key)) is not None and kv.lease in self._leases:
                self._leases[kv.lease].keys.add(key)
        self._arm()

    # --- reading

    async def get(self, key: str) -> KeyValue | None:
        self._begin()
        if not key:
            raise StoreRefused("the key is empty")
        return self._current(key)

    async def list(self, prefix: str) -> Page:
        self._begin()
        keys = self._keys(prefix, "")
        items = tuple(kv for key in keys if (kv := self._current(key)) is not None)
        return Page(items=items, revision=self._revision)

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        self._begin()
        if limit < 1:
            raise StoreRefused(f"a page needs a limit of at least 1, not {limit}")
        if revision and revision < self._compacted:
            raise Compacted(f"revision {revision} has been compacted", compact_revision=self._compacted)
        if revision > self._revision:
            raise Compacted(f"revision {revision} is not reached: the store is at {self._revision}")
        at = revision or self._revision
        items: list[KeyValue] = []
        keys = iter(self._keys(prefix, after))
        for key in keys:
            if (kv := self._versions[key].at(at)) is not None:
                items.append(kv)
            if len(items) == limit:
                break
        remaining = sum(self._versions[key].at(at) is not None for key in keys)
        return Page(items=tuple(items), revision=at, remaining=remaining)

    async def status(self) -> StoreStatus:
        self._begin()
        return StoreStatus(
            cluster_id=self._cluster_id, revision=self._revision, version="memory", endpoint="memory"
        )

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def leases(self) -> tuple[int, ...]:
        """The ids of all leases, the oldest first."""
        return tuple(sorted(self._leases))

    @property
    def next_lease(self) -> int:
        return self._last_lease + 1

    def peek(self, key: str) -> KeyValue | None:
        """What stands at `key`, for observers of the store itself; no client can ask so, or it is closed."""
        return self._current(key)

    def peek_all(self, prefix: str) -> tuple[KeyValue, ...]:
        """As `peek`, all keys under `prefix`."""
        return tuple(kv for key in self._keys(prefix, "") if (kv := self._current(key)) is not None)

    def backup(self) -> Backup:
        return Backup(
            revision=self._revision,
            compacted=self._compacted,
            versions={k: (tuple(v.revisions), tuple(v.values)) for k, v in self._versions.items()},
            history=tuple(self._history),
            leases={id_: lease.ttl_s for id_, lease in self._leases.items()},
        )

    # --- writing

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        check_txn(compares, writes)
        self._begin()
        if not all(self._holds(compare) for compare in compares):
            current = {compare.key: self._current(compare.key) for compare in compares}
            return TxnResult(ok=False, revision=self._revision, current=current)
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseLost(f"lease {write.lease:x} is gone")
        self._apply(writes)
        return TxnResult(ok=True, revision=self._revision)

    async def compact(self, revision: int) -> None:
        """Forget what was before `revision`: older versions, older changes."""
        self._begin()
        if revision <= self._compacted:
            raise Compacted(f"revision {revision} has been compacted", compact_revision=self._compacted)
        if revision > self._revision:
            raise Compacted(f"revision {revision} is not reached: the store is at {self._revision}")
        self._compacted = revision
        del self._history[: self._since(revision)]
        for key, versions in list(self._versions.items()):
            keep = max(0, bisect_right(versions.revisions, revision) - 1)
            if versions.revisions[keep] <= revision and versions.values[keep] is None:
                keep += 1
            del versions.revisions[:keep], versions.values[:keep]
            if not versions.revisions:
                del self._versions[key]
                del self._order[bisect_left(self._order, key)]
        self._wake()

    # --- watching

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        self._begin()
        if after_revision > self._revision:
            raise Compacted(f"revision {after_revision} is not reached: the store is at {self._revision}")
        position = after_revision
        mark_at = self._clock() + self._progress_s
        while True:
            self._begin()
            for change_set in self.changes_after(prefix, position, self._revision):
                position = change_set.revision
                if change_set.changes:
                    mark_at = self._clock() + self._progress_s
                    yield change_set
            if position != self._revision or self._closed:
                continue  # something happened while the consumer held a change set
            if self._clock() >= mark_at:
                mark_at = self._clock() + self._progress_s
                yield ChangeSet(revision=position, changes=())
                continue
            await self._change(mark_at - self._clock())

    def changes_after(self, prefix: str, revision: int, upto: int) -> builtins.list[ChangeSet]:
        """One change set, perhaps without changes under `prefix`, for each revision after `revision` and up
        to `upto`. Raises Compacted when one of them is gone."""
        if revision < self._compacted:
            raise Compacted(
                f"the changes after revision {revision} have been compacted", compact_revision=self._compacted
            )
        start, end = self._since(revision), self._since(upto)
        return [_under(prefix, found) for found in self._history[start:end]]

    # --- leases

    async def grant(self, ttl_s: int) -> int:
        self._begin()
        if ttl_s < 1:
            raise StoreRefused(f"a lease needs a TTL of at least 1 s, not {ttl_s}")
        self._last_lease += 1
        self._leases[self._last_lease] = _Lease(ttl_s=ttl_s, expires_at=self._clock() + ttl_s)
        self._arm()
        return self._last_lease

    async def keep_alive(self, lease: int) -> int:
        self._begin()
        if (held := self._leases.get(lease)) is None:
            raise LeaseLost(f"lease {lease:x} is gone")
        held.expires_at = self._clock() + held.ttl_s
        self._arm()
        return held.ttl_s

    async def revoke(self, lease: int) -> None:
        self._begin()
        self._end_lease(lease)

    async def close(self) -> None:
        """Every later call and every watch raises StoreUnavailable."""
        self.halt()

    def halt(self) -> None:
        """`close`, at once: no lease ends any more, but all can still be peeked at and backed up."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    # --- inside

    def _begin(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        self._expire()

    def _current(self, key: str) -> KeyValue | None:
        versions = self._versions.get(key)
        return versions.values[-1] if versions else None

    def _keys(self, prefix: str, after: str) -> Sequence[str]:
        start = bisect_left(self._order, prefix)
        if after >= prefix:
            start = bisect_right(self._order, after)
        end = bisect_right(self._order, prefix, key=lambda key: key[: len(prefix)])
        return self._order[start:end]

    def _since(self, revision: int) -> int:
        """Where in the history the changes after `revision` begin: every revision has one change set."""
        return max(0, revision + 1 - self._history[0].revision) if self._history else 0

    def _holds(self, compare: Compare) -> bool:
        kv = self._current(compare.key)
        if kv is None:
            return compare.revision == 0
        return compare.revision == compared(kv, compare)

    def _apply(self, writes: Sequence[Write]) -> None:
        revision = self._revision + 1
        changes: list[Change] = []
        for write in writes:
            previous = self._current(write.key)
            if isinstance(write, Delete) and previous is None:
                continue
            self._attach(write, previous)
            kv = self._store(write, previous, revision)
            changes.append(Change("delete" if isinstance(write, Delete) else "put", kv, previous))
        if changes:  # deleting what is absent changes nothing and costs no revision
            self._revision = revision
            change_set = ChangeSet(revision=revision, changes=tuple(changes))
            self._history.append(change_set)
            self._wake()
            for tell in self.on_change:
                tell(change_set)

    def _store(self, write: Write, previous: KeyValue | None, revision: int) -> KeyValue:
        versions = self._versions.get(write.key)
        if versions is None:
            versions = self._versions[write.key] = _Versions()
            insort(self._order, write.key)
        versions.revisions.append(revision)
        if isinstance(write, Delete):
            versions.values.append(None)
            return KeyValue(write.key, b"", create_revision=0, mod_revision=revision)
        created = previous.create_revision if previous else revision
        kv = KeyValue(write.key, bytes(write.value), created, revision, write.lease)
        versions.values.append(kv)
        return kv

    def _attach(self, write: Write, previous: KeyValue | None) -> None:
        if previous is not None and previous.lease in self._leases:
            self._leases[previous.lease].keys.discard(write.key)
        if isinstance(write, Put) and write.lease:
            self._leases[write.lease].keys.add(write.key)

    def _end_lease(self, lease: int) -> None:
        held = self._leases.get(lease)
        if held is not None:
            # All keys of a lease go in one revision, in key order, as etcd does it.
            self._apply([Delete(key) for key in sorted(held.keys)])
            del self._leases[lease]

    def _expire(self) -> None:
        now = self._clock()
        over = [(held.expires_at, id_) for id_, held in self._leases.items() if held.expires_at <= now]
        for _, id_ in sorted(over):
            self._end_lease(id_)

    def _arm(self) -> None:
        """See to it that watches learn of the next lease's end even if nobody calls."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._leases and not self._closed:
            delay = min(held.expires_at for held in self._leases.values()) - self._clock()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._on_timer)

    def _on_timer(self) -> None:
        self._expire()
        self._arm()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _change(self, timeout_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            self._waiting.pop(future, None)


def _under(prefix: str, found: ChangeSet) -> ChangeSet:
    changes = tuple(change for change in found.changes if change.kv.key.startswith(prefix))
    return found if len(changes) == len(found.changes) else ChangeSet(found.revision, changes)
