"""How actions are made: each from a case, complete, with the assignment as it will be recorded.

Pure constructors; the rules in `controller.plan.rules` decide which one is due. Epochs rise with every
intent that gives or takes the capability to run (start, revoke), so that late writers are recognised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import UnsetType

from controller.model import (
    BEGUN,
    BY_WORD,
    DONE,
    Answered,
    Assignment,
    Decision,
    Intent,
    IntentKind,
    MoveOutcome,
    MoveRecord,
    Proof,
    Rule,
)
from controller.plan import disks
from controller.plan.case import Case
from controller.plan.evidence import PROVING_REASONS, may_return
from controller.plan.place import Demand
from controller.plan.premises import deaths, premises_of, word
from controller.plan.snapshot import Sighting, namespace_of
from controller.plan.types import Action, ActionKind, Deferred
from drivers.hypervisor import StopMethod
from specs.graphics import uses_of
from specs.mark import Mark
from specs.requests import AHEAD_S, instant_of

# Times and operation ids are inputs: the executor fills in both when it records the intent.
LATER = ""


def intended(kind: IntentKind, node: str, epoch: int, why: str) -> Intent:
    return Intent(kind=kind, node=node, epoch=epoch, op=LATER, why=why, at=LATER)


def made(case: Case, kind: ActionKind, node: str, why: str, after: Assignment | None) -> Action:
    return Action(
        kind=kind,
        uuid=case.uuid,
        key=case.key,
        node=node,
        why=why,
        before_revision=case.held.revision if case.held is not None else 0,
        object_revision=case.stored.revision if case.stored is not None else 0,
        generation=case.generation,
        after=after,
        premises=premises_of(case, kind, node),
    )


def assigned(case: Case, node: str) -> Assignment:
    """The assignment with `node` as the domain's place, before any intent."""
    assert case.stored is not None
    demand = Demand.of(case.uuid, case.stored.domain.metadata, case.stored.domain.spec)
    if case.held is None:
        return Assignment(
            cluster=case.snap.cluster,
            uuid=case.uuid,
            namespace=namespace_of(case.stored),
            name=case.stored.domain.metadata.name,
            libvirt_name=demand.name,
            node=node,
            epoch=case.last_epoch,
            candidates=(node,),
            vcpus=demand.vcpus,
            memory_bytes=demand.memory_bytes,
            requests=answers_of(
                dict.fromkeys(case.unanswered, "asked for before it was first started"), case
            ),
        )
    return msgspec.structs.replace(
        case.assignment,
        node=node,
        candidates=tuple(sorted({*case.assignment.candidates, node})),
        vcpus=demand.vcpus,
        memory_bytes=demand.memory_bytes,
    )


def _give(case: Case, kind: IntentKind, node: str, why: str, *, raise_epoch: bool) -> Action:
    """START or DEFINE: the definition goes to `node`. The caller made sure that it can be rendered."""
    base = assigned(case, node)
    epoch = base.epoch + 1 if raise_epoch or base.epoch == 0 else base.epoch
    wanted = case.desired(node, epoch)
    assert wanted.rendered is not None
    starting = kind is IntentKind.START
    held_macs = frozenset(base.macs.values())
    chosen = frozenset(wanted.macs.values()) - case.spec_macs
    dropped = {*held_macs, *base.retired_macs} - frozenset(wanted.macs.values())
    seen = case.own_sighting if case.held is not None else None
    free_now = starting or seen is None or not seen.record.active
    before = seen.record.reason if starting and seen is not None and node == case.node else ""
    after = msgspec.structs.replace(
        base,
        epoch=epoch,
        intent=_as_asked(
            case, msgspec.structs.replace(intended(kind, node, epoch, why), before=before), node
        ),
        config=wanted.rendered.xml,
        digest=wanted.rendered.digest,
        macs=dict(wanted.macs),
        started=base.started or starting,
        stopped=base.stopped and not starting,
        ended="" if starting else base.ended,
        restarts=_restarts(case) if starting else base.restarts,
        paused=base.paused and (not starting or case.is_saved),
        retired_macs=() if free_now else tuple(sorted(dropped)),
        moved_disks={},
        older_disks=disks.left_in_use(case, wanted.rendered.xml, live_only=False),
    )
    if starting and case.held is not None:
        after = answering(case, after, "restore", DONE)
        for name in ("reboot", "reset", "resume"):  # what it was asked of is no more
            after = answering(case, after, name, "not done, it was started anew")
    action = made(case, ActionKind.START if starting else ActionKind.DEFINE, node, why, after)
    settled = msgspec.structs.replace(
        after,
        intent=None,
        last_move=arrived_cold(after),
        older_disks=disks.in_memory(case, wanted.rendered.xml)
        if starting
        else disks.left_in_use(case, wanted.rendered.xml, live_only=True),
    )
    if starting:
        lasting = _lasting(after.proofs)
        settled = msgspec.structs.replace(settled, proofs=lasting, saved="", save_room="")
    if starting or (case.held is not None and not case.assignment.candidates):
        settled = msgspec.structs.replace(settled, away=False)  # wherever it went, it belongs here
    return dataclasses.replace(
        action,
        settled=settled,
        xml=wanted.rendered.xml,
        mark=Mark(case.snap.cluster, case.uuid, epoch, wanted.rendered.digest),
        reserve=tuple(sorted(chosen - held_macs)),
        release_macs=tuple(sorted(dropped)) if free_now else (),
        secrets=uses_of(case.stored.domain.spec) if case.stored is not None else (),
    )


