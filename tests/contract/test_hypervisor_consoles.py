"""The Hypervisor port's contract: consoles of running domains.

Here a guest is one that says back what is typed: a boot sector on QEMU, a shell in a container, and what the
simulated host does by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
import weakref
from typing import cast

import pytest

from drivers.errors import DomainBusy, HypervisorError, NoDomain, Unsupported, WrongState
from drivers.hypervisor import Console, ConsoleEnded, ConsoleOutput, Hypervisor, Session
from drivers.libvirt import consoles
from drivers.libvirt.consoles import LibvirtConsole
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


async def typed(console: Console, screen: Screen, word: bytes) -> None:
    """Type until the guest says it back: one that is just booting loses what comes before it listens."""
    for _ in range(4):
        await console.send(word)
        with contextlib.suppress(AssertionError):
            await screen.until(word.decode().strip(), within_s=3)
            return
    await screen.until(word.decode().strip(), within_s=3)


@pytest.fixture
def echoes(world: World) -> str:
    return devices(world, "echo.img")


def devices(world: World, image: str, *more: str) -> str:
    """Of a domain that boots one of the lab's guests; `echo.img` says back what is typed. `more`: further
    serial ports."""
    serials = "".join(f"<serial type='pty'><alias name='{alias}'/></serial>" for alias in ("ua-main", *more))
    if isinstance(world, SimWorld):
        return f"<devices>{serials}</devices>"
    return (
        f"<devices><disk type='file'><driver name='qemu' type='raw'/><source file='{SHARED_VIEW}/{image}'/>"
        f"<target dev='vda' bus='virtio'/><readonly/><shareable/></disk>{serials}</devices>"
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
    await typed(console, screen, WORD)
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
async def test_the_next_run_of_a_domain_has_its_console_at_once(running: Session, world: World) -> None:
    """The terminal of the last one may still be taken, for the host is not told at once that we know."""
    for word in (b"first\n", b"second\n", b"third\n"):
        screen = Screen()
        began_at = time.monotonic()
        console = await opened(running, world, screen)
        assert time.monotonic() - began_at < 5
        await typed(console, screen, word)
        done(await running.destroy(UUID, permit()))
        await screen.until("ended")
        done(await running.create(UUID, permit()))


@with_consoles
async def test_after_it_was_closed_nothing_is_told_and_another_may_open_it(
    running: Session, world: World
) -> None:
    first, second = Screen(), Screen()
    await (await opened(running, world, first)).close()
    again = await opened(running, world, second)
    await typed(again, second, WORD)
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
async def test_several_consoles_of_a_domain_are_read_and_typed_on_apart(
    session: Session, world: World
) -> None:
    xml = domain_xml(world, more=devices(world, "echo.img", "ua-debug"))
    done(await session.define(xml, permit()))
    done(await session.create(UUID, permit()))
    main, debug = Screen(), Screen()
    opened_main = await session.console(UUID, "ua-main", main.sink)
    opened_debug = await session.console(UUID, "ua-debug", debug.sink)
    with pytest.raises(DomainBusy):  # without a name it is the first
        await session.console(UUID, "", Screen().sink)
    await typed_until_heard(opened_debug, debug, "to-debug")
    await typed_until_heard(opened_main, main, "to-main")
    assert b"to-main" not in debug.data and b"to-debug" not in main.data
    await opened_main.close()
    await typed_until_heard(opened_debug, debug, "again")
    done(await session.destroy(UUID, permit()))
    await debug.until("ended")


async def typed_until_heard(console: Console, screen: Screen, word: str) -> None:
    """A guest that boots yet hears nothing."""
    for _ in range(30):
        await console.send(f"{word}\n".encode())
        with contextlib.suppress(AssertionError):
            return await screen.until(word, 0.5)
    raise AssertionError(f"{word} does not come back: {screen.data!r}")


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_a_console_that_the_domain_has_not_is_refused(running: Session, world: World) -> None:
    with pytest.raises(HypervisorError) as raised:
        await running.console(UUID, "ua-none", Screen().sink)
    assert "ua-none" in raised.value.message


@pytest.mark.parametrize("world", [QEMU, LXC], indirect=True)
@pytest.mark.parametrize("end", ["closed", "domain", "session"])
async def test_of_a_console_that_has_ended_nothing_stays_behind(
    running: Session, world: World, hypervisor: Hypervisor, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its stream nor its connection: libvirt itself would keep both for ever."""
    monkeypatch.setattr(consoles, "AFTERMATH_S", 0.1)
    before, kept = open_sockets(), []
    for _ in range(3):
        session, screen = await hypervisor.open(world.target, Heard().sink), Screen()
        console = cast(LibvirtConsole, await opened(session, world, screen))
        await console.send(WORD)
        await screen.until("hello")
        kept += [weakref.ref(one) for one in (screen, console, console.stream, console.stream._raw)]
        if end == "closed":
            await console.close()
        elif end == "domain":
            done(await running.destroy(UUID, permit()))
            await screen.until("ended")
            done(await running.create(UUID, permit()))
        if end != "session":
            await asyncio.sleep(0.5)  # that it was let go of is not told
        await session.close()
        del session, screen, console
    ends_at = time.monotonic() + 15
    while (left := sum(one() is not None for one in kept)) or open_sockets() > before:
        assert time.monotonic() < ends_at, f"{left} of {len(kept)} objects, {open_sockets()} sockets"
        await asyncio.sleep(0.1)
        gc.collect()


def open_sockets() -> int:
    links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sum("socket:" in link for link in links)


@pytest.mark.parametrize("world", ["mock"], indirect=True)
async def test_a_driver_without_consoles_says_so(session: Session, world: World) -> None:
    assert not session.capabilities.consoles
    with pytest.raises(Unsupported):
        await session.console(UUID, "", Screen().sink)
