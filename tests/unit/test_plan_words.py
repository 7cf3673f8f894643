"""What a word, or a sign, outlives: that a node is dead, that its disks are wiped, that somebody moved it."""

from __future__ import annotations

import msgspec
import pytest

from controller.model import IntentKind, Proof, Rule
from controller.plan.evidence import is_void, way_out
from controller.plan.snapshot import Held, Policy
from controller.plan.types import ActionKind, Reason, Situation
from drivers.errors import Cause
from tests.unit.plancase import (
    DELETED,
    NOW,
    UUID,
    Cluster,
    expect_action,
    expect_hold,
    running_on_a,
    two_nodes,
)


def three() -> Cluster:
    return Cluster().node("a").node("b").node("c").domain()


def carried_out(cluster: Cluster) -> None:
    """What is due is done: only the record changes."""
    action = cluster.verdict().action
    assert action is not None and action.after is not None
    cluster.assignments[UUID] = Held(action.after, 6)


# --- confirm-dead


def test_who_answered_after_the_word_was_given_is_not_dead_though_it_is_silent_again() -> None:
    cluster = running_on_a().dead("a")
    cluster.answering("a", reads=((990.0, 991.0), (NOW + 1, NOW + 2))).silent("a")
    expect_hold(cluster, Reason.NODE_UNREACHABLE)


def test_who_refused_after_the_word_was_given_is_not_dead_either() -> None:
    cluster = running_on_a().dead("a").silent("a")
    cluster.views["a"] = msgspec.structs.replace(cluster.views["a"], denied_at=NOW + 1)
    expect_hold(cluster, Reason.NODE_UNREACHABLE)


@pytest.mark.parametrize("since", [0.0, NOW + 1])
def test_another_node_of_its_host_that_answers_speaks_for_the_host(since: float) -> None:
    cluster = running_on_a().silent("a").dead("a").given(kin={"a": ("b",), "b": ("a",)})
    expect_hold(cluster.answering("b", reads=((990.0, 991.0), (since, since + 1))), Reason.NODE_UNREACHABLE)


@pytest.mark.parametrize(("read_at", "is_dead"), [(NOW - 5, True), (NOW + 1, False)])
def test_what_another_node_of_its_host_said_counts_if_it_came_after_the_word(
    read_at: float, is_dead: bool
) -> None:
    cluster = running_on_a().silent("a").dead("a").given(kin={"a": ("b",), "b": ("a",)})
    cluster.answering("b", reads=((read_at - 5, read_at - 4), (read_at, read_at + 1))).silent("b")
    if is_dead:
        expect_action(cluster, ActionKind.RELEASE)
    else:
        expect_hold(cluster, Reason.NODE_UNREACHABLE)


@pytest.mark.parametrize("begins", [False, True])
def test_nothing_is_started_elsewhere_once_another_node_of_the_host_has_answered(begins: bool) -> None:
    """The word stands for a moment yet, until it is struck out, and the domain has left by it."""
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().node("c").domain().silent("a").dead("a").given(kin={"a": ("c",), "c": ("a",)})
    cluster.assigned("b", proofs=(proof,), candidates=("b",) if begins else ())
    if begins:
        cluster.intends(IntentKind.START, "b")
    action = cluster.verdict().action
    assert action is not None and action.after is not None
    assert action.kind is ActionKind.RECORD and "a" in action.after.candidates
    assert is_void(cluster.snapshot(), proof)
    cluster.silent("c")
    assert not is_void(cluster.snapshot(), proof)
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.START


def test_a_start_that_was_interrupted_and_ran_has_used_up_what_could_be_taken_back() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    cluster = two_nodes().domain().silent("a").assigned("b", proofs=(proof,)).intends(IntentKind.START, "b")
    action = cluster.seen("b").dead("a").verdict().action
    assert action is not None and action.after is not None and action.after.intent is None
    assert [p.used for p in action.after.proofs] == [True]
    cluster.assignments[UUID] = Held(action.after, 6)
    cluster.more["dead"] = {}
    cluster.seen("b", "shutoff", "crashed")
    expect_action(cluster, ActionKind.START, "b")
    cluster.assigned("b", proofs=(proof,))
    expect_action(cluster, ActionKind.RECORD, "a")


def test_a_word_does_not_stand_for_the_reading_of_a_node_that_answers_and_is_just_being_read() -> None:
    """Each release left the copy where it was seen, and the next one was due at once."""
    cluster = two_nodes().domain().assigned("b").seen("b").seen("a", "shutoff", "unknown").dead("a")
    expect_action(cluster, ActionKind.REVOKE, "a")
    expect_hold(cluster.given(awaiting={(UUID, "a"): NOW}), Reason.AWAITING_OBSERVATION)
    expect_action(cluster.silent("a"), ActionKind.RELEASE, "a")


