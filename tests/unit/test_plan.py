"""The plan's rules, one invented cluster at a time. Names say the behaviour; invariants stand in comments."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from controller.attempts import Attempts
from controller.limits import Timing
from controller.model import IntentKind, Proof, Rule
from controller.plan import plan
from controller.plan.snapshot import Backoff, Ladder, NodeView, Policy, Restarts, Stall, StoredNode, Term
from controller.plan.types import ActionKind, Reason, Situation
from drivers.errors import SAID_BY_HOST, Cause
from specs.mark import Mark
from tests.unit.plancase import CLUSTER, NOW, UUID, Cluster

OTHER = "d0d0d0d0-0000-4000-8000-000000000002"


def two_nodes() -> Cluster:
    return Cluster().node("a").node("b")


def running_on_a(**spec: object) -> Cluster:
    return two_nodes().domain(**spec).assigned("a").seen("a")


def expect_action(cluster: Cluster, kind: ActionKind, node: str = "a", uuid: str = UUID) -> None:
    verdict = cluster.verdict(uuid)
    assert verdict.action is not None, verdict
    assert (verdict.action.kind, verdict.action.node) == (kind, node)


def expect_hold(cluster: Cluster, reason: Reason) -> None:
    verdict = cluster.verdict()
    assert verdict.deferred is not None, verdict
    assert verdict.deferred.reason is reason, verdict.deferred


# --- new domains


def test_a_new_running_domain_is_started_and_its_assignment_says_so() -> None:
    action = two_nodes().domain().verdict().action
    assert action is not None and action.after is not None and action.settled is not None
    assert action.kind is ActionKind.START
    assert action.after.candidates == (action.node,) and action.after.epoch == 1
    assert action.after.intent is not None and action.after.intent.kind is IntentKind.START
    assert action.settled.intent is None and action.before_revision == 0
    assert action.xml is not None and UUID in action.xml


def test_a_new_shutoff_domain_is_only_defined() -> None:
    action = two_nodes().domain(state="shutoff").verdict().action
    assert action is not None and action.kind is ActionKind.DEFINE
    assert action.after is not None and not action.after.started


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"placement": {"node": "z"}}, "placement.node is z"),
        ({"placement": {"nodeSelector": {"disk": "ssd"}}}, "label disk is <unset>"),
        ({"memory": "64Gi"}, "MiB free of 65536"),
        ({"vcpus": 64}, "vCPUs free of 64"),
    ],
)
def test_a_domain_that_fits_nowhere_says_why_for_each_node(spec: dict[str, object], why: str) -> None:
    verdict = two_nodes().domain(**spec).verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NO_NODE_FITS
    assert why in verdict.deferred.message and "a " in verdict.deferred.message


@pytest.mark.parametrize(
    "spec",
    [{"unschedulable": True}, {"taints": [{"key": "x", "effect": "NoSchedule"}]}, {"observeOnly": True}],
)
def test_a_node_that_takes_nothing_new_gets_nothing(spec: dict[str, object]) -> None:
    expect_action(Cluster().node("a", **spec).node("b").domain(), ActionKind.START, "b")


def test_unreachable_nodes_do_not_keep_others_from_converging() -> None:
    expect_action(two_nodes().silent("a").domain(), ActionKind.START, "b")


def test_placements_of_one_plan_count_for_each_other() -> None:
    cluster = two_nodes()
    for index in range(4):
        cluster.domain(f"d0d0d0d0-0000-4000-8000-00000000001{index}", f"n{index}", memory="2Gi")
    placed = [v.action.node for v in plan(cluster.snapshot(), cluster.domains).values() if v.action]
    assert sorted(placed) == ["a", "a", "b", "b"]


def test_a_foreign_domain_of_the_same_name_keeps_its_node_out() -> None:
    cluster = Cluster().node("a").domain().seen("a")
    cluster.sightings = {OTHER: cluster.sightings[UUID]}
    verdict = cluster.verdict()
    assert verdict.deferred is not None and "another domain named web" in verdict.deferred.message


def test_a_foreign_domain_in_the_place_of_ours_is_left_alone() -> None:
    cluster = two_nodes().domain().assigned("a").witnessed("a", "destroyed").seen("a")
    cluster.sightings = {OTHER: cluster.sightings[UUID]}
    verdict = cluster.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NAME_TAKEN
    assert OTHER in verdict.deferred.message


def test_a_uuid_that_is_in_use_already_is_not_taken_over_and_the_hold_says_what_ends_it() -> None:
    cluster = two_nodes().domain().seen("a")
    expect_hold(cluster, Reason.UUID_IN_USE)
    verdict = cluster.verdict()
    assert verdict.deferred is not None and "virsh undefine on a" in verdict.deferred.command


def test_what_a_restored_store_may_have_forgotten_is_placed_only_where_every_node_was_read() -> None:
    """Created at 7, acknowledged at 8: a leader that never saw the lost time must not take it for new."""
    cluster = two_nodes().domain().given(signs={UUID: 994.0}, acknowledged_at=8)
    expect_hold(cluster, Reason.READING_ALL_NODES)
    cluster.silent("b")
    expect_hold(cluster, Reason.NODE_NOT_READ)
    deferred = cluster.verdict().deferred
    assert deferred is not None and "domctl resolve web -n default --not-on b" in deferred.command


def test_a_deletion_forgets_nothing_that_a_restored_store_may_have_forgotten() -> None:
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    cluster = two_nodes().domain(meta=gone).given(signs={UUID: 980.0}, acknowledged_at=8)
    expect_action(cluster, ActionKind.FINISH, "")
    expect_hold(cluster.silent("b"), Reason.NODE_NOT_READ)
    marked = two_nodes().domain(meta=gone).seen("a")
    expect_hold(marked, Reason.UUID_IN_USE)
    foreign = two_nodes().domain(meta=gone).seen("a", config_mark=None, live_mark=None)
    expect_action(foreign, ActionKind.FINISH, "")


@pytest.mark.parametrize("acknowledged_at", [0, 6, 7])
def test_what_came_into_being_after_the_store_was_acknowledged_is_placed_at_once(
    acknowledged_at: int,
) -> None:
    cluster = two_nodes().domain()
    cluster.domains[UUID] = dataclasses.replace(cluster.domains[UUID], created=7)
    cluster.given(signs={UUID: 994.0}, acknowledged_at=acknowledged_at)
    expect_action(cluster, ActionKind.START, "b")


# --- converged, and small repairs


def test_a_domain_that_is_as_wanted_causes_nothing() -> None:
    verdict = running_on_a().verdict()
    assert verdict.action is None and verdict.deferred is None and verdict.situation is Situation.CONVERGED


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"persistent": False, "config_xml": None, "config_mark": None}, ActionKind.DEFINE),
        ({"autostart": True}, ActionKind.AUTOSTART),
        ({"config_mark": None}, ActionKind.DEFINE),
        ({"live_mark": None}, ActionKind.MARK),
    ],
)
def test_what_somebody_undid_on_a_running_domain_is_repaired(
    change: dict[str, object], kind: ActionKind
) -> None:
    expect_action(two_nodes().domain().assigned("a").seen("a", **change), kind)


def test_a_definition_changed_by_hand_is_drift_and_says_what_changed() -> None:
    cluster = running_on_a()
    xml, _ = cluster.rendered("a")
    wrong = cluster.sightings[UUID]["a"].detail
    cluster.sightings[UUID]["a"] = dataclasses.replace(
        cluster.sightings[UUID]["a"],
        detail=dataclasses.replace(wrong, config_xml=xml.replace(">32768<", ">65536<")),
    )
    verdict = cluster.verdict()
    assert verdict.action is not None and verdict.action.kind is ActionKind.DEFINE
    assert "memory" in verdict.action.why


def test_a_changed_spec_redefines_a_running_domain_and_never_restarts_it() -> None:
    cluster = running_on_a()
    cluster.domain(memory="48Mi")
    expect_action(cluster, ActionKind.DEFINE)


def test_what_waits_for_a_restart_is_told_per_field() -> None:
    cluster = running_on_a()
    old_xml, _ = cluster.rendered("a")
    cluster.domain(memory="48Mi").seen("a", live_xml=old_xml)
    verdict = cluster.verdict()
    assert verdict.action is None and verdict.deferred is None
    assert any("memory" in path for path, _, _ in verdict.pending)


# --- ends and restarts


@pytest.mark.parametrize("reason", ["destroyed", "crashed", "shutdown", "failed", "daemon", "saved"])
def test_a_domain_that_ended_at_home_is_started_again(reason: str) -> None:
    expect_action(two_nodes().domain().assigned("a").seen("a", "shutoff", reason), ActionKind.START)


@pytest.mark.parametrize(
    ("policy", "reason", "starts"),
    [
        ("Never", "crashed", False),
        ("Never", "shutdown", False),
        ("OnFailure", "shutdown", False),
        ("OnFailure", "crashed", True),
        ("OnFailure", "destroyed", True),
    ],
)
def test_the_restart_policy_speaks_when_it_ended_by_itself(policy: str, reason: str, starts: bool) -> None:
    cluster = two_nodes().domain(restartPolicy=policy).assigned("a").seen("a", "shutoff", reason)
    if starts:
        expect_action(cluster, ActionKind.START)
    else:
        expect_hold(cluster, Reason.COMPLETED)


def test_after_a_wanted_stop_even_policy_never_starts_it_again() -> None:
    cluster = two_nodes().domain(restartPolicy="Never").assigned("a", stopped=True)
    expect_action(cluster.seen("a", "shutoff", "shutdown"), ActionKind.START)


def test_the_first_restart_is_immediate_and_later_ones_pause() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "crashed")
    expect_action(cluster.given(restarts={UUID: Restarts(1, NOW - 1)}), ActionKind.START)
    expect_hold(cluster.given(restarts={UUID: Restarts(4, NOW - 1)}), Reason.CRASH_LOOP)


def test_a_vanished_domain_whose_end_was_witnessed_is_started_at_once() -> None:
    """I22a: even while another node does not answer."""
    cluster = two_nodes().silent("b").domain().assigned("a").witnessed("a", "destroyed")
    expect_action(cluster, ActionKind.START)


@pytest.mark.parametrize(("detail", "session"), [("migrated", 1), ("destroyed", 0)])
def test_an_end_that_proves_nothing_is_not_enough(detail: str, session: int) -> None:
    cluster = two_nodes().domain().assigned("a").witnessed("a", detail, session=session)
    cluster.given(migrated={UUID} if detail == "migrated" else set())
    reason = Reason.RUNS_ELSEWHERE if detail == "migrated" else None
    if reason is not None:
        expect_hold(cluster, reason)
    else:
        expect_action(cluster, ActionKind.START)  # by I22c: both nodes were read twice


def test_a_vanished_domain_waits_for_two_complete_listings() -> None:
    """I22c: one listing of each node is not enough."""
    cluster = two_nodes().domain().assigned("a").given(signs={UUID: 994.0})
    expect_hold(cluster, Reason.READING_ALL_NODES)
    cluster.given(signs={UUID: 980.0})
    expect_action(cluster, ActionKind.START)


def test_an_unread_candidate_holds_a_vanished_domain_and_names_the_way_out() -> None:
    cluster = two_nodes().domain().assigned("a", candidates=("a", "b")).silent("b")
    verdict = cluster.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NODE_UNREACHABLE
    assert "confirm-dead b" in verdict.deferred.command


def test_hand_migrations_block_a_start_while_any_node_is_unread() -> None:
    cluster = two_nodes().domain().assigned("a").silent("b")
    expect_action(cluster, ActionKind.START)
    expect_hold(cluster.given(policy=Policy(hand_migrations=True)), Reason.NODE_NOT_READ)


@pytest.mark.parametrize("reason", ["migrated", "unknown"])
def test_a_shut_off_domain_that_may_have_moved_needs_the_full_read(reason: str) -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", reason).given(signs={UUID: 994.0})
    expect_hold(cluster, Reason.READING_ALL_NODES)


def test_a_definition_that_carries_the_open_start_intent_may_be_started() -> None:
    """I22b: a leader died between define and create."""
    cluster = (
        two_nodes().domain().assigned("a").intends(IntentKind.START, "a").seen("a", "shutoff", "unknown")
    )
    expect_action(cluster.silent("b").given(signs={UUID: 999.0}), ActionKind.START)


@pytest.mark.parametrize(("digest", "kind"), [("", ActionKind.RECORD), ("of before", ActionKind.DEFINE)])
def test_a_definition_that_came_although_nobody_heard_so_ends_its_intent(
    digest: str, kind: ActionKind
) -> None:
    cluster = Cluster().node("a").domain(state="shutoff").assigned("a").intends(IntentKind.DEFINE, "a")
    wanted = digest or cluster.rendered("a")[1]
    cluster.seen("a", "shutoff", "unknown", config_mark=Mark(CLUSTER, UUID, 3, wanted))
    held = cluster.assignments[UUID]
    record = msgspec.structs.replace(held.assignment, digest=cluster.rendered("a")[1])
    cluster.assignments[UUID] = dataclasses.replace(held, assignment=record)
    expect_action(cluster, kind)


def test_an_open_intent_is_no_evidence_for_a_domain_that_migrated_away() -> None:
    cluster = two_nodes().domain().assigned("a").intends(IntentKind.START, "a")
    cluster.seen("a", "shutoff", "migrated")
    expect_hold(cluster.given(migrated={UUID}), Reason.RUNS_ELSEWHERE)


# --- unreachable, dead, returned


def test_an_unreachable_home_holds_the_domain() -> None:
    """I3: unreachable is not absent."""
    verdict = running_on_a().silent("a").verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NODE_UNREACHABLE
    assert verdict.deferred.command == "domctl node confirm-dead a"


@pytest.mark.parametrize("cause", list(Cause))
def test_a_node_that_refuses_us_holds_the_domain_and_offers_no_way_out_of_death(cause: Cause) -> None:
    """I14: an authentication error is a configuration error, never evidence."""
    verdict = running_on_a().refused("a", cause).verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NODE_REFUSED
    assert verdict.deferred.command == "" and "it says no" in verdict.deferred.message
    vanished = two_nodes().domain().assigned("a", candidates=("a", "b")).refused("b", cause)
    for cluster in (vanished, vanished.given(policy=Policy(hand_migrations=True))):
        verdict = cluster.verdict()
        assert verdict.deferred is not None and "confirm-dead" not in verdict.deferred.command


@pytest.mark.parametrize("cause", sorted(SAID_BY_HOST))
def test_what_answers_at_a_node_confirmed_dead_voids_that_word(cause: Cause) -> None:
    """R3 ends when the node answers, even if only to refuse us."""
    expect_hold(running_on_a().refused("a", cause).dead("a"), Reason.NODE_REFUSED)
    vanished = two_nodes().domain().assigned("b", candidates=("a", "b")).refused("a", cause).dead("a")
    expect_hold(vanished, Reason.NODE_REFUSED)
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    released = (
        two_nodes().domain().assigned("a", candidates=(), proofs=(proof,)).refused("a", cause).dead("a")
    )
    action = released.verdict().action
    assert action is not None and action.after is not None
    assert (action.kind, action.after.candidates) == (ActionKind.RECORD, ("a",))


def test_a_node_that_we_cannot_even_ask_may_be_confirmed_dead() -> None:
    """Our own key is missing: that says nothing of the host, so the operator's word stands."""
    action = running_on_a().refused("a", Cause.CREDENTIALS_MISSING).dead("a").verdict().action
    assert action is not None and action.kind is ActionKind.RELEASE


