"""The work queue: deduplication, one worker per key, delays and back-off, in virtual time."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from controller.workqueue import JITTER, Backoff, WorkQueue, backoff_delay
from tests import virtualtime


class Meter:
    def __init__(self) -> None:
        self.adds = self.retries = 0
        self.waited: list[float] = []
        self.worked: list[float] = []

    def added(self, depth: int) -> None:
        self.adds += 1

    def retried(self) -> None:
        self.retries += 1

    def taken(self, depth: int, waited_s: float) -> None:
        self.waited.append(waited_s)

    def finished(self, worked_s: float) -> None:
        self.worked.append(worked_s)


def make(meter: Meter | None = None, base_s: float = 1.0, max_s: float = 300.0) -> WorkQueue:
    loop = asyncio.get_running_loop()
    return WorkQueue(loop.time, meter or Meter(), Backoff(base_s, max_s))


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_added_many_times_is_taken_once_in_order_of_arrival() -> None:
    async def main() -> None:
        queue = make()
        for key in ("b", "a", "b", "c", "a"):
            queue.add(key)
        assert queue.take() == ("b", "a", "c")
        assert queue.take() == ()

    virtualtime.run(main())


def test_a_key_being_processed_is_not_taken_twice_but_comes_back_when_done() -> None:
    async def main() -> None:
        queue = make()
        queue.add("a")
        assert queue.take() == ("a",)
        queue.add("a")
        queue.add("a")
        assert queue.take() == ()
        queue.done("a")
        assert queue.take() == ("a",)
        queue.done("a")
        assert queue.take() == ()

    virtualtime.run(main())


def test_wait_returns_at_once_when_ready_and_wakes_on_an_add() -> None:
    async def main() -> None:
        queue = make()
        queue.add("a")
        assert await queue.wait()
        queue.done(*queue.take())
        asyncio.get_running_loop().call_later(7, queue.add, "b")
        began = now()
        assert await queue.wait()
        assert now() - began == 7
        assert queue.take() == ("b",)

    virtualtime.run(main())


def test_a_delayed_key_is_ready_when_its_earliest_delay_has_passed() -> None:
    async def main() -> None:
        queue = make()
        began = now()
        queue.add_after("a", 30)
        queue.add_after("a", 10)
        queue.add_after("a", 20)
        queue.add_after("b", 15)
        assert await queue.wait()
        assert (now() - began, queue.take()) == (10, ("a",))
        queue.done("a")
        assert await queue.wait()
        assert (now() - began, queue.take()) == (15, ("b",))
        queue.done("b")
        asyncio.get_running_loop().call_later(100, queue.shut_down)
        assert not await queue.wait()
        assert now() - began == 115

    virtualtime.run(main())


def test_an_earlier_delay_wakes_a_waiter_that_waits_for_a_later_one() -> None:
    async def main() -> None:
        queue = make()
        began = now()
        queue.add_after("late", 100)
        asyncio.get_running_loop().call_later(1, queue.add_after, "soon", 2)
        assert await queue.wait()
        assert (now() - began, queue.take()) == (3, ("soon",))

    virtualtime.run(main())


def test_failures_come_back_later_and_later_until_they_are_forgotten() -> None:
    async def main() -> None:
        queue = make(max_s=60)
        delays = []
        for _ in range(10):
            queue.add("a")
            queue.take()
            delays.append(queue.retry("a"))
            queue.done("a")
            began = now()
            assert await queue.wait()
            assert now() - began == delays[-1]
            queue.done(*queue.take())
        for attempt, delay in enumerate(delays, 1):
            full = min(60, 2 ** (attempt - 1))
            assert full * (1 - JITTER) <= delay <= full
        assert queue.attempts("a") == 10
        queue.forget("a")
        assert queue.attempts("a") == 0
        assert queue.retry("a") == delays[0]

    virtualtime.run(main())


def test_an_event_during_a_back_off_is_looked_at_at_once_and_the_back_off_can_still_be_asked_for() -> None:
    async def main() -> None:
        queue = make()
        queue.add("a")
        queue.take()
        delay = queue.retry("a")
        due = now() + delay
        queue.done("a")
        queue.add("a")
        assert queue.take() == ("a",)
        assert queue.retry_at("a") == due
        await asyncio.sleep(delay)
        assert queue.retry_at("a") is None

    virtualtime.run(main())


def test_clearing_the_back_off_makes_waiting_keys_ready_and_leaves_others_alone() -> None:
    async def main() -> None:
        queue = make()
        for key in ("a", "b"):
            queue.add(key)
        queue.take()
        for key in ("a", "b"):
            queue.retry(key)
            queue.done(key)
        queue.clear_backoff(["a", "c"])
        assert queue.take() == ("a",)
        assert (queue.attempts("a"), queue.attempts("b")) == (0, 1)
        queue.done("a")
        assert await queue.wait()
        assert queue.take() == ("b",)  # and "a" does not come back a second time

    virtualtime.run(main())


def test_a_shut_down_queue_takes_and_gives_nothing_more() -> None:
    async def main() -> None:
        queue = make()
        queue.add("a")
        queue.take()
        queue.add("a")
        queue.add_after("b", 1)
        queue.shut_down()
        queue.add("c")
        queue.done("a")
        await asyncio.sleep(5)
        assert not await queue.wait()
        assert queue.take() == ()

    virtualtime.run(main())


def test_the_meter_hears_how_long_keys_waited_and_were_worked_on() -> None:
    async def main() -> None:
        meter = Meter()
        queue = make(meter)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(2)
        queue.take()
        await asyncio.sleep(3)
        assert (queue.unfinished_s(), queue.longest_running_s()) == (3, 3)
        queue.retry("a")
        queue.done("a")
        assert (meter.adds, meter.retries, meter.waited, meter.worked) == (1, 1, [2], [3])
        assert (queue.unfinished_s(), queue.longest_running_s()) == (0, 0)

    virtualtime.run(main())


@given(
    st.lists(st.tuples(st.sampled_from(["add", "take", "done", "retry", "later"]), st.sampled_from("abc")))
)
def test_no_key_is_ever_lost_or_processed_twice_at_a_time(steps: list[tuple[str, str]]) -> None:
    async def main() -> None:
        queue = make()
        processing: set[str] = set()
        wanted: set[str] = set()  # added since it was last taken
        for step, key in steps:
            if step == "take":
                taken = queue.take()
                assert not processing & set(taken)
                assert len(set(taken)) == len(taken)
                processing |= set(taken)
                wanted -= set(taken)
            elif step == "done":
                queue.done(key)
                processing.discard(key)
            else:
                if step == "add":
                    queue.add(key)
                elif step == "retry":
                    queue.retry(key)
                else:
                    queue.add_after(key, 5)
                wanted.add(key)
            await asyncio.sleep(0.5)
        for key in sorted(processing):
            queue.done(key)
        await asyncio.sleep(400)
        assert wanted <= set(queue.take())

    virtualtime.run(main())


@given(st.text(), st.integers(min_value=1, max_value=10_000))
def test_the_jitter_is_the_same_every_time_and_never_lengthens_a_delay(key: str, attempt: int) -> None:
    backoff = Backoff(0.5, 300)
    delay = backoff_delay(key, attempt, backoff)
    assert delay == backoff_delay(key, attempt, backoff)
    assert 0.5 * (1 - JITTER) <= delay <= 300
