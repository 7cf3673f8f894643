"""One client's way to the simulated etcd, on which everything can go wrong: the Store port.

It has the manners of `drivers.etcd`: a read is asked again until its deadline; a write is sent once, on a
connection that is up, and after `WRITE_S` without a reply it may or may not have happened, or happen yet:
what was sent stays on its way when its sender gave up, or died. A watch lags, stalls, is lost and resumed
by revision, and gives up after its deadline. What goes wrong is drawn from the client's own random numbers,
as `ways` says, which may be changed at any time.

Reads and transactions are linearizable always, as etcd's are: a member that lags is seen by watches alone.
Not here: partitions and latencies, which are the network's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from drivers.errors import Compacted, StoreError, StoreRefused, StoreUnavailable
from drivers.memory import MemoryStore
from drivers.store import ChangeSet, Compare, KeyValue, Page, StoreStatus, TxnResult, Write, check_txn

if TYPE_CHECKING:
    from tests.sim.etcd import SimEtcd

SERVER: Final = "etcd"

# As in `drivers.etcd.EtcdConfig`.
ATTEMPT_S: Final = 2.0
WRITE_S: Final = 5.0
DEADLINE_S: Final = 8.0
WATCH_DEADLINE_S: Final = 30.0
PATIENCE_S: Final = 30.0  # a watch that is silent while the server answers other calls
SILENCE_S: Final = 6.0  # a watch whose server answers nothing, either

PAUSE_S: Final = 0.25  # between attempts to reach a server that refuses
OUTLIVES_S: Final = 60.0  # a request can arrive so long after its sender gave up

T = TypeVar("T")
Effect = Callable[[MemoryStore], Coroutine[Any, Any, T]]


class Wires(Protocol):
    """What the simulated network does for its users."""

    async def pass_(self, a: str, b: str) -> None:
        """One message's way from `a` to `b`; waits while they are cut off from each other."""
        ...


@dataclass
class Ways:
    """What goes wrong between one client and etcd, beside partitions. Probabilities are of each call."""

    refuse: float = 0.0  # turned away unread, and its sender knows
    lose_request: float = 0.0  # it never arrives; a write's sender cannot know
    lose_reply: float = 0.0  # it happened; a write's sender cannot know
    reset: float = 0.0  # the connection ends, before or after a request arrived: its sender learns at once
    delay: float = 0.0  # a request, or a reply, takes up to `delay_s` longer
    delay_s: float = 12.0
    lag_s: float = 0.0  # of watches
    stalled: bool = False  # watches say nothing; the server answers everything else

    @property
    def good(self) -> bool:
        """No call meets anything."""
        return not (self.refuse or self.lose_request or self.lose_reply or self.reset or self.delay)

    @property
    def hopeless(self) -> bool:
        """Every call meets something."""
        return max(self.refuse, self.lose_request, self.lose_reply, self.reset, self.delay) >= 1.0


@dataclass(frozen=True, slots=True)
class _Fate:
    """One call's."""

    refused: bool
    request_lost: bool
    reply_lost: bool
    reset_before: bool
    reset_after: bool
    there_s: float
    back_s: float


_GOOD: Final = _Fate(
    refused=False,
    request_lost=False,
    reply_lost=False,
    reset_before=False,
    reset_after=False,
    there_s=0.0,
    back_s=0.0,
)


@dataclass(slots=True)
class _Answer(Generic[T]):
    value: T | None = None
    error: StoreError | None = None


class _Limit:
    """`asyncio.timeout_at`, in fewer steps: a run sets some five thousand."""

    __slots__ = ("_passed", "_task", "_timer", "_when")

    def __init__(self, when: float) -> None:
        self._when = when
        self._passed = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = task.get_loop().call_at(self._when, self._pass)

    def _pass(self) -> None:
        self._passed = True
        self._task.cancel()

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        self._timer.cancel()
        if self._passed and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Reset(Exception):
    """The connection ended, and its client knows."""