def _as_asked(case: Case, intent: Intent, node: str) -> Intent:
    """What moves while it does not run: the intent that gives it to its new node names the request, and as
    `target` the node that it came from."""
    request = case.request if case.held is not None else None
    if request is None or case.node == node or isinstance(request.migration.metadata.uid, UnsetType):
        return intent
    return msgspec.structs.replace(intent, request=request.migration.metadata.uid, target=case.node)


def arrived_cold(was: Assignment) -> MoveRecord | None:
    """The end of such a move, with the intent that it was part of."""
    intent = was.intent
    if intent is None or not intent.request or intent.kind not in (IntentKind.START, IntentKind.DEFINE):
        return was.last_move
    return MoveRecord(
        request=intent.request,
        source=intent.target,
        target=intent.node,
        outcome=MoveOutcome.SUCCEEDED,
        reason="Moved",
        message=f"moved from {intent.target} to {intent.node}",
        attempts=1,
        at=LATER,
        began_at=intent.at,
    )


def _restarts(case: Case) -> int:
    """How many starts followed each other with this one, without a stable run between them."""
    known = case.snap.restarts.get(case.uuid)
    stable = known is None or case.snap.now - known.last_at > case.snap.timing.stable_after_s
    return 1 if stable or known is None else known.count + 1


def _lasting(proofs: tuple[Proof, ...]) -> tuple[Proof, ...]:
    """Once it runs, what led there is history, but for nodes that may come back with a copy."""
    return tuple(msgspec.structs.replace(p, vanished=False, used=True) for p in proofs if p.rule in BY_WORD)


def start(case: Case, node: str, why: str) -> Action:
    """Assign, define with a new epoch, check again, create. With that the incident is over of which somebody
    said where the domain is not."""
    action = _give(case, IntentKind.START, node, why, raise_epoch=True)
    action = dataclasses.replace(action, dead=_taken_for_dead(case, action.after))
    decision = case.snap.resolutions.get(case.uuid)
    if decision is None:
        return action
    if not decision.keep:
        return consuming(case, action, None)
    # It stands until it runs there alone: the start may have to be tried more than once.
    return resting_on(case, action, decision) if decision.keep == node else action


def _taken_for_dead(case: Case, after: Assignment | None) -> tuple[str, ...]:
    """Nodes that a start passes over because somebody said that they are dead: those that the domain has left
    by that word; and all of them, where it may have been migrated to any."""
    if after is None:
        return ()
    anywhere = case.snap.policy.hand_migrations or after.away
    left = {p.node for p in after.proofs if p.rule is Rule.CONFIRMED_DEAD}
    return tuple(sorted(node for node in case.snap.dead if anywhere or node in left))


def define(case: Case, node: str, why: str) -> Action:
    """Define or redefine; never starts anything."""
    return _give(case, IntentKind.DEFINE, node, why, raise_epoch=case.held is None)


def shutdown(case: Case, node: str, method: StopMethod, step: int, why: str) -> Action:
    after = msgspec.structs.replace(
        case.assignment,
        intent=intended(IntentKind.STOP, node, case.assignment.epoch, why),
        tombstone=case.deleting,
    )
    action = made(case, ActionKind.SHUTDOWN, node, why, after)
    return dataclasses.replace(action, method=method, step=step)


def destroy(case: Case, node: str, step: int, why: str) -> Action:
    after = msgspec.structs.replace(
        case.assignment,
        intent=intended(IntentKind.STOP, node, case.assignment.epoch, why),
        tombstone=case.deleting,
    )
    return dataclasses.replace(made(case, ActionKind.DESTROY, node, why, after), step=step)


def undo_start(case: Case, why: str, stuck: Deferred | None) -> Action:
    """Destroy what a start left half-done. Its intent stays open: the next start rests on it. `stuck`: it was
    tried before, and this is the hold that stays until it succeeds."""
    action = made(case, ActionKind.DESTROY, case.node, why, case.assignment)
    return dataclasses.replace(action, persists=stuck)


