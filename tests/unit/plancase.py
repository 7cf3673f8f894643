"""An invented cluster for tests of the plan: state in, verdict out.

`World` holds what a snapshot holds, with readers that make the common cases short. Nothing here decides.
"""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.limits import Timing
from controller.model import BY_WORD, Assignment, Decision, Intent, IntentKind
from controller.plan import plan
from controller.plan.case import Case
from controller.plan.snapshot import (
    Held,
    Link,
    NodeView,
    Policy,
    Sighting,
    Snapshot,
    StoredDomain,
    StoredNode,
    Term,
    WitnessedEnd,
)
from controller.plan.types import ActionKind, Reason, Verdict
from drivers.errors import Cause
from drivers.hypervisor import Capabilities, Detail, HostFacts, Record, State
from drivers.libvirt.capabilities import DRIVERS, public
from specs.domain import Domain
from specs.mark import Mark
from specs.node import Node

CLUSTER = "c1c1c1c1-0000-4000-8000-000000000001"
UUID = "d0d0d0d0-0000-4000-8000-000000000001"
NOW = 1000.0
WALL = "2026-01-31T12:00:05Z"
WALL_S = datetime.datetime.fromisoformat(WALL).timestamp()
TWO_READS = ((990.0, 991.0), (995.0, 996.0))
OTHER = "d0d0d0d0-0000-4000-8000-000000000002"
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["domctl.io/undefine"]}


def facts(node: str, **changes: Any) -> HostFacts:
    base = HostFacts(
        host_uuid=f"host-{node}",
        driver="qemu",
        mode="system",
        hostname=node,
        uri=f"qemu+tcp://{node}/system",
        libvirt_version="9.0.0",
        hypervisor_version="7.2.0",
        arch="x86_64",
        cpu_model="",
        cpus=2,
        max_vcpus=255,
        memory_bytes=4 << 30,
        free_memory_bytes=4 << 30,
        numa_cells=1,
        encrypted=False,
        secure=False,
        domain_types=("qemu",),
    )
    return dataclasses.replace(base, **changes)


def capabilities(driver: str) -> Capabilities:
    return public(DRIVERS[driver], 9_000_000, keep_alive=True)


