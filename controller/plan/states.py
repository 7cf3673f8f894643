"""What is due for an active domain to be in the state that is wanted, and what must be left as it is.

One table: what is wanted, and how the guest stands (`STANDS`, from libvirt's state and reason). domctl undoes
only its own: a guest that domctl paused is resumed when that is wanted; one that somebody paused by hand is
held, for nobody knows why. A guest that is paused holds its disks (I1) whoever paused it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from controller.model import IntentKind
from controller.plan import actions
from controller.plan.case import Case
from controller.plan.evidence import quiet
from controller.plan.snapshot import Sighting
from controller.plan.types import Action, Deferred, Reason

Answer = Action | Deferred | None

RUNS: Final = frozenset({"running", "paused"})
"""Wishes that a domain must be started for."""

GOING, ENDING, HALTED, FAULTED, BUSY, CRASHED, SUSPENDED = (
    "going",
    "ending",
    "halted",
    "faulted",
    "busy",
    "crashed",
    "suspended",
)
_OF_STATE: Final = {"shutdown": ENDING, "crashed": CRASHED, "pmsuspended": SUSPENDED}
_OF_PAUSE: Final = {
    **dict.fromkeys(("ioerror", "watchdog", "api-error"), FAULTED),
    **dict.fromkeys(("save", "dump", "snapshot", "shutting-down"), BUSY),
    "crashed": CRASHED,
}


def stands(seen: Sighting) -> str:
    """How an active guest stands, for the purpose of states."""
    if seen.record.state == "paused":
        return _OF_PAUSE.get(seen.record.reason, HALTED)
    return _OF_STATE.get(seen.record.state, GOING)


def bring_about(case: Case, seen: Sighting) -> Answer:
    """Pause it, resume it, hold it; None if its processors are as wanted."""
    return _TABLE[case.wanted, stands(seen)](case, seen)


def _nothing(case: Case, seen: Sighting) -> Answer:
    return None


def _goes(case: Case, seen: Sighting) -> Answer:
    """As wanted, but for drivers that forget over a restart of their daemon that they froze it: it is called
    running, resuming it is an error, and it stands still; so it is paused anew, and then resumed. That domctl
    had paused it is forgotten, lest a pause by hand be taken for it; but not before a late command can have
    had its effect."""
    able = case.able(case.node)
    forgot = able is not None and able.forgets_pause and seen.record.reason == "unknown"
    if case.assignment.paused and forgot:
        return actions.pause(case, "its host has forgotten that it stands still; it is resumed next")
    if not case.assignment.paused or case.snap.now - seen.since < case.snap.timing.stuck_s:
        return None
    return actions.note_paused(case, False, "it was resumed by hand")


def _pause(case: Case, seen: Sighting) -> Answer:
    able = case.able(case.node)
    if able is not None and not able.suspend:
        return Deferred(Reason.UNSUPPORTED, f"the driver of {case.node} cannot pause a domain")
    return actions.pause(case, "spec.state is paused")


def _stands_still(case: Case, seen: Sighting) -> Answer:
    """As wanted; by whomever, so that it may be resumed when that is wanted."""
    return None if case.assignment.paused else actions.note_paused(case, True, "it is paused, as wanted")


def _resume(case: Case, seen: Sighting) -> Answer:
    if not case.assignment.paused:
        return Deferred(
            Reason.PAUSED_BY_HAND,
            f"it was paused by hand ({seen.record.reason})",
            command=f"virsh resume on {case.node}",
        )
    return quiet(case.snap, (case.node,)) or actions.resume(case, "spec.state is running")


def _faulted(case: Case, seen: Sighting) -> Answer:
    """Resuming it before its storage works would only stop it again."""
    return Deferred(
        Reason.PAUSED_ON_ERROR,
        f"its hypervisor paused it ({seen.record.reason}), for a disk or a device of its host failed",
        command=f"virsh resume on {case.node}, once its storage works",
    )


def _busy(case: Case, seen: Sighting) -> Answer:
    return Deferred(
        Reason.JOB_IN_PROGRESS,
        f"it stands still for a moment ({seen.record.reason}) on {case.node}",
        relist=(case.node,),
        retry_after_s=5.0,
    )


def _ending(case: Case, seen: Sighting) -> Answer:
    return Deferred(
        Reason.SHUTTING_DOWN, "its guest is shutting down by itself", relist=(case.node,), retry_after_s=5.0
    )


def _crashed(case: Case, seen: Sighting) -> Answer:
    return Deferred(
        Reason.CRASHED_PRESERVED,
        f"it crashed and is kept for inspection ({seen.record.reason})",
        command=f"virsh destroy on {case.node}",
    )


def _suspended(case: Case, seen: Sighting) -> Answer:
    return Deferred(
        Reason.SUSPENDED,
        f"its guest suspended itself ({seen.record.reason})",
        command=f"virsh dompmwakeup on {case.node}",
    )


_TABLE: Final[dict[tuple[str, str], Callable[[Case, Sighting], Answer]]] = {
    ("running", GOING): _goes,
    ("running", ENDING): _nothing,
    ("running", HALTED): _resume,
    ("running", FAULTED): _faulted,
    ("paused", GOING): _pause,
    ("paused", ENDING): _ending,
    ("paused", HALTED): _stands_still,
    ("paused", FAULTED): _stands_still,
    **{(wanted, BUSY): _busy for wanted in RUNS},
    **{(wanted, CRASHED): _crashed for wanted in RUNS},
    **{(wanted, SUSPENDED): _suspended for wanted in RUNS},
}


def may_hear(case: Case, seen: Sighting) -> Answer:
    """A guest that is paused hears no request to stop: it is resumed first, once, before the first rung; but
    not while another copy was seen anywhere, for it may be the other end of a migration."""
    if stands(seen) is not HALTED or case.uuid in case.snap.ladders or len(case.all_sightings) > 1:
        return None
    return actions.resume(case, "so that its guest hears the request to stop")


def is_over(case: Case, seen: Sighting) -> bool:
    """Whether the open intent of one call has reached its aim, or has it no more."""
    intent = case.assignment.intent
    assert intent is not None
    if intent.kind is IntentKind.PAUSE:
        return case.wanted != "paused" or not seen.record.active or stands(seen) is not GOING
    if intent.kind is IntentKind.RESUME:
        return case.wanted == "paused" or not seen.record.active or stands(seen) is not HALTED
    return False


CALLS: Final = frozenset({IntentKind.PAUSE, IntentKind.RESUME})
"""Intents that neither start nor stop a domain: one that ends while they are open ended by itself."""
