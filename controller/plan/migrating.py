"""Migrations of ours whose end is not known yet: table M of the protocol, row by row.

From the moment that an intent to migrate is recorded until it is closed, nothing else is decided about its
domain. What is concluded is concluded from both ends, the source read first and the target after its reply
(a domain that moves between two reads must not be missed), never from what the call returned (I8). While the
source shows a job the only thing to do is to let it go on, or to end it once it stands still. What no row
names is a hold. How a migration begins is in `controller.plan.departing`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from controller.model import Copy, IntentKind, MoveOutcome, Rule
from controller.plan import moves, notes
from controller.plan.case import Case
from controller.plan.ends import End, Ends, ends_of
from controller.plan.evidence import (
    absent_everywhere,
    is_dead,
    late_commands,
    quiet,
    quiet_s,
    unreachable,
    way_out,
)
from controller.plan.standing import (
    beside_paused_source,
    go_on_at_target,
    let_go,
    may,
    old_copy,
    only_looked_at,
)
from controller.plan.types import Action, Deferred, Reason, Verdict
from drivers.hypervisor import Job

Answer = Action | Deferred | Verdict

MAX_ATTEMPTS = 3
LOOK_AGAIN_S = 0.5
FIRST_PAUSE_S = 5.0
NEVER = float("inf")
BRIEFLY_S = 1.0  # after its call: nobody needs to be told what is over so soon
CONVERGES_IN_S, CONVERGES_IN_ROUNDS = 300.0, 10  # whichever comes later: what all of it was sent so often
SETTLES_S = 5.0  # libvirt itself shows source and target so for 0.2 s at every switch-over


A, STANDS, MIG, ENDED, OFF, ABSENT, SILENT = (
    frozenset({end}) for end in (End.ACTIVE, End.STANDS, End.MIG, End.ENDED, End.OFF, End.ABSENT, End.SILENT)
)
SHUTOFF, ANY = ENDED | OFF, frozenset(End)


@dataclass(frozen=True, slots=True)
class Row:
    """`wait`: the target, or where there is nothing the source, must have been so for a while."""

    source: frozenset[End]
    target: frozenset[End]
    do: Callable[[Ends], Answer]
    wait: Literal["", "stuck", "settling"] = ""


def own_migration(case: Case) -> Answer | None:
    """What is due for a domain with an open intent to migrate; None where there is none."""
    if case.held is None or case.assignment.intent is None:
        return None
    intent = case.assignment.intent
    if intent.kind is not IntentKind.MIGRATE:
        return None
    if case.stored is None and not case.deleting:
        return None  # a missing object takes nothing away (I11); its own rule says so
    ends = ends_of(case, intent)
    if ends.watch.in_flight:
        return _under_way(ends)
    return _stranger(ends) or _job(ends) or _unread(ends) or _by_table(ends)


# --- before the table may be asked


def _stranger(ends: Ends) -> Deferred | None:
    """It is on a third node: somebody else has a hand in it. What was last seen on one that is dead by now is
    for the rules that follow the migration."""
    snap, seen = ends.case.snap, ends.case.all_sightings
    third = sorted(n for n in seen if n not in (ends.source, ends.target) and seen[n].record.active)
    others = [n for n in third if _answers(ends, n) or not is_dead(snap, n)]
    if not others:
        return None
    silent = next((n for n in others if not _answers(ends, n)), "")
    paused = next((n for n in others if not seen[n].active), "")
    alone = len(others) == 1 and End.ACTIVE not in (ends.at_source, ends.at_target)
    command = f"domctl resolve {ends.case.command_target} --keep {others[0] if alone else 'NODE'}"
    if paused:
        command = way_out(ends.case.assignment, paused, seen[paused])
    if silent:
        command = unreachable(snap, silent).command
    return Deferred(
        Reason.RUNS_ELSEWHERE,
        f"it was to move from {ends.source} to {ends.target}, and is on {', '.join(others)}",
        command=command,
        relist=(*others, ends.source, ends.target),
        retry_after_s=5.0,
    )


def _job(ends: Ends) -> Answer | None:
    """While the source shows a job nothing else is done."""
    if ends.at_source not in (End.ACTIVE, End.MIG):
        return None
    watch = ends.watch
    if watch.asked_at is None or watch.asked_at < watch.over_at:
        return _reading(ends, f"asking {ends.source} whether it is still at it")
    return _under_way(ends) if watch.job is not None else None


def _under_way(ends: Ends) -> Answer:
    case, watch = ends.case, ends.watch
    ours = watch.job is not None and watch.job.operation == "migration-out"
    if not ours and watch.job is not None and not watch.in_flight:
        what = watch.job.operation
        return Deferred(Reason.MIGRATING, f"{ends.source} is at work on it: {what}", retry_after_s=1.0)
    if case.deleting or _abort_is_wanted(ends):
        return _abort(ends, "it is to be ended")
    still_s = case.snap.now - watch.still_since if watch.job is not None else 0.0
    if ours and still_s > case.snap.timing.stuck_s:
        return _abort(ends, f"nothing was copied for {still_s:.0f} s", is_stuck=True)
    if ours and does_not_converge(watch.job):
        return _abort(ends, f"its guest writes faster than {ends.source} copies: it would never arrive")
    done = ""
    if watch.job is not None and watch.job.total_bytes:
        done = f", {watch.job.remaining_bytes >> 20} of {watch.job.total_bytes >> 20} MiB left"
    return Deferred(
        Reason.MIGRATING, f"on its way from {ends.source} to {ends.target}{done}", retry_after_s=1.0
    )


def does_not_converge(job: Job | None) -> bool:
    """What was written meanwhile is copied again, round after round: a link that could ever catch up with
    the guest has done so long before (fault F24 of a migration without end)."""
    if job is None or job.elapsed_s < CONVERGES_IN_S:
        return False
    return 0 < job.total_bytes * CONVERGES_IN_ROUNDS < job.processed_bytes


def _abort_is_wanted(ends: Ends) -> bool:
    requests = ends.case.snap.requests.get(ends.case.key, ())
    return any(
        r.migration.metadata.uid == ends.intent.request and r.migration.spec.abort is True for r in requests
    )


def _abort(ends: Ends, why: str, *, is_stuck: bool = False) -> Answer:
    """A definition that somebody put on the target goes with it: after an abort it could be started."""
    case = ends.case
    if ends.at_source is End.SILENT:
        return _hold_for(ends, ends.source)
    if ends.at_target is not End.SILENT and _is_stale(ends):
        return _reading(ends, f"to be ended; reading {ends.source} and {ends.target} first")
    if ends.at_target in (End.ACTIVE, End.STANDS):
        return Deferred(Reason.MIGRATING, f"it has arrived on {ends.target} already", retry_after_s=1.0)
    stuck = ends.at_source is End.MIG and ends.at_target in (End.MIG, End.ABSENT) and is_stuck
    if ends.at_source is not End.ACTIVE and not stuck:
        return Deferred(
            Reason.MIGRATING,
            f"it is just switching over from {ends.source} to {ends.target}",
            retry_after_s=1.0,
        )
    there = ends.sighting(ends.target)
    planted = there is not None and there.in_migration and there.detail.persistent
    clears = ends.target if planted else ""
    late = only_looked_at(ends, ends.source) or quiet(case.snap, (ends.source,))
    if planted and late is None:
        late = only_looked_at(ends, ends.target) or late_commands(case.snap, case.uuid, (ends.target,))
    return late or moves.abort(case, ends.source, why, clears=clears)


def _unread(ends: Ends) -> Deferred | None:
    """Both ends, in this order, after the last thing that was heard, done or seen of it."""
    if End.SILENT in (ends.at_source, ends.at_target):
        return None  # those rows wait for nothing that could be read
    if any(is_dead(ends.case.snap, n) and not _answers(ends, n) for n in (ends.source, ends.target)):
        return None
    watch, snap = ends.watch, ends.case.snap
    if _is_stale(ends):
        return _reading(ends, f"reading {ends.source} and {ends.target}, one after the other")
    if watch.unsure and (left_s := _late_until(ends) - snap.now) > 0:
        return Deferred(
            Reason.MIGRATION_IN_PROGRESS,
            f"{ends.source} did not answer to the migration, and may still begin it for {left_s:.0f} s",
            retry_after_s=min(left_s, 5.0),
        )
    return None


def _is_stale(ends: Ends) -> bool:
    """Whether both ends were not read since the last that was heard, done or seen of it. What the reading of
    the target itself showed is no news."""
    watch, snap, uuid = ends.watch, ends.case.snap, ends.case.uuid
    if watch.read is None:
        return True
    newest = max(watch.over_at, snap.heard.get(uuid, snap.term.elected_at), ends.since(ends.source))
    return watch.read[0] < newest or watch.read[1] < ends.since(ends.target)


def _answers(ends: Ends, node: str) -> bool:
    view = ends.case.snap.views.get(node)
    return view is not None and view.answers


def _late_until(ends: Ends) -> float:
    """A frozen daemon keeps what it received for as long as it is frozen: what is late is counted from its
    first answer after the call was given up (safety §4)."""
    snap, answered_at = ends.case.snap, ends.watch.answered_at
    if answered_at is None:
        return NEVER
    return answered_at + quiet_s(snap, ends.source)


def _reading(ends: Ends, message: str) -> Deferred:
    briefly = ends.case.snap.now - ends.watch.over_at < BRIEFLY_S  # what its status says still holds
    reason = Reason.AWAITING_OBSERVATION if briefly else Reason.MIGRATING
    return Deferred(reason, message, retry_after_s=LOOK_AGAIN_S)


# --- the table


def _by_table(ends: Ends) -> Answer:
    for row in TABLE_M:
        if ends.at_source in row.source and ends.at_target in row.target:
            return _waiting(ends, row) or row.do(ends)
    return _hold(ends, "no rule says what this means")


def _waiting(ends: Ends, row: Row) -> Deferred | None:
    if not row.wait:
        return None
    wait_s = ends.case.snap.timing.stuck_s if row.wait == "stuck" else SETTLES_S
    since = ends.since(ends.source if ends.at_target is End.ABSENT else ends.target)
    left_s = since + wait_s - ends.case.snap.now
    if left_s <= 0:
        return None
    return Deferred(
        Reason.MIGRATION_IN_PROGRESS,
        f"{ends.both}; cleared up in {left_s:.0f} s",
        relist=(ends.source, ends.target),
        retry_after_s=min(left_s, 5.0),
    )


def failed(ends: Ends) -> Answer:
    """It runs on where it was. Its definition is made again by the rules for a domain that runs at home."""
    late = quiet(ends.case.snap, (ends.source, ends.target))
    if late is not None:
        return late  # a former leader may have sent the migration, and it may still arrive
    attempts = _attempts(ends) + 1
    aborted = _abort_is_wanted(ends) or ends.case.deleting
    resolved = bool(ends.kept)  # whoever had to be asked about it asks again if he wants it moved
    last = aborted or resolved or ends.watch.rejected or attempts >= MAX_ATTEMPTS
    outcome = MoveOutcome.ABORTED if aborted else MoveOutcome.FAILED if last else MoveOutcome.RETRYING
    said = ends.watch.error or "it did not come to its end"
    reason = "Aborted" if aborted else Reason.NO_PEER_PATH.value if ends.watch.no_path else "MigrationFailed"
    closing = moves.Closing(ends.source, outcome, reason, said, attempts, gone=_gone(ends, ends.target))
    pause_s = FIRST_PAUSE_S * 2.0 ** (attempts - 1) if outcome is MoveOutcome.RETRYING else 0.0
    return moves.close_move(ends.case, closing, ends.watch, pause_s=pause_s)


def _attempts(ends: Ends) -> int:
    last = ends.case.assignment.last_move
    same = last is not None and last.request == ends.intent.request and last.outcome is MoveOutcome.RETRYING
    return last.attempts if last is not None and same else 0


def _gone(ends: Ends, *nodes: str) -> tuple[tuple[str, Rule], ...]:
    """Nodes that hold nothing of it, each with what proves it."""
    snap, view = ends.case.snap, ends.case.snap.views
    return tuple(
        (n, Rule.CONFIRMED_DEAD if is_dead(snap, n) and not (n in view and view[n].answers) else Rule.MOVED)
        for n in nodes
    )


def unplant_target(ends: Ends) -> Answer:
    why = f"{ends.both}: the migration failed, and nothing may start it there"
    return may(ends, ends.target) or moves.unplant(ends.case, ends.target, why)


def destroy_target(ends: Ends) -> Answer:
    why = f"{ends.both}: nobody is at work on it any more"
    return may(ends, ends.target) or moves.clear_end(ends.case, ends.target, why)


def destroy_source(ends: Ends) -> Answer:
    """Its target runs, with memory that went on since: the paused source must never (I9)."""
    why = f"it runs on {ends.target}, where it was migrated to"
    return may(ends, ends.source) or moves.clear_end(ends.case, ends.source, why)


def paused_source(ends: Ends) -> Answer:
    """Paused here and gone there. Whether it ran there, and wrote, is known only to whoever listened."""
    case = ends.case
    decision = case.snap.resolutions.get(case.uuid)
    vouched = decision is not None and decision.keep == ends.source
    if ends.is_taken_away or (decision is not None and decision.keep == ends.target):
        why = "it is deleted" if ends.is_taken_away else f"{ends.target} has what is to be kept"
        return may(ends, ends.source) or moves.clear_end(case, ends.source, why)
    if vouched or not ends.may_have_run:
        why = "its target never ran it" if not vouched else "an operator said that it belongs here"
        # His word stands until the migration is closed: the resume may have to be sent more than once.
        return may(ends, ends.source) or moves.go_on(case, ends.source, why)
    if ends.intent.copies:
        return _copied_hold(ends)
    if ends.reboots:
        why = f"it may have run on {ends.target}, and migration.onDoubt is Reboot"
        return may(ends, ends.source) or moves.clear_end(case, ends.source, why)
    return Deferred(
        Reason.MIGRATION_DOUBT,
        f"it stands paused on {ends.source}; on {ends.target} it is gone, but may have run and written",
        command=f"domctl resolve {case.command_target} --keep {ends.source} to let it go on{ends.or_else}",
    )


def _copied_hold(ends: Ends) -> Deferred:
    return Deferred(
        Reason.MIGRATION_DOUBT,
        f"its disks were copied to {ends.target}, where it may have run: those of {ends.source} may be old",
        command=f"domctl resolve {ends.case.command_target} --keep NODE: the node whose disks are right",
    )


def arrived(ends: Ends) -> Answer:
    """The target has it. A definition left at the source is taken away, then the assignment moves. One that
    stands shut off at the target is no arrival if it never ran there: somebody put it there. Then it is taken
    away rather than held, though it may be the only copy: what defines the domain is in etcd, its NVRAM and
    saved memory stay (an undefine fails over those), and a definition there could be started by anybody while
    I22's evidence is gathered for a start at home."""
    if ends.at_target is not End.ACTIVE and ends.kept != ends.target:
        why = f"it never ran on {ends.target}: nothing may start it there"
        if ends.kept == ends.source:
            why = f"an operator said that it belongs on {ends.source}"
        if ends.kept == ends.source or not ends.may_have_run:
            return may(ends, ends.target) or moves.unplant(ends.case, ends.target, why)
        if ends.intent.copies and not ends.is_taken_away:
            return _copied_hold(ends)
    if ends.at_target is End.ACTIVE and ends.stands:
        return go_on_at_target(ends, "it was to go on, and still stands")
    left = ends.sighting(ends.source)
    if left is not None and ends.at_source is not End.ABSENT:
        why = f"it is on {ends.target} now"
        if left.in_migration:
            return may(ends, ends.source) or moves.clear_end(ends.case, ends.source, why)
        return may(ends, ends.source) or moves.unplant(ends.case, ends.source, why)
    return _moved(ends, gone=_gone(ends, ends.source))


