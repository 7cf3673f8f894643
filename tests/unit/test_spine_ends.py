"""Ends that nobody saw, or that came while something else was recorded, are ends all the same.

And a guest goes where its disk is, whatever its spec says by then. On the whole spine, and in its plan."""

from __future__ import annotations

import asyncio

import pytest

from controller.model import IntentKind, MovedDisk, Proof, Rule
from controller.plan.types import Action, ActionKind, Reason
from drivers.errors import Unreachable
from drivers.hypervisor import Outcome, Permit, Result
from specs.mark import Mark
from tests.unit.plancase import CLUSTER, UUID, WALL, Cluster, expect_hold, two_nodes
from tests.unit.spine import HostSession, run, spine, until

DISK = [{"name": "root", "source": {"file": "/srv/root.img"}}]
NEW_DISK = [{"name": "root", "source": {"file": "/srv/new.img"}}]
NEVER = {"restartPolicy": "Never"}


def due(cluster: Cluster, kind: ActionKind) -> Action:
    action = cluster.verdict().action
    assert action is not None and action.kind is kind
    return action


def test_a_guest_that_completed_while_its_start_was_not_answered_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = HostSession.create

    async def lost(self: HostSession, uuid: str, permit: Permit) -> Result:
        await create(self, uuid, permit)
        self._host.lose()
        return Result(Outcome.AMBIGUOUS, Unreachable("connection reset by peer"))

    monkeypatch.setattr(HostSession, "create", lost)

    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            await s.domain(**NEVER)
            host = s.hosts["a"]
            await until(host.runs)
            await asyncio.sleep(30)
            host.end("shutdown")
            await asyncio.sleep(5)
            host.reachable = True
            await asyncio.sleep(60)
            assert (host.times("create"), (await s.status())[0]) == (1, "Completed")

    run(main)


@pytest.mark.parametrize("heir", ["", "a second leader"])
@pytest.mark.parametrize(("policy", "times"), [("Never", 2), ("Always", 3)])
def test_where_the_end_of_a_run_that_was_not_heard_looks_like_the_one_before_it_may_have_run(
    monkeypatch: pytest.MonkeyPatch, policy: str, times: int, heir: str
) -> None:
    create, again = HostSession.create, {"generation": 3}

    async def lost(self: HostSession, uuid: str, permit: Permit) -> Result:
        await create(self, uuid, permit)
        self._host.lose()
        return Result(Outcome.AMBIGUOUS, Unreachable("connection reset by peer"))

    async def main() -> None:
        async with spine("a") as s:
            leader, host = await s.lead(), s.hosts["a"]
            await s.node("a")
            await s.domain(restartPolicy=policy)
            await until(host.runs)
            await s.domain(meta={"generation": 2}, restartPolicy=policy, state="shutoff")
            await until(lambda: host.times("shutdown"))
            host.end("shutdown")
            await asyncio.sleep(20)
            monkeypatch.setattr(HostSession, "create", lost)
            await s.domain(meta=again, restartPolicy=policy)
            await until(host.runs)
            monkeypatch.setattr(HostSession, "create", create)
            if heir:
                await leader.die()
                await s.lead(heir)
            await asyncio.sleep(10)
            host.end("shutdown")
            await asyncio.sleep(5)
            host.reachable = True
            await asyncio.sleep(120)
            ended = "Completed" if policy == "Never" else "Running"
            assert (host.times("create"), (await s.status())[0]) == (times, ended)

    run(main)


