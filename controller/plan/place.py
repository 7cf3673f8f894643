"""Where a domain goes: hard filters, then the least loaded node, ties broken by a hash.

Scores are plain tuples ending in the node's name, so that the same snapshot gives the same node on every
controller. A failure to place says, for each node, the first filter that excluded it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from controller.plan.snapshot import UNSEEN, Link, NodeView, Snapshot, StoredNode, Usage
from controller.plan.types import Deferred, Reason
from specs.domain import DomainSpec, Placement, effective_type, effective_vcpus, libvirt_name
from specs.hypervisors import DRIVER_OF_TYPE
from specs.meta import ObjectMeta, labels_of
from specs.node import NodeSpec
from specs.quantity import to_bytes


@dataclass(frozen=True, slots=True)
class Demand:
    """What a domain needs of a node."""

    uuid: str
    name: str
    spec: DomainSpec
    vcpus: int
    memory_bytes: int

    @classmethod
    def of(cls, uuid: str, meta: ObjectMeta, spec: DomainSpec) -> Demand:
        return cls(uuid, libvirt_name(meta), spec, effective_vcpus(spec), to_bytes(spec.memory))


def allocatable(spec: NodeSpec, cpus: int, memory_bytes: int) -> Usage:
    """Capacity that may be promised: what there is, with overcommit, less what is reserved."""
    over = spec.overcommit
    vcpu_factor = 4.0 if isinstance(over, UnsetType) or over.vcpus is UNSET else float(over.vcpus)
    memory_factor = 1.0 if isinstance(over, UnsetType) or over.memory is UNSET else float(over.memory)
    kept = spec.reserved
    kept_vcpus = 0 if isinstance(kept, UnsetType) or isinstance(kept.vcpus, UnsetType) else kept.vcpus
    kept_memory = (
        0 if isinstance(kept, UnsetType) or isinstance(kept.memory, UnsetType) else to_bytes(kept.memory)
    )
    return Usage(int(cpus * vcpu_factor) - kept_vcpus, int(memory_bytes * memory_factor) - kept_memory)


def capacity_group(view: NodeView, node: str) -> str:
    """Nodes with one host_uuid (a qemu and an lxc driver of one host) share one capacity."""
    facts = view.facts
    return facts.host_uuid if facts is not None and facts.host_uuid else node


def allows(placement: Placement | UnsetType, stored: StoredNode) -> str:
    """Why the user's own constraints exclude this node ("" if they do not)."""
    if isinstance(placement, UnsetType):
        return ""
    name = stored.node.metadata.name
    if not isinstance(placement.node, UnsetType) and placement.node != name:
        return f"placement.node is {placement.node}"
    if not isinstance(placement.node_selector, UnsetType):
        labels = labels_of(stored.node.metadata)
        for label, value in sorted(placement.node_selector.items()):
            if labels.get(label) != value:
                return f"label {label} is {labels.get(label, '<unset>')}, wanted {value}"
    return ""


def excluded(snap: Snapshot, demand: Demand, name: str) -> str:
    """Why this node cannot take the domain now ("" if it can). Filters in order; the first one speaks."""
    stored, view = snap.nodes[name], snap.views.get(name, UNSEEN)
    return allows(demand.spec.placement, stored) or _unfit(snap, demand, stored, view)