def test_a_dead_node_releases_the_domain_and_is_put_into_quarantine() -> None:
    action = running_on_a().silent("a").dead("a").verdict().action
    assert action is not None and action.kind is ActionKind.RELEASE and action.quarantine
    assert action.after is not None and action.after.candidates == ()
    assert action.after.proofs[-1].rule is Rule.CONFIRMED_DEAD


def test_a_released_domain_is_placed_elsewhere() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().domain().assigned("a", candidates=(), proofs=(proof,)).silent("a").dead("a")
    verdict = cluster.verdict()
    assert verdict.action is not None and verdict.action.kind is ActionKind.START
    assert verdict.action.node == "b" and verdict.action.dead_proofs == ("a",)
    assert verdict.action.after is not None and verdict.action.after.candidates == ("b",)


def test_a_domain_with_a_disk_of_the_dead_node_is_not_started_without_it() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    disks = [{"name": "root", "source": {"file": "/data/x.img"}, "format": "raw"}]
    cluster = (
        two_nodes().domain(disks=disks).assigned("a", candidates=(), proofs=(proof,)).silent("a").dead("a")
    )
    expect_hold(cluster, Reason.PINNED_BY_STORAGE)


def test_an_unused_proof_ends_when_the_node_answers() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().domain().assigned("a", candidates=(), proofs=(proof,))
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.RECORD and action.after is not None
    assert action.after.candidates == ("a",) and action.after.proofs == ()


