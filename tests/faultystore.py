"""A Store with the faults of a network in front of it: no answer, lost replies, late commits.

It wraps any Store and changes nothing else. `silent` makes every call fail before it was sent; `lose_replies`
lets the next transactions that write happen and loses their answers, `lose_looks` does so with those that
only compare; `hold` delays the next ones until `release`, while their callers hear that the answer was lost;
`before_page` happens in the middle of a page's way; while `in_time` is cleared, changes are on their way to
those who watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from drivers.errors import StoreError, StoreUnavailable
from drivers.store import ChangeSet, Compare, KeyValue, Page, Store, StoreStatus, TxnResult, Write


async def _nothing() -> None:
    return


class FaultyStore:
    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.silent = False
        self.deaf_watches = False
        self.in_time = asyncio.Event()
        self.in_time.set()
        self.lose_replies = 0
        self.lose_looks = 0
        self.hold = 0
        self.on_hold: Callable[[], Awaitable[None]] = _nothing
        self.before_page: Callable[[], Awaitable[None]] = _nothing
        self._held: list[tuple[Sequence[Compare], Sequence[Write]]] = []

    def _reach(self) -> None:
        if self.silent:
            raise StoreUnavailable("the store does not answer")

    async def get(self, key: str) -> KeyValue | None:
        self._reach()
        return await self.inner.get(key)

    async def list(self, prefix: str) -> Page:
        self._reach()
        return await self.inner.list(prefix)

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        self._reach()
        await self.before_page()
        return await self.inner.page(prefix, after=after, limit=limit, revision=revision)

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        self._reach()
        if self.hold and writes:
            self.hold -= 1
            self._held.append((compares, writes))
            await self.on_hold()
            raise StoreUnavailable("the reply was lost", maybe_committed=True)
        result = await self.inner.txn(compares, writes)
        if self.lose_replies and writes:
            self.lose_replies -= 1
            raise StoreUnavailable("the reply was lost", maybe_committed=True)
        if self.lose_looks and not writes:
            self.lose_looks -= 1
            raise StoreUnavailable("the reply was lost", maybe_committed=True)
        return result

    async def release(self) -> None:
        """Let the held transactions arrive now."""
        for compares, writes in self._held:
            try:
                await self.inner.txn(compares, writes)
            except StoreError:
                continue  # its lease is gone, say: nobody waits for the answer
        self._held.clear()

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        self._reach()
        if self.deaf_watches:
            await asyncio.Event().wait()
        stream = self.inner.watch(prefix, after_revision)
        async for change_set in stream:
            await self.in_time.wait()
            self._reach()
            yield change_set

    async def grant(self, ttl_s: int) -> int:
        self._reach()
        return await self.inner.grant(ttl_s)

    async def keep_alive(self, lease: int) -> int:
        self._reach()
        return await self.inner.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        self._reach()
        await self.inner.revoke(lease)

    async def status(self) -> StoreStatus:
        self._reach()
        return await self.inner.status()

    async def close(self) -> None:
        await self.inner.close()
