"""What a lab and a host are, and where each of their files stands.

A lab is a directory, BASE/NAME, with `lab.json` (what was planned: written before anything is made, so
that a crashed `up` can be cleaned up), the switch's process and one directory per host. Facts that change
(which process is a host's init, which its libvirtd) stand in files of their own, each replaced atomically;
whether they are alive is always asked of the kernel, never remembered.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_BASE = Path("/run/domctl-lab")
TCP_PORT = 16509

# What each host has for itself: path in the host's view, directory below the host's own.
# /run comes last: the lab itself may stand below it and is hidden from then on.
BINDS = (
    ("/etc/libvirt", "etc-libvirt"),
    ("/var/lib/libvirt", "lib"),
    ("/var/cache/libvirt", "cache"),
    ("/var/log/libvirt", "log"),
    ("/run", "run"),
)
SHARED_VIEW = "/run/lab-shared"  # one directory that all hosts of a lab see at this path


@dataclass(frozen=True)
class Host:
    name: str
    number: int  # from 1
    address: str
    mac: str
    host_uuid: str
    directory: str

    @property
    def dir(self) -> Path:
        return Path(self.directory)

    @property
    def uri(self) -> str:
        return f"qemu+tcp://{self.address}/system"

    @property
    def init_file(self) -> Path:
        return self.dir / "init.pid"

    @property
    def daemon_file(self) -> Path:
        return self.dir / "libvirtd.pid"

    @property
    def port(self) -> str:
        """The switch's end of the host's link."""
        return f"port{self.number}"


@dataclass(frozen=True)
class Lab:
    name: str
    directory: str
    third_octet: int  # of 10.231.x.0/24
    complete: bool  # false until `up` has seen every host answer
    hosts: tuple[Host, ...]

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
