"""drivers.libvirt: the Hypervisor port on libvirt. All threads of the project live in here.

    loop          libvirt's event loop, one thread for the process
    sockets       libvirt's own sockets: found, tuned, shut down
    lane          worker threads of one connection, deadlines, and whether a call was sent
    link          one connection, and how it ends
    opening       getting connected within a deadline
    ways          the transports: what is dialled, and what libvirt's errors mean there; `way` is their form
    reach, tls    is anybody there, and who      tunnel, dial  children that carry connections (ssh, ext)
    access        which files and programs of this machine may be used
    events        callbacks in batches to asyncio
    session       the port's Session: every call      deadlines   how long each may take
    circuit       its two connections, how a call runs on one, and their end
    consoles      streams from and to guests, on a connection of their own
    moving        its further connections, for migrations and jobs      migration   libvirt's words for them
    reads, facts  what is asked of a host     inspection  what is asked before it is trusted
    capabilities  what each driver can do      errors   libvirt's errors in the port's types
    records       libvirt's numbers in words

`LibvirtHypervisor` here opens sessions and knows them. Nothing in this package retries, backs off,
reconnects or decides: that is the controller's.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from drivers.errors import Cause, HostFailed, HypervisorError, SpecRejected, Unreachable, Unsupported
from drivers.hypervisor import EventSink, Target
from drivers.libvirt.access import Access
from drivers.libvirt.capabilities import DRIVERS
from drivers.libvirt.circuit import CallMeter, Surroundings
from drivers.libvirt.consoles import Consoles
from drivers.libvirt.deadlines import Deadlines
from drivers.libvirt.events import Feed
from drivers.libvirt.lane import start_thread
from drivers.libvirt.link import Link
from drivers.libvirt.loop import SWITCH_INTERVAL_S, native_loop
from drivers.libvirt.opening import Opened, Opening
from drivers.libvirt.session import LibvirtSession
from drivers.libvirt.sockets import Sockets
from drivers.libvirt.ways import Journey
from specs.uri import DEFAULT_PORTS, ParsedUri, UriNotAllowed, parse_uri

__all__ = ["Access", "CallMeter", "Deadlines", "LibvirtHypervisor", "LibvirtSession"]

_CLOSED = "the driver is closed"
_FREE_EVERY_S = 0.25
_FREE_ATTEMPTS = 20


@dataclass(slots=True, eq=False)
class _Attempt:
    """An opening under way. `ended`: its thread is gone; `abandoned`: nobody waits for it."""

    opening: Opening
    future: asyncio.Future[Opened | HypervisorError]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    abandoned: bool = False


def _no_meter(_node: str, _call: str, _result: str, _seconds: float) -> None:
    return


class LibvirtHypervisor:
    """The port's Hypervisor. One asyncio loop for its whole life; `meter` is told of every call."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadlines: Deadlines | None = None,
        meter: CallMeter = _no_meter,
        access: Access | None = None,
    ) -> None:
        native_loop()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._clock = clock
        self._deadlines = deadlines or Deadlines()
        self._meter = meter
        self._closed = False
        self._sockets = Sockets()
        self._access = access or Access()
        self._attempts: dict[object, _Attempt] = {}
        self._sessions: weakref.WeakSet[LibvirtSession] = weakref.WeakSet()
        self._freeing: set[asyncio.Task[None]] = set()

    @property
    def lost_threads(self) -> int:
        """Threads that libvirt has not let go of though nobody waits for them any more."""
        openings = sum(attempt.abandoned for attempt in self._attempts.values())
        return openings + sum(session.overdue_calls for session in self._sessions)

    @property
    def event_lag_s(self) -> float:
        """How late libvirt's own event loop is; a large value means that connections are about to go."""
        return native_loop().lag_s()

    async def open(self, target: Target, sink: EventSink) -> LibvirtSession:
        uri = _allowed(target.uri)
        feed = Feed(asyncio.get_running_loop(), self._clock)
        journey = Journey(target, uri, self._sockets, self._access)
        opened = await self._connect(target, uri, Opening(journey, feed))

        async def another(role: str, own: Feed | None = None) -> Link:
            opening = Opening(journey, own or feed, (opened, role))
            return (await self._connect(target, uri, opening)).observe

        consoles = Consoles(
            functools.partial(another, "consoles"),
            opened.driver.console_flags,
            self._deadlines.read_s,
            functools.partial(self._meter, target.node),
        )
        given = Surroundings(target, uri, feed, self._clock, self._deadlines, self._meter, another, consoles)
        session = LibvirtSession(opened, given, sink)
        self._sessions.add(session)
        return session

    async def _connect(self, target: Target, uri: ParsedUri, opening: Opening) -> Opened:
        """Within the open deadline. Raises HypervisorError."""
        attempt = _Attempt(opening, asyncio.get_running_loop().create_future())
        started_at = self._clock()
        answer: Opened | HypervisorError | None = None
        try:
            async with asyncio.timeout(self._deadlines.open_s):
                answer = await self._run(_address(uri), attempt)
        except TimeoutError:
            limit = f"{self._deadlines.open_s:g} s"
            answer = Unreachable(
                f"{uri.text}: no connection within {limit}, {opening.phase}", cause=Cause.NO_ANSWER
            )
            self._discard(attempt)
        finally:
            if answer is None:  # cancelled
                self._discard(attempt)
        result = type(answer).__name__ if isinstance(answer, HypervisorError) else "done"
        self._meter(target.node, "open", result, self._clock() - started_at)
        if isinstance(answer, HypervisorError):
            answer.phase = opening.phase
            raise answer
        return answer

    async def close(self) -> None:
        """Close every session and give up every opening. Bounded."""
        self._closed = True
        for attempt in list(self._attempts.values()):
            if not attempt.future.done():
                attempt.future.set_result(Unreachable(_CLOSED))
            self._abandon(attempt)
        await asyncio.gather(*(session.close() for session in list(self._sessions)))
        for task in self._freeing:
            task.cancel()
        await asyncio.gather(*self._freeing, return_exceptions=True)

    async def _run(self, address: object, attempt: _Attempt) -> Opened | HypervisorError:
        while (other := self._attempts.get(address)) is not None:
            await other.ended.wait()
        if self._closed:
            return Unreachable(_CLOSED)
        self._attempts[address] = attempt
        loop = asyncio.get_running_loop()

        def thread() -> None:
            answer: Opened | HypervisorError = HostFailed("the opening thread failed")
            try:
                answer = attempt.opening.run()
            finally:
                try:
                    loop.call_soon_threadsafe(self._ended, address, attempt, answer)
                except RuntimeError:  # the loop is closed
                    _dismantle(answer)
            del answer  # it holds libvirt handles
            attempt.opening.stay()

        if not start_thread("libvirt-open", thread):
            self._ended(address, attempt, Unreachable("the system has no thread to open it in"))
        return await attempt.future

    def _ended(self, address: object, attempt: _Attempt, answer: Opened | HypervisorError) -> None:
        del self._attempts[address]
        attempt.ended.set()
        if not attempt.future.done():
            attempt.future.set_result(answer)
        else:  # too late: nobody waits
            start_thread("libvirt-close", functools.partial(_dismantle, answer))

    def _discard(self, attempt: _Attempt) -> None:
        """Nobody wants what comes, or came a moment too late, of this attempt."""
        attempt.future.cancel()
        if attempt.future.cancelled():
            self._abandon(attempt)
        else:
            start_thread("libvirt-close", functools.partial(_dismantle, attempt.future.result()))

    def _abandon(self, attempt: _Attempt) -> None:
        if attempt.abandoned or attempt not in self._attempts.values():  # or it never began
            return
        attempt.abandoned = True
        task = asyncio.create_task(_free(attempt))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)


async def _free(attempt: _Attempt) -> None:
    """Shut the sockets of an abandoned opening down until its thread has ended. One that is stuck
    elsewhere stays lost until it comes back by itself."""
    for _ in range(_FREE_ATTEMPTS):
        attempt.opening.abandon()
        try:
            async with asyncio.timeout(_FREE_EVERY_S):
                await attempt.ended.wait()
        except TimeoutError:
            continue
        return


def _allowed(text: str) -> ParsedUri:
    try:
        uri = parse_uri(text)
    except UriNotAllowed as refused:
        raise Unsupported(str(refused)) from None
    except ValueError as malformed:
        raise SpecRejected(str(malformed)) from None
    if uri.driver not in DRIVERS:
        raise Unsupported(f"driver {uri.driver} is not supported yet: use {', '.join(sorted(DRIVERS))}")
    return uri


def _address(uri: ParsedUri) -> object:
    """What openings of one URI share with others: the far end of their sockets."""
    if uri.transport in DEFAULT_PORTS and uri.host:
        return (uri.host, uri.port)
    return ("unix", uri.socket) if uri.transport == "unix" else object()


def _dismantle(answer: Opened | HypervisorError) -> None:
    if isinstance(answer, Opened):
        for link in answer.links:
            link.dismantle()