def test_a_copy_on_a_returned_node_is_taken_into_account_again() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().domain().assigned("b", proofs=(proof,)).seen("b").seen("a", "shutoff", "unknown")
    action = cluster.verdict().action
    assert action is not None and action.after is not None and action.after.candidates == ("a", "b")


def test_a_stale_definition_elsewhere_is_undefined_before_anything_else() -> None:
    """I2: the definition is the capability."""
    cluster = (
        two_nodes().domain().assigned("b", candidates=("a", "b")).seen("b").seen("a", "shutoff", "unknown")
    )
    expect_action(cluster, ActionKind.REVOKE, "a")


# --- duplicates and movers


def test_two_active_copies_are_an_alarm_and_nothing_is_destroyed() -> None:
    """I1, I13."""
    expect_hold(running_on_a().seen("b"), Reason.DUPLICATE)


def test_an_operator_chooses_the_copy_that_stays() -> None:
    cluster = running_on_a().seen("b").resolved(keep="a")
    expect_action(cluster, ActionKind.DESTROY, "b")


def test_keeping_the_other_copy_moves_the_assignment_first() -> None:
    action = running_on_a().seen("b").resolved(keep="b").verdict().action
    assert action is not None and action.kind is ActionKind.RECORD and action.after is not None
    assert action.after.node == "b" and set(action.after.candidates) == {"a", "b"}


