"""The spine as a whole: real terms of leadership above invented hosts, in virtual time.

Each test changes objects or hosts, lets time pass and looks at both again. They hold what a plan alone cannot
show: what the cache makes of readings and events, what an executor meets on its way, what one leader leaves
to the next. Letters and numbers in comments name the invariants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from controller import keys
from controller.cache import Cache, Setting
from controller.limits import Timing
from controller.model import Decision
from controller.plan import plan
from controller.plan.snapshot import Link, NodeView, Policy, Term
from controller.plan.types import ActionKind, Reason
from controller.storewatch import StoreTrust
from drivers.errors import Cause, StoreUnavailable
from drivers.hypervisor import Detail, EventKind, Listing, Record, State
from drivers.memory import MemoryStore
from drivers.store import Compare, KeyValue, Page, Put, TxnResult, Write
from tests.faultystore import FaultyStore
from tests.unit.plancase import UUID, facts
from tests.unit.spine import DELETED, FOREIGN_XML, HostDomain, Leader, Spine, now, run, spine, until

FOREIGN = "f0f0f0f0-0000-4000-8000-000000000001"
ACPI_THEN_DESTROY = [{"method": "acpi", "timeoutSeconds": 60}, {"method": "destroy"}]


async def running_on_a(s: Spine) -> Leader:
    """The domain runs on a, for no other node was there when it was placed; b has joined since."""
    leader = await s.lead()
    await s.node("a")
    await s.domain()
    await until(s.hosts["a"].runs)
    await s.node("b")
    await until(lambda: leader.answers("b"))
    await asyncio.sleep(5)
    return leader


async def died_on_a_and_runs_on_b(s: Spine) -> Leader:
    """a was confirmed dead and the domain was started on b."""
    leader = await running_on_a(s)
    s.hosts["a"].lose()
    await asyncio.sleep(5)
    await s.confirm_dead("a")
    await until(s.hosts["b"].runs)
    await asyncio.sleep(30)
    return leader


# --- absence


def test_a_domain_that_was_moved_while_its_home_was_cut_off_is_not_started_at_home() -> None:
    """I22c: libvirtd of a restarts, an administrator moves the domain to b, and b's events are late."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            a, b = s.hosts["a"], s.hosts["b"]
            b.mute = True
            a.cut()
            await asyncio.sleep(0.1)
            b.domains[UUID] = a.domains.pop(UUID)
            for _ in range(600):
                await asyncio.sleep(0.05)
                assert s.running_on() == ["b"]
            assert (await s.status())[0] == "RunsElsewhere"

    run(main)


def test_a_domain_that_is_gone_everywhere_is_started_again() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            s.hosts["a"].domains.clear()
            await asyncio.sleep(30)
            assert len(s.running_on()) == 1

    run(main)


def test_absence_needs_two_listings_after_the_last_sighting() -> None:
    """I22c, at the cache: a listing without the domain is only the first of two."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            cache = leader.cache
            gone = 0
            for host in s.hosts.values():
                host.latency_s = 3600  # what follows is read by hand
            await asyncio.sleep(0)
            answers = []
            for _ in range(3):
                for node in ("a", "b"):
                    gone += cache.observed(node, Listing(now(), now() + 0.01, ()), {})
                await asyncio.sleep(0.02)
                verdict = plan(cache.snapshot(), [UUID])[UUID]
                answers.append(verdict.action.kind if verdict.action else verdict.deferred)
            assert gone == 1
            assert getattr(answers[0], "reason", None) is Reason.READING_ALL_NODES
            assert answers[1] is ActionKind.START

    run(main)


def test_a_copy_that_is_learned_of_while_defining_stops_the_start() -> None:
    """I1: between the plan and create() lie seconds."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await s.node("b")
            await asyncio.sleep(5)
            for host in s.hosts.values():
                host.define_s = 5.0
            await s.domain()
            await asyncio.sleep(1)
            home = leader.cache.assignments[UUID].assignment.node
            other = s.hosts["b" if home == "a" else "a"]
            other.domains[UUID] = HostDomain(UUID, "web", live=FOREIGN_XML)
            other.say(EventKind.STARTED, "booted")
            for _ in range(300):
                await asyncio.sleep(0.1)
                assert s.running_on() == [other.name]

    run(main)


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


