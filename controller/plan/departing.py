"""How a domain begins to move: what a Migration asks for, and everything that is in its way.

A live migration begins only where its end can be judged: the target has no copy and no definition of the
domain, no late command of a former leader can reach either end, and the source's host is known a way to the
target's that goes without us (peer to peer, I7). What is in the way is said in the Migration's status; the
domain itself is well. A domain that does not run, or is moved cold, leaves by R1 like any other that is
misplaced. How a migration ends is in `controller.plan.migrating`.
"""

from __future__ import annotations

from msgspec import UnsetType

from controller.model import MoveOutcome
from controller.plan import moves
from controller.plan.case import Case
from controller.plan.copying import paths_taken
from controller.plan.evidence import Absent, Unknown, late_commands, observe
from controller.plan.place import Demand, capacity_group, excluded, least_loaded
from controller.plan.snapshot import UNSEEN, Sighting, Snapshot, StoredMigration, StoredNode
from controller.plan.types import Action, Deferred, Reason
from drivers.hypervisor import Move
from specs.devicexml import disk_targets
from specs.domain import pinning_disks
from specs.domainxml import machine_of
from specs.migration import MigrationSpec
from specs.uri import parse_migration_uri, parse_uri

MOVABLE_STATES = frozenset({"running", "paused", "blocked"})
LIMIT_S = 6 * 3600.0  # of libvirt's call; whether it gets on is watched by its progress


def depart(case: Case, seen: Sighting) -> Action | Deferred | None:
    """What is due for a domain that is active at home and asked to move; None: nobody asked."""
    request = case.request
    if request is None:
        return None
    settled = settled_without(case, request)
    if settled is not None:
        return settled
    target = target_of(case, request)
    if isinstance(target, Deferred):
        return target
    if case.is_asked_cold:
        return _cold_hold(case, seen)  # if nothing is in the way, the caller takes it down
    return _in_the_way(case, seen, request, target) or _action(case, request, target, seen)


def _cold_hold(case: Case, seen: Sighting) -> Deferred | None:
    """It must not be stopped for a move that then cannot be made."""
    assert case.stored is not None
    disks = pinning_disks(case.stored.domain.spec)
    held = [f"disk {name}" for name in disks] + (["its snapshots"] if seen.detail.snapshots else [])
    if not held:
        return None
    return Deferred(
        Reason.PINNED_BY_STORAGE,
        f"{', '.join(held)} on {case.node}'s own storage",
        command="source.shared: true if every node has the disks; virsh snapshot-delete --metadata",
    )


def settled_without(case: Case, request: StoredMigration) -> Action | None:
    """A request that asks for nothing any more."""
    if request.migration.spec.node != case.node:
        return None
    said = f"it is on {case.node} already"
    closing = moves.Closing(case.node, MoveOutcome.SUCCEEDED, "AlreadyThere", said, 0, gone=())
    return moves.close_request(case, _uid(request), closing)


def _uid(request: StoredMigration) -> str:
    uid = request.migration.metadata.uid
    assert not isinstance(uid, UnsetType), "a stored object has a uid"
    return uid


def target_of(case: Case, request: StoredMigration) -> str | Deferred:
    """The node that was asked for, or the best of all others; or why there is none."""
    assert case.stored is not None
    snap, spec = case.snap, request.migration.spec
    demand = Demand.of(case.uuid, case.stored.domain.metadata, case.stored.domain.spec)
    names = [n for n in snap.nodes if n != case.node]
    if not isinstance(spec.node, UnsetType):
        if spec.node not in snap.nodes:
            return _none(f"there is no node {spec.node}")
        names = [spec.node]
    reasons = {name: excluded(snap, demand, name) or _same_host(snap, case.node, name) for name in names}
    fitting = [name for name, why in reasons.items() if not why]
    if fitting:
        return least_loaded(snap, demand, fitting)
    said = "; ".join(f"{name} {why}" for name, why in sorted(reasons.items())[:8])
    return _none(f"it cannot move: {said}" if said else "there is no other node")


def _none(why: str) -> Deferred:
    """Looked at again now and then, for what a node can take changes in many ways."""
    return Deferred(Reason.NO_NODE_FITS, why, retry_after_s=5.0)


def _same_host(snap: Snapshot, source: str, target: str) -> str:
    one, other = (capacity_group(snap.views.get(n, UNSEEN), n) for n in (source, target))
    return f"is the same host as {source}" if one == other else ""


def _in_the_way(case: Case, seen: Sighting, request: StoredMigration, target: str) -> Deferred | None:
    snap, spec = case.snap, request.migration.spec
    checks = (
        _unable(case, seen, spec),
        _no_path(snap.nodes[target]),
        _busy(snap, case.node, target),
        _pause(snap, case.uuid),
        _occupied(case, target),
        paths_taken(case, target) if spec.copy_storage is True else None,
        late_commands(snap, case.uuid, (case.node, target)),
    )
    return next((why for why in checks if why is not None), None)