def test_where_a_domain_that_somebody_migrated_by_hand_runs_is_written_down_and_it_is_left_alone() -> None:
    cluster = two_nodes().domain().assigned("a").seen("b")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.RECORD and action.after is not None
    assert action.after.candidates == ("a", "b") and action.after.node == "a"
    expect_hold(cluster.assigned("a", candidates=("a", "b")), Reason.RUNS_ELSEWHERE)


def test_a_running_migration_is_not_disturbed() -> None:
    expect_hold(running_on_a().seen("b", "paused", "migration"), Reason.MIGRATION_IN_PROGRESS)


def test_a_node_that_does_not_answer_is_the_reason_even_if_a_migration_was_seen_there() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "paused", "starting-up").silent("a")
    expect_hold(cluster, Reason.NODE_UNREACHABLE)


def interrupted(since: float, epoch: int = 3) -> Cluster:
    cluster = two_nodes().domain().assigned("a").intends(IntentKind.START, "a", epoch)
    return cluster.seen("a", "paused", "starting-up", active=True, since=since)


def test_a_start_that_a_dying_daemon_left_paused_is_undone_once_it_stood_long_enough() -> None:
    expect_hold(interrupted(NOW - 10), Reason.STARTING_UP)
    expect_action(interrupted(NOW - 41), ActionKind.DESTROY)


