"""The spine as a whole: a store that fails or is set back, and what one leader leaves to the next.

Real terms of leadership above invented hosts, in virtual time. Each test changes objects or hosts, lets time
pass and looks at both again. Letters and numbers in comments name the invariants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from controller import keys
from controller.storewatch import StoreTrust
from drivers.errors import StoreUnavailable
from drivers.hypervisor import EventKind
from drivers.memory import MemoryStore
from drivers.store import Compare, Page, Put, TxnResult, Write
from tests.faultystore import FaultyStore
from tests.unit.plancase import UUID
from tests.unit.spine import (
    FOREIGN_XML,
    HostDomain,
    Leader,
    now,
    run,
    running_on_a,
    spine,
    until,
)

# --- the store


def test_an_unknown_store_is_not_trusted_before_its_nodes_were_read() -> None:
    """An empty cache has read all of its nodes, which are none. The store has forgotten an assignment."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await s.node("a")
            await s.node("b")
            await s.domain()
            s.hosts["a"].reachable = False
            s.hosts["a"].domains[UUID] = HostDomain(UUID, "web", live=FOREIGN_XML)
            leader = s.leader()

            async def slowly(prefix: str) -> Page:
                await asyncio.sleep(0.02)
                return await s.store.list(prefix)

            leader.store.list = slowly  # type: ignore[method-assign]
            await leader.storewatch.examine(s.store)
            await leader.start()
            await asyncio.sleep(30)
            assert leader.storewatch.trust is StoreTrust.UNKNOWN_STORE
            assert "not read yet: a" in leader.cache.hold
            assert s.running_on() == ["a"]
            s.hosts["a"].reachable = True
            await until(lambda: leader.storewatch.may_create)

    run(main)


def test_a_store_that_refuses_writes_is_asked_ever_more_slowly() -> None:
    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            await asyncio.sleep(5)
            asked: list[float] = []

            async def refuse(compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
                if any("assignments" in w.key for w in writes):
                    asked.append(now())
                    raise StoreUnavailable("connection refused")
                return await s.store.txn(compares, writes)

            leader.store.txn = refuse  # type: ignore[method-assign]
            s.hosts["a"].end("crashed")
            await asyncio.sleep(20)
            assert 2 <= len(asked) <= 8
            assert not s.hosts["a"].runs()

    run(main)


# --- leaders after each other


@pytest.mark.parametrize(("led_s", "may_skip"), [(3.0, False), (120.0, True)])
def test_only_a_leader_that_outlived_the_quiet_time_ends_it_by_resigning(
    led_s: float, may_skip: bool
) -> None:
    """Safety §4: the first leader dies, and its late commands may still arrive."""

    async def main() -> None:
        async with spine("a") as s:
            first, second, third = await s.lead("one"), s.leader("two"), s.leader("three")
            await s.node("a")
            await until(lambda: first.answers("a"))
            await first.die()
            await second.start()
            await until(lambda: second.reign)
            await asyncio.sleep(led_s)
            await second.stop()
            await third.start()
            await until(lambda: third.leadership)
            assert third.leadership is not None
            assert third.leadership.predecessor_resigned is may_skip

    run(main)


def test_a_term_that_is_cancelled_twice_leaves_none_of_its_tasks_behind() -> None:
    """A process that is told to stop once more while its last call is out."""

    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            s.hosts["a"].define_s = 20
            await s.domain()
            await asyncio.sleep(5)
            assert leader.reign is not None and leader.task is not None
            (term,) = (t for t in asyncio.all_tasks() if t.get_name() == "election-lead")
            term.cancel()
            await asyncio.sleep(1)
            assert "StatusWriter.run" in _tasks(), "it did not wait for its last call"
            term.cancel()
            await leader.stop()
            assert not _tasks() & {"StatusWriter.run", "Recorder.run", "Informer.run", "Reign._cycle"}

    run(main)


def _tasks() -> set[str]:
    return {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}


# --- a watch that lags


def test_a_leader_whose_watch_is_stuck_does_not_try_the_same_start_again_and_again() -> None:
    """L3: it does not know that the domain is to be shut off by now, and finds that out anew each time, just
    before it would start it."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            a = s.hosts["a"]
            leader.store.deaf_watches = leader.store.silent = True
            await s.write("/domctl/objects/others/one", {})  # at which its watch breaks
            await asyncio.sleep(0.1)
            leader.store.silent = False
            await asyncio.sleep(8)
            await s.domain(state="shutoff", meta={"generation": 2})
            went_at = now()
            a.end("crashed")
            await asyncio.sleep(30)
            assert not a.runs()
            assert 1 <= a.times("define", went_at) <= 12
            leader.store.deaf_watches = False
            await asyncio.sleep(90)
            assert (await s.status())[0] == "Shutoff"

    run(main)


# --- what the next leader must know


def test_the_next_leader_knows_where_a_domain_was_seen_to_run_though_that_node_is_silent_by_then() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            a, b = s.hosts["a"], s.hosts["b"]
            b.domains[UUID] = a.domains.pop(UUID)
            a.say(EventKind.UNDEFINED, "removed")
            b.say(EventKind.DEFINED, "added")
            await asyncio.sleep(15)
            assert (await s.status())[0] == "RunsElsewhere"
            await leader.die()
            b.lose()
            s.leaders.append(Leader(s, "other", FaultyStore(s.store), list(leader.disk)))
            await s.leaders[-1].start()
            for _ in range(300):
                await asyncio.sleep(1)
                assert s.running_on() == ["b"]
            assert (await s.status())[0] == "NodeUnreachable"

    run(main)


# --- a store that is set back


def test_a_term_ends_when_its_own_store_is_set_back_to_a_backup_of_the_same_term() -> None:
    """The leader's key and lease are in the backup. What the cache knew of the past that was given up has
    higher revisions than what stands now, and would win for ever."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            backup = s.store.backup()
            for memory in ("40Mi", "48Mi", "56Mi"):
                await s.domain(memory=memory)
                await asyncio.sleep(20)
            await s.store.close()
            s.store = leader.store.inner = MemoryStore(s.world.now, backup=backup)
            await asyncio.sleep(30)
            await s.store.txn([], [Put(keys.STORE_ACK, b'{"by":"alice","at":"now"}')])
            await asyncio.sleep(10)
            await s.domain(state="shutoff", meta={"generation": 2}, shutdown=[{"method": "destroy"}])
            await until(lambda: not s.running_on())

    run(main)
