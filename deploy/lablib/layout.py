"""What a lab and a host are, and where each of their files stands.

A lab is a directory, BASE/NAME, with `lab.json` (what was planned: written before anything is made, so
that a crashed `up` can be cleaned up), the switch's process and one directory per host. Facts that change
(which process is a host's init, which its libvirtd) stand in files of their own, each replaced atomically;
whether they are alive is always asked of the kernel, never remembered.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

IS_ROOT = os.geteuid() == 0
_RUNTIME = os.environ.get("XDG_RUNTIME_DIR")
_OWN_BASE = Path(f"{_RUNTIME}/domctl-lab" if _RUNTIME else f"/tmp/domctl-lab-{os.geteuid()}")  # noqa: S108
DEFAULT_BASE = Path("/run/domctl-lab") if IS_ROOT else _OWN_BASE
TCP_PORT = 16509
SSH_PORT = 22

# What each host has for itself: path in the host's view, directory below the host's own.
# /run comes last: the lab itself may stand below it and is hidden from then on.
BINDS = (
    ("/etc/libvirt", "etc-libvirt"),
    ("/var/lib/libvirt", "lib"),
    ("/var/cache/libvirt", "cache"),
    ("/var/log/libvirt", "log"),
    ("/run", "run"),
)
# And a host with doors, before those.
DOOR_BINDS = (("/etc/pki", "etc-pki"),)
ROOT_HOME = "/var/lib/libvirt/root"  # of the root of a host with doors, which has keys of its own
SSHD_CONF = "/etc/libvirt/doors/sshd_config"
SHARED_VIEW = "/run/lab-shared"  # one directory that all hosts of a lab see at this path


class LabError(Exception):
    """Said to the user as it is; exit code 1."""


@dataclass(frozen=True)
class Host:
    name: str
    number: int  # from 1
    address: str  # as the mac, "" in a session-mode lab
    mac: str
    host_uuid: str
    uri: str
    directory: str

    @property
    def dir(self) -> Path:
        return Path(self.directory)

    @property
    def init_file(self) -> Path:
        return self.dir / "init.pid"

    @property
    def daemon_file(self) -> Path:
        return self.dir / "libvirtd.pid"

    @property
    def sshd_file(self) -> Path:
        return self.dir / "sshd.pid"

    @property
    def port(self) -> str:
        """The switch's end of the host's link."""
        return f"port{self.number}"


@dataclass(frozen=True)
class Lab:
    name: str
    directory: str
    third_octet: int  # of 10.231.x.0/24
    session: bool  # without root: no namespaces, no network of its own
    complete: bool  # false until `up` has seen every host answer
    hosts: tuple[Host, ...]
    transports: bool = False  # reached by tls, ssh and tcp with a password, see `transports`

    @property
    def dir(self) -> Path:
        return Path(self.directory)

    @property
    def link(self) -> str:
        """The machine's own interface into the lab; its existence claims the subnet."""
        return f"dlab{self.third_octet}"

    @property
    def gateway(self) -> str:
        return f"10.231.{self.third_octet}.1"

    @property
    def switch_file(self) -> Path:
        return self.dir / "switch.pid"

    @property
    def shared(self) -> Path:
        return self.dir / "shared"

    @property
    def clients(self) -> Path:
        """Of a lab with doors: keys, certificates and passwords that open them."""
        return self.dir / "clients"

    def cgroup(self, host: Host) -> str:
        """Its name in each hierarchy; the subnet is no other lab's, so neither is this."""
        return f"domctl-lab-{self.third_octet}.{host.number}"

    def host(self, name: str) -> Host:
        """By name or number; LookupError names those that exist."""
        for host in self.hosts:
            if name in (host.name, str(host.number)):
                return host
        raise LookupError(
            f"no host {name!r} in lab {self.name!r}; it has {', '.join(h.name for h in self.hosts)}"
        )


def save(lab: Lab) -> None:
    part = lab.dir / f"lab.json.{os.getpid()}"
    part.write_text(json.dumps(asdict(lab), indent=1))
    part.rename(lab.dir / "lab.json")


def load(directory: Path) -> Lab | None:
    """None if there is no lab, or none that got as far as a plan."""
    try:
        data = json.loads((directory / "lab.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    hosts = tuple(Host(**host) for host in data.pop("hosts"))
    return Lab(hosts=hosts, **data)


@contextmanager
def locked(directory: Path, create: bool) -> Iterator[None]:
    """One at a time in this directory. Whoever waited while it was removed and made anew waits again."""
    while True:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"{directory} is gone") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_same(fd, directory):
                yield
                return
        finally:
            os.close(fd)


def _is_same(fd: int, directory: Path) -> bool:
    try:
        there = directory.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
