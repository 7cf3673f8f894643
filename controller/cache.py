"""All that the leader knows, in memory: fed by the informer (etcd) and the observer (nodes), read by plans.

One cache serves one term of leadership and is thrown away with it, so nothing is remembered that a fresh
controller could not learn again. Every change reports which domains and nodes it may concern; those keys go
to the workqueue. What is written here is never decided here: the observation after a change of ours counts
only once a listing was sent after it (`await_observation`), and etcd's records only move to newer revisions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType
from msgspec.structs import replace

from controller import keys
from controller.attempts import Attempts
from controller.capacity import Capacity
from controller.limits import Timing
from controller.migrations import Migrations
from controller.model import Assignment, Decision, Identity, Quarantine
from controller.plan.place import capacity_group
from controller.plan.snapshot import (
    UNSEEN,
    Held,
    MoveWatch,
    NodeView,
    Policy,
    Snapshot,
    StoredDomain,
    StoredMigration,
    StoredNode,
    Term,
    Usage,
    namespace_of,
)
from controller.records import Records
from controller.sightings import Belongings, Sightings
from controller.underway import Underway
from controller.words import Words
from drivers.hypervisor import Detail, HostEvent, Listing
from drivers.store import KeyValue
from specs.domain import Domain, effective_state
from specs.graphics import SecretFacts, facts_of, uses_of
from specs.mark import Mark
from specs.migration import Migration
from specs.node import Node
from specs.requests import instant_of

MAX_READS_KEPT = 64
NODE_KEY, DOMAIN_KEY, MIGRATION_KEY = "node/", "domain/", "migration/"
R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a cache is told once: whose cluster, which term, the clocks (see `World`)."""

    cluster: str
    term: Term
    timing: Timing
    policy: Policy
    now: Callable[[], float]
    wall: Callable[[], str]


