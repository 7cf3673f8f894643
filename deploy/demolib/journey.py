"""A Linux guest moves from one host to another while it runs, and not one of its ticks is lost or doubled.

Its console writes counted lines to a file of whichever host it runs on. What stands in the source's file and,
after it, in the target's must be one unbroken count: that is read on both hosts, whatever domctl says.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from . import witness
from .screen import Screen
from .stage import DemoError, Host, Stage
from .witness import Sighting

NAME = "traveller"
BOOT_TIMEOUT_S = 90.0
MOVE_TIMEOUT_S = 90.0
TICKS_BEFORE, TICKS_AFTER = 10, 10


def manifest(stage: Stage) -> str:
    """A kernel with a busybox, booted directly; its serial console goes to a file."""
    spec = {
        "type": "qemu",
        "memory": "96Mi",
        "os": {
            "kernel": f"{stage.images}/vmlinuz",
            "initrd": f"{stage.images}/initramfs.gz",
            "cmdline": "console=ttyS0 quiet",
        },
        "serials": [{"name": "console", "type": "file", "path": _file(stage), "append": True}],
        "shutdown": [{"method": "acpi", "timeoutSeconds": 10}, {"method": "destroy"}],
    }
    return _object("Domain", NAME, spec)


def go(stage: Stage, screen: Screen, seen: list[Sighting]) -> int:
    """Milliseconds that the guest stood still, by libvirt's count."""
    here = _where(seen)
    there = next(host for host in stage.hosts if host != here.host)
    screen.step(f"{NAME}, a Linux guest on {here.host.node}: waiting until its console counts")
    _until_ticks(stage, here.host, TICKS_BEFORE, BOOT_TIMEOUT_S)
    screen.step(f"domctl apply: a Migration of {NAME} to {there.node}")
    began = time.monotonic()
    request = _object("Migration", f"{NAME}-1", {"domain": NAME, "node": there.node})
    stage.domctl("apply", "-f", "-", stdin=request)
    status = _until_moved(stage)
    took_s = time.monotonic() - began
    downtime_ms = status.get("downtimeMilliseconds")
    if downtime_ms is None:
        raise DemoError(f"domctl does not say how long {NAME} stood still: {json.dumps(status)}")
    if (now := _where(witness.look(stage)).host) != there:
        raise DemoError(f"{NAME} is on {now.node}, and was to move to {there.node}")
    before = len(_ticks(_written(stage, here.host)))
    count = _until_ticks(stage, there, TICKS_AFTER, MOVE_TIMEOUT_S)
    _unbroken(stage, here.host, there)
    screen.step(f"moved in {took_s:.1f} s, and stood still for {downtime_ms} ms; the hosts say so too:")
    screen.step(f"  {before} ticks on {here.host.node}, {count} on {there.node}, none lost, none doubled")
    return int(downtime_ms)


def _where(seen: list[Sighting]) -> Sighting:
    found = [sighting for sighting in seen if sighting.name == NAME]
    if len(found) != 1 or found[0].state != "running":
        raise DemoError(f"{NAME} is to run on exactly one host: {found}")
    return found[0]


def _until_moved(stage: Stage) -> dict[str, Any]:
    deadline = time.monotonic() + MOVE_TIMEOUT_S
    while True:
        status = json.loads(stage.domctl("get", "migration", f"{NAME}-1", "-o", "json")).get("status", {})
        if status.get("phase") == "Succeeded":
            return dict(status)
        if status.get("phase") in ("Failed", "Aborted") or time.monotonic() > deadline:
            raise DemoError(f"the migration of {NAME} did not succeed: {json.dumps(status)}")
        time.sleep(0.1)


def _until_ticks(stage: Stage, host: Host, count: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while (ticks := len(_ticks(_written(stage, host)))) < count:
        if time.monotonic() > deadline:
            raise DemoError(f"{NAME} wrote {ticks} ticks on {host.node} in {timeout_s:.0f} s, not {count}")
        time.sleep(0.2)
    return ticks


def _unbroken(stage: Stage, source: Host, target: Host) -> None:
    """A line may have been cut in two by the move: it is what both files say one after the other."""
    first = _written(stage, source)
    ticks = _ticks(first + _written(stage, target))
    if ticks != list(range(len(ticks))):
        wrong = [(a, b) for a, b in zip([-1, *ticks], ticks, strict=False) if b != a + 1]
        raise DemoError(f"the console of {NAME} does not count one by one over its move: {wrong[:5]}")
    if _written(stage, source) != first:
        raise DemoError(f"{NAME} goes on writing on {source.node}, which it has left")


def _written(stage: Stage, host: Host) -> str:
    return stage.run_on(host, ["sh", "-c", f"cat {_file(stage)} 2>/dev/null || true"])


def _ticks(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"TICK (\d+)\r?\n", text)]


def _file(stage: Stage) -> str:
    return f"{stage.images}/{NAME}.console"


def _object(kind: str, name: str, spec: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "domctl.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
