"""All that the leader knows, in memory: fed by the informer (etcd) and the observer (nodes), read by plans.

One cache serves one term of leadership and is thrown away with it, so nothing is remembered that a fresh
controller could not learn again. Every change reports which domains and nodes it may concern; those keys go
to the workqueue. What is written here is never decided here: the observation after a change of ours counts
only once a listing was sent after it (`await_observation`), and etcd's records only move to newer revisions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType

from controller import keys
from controller.attempts import Attempts
from controller.capacity import Capacity
from controller.expectations import Expectations
from controller.limits import Timing
from controller.model import Assignment, Decision, Identity, Quarantine
from controller.plan.place import capacity_group
from controller.plan.snapshot import (
    Held,
    NodeView,
    Policy,
    Sighting,
    Snapshot,
    StoredDomain,
    StoredNode,
    Term,
    Usage,
    WitnessedEnd,
)
from drivers.hypervisor import Detail, EventKind, HostEvent, Listing
from drivers.hypervisor import Record as DomainRecord
from drivers.store import Change, ChangeSet, KeyValue
from specs.domain import Domain, effective_state
from specs.mark import Mark
from specs.node import Node

log = logging.getLogger(__name__)

MAX_READS_KEPT = 64
NODE_KEY, DOMAIN_KEY = "node/", "domain/"
R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a cache is told once: whose cluster, which term, the clock."""

    cluster: str
    term: Term
    timing: Timing
    policy: Policy
    now: Callable[[], float]


