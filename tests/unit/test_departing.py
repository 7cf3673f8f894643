"""How a migration begins, what is in its way, and what the Migration says meanwhile and afterwards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller import keys
from controller.migrationkeeper import migration_status
from controller.model import Copy, Intent, IntentKind, MoveOutcome, MoveRecord
from controller.plan.snapshot import Backoff, Held, MoveWatch, Policy, StoredMigration
from controller.plan.types import ActionKind, Reason
from drivers.hypervisor import Job
from specs.domainxml import machine_of
from specs.migration import Migration, MigrationStatus
from tests.unit.plancase import DELETED, NOW, UUID, Cluster, capabilities

LOCAL = [{"name": "root", "source": {"file": "/srv/a.img"}}, {"name": "data", "source": {"file": "/srv/b"}}]
SHARED = [{"name": "root", "source": {"file": "/srv/a.img", "shared": True}}]

JOB = Job("migration-out", 3.0, 10 << 20, 22 << 20, 32 << 20)


def request(number: int = 1, **spec: Any) -> StoredMigration:
    body = {
        "metadata": {
            "name": f"m{number}",
            "namespace": "default",
            "uid": f"eeeeeeee-0000-4000-8000-00000000000{number}",
            "generation": 1,
            "creationTimestamp": f"2026-01-01T00:00:0{number}Z",
        },
        "spec": {"domain": "web", **spec},
    }
    return StoredMigration(msgspec.convert(body, Migration), 3)


def asked(*requests: StoredMigration, **spec: Any) -> Cluster:
    """It runs on a, as its spec wants it; b and c are there too."""
    cluster = Cluster().node("a", allowedPaths=["/srv"]).node("b", allowedPaths=["/srv"])
    cluster.node("c", allowedPaths=["/srv"]).domain(**spec).assigned("a").seen("a")
    return cluster.given(requests={"default/web": requests or (request(),)})


def said(cluster: Cluster, stored: StoredMigration | None = None) -> MigrationStatus:
    return migration_status(cluster.snapshot(), stored or request(), UUID)


# --- it begins


def test_what_was_moved_by_hand_and_is_off_says_how_it_can_be_asked_to_move() -> None:
    """Seed 4 of between_beats: it said only that it was to be moved as it is."""
    cluster = asked(state="shutoff").assigned("a", stopped=True, away=True).seen("a", "shutoff", "unknown")
    assert cluster.verdict().action is None
    status = said(cluster)
    assert isinstance(status.conditions, list)
    assert (status.phase, status.reason) == ("Pending", "RunsElsewhere")
    assert "domctl resolve web --keep a" in status.conditions[0].message


def test_what_is_in_nobodys_way_begins_with_the_intent_and_the_definition_for_the_target() -> None:
    action = asked(request(node="b")).verdict().action
    assert action is not None and action.after is not None and action.after.intent is not None
    assert (action.kind, action.node, action.target) == (ActionKind.MIGRATE, "a", "b")
    nodes = {p.key.rpartition("/")[2] for p in action.premises if "/nodes/" in p.key}
    assert nodes == {"a", "b"}, "both must allow it when it begins"
    assert keys.quarantine("b") in {p.key for p in action.premises}
    intent = action.after.intent
    assert (intent.kind, intent.node, intent.target) == (IntentKind.MIGRATE, "a", "b")
    assert intent.request == request().migration.metadata.uid
    assert action.after.node == "a" and action.after.candidates == ("a", "b")
    assert action.after.epoch == intent.epoch == 4
    assert action.move is not None and action.move.persistent_xml is not None
    assert 'epoch="4"' in action.move.persistent_xml
    assert action.move.target_uri == "qemu+tcp://b/system"
    assert action.move.copy_disks == () and not action.move.undefine_source


@pytest.mark.parametrize(("state", "goes_on"), [(("running", "booted"), True), (("paused", "user"), False)])
def test_what_runs_is_to_stand_at_its_target_until_it_is_let_go_and_what_is_paused_stays_so(
    state: tuple[str, str], goes_on: bool
) -> None:
    cluster = asked(request(node="b")).seen("a", *state)
    action = cluster.verdict().action
    assert action is not None and action.after is not None and action.after.intent is not None
    assert action.kind is ActionKind.MIGRATE and action.move is not None
    assert (action.move.stands, action.after.intent.goes_on) == (goes_on, goes_on)
    assert action.after.intent.copy is Copy.STANDING


@pytest.mark.parametrize("node", ["a", "b"])
def test_it_does_not_begin_while_a_definition_may_still_be_carried_out_at_either_end(node: str) -> None:
    """Seed 102947: the source was frozen when it was sent one, and had it again after it had lost it."""
    cluster = asked(request(node="b")).given(unanswered={(UUID, node): NOW - 30})
    assert cluster.verdict().action is None
    assert said(cluster, request(node="b")).reason == "QuietTime"
    after = asked(request(node="b")).given(unanswered={(UUID, node): NOW - 36}).verdict().action
    assert after is not None and after.kind is ActionKind.MIGRATE


def test_without_a_target_the_best_other_node_is_taken() -> None:
    action = asked().verdict().action
    assert action is not None and action.target in ("b", "c")


def test_the_target_is_reached_as_its_node_says() -> None:
    cluster = asked(request(node="b")).node("b", migrationURI="qemu+tls://b.peer/system")
    action = cluster.verdict().action
    assert action is not None and action.move is not None
    assert action.move.target_uri == "qemu+tls://b.peer/system"


def test_disks_that_the_hosts_do_not_share_are_copied_only_where_that_is_asked_for() -> None:
    action = asked(request(copyStorage=True), disks=LOCAL).verdict().action
    assert action is not None and action.move is not None and action.after is not None
    assert action.move.copy_disks == ("vda", "vdb")
    assert action.after.intent is not None and action.after.intent.copies
    shared = asked(request(copyStorage=True), disks=SHARED).verdict().action
    assert shared is not None and shared.move is not None
    assert shared.move.copy_disks == ()


def test_a_domain_with_a_tpm_keeps_its_definition_until_libvirt_takes_it() -> None:
    cluster = asked()
    live = "<domain><devices><tpm model='tpm-crb'/></devices></domain>"
    action = cluster.seen("a", live_xml=live).verdict().action
    assert action is not None and action.move is not None
    assert action.move.undefine_source


@pytest.mark.parametrize(("os", "planted"), [({}, "pc-i440fx-7.2"), ({"machine": "q35"}, "q35")])
def test_the_machine_it_runs_on_goes_with_it_unless_its_spec_names_one(
    os: dict[str, str], planted: str
) -> None:
    """A libvirtd that was restarted meanwhile refuses a definition without one."""
    live = "<domain><os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os></domain>"
    cluster = asked(os=os)
    action = cluster.seen("a", live_xml=live).verdict().action
    assert action is not None and action.move is not None and action.after is not None
    assert action.move.persistent_xml is not None
    assert machine_of(action.move.persistent_xml) == planted
    assert action.after.digest == cluster.rendered("a")[1], "what the spec says is the same"


def test_the_oldest_request_goes_first_and_those_to_be_ended_are_passed_over() -> None:
    first, second = request(1, node="b"), request(2, node="c")
    action = asked(first, second).verdict().action
    assert action is not None and action.target == "b"
    assert said(asked(first, second), second).reason == "Queued"
    ended = request(1, node="b", abort=True)
    action = asked(ended, second).verdict().action
    assert action is not None and action.target == "c"
    assert said(asked(ended, second), ended).phase == "Aborted"


def test_a_request_for_where_it_is_has_ended_already() -> None:
    action = asked(request(node="a")).verdict().action
    assert action is not None and action.after is not None and action.after.last_move is not None
    assert action.after.last_move.outcome is MoveOutcome.SUCCEEDED


# --- what is in the way: the domain is well, and the Migration says why it waits


def hold(cluster: Cluster, reason: str, words: str = "") -> None:
    verdict = cluster.verdict()
    assert verdict.action is None, verdict
    assert verdict.deferred is None, "nothing is wrong with the domain"
    status = said(cluster, cluster.more["requests"]["default/web"][0])
    assert (status.phase, status.reason) == ("Pending", reason)
    conditions = {c.type: c for c in status.conditions} if status.conditions else {}
    assert words in conditions["Ready"].message


def test_a_cordoned_node_takes_nothing() -> None:
    cluster = asked(request(node="b")).node("b", unschedulable=True)
    hold(cluster, "NoNodeFits", "b is unschedulable")


def test_a_node_that_is_not_registered_is_named() -> None:
    hold(asked(request(node="z")), "NoNodeFits", "there is no node z")


def test_the_domains_own_placement_holds_for_migrations_too() -> None:
    cluster = asked(request(node="b"), placement={"nodeSelector": {"zone": "x"}})
    cluster.node("a", {"zone": "x"}, allowedPaths=["/srv"])
    hold(cluster, "NoNodeFits", "label zone")


def test_two_nodes_of_one_host_are_no_move() -> None:
    cluster = asked(request(node="b"))
    facts = cluster.views["a"].facts
    cluster.views["b"] = msgspec.structs.replace(cluster.views["b"], facts=facts)
    hold(cluster, "NoNodeFits", "is the same host as a")


def test_snapshots_are_said_before_anything_is_done() -> None:
    hold(asked().seen("a", snapshots=2), "HasSnapshots", "2 snapshots")


def test_disks_of_the_host_pin_it() -> None:
    hold(asked(disks=LOCAL), "PinnedByStorage", "root, data")


def test_without_a_way_between_the_hosts_nothing_is_tunnelled() -> None:
    cluster = asked(request(node="b")).node("b", uri="qemu+unix:///system?socket=/run/b", insecure=False)
    hold(cluster, "NoPeerPath", "spec.migrationURI of node b")


def test_a_driver_that_cannot_is_asked_for_cold() -> None:
    cluster = asked()
    cluster.views["a"] = msgspec.structs.replace(cluster.views["a"], capabilities=capabilities("test"))
    hold(cluster, "Unsupported", "mode: Cold")


def test_a_node_has_a_budget_in_and_out_together() -> None:
    other = Intent(kind=IntentKind.MIGRATE, node="c", epoch=1, op="", why="", at="", target="a")
    cluster = asked().given(moving={"other": other}, policy=Policy(migrations_per_node=1))
    hold(cluster, "MigrationQueued", "1 migrations are under way on a")


def test_what_is_only_held_for_somebody_to_decide_takes_nothing_of_the_budget() -> None:
    other = Intent(kind=IntentKind.MIGRATE, node="c", epoch=1, op="", why="", at="", target="a")
    cluster = asked().given(moving={"other": other}, policy=Policy(migrations_per_node=1))
    under_way = (
        MoveWatch(in_flight=True),
        MoveWatch(over_at=990.0),
        MoveWatch(over_at=990.0, read=(991.0, 992.0), job=JOB),
    )
    for watch in under_way:
        hold(cluster.given(watches={"other": watch}), "MigrationQueued")
    held = MoveWatch(over_at=990.0, read=(991.0, 992.0))
    action = cluster.given(watches={"other": held}).verdict().action
    assert action is not None and action.kind is ActionKind.MIGRATE


def test_after_a_failure_it_waits() -> None:
    pause = {UUID: Backoff(1, NOW + 7, "no luck")}
    hold(asked().given(move_backoffs=pause), "BackingOff", "no luck; again in 7 s")


def test_a_new_leader_begins_nothing_before_the_old_ones_commands_are_over() -> None:
    cluster = asked(request(node="b"))
    cluster.resigned = False
    hold(cluster, "QuietTime")


@pytest.mark.parametrize("state", [("crashed", "panicked"), ("pmsuspended", "unknown")])
def test_a_guest_that_does_not_run_is_not_moved_live(state: tuple[str, str]) -> None:
    cluster = asked().seen("a", *state)
    assert cluster.verdict().action is None
    assert said(cluster).reason == "Unsupported"


# --- cold


def test_a_cold_migration_takes_the_domain_down_then_away() -> None:
    cold = request(mode="Cold", node="b")
    action = asked(cold).verdict().action
    assert action is not None and action.kind is ActionKind.SHUTDOWN
    off = asked(cold).seen("a", "shutoff", "destroyed").verdict().action
    assert off is not None and (off.kind, off.node) == (ActionKind.REVOKE, "a")


def test_a_cold_migration_stops_nothing_that_could_not_move() -> None:
    hold(asked(request(mode="Cold"), disks=LOCAL), "PinnedByStorage", "disk root")
    hold(asked(request(mode="Cold", node="z")), "NoNodeFits")


def test_what_was_taken_away_is_given_to_the_node_that_was_asked_for_and_the_request_ends_with_it() -> None:
    cluster = asked(request(mode="Cold", node="c"))
    cluster.sightings.clear()
    cluster.assigned("a", candidates=())
    action = cluster.verdict().action
    assert action is not None and action.after is not None and action.settled is not None
    assert (action.kind, action.node) == (ActionKind.START, "c")
    assert action.after.last_move is None, "it has not arrived"
    move = action.settled.last_move
    assert move is not None
    assert (move.source, move.target, move.outcome) == ("a", "c", MoveOutcome.SUCCEEDED)


# --- what became of it


def ended(outcome: MoveOutcome, **more: Any) -> MoveRecord:
    uid = str(request().migration.metadata.uid)
    base = MoveRecord(
        request=uid,
        source="a",
        target="b",
        outcome=outcome,
        reason="Because",
        message="said so",
        attempts=2,
        at="later",
        began_at="then",
    )
    return msgspec.structs.replace(base, **more)


def remembering(record: MoveRecord) -> Cluster:
    cluster = asked()
    held = cluster.assignments[UUID]
    cluster.assignments[UUID] = Held(
        msgspec.structs.replace(held.assignment, last_move=record), held.revision
    )
    return cluster


def test_a_success_says_what_it_cost() -> None:
    cluster = remembering(ended(MoveOutcome.SUCCEEDED, downtime_ms=12, copied_bytes=1 << 20))
    status = said(cluster)
    assert (status.phase, status.source, status.target) == ("Succeeded", "a", "b")
    assert (status.downtime_milliseconds, status.bytes, status.completed_at) == (12, 1 << 20, "later")
    truth = {c.type: c.status for c in status.conditions or []}
    assert truth == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Complete": "True",
        "Failed": "False",
    }


@pytest.mark.parametrize("outcome", [MoveOutcome.FAILED, MoveOutcome.ABORTED])
def test_what_did_not_succeed_is_waited_for_no_longer(outcome: MoveOutcome) -> None:
    status = said(remembering(ended(outcome)))
    truth = {c.type: c.status for c in status.conditions or []}
    assert status.phase == outcome
    assert (truth["Ready"], truth["Stalled"], truth["Failed"]) == ("False", "True", "True")


def test_until_the_last_request_says_how_it_ended_no_other_begins() -> None:
    cluster = remembering(ended(MoveOutcome.SUCCEEDED))
    assert cluster.given(requests={"default/web": (request(1), request(2))}).verdict().action is None
    begun = cluster.given(requests={"default/web": (request(2),)}).verdict().action
    assert begun is not None and begun.kind is ActionKind.MIGRATE


def test_an_attempt_that_failed_is_tried_again() -> None:
    cluster = remembering(ended(MoveOutcome.RETRYING))
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.MIGRATE
    assert (said(cluster).phase, said(cluster).attempts) == ("Pending", 2)


def test_what_is_ended_between_two_attempts_tells_of_those_there_were() -> None:
    status = said(remembering(ended(MoveOutcome.RETRYING)), request(abort=True))
    assert (status.phase, status.attempts, status.source, status.target) == ("Aborted", 2, "a", "b")
    assert any("said so" in c.message for c in status.conditions or [])
    never = said(asked(request(abort=True)), request(abort=True))
    assert (never.phase, never.attempts) == ("Aborted", 0)


def interfaces(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": "user"} for name in names]


def test_a_mac_that_a_new_interface_needs_is_reserved_before_the_definition_is_given_up() -> None:
    cluster = asked(request(), interfaces=interfaces("one"))
    cluster.domain(interfaces=interfaces("one", "two"))
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.DEFINE, "its definition is repaired first"
    assert action.after is not None and len(action.reserve) == len(action.after.macs) == 2
    cluster.assignments[UUID] = Held(msgspec.structs.replace(action.after, intent=None), 5)
    cluster.seen("a")
    move = cluster.verdict().action
    assert move is not None and move.kind is ActionKind.MIGRATE and move.after is not None
    assert move.after.macs == action.after.macs and move.reserve == ()


def test_a_mac_that_it_still_runs_with_stays_its_own_while_it_moves() -> None:
    cluster = asked()
    held = cluster.assignments[UUID].assignment
    held = msgspec.structs.replace(held, retired_macs=("52:54:00:00:00:01",))
    cluster.assignments[UUID] = Held(held, 5)
    action = cluster.verdict().action
    assert action is not None and action.after is not None
    assert "52:54:00:00:00:01" in action.after.retired_macs and action.release_macs == ()


def test_on_its_way_it_tells_how_far_it_has_come() -> None:
    cluster = asked()
    intent = Intent(
        kind=IntentKind.MIGRATE,
        node="a",
        epoch=3,
        op="",
        why="",
        at="then",
        target="b",
        request=str(request().migration.metadata.uid),
    )
    held = cluster.assignments[UUID]
    cluster.assignments[UUID] = Held(msgspec.structs.replace(held.assignment, intent=intent), held.revision)
    watch = MoveWatch(in_flight=True, job=Job("migration-out", 1.0, 5, 7, 12))
    status = said(cluster.given(watches={UUID: watch}))
    assert (status.phase, status.source, status.target) == ("Running", "a", "b")
    assert status.progress and status.progress.remaining_bytes == 7


def test_a_domain_that_does_not_exist_is_waited_for() -> None:
    snap = asked().snapshot()
    assert migration_status(snap, request(domain="other"), "").reason == "NoSuchDomain"


def test_a_request_for_what_is_being_deleted_does_not_say_that_it_begins_soon() -> None:
    cluster = asked()
    assert said(cluster).reason == "Pending"
    status = said(cluster.domain(meta=DELETED))
    assert (status.phase, status.reason) == ("Pending", "DomainDeleted")


def test_reasons_are_words_of_the_table() -> None:
    known = {reason.value for reason in Reason}
    assert {"NoNodeFits", "HasSnapshots", "NoPeerPath", "MigrationQueued", "Unsupported"} <= known


@pytest.mark.parametrize("away", [False, True])
def test_what_somebody_moved_away_and_an_operator_kept_stays_there_until_it_ran(away: bool) -> None:
    """Else it is defined where it was kept, and undefined to be moved, again and again (seed 700378)."""
    cluster = asked(request(node="b"), restartPolicy="Never").resolved(keep="a")
    cluster.assigned("a", ended="unknown", away=away).sightings.clear()
    action = cluster.seen("a", "shutoff", "unknown").verdict().action
    assert (action is not None and action.kind is ActionKind.REVOKE) == (not away)