def test_a_start_that_cannot_be_undone_names_the_cure() -> None:
    stuck = interrupted(NOW - 41).given(backoffs={UUID: Backoff(1, NOW + 1, "destroy on a: job time-out")})
    verdict = stuck.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.STUCK_START
    assert "/run/libvirt/qemu/web.xml" in verdict.deferred.command


def test_an_interrupted_start_is_not_undone_for_a_missing_object() -> None:
    """I11, found by enumeration."""
    cluster = interrupted(NOW - 41)
    cluster.domains.clear()
    expect_hold(cluster, Reason.MIGRATION_IN_PROGRESS)


def test_an_incoming_migration_is_not_taken_for_an_interrupted_start() -> None:
    """Its live copy carries the source's epoch, not the one of an open start intent."""
    expect_hold(interrupted(NOW - 99, epoch=4), Reason.MIGRATION_IN_PROGRESS)
    expect_hold(interrupted(NOW - 99).seen("b"), Reason.MIGRATION_IN_PROGRESS)


def test_a_running_domain_that_fits_no_more_is_not_stopped() -> None:
    cluster = two_nodes().domain(placement={"node": "b"}).assigned("a").seen("a")
    expect_hold(cluster, Reason.MUST_STOP_TO_MOVE)


def test_a_shut_off_domain_moves_by_losing_its_definition_first() -> None:
    cluster = two_nodes().domain(placement={"node": "b"}, state="shutoff").assigned("a")
    cluster.seen("a", "shutoff", "shutdown")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.REVOKE and action.settled is not None
    assert action.settled.candidates == () and action.settled.proofs[-1].rule is Rule.REVOKED
    assert not action.settled.proofs[-1].vanished


def test_a_proof_from_an_unproving_state_is_marked_as_vanished() -> None:
    cluster = two_nodes().domain(placement={"node": "b"}, state="shutoff").assigned("a")
    action = cluster.seen("a", "shutoff", "unknown").verdict().action
    assert action is not None and action.settled is not None and action.settled.proofs[-1].vanished


@pytest.mark.parametrize(
    ("change", "way_out"),
    [({"managed_save": True}, "domctl drop-saved web"), ({"snapshots": 2}, "virsh snapshot-delete")],
)
def test_saved_state_pins_a_domain_to_its_node_and_says_what_frees_it(
    change: dict[str, object], way_out: str
) -> None:
    cluster = two_nodes().domain(placement={"node": "b"}, state="shutoff").assigned("a", stopped=True)
    cluster.seen("a", "shutoff", "saved", **change)
    expect_hold(cluster, Reason.PINNED_BY_STORAGE)
    verdict = cluster.verdict()
    assert verdict.deferred is not None and way_out in verdict.deferred.command
    assert "source.shared" not in verdict.deferred.command


# --- stopping


def test_the_ladder_begins_with_acpi_and_ends_with_destroy() -> None:
    cluster = two_nodes().domain(state="shutoff").assigned("a").seen("a")
    expect_action(cluster, ActionKind.SHUTDOWN)
    cluster.given(ladders={UUID: Ladder(0, NOW - 10)})
    expect_hold(cluster, Reason.SHUTTING_DOWN)
    cluster.given(ladders={UUID: Ladder(0, NOW - 61)})
    expect_action(cluster, ActionKind.DESTROY)


def test_a_ladder_without_destroy_never_destroys() -> None:
    ladder = [{"method": "acpi", "timeoutSeconds": 5}]
    cluster = two_nodes().domain(state="shutoff", shutdown=ladder).assigned("a").seen("a")
    expect_hold(cluster.given(ladders={UUID: Ladder(0, NOW - 6)}), Reason.SHUTDOWN_IGNORED)


def test_a_stopped_domain_closes_its_stop_intent() -> None:
    cluster = two_nodes().domain(state="shutoff").assigned("a").intends(IntentKind.STOP, "a")
    action = cluster.seen("a", "shutoff", "destroyed").verdict().action
    assert action is not None and action.kind is ActionKind.RECORD and action.after is not None
    assert action.after.stopped and action.after.intent is None


@pytest.mark.parametrize("state", ["paused", "crashed", "pmsuspended"])
def test_a_domain_that_is_active_but_does_not_run_is_left_to_its_admin(state: str) -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", state, "user", active=True)
    verdict = cluster.verdict()
    assert verdict.action is None and verdict.deferred is not None and verdict.deferred.command


# --- deletion


DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["domctl.io/undefine"]}


