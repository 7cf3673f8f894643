"""The ledger: every write of the controller to etcd, fenced by the leader key (I5).

Place in the flow: the executor, the status writer and the event recorder commit here; nothing else in
`controller/` writes while leading, but the election itself. Each transaction also compares the leader
key's create revision with this term's token: a stale leader writes nothing, learns it at once (`Fenced`),
and its leadership is marked lost.

A commit ends DONE, REFUSED (a compare failed, nothing was written, `current` says what stands there) or
UNKNOWN (no answer, and reading again did not show it; it may still happen). Commits that wait at the same
time travel in one transaction when their keys are disjoint; each still succeeds or fails by its own
compares. Not here: retry, and what a refusal means.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from controller import keys
from controller.model import Record
from controller.storewatch import Horizon
from drivers.errors import Advice, StoreError, StoreUnavailable
from drivers.store import (
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
    Compare,
    Delete,
    KeyValue,
    Put,
    Store,
    TxnResult,
    Write,
    compared,
)

FLIGHTS: Final = 4  # transactions on their way at once; more would starve the watch on the same loop
FENCE: Final = 2  # its compares
REREAD_PAUSES_S: Final = (0.0, 0.1, 0.4)
NEVER: Final = 1 << 62  # a revision that no key has: a transaction comparing it only reads


class Fence(Protocol):
    """One term of leadership (`controller.election.Leadership`)."""

    @property
    def fence(self) -> tuple[Compare, ...]: ...
    @property
    def lost(self) -> asyncio.Event: ...
    @property
    def is_valid(self) -> bool: ...
    def owns(self, leader: KeyValue | None) -> bool: ...
    def lose(self, why: str) -> None: ...
    def horizon(self) -> Horizon: ...
    def answered(self, revision: int, before: Horizon, *, wrote: bool) -> None: ...


class Fenced(Exception):
    """Another leader may act: the caller must stop, and nothing was written."""

    advice = Advice.STOP


class CommitOutcome(enum.Enum):
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Commit:
    """`revision`: the store's after the transaction; when DONE, the mod revision of all keys written (0 if it
    had to be read again and only deletions were asked for). `current`: when REFUSED, the compared keys."""

    outcome: CommitOutcome
    revision: int = 0
    current: dict[str, KeyValue | None] = field(default_factory=dict)
    error: StoreError | None = None

    @property
    def ok(self) -> bool:
        return self.outcome is CommitOutcome.DONE


@dataclass(frozen=True, slots=True)
class _Entry:
    """One caller's commit, waiting for its flight."""

    compares: tuple[Compare, ...]
    writes: tuple[Write, ...]
    result: asyncio.Future[Commit]

    def written_keys(self) -> set[str]:
        return {write.key for write in self.writes}

    def touched_keys(self) -> set[str]:
        return self.written_keys() | {compare.key for compare in self.compares}

    def value_bytes(self) -> int:
        return sum(len(write.value) for write in self.writes if isinstance(write, Put))


