"""What is due for a domain that is being deleted, and for nodes that cannot be read (safety §1, §3, I11).

A deletion is a tombstone first: the object, and its assignment, go only when every node that may hold the
domain was proved not to. Storage is never touched. An operator's word stands for a node that is dead, or for
one domain not being on a node; `dead_or` is the one place where such a word is used.
"""

from __future__ import annotations

from controller.model import Rule
from controller.plan import actions, notes, states
from controller.plan.case import Case
from controller.plan.evidence import (
    PROVING_REASONS,
    Known,
    Unknown,
    absent_everywhere,
    forgotten_nowhere,
    is_away,
    is_dead,
    late_commands,
    may_return,
    not_on,
    observe,
    observe_only_hold,
    quiet,
)
from controller.plan.present import take_down
from controller.plan.types import Answer, Deferred, Reason, Situation, Verdict


def unexpected_copy(case: Case) -> Answer:
    if case.held is not None or not case.all_sightings:
        return None
    nodes = " and ".join(sorted(case.all_sightings))
    after = "it is then deleted" if case.deleting else "it is then started anew"
    saved = sorted(n for n, seen in case.all_sightings.items() if seen.detail.managed_save)
    command = f"virsh destroy and virsh undefine on {nodes}, if that copy may go; {after}"
    if saved:  # libvirt refuses to undefine it beside that memory (seed 80 of forgotten)
        there = f"virsh undefine --managed-save on {saved[0]}"
        command = f"{there}, if that copy and its saved memory may go; {after}"
    return Deferred(
        Reason.UUID_IN_USE,
        f"a domain with this UUID is on {nodes} already, and etcd does not say that domctl put it there",
        command=command,
    )


def deleting(case: Case) -> Answer:
    if not case.deleting:
        left = case.held is not None and case.assignment.tombstone
        return notes.take_back(case, "its object stands, and nobody deletes it") if left else None
    if case.held is None:
        return _never_placed(case)
    if case.is_handed_back:
        orphaned = _orphan(case)
        if orphaned is not None:
            return orphaned
    for node in sorted(case.all_sightings):
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown):
            return dead_or(case, node, seen.deferred)
        if isinstance(seen, Known):
            return _remove(case, node)
    return _remove_unseen(case)


def _never_placed(case: Case) -> Answer:
    """Or so says a store that may have been set back: then what it forgot must not be left behind by a
    deletion that nobody hears of again. A copy without our mark was never domctl's, and stays."""
    assert case.stored is not None
    marks = [m for s in case.all_sightings.values() for m in (s.detail.config_mark, s.detail.live_mark)]
    if any(mark is not None for mark in marks):
        return unexpected_copy(case)
    unread = None if case.all_sightings else forgotten_nowhere(case.snap, case.stored)
    return unread or actions.finish(case, "deleted before it was placed")


def _orphan(case: Case) -> Answer:
    """Hand it back as it is. With a copy anywhere else nothing is taken away: the user asked to keep it."""
    if not case.all_sightings:
        return None
    for node, _ in case.others:
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown):
            return dead_or(case, node, seen.deferred)
    if len(case.all_sightings) == 1 and case.others:
        return _handed_back_elsewhere(case)
    if case.others:
        nodes = ", ".join(sorted(case.all_sightings))
        return Deferred(
            Reason.ORPHAN_COPIES,
            f"deletionPolicy is Orphan, and it is on {nodes}: domctl does not choose which one to hand back",
            command="undefine the copies that should go, or set deletionPolicy to Delete",
        )
    if isinstance(case.own, Unknown):
        return dead_or(case, case.node, case.own.deferred)
    if case.snap.nodes[case.node].node.spec.observe_only is True:
        return observe_only_hold(case.node)
    return actions.hand_back(case, "deletionPolicy is Orphan")


def _handed_back_elsewhere(case: Case) -> Deferred:
    """Somebody moved it, and this is all that there is of it."""
    node, seen = case.others[0]
    keep = f"domctl resolve {case.command_target} --keep {node}"
    return Deferred(
        Reason.ORPHAN_COPIES,
        f"deletionPolicy is Orphan, and it is on {node}, not on {case.node} where domctl put it",
        command=keep
        if seen.active
        else f"virsh start on {node}, then {keep}; or set deletionPolicy to Delete",
    )


def _remove(case: Case, node: str) -> Answer:
    """Also where an undefine proves nothing for other nodes: nothing is started anywhere after this."""
    sighting = case.all_sightings[node]
    if case.snap.nodes[node].node.spec.observe_only is True:
        return observe_only_hold(node)
    if sighting.record.active:
        return take_down(case, node, sighting, "deleted")
    kept = states.save_in_the_way(case, node, sighting)
    return kept or late_commands(case.snap, case.uuid, (node,)) or actions.revoke(case, node, "deleted")


def _remove_unseen(case: Case) -> Answer:
    assignment = case.assignment
    for node in assignment.candidates:
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown):
            return dead_or(case, node, seen.deferred)
    unproved = bool(assignment.candidates) or any(p.vanished for p in assignment.proofs)
    if unproved and assignment.started:
        assert case.held is not None
        absent = absent_everywhere(case.snap, case.held, case.node)
        if isinstance(absent, Deferred):
            return absent
    if assignment.candidates:
        node = assignment.candidates[0]
        return late_commands(case.snap, case.uuid, (node,)) or actions.release(
            case, node, Rule.ABSENT, "deleted, and read as absent", vanished=False
        )
    if case.stored is None and (nodes := may_return(case.snap, case.held)):
        return Verdict(Situation.CONVERGED, note=f"tombstone kept until {', '.join(nodes)} answers")
    return actions.finish(case, "deleted, and proved absent")


def dead_or(case: Case, node: str, deferred: Deferred) -> Answer:
    """A node that cannot be read: an operator's word releases it, else the case is held."""
    if deferred.reason in (Reason.NODES_CONNECTING, Reason.AWAITING_OBSERVATION):
        return deferred  # nobody has tried it yet, or it is there, and read again in a moment
    if is_dead(case.snap, node):
        last = case.snap.sightings.get(case.uuid, {}).get(node)
        # What was promised may have been at a home that it had before, unless that was read since.
        promised = case.held is not None and case.assignment.autostart and (node == case.node or last is None)
        armed = promised or (last is not None and last.detail.autostart)
        if armed and not case.snap.dead[node].wiped:
            return Deferred(
                Reason.AUTOSTART_ON_DEAD_NODE,
                f"its definition on {node} had autostart set: it would start by itself if the host came back",
                command=f"domctl node replace {node}, if its disks are wiped or it never boots again",
            )
        # A dead host says nothing of a domain that had left it before: it was there if it was read there,
        # active, or inactive in a way that tells of its end.
        left = last is None or not (last.record.active or last.record.reason in PROVING_REASONS)
        may_have_left = case.snap.policy.hand_migrations or is_away(case.snap, case.assignment) or left
        vanished = case.assignment.started and may_have_left
        return quiet(case.snap, ()) or actions.release(
            case, node, Rule.CONFIRMED_DEAD, f"node {node} was confirmed dead", vanished=vanished
        )
    if node in not_on(case.snap, case.uuid) and node != case.node:
        by = case.snap.resolutions[case.uuid].by
        return actions.release(case, node, Rule.RESOLVED, f"{by}: not on {node}", vanished=True)
    return deferred