def test_a_deleted_domain_is_shut_down_then_undefined_then_removed() -> None:
    cluster = two_nodes().domain(meta=DELETED).assigned("a").seen("a")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.SHUTDOWN
    assert action.after is not None and action.after.tombstone
    cluster.seen("a", "shutoff", "destroyed")
    expect_action(cluster, ActionKind.REVOKE)
    proof = Proof(node="a", rule=Rule.REVOKED, epoch=4, at="now")
    cluster.sightings = {}
    cluster.assigned("a", candidates=(), proofs=(proof,), tombstone=True)
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.FINISH and action.after is None


def test_a_deleted_domain_on_an_unreachable_node_waits() -> None:
    expect_hold(two_nodes().domain(meta=DELETED).assigned("a").silent("a"), Reason.NODE_UNREACHABLE)


def test_a_domain_that_was_never_placed_is_removed_at_once() -> None:
    action = two_nodes().domain(meta=DELETED).verdict().action
    assert action is not None and action.kind is ActionKind.FINISH


def test_deletion_policy_orphan_hands_the_domain_back() -> None:
    cluster = two_nodes().domain(meta=DELETED, deletionPolicy="Orphan").assigned("a").seen("a")
    expect_action(cluster, ActionKind.HAND_BACK)


def test_a_tombstone_outlives_its_object_until_a_dead_node_answers() -> None:
    """I11 and F29: the domain may come back with the node."""
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=4, at="now")
    cluster = two_nodes().domain(meta=DELETED).assigned("a", candidates=(), proofs=(proof,), tombstone=True)
    cluster.silent("a").dead("a")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.FINISH and action.after is not None
    cluster.domains = {}
    assert cluster.verdict().action is None
    cluster.more.pop("dead")
    cluster.answering("a")
    action = cluster.verdict().action
    assert action is not None and action.after is not None and action.after.candidates == ("a",)


def test_an_object_that_vanished_without_deletion_leaves_its_domain_alone() -> None:
    cluster = running_on_a()
    cluster.domains = {}
    expect_hold(cluster, Reason.OBJECT_MISSING)


# --- holds on everything


def test_an_untrusted_store_stops_every_change() -> None:
    expect_hold(two_nodes().domain().given(hold="the store was restored"), Reason.STORE_NOT_TRUSTED)


def test_a_corrupt_assignment_is_not_the_lack_of_one() -> None:
    expect_hold(two_nodes().domain().given(unreadable=frozenset({UUID})), Reason.ASSIGNMENT_UNREADABLE)


def test_a_mark_of_another_cluster_wins_over_the_assignment() -> None:
    mark = Mark("another-cluster", UUID, 9, "x")
    expect_hold(two_nodes().domain().assigned("a").seen("a", config_mark=mark), Reason.FOREIGN_MARK)


def test_a_mark_from_the_future_says_that_the_store_was_restored() -> None:
    mark = Mark(CLUSTER, UUID, 9, "x")
    expect_hold(two_nodes().domain().assigned("a").seen("a", live_mark=mark), Reason.STORE_RESTORED)


def test_nothing_is_done_twice_on_one_observation() -> None:
    """I6: what was changed is unknown until a listing sent afterwards; one that passed over a domain which
    was being started says nothing of it, however late it was sent."""
    for at in (995.0, 994.9):
        cluster = running_on_a().given(awaiting={(UUID, "a"): at})
        expect_hold(cluster, Reason.AWAITING_OBSERVATION)


def test_an_observe_only_node_is_never_changed() -> None:
    cluster = Cluster().node("a", observeOnly=True).domain().assigned("a").seen("a", "shutoff", "crashed")
    expect_hold(cluster, Reason.NODE_OBSERVE_ONLY)


def test_what_libvirt_refused_is_not_sent_again_until_the_spec_changes() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "destroyed")
    _, digest = cluster.rendered("a")
    cluster.given(stalls={UUID: Stall("a", digest, "define on a: unsupported machine")})
    expect_hold(cluster, Reason.REJECTED)
    cluster.domain(memory="48Mi")
    expect_action(cluster, ActionKind.START)


def test_a_failed_attempt_pauses() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "failed")
    expect_hold(cluster.given(backoffs={UUID: Backoff(3, NOW + 4, "no memory")}), Reason.BACKING_OFF)


@pytest.mark.parametrize(
    ("spec", "state", "reason"),
    [
        ({"state": "shutoff"}, "running", "booted"),
        ({"state": "shutoff", "placement": {"node": "b"}}, "shutoff", "destroyed"),
    ],
)
def test_a_leader_whose_predecessor_did_not_resign_takes_nothing_away_before_the_quiet_time(
    spec: dict[str, object], state: str, reason: str
) -> None:
    cluster = two_nodes().domain(**spec).assigned("a").seen("a", state, reason)
    cluster.resigned = False
    expect_hold(cluster, Reason.QUIET_TIME)


