"""What is due for a Node itself: its identity, its return from the dead, its quarantine, its status, its end.

The counterpart of the plan for domains, small enough to be one file. Decisions are pure functions over the
cache; writes go through the ledger. A host's identity is pinned at first contact, so that one host is never
managed as two nodes and a URI never silently leads to another host (F44).
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, UnsetType

from controller import keys
from controller.cache import Cache
from controller.ledger import CommitOutcome, Ledger
from controller.model import Identity
from controller.objects import Objects, parse
from controller.plan.evidence import is_dead, speaks
from controller.plan.place import allocatable, capacity_group
from controller.plan.snapshot import Link, NodeView, StoredNode, Usage
from controller.status import Truth, with_times
from controller.target import is_open_to_all
from controller.world import World
from drivers.errors import StoreError
from drivers.hypervisor import HostFacts
from drivers.store import Compare, Delete, Put, Write
from specs.kinds import KIND_OF
from specs.meta import Condition
from specs.node import NodeResources, NodeStatus

log = logging.getLogger(__name__)

NODE = KIND_OF["Node"]
WHOSE = {"client": "controller's certificate", "server": "host's certificate"}
_UP = (
    "its host is up, for its node {} answers, and nobody's word that it is dead counts: mend what serves "
    "this node there, or say of a domain that it is not on it (domctl resolve --not-on)"
)
EXPIRES_SOON = datetime.timedelta(days=14)


def identity_of(facts: HostFacts, uri: str) -> tuple[str, str, str]:
    """(host_uuid, driver, mode); where the driver reports no host_uuid (test), the URI stands for it."""
    return (facts.host_uuid or uri.replace("/", "_"), facts.driver, facts.mode)


@dataclass(frozen=True, slots=True)
class NodeKeeper:
    cache: Cache
    ledger: Ledger
    objects: Objects
    world: World

    async def pin_identity(self, node: str, facts: HostFacts) -> str:
        """Pin the host behind this Node, or answer why it must not be used. Raises Fenced."""
        stored = self.cache.nodes.get(node)
        if stored is None:
            return "the Node is gone"
        key = keys.identity(*identity_of(facts, stored.node.spec.uri))
        refused = self._refusal(node, key)
        if refused is not None:
            return refused
        try:
            commit = await self.ledger.put_record(key, Identity(node=node, at=self.world.wall()), 0)
        except StoreError as error:
            return f"its identity could not be recorded: {error.message}"
        if commit.outcome is CommitOutcome.DONE:
            self.cache.wrote(
                {key: msgspec.json.encode(Identity(node=node, at=self.world.wall()))}, commit.revision
            )
            return ""
        owner = commit.current.get(key)
        if owner is None:
            return "its identity could not be recorded: etcd did not answer"
        name = msgspec.json.decode(owner.value, type=Identity).node
        return "" if name == node else _taken(name)

    def _refusal(self, node: str, key: str) -> str | None:
        """Why this host may not be this Node ("": it may, and is pinned already; None: not pinned yet)."""
        name = key.removeprefix(keys.IDENTITIES)
        owner = self.cache.identities.get(name)
        if owner is not None:
            return "" if owner.node == node else _taken(owner.node)
        other = next((i for i, pinned in self.cache.identities.items() if pinned.node == node), None)
        if other is not None:
            return f"another host answers at this URI: it was {other} and is now {name}"
        return None

    async def reconcile(self, name: str) -> bool:
        """Bring one Node's records and status in line; False: it must be tried again. Raises Fenced."""
        stored = self.cache.nodes.get(name)
        if stored is None:
            return True
        view = self.cache.view(name)
        told = await self._contradict(name, view)
        if view.answers and name in self.cache.quarantine and not _leftovers_of(self.cache, name):
            log.info("node compared and found clean", extra={"node": name})
            told = await self._delete(keys.quarantine(name)) and told
        if not isinstance(stored.node.metadata.deletion_timestamp, UnsetType):
            await self._remove(stored)
        else:
            await self._write_status(stored, view)
        return told

    async def _contradict(self, name: str, view: NodeView) -> bool:
        """Something answered there since it was confirmed dead, were it with a refusal: nobody's word that it
        is dead stands any longer (R3), and no less if another node of its host did. The plan does not believe
        it as it is; the next leader, who did not see that answer, must not find it."""
        since = self.cache.words.dead.get(name, 0.0)
        views = (view, *(self.cache.view(kin) for kin in self.cache.kin.get(name, ())))
        if name not in self.cache.dead or not any(speaks(one, since) for one in views):
            return True
        log.warning("confirmed dead, and answers", extra={"node": name, "why": view.why})
        return await self._delete(keys.confirmed_dead(name))

    async def _delete(self, key: str) -> bool:
        commit = await self.ledger.commit([Compare(key, self.cache.revision_of(key))], [Delete(key)])
        if commit.ok:
            self.cache.wrote({key: None}, commit.revision)
        return commit.ok

    async def _remove(self, stored: StoredNode) -> None:
        """A deleted Node goes once no assignment names it among its candidates, and, where domains are
        migrated by hand, once it is known what it has: nobody asks a host that is not registered."""
        name = stored.node.metadata.name
        if self._is_held(name) or _keeps_a_domain(self.cache, name):
            await self._write_status(stored, self.cache.view(name))
            return
        kv = await self.objects.store.get(keys.object_key("nodes", "", name))
        if kv is None:
            return
        compares, writes = await self.objects.removal_writes(NODE, parse(NODE, kv))
        extra: list[Write] = [Delete(keys.confirmed_dead(name))]  # a quarantine ends by a look alone (I15)
        known = {w.key for w in writes}
        extra += [
            Delete(keys.IDENTITIES + identity)
            for identity, pinned in self.cache.identities.items()
            if pinned.node == name
        ]
        if self._is_held(name):
            return  # placed there while this was being read
        all_writes = [*writes, *(w for w in extra if w.key not in known)]
        commit = await self.ledger.commit(compares, all_writes)
        if commit.ok:
            self.cache.wrote(
                {w.key: w.value if isinstance(w, Put) else None for w in all_writes}, commit.revision
            )

    def _is_held(self, name: str) -> bool:
        if self.cache.capacity.is_reserved(name):
            return True
        return any(name in held.assignment.candidates for held in self.cache.assignments.values())

    async def _write_status(self, stored: StoredNode, view: NodeView) -> None:
        status = node_status(self.cache, stored, view, self.world.wall())
        old = stored.node.status
        conditions = () if isinstance(old, UnsetType) else old.conditions
        timed = msgspec.structs.replace(
            status,
            conditions=with_times(
                () if isinstance(status.conditions, UnsetType) else status.conditions,
                () if isinstance(conditions, UnsetType) else conditions,
                self.world.wall(),
            ),
        )
        if timed == old:
            return
        name = stored.node.metadata.name
        key = keys.object_key("nodes", "", name)
        value = msgspec.json.encode(msgspec.structs.replace(stored.node, status=timed))
        commit = await self.ledger.commit([Compare(key, stored.revision)], [Put(key, value)])
        if commit.ok:
            self.cache.wrote({key: value}, commit.revision)