def arrived_unseen(ends: Ends) -> Answer:
    """The source does not answer and the target has it: that is written down. The intent stays open; what the
    source shows when it answers, a paused copy for instance, is judged by this table."""
    if ends.case.node != ends.target:
        return moves.note_home(ends.case, ends.target, f"it runs on {ends.target}; {ends.source} is silent")
    return _hold_for(ends, ends.source)


def _moved(ends: Ends, gone: tuple[tuple[str, Rule], ...]) -> Answer:
    said = f"moved from {ends.source} to {ends.target}"
    attempts = _attempts(ends) + 1
    closing = moves.Closing(ends.target, MoveOutcome.SUCCEEDED, "Moved", said, attempts, gone)
    return moves.close_move(ends.case, closing, ends.watch)


def ended_at_source(ends: Ends) -> Answer:
    """It ended where it was before it could leave; what follows is for the rules of a domain at home."""
    doubtful = ends.intent.copies and ends.may_have_run
    if doubtful and not ends.case.deleting and ends.kept != ends.source:
        if not ends.kept:
            return _copied_hold(ends)
        if ends.at_source is not End.ABSENT:
            why = f"an operator said that it belongs on {ends.target}"
            return may(ends, ends.source) or moves.unplant(ends.case, ends.source, why)
    late = quiet(ends.case.snap, (ends.source, ends.target))
    if late is not None:
        return late
    said = f"it ended on {ends.source} while it was migrated"
    outcome = MoveOutcome.FAILED
    closing = moves.Closing(
        ends.source, outcome, "DomainEnded", said, _attempts(ends) + 1, gone=_gone(ends, ends.target)
    )
    return moves.close_move(ends.case, closing, ends.watch, is_clear=ends.at_source is End.ENDED)