def test_an_answer_from_before_the_word_says_nothing_against_it() -> None:
    expect_action(running_on_a().silent("a").dead("a"), ActionKind.RELEASE)


def test_nobody_is_told_to_take_a_copy_away_without_a_word_of_its_saved_memory() -> None:
    """Seed 908536: libvirt undefines nothing that has saved memory, and that may be what is to go on."""
    cluster = two_nodes().domain().assigned("a").seen("b", "shutoff", "saved", managed_save=True)
    told = way_out(cluster.assignments[UUID].assignment, "b", cluster.sightings[UUID]["b"])
    assert "virsh undefine --managed-save on b" in told and "domctl resolve web -n default --keep b" in told


# --- replaced


def deleted_after(proof: Proof) -> Cluster:
    cluster = two_nodes().domain(meta=DELETED)
    return cluster.assigned(
        "b", proofs=(proof,), candidates=(), tombstone=True, macs={"eth0": "52:54:00:00:00:01"}
    )


@pytest.mark.parametrize("wiped", [True, False])
def test_the_word_that_a_node_is_wiped_outlives_its_node(wiped: bool) -> None:
    cluster = deleted_after(Proof(node="gone", rule=Rule.CONFIRMED_DEAD, epoch=2, at="then", wiped=wiped))
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.FINISH
    assert (action.after is None) == wiped, "a tombstone waits for who may come back"
    assert bool(action.release_macs) == wiped


def made_anew(*, wiped: bool) -> Cluster:
    """The UUID of a domain that was deleted after the node that it was last seen on was replaced."""
    cluster = two_nodes().domain().assigned("a").seen("a").silent("a").dead("a", wiped=wiped)
    del cluster.assignments[UUID]
    return cluster


def test_what_was_last_seen_on_a_wiped_node_is_in_the_way_of_nothing() -> None:
    cluster = made_anew(wiped=True)
    expect_action(cluster, ActionKind.START, "b")
    carried_out(cluster)
    started = cluster.assignments[UUID].assignment
    assert started.epoch > 3, "an epoch below one that was seen means that the store was set back"
    cluster.seen("b")
    assert cluster.verdict().situation is not Situation.DUPLICATE


def test_what_was_last_seen_on_a_dead_node_that_was_not_wiped_may_come_back_with_it() -> None:
    expect_hold(made_anew(wiped=False), Reason.UUID_IN_USE)


def test_a_copy_on_a_wiped_node_that_answers_after_all_is_in_the_way() -> None:
    cluster = made_anew(wiped=True)
    cluster.answering("a", reads=((990.0, 991.0), (NOW + 1, NOW + 2)))
    expect_hold(cluster, Reason.UUID_IN_USE)
    expect_hold(cluster.silent("a"), Reason.UUID_IN_USE)


def test_a_wiped_node_that_is_registered_again_and_answers_is_looked_at_first() -> None:
    cluster = deleted_after(Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=2, at="then", wiped=True))
    carried_out(cluster)
    assert (
        cluster.assignments[UUID].assignment.proofs == () or cluster.verdict().situation is Situation.UNKNOWN
    )


@pytest.mark.parametrize("wiped", [True, False])
def test_a_proof_says_whether_it_rests_on_the_word_that_the_node_is_wiped(wiped: bool) -> None:
    action = running_on_a().silent("a").dead("a", wiped=wiped).verdict().action
    assert action is not None and action.after is not None
    assert [proof.wiped for proof in action.after.proofs] == [wiped]


# --- moved away by hand


@pytest.mark.parametrize("signs", [{}, {"migrated": {UUID}}])
def test_that_it_was_moved_away_is_recorded_before_anything_else(signs: dict[str, set[str]]) -> None:
    cluster = three().assigned("a").seen("a", "shutoff", "migrated").silent("c").given(**signs)
    expect_action(cluster, ActionKind.RECORD)
    carried_out(cluster)
    assert cluster.assignments[UUID].assignment.away
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)


def test_a_domain_that_was_moved_away_is_not_started_when_its_old_home_dies() -> None:
    """Another leader finds its home silent, and knows by the record alone."""
    cluster = three().assigned("a", away=True).silent("a").silent("c").dead("a")
    expect_action(cluster, ActionKind.RELEASE)
    carried_out(cluster)
    expect_hold(cluster, Reason.NODE_NOT_READ)
    cluster.answering("c")
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)  # no node that is registered has it: it may be on another
    cluster.resolved(keep="c")
    expect_action(cluster, ActionKind.START, "c")
    action = cluster.verdict().action
    assert action is not None and action.settled is not None and not action.settled.away


@pytest.mark.parametrize("reason", ["unknown", "migrated", "from-snapshot"])
def test_a_state_that_proves_nothing_calls_for_the_full_read_once_its_node_is_dead(reason: str) -> None:
    cluster = (
        three().assigned("a", away=reason == "migrated").seen("a", "shutoff", reason).silent("a").dead("a")
    )
    action = cluster.verdict().action
    assert action is not None and action.after is not None
    assert [proof.vanished for proof in action.after.proofs] == [True]