def _keeps_a_domain(cache: Cache, name: str) -> str:
    """Why a deleted node must not be forgotten yet although nothing is assigned to it ("" if it may): what is
    there, or may be, would look as if it had vanished."""
    way_out = f"; to end this: domctl node confirm-dead {name}"
    if is_dead(cache.snapshot(), name):
        return ""
    left = _leftovers_of(cache, name)
    if left:
        return (
            f"{len(left)} domains that are assigned to other nodes were seen on it{way_out}, if that is true"
        )
    if cache.hold:
        return "what is on it may be forgotten, for the store is not trusted"
    if cache.revision_of(keys.STORE_ACK) and cache.view(name).first_read_at is None:
        return f"the store was set back once, and it was not read since to see what is on it{way_out}"
    forgotten = [u for u in cache.seen.uuids_on(name) if u in cache.domains and u not in cache.assignments]
    if forgotten:
        return f"{len(forgotten)} domains are on it, and the store forgot it{way_out}, if it is off"
    if cache.setting.policy.hand_migrations and not cache.view(name).answers:
        return (
            f"it does not answer, and domains may have been migrated to it by hand{way_out}, if that is true"
        )
    return ""


def _taken(owner: str) -> str:
    return f"this host is registered already, as node {owner}: one host is never managed as two nodes"


def node_status(cache: Cache, stored: StoredNode, view: NodeView, wall: str) -> NodeStatus:
    """What is known of a node at wall time `wall`, with conditions that have no times yet."""
    name, facts = stored.node.metadata.name, view.facts
    meta = stored.node.metadata
    generation = 0 if isinstance(meta.generation, UnsetType) else meta.generation
    phase, reason, message = _phase(cache, stored, view)
    base = NodeStatus(
        observed_generation=generation,
        phase=phase,
        reason=reason,
        conditions=[
            *_conditions(stored, phase, reason, message, generation),
            *about_certificates(facts, wall, generation),
        ],
    )
    if facts is None:
        return base
    total = allocatable(stored.node.spec, facts.cpus, facts.memory_bytes)
    used = cache.capacity.used.get(capacity_group(view, name), Usage())
    here = cache.seen.names.get(name, {})
    ours = [u for u in here.values() if u in cache.assignments]
    orphans = sorted(n for n, u in here.items() if u not in cache.assignments and _is_orphan(cache, u, name))
    return msgspec.structs.replace(
        base,
        host_uuid=facts.host_uuid or UNSET,
        driver=facts.driver,
        mode=facts.mode,
        hostname=facts.hostname,
        uri=facts.uri,
        libvirt_version=facts.libvirt_version,
        hypervisor_version=facts.hypervisor_version,
        arch=facts.arch,
        cpu_model=facts.cpu_model,
        cpus=facts.cpus,
        max_vcpus=facts.max_vcpus,
        memory_bytes=facts.memory_bytes,
        free_memory_bytes=facts.free_memory_bytes,
        numa_cells=facts.numa_cells,
        encrypted=facts.encrypted,
        secure=facts.secure,
        allocatable=NodeResources(vcpus=total.vcpus, memory_bytes=total.memory_bytes),
        allocated=NodeResources(vcpus=used.vcpus, memory_bytes=used.memory_bytes),
        domains=len(ours),
        foreign_domains=len(here) - len(ours) - len(orphans),
        orphans=orphans or UNSET,
    )


