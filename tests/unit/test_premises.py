"""What an action rests on is compared when it is recorded, however late the watch is (I18).

The table of kinds, what may move beneath an action and what may not, and the spine with a watch that lags.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from controller import keys
from controller.executor import STEPS
from controller.model import Decision, Quarantine, Rule
from controller.plan import plan
from controller.plan.premises import RESTS_ON_OBJECTS, still_means, word
from controller.plan.snapshot import StoredMigration
from controller.plan.types import Action, ActionKind, Premise
from drivers.errors import HostFailed
from drivers.hypervisor import Move, Outcome, Permit, Result
from drivers.store import Delete
from specs.migration import Migration
from tests.unit.plancase import DELETED, OTHER, UUID, Cluster
from tests.unit.spine import HostSession, Leader, Spine, run, running_on_a, spine, until

LADDER = [{"method": "acpi", "timeoutSeconds": 20}, {"method": "destroy"}]
LOOKED_AT_BY_A_STEP = {"recheck", "finish"}
IN_QUARANTINE = Quarantine(node="a", rule=Rule.CONFIRMED_DEAD, at="", uuids=(OTHER,))
HARMFUL = {"ask", "destroy", "suspend", "resume", "save", "drop_saved", "reboot", "reset", "undefine"}


def test_whatever_changes_a_guest_is_compared_with_what_its_user_wants_now() -> None:
    assert set(RESTS_ON_OBJECTS) == set(STEPS) == set(ActionKind)
    free = {kind for kind, rests in RESTS_ON_OBJECTS.items() if not rests}
    looked = {kind for kind in free if LOOKED_AT_BY_A_STEP & set(STEPS[kind])}
    harmful = {kind for kind in free - looked if HARMFUL & set(STEPS[kind])}
    assert harmful == {ActionKind.GO_ON, ActionKind.UNPLANT}  # table M: whatever is wanted
    assert all("record" in STEPS[kind] for kind, rests in RESTS_ON_OBJECTS.items() if rests)


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_record_of_a_domain_rests_on_its_object_and_later_starts_look_again(is_first: bool) -> None:
    """Seed 908639: a restored store had forgotten the object."""
    cluster = Cluster().node("a").domain(placement={"node": "a"})
    if not is_first:
        cluster.assigned("a").seen("a", "shutoff", "crashed")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.START
    named = keys.object_key("domains", "default", "web") in {p.key for p in action.premises}
    assert named is is_first


def _started_on_a(cluster: Cluster) -> Action:
    action = cluster.verdict().action
    assert action is not None and (action.kind, action.node) == (ActionKind.START, "a")
    return action


def test_a_start_rests_on_its_node_not_being_in_quarantine() -> None:
    """I15, seed 13 of came_back: a restored store had it there again."""
    action = _started_on_a(Cluster().node("a").domain(placement={"node": "a"}))
    premise = next(p for p in action.premises if p.key == keys.quarantine("a"))
    assert premise.revision == 0
    assert still_means(premise, UUID, None)
    assert not still_means(premise, UUID, msgspec.json.encode(IN_QUARANTINE))


def test_what_belongs_to_a_node_in_quarantine_starts_there_all_the_same() -> None:
    cluster = Cluster().node("a").domain().assigned("a").seen("a", "shutoff", "crashed")
    action = _started_on_a(cluster.given(quarantine={"a": IN_QUARANTINE}))
    assert keys.quarantine("a") not in {p.key for p in action.premises}


# --- what may move beneath an action


def _object(meta: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "default", "uid": UUID, "generation": 1, **(meta or {})}
    spec = {"memory": "32Mi", "type": "qemu", "state": "shutoff"}
    body = {"apiVersion": "domctl.io/v1", "kind": "Domain", "metadata": metadata, "spec": spec}
    return {**body, **parts}


def _stopped(*requests: Migration) -> Action:
    """What is due for a domain that runs on a and is to be off."""
    cluster = Cluster().node("a").node("b").domain(state="shutoff").assigned("a").seen("a")
    snap = cluster.snapshot()
    if requests:
        waiting = tuple(StoredMigration(request, 7) for request in requests)
        snap = msgspec.structs.replace(snap, requests={"default/web": waiting})
    action = plan(snap, [UUID])[UUID].action
    assert action is not None
    return action


def _own(action: Action) -> Premise:
    return next(p for p in action.premises if p.key == keys.object_key("domains", "default", "web"))


@pytest.mark.parametrize(
    ("body", "still"),
    [
        (_object(), True),
        (_object(status={"phase": "Stopping"}), True),
        (_object({"labels": {"tier": "db"}, "annotations": {"note": "mine"}}), True),
        (_object({"generation": 2}), False),
        (_object({**DELETED}), False),
        (_object({"annotations": {"domctl.io/reset-at": "2026-01-31T12:00:00Z"}}), False),
        (_object({"uid": OTHER}), False),
        (None, False),
    ],
)
def test_spec_deletion_and_requests_may_not_move_beneath_an_action(
    body: dict[str, Any] | None, still: bool
) -> None:
    value = None if body is None else msgspec.json.encode(body)
    assert still_means(_own(_stopped()), UUID, value) is still


def test_what_cannot_be_read_is_not_taken_for_the_same() -> None:
    with pytest.raises(msgspec.MsgspecError):
        still_means(_own(_stopped()), UUID, b"{")


def _migration(**spec: Any) -> Migration:
    meta = {"name": "move", "namespace": "default", "uid": "m1", "generation": 1}
    body = {"apiVersion": "domctl.io/v1", "kind": "Migration", "metadata": meta}
    return msgspec.convert({**body, "spec": {"domain": "web", "mode": "Cold", **spec}}, type=Migration)


def test_a_stop_that_a_migration_asked_for_rests_on_it() -> None:
    premise = next(p for p in _stopped(_migration()).premises if "/migrations/" in p.key)
    assert still_means(premise, UUID, msgspec.json.encode(_migration()))
    assert not still_means(premise, UUID, msgspec.json.encode(_migration(abort=True)))
    assert not still_means(premise, UUID, None)


def test_an_operators_word_that_was_taken_back_or_changed_is_none() -> None:
    said = Decision(by="alice", at="now", keep="a")
    premise = word(Cluster().snapshot(), UUID, said)
    assert still_means(premise, UUID, msgspec.json.encode(said))
    assert not still_means(premise, UUID, msgspec.json.encode(msgspec.structs.replace(said, keep="b")))
    assert not still_means(premise, UUID, None)


@pytest.mark.parametrize(("keep", "not_on"), [("a", ()), ("", ("b",))])
def test_a_word_that_is_given_anew_is_not_used_up_by_what_rests_on_the_one_before(
    keep: str, not_on: tuple[str, ...]
) -> None:
    """A start waits for its turn at its node, and what is heard meanwhile is known when it is recorded."""
    cluster = Cluster().node("a").node("b").domain().assigned("a", away=bool(keep))
    cluster.seen("a", "shutoff", "migrated" if keep else "crashed").resolved(keep=keep, not_on=not_on)
    action = _started_on_a(cluster)
    assert action.consumes
    [premise] = [p for p in action.premises if p.key == keys.resolution(UUID)]
    said = cluster.more["resolutions"][UUID]
    assert still_means(premise, UUID, msgspec.json.encode(said))
    assert not still_means(premise, UUID, msgspec.json.encode(msgspec.structs.replace(said, keep="c")))


# --- with a watch that lags


async def _asked_to_stop(s: Spine, **meta: Any) -> Leader:
    """Its guest does not listen, and will be destroyed in a while."""
    leader = await running_on_a(s)
    await s.domain(meta={"generation": 2, **meta}, state="shutoff", shutdown=LADDER)
    await until(lambda: s.hosts["a"].times("shutdown"))
    return leader


def test_a_stop_that_was_taken_back_is_not_carried_out_however_late_the_watch_is() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await _asked_to_stop(s)
            leader.store.in_time.clear()
            await s.domain(meta={"generation": 3}, state="running", shutdown=LADDER)
            await asyncio.sleep(50)
            assert s.running_on() == ["a"]
            assert not s.hosts["a"].times("destroy")
            leader.store.in_time.set()
            await asyncio.sleep(30)
            assert s.running_on() == ["a"]
            assert not s.hosts["a"].times("destroy")

    run(main)


def test_a_node_that_is_to_be_left_alone_by_now_is_left_alone_however_late_the_watch_is() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await _asked_to_stop(s)
            leader.store.in_time.clear()
            key = keys.object_key("nodes", "", "a")
            kv = await s.store.get(key)
            assert kv is not None
            body = msgspec.json.decode(kv.value)
            body["spec"]["observeOnly"] = True
            await s.write(key, body)
            await asyncio.sleep(50)
            assert not s.hosts["a"].times("destroy")

    run(main)


def test_a_status_or_a_label_that_moved_holds_nothing_up() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await _asked_to_stop(s)
            leader.store.in_time.clear()
            labelled = {"generation": 2, "labels": {"tier": "db"}}
            await s.domain(meta=labelled, state="shutoff", shutdown=LADDER)
            assert await until(lambda: not s.running_on()) < 25

    run(main)


def test_another_object_of_its_name_does_not_hold_up_a_tombstone() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            await running_on_a(s)
            await s.domain(meta={**DELETED, "generation": 2}, shutdown=LADDER)
            await until(lambda: s.hosts["a"].times("shutdown"))
            await s.store.txn([], [Delete(keys.object_key("domains", "default", "web"))])
            await s.domain(OTHER)
            await until(lambda: UUID not in s.hosts["a"].domains, 240)
            assert s.running_on(OTHER)

    run(main)


def test_the_object_of_a_tombstone_that_stands_again_is_not_taken_away() -> None:
    """I11: as a store that was set back has it."""

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            await s.domain(meta={**DELETED, "generation": 2}, shutdown=LADDER)
            await until(lambda: s.hosts["a"].times("shutdown"))
            await s.store.txn([], [Delete(keys.object_key("domains", "default", "web"))])
            await asyncio.sleep(57)  # and in 3 s it would be destroyed
            leader.store.in_time.clear()
            await s.domain(meta={"generation": 2}, shutdown=LADDER)
            await asyncio.sleep(60)
            assert s.running_on() == ["a"]

    run(main)


@pytest.mark.parametrize("is_heard", [False, True])
def test_nothing_is_started_on_a_node_that_is_only_looked_at_by_then(is_heard: bool) -> None:
    """A definition may take its time, and a create comes after it."""

    async def main() -> None:
        async with spine("a") as s:
            leader = await s.lead()
            s.hosts["a"].define_s = 6.0
            await s.node("a")
            await s.domain()
            await asyncio.sleep(3)
            if not is_heard:
                leader.store.in_time.clear()
            await s.node("a", observeOnly=True)
            await asyncio.sleep(60)
            assert s.running_on() == []

    run(main)


@pytest.mark.parametrize("is_heard", [False, True])
def test_nothing_is_saved_that_is_to_run_by_the_time_its_host_was_asked_for_room(
    is_heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def save_room(session: HostSession) -> int:
        await asyncio.sleep(6)
        return 1 << 40

    saved: list[str] = []

    async def save(session: HostSession, uuid: str, permit: Permit) -> Result:
        saved.append(uuid)
        return Result(Outcome.FAILED, HostFailed("it is only seen to be asked for"))

    monkeypatch.setattr(HostSession, "save_room", save_room, raising=False)
    monkeypatch.setattr(HostSession, "save", save, raising=False)

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            await s.domain(meta={"generation": 2}, state="saved")
            await asyncio.sleep(3)
            if not is_heard:
                leader.store.in_time.clear()
            await s.domain(meta={"generation": 3})
            await asyncio.sleep(20)
            assert not saved
            leader.store.in_time.set()
            await s.domain(meta={"generation": 4}, state="saved")
            await until(lambda: saved)

    run(main)


@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize("is_heard", [False, True])
def test_nothing_is_moved_from_or_to_a_node_that_is_only_looked_at_by_then(
    node: str, is_heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source gives its definition up before, and that may take its time."""
    able = dataclasses.replace(HostSession.capabilities, live_migration=True)
    undefine, sent = HostSession.undefine, []

    async def slowly(session: HostSession, uuid: str, permit: Permit) -> Result:
        done = await undefine(session, uuid, permit)
        await asyncio.sleep(6)
        return done

    async def migrate(session: HostSession, uuid: str, move: Move, permit: Permit) -> Result:
        sent.append(move.target_uri)
        return Result(Outcome.FAILED, HostFailed("it is only seen to be sent"))

    async def job(session: HostSession, uuid: str, *, completed: bool = False) -> None:
        return None

    monkeypatch.setattr(HostSession, "capabilities", able)
    monkeypatch.setattr(HostSession, "undefine", slowly)
    monkeypatch.setattr(HostSession, "migrate", migrate, raising=False)
    monkeypatch.setattr(HostSession, "job", job, raising=False)

    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            move = msgspec.to_builtins(_migration(mode="Live"))
            await s.write(keys.object_key("migrations", "default", "move"), move)
            await until(lambda: s.hosts["a"].times("undefine"))
            if not is_heard:
                leader.store.in_time.clear()
            await s.node(node, observeOnly=True)
            await asyncio.sleep(30)
            assert not sent

    run(main)
