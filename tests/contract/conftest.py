"""Worlds that keep the Hypervisor port's contract: QEMU and LXC on lab hosts, the last of them by every
transport, libvirt's test driver, and the simulated hypervisor; and a session in each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from drivers.hypervisor import Hypervisor, Session, Target
from tests.contract.hypervisors import LXC, QEMU, Heard
from tests.contract.worlds import LibvirtWorld, SimWorld, World
from tests.doors import Doors
from tests.labhost import Lab


@pytest.fixture(scope="module")
def qemu(lab: Lab) -> Iterator[World]:
    lab.reset()
    world = LibvirtWorld("qemu", lab.hosts[0].uri)
    yield world
    world.clear()
    world.close()


@pytest.fixture(scope="module")
def lxc(lab: Lab) -> Iterator[World]:
    world = LibvirtWorld("lxc", lab.hosts[1].uri.replace("qemu+", "lxc+"))
    yield world
    world.clear()
    world.close()


def _through(doors: Doors, transport: str) -> Iterator[World]:
    target = Target("node-1", doors.uri(transport), credentials=doors.credentials(transport))
    world = LibvirtWorld("qemu", doors.host.uri, target, doors.access)
    yield world
    world.clear()
    world.close()


@pytest.fixture(scope="module")
def tls(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "tls")


@pytest.fixture(scope="module")
def sasl(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "tcp")


@pytest.fixture(scope="module")
def ssh(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "ssh")


@pytest.fixture(scope="module")
def unix(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "unix")


@pytest.fixture(scope="module")
def ext(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "ext")


@pytest.fixture(scope="module")
def mock() -> Iterator[World]:
    """libvirt's test driver: a world inside this process, as long as a connection to it is open."""
    world = LibvirtWorld("test", "test:///default")
    yield world
    world.close()


@pytest.fixture
def sim() -> World:
    return SimWorld()


@pytest.fixture(params=[QEMU, LXC, "mock", "sim"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World = request.getfixturevalue(request.param)
    made.clear()
    yield made
    made.clear()


@pytest.fixture
async def hypervisor(world: World) -> AsyncIterator[Hypervisor]:
    made = world.hypervisor()
    yield made
    await made.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def session(world: World, hypervisor: Hypervisor, heard: Heard) -> Session:
    return await hypervisor.open(world.target, heard.sink)