def revoke(case: Case, node: str, why: str) -> Action:
    """R1: take the definition on `node` away. The proof is `vanished` unless the domain's last state
    there proves that it ended there, or it was never asked to run."""
    sighting = case.all_sightings[node]
    epoch = case.assignment.epoch + 1
    proved = sighting.record.reason in PROVING_REASONS or not case.assignment.started
    is_home = node == case.node
    after = msgspec.structs.replace(
        case.assignment,
        epoch=epoch,
        intent=intended(IntentKind.REVOKE, node, epoch, why),
        candidates=tuple(sorted({*case.assignment.candidates, node})),
        config=sighting.detail.config_xml if is_home else case.assignment.config,
        tombstone=case.deleting,
    )
    action = made(case, ActionKind.REVOKE, node, why, after)
    proof = Proof(node=node, rule=Rule.REVOKED, epoch=epoch, at=LATER, vanished=not proved)
    left = without(after, proof)
    if is_home:
        left = msgspec.structs.replace(left, autostart=False)  # its link went with the definition
    return dataclasses.replace(action, settled=left)


def without(assignment: Assignment, proof: Proof) -> Assignment:
    """The assignment with `proof.node` no longer a candidate."""
    kept = tuple(p for p in assignment.proofs if p.node != proof.node)
    return msgspec.structs.replace(
        assignment,
        intent=None,
        candidates=tuple(c for c in assignment.candidates if c != proof.node),
        proofs=(*kept, proof),
    )


def release(case: Case, node: str, rule: Rule, why: str, *, vanished: bool) -> Action:
    """A proof that is at hand already is recorded: nothing is sent to any node."""
    epoch = case.assignment.epoch + 1
    proof = Proof(
        node=node, rule=rule, epoch=epoch, at=LATER, vanished=vanished, wiped=is_wiped(case, node, rule)
    )
    after = without(msgspec.structs.replace(case.assignment, epoch=epoch, tombstone=case.deleting), proof)
    action = made(case, ActionKind.RELEASE, node, why, after)
    if rule is Rule.RESOLVED:
        decision = case.snap.resolutions[case.uuid]
        left = tuple(n for n in decision.not_on if n != node)
        action = consuming(case, action, msgspec.structs.replace(decision, not_on=left) if left else None)
    if rule is not Rule.CONFIRMED_DEAD:
        return action
    premises = (*action.premises, *deaths(case.snap, (node,)))
    return dataclasses.replace(action, quarantine=(node,), premises=premises)


def is_wiped(case: Case, node: str, rule: Rule) -> bool:
    """Whether a proof by this rule rests on the word that nothing on the node's disks starts again."""
    return rule is Rule.CONFIRMED_DEAD and node in case.snap.dead and case.snap.dead[node].wiped


def consuming(case: Case, action: Action, left: Decision | None) -> Action:
    """An operator's word holds for the incident that it was given for, and no longer. One that he gives
    meanwhile is another, and not used up by this."""
    decision = case.snap.resolutions.get(case.uuid)
    rests = action if decision is None else resting_on(case, action, decision)
    return dataclasses.replace(rests, consumes=True, left=left)


def resting_on(case: Case, action: Action, decision: Decision) -> Action:
    """An operator's word must stand when the action is recorded."""
    said = word(case.snap, case.uuid, decision)
    others = tuple(p for p in action.premises if p.key != said.key)
    return dataclasses.replace(action, premises=(*others, said))


def pause(case: Case, why: str) -> Action:
    """`paused` is recorded before anything is sent: it says whose pause this is, should nobody live to."""
    after = msgspec.structs.replace(case.assignment, intent=_call(case, IntentKind.PAUSE, why), paused=True)
    action = made(case, ActionKind.PAUSE, case.node, why, after)
    return dataclasses.replace(action, settled=msgspec.structs.replace(after, intent=None))


def resume(case: Case, why: str) -> Action:
    after = msgspec.structs.replace(case.assignment, intent=_call(case, IntentKind.RESUME, why))
    action = made(case, ActionKind.RESUME, case.node, why, after)
    return dataclasses.replace(action, settled=msgspec.structs.replace(after, intent=None, paused=False))


def _call(case: Case, kind: IntentKind, why: str) -> Intent:
    return intended(kind, case.node, case.assignment.epoch, why)


def answers_of(outcomes: Mapping[str, str], case: Case) -> dict[str, Answered]:
    return {name: answered(case, name, outcome) for name, outcome in outcomes.items()}


