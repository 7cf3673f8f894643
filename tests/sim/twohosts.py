"""Two simulated hosts, a client, and what was heard, changed and sent: for tests that hold the simulated host
against what was measured of libvirt."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from drivers.errors import HypervisorError
from drivers.hypervisor import (
    EventKind,
    HostEvent,
    Mark,
    Outcome,
    Permit,
    Result,
    Session,
    SessionClosed,
    State,
    Target,
)
from specs import mark as marks
from tests import virtualtime
from tests.sim import definition
from tests.sim.domain import Change
from tests.sim.host import SimHost, Temper
from tests.sim.hypervisor import Sent, SimHypervisor
from tests.sim.network import Network
from tests.sim.virsh import Virsh

UUID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
MARK = Mark("c1", UUID, 3, "sha256:ab")
XML = definition.plain(UUID, "one", marks.element(MARK))
QUIET = Temper(event_loss=0.0, event_late=0.0, torn_list=0.0, deaf=0.0, stale_definition=0.0, left_paused=0.0)
HERE = (State.RUNNING, "booted")
THERE = (State.RUNNING, "migrated")
PAUSED = (State.PAUSED, "migration")
Ends = tuple[tuple[State, str] | None, tuple[State, str] | None]


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Lab:
    """Two hosts, a client, and what was heard, changed and sent; `when_sent` meddles as something leaves."""

    seed: object = 0
    temper: Temper = field(default_factory=lambda: replace(QUIET))
    heard: list[HostEvent | SessionClosed] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    when_sent: Callable[[Sent], None] = lambda _sent: None

    def __post_init__(self) -> None:
        self.network = Network(Random(f"{self.seed}/network"), now)
        self.hosts = {
            name: SimHost(name, self.network, now, Random(f"{self.seed}/{name}"), temper=replace(self.temper))
            for name in ("h1", "h2")
        }
        self.host, self.other = self.hosts["h1"], self.hosts["h2"]
        for host in self.hosts.values():
            host.listeners.append(self.changes.append)
        self.virsh = Virsh(self.host, Random(f"{self.seed}/virsh"))
        self.hypervisor = self.client("c1")

    def client(self, name: str) -> SimHypervisor:
        return SimHypervisor(
            name, self.hosts, self.network, now, Random(f"{self.seed}/{name}"), self._on_sent
        )

    def _on_sent(self, sent: Sent) -> None:
        self.sent.append(sent)
        self.when_sent(sent)

    async def open(self, host: str = "h1") -> Session:
        target = Target(host, f"qemu+tcp://{host}/system")
        return await self.hypervisor.open(target, lambda _session, events: self.heard.extend(events))

    async def running(self) -> None:
        assert await self.virsh.define(XML) is None
        assert await self.virsh.start(UUID) is None

    async def session(self) -> Session:
        """One with a running domain on its host."""
        await self.running()
        return await self.open()

    def events(self) -> list[tuple[EventKind, str]]:
        return [(event.kind, event.detail) for event in self.heard if isinstance(event, HostEvent)]

    def closings(self) -> list[str]:
        return [event.reason for event in self.heard if isinstance(event, SessionClosed)]

    def stands(self, host: str = "h1", uuid: str = UUID) -> tuple[State, str] | None:
        domain = self.hosts[host].domains.get(uuid)
        return None if domain is None else (domain.record.state, domain.record.reason)

    def ends(self) -> Ends:
        return self.stands("h1"), self.stands("h2")


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """In virtual time."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def whole() -> None:
            await test(Lab(), *arguments, **named)

        virtualtime.run(whole())

    del run.__wrapped__
    return run


def permit(seconds: float = 60) -> Permit:
    return Permit(now() + seconds)


def failed(result: Result, error: type[HypervisorError], outcome: Outcome = Outcome.FAILED) -> None:
    assert (result.outcome, type(result.error)) == (outcome, error), result


async def until(condition: Callable[[], object], limit_s: float = 120) -> float:
    began = now()
    while not condition():
        assert now() - began < limit_s, "it does not happen"
        await asyncio.sleep(0.05)
    return now() - began


async def took(work: Awaitable[object]) -> float:
    began = now()
    try:
        await work
    except HypervisorError:
        return now() - began
    return now() - began
