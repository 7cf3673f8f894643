"""What the demo shows, in order; every claim is checked with the hosts before it is made."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from . import cluster, drift, journey, witness
from .cluster import Domain
from .screen import Screen
from .stage import CHECKOUT, DemoError, Stage, rootless

EXAMPLES = CHECKOUT / "specs" / "examples"
CONVERGE_TIMEOUT_S = 120.0
ZONES = "abc"


@dataclass(frozen=True)
class Shown:
    domains: int
    nodes: int
    downtime_ms: int | None  # None: hosts without root have no address to migrate to
    drifts: int
    repaired_in_s: float

    @property
    def line(self) -> str:
        moved = "" if self.downtime_ms is None else f"migration downtime {self.downtime_ms} ms, "
        repaired = f"{self.drifts} drifts repaired in {self.repaired_in_s:.1f} s"
        return f"demo: ok: {self.domains} domains on {self.nodes} nodes, {moved}{repaired}"


def tell(stage: Stage, screen: Screen) -> Shown:
    kind = "in session mode" if rootless() else "namespaces of their own on a bridge of their own"
    screen.step(f"starting {stage.host_count} libvirt hosts: a libvirtd each, {kind}")
    stage.start_lab()
    for host in stage.hosts:
        screen.step(f"  {host.node}: {host.uri}")
    stage.copy_guests()
    screen.step("starting domctl serve, with an etcd of its own")
    stage.start_controller()
    screen.step("domctl apply -f nodes.yaml: the hosts become Nodes")
    stage.domctl("apply", "-f", "-", stdin=nodes(stage))
    cluster.wait_nodes(stage, CONVERGE_TIMEOUT_S)
    screen.step("domctl apply -f specs/examples/")
    stage.domctl("apply", "-f", str(examples(stage)))
    if not rootless():
        stage.domctl("apply", "-f", "-", stdin=journey.manifest(stage))
    domains = cluster.wait_ready(stage, screen, CONVERGE_TIMEOUT_S)
    seen = witness.verify(stage, domains)
    ticking = witness.verify_ticking(stage, seen)
    screen.step(
        f"converged; the hosts say so too: {len(seen)} domains, each on one host, {ticking} heard to tick"
    )
    downtime_ms = None
    if not rootless():
        downtime_ms = journey.go(stage, screen, seen)
        domains = cluster.wait_ready(stage, screen, CONVERGE_TIMEOUT_S)
        seen = witness.verify(stage, domains)
    drifts, repaired_in_s = _break_and_repair(stage, screen, domains, seen)
    return Shown(len(domains), len(stage.hosts), downtime_ms, drifts, repaired_in_s)


def examples(stage: Stage) -> Path:
    """The examples; hosts without root have their images elsewhere, so there it is a copy that says so."""
    if not rootless():
        return EXAMPLES
    copy = stage.directory / "examples"
    copy.mkdir()
    for path in EXAMPLES.glob("*.yaml"):
        text = path.read_text().replace("/var/lib/libvirt/images", str(stage.images))
        (copy / path.name).write_text(text)
    return copy


def nodes(stage: Stage) -> str:
    """The Nodes of the lab, as YAML's subset JSON."""
    items = [
        {
            "apiVersion": "domctl.io/v1",
            "kind": "Node",
            "metadata": {
                "name": host.node,
                "labels": {"domctl.io/lab": "true", "zone": ZONES[index % len(ZONES)]},
            },
            "spec": {"uri": host.uri, "insecure": True, "allowedPaths": [str(stage.images)]},
        }
        for index, host in enumerate(stage.hosts)
    ]
    return "".join(f"---\n{json.dumps(item)}\n" for item in items)


def _break_and_repair(
    stage: Stage, screen: Screen, domains: list[Domain], seen: list[witness.Sighting]
) -> tuple[int, float]:
    """How many drifts, and in how many seconds all were repaired."""
    plan = drift.assign(seen)
    screen.step("now behind the controller's back:")
    began = time.monotonic()
    for victim, change in plan:
        change.apply(stage, victim)
        screen.step(f"  {victim.name} on {victim.host.node}: {change.what}")
    _until_repaired(stage, domains, plan, began + CONVERGE_TIMEOUT_S)
    repaired_in_s = time.monotonic() - began
    cluster.wait_ready(stage, screen, CONVERGE_TIMEOUT_S)
    witness.verify_ticking(stage, witness.verify(stage, domains))
    screen.step(f"repaired, and the hosts say so: {len(plan)} drifts in {repaired_in_s:.1f} s")
    return len(plan), repaired_in_s


def _until_repaired(
    stage: Stage, domains: list[Domain], plan: list[tuple[witness.Sighting, drift.Drift]], deadline: float
) -> None:
    while True:
        seen = witness.look(stage)
        wrong = witness.complaints(domains, seen) + drift.complaints(plan, seen)
        if not wrong:
            return
        if time.monotonic() > deadline:
            raise DemoError("not repaired: " + "; ".join(wrong))
        time.sleep(0.05)
