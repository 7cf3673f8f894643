"""A session's further connections: for migrations, for what waits for a guest's agent, and for jobs.

A migration holds its call for as long as it takes, minutes perhaps, so migrations have connections of their
own: one is opened at a session's first migration, and another whenever all slots of those there are taken,
up to MAX_MOVING. libvirt waits up to a minute for a guest's agent, or for the end that it was asked for, so
those calls have up to MAX_AGENTS of their own, too: agents that are no use delay no other change, and clog
nothing that a session cannot do without. A question after the job of a domain goes to its QEMU while that
migrates, and one that is stuck keeps it for ever; so those have one more connection, which may be clogged
without harm. All of them are opened as the first two are (deadline, socket options, keep-alive), stay as
long as the session, and end it when they end: they lead to the same daemon.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from types import TracebackType

from drivers.errors import HostFailed, Unreachable
from drivers.libvirt.lane import SLOTS, start_thread
from drivers.libvirt.link import Link

MAX_MOVING = 4  # connections for migrations, SLOTS calls on each
MAX_AGENTS = 4  # as many for agents

Another = Callable[[str], Awaitable[Link]]  # opens one for this role; raises HypervisorError


def too_many_migrations() -> HostFailed:
    return HostFailed(f"{MAX_MOVING * SLOTS} migrations leave this host already: none more is sent")


class Moving:
    """Used on the asyncio loop alone. A link that it returned has a free slot until the caller waits."""

    def __init__(self, another: Another) -> None:
        self._another = another
        self._adding = asyncio.Lock()
        self._movers: list[Link] = []
        self._agents: list[Link] = []
        self._aside: Link | None = None
        self._closed = False

    @property
    def links(self) -> tuple[Link, ...]:
        return (*self._movers, *self._agents, *(() if self._aside is None else (self._aside,)))

    async def mover(self) -> Link:
        """One with a free slot. Raises HypervisorError."""
        async with self._adding:
            for link in self._movers:
                if link.lane.has_free_slot:
                    return link
            if len(self._movers) >= MAX_MOVING:
                raise too_many_migrations()
            self._movers.append(await self._opened("migrate"))
            return self._movers[-1]

    async def agent(self) -> Link:
        """One for a call to an agent, with a free slot unless all are taken. Raises HypervisorError."""
        async with self._adding:
            for link in self._agents:
                if link.lane.has_free_slot:
                    return link
            if len(self._agents) < MAX_AGENTS:
                self._agents.append(await self._opened("agents"))
            return self._agents[-1]

    async def aside(self) -> Link:
        """The one for jobs. Raises HypervisorError."""
        if self._aside is None:
            async with self._adding:
                if self._aside is None:
                    self._aside = await self._opened("jobs")
        return self._aside

    def close(self) -> None:
        """The session ended: what is still being opened is closed again."""
        self._closed = True

    async def _opened(self, role: str) -> Link:
        link = await self._another(role)
        if self._closed:
            link.sever()
            start_thread("libvirt-close", functools.partial(link.dismantle))
            raise Unreachable("the session is closed")
        return link


class Asked:
    """Who was asked and has not answered: noted now, and struck when the thread that asks is done, however
    late that is, or by `unless_begun` where none ever was."""

    def __init__(self, asking: set[str], uuid: str) -> None:
        self._asking, self._uuid = asking, uuid
        self._begun = False
        asking.add(uuid)

    def __enter__(self) -> None:
        self._begun = True

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._asking.discard(self._uuid)

    def unless_begun(self) -> None:
        if not self._begun:
            self._asking.discard(self._uuid)