@dataclass(slots=True)
class Cache:
    """`on_dirty` is called with workqueue keys: `domain/<uuid>`, `node/<name>` and `migration/<uid>`.
    `inherited`: by UUID, the operation that was left open before this term. `kin`: the other nodes of a
    node's host. `ahead`: epochs of marks that are above their assignment's."""

    setting: Setting
    on_dirty: Callable[[str], None]
    hold: str = ""
    synced: bool = False
    seen: Sightings = field(init=False)
    attempts: Attempts = field(init=False)
    capacity: Capacity = field(init=False)
    records: Records = field(init=False)
    nodes: dict[str, StoredNode] = field(default_factory=dict)
    views: dict[str, NodeView] = field(default_factory=dict)
    domains: dict[str, StoredDomain] = field(default_factory=dict)
    assignments: dict[str, Held] = field(default_factory=dict)
    migrations: Migrations = field(default_factory=Migrations)
    moves: Underway = field(default_factory=Underway)
    inherited: dict[str, str] = field(default_factory=dict)
    macs: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, dict[str, SecretFacts]] = field(default_factory=dict)
    dead: dict[str, Decision] = field(default_factory=dict)
    quarantine: dict[str, Quarantine] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    kin: dict[str, tuple[str, ...]] = field(default_factory=dict)
    resolutions: dict[str, Decision] = field(default_factory=dict)
    words: Words = field(default_factory=Words)
    store_ack: Decision | None = None
    ahead: dict[str, int] = field(default_factory=dict)
    memo: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    _by_key: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.attempts = Attempts(self.setting.timing)
        handlers = [(prefix, functools.partial(handle, self)) for prefix, handle in _HANDLERS]
        self.records = Records(handlers, self._dirty_all)
        belongings = Belongings(
            is_known=lambda uuid: uuid in self.assignments or uuid in self.domains,
            is_assigned=lambda uuid: uuid in self.assignments,
            home=self._home,
        )
        self.seen = Sightings(belongings, self._changed, self.attempts.inactive)
        self.capacity = Capacity(lambda node: capacity_group(self.view(node), node))

    # --- reading -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """A view for one plan. It shares the maps: the plan must be over before the next await."""
        return Snapshot(
            now=self.setting.now(),
            wall_s=instant_of(self.setting.wall()) or 0.0,
            cluster=self.setting.cluster,
            term=self.setting.term,
            timing=self.setting.timing,
            policy=self.setting.policy,
            hold=self.hold,
            unreadable=frozenset(
                k.removeprefix(keys.ASSIGNMENTS)
                for k in self.records.corrupt
                if k.startswith(keys.ASSIGNMENTS)
            ),
            nodes=self.nodes,
            views=self.views,
            domains=self.domains,
            assignments=self.assignments,
            sightings=self.seen.by_uuid,
            names=self.seen.names,
            usage=self.capacity.used,
            macs=self.macs,
            secrets=self.secrets,
            kin=self.kin,
            dead=self.dead,
            dead_since=self.words.dead,
            quarantine=self.quarantine,
            resolutions=self.resolutions,
            resolved_since=self.words.resolved,
            proved_since=self.words.proved,
            awaiting=self.seen.expectations.pending,
            unanswered=self.seen.expectations.unanswered,
            inherited=self.inherited,
            ends=self.seen.ends,
            signs=self.seen.signs,
            heard=self.seen.heard_at,
            migrated=self.seen.migrated,
            vanished=self.seen.vanished,
            ladders=self.attempts.ladders,
            backoffs=self.attempts.backoffs,
            unwritten=self.attempts.unwritten,
            stalls=self.attempts.stalls,
            unreadable_saves=self.attempts.unreadable_saves,
            unsupported=self.attempts.unsupported,
            restarts=self.attempts.restarts,
            requests=self.migrations.waiting,
            moving=self.moves.all(),
            watches=self.moves.watches,
            resumes=self.seen.resumes,
            suspends=self.seen.suspends,
            move_backoffs=self.attempts.moves,
            revisions=self.records.revisions,
            acknowledged_at=self.revision_of(keys.STORE_ACK),
            memo=self.memo,
        )

    def view(self, node: str) -> NodeView:
        return self.views.get(node, UNSEEN)

    def revision_of(self, key: str) -> int:
        """The newest revision seen of a key, 0 if none was."""
        return self.records.revisions.get(key, 0)

    def uuids_of(self, node: str) -> set[str]:
        """UUIDs that are, or may be, on a node, or come back with it."""
        held = {u for u, h in self.assignments.items() if _concerns(h.assignment, node)}
        return held.union(self.seen.uuids_on(node))

    def all_keys(self) -> set[str]:
        uuids = set(self.domains) | set(self.assignments)
        migrations = {MIGRATION_KEY + u for u in self.migrations.by_uid}
        return {DOMAIN_KEY + u for u in uuids} | {NODE_KEY + n for n in self.nodes} | migrations

    def is_ours(self, uuid: str, mark: Mark | None) -> bool:
        """Safety §1: assigned, or marked with our cluster and its own UUID. A foreign mark wins."""
        if mark is not None and mark.cluster != self.setting.cluster:
            return False
        return uuid in self.assignments or (mark is not None and mark.uuid == uuid)

    # --- etcd --------------------------------------------------------------------------------------

    def reset(self, items: tuple[KeyValue, ...], revision: int) -> str:
        """A complete list (see `Records.reset`)."""
        contradiction = self.records.reset(items, revision)
        if not self.synced:
            self.inherited = _open_operations(self.assignments)
        self.synced = True
        return contradiction

    def wrote(self, written: Mapping[str, bytes | None], revision: int) -> None:
        self.records.wrote(written, revision)

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
        created = kv.create_revision or (0 if old is None else old.created)  # our own writes do not tell
        self.domains[uid] = StoredDomain(domain, kv.mod_revision, created)
        if old is not None and old.domain.spec == domain.spec and old.domain.metadata == domain.metadata:
            return  # only the status moved, and that is ours
        self.attempts.spec_changed(uid)
        if old is not None and _aim(old) != _aim(self.domains[uid]):
            self.attempts.inactive(uid)  # another shutdown begins at its first rung
            self.moves.news.set()  # what is deleted is not to arrive first
        self.on_dirty(DOMAIN_KEY + uid)

    def _on_secret(self, key: str, kv: KeyValue | None) -> None:
        """Of what it holds nothing is kept. Its domains are looked at when that became another."""
        namespace, _, name = key.removeprefix(keys.object_prefix("secrets")).partition("/")
        known = self.secrets.setdefault(namespace, {})
        before = known.pop(name, None)
        if kv is not None:
            known[name] = facts_of(msgspec.json.decode(kv.value, type=dict[str, Any]))
        if before != known.get(name):
            for uuid, stored in self.domains.items():
                if namespace_of(stored) == namespace and any(
                    use.name == name for use in uses_of(stored.domain.spec)
                ):
                    self.attempts.spec_changed(uuid)
                    self.on_dirty(DOMAIN_KEY + uuid)

    def _on_migration(self, key: str, kv: KeyValue | None) -> None:
        """What it asks for concerns its domain, which looks at the oldest of those that have not ended."""
        after = None if kv is None else _stored_migration(kv)
        for uid, domain_key in self.migrations.put(key, after):
            self.on_dirty(MIGRATION_KEY + uid)
            uuid = self._by_key.get(keys.object_prefix("domains") + domain_key)
            if uuid is not None:
                self.on_dirty(DOMAIN_KEY + uuid)
        self.moves.news.set()  # it may be asked to end

    def heard(self, node: str, session: int, event: HostEvent) -> bool:
        """An event from a node; whether it is about a domain of ours."""
        self.moves.heard(event.uuid)
        return self.seen.heard(node, session, event)

    def requests_of(self, uuid: str) -> tuple[str, ...]:
        """The uids of the Migrations that wait for this domain."""
        held = self.assignments.get(uuid)
        if held is None or not self.migrations.waiting:
            return ()
        return tuple(self.migrations.of(f"{held.assignment.namespace}/{held.assignment.name}"))

    def uuid_of(self, domain_key: str) -> str:
        """The UUID of the object namespace/name ("" if there is none)."""
        return self._by_key.get(keys.object_prefix("domains") + domain_key, "")

    def watched(self, uuid: str, watch: MoveWatch) -> None:
        """Something new is known of a migration under way."""
        self.moves.watches[uuid] = watch
        self.on_dirty(DOMAIN_KEY + uuid)
        if uuid in self.moves.moving:
            self.on_dirty(MIGRATION_KEY + self.moves.moving[uuid].request)

    def _follow_move(self, uuid: str, after: Assignment | None) -> None:
        """Keep what is under way in step with the assignment's intent."""
        self.moves.recorded(uuid, after.intent if after is not None else None)
        if after is not None:
            for request in self.migrations.of(f"{after.namespace}/{after.name}"):
                self.on_dirty(MIGRATION_KEY + request)

    def _on_assignment(self, key: str, kv: KeyValue | None) -> None:
        uuid = key.rpartition("/")[2]
        after = None if kv is None else msgspec.json.decode(kv.value, type=Assignment)
        before = self.assignments.pop(uuid, None)
        self.words.prove(uuid, before.assignment if before is not None else None, after)
        if before is not None:
            self._count(before.assignment, -1)
            for mac in before.assignment.macs.values():
                if self.macs.get(mac) == uuid:
                    self.macs.pop(mac)
        if kv is not None and after is not None:
            held = Held(after, kv.mod_revision)
            self.assignments[uuid] = held
            self._count(held.assignment, +1)
            if after.stopped:
                self.attempts.stopped(uuid)
            elif after.restarts > 1:
                self.attempts.known(uuid, after.restarts, self.setting.now())
            self.macs.update(dict.fromkeys(held.assignment.macs.values(), uuid))
        for node in self.seen.by_uuid.get(uuid, {}):
            self._count_foreign(node)
            self.seen.settle_at_home(uuid, node)
        self._compare_epochs(uuid)
        self._follow_move(uuid, after)
        self._forget(uuid)
        self.on_dirty(DOMAIN_KEY + uuid)
        for node in {*(before.assignment.candidates if before else ()), *self._nodes_of(uuid)}:
            self._dirty_host(node)

    def _nodes_of(self, uuid: str) -> tuple[str, ...]:
        held = self.assignments.get(uuid)
        return held.assignment.candidates if held is not None else ()

    def _count(self, assignment: Assignment, sign: int) -> None:
        for node in assignment.candidates:
            self.capacity.take(node, Usage(assignment.vcpus, assignment.memory_bytes), sign)

    def _count_foreign(self, node: str) -> None:
        self.capacity.foreign(node, self.seen.foreign_usage(node))

    def _on_dead(self, key: str, kv: KeyValue | None) -> None:
        node = key.rpartition("/")[2]
        self._record(self.dead, key, kv, Decision)
        self.words.dies(node, None if kv is None else kv.mod_revision)
        for uuid in self.uuids_of(node):
            self.attempts.backoffs.pop(uuid, None)
        self._dirty_node(node)

    def _on_quarantine(self, key: str, kv: KeyValue | None) -> None:
        self._record(self.quarantine, key, kv, Quarantine)
        self._dirty_node(key.rpartition("/")[2])

    def _on_resolution(self, key: str, kv: KeyValue | None) -> None:
        uuid = key.rpartition("/")[2]
        before = self.resolutions.get(uuid)
        self._record(self.resolutions, key, kv, Decision)
        revision = 0 if kv is None else kv.mod_revision
        self.words.resolve(uuid, before, self.resolutions.get(uuid), revision)
        self.attempts.backoffs.pop(uuid, None)
        self.on_dirty(DOMAIN_KEY + uuid)

    def _on_identity(self, key: str, kv: KeyValue | None) -> None:
        name = key.removeprefix(keys.IDENTITIES)
        before = self.identities.pop(name, None)
        if kv is not None:
            self.identities[name] = msgspec.json.decode(kv.value, type=Identity)
        self.kin = _kin(self.identities)
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
        denied_again = node in self.dead and before.denied_at != view.denied_at
        if (before.answers, before.link, before.denies) != (view.answers, view.link, view.denies):
            self._dirty_node(node)
            for uuid, decision in self.resolutions.items():
                if node in decision.not_on or node == decision.keep:
                    self.on_dirty(DOMAIN_KEY + uuid)
            asked = {self.uuid_of(domain) for domain in self.migrations.waiting}
            for uuid in self.domains:
                if uuid not in self.assignments or node in self._nodes_of(uuid) or uuid in asked:
                    self.on_dirty(DOMAIN_KEY + uuid)
        elif before.why != view.why or before.facts != view.facts or denied_again:
            self.on_dirty(NODE_KEY + node)
        for kin in self.kin.get(node, ()):
            if before.answers != view.answers:
                self._dirty_node(kin)
            elif kin in self.dead:  # this list may belie the word
                self.on_dirty(NODE_KEY + kin)
        if view.answers and not before.answers:
            for uuid in self.uuids_of(node):
                self.attempts.node_returned(uuid)

    def forget_node(self, node: str) -> None:
        """The Node object is gone: what was seen there counts no more."""
        self.capacity.foreign(node, Usage())
        self.seen.forget_node(node)
        self.capacity.forget(node)
        self.views.pop(node, None)

    def observed(
        self, node: str, listing: Listing, details: Mapping[str, Detail], except_for: Set[str] = frozenset()
    ) -> int:
        """One complete listing (see `Sightings.listed`). Returns how many domains changed."""
        changed, known_again = self.seen.listed(node, listing, details, except_for)
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
        for uuid in known_again:
            self.on_dirty(DOMAIN_KEY + uuid)
        return changed

    def glanced(self, node: str, uuid: str, detail: Detail | None, sent_at: float) -> None:
        """One domain read by itself (see `Sightings.glanced`)."""
        if self.seen.glanced(node, uuid, detail, sent_at):
            self.on_dirty(DOMAIN_KEY + uuid)
        self._count_foreign(node)

    def await_observation(self, uuid: str, node: str) -> None:
        """Something was done, or may have been done, to a domain: Unknown until it was read after now."""
        self.seen.expectations.expect(uuid, node, self.setting.now())

    def _changed(self, uuid: str, node: str) -> None:
        self._compare_epochs(uuid)
        self.on_dirty(DOMAIN_KEY + uuid)
        self._dirty_host(node)

    def _dirty_host(self, node: str) -> None:
        """Nodes of one host show one capacity."""
        for one in self.capacity.sharing(node):
            self.on_dirty(NODE_KEY + one)

    def _compare_epochs(self, uuid: str) -> None:
        """Keep `ahead` in step with what was seen of a domain and what is promised."""
        held = self.assignments.get(uuid)
        marks = [
            mark.epoch
            for sighting in self.seen.by_uuid.get(uuid, {}).values()
            for mark in (sighting.detail.config_mark, sighting.detail.live_mark)
            if mark is not None and mark.cluster == self.setting.cluster and mark.uuid == uuid
        ]
        highest = max(marks, default=0)
        if held is not None and highest > held.assignment.epoch:
            self.ahead[uuid] = highest
        else:
            self.ahead.pop(uuid, None)

    def _home(self, uuid: str) -> str:
        held = self.assignments.get(uuid)
        return held.assignment.node if held is not None else ""

    def _forget(self, uuid: str) -> None:
        """Neither an object nor an assignment speaks of it any more."""
        if uuid not in self.domains and uuid not in self.assignments:
            self.attempts.forget(uuid)
            self.memo.pop(uuid, None)
            self.seen.forget(uuid)


