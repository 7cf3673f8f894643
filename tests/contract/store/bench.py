"""A store under test, and what tests of it do again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from drivers.store import (
    ChangeSet,
    Delete,
    KeyValue,
    Put,
    Store,
)


@dataclass
class Bench:
    """A store under test, a prefix that only this test uses, and the one thing the port lacks. `seal`: bytes
    that it adds to a value, which count."""

    store: Store
    prefix: str
    compact: Callable[[int], Awaitable[None]]
    seal: int = 0

    def key(self, name: str) -> str:
        return self.prefix + name

    async def put(self, name: str, value: bytes = b"v", *, lease: int = 0) -> int:
        result = await self.store.txn([], [Put(self.key(name), value, lease)])
        return result.revision

    async def delete(self, name: str) -> int:
        return (await self.store.txn([], [Delete(self.key(name))])).revision

    async def get(self, name: str) -> KeyValue | None:
        return await self.store.get(self.key(name))

    async def names(self) -> list[str]:
        return [kv.key.removeprefix(self.prefix) for kv in (await self.store.list(self.prefix)).items]

    async def names_become(self, expected: list[str]) -> bool:
        for _ in range(80):
            if await self.names() == expected:
                return True
            await asyncio.sleep(0.1)
        return False

    async def now(self) -> int:
        return (await self.store.list(self.prefix)).revision

    def watch(self, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        return cast(AsyncGenerator[ChangeSet, None], self.store.watch(self.prefix, after_revision))

    async def changes(self, after_revision: int, count: int) -> list[ChangeSet]:
        """The first `count` change sets with changes in them after a revision."""
        found: list[ChangeSet] = []
        async with asyncio.timeout(15), aclosing(self.watch(after_revision)) as watch:
            async for change_set in watch:
                if change_set.changes:
                    found.append(change_set)
                if len(found) == count:
                    break
        return found

    def short(self, change_sets: list[ChangeSet]) -> list[list[str]]:
        return [[f"{c.kind} {c.kv.key.removeprefix(self.prefix)}" for c in s.changes] for s in change_sets]
