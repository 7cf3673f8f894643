"""etcd, simulated: one store that is the ground truth, and everything that happens to such a server.

It is a `MemoryStore` that can be stopped and started (leases come back with their whole TTL), frozen, filled
up, set back to a backup, lost for ever, and whose leases end in bulk. Clients reach it through `client`,
each on a way of its own (`tests.sim.store`); checkers look at it directly and hear of every transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Final

from drivers.errors import StoreUnavailable
from drivers.memory import EMPTY, Backup, MemoryStore
from drivers.store import ChangeSet, Compare, KeyValue, Put, TxnResult, Write
from tests.sim.store import Reset, SimStore, Wires, finish

PROGRESS_S: Final = 5.0

Heard = Callable[[str, Sequence[Compare], Sequence[Write], TxnResult], None]


class SimEtcd:
    """`listeners` hear of every transaction that took place, `on_change` of every change, at that instant."""

    def __init__(
        self, clock: Callable[[], float], rng: Random, network: Wires, *, progress_s: float = PROGRESS_S
    ) -> None:
        self.clock = clock
        self.network = network
        self.progress_s = progress_s
        self.running = True
        self.frozen = False
        self.full = False  # the disk: nothing can be put, no lease be granted
        self.incarnation = 0
        self.cluster_id = 0xD0_0D
        self.listeners: list[Heard] = []
        self.on_change: list[Callable[[ChangeSet], None]] = []
        self._seed = rng.getrandbits(64)
        self._clients = 0
        self._thawed = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._flights: dict[asyncio.Task[None], None] = {}
        self._core = self._boot(EMPTY, 1)

    def client(self, name: str) -> SimStore:
        """The way of one process to etcd. A process that is started again gets another."""
        self._clients += 1
        return SimStore(self, name, Random(f"{self._seed}/{name}/{self._clients}"))

    # --- what happens to the server

    def stop(self) -> None:
        """It goes away, and every connection with it. What stands in it stays."""
        if self.running:
            self.running = False
            self._core.halt()
            self._hang_up()

    def start(self) -> None:
        """It is back, and every lease in it has its whole TTL again."""
        if not self.running:
            self.running = True
            self._core = self._boot(self._core.backup(), self._core.next_lease)

    def freeze(self) -> None:
        """As by SIGSTOP: what arrives waits. Leases run out meanwhile."""
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self._let_in()

    def snapshot(self) -> Backup:
        return self._core.backup()

    def restore(self, backup: Backup) -> None:
        """What stood in it at the backup stands in it again, under the same cluster id, at the revision of
        then. It goes down for it, and up again if it was up."""
        was_running = self.running
        self.stop()
        self._core = self._boot(backup, self._core.next_lease)
        self._core.halt()
        if was_running:
            self.start()

    def wipe(self, *, same_cluster: bool = True) -> None:
        """An empty store in its place. Members set up as they were before have the cluster id of before; a
        client that knows another refuses to talk to them, until its process is started again."""
        self.cluster_id += not same_cluster
        self.restore(EMPTY)

    async def compact(self, revision: int = 0) -> None:
        """Forget what was before `revision` (0: before now)."""
        await self._core.compact(revision or self._core.revision)

    async def revoke_all_leases(self) -> None:
        """Those of live clients, too: a sick leader of etcd was seen doing it (etcd #15247)."""
        for lease in self._core.leases:
            await self._core.revoke(lease)

    async def close(self) -> None:
        """End all that is still on its way."""
        self.stop()
        flights = tuple(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    # --- the truth

    @property
    def revision(self) -> int:
        return self._core.revision

    def peek(self, key: str) -> KeyValue | None:
        return self._core.peek(key)

    def peek_all(self, prefix: str) -> tuple[KeyValue, ...]:
        return self._core.peek_all(prefix)

    # --- for its clients

    async def accept(self) -> int:
        """A client wants a connection; returns the server's incarnation. Raises Reset: nobody listens."""
        while self.frozen and self.running:
            await self._thawed.wait()
        if not self.running:
            raise Reset("connection refused")
        return self.incarnation

    async def arrive(self, incarnation: int) -> MemoryStore:
        """A message arrived, on a connection to this incarnation of the server. Raises Reset."""
        while self.frozen and self.incarnation == incarnation:
            await self._thawed.wait()
        if not self.running or self.incarnation != incarnation:
            raise Reset("connection reset by peer")
        return self._core

    async def txn(
        self, core: MemoryStore, client: str, compares: Sequence[Compare], writes: Sequence[Write]
    ) -> TxnResult:
        if self.full and any(isinstance(write, Put) for write in writes):
            raise StoreUnavailable("etcdserver: mvcc: database space exceeded")
        result = await core.txn(compares, writes)
        for listener in self.listeners:
            listener(client, compares, writes, result)
        return result

    async def grant(self, core: MemoryStore, ttl_s: int) -> int:
        if self.full:
            raise StoreUnavailable("etcdserver: mvcc: database space exceeded")
        return await core.grant(ttl_s)

    def fly(self, message: Coroutine[Any, Any, None], name: str) -> None:
        """Let a message go its way, whatever becomes of its sender."""
        task = asyncio.create_task(message, name=name)
        self._flights[task] = None
        task.add_done_callback(lambda done: self._flights.pop(done, None))

    async def news(self, revision: int, timeout_s: float) -> None:
        """Return when the store is past `revision`, something else happened to it, or after a while."""
        if self._core.revision > revision and not self.frozen:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = None
        timer = loop.call_later(timeout_s, finish, future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.pop(future, None)

    def wake(self) -> None:
        """Let all who wait for news look again."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            finish(future)

    # --- inside

    def _boot(self, backup: Backup, first_lease: int) -> MemoryStore:
        core = MemoryStore(self.clock, cluster_id=self.cluster_id, backup=backup, first_lease=first_lease)
        core.on_change.append(self._changed)
        return core

    def _changed(self, change_set: ChangeSet) -> None:
        for listener in self.on_change:
            listener(change_set)
        self.wake()

    def _hang_up(self) -> None:
        self.incarnation += 1
        self._let_in()

    def _let_in(self) -> None:
        self._thawed.set()
        self._thawed = asyncio.Event()
        self.wake()
