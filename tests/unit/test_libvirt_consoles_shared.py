"""The connection that the consoles of a session share: when the host is told that one is unwanted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from drivers.hypervisor import ConsoleEnded, ConsoleOutput
from drivers.libvirt import consoles
from drivers.libvirt.consoles import Consoles, LibvirtConsole
from drivers.libvirt.events import Feed
from drivers.libvirt.link import Link
from tests.unit.test_libvirt_consoles import Raw, listening

__all__ = ["listening"]  # a fixture


class Line(Raw):
    """As well the handle of a connection."""

    def unregisterCloseCallback(self) -> None:
        self.calls.append("unregister")

    def close(self) -> None:
        self.calls.append("closed")


class Scene:
    """A console that is read, and what was told of it."""

    def __init__(self) -> None:
        self.raw = Line()
        self.ended = asyncio.Event()
        self.consoles = Consoles(self._another, 0, 5.0, lambda *_: None)

    async def _another(self, _feed: Feed) -> Link:
        return Link("a", "consoles", self.raw, None)

    def sink(self, event: ConsoleOutput | ConsoleEnded) -> None:
        if isinstance(event, ConsoleEnded):
            self.ended.set()

    async def open(self) -> LibvirtConsole:
        return await self.consoles.open("u", "ua-main", self.sink)

    def guest_ends(self, console: LibvirtConsole) -> None:
        self.raw.pieces = [b""]
        console.stream._ready(self.raw)

    async def until(self, happened: Callable[[], Any]) -> None:
        ends_at = time.monotonic() + 10
        while not happened():
            assert time.monotonic() < ends_at, self.raw.calls
            await asyncio.sleep(0.005)

    @property
    def is_let_go_of(self) -> bool:
        return "abort" in self.raw.calls


async def test_a_console_that_is_closed_is_let_go_of_at_once() -> None:
    scene = Scene()
    console = await scene.open()
    await console.close()
    await scene.until(lambda: scene.is_let_go_of)
    assert not scene.ended.is_set()


@pytest.mark.parametrize("closed_first", [False, True])
async def test_one_that_its_host_ended_is_let_go_of_when_the_host_has_forgotten_its_domain(
    monkeypatch: pytest.MonkeyPatch, closed_first: bool
) -> None:
    monkeypatch.setattr(consoles, "AFTERMATH_S", 0.3)
    scene = Scene()
    console = await scene.open()
    scene.guest_ends(console)
    if closed_first:  # in the same moment, before it is told
        await console.close()
    else:
        await scene.ended.wait()
        await console.close()
    await asyncio.sleep(0.1)
    assert not scene.is_let_go_of
    await scene.until(lambda: scene.is_let_go_of)
    assert scene.raw.calls.count("abort") == 1


async def test_until_then_the_guests_next_run_is_read_like_any_other() -> None:
    scene = Scene()
    scene.guest_ends(await scene.open())
    await scene.ended.wait()
    again = await scene.open()
    await again.send(b"hello")
    assert scene.raw.sent == b"hello"
    assert not scene.is_let_go_of
    await again.close()
    await scene.until(lambda: scene.is_let_go_of)


async def test_what_waits_to_be_let_go_of_ends_with_its_session() -> None:
    scene = Scene()
    console = await scene.open()
    scene.guest_ends(console)
    await scene.ended.wait()
    assert scene.consoles._ended
    scene.consoles.close("the session is closed")
    await scene.until(lambda: "closed" in scene.raw.calls)
    assert not scene.is_let_go_of, "there is nobody who could be told"
    assert scene.consoles._ended == {}
    assert cast(Any, console.stream)._raw is None
