"""A stream of a console between libvirt's thread and asyncio: bounded, in order, and with one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import libvirt
import pytest

from drivers.errors import CallTimedOut, WrongState
from drivers.libvirt import consoles
from drivers.libvirt.consoles import SILENT_BYTES, WINDOW_BYTES, Stream, _Ear


class Raw:
    """libvirt's stream and connection, which hand out what a test put there."""

    _o = None

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.sent = b""
        self.room = 1 << 20
        self.calls: list[str] = []

    def newStream(self, _flags: int) -> Raw:
        return self

    def lookupByUUIDString(self, _uuid: str) -> Raw:
        return self

    def openConsole(self, device: str | None, _stream: Raw, _flags: int) -> None:
        self.calls.append(f"open {device}")

    def listen(self, hear: Callable[[Raw], None]) -> Any:
        self.calls.append("add")
        return _Ear(self, hear)

    def eventRemoveCallback(self) -> None:
        self.calls.append("remove")

    def abort(self) -> None:
        self.calls.append("abort")

    def recv(self, _most: int) -> Any:
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def send(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken) or -2


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "_listen", Raw.listen)


@pytest.fixture
async def told() -> list[None]:
    return []


@pytest.fixture
async def stream(told: list[None]) -> Stream:
    return Stream(asyncio.get_running_loop(), lambda: told.append(None))


def opened(stream: Stream) -> Raw:
    raw = Raw()
    stream.open(raw, "u", "ua-main", 0)
    return raw


async def test_however_much_comes_before_it_is_taken_a_bounded_rest_is_kept_and_the_loss_told(
    stream: Stream, told: list[None]
) -> None:
    raw = opened(stream)
    raw.pieces = [bytes([number]) * (64 << 10) for number in range(100)]
    for _ in range(100):
        stream._ready(raw)
    await asyncio.sleep(0)
    assert told == [None], "asked for once"
    lost, data, ended = stream.take()
    assert len(data) <= WINDOW_BYTES
    assert lost + len(data) == 100 * (64 << 10)
    assert data[-1] == 99
    assert ended == ""
    assert stream.take() == (0, b"", "")


@pytest.mark.parametrize("end", [b"", libvirt.libvirtError("the stream broke")])
async def test_the_end_of_a_stream_is_told_behind_all_that_came(stream: Stream, end: object) -> None:
    raw = opened(stream)
    raw.pieces = [b"last words", -2, end]
    for _ in range(3):
        stream._ready(raw)
    lost, data, ended = stream.take()
    assert (lost, data) == (0, b"last words")
    assert ended
    assert "remove" in raw.calls


async def test_a_stream_that_nobody_waits_for_any_more_is_closed_when_it_opens(stream: Stream) -> None:
    stream.close()
    assert opened(stream).calls == ["open ua-main", "add", "remove", "abort"]


async def test_what_the_host_does_not_take_ends_at_the_deadline(stream: Stream) -> None:
    raw = opened(stream)
    raw.room = 10
    with pytest.raises(CallTimedOut, match="the guest does not read its console"):
        stream.send(b"x" * 20, time.monotonic() + 0.05)
    assert raw.sent == b"x" * 10
    stream.close()
    with pytest.raises(WrongState):
        stream.send(b"x", time.monotonic() + 1)


async def test_nothing_is_typed_any_more_when_its_deadline_has_passed(stream: Stream) -> None:
    raw = opened(stream)
    with pytest.raises(CallTimedOut):
        stream.send(b"reboot\n", time.monotonic() - 0.001)
    assert raw.sent == b""


async def test_a_guest_that_writes_nothing_is_not_typed_at_without_end(stream: Stream) -> None:
    raw = opened(stream)
    with pytest.raises(CallTimedOut, match="the guest wrote nothing since 64 KiB were typed"):
        stream.send(b"x" * (2 * SILENT_BYTES), time.monotonic() + 0.2)
    assert len(raw.sent) == SILENT_BYTES
    raw.pieces = [b"login: "]
    stream._ready(raw)
    stream.send(b"root\n", time.monotonic() + 5)
    assert raw.sent.endswith(b"xroot\n")
