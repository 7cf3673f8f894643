"""Turns of actions: no node keeps another waiting, and however an action ends, its place is free again."""

from __future__ import annotations

import asyncio
from collections import Counter

from controller.turns import Turns
from tests.virtualtime import run


class _Work:
    """Actions that last until they are told to end; `under_way` counts them by node."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.over = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[int] = []

    async def act(self, node: str, number: int = 0) -> None:
        async with self.turns.at(node):
            self.order.append(number)
            self.under_way[node] += 1
            self.most[node] = max(self.most[node], self.under_way[node])
            self.most["all"] = max(self.most["all"], self.under_way.total())
            try:
                await self.over.wait()
            finally:
                self.under_way[node] -= 1

    def begin(self, node: str, count: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.act(node, number)) for number in range(count)]


def test_a_stuck_node_keeps_only_its_own_waiting() -> None:
    async def main() -> None:
        work = _Work(Turns(6, 4))
        stuck = work.begin("stuck", 300)
        await asyncio.sleep(1)
        well = work.begin("well", 2)
        await asyncio.sleep(0.001)
        assert work.under_way == {"stuck": 4, "well": 2}
        work.over.set()
        await asyncio.gather(*stuck, *well)
        assert work.most == {"stuck": 4, "well": 2, "all": 6}
        assert not work.turns.users

    run(main())


def test_there_are_never_more_than_all_places() -> None:
    async def main() -> None:
        work = _Work(Turns(5, 4))
        tasks = [task for node in "abc" for task in work.begin(node, 10)]
        await asyncio.sleep(1)
        assert work.under_way.total() == 5
        work.over.set()
        await asyncio.gather(*tasks)
        assert work.most["all"] == 5

    run(main())


def test_turns_at_a_node_come_in_the_order_of_arrival() -> None:
    async def main() -> None:
        work = _Work(Turns(9, 2))
        work.over.set()
        await asyncio.gather(*work.begin("a", 20))
        assert work.order == list(range(20))

    run(main())


def test_whoever_is_cancelled_at_work_or_while_he_waits_gives_his_place_back() -> None:
    async def main() -> None:
        work = _Work(Turns(3, 2))
        at_a, at_b = (
            work.begin("a", 8),
            work.begin("b", 8),
        )  # three of them act, of all others some wait twice
        await asyncio.sleep(1)
        for task in (*at_a[:7], *at_b[:7]):
            task.cancel()
        await asyncio.sleep(1)
        assert work.under_way == {"a": 1, "b": 1}
        work.over.set()
        await asyncio.gather(*at_a, *at_b, return_exceptions=True)
        assert not work.turns.users
        work.over.clear()
        rest = work.begin("c", 3) + work.begin("d", 1)
        await asyncio.sleep(1)
        assert work.under_way.total() == 3
        work.over.set()
        await asyncio.gather(*rest)

    run(main())
