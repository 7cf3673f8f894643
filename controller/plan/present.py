"""What is due for a domain whose home was read: it is active there, inactive, or gone.

The second half of the rule table: comparisons of wanted and seen, once nothing else may hold the domain.
Only differences that the spec states count as drift; what libvirt adds does not.
"""

from __future__ import annotations

import dataclasses

from msgspec import UnsetType

from controller.model import Rule
from controller.plan import actions, disks, notes, resting, states
from controller.plan.case import Case
from controller.plan.departing import depart, settled_without, target_of
from controller.plan.evidence import (
    PROVING_REASONS,
    Absent,
    Known,
    Unknown,
    is_away,
    late_commands,
    may_start,
    quiet,
    undefine_proves,
)
from controller.plan.place import allows
from controller.plan.snapshot import Ladder, Sighting
from controller.plan.types import Action, Deferred, Reason, Situation, Verdict
from drivers.hypervisor import Capabilities, StopMethod
from specs.domain import (
    DEFAULT_SHUTDOWN,
    ShutdownStep,
    effective_shutdown,
    pinning_directories,
    pinning_disks,
)

DEFAULT_STEP_TIMEOUT_S = 60
FIRST_RESTART_PAUSE_S = 2.0
MAY_RUN_ELSEWHERE = frozenset({Reason.RUNS_ELSEWHERE, Reason.NODE_NOT_READ})

Answer = Action | Deferred | Verdict


def take_down(case: Case, node: str, seen: Sighting, why: str) -> Answer:
    """The next rung of the shutdown ladder."""
    late = quiet(case.snap, (node,))
    if late is not None:
        return late
    rungs = effective_shutdown(case.stored.domain.spec) if case.stored is not None else DEFAULT_SHUTDOWN
    ladder = case.snap.ladders.get(case.uuid)
    step = 0 if ladder is None else ladder.step
    if ladder is not None and ladder.step < len(rungs):
        left_s = _rung_timeout_s(rungs[ladder.step].timeout_seconds) - (case.snap.now - ladder.asked_at)
        if left_s > 0:
            return _waiting(ladder, rungs[ladder.step].method, left_s)
        step = ladder.step + 1
    step = _heard(case.able(node), rungs, step)
    if step >= len(rungs) and ladder is None:
        return _unheard(case, node)
    if step >= len(rungs):
        return Deferred(
            Reason.SHUTDOWN_IGNORED,
            "the guest did not stop in time and spec.shutdown has no destroy step",
            command=f"virsh destroy on {node}, or add a destroy step",
        )
    rung = rungs[step]
    if rung.method == "destroy" or seen.record.state == "crashed":
        return actions.destroy(case, node, step, why)
    if node == case.node and (first := states.may_hear(case, seen)) is not None:
        return first
    asked = actions.shutdown(case, node, StopMethod(rung.method), step, why)
    if rung.method != "agent":
        return asked
    # libvirt answers for an agent only when the guest has ended, or after a minute: the rung is over before.
    return dataclasses.replace(asked, limit_s=_rung_timeout_s(rung.timeout_seconds))


def _heard(able: Capabilities | None, rungs: tuple[ShutdownStep, ...], step: int) -> int:
    """The next rung from `step` on that the driver has: one that it has not is passed over at once."""
    known = ("agent", "acpi") if able is None else able.stop_methods
    return next((i for i in range(step, len(rungs)) if rungs[i].method in ("destroy", *known)), len(rungs))


def _unheard(case: Case, node: str) -> Deferred:
    return Deferred(
        Reason.UNSUPPORTED,
        f"no step of spec.shutdown is one that the driver of {node} has",
        command="add a step acpi or destroy",
    )


def _rung_timeout_s(timeout: int | UnsetType) -> float:
    return float(DEFAULT_STEP_TIMEOUT_S if isinstance(timeout, UnsetType) else timeout)


def _waiting(ladder: Ladder, method: str, left_s: float) -> Deferred:
    return Deferred(
        Reason.SHUTTING_DOWN,
        f"asked to stop by {method}, step {ladder.step + 1}; the next step in {left_s:.0f} s",
        retry_after_s=left_s,
    )


def _stalled(case: Case) -> Deferred | None:
    """The definition cannot be made, or libvirt refused this very one before."""
    wanted = case.desired_here
    if wanted.rendered is None:
        return Deferred(Reason.SPEC_REFUSED, f"on {case.node}: {wanted.problem}")
    stall = case.snap.stalls.get(case.uuid)
    if stall is not None and stall.node == case.node and stall.digest == wanted.rendered.digest:
        return Deferred(Reason.REJECTED, stall.message)
    return None