def test_a_guest_that_did_not_heed_a_stop_that_was_taken_back_completes_by_itself() -> None:
    async def main() -> None:
        async with spine("a") as s:
            await s.lead()
            await s.node("a")
            host = s.hosts["a"]
            await s.domain(**NEVER)
            await until(host.runs)
            await asyncio.sleep(10)
            await s.domain(meta={"generation": 2}, state="shutoff", **NEVER)
            await until(lambda: host.times("shutdown"))
            await asyncio.sleep(2)
            await s.domain(meta={"generation": 3}, **NEVER)
            await asyncio.sleep(900)
            host.end("shutdown")
            await asyncio.sleep(30)
            assert (host.times("create"), (await s.status())[0]) == (1, "Completed")

    run(main)


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_transient_domain_that_is_made_persistent_while_it_is_off_starts_where_its_disk_is(
    first: str,
) -> None:
    off = {"state": "shutoff", "shutdown": [{"method": "destroy"}]}

    async def main() -> None:
        async with spine("a", "b") as s:
            await s.lead()
            await s.node(first, allowedPaths=["/srv"])
            await s.domain(disks=DISK, persistence="transient")
            await until(s.hosts[first].runs)
            await s.node("b" if first == "a" else "a", allowedPaths=["/srv"])
            await asyncio.sleep(10)
            await s.domain(meta={"generation": 2}, disks=DISK, persistence="transient", **off)
            await until(lambda: not s.hosts[first].runs())
            await asyncio.sleep(300)
            await s.domain(meta={"generation": 3}, disks=DISK)
            await asyncio.sleep(200)
            assert s.running_on() == [first]

    run(main)


def test_the_pauses_of_a_crash_loop_go_on_under_the_next_leader() -> None:
    async def main() -> None:
        async with spine("a") as s:
            leader, host = await s.lead(), s.hosts["a"]
            await s.node("a")
            await s.domain()

            async def crash() -> None:
                while True:
                    await asyncio.sleep(0.5)
                    if host.runs():
                        host.end("crashed")

            crashing = asyncio.create_task(crash())
            await asyncio.sleep(200)
            before = host.times("create")
            await leader.stop()
            await s.lead("next")
            await asyncio.sleep(20)
            assert (host.times("create") - before, (await s.status())[0]) == (0, "CrashLoop")
            crashing.cancel()

    run(main)


def test_a_definition_that_was_refused_hides_no_completion() -> None:
    older = Mark(CLUSTER, UUID, 3, "older")
    cluster = two_nodes().domain(**NEVER).assigned("a").intends(IntentKind.DEFINE, "a", epoch=2)
    action = due(cluster.seen("a", "shutoff", "shutdown", config_mark=older), ActionKind.RECORD)
    assert action.after is not None and action.after.ended == "shutdown"


def test_another_object_under_the_uuid_of_a_deleted_one_is_started() -> None:
    dead = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="t")
    cluster = two_nodes().domain(**NEVER)
    cluster.assigned("b", candidates=(), tombstone=True, ended="shutdown", proofs=(dead,), restarts=7)
    cluster.silent("a").dead("a")
    stored, held = cluster.domains[UUID], cluster.assignments[UUID]
    cluster.domains[UUID] = type(stored)(stored.domain, stored.revision, held.revision + 1)
    after = due(cluster, ActionKind.RECORD).after
    assert after is not None
    assert (after.tombstone, after.ended, after.restarts, after.proofs) == (False, "", 0, (dead,))


def test_what_goes_on_from_memory_with_an_older_disk_was_not_moved_by_hand() -> None:
    cluster = Cluster().node("a", allowedPaths=["/srv"]).domain(disks=DISK).assigned("a")
    old, _ = cluster.rendered("a")
    cluster.domain(disks=NEW_DISK, meta={"annotations": {"domctl.io/restore-at": WALL}})
    xml, digest = cluster.rendered("a")
    cluster.assigned("a", config=xml, digest=digest, saved="before")
    cluster.seen("a", "shutoff", "saved", managed_save=True, saved_xml=old)
    action = due(cluster, ActionKind.START)
    assert action.settled is not None
    assert action.settled.older_disks == {"root": ("/srv/root.img",)}


def test_a_disk_that_was_moved_where_none_may_be_says_so_once_the_spec_names_it() -> None:
    cluster = Cluster().node("a", allowedPaths=["/srv"]).domain(disks=DISK).assigned("a")
    old, digest = cluster.rendered("a")
    mark = Mark(CLUSTER, UUID, 3, digest)
    snapshot = "/snap/root.s1"
    moved = {"root": MovedDisk(source=snapshot, defined=True)}
    cluster.assigned("a", config=old, digest=digest, moved_disks=moved)
    cluster.seen("a", xml=old.replace("/srv/root.img", snapshot), config_mark=mark, live_mark=mark)
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)
    cluster.domain(disks=[{"name": "root", "source": {"file": snapshot}}])
    expect_hold(cluster, Reason.SPEC_REFUSED)
