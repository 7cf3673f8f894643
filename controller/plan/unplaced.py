"""A domain that nothing holds: whether it may be anywhere, and which node is to have it.

One rule of the table (see `rules`). A first start needs no proof but that no node was ever asked; whatever
was promised once, or may have been in a store that was set back, is read as absent first (I2, I22).
"""

from __future__ import annotations

from controller.model import Rule
from controller.plan import actions, disks, notes, resting, states
from controller.plan.case import Case
from controller.plan.departing import target_of
from controller.plan.evidence import (
    Unknown,
    absent_everywhere,
    after_migration,
    forgotten_nowhere,
    is_away,
    observe,
)
from controller.plan.place import Demand, excluded, place
from controller.plan.types import Answer, Deferred, Reason
from specs.domain import pinning_directories, pinning_disks


def unplaced(case: Case) -> Answer:
    """No assignment, or one that has been proved to be nowhere: choose a node."""
    if case.held is not None and case.assignment.candidates:
        return None
    assert case.stored is not None
    if case.held is not None and case.node in case.all_sightings:
        return notes.reclaim(case, case.node, f"it is on {case.node} again")
    if case.others:
        return None
    anywhere = _may_be_anywhere(case)
    if anywhere is not None:
        return anywhere
    pinned = _storage_pin(case)
    if pinned is not None:
        return pinned
    rest = resting.rest(case, None)
    nowhere = _nowhere(case, rest) or disks.hold(case)
    if nowhere is not None:
        return nowhere
    chosen = _chosen(case)
    if isinstance(chosen, Deferred):
        return chosen
    seen = observe(case.snap, case.uuid, chosen)
    if isinstance(seen, Unknown):
        return seen.deferred
    wanted = case.desired(chosen, 1)
    if wanted.rendered is None:
        return Deferred(Reason.SPEC_REFUSED, f"on {chosen}: {wanted.problem}")
    stall = case.snap.stalls.get(case.uuid)
    if stall is not None and stall.digest == wanted.rendered.digest and stall.node == chosen:
        return Deferred(Reason.REJECTED, stall.message)
    if case.wanted in states.RUNS and rest is None:
        return actions.start(case, chosen, f"placed on {chosen}")
    return actions.define(case, chosen, f"placed on {chosen}")


def _nowhere(case: Case, rest: Deferred | None) -> Answer:
    """Why it needs no node: it is transient, and off or at rest."""
    if rest is not None and not case.assignment.ended:
        return notes.ended(case, resting.how_it_ended(case, None))
    if not case.is_transient:
        return None
    if case.wanted not in states.RUNS:
        return states.nowhere(case)
    return None if rest is None else states.nothing_to_move(case) or rest


def _may_be_anywhere(case: Case) -> Deferred | None:
    """Nothing holds it, by a promise that was never made or by proofs: None if that is enough."""
    assert case.stored is not None
    if case.held is None:
        return forgotten_nowhere(case.snap, case.stored)
    if case.assignment.started and any(p.vanished for p in case.assignment.proofs):
        absent = absent_everywhere(case.snap, case.held, case.node)
        return absent if isinstance(absent, Deferred) else None
    return None


def _chosen(case: Case) -> str | Deferred:
    """A node that was asked for by a Migration of a domain that does not run, else the best."""
    assert case.stored is not None
    away = case.held is not None and is_away(case.snap, case.assignment)
    request = case.request if case.held is not None and not away else None
    if request is not None:
        target = target_of(case, request)
        if isinstance(target, str):
            return target
    demand = Demand.of(case.uuid, case.stored.domain.metadata, case.stored.domain.spec)
    if not away:
        return place(case.snap, demand, only=_disks_at(case))
    # Nobody saw where it went: an operator says where it belongs, of the nodes that it fits.
    decision = case.snap.resolutions.get(case.uuid)
    keep = "" if decision is None else decision.keep
    chosen = (
        keep
        if keep in case.snap.nodes and not excluded(case.snap, demand, keep)
        else place(case.snap, demand)
    )
    leave = None if isinstance(chosen, Deferred) else after_migration(case.snap, case.assignment, chosen)
    return leave if isinstance(leave, Deferred) else chosen


def _storage_pin(case: Case) -> Deferred | None:
    """After a dead node: a domain with a disk of that host's own cannot run elsewhere."""
    if case.held is None or case.stored is None:
        return None
    spec = case.stored.domain.spec
    disks = (*pinning_disks(spec), *pinning_directories(spec))
    dead = [p.node for p in case.assignment.proofs if p.rule is not Rule.REVOKED]
    if not disks or not dead:
        return None
    return Deferred(
        Reason.PINNED_BY_STORAGE,
        f"disks {', '.join(disks)} are on {case.node}'s own storage, so it cannot run elsewhere",
        command="set source.shared of these to true if every node reaches them",
    )


def _disks_at(case: Case) -> str:
    """A transient domain leaves its node whenever it is off, and its disks stay there, whatever it is to be
    from now on: "" if it has none."""
    if case.held is None or not case.assignment.started:
        return ""
    assert case.stored is not None
    spec = case.stored.domain.spec
    return case.node if pinning_disks(spec) or pinning_directories(spec) else ""
