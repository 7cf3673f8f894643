"""How the actions of a migration are made: its beginning, its steps at either end, and how it is closed.

Pure constructors like those of `controller.plan.actions`; `departing` decides that one begins, and table M
(`migrating`, `standing`) what is due until its end is known.
"""

from __future__ import annotations

import dataclasses

import msgspec

from controller.model import (
    Assignment,
    Copy,
    IntentKind,
    MoveOutcome,
    MoveRecord,
    Proof,
    Rule,
)
from controller.plan import disks
from controller.plan.actions import LATER, assigned, consuming, intended, is_wiped, made, resting_on
from controller.plan.case import Case, Desired
from controller.plan.evidence import is_dead
from controller.plan.premises import changes, deaths, not_in_quarantine
from controller.plan.snapshot import MoveWatch
from controller.plan.types import Action, ActionKind
from drivers.hypervisor import Move
from specs.graphics import uses_of
from specs.mark import Mark


@dataclasses.dataclass(frozen=True, slots=True)
class Departure:
    """A migration that may begin: where to, for which request, by what call, and the definition there."""

    target: str
    request: str
    move: Move
    wanted: Desired


def migrate(case: Case, departure: Departure) -> Action:
    """Record it, give the source's definition up, look once more, and let libvirtd move it."""
    target, rendered = departure.target, departure.wanted.rendered
    assert rendered is not None
    epoch = case.assignment.epoch + 1
    why = f"moves to {target}"
    intent = msgspec.structs.replace(
        intended(IntentKind.MIGRATE, case.node, epoch, why),
        target=target,
        request=departure.request,
        copies=bool(departure.move.copy_disks),
        goes_on=departure.move.stands,
    )
    after = msgspec.structs.replace(
        assigned(case, case.node),
        epoch=epoch,
        intent=intent,
        candidates=tuple(sorted({*case.assignment.candidates, target})),
        config=rendered.xml,
        digest=rendered.digest,
        moved_disks={},
        older_disks=disks.left_in_use(case, rendered.xml, live_only=True),
    )
    action = made(case, ActionKind.MIGRATE, case.node, why, after)
    return dataclasses.replace(
        action,
        target=target,
        premises=(*action.premises, *not_in_quarantine(case, target), *changes(case, target)),
        move=departure.move,
        xml=rendered.xml,
        mark=Mark(case.snap.cluster, case.uuid, epoch, rendered.digest),
        secrets=uses_of(case.stored.domain.spec) if case.stored is not None else (),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Closing:
    """How a migration ended. `node`: where the domain belongs now. `gone`: nodes that hold nothing of it any
    more, each with the rule that proves it."""

    node: str
    outcome: MoveOutcome
    reason: str
    message: str
    attempts: int
    gone: tuple[tuple[str, Rule], ...]


def close_move(
    case: Case, closing: Closing, watch: MoveWatch, *, pause_s: float = 0.0, is_clear: bool = True
) -> Action:
    """Both ends were read: the record says where the domain is, and what became of the request."""
    was, intent = case.assignment, case.assignment.intent
    assert intent is not None
    result = watch.result
    moved = closing.outcome is MoveOutcome.SUCCEEDED
    record = MoveRecord(
        request=intent.request,
        source=intent.node,
        target=intent.target,
        outcome=closing.outcome,
        reason=closing.reason,
        message=closing.message,
        attempts=closing.attempts,
        at=LATER,
        began_at=intent.at,
        downtime_ms=_downtime_ms(case, watch) if moved else None,
        copied_bytes=result.processed_bytes if moved and result is not None else None,
    )
    left = {node for node, _ in closing.gone}
    proofs = tuple(
        Proof(node=n, rule=rule, epoch=was.epoch, at=LATER, wiped=is_wiped(case, n, rule))
        for n, rule in closing.gone
    )
    after = msgspec.structs.replace(
        was,
        node=closing.node,
        intent=None,
        candidates=tuple(sorted({*was.candidates, closing.node} - left)),
        proofs=(*(p for p in was.proofs if p.node not in left), *proofs),
        last_move=record,
        tombstone=case.deleting,
        away=was.away and not is_clear,
    )
    action = made(case, ActionKind.RECORD, closing.node, closing.message, after)
    dead = tuple(n for n, rule in closing.gone if rule is Rule.CONFIRMED_DEAD)
    action = dataclasses.replace(action, quarantine=dead, is_clear=is_clear, retry_after_s=pause_s)
    action = dataclasses.replace(action, premises=(*action.premises, *deaths(case.snap, dead)))
    decision = case.snap.resolutions.get(case.uuid)
    return consuming(case, action, None) if decision is not None and decision.keep == closing.node else action


def _downtime_ms(case: Case, watch: MoveWatch) -> int | None:
    """From when it stood still at its source until it went on at its target, as this leader heard both. The
    target's libvirt counts until the copy stands there, which is all where nobody had to let it go."""
    intent, snap = case.assignment.intent, case.snap
    assert intent is not None
    if not intent.goes_on or intent.copy is not Copy.LET_GO:
        return watch.result.downtime_ms if watch.result is not None else None
    stood_at = snap.suspends.get((case.uuid, intent.node), -1.0)
    went_on_at = snap.resumes.get((case.uuid, intent.target), -1.0)
    if stood_at < watch.began_at or went_on_at < stood_at or stood_at < 0:
        return None
    return round((went_on_at - stood_at) * 1000)


def note_home(case: Case, node: str, why: str) -> Action:
    """Where the domain of an open migration is, though it cannot be closed yet."""
    return made(case, ActionKind.RECORD, node, why, msgspec.structs.replace(case.assignment, node=node))


def close_request(case: Case, request: str, closing: Closing) -> Action:
    """A request that ends without anything having been moved."""
    record = MoveRecord(
        request=request,
        source=case.node,
        target=closing.node,
        outcome=closing.outcome,
        reason=closing.reason,
        message=closing.message,
        attempts=closing.attempts,
        at=LATER,
    )
    after = msgspec.structs.replace(case.assignment, last_move=record)
    return made(case, ActionKind.RECORD, case.node, closing.message, after)


def clear_end(case: Case, node: str, why: str, copy: Copy | None = None) -> Action:
    """Destroy the end of a migration that must not run. The intent stays: table M is asked again. `copy`:
    what this makes of the target's, which whoever leads next must know."""
    return _as_said(case, made(case, ActionKind.DESTROY, node, why, _with_copy(case, copy)))


def _as_said(case: Case, action: Action) -> Action:
    """Where an operator said which end is to be kept, or that one is dead, nothing is done to either unless
    he still says so."""
    decision, move = case.snap.resolutions.get(case.uuid), case.open_move
    dead = [n for n in (() if move is None else (move.node, move.target)) if is_dead(case.snap, n)]
    action = dataclasses.replace(action, premises=(*action.premises, *deaths(case.snap, dead)))
    said = decision is not None and move is not None and decision.keep in (move.node, move.target)
    return resting_on(case, action, decision) if said and decision is not None else action


def _with_copy(case: Case, copy: Copy | None) -> Assignment:
    was = case.assignment
    if copy is None or was.intent is None:
        return was
    return msgspec.structs.replace(was, intent=msgspec.structs.replace(was.intent, copy=copy))


def unplant(case: Case, node: str, why: str) -> Action:
    """Take away a definition that no end of a migration should have; the intent stays."""
    return _as_said(case, made(case, ActionKind.UNPLANT, node, why, case.assignment))


def abort(case: Case, node: str, why: str, *, clears: str = "") -> Action:
    """End the job at `node`, with the definition that somebody put on its target (`clears`; "": there is
    none)."""
    action = made(case, ActionKind.ABORT, node, why, case.assignment)
    return dataclasses.replace(action, target=clears)


def go_on(case: Case, node: str, why: str) -> Action:
    """Resume the source that a migration left paused."""
    return _as_said(case, made(case, ActionKind.GO_ON, node, why, case.assignment))


def let_go(case: Case, node: str, why: str) -> Action:
    """Resume the copy that stands at the target. From when that is recorded on, it may run there."""
    return _as_said(case, made(case, ActionKind.GO_ON, node, why, _with_copy(case, Copy.LET_GO)))