def _is_orphan(cache: Cache, uuid: str, node: str) -> bool:
    """Our mark, and nothing in etcd that knows it: shown, counted, never touched."""
    sighting = cache.seen.find(uuid, node)
    mark = sighting.detail.config_mark or sighting.detail.live_mark if sighting is not None else None
    return mark is not None and cache.is_ours(uuid, mark)


def _phase(cache: Cache, stored: StoredNode, view: NodeView) -> tuple[str, str, str]:
    name = stored.node.metadata.name
    if not isinstance(stored.node.metadata.deletion_timestamp, UnsetType):
        message = _keeps_a_domain(cache, name) or "waits until no domain may be here any more"
        return "Terminating", "Terminating", message
    if view.answers and name in cache.quarantine:
        left = _leftovers_of(cache, name)
        saved = [uuid for uuid in left if (s := cache.seen.find(uuid, name)) and s.detail.managed_save]
        out = f"; to end this: virsh managedsave-remove {saved[0]} on {name}" if saved else ""
        said = f"it was taken for dead; {len(left)} domains that moved on are still here{out}"
        return "Quarantined", "Quarantined", said
    if view.answers:
        return "Ready", "Ready", "answers"
    if is_dead(cache.snapshot(), name):
        by = cache.dead[name].by
        return "ConfirmedDead", "ConfirmedDead", f"{by} confirmed that it is dead; ends when it answers"
    if view.link is Link.REFUSED:
        return "Refused", view.cause or "Refused", view.why
    if view.link is Link.CONNECTING or not view.why:
        return "Connecting", "Connecting", "not read yet"
    up = next((kin for kin in cache.kin.get(name, ()) if cache.view(kin).answers), "")
    but = f"; {_UP.format(up)}" if up else ""
    return "Unreachable", view.cause or "Unreachable", view.why + but


def _leftovers_of(cache: Cache, name: str) -> list[str]:
    """Domains of ours seen on this node that have their place elsewhere, or are only a tombstone."""
    held = {u: cache.assignments[u].assignment for u in cache.seen.uuids_on(name) if u in cache.assignments}
    return [u for u, a in held.items() if a.node != name or a.tombstone]


READY_OF: dict[str, tuple[Truth, Truth, Truth]] = {
    # phase: Ready, Reconciling, Stalled
    "Ready": ("True", "False", "False"),
    "Quarantined": ("False", "True", "False"),
    "ConfirmedDead": ("False", "True", "False"),
    "Refused": ("False", "False", "True"),
    "Connecting": ("Unknown", "True", "False"),
    "Unreachable": ("Unknown", "True", "False"),
    "Terminating": ("False", "True", "False"),
}


def _conditions(
    stored: StoredNode, phase: str, reason: str, message: str, generation: int
) -> list[Condition]:
    kinds = zip(("Ready", "Reconciling", "Stalled"), READY_OF[phase], strict=True)
    conditions = [
        Condition(type=kind, status=status, reason=reason, message=message, observed_generation=generation)
        for kind, status in kinds
    ]
    if is_open_to_all(stored.node.spec):
        conditions.append(
            Condition(
                type="Insecure",
                status="True",
                reason="NoAuthentication",
                message="INSECURE: tcp without authentication; whoever reaches this port is root on the host",
                observed_generation=generation,
            )
        )
    return conditions


def about_certificates(facts: HostFacts | None, wall: str, generation: int) -> list[Condition]:
    """When our certificate and the host's, as they were at the last opening, run out."""
    if facts is None or not facts.certificates:
        return []
    soon = _days_later(wall, EXPIRES_SOON)
    late = [one for one in facts.certificates if one.expires_at <= soon]
    ends = "; ".join(
        f"the {WHOSE[one.whose]} ({one.subject}) expires at {one.expires_at}" for one in facts.certificates
    )
    advice = ". Replace it in time: without it nothing can be done on this host" if late else ""
    return [
        Condition(
            type="CertificateExpiring",
            status="True" if late else "False",
            reason="ExpiresSoon" if late else "Valid",
            message=f"{ends}{advice}",
            observed_generation=generation,
        )
    ]


def _days_later(wall: str, days: datetime.timedelta) -> str:
    return (datetime.datetime.fromisoformat(wall) + days).strftime("%Y-%m-%dT%H:%M:%SZ")