class Ledger:
    """Writes for one term of leadership. `merge` False sends every commit in a transaction of its own."""

    def __init__(self, store: Store, leadership: Fence, *, merge: bool = True) -> None:
        self._store = store
        self._leadership = leadership
        self._merge = merge
        self._waiting: deque[_Entry] = deque()
        self._flights: set[asyncio.Task[None]] = set()
        self._unsure: dict[str, bytes] = {}  # by key: what may have been put there since, or may be yet

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Write]) -> Commit:
        """Write all or nothing while this term lasts. Raises Fenced; StoreRefused and StoreDenied when the
        request itself is wrong. A caller that is cancelled leaves the transaction to its fate."""
        if self._leadership.lost.is_set():
            raise Fenced("leadership is lost")
        result: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(tuple(compares), tuple(writes), result))
        if len(self._flights) < FLIGHTS:
            flight = asyncio.create_task(self._fly(), name="ledger-flight")
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        return await result

    async def put_record(self, key: str, record: Record, expect_mod_revision: int) -> Commit:
        """Write one record over the one of `expect_mod_revision` (0: where none stands)."""
        return await self.commit([Compare(key, expect_mod_revision)], [Put(key, msgspec.json.encode(record))])

    async def _fly(self) -> None:
        """Send what waits, batch after batch. The first step yields, so that the commits of one pass of the
        event loop travel together."""
        await asyncio.sleep(0)
        while self._waiting:
            batch = self._next_batch()
            try:
                await self._send(batch)
            except StoreError as error:
                await self._send_alone(batch, error)
            except Exception as error:  # Fenced, or a bug: nobody must wait for ever
                _fail(batch, error)
                _fail(self._waiting, error)
                self._waiting.clear()
                if not isinstance(error, Fenced):
                    raise
            finally:
                for entry in batch:  # only when this task itself was cancelled
                    entry.result.cancel()

    async def _send_alone(self, batch: list[_Entry], error: StoreError) -> None:
        """The store took the transaction amiss (too large, a lease is gone): find out whose fault it is."""
        for entry in batch:
            if len(batch) == 1:
                _fail(batch, error)
            elif not entry.result.done():
                try:
                    await self._send([entry])
                except StoreError as own:
                    _fail([entry], own)

    def _next_batch(self) -> list[_Entry]:
        """The longest run of waiting commits that may share a transaction: no key that one writes is touched
        by another (etcd refuses a key written twice, and a compare must see the state before)."""
        batch = [self._waiting.popleft()]
        written, touched = batch[0].written_keys(), batch[0].touched_keys()
        compares, writes, size = len(batch[0].compares) + FENCE, len(batch[0].writes), batch[0].value_bytes()
        while self._merge and self._waiting:
            entry = self._waiting[0]
            compares += len(entry.compares)
            writes += len(entry.writes)
            size += entry.value_bytes()
            fits = compares <= MAX_TXN_OPS and writes <= MAX_TXN_OPS and size <= MAX_VALUE_BYTES
            if not fits or entry.written_keys() & touched or entry.touched_keys() & written:
                break
            written |= entry.written_keys()
            touched |= entry.touched_keys()
            batch.append(self._waiting.popleft())
        return batch

    async def _send(self, batch: list[_Entry]) -> None:
        """Settle every commit of the batch: those whose own compares failed are refused by what the store
        showed at that revision, the others are sent again without them."""
        remaining = batch
        while remaining:
            compares = [
                *self._leadership.fence,
                *(compare for entry in remaining for compare in entry.compares),
            ]
            writes = [write for entry in remaining for write in entry.writes]
            before = self._leadership.horizon()
            if not self._leadership.is_valid:
                self._settle_unsent(remaining)
                return
            try:
                result = await self._store.txn(compares, writes)
            except StoreUnavailable as error:
                await self._settle_unanswered(remaining, error, before)
                return
            # A deletion of what is not there is no write.
            wrote = result.ok and any(isinstance(write, Put) for write in writes)
            self._leadership.answered(result.revision, before, wrote=wrote)
            if result.ok:
                self._forget(write.key for write in writes)
                for entry in remaining:
                    _settle(entry, Commit(CommitOutcome.DONE, result.revision))
                return
            self._check_fence(result)
            refused = [entry for entry in remaining if not _all_hold(entry.compares, result.current)]
            for entry in refused:
                current = {compare.key: result.current.get(compare.key) for compare in entry.compares}
                _settle(entry, Commit(CommitOutcome.REFUSED, result.revision, current))
            assert refused, "a transaction was refused although every compare holds"
            remaining = [entry for entry in remaining if not entry.result.done()]

    def _settle_unsent(self, batch: list[_Entry]) -> None:
        """A process that was stopped for long would write what it had decided on before into a backup that
        was restored meanwhile, in which its own leader's key stands again (seed 5 of left_armed)."""
        if self._leadership.lost.is_set():
            raise Fenced("leadership is lost")
        error = StoreUnavailable("the lease was not renewed in time: nothing is written before it is")
        for entry in batch:
            _settle(entry, Commit(CommitOutcome.UNKNOWN, error=error))

    async def _settle_unanswered(self, batch: list[_Entry], error: StoreUnavailable, before: Horizon) -> None:
        """The reply was lost: what was written shows by reading it again; what does not show may still
        happen, and stays UNKNOWN. What the lost reply would have told of a restored store is told by this."""
        seen = await self._read_again(batch) if error.maybe_committed else None
        if seen is not None:
            self._leadership.answered(seen.revision, before, wrote=False)
        for entry in batch:
            revision = _revision_if_written(entry, seen.current) if seen is not None else None
            puts = {write.key: write.value for write in entry.writes if isinstance(write, Put)}
            # Of an attempt before, the same value stands at a revision that was known when this one was sent.
            is_ours = not any(self._unsure.get(key) == value for key, value in puts.items())
            if revision and is_ours:
                self._leadership.answered(revision, before, wrote=True)
            if revision is None:
                self._unsure |= puts
                _settle(entry, Commit(CommitOutcome.UNKNOWN, error=error))
            else:
                self._forget(puts)
                _settle(entry, Commit(CommitOutcome.DONE, revision))

    def _forget(self, names: Iterable[str]) -> None:
        for key in names:
            self._unsure.pop(key, None)

    async def _read_again(self, batch: list[_Entry]) -> TxnResult | None:
        """All keys the batch wrote, and the leader's, at one revision; None if the store stays silent."""
        names = sorted({key for entry in batch for key in entry.written_keys()} | {keys.LEADER})
        if len(names) > MAX_TXN_OPS:
            names = names[:MAX_TXN_OPS]  # the rest counts as unseen, hence as unknown
        for pause_s in REREAD_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                seen = await self._store.txn([Compare(name, NEVER) for name in names], [])
            except StoreUnavailable:
                continue
            self._check_fence(seen)
            return seen
        return None

    def _check_fence(self, result: TxnResult) -> None:
        if not self._leadership.owns(result.current.get(keys.LEADER)):
            self._leadership.lose("the leader key is not of this term")
            raise Fenced("the leader key is not of this term")


