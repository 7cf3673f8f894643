"""What is due for an active domain to be in the state that is wanted, and what must be left as it is.

One table: what is wanted, and how the guest stands (from libvirt's state and reason). domctl undoes only its
own: a guest that domctl paused is resumed when that is wanted; one that somebody paused by hand is held, for
nobody knows why. A guest that is paused holds its disks (I1) whoever paused it. Saved memory goes on with the
definition that it was saved with, whatever is defined beside it, and it is never thrown away but by a user's
request. What is asked for once, and how saved memory is started from, stands here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from controller.model import IntentKind, MoveOutcome
from controller.plan import actions, moves, notes
from controller.plan.case import Case
from controller.plan.evidence import quiet
from controller.plan.snapshot import Sighting
from controller.plan.types import Action, Deferred, Reason, Situation, Verdict
from drivers.hypervisor import Capabilities

Answer = Action | Deferred | None

RUNS: Final = frozenset({"running", "paused"})
"""Wishes that a domain must be started for."""

NOWHERE: Final = "DefinedNowhere"
"""Why a migration of a transient domain that is off comes to nothing."""

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
    return notes.paused(case, False, "it was resumed by hand")


def _pause(case: Case, seen: Sighting) -> Answer:
    return unsupported(case, "suspend") or actions.pause(case, "spec.state is paused")


def _stands_still(case: Case, seen: Sighting) -> Answer:
    """As wanted; by whomever, so that it may be resumed when that is wanted."""
    return None if case.assignment.paused else notes.paused(case, True, "it is paused, as wanted")


def _resume(case: Case, seen: Sighting) -> Answer:
    if case.assignment.paused:
        late = unsupported(case, "resume") or quiet(case.snap, (case.node,))
        return late or actions.resume(case, "spec.state is running")
    if stands(seen) is FAULTED:  # resuming it before its storage works would only stop it again
        return Deferred(
            Reason.PAUSED_ON_ERROR,
            f"its hypervisor paused it ({seen.record.reason}), for a disk or a device of its host failed",
            command=f"domctl resume {case.command_target}, once its storage works",
        )
    return Deferred(
        Reason.PAUSED_BY_HAND,
        f"it was paused by hand on {case.node} ({seen.record.reason})",
        command=f"domctl resume {case.command_target}",
    )


_ABLE: Final[dict[str, Callable[[Capabilities], bool]]] = {
    "suspend": lambda able: able.suspend,
    "resume": lambda able: able.suspend,
    "save": lambda able: able.managed_save,
    "reset": lambda able: able.reset,
}


def unsupported(case: Case, call: str) -> Deferred | None:
    """Its driver has no such call, or its host said before that it cannot do this at all."""
    able = case.able(case.node)
    why = case.snap.unsupported.get((case.uuid, case.node, call), "")
    if not why and (able is None or call not in _ABLE or _ABLE[call](able)):
        return None
    message = f"the driver of {case.node} cannot {call} a domain" + (f": {why}" if why else "")
    return Deferred(Reason.UNSUPPORTED, message, command="ask for another state")


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
    ("running", ENDING): _ending,
    ("running", HALTED): _resume,
    ("running", FAULTED): _resume,
    ("paused", GOING): _pause,
    ("paused", ENDING): _ending,
    ("paused", HALTED): _stands_still,
    ("paused", FAULTED): _stands_still,
    ("saved", GOING): _nothing,
    ("saved", ENDING): _ending,
    ("saved", HALTED): _nothing,
    ("saved", FAULTED): _nothing,
    **{(wanted, BUSY): _busy for wanted in (*RUNS, "saved")},
    **{(wanted, CRASHED): _crashed for wanted in (*RUNS, "saved")},
    **{(wanted, SUSPENDED): _suspended for wanted in (*RUNS, "saved")},
}


# --- saved memory


def save(case: Case, seen: Sighting) -> Action | Deferred:
    """It is active, defined as it should be, and to be saved."""
    late = unsupported(case, "save") or quiet(case.snap, (case.node,))
    return late or actions.save(case, seen, "spec.state is saved")


def off(case: Case) -> Action | Deferred | Verdict:
    """It is shut off or saved, defined as it should be, and that is what is wanted, or nearly."""
    if not case.is_saved and not case.assignment.stopped:
        return notes.close_intent(case, "it is off, as wanted", stopped=True)
    if case.wanted == "saved" and not case.is_saved:
        return Deferred(
            Reason.NOTHING_TO_SAVE,
            "it is shut off, and has no memory that could be saved",
            command=f"domctl start {case.command_target}, then domctl save {case.command_target}",
        )
    if case.is_saved and not case.assignment.saved:
        return notes.saved(case)
    if not case.assignment.stopped:
        return notes.close_intent(case, "it is off, as wanted", stopped=True)
    return Verdict(Situation.CONVERGED, note=_kept(case))


def _kept(case: Case) -> str:
    """What to know of saved memory while it waits."""
    if not case.is_saved:
        return ""
    lacks = otherwise(case)
    if lacks:
        return f"its saved memory is of an older definition ({lacks}), which it would go on with"
    return "" if case.wanted == "saved" else "its memory is saved: the next start goes on from there"


def otherwise(case: Case) -> str:
    """How saved memory differs from what is wanted now, if that changed since it was saved."""
    rendered, drift = case.desired_here.rendered, case.saved_drift
    if not case.is_saved or rendered is None or case.assignment.saved in ("", rendered.digest):
        return ""
    if drift is None:
        return "how it differs is not known"
    first = [f"{d.path} is {d.actual}, wanted {d.desired}" for d in drift[:1]]
    return "".join(first) + (f" and {len(drift) - 1} more" if len(drift) > 1 else "")


def held_by_save(case: Case) -> Action | Deferred | None:
    """Why it is not started from its saved memory, which is what a start would do."""
    if not case.is_saved:
        return None
    target = case.command_target
    broken = case.snap.unreadable_saves.get(case.uuid)
    if broken is not None and "restore" not in case.requests:
        return Deferred(
            Reason.SAVE_UNREADABLE,
            f"its saved memory cannot be read, and no start will get past it ({broken})",
            command=f"domctl drop-saved {target}; it then boots anew",
        )
    if not case.assignment.saved:
        return notes.saved(case)
    lacks = otherwise(case)
    if lacks and "restore" not in case.requests:
        return Deferred(
            Reason.SAVED_OTHERWISE,
            f"its memory was saved with an older definition ({lacks}): started now, it goes on with that one",
            command=f"domctl restore {target} to let it, or domctl drop-saved {target} to boot anew",
        )
    return None


def save_in_the_way(case: Case, node: str, seen: Sighting) -> Action | Deferred | None:
    """libvirt undefines nothing that has saved memory, and domctl never throws that away by itself."""
    if not seen.detail.managed_save:
        return None
    if "drop-saved" in case.requests:
        return quiet(case.snap, (node,)) or actions.once(case, "drop-saved", node)
    drop = f"domctl drop-saved {case.command_target}"
    here = node == case.node and case.stored is not None
    return Deferred(
        Reason.SAVE_IN_THE_WAY,
        f"its saved memory is on {node}: while that stands, its definition cannot be taken away",
        command=drop if here else f"virsh managedsave-remove on {node}",
    )


# --- transient domains


def forget(case: Case, seen: Sighting) -> Answer:
    """It runs, and is to be transient: its definition is taken away under it (safety 2)."""
    if not seen.detail.persistent:
        return None
    if seen.detail.snapshots:
        return Deferred(
            Reason.PINNED_BY_STORAGE,
            f"it is to be transient, and would lose the snapshots that it has on {case.node}",
            command=f"virsh snapshot-delete --metadata on {case.node}",
        )
    late = quiet(case.snap, (case.node,))
    return late or actions.forget(case, "it is transient: its definition lives in etcd alone")


def nowhere(case: Case) -> Action | Verdict:
    """Transient and off: there is no definition anywhere, as wanted."""
    was = case.held.assignment if case.held is not None else None
    if was is not None and (was.intent is not None or not was.stopped):
        return notes.close_intent(case, "it is off, as wanted, and defined nowhere", stopped=True)
    note = "transient: it is defined nowhere while it is off"
    return nothing_to_move(case) or Verdict(Situation.CONVERGED, note=note)


def nothing_to_move(case: Case) -> Action | None:
    """The end of what asks to move a domain that is defined nowhere."""
    request = case.request if case.held is not None else None
    if request is None:
        return None
    uid = request.migration.metadata.uid
    said = "it is transient and off: it is defined nowhere, so there is nothing to move"
    closing = moves.Closing(case.node, MoveOutcome.FAILED, NOWHERE, said, 0, gone=())
    return moves.close_request(case, str(uid), closing)


# --- what is asked for once


def asked(case: Case, seen: Sighting | None) -> Answer:
    """The first request that was not answered. Where it cannot be carried out now, that is its answer: nobody
    wants a guest reset hours after he asked; nor where that could not be told for so long."""
    for name in _ASKED:
        if name in case.unanswered and name not in case.requests:
            return notes.answer_void(case, name)
        if name in case.requests:
            found = _ASKED[name](case, name, seen)
            if found is not None:
                return found
    return None


def _guest(case: Case, name: str, seen: Sighting | None) -> Answer:
    """Reboot and reset."""
    if seen is None or not seen.record.active:
        return notes.answer(case, name, "not done, it does not run")
    if case.wanted != "running":
        return notes.answer(case, name, f"not done, spec.state is {case.wanted}")
    if stands(seen) is not GOING:
        return notes.answer(case, name, f"not done, it is {seen.record.state} ({seen.record.reason})")
    impossible = unsupported(case, name)
    if impossible is not None:
        return notes.answer(case, name, f"not done, {impossible.message}")
    return actions.once(case, name, case.node)


def _let_go_on(case: Case, name: str, seen: Sighting | None) -> Answer:
    """From now on the pause is domctl's own, which it ends."""
    halted = seen is not None and seen.record.active and stands(seen) in (HALTED, FAULTED)
    if case.wanted != "running" or not halted:
        return notes.answer(case, name, "not done, it is not paused, or is to be")
    return notes.answer(case, name, "done", paused=True)


