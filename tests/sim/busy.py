"""How busy simulated hosts and guests are: the port's figures, as a session is told of them.

They draw nothing and send nothing through the network, so that a seed tells the same story with and without
them; what they meet is true all the same. A host that is cut off, frozen or starting answers when it can, or
too late; a guest that is stuck keeps the call that comes to it, and those after it pass it by, two at most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from drivers.errors import CallTimedOut, HostBusy
from drivers.hypervisor import DomainFigures, Figures, HostFigures
from drivers.libvirt.lane import SLOTS
from tests.sim import definition
from tests.sim.domain import SimDomain

if TYPE_CHECKING:
    from tests.sim.host import SimHost
    from tests.sim.hypervisor import SimSession

ANSWER_S = 0.002
LOOK_S = 0.5
MOST_KEPT = 2


class Asker:
    """Of one session."""

    def __init__(self, session: SimSession, host: SimHost, client: str) -> None:
        self._session = session
        self._host = host
        self._client = client
        self._keeping: dict[SimDomain, None] = {}  # guests that keep a call

    async def figures(self, limit_s: float) -> Figures:
        session, clock = self._session, self._session.clock
        for kept in [guest for guest in self._keeping if not _is_stuck(guest)]:
            del self._keeping[kept]
        observe, change = session.connections[:2]
        if observe.free < SLOTS or change.free < SLOTS or len(self._keeping) >= MOST_KEPT:
            raise HostBusy("figures: the host has other questions to answer")
        sent_at = clock()
        await asyncio.sleep(ANSWER_S)
        met: SimDomain | None = None
        while not self._is_reached() or (met := self._met(met)) is not None:
            if clock() - sent_at >= limit_s:
                raise CallTimedOut(f"figures: no answer within {limit_s:g} s")
            await asyncio.sleep(LOOK_S)
        return Figures(sent_at, clock(), tuple(self._domains()), self._of_host())

    def _is_reached(self) -> bool:
        """Raises Unreachable once the session has ended."""
        if not self._session.is_open:
            raise self._session.closed()
        host = self._host
        return host.daemon == "up" and host.network.up(self._client, host.name)

    def _met(self, before: SimDomain | None) -> SimDomain | None:
        """The guest that keeps this call: the one that it met `before`, or the next that keeps no other."""
        if before is not None and _is_stuck(before):
            return before
        guests = self._host.domains.values()
        met = next((guest for guest in guests if _is_stuck(guest) and guest not in self._keeping), None)
        if met is not None:
            self._keeping[met] = None
        return met

    def _domains(self) -> list[DomainFigures]:
        told = []
        for guest in self._host.domains.values():
            if guest.live is not None:
                given = definition.known(guest.live).memory_bytes
                used = None if guest.stuck else given + (8 << 20)
                told.append(DomainFigures(guest.uuid, self._session.clock() / 4, given, used))
        return told

    def _of_host(self) -> HostFigures:
        return HostFigures(self._session.clock(), 2 << 30, 64 << 30)


def _is_stuck(guest: SimDomain) -> bool:
    return guest.stuck and guest.live is not None and not guest.gone
