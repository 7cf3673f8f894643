"""The connections of a session: which call goes over which, and that none waits for another's answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from drivers.errors import HostFailed
from drivers.hypervisor import Target
from drivers.libvirt import circuit
from drivers.libvirt.circuit import Circuit, Surroundings
from drivers.libvirt.deadlines import Deadlines
from drivers.libvirt.link import Link
from drivers.libvirt.moving import MAX_AGENTS, MAX_MOVING, Moving
from drivers.libvirt.opening import Opened


class Raw:
    """A connection of libvirt 9's client at its worst: it has forgotten to send a call that joined another,
    until one more is sent."""

    def __init__(self) -> None:
        self.sent = threading.Event()
        self.asked = 0

    def getLibVersion(self) -> int:
        self.asked += 1
        self.sent.set()
        return 9_000_000


class Quiet:
    """Feed and consoles of a circuit on which nothing happens."""

    def start(self, _deliver: object) -> None: ...

    def stop(self) -> tuple[()]:
        return ()

    def close(self, _why: str) -> None: ...


def link(role: str, raw: Raw | None = None) -> Link:
    return Link("hv1", role, raw or Raw(), None)


def made(raw: Raw) -> Circuit:
    observe = link("observe", raw)
    opened = cast(Opened, type("O", (), {"observe": observe, "change": observe, "links": (observe,)}))
    nothing: Any = Quiet()
    given = Surroundings(
        Target("hv1", "test:///default"),
        nothing,
        nothing,
        asyncio.get_running_loop().time,
        Deadlines(),
        lambda *_: None,
        nothing,
        nothing,
    )
    return Circuit(opened, given, lambda _events: None)


async def test_a_call_that_was_forgotten_beside_another_is_sent_before_that_is_answered() -> None:
    raw, first_may_end = Raw(), threading.Event()
    host = made(raw)
    first = asyncio.create_task(host.read("long", 10.0, lambda _raw: first_may_end.wait(10)))
    await asyncio.sleep(0)
    try:
        assert await host.read("short", 10.0, lambda raw: raw.sent.wait(5)), "nobody nudged the connection"
        assert not first.done()
    finally:
        first_may_end.set()
    assert await first


async def test_a_call_alone_on_its_connection_is_not_nudged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "NUDGE_S", 0.0)
    raw = Raw()
    assert not await made(raw).read("alone", 10.0, lambda raw: raw.sent.wait(0.2))
    assert raw.asked == 0


async def test_each_migration_has_a_connection_to_itself_and_the_next_takes_over_a_free_one() -> None:
    opened: list[str] = []

    async def another(role: str) -> Link:
        opened.append(role)
        return link(role)

    moving, may_end = Moving(another), threading.Event()
    calls = []
    try:
        for _ in range(MAX_MOVING):
            mover = await moving.mover()
            calls.append(asyncio.create_task(mover.lane.run(may_end.wait, 10.0)))
            await asyncio.sleep(0)
        assert opened == ["migrate"] * MAX_MOVING
        with pytest.raises(HostFailed, match="16 migrations leave this host already"):
            await moving.mover()
    finally:
        may_end.set()
    await asyncio.gather(*calls)
    assert await moving.mover() in moving.links
    assert opened == ["migrate"] * MAX_MOVING


async def test_calls_to_agents_wait_for_each_other_only_when_all_connections_are_taken() -> None:
    async def another(role: str) -> Link:
        return link(role)

    moving, may_end = Moving(another), threading.Event()
    calls = []
    try:
        for _ in range(MAX_AGENTS + 2):
            agent = await moving.agent()
            calls.append(asyncio.create_task(agent.lane.run(may_end.wait, 10.0)))
            await asyncio.sleep(0)
        assert sum(link.lane.in_flight for link in moving.links) == MAX_AGENTS == len(moving.links)
    finally:
        may_end.set()
    await asyncio.gather(*calls)
