"""The spine as a whole: an operator's word, and signs of a move by hand, over the changes that they outlive.

Real terms of leadership above invented hosts, in virtual time. In each of these scenes the domain ran twice.
"""

from __future__ import annotations

import asyncio

import pytest

from controller import keys
from drivers.hypervisor import EventKind
from tests.unit.plancase import UUID
from tests.unit.spine import Leader, Spine, run, running_on_a, spine, until


async def moved_out_of_sight(s: Spine, leader: Leader) -> None:
    """From a to c, of which the leader has not heard for a while; a says that it left."""
    await s.node("c")
    await until(lambda: leader.answers("c"))
    await asyncio.sleep(10)
    s.hosts["c"].lose()
    await asyncio.sleep(5)
    s.hosts["c"].domains[UUID] = s.hosts["a"].domains[UUID].copy()
    s.hosts["a"].end("migrated")


def test_a_word_that_a_node_is_dead_ends_when_it_answers_for_a_moment() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await (await running_on_a(s)).die()
            s.hosts["a"].lose()
            two = await s.successor("two")
            await until(lambda: two.reign)
            await asyncio.sleep(3)
            await s.confirm_dead("a")
            await asyncio.sleep(10)  # it has a quiet time to wait for
            s.hosts["a"].reachable = True
            await until(lambda: two.answers("a"), 60)
            await asyncio.sleep(0.1)  # less than what a Node waits for its turn
            s.hosts["a"].lose()
            await asyncio.sleep(150)
            assert s.running_on() == ["a"]
            assert not await s.exists(keys.confirmed_dead("a"))

    run(main)


def test_a_word_that_a_node_is_dead_ends_when_another_node_of_its_host_answers() -> None:
    """Its libvirtd is gone, and the guests that it started run on: the containers' own daemon is fine."""

    async def main() -> None:
        async with spine("a", "b", "c") as s:
            s.hosts["c"].machine, s.hosts["c"].driver = "a", "lxc"
            leader = await running_on_a(s)
            await s.node("c")
            await until(lambda: leader.answers("c"))
            s.hosts["a"].lose()
            await asyncio.sleep(3)
            await s.confirm_dead("a")
            await asyncio.sleep(2)
            assert await s.node_reason("a") != "ConfirmedDead"
            await until(lambda: "a" not in leader.cache.dead)
            s.hosts["c"].lose()
            await asyncio.sleep(100)
            assert s.running_on() == ["a"] and (await s.status())[0] == "NodeUnreachable"
            s.hosts["a"].domains[UUID].live = None  # the power goes, and nothing speaks against the word
            await s.confirm_dead("a")
            await asyncio.sleep(60)
            assert s.running_on() == ["b"]

    run(main)


def test_a_word_that_a_domain_is_not_on_a_node_ends_when_that_shows_it() -> None:
    async def main() -> None:
        async with spine("a", "n") as s:
            one = await s.lead()
            two = await s.successor("two")
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            await s.node("n")
            await until(lambda: one.answers("n"))
            await asyncio.sleep(5)
            await one.die()
            s.hosts["n"].lose()
            s.hosts["n"].domains[UUID] = s.hosts["a"].domains.pop(UUID)  # moved by hand while nobody led
            await until(lambda: two.reign)
            three = await s.successor("three")
            await asyncio.sleep(5)
            await s.write(keys.resolution(UUID), {"by": "alice", "at": "now", "not_on": ["n"]})
            await asyncio.sleep(2)
            s.hosts["n"].reachable = True
            await until(lambda: two.answers("n"))
            await asyncio.sleep(1)
            assert not await s.exists(keys.resolution(UUID))
            s.hosts["n"].lose()
            await asyncio.sleep(2)
            await two.die()
            await until(lambda: three.reign)
            await asyncio.sleep(200)
            assert s.running_on() == ["n"]

    run(main)


@pytest.mark.parametrize("orderly", [True, False])
def test_that_it_was_moved_away_is_known_to_the_next_leader(orderly: bool) -> None:
    async def main() -> None:
        async with spine("a", "b", "c") as s:
            leader = await running_on_a(s)
            two = await s.successor("two")
            await moved_out_of_sight(s, leader)
            del s.hosts["a"].domains[UUID]
            s.hosts["a"].say(EventKind.UNDEFINED, "removed")
            await asyncio.sleep(60)
            assert (await s.status())[0] == "RunsElsewhere"
            await (leader.stop() if orderly else leader.die())
            await until(lambda: two.reign)
            await asyncio.sleep(120)
            assert s.running_on() == ["c"]

    run(main)


def test_that_it_was_moved_away_outlives_its_home() -> None:
    async def main() -> None:
        async with spine("a", "b", "c") as s:
            leader = await running_on_a(s)
            await moved_out_of_sight(s, leader)
            await asyncio.sleep(30)
            s.hosts["a"].lose()
            await asyncio.sleep(3)
            await s.confirm_dead("a")
            await asyncio.sleep(60)
            assert s.running_on() == ["c"]
            assert (await s.status())[0] == "NodeNotRead"

    run(main)


def test_a_word_which_copy_to_keep_that_met_none_ends_no_other_later() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            one = await running_on_a(s)
            await s.resolve("b")
            await asyncio.sleep(150)  # it is read again
            assert not await s.exists(keys.resolution(UUID))
            await one.stop()
            await s.lead("two")
            await asyncio.sleep(60)
            s.hosts["b"].domains[UUID] = s.hosts["a"].domains[UUID].copy()
            s.hosts["b"].say(EventKind.STARTED, "booted")
            await asyncio.sleep(60)
            assert s.running_on() == ["a", "b"], "whoever started it twice says which is to stay"

    run(main)


def test_a_word_which_copy_to_keep_that_is_changed_while_a_start_is_prepared_starts_nothing() -> None:
    async def main() -> None:
        async with spine("a", "b", "c") as s:
            leader = await running_on_a(s)
            await moved_out_of_sight(s, leader)
            await asyncio.sleep(30)
            s.hosts["a"].define_s = 6.0
            await s.resolve("a")
            await asyncio.sleep(3)
            await s.resolve("c")
            await asyncio.sleep(60)
            assert s.running_on() == ["c"]

    run(main)
