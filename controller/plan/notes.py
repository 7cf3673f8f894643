"""What is only written down: actions that change a domain's record in etcd, and are sent to no host.

Pure constructors like those of `controller.plan.actions`. What stands in the record outlives whoever saw it:
the next leader may find nothing else that says how a domain ended, or where it, or a disk of it, was taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controller.model import BEGUN, BY_WORD, MovedDisk, MoveOutcome, MoveRecord
from controller.plan.actions import LATER, answering, answers_of, arrived_cold, consuming, made
from controller.plan.case import Case
from controller.plan.types import Action, ActionKind


def used_up(case: Case, why: str) -> Action:
    return consuming(case, made(case, ActionKind.RECORD, case.node, why, case.assignment), None)


def word_over(case: Case, stands: tuple[str, ...], why: str) -> Action:
    """Of an operator's word only this much stands."""
    decision = case.snap.resolutions[case.uuid]
    left = msgspec.structs.replace(decision, not_on=stands) if stands else None
    return consuming(case, made(case, ActionKind.RECORD, case.node, why, case.assignment), left)


def drop_proof(case: Case, node: str, why: str) -> Action:
    """A node that was taken for dead answers and was found clean: the proof is not needed any more."""
    proofs = tuple(p for p in case.assignment.proofs if p.node != node)
    return made(case, ActionKind.RECORD, node, why, msgspec.structs.replace(case.assignment, proofs=proofs))


def take_back(case: Case, why: str) -> Action:
    """The record of a deletion that is none."""
    after = msgspec.structs.replace(case.assignment, tombstone=False)
    if case.held is not None and case.stored is not None and case.stored.created > case.held.revision:
        after = msgspec.structs.replace(after, **OF_ONE_LIFE)  # another object, under the UUID of before
    return made(case, ActionKind.RECORD, case.node, why, after)


OF_ONE_LIFE: Final[Mapping[str, Any]] = {
    "stopped": False,
    "ended": "",
    "paused": False,
    "saved": "",
    "save_room": "",
    "requests": {},
    "moved_disks": {},
    "older_disks": {},
    "restarts": 0,
}
"""What an assignment says of the domain itself, and not of where it may be."""


def reclaim(case: Case, node: str, why: str) -> Action:
    """A node that was taken for dead answers, or holds a copy: it is a candidate again."""
    after = msgspec.structs.replace(
        case.assignment,
        epoch=case.assignment.epoch + 1,
        candidates=tuple(sorted({*case.assignment.candidates, node})),
        proofs=tuple(p for p in case.assignment.proofs if p.node != node),
    )
    return made(case, ActionKind.RECORD, node, why, after)


def reassign(case: Case, node: str, why: str) -> Action:
    """The domain's node is the one where it runs, by an operator's word. That ends a migration between two
    others, and with it what asked for it."""
    move, last = case.open_move, case.assignment.last_move
    if move is not None and move.request:
        last = MoveRecord(
            request=move.request,
            source=move.node,
            target=move.target,
            outcome=MoveOutcome.FAILED,
            reason="Resolved",
            message=why,
            attempts=0 if last is None or last.request != move.request else last.attempts,
            at=LATER,
            began_at=move.at,
        )
    after = msgspec.structs.replace(
        case.assignment,
        node=node,
        epoch=case.assignment.epoch + 1,
        intent=None,
        last_move=last,
        candidates=tuple(sorted({*case.assignment.candidates, node})),
    )
    return made(case, ActionKind.RECORD, node, why, after)


def disks_moved(case: Case, moved: Mapping[str, MovedDisk]) -> Action:
    """Where disks stand that somebody moved by hand: the next leader may find nothing that says so."""
    after = msgspec.structs.replace(case.assignment, moved_disks=dict(moved))
    where = ", ".join(f"{name} is on {disk.source}" for name, disk in sorted(moved.items()))
    why = f"moved by hand: {where}" if where else "its disks are where the spec says again"
    return made(case, ActionKind.RECORD, case.node, why, after)


def close_intent(case: Case, why: str, *, stopped: bool | None = None) -> Action:
    """What the intent was for is there: only the record changes."""
    was = case.assignment
    after = msgspec.structs.replace(
        was,
        intent=None,
        last_move=arrived_cold(was),
        stopped=was.stopped if stopped is None else stopped,
        ended=was.ended if stopped is None else "",
        restarts=0 if stopped else was.restarts,
    )
    return made(case, ActionKind.RECORD, case.node, why, after)


def started(case: Case) -> Action:
    """A start that was interrupted came to its end, and so did what could be taken back of it."""
    action = close_intent(case, "it runs", stopped=False)
    assert action.after is not None
    proofs = action.after.proofs
    used = tuple(msgspec.structs.replace(p, used=True) if p.rule in BY_WORD else p for p in proofs)
    return dataclasses.replace(action, after=msgspec.structs.replace(action.after, proofs=used))


def ended(case: Case, how: str) -> Action:
    """It ended by itself, and its policy lets it rest: whatever forgets that, the record does not."""
    after = msgspec.structs.replace(case.assignment, ended=how)
    return made(case, ActionKind.RECORD, case.node, f"it ended ({how}), and rests from now on", after)


def running(case: Case) -> Action:
    """Somebody else started it: what was noted of its last end is of a run before this one."""
    after = msgspec.structs.replace(case.assignment, stopped=False, ended="")
    return made(case, ActionKind.RECORD, case.node, "it runs again, by somebody else's hand", after)


def paused(case: Case, paused: bool, why: str) -> Action:
    after = msgspec.structs.replace(case.assignment, paused=paused)
    return made(case, ActionKind.RECORD, case.node, why, after)


def answer_void(case: Case, name: str) -> Action:
    """A request that asks for nothing is told so, and never looked at again."""
    outcome = f"not done, {case.void(name)}"
    answers = {**case.assignment.requests, **answers_of({name: outcome}, case)}
    after = msgspec.structs.replace(case.assignment, requests=answers)
    return made(case, ActionKind.RECORD, case.node, f"{name} was asked for: {outcome}", after)


def answer(case: Case, name: str, outcome: str, **changes: Any) -> Action:
    """A request is answered, and nothing is sent for it."""
    after = msgspec.structs.replace(answering(case, case.assignment, name, outcome), **changes)
    return made(case, ActionKind.RECORD, case.node, f"{name} was asked for: {outcome}", after)


def not_known(case: Case, why: str) -> Action:
    """The open intent of a request was interrupted, or refused: `why`."""
    was = case.assignment
    left = {
        n: msgspec.structs.replace(a, outcome=why, at=LATER) if a.outcome == BEGUN else a
        for n, a in was.requests.items()
    }
    after = msgspec.structs.replace(was, intent=None, requests=left)
    return made(case, ActionKind.RECORD, case.node, f"a request came to nothing: {why}", after)


def saved(case: Case) -> Action:
    """Saved memory is seen that domctl did not save: which definition stands beside it now is noted."""
    after = msgspec.structs.replace(case.assignment, saved=case.assignment.digest or "unknown")
    return made(case, ActionKind.RECORD, case.node, "its memory was saved by hand, or by its host", after)


def away(case: Case, away: bool, why: str) -> Action:
    after = msgspec.structs.replace(case.assignment, away=away)
    return made(case, ActionKind.RECORD, case.node, why, after)


def disarmed(case: Case) -> Action:
    after = msgspec.structs.replace(case.assignment, autostart=False)
    return made(case, ActionKind.RECORD, case.node, "autostart was cleared", after)