@pytest.mark.parametrize("uri", ["qemu+ssh://root@a/system", "qemu+ext:///system"])
def test_behind_a_tunnel_late_commands_are_waited_for_longer(uri: str) -> None:
    """safety 4: not before TTL + 120 s, counted from the election; 35 s after the first list as elsewhere."""
    timing = Timing()
    elected_at = NOW - timing.lease_ttl_s - timing.quiet_s - 1
    reads = ((elected_at + 0.1, elected_at + 0.2), (elected_at + 0.3, elected_at + 0.4))
    for address, after_s, waits in (
        ("qemu+tcp://a/system", 0.0, False),
        (uri, 0.0, True),
        (uri, timing.tunnel_quiet_s - timing.quiet_s - 2, True),
        (uri, timing.tunnel_quiet_s - timing.quiet_s, False),
    ):
        cluster = Cluster().node("a", uri=address).domain(state="shutoff").assigned("a").seen("a")
        cluster.answering("a", reads)
        cluster.resigned = False
        cluster.given(now=NOW + after_s, term=Term(elected_at, predecessor_resigned=False))
        verdict = cluster.verdict()
        held = verdict.deferred is not None and verdict.deferred.reason is Reason.QUIET_TIME
        assert held is waits, (address, after_s, verdict)


def test_a_new_leader_may_start_what_ended_at_home_without_waiting() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "crashed")
    cluster.resigned = False
    expect_action(cluster, ActionKind.START)


def test_the_full_read_waits_for_the_quiet_time() -> None:
    cluster = two_nodes().domain().assigned("a")
    cluster.resigned = False
    expect_hold(cluster, Reason.QUIET_TIME)


# --- what a hostile review found


def test_a_domain_that_is_back_on_its_last_node_is_not_placed_elsewhere() -> None:
    """R1 was proved, nothing fitted, and an admin defined it again where it was."""
    proof = Proof(node="a", rule=Rule.REVOKED, epoch=4, at="now")
    for state, why in (("running", "booted"), ("shutoff", "unknown")):
        cluster = two_nodes().domain(placement={"node": "b"}).assigned("a", candidates=(), proofs=(proof,))
        action = cluster.seen("a", state, why).verdict().action
        assert action is not None and action.after is not None
        assert (action.kind, action.after.candidates) == (ActionKind.RECORD, ("a",))


def test_what_was_last_seen_on_a_dead_node_is_no_duplicate() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().domain().assigned("b", proofs=(proof,)).seen("a").seen("b").silent("a")
    assert cluster.verdict().situation is Situation.CONVERGED


def test_keeping_a_copy_needs_both_sides_to_be_read() -> None:
    cluster = running_on_a().seen("b").silent("a").resolved(keep="a")
    assert cluster.verdict().action is None


def test_a_resolution_is_used_up_once_only_the_kept_copy_is_active() -> None:
    action = running_on_a().resolved(keep="a").verdict().action
    assert action is not None and action.consumes and action.left is None


def test_a_word_that_a_domain_is_not_on_a_node_is_used_once() -> None:
    cluster = two_nodes().domain().assigned("a", candidates=("a", "b")).seen("a").silent("b")
    action = cluster.resolved(not_on=("b",)).verdict().action
    assert action is not None and action.kind is ActionKind.RELEASE and action.consumes


def test_a_word_that_was_not_needed_ends_with_its_incident() -> None:
    expect_action(running_on_a().resolved(not_on=("b",)), ActionKind.RECORD)
    action = running_on_a().resolved(not_on=("b",)).verdict().action
    assert action is not None and action.consumes and action.left is None


@pytest.mark.parametrize("why", ["shutdown", "destroyed"])
def test_a_start_uses_up_a_word_that_it_did_not_rest_on(why: str) -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", why)
    action = cluster.resolved(not_on=("b",)).verdict().action
    assert action is not None and action.kind is ActionKind.START and action.consumes and action.left is None


def test_after_a_failure_nothing_at_all_is_tried_before_its_pause_is_over() -> None:
    cluster = two_nodes().domain(meta=DELETED).assigned("a").seen("a", "shutoff", "saved")
    expect_hold(cluster.given(backoffs={UUID: Backoff(2, NOW + 2, "managed save")}), Reason.BACKING_OFF)


def test_a_proof_of_death_ends_when_the_node_answers_without_the_domain() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    action = two_nodes().domain().assigned("b", proofs=(proof,)).seen("b").verdict().action
    assert action is not None and action.after is not None and action.after.proofs == ()


def test_orphaning_never_stops_a_domain_that_has_copies() -> None:
    cluster = two_nodes().domain(meta=DELETED, deletionPolicy="Orphan").assigned("a")
    expect_hold(cluster.seen("a").seen("b", "shutoff", "unknown"), Reason.ORPHAN_COPIES)


def test_a_migration_that_was_seen_outranks_how_the_domain_ended_at_home() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "failed").given(migrated={UUID})
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)
    expect_action(cluster.resolved(keep="a"), ActionKind.START)