# --- an operator's word


def test_keep_waits_until_both_sides_are_read_and_is_used_once() -> None:
    """I13: nothing is destroyed on an old sighting, nor on an old word."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            a, b = s.hosts["a"], s.hosts["b"]
            b.domains[UUID] = a.domains[UUID].copy()
            b.say(EventKind.STARTED, "booted")
            await asyncio.sleep(20)
            assert (await s.status())[0] == "Duplicate"
            a.lose()
            await asyncio.sleep(2)
            before = (await s.store.status()).revision
            await s.resolve(keep="b")
            await asyncio.sleep(60)
            assert s.running_on() == ["a", "b"]
            assert (await s.status())[0] == "NodeUnreachable"
            assert (await s.store.status()).revision - before < 40  # renewals, one move, one status

            a.reachable = True
            await until(lambda: s.running_on() == ["b"])
            await asyncio.sleep(20)
            assert not await s.exists(keys.resolution(UUID))
            assert UUID not in a.domains

            a.domains[UUID] = b.domains[UUID].copy()
            a.say(EventKind.STARTED, "booted")
            await asyncio.sleep(60)
            assert s.running_on() == ["a", "b"]
            assert (await s.status())[0] == "Duplicate"

    run(main)


# --- dead, and back


def test_a_domain_that_moved_away_from_a_dead_node_runs_as_wanted() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            assert await s.status() == ("Running", "as wanted")
            s.hosts["b"].end("crashed")
            await until(s.hosts["b"].runs, limit_s=30)

    run(main)


def test_after_a_dead_node_came_back_clean_restarts_work_and_do_not_loop() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            a, b = s.hosts["a"], s.hosts["b"]
            a.domains.clear()
            a.reachable = True
            await asyncio.sleep(60)
            crashed_at = now()
            b.end("crashed")
            await asyncio.sleep(120)
            assert s.running_on() == ["b"]
            assert b.times("define", crashed_at) == 1
            assert b.times("create", crashed_at) == 1
            assignment = await s.assignment()
            assert assignment is not None
            assert assignment.proofs == ()

    run(main)


def test_a_dead_node_that_came_back_with_a_definition_loses_it() -> None:
    """I2: the definition is the capability to run."""

    async def main() -> None:
        async with spine("a", "b") as s:
            await died_on_a_and_runs_on_b(s)
            a = s.hosts["a"]
            a.domains[UUID].live, a.domains[UUID].reason = None, "unknown"  # the host booted anew
            a.reachable = True
            await until(lambda: not a.domains)
            await asyncio.sleep(60)
            assert s.running_on() == ["b"]
            assert (await s.status())[0] == "Running"
            assert not await s.exists(keys.quarantine("a"))
            assert not await s.exists(keys.confirmed_dead("a"))

    run(main)


def test_a_dead_node_that_is_registered_again_is_in_quarantine_until_it_was_compared() -> None:
    """I15: its registration was taken away while it was dead, and what it kept was not."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await died_on_a_and_runs_on_b(s)
            await s.node("a", meta={"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 2})
            await until(lambda: "a" not in leader.cache.nodes)
            assert await s.exists(keys.quarantine("a"))
            s.hosts["a"].domains[UUID].live = None
            s.hosts["a"].reachable = True
            await s.node("a")
            await until(lambda: not s.hosts["a"].domains)
            await asyncio.sleep(60)
            assert s.running_on() == ["b"]
            assert not await s.exists(keys.quarantine("a"))

    run(main)


def test_a_refusal_voids_the_word_that_the_host_is_dead() -> None:
    """R3 ends when the node answers; I14: an authentication error is no sign of death."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await s.domain()
            await until(s.hosts["a"].runs)
            s.hosts["a"].denial = Cause.CLIENT_REFUSED
            s.hosts["a"].cut()
            await until(lambda: leader.cache.view("a").denies, limit_s=60)
            await s.node("b")
            await s.confirm_dead("a")
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]
            assert (await s.status())[0] != "Running"
            assert not await s.exists(keys.confirmed_dead("a"))
            assert await s.node_reason("a") == "ClientRefused"
            s.hosts["a"].denial = None
            await until(lambda: leader.answers("a"), limit_s=60)
            await asyncio.sleep(5)
            assert await s.node_reason("a") == "Ready"

    run(main)


def test_a_node_says_why_it_is_not_reached() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            s.hosts["a"].reachable = False
            await s.node("a")
            await asyncio.sleep(10)
            assert await s.node_reason("a") == "NoRoute"

    run(main)


# --- small repairs and their repetition


def test_autostart_is_cleared_once() -> None:
    """libvirt sends no event when it changes, so only a detail read on purpose shows that it worked."""

    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain()
            a = s.hosts["a"]
            await until(a.runs)
            await asyncio.sleep(5)
            a.domains[UUID].autostart = True
            a.say(EventKind.OTHER)
            await asyncio.sleep(120)
            assert not a.domains[UUID].autostart
            assert a.times("set_autostart") == 1

    run(main)


def test_a_deleted_domain_with_a_managed_save_stays_and_says_why() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain()
            a = s.hosts["a"]
            await until(a.runs)
            await asyncio.sleep(5)
            a.domains[UUID].managed_save = True
            a.domains[UUID].live, a.domains[UUID].reason = None, "saved"
            deleted_at = now()
            await s.domain(meta=DELETED)
            await asyncio.sleep(120)
            assert UUID in a.domains
            reason, message = await s.status()
            assert reason == "SaveInTheWay"
            assert "domctl drop-saved web" in message
            assert a.times("undefine", deleted_at) == 0
            a.domains[UUID].managed_save = False
            await asyncio.sleep(300)
            assert UUID not in a.domains
            assert not await s.exists(keys.object_key("domains", "default", "web"))

    run(main)


def test_a_shutdown_that_is_asked_for_again_begins_at_the_first_rung() -> None:
    """Ten minutes ago the guest was asked; then the user wanted it to run after all."""

    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain(shutdown=ACPI_THEN_DESTROY)
            a = s.hosts["a"]
            await until(a.runs)
            await s.domain(shutdown=ACPI_THEN_DESTROY, state="shutoff", meta={"generation": 2})
            await asyncio.sleep(30)
            assert a.runs()
            await s.domain(shutdown=ACPI_THEN_DESTROY, meta={"generation": 3})
            await asyncio.sleep(600)
            await s.domain(shutdown=ACPI_THEN_DESTROY, state="shutoff", meta={"generation": 4})
            await asyncio.sleep(50)
            assert a.runs()
            await asyncio.sleep(30)
            assert not a.runs()

    run(main)


# --- watchers


def test_a_node_whose_watcher_met_a_bug_does_not_look_alive_and_comes_back() -> None:
    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            a = s.hosts["a"]
            await until(lambda: leader.answers("a"))
            a.bug = AssertionError("surprise")
            await asyncio.sleep(90)
            view = leader.cache.view("a")
            assert not view.answers
            assert "surprise" in view.why
            a.bug = None
            await until(lambda: leader.answers("a"), limit_s=30)

    run(main)


def test_session_numbers_are_not_used_again_for_a_new_uri() -> None:
    """I22a: an end that was witnessed counts on its own connection only."""

    async def main() -> None:
        async with spine("a", "a2") as s:
            leader = await s.lead()
            s.hosts["a2"].name = "a"  # the same host by another address
            used = []
            for uri in ("a", "a2", "a"):
                await s.node("a", uri=uri)
                began = now()
                await asyncio.sleep(0.2)
                await until(
                    lambda began=began: (v := leader.cache.view("a")).answers and v.reads[-1][0] > began  # type: ignore[misc]
                )
                used.append(leader.cache.view("a").session)
            assert sorted(set(used)) == used

    run(main)


def test_a_node_between_two_uris_does_not_look_alive() -> None:
    async def main() -> None:
        async with spine("a", "a2") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            s.hosts["a2"].reachable = False
            await s.node("a", uri="a2")
            await asyncio.sleep(0.005)
            for _ in range(100):
                await asyncio.sleep(0.05)
                assert not leader.answers("a")

    run(main)


def test_a_node_that_is_refused_and_allowed_again_answers() -> None:
    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            await s.node("a", insecure=False)
            await asyncio.sleep(30)
            assert leader.cache.view("a").link is Link.REFUSED
            assert not any(session.is_open for session in s.hosts["a"].sessions)
            await s.node("a", insecure=True)
            await until(lambda: leader.answers("a"), limit_s=30)

    run(main)


def test_foreign_domains_that_come_and_go_do_not_hide_a_node() -> None:
    async def main() -> None:
        async with spine("a") as s:
            a = s.hosts["a"]
            for i in range(40):
                a.domains[f"f{i}"] = HostDomain(f"f{i}", f"f{i}", live=FOREIGN_XML)

            async def churn() -> None:
                while True:
                    a.domains["t"] = HostDomain("t", "t", config=None, live=FOREIGN_XML)
                    await asyncio.sleep(0.03)
                    del a.domains["t"]
                    await asyncio.sleep(0.001)

            task = asyncio.create_task(churn())
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"), limit_s=10)
            answers = 0
            for _ in range(120):
                await asyncio.sleep(0.5)
                answers += leader.answers("a")
            assert answers > 100
            task.cancel()

    run(main)


def test_a_foreign_domain_that_cannot_be_shown_does_not_hide_its_node() -> None:
    async def main() -> None:
        async with spine("a") as s:
            a = s.hosts["a"]
            a.domains[FOREIGN] = HostDomain(FOREIGN, "old", live=FOREIGN_XML)
            a.illegible.add(FOREIGN)
            leader = await s.lead()
            await s.node("a")
            await s.domain()
            await until(a.runs, limit_s=10)
            assert leader.answers("a")
            assert leader.cache.seen.names["a"]["old"] == FOREIGN  # it is there, and its name is taken
            a.illegible.clear()
            await until(lambda: leader.cache.seen.by_uuid[FOREIGN]["a"].detail.config_xml, limit_s=30)

    run(main)


@pytest.mark.parametrize("known", [True, False], ids=["read-before", "never-read"])
def test_a_domain_that_cannot_be_shown_is_left_alone_until_it_can(known: bool) -> None:
    """Neither absent nor drifted: it ended, it has autostart, and nobody can see whether it still is ours."""

    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await s.domain()
            a = s.hosts["a"]
            await until(a.runs)
            await asyncio.sleep(5)
            if not known:
                await leader.stop()
            a.illegible.add(UUID)
            if not known:
                leader = await s.lead("next")
            a.domains[UUID].autostart = True
            a.end("crashed")
            began = now()
            await asyncio.sleep(180)
            assert leader.answers("a")
            assert not [command for at, command in a.heard if at >= began]
            held = plan(leader.cache.snapshot(), [UUID])[UUID].deferred
            assert held is not None
            assert held.reason is Reason.AWAITING_OBSERVATION
            a.illegible.clear()
            await until(a.runs, limit_s=30)
            await asyncio.sleep(5)
            assert not a.domains[UUID].autostart

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


# --- nodes that go


@pytest.mark.parametrize("turns", range(0, 60, 3))
def test_a_node_that_is_deleted_does_not_vanish_beneath_a_placement(turns: int) -> None:
    """The deletion arrives after so many turns of the loop, before, within or after the placement."""

    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            await s.domain()
            for _ in range(turns):
                await asyncio.sleep(0)
            await s.node("a", meta={**DELETED, "finalizers": ["domctl.io/node"]})
            for _ in range(200):
                await asyncio.sleep(0.05)
                node = await s.exists(keys.object_key("nodes", "", "a"))
                assignment = await s.assignment()
                placed = UUID in s.hosts["a"].domains or (assignment is not None and assignment.candidates)
                assert node or not placed

    run(main)


def test_a_node_that_is_being_deleted_goes_once_nothing_is_on_it() -> None:
    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            await s.node("a", meta={**DELETED, "finalizers": ["domctl.io/node"]})
            await s.domain()
            await asyncio.sleep(10)
            assert not await s.exists(keys.object_key("nodes", "", "a"))
            assert not s.hosts["a"].domains
            assert (await s.status())[0] == "NoNodeFits"

    run(main)


def test_a_node_that_has_a_domain_of_another_is_not_forgotten_before_it_is_gone() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            await s.domain()
            await until(lambda: s.running_on() == ["a"])
            await s.node("b")
            await until(lambda: leader.answers("b"))
            moved = s.hosts["a"].domains.pop(UUID)  # somebody migrates it by hand
            s.hosts["b"].domains[UUID] = moved
            s.hosts["b"].say(EventKind.STARTED, "migrated")
            s.hosts["a"].say(EventKind.STOPPED, "migrated")
            await asyncio.sleep(20)
            await s.node("b", meta={**DELETED, "finalizers": ["domctl.io/node"]})
            await asyncio.sleep(120)
            assert s.running_on() == ["b"]
            assert await s.exists(keys.object_key("nodes", "", "b"))
            s.hosts["a"].domains[UUID] = s.hosts["b"].domains.pop(UUID)  # and brings it back
            s.hosts["a"].say(EventKind.STARTED, "migrated")
            s.hosts["b"].say(EventKind.STOPPED, "migrated")
            await asyncio.sleep(30)
            assert s.running_on() == ["a"]
            assert not await s.exists(keys.object_key("nodes", "", "b"))

    run(main)


def test_a_node_is_not_forgotten_while_a_store_that_was_set_back_may_have_forgotten_what_it_has() -> None:
    """It would not be among those that are read before anything forgotten is placed (I1)."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            await s.store.txn([], [Put(keys.STORE_ACK, msgspec.json.encode(Decision(by="op", at="t")))])
            s.hosts["b"].reachable = False
            await s.node("b", meta={**DELETED, "finalizers": ["domctl.io/node"]})
            await asyncio.sleep(120)
            assert await s.exists(keys.object_key("nodes", "", "b"))
            s.hosts["b"].reachable = True
            await asyncio.sleep(60)
            assert not await s.exists(keys.object_key("nodes", "", "b"))

    run(main)


# --- the cache by itself


def test_what_a_glance_read_counts_though_a_later_list_came_first() -> None:
    """The list read no detail of its own; what it would have found is what the glance brings."""
    cache = empty_cache()
    see(cache, 10.0, ("x", "web"))
    cache.await_observation("x", "a")
    record = Record("x", "web", State.RUNNING, "booted", True)
    cache.observed("a", Listing(12.0, 12.1, (record,)), {})
    again = Detail(record, 11.6, True, True, False, FOREIGN_XML, FOREIGN_XML, None, None, 2, 2 << 30)
    cache.glanced("a", "x", again, 11.5)
    seen = cache.seen.find("x", "a")
    assert seen is not None
    assert (seen.detail.vcpus, seen.seen_at) == (2, 12.0)


@pytest.mark.parametrize(
    ("state", "reason", "is_kept"),
    [
        (State.RUNNING, "migrated", True),
        (State.PAUSED, "migration", False),
    ],
)
def test_that_a_domain_was_seen_to_run_elsewhere_is_kept_when_no_event_told(
    state: State, reason: str, is_kept: bool
) -> None:
    """It ends there before anybody asks whether its paused source may go on (drill moves_deaf, seed 18)."""
    cache = empty_cache()
    record = Record("x", "web", state, reason, True)
    there = Detail(record, 11.6, True, True, False, FOREIGN_XML, FOREIGN_XML, None, None, 2, 2 << 30)
    cache.glanced("b", "x", there, 11.5)
    cache.glanced("b", "x", None, 12.5)
    assert cache.seen.resumes == ({("x", "b"): 11.5} if is_kept else {})


def test_a_list_in_which_a_revision_fell_says_so_and_is_believed() -> None:
    cache = empty_cache()
    node = keys.object_key("nodes", "", "a")

    def body(uri: str) -> bytes:
        return msgspec.json.encode(
            {"apiVersion": "domctl.io/v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"uri": uri}}
        )

    assert not cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 9)
    cache.wrote({node: body("qemu:///two")}, 12)
    assert not cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 11), "a list that is older"
    assert cache.nodes["a"].node.spec.uri == "qemu:///two"
    assert "12" in cache.reset((KeyValue(node, body("qemu:///one"), 5, 9),), 13)
    assert cache.nodes["a"].node.spec.uri == "qemu:///one"


def empty_cache() -> Cache:
    setting = Setting("c", Term(0.0, True), Timing(), Policy(), lambda: 0.0)
    return Cache(setting, lambda _key: None)


def see(cache: Cache, at: float, *domains: tuple[str, str]) -> None:
    """A listing of node a with these (uuid, name), all running with 1 GiB."""
    records = tuple(Record(uuid, name, State.RUNNING, "booted", True) for uuid, name in domains)
    details = {
        r.uuid: Detail(r, at, True, False, False, FOREIGN_XML, FOREIGN_XML, None, None, 1, 1 << 30)
        for r in records
    }
    cache.observed("a", Listing(at, at + 1, records), details)


def test_foreign_domains_of_a_node_that_was_forgotten_are_counted_once() -> None:
    cache = empty_cache()
    view = NodeView(link=Link.READY, facts=facts("a"), identity_pinned=True, session=1)
    for at in (1.0, 5.0, 9.0):
        cache.set_view("a", view)
        see(cache, at, (FOREIGN, "old"))
        assert cache.capacity.used["host-a"].memory_bytes == 1 << 30
        cache.forget_node("a")


def test_nodes_of_one_host_are_looked_at_together_when_either_is_used() -> None:
    dirty: set[str] = set()
    cache = Cache(Setting("c", Term(0.0, True), Timing(), Policy(), lambda: 0.0), dirty.add)
    for name, host in (("a", "one"), ("a-lxc", "one"), ("b", "two")):
        view = NodeView(link=Link.READY, facts=facts(name, host_uuid=host), identity_pinned=True, session=1)
        cache.set_view(name, view)
    dirty.clear()
    see(cache, 1.0, (FOREIGN, "guest"))
    assert {key for key in dirty if key.startswith("node/")} == {"node/a", "node/a-lxc"}
    assert cache.capacity.used["one"].memory_bytes == 1 << 30
    cache.forget_node("a-lxc")
    assert cache.capacity.sharing("a") == {"a"}


def test_a_domain_whose_name_was_taken_over_is_still_seen_to_go() -> None:
    cache = empty_cache()
    see(cache, 1.0, ("x", "web"))
    see(cache, 3.0, ("z", "web"), ("x", "old"))
    assert cache.seen.names["a"] == {"web": "z", "old": "x"}
    see(cache, 5.0)
    assert not cache.seen.by_uuid


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
