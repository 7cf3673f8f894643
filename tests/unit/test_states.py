"""Every pair of (wanted, seen): what is due for a domain to come into the state that its spec names."""

from __future__ import annotations

import pytest

from controller.model import IntentKind
from controller.plan.snapshot import Ladder
from controller.plan.types import Action, ActionKind, Reason, Situation
from tests.unit.plancase import NOW, UUID, Cluster

SEEN = {
    "running": ("running", "booted"),
    "ending": ("shutdown", "user"),
    "paused": ("paused", "user"),
    "faulted": ("paused", "ioerror"),
    "saving": ("paused", "save"),
    "panicked": ("crashed", "panicked"),
    "asleep": ("pmsuspended", "unknown"),
    "ended": ("shutoff", "shutdown"),
    "destroyed": ("shutoff", "destroyed"),
}


def cluster(wanted: str, seen: str, **promised: object) -> Cluster:
    state, reason = SEEN[seen]
    made = Cluster().node("a").node("b").domain(state=wanted).assigned("a", **promised)
    return made.seen("a", state, reason)


def action(made: Cluster) -> Action:
    verdict = made.verdict()
    assert verdict.action is not None, verdict
    return verdict.action


@pytest.mark.parametrize(
    ("wanted", "seen", "paused", "due"),
    [
        ("running", "running", False, None),
        ("running", "ending", False, None),
        ("running", "paused", True, ActionKind.RESUME),
        ("running", "paused", False, Reason.PAUSED_BY_HAND),
        ("running", "faulted", True, Reason.PAUSED_ON_ERROR),
        ("running", "saving", True, Reason.JOB_IN_PROGRESS),
        ("running", "panicked", True, Reason.CRASHED_PRESERVED),
        ("running", "asleep", True, Reason.SUSPENDED),
        ("running", "ended", False, ActionKind.START),
        ("running", "destroyed", False, ActionKind.START),
        ("paused", "running", False, ActionKind.PAUSE),
        ("paused", "running", True, ActionKind.PAUSE),
        ("paused", "ending", False, Reason.SHUTTING_DOWN),
        ("paused", "paused", True, None),
        ("paused", "paused", False, ActionKind.RECORD),
        ("paused", "faulted", True, None),
        ("paused", "saving", True, Reason.JOB_IN_PROGRESS),
        ("paused", "panicked", True, Reason.CRASHED_PRESERVED),
        ("paused", "asleep", True, Reason.SUSPENDED),
        ("paused", "ended", False, ActionKind.START),
        ("paused", "destroyed", False, ActionKind.START),
        ("shutoff", "running", False, ActionKind.SHUTDOWN),
        ("shutoff", "ending", False, ActionKind.SHUTDOWN),
        ("shutoff", "paused", True, ActionKind.RESUME),
        ("shutoff", "paused", False, ActionKind.RESUME),
        ("shutoff", "faulted", False, ActionKind.SHUTDOWN),
        ("shutoff", "panicked", False, ActionKind.DESTROY),
        ("shutoff", "ended", False, ActionKind.RECORD),
        ("shutoff", "destroyed", False, ActionKind.RECORD),
    ],
)
def test_for_each_wish_and_sight_one_thing_is_due(
    wanted: str, seen: str, paused: bool, due: ActionKind | Reason | None
) -> None:
    verdict = cluster(wanted, seen, paused=paused).verdict()
    found = verdict.action.kind if verdict.action else verdict.deferred.reason if verdict.deferred else None
    assert found == due, verdict
    assert (found is None) == (verdict.situation is Situation.CONVERGED)


def test_that_domctl_paused_a_domain_is_recorded_before_it_is_sent() -> None:
    due = action(cluster("paused", "running"))
    assert due.after is not None and due.after.paused
    assert due.after.intent is not None and due.after.intent.kind is IntentKind.PAUSE
    assert due.settled is not None and due.settled.paused and due.settled.intent is None


def test_after_a_resume_a_pause_by_hand_is_no_longer_domctls() -> None:
    due = action(cluster("running", "paused", paused=True))
    assert due.settled is not None and not due.settled.paused


def test_a_domain_that_somebody_resumed_is_forgotten_as_paused_only_once_no_late_command_can_come() -> None:
    fresh = cluster("running", "running", paused=True)
    assert fresh.verdict().action is None
    fresh.seen("a", "running", "unpaused", since=NOW - 100)
    due = action(fresh)
    assert due.kind is ActionKind.RECORD and due.after is not None and not due.after.paused


def test_a_paused_guest_is_resumed_once_so_that_it_hears_and_then_asked() -> None:
    made = cluster("shutoff", "paused").given(ladders={UUID: Ladder(0, NOW - 1000)})
    assert action(made).kind is ActionKind.DESTROY


def test_a_paused_guest_that_is_to_be_destroyed_anyway_is_not_resumed_for_it() -> None:
    made = Cluster().node("a").domain(state="shutoff", shutdown=[{"method": "destroy"}]).assigned("a")
    assert action(made.seen("a", "paused", "user")).kind is ActionKind.DESTROY


def test_nothing_is_resumed_while_late_commands_of_another_leader_may_come() -> None:
    made = cluster("running", "paused", paused=True)
    made.resigned = False
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.QUIET_TIME


@pytest.mark.parametrize(
    ("kind", "wanted", "seen", "closes"),
    [
        (IntentKind.PAUSE, "paused", "running", False),
        (IntentKind.PAUSE, "paused", "paused", True),
        (IntentKind.PAUSE, "running", "running", True),
        (IntentKind.RESUME, "running", "paused", False),
        (IntentKind.RESUME, "running", "running", True),
        (IntentKind.RESUME, "paused", "paused", True),
    ],
)
def test_an_interrupted_call_is_closed_when_its_aim_is_there_or_gone(
    kind: IntentKind, wanted: str, seen: str, closes: bool
) -> None:
    due = action(cluster(wanted, seen, paused=True).intends(kind, "a"))
    assert (due.kind is ActionKind.RECORD) == closes


def test_a_domain_that_ends_while_it_is_being_paused_ended_by_itself() -> None:
    made = Cluster().node("a").domain(state="paused", restartPolicy="Never").assigned("a")
    made.seen("a", "shutoff", "crashed").intends(IntentKind.PAUSE, "a")
    verdict = made.verdict()
    while verdict.action is not None and verdict.action.kind is ActionKind.RECORD:
        assert verdict.action.after is not None
        made.assigned("a", paused=True)
        verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.COMPLETED
