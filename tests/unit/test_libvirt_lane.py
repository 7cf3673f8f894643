"""Worker threads: limits, deadlines, and whether a call was sent."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from drivers.libvirt.lane import DeadlinePassed, Gate, Lane


def test_a_gate_that_the_thread_passed_cannot_be_shut() -> None:
    gate = Gate()
    assert gate.enter()
    assert not gate.shut()


def test_a_gate_that_was_shut_lets_no_call_through() -> None:
    gate = Gate()
    assert gate.shut()
    assert not gate.enter()


def test_of_thread_and_caller_exactly_one_has_the_gate() -> None:
    for _ in range(300):
        gate, start = Gate(), threading.Barrier(2)
        won: list[bool] = []

        def thread(gate: Gate = gate, start: threading.Barrier = start, won: list[bool] = won) -> None:
            start.wait()
            won.append(gate.enter())

        other = threading.Thread(target=thread)
        other.start()
        start.wait()
        shut = gate.shut()
        other.join()
        assert [shut] != won


async def test_what_the_work_returns_or_raises_reaches_the_caller() -> None:
    lane = Lane("t")
    assert await lane.run(lambda: 42, 5) == 42

    def fail() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        await lane.run(fail, 5)
    assert await lane.run(lambda: "still there", 5) == "still there"


async def test_no_more_calls_than_slots_are_in_flight() -> None:
    lane, lock, now, peak = Lane("t", slots=4), threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    await asyncio.gather(*(lane.run(work, 5) for _ in range(40)))
    assert peak == 4
    assert not lane.is_busy


async def test_a_call_past_its_deadline_is_given_up_at_once_and_keeps_its_slot() -> None:
    lane, release = Lane("t", slots=1), threading.Event()
    started_at = time.monotonic()
    with pytest.raises(DeadlinePassed) as passed:
        await lane.run(release.wait, 0.05)
    assert passed.value.started
    assert time.monotonic() - started_at < 1
    assert lane.is_clogged
    with pytest.raises(DeadlinePassed) as passed:
        await lane.run(lambda: None, 0.05)
    assert not passed.value.started
    release.set()
    assert await lane.run(lambda: "free again", 5) == "free again"
    assert (lane.overdue, lane.is_clogged) == (0, False)


async def test_a_stuck_lane_does_not_hold_another_up() -> None:
    stuck, well, release = Lane("stuck", slots=2), Lane("well", slots=2), threading.Event()
    waiting = [asyncio.create_task(stuck.run(release.wait, 5)) for _ in range(2)]
    await asyncio.sleep(0.05)
    started_at = time.monotonic()
    assert await well.run(lambda: "quick", 5) == "quick"
    assert time.monotonic() - started_at < 1
    release.set()
    await asyncio.gather(*waiting)


async def test_idle_threads_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.libvirt.lane.IDLE_S", 0.05)
    lane = Lane("goes-away")
    await asyncio.gather(*(lane.run(lambda: time.sleep(0.01), 5) for _ in range(4)))
    for _ in range(100):
        if not any(thread.name == "goes-away" for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("threads are still there")
    assert await lane.run(lambda: "and come back", 5) == "and come back"


async def test_a_cancelled_caller_frees_nothing_that_runs_but_waits_for_nothing_either() -> None:
    lane, release = Lane("t", slots=1), threading.Event()
    task = asyncio.create_task(lane.run(release.wait, 5))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lane.is_busy
    release.set()
    assert await lane.run(lambda: 1, 5) == 1
