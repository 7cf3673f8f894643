"""Two hosts between which domains migrate, and ways round the port: real ones, and simulated ones.

`Side` is one of the two as its own administrator sees it. Guests have something to copy, so that a migration
can be made to last (`Pair.slow`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import libvirt

from drivers.hypervisor import Hypervisor, State
from drivers.libvirt import Deadlines, LibvirtHypervisor
from drivers.libvirt.records import state_of
from tests.contract.worlds import UUID
from tests.labhost import Guest, Lab, LabHost, tick_xml
from tests.sim import definition
from tests.sim.host import SimHost, Temper
from tests.sim.hypervisor import SimHypervisor
from tests.sim.network import Network, Pace

IMAGES = "/var/lib/libvirt/images"  # each host's own storage
SPEED = 30  # MiB/s of a slow migration
SLOW_S = 2.0  # how long one of 60 MiB takes then
Stands = tuple[State, str] | None


class Side(Protocol):
    @property
    def uri(self) -> str: ...

    def define(self, xml: str) -> None: ...
    async def start(self, uuid: str = UUID) -> None: ...
    def suspend(self) -> None: ...
    def add_snapshot(self) -> None: ...
    def shown(self, uuid: str = UUID) -> str:
        """Its definition, or that of a transient domain, as it may be defined again."""
        ...

    def stands(self, uuid: str = UUID) -> Stands: ...
    def is_persistent(self, uuid: str = UUID) -> bool: ...
    def config_memory_mib(self) -> int: ...
    def stop_guest(self) -> None:
        """Its QEMU answers nobody, until `let_guest_go_on`."""
        ...

    def let_guest_go_on(self) -> None: ...


class Pair(Protocol):
    @property
    def source(self) -> Side: ...
    @property
    def target(self) -> Side: ...

    def hypervisor(self, deadlines: Deadlines | None = None) -> Hypervisor: ...
    def xml(self, uuid: str = UUID, name: str = "one", disk: str = "") -> str:
        """`disk`: the file name of one more disk, on the host's own storage."""
        ...

    def make_disk(self, file: str) -> None:
        """At the source."""
        ...

    def same_disks(self, file: str) -> bool:
        """The target has what the source has."""
        ...

    async def slow(self) -> None:
        """Migrations of the domain that runs at the source take SLOW_S or more."""
        ...


def _disk(file: str) -> str:
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        f"<source file='{IMAGES}/{file}'/><target dev='vdb' bus='virtio'/></disk>"
    )


class LibvirtSide:
    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.uri = host.uri
        self.raw = libvirt.open(host.uri)

    def _domain(self, uuid: str = UUID) -> Any:
        return self.raw.lookupByUUIDString(uuid)

    def define(self, xml: str) -> None:
        self.raw.defineXML(xml)

    async def start(self, uuid: str = UUID) -> None:
        await asyncio.to_thread(self._domain(uuid).create)

    def suspend(self) -> None:
        self._domain().suspend()

    def add_snapshot(self) -> None:
        xml = (
            "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>1</creationTime>"
            f"{self._domain().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}</domainsnapshot>"
        )
        self._domain().snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)

    def shown(self, uuid: str = UUID) -> str:
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE
        return str(self._domain(uuid).XMLDesc(flags))

    def stands(self, uuid: str = UUID) -> Stands:
        try:
            return state_of(*self._domain(uuid).state())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return None

    def is_persistent(self, uuid: str = UUID) -> bool:
        return bool(self._domain(uuid).isPersistent())

    def config_memory_mib(self) -> int:
        return definition.known(self.shown()).memory_bytes >> 20

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.host.qemu_pids():
            os.kill(pid, number)

    def stop_guest(self) -> None:
        self._signal(signal.SIGSTOP)

    def let_guest_go_on(self) -> None:
        self._signal(signal.SIGCONT)


