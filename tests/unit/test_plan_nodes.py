"""The plan's rules where nodes are silent, dead or back, and where a domain is in two places or moved.

One invented cluster at a time. Names say the behaviour; invariants stand in comments.
"""

from __future__ import annotations

import pytest

from controller.model import Proof, Rule
from controller.plan.snapshot import Backoff, Policy
from controller.plan.types import ActionKind, Reason
from drivers.errors import SAID_BY_HOST, Cause
from tests.unit.plancase import (
    NOW,
    UUID,
    Cluster,
    expect_action,
    expect_hold,
    interrupted,
    running_on_a,
    two_nodes,
)

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
    assert verdict.action.node == "b"
    assert verdict.action.after is not None and [p.node for p in verdict.action.after.proofs] == ["a"]
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


@pytest.mark.parametrize("migrated", [False, True])
@pytest.mark.parametrize("stale", ["a", "b"])
def test_what_was_left_behind_by_a_move_by_hand_starts_at_no_boot(stale: str, migrated: bool) -> None:
    """Seed 105953: the source kept its definition, with the autostart that its spec had asked for."""
    runs = "b" if stale == "a" else "a"
    cluster = two_nodes().domain(placement={"node": "a"}, recovery={"autostart": True}).assigned("a")
    cluster.seen(stale, "shutoff", "unknown", autostart=True).seen(runs)
    expect_action(cluster.given(migrated={UUID} if migrated else set()), ActionKind.AUTOSTART, stale)
    action = cluster.verdict().action
    assert action is not None and not action.autostart
    assert action.settled is not None and action.settled.node == "a"


def test_what_may_run_unseen_starts_at_no_boot_either_but_for_a_node_that_is_only_looked_at() -> None:
    for spec, cleared in (({}, True), ({"observeOnly": True}, False)):
        cluster = Cluster().node("a", **spec).node("b").silent("b").domain(placement={"node": "a"})
        cluster.assigned("a").seen("a", "shutoff", "unknown", autostart=True).given(migrated={UUID})
        action = cluster.verdict().action
        assert (action is not None and action.kind is ActionKind.AUTOSTART) is cleared


def test_a_home_whose_domain_may_run_where_nobody_looks_must_not_start_it_at_a_boot() -> None:
    """Seed 101911: it was moved by hand, the node that it went to is silent, and its home booted."""
    cluster = two_nodes().given(policy=Policy(hand_migrations=True))
    cluster.domain(recovery={"autostart": True}).assigned("a").silent("b")
    cluster.seen("a", "shutoff", "unknown", autostart=True)
    expect_action(cluster, ActionKind.AUTOSTART, "a")
    action = cluster.verdict().action
    assert action is not None and not action.autostart
    cluster.seen("a", "shutoff", "unknown")
    expect_hold(cluster, Reason.NODE_NOT_READ)


def test_where_a_domain_that_somebody_migrated_by_hand_runs_is_written_down_and_it_is_left_alone() -> None:
    cluster = two_nodes().domain().assigned("a").seen("b")
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.RECORD and action.after is not None
    assert action.after.candidates == ("a", "b") and action.after.node == "a"
    expect_hold(cluster.assigned("a", candidates=("a", "b")), Reason.RUNS_ELSEWHERE)


def test_a_running_migration_is_not_disturbed() -> None:
    expect_hold(running_on_a().seen("b", "paused", "migration"), Reason.MIGRATION_IN_PROGRESS)


def test_who_finds_a_migration_of_nobodys_is_told_how_to_end_one_that_stalls() -> None:
    """Seed 58 of moves_stalled: a restored store had forgotten it, and it would never end."""
    deferred = running_on_a().seen("b", "paused", "migration").verdict().deferred
    assert deferred is not None
    assert "virsh domjobinfo on a" in deferred.command and "virsh destroy on b" in deferred.command


def test_a_transient_domain_that_was_moved_by_hand_has_not_ended_for_its_policy() -> None:
    """Seed 36 of came_back: where it went was confirmed dead, and it was said to have completed."""
    cluster = two_nodes().domain(persistence="transient", restartPolicy="Never").assigned("a", away=True)
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)


def test_a_node_that_does_not_answer_is_the_reason_even_if_a_migration_was_seen_there() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "paused", "starting-up").silent("a")
    expect_hold(cluster, Reason.NODE_UNREACHABLE)


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


@pytest.mark.parametrize(
    ("answered_at", "reason"),
    [(None, Reason.AWAITING_OBSERVATION), (NOW - 34, Reason.QUIET_TIME), (NOW - 36, None)],
)
def test_a_node_that_left_a_definition_unanswered_is_left_only_when_that_cannot_come_late(
    answered_at: float | None, reason: Reason | None
) -> None:
    cluster = two_nodes().domain(placement={"node": "b"}, state="shutoff").assigned("a")
    cluster.seen("a", "shutoff", "shutdown").given(unanswered={(UUID, "a"): answered_at})
    verdict = cluster.verdict()
    assert (verdict.deferred.reason if verdict.deferred is not None else None) is reason
    assert (verdict.action is not None) is (reason is None)


def test_what_another_node_left_unanswered_holds_a_domain_that_vanished_but_not_its_own_node() -> None:
    """I22c: a late definition at home is where it belongs."""
    for node, held in (("a", False), ("b", True)):
        cluster = two_nodes().domain().assigned("a").given(unanswered={(UUID, node): NOW - 1})
        verdict = cluster.verdict()
        assert (verdict.deferred is not None and verdict.deferred.reason is Reason.QUIET_TIME) is held, node


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
