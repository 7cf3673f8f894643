"""Hosts under test: how the port reaches them, and a way round the port.

`LibvirtWorld` is a real libvirt driver, asked over a connection of its own. `SimWorld` is a simulated host,
whose truth is at hand; it runs on the real clock, with latencies so small that nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import libvirt

from drivers.hypervisor import Hypervisor, State, Target
from drivers.libvirt import Access, LibvirtHypervisor
from tests.sim.domain import SimDomain
from tests.sim.host import SimHost, Temper
from tests.sim.hypervisor import SimHypervisor
from tests.sim.network import Network, Pace

UUID = "11111111-1111-4111-8111-111111111111"
MEMORY_BYTES = 32 * 1024 * 1024
_DOMAIN_OS = "<os><type>hvm</type></os>"
# It ends at a SIGTERM: to one that does not, libvirt sends SIGKILL after 1.6 s.
_CONTAINER_OS = (
    "<os><type>exe</type><init>/bin/sh</init>"
    "<initarg>-c</initarg><initarg>trap 'exit 0' TERM; sleep 1000 &amp; wait</initarg></os>"
    "<devices><console type='pty'/></devices>"
)


@dataclass(frozen=True)
class Claims:
    """What a host says of itself to those who do not ask through the port. `encrypted`: by libvirt itself."""

    uri: str
    hostname: str
    cpus: int
    encrypted: bool = False


class World(Protocol):
    """`residents`: domains that are there from the beginning. `start_s`: how long a start takes, about."""

    @property
    def driver(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def target(self) -> Target:
        """What the port is told to open."""
        ...

    @property
    def residents(self) -> frozenset[str]: ...
    @property
    def start_s(self) -> float: ...

    def hypervisor(self) -> Hypervisor: ...
    def claims(self) -> Claims: ...
    def define(self, xml: str) -> None: ...
    def undefine(self) -> None: ...
    def suspend(self) -> None: ...
    def set_autostart(self) -> None: ...
    def managed_save(self) -> None: ...
    def has_saved_image(self) -> bool: ...
    def add_snapshot(self) -> None: ...
    def name(self) -> str: ...
    def is_running(self) -> bool: ...
    def exists(self, uuid: str = UUID) -> bool: ...
    async def storm(self, xml: str, times: int) -> None:
        """Define and undefine, again and again."""
        ...

    def clear(self) -> None: ...


def domain_xml(  # noqa: PLR0917 - what the tests vary
    world: World,
    uuid: str = UUID,
    name: str = "one",
    metadata: str = "",
    more: str = "",
    vcpus: int = 1,
) -> str:
    return (
        f"<domain type='{world.driver}'><name>{name}</name><uuid>{uuid}</uuid>"
        f"<metadata>{metadata}</metadata><memory unit='KiB'>{MEMORY_BYTES // 1024}</memory>"
        f"<vcpu>{vcpus}</vcpu>{_CONTAINER_OS if world.driver == 'lxc' else _DOMAIN_OS}{more}</domain>"
    )


class LibvirtWorld:
    """`target`: how the port reaches the same host, where that is another way than ours; `access` what it may
    use for it."""

    def __init__(
        self, driver: str, uri: str, target: Target | None = None, access: Access | None = None
    ) -> None:
        self.driver = driver
        self.target = target or Target("node-1", uri)
        self.uri = self.target.uri
        self._access = access
        self.start_s = {"qemu": 0.25, "lxc": 0.05, "test": 0.0005}[driver]
        self.raw = libvirt.open(uri)
        self._canonical = self.raw.getURI() if target is None else self.uri
        self.residents = frozenset(domain.UUIDString() for domain in self.raw.listAllDomains(0))

    def hypervisor(self) -> Hypervisor:
        return LibvirtHypervisor(access=self._access)

    def claims(self) -> Claims:
        encrypted = "+tls:" in self.uri or self.target.credentials.auth_file != ""
        return Claims(self._canonical, self.raw.getHostname(), self.raw.getInfo()[2], encrypted)

    def _domain(self) -> Any:
        return self.raw.lookupByUUIDString(UUID)

    def define(self, xml: str) -> None:
        self.raw.defineXML(xml)

    def undefine(self) -> None:
        self._domain().undefine()

    def suspend(self) -> None:
        self._domain().suspend()

    def set_autostart(self) -> None:
        self._domain().setAutostart(1)

    def managed_save(self) -> None:
        self._domain().managedSave(0)

    def has_saved_image(self) -> bool:
        return bool(self._domain().hasManagedSaveImage())

    def add_snapshot(self) -> None:
        """One whose state is nowhere: the tiny domains have no disk to hold it."""
        xml = (
            "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>1</creationTime>"
            f"{self._domain().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)}</domainsnapshot>"
        )
        self._domain().snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)

    def name(self) -> str:
        return str(self._domain().name())

    def is_running(self) -> bool:
        return bool(self._domain().isActive())

    def exists(self, uuid: str = UUID) -> bool:
        return uuid in {domain.UUIDString() for domain in self.raw.listAllDomains(0)}

    async def storm(self, xml: str, times: int) -> None:
        def blow() -> None:
            for _ in range(times):
                self.define(xml)
                self.undefine()

        await asyncio.to_thread(blow)

    def clear(self) -> None:
        for domain in self.raw.listAllDomains(0):
            if domain.UUIDString() in self.residents:
                continue
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            if self.exists(domain.UUIDString()):
                flags = libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                flags |= libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                domain.undefineFlags(0 if self.driver == "lxc" else flags)

    def close(self) -> None:
        self.raw.close()


class SimWorld:
    """One simulated host that loses no event: that is tried elsewhere."""

    driver = "qemu"
    uri = "qemu+tcp://h1/system"
    target = Target("node-1", uri)
    residents: frozenset[str] = frozenset()
    start_s = 0.01

    def __init__(self) -> None:
        pace = Pace(fastest_s=0.00001, slowest_s=0.0001, tail_s=0.002)
        temper = Temper(pace=0.01, event_loss=0.0, event_late=0.0, torn_list_s=(0.0001, 0.001))
        self._network = Network(Random("network"), time.monotonic, pace)
        self._host = SimHost("h1", self._network, time.monotonic, Random("host"), temper=temper)

    def hypervisor(self) -> Hypervisor:
        hosts = {"h1": self._host}
        return SimHypervisor("c1", hosts, self._network, time.monotonic, Random("c1"), lambda _sent: None)

    def claims(self) -> Claims:
        return Claims(self.uri, "h1", 16)

    def _domain(self) -> SimDomain:
        return self._host.domains[UUID]

    def define(self, xml: str) -> None:
        self._host.operations.put(xml, "virsh")

    def undefine(self) -> None:
        self._host.operations.take_away(self._domain(), "virsh")

    def suspend(self) -> None:
        self._domain().become(State.PAUSED, "user")

    def set_autostart(self) -> None:
        self._domain().autostart = True

    def managed_save(self) -> None:
        domain = self._domain()
        domain.saved = domain.config
        self._host.end(domain, "saved", "saved", "virsh")

    def has_saved_image(self) -> bool:
        return self._domain().saved is not None

    def add_snapshot(self) -> None:
        self._domain().snapshots += 1

    def name(self) -> str:
        return self._domain().name

    def is_running(self) -> bool:
        return self._host.active(UUID)

    def exists(self, uuid: str = UUID) -> bool:
        return uuid in self._host.domains

    async def storm(self, xml: str, times: int) -> None:
        for _ in range(times):
            self.define(xml)
            self.undefine()

    def clear(self) -> None:
        """Every test has a host of its own."""