def _unfit(snap: Snapshot, demand: Demand, stored: StoredNode, view: NodeView) -> str:
    name, spec, facts = stored.node.metadata.name, stored.node.spec, view.facts
    if not view.answers or facts is None:
        return "does not answer" if view.link != "Refused" else f"refused: {view.why}"
    domain_type = effective_type(demand.spec)
    taken_by = snap.names.get(name, {}).get(demand.name, demand.uuid)
    free = _free(snap, spec, view, name)
    filters = (
        (stored.node.metadata.deletion_timestamp is not UNSET, "is being deleted"),
        (spec.observe_only is True, "is observeOnly"),
        (spec.unschedulable is True, "is unschedulable"),
        (not isinstance(spec.taints, UnsetType) and bool(spec.taints), "has a NoSchedule taint"),
        (name in snap.dead, "was confirmed dead"),
        (name in snap.quarantine, "is in quarantine"),
        (facts.driver != DRIVER_OF_TYPE[domain_type], f"runs {facts.driver}, not {domain_type}"),
        (bool(facts.domain_types) and domain_type not in facts.domain_types, f"has no type {domain_type}"),
        (_keeps_no_mark(view), f"runs {facts.driver}, whose definitions keep no mark of domctl's"),
        (taken_by != demand.uuid, f"has another domain named {demand.name}"),
        (free.vcpus < demand.vcpus, f"has {free.vcpus} vCPUs free of {demand.vcpus}"),
        (
            free.memory_bytes < demand.memory_bytes,
            f"has {free.memory_bytes >> 20} MiB free of {demand.memory_bytes >> 20}",
        ),
    )
    return next((why for fails, why in filters if fails), "")


def _keeps_no_mark(view: NodeView) -> bool:
    """Without a mark nobody could tell our domains from others', nor which definition they were given."""
    return view.capabilities is not None and not view.capabilities.keeps_metadata


def _free(snap: Snapshot, spec: NodeSpec, view: NodeView, name: str) -> Usage:
    facts = view.facts
    assert facts is not None
    total = allocatable(spec, facts.cpus, facts.memory_bytes)
    used = snap.usage.get(capacity_group(view, name), Usage())
    return Usage(total.vcpus - used.vcpus, total.memory_bytes - used.memory_bytes)


def _score(snap: Snapshot, demand: Demand, name: str) -> tuple[float, int, str]:
    """Lower is better: how full the node would be, then a hash of (domain, node), then the name."""
    stored, view = snap.nodes[name], snap.views[name]
    facts = view.facts
    assert facts is not None
    total = allocatable(stored.node.spec, facts.cpus, facts.memory_bytes)
    used = snap.usage.get(capacity_group(view, name), Usage()).plus(demand.vcpus, demand.memory_bytes)
    full = max(used.vcpus / max(total.vcpus, 1), used.memory_bytes / max(total.memory_bytes, 1))
    tie = int.from_bytes(hashlib.blake2b(f"{demand.uuid}/{name}".encode(), digest_size=8).digest())
    return (round(full, 3), tie, name)


def least_loaded(snap: Snapshot, demand: Demand, fitting: list[str]) -> str:
    return min(fitting, key=lambda name: _score(snap, demand, name))


def _not_tried(snap: Snapshot, demand: Demand, name: str) -> bool:
    """A node that may fit and was not reached or missed yet: the first to answer must not get everything."""
    view = snap.views.get(name, UNSEEN)
    stored = snap.nodes[name]
    closed = stored.node.spec.observe_only is True or stored.node.spec.unschedulable is True
    return view.link is Link.CONNECTING and not closed and not allows(demand.spec.placement, stored)


def place(snap: Snapshot, demand: Demand, only: str = "") -> str | Deferred:
    """The node for this domain, or why there is none, for each node. `only`: the one where its disks are."""
    elsewhere = "has not its disks" if only else ""
    reasons = {name: excluded(snap, demand, name) if only in ("", name) else elsewhere for name in snap.nodes}
    connecting = [n for n in snap.nodes if only in ("", n) and _not_tried(snap, demand, n)]
    if connecting:
        return Deferred(
            Reason.NODES_CONNECTING,
            f"waiting for the first answer of {', '.join(sorted(connecting)[:8])}",
            retry_after_s=1.0,
        )
    fitting = [name for name, why in reasons.items() if not why]
    if fitting:
        return least_loaded(snap, demand, fitting)
    listed = "; ".join(f"{name} {why}" for name, why in sorted(reasons.items())[:8])
    more = f"; and {len(reasons) - 8} more" if len(reasons) > 8 else ""
    return Deferred(
        Reason.NO_NODE_FITS,
        f"0 of {len(reasons)} nodes fit: {listed}{more}" if reasons else "no node is registered",
        retry_after_s=None,
    )
