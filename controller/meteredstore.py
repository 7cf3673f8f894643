"""A Store whose calls are timed: wraps any other and changes nothing.

The composition root puts it around the driver. A watch is not a request: it is passed through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

from controller.metrics import Metrics
from controller.world import World
from drivers.errors import StoreError
from drivers.store import ChangeSet, Compare, KeyValue, Page, Store, StoreStatus, TxnResult, Write

T = TypeVar("T")


class MeteredStore:
    """Implements Store."""

    def __init__(self, store: Store, metrics: Metrics, world: World) -> None:
        self._store = store
        self._metrics = metrics
        self._world = world

    async def _timed(self, call: str, answer: Awaitable[T]) -> T:
        began = self._world.now()
        failure: StoreError | None = None
        try:
            return await answer
        except StoreError as error:
            failure = error
            raise
        finally:
            self._metrics.etcd_request(call, self._world.now() - began, failure)

    async def get(self, key: str) -> KeyValue | None:
        return await self._timed("get", self._store.get(key))

    async def list(self, prefix: str) -> Page:
        return await self._timed("list", self._store.list(prefix))

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        page = self._store.page(prefix, after=after, limit=limit, revision=revision)
        return await self._timed("page", page)

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        return await self._timed("txn", self._store.txn(compares, writes))

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[ChangeSet]:
        return self._store.watch(prefix, after_revision)

    async def grant(self, ttl_s: int) -> int:
        return await self._timed("grant", self._store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> int:
        return await self._timed("keep_alive", self._store.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._timed("revoke", self._store.revoke(lease))

    async def status(self) -> StoreStatus:
        return await self._timed("status", self._store.status())

    async def close(self) -> None:
        await self._store.close()
