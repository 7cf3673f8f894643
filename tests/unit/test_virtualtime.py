"""Virtual time: fast, in order, alone in its thread, and never silently stuck."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from tests import virtualtime
from tests.virtualtime import Deadlock, Livelock


def test_hours_pass_in_no_time_and_in_order() -> None:
    seen: list[tuple[float, str]] = []

    async def note(after_s: float, name: str) -> None:
        await asyncio.sleep(after_s)
        seen.append((asyncio.get_running_loop().time() - virtualtime.START_S, name))

    async def main() -> None:
        await asyncio.gather(note(7200, "late"), note(0.5, "soon"), note(3600, "later"))

    began = time.monotonic()
    virtualtime.run(main())
    assert seen == [(0.5, "soon"), (3600, "later"), (7200, "late")]
    assert time.monotonic() - began < 5


def test_who_waits_for_what_nobody_will_do_is_named() -> None:
    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(forgotten(), name="the-forgotten-one")

    with pytest.raises(Deadlock, match=r"the-forgotten-one at .*forgotten:\d+"):
        virtualtime.run(main())


def test_a_run_in_which_no_time_passes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtualtime, "MAX_ROUNDS", 1000)

    async def main() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        virtualtime.run(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(AssertionError, match="no threads"):
            await asyncio.to_thread(print)

    virtualtime.run(main())


def test_calls_from_threads_are_refused() -> None:
    refused: list[AssertionError] = []

    def elsewhere(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(print)
        except AssertionError as error:
            refused.append(error)

    async def main() -> None:
        thread = threading.Thread(target=elsewhere, args=(asyncio.get_running_loop(),))
        thread.start()
        thread.join()

    virtualtime.run(main())
    assert len(refused) == 1


def test_a_call_from_the_loops_own_thread_is_heard() -> None:
    async def main() -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(done.set)
        await done.wait()

    virtualtime.run(main())