@dataclass(slots=True)
class Cache:
    """`on_dirty` is called with workqueue keys: `domain/<uuid>` and `node/<name>`."""

    setting: Setting
    on_dirty: Callable[[str], None]
    hold: str = ""
    synced: bool = False
    expectations: Expectations = field(default_factory=Expectations)
    attempts: Attempts = field(init=False)
    capacity: Capacity = field(init=False)
    nodes: dict[str, StoredNode] = field(default_factory=dict)
    views: dict[str, NodeView] = field(default_factory=dict)
    domains: dict[str, StoredDomain] = field(default_factory=dict)
    assignments: dict[str, Held] = field(default_factory=dict)
    sightings: dict[str, dict[str, Sighting]] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    dead: dict[str, Decision] = field(default_factory=dict)
    dead_since: dict[str, float] = field(default_factory=dict)
    quarantine: dict[str, Quarantine] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    resolutions: dict[str, Decision] = field(default_factory=dict)
    store_ack: Decision | None = None
    ends: dict[tuple[str, str], WitnessedEnd] = field(default_factory=dict)
    signs: dict[str, float] = field(default_factory=dict)
    migrated: set[str] = field(default_factory=set)
    glances: dict[str, dict[str, float]] = field(default_factory=dict)  # by node: read later than its list
    corrupt: dict[str, str] = field(default_factory=dict)
    memo: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    _by_key: dict[str, str] = field(default_factory=dict)
    _revisions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.setting.timing)
        self.capacity = Capacity(lambda node: capacity_group(self.view(node), node))

    # --- reading -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A view for one plan. It shares the maps: the plan must be over before the next await."""
        return Snapshot(
            now=self.setting.now(),
            cluster=self.setting.cluster,
            term=self.setting.term,
            timing=self.setting.timing,
            policy=self.setting.policy,
            hold=self.hold,
            unreadable=frozenset(
                k.removeprefix(keys.ASSIGNMENTS) for k in self.corrupt if k.startswith(keys.ASSIGNMENTS)
            ),
            nodes=self.nodes,
            views=self.views,
            domains=self.domains,
            assignments=self.assignments,
            sightings=self.sightings,
            names=self.names,
            usage=self.capacity.used,
            macs=self.macs,
            dead=self.dead,
            quarantine=self.quarantine,
            resolutions=self.resolutions,
            awaiting=self.expectations.pending,
            ends=self.ends,
            signs=self.signs,
            migrated=self.migrated,
            ladders=self.attempts.ladders,
            backoffs=self.attempts.backoffs,
            stalls=self.attempts.stalls,
            restarts=self.attempts.restarts,
            memo=self.memo,
        )

    def view(self, node: str) -> NodeView:
        return self.views.get(node, NodeView())

    def revision_of(self, key: str) -> int:
        """The newest revision seen of a key, 0 if none was."""
        return self._revisions.get(key, 0)

    def uuids_of(self, node: str) -> set[str]:
        """UUIDs that are, or may be, on a node."""
        seen = set(self.names.get(node, {}).values())
        held = {u for u, h in self.assignments.items() if node in h.assignment.candidates}
        return seen | held

    def all_keys(self) -> set[str]:
        uuids = set(self.domains) | set(self.assignments)
        return {DOMAIN_KEY + u for u in uuids} | {NODE_KEY + n for n in self.nodes}

    def is_ours(self, uuid: str, mark: Mark | None) -> bool:
        """Safety §1: assigned, or marked with our cluster and its own UUID. A foreign mark wins."""
        if mark is not None and mark.cluster != self.setting.cluster:
            return False
        return uuid in self.assignments or (mark is not None and mark.uuid == uuid)

    # --- etcd --------------------------------------------------------------------------------------

    def reset(self, items: tuple[KeyValue, ...], revision: int) -> None:
        """A complete list replaces all that was known of etcd."""
        present = {kv.key for kv in items}
        for key in [k for k, at in self._revisions.items() if k not in present and at <= revision]:
            self._drop(key, revision)
        for kv in items:
            self._put(kv)
        self.synced = True

    def apply(self, changes: ChangeSet) -> None:
        for change in changes.changes:
            self._change(change)

    def wrote(self, written: Mapping[str, bytes | None], revision: int) -> None:
        """One's own transaction: seen at once, and never overwritten by an older watch event."""
        for key, value in written.items():
            if value is None:
                self._drop(key, revision)
            else:
                self._put(KeyValue(key, value, 0, revision))

    def _change(self, change: Change) -> None:
        if change.kind == "delete":
            self._drop(change.kv.key, change.kv.mod_revision)
        else:
            self._put(change.kv)

    def _put(self, kv: KeyValue) -> None:
        if self._revisions.get(kv.key, 0) >= kv.mod_revision:
            return
        self._revisions[kv.key] = kv.mod_revision
        table = next((t for prefix, t in _TABLES if kv.key.startswith(prefix)), None)
        if table is None:
            return
        try:
            table(self, kv.key, kv)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            # I11: what cannot be read is set aside; nothing is deleted or stopped because of it.
            if self.corrupt.get(kv.key) != str(error):
                log.warning(
                    "object in etcd cannot be read and is set aside", extra={"key": kv.key, "why": str(error)}
                )
            self.corrupt[kv.key] = str(error)
            self._dirty_all()
        else:
            self.corrupt.pop(kv.key, None)

    def _drop(self, key: str, revision: int) -> None:
        if self._revisions.get(key, 0) > revision:
            return
        self._revisions[key] = revision
        self.corrupt.pop(key, None)
        table = next((t for prefix, t in _TABLES if key.startswith(prefix)), None)
        if table is not None:
            table(self, key, None)

    def _on_node(self, key: str, kv: KeyValue | None) -> None:
        name = key.rpartition("/")[2]
        before = self.nodes.get(name)
        if kv is None:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = StoredNode(_decode_object(kv, Node), kv.mod_revision)
        after = self.nodes.get(name)
        self.on_dirty(NODE_KEY + name)
        if before is None or after is None or _matters(before, after):
            self._dirty_all()

    def _on_domain(self, key: str, kv: KeyValue | None) -> None:
        before = self._by_key.get(key)
        if kv is None:
            if before is not None:
                self.domains.pop(before, None)
                self._by_key.pop(key, None)
                self._forget(before)
                self.on_dirty(DOMAIN_KEY + before)
            return
        domain = _decode_object(kv, Domain)
        uid = domain.metadata.uid
        if isinstance(uid, UnsetType):
            raise ValueError("a stored Domain has no metadata.uid")
        if before is not None and before != uid:
            self.domains.pop(before, None)
            self.on_dirty(DOMAIN_KEY + before)
        old = self.domains.get(uid)
        self._by_key[key] = uid
        self.domains[uid] = StoredDomain(domain, kv.mod_revision)
        if old is not None and old.domain.spec == domain.spec and old.domain.metadata == domain.metadata:
            return  # only the status moved, and that is ours
        self.attempts.spec_changed(uid)
        if old is not None and _aim(old) != _aim(self.domains[uid]):
            self.attempts.inactive(uid)  # another shutdown begins at its first rung
        self.on_dirty(DOMAIN_KEY + uid)

    def _on_assignment(self, key: str, kv: KeyValue | None) -> None:
        uuid = key.rpartition("/")[2]
        after = None if kv is None else msgspec.json.decode(kv.value, type=Assignment)
        before = self.assignments.pop(uuid, None)
        if before is not None:
            self._count(before.assignment, -1)
            for mac in before.assignment.macs.values():
                if self.macs.get(mac) == uuid:
                    self.macs.pop(mac)
        if kv is not None and after is not None:
            held = Held(after, kv.mod_revision)
            self.assignments[uuid] = held
            self._count(held.assignment, +1)
            self.macs.update(dict.fromkeys(held.assignment.macs.values(), uuid))
        for node in self.sightings.get(uuid, {}):
            self._count_foreign(node)
            self._at_home(uuid, node)
        self._forget(uuid)
        self.on_dirty(DOMAIN_KEY + uuid)
        for node in {*(before.assignment.candidates if before else ()), *self._nodes_of(uuid)}:
            self.on_dirty(NODE_KEY + node)

    def _nodes_of(self, uuid: str) -> tuple[str, ...]:
        held = self.assignments.get(uuid)
        return held.assignment.candidates if held is not None else ()

    def _count(self, assignment: Assignment, sign: int) -> None:
        for node in assignment.candidates:
            self.capacity.take(node, Usage(assignment.vcpus, assignment.memory_bytes), sign)

    def _count_foreign(self, node: str) -> None:
        """Active domains that are not assigned take capacity too, as they are."""
        taken = Usage()
        for uuid in self.names.get(node, {}).values():
            sighting = self.sightings[uuid].get(node)
            if sighting is not None and sighting.record.active and uuid not in self.assignments:
                taken = taken.plus(sighting.detail.vcpus, sighting.detail.memory_bytes)
        self.capacity.foreign(node, taken)

    def _on_dead(self, key: str, kv: KeyValue | None) -> None:
        node = key.rpartition("/")[2]
        self._record(self.dead, key, kv, Decision)
        self.dead_since[node] = self.setting.now()
        for uuid in self.uuids_of(node):
            self.attempts.backoffs.pop(uuid, None)
        self._dirty_node(node)

    def _on_quarantine(self, key: str, kv: KeyValue | None) -> None:
        self._record(self.quarantine, key, kv, Quarantine)
        self._dirty_node(key.rpartition("/")[2])

    def _on_resolution(self, key: str, kv: KeyValue | None) -> None:
        uuid = key.rpartition("/")[2]
        self._record(self.resolutions, key, kv, Decision)
        self.attempts.backoffs.pop(uuid, None)
        self.on_dirty(DOMAIN_KEY + uuid)

    def _on_identity(self, key: str, kv: KeyValue | None) -> None:
        name = key.removeprefix(keys.IDENTITIES)
        before = self.identities.pop(name, None)
        if kv is not None:
            self.identities[name] = msgspec.json.decode(kv.value, type=Identity)
        for identity in (before, self.identities.get(name)):
            if identity is not None:
                self.on_dirty(NODE_KEY + identity.node)

    def _on_ack(self, _key: str, kv: KeyValue | None) -> None:
        self.store_ack = None if kv is None else msgspec.json.decode(kv.value, type=Decision)
        self._dirty_all()

    @staticmethod
    def _record(table: dict[str, R], key: str, kv: KeyValue | None, kind: type[R]) -> None:
        name = key.rpartition("/")[2]
        if kv is None:
            table.pop(name, None)
        else:
            table[name] = msgspec.json.decode(kv.value, type=kind)

    def _dirty_node(self, node: str) -> None:
        self.on_dirty(NODE_KEY + node)
        for uuid in self.uuids_of(node):
            self.on_dirty(DOMAIN_KEY + uuid)

    def _dirty_all(self) -> None:
        for key in self.all_keys():
            self.on_dirty(key)

    # --- nodes -------------------------------------------------------------------------------------

    def set_view(self, node: str, view: NodeView) -> None:
        """Replace what is known of a node's connection. A change of what may be believed concerns all of
        its domains, and everything that could not be placed."""
        before = self.view(node)
        self.capacity.regroup(node, capacity_group(before, node), capacity_group(view, node))
        self.views[node] = view
        if before.answers != view.answers or before.link != view.link:
            self._dirty_node(node)
            for uuid in self.domains:
                if uuid not in self.assignments or node in self._nodes_of(uuid):
                    self.on_dirty(DOMAIN_KEY + uuid)
        elif before.why != view.why or before.facts != view.facts:
            self.on_dirty(NODE_KEY + node)
        if view.answers and not before.answers:
            for uuid in self.uuids_of(node):
                self.attempts.backoffs.pop(uuid, None)

    def forget_node(self, node: str) -> None:
        """The Node object is gone: what was seen there counts no more."""
        self.capacity.foreign(node, Usage())
        for uuid in list(self.names.get(node, {}).values()):
            self._unsee(uuid, node)
        self.names.pop(node, None)
        self.views.pop(node, None)
        self.glances.pop(node, None)
        self.expectations.forget_node(node)
        for key in [key for key in self.ends if key[1] == node]:
            del self.ends[key]

    def observed(self, node: str, listing: Listing, details: Mapping[str, Detail]) -> int:
        """One complete listing, with fresh details where they were read. Returns how many domains changed.

        What is not listed is absent as of `listing.sent_at`. Every listed domain must have a detail, now or
        from before: a domain that is listed but not read must not look absent."""
        changed = 0
        listed = {record.uuid for record in listing.records}
        glances = self.glances.setdefault(node, {})
        younger = {uuid for uuid, at in glances.items() if at > listing.sent_at}
        for uuid in [u for u in self.names.get(node, {}).values() if u not in listed | younger]:
            self._unsee(uuid, node)
            changed += 1
        for record in listing.records:
            if record.uuid in younger:
                continue
            before = self.sightings.get(record.uuid, {}).get(node)
            detail = details.get(record.uuid, before.detail if before is not None else None)
            assert detail is not None, f"{record.uuid} was listed on {node} but never read"
            after = Sighting(record, detail, listing.sent_at, _since(before, record, listing.sent_at))
            if before is None or before.record != record or not _same_detail(before.detail, detail):
                changed += 1
                self._see(node, after, before)
            else:
                self.sightings[record.uuid][node] = after
            self._at_home(record.uuid, node)
        if changed:
            self._count_foreign(node)
        view = self.view(node)
        self.set_view(
            node,
            replace(
                view,
                reads=(*view.reads[-(MAX_READS_KEPT - 1) :], (listing.sent_at, listing.ended_at)),
                first_read_at=view.first_read_at if view.first_read_at is not None else listing.ended_at,
            ),
        )
        for uuid in self.expectations.settle(node, listing.sent_at):
            self.on_dirty(DOMAIN_KEY + uuid)
        self.glances[node] = {uuid: at for uuid, at in glances.items() if uuid in younger}
        return changed

    def glanced(self, node: str, uuid: str, detail: Detail | None, sent_at: float) -> None:
        """One domain read by itself, asked for at `sent_at`; None: the node knows no such domain. It says
        what a list would of this one domain, and a list that was sent before it does not undo it."""
        before = self.sightings.get(uuid, {}).get(node)
        if before is not None and before.seen_at > sent_at:
            return
        self.glances.setdefault(node, {})[uuid] = sent_at
        if detail is not None:
            after = Sighting(detail.record, detail, sent_at, _since(before, detail.record, sent_at))
            if before is None or before.record != detail.record or not _same_detail(before.detail, detail):
                self._see(node, after, before)
            else:
                self.sightings[uuid][node] = after
            self._at_home(uuid, node)
        elif before is not None:
            self._unsee(uuid, node)
        self._count_foreign(node)
        if self.expectations.settle_one(uuid, node, sent_at):
            self.on_dirty(DOMAIN_KEY + uuid)

    def _see(self, node: str, after: Sighting, before: Sighting | None) -> None:
        uuid = after.record.uuid
        self.sightings.setdefault(uuid, {})[node] = after
        if before is not None and before.record.name != after.record.name:
            self._free_name(node, before.record.name, uuid)
        self.names.setdefault(node, {})[after.record.name] = uuid
        home = self.assignments[uuid].assignment.node if uuid in self.assignments else ""
        if before is not None and before.record.active:
            self._sign(uuid, before.seen_at)
        if node != home or after.record.active:
            self._sign(uuid, after.seen_at)
        if after.record.active:
            end = self.ends.get((uuid, node))
            if end is not None and end.at < after.seen_at:  # else the list was on its way when it ended
                del self.ends[(uuid, node)]
        else:
            self.attempts.inactive(uuid)
        if after.record.reason == "migrated" and not after.record.active:
            self.migrated.add(uuid)
        self.on_dirty(DOMAIN_KEY + uuid)
        self.on_dirty(NODE_KEY + node)

    def _unsee(self, uuid: str, node: str) -> None:
        seen = self.sightings.get(uuid, {})
        gone = seen.pop(node, None)
        if not seen:
            self.sightings.pop(uuid, None)
            self.attempts.inactive(uuid)
        if gone is not None:
            # Absence can only be shown by listings sent after the last one that showed it (I22c).
            self._sign(uuid, gone.seen_at)
            self._free_name(node, gone.record.name, uuid)
        self.on_dirty(DOMAIN_KEY + uuid)
        self.on_dirty(NODE_KEY + node)

    def _free_name(self, node: str, name: str, uuid: str) -> None:
        """Another domain may have the name by now."""
        if self.names.get(node, {}).get(name) == uuid:
            self.names[node].pop(name)

    def _sign(self, uuid: str, at: float) -> None:
        """Something was heard or seen of a domain that an absence must outlast."""
        if uuid in self.assignments or uuid in self.domains:
            self.signs[uuid] = max(self.signs.get(uuid, 0.0), at)

    def _at_home(self, uuid: str, node: str) -> None:
        """It is active where it belongs: no migration that was seen before matters any more."""
        if uuid in self.migrated and node in self._homes(uuid):
            sighting = self.sightings[uuid][node]
            if sighting.active:
                self.migrated.discard(uuid)

    def _homes(self, uuid: str) -> tuple[str, ...]:
        held = self.assignments.get(uuid)
        return (held.assignment.node,) if held is not None else ()

    def _forget(self, uuid: str) -> None:
        """Neither an object nor an assignment speaks of it any more."""
        if uuid in self.domains or uuid in self.assignments:
            return
        self.attempts.forget(uuid)
        self.memo.pop(uuid, None)
        self.signs.pop(uuid, None)
        self.migrated.discard(uuid)
        for key in [key for key in self.ends if key[0] == uuid]:
            del self.ends[key]

    def await_observation(self, uuid: str, node: str) -> None:
        """Something was done, or may have been done, to a domain: Unknown until a listing sent after now."""
        self.expectations.expect(uuid, node, self.setting.now())

    def event(self, node: str, session: int, event: HostEvent) -> bool:
        """A wake-up. Only ends are kept from it, as what was witnessed on an unbroken connection (I22a).
        Whether it is about a domain of ours."""
        uuid = event.uuid
        if uuid not in self.assignments and uuid not in self.domains:
            return False
        self._sign(uuid, event.at)
        if event.kind is EventKind.STOPPED:
            self.ends[(uuid, node)] = WitnessedEnd(session, event.detail, event.at)
        elif event.kind in (EventKind.STARTED, EventKind.RESUMED):
            self.ends.pop((uuid, node), None)
        if event.detail == "migrated":
            self.migrated.add(uuid)
        return True


