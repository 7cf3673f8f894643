"""The spine as a whole: from when on an operator's word counts, and a proof that rests on one.

Real terms of leadership above invented hosts, in virtual time. In each of these scenes the domain ran twice:
a node answered, with the domain running there, after the word that it is not there any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from controller import keys
from drivers.errors import DiskLocked
from drivers.hypervisor import Permit, Result
from drivers.store import Compare, Delete, TxnResult, Write
from tests.unit import spine as spines
from tests.unit.plancase import UUID
from tests.unit.spine import HostSession, Leader, Spine, run, running_on_a, spine, until


async def shows_itself(s: Spine, leader: Leader, node: str, for_s: float = 0.5) -> None:
    """The node answers, and is silent again."""
    s.hosts[node].reachable = True
    await until(lambda: leader.answers(node))
    await asyncio.sleep(for_s)
    s.hosts[node].lose()


def test_a_node_that_answers_while_a_start_elsewhere_is_prepared_is_not_dead() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            one = await running_on_a(s)
            s.hosts["b"].define_s = 6.0
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await asyncio.sleep(0.3)
            await shows_itself(s, one, "a", 0.0)
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            await s.confirm_dead("a")
            await until(s.hosts["b"].runs)  # it is said again

    run(main)


def test_a_node_that_answers_while_a_start_elsewhere_waits_is_not_dead() -> None:
    locked = True

    class Locking(HostSession):
        async def create(self, uuid: str, permit: Permit) -> Result:
            if locked and self._host.name == "b":
                await self._told("create")
                return spines._failed(DiskLocked('Failed to get "write" lock'))
            return await super().create(uuid, permit)

    async def main() -> None:
        nonlocal locked
        async with spine("a", "b") as s:
            one = await running_on_a(s)
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await asyncio.sleep(5)
            await shows_itself(s, one, "a", 0.0)
            locked = False
            await asyncio.sleep(120)
            assert s.running_on() == ["a"]

    before = spines.HostSession
    spines.HostSession = Locking  # type: ignore[misc]
    try:
        run(main)
    finally:
        spines.HostSession = before  # type: ignore[misc]


def test_a_word_counts_from_when_it_was_written_not_from_when_it_was_heard() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            one = await running_on_a(s)
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            one.store.in_time.clear()
            await s.confirm_dead("a")
            await asyncio.sleep(1)
            await shows_itself(s, one, "a", 3.0)
            await asyncio.sleep(1)
            one.store.in_time.set()
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]

    run(main)


def test_a_word_that_the_leader_writes_anew_is_as_old_as_before() -> None:
    """A word for two nodes; one answers, and while the word is written without it, so does the other."""

    async def main() -> None:
        async with spine("a", "n", "m") as s:
            one, two, three = await s.lead(), await s.successor("two"), await s.successor("three")
            await asyncio.sleep(2)
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            for node in ("n", "m"):
                await s.node(node)
                await until(lambda node=node: one.answers(node))  # type: ignore[misc]
            await asyncio.sleep(20)
            await one.die()
            for node in ("n", "m"):
                s.hosts[node].lose()
            s.hosts["m"].domains[UUID] = s.hosts["a"].domains.pop(UUID).copy()  # by hand, while nobody leads
            await until(lambda: two.reign or three.reign)
            led, other = (two, three) if two.reign else (three, two)
            await asyncio.sleep(5)
            await s.write(keys.resolution(UUID), {"by": "alice", "at": "now", "not_on": ["n", "m"]})
            await asyncio.sleep(2)
            led.store.inner = slow = Slow(s, led)
            s.hosts["n"].reachable = True
            await until(lambda: led.answers("n"))
            await asyncio.sleep(30)
            assert slow.writes == 1
            assert not await s.exists(keys.resolution(UUID))
            await led.die()
            await until(lambda: other.reign)
            await asyncio.sleep(200)
            assert s.running_on() == ["m"]

    run(main)


class Slow:
    """The spine's store; while a word about the domain is written first, m answers."""

    def __init__(self, s: Spine, leader: Leader) -> None:
        self.spine, self.leader, self.writes = s, leader, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.spine.store, name)

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        if not self.writes and any(w.key == keys.resolution(UUID) for w in writes):
            self.writes += 1
            await shows_itself(self.spine, self.leader, "m", 1.0)
            await asyncio.sleep(0.5)
        return await self.spine.store.txn(compares, writes)


def test_a_word_that_was_taken_back_unseen_releases_nothing() -> None:
    """The watch lags while the quiet time runs out."""

    async def main() -> None:
        async with spine("a", "b") as s:
            one, two = await s.lead(), await s.successor("two")
            await asyncio.sleep(2)
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            await s.node("b")
            await until(lambda: one.answers("b"))
            await asyncio.sleep(20)
            s.hosts["a"].lose()
            await asyncio.sleep(3)
            await one.die()
            await until(lambda: two.reign)
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await asyncio.sleep(20)
            two.store.in_time.clear()
            await s.store.txn([], [Delete(keys.confirmed_dead("a"))])
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            promise = await s.assignment()
            assert promise is not None and promise.candidates == ("a",)

    run(main)


def test_a_word_that_was_taken_back_before_anything_was_started_starts_nothing() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await s.lead()
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await asyncio.sleep(5)
            await s.store.txn([], [Delete(keys.confirmed_dead("a"))])
            await asyncio.sleep(60)
            await s.node("b")
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            await s.confirm_dead("a")
            await until(s.hosts["b"].runs)

    run(main)


def test_a_word_that_was_taken_back_when_it_was_only_defined_elsewhere_starts_nothing() -> None:
    """It was to be off, while its old home, which nobody reached, ran it."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.domain(meta={"generation": 2}, state="shutoff")
            await s.confirm_dead("a")
            await until(lambda: UUID in s.hosts["b"].domains)
            await asyncio.sleep(5)
            await s.store.txn([], [Delete(keys.confirmed_dead("a"))])
            await asyncio.sleep(30)
            assert (await s.status())[0] == "NodeUnreachable"
            await s.domain(meta={"generation": 3})
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            s.hosts["a"].domains[UUID].live = None
            await s.confirm_dead("a")
            await until(s.hosts["b"].runs)

    run(main)


def test_what_was_started_on_a_word_is_started_again_there_whatever_is_said_since() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await until(s.hosts["b"].runs)
            await asyncio.sleep(30)
            await s.store.txn([], [Delete(keys.confirmed_dead("a"))])
            await asyncio.sleep(30)
            s.hosts["b"].end("crashed")
            await until(s.hosts["b"].runs)

    run(main)


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_word_that_is_taken_back_while_a_start_is_prepared_starts_nothing(is_heard: bool) -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            one = await running_on_a(s)
            s.hosts["b"].define_s = 6.0
            s.hosts["a"].lose()
            await asyncio.sleep(5)
            await s.confirm_dead("a")
            await asyncio.sleep(1)
            if not is_heard:
                one.store.in_time.clear()
            await s.store.txn([], [Delete(keys.confirmed_dead("a"))])
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]

    run(main)
