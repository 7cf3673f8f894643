"""What ended by itself, and is to rest, rests: whatever forgets how it ended, and wherever it goes."""

from __future__ import annotations

import msgspec
import pytest

from controller.model import Assignment, IntentKind
from controller.plan.snapshot import Held, StoredMigration
from controller.plan.types import Action, ActionKind, Reason
from tests.unit.plancase import UUID, Cluster, expect_hold, two_nodes
from tests.unit.test_departing import asked, request

ENDS = [("Never", "shutdown"), ("Never", "crashed"), ("OnFailure", "shutdown")]
COMPLETED = pytest.mark.parametrize(("policy", "how"), ENDS)
RECOVERS = {"onNodeFailure": "Restart"}


def ended(policy: str, how: str = "shutdown", **spec: object) -> Cluster:
    """It ended at a, and that is not noted yet."""
    return two_nodes().domain(restartPolicy=policy, **spec).assigned("a").seen("a", "shutoff", how)


def due(cluster: Cluster) -> Action:
    verdict = cluster.verdict()
    assert verdict.action is not None, verdict
    return verdict.action


def recorded(cluster: Cluster, assignment: Assignment | None) -> Cluster:
    assert assignment is not None
    cluster.assignments[UUID] = Held(assignment, 6)
    return cluster


def noted(cluster: Cluster) -> Cluster:
    """Its end is written down: the first thing that is done about it."""
    action = due(cluster)
    assert action.kind is ActionKind.RECORD and action.after is not None and action.after.ended
    return recorded(cluster, action.after)


def carried_out(cluster: Cluster) -> Action:
    """One action and what it leaves in etcd; the definition that it makes or takes is seen."""
    action = due(cluster)
    recorded(cluster, action.settled or action.after)
    if action.kind is ActionKind.REVOKE:
        cluster.sightings[UUID].pop(action.node)
    if action.kind is ActionKind.DEFINE:
        cluster.seen(action.node, "shutoff", "unknown")
    return action


def until_it_rests(cluster: Cluster) -> list[ActionKind]:
    done: list[ActionKind] = []
    while cluster.verdict().action is not None:
        done.append(carried_out(cluster).kind)
        assert len(done) < 10, done
    expect_hold(cluster, Reason.COMPLETED)
    return done


@COMPLETED
def test_that_it_ended_is_written_down_before_anything_else(policy: str, how: str) -> None:
    cluster = noted(ended(policy, how))
    assert cluster.assignments[UUID].assignment.ended == how
    expect_hold(cluster, Reason.COMPLETED)


@COMPLETED
@pytest.mark.parametrize("later", ["unknown", "crashed", "daemon"])
def test_a_libvirtd_that_forgets_how_it_ended_starts_nothing_again(policy: str, how: str, later: str) -> None:
    cluster = noted(ended(policy, how)).seen("a", "shutoff", later)
    expect_hold(cluster, Reason.COMPLETED)


@COMPLETED
def test_a_transient_one_rests_under_leaders_that_did_not_hear_its_end(policy: str, how: str) -> None:
    cluster = two_nodes().domain(restartPolicy=policy, recovery=RECOVERS).assigned("a")
    noted(cluster.witnessed("a", how))
    expect_hold(cluster.given(ends={}), Reason.COMPLETED)


@COMPLETED
@pytest.mark.parametrize("stays_there", [True, False])
def test_it_rests_where_it_goes_when_its_node_fits_no_more(policy: str, how: str, stays_there: bool) -> None:
    cluster = ended(policy, how, placement={"node": "b"})
    assert until_it_rests(cluster) == [ActionKind.RECORD, ActionKind.REVOKE, ActionKind.DEFINE]
    assert cluster.assignments[UUID].assignment.node == "b"
    expect_hold(cluster if stays_there else cluster.seen("b", "shutoff", "shutdown"), Reason.COMPLETED)


def moved(cluster: Cluster, migration: StoredMigration) -> list[ActionKind]:
    cluster.given(requests={"default/web": (migration,)})
    return until_it_rests(cluster)


@COMPLETED
def test_a_migration_moves_its_definition_and_does_not_run_it(policy: str, how: str) -> None:
    cluster = ended(policy, how)
    assert moved(cluster, request(node="b")) == [ActionKind.RECORD, ActionKind.REVOKE, ActionKind.DEFINE]
    last = cluster.assignments[UUID].assignment.last_move
    assert last is not None and (last.outcome, last.target) == ("Succeeded", "b")


def test_a_definition_that_was_not_made_on_the_way_is_made_again_and_not_run() -> None:
    cluster = ended("Never", placement={"node": "b"})
    for _ in range(2):
        carried_out(cluster)
    recorded(cluster, due(cluster).after)  # and the controller died
    assert due(cluster).kind is ActionKind.DEFINE
    assert until_it_rests(cluster) == [ActionKind.DEFINE]


def test_a_transient_one_that_rests_is_nowhere_and_has_nothing_to_move() -> None:
    cluster = two_nodes().domain(restartPolicy="Never", recovery=RECOVERS).assigned("a")
    assert moved(cluster.witnessed("a", "shutdown"), request(node="b")) == [ActionKind.RECORD] * 2
    last = cluster.assignments[UUID].assignment.last_move
    assert last is not None and (last.outcome, last.reason) == ("Failed", "DefinedNowhere")