def _restore(case: Case, name: str, seen: Sighting | None) -> Answer:
    """The start itself answers it."""
    if case.wanted in RUNS and seen is not None and not seen.record.active:
        return None
    return notes.answer(case, name, "not done, it is not to be started")


def _drop(case: Case, name: str, seen: Sighting | None) -> Answer:
    if not case.is_saved:
        return notes.answer(case, name, "not done, it has no saved memory")
    return quiet(case.snap, (case.node,)) or actions.once(case, name, case.node)


_ASKED: Final[dict[str, Callable[[Case, str, Sighting | None], Answer]]] = {
    "drop-saved": _drop,
    "restore": _restore,
    "resume": _let_go_on,
    "reset": _guest,
    "reboot": _guest,
}


# --- intents that were interrupted


def may_hear(case: Case, seen: Sighting) -> Answer:
    """A guest that is paused hears no request to stop: it is resumed first, once, before the first rung; but
    not while another copy was seen anywhere, or may be, for it may be the other end of a migration."""
    alone = len(case.all_sightings) == 1 and set(case.assignment.candidates) <= {case.node}
    if stands(seen) is not HALTED or case.uuid in case.snap.ladders or not alone:
        return None
    return actions.resume(case, "so that its guest hears the request to stop")


def is_over(case: Case, seen: Sighting) -> bool:
    """Whether the open intent of one call has reached its aim, or has it no more."""
    intent = case.assignment.intent
    assert intent is not None
    if intent.kind is IntentKind.PAUSE:
        return case.wanted != "paused" or not seen.record.active or stands(seen) is not GOING
    if intent.kind is IntentKind.RESUME:
        return case.wanted == "paused" or not seen.record.active or stands(seen) not in (HALTED, FAULTED)
    if intent.kind is IntentKind.FORGET:
        return not case.is_transient or not seen.record.active or not seen.detail.persistent
    if intent.kind is IntentKind.SAVE:
        return case.wanted != "saved" or not seen.record.active
    return False


def finish(case: Case, seen: Sighting) -> Action | None:
    """Close the intent of one call that was interrupted, or refused."""
    intent = case.assignment.intent
    assert intent is not None
    if intent.kind in ONCE:
        failed = case.snap.backoffs.get(case.uuid)
        why = "interrupted: whether it came is not known" if failed is None else f"failed: {failed.message}"
        return notes.not_known(case, why)
    if intent.kind is IntentKind.SAVE and not seen.record.active:
        return notes.close_intent(case, "it is off", stopped=case.wanted in ("saved", "shutoff"))
    if intent.kind in CALLS and is_over(case, seen):
        return notes.close_intent(case, f"{intent.kind} is over")
    return None


ONCE: Final = frozenset({IntentKind.REBOOT, IntentKind.RESET, IntentKind.DROP_SAVED})
CALLS: Final = frozenset({IntentKind.PAUSE, IntentKind.RESUME, IntentKind.SAVE, IntentKind.FORGET, *ONCE})
"""Intents that neither start nor stop a domain: one that ends while they are open ended by itself."""