def _misplaced(case: Case) -> str:
    assert case.stored is not None
    return allows(case.stored.domain.spec.placement, case.snap.nodes[case.node])


def active(case: Case, seen: Sighting) -> Answer:
    """Wanted or not, it is running, or at least holds its disks."""
    if case.wanted == "shutoff":
        return take_down(case, case.node, seen, "spec.state is shutoff")
    asked = states.asked(case, seen)
    if asked is not None:
        return asked
    standing = states.bring_about(case, seen)
    if isinstance(standing, Action) and not case.is_asked_cold:
        return standing  # before it leaves: it may be on its way for long (seed 20283)
    before = _before_it_leaves(case, seen, standing)
    if before is not None:
        return before
    leaving = depart(case, seen)
    if isinstance(leaving, Action):
        return leaving
    if leaving is None and case.is_asked_cold:
        return take_down(case, case.node, seen, "it is to be moved cold")
    if standing is not None:
        return standing
    repair = _repair_definition(case, seen)
    if repair is not None:
        return repair
    if case.wanted == "saved":
        return states.save(case, seen)
    live, able = seen.detail.live_mark, case.able(case.node)
    settable = able is None or able.set_metadata  # else it gets the mark with its next start
    if settable and (live is None or live.epoch != case.assignment.epoch or live.uuid != case.uuid):
        return actions.mark(case, "its running copy lacks the current mark")
    misplaced = _misplaced(case)
    if misplaced:
        return Deferred(
            Reason.MUST_STOP_TO_MOVE,
            f"it runs on {case.node}, which fits no more ({misplaced}); it moves when it is shut off",
            command=f"domctl shutdown {case.command_target}, then domctl start",
        )
    pending = tuple((d.path, str(d.actual), str(d.desired)) for d in case.live_drift)
    note = f"{len(pending)} changes wait for the next start" if pending else ""
    again_after_s = leaving.retry_after_s if leaving is not None else None
    return Verdict(Situation.CONVERGED, note=note, pending=pending, again_after_s=again_after_s)


def _before_it_leaves(case: Case, seen: Sighting, standing: Action | Deferred | None) -> Answer | None:
    """What it gives up, and the MACs in it, are known then; and its disks are where its spec says."""
    kept = disks.hold(case)
    if kept is not None:
        return _autostart(case, seen) or standing or kept
    return _repair_definition(case, seen) if case.request is not None and seen.detail.persistent else None


def _repair_definition(case: Case, seen: Sighting) -> Action | Deferred | None:
    """Bring the persistent definition, its mark and its autostart flag in line."""
    if case.is_transient and seen.record.active:
        return _stalled(case) or states.forget(case, seen)
    flag = _autostart(case, seen)
    if flag is not None:
        return flag
    why = _definition_lacks(case, seen)
    if not why:
        return None
    return _stalled(case) or actions.define(case, case.node, why)


def _autostart(case: Case, seen: Sighting) -> Action | None:
    """I7: off, but where its user asked for it, on the one node that it can be on."""
    if seen.detail.autostart and not case.wants_autostart:
        return actions.set_autostart(case, False, "autostart would start it behind domctl's back")
    if case.wants_autostart and seen.detail.persistent and not seen.detail.autostart:
        return actions.set_autostart(case, True, "recovery.autostart is true")
    if case.assignment.autostart and not seen.detail.autostart and not case.wants_autostart:
        return notes.disarmed(case)
    return None


def _definition_lacks(case: Case, seen: Sighting) -> str:
    if not seen.detail.persistent:
        return "it was undefined while it ran"
    mark = seen.detail.config_mark
    if mark is None or mark.uuid != case.uuid:
        return "its definition lost the mark"
    rendered = case.desired_here.rendered
    if rendered is None:
        return "its definition cannot be compared"
    if mark.digest != rendered.digest:
        return "the spec changed"
    if mark.epoch != case.assignment.epoch:
        return "its definition is of another epoch"
    drift = case.config_drift
    if drift:
        first = drift[0]
        more = f" and {len(drift) - 1} more" if len(drift) > 1 else ""
        return f"changed by hand: {first.path} is {first.actual}, wanted {first.desired}{more}"
    return ""