def _settle(entry: _Entry, commit: Commit) -> None:
    if not entry.result.done():  # its caller may have been cancelled
        entry.result.set_result(commit)


def _fail(batch: Iterable[_Entry], error: Exception) -> None:
    for entry in batch:
        if not entry.result.done():
            entry.result.set_exception(error)


def _all_hold(compares: tuple[Compare, ...], current: dict[str, KeyValue | None]) -> bool:
    for compare in compares:
        kv = current.get(compare.key)
        if compare.revision != (0 if kv is None else compared(kv, compare)):
            return False
    return True


def _revision_if_written(entry: _Entry, current: dict[str, KeyValue | None]) -> int | None:
    """The revision at which the entry's writes happened, or None when that is not certain. A put is proved
    by its value at a revision above the compared one; a deletion by absence where presence was compared.
    What writes nothing leaves nothing to be seen: whether its compares held is not known."""
    if not entry.writes:
        return None
    compared = {compare.key: compare.revision for compare in entry.compares}
    revisions: set[int] = set()
    for write in entry.writes:
        if write.key not in current or write.key not in compared:
            return None
        kv = current[write.key]
        if isinstance(write, Delete):
            if kv is not None or compared[write.key] == 0:
                return None
        elif kv is None or kv.value != write.value or kv.mod_revision <= compared[write.key]:
            return None
        else:
            revisions.add(kv.mod_revision)
    if len(revisions) > 1:  # one transaction writes at one revision
        return None
    return revisions.pop() if revisions else 0
