"""Opening: a thread that may get stuck anywhere, and a deadline that it cannot miss.

libvirt's open has no time-out: 134 s into a black hole, for ever on a frozen daemon. So an `Opening` runs
in a thread of its own: find the way (`ways`: resolve the name, probe the port, look at certificates), open
both connections, take hold of what lies beneath them and make it safe, set keep-alive, subscribe to events.
A session's further connections are opened in the same way, one at a time.
Whoever waits for it gives it up at the deadline; its sockets are then shut down, or its children killed,
until the thread ends, which takes milliseconds. A thread that cannot be freed (in the resolver) counts as
lost until it ends by itself, and is never waited for.

At most one opening to an address is under way in a process: that is what makes its sockets recognisable,
and what bounds the lost threads to one an address.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import libvirt

from drivers.errors import HostFailed, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import Certificate
from drivers.libvirt.capabilities import DRIVERS, Driver
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR
from drivers.libvirt.events import Feed
from drivers.libvirt.link import Link, attempt
from drivers.libvirt.way import Way
from drivers.libvirt.ways import WAYS, Journey, not_asked

KEEP_ALIVE_INTERVAL_S = 5
KEEP_ALIVE_COUNT = 3  # silent for interval x (count + 1) = 20 s: closed


@dataclass(frozen=True, slots=True)
class Opened:
    """What an opening hands over. With a driver whose world is the connection, both links are one."""

    observe: Link
    change: Link
    driver: Driver
    version: int
    keep_alive: bool
    certificates: tuple[Certificate, ...] = ()

    @property
    def links(self) -> tuple[Link, ...]:
        return (self.observe,) if self.observe is self.change else (self.observe, self.change)


class _Abandoned(Exception):
    """Nobody waits for this opening any more."""


class Opening:
    """One attempt. `run` is the thread's; `abandon` and `phase` are for the asyncio side. `more`: only one
    more connection, such as these, for a role: it is both links of what is handed over."""

    def __init__(self, journey: Journey, feed: Feed, more: tuple[Opened, str] | None = None) -> None:
        self._more = more
        self._target = journey.target
        self._uri = journey.uri
        self._feed = feed
        self._journey = journey
        self._way: Way | None = None
        self._lock = threading.Lock()  # of the three below
        self._abandoned = False
        self._links: list[Link] = []
        self._dialling = False
        self.phase = "waiting for an earlier attempt to end"

    def run(self) -> Opened | HypervisorError:
        """Blocking. What was opened is closed again unless it is handed over."""
        answer: Opened | HypervisorError
        try:
            answer = self._run()
        except _Abandoned:
            answer = Unreachable("given up")
        except HypervisorError as error:
            answer = error.with_traceback(None)
        except OSError as error:
            answer = Unreachable(f"{self.phase}: {error}", code=SYSTEM_ERROR, origin=FROM_RPC)
        if isinstance(answer, HypervisorError):
            for link in self._links:
                link.dismantle()
        return answer

    def stay(self) -> None:
        """In the same thread, when `run`'s answer was handed over: blocks for as long as children of this
        thread carry its connections, since they end with it."""
        if self._way is not None:
            self._way.beneath.stay()

    def abandon(self) -> None:
        """Never blocks. To be called again until the thread has ended: it may only now be connecting."""
        with self._lock:
            self._abandoned = True
            links, way = tuple(self._links), self._way if self._dialling else None
        for link in links:
            link.sever()
        dialling = None if way is None else way.beneath.grip()
        if dialling is not None:
            dialling.sever()
            dialling.release()

    def _run(self) -> Opened | HypervisorError:
        self._way = way = WAYS[self._uri.transport](self._journey, self._enter)
        if self._more is not None:
            return self._one_more(way, *self._more)
        observe = self._open(way, "observe")
        if isinstance(observe, HypervisorError):
            return observe
        self._enter("asking which driver it is")
        asked = attempt(observe.raw, "open", lambda: _ask(observe.raw))
        if isinstance(asked, HypervisorError):
            return asked
        name, version = asked
        driver = DRIVERS.get(name)
        if driver is None or name != self._uri.driver:
            return Unsupported(f"driver {name} is not supported (the URI names {self._uri.driver})")
        change = observe if driver.one_world else self._open(way, "change")
        if isinstance(change, HypervisorError):
            return change
        self._enter("subscribing to events")
        ready = attempt(observe.raw, "open", lambda: self._prepare(way, observe, change))
        if isinstance(ready, HypervisorError):
            return ready
        return Opened(observe, change, driver, version, keep_alive=ready, certificates=way.certificates)

    def _one_more(self, way: Way, like: Opened, role: str) -> Opened | HypervisorError:
        link = self._open(way, role)
        if isinstance(link, HypervisorError):
            return link
        self._enter("setting its keep-alive")
        ready = attempt(link.raw, "open", lambda: self._guard(way, (link,)))
        if isinstance(ready, HypervisorError):
            return ready
        return Opened(link, link, like.driver, like.version, keep_alive=ready)

    def _open(self, way: Way, role: str) -> Link | HypervisorError:
        self._enter("waiting for libvirt to answer")
        way.beneath.begin()
        with self._lock:
            self._dialling = True
        raw = attempt(None, "open", lambda: self._dial(way))
        with self._lock:
            self._dialling = False
        if isinstance(raw, HypervisorError):
            return way.explain(raw)
        link = Link(self._target.node, role, raw, way.beneath.grip())
        with self._lock:
            self._links.append(link)
        if way.sign_in is not None and not way.sign_in.asked:
            return not_asked(self._journey)
        return self._tuned(way, link)

    def _dial(self, way: Way) -> Any:
        if way.sign_in is not None:
            flags = libvirt.VIR_CONNECT_RO if self._target.read_only else 0
            return libvirt.openAuth(way.text, way.sign_in.request(), flags)
        return libvirt.openReadOnly(way.text) if self._target.read_only else libvirt.open(way.text)

    def _tuned(self, way: Way, link: Link) -> Link | HypervisorError:
        self._enter("setting its socket's options")
        if link.held is None and way.must_hold:
            # Without the options a late command could be carried out after our death: no such session.
            return HostFailed("what carries libvirt's connection was not found, so it cannot be made safe")
        if link.held is not None:
            link.held.tune()
        return link

    def _prepare(self, way: Way, observe: Link, change: Link) -> bool:
        """Events, the end's report, and keep-alive (returned: whether there is any)."""
        self._feed.subscribe(observe.raw, observe.registered)
        return self._guard(way, (observe,) if observe is change else (observe, change))

    def _guard(self, way: Way, links: tuple[Link, ...]) -> bool:
        """Every link reports its end: a session is over when any of them is."""
        for link in links:
            with contextlib.suppress(libvirt.libvirtError):  # some drivers have no end to report
                link.raw.registerCloseCallback(self._feed.closed, None)
        if not way.keep_alive:
            return False
        for link in links:
            link.raw.setKeepAlive(KEEP_ALIVE_INTERVAL_S, KEEP_ALIVE_COUNT)
        return True

    def _enter(self, phase: str) -> None:
        with self._lock:
            if self._abandoned:
                raise _Abandoned
            self.phase = phase


def _ask(raw: Any) -> tuple[str, int]:
    return raw.getType().lower(), raw.getLibVersion()