@COMPLETED
@pytest.mark.parametrize("recovery", [None, RECOVERS])
def test_it_rests_when_its_node_is_confirmed_dead(policy: str, how: str, recovery: object) -> None:
    spec = {} if recovery is None else {"recovery": recovery}
    cluster = two_nodes().domain(restartPolicy=policy, **spec).assigned("a").witnessed("a", how)
    if recovery is None:
        cluster.seen("a", "shutoff", how)
    noted(cluster).silent("a").dead("a")
    assert carried_out(cluster).kind is ActionKind.RELEASE
    assert until_it_rests(cluster) == ([ActionKind.DEFINE] if recovery is None else [])


@pytest.mark.parametrize(
    ("policy", "recovery", "starts"),
    [("Never", None, False), ("Never", RECOVERS, True), ("OnFailure", None, True), ("Always", None, True)],
)
def test_what_ran_on_a_dead_node_ended_with_it(policy: str, recovery: object, starts: bool) -> None:
    """Whether it had ended before, nobody knows."""
    spec = {} if recovery is None else {"recovery": recovery}
    cluster = two_nodes().domain(restartPolicy=policy, **spec).assigned("a").seen("a")
    cluster.silent("a").dead("a")
    assert carried_out(cluster).kind is ActionKind.RELEASE
    if starts:
        assert due(cluster).kind is ActionKind.START
    else:
        assert until_it_rests(cluster) == [ActionKind.RECORD, ActionKind.DEFINE]


@pytest.mark.parametrize(("policy", "starts"), [("Never", False), ("OnFailure", True)])
def test_an_end_that_nobody_saw_is_the_last_under_never_and_a_failure_otherwise(
    policy: str, starts: bool
) -> None:
    cluster = ended(policy, "unknown")
    if starts:
        assert due(cluster).kind is ActionKind.START
    else:
        assert until_it_rests(cluster) == [ActionKind.RECORD]


def after_an_end(how: str = "shutdown", **spec: object) -> Cluster:
    return noted(ended("Never", how, **spec))


def test_shutting_it_off_and_starting_it_runs_it_again() -> None:
    off = after_an_end().domain(restartPolicy="Never", state="shutoff")
    assert carried_out(off).kind is ActionKind.RECORD
    assert not off.assignments[UUID].assignment.ended and off.assignments[UUID].assignment.stopped
    on = off.domain(restartPolicy="Never")
    action = due(on)
    assert action.kind is ActionKind.START and action.settled is not None
    assert not action.settled.stopped and not action.settled.ended


@pytest.mark.parametrize(
    ("how", "policy", "starts"),
    [
        ("shutdown", "Always", True),
        ("shutdown", "OnFailure", False),
        ("crashed", "OnFailure", True),
        ("unknown", "OnFailure", True),
    ],
)
def test_another_policy_judges_the_end_that_was_noted(how: str, policy: str, starts: bool) -> None:
    cluster = after_an_end(how).domain(restartPolicy=policy).seen("a", "shutoff", "unknown")
    if starts:
        action = due(cluster)
        assert action.kind is ActionKind.START and action.after is not None and not action.after.ended
    else:
        expect_hold(cluster, Reason.COMPLETED)


def test_what_somebody_else_starts_has_an_end_of_its_own() -> None:
    cluster = noted(ended("OnFailure")).seen("a")
    assert carried_out(cluster).kind is ActionKind.RECORD
    assert not cluster.assignments[UUID].assignment.ended
    assert due(cluster.seen("a", "shutoff", "crashed")).kind is ActionKind.START


def test_what_may_have_been_moved_by_hand_is_not_noted_as_ended() -> None:
    cluster = ended("Never", "migrated").given(migrated={UUID})
    carried_out(cluster)
    assert cluster.assignments[UUID].assignment.away and not cluster.assignments[UUID].assignment.ended
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)
    cluster.silent("a").dead("a")
    assert carried_out(cluster).kind is ActionKind.RELEASE
    expect_hold(cluster, Reason.RUNS_ELSEWHERE)


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_what_domctl_stopped_to_move_it_is_started_where_it_goes(policy: str) -> None:
    cluster = asked(request(node="b", mode="Cold"), restartPolicy=policy)
    assert carried_out(cluster).kind is ActionKind.SHUTDOWN
    cluster.seen("a", "shutoff", "shutdown")
    done = [carried_out(cluster).kind for _ in range(3)]
    assert done == [ActionKind.RECORD, ActionKind.REVOKE, ActionKind.START]


def test_what_domctl_stopped_for_somebody_who_changed_his_mind_is_started_again() -> None:
    cluster = two_nodes().domain(restartPolicy="Never").assigned("a").intends(IntentKind.STOP, "a")
    cluster.seen("a", "shutoff", "shutdown")
    assert carried_out(cluster).kind is ActionKind.RECORD
    assert due(cluster).kind is ActionKind.START


def test_an_assignment_of_before_has_no_end_noted_and_gets_one() -> None:
    cluster = ended("Never")
    old = msgspec.json.encode(cluster.assignments[UUID].assignment)
    assert b"ended" not in old
    assert not msgspec.json.decode(old, type=Assignment).ended
    noted(recorded(cluster, msgspec.json.decode(old, type=Assignment)))
