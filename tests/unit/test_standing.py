"""The copy that stands at its target until it is let go: when it goes on, and when it never does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from controller import keys
from controller.model import Copy
from controller.plan.snapshot import Held, MoveWatch, WitnessedEnd
from controller.plan.types import ActionKind, Reason
from drivers.hypervisor import Job
from tests.unit.movecase import (
    ENDED,
    LEFT,
    MIG,
    READ,
    RUNNING,
    UNKNOWN,
    USER,
    acted,
    closed,
    held_for,
    move_of,
    moving,
    with_ends,
)
from tests.unit.plancase import DELETED, UUID, Cluster

# --- the copy that stands at the target until it is let go

DONE = dataclasses.replace(READ, done=True, began_at=950.0, source_session=1, target_session=1)
GIVEN_UP = dataclasses.replace(READ, error="client socket is closed", began_at=950.0)
IN_TIME = Job("migration-in", 1.0, 1, 0, 1, downtime_ms=200)
LATE = Job("migration-in", 40.0, 1, 0, 1, downtime_ms=38_000)


def standing(watch: MoveWatch = DONE, source: tuple[str, str] | None = None, **how: Any) -> Cluster:
    return with_ends(moving(watch, goes_on=True, **how), source, USER, since=993.2)


def copy_after(cluster: Cluster) -> Copy:
    after = move_of(cluster).after
    assert after.intent is not None, "table M is asked again"
    return Copy(after.intent.copy)


@pytest.mark.parametrize("source", [None, LEFT, UNKNOWN])
def test_what_has_arrived_is_let_go_once_its_source_has_nothing_that_runs(
    source: tuple[str, str] | None,
) -> None:
    cluster = standing(source=source)
    assert acted(cluster.verdict()) == (ActionKind.GO_ON, "b")
    assert copy_after(cluster) is Copy.LET_GO, "recorded before it is sent"


def test_what_was_let_go_and_still_stands_is_let_go_again_whoever_leads() -> None:
    cluster = standing(MoveWatch(read=READ.read, asked_at=994.0), copy=Copy.LET_GO)
    cluster.resigned = False
    assert acted(cluster.verdict()) == (ActionKind.GO_ON, "b")
    ran = with_ends(moving(DONE, goes_on=True, copy=Copy.LET_GO), None, RUNNING)
    assert closed(ran).node == "b"


def test_what_was_let_go_and_paused_by_hand_since_stays_so() -> None:
    assert closed(standing(copy=Copy.LET_GO).given(resumes={(UUID, "b"): 993.0})).node == "b"


@pytest.mark.parametrize("source", [RUNNING, USER])
def test_a_copy_that_never_ran_is_destroyed_beside_a_source_that_went_on(source: tuple[str, str]) -> None:
    cluster = standing(GIVEN_UP, source)
    assert acted(cluster.verdict()) == (ActionKind.DESTROY, "b")
    assert copy_after(cluster) is Copy.OLD


def test_a_copy_that_may_run_beside_a_source_that_runs_is_an_alarm() -> None:
    assert held_for(standing(GIVEN_UP, RUNNING, copy=Copy.LET_GO)) is Reason.DUPLICATE
    by_hand = standing(GIVEN_UP, RUNNING).given(resumes={(UUID, "b"): 993.0})
    assert held_for(by_hand) is Reason.DUPLICATE


def test_a_source_left_paused_beside_a_copy_that_stands_is_ended_before_that_goes_on() -> None:
    watch = dataclasses.replace(GIVEN_UP, asked_at=998.0, read=(998.0, 999.0))
    cluster = with_ends(moving(watch, goes_on=True), MIG, USER)
    assert acted(cluster.verdict()) == (ActionKind.DESTROY, "a")
    assert copy_after(cluster) is Copy.WHOLE
    assert acted(standing(MoveWatch(read=READ.read), copy=Copy.WHOLE).verdict()) == (ActionKind.GO_ON, "b")


def test_a_silent_source_may_run_so_what_stands_is_not_let_go_before_it_was_let_go_once() -> None:
    assert held_for(standing().silent("a")) is Reason.NODE_UNREACHABLE
    noted = move_of(standing(copy=Copy.LET_GO).silent("a"))
    assert (noted.kind, noted.after.node) == (ActionKind.RECORD, "b")


@pytest.mark.parametrize(
    ("watch", "more"),
    [
        (dataclasses.replace(GIVEN_UP, result=IN_TIME), {}),
        (dataclasses.replace(GIVEN_UP, source_session=1, result=IN_TIME), {}),
        (MoveWatch(read=READ.read, result=IN_TIME), {}),
        (GIVEN_UP, {"ends": {(UUID, "a"): WitnessedEnd(1, "migrated", 993.0)}}),
    ],
)
def test_a_copy_whose_source_is_known_not_to_have_run_on_is_let_go(watch: MoveWatch, more: Any) -> None:
    assert acted(standing(watch).given(**more).verdict()) == (ActionKind.GO_ON, "b")


@pytest.mark.parametrize(
    ("watch", "source", "more"),
    [
        (GIVEN_UP, None, {}),
        (dataclasses.replace(GIVEN_UP, source_session=1, result=LATE), None, {}),
        (MoveWatch(read=READ.read, result=LATE), None, {}),
        (GIVEN_UP, None, {"ends": {(UUID, "a"): WitnessedEnd(1, "shutdown", 993.0)}}),
        (dataclasses.replace(GIVEN_UP, result=IN_TIME), ENDED, {}),
        (DONE, ("shutoff", "shutdown"), {}),
    ],
)
def test_old_memory_is_not_let_go_on_where_the_source_may_have_run_since(
    watch: MoveWatch, source: tuple[str, str] | None, more: Any
) -> None:
    cluster = standing(watch, source).given(**more)
    assert held_for(cluster) is Reason.MIGRATION_DOUBT
    assert acted(cluster.resolved(keep="a").verdict()) == (ActionKind.DESTROY, "b")
    kept = standing(watch, source).given(**more).resolved(keep="b")
    held = kept.assignments[UUID]
    noted = move_of(kept)
    assert (noted.kind, noted.after.node) == (ActionKind.RECORD, "b")
    kept.assignments[UUID] = Held(noted.after, held.revision)
    assert acted(kept.verdict()) == (ActionKind.GO_ON, "b")
    reboots = standing(watch, source, migration={"onDoubt": "Reboot"}).given(**more)
    assert acted(reboots.verdict()) == (ActionKind.DESTROY, "b")
    assert copy_after(reboots) is Copy.OLD


def test_a_copy_is_let_go_beside_a_dead_source_while_somebody_says_that_it_is_dead() -> None:
    """A source that is only cut off may have gone on, when its target was late."""
    cluster = standing(dataclasses.replace(GIVEN_UP, result=IN_TIME)).silent("a")
    assert held_for(cluster) is Reason.NODE_UNREACHABLE
    action = cluster.dead("a").verdict().action
    assert action is not None and (action.kind, action.node) == (ActionKind.GO_ON, "b")
    assert keys.confirmed_dead("a") in {premise.key for premise in action.premises}


def test_nobody_is_told_to_have_it_rebooted_where_that_would_not_be_done() -> None:
    for copies in (True, False):
        cluster = standing(GIVEN_UP, copies=copies, migration={"onDoubt": "Hold"})
        deferred = cluster.verdict().deferred
        assert deferred is not None and ("onDoubt: Reboot" in deferred.command) is not copies
        assert ("or --keep a to start it again" in deferred.command) is copies
        assert acted(cluster.resolved(keep="a").verdict()) == (ActionKind.DESTROY, "b")
        reboots = standing(GIVEN_UP, copies=copies, migration={"onDoubt": "Reboot"})
        assert (reboots.verdict().deferred is not None) is copies


def test_a_copy_that_is_to_be_handed_back_is_destroyed_by_an_operators_word_alone() -> None:
    """deletionPolicy Orphan: it may be all that is left of its guest."""
    spec: dict[str, Any] = {"deletionPolicy": "Orphan", "migration": {"onDoubt": "Reboot"}}
    cluster = standing(GIVEN_UP, meta=DELETED, **spec)
    assert held_for(cluster) is Reason.MIGRATION_DOUBT
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.command == "domctl resolve web --keep b to let it go on"
    assert acted(cluster.resolved(keep="b").verdict()) == (ActionKind.RECORD, "b"), (
        "its home, and then it goes on"
    )
    assert acted(cluster.resolved(keep="a").verdict()) == (ActionKind.DESTROY, "b")
    assert acted(standing(GIVEN_UP, meta=DELETED).verdict()) == (ActionKind.DESTROY, "b")


def test_a_copy_that_is_known_to_be_old_is_destroyed_whatever_else_is_known() -> None:
    assert acted(standing(copy=Copy.OLD).verdict()) == (ActionKind.DESTROY, "b")


def test_a_source_whose_target_stood_and_is_gone_goes_on_without_a_doubt() -> None:
    never = with_ends(moving(MoveWatch(read=(998.0, 999.0), asked_at=998.0), goes_on=True), MIG, None)
    assert acted(never.verdict()) == (ActionKind.GO_ON, "a")


def test_a_copy_whose_guest_shut_itself_down_was_let_go_by_somebody_and_has_arrived() -> None:
    ran = with_ends(moving(READ, goes_on=True), MIG, ("shutoff", "shutdown"))
    assert acted(ran.verdict()) == (ActionKind.DESTROY, "a"), "the paused source has old memory (I9)"


@pytest.mark.parametrize("target", [ENDED, UNKNOWN])
@pytest.mark.parametrize("source", [None, LEFT, UNKNOWN, MIG])
def test_a_definition_of_a_copy_that_was_not_let_go_is_no_arrival(
    source: tuple[str, str] | None, target: tuple[str, str]
) -> None:
    cluster = with_ends(moving(goes_on=True), source, target)
    assert acted(cluster.verdict()) == (ActionKind.UNPLANT, "b")
    assert copy_after(cluster) is Copy.STANDING


@pytest.mark.parametrize("target", [ENDED, UNKNOWN])
def test_a_definition_of_a_copy_that_was_let_go_is_where_the_domain_belongs(target: tuple[str, str]) -> None:
    def ended(source: tuple[str, str] | None) -> Cluster:
        return with_ends(moving(goes_on=True, copy=Copy.LET_GO), source, target)

    assert closed(ended(None)).node == "b"
    assert acted(ended(LEFT).verdict()) == (ActionKind.UNPLANT, "a")
    assert acted(ended(MIG).verdict()) == (ActionKind.DESTROY, "a"), "its memory is old (I9)"


def test_its_downtime_lasts_until_it_went_on_as_far_as_that_was_heard() -> None:
    watch = dataclasses.replace(DONE, result=IN_TIME)
    cluster = with_ends(moving(watch, goes_on=True, copy=Copy.LET_GO), None, RUNNING)
    cluster.given(resumes={(UUID, "b"): 990.34}, suspends={(UUID, "a"): 990.0})
    assert closed(cluster).last_move.downtime_ms == 340
    assert closed(cluster.given(suspends={})).last_move.downtime_ms is None
    paused = with_ends(moving(watch), None, USER)
    assert closed(paused).last_move.downtime_ms == 200
