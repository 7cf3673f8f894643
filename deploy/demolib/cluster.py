"""What domctl says of its cluster, and waiting until it says that all is well."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from .screen import Screen
from .stage import DemoError, Stage

HEADER = ("DOMAIN", "STATE", "NODE", "READY", "REASON")


@dataclass(frozen=True)
class Domain:
    """One domain as domctl shows it. `libvirt_name`: its name on its host."""

    namespace: str
    name: str
    uid: str
    wanted: str
    state: str
    node: str
    ready: str
    reason: str

    @property
    def libvirt_name(self) -> str:
        return self.name if self.namespace == "default" else f"{self.namespace}.{self.name}"

    @property
    def row(self) -> tuple[str, ...]:
        return (self.libvirt_name, self.state, self.node, self.ready, self.reason)


def domains(stage: Stage) -> list[Domain]:
    items = json.loads(stage.domctl("get", "domains", "-A", "-o", "json"))["items"]
    return sorted((_read(item) for item in items), key=lambda domain: domain.libvirt_name)


def wait_nodes(stage: Stage, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        items = json.loads(stage.domctl("get", "nodes", "-o", "json"))["items"]
        missing = [
            item["metadata"]["name"] for item in items if _condition(item, "Ready").get("status") != "True"
        ]
        if len(items) == len(stage.hosts) and not missing:
            return
        if time.monotonic() > deadline:
            raise DemoError(f"not Ready within {timeout_s:.0f} s: {', '.join(missing)}")
        time.sleep(0.1)


def wait_ready(stage: Stage, screen: Screen, timeout_s: float) -> list[Domain]:
    """Show the table until every domain is Ready."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = domains(stage)
        screen.table(HEADER, [domain.row for domain in found])
        missing = [domain for domain in found if domain.ready != "True"]
        if found and not missing:
            return found
        if time.monotonic() > deadline:
            why = "; ".join(f"{domain.libvirt_name}: {domain.reason}" for domain in missing)
            raise DemoError(f"not Ready within {timeout_s:.0f} s: {why or 'there are no domains'}")
        time.sleep(0.1)


def _read(item: dict[str, Any]) -> Domain:
    status, ready = item.get("status", {}), _condition(item, "Ready")
    is_current = status.get("observedGeneration") == item["metadata"].get("generation")
    return Domain(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        uid=item["metadata"]["uid"],
        wanted=item["spec"].get("state", "running"),
        state=status.get("state", "Unknown"),
        node=status.get("node", "<none>"),
        ready=ready.get("status", "Unknown") if is_current else "Unknown",
        reason=status.get("reason") or ready.get("reason", "<none>"),
    )


def _condition(item: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions = item.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})
