"""A storm of clients and the loop that the controller runs on: however they behave, its turn comes.

The clients are another process. Lag is what the loop was kept busy between two of its own turns: the time of
its thread on the processor, so that other programs of this machine have no part in it. The bound is the
project's own: 100 ms.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, Api, domain, serving

BOUND_S = 0.100
DROPPED_S = 30.0  # of work, within which watchers that never read are dropped; their write timeout is 1 s
OWN = ("health", "asked", "tried again", "cut")
DEAF = 20  # as many as the storm opens
STORMS = Path(__file__).parents[1] / "storm.py"


class Lag:
    """The longest that the loop's thread worked without coming back to this task."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.turns = 0

    async def watch(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.thread_time() - began)
            self.turns += 1


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as found:
        for n in range(300):
            assert (await found.call("POST", DOMAINS, domain(f"web-{n}"))).status == 201
        gc.collect()
        gc.freeze()  # as `domctl serve` does: what pytest has loaded is not the server's to look through
        yield found
        gc.unfreeze()
    await store.close()


@asynccontextmanager
async def storm(api: Api, kind: str) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    files = [str(p) for p in (api.pki.ca_cert, api.pki.admin_cert, api.pki.admin_key)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(STORMS), kind, api.url, *files, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert (await asyncio.wait_for(process.stdout.readline(), 60)) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def weather(api: Api, kind: str) -> tuple[Lag, dict[str, int]]:
    """The lag while the storm raged, and what its clients were answered."""
    lag = Lag()
    async with storm(api, kind) as process:
        watching = asyncio.create_task(lag.watch())
        assert process.stdout is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
        watching.cancel()
    print(f"{kind}: lag {lag.longest_s * 1000:.0f} ms in {lag.turns} turns, {told}")
    return lag, told


async def test_slow_heads_silent_handshakes_and_dripping_bodies_delay_nothing(api: Api) -> None:
    lag, told = await weather(api, "slow")
    assert told["open"] >= 900
    assert told["health"] == told["asked"], "health answered all along"
    assert lag.longest_s < BOUND_S


async def test_bad_bodies_and_wrong_types_are_told_what_is_wrong_and_delay_nothing(api: Api) -> None:
    lag, told = await weather(api, "bodies")
    assert set(told) <= {"400", "413", "415", *OWN}, told
    assert min(told["400"], told["413"], told["415"]) > 0
    assert told["health"] == told["asked"]
    assert lag.longest_s < BOUND_S


async def test_tokens_of_others_are_refused_and_delay_nothing(api: Api) -> None:
    lag, told = await weather(api, "tokens")
    assert "401" in told
    assert set(told) <= {"401", *OWN}, told
    assert told["health"] == told["asked"]
    assert lag.longest_s < BOUND_S


async def test_lists_and_watches_without_end_delay_nothing(api: Api) -> None:
    lag, told = await weather(api, "watches")
    assert told["200"] > 0
    assert set(told) <= {"200", "429", *OWN}, told
    assert told["health"] == told["asked"]
    assert lag.longest_s < BOUND_S


async def test_watchers_that_never_read_are_dropped_and_delay_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.api.streaming._WRITE_TIMEOUT_S", 1.0)
    lag = Lag()
    async with storm(api, "deaf"):
        async with asyncio.timeout(60):
            while watchers(api) < DEAF:  # noqa: ASYNC110 - they are another process
                await asyncio.sleep(0.01)
        watching = asyncio.create_task(lag.watch())
        body, changes, began = domain("web-0"), 0, time.process_time()
        while watchers(api):  # buffers fill with what is written, the write timeout runs by the clock
            assert time.process_time() - began < DROPPED_S, f"{watchers(api)} are not dropped"
            body["metadata"]["annotations"] = {"note": f"{changes}" + "x" * 30000}
            path = f"{DOMAINS}/web-0"
            reply = await api.call("PATCH", path, body, type="application/merge-patch+json")
            assert reply.status == 200
            changes += 1
        watching.cancel()
    print(f"deaf: lag {lag.longest_s * 1000:.0f} ms, dropped within {changes} changes")
    assert lag.longest_s < BOUND_S


def watchers(api: Api) -> int:
    return sum(hub.clients for hub in api.server._hubs.values())