def gone(ends: Ends) -> Answer:
    """On neither end: it vanished, and starts again only once it was read as absent everywhere (I22)."""
    case = ends.case
    assert case.held is not None
    if case.deleting:
        return ended_at_source(ends)
    decision = case.snap.resolutions.get(case.uuid)
    vouched = decision is not None and decision.keep in (ends.source, ends.target)
    if ends.intent.copies and ends.may_have_run and not vouched:
        return _copied_hold(ends)
    absent = absent_everywhere(case.snap, case.held, ends.source)
    if isinstance(absent, Deferred):
        seen_to_go = case.uuid in case.snap.migrated and not case.assignment.away
        return notes.away(case, True, f"{ends.both}: it may have been moved on") if seen_to_go else absent
    said = f"it is neither on {ends.source} nor on {ends.target}; it is started again"
    node = decision.keep if decision is not None and vouched else ends.source
    other = ends.target if node == ends.source else ends.source
    lost = (*_gone(ends, other), *(_gone(ends, node) if is_dead(case.snap, node) else ()))
    closing = moves.Closing(node, MoveOutcome.FAILED, "DomainEnded", said, _attempts(ends) + 1, gone=lost)
    return moves.close_move(case, closing, ends.watch, is_clear=True)


def both_active(ends: Ends) -> Answer:
    """A guest that its user paused shows so on both ends, and arrives paused: the source's is the old one.
    Anything else is a domain that runs twice."""
    if _was_paused_all_along(ends):
        why = f"it was paused before it moved, and is on {ends.target} now"
        return may(ends, ends.source) or moves.clear_end(ends.case, ends.source, why)
    return Deferred(
        Reason.DUPLICATE,
        f"active on {ends.source} and {ends.target} at once; nothing is destroyed automatically",
        command=f"domctl resolve {ends.case.command_target} --keep NODE",
        relist=(ends.source, ends.target),
        retry_after_s=5.0,
    )