def test_a_state_that_proves_its_end_does_not() -> None:
    action = three().assigned("a").seen("a", "shutoff", "shutdown").silent("a").dead("a").verdict().action
    assert action is not None and action.after is not None
    assert [proof.vanished for proof in action.after.proofs] == [False]


def test_where_it_runs_at_home_again_it_is_away_no_more() -> None:
    cluster = three().assigned("a", away=True).seen("a")
    expect_action(cluster, ActionKind.RECORD)
    carried_out(cluster)
    assert not cluster.assignments[UUID].assignment.away
    assert cluster.verdict().situation is Situation.CONVERGED


def test_where_its_migration_has_paused_it_at_home_and_it_runs_elsewhere_it_is_still_away() -> None:
    """Seed 1003210: then its target lost power, and what libvirt made of its source was taken for its end."""
    cluster = (
        running_on_a()
        .assigned("a", away=True)
        .seen("a", "paused", "migration")
        .seen("b", "running", "migrated")
    )
    verdict = cluster.verdict()
    assert verdict.action is None or verdict.action.after is None or verdict.action.after.away, verdict


def test_where_it_was_moved_to_is_written_down_and_it_stays_there() -> None:
    cluster = three().assigned("a", away=True).seen("c")
    expect_action(cluster, ActionKind.RECORD, "c")


# --- not on a node


def moved_while_nobody_led() -> Cluster:
    return two_nodes().domain().assigned("a").silent("b").given(policy=Policy(hand_migrations=True))


def test_a_word_counts_as_a_reading_of_a_node_that_is_silent() -> None:
    cluster = moved_while_nobody_led()
    expect_hold(cluster, Reason.NODE_NOT_READ)
    expect_action(cluster.resolved(not_on=("b",)), ActionKind.START)


def test_a_word_is_struck_out_when_its_node_answers() -> None:
    cluster = moved_while_nobody_led().resolved(not_on=("b", "c"))
    cluster.answering("b", reads=((NOW + 1, NOW + 2),)).seen("b")
    action = cluster.verdict().action
    assert action is not None and (action.kind, action.consumes) == (ActionKind.RECORD, True)
    assert action.left is not None and action.left.not_on == ("c",)


def test_a_word_does_not_count_any_more_once_its_node_was_heard_though_it_is_silent_again() -> None:
    cluster = moved_while_nobody_led().resolved(not_on=("b",))
    cluster.answering("b", reads=((NOW + 1, NOW + 2),)).silent("b")
    action = cluster.verdict().action
    assert action is not None and (action.kind, action.left) == (ActionKind.RECORD, None)
    cluster.more["resolutions"].clear()
    expect_hold(cluster, Reason.NODE_NOT_READ)


# --- what is told leads out


def test_a_copy_that_is_to_go_and_whose_node_died_does_not_hold_the_one_that_is_kept() -> None:
    cluster = two_nodes().domain().assigned("a", candidates=("a", "b")).seen("a").seen("b").resolved(keep="a")
    expect_action(cluster, ActionKind.DESTROY, "b")
    expect_hold(cluster.silent("b"), Reason.NODE_UNREACHABLE)
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.command == "domctl node confirm-dead b"
    cluster.dead("b")
    for kind, node in ((ActionKind.RECORD, "a"), (ActionKind.RELEASE, "b")):
        expect_action(cluster, kind, node)
        carried_out(cluster)
        cluster.more["resolutions"] = {}
    assert cluster.verdict().deferred is None


def test_nobody_is_told_to_call_a_node_dead_whose_host_is_known_to_be_up() -> None:
    cluster = running_on_a().node("c").silent("a").given(kin={"a": ("c",), "c": ("a",)})
    for say in (cluster.answering, lambda node: cluster.refused(node, Cause.KEY_REFUSED)):
        say("c")
        deferred = cluster.verdict().deferred
        assert deferred is not None and deferred.reason is Reason.NODE_UNREACHABLE
        assert deferred.command == "mend what serves node a on its host, which is up, as its node c shows"
    deferred = cluster.silent("c").verdict().deferred
    assert deferred is not None and deferred.command == "domctl node confirm-dead a"


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_to_be_handed_back_and_stands_on_a_silent_node_waits_for_that(beside: bool) -> None:
    cluster = two_nodes().domain(meta=DELETED, deletionPolicy="Orphan").assigned("a", candidates=("a", "b"))
    if beside:
        cluster.seen("a", "shutoff", "shutdown")
    cluster.seen("b").silent("b")
    expect_hold(cluster, Reason.NODE_UNREACHABLE)
    expect_action(cluster.dead("b"), ActionKind.RELEASE, "b")
