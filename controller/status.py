"""From verdicts to what users see: phase, REASON, conditions. Pure; the writer is in `controller.writer`.

Conditions follow kstatus: `Ready` True, False or Unknown; `Reconciling` True while something is under way or
waited for; `Stalled` True when only a human or another spec helps. A domain that is not as wanted always has
a current reason (L4), and its message ends with the command that ends the hold, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from controller.plan.aspects import aspects
from controller.plan.case import Case
from controller.plan.migrating import SETTLES_S
from controller.plan.snapshot import Held, Snapshot, StoredDomain
from controller.plan.types import STALLING, ActionKind, Deferred, Reason, Situation, Verdict
from drivers.hypervisor import State
from specs.domain import DomainStatus, PendingField, RequestStatus, effective_state
from specs.meta import Condition

DOING = {
    ActionKind.START: "Starting",
    ActionKind.DEFINE: "Defining",
    ActionKind.SHUTDOWN: "ShuttingDown",
    ActionKind.DESTROY: "Stopping",
    ActionKind.PAUSE: "Pausing",
    ActionKind.RESUME: "Resuming",
    ActionKind.SAVE: "Saving",
    ActionKind.DROP_SAVED: "DroppingSaved",
    ActionKind.REBOOT: "Rebooting",
    ActionKind.RESET: "Resetting",
    ActionKind.REVOKE: "Undefining",
    ActionKind.RELEASE: "Releasing",
    ActionKind.RECORD: "Recording",
    ActionKind.MARK: "Marking",
    ActionKind.AUTOSTART: "SettingAutostart",
    ActionKind.FORGET: "Undefining",
    ActionKind.HAND_BACK: "HandingBack",
    ActionKind.FINISH: "Removing",
    ActionKind.MIGRATE: "Migrating",
    ActionKind.ABORT: "AbortingMigration",
    ActionKind.GO_ON: "Resuming",
    ActionKind.UNPLANT: "Undefining",
}
UNKNOWN_REASONS = frozenset(
    {Reason.NODE_UNREACHABLE, Reason.NODE_REFUSED, Reason.NODE_GONE, Reason.AWAITING_OBSERVATION}
)
QUIET_SITUATIONS = frozenset({Reason.COMPLETED})
WHY_LIMIT = 1024


def sentence(deferred: Deferred) -> str:
    """The message of a hold, with the way out."""
    out = f"; to end this: {deferred.command}" if deferred.command else ""
    return (deferred.message + out)[:WHY_LIMIT]


def domain_status(snap: Snapshot, uuid: str, verdict: Verdict) -> DomainStatus:
    """The status that this verdict means; conditions carry no times yet (`with_times`)."""
    stored = snap.domains[uuid]
    meta = stored.domain.metadata
    generation = 0 if isinstance(meta.generation, UnsetType) else meta.generation
    held = snap.assignments.get(uuid)
    reason, message = said(verdict, stored)
    node, state, state_reason = _seen(snap, uuid, held)
    restarts = snap.restarts.get(uuid)
    stays = isinstance(meta.deletion_timestamp, UnsetType)
    wanted = effective_state(stored.domain.spec) if stays else "absent"
    ready = _ready(verdict, wanted, _runs_on(snap, uuid, node))
    return DomainStatus(
        observed_generation=generation,
        phase=_phase(verdict, state),
        reason=reason,
        node=node or UNSET,
        state=state,
        state_reason=state_reason or UNSET,
        uuid=uuid,
        epoch=held.assignment.epoch if held is not None else UNSET,
        digest=held.assignment.digest if held is not None and held.assignment.digest else UNSET,
        macs=held.assignment.macs if held is not None and held.assignment.macs else UNSET,
        restarts=max(restarts.count - 1, 0) if restarts is not None else UNSET,
        pending=_pending(verdict) or UNSET,
        requests=_requests(held) or UNSET,
        conditions=[
            _condition("Ready", ready, reason, message, generation),
            _condition("Reconciling", _reconciling(verdict), reason, message, generation),
            _condition("Stalled", _stalled(verdict), reason, message, generation),
            *(_condition(*aspect, generation) for aspect in aspects(Case(snap, uuid))),
            *(
                [_condition("RestartRequired", "True", "PendingChanges", verdict.note, generation)]
                if verdict.pending
                else []
            ),
        ],
    )


def _requests(held: Held | None) -> list[RequestStatus]:
    answered = held.assignment.requests if held is not None else {}
    return [
        RequestStatus(name=n, value=a.value, outcome=a.outcome[:256], at=a.at)
        for n, a in sorted(answered.items())
    ]


def _pending(verdict: Verdict) -> list[PendingField]:
    """Bounded: the values come from a host's XML."""
    shown = verdict.pending[:64]
    return [PendingField(field=f[:256], live=a[:256], desired=d[:256]) for f, a, d in shown]


