"""Consoles: streams of bytes from and to guests, on one further connection of a session.

All open consoles of a host share one connection, opened when the first is asked for, and nothing else uses
it: what a guest writes, or does not read, delays no call of the session, and where the connection breaks the
session lives on. libvirt takes what comes from the host off the socket whether or not anybody wants it, and
keeps it without a bound; so every stream is read as soon as there is something, in libvirt's event thread,
where reading a stream that does not block never waits. What asyncio has not taken yet is bounded by
WINDOW_BYTES a console: beyond that the oldest is dropped, and its length is told. Sending may wait for the
socket and is done in worker threads with a deadline. libvirtd keeps without a bound what a guest does not
read, and tells nobody; so no more than SILENT_BYTES are typed until the guest writes something.

Measured (9.0.0): a console has one reader; a second is refused (9) until the first has gone, which for one
that was killed or frozen takes its connection's end, 30 s at most. VIR_DOMAIN_CONSOLE_FORCE would throw it
out and is never used: it may be an administrator's `virsh console`.

A stream that its host ended is let go of AFTERMATH_S later. libvirtd closes it under the stream's lock and
then that of the domain's consoles (virFDStreamCloseInt, virChrdevFDStreamCloseCb), and forgets a domain, as
at the end of a transient one or of a migration, under the same two in the other order (virChrdevFree): met in
one moment, which is that of the guest's end, they stop its event loop for good. Afterwards there is nothing
left to meet. Until then the terminal stays taken, and so the guest's next run has another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import libvirt

from drivers.errors import CallTimedOut, HypervisorError, Unreachable, WrongState
from drivers.hypervisor import ConsoleEnded, ConsoleOutput, ConsoleSink
from drivers.libvirt.events import Feed
from drivers.libvirt.lane import DeadlinePassed, start_thread
from drivers.libvirt.link import Link, attempt

WINDOW_BYTES: Final = 256 << 10  # read, and not taken by asyncio yet
HAND_OVER_EVERY_S: Final = 0.02  # a guest that floods its console wakes asyncio no more often
SEND_BYTES: Final = 4 << 10  # at once; what a terminal of the host's kernel holds
SILENT_BYTES: Final = 64 << 10  # typed since the guest last wrote; libvirtd keeps what it does not read
LET_GO_S: Final = 60.0  # those before it may be slow
AFTERMATH_S: Final = 30.0  # from a stream's end until its host is told that we know; a guest's end is shorter
_READ_BYTES: Final = 256 << 10  # more than one message of libvirt's protocol
_WOULD_BLOCK: Final = -2
_PAUSE_S: Final = 0.005
_EVENTS: Final = (
    libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
)
CLOSED: Final = "the console is closed"
_UNREAD: Final = "the host took no input in time: the guest does not read its console"
_SILENT: Final = "the guest wrote nothing since 64 KiB were typed: it does not read its console"
_ENDED: Final = "the host closed it: the domain is not running any more, or somebody else took the console"

Meter = Callable[[str, str, float], None]  # call, result, seconds
Open = Callable[[Feed], Awaitable[Link]]  # opens the connection; raises HypervisorError


class _Ear:
    """What libvirt calls when a stream has something. Its remote driver never gives back what it is given for
    that (remoteStreamCallbackFree asks for a callback that is missing): so it is given this in the stream's
    place, which once deaf leads to nothing, neither the stream nor its connection nor whose console it is.

    What libvirt-python asks of a stream is `_o` when it is told and the method that it calls."""

    def __init__(self, raw: Any, hear: Callable[[Any], None]) -> None:
        self._o = raw._o
        self._heard: tuple[Any, Callable[[Any], None]] | None = (raw, hear)

    def _dispatchStreamEventCallback(self, _events: int, _given: object) -> None:
        heard = self._heard
        if heard is not None:
            raw, hear = heard
            hear(raw)

    def deafen(self) -> None:
        self._o = self._heard = None


def _listen(raw: Any, hear: Callable[[Any], None]) -> _Ear:
    """Have `hear` called with `raw`, in libvirt's event thread. Raises libvirtError."""
    ear = _Ear(raw, hear)
    libvirt.virStream.eventAddCallback(ear, _EVENTS, _unused, None)
    return ear


def _unused(*_: object) -> None:
    """libvirt-python wants a function; the ear's method is called in its place."""


