"""Lab hosts as tests handle them: real libvirt hosts, and the misfortunes one can bring over them.

A thin face over `./deploy/lab`, which see for what each act means; all acts return when their effect is
complete. `Lab.reset()` makes every host whole and empty again, whatever a test did. Nothing here knows
the controller: tests use it to ask the hosts themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAB = Path(__file__).resolve().parent.parent / "deploy" / "lab"
SHARED_VIEW = "/run/lab-shared"
_VIEWS = {
    "/etc/libvirt": "etc-libvirt",
    "/var/lib/libvirt": "lib",
    "/var/cache/libvirt": "cache",
    "/var/log/libvirt": "log",
    "/run": "run",
}


class CommandError(Exception):
    """A command ended with a code other than 0; the message is what it said on stderr."""


@dataclass(frozen=True)
class LabHost:
    """One host; `name` is also its host name, which the hosts of a lab resolve."""

    name: str
    address: str
    uri: str
    host_uuid: str
    base: Path
    lab_name: str

    @property
    def directory(self) -> Path:
        return self.base / self.lab_name / "hosts" / self.name

    def kill_libvirtd(self) -> None:
        """SIGKILL; guests live on."""
        self._lab("kill")

    def restart_libvirtd(self) -> None:
        self._lab("restart")

    def freeze(self) -> None:
        """SIGSTOP to libvirtd."""
        self._lab("stop")

    def thaw(self) -> None:
        self._lab("cont")

    def cut(self, blackhole: bool = False) -> None:
        self._lab("cut", *(["--blackhole"] if blackhole else []))

    def heal(self) -> None:
        self._lab("heal")

    def poweroff(self) -> None:
        """Libvirtd and all guests end at once; files stay, but for /run."""
        self._lab("poweroff")

    def poweron(self) -> None:
        self._lab("poweron")

    def virsh(self, *args: str) -> str:
        """virsh's stdout; CommandError with its stderr."""
        return _run(["virsh", "-q", "-k", "5", "-K", "3", "-c", self.uri, *args])

    def run(self, *command: str) -> str:
        """Stdout of a command run inside the host."""
        return _run([*self._command("exec"), self.name, "--", *command])

    def qemu_pids(self) -> list[int]:
        """As this machine sees them, so that a test can signal them."""
        found = []
        for pid in self.status()["pids"]:
            try:
                name = Path(f"/proc/{pid}/comm").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name.startswith("qemu-system"):
                found.append(int(pid))
        return found

    def path(self, view: str) -> Path:
        """Where a file of the host's view stands on this machine."""
        if view == SHARED_VIEW or view.startswith(f"{SHARED_VIEW}/"):
            return self.base / self.lab_name / "shared" / view.removeprefix(SHARED_VIEW).lstrip("/")
        for prefix, own in _VIEWS.items():
            if view == prefix or view.startswith(f"{prefix}/"):
                return self.directory / own / view.removeprefix(prefix).lstrip("/")
        return Path(view)

    def status(self) -> dict[str, Any]:
        """The host's entry in `lab status -o json`."""
        shown = json.loads(_run([*self._command("status"), "-o", "json"]))
        return next(host for host in shown["hosts"] if host["name"] == self.name)

    def clear(self) -> None:
        """End and undefine every domain of the host, ours or not."""
        for uuid in self.virsh("list", "--all", "--uuid").split():
            self._unless_gone("destroy", uuid)
            self._unless_gone("undefine", uuid, "--managed-save", "--snapshots-metadata", "--nvram")

    def reset(self, state: dict[str, Any]) -> None:
        """On, linked, answering and without domains; `state` is the host's status now."""
        if not state["power"]:
            self.poweron()
            state = self.status()
        if state["libvirtd"] == "stopped":
            self.thaw()
        if not state["link"]:
            self.heal()
        if state["libvirtd"] == "dead":
            self.restart_libvirtd()
        for pid in state["pids"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.clear()

    def _unless_gone(self, *args: str) -> None:
        try:
            self.virsh(*args)
        except CommandError as error:
            if "failed to get domain" not in str(error) and "domain is not running" not in str(error):
                raise

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(LAB), verb, "--dir", str(self.base), "--name", self.lab_name]

    def _lab(self, verb: str, *args: str) -> None:
        _run([*self._command(verb), self.name, *args])


@dataclass(frozen=True)
class Lab:
    name: str
    base: Path
    hosts: tuple[LabHost, ...]

    def reset(self) -> None:
        """Every host on, linked, answering and without domains."""
        shown = {host["name"]: host for host in self.status()["hosts"]}
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(host.reset, shown[host.name]) for host in self.hosts]:
                done.result()

    def status(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(_run([*self._command("status"), "-o", "json"]))
        return shown

    def down(self) -> None:
        _run(self._command("down"))

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(LAB), verb, "--dir", str(self.base), "--name", self.name]


def lab_up(base: Path, name: str, hosts: int = 3) -> Lab:
    """Start a lab; it is the caller's to take down."""
    command = [sys.executable, str(LAB), "up", "--dir", str(base), "--name", name, "--hosts", str(hosts)]
    shown = json.loads(_run([*command, "-o", "json"]))
    made = tuple(
        LabHost(h["name"], h["address"], h["uri"], h["host_uuid"], base, name) for h in shown["hosts"]
    )
    return Lab(name, base, made)


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=110, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