class LibvirtPair:
    def __init__(self, lab: Lab) -> None:
        self.source, self.target = LibvirtSide(lab.hosts[0]), LibvirtSide(lab.hosts[1])
        for side in (self.source, self.target):
            side.host.path(IMAGES).mkdir(parents=True, exist_ok=True)

    def hypervisor(self, deadlines: Deadlines | None = None) -> Hypervisor:
        return LibvirtHypervisor(deadlines=deadlines)

    def xml(self, uuid: str = UUID, name: str = "one", disk: str = "") -> str:
        xml = tick_xml(name, uuid, Guest.FULL)
        return xml.replace("<serial", f"{_disk(disk)}<serial", 1) if disk else xml

    def make_disk(self, file: str) -> None:
        self.source.host.path(f"{IMAGES}/{file}").write_bytes(os.urandom(1 << 16) * 32)

    def same_disks(self, file: str) -> bool:
        one, other = (side.host.path(f"{IMAGES}/{file}") for side in (self.source, self.target))
        return other.exists() and one.read_bytes() == other.read_bytes()

    async def slow(self) -> None:
        domain = self.source.raw.lookupByUUIDString(UUID)
        domain.migrateSetMaxSpeed(SPEED, 0)
        await until(lambda: self.source.host.ticks(domain.name()) > 2)  # its memory is full

    def clear(self) -> None:
        for side in (self.source, self.target):
            side.let_guest_go_on()
            for domain in side.raw.listAllDomains(0):
                with contextlib.suppress(libvirt.libvirtError):
                    domain.destroy()
                with contextlib.suppress(libvirt.libvirtError):  # a transient one is gone
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            for image in side.host.path(IMAGES).glob("*"):
                image.unlink()

    def close(self) -> None:
        for side in (self.source, self.target):
            side.raw.close()


class SimSide:
    def __init__(self, host: SimHost) -> None:
        self.host = host
        self.uri = f"qemu+tcp://{host.name}/system"

    def define(self, xml: str) -> None:
        self.host.operations.put(xml, "virsh")

    async def start(self, uuid: str = UUID) -> None:
        self.host.start(self.host.domains[uuid], "virsh")

    def suspend(self) -> None:
        self.host.domains[UUID].become(State.PAUSED, "user")

    def add_snapshot(self) -> None:
        self.host.domains[UUID].snapshots += 1

    def shown(self, uuid: str = UUID) -> str:
        domain = self.host.domains[uuid]
        shown = domain.config or domain.live
        assert shown is not None
        return definition.inactive(shown)

    def stands(self, uuid: str = UUID) -> Stands:
        domain = self.host.domains.get(uuid)
        return None if domain is None else (domain.record.state, domain.record.reason)

    def is_persistent(self, uuid: str = UUID) -> bool:
        return self.host.domains[uuid].config is not None

    def config_memory_mib(self) -> int:
        return definition.known(self.shown()).memory_bytes >> 20

    def stop_guest(self) -> None:
        self.host.stick_guest(UUID)

    def let_guest_go_on(self) -> None:
        self.host.unstick_guest(UUID)


class SimPair:
    """Two simulated hosts that lose no event, at a hundred times the pace."""

    def __init__(self) -> None:
        pace = Pace(fastest_s=0.00001, slowest_s=0.0001, tail_s=0.002)
        self._network = Network(Random("network"), time.monotonic, pace)
        self._hosts = {
            name: SimHost(name, self._network, time.monotonic, Random(name), temper=self._temper())
            for name in ("h1", "h2")
        }
        self.source, self.target = SimSide(self._hosts["h1"]), SimSide(self._hosts["h2"])

    def _temper(self) -> Temper:
        return Temper(
            pace=0.01, event_loss=0.0, event_late=0.0, torn_list_s=(0.0001, 0.001), stale_definition=0.0
        )

    def hypervisor(self, deadlines: Deadlines | None = None) -> Hypervisor:
        hosts, network = self._hosts, self._network
        made = SimHypervisor("c1", hosts, network, time.monotonic, Random("c1"), lambda _sent: None)
        made.deadlines = deadlines or made.deadlines
        return made

    def xml(self, uuid: str = UUID, name: str = "one", disk: str = "") -> str:
        devices = f"<devices>{_disk(disk)}</devices>" if disk else ""
        return definition.plain(uuid, name, mebibytes=64).replace("</domain>", f"{devices}</domain>")

    def make_disk(self, file: str) -> None:
        """Contents are not simulated."""

    def same_disks(self, file: str) -> bool:
        return True

    async def slow(self) -> None:
        self._hosts["h1"].temper.copy_s = (SLOW_S * 100, SLOW_S * 100)


async def until(happened: Callable[[], object], within_s: float = 10) -> None:
    ends_at = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < ends_at, f"not within {within_s} s"
        await asyncio.sleep(0.01)
