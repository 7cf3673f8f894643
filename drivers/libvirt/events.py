"""From libvirt's callbacks, in the native loop's thread, to the asyncio loop, in batches.

One `Feed` serves one session. Its callbacks note what happened and ask for one delivery, however many
events come before asyncio gets round to it; what the observer does with them cannot hold libvirt's loop
up. Nothing is delivered before `start`, so that events of the opening come after the session they belong
to. Events are not dropped: a witness of a domain's end (safety: I22) must not be lost silently, so when
more than MAX_WAITING wait, the feed gives up and its session closes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import libvirt

from drivers.hypervisor import EventKind, HostEvent
from drivers.libvirt.records import close_reason, event_of

MAX_WAITING = 10_000

Deliver = Callable[[tuple[HostEvent, ...], str], None]  # the events, and why the connection closed or ""


class Feed:
    """Callbacks for libvirt, deliveries for asyncio."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[HostEvent] = deque()
        self._closed = ""  # the first reason given
        self._asked = False
        self._deliver: Deliver | None = None

    def start(self, deliver: Deliver) -> None:
        """On the asyncio loop: from now on `deliver` is called there."""
        with self._lock:
            self._deliver = deliver
            ask = self._should_ask()
        if ask:
            self._loop.call_soon(self._hand_over)

    def stop(self) -> tuple[HostEvent, ...]:
        """Take what was not delivered yet; what comes later is for nobody."""
        with self._lock:
            rest = tuple(self._waiting)
            self._deliver = None
            self._waiting.clear()
        return rest

    def subscribe(self, raw: Any, registered: list[int]) -> None:
        """Register everything a session wants to know with its observing connection; the numbers to
        deregister by are added to `registered`."""
        wanted = (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, self._metadata),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._agent),
        )
        for event, callback in wanted:
            registered.append(raw.domainEventRegisterAny(None, event, callback, None))

    def closed(self, _raw: Any, reason: int, _opaque: object) -> None:
        """libvirt's close callback."""
        with self._lock:
            self._closed = self._closed or close_reason(reason)
            ask = self._should_ask()
        self._ask(ask)

    def _lifecycle(self, _raw: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        kind, word = event_of(event, detail)
        self._note(HostEvent(domain.UUIDString(), domain.name(), kind, word, self._clock()))

    def _metadata(self, _raw: Any, domain: Any, *_what: object) -> None:
        self._note(
            HostEvent(domain.UUIDString(), domain.name(), EventKind.OTHER, "metadata-change", self._clock())
        )

    def _agent(self, _raw: Any, domain: Any, *_what: object) -> None:
        """Somebody in the guest has opened the agent's channel, or closed it."""
        self._note(HostEvent(domain.UUIDString(), domain.name(), EventKind.OTHER, "agent", self._clock()))

    def _note(self, event: HostEvent) -> None:
        with self._lock:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(event)
            else:
                self._closed = self._closed or "error"
            ask = self._should_ask()
        self._ask(ask)

    def _should_ask(self) -> bool:
        """With the lock held: whether a delivery is to be asked for (once, until it happens)."""
        if self._asked or self._deliver is None or not (self._waiting or self._closed):
            return False
        self._asked = True
        return True

    def _ask(self, ask: bool) -> None:
        if ask and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._hand_over)
            except RuntimeError:  # closed between the two: nobody is left to tell
                return

    def _hand_over(self) -> None:
        with self._lock:
            self._asked = False
            deliver, events, closed = self._deliver, tuple(self._waiting), self._closed
            self._waiting.clear()
        if deliver is not None:
            deliver(events, closed)
