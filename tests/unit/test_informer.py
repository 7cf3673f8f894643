"""The informer keeps a sink equal to the store, whatever the network and compaction do in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from controller.informer import Informer
from drivers.memory import MemoryStore
from drivers.store import ChangeSet, Delete, KeyValue, Put
from tests import virtualtime
from tests.faultystore import FaultyStore

ROOT = "/d/"


@dataclass
class Mirror:
    """A sink that is what it was told."""

    items: dict[str, bytes] = field(default_factory=dict)
    revision: int = 0
    resets: int = 0
    seen: list[str] = field(default_factory=list)

    def reset(self, items: tuple[KeyValue, ...], revision: int) -> None:
        self.resets += 1
        self.items = {kv.key: kv.value for kv in items}
        self.revision = revision

    def apply(self, changes: ChangeSet) -> None:
        assert changes.revision >= self.revision
        self.revision = changes.revision
        for change in changes.changes:
            self.seen.append(change.kv.key)
            if change.kind == "put":
                self.items[change.kv.key] = change.kv.value
            else:
                self.items.pop(change.kv.key)


@dataclass
class Rig:
    memory: MemoryStore
    network: FaultyStore
    mirror: Mirror
    informer: Informer

    async def put(self, key: str, value: bytes = b"1") -> None:
        await self.memory.txn([], [Put(key, value)])

    async def equal(self) -> bool:
        page = await self.memory.list(ROOT)
        return {kv.key: kv.value for kv in page.items} == self.mirror.items


@asynccontextmanager
async def rig(resync_s: float = 60.0, skip: tuple[str, ...] = ()) -> AsyncIterator[Rig]:
    world = virtualtime.world()
    memory = MemoryStore(world.now)
    network, mirror = FaultyStore(memory), Mirror()
    informer = Informer(network, world, mirror, prefix=ROOT, resync_s=resync_s, skip=skip)
    await memory.txn([], [Put(ROOT + "a", b"1"), Put("/elsewhere", b"1")])
    task = asyncio.create_task(informer.run())
    yield Rig(memory, network, mirror, informer)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await memory.close()


def test_the_sink_holds_what_stood_there_and_what_comes() -> None:
    async def main() -> None:
        async with rig() as r:
            assert not r.informer.synced.is_set()
            assert not r.informer.is_healthy
            await r.informer.synced.wait()
            assert r.mirror.items == {ROOT + "a": b"1"}
            await r.put(ROOT + "b")
            await r.memory.txn([], [Delete(ROOT + "a"), Put(ROOT + "c", b"1")])
            await r.put("/elsewhere", b"2")
            await asyncio.sleep(0.1)
            assert set(r.mirror.items) == {ROOT + "b", ROOT + "c"}
            assert r.mirror.resets == 1
            assert r.informer.is_healthy

    virtualtime.run(main())


def test_a_compaction_behind_its_back_is_healed_by_a_list() -> None:
    async def main() -> None:
        async with rig() as r:
            await r.informer.synced.wait()
            r.network.silent = True
            await asyncio.sleep(20)
            for n in range(5):
                await r.put(f"{ROOT}k{n}")
            await r.memory.compact((await r.memory.status()).revision)
            r.network.silent = False
            await asyncio.sleep(10)
            assert await r.equal()

    virtualtime.run(main())


def test_a_store_that_does_not_answer_takes_nothing_away_and_is_told_as_unhealthy() -> None:
    async def main() -> None:
        async with rig() as r:
            await r.informer.synced.wait()
            r.network.silent = True
            await r.memory.txn([], [Delete(ROOT + "a")])
            await asyncio.sleep(600)
            assert r.mirror.items == {ROOT + "a": b"1"}
            assert not r.informer.is_healthy
            r.network.silent = False
            await asyncio.sleep(10)
            assert r.mirror.items == {}
            assert r.informer.is_healthy
            assert r.informer.failures == 0

    virtualtime.run(main())


def test_a_deaf_watch_is_made_up_for_by_the_next_list() -> None:
    async def main() -> None:
        async with rig(resync_s=30) as r:
            r.network.deaf_watches = True
            await r.informer.synced.wait()
            await r.put(ROOT + "b")
            await asyncio.sleep(1)
            assert ROOT + "b" not in r.mirror.items
            await asyncio.sleep(30)
            assert await r.equal()

    virtualtime.run(main())


def test_everything_is_listed_again_every_resync_even_when_all_is_well() -> None:
    async def main() -> None:
        async with rig(resync_s=30) as r:
            for n in range(100):
                await r.put(f"{ROOT}k{n}")
                await asyncio.sleep(3)
            assert 9 <= r.mirror.resets <= 12
            assert await r.equal()

    virtualtime.run(main())


def test_skipped_keys_never_reach_the_sink() -> None:
    async def main() -> None:
        async with rig(resync_s=30, skip=(ROOT + "noise", ROOT + "beat")) as r:
            await r.put(ROOT + "noise/old")
            await r.informer.synced.wait()
            await r.put(ROOT + "beat")
            await r.memory.txn([], [Put(ROOT + "noise/1", b"1"), Put(ROOT + "b", b"1")])
            await asyncio.sleep(35)
            await r.put(ROOT + "noise/2")
            await asyncio.sleep(1)
            assert set(r.mirror.items) == {ROOT + "a", ROOT + "b"}
            assert r.mirror.revision == (await r.memory.status()).revision
            assert not [key for key in r.mirror.seen if "noise" in key or "beat" in key]

    virtualtime.run(main())


def test_the_sink_is_equal_again_after_any_flapping() -> None:
    async def main() -> None:
        async with rig(resync_s=40) as r:
            for n in range(600):
                r.network.silent = n % 17 in (3, 4, 5, 11)
                key = f"{ROOT}k{n % 23}"
                await r.memory.txn([], [Delete(key) if n % 5 == 0 else Put(key, b"%d" % n)])
                if n % 50 == 0:
                    await r.memory.compact((await r.memory.status()).revision)
                await asyncio.sleep(0.3)
            r.network.silent = False
            await asyncio.sleep(10)
            assert await r.equal()

    virtualtime.run(main())
