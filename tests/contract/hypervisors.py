"""What the tests of the Hypervisor port share: what a session reported, and which worlds a test is run in.

`through_every_door` is for what the way to a host could change; everything else is tried by one way. What is
said of threads and descriptors of this process is asked of the real drivers alone (`real`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from drivers.errors import HypervisorError
from drivers.hypervisor import (
    EventKind,
    HostEvent,
    Mark,
    Outcome,
    Permit,
    Record,
    Result,
    Session,
    SessionClosed,
    StopMethod,
)
from tests.contract.worlds import UUID, World, domain_xml

OTHER = "22222222-2222-4222-8222-222222222222"
MARK = Mark("c1", UUID, 3, "sha256:ab")
QEMU, LXC = (pytest.param(driver, marks=pytest.mark.lab) for driver in ("qemu", "lxc"))
TRANSPORTS = [pytest.param(name, marks=pytest.mark.lab) for name in ("tls", "sasl", "ssh", "ext", "unix")]
through_every_door = pytest.mark.parametrize("world", [QEMU, LXC, "mock", "sim", *TRANSPORTS], indirect=True)
can_save = pytest.mark.parametrize("world", [QEMU, "mock", "sim"], indirect=True)
real = pytest.mark.parametrize("world", [QEMU, LXC, "mock"], indirect=True)
long_where_real = pytest.mark.parametrize(
    "world",
    [
        *(pytest.param(name, marks=[pytest.mark.lab, pytest.mark.long]) for name in ("qemu", "lxc")),
        pytest.param("mock", marks=pytest.mark.long),
        "sim",
    ],
    indirect=True,
)


@dataclass
class Heard:
    """What a session reported, in order."""

    all: list[HostEvent | SessionClosed] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def sink(self, _session: Session, events: tuple[HostEvent | SessionClosed, ...]) -> None:
        self.all.extend(events)
        self.threads.add(threading.get_ident())

    def of(self, uuid: str) -> list[tuple[EventKind, str]]:
        return [(e.kind, e.detail) for e in self.all if isinstance(e, HostEvent) and e.uuid == uuid]

    def closings(self) -> list[SessionClosed]:
        return [event for event in self.all if isinstance(event, SessionClosed)]

    async def until(self, happened: Callable[[], bool], within_s: float = 5) -> None:
        ends_at = time.monotonic() + within_s
        while not happened():
            assert time.monotonic() < ends_at, f"not within {within_s} s; heard {self.all}"
            await asyncio.sleep(0.005)


def permit(seconds: float = 60) -> Permit:
    return Permit(time.monotonic() + seconds)


def done(result: Result) -> None:
    assert result == Result(Outcome.DONE)


def failed(
    result: Result, error: type[HypervisorError], outcome: Outcome = Outcome.FAILED
) -> HypervisorError:
    assert (result.outcome, type(result.error)) == (outcome, error), result
    assert result.error is not None
    assert result.error.message
    return result.error


async def records(session: Session) -> dict[str, Record]:
    return {record.uuid: record for record in (await session.list()).records}


async def started(session: Session, world: World, metadata: str = "") -> None:
    done(await session.define(domain_xml(world, metadata=metadata), permit()))
    done(await session.create(UUID, permit()))


Mutation = Callable[[Session, World, Permit], Awaitable[Result]]
ON_ONE: dict[str, Mutation] = {
    "create": lambda session, world, leave: session.create(UUID, leave),
    "destroy": lambda session, world, leave: session.destroy(UUID, leave),
    "shutdown": lambda session, world, leave: session.shutdown(UUID, StopMethod.ACPI, leave),
    "undefine": lambda session, world, leave: session.undefine(UUID, leave),
    "set_mark": lambda session, world, leave: session.set_mark(
        UUID, MARK, live=False, config=True, permit=leave
    ),
    "set_autostart": lambda session, world, leave: session.set_autostart(UUID, False, leave),
}