def _decode_object(kv: KeyValue, kind: type[R]) -> R:
    return msgspec.json.decode(kv.value, type=kind)


def _since(before: Sighting | None, record: DomainRecord, now: float) -> float:
    """When the domain was first seen in this state for this reason, without a break."""
    if before is None or (before.record.state, before.record.reason) != (record.state, record.reason):
        return now
    return before.since


def _aim(stored: StoredDomain) -> tuple[str, bool]:
    deleted = not isinstance(stored.domain.metadata.deletion_timestamp, UnsetType)
    return effective_state(stored.domain.spec), deleted


def _matters(before: StoredNode, after: StoredNode) -> bool:
    """Whether a change of a Node can change where anything may be."""
    return before.node.spec != after.node.spec or before.node.metadata.labels != after.node.metadata.labels


def _same_detail(before: Detail, after: Detail) -> bool:
    """Equal but for when it was read and for the record, which is compared apart."""
    return before is after or replace(before, sent_at=0.0, record=after.record) == replace(after, sent_at=0.0)


_TABLES: tuple[tuple[str, Callable[[Cache, str, KeyValue | None], None]], ...] = (
    (keys.object_prefix("nodes"), Cache._on_node),
    (keys.object_prefix("domains"), Cache._on_domain),
    (keys.ASSIGNMENTS, Cache._on_assignment),
    (keys.CONFIRMED_DEAD, Cache._on_dead),
    (keys.QUARANTINE, Cache._on_quarantine),
    (keys.RESOLUTIONS, Cache._on_resolution),
    (keys.IDENTITIES, Cache._on_identity),
    (keys.STORE_ACK, Cache._on_ack),
)
