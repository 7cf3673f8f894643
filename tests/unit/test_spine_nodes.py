"""The spine as a whole: watchers of nodes, and nodes that are refused, changed or deleted.

Real terms of leadership above invented hosts, in virtual time. Each test changes objects or hosts, lets time
pass and looks at both again. Letters and numbers in comments name the invariants.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from controller import keys
from controller.model import Decision
from controller.plan import plan
from controller.plan.snapshot import Link
from controller.plan.types import Reason
from drivers.hypervisor import EventKind
from drivers.store import Delete, Put
from tests.unit.plancase import UUID
from tests.unit.spine import DELETED, FOREIGN_XML, HostDomain, HostSession, now, run, spine, until

FOREIGN = "f0f0f0f0-0000-4000-8000-000000000001"


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


def test_a_node_that_was_deleted_and_made_anew_pins_its_host_anew() -> None:
    """Both may be heard at once. A host that is nobody's could be registered a second time (F44)."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await s.lead()
            await s.node("a")
            await until(lambda: leader.answers("a"))
            pinned = keys.identity("host-a", "qemu", "system")
            assert await s.exists(pinned)
            await s.store.txn([], [Delete(pinned)])
            await s.node("a", meta={"uid": "another"})
            await asyncio.sleep(30)
            assert await s.exists(pinned) and leader.answers("a")
            s.hosts["b"].machine = "a"
            await s.node("b")
            await asyncio.sleep(30)
            assert await s.node_reason("b") == "Refused"

    run(main)


def test_a_node_that_goes_while_another_is_being_left_ends_no_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a connection may take its time."""

    async def slowly(session: HostSession) -> None:
        await asyncio.sleep(1)

    monkeypatch.setattr(HostSession, "close", slowly)

    async def main() -> None:
        async with spine("a", "b", "c") as s:
            leader = await s.lead()
            for name in s.hosts:
                await s.node(name)
            await until(lambda: all(leader.answers(name) for name in s.hosts))
            term = leader.leadership
            for name in ("a", "b"):
                await s.store.txn([], [Delete(keys.object_key("nodes", "", name))])
                await asyncio.sleep(0.3)
            await asyncio.sleep(5)
            await s.domain()
            await until(s.hosts["c"].runs)
            assert leader.leadership is term and term is not None and not term.lost.is_set()

    run(main)
