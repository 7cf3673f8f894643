"""The plan's rules for a domain whose node answers: placing, repairing, restarting and stopping it.

One invented cluster at a time. Names say the behaviour; invariants stand in comments.
"""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from controller.model import IntentKind
from controller.plan import plan
from controller.plan.snapshot import Ladder, Policy, Restarts
from controller.plan.types import ActionKind, Reason, Situation
from specs.mark import Mark
from tests.unit.plancase import (
    CLUSTER,
    NOW,
    OTHER,
    UUID,
    Cluster,
    expect_action,
    expect_hold,
    running_on_a,
    two_nodes,
)

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
    saved = two_nodes().domain().seen("a", "shutoff", "saved", managed_save=True).verdict().deferred
    assert saved is not None and saved.command.startswith("virsh undefine --managed-save on a,"), "seed 80"


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
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(
        cluster.sightings[UUID]["a"],
        detail=msgspec.structs.replace(wrong, config_xml=xml.replace(">32768<", ">65536<")),
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
        expect_hold(cluster.assigned("a", ended=reason), Reason.COMPLETED)


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
    if detail == "migrated":
        expect_action(cluster.given(migrated={UUID}), ActionKind.RECORD)  # that it is away
        expect_hold(cluster.assigned("a", away=True), Reason.RUNS_ELSEWHERE)
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


def test_a_shut_off_domain_that_may_have_moved_needs_the_full_read() -> None:
    cluster = two_nodes().domain().assigned("a").seen("a", "shutoff", "unknown").given(signs={UUID: 994.0})
    expect_hold(cluster, Reason.READING_ALL_NODES)


def test_a_definition_that_carries_the_open_start_intent_may_be_started() -> None:
    """I22b: a leader died between define and create."""
    cluster = (
        two_nodes().domain().assigned("a").intends(IntentKind.START, "a").seen("a", "shutoff", "unknown")
    )
    expect_action(cluster.silent("b").given(signs={UUID: 999.0}), ActionKind.START)


def test_where_moves_by_hand_are_declared_it_may_have_begun_and_been_moved() -> None:
    """Both leaders died within its create, and it was moved on before another led."""
    cluster = (
        two_nodes().domain().assigned("a").intends(IntentKind.START, "a").seen("a", "shutoff", "unknown")
    )
    cluster.silent("b").given(policy=Policy(hand_migrations=True))
    expect_hold(cluster, Reason.NODE_NOT_READ)


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
    cluster = two_nodes().domain().assigned("a", away=True).intends(IntentKind.START, "a")
    cluster.seen("a", "shutoff", "migrated")
    expect_hold(cluster.given(migrated={UUID}), Reason.RUNS_ELSEWHERE)


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