class Stream:
    """libvirt's end of one console. Made and closed in worker threads, read in libvirt's event thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._lock = threading.Lock()  # of all below
        self._raw: Any = None
        self._ear: _Ear | None = None
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._unanswered = 0
        self._ended = ""
        self._asked = False
        self._unwanted = False

    def open(self, connection: Any, uuid: str, device: str, flags: int) -> None:
        """Blocking. Raises libvirtError."""
        raw = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        connection.lookupByUUIDString(uuid).openConsole(device or None, raw, flags)
        ear = _listen(raw, self._ready)
        with self._lock:
            self._raw, self._ear = raw, ear
            unwanted = self._unwanted
        if unwanted:  # whoever asked for it has given up
            self.close()

    def send(self, data: bytes, until: float) -> None:
        """Blocking. Raises libvirtError, CallTimedOut, WrongState."""
        while data:
            with self._lock:
                raw, room = self._raw, min(SEND_BYTES, SILENT_BYTES - self._unanswered)
            if raw is None:
                raise WrongState(CLOSED)
            if time.monotonic() > until:  # whoever typed it is told so, and it must not come after that
                raise CallTimedOut(_UNREAD if room > 0 else _SILENT)
            sent = raw.send(data[:room]) if room > 0 else _WOULD_BLOCK
            if sent == _WOULD_BLOCK:
                time.sleep(_PAUSE_S)
                continue
            with self._lock:
                self._unanswered += sent
            data = data[sent:]

    def close(self, *, polite: bool = True) -> None:
        """Blocking, but where the connection is severed, or not `polite`. Nothing is delivered any more."""
        with self._lock:
            raw, self._raw, self._unwanted = self._raw, None, True
            ear, self._ear = self._ear, None
        if raw is None or ear is None:
            return
        with contextlib.suppress(libvirt.libvirtError):
            raw.eventRemoveCallback()
        ear.deafen()
        if polite:
            with contextlib.suppress(libvirt.libvirtError):
                raw.abort()

    @property
    def has_ended(self) -> bool:
        """The host says that nothing comes any more."""
        with self._lock:
            return bool(self._ended)

    def take(self) -> tuple[int, bytes, str]:
        """What came, after how many bytes that were dropped, and why it ended ("" while it has not)."""
        with self._lock:
            self._asked = False
            lost, data, ended = self._lost, b"".join(self._waiting), self._ended
            self._waiting.clear()
            self._lost = self._size = 0
        return lost, data, ended

    def _ready(self, raw: Any) -> None:
        data: bytes | int = b""
        why = _ENDED
        try:
            data = raw.recv(_READ_BYTES)
        except libvirt.libvirtError as error:
            why = error.get_error_message() or why
        if data == _WOULD_BLOCK:
            return
        if data:
            self._note(data, "")  # type: ignore[arg-type]
            return
        # Once only: without a callback libvirt calls no more.
        with contextlib.suppress(libvirt.libvirtError):
            raw.eventRemoveCallback()
        self._note(b"", why)

    def _note(self, data: bytes, ended: str) -> None:
        with self._lock:
            self._unanswered = 0
            self._waiting.append(data)
            self._size += len(data)
            while self._size > WINDOW_BYTES:
                dropped = len(self._waiting.popleft())
                self._size -= dropped
                self._lost += dropped
            self._ended = self._ended or ended
            ask, self._asked = not self._asked and not self._unwanted, True
        if ask:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._deliver)


class LibvirtConsole:
    """The port's Console, used on the asyncio loop. Made by `Consoles.open`."""

    def __init__(self, line: Consoles, link: Link, sink: ConsoleSink) -> None:
        self.link = link
        self.stream = Stream(asyncio.get_running_loop(), self._deliver)
        self._line = line
        self._sink = sink
        self._over = False
        self._handed_over_at = float("-inf")

    async def send(self, data: bytes) -> None:
        if self._over:
            raise WrongState(CLOSED)
        await self._line.send(self, data)

    async def close(self) -> None:
        if not self._over:
            self._over = True
            self._line.drop(self)

    def end(self, why: str) -> None:
        """Once: it is told, and nothing after it."""
        if not self._over:
            self._over = True
            asyncio.get_running_loop().call_soon(self._sink, ConsoleEnded(why))

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._handed_over_at + HAND_OVER_EVERY_S - loop.time()
        if wait_s > 0:
            loop.call_later(wait_s, self._deliver)
            return
        self._handed_over_at = loop.time()
        lost, data, ended = self.stream.take()
        if self._over:
            return
        if data or lost:
            self._sink(ConsoleOutput(data, lost))
        if ended:
            self.end(ended)
            self._line.drop(self)