def inactive(case: Case, seen: Sighting) -> Answer:
    """It is defined here and does not run."""
    ended = _note_end(case, Known(seen), seen)
    if ended is not None:
        return ended  # before it may leave: what tells of its end does not go with it
    asked = states.asked(case, seen)
    if asked is not None:
        return asked
    request = case.request
    if request is not None:
        settled = settled_without(case, request)
        if settled is not None:
            return settled
    kept = _held_off(case, seen, disks.hold(case))
    if kept is not None:
        return _autostart(case, seen) or kept
    if request is not None and not is_away(case.snap, case.assignment):  # then an operator says where to
        target = target_of(case, request)
        if isinstance(target, str) and pinned(case, "it is to be moved") is None:
            return _move_away(case, f"to {target}, as Migration {request.migration.metadata.name} asks")
    misplaced = _misplaced(case)
    if misplaced:
        return _move_away(case, misplaced)
    if case.wanted not in states.RUNS and case.is_transient:
        return _undefine(case, seen)
    if case.wanted not in states.RUNS:
        return _repair_definition(case, seen) or _may_have_left(case, seen) or states.off(case)
    return _start(case, Known(seen), seen)


def _may_have_left(case: Case, seen: Sighting) -> Deferred | None:
    """It is not simply off (I22): somebody may have moved it, and it runs where nobody looks just now. It is
    called off by the same evidence that a start would ask for."""
    was = case.assignment
    if was.stopped or not was.started or seen.record.reason in PROVING_REASONS:
        return None
    leave = may_start(case.snap, case.held, case.node, Known(seen))
    return leave if isinstance(leave, Deferred) else None


def _undefine(case: Case, seen: Sighting) -> Answer:
    """A transient domain that is off leaves its node altogether, by R1; but not what it has there."""
    hold = states.save_in_the_way(case, case.node, seen)
    hold = _held_off(case, seen, hold or undefine_proves(case.snap, case.assignment, case.node))
    why = "it is transient, and off: it is defined nowhere"
    return hold or late_commands(case.snap, case.uuid, (case.node,)) or actions.revoke(case, case.node, why)


def _held_off(case: Case, seen: Sighting, hold: Action | Deferred | None) -> Action | Deferred | None:
    """Before anything else holds it: that it is off because that is wanted, lest a start be refused later for
    its having ended by itself (seed 4065)."""
    if hold is None or case.wanted in states.RUNS or case.assignment.stopped or _may_have_left(case, seen):
        return hold
    return notes.close_intent(case, "it is off, as wanted", stopped=True)


def _move_away(case: Case, why: str) -> Answer:
    hold = pinned(case, why) or undefine_proves(case.snap, case.assignment, case.node)
    seen = case.own_sighting
    assert seen is not None
    late = _held_off(case, seen, hold) or late_commands(case.snap, case.uuid, (case.node,))
    return late or actions.revoke(case, case.node, f"moves: {why}")


def pinned(case: Case, why: str) -> Deferred | None:
    """What stands on the node's own storage, and for each what frees the domain of it."""
    assert case.stored is not None
    spec = case.stored.domain.spec
    held = [
        (name, "set source.shared of these to true if every node reaches them")
        for name in (*pinning_disks(spec), *pinning_directories(spec))
    ]
    own = case.own_sighting
    if own is not None and own.detail.managed_save:
        held.append(("its saved memory", f"domctl drop-saved {case.command_target}; it will boot anew"))
    if own is not None and own.detail.snapshots:
        held.append(("its snapshots", f"virsh snapshot-delete --metadata on {case.node}"))
    if not held:
        return None
    return Deferred(
        Reason.PINNED_BY_STORAGE,
        f"{case.node} does not fit any more ({why}), but {', '.join(what for what, _ in held)} "
        f"{'are' if len(held) > 1 else 'is'} on its own storage",
        command=", and ".join(dict.fromkeys(cure for _, cure in held)),
    )


def _asked_away(case: Case) -> str:
    """A transient domain that was stopped to be moved is gone from its home, and does not begin there anew
    (seed 22413)."""
    request = case.request
    if request is None or not case.is_transient or case.wanted not in states.RUNS:
        return ""
    if resting.rest(case, None) is not None:
        return ""
    if pinned(case, "it is to be moved") is not None:
        return ""
    target = target_of(case, request)
    name = request.migration.metadata.name
    return f"to {target}, as Migration {name} asks" if isinstance(target, str) and target != case.node else ""