def test_a_proof_that_proved_nothing_is_not_mended_by_a_new_home() -> None:
    """Safety §3: I22 governs starts elsewhere, too."""
    proof = Proof(node="b", rule=Rule.REVOKED, epoch=3, at="now", vanished=True)
    cluster = two_nodes().domain().assigned("a", proofs=(proof,)).seen("a", "shutoff", "failed")
    expect_hold(cluster.given(signs={UUID: 994.0}), Reason.READING_ALL_NODES)


def test_a_terminating_node_gets_nothing_new() -> None:
    cluster = Cluster().node("a").node("b").domain()
    node = cluster.nodes["a"].node
    meta = msgspec.structs.replace(node.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    cluster.nodes["a"] = StoredNode(msgspec.structs.replace(node, metadata=meta), 1)
    expect_action(cluster, ActionKind.START, "b")


@pytest.mark.parametrize("reason", ["postcopy", "postcopy-failed"])
def test_neither_side_of_a_post_copy_is_touched(reason: str) -> None:
    cluster = two_nodes().domain(state="shutoff").assigned("a").seen("a", "paused", reason, active=True)
    expect_hold(cluster, Reason.POSTCOPY)


def test_a_node_that_was_not_tried_yet_is_not_dead_by_an_old_word() -> None:
    cluster = running_on_a().dead("a")
    cluster.views["a"] = NodeView()
    expect_hold(cluster, Reason.NODES_CONNECTING)


def test_a_domain_that_cannot_be_planned_keeps_no_other_from_it() -> None:
    cluster = two_nodes().domain(memory="lots").domain(OTHER, "other")
    verdicts = plan(cluster.snapshot(), [UUID, OTHER])
    assert verdicts[UUID].deferred is not None and verdicts[UUID].deferred.reason is Reason.INTERNAL
    assert verdicts[OTHER].action is not None


def test_what_is_done_again_and_again_without_effect_is_a_failure() -> None:
    """L3: libvirt says done, and the next look shows that nothing changed."""
    attempts = Attempts(Timing())
    told = [attempts.in_vain(UUID, "mark: lacks it", at) for at in (1.0, 2.0, 3.0)]
    assert told == [False, False, True]
    assert not attempts.in_vain(UUID, "define: drift", 4.0)
    assert not attempts.in_vain(UUID, "define: drift", 40.0), "long apart is not a loop"


# --- found by going through all small worlds


def test_a_domain_is_not_placed_on_a_node_that_was_not_read_since_it_was_asked_for_something() -> None:
    """I3: what was sent there for this domain may still happen."""
    cluster = two_nodes().domain(placement={"node": "b"}).assigned("a", candidates=())
    expect_action(cluster, ActionKind.START, "b")
    expect_hold(cluster.given(awaiting={(UUID, "b"): NOW - 1}), Reason.AWAITING_OBSERVATION)


def test_a_deleted_domain_that_was_seen_to_migrate_is_looked_for_on_every_node() -> None:
    """Its tombstone stays until it is proved absent everywhere it may be: a node that is down, too."""
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    cluster = two_nodes().domain(meta=meta).assigned("a").silent("b")
    expect_action(cluster, ActionKind.RELEASE)
    expect_hold(cluster.given(migrated={UUID}), Reason.NODE_NOT_READ)
    expect_action(cluster.resolved(not_on=("b",)), ActionKind.RELEASE)


def test_an_interrupted_start_on_a_node_that_may_not_be_changed_is_left_alone() -> None:
    cluster = interrupted(NOW - 41)
    cluster.node("a", observeOnly=True)
    expect_hold(cluster, Reason.NODE_OBSERVE_ONLY)


def test_the_mark_of_another_domain_is_no_evidence() -> None:
    """A clone copies the mark, its epoch too."""
    clone = Mark(CLUSTER, OTHER, 3, "")
    cluster = two_nodes().domain().assigned("a").intends(IntentKind.START, "a").given(signs={UUID: 999.0})
    expect_hold(cluster.seen("a", "shutoff", "unknown", config_mark=clone), Reason.READING_ALL_NODES)
    paused = interrupted(NOW - 41).seen("a", "paused", "starting-up", active=True, since=900, live_mark=clone)
    expect_hold(paused, Reason.MIGRATION_IN_PROGRESS)


def test_a_domain_on_a_node_that_may_not_be_changed_is_not_handed_back() -> None:
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    cluster = two_nodes().domain(meta=meta, deletionPolicy="Orphan").assigned("a").seen("a")
    expect_action(cluster, ActionKind.HAND_BACK)
    cluster.node("a", observeOnly=True)
    expect_hold(cluster, Reason.NODE_OBSERVE_ONLY)


def test_an_interrupted_start_is_undone_though_a_dead_node_came_back_with_a_definition() -> None:
    """Else it is taken for an incoming migration, and nobody ever clears either."""
    expect_action(interrupted(NOW - 41).seen("b", "shutoff", "unknown"), ActionKind.DESTROY)
    expect_hold(interrupted(NOW - 41).seen("b", "shutoff", "migrated"), Reason.MIGRATION_IN_PROGRESS)