def answered(case: Case, name: str, outcome: str) -> Answered:
    """What was answered is the latest from then on; but not if it is earlier, or of a time that has not come,
    before which no true time would be later."""
    value = case.unanswered[name]
    before = case.held.assignment.requests.get(name) if case.held is not None else None
    latest, at = "" if before is None else before.counts_to, instant_of(value)
    last_at = instant_of(latest)
    counts = at is not None and at <= case.snap.wall_s + AHEAD_S and (last_at is None or at > last_at)
    return Answered(value=value, outcome=outcome, at=LATER, latest=None if counts else latest)


def answering(case: Case, assignment: Assignment, name: str, outcome: str) -> Assignment:
    """The assignment with this request answered, if there is one."""
    if name not in case.requests:
        return assignment
    answers = {**assignment.requests, **answers_of({name: outcome}, case)}
    return msgspec.structs.replace(assignment, requests=answers)


ONCE: Final = MappingProxyType(
    {
        "reboot": (IntentKind.REBOOT, ActionKind.REBOOT),
        "reset": (IntentKind.RESET, ActionKind.RESET),
        "drop-saved": (IntentKind.DROP_SAVED, ActionKind.DROP_SAVED),
    }
)


def once(case: Case, name: str, node: str) -> Action:
    """Carry out a request. That it was begun is recorded before it is sent, and what was begun is never begun
    again: whoever finds it so later can only say that nobody knows what came of it."""
    intent, kind = ONCE[name]
    was = case.assignment
    begun = msgspec.structs.replace(
        answering(case, was, name, BEGUN),
        intent=intended(intent, node, was.epoch, f"{name} was asked for"),
        tombstone=case.deleting,
    )
    done = msgspec.structs.replace(answering(case, begun, name, DONE), intent=None)
    if name == "drop-saved":
        done = msgspec.structs.replace(done, saved="", save_room="")
    action = made(case, kind, node, f"{name} was asked for", begun)
    return dataclasses.replace(action, settled=done)


def save(case: Case, seen: Sighting, why: str) -> Action:
    """A guest that was paused when it was saved comes back paused, whoever paused it."""
    after = msgspec.structs.replace(
        case.assignment,
        intent=_call(case, IntentKind.SAVE, why),
        paused=seen.record.state == "paused",
        saved=case.assignment.digest,
    )
    action = made(case, ActionKind.SAVE, case.node, why, after)
    settled = msgspec.structs.replace(after, intent=None, stopped=True)
    return dataclasses.replace(action, settled=settled, room_bytes=seen.detail.memory_bytes)


def mark(case: Case, why: str) -> Action:
    digest = case.assignment.digest
    action = made(case, ActionKind.MARK, case.node, why, case.assignment)
    return dataclasses.replace(action, mark=Mark(case.snap.cluster, case.uuid, case.assignment.epoch, digest))


def set_autostart(case: Case, on: bool, why: str) -> Action:
    """That it may be set is recorded before it is, and forgotten only once it is cleared: should the node
    die, whoever leads then must know (safety 3)."""
    after = msgspec.structs.replace(case.assignment, autostart=on or case.assignment.autostart)
    action = made(case, ActionKind.AUTOSTART, case.node, why, after)
    settled = msgspec.structs.replace(after, autostart=on)
    return dataclasses.replace(action, settled=settled, autostart=on)


def disarm(case: Case, node: str, why: str) -> Action:
    """Clear autostart on a node that is not, or may not be, its home."""
    action = set_autostart(case, False, why)
    if node == case.node:
        return action
    return dataclasses.replace(action, node=node, settled=action.after)


def forget(case: Case, why: str) -> Action:
    """Take the definition of a running domain away (safety 2): it runs on, transient. It proves nothing."""
    after = msgspec.structs.replace(case.assignment, intent=_call(case, IntentKind.FORGET, why))
    action = made(case, ActionKind.FORGET, case.node, why, after)
    return dataclasses.replace(action, settled=msgspec.structs.replace(after, intent=None, autostart=False))


def hand_back(case: Case, why: str) -> Action:
    """Orphan: our mark goes, the domain stays as it is."""
    after = msgspec.structs.replace(case.assignment, tombstone=True)
    return made(case, ActionKind.HAND_BACK, case.node, why, after)


def finish(case: Case, why: str) -> Action:
    """The object goes; its assignment too, unless a proof rests on a node being dead that may come
    back: then the tombstone stays until that node answered."""
    keep = bool(may_return(case.snap, case.held))
    after = msgspec.structs.replace(case.assignment, tombstone=True, intent=None) if keep else None
    action = made(case, ActionKind.FINISH, case.node, why, after)
    if case.held is None:
        return action
    was = case.assignment
    return dataclasses.replace(
        action, release_macs=() if keep else tuple(sorted({*was.macs.values(), *was.retired_macs}))
    )