@dataclass
class Cluster:
    """Nodes that answer, no domains; each method changes one thing and returns self."""

    nodes: dict[str, StoredNode] = field(default_factory=dict)
    views: dict[str, NodeView] = field(default_factory=dict)
    domains: dict[str, StoredDomain] = field(default_factory=dict)
    assignments: dict[str, Held] = field(default_factory=dict)
    sightings: dict[str, dict[str, Sighting]] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    resigned: bool = True

    def node(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> Cluster:
        body = {
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"uri": f"qemu+tcp://{name}/system", "insecure": True, **spec},
        }
        self.nodes[name] = StoredNode(msgspec.convert(body, Node), 1)
        return self.answering(name)

    def answering(
        self, name: str, reads: tuple[tuple[float, float], ...] = ((990.0, 991.0), (995.0, 996.0))
    ) -> Cluster:
        self.views[name] = NodeView(
            link=Link.READY,
            session=1,
            facts=facts(name),
            capabilities=capabilities("qemu"),
            identity_pinned=True,
            first_read_at=reads[0][1] if reads else None,
            reads=reads,
        )
        return self

    def able(self, name: str, driver: str) -> Cluster:
        """The node can do what this driver can; its domains are what they are."""
        self.views[name] = msgspec.structs.replace(self.views[name], capabilities=capabilities(driver))
        return self

    def silent(self, name: str) -> Cluster:
        self.views[name] = msgspec.structs.replace(
            self.views[name], link=Link.BACKING_OFF, why="no route to host", session=0
        )
        return self

    def refused(self, name: str, cause: Cause) -> Cluster:
        self.views[name] = msgspec.structs.replace(
            self.views[name],
            link=Link.REFUSED,
            why="it says no",
            cause=cause,
            session=0,
        )
        return self

    def domain(
        self, uuid: str = UUID, name: str = "web", meta: dict[str, Any] | None = None, **spec: Any
    ) -> Cluster:
        body = {
            "metadata": {"name": name, "namespace": "default", "uid": uuid, "generation": 1, **(meta or {})},
            "spec": {"memory": "32Mi", "type": "qemu", **spec},
        }
        self.domains[uuid] = StoredDomain(msgspec.convert(body, Domain), 7)
        return self

    def assigned(self, node: str, uuid: str = UUID, **changes: Any) -> Cluster:
        """An assignment whose digest and config are those of the spec, as after a finished start."""
        base = Assignment(
            cluster=CLUSTER,
            uuid=uuid,
            namespace="default",
            name="web",
            libvirt_name="web",
            node=node,
            epoch=3,
            candidates=(node,),
            memory_bytes=32 << 20,
            started=True,
        )
        self.assignments[uuid] = Held(msgspec.structs.replace(base, **changes), 5)
        said = {(uuid, p.node): NOW for p in changes.get("proofs", ()) if p.rule in BY_WORD}
        self.more.setdefault("proved_since", {}).update(said)
        return self

    def intends(self, kind: IntentKind, node: str, epoch: int = 3, uuid: str = UUID) -> Cluster:
        held = self.assignments[uuid]
        intent = Intent(kind=kind, node=node, epoch=epoch, op="op", why="why", at="then")
        self.assignments[uuid] = Held(msgspec.structs.replace(held.assignment, intent=intent), held.revision)
        return self

    def rendered(self, node: str, uuid: str = UUID) -> tuple[str, str]:
        wanted = Case(self.snapshot(), uuid).desired(node, self._epoch(uuid)).rendered
        assert wanted is not None
        return wanted.xml, wanted.digest

    def _epoch(self, uuid: str) -> int:
        return self.assignments[uuid].assignment.epoch if uuid in self.assignments else 1

    def seen(
        self,
        node: str,
        state: str = "running",
        reason: str = "booted",
        uuid: str = UUID,
        *,
        active: bool | None = None,
        xml: str | None = None,
        since: float = 990.0,
        **changes: Any,
    ) -> Cluster:
        """A domain on a node, defined as the spec wants it unless told otherwise."""
        if xml is None:
            xml, digest = self.rendered(node, uuid)
        else:
            digest = "other"
        is_active = state not in ("shutoff",) if active is None else active
        record = Record(uuid, "web", State(state), reason, is_active)
        mark = Mark(CLUSTER, uuid, self._epoch(uuid), digest)
        detail = Detail(
            record=record,
            sent_at=995.0,
            persistent=True,
            autostart=False,
            managed_save=False,
            config_xml=xml,
            live_xml=xml if is_active else None,
            config_mark=mark,
            live_mark=mark if is_active else None,
            vcpus=1,
            memory_bytes=32 << 20,
        )
        sighting = Sighting(record, msgspec.structs.replace(detail, **changes), 995.0, since)
        self.sightings.setdefault(uuid, {})[node] = sighting
        return self

    def witnessed(self, node: str, detail: str, uuid: str = UUID, session: int = 1) -> Cluster:
        self.more.setdefault("ends", {})[uuid, node] = WitnessedEnd(session, detail, 994.0)
        return self

    def dead(self, node: str, *, wiped: bool = False) -> Cluster:
        self.more.setdefault("dead", {})[node] = Decision(by="alice", at="now", node=node, wiped=wiped)
        self.more.setdefault("dead_since", {})[node] = NOW
        return self

    def resolved(self, uuid: str = UUID, **decision: Any) -> Cluster:
        self.more.setdefault("resolutions", {})[uuid] = Decision(by="alice", at="now", **decision)
        named = (*decision.get("not_on", ()), decision.get("keep", ""))
        self.more.setdefault("resolved_since", {}).update({(uuid, n): NOW for n in named})
        return self

    def given(self, **more: Any) -> Cluster:
        self.more |= more
        return self

    def snapshot(self) -> Snapshot:
        names: dict[str, dict[str, str]] = {}
        for uuid, seen in self.sightings.items():
            for node, sighting in seen.items():
                names.setdefault(node, {})[sighting.record.name] = uuid
        base = Snapshot(
            now=NOW,
            wall_s=WALL_S,
            cluster=CLUSTER,
            term=Term(elected_at=900.0 if self.resigned else 980.0, predecessor_resigned=self.resigned),
            timing=Timing(),
            policy=Policy(),
            nodes=self.nodes,
            views=self.views,
            domains=self.domains,
            assignments=self.assignments,
            sightings=self.sightings,
            names=names,
        )
        return msgspec.structs.replace(base, **self.more)

    def verdict(self, uuid: str = UUID) -> Verdict:
        return plan(self.snapshot(), [uuid])[uuid]


def two_nodes() -> Cluster:
    return Cluster().node("a").node("b")


def running_on_a(**spec: object) -> Cluster:
    return two_nodes().domain(**spec).assigned("a").seen("a")


def expect_action(cluster: Cluster, kind: ActionKind, node: str = "a", uuid: str = UUID) -> None:
    verdict = cluster.verdict(uuid)
    assert verdict.action is not None, verdict
    assert (verdict.action.kind, verdict.action.node) == (kind, node)


def expect_hold(cluster: Cluster, reason: Reason) -> None:
    verdict = cluster.verdict()
    assert verdict.deferred is not None, verdict
    assert verdict.deferred.reason is reason, verdict.deferred


def interrupted(since: float, epoch: int = 3) -> Cluster:
    cluster = two_nodes().domain().assigned("a").intends(IntentKind.START, "a", epoch)
    return cluster.seen("a", "paused", "starting-up", active=True, since=since)