class SimStore:
    """The Store port. `ways` may be changed at any time."""

    def __init__(self, etcd: SimEtcd, name: str, rng: Random) -> None:
        self.name = name
        self.ways = Ways()
        self._etcd = etcd
        self._rng = rng
        self._incarnation: int | None = None  # of the server that we are connected to
        self._cluster_id = 0
        self._closed = False
        self._replies: dict[asyncio.Future[_Answer[Any] | None], None] = {}

    # --- the port

    async def get(self, key: str) -> KeyValue | None:
        return await self._read(lambda core: core.get(key))

    async def list(self, prefix: str) -> Page:
        return await self._read(lambda core: core.list(prefix))

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        return await self._read(lambda core: core.page(prefix, after=after, limit=limit, revision=revision))

    async def status(self) -> StoreStatus:
        return await self._read(lambda core: core.status())

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        check_txn(compares, writes)
        if not compares and not writes:
            return TxnResult(ok=True, revision=(await self.status()).revision)
        return await self._write(lambda core: self._etcd.txn(core, self.name, compares, writes))

    async def grant(self, ttl_s: int) -> int:
        return await self._write(lambda core: self._etcd.grant(core, ttl_s))

    async def keep_alive(self, lease: int) -> int:
        return await self._read(lambda core: core.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._write(lambda core: core.revoke(lease))

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        position = after_revision
        healthy_at = self._etcd.clock()
        while True:
            try:
                await self._connect(self._etcd.clock() + DEADLINE_S)
                async with aclosing(self._stream(prefix, position)) as stream:
                    async for change_set in stream:
                        position = change_set.revision
                        yield change_set
                        healthy_at = self._etcd.clock()
            except (Reset, StoreUnavailable) as error:
                self._check_open()
                if self._etcd.clock() - healthy_at > WATCH_DEADLINE_S:
                    raise StoreUnavailable(f"watch of {prefix}: {error}") from error
            await asyncio.sleep(PAUSE_S)

    async def close(self) -> None:
        self.die()

    def die(self) -> None:
        """The process is gone, or has closed its store: it can ask nothing, and learns nothing, any more.
        What it sent is on its way."""
        self._closed = True
        for reply in self._replies:
            finish(reply)
        self._etcd.wake()

    # --- watches

    async def _stream(self, prefix: str, position: int) -> AsyncGenerator[ChangeSet, None]:
        """Changes and progress marks over the present connection. Raises Reset when that ends, or is given
        up because it is silent."""
        etcd, incarnation = self._etcd, self._connection()
        mark_at = etcd.clock() + etcd.progress_s
        core = await self._core_of(incarnation)
        if core.revision < position:
            raise Compacted(f"the store is at revision {core.revision} and was at {position}")
        while True:
            await etcd.news(position, max(0.0, mark_at - etcd.clock()))
            self._check_open()
            core = await self._core_of(incarnation)
            upto = core.revision
            found = [news for news in core.changes_after(prefix, position, upto) if news.changes]
            position = upto
            if not found and etcd.clock() < mark_at:
                continue
            await self._travel()
            for change_set in found or (ChangeSet(upto, ()),):
                yield change_set
            mark_at = etcd.clock() + etcd.progress_s

    async def _core_of(self, incarnation: int) -> MemoryStore:
        if not self._etcd.frozen:
            return await self._etcd.arrive(incarnation)
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._etcd.arrive(incarnation)
        except TimeoutError:
            raise Reset("the server is silent") from None

    async def _travel(self) -> None:
        """A watch's message comes to us."""
        if self.ways.lag_s:
            await asyncio.sleep(self._rng.uniform(0.5, 1.0) * self.ways.lag_s)
        stuck_at = self._etcd.clock() + PATIENCE_S
        while self.ways.stalled:
            self._check_open()
            if self._etcd.clock() >= stuck_at:
                raise Reset("the watch is stuck")
            await asyncio.sleep(1.0)
        try:
            with _Limit(self._etcd.clock() + SILENCE_S):
                await self._etcd.network.pass_(SERVER, self.name)
        except TimeoutError:
            self._incarnation = None
            raise Reset("the server is silent") from None
        self._check_open()

    # --- calls

    async def _read(self, effect: Effect[T]) -> T:
        """Ask again and again until the deadline, each time with more patience."""
        deadline = self._etcd.clock() + DEADLINE_S
        patience_s = ATTEMPT_S
        while True:
            if not self._is_connected:
                await self._connect(deadline)
            fate = self._fate()
            try:
                with _Limit(min(self._etcd.clock() + patience_s, deadline)):
                    answer = await self._ask(effect, self._connection(), fate)
                break
            except (Reset, TimeoutError) as error:
                self._check_open()
                self._incarnation = None
                if self._etcd.clock() + PAUSE_S >= deadline:
                    raise StoreUnavailable(f"no answer: {error}") from error
            await asyncio.sleep(PAUSE_S)
            patience_s *= 2
        self._check_open()
        return _value(answer)

    async def _write(self, effect: Effect[T]) -> T:
        """Send once."""
        if not self._is_connected:
            await self._connect(self._etcd.clock() + DEADLINE_S - WRITE_S)
        fate = self._fate()
        if fate.refused:
            raise StoreUnavailable("etcdserver: too many requests")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[_Answer[T] | None] = loop.create_future()
        self._replies[reply] = None
        message = self._deliver(effect, self._connection(), fate, reply)
        self._etcd.fly(message, f"{self.name} to etcd")
        limit = loop.call_later(WRITE_S, finish, reply)
        try:
            answer = await reply
        finally:
            limit.cancel()
            self._replies.pop(reply, None)
        if answer is None:
            self._incarnation = None
            raise StoreUnavailable("the reply was lost", maybe_committed=True)
        return _value(answer)

    async def _deliver(
        self,
        effect: Effect[T],
        incarnation: int,
        fate: _Fate,
        reply: asyncio.Future[_Answer[T] | None],
    ) -> None:
        try:
            with _Limit(self._etcd.clock() + WRITE_S + self._rng.random() * OUTLIVES_S):
                answer = await self._ask(effect, incarnation, fate)
        except Reset:
            finish(reply)
        except TimeoutError:
            return
        else:
            finish(reply, answer)

    async def _ask(self, effect: Effect[T], incarnation: int, fate: _Fate) -> _Answer[T]:
        """One message there and one back. Raises Reset; a lost message is waited for for ever."""
        network, etcd = self._etcd.network, self._etcd
        if fate.reset_before:
            raise Reset("connection reset by peer")
        if fate.there_s:
            await asyncio.sleep(fate.there_s)
        if fate.request_lost:
            await asyncio.get_running_loop().create_future()
        await network.pass_(self.name, SERVER)
        core = await etcd.arrive(incarnation)
        try:
            answer = _Answer(value=await effect(core))
        except StoreError as error:
            answer = _Answer(error=error)
        if fate.back_s:
            await asyncio.sleep(fate.back_s)
        if fate.reply_lost:
            await asyncio.get_running_loop().create_future()
        await network.pass_(SERVER, self.name)
        if fate.reset_after or etcd.incarnation != incarnation:
            raise Reset("connection reset by peer")
        return answer

    async def _connect(self, until: float) -> None:
        """Return at once if, as far as we know, we are connected. Raises StoreUnavailable (nothing was sent),
        StoreRefused."""
        self._check_open()
        if self._is_connected:
            return
        try:
            async with asyncio.timeout_at(until):
                while not await self._introduce():
                    self._check_open()
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise StoreUnavailable("no endpoint of etcd can be used") from None
        self._check_open()
        if self._cluster_id not in (0, self._etcd.cluster_id):
            self._incarnation = None
            raise StoreRefused("the endpoint belongs to another cluster")
        self._cluster_id = self._etcd.cluster_id

    async def _introduce(self) -> bool:
        await self._etcd.network.pass_(self.name, SERVER)
        try:
            incarnation = await self._etcd.accept()
        except Reset:
            return False
        await self._etcd.network.pass_(SERVER, self.name)
        self._incarnation = incarnation
        return self._etcd.incarnation == incarnation

    @property
    def _is_connected(self) -> bool:
        """As far as we know."""
        return not self._closed and self._incarnation == self._etcd.incarnation

    def _connection(self) -> int:
        if self._incarnation is None:  # another call has just given it up
            raise Reset("the connection was given up")
        return self._incarnation

    def _fate(self) -> _Fate:
        ways, rng = self.ways, self._rng
        if ways.good:
            return _GOOD
        draws = [rng.random() for _ in range(7)]
        late_s = draws[5] * ways.delay_s if draws[4] < ways.delay else 0.0
        return _Fate(
            refused=draws[0] < ways.refuse,
            request_lost=draws[1] < ways.lose_request,
            reply_lost=draws[2] < ways.lose_reply,
            reset_before=draws[3] < ways.reset / 2,
            reset_after=draws[3] > 1 - ways.reset / 2,
            there_s=late_s if draws[6] < 0.5 else 0.0,
            back_s=late_s if draws[6] >= 0.5 else 0.0,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")


def _value(answer: _Answer[T]) -> T:
    if answer.error is not None:
        raise answer.error
    return answer.value  # type: ignore[return-value]  # an answer is one or the other


def finish(future: asyncio.Future[T | None], result: T | None = None) -> None:
    if not future.done():
        future.set_result(result)
