"""Table M, row by row, and what stands before it: how a migration of ours is judged from both of its ends."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controller.model import Intent, IntentKind, MoveOutcome, Rule
from controller.movers import Movers
from controller.plan.snapshot import Held, Link, MoveWatch, NodeView
from controller.plan.types import ActionKind, Reason
from controller.underway import Underway
from drivers.hypervisor import Job
from tests.unit.movecase import (
    COMING,
    ENDED,
    JOB,
    LEFT,
    MIG,
    READ,
    REQUEST,
    RUNNING,
    UNKNOWN,
    USER,
    acted,
    closed,
    held_for,
    migration,
    move_of,
    moving,
    with_ends,
)
from tests.unit.plancase import DELETED, NOW, UUID, Cluster

# --- the table: (source, target) -> what is done, and where


@pytest.mark.parametrize(
    ("source", "target", "kind", "node"),
    [
        (RUNNING, ENDED, ActionKind.UNPLANT, "b"),
        (RUNNING, UNKNOWN, ActionKind.UNPLANT, "b"),
        (RUNNING, MIG, ActionKind.DESTROY, "b"),
        (RUNNING, COMING, ActionKind.DESTROY, "b"),
        (MIG, RUNNING, ActionKind.DESTROY, "a"),
        (MIG, MIG, ActionKind.DESTROY, "b"),
        (LEFT, RUNNING, ActionKind.UNPLANT, "a"),
        (UNKNOWN, RUNNING, ActionKind.UNPLANT, "a"),
        (MIG, ENDED, ActionKind.DESTROY, "a"),
        (UNKNOWN, ENDED, ActionKind.UNPLANT, "a"),
        (None, MIG, ActionKind.DESTROY, "b"),
        (LEFT, COMING, ActionKind.DESTROY, "b"),
        (USER, USER, ActionKind.DESTROY, "a"),
    ],
)
def test_a_row_of_the_table_acts_on_one_end(
    source: tuple[str, str] | None, target: tuple[str, str] | None, kind: ActionKind, node: str
) -> None:
    verdict = with_ends(moving(), source, target).verdict()
    assert acted(verdict) == (kind, node)
    assert verdict.action is not None and verdict.action.after is not None
    assert verdict.action.after.intent is not None, "table M is asked again"


@pytest.mark.parametrize(
    ("source", "target", "home", "outcome", "candidates"),
    [
        (RUNNING, None, "a", MoveOutcome.RETRYING, ("a",)),
        (None, RUNNING, "b", MoveOutcome.SUCCEEDED, ("b",)),
        (None, USER, "b", MoveOutcome.SUCCEEDED, ("b",)),
        (None, ENDED, "b", MoveOutcome.SUCCEEDED, ("b",)),
        (ENDED, None, "a", MoveOutcome.FAILED, ("a",)),
        (LEFT, None, "a", MoveOutcome.FAILED, ("a",)),
    ],
)
def test_a_row_of_the_table_closes_the_migration(
    source: tuple[str, str] | None,
    target: tuple[str, str] | None,
    home: str,
    outcome: MoveOutcome,
    candidates: tuple[str, ...],
) -> None:
    after = closed(with_ends(moving(), source, target))
    assert (after.node, after.candidates, after.last_move.outcome) == (home, candidates, outcome)
    assert after.last_move.request == REQUEST
    gone = {"a", "b"} - set(candidates)
    assert {p.node for p in after.proofs if p.rule is Rule.MOVED} == gone


def test_two_running_copies_are_an_alarm_and_nothing_is_destroyed() -> None:
    assert held_for(with_ends(moving(), RUNNING, RUNNING)) is Reason.DUPLICATE


def test_postcopy_stands_before_every_row() -> None:
    cluster = with_ends(moving(), ("paused", "postcopy-failed"), RUNNING)
    assert held_for(cluster) is Reason.POSTCOPY


@pytest.mark.parametrize("source", [RUNNING, MIG, None])
def test_a_silent_target_is_a_hold_whatever_the_source_says(source: tuple[str, str] | None) -> None:
    cluster = with_ends(moving(), source, None).silent("b")
    assert held_for(cluster) is Reason.NODE_UNREACHABLE


@pytest.mark.parametrize("target", [MIG, ENDED, None])
def test_a_silent_source_is_a_hold_unless_the_target_runs(target: tuple[str, str] | None) -> None:
    cluster = with_ends(moving(), None, target).silent("a")
    assert held_for(cluster) is Reason.NODE_UNREACHABLE


def test_a_target_that_runs_has_it_and_a_silent_source_still_owes_its_proof() -> None:
    cluster = with_ends(moving(), None, RUNNING).silent("a")
    action = cluster.verdict().action
    assert action is not None and action.after is not None
    assert (action.kind, action.after.node, action.after.candidates) == (ActionKind.RECORD, "b", ("a", "b"))
    assert action.after.intent is not None, "what the source shows when it answers is judged by the table"
    cluster.assignments[UUID] = Held(action.after, 6)
    assert held_for(cluster) is Reason.NODE_UNREACHABLE


# --- waiting


@pytest.mark.parametrize(("source", "target"), [(RUNNING, MIG), (MIG, MIG), (None, MIG), (MIG, RUNNING)])
def test_what_libvirt_may_still_be_at_is_left_alone_for_a_while(
    source: tuple[str, str] | None, target: tuple[str, str]
) -> None:
    watch = dataclasses.replace(READ, asked_at=999.5, read=(999.5, 999.6))
    assert held_for(with_ends(moving(watch), source, target, since=999.0)) is Reason.MIGRATION_IN_PROGRESS


def test_nothing_is_decided_while_the_call_is_out() -> None:
    watch = MoveWatch(in_flight=True, still_since=NOW)
    assert held_for(with_ends(moving(watch), MIG, RUNNING)) is Reason.MIGRATING


def test_a_job_at_the_source_is_adopted() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW - 5)
    assert held_for(with_ends(moving(watch), RUNNING, MIG)) is Reason.MIGRATING


def test_a_job_that_stands_still_is_ended_at_the_source() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW - 41)
    assert acted(with_ends(moving(watch), RUNNING, MIG).verdict()) == (ActionKind.ABORT, "a")


@pytest.mark.parametrize(
    ("elapsed_s", "rounds", "ends"), [(301, 11, True), (299, 11, False), (9999, 9, False)]
)
def test_a_job_that_copies_the_whole_again_and_again_is_ended_at_the_source(
    elapsed_s: float, rounds: int, ends: bool
) -> None:
    job = Job("migration-out", elapsed_s, rounds * (32 << 20), 22 << 20, 32 << 20)
    cluster = with_ends(moving(dataclasses.replace(READ, job=job, still_since=NOW)), RUNNING, MIG)
    verdict = cluster.verdict()
    if not ends:
        assert verdict.deferred is not None and verdict.deferred.reason is Reason.MIGRATING
        return
    assert acted(verdict) == (ActionKind.ABORT, "a")
    assert verdict.action is not None and "faster" in verdict.action.why


def test_a_definition_that_somebody_put_on_the_target_goes_with_the_job() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW - 41)
    cluster = with_ends(moving(watch), RUNNING, None).seen("b", *MIG, since=940.0, persistent=True)
    verdict = cluster.verdict()
    assert acted(verdict) == (ActionKind.ABORT, "a")
    assert verdict.action is not None
    assert verdict.action.target == "b"


def test_a_source_that_was_not_asked_for_its_job_since_is_asked_first() -> None:
    watch = dataclasses.replace(READ, asked_at=990.0)
    assert held_for(with_ends(moving(watch), RUNNING, None)) is Reason.MIGRATING


@pytest.mark.parametrize("read", [None, (990.0, 990.5)])
def test_ends_that_were_not_read_since_the_call_ended_are_read_first(
    read: tuple[float, float] | None,
) -> None:
    watch = dataclasses.replace(READ, read=read)
    assert held_for(with_ends(moving(watch), None, RUNNING)) is Reason.MIGRATING


def test_ends_are_read_again_after_the_last_that_was_heard_of_it() -> None:
    cluster = with_ends(moving(), None, RUNNING).given(heard={UUID: 994.0})
    assert held_for(cluster) is Reason.MIGRATING


def test_what_the_reading_of_the_target_itself_showed_is_no_news() -> None:
    assert closed(with_ends(moving(), None, RUNNING, since=994.5)).node == "b"
    assert held_for(with_ends(moving(), None, RUNNING, since=996.0)) is Reason.MIGRATING


def test_a_source_that_changed_between_the_two_readings_is_read_again() -> None:
    cluster = with_ends(moving(), None, RUNNING).seen("a", *LEFT, since=994.0)
    assert held_for(cluster) is Reason.MIGRATING


def test_what_was_changed_at_one_end_is_read_before_anything_else_is_done_about_it() -> None:
    cluster = with_ends(moving(), RUNNING, UNKNOWN).given(awaiting={(UUID, "b"): 999.0})
    assert held_for(cluster) is Reason.AWAITING_OBSERVATION


@pytest.mark.parametrize("read", [None, (993.5, 994.5)])
def test_a_job_is_ended_only_by_what_both_ends_show_now(read: tuple[float, float] | None) -> None:
    watch = MoveWatch(in_flight=True, began_at=900.0, still_since=NOW, read=read)
    ending = {"default/web": (migration(abort=True),)}
    verdict = with_ends(moving(watch), RUNNING, MIG).given(requests=ending, heard={UUID: 950.0}).verdict()
    if read is None:
        assert verdict.deferred is not None and "first" in verdict.deferred.message
    else:
        assert acted(verdict) == (ActionKind.ABORT, "a")


def test_what_is_read_right_after_the_call_leaves_its_status_as_it_is() -> None:
    watch = dataclasses.replace(READ, over_at=NOW - 0.5)
    assert held_for(with_ends(moving(watch), None, RUNNING)) is Reason.AWAITING_OBSERVATION


def test_a_call_without_an_answer_may_still_begin_it_for_a_while() -> None:
    for answered_at in (None, NOW - 34):  # a daemon that is frozen keeps it for as long as it is
        watch = dataclasses.replace(READ, unsure=True, over_at=NOW - 300, answered_at=answered_at)
        assert held_for(with_ends(moving(watch), RUNNING, None)) is Reason.MIGRATION_IN_PROGRESS
    old = dataclasses.replace(READ, unsure=True, over_at=NOW - 300, answered_at=NOW - 36)
    assert closed(with_ends(moving(old), RUNNING, None)).node == "a"


@pytest.mark.parametrize(
    ("source", "target"), [(RUNNING, None), (MIG, RUNNING), (RUNNING, MIG), (MIG, MIG), (RUNNING, ENDED)]
)
def test_a_new_leader_waits_for_late_commands_of_the_old_one(
    source: tuple[str, str], target: tuple[str, str] | None
) -> None:
    cluster = with_ends(moving(), source, target)
    cluster.resigned = False
    assert held_for(cluster) is Reason.QUIET_TIME


# --- paused here, gone there


def heard(**changes: Any) -> MoveWatch:
    return dataclasses.replace(READ, target_session=1, began_at=950.0, **changes)


def test_a_paused_source_goes_on_if_its_target_was_heard_all_along_and_never_ran() -> None:
    assert acted(with_ends(moving(heard()), MIG, None).verdict()) == (ActionKind.GO_ON, "a")


@pytest.mark.parametrize(
    ("watch", "resumes"),
    [
        (READ, {}),
        (heard(), {(UUID, "b"): 960.0}),
        (dataclasses.replace(heard(), target_session=7), {}),
    ],
)
def test_a_paused_source_whose_target_may_have_run_is_a_doubt(watch: MoveWatch, resumes: Any) -> None:
    cluster = with_ends(moving(watch), MIG, None).given(resumes=resumes)
    assert held_for(cluster) is Reason.MIGRATION_DOUBT
    assert acted(cluster.resolved(keep="a").verdict()) == (ActionKind.GO_ON, "a")


def test_in_doubt_it_is_started_anew_where_that_is_asked_for() -> None:
    cluster = with_ends(moving(migration={"onDoubt": "Reboot"}), MIG, None)
    assert acted(cluster.verdict()) == (ActionKind.DESTROY, "a")


def test_disks_that_were_copied_may_be_old_at_the_source_so_it_is_a_doubt_there_too() -> None:
    cluster = with_ends(moving(copies=True, migration={"onDoubt": "Reboot"}), MIG, None)
    assert held_for(cluster) is Reason.MIGRATION_DOUBT
    assert held_for(moving(copies=True)) is Reason.MIGRATION_DOUBT


def test_gone_from_both_ends_it_is_started_only_once_it_is_nowhere() -> None:
    never = moving().given(signs={UUID: 992.0})
    assert held_for(never) is Reason.READING_ALL_NODES
    after = closed(moving())
    assert (after.node, after.candidates, after.last_move.outcome) == ("a", ("a",), MoveOutcome.FAILED)
    seen_moving = moving().silent("c").given(migrated={UUID})
    action = seen_moving.verdict().action
    assert action is not None and action.after is not None and action.after.away, "a later leader is to know"
    seen_moving.assignments[UUID] = Held(action.after, 6)
    assert held_for(seen_moving) is Reason.NODE_NOT_READ


# --- dead ends


def test_a_dead_source_counts_as_absent_and_is_in_quarantine() -> None:
    verdict = with_ends(moving(), None, RUNNING).silent("a").dead("a").verdict()
    assert verdict.action is not None and verdict.action.after is not None
    assert verdict.action.after.candidates == ("b",)
    assert verdict.action.quarantine == ("a",)


def test_a_dead_target_counts_as_absent_and_is_in_quarantine() -> None:
    verdict = with_ends(moving(), RUNNING, None).silent("b").dead("b").verdict()
    assert verdict.action is not None and verdict.action.after is not None
    assert verdict.action.after.candidates == ("a",)
    assert verdict.action.quarantine == ("b",)


# --- how often, and by whose will


def test_the_third_failure_ends_the_request_and_one_that_libvirt_will_repeat_at_once() -> None:
    first = closed(with_ends(moving(), RUNNING, None))
    assert first.last_move.attempts == 1
    cluster = with_ends(moving(), RUNNING, None)
    held = cluster.assignments[UUID]
    again = msgspec.structs.replace(first.last_move, attempts=2)
    cluster.assignments[UUID] = Held(msgspec.structs.replace(held.assignment, last_move=again), held.revision)
    assert closed(cluster).last_move.outcome is MoveOutcome.FAILED
    refused = dataclasses.replace(READ, rejected=True, error="unsafe migration")
    last = closed(with_ends(moving(refused), RUNNING, None)).last_move
    assert (last.outcome, last.message) == (MoveOutcome.FAILED, "unsafe migration")


def test_a_request_that_is_to_be_ended_ends_the_job_and_is_not_tried_again() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW)
    ending = {"default/web": (migration(abort=True),)}
    assert acted(with_ends(moving(watch), RUNNING, MIG).given(requests=ending).verdict()) == (
        ActionKind.ABORT,
        "a",
    )
    over = closed(with_ends(moving(), RUNNING, None).given(requests=ending))
    assert over.last_move.outcome is MoveOutcome.ABORTED


@pytest.mark.parametrize(("looked_at", "planted"), [("a", False), ("b", True)])
def test_nothing_is_ended_on_a_node_that_is_only_looked_at_by_now(looked_at: str, planted: bool) -> None:
    """Neither the job on the source, nor a definition that somebody put on the target."""
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW)
    ending = {"default/web": (migration(abort=True),)}
    cluster = with_ends(moving(watch), RUNNING, None).given(requests=ending)
    cluster.seen("b", *MIG, since=940.0, persistent=planted)
    assert acted(cluster.verdict()) == (ActionKind.ABORT, "a")
    cluster.node(looked_at, observeOnly=True)
    assert held_for(cluster) is Reason.NODE_OBSERVE_ONLY


def test_what_has_arrived_is_not_to_be_ended_any_more() -> None:
    """A guest that its user paused shows so on both ends until the source has heard (seed 100583)."""
    watch = dataclasses.replace(READ, job=JOB, in_flight=True, still_since=NOW)
    ending = {"default/web": (migration(abort=True),)}
    paused = ("paused", "user")
    assert held_for(with_ends(moving(watch), paused, paused).given(requests=ending)) is Reason.MIGRATING


def test_a_domain_that_is_deleted_does_not_arrive_first() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW)
    cluster = moving(watch)
    cluster.domain(meta={"deletionTimestamp": "now"})
    assert acted(with_ends(cluster, RUNNING, MIG).verdict()) == (ActionKind.ABORT, "a")


def test_what_is_to_be_handed_back_is_not_ended_by_the_doubt_that_its_migration_left() -> None:
    """deletionPolicy Orphan: nobody but an operator ends it, and nobody starts it again."""
    heard = dataclasses.replace(READ, began_at=950.0, target_session=1)
    cluster = with_ends(moving(heard, meta=DELETED, deletionPolicy="Orphan"), MIG, None)
    assert acted(cluster.verdict()) == (ActionKind.GO_ON, "a")
    for on_doubt in ("Hold", "Reboot"):
        spec: dict[str, Any] = {"deletionPolicy": "Orphan", "migration": {"onDoubt": on_doubt}}
        cluster = with_ends(moving(meta=DELETED, **spec), MIG, None)
        assert held_for(cluster) is Reason.MIGRATION_DOUBT
        deferred = cluster.verdict().deferred
        assert deferred is not None and deferred.command == "domctl resolve web --keep a to let it go on"
    assert acted(cluster.resolved(keep="a").verdict()) == (ActionKind.GO_ON, "a")
    copied = moving(copies=True, meta=DELETED, deletionPolicy="Orphan")
    assert held_for(with_ends(copied, MIG, ENDED)) is Reason.MIGRATION_DOUBT


def test_a_copy_on_a_third_node_holds_everything() -> None:
    cluster = with_ends(moving(), None, RUNNING).seen("c", *RUNNING)
    assert held_for(cluster) is Reason.RUNS_ELSEWHERE


@pytest.mark.parametrize(("source", "keeps"), [(None, "c"), (RUNNING, "NODE")])
def test_which_copy_stays_is_asked_where_an_end_of_the_migration_runs_too(source: Any, keeps: str) -> None:
    """Seed 132 of doubled: only the third copy was named, and the word would have ended the one at home."""
    deferred = with_ends(moving(), source, None).seen("c", *RUNNING).verdict().deferred
    assert deferred is not None and deferred.command == f"domctl resolve web --keep {keeps}"


def test_a_copy_on_a_third_node_that_is_dead_by_now_holds_nothing() -> None:
    cluster = with_ends(moving(), RUNNING, None).seen("c", *RUNNING).silent("c")
    assert held_for(cluster) is Reason.RUNS_ELSEWHERE
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.command == "domctl node confirm-dead c"
    assert closed(cluster.dead("c")).last_move is not None


def test_an_object_that_is_missing_takes_nothing_away() -> None:
    cluster = with_ends(moving(), MIG, RUNNING)
    cluster.domains.clear()
    verdict = cluster.verdict()
    assert verdict.action is None


# --- what looks alike and is not


def test_a_target_that_was_let_go_on_and_stands_on_an_error_is_not_the_old_copy() -> None:
    cluster = moving().seen("a", *USER, since=940.0, persistent=False)
    cluster.seen("b", "paused", "ioerror", since=940.0, persistent=False)
    assert held_for(cluster) is Reason.DUPLICATE


def test_two_copies_that_an_operator_paused_are_a_duplicate_still() -> None:
    cluster = moving(dataclasses.replace(READ, asked_at=999.5, read=(999.5, 999.6)))
    cluster.seen("a", *USER, since=999.0, persistent=False).seen("b", *USER, since=999.0)
    assert held_for(cluster) is Reason.DUPLICATE


def test_a_source_that_was_suspended_while_it_copied_can_be_let_go_on() -> None:
    watch = dataclasses.replace(READ, job=JOB, still_since=NOW - 600)
    assert acted(with_ends(moving(watch), MIG, MIG).verdict()) == (ActionKind.ABORT, "a")
    backup = dataclasses.replace(watch, job=dataclasses.replace(JOB, operation="backup"))
    assert held_for(with_ends(moving(backup), RUNNING, None)) is Reason.MIGRATING


def test_a_definition_that_never_ran_at_the_target_is_no_arrival() -> None:
    cluster = with_ends(moving(heard(), copies=True), MIG, ("shutoff", "failed"))
    assert acted(cluster.verdict()) == (ActionKind.UNPLANT, "b")


def test_copied_disks_are_not_started_at_the_source_after_the_target_may_have_written() -> None:
    cluster = with_ends(moving(copies=True), ENDED, None).silent("b").dead("b")
    assert held_for(cluster) is Reason.MIGRATION_DOUBT
    assert closed(cluster.resolved(keep="a")).node == "a"


def test_the_target_may_be_named_as_the_one_whose_disks_are_right() -> None:
    cluster = with_ends(moving(copies=True), MIG, None).resolved(keep="b")
    assert acted(cluster.verdict()) == (ActionKind.DESTROY, "a")


def test_a_definition_alone_on_a_third_node_holds_nothing_up() -> None:
    cluster = with_ends(moving(), RUNNING, None).seen("c", "shutoff", "shutdown")
    assert closed(cluster).node == "a"


def test_what_a_host_that_is_reached_by_ssh_received_may_come_later_still() -> None:
    late = dataclasses.replace(READ, unsure=True, over_at=NOW - 300, answered_at=NOW - 100)
    cluster = with_ends(moving(late), RUNNING, None)
    assert closed(cluster).node == "a"
    cluster.nodes["a"] = Cluster().node("a", uri="qemu+ssh://a/system", insecure=False).nodes["a"]
    assert held_for(cluster) is Reason.MIGRATION_IN_PROGRESS


async def test_a_term_that_ends_leaves_no_follower_behind() -> None:
    intent = Intent(
        kind=IntentKind.MIGRATE, node="a", epoch=4, op="op", why="why", at="then", target="b", request="r"
    )
    moves = Underway()
    moves.recorded(UUID, intent)
    cache = SimpleNamespace(
        moves=moves,
        view=lambda node: SimpleNamespace(session=1, answers=True),
        watched=lambda uuid, watch: None,
        await_observation=lambda uuid, node: None,
    )
    nowhere = SimpleNamespace(session=lambda node: None)
    movers = Movers(cache, nowhere, lambda: 1.0, lambda: None, lambda *_: None)  # type: ignore[arg-type]

    class Slow:
        async def migrate(self, *_: object) -> None:
            await asyncio.sleep(3600)

    term = asyncio.create_task(movers.run())
    await asyncio.sleep(0)
    move, after = SimpleNamespace(persistent_xml=None), SimpleNamespace(intent=intent)
    action = SimpleNamespace(uuid=UUID, node="a", target="b", move=move, after=after)
    movers.send_off(action, Slow(), object())  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    before = asyncio.all_tasks()
    assert {task.get_name().split()[0] for task in before - {term}} >= {"migrate", "follow"}
    term.cancel()
    await asyncio.gather(term, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() <= before
    assert len(asyncio.all_tasks()) == 1, "this test alone is left"


# --- an operator's word, and what is heard late


def test_keeping_one_end_of_a_migration_ends_it_and_its_request_in_one_transaction() -> None:
    home = with_ends(moving(), RUNNING, None).resolved(keep="a")
    assert (home.verdict().action.consumes, closed(home).node) == (True, "a")  # type: ignore[union-attr]
    last = closed(home).last_move
    assert (last.request, last.outcome) == (REQUEST, MoveOutcome.FAILED), "it is not tried again"
    away = with_ends(moving(), None, RUNNING).resolved(keep="b")
    noted = move_of(away)
    assert (noted.kind, noted.after.node) == (ActionKind.RECORD, "b")
    assert noted.after.intent is not None and not noted.consumes, "its end is table M's to judge"
    held = away.assignments[UUID]
    away.assignments[UUID] = Held(noted.after, held.revision)
    assert move_of(away).consumes
    assert closed(away).last_move.outcome is MoveOutcome.SUCCEEDED


def test_of_two_copies_that_run_the_other_is_destroyed_and_the_migration_stays_open_till_that_is_read() -> (
    None
):
    action = move_of(with_ends(moving(), RUNNING, RUNNING).resolved(keep="a"))
    assert (action.kind, action.node) == (ActionKind.DESTROY, "b")
    assert action.after.intent is not None and action.after.intent.request == REQUEST
    assert not action.consumes


def test_keeping_a_copy_on_a_third_node_ends_the_request_too() -> None:
    action = move_of(with_ends(moving(), None, None).seen("c", *RUNNING).resolved(keep="c"))
    assert (action.after.node, action.after.intent) == ("c", None)
    assert set(action.after.candidates) == {"a", "b", "c"}, "either end may hold something of it still"
    last = action.after.last_move
    assert (last.request, last.outcome, last.reason) == (REQUEST, MoveOutcome.FAILED, "Resolved")


def test_an_operators_word_outlasts_a_resume_that_may_have_to_be_sent_again() -> None:
    cluster = with_ends(moving(), MIG, None).resolved(keep="a")
    assert acted(cluster.verdict()) == (ActionKind.GO_ON, "a")
    assert not move_of(cluster).consumes


@pytest.mark.parametrize(
    ("there", "command"),
    [
        (RUNNING, "domctl resolve web --keep c"),
        (("shutoff", "unknown"), "virsh undefine on c, if"),
        (MIG, "virsh destroy and virsh undefine on c, if"),
    ],
)
def test_what_is_gone_from_both_ends_and_stands_elsewhere_is_held_with_a_way_out(
    there: tuple[str, str], command: str
) -> None:
    verdict = moving().seen("c", *there).verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.RUNS_ELSEWHERE
    assert command in verdict.deferred.command


def test_a_dead_node_that_answers_again_is_read_and_is_not_put_in_quarantine() -> None:
    verdict = with_ends(moving(), None, RUNNING).dead("a").verdict()
    assert verdict.action is not None and verdict.action.after is not None
    assert verdict.action.quarantine == ()
    assert [p.rule for p in verdict.action.after.proofs if p.node == "a"] == [Rule.MOVED]


def test_a_dead_node_whose_first_answer_is_waited_for_is_not_absent() -> None:
    cluster = with_ends(moving(), None, RUNNING).dead("a")
    cluster.views["a"] = NodeView(link=Link.CONNECTING)
    action = move_of(cluster)
    assert (action.after.node, action.after.intent is None) == ("b", False), "noted, and not closed"
