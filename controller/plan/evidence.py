"""What may be concluded from what was read: absence, quiet, and leave to start (safety §3, §4, I22).

Everything here answers with evidence or with the reason why there is none; nothing answers with a guess.
"Unknown" never becomes "absent".
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct, UnsetType

from controller.model import Assignment, IntentKind
from controller.plan.snapshot import Held, Link, Sighting, Snapshot, StoredDomain, namespace_of
from controller.plan.types import Deferred, Reason
from specs.domain import effective_type, libvirt_name
from specs.hypervisors import DRIVER_OF_TYPE
from specs.uri import is_tunnel

PROVING_REASONS = frozenset({"shutdown", "destroyed", "crashed", "failed", "saved", "daemon"})
"""SHUTOFF reasons that say that the domain ended here (I22b). Not: migrated, unknown, from-snapshot."""


class Known(Struct, frozen=True):
    sighting: Sighting


class Absent(Struct, frozen=True):
    """The node was read completely, after anything that could have put the domain there."""


class Unknown(Struct, frozen=True):
    deferred: Deferred


Observation = Known | Absent | Unknown


def observe(snap: Snapshot, uuid: str, node: str) -> Observation:
    """What is known of one domain on one node."""
    view = snap.views.get(node)
    if node not in snap.nodes:
        return Unknown(
            Deferred(
                Reason.NODE_GONE,
                f"node {node}, which may hold this domain, is not registered any more",
                command=f"register node {node} again",
            )
        )
    if view is None or not view.answers:
        return Unknown(unreachable(snap, node))
    # Nor does a later listing count while this stands: it passed over what was being started (seed 2019).
    if (uuid, node) in snap.awaiting:
        return Unknown(
            Deferred(
                Reason.AWAITING_OBSERVATION,
                f"waiting for node {node} to be read again after the last change",
                retry_after_s=1.0,
            )
        )
    sighting = snap.sightings.get(uuid, {}).get(node)
    return Absent() if sighting is None else Known(sighting)


def unreachable(snap: Snapshot, node: str) -> Deferred:
    """Why a node's state is not known, and what ends that."""
    view = snap.views.get(node)
    if view is None or view.link is Link.CONNECTING:
        return Deferred(Reason.NODES_CONNECTING, f"waiting for node {node}'s first answer", retry_after_s=1.0)
    why = f": {view.why}" if view.why else ""
    if view.link is Link.REFUSED:
        # Whatever is wrong with it, it is no sign of death: no way out is offered that a dead node has.
        return Deferred(Reason.NODE_REFUSED, f"node {node} must not be used{why}", retry_after_s=None)
    return Deferred(
        Reason.NODE_UNREACHABLE,
        f"node {node} does not answer{why}; the domain may be running there, so it is not started elsewhere",
        command=f"domctl node confirm-dead {node}",
    )


def observe_only_hold(node: str) -> Deferred:
    return Deferred(
        Reason.NODE_OBSERVE_ONLY,
        f"node {node} is observeOnly: nothing is changed there",
        command=f"set spec.observeOnly of node {node} to false",
    )


def is_dead(snap: Snapshot, node: str) -> bool:
    """An operator vouched for it (R3), and nothing speaks against him: who answers, even with a refusal or as
    somebody else, is not dead."""
    return node in snap.dead and not (node in snap.views and snap.views[node].denies)


def undefine_proves(snap: Snapshot, assignment: Assignment, node: str) -> Deferred | None:
    """None if the domain can leave `node` by an undefine, or by its definition being gone (R1). That is a
    proof only where libvirt was seen to serialise create and undefine of one domain: another driver may carry
    out a late create after it. What was never asked to run anywhere has no such command on its way."""
    if not assignment.started:
        return None
    view = snap.views.get(node)
    able = view.capabilities if view is not None else None
    if able is not None and able.raced_create_undefine:
        return None
    driver = view.facts.driver if view is not None and view.facts is not None else "its"
    return Deferred(
        Reason.DRIVER_UNPROVED,
        f"it must not leave {node} by an undefine: whether libvirt's {driver} driver could still start it "
        "afterwards was never tried out",
        command=f"domctl node confirm-dead {node}, once {node} is off for good; or let it stay there",
    )


def quiet(snap: Snapshot, nodes: tuple[str, ...]) -> Deferred | None:
    """None once no late command of a former leader can arrive at these nodes (safety §4)."""
    if snap.term.predecessor_resigned:
        return None
    lease_over_at = snap.term.elected_at + snap.timing.lease_ttl_s
    over_at = lease_over_at + snap.timing.quiet_s
    for node in nodes:
        if node in snap.nodes and is_tunnel(snap.nodes[node].node.spec.uri):
            over_at = max(over_at, lease_over_at + snap.timing.tunnel_quiet_s)
        view = snap.views.get(node)
        if view is not None and view.first_read_at is not None:
            over_at = max(over_at, view.first_read_at + snap.timing.quiet_s)
    left_s = over_at - snap.now
    if left_s <= 0:
        return None
    return Deferred(
        Reason.QUIET_TIME,
        f"the former leader did not resign; for {left_s:.0f} s more its late commands may still arrive",
        retry_after_s=left_s,
    )


