"""The plan's rules that hold everything back, and those of deletion; and what reviews and small worlds found.

One invented cluster at a time. Names say the behaviour; invariants stand in comments.
"""

from __future__ import annotations

import msgspec
import pytest

from controller.attempts import LOCKED_PAUSE_S, Attempts
from controller.limits import Timing
from controller.model import IntentKind, Proof, Rule
from controller.plan import plan
from controller.plan.snapshot import Backoff, Held, Link, NodeView, Stall, StoredNode, Term
from controller.plan.types import STALLING, ActionKind, Reason, Situation
from specs.mark import Mark
from tests.unit.plancase import (
    CLUSTER,
    DELETED,
    NOW,
    OTHER,
    UUID,
    Cluster,
    expect_action,
    expect_hold,
    interrupted,
    running_on_a,
    two_nodes,
)

# --- deletion


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
    cluster.dead("a", wiped=True)
    silent = cluster.views["a"]
    cluster.views["a"] = msgspec.structs.replace(silent, link=Link.REFUSED, cause="ClientRefused")
    action = cluster.verdict().action
    assert action is not None and action.after is not None, "something answers there: the word is void"
    assert action.kind is ActionKind.RECORD and action.after.candidates == ("a",)
    cluster.views["a"] = silent
    action = cluster.verdict().action
    assert action is not None and action.kind is ActionKind.FINISH and action.after is None
    cluster.more.pop("dead")
    cluster.answering("a")
    action = cluster.verdict().action
    assert action is not None and action.after is not None and action.after.candidates == ("a",)


def test_an_object_that_a_restored_store_has_undeleted_beside_its_tombstone_is_kept() -> None:
    """Seed 5 of left_armed: it was taken away, and never removed, for it was not being deleted."""
    for seen in (("running", "booted"), ("shutoff", "shutdown")):
        action = two_nodes().domain().assigned("a", tombstone=True).seen("a", *seen).verdict().action
        assert action is not None and action.kind is ActionKind.RECORD
        assert action.after is not None and not action.after.tombstone


def test_an_object_that_vanished_without_deletion_leaves_its_domain_alone() -> None:
    """What is applied anew gets another uid, so that is no way out."""
    cluster = running_on_a()
    domains, cluster.domains = cluster.domains, {}
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.reason is Reason.OBJECT_MISSING
    told = "restore /domctl/objects/domains/default/web in etcd from a backup; or, to give the domain up, "
    assert deferred.command == f"{told}delete /domctl/assignments/{UUID}, and no host is changed"
    held, cluster.assignments = cluster.assignments, {}
    assert cluster.verdict().deferred is None and cluster.verdict().action is None
    cluster.domains, cluster.assignments = domains, held
    assert cluster.verdict().situation is Situation.CONVERGED


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


def test_a_disk_that_something_else_has_open_is_told_and_not_tried_in_a_storm() -> None:
    """Fault F33: the second line held, so something else runs with its disk."""
    attempts = Attempts(Timing())
    attempts.failed(UUID, 'create on a: Failed to get "write" lock', NOW, disk_locked=True)
    assert attempts.backoffs[UUID].until == NOW + LOCKED_PAUSE_S
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "failed")
    expect_hold(cluster.given(backoffs=attempts.backoffs), Reason.DISK_LOCKED)
    assert Reason.DISK_LOCKED in STALLING, "somebody has to look"


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


def test_a_word_is_not_used_up_again_at_once_after_that_failed() -> None:
    """Seed 104910: a leader that woke without its lease wrote nothing, and tried again without a pause."""
    cluster = (
        running_on_a().resolved(not_on=("b",)).given(unwritten={UUID: Backoff(1, NOW + 2.0, "no answer")})
    )
    verdict = cluster.verdict()
    assert (verdict.action, verdict.situation) == (None, Situation.CONVERGED)
    assert verdict.again_after_s == pytest.approx(2.0)


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


