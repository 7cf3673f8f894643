"""Lab hosts as tests handle them: real libvirt hosts, and the misfortunes one can bring over them.

A thin face over `./deploy/lab`, which see for what each act means; all acts return when their effect is
complete. `Lab.reset()` makes every host whole and empty again, whatever a test did. Nothing here knows
the controller: tests use it to ask the hosts themselves.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAB = Path(__file__).resolve().parent.parent / "deploy" / "lab"
SHARED_VIEW = "/run/lab-shared"  # one directory, seen by all hosts of a lab
SERIAL_VIEW = "/var/log/libvirt/serial"  # for files on serial ports; each host's own
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

    @property
    def local_uri(self) -> str:
        """By its socket, which asks no questions and is there also when its link is cut. As the host's init
        sees it: a socket's path must be short, whatever directory the lab is in. Until it is next booted."""
        init = (self.directory / "init.pid").read_text().split()[0]
        return f"qemu+unix:///system?socket=/proc/{init}/root/run/libvirt/libvirt-sock"

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
        return self._virsh(self.uri, *args)

    def _virsh(self, uri: str, *args: str) -> str:
        return _run(["virsh", "-q", "-k", "5", "-K", "3", "-c", uri, *args])

    def define(self, xml: str) -> None:
        file = self.directory / f"define-{threading.get_ident()}.xml"
        file.write_text(xml)
        try:
            self.virsh("define", str(file))
        finally:
            file.unlink()

    def pretend(self, name: str, reason: str) -> None:
        """A domain that is paused is from now on paused for this reason (`migration`, `post-copy`,
        `post-copy failed`), as libvirtd notes it and believes it when it starts again: for states that real
        accidents leave once in a hundred times."""
        self.kill_libvirtd()
        note = self.path(f"/run/libvirt/qemu/{name}.xml")
        said, count = re.subn(
            r"<domstatus state='paused' reason='[^']*'",
            f"<domstatus state='paused' reason='{reason}'",
            note.read_text(),
            count=1,
        )
        assert count == 1, f"{name} is not paused"
        note.write_text(said)
        self.restart_libvirtd()

    def ticks(self, name: str) -> int:
        """How many lines the guest of this name has written to SERIAL_VIEW since its QEMU started."""
        try:
            return self.path(f"{SERIAL_VIEW}/{name}").read_text(errors="replace").count("TICK ")
        except FileNotFoundError:
            return 0

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
        for uuid in self._virsh(self.local_uri, "list", "--all", "--uuid").split():
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
            self._virsh(self.local_uri, *args)
        except CommandError as error:
            if "failed to get domain" not in str(error) and "domain is not running" not in str(error):
                raise

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(LAB), verb, "--dir", str(self.base), "--name", self.lab_name]

    def _lab(self, verb: str, *args: str) -> None:
        _run([*self._command(verb), self.name, *args])


class Guest(enum.StrEnum):
    """Paths of test guests in every host's view, once `make_guests` was called."""

    TICK = f"{SHARED_VIEW}/tick.img"
    DEAF = f"{SHARED_VIEW}/deaf.img"  # ignores ACPI shutdown
    FULL = f"{SHARED_VIEW}/full.img"  # has 60 MiB to copy
    RESTLESS = f"{SHARED_VIEW}/restless.img"  # and changes all of them all the time
    KERNEL = f"{SHARED_VIEW}/vmlinuz"
    INITRAMFS = f"{SHARED_VIEW}/initramfs.gz"


def tick_xml(name: str, uuid: str, image: Guest = Guest.TICK) -> str:
    """A domain of 32 MiB (64 for a full one) that ticks into SERIAL_VIEW/NAME; shareable, so nothing stops a
    second copy."""
    mebibytes = 64 if image in {Guest.FULL, Guest.RESTLESS} else 32
    return f"""\
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>{mebibytes}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda' bus='virtio'/>
      <readonly/><shareable/>
    </disk>
    <serial type='file'><source path='{SERIAL_VIEW}/{name}'/></serial>
  </devices>
</domain>
"""


def linux_xml(name: str, uuid: str) -> str:
    """The small Linux, ticking into SERIAL_VIEW/NAME."""
    return f"""\
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>96</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{Guest.KERNEL}</kernel><initrd>{Guest.INITRAMFS}</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <devices><serial type='file'><source path='{SERIAL_VIEW}/{name}'/></serial></devices>
</domain>
"""


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

    def make_guests(self) -> None:
        """Lay the guests out in the shared directory; see `Guest` for their names."""
        _run([sys.executable, str(LAB), "guest", "--out", str(self.base / self.name / "shared")])

    def shared_disk(self, size_mib: int = 64) -> str:
        """A new block device, at this path on every host."""
        return _run([*self._command("disk"), "--size", str(size_mib)]).strip()

    def serial_directories(self) -> dict[str, Path]:
        """By host: where the files of SERIAL_VIEW stand, for the oracle."""
        return {host.name: host.path(SERIAL_VIEW) for host in self.hosts}

    def status(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(_run([*self._command("status"), "-o", "json"]))
        return shown

    def down(self) -> None:
        _run(self._command("down"))

    def _command(self, verb: str) -> list[str]:
        return [sys.executable, str(LAB), verb, "--dir", str(self.base), "--name", self.name]


def lab_up(base: Path, name: str, hosts: int = 3, *options: str) -> Lab:
    """Start a lab; it is the caller's to take down. Should this process be killed, it goes down by itself."""
    command = [sys.executable, str(LAB), "up", "--dir", str(base), "--name", name, "--hosts", str(hosts)]
    command += ["--owner", str(os.getpid()), *options]
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
