"""Opening: a thread that may get stuck anywhere, and a deadline that it cannot miss.

libvirt's open has no time-out: 134 s into a black hole, for ever on a frozen daemon. So an `Opening` runs
in a thread of its own: resolve the name, probe the port, open both connections, find and tune their
sockets, set keep-alive, subscribe to events. A session's further connections are opened in the same way, one
at a time. Whoever waits for it gives it up at the deadline; its
sockets are then shut down until the thread ends, which takes milliseconds. A thread that cannot be freed
(in the resolver) counts as lost until it ends by itself, and is never waited for.

At most one opening to an address is under way in a process: that is what makes its sockets recognisable,
and what bounds the lost threads to one an address.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Any

import libvirt

from drivers.errors import HostFailed, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import Target
from drivers.libvirt.capabilities import DRIVERS, Driver
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR
from drivers.libvirt.events import Feed
from drivers.libvirt.link import Link, attempt
from drivers.libvirt.sockets import Peer, Sockets, free_number, resolve
from specs.uri import ParsedUri

PROBE_TIMEOUT_S = 3.0
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

    @property
    def links(self) -> tuple[Link, ...]:
        return (self.observe,) if self.observe is self.change else (self.observe, self.change)


class _Abandoned(Exception):
    """Nobody waits for this opening any more."""


class Opening:
    """One attempt. `run` is the thread's; `abandon` and `phase` are for the asyncio side. `more`: only one
    more connection, such as these, for a role: it is both links of what is handed over."""

    def __init__(
        self,
        target: Target,
        uri: ParsedUri,
        feed: Feed,
        sockets: Sockets,
        more: tuple[Opened, str] | None = None,
    ) -> None:
        self._more = more
        self._target = target
        self._uri = uri
        self._feed = feed
        self._sockets = sockets
        self._peer: Peer | None = None
        self._lock = threading.Lock()  # of the three below
        self._abandoned = False
        self._links: list[Link] = []
        self._start: int | None = None  # while libvirt is opening a socket: where to look for it
        self.phase = "waiting for an earlier attempt to end"

    def run(self) -> Opened | HypervisorError:
        """Blocking. What was opened is closed again unless it is handed over."""
        answer: Opened | HypervisorError
        try:
            answer = self._run()
        except _Abandoned:
            answer = Unreachable("given up")
        except OSError as error:
            answer = Unreachable(f"{self.phase}: {error}", code=SYSTEM_ERROR, origin=FROM_RPC)
        if isinstance(answer, HypervisorError):
            for link in self._links:
                link.dismantle()
        return answer

    def abandon(self) -> None:
        """Never blocks. To be called again until the thread has ended: it may only now be connecting."""
        with self._lock:
            self._abandoned = True
            links, start = tuple(self._links), self._start
        for link in links:
            link.sever()
        if start is not None and self._peer is not None:
            dialling = self._sockets.claim(self._peer, start)
            if dialling is not None:
                dialling.sever()
                dialling.release()

    def _run(self) -> Opened | HypervisorError:
        self._find_peer()
        if self._more is not None:
            return self._one_more(*self._more)
        observe = self._open("observe")
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
        change = observe if driver.one_world else self._open("change")
        if isinstance(change, HypervisorError):
            return change
        self._enter("subscribing to events")
        ready = attempt(observe.raw, "open", lambda: self._prepare(observe, change))
        if isinstance(ready, HypervisorError):
            return ready
        return Opened(observe, change, driver, version, keep_alive=ready)

    def _one_more(self, like: Opened, role: str) -> Opened | HypervisorError:
        link = self._open(role)
        if isinstance(link, HypervisorError):
            return link
        self._enter("setting its keep-alive")
        ready = attempt(link.raw, "open", lambda: self._guard((link,)))
        if isinstance(ready, HypervisorError):
            return ready
        return Opened(link, link, like.driver, like.version, keep_alive=ready)

    def _find_peer(self) -> None:
        if self._uri.transport == "unix":
            self._peer = Peer(frozenset(), self._uri.socket)
        if self._uri.transport != "tcp":
            return
        self._enter("resolving its name")
        self._peer = resolve(self._uri.host, self._uri.port)
        self._enter("connecting to its port")
        with socket.create_connection((self._uri.host, self._uri.port), timeout=PROBE_TIMEOUT_S):
            self._enter("connecting")

    def _open(self, role: str) -> Link | HypervisorError:
        self._enter("waiting for libvirt to answer")
        start = free_number()
        with self._lock:
            self._start = start
        dial = libvirt.openReadOnly if self._target.read_only else libvirt.open
        raw = attempt(None, "open", lambda: dial(self._uri.text))
        with self._lock:
            self._start = None
        if isinstance(raw, HypervisorError):
            return raw
        held = None if self._peer is None else self._sockets.claim(self._peer, start)
        link = Link(f"libvirt-{self._target.node}-{role}", raw, held)
        with self._lock:
            self._links.append(link)
        return self._tuned(link)

    def _tuned(self, link: Link) -> Link | HypervisorError:
        self._enter("setting its socket's options")
        if link.held is None and self._uri.transport == "tcp":
            # Without the options a late command could be carried out after our death: no such session.
            return HostFailed("libvirt's own socket was not found, so it cannot be made safe")
        if link.held is not None:
            link.held.tune()
        return link

    def _prepare(self, observe: Link, change: Link) -> bool:
        """Events, the end's report, and keep-alive (returned: whether there is any)."""
        self._feed.subscribe(observe.raw, observe.registered)
        return self._guard((observe,) if observe is change else (observe, change))

    def _guard(self, links: tuple[Link, ...]) -> bool:
        """Every link reports its end: a session is over when any of them is."""
        for link in links:
            with contextlib.suppress(libvirt.libvirtError):  # some drivers have no end to report
                link.raw.registerCloseCallback(self._feed.closed, None)
        if self._uri.transport == "local":
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