def _decode_object(kv: KeyValue, kind: type[R]) -> R:
    return msgspec.json.decode(kv.value, type=kind)


def _concerns(assignment: Assignment, node: str) -> bool:
    return node in assignment.candidates or any(proof.node == node for proof in assignment.proofs)


def _aim(stored: StoredDomain) -> tuple[str, bool]:
    deleted = not isinstance(stored.domain.metadata.deletion_timestamp, UnsetType)
    return effective_state(stored.domain.spec), deleted


def _matters(before: StoredNode, after: StoredNode) -> bool:
    """Whether a change of a Node can change where anything may be."""
    return before.node.spec != after.node.spec or before.node.metadata.labels != after.node.metadata.labels


_HANDLERS: tuple[tuple[str, Callable[[Cache, str, KeyValue | None], None]], ...] = (
    (keys.object_prefix("nodes"), Cache._on_node),
    (keys.object_prefix("domains"), Cache._on_domain),
    (keys.object_prefix("migrations"), Cache._on_migration),
    (keys.object_prefix("secrets"), Cache._on_secret),
    (keys.ASSIGNMENTS, Cache._on_assignment),
    (keys.CONFIRMED_DEAD, Cache._on_dead),
    (keys.QUARANTINE, Cache._on_quarantine),
    (keys.RESOLUTIONS, Cache._on_resolution),
    (keys.IDENTITIES, Cache._on_identity),
    (keys.STORE_ACK, Cache._on_ack),
)


def _stored_migration(kv: KeyValue) -> StoredMigration:
    return StoredMigration(_decode_object(kv, Migration), kv.mod_revision, kv.create_revision)


def _open_operations(assignments: Mapping[str, Held]) -> dict[str, str]:
    intents = {uuid: held.assignment.intent for uuid, held in assignments.items()}
    return {uuid: intent.op for uuid, intent in intents.items() if intent is not None}


def _kin(identities: Mapping[str, Identity]) -> dict[str, tuple[str, ...]]:
    """Of each node, the others of its host: those whose identity begins with the same host's UUID."""
    hosts: dict[str, list[str]] = {}
    for identity, pinned in identities.items():
        hosts.setdefault(identity.rsplit(":", 2)[0], []).append(pinned.node)
    return {node: tuple(n for n in nodes if n != node) for nodes in hosts.values() for node in nodes}
