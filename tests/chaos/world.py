"""Real hosts, two controllers over one etcd, and one domain at a time on its way from one host to another.

`World` is made whole before each run and asked, after it, whether everything is where it should be. The guest
has 60 MiB to copy at a set speed, so that there is time for something to happen; it writes counted lines to a
file on its host, in which the oracle of I1 and the judgement of a run read where it really was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import libvirt

from tests.e2e.client import DOMAINS, MIGRATIONS, ApiError, Object, is_ready
from tests.e2e.cluster import Cluster, Copy, domain, with_tick_images
from tests.e2e.serve import Controller, until
from tests.etcdserver import EtcdServer
from tests.labhost import CommandError, Lab, LabHost

ENDED = ("Succeeded", "Failed", "Aborted")
SPEED = 20  # MiB/s
SETTLE_S = 240.0
NAME = "wanderer"
STAYS = "bystander"
_BUG = re.compile(rb"InternalError|Traceback \(most recent call last\)")


class Unsettled(AssertionError):
    """Not everything came to be as it should in time, or something is not where it should be."""


class World:
    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.etcd = EtcdServer(directory / "etcd")
        self.etcd.start()
        config = {
            "apiVersion": "config.domctl.io/v1",
            "kind": "ControllerConfig",
            "store": {"endpoints": [self.etcd.endpoint]},
        }
        self.controllers = [Controller(directory / f"c{number}", config) for number in (1, 2)]
        self.hosts = {f"n{number + 1}": host for number, host in enumerate(lab.hosts)}
        self.ticks = with_tick_images(lab.hosts)
        self.source = self.target = ""
        self.migration = ""

    # --- making it whole

    def begin(self) -> None:
        """Nodes registered, and the two domains running."""
        for controller in self.controllers:
            controller.start()
        cluster = self.cluster()
        cluster.join()
        for name in (STAYS, NAME):
            cluster.controller.apply(
                domain(name, ticking=True, image="full.img", memory="64Mi", migration={"onDoubt": "Reboot"})
            )
        cluster.wait_ready(STAYS, NAME, timeout_s=60)
        until(self.boots, 30, "its guest does not begin to count")

    def end(self) -> None:
        for controller in self.controllers:
            self._thaw(controller)
            controller.stop()
        self.etcd.stop()

    def heal(self) -> None:
        """Every host on, linked and answering, every process going on, both controllers serving."""
        shown = {host["name"]: host for host in self.lab.status()["hosts"]}
        for host in self.lab.hosts:
            state = shown[host.name]
            if not state["power"]:
                host.poweron()
            if state["libvirtd"] == "stopped":
                host.thaw()
            if state["power"] and not state["link"]:
                host.heal()
            for pid in host.qemu_pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if state["power"] and state["libvirtd"] == "dead":
                host.restart_libvirtd()
        for controller in self.controllers:
            self._thaw(controller)
            if controller.process is not None and controller.process.poll() is not None:
                controller.process = None  # it lost its lease and ended
            if controller.process is None:
                controller.start(wait=False)
        for controller in self.controllers:
            controller.wait_ready()

    def _thaw(self, controller: Controller) -> None:
        if controller.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(controller.pid, signal.SIGCONT)

    # --- who is who

    def cluster(self) -> Cluster:
        return Cluster(self.serving(), self.lab.hosts)

    def serving(self) -> Controller:
        """One that answers."""
        for controller in self.controllers:
            if controller.process is not None:
                with contextlib.suppress(OSError, ApiError):
                    controller.api().get("/readyz")
                    return controller
        raise Unsettled("no controller answers")

    def leader(self) -> Controller:
        for controller in self.controllers:
            if controller.process is not None:
                metrics = controller.api().metrics()
                if any(
                    name.startswith("leader_election_master_status") and value
                    for name, value in metrics.items()
                ):
                    return controller
        raise Unsettled("nobody leads")

    def host(self, end: str) -> LabHost:
        return self.hosts[self.source if end == "source" else self.target]

    def qemu_pids(self, end: str) -> list[int]:
        """Of the domain that migrates, on the host of this end."""
        found = []
        for pid in self.host(end).qemu_pids():
            with contextlib.suppress(OSError):
                if f"guest={NAME},".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def daemon_pid(self, end: str) -> int:
        return int((self.host(end).directory / "libvirtd.pid").read_text().split()[0])

    # --- one migration

    def set_off(self, name: str) -> None:
        """Ask for a Migration of that name; returns when the API has taken it."""
        api = self.serving().api()
        self.source = api.get(f"{DOMAINS}/{NAME}")["status"]["node"]
        self.target = next(node for node in self.hosts if node != self.source)
        self.hosts[self.source].virsh("migrate-setspeed", NAME, str(SPEED))
        self.migration = name
        body = {"domain": NAME, "node": self.target}
        api.create(MIGRATIONS, _object("Migration", name, body))

    def abort(self) -> None:
        path = f"{MIGRATIONS}/{self.migration}"
        self.serving().api().merge(path, {"spec": {"abort": True}})

    def shown(self) -> Object:
        return dict(self.serving().api().get(f"{MIGRATIONS}/{self.migration}"))

    def until_copying(self, timeout_s: float = 20) -> None:
        """Its target is there."""
        self._until_seen(self.target, lambda _state: True, timeout_s)

    def until_switching(self, timeout_s: float = 20) -> bool:
        """The source stands still for the switch-over: true. Or it is past already."""
        return self._until_seen(self.source, lambda state: state == libvirt.VIR_DOMAIN_PAUSED, timeout_s)

    def _until_seen(self, node: str, is_it: Any, timeout_s: float) -> bool:
        raw = libvirt.open(self.hosts[node].uri)
        came_late = time.monotonic() + timeout_s
        try:
            while time.monotonic() < came_late:
                try:
                    state = raw.lookupByName(NAME).state()[0]
                except libvirt.libvirtError:
                    if node == self.source:  # gone: it has arrived
                        return False
                else:
                    if is_it(state):
                        return True
                time.sleep(0.0005)  # a switch-over lasts a fifth of a second
            return False
        finally:
            raw.close()

    # --- what came of it

    def settle(self) -> float:
        """Seconds until the Migration ended, the domains are Ready, and each runs once, with a definition,
        where domctl says that it does. Raises Unsettled."""
        began = time.monotonic()
        wrong = "?"
        while wrong:
            if time.monotonic() - began > SETTLE_S:
                raise Unsettled(f"after {SETTLE_S:.0f} s: {wrong}")
            try:
                wrong = self._wrong()
            except (OSError, ApiError, CommandError, libvirt.libvirtError) as error:
                wrong = str(error)
            if wrong:
                time.sleep(0.25)
        return time.monotonic() - began

    def _wrong(self) -> str:
        phase = self.phase()
        if phase not in ENDED:
            return f"the Migration is {phase}: {json.dumps(self.shown().get('status'))[:600]}"
        for name in (NAME, STAYS):
            shown = self.cluster().domain(name)
            if not is_ready(shown):
                return f"{name} is not Ready: {json.dumps(shown['status'].get('conditions'))[:600]}"
            found = self.cluster().copies(name)
            host = self.hosts[shown["status"]["node"]]
            if len(found) != 1:
                return f"{name} is on more or fewer than one host: {found}"
            if (found[0].host, found[0].state, found[0].is_persistent) != (host, "running", True):
                return f"{name} is not as it should be on {host.name}: {found}"
        return ""

    def phase(self) -> str:
        return str(self.shown().get("status", {}).get("phase", "Pending"))

    def said(self) -> str:
        """Of its end by the Migration itself, if there is more to say than that it succeeded."""
        status = self.shown().get("status", {})
        if (status.get("phase"), status.get("attempts")) == ("Succeeded", 1):
            return ""
        told = [c["message"] for c in status.get("conditions", ()) if c["type"] == "Ready"]
        return f"{status.get('reason')} after {status.get('attempts', 0)}: {'; '.join(told)}"

    def place(self) -> str:
        node = self.cluster().domain(NAME)["status"]["node"]
        return {self.source: "source", self.target: "target"}.get(node, "elsewhere")

    def boots(self, name: str = NAME) -> int:
        """How often its guest began to count."""
        files = (directory / name for directory in self.ticks.values())
        return sum(file.read_bytes().count(b"TICK 0\n") for file in files if file.exists())

    def copy_of(self, name: str) -> Copy:
        return self.cluster().the_copy(name)

    def bugs(self) -> str:
        """What a controller's log says of a bug of its own."""
        for controller in self.controllers:
            found = _BUG.search(controller.log.read_bytes()) if controller.log.exists() else None
            if found is not None:
                return f"{controller.log} has {found.group().decode()}"
        return ""

    def ticking(self) -> bool:
        """It still counts, where it should."""
        host = self.hosts[self.cluster().domain(NAME)["status"]["node"]]
        file = self.ticks[host.name] / NAME
        size = file.stat().st_size if file.exists() else 0
        return until(lambda: file.exists() and file.stat().st_size > size, 5, f"{file} does not grow")


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": "domctl.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