def late_commands(snap: Snapshot, uuid: str, nodes: tuple[str, ...]) -> Deferred | None:
    """None once nothing can arrive at these nodes any more that lets the domain run there: no late command of
    a former leader, and no definition or start of this one that was not answered (seed 102947: a daemon that
    was frozen defined a domain that was leaving it by then)."""
    return quiet(snap, nodes) or _unanswered(snap, uuid, nodes)


def _unanswered(snap: Snapshot, uuid: str, nodes: tuple[str, ...]) -> Deferred | None:
    for node in nodes:
        if (uuid, node) not in snap.unanswered:
            continue
        answered_at = snap.unanswered[uuid, node]
        if answered_at is None:
            return Deferred(
                Reason.AWAITING_OBSERVATION, f"waiting for a list of node {node}", retry_after_s=1.0
            )
        relayed = node in snap.nodes and is_tunnel(snap.nodes[node].node.spec.uri)
        wait_s = snap.timing.tunnel_quiet_s if relayed else snap.timing.quiet_s
        left_s = answered_at + wait_s - snap.now
        if left_s > 0:
            return Deferred(
                Reason.QUIET_TIME,
                f"{node} did not answer to a definition or start, and may carry it out within {left_s:.0f} s",
                retry_after_s=left_s,
            )
    return None


def quiet_over(snap: Snapshot) -> bool:
    """Every registered node was read for longer than the quiet time: nothing of former leaders is left."""
    unread = any(n not in snap.views or snap.views[n].first_read_at is None for n in snap.nodes)
    return snap.term.predecessor_resigned or (not unread and quiet(snap, tuple(snap.nodes)) is None)


@dataclass(frozen=True, slots=True)
class AbsentEverywhere:
    """Two complete listings of every node concerned, with no sign of the domain between them. `unread`:
    registered nodes that were not among them."""

    read: tuple[str, ...]
    unread: tuple[str, ...]


def forgotten_nowhere(snap: Snapshot, stored: StoredDomain) -> Deferred | None:
    """A domain without a promise was never placed, or the store forgot that it was: only a restored one does,
    and only of what was there before it was acknowledged. Then any node may have it, whichever of them the
    leader of that day has read: None once this leader, too, read of all of them that it is nowhere."""
    if snap.acknowledged_at <= stored.created:
        return None
    meta = stored.domain.metadata
    assert not isinstance(meta.uid, UnsetType)
    anywhere = Assignment(
        cluster=snap.cluster, uuid=meta.uid, namespace=namespace_of(stored), name=meta.name,
        libvirt_name=libvirt_name(meta), node="", epoch=0, candidates=tuple(sorted(snap.nodes)),
    )  # fmt: skip
    absent = absent_everywhere(
        snap, Held(anywhere, 0), "", why="the store was set back since it was created, and it"
    )
    return absent if isinstance(absent, Deferred) else None


def absent_everywhere(
    snap: Snapshot, held: Held, home: str, *, why: str = "the domain vanished and"
) -> AbsentEverywhere | Deferred:
    """Whether the domain is nowhere (on `home`: not active). Every candidate must have been read; other
    nodes of its driver as far as they answer, or all where hand-made migrations are declared or one of this
    domain was seen."""
    assignment = held.assignment
    vouched = _vouched(snap, assignment.uuid)
    concerned = _concerned(snap, held, home)
    answering = tuple(n for n in concerned if (v := snap.views.get(n)) is not None and v.answers)
    unread = tuple(n for n in concerned if n not in answering and n not in vouched and not is_dead(snap, n))
    moves = snap.policy.hand_migrations or assignment.uuid in snap.migrated
    must = tuple(n for n in unread if moves or n in assignment.candidates or n == home)
    if must:
        resolve = f"domctl resolve {assignment.name} -n {assignment.namespace} --not-on {' '.join(must)}"
        silent = [n for n in must if n not in snap.views or snap.views[n].link is not Link.REFUSED]
        return Deferred(
            Reason.NODE_NOT_READ,
            f"{why} may be on {', '.join(must)}, which could not be read",
            command=f"domctl node confirm-dead {silent[0]}, or {resolve}" if silent else resolve,
        )
    for node in answering:
        seen = observe(snap, assignment.uuid, node)
        if isinstance(seen, Unknown):
            return seen.deferred
        if isinstance(seen, Known) and (node != home or seen.sighting.record.active):
            return _elsewhere(assignment, node, seen.sighting)
    pending = quiet(snap, answering) or _unanswered(snap, assignment.uuid, _but(answering, home))
    if pending is not None:
        return pending
    late = _not_read_twice(snap, assignment.uuid, answering)
    if late:
        return Deferred(
            Reason.READING_ALL_NODES,
            f"reading {', '.join(late)} to be sure that the domain is nowhere else",
            relist=late,
            retry_after_s=1.0,
        )
    return AbsentEverywhere(read=answering, unread=unread)


def _but(nodes: tuple[str, ...], home: str) -> tuple[str, ...]:
    """What arrives late at home starts it where it belongs."""
    return tuple(node for node in nodes if node != home)