def hold_of(verdict: Verdict) -> Deferred | None:
    """What holds the domain: also while an action tries once more to end that, lest the reason alternate."""
    return verdict.action.persists if verdict.action is not None else verdict.deferred


def said(verdict: Verdict, stored: StoredDomain) -> tuple[str, str]:
    """(REASON, message) of a verdict."""
    hold = hold_of(verdict)
    if hold is not None:
        return hold.reason.value, sentence(hold)
    if verdict.action is not None:
        return DOING[verdict.action.kind], verdict.action.why[:WHY_LIMIT]
    wanted = effective_state(stored.domain.spec)
    return wanted.capitalize(), verdict.note or "as wanted"


def _seen(snap: Snapshot, uuid: str, held: Held | None) -> tuple[str, str, str]:
    """Node, state and libvirt's reason, or why the state is not known."""
    if held is None:
        return "", "absent", ""
    node = held.assignment.node
    view = snap.views.get(node)
    if view is None or not view.answers:
        return node, "unknown", ""
    sighting = snap.sightings.get(uuid, {}).get(node)
    if sighting is None:
        return node, "absent", ""
    return node, sighting.record.state.value, sighting.record.reason


def _phase(verdict: Verdict, state: str) -> str:
    if verdict.situation is Situation.DELETING:
        return "Terminating"
    hold = hold_of(verdict)
    if hold is not None and hold.reason in STALLING:
        return "Stalled"
    if verdict.action is not None:
        return DOING[verdict.action.kind]
    return state.capitalize() if state != "absent" else "Pending"


Truth = Literal["True", "False", "Unknown"]


def _runs_on(snap: Snapshot, uuid: str, node: str) -> bool:
    """While it moves: its source says so, and where that has nothing of it any more, whoever has. Somebody
    may have paused it, or it is nowhere (seed 109927). One that its migration shows as paused for longer than
    a switch-over takes stands still, whoever paused it (seed 1102887)."""
    seen = snap.sightings.get(uuid, {})
    copies = [seen[node]] if node in seen else list(seen.values())
    return any(
        copy.record.state is State.RUNNING or (copy.in_migration and snap.now - copy.since < SETTLES_S)
        for copy in copies
    )


def _ready(verdict: Verdict, wanted: str, runs: bool) -> Truth:
    hold = hold_of(verdict)
    if hold is not None:
        if hold.reason is Reason.MIGRATING:
            return "True" if wanted == "running" and runs else "False"
        return "Unknown" if hold.reason in UNKNOWN_REASONS else "False"
    return "False" if verdict.action is not None or verdict.situation is not Situation.CONVERGED else "True"


def _reconciling(verdict: Verdict) -> Truth:
    hold = hold_of(verdict)
    if hold is not None:
        settled = hold.reason in STALLING or hold.reason in QUIET_SITUATIONS
        return "False" if settled else "True"
    return "True" if verdict.action is not None else "False"


def _stalled(verdict: Verdict) -> Truth:
    hold = hold_of(verdict)
    return "True" if hold is not None and hold.reason in STALLING else "False"


def _condition(kind: str, status: Truth, reason: str, message: str, generation: int) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, observed_generation=generation)


def with_times(new: Iterable[Condition], old: Sequence[Condition] | UnsetType, now: str) -> list[Condition]:
    """Conditions with their transition times: kept where the status did not change."""
    before = {} if isinstance(old, UnsetType) else {c.type: c for c in old}
    timed = []
    for condition in new:
        was = before.get(condition.type)
        same = was is not None and was.status == condition.status
        at = was.last_transition_time if same and was is not None else now
        timed.append(msgspec.structs.replace(condition, last_transition_time=now if at is UNSET else at))
    return timed