def _unable(case: Case, seen: Sighting, spec: MigrationSpec) -> Deferred | None:
    """What libvirt, or the way its disks are stored, will not have."""
    assert case.stored is not None
    view = case.snap.views[case.node]
    if view.capabilities is None or not view.capabilities.live_migration:
        return Deferred(
            Reason.UNSUPPORTED, "its hypervisor cannot move a running domain", command="spec.mode: Cold"
        )
    if seen.record.state not in MOVABLE_STATES:
        return Deferred(Reason.UNSUPPORTED, f"it is {seen.record.state} ({seen.record.reason})")
    if seen.detail.snapshots:
        return Deferred(
            Reason.HAS_SNAPSHOTS,
            f"it has {seen.detail.snapshots} snapshots, with which libvirt does not migrate a domain",
            command=f"virsh snapshot-delete --metadata on {case.node}",
        )
    disks = pinning_disks(case.stored.domain.spec)
    if disks and spec.copy_storage is not True:
        return Deferred(
            Reason.PINNED_BY_STORAGE,
            f"disks {', '.join(disks)} are on {case.node}'s own storage",
            command="spec.copyStorage: true to copy them, or source.shared: true if every node has them",
        )
    return None


def peer_uri(stored: StoredNode) -> str:
    """What another host's libvirtd opens to reach this node ("" if nothing is known)."""
    spec = stored.node.spec
    if not isinstance(spec.migration_uri, UnsetType):
        return parse_migration_uri(spec.migration_uri)
    try:
        parsed = parse_uri(spec.uri)
        return parse_migration_uri(parsed.text.partition("?")[0]) if parsed.host else ""
    except ValueError:
        return ""


def _no_path(stored: StoredNode) -> Deferred | None:
    if peer_uri(stored):
        return None
    name = stored.node.metadata.name
    return Deferred(
        Reason.NO_PEER_PATH,
        f"nothing says how another host's libvirtd reaches {name}; domctl never tunnels a migration",
        command=f"set spec.migrationURI of node {name}, such as qemu+tls://{name}/system",
    )


def _busy(snap: Snapshot, source: str, target: str) -> Deferred | None:
    """A budget for each node (I8): what moves at once shares its link and its processors. What is only held
    for somebody to decide takes neither."""
    limit = snap.policy.migrations_per_node
    moving = [intent for uuid, intent in snap.moving.items() if not _is_only_held(snap, uuid)]
    for node in (source, target):
        count = sum(node in (i.node, i.target) for i in moving)
        if count >= limit:
            return Deferred(
                Reason.MIGRATION_QUEUED, f"{count} migrations are under way on {node}", retry_after_s=2.0
            )
    return None


def _is_only_held(snap: Snapshot, uuid: str) -> bool:
    """Both ends were read since its call was over, and the source is not at it. What was not looked at yet
    may be on its way still, as a former leader left it."""
    watch = snap.watches.get(uuid)
    return watch is not None and not watch.in_flight and watch.job is None and watch.read is not None


def _pause(snap: Snapshot, uuid: str) -> Deferred | None:
    failed = snap.move_backoffs.get(uuid)
    if failed is None or failed.until <= snap.now:
        return None
    left_s = failed.until - snap.now
    return Deferred(Reason.BACKING_OFF, f"{failed.message}; again in {left_s:.0f} s", retry_after_s=left_s)


def _occupied(case: Case, target: str) -> Deferred | None:
    """The target must have no capability of its own (safety §5): a stray definition was revoked before."""
    seen = observe(case.snap, case.uuid, target)
    if isinstance(seen, Unknown):
        return seen.deferred
    if not isinstance(seen, Absent) or target in case.assignment.candidates:
        return Deferred(
            Reason.AWAITING_OBSERVATION, f"{target} is cleared of its old definition first", retry_after_s=1.0
        )
    return None


def _action(case: Case, request: StoredMigration, target: str, seen: Sighting) -> Action | Deferred:
    assert case.stored is not None
    # A libvirtd that was restarted under a running domain has forgotten what machines its QEMU has, and
    # refuses a definition without one (libvirt 9.0: "could not get preferred machine").
    machine = "" if seen.detail.live_xml is None else machine_of(seen.detail.live_xml)
    wanted = case.desired(target, case.assignment.epoch + 1, machine)
    if wanted.rendered is None:
        return Deferred(Reason.SPEC_REFUSED, f"on {target}: {wanted.problem}")
    disks = pinning_disks(case.stored.domain.spec)
    keeps_tpm = seen.detail.live_xml is not None and "<tpm " in seen.detail.live_xml
    move = Move(
        target_uri=peer_uri(case.snap.nodes[target]),
        persistent_xml=None if case.is_transient else wanted.rendered.xml,
        limit_s=LIMIT_S,
        copy_disks=tuple(disk_targets(case.stored.domain.spec)[name] for name in disks),
        undefine_source=keeps_tpm,
        stands=seen.record.state != "paused",  # libvirt lets one that is paused arrive so by itself
    )
    return moves.migrate(case, moves.Departure(target, _uid(request), move, wanted))