def _was_paused_all_along(ends: Ends) -> bool:
    """By its user, on both ends; at the source since before it moved, as far back as this leader saw, and at
    the target without ever having been heard to run."""
    source, target = ends.sighting(ends.source), ends.sighting(ends.target)
    assert source is not None and target is not None
    by_user = all((s.record.state, s.record.reason) == ("paused", "user") for s in (source, target))
    view = ends.case.snap.views[ends.source]
    first_read_at = view.first_read_at if view.first_read_at is not None else -1.0
    before = source.since <= (ends.watch.began_at or first_read_at)
    return by_user and before and not ends.went_on and ends.intent.copy is not Copy.LET_GO


def source_silent(ends: Ends) -> Answer:
    return _hold_for(ends, ends.source)


def target_silent(ends: Ends) -> Answer:
    return _hold_for(ends, ends.target)


def _hold_for(ends: Ends, node: str) -> Answer:
    hold = unreachable(ends.case.snap, node)
    message = f"it was being migrated from {ends.source} to {ends.target}: {hold.message}"
    return Deferred(hold.reason, message, command=hold.command, retry_after_s=hold.retry_after_s)


def _hold(ends: Ends, why: str) -> Deferred:
    return Deferred(
        Reason.MIGRATION_DOUBT,
        f"{ends.both}: {why}",
        command=f"domctl resolve {ends.case.command_target} --keep NODE",
        relist=(ends.source, ends.target),
        retry_after_s=5.0,
    )


TABLE_M: tuple[Row, ...] = (
    Row(A, ABSENT, failed),
    Row(A, SHUTOFF, unplant_target),
    Row(A, MIG, destroy_target, "stuck"),
    Row(A, STANDS, old_copy, "settling"),
    Row(MIG, A, destroy_source, "settling"),
    Row(MIG, STANDS, beside_paused_source, "settling"),
    Row(MIG, ABSENT, paused_source, "settling"),
    Row(MIG, MIG, destroy_target, "stuck"),
    Row(ABSENT | SHUTOFF, STANDS, let_go),
    Row(ABSENT | SHUTOFF, A, arrived),
    Row(ABSENT | SHUTOFF | MIG, SHUTOFF, arrived),
    Row(ABSENT | SHUTOFF, MIG, destroy_target, "stuck"),
    Row(ENDED, ABSENT, ended_at_source),
    Row(OFF, ABSENT, ended_at_source),
    Row(ABSENT, ABSENT, gone),
    Row(A, A, both_active),
    Row(SILENT, A, arrived_unseen),
    Row(SILENT, ANY, source_silent),
    Row(ANY, SILENT, target_silent),
)
"""Source, target, what is due: tested from the top (safety §5). The row of post-copy stands before all."""