class Consoles:
    """The connection that the consoles of a session share. Used on the asyncio loop alone."""

    def __init__(self, another: Open, flags: int, limit_s: float, meter: Meter) -> None:
        self._another = another
        self._flags = flags
        self._limit_s = limit_s
        self._meter = meter
        self._adding = asyncio.Lock()
        self._link: Link | None = None
        self._open: set[LibvirtConsole] = set()
        self._ended: dict[LibvirtConsole, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = ""

    async def open(self, uuid: str, device: str, sink: ConsoleSink) -> LibvirtConsole:
        """Raises HypervisorError."""
        link = await self._connected()
        console = LibvirtConsole(self, link, sink)
        self._open.add(console)
        stream, raw = console.stream, link.raw
        try:
            await self._call(link, "console", lambda: stream.open(raw, uuid, device, self._flags))
        except BaseException:
            await console.close()
            raise
        return console

    async def send(self, console: LibvirtConsole, data: bytes) -> None:
        until, stream = time.monotonic() + self._limit_s, console.stream
        await self._call(console.link, "console_send", lambda: stream.send(data, until))

    def drop(self, console: LibvirtConsole) -> None:
        """Nobody wants it any more. The host is told, so that another may have it: at once, where it has not
        ended there."""
        self._open.discard(console)
        if console.stream.has_ended:
            later = asyncio.get_running_loop().call_later(AFTERMATH_S, self._release, console)
            self._ended[console] = later
        else:
            self._release(console)

    def _release(self, console: LibvirtConsole) -> None:
        self._ended.pop(console, None)
        task = asyncio.create_task(self._let_go(console))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _let_go(self, console: LibvirtConsole) -> None:
        try:
            await console.link.lane.run(console.stream.close, LET_GO_S)
        except DeadlinePassed as passed:
            if not passed.started:
                console.stream.close(polite=False)

    def close(self, why: str) -> None:
        """The session ended."""
        self._closed = self._closed or why
        self._lose(why)

    async def _connected(self) -> Link:
        async with self._adding:
            if self._closed:
                raise Unreachable(self._closed)
            if self._link is None:
                feed = Feed(asyncio.get_running_loop(), time.monotonic)
                link = await self._another(feed)
                if self._closed:
                    _sever(link, ())
                    raise Unreachable(self._closed)
                self._link = link
                feed.start(functools.partial(self._heard, link))
            return self._link

    def _heard(self, link: Link, _events: object, closed: str) -> None:
        if closed and link is self._link:
            self._lose(f"the connection for consoles was lost ({closed})")

    def _lose(self, why: str) -> None:
        """All consoles end; the next that is asked for has a new connection."""
        link, self._link = self._link, None
        consoles, ended = tuple(self._open), self._ended
        self._open.clear()
        self._ended = {}
        for console in consoles:
            console.end(why)
        for later in ended.values():
            later.cancel()
        if link is not None:
            _sever(link, tuple(console.stream for console in (*consoles, *ended)))

    async def _call(self, link: Link, call: str, work: Callable[[], None]) -> None:
        """In a worker thread of the connection. Raises HypervisorError."""
        began_at = time.monotonic()
        answer: HypervisorError | None
        try:
            answer = await link.lane.run(functools.partial(_attempt, link.raw, call, work), self._limit_s)
        except DeadlinePassed:
            answer = CallTimedOut(f"{call}: no answer within {self._limit_s:g} s")
            if link.lane.is_clogged and link is self._link:
                self._lose("the connection for consoles does not answer")
        self._meter(call, "done" if answer is None else type(answer).__name__, time.monotonic() - began_at)
        if answer is not None:
            if isinstance(answer, Unreachable) and link is self._link:
                self._lose(f"the connection for consoles was lost: {answer.message}")
            raise answer


def _attempt(raw: Any, call: str, work: Callable[[], None]) -> HypervisorError | None:
    try:
        return attempt(raw, call, work)
    except HypervisorError as error:
        return error.with_traceback(None)


def _sever(link: Link, streams: tuple[Stream, ...]) -> None:
    """Streams hold their connection: it is closed when they have let go of it."""
    link.sever()

    def dismantle() -> None:
        for stream in streams:
            stream.close(polite=False)
        link.dismantle()

    if not start_thread("libvirt-close", dismantle):
        dismantle()