def missing_at_home(case: Case) -> Answer:
    """Neither active nor defined where it should be."""
    ended = _note_end(case, Absent(), None)
    if ended is not None:
        return ended
    asked = states.asked(case, None)
    if asked is not None:
        return asked
    misplaced = _misplaced(case) or _asked_away(case)
    if misplaced:
        why = f"it vanished, and its place does not fit: {misplaced}"
        proves = undefine_proves(case.snap, case.assignment, case.node)
        late = proves or late_commands(case.snap, case.uuid, (case.node,))
        return late or actions.release(case, case.node, Rule.ABSENT, why, vanished=True)
    if case.is_transient and case.wanted not in states.RUNS:
        return states.nowhere(case)
    rest = resting.rest(case, None)
    if rest is not None and case.is_transient:
        return states.nothing_to_move(case) or _runs_elsewhere(case, Absent()) or rest
    taken = _name_taken(case) or disks.hold(case)
    if taken is not None:
        return taken
    if case.wanted not in states.RUNS:
        why = "its definition vanished"
        return _stalled(case) or actions.define(case, case.node, why)
    if rest is not None:
        return _defined_to_rest(case, rest)
    return _start(case, Absent(), None)


def _note_end(case: Case, home: Known | Absent, seen: Sighting | None) -> Action | None:
    """The moment in which its policy first lets it rest. What somebody moved did not end by itself, as far as
    is known (seed 22114)."""
    if case.assignment.ended or resting.rest(case, seen) is None:
        return None
    if _runs_elsewhere(case, home) is not None:
        return None
    return notes.ended(case, resting.how_it_ended(case, seen))


def _runs_elsewhere(case: Case, home: Known | Absent) -> Deferred | None:
    leave = may_start(case.snap, case.held, case.node, home)
    return leave if isinstance(leave, Deferred) and leave.reason is Reason.RUNS_ELSEWHERE else None


def _defined_to_rest(case: Case, rest: Deferred) -> Answer:
    """Its definition vanished, or was not made when it was to move: it is made like that of one that is off,
    but only where it could be started, too."""
    leave = may_start(case.snap, case.held, case.node, Absent())
    if isinstance(leave, Deferred):
        return leave if leave.reason is Reason.RUNS_ELSEWHERE else rest
    return _stalled(case) or actions.define(case, case.node, "it rests, and is not defined")


def _name_taken(case: Case) -> Deferred | None:
    """libvirt has one domain of a name: a foreign one in the place of ours is left alone."""
    name = case.assignment.libvirt_name
    holder = case.snap.names.get(case.node, {}).get(name, case.uuid)
    if holder == case.uuid:
        return None
    return Deferred(
        Reason.NAME_TAKEN,
        f"{case.node} has another domain named {name}, {holder}, which is not domctl's and is left alone",
        command=f"rename or undefine {holder} on {case.node}",
        retry_after_s=5.0,
    )


def _start(case: Case, home: Known | Absent | Unknown, seen: Sighting | None) -> Answer:
    assert not isinstance(home, Unknown)
    leave = may_start(case.snap, case.held, case.node, home)
    may_run_elsewhere = isinstance(leave, Deferred) and leave.reason in MAY_RUN_ELSEWHERE
    if may_run_elsewhere and seen is not None and seen.detail.autostart:
        why = "it may run elsewhere, and would start here at a boot"  # what holds us binds its host, too
        return actions.disarm(case, case.node, why)
    hold = _stalled(case) or states.held_by_save(case)
    if hold is not None:
        return hold
    if isinstance(leave, Deferred) and leave.reason is Reason.RUNS_ELSEWHERE:
        return leave  # nor did it end by itself, see _note_end
    hold = resting.rest(case, seen) or _crash_loop(case)
    if hold is not None:
        return hold
    if isinstance(leave, Deferred):
        return leave
    action = actions.start(case, case.node, leave.basis)
    return actions.consuming(case, action, None) if leave.vouched else action


def _crash_loop(case: Case) -> Deferred | None:
    """The first restart is immediate; then pauses double up to the limit, until a run was stable."""
    restarts = case.snap.restarts.get(case.uuid)
    if restarts is None or restarts.count < 2:
        return None
    pause_s = min(FIRST_RESTART_PAUSE_S * 2.0 ** (restarts.count - 2), case.snap.timing.retry_max_s)
    left_s = restarts.last_at + pause_s - case.snap.now
    if left_s <= 0:
        return None
    return Deferred(
        Reason.CRASH_LOOP,
        f"it ended {restarts.count} times shortly after its start; the next try in {left_s:.0f} s",
        retry_after_s=left_s,
    )
