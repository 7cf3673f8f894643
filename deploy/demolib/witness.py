"""What the hosts themselves say, asked with virsh: the only evidence that counts.

A domain is as wanted when exactly one host knows its UUID, under its name, defined persistently and
running or shut off as the spec says; a guest that writes to its serial port must be heard to go on.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from .cluster import Domain
from .stage import DemoError, Host, Stage

TICK_TIMEOUT_S = 60.0  # the Linux boots for 9 s on two idle cores


@dataclass(frozen=True)
class Sighting:
    """`run`: libvirt's id of this very run, another one after each start; "-" when it does not run."""

    host: Host
    uuid: str
    run: str
    name: str
    state: str  # virsh's word
    is_persistent: bool


def look(stage: Stage) -> list[Sighting]:
    """Every domain that any host knows, active or not."""
    found = []
    for host in stage.hosts:
        listed = virsh(stage, host, "list", "--all", "--uuid", "--name").split("\n")
        for uuid, name in (line.split(maxsplit=1) for line in listed if line.strip()):
            about = virsh(stage, host, "dominfo", uuid)
            state = _field(about, "State")
            found.append(
                Sighting(
                    host, uuid, _field(about, "Id"), name.strip(), state, _field(about, "Persistent") == "yes"
                )
            )
    return found


def complaints(domains: list[Domain], seen: list[Sighting]) -> list[str]:
    """What is not as wanted; nothing when all is well."""
    found = []
    for domain in domains:
        copies = [s for s in seen if s.uuid == domain.uid or s.name == domain.libvirt_name]
        where = ", ".join(f"{s.host.node} ({s.state})" for s in copies) or "nowhere"
        wanted = "running" if domain.wanted == "running" else "shut off"
        if len(copies) != 1:
            found.append(f"{domain.libvirt_name} is on {where}, wanted on exactly one host")
        elif copies[0].uuid != domain.uid or copies[0].name != domain.libvirt_name:
            found.append(f"{copies[0].name} has UUID {copies[0].uuid}, wanted {domain.uid}")
        elif copies[0].state != wanted or not copies[0].is_persistent:
            found.append(f"{domain.libvirt_name} is {copies[0].state}, wanted {wanted} and persistent")
    known = {domain.uid for domain in domains}
    found += [f"{s.host.node} has {s.name}, which nobody asked for" for s in seen if s.uuid not in known]
    return found


def verify(stage: Stage, domains: list[Domain]) -> list[Sighting]:
    seen = look(stage)
    if wrong := complaints(domains, seen):
        raise DemoError("the hosts say otherwise: " + "; ".join(wrong))
    return seen


def verify_ticking(stage: Stage, seen: list[Sighting]) -> int:
    """How many guests were heard to run on, by the counter that they write to a file of their host."""
    heard = 0
    for sighting in seen:
        path = re.search(
            r"<serial type='file'>\s*<source path='([^']+)'",
            virsh(stage, sighting.host, "dumpxml", sighting.uuid),
        )
        if path is None or sighting.state != "running":
            continue
        first, deadline = _last_tick(stage, sighting.host, path[1]), time.monotonic() + TICK_TIMEOUT_S
        while _last_tick(stage, sighting.host, path[1]) in (first, None):
            if time.monotonic() > deadline:
                raise DemoError(f"{sighting.name} is called running, and its guest is silent")
            time.sleep(0.2)
        heard += 1
    return heard


def virsh(stage: Stage, host: Host, *args: str) -> str:
    return stage.run(["virsh", "-q", "-c", host.uri, *args])


def _last_tick(stage: Stage, host: Host, path: str) -> int | None:
    found = re.findall(r"TICK (\d+)\r?\n", stage.run_on(host, ["tail", "-c", "200", path]))
    return int(found[-1]) if found else None


def _field(about: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*)$", about, re.MULTILINE)
    return found[1].strip() if found else ""