def _vouched(snap: Snapshot, uuid: str) -> tuple[str, ...]:
    decision = snap.resolutions.get(uuid)
    return () if decision is None else decision.not_on


def _concerned(snap: Snapshot, held: Held, home: str) -> tuple[str, ...]:
    assignment = held.assignment
    stored = snap.domains.get(assignment.uuid)
    driver = DRIVER_OF_TYPE[effective_type(stored.domain.spec)] if stored is not None else ""
    same_driver = {
        name
        for name in snap.nodes
        if (v := snap.views.get(name)) is None or v.facts is None or not driver or v.facts.driver == driver
    }
    return tuple(sorted(same_driver | set(assignment.candidates) | ({home} if home in snap.nodes else set())))


def _not_read_twice(snap: Snapshot, uuid: str, nodes: tuple[str, ...]) -> tuple[str, ...]:
    """Nodes that lack a listing in one of two rounds, the second begun after the first ended."""
    sign_at = snap.signs.get(uuid, snap.term.elected_at)
    first_ends = []
    for node in nodes:
        firsts = [ended for sent, ended in snap.views[node].reads if sent > sign_at]
        if not firsts:
            return nodes
        first_ends.append(min(firsts))
    first_round_ended = max(first_ends, default=sign_at)
    return tuple(n for n in nodes if not any(sent > first_round_ended for sent, _ in snap.views[n].reads))


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave to start, with the evidence for it in words. `vouched`: an operator's word was part of it."""

    basis: str
    vouched: bool = False


def may_start(snap: Snapshot, held: Held | None, node: str, seen: Known | Absent) -> Leave | Deferred:
    """I22 and I2: may this domain be started on `node`? Its observation there is `seen`."""
    if held is None:
        return Leave("first start: no node was ever asked to hold it")
    assignment = held.assignment
    if any(c != node for c in assignment.candidates):
        raise AssertionError(f"I2: {assignment.uuid} has other candidates than {node}")
    if assignment.uuid in snap.migrated:
        return _after_migration(snap, assignment, node)
    # A node that was left by a proof from a state that proves nothing is governed by the full read, too.
    at_home = None if any(p.vanished for p in assignment.proofs) else _ended_at_home(snap, held, node, seen)
    if at_home is not None:
        return at_home
    absent = absent_everywhere(snap, held, node)
    if isinstance(absent, Deferred):
        return absent
    unread = f"; not read: {', '.join(absent.unread)}" if absent.unread else ""
    basis = f"read as absent everywhere, twice: {', '.join(absent.read)}{unread}"
    return Leave(basis, vouched=bool(_vouched(snap, assignment.uuid)))


def _after_migration(snap: Snapshot, assignment: Assignment, node: str) -> Leave | Deferred:
    """Somebody moved it: whatever its old home says, it may run where it went."""
    decision = snap.resolutions.get(assignment.uuid)
    if decision is not None and decision.keep == node:
        return Leave(f"{decision.by} resolved: it belongs on {node}", vouched=True)
    return Deferred(
        Reason.RUNS_ELSEWHERE,
        "a migration of this domain was seen and its end was not: it may run on another host",
        command=f"domctl resolve {assignment.name} -n {assignment.namespace} --keep {node}, "
        "once it is clear that it runs nowhere else",
    )


def _elsewhere(assignment: Assignment, node: str, seen: Sighting) -> Deferred:
    message = f"the domain is on node {node} ({seen.record.state}, {seen.record.reason})"
    command = way_out(assignment, node, seen)
    return Deferred(Reason.RUNS_ELSEWHERE, message, command=command, relist=(node,), retry_after_s=5.0)


def way_out(assignment: Assignment, node: str, seen: Sighting) -> str:
    """What ends a hold over a copy on `node`, where none belongs: only one that runs can be kept."""
    if seen.active:
        return f"domctl resolve {assignment.name} -n {assignment.namespace} --keep {node}"
    return f"virsh destroy and virsh undefine on {node}, if that copy should not be there"


def _ended_at_home(snap: Snapshot, held: Held, node: str, seen: Known | Absent) -> Leave | None:
    """I22 a and b: its end here was witnessed, or the definition still here says how it ended."""
    assignment = held.assignment
    if isinstance(seen, Known):
        record, detail = seen.sighting.record, seen.sighting.detail
        if record.reason in PROVING_REASONS:
            return Leave(f"it stands on {node}, {record.state} ({record.reason})")
        intent, mark = assignment.intent, detail.config_mark
        if (
            record.reason == "unknown"  # not MIGRATED: then somebody else has it
            and intent is not None
            and intent.kind is IntentKind.START
            and mark is not None
            and mark.cluster == snap.cluster
            and mark.uuid == assignment.uuid
            and mark.epoch == intent.epoch
        ):
            return Leave(f"its definition on {node} carries the open start intent, epoch {intent.epoch}")
    end = snap.ends.get((assignment.uuid, node))
    view = snap.views.get(node)
    if end is not None and view is not None and end.session == view.session and end.detail != "migrated":
        return Leave(f"its end on {node} was witnessed ({end.detail})")
    return None