LOCKED = {UUID: Backoff(3, NOW + 240, 'create on a: Failed to get "write" lock', disk_locked=True)}
PAUSED = {
    "it was moved away by hand, and nobody saw where to": (
        two_nodes().node("c").silent("c").domain().assigned("a").seen("a", "shutoff", "migrated"),
        {"migrated": {UUID}},
    ),
    "a node of which an operator spoke answered since": (
        two_nodes().domain().assigned("a").seen("a", "shutoff", "shutdown").resolved(not_on=("b",)),
        {"resolved_since": {}},
    ),
    "it completed": (
        two_nodes().domain(restartPolicy="Never").assigned("a").seen("a", "shutoff", "shutdown"),
        {},
    ),
}


@pytest.mark.parametrize("seen", PAUSED)
def test_what_is_seen_is_written_down_though_a_command_failed_just_now(seen: str) -> None:
    """An image lock holds just when somebody else has the domain; the next leader may see nothing of it."""
    cluster, more = PAUSED[seen]
    told = cluster.given(**more).verdict().action
    assert told is not None and told.kind is ActionKind.RECORD
    assert cluster.given(backoffs=LOCKED).verdict().action == told
    held = cluster.given(unwritten={UUID: Backoff(1, NOW + 2, "no answer")})
    expect_hold(held, Reason.BACKING_OFF)


def test_what_was_written_down_ends_no_pause_and_does_not_outlive_its_own() -> None:
    attempts = Attempts(Timing())
    attempts.failed(UUID, "create on a: locked", NOW, disk_locked=True)
    attempts.failed(UUID, "no answer", NOW, is_record=True)
    attempts.written(UUID, NOW + 1)
    assert UUID in attempts.backoffs and UUID not in attempts.unwritten
    attempts.written(UUID, NOW + LOCKED_PAUSE_S)
    assert UUID not in attempts.backoffs


def test_autostart_that_was_set_at_a_home_of_before_holds_its_death_too() -> None:
    """Moved by hand and kept where it went; no leader of now saw its first home, which boots some day."""
    meta = {"placement": {"node": "a"}, "recovery": {"autostart": True}}
    cluster = two_nodes().domain(**meta).assigned("b", candidates=("a", "b"), autostart=True)
    expect_hold(cluster.seen("b").silent("a").dead("a"), Reason.AUTOSTART_ON_DEAD_NODE)


def test_only_a_node_that_lacks_a_listing_is_listed_again() -> None:
    cluster = Cluster()
    for name in "abcd":
        cluster.node(name)
    cluster.domain().assigned("a").given(signs={UUID: 992.0})
    cluster.answering("d", ((980.0, 981.0), (991.0, 991.5)))
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.relist == ("d",)


def test_a_proof_of_death_ends_when_the_node_answers_without_the_domain() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now")
    action = two_nodes().domain().assigned("b", proofs=(proof,)).seen("b").verdict().action
    assert action is not None and action.after is not None and action.after.proofs == ()


def test_orphaning_never_stops_a_domain_that_has_copies() -> None:
    cluster = two_nodes().domain(meta=DELETED, deletionPolicy="Orphan").assigned("a")
    expect_hold(cluster.seen("a").seen("b", "shutoff", "unknown"), Reason.ORPHAN_COPIES)


def test_what_is_to_be_handed_back_elsewhere_is_so_once_an_operator_said_that_it_belongs_there() -> None:
    cluster = two_nodes().domain(meta=DELETED, deletionPolicy="Orphan").assigned("a").seen("b")
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.reason is Reason.ORPHAN_COPIES
    assert deferred.command == "domctl resolve web --keep b"
    action = cluster.resolved(keep="b").verdict().action
    assert action is not None and action.after is not None and action.after.node == "b"
    cluster.assignments[UUID] = Held(action.after, 6)
    expect_action(cluster, ActionKind.RECORD, "b")  # the word is used up
    cluster.more["resolutions"] = {}
    expect_action(cluster, ActionKind.HAND_BACK, "b")


def test_a_migration_that_was_seen_outranks_how_the_domain_ended_at_home() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "failed").given(migrated={UUID})
    expect_action(cluster, ActionKind.RECORD)
    cluster.assigned("a", away=True)
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
    expect_hold(cluster.assigned("a", away=True), Reason.NODE_NOT_READ)
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
