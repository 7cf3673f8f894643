"""How things are broken behind the controller's back, by means that an administrator or an accident has."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .stage import DemoError, Stage
from .witness import Sighting, virsh


@dataclass(frozen=True)
class Drift:
    """`ends_run`: whether the guest is lost by it; where not, mending it must not lose it either."""

    what: str
    apply: Callable[[Stage, Sighting], None]
    ends_run: bool


def _kill(stage: Stage, victim: Sighting) -> None:
    pids = next(host["pids"] for host in stage.lab_status() if host["name"] == victim.host.name)
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if victim.uuid.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                return
    raise DemoError(f"no QEMU of {victim.name} to be killed on {victim.host.node}")


def _destroy(stage: Stage, victim: Sighting) -> None:
    virsh(stage, victim.host, "destroy", victim.uuid)


def _undefine(stage: Stage, victim: Sighting) -> None:
    virsh(stage, victim.host, "undefine", victim.uuid)


def _remove(stage: Stage, victim: Sighting) -> None:
    virsh(stage, victim.host, f"destroy {victim.uuid}; undefine {victim.uuid}")


RUNNING = (
    Drift("its QEMU is killed", _kill, ends_run=True),
    Drift("virsh destroy", _destroy, ends_run=True),
    Drift("virsh destroy, virsh undefine", _remove, ends_run=True),
    Drift("virsh undefine while it runs", _undefine, ends_run=False),
)
SHUT_OFF = Drift("virsh undefine", _undefine, ends_run=False)


def assign(seen: list[Sighting]) -> list[tuple[Sighting, Drift]]:
    """What happens to whom: every kind of drift in turn."""
    running = [s for s in seen if s.state == "running"]
    plan = [(victim, RUNNING[i % len(RUNNING)]) for i, victim in enumerate(running)]
    return plan + [(s, SHUT_OFF) for s in seen if s.state != "running"]


def complaints(plan: list[tuple[Sighting, Drift]], seen: list[Sighting]) -> list[str]:
    """Guests that were lost and do not run anew, or were not and do."""
    now = {s.uuid: s.run for s in seen}
    found = []
    for victim, change in plan:
        is_same_run = now.get(victim.uuid) == victim.run
        if is_same_run == change.ends_run:
            found.append(f"{victim.name} {'was not started again' if is_same_run else 'was restarted'}")
    return found
