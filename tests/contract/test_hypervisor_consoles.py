"""The Hypervisor port's contract: consoles of running domains.

Here a guest is one that says back what is typed: a boot sector on QEMU, a shell in a container, and what the
simulated host does by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from drivers.errors import DomainBusy, HypervisorError, NoDomain, Unsupported, WrongState
from drivers.hypervisor import Console, ConsoleEnded, ConsoleOutput, Hypervisor, Session
from tests.contract.hypervisors import LXC, QEMU, Heard, done, permit
from tests.contract.worlds import UUID, SimWorld, World, domain_xml
from tests.labhost import SHARED_VIEW

with_consoles = pytest.mark.parametrize("world", [QEMU, LXC, "sim"], indirect=True)

WORD = b"hello\n"


class Screen:
    """What came, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.ended: list[str] = []

    def sink(self, event: ConsoleOutput | ConsoleEnded) -> None:
        if isinstance(event, ConsoleOutput):
            self.data += event.data
        else:
            self.ended.append(event.why)

    async def until(self, happened: str, within_s: float = 15) -> None:
        """`happened`: "ended", or what is to be read."""
        ends_at = time.monotonic() + within_s
        while not (self.ended if happened == "ended" else happened.encode() in self.data):
            assert time.monotonic() < ends_at, f"not within {within_s} s: {self.data!r} {self.ended}"
            await asyncio.sleep(0.01)


@pytest.fixture
def echoes(world: World) -> str:
    return devices(world, "echo.img")


def devices(world: World, image: str) -> str:
    """Of a domain that boots one of the lab's guests; `echo.img` says back what is typed."""
    serial = "<serial type='pty'><alias name='ua-main'/></serial>"
    if isinstance(world, SimWorld):
        return f"<devices>{serial}</devices>"
    return (
        f"<devices><disk type='file'><driver name='qemu' type='raw'/><source file='{SHARED_VIEW}/{image}'/>"
        f"<target dev='vda' bus='virtio'/><readonly/><shareable/></disk>{serial}</devices>"
    )


@pytest.fixture
async def running(session: Session, world: World, echoes: str) -> Session:
    more = "" if world.driver == "lxc" else echoes
    xml = domain_xml(world, more=more)
    if world.driver == "lxc":
        xml = xml.replace("trap 'exit 0' TERM; sleep 1000 &amp; wait", "trap 'exit 0' TERM; cat")
    done(await session.define(xml, permit()))
    done(await session.create(UUID, permit()))
    return session


def name(world: World) -> str:
    return "" if world.driver == "lxc" else "ua-main"


async def opened(session: Session, world: World, screen: Screen) -> Console:
    """Waits for a reader before us to have gone."""
    for _ in range(100):
        with contextlib.suppress(DomainBusy):
            return await session.console(UUID, name(world), screen.sink)
        await asyncio.sleep(0.05)
    raise AssertionError("somebody keeps it")


@with_consoles
async def test_what_is_typed_reaches_the_guest_and_what_it_writes_is_read(
    running: Session, world: World
) -> None:
    screen = Screen()
    console = await opened(running, world, screen)
    await console.send(WORD)
    await screen.until("hello")
    assert screen.ended == []


@with_consoles
async def test_a_console_ends_with_its_domain_and_says_so_once(running: Session, world: World) -> None:
    screen = Screen()
    console = await opened(running, world, screen)
    done(await running.destroy(UUID, permit()))
    await screen.until("ended")
    await asyncio.sleep(0.1)
    assert len(screen.ended) == 1
    with pytest.raises(WrongState):
        await console.send(WORD)


@with_consoles
async def test_after_it_was_closed_nothing_is_told_and_another_may_open_it(
    running: Session, world: World
) -> None:
    first, second = Screen(), Screen()
    await (await opened(running, world, first)).close()
    again = await opened(running, world, second)
    await again.send(WORD)
    await second.until("hello")
    assert (first.data, first.ended) == (b"", [])


@with_consoles
async def test_a_console_ends_with_its_session(running: Session, world: World) -> None:
    screen = Screen()
    await opened(running, world, screen)
    await running.close()
    await screen.until("ended")


@with_consoles
async def test_of_a_domain_that_does_not_run_or_is_not_there_none_is_opened(
    session: Session, world: World, echoes: str
) -> None:
    with pytest.raises(NoDomain):
        await session.console(UUID, "", Screen().sink)
    done(await session.define(domain_xml(world, more="" if world.driver == "lxc" else echoes), permit()))
    with pytest.raises(WrongState):
        await session.console(UUID, name(world), Screen().sink)


@with_consoles
async def test_what_is_typed_and_read_leaves_the_sessions_calls_alone(running: Session, world: World) -> None:
    """Also where more is typed than any guest reads."""
    screen = Screen()
    console = await opened(running, world, screen)

    async def type_on() -> None:
        with contextlib.suppress(HypervisorError):
            for _ in range(64):
                await console.send(b"x" * 4096)

    typing = asyncio.create_task(type_on())
    for _ in range(20):
        await running.list()
        await asyncio.sleep(0.02)
    assert running.is_open
    typing.cancel()
    await asyncio.gather(typing, return_exceptions=True)


@pytest.mark.parametrize("world", [QEMU, LXC], indirect=True)
async def test_a_flood_grows_no_memory_and_holds_up_no_call(session: Session, world: World) -> None:
    container = domain_xml(world).replace("sleep 1000 &amp; wait", "yes all work and no play")
    xml = container if world.driver == "lxc" else domain_xml(world, more=devices(world, "flood.img"))
    done(await session.define(xml, permit()))
    done(await session.create(UUID, permit()))
    came = 0

    def sink(event: ConsoleOutput | ConsoleEnded) -> None:
        nonlocal came
        came += len(event.data) + event.lost if isinstance(event, ConsoleOutput) else 0

    await session.console(UUID, name(world), sink)
    before_mib, ends_at, worst_s = memory_mib(), time.monotonic() + 4, 0.0
    while time.monotonic() < ends_at:
        began_at = time.monotonic()
        await session.list()
        worst_s = max(worst_s, time.monotonic() - began_at)
        await asyncio.sleep(0.05)
    print(f"{world.driver}: {came / 4e6:.2f} MB/s, slowest list {worst_s * 1000:.0f} ms")
    assert came > 1000, "it flooded"
    assert memory_mib() - before_mib < 64
    assert worst_s < 3


def memory_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / (1 << 20)


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_a_console_has_one_reader(running: Session, world: World, hypervisor: Hypervisor) -> None:
    screen, other = Screen(), await hypervisor.open(world.target, Heard().sink)
    await opened(running, world, screen)
    for session in (running, other):
        with pytest.raises(DomainBusy):
            await session.console(UUID, name(world), Screen().sink)
    assert screen.ended == []


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_a_console_that_the_domain_has_not_is_refused(running: Session, world: World) -> None:
    with pytest.raises(HypervisorError) as raised:
        await running.console(UUID, "ua-none", Screen().sink)
    assert "ua-none" in raised.value.message


@pytest.mark.parametrize("world", ["mock"], indirect=True)
async def test_a_driver_without_consoles_says_so(session: Session, world: World) -> None:
    assert not session.capabilities.consoles
    with pytest.raises(Unsupported):
        await session.console(UUID, "", Screen().sink)
