"""Random faults on three members and the paths to them, while writers write and watches watch.

What must hold afterwards: both watches saw every revision once and in order, whole transactions only; what
was reported done is there, what was reported undone is not; what may have happened, may.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.errors import StoreUnavailable
from drivers.etcd import EtcdStore
from drivers.store import Compare, Put
from tests.etcdserver import EtcdCluster
from tests.integration.test_etcd import QUICK, Log, opened
from tests.tcpproxy import Proxy

pytestmark = [pytest.mark.etcd, pytest.mark.long]

LASTS_S = 40.0
CONFIG = replace(QUICK, deadline_s=4.0, write_s=1.5, watch_deadline_s=60.0, progress_s=0.3)


class Writers:
    """Create pairs of keys, each once, and remember what the store said of each."""

    def __init__(self, store: EtcdStore, rng: random.Random) -> None:
        self.said: dict[str, str] = {}
        self._rng = rng
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write(store, n)) for n in range(6)]

    async def _write(self, store: EtcdStore, number: int) -> None:
        for i in range(1_000_000):
            if self._stop.is_set():
                return
            key = f"k/{number}/{i}"
            value = b"x" * self._rng.randint(1, 2000)
            try:
                result = await store.txn([Compare(key, 0)], [Put(key, value), Put(key + "+", b"")])
                self.said[key] = "done" if result.ok else "somebody else did it"
            except StoreUnavailable as error:
                self.said[key] = "maybe" if error.maybe_committed else "undone"
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


async def break_something(rng: random.Random, cluster: EtcdCluster, proxies: list[Proxy]) -> None:
    at = rng.randrange(len(proxies))
    member, proxy, lasts_s = cluster.members[at], proxies[at], rng.random() * 2.5
    match rng.choice(["cut", "hold", "mute", "strand", "refuse", "kill", "freeze"]):
        case "cut":
            proxy.cut()
        case "strand":
            proxy.strand()
        case "hold":
            proxy.hold()
            await asyncio.sleep(lasts_s)
            proxy.release()
        case "mute":
            proxy.mute()
            await asyncio.sleep(lasts_s)
            proxy.mute(False)
        case "refuse":
            proxy.refuse()
            proxy.cut()
            await asyncio.sleep(lasts_s)
            proxy.refuse(False)
        case "kill":
            member.kill()
            await asyncio.sleep(lasts_s)
            member.start(wait=False)
        case "freeze":
            member.freeze()
            await asyncio.sleep(lasts_s)
            member.thaw()
    await asyncio.sleep(rng.random() * 0.5)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_fault_makes_a_watch_wrong_or_a_write_a_lie(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    with EtcdCluster(tmp_path) as cluster:
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(Proxy(m.endpoint)) for m in cluster.members]
            paths = [f"http://{proxy.address}" for proxy in proxies]
            busy = await stack.enter_async_context(opened(*paths, config=CONFIG))
            quiet = await stack.enter_async_context(opened(*paths, config=CONFIG))
            start = (await busy.status()).revision
            logs = [Log(busy, "k/", start), Log(quiet, "k/", start)]
            writers = Writers(busy, rng)
            ends_at = asyncio.get_running_loop().time() + LASTS_S
            while asyncio.get_running_loop().time() < ends_at:
                await break_something(rng, cluster, proxies)
            await writers.end()
            await asyncio.sleep(2)  # what a frozen member still holds happens now or never
            cluster.heal()
            fresh = await stack.enter_async_context(opened(*cluster.endpoints, config=CONFIG))
            there = {kv.key: kv.mod_revision for kv in (await fresh.list("k/")).items}
            for log in logs:
                await log.reaches(max(there.values()), within_s=30)
                assert log.revisions == sorted(set(there.values()))
                assert {len(change_set.changes) for change_set in log.change_sets} == {2}
                await log.end()
    assert set(writers.said.values()) <= {"done", "undone", "maybe"}
    assert {key for key, said in writers.said.items() if said == "done"} <= there.keys()
    assert not {key for key, said in writers.said.items() if said == "undone"} & there.keys()
