"""What may be concluded from what was read: absence, quiet, and leave to start (safety §3, §4, I22).

Everything here answers with evidence or with the reason why there is none; nothing answers with a guess.
"Unknown" never becomes "absent".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct, UnsetType

from controller.model import Assignment, IntentKind, Proof, Rule
from controller.plan.rounds import Circle, circle, named_few, not_read_twice
from controller.plan.snapshot import (
    UNSEEN,
    Held,
    Link,
    NodeView,
    Sighting,
    Snapshot,
    StoredDomain,
    namespace_of,
)
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
    up = _up(snap, node)
    return Deferred(
        Reason.NODE_UNREACHABLE,
        f"node {node} does not answer{why}; the domain may be running there, so it is not started elsewhere",
        command=f"mend what serves node {node} on its host, which is up, as its node {up} shows"
        if up
        else f"domctl node confirm-dead {node}",
    )


def _up(snap: Snapshot, node: str) -> str:
    """Another node of its host that answers, were it with a refusal: nobody's word that it is dead counts
    then ("": there is none)."""
    views = ((kin, snap.views.get(kin, UNSEEN)) for kin in snap.kin.get(node, ()))
    return next((kin for kin, view in views if view.answers or view.denies), "")


def observe_only_hold(node: str) -> Deferred:
    return Deferred(
        Reason.NODE_OBSERVE_ONLY,
        f"node {node} is observeOnly: nothing is changed there",
        command=f"set spec.observeOnly of node {node} to false",
    )


def is_dead(snap: Snapshot, node: str) -> bool:
    """An operator vouched for it (R3), and nothing speaks against him: who answers, even with a refusal or as
    somebody else, is not dead. Nor is who answered since, were it for a moment: the word is over. Another
    node of the same host, a driver or mode of its own, speaks for the host, and for all that runs there."""
    if node not in snap.dead:
        return False
    since = snap.dead_since.get(node, 0.0)
    kin = (snap.views.get(other, UNSEEN) for other in snap.kin.get(node, ()))
    return not speaks(snap.views.get(node), since) and not any(k.answers or speaks(k, since) for k in kin)


def is_void(snap: Snapshot, proof: Proof) -> bool:
    """Whether the word that a node is dead, by which a domain left it, stands and counts no more: something
    of its host answered since. It is struck out in a moment."""
    stands = proof.rule is Rule.CONFIRMED_DEAD and proof.node in snap.dead
    return stands and not is_dead(snap, proof.node)


def speaks(view: NodeView | None, since: float) -> bool:
    """Whether anything refuses us there, or did so since then, or answered a list that was sent since."""
    if view is None:
        return False
    return view.denies or (view.denied_at or 0.0) > since or _listed(view, since)


def proof_holds(snap: Snapshot, uuid: str, proof: Proof) -> bool:
    """Whether a proof by an operator's word may be believed: nothing spoke at that node since the word that
    it rests on, or another word was given after that."""
    since = snap.proved_since.get((uuid, proof.node), 0.0)
    if is_dead(snap, proof.node) or proof.node in not_on(snap, uuid):
        return True
    return not speaks(snap.views.get(proof.node), since) and not _seen(snap, uuid, proof.node, since)


def _seen(snap: Snapshot, uuid: str, node: str, since: float) -> bool:
    """A domain is also read by itself."""
    last = snap.sightings.get(uuid, {}).get(node)
    return last is not None and last.seen_at > since


def may_return(snap: Snapshot, held: Held | None) -> list[str]:
    """Nodes that were taken for dead with this domain, and may come back with it: all but wiped ones, as long
    as nothing speaks against that word. It outlives its node: a proof says that it rests on it."""
    proofs = held.assignment.proofs if held is not None else ()
    return [p.node for p in proofs if p.rule is Rule.CONFIRMED_DEAD and not _is_wiped(snap, p)]


def _is_wiped(snap: Snapshot, proof: Proof) -> bool:
    if proof.node in snap.dead:
        return is_dead(snap, proof.node) and snap.dead[proof.node].wiped
    return proof.wiped and not speaks(snap.views.get(proof.node), 0.0)


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


def quiet_s(snap: Snapshot, node: str) -> float:
    """How long what a node had received when it answered may still be carried out there."""
    stored = snap.nodes.get(node)
    relayed = stored is not None and is_tunnel(stored.node.spec.uri)
    return snap.timing.tunnel_quiet_s if relayed else snap.timing.quiet_s


def late_commands(snap: Snapshot, uuid: str, nodes: tuple[str, ...]) -> Deferred | None:
    """None once nothing can arrive at these nodes any more that lets the domain run there: no late command of
    a former leader, and no definition or start of this one that was not answered (seed 102947: a daemon that
    was frozen defined a domain that was leaving it by then)."""
    return quiet(snap, nodes) or _unanswered(snap, uuid, nodes)


def _unanswered(snap: Snapshot, uuid: str, nodes: tuple[str, ...]) -> Deferred | None:
    asked = snap.once("unanswered", lambda: _by_uuid(snap.unanswered)).get(uuid, ())
    for node in nodes if asked else ():
        if node not in asked:
            continue
        answered_at = snap.unanswered[uuid, node]
        if answered_at is None:
            return Deferred(
                Reason.AWAITING_OBSERVATION, f"waiting for a list of node {node}", retry_after_s=1.0
            )
        left_s = answered_at + quiet_s(snap, node) - snap.now
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
    vouched = frozenset(not_on(snap, assignment.uuid))
    around, candidates = _concerned(snap, held, home), frozenset(assignment.candidates)
    answering = around.answering
    unread = tuple(n for n in around.silent if n not in vouched and not is_dead(snap, n))
    moves = snap.policy.hand_migrations or is_away(snap, assignment)
    must = tuple(n for n in unread if moves or n in candidates or n == home)
    if must:
        resolve = f"domctl resolve {assignment.name} -n {assignment.namespace} --not-on {' '.join(must)}"
        silent = [n for n in must if snap.views.get(n, UNSEEN).link is not Link.REFUSED and not _up(snap, n)]
        return Deferred(
            Reason.NODE_NOT_READ,
            f"{why} may be on {', '.join(must)}, which could not be read",
            command=f"domctl node confirm-dead {silent[0]}, or {resolve}" if silent else resolve,
        )
    for node in _with_signs(snap, assignment.uuid, around):
        seen = observe(snap, assignment.uuid, node)
        if isinstance(seen, Unknown):
            return seen.deferred
        if isinstance(seen, Known) and (node != home or seen.sighting.record.active):
            return _elsewhere(assignment, node, seen.sighting)
    pending = snap.once(("quiet", around.key), lambda: quiet(snap, answering))
    pending = pending or _unanswered(snap, assignment.uuid, _but(answering, home))
    if pending is not None:
        return pending
    late = not_read_twice(snap, around, snap.signs.get(assignment.uuid, snap.term.elected_at))
    if late:
        return Deferred(
            Reason.READING_ALL_NODES,
            f"reading {named_few(late)} to be sure that the domain is nowhere else",
            relist=late,
            retry_after_s=1.0,
        )
    return AbsentEverywhere(read=answering, unread=unread)


def _but(nodes: tuple[str, ...], home: str) -> tuple[str, ...]:
    """What arrives late at home starts it where it belongs."""
    return tuple(node for node in nodes if node != home)


def _with_signs(snap: Snapshot, uuid: str, around: Circle) -> list[str]:
    """Of the nodes that answer, those of which anything but absence may be known for this domain."""
    awaited = snap.once("awaiting", lambda: _by_uuid(snap.awaiting))
    signs = {*snap.sightings.get(uuid, ()), *awaited.get(uuid, ()), *around.strangers}
    return sorted(signs & around.members)


def _by_uuid(keys: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    nodes: dict[str, set[str]] = {}
    for uuid, node in keys:
        nodes.setdefault(uuid, set()).add(node)
    return nodes


def not_on(snap: Snapshot, uuid: str) -> tuple[str, ...]:
    """Nodes of which an operator said that this domain is not there, and that answered no list since: a word
    counts as a reading of a node that cannot be read."""
    decision = snap.resolutions.get(uuid)
    if decision is None:
        return ()
    since = snap.resolved_since
    return tuple(n for n in decision.not_on if not _listed(snap.views.get(n), since.get((uuid, n), 0.0)))


def keeps_nothing(snap: Snapshot, uuid: str, node: str) -> bool:
    """Whether a node whose copy was to be kept answered since, and has none that is active."""
    seen = snap.sightings.get(uuid, {}).get(node)
    listed = _listed(snap.views.get(node), snap.resolved_since.get((uuid, node), 0.0))
    return listed and (seen is None or not seen.record.active)


def _listed(view: NodeView | None, since: float) -> bool:
    return view is not None and any(sent > since for sent, _ in view.reads)


def _concerned(snap: Snapshot, held: Held, home: str) -> Circle:
    assignment = held.assignment
    stored = snap.domains.get(assignment.uuid)
    driver = DRIVER_OF_TYPE[effective_type(stored.domain.spec)] if stored is not None else ""
    return circle(snap, driver, {*assignment.candidates, *({home} if home in snap.nodes else ())})


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
    if is_away(snap, assignment):
        return after_migration(snap, assignment, node)
    # A node that was left by a proof from a state that proves nothing is governed by the full read, too.
    at_home = None if any(p.vanished for p in assignment.proofs) else _ended_at_home(snap, held, node, seen)
    if at_home is not None:
        return at_home
    absent = absent_everywhere(snap, held, node)
    if isinstance(absent, Deferred):
        return absent
    unread = f"; not read: {', '.join(absent.unread)}" if absent.unread else ""
    basis = f"read as absent everywhere, twice: {named_few(absent.read)}{unread}"
    return Leave(basis, vouched=bool(not_on(snap, assignment.uuid)))


def is_away(snap: Snapshot, assignment: Assignment) -> bool:
    """Somebody moved it, and where to was not seen: it is recorded, too, for a later leader may find its home
    silent and nothing else that tells."""
    return assignment.away or assignment.uuid in snap.migrated


def after_migration(snap: Snapshot, assignment: Assignment, node: str) -> Leave | Deferred:
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
    """What ends a hold over a copy on `node`, where none belongs: only one that runs can be kept. Nobody is
    told to take saved memory away without a word that it goes."""
    keep = f"domctl resolve {assignment.name} -n {assignment.namespace} --keep {node}"
    if seen.active:
        return keep
    if seen.detail.managed_save:
        return (
            f"virsh undefine --managed-save on {node}, if that copy and its saved memory should not be there"
            f"; if it is the one to go on: virsh start on {node}, then {keep}"
        )
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
            and not snap.policy.hand_migrations  # it may have begun all the same, and been moved since
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
    if end is None or end.detail == "migrated" or view is None:
        return None
    if end.session == view.session != 0:
        return Leave(f"its end on {node} was witnessed ({end.detail})")
    return None
