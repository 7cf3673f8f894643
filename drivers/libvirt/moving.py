"""A session's further connections: for migrations, for what waits for a guest's agent, and for jobs.

A migration holds its call for as long as it takes, minutes perhaps, and libvirt waits up to a minute for a
guest's agent, or for the end that it was asked for. So each of these calls has a connection to itself, of up
to MAX_MOVING and MAX_AGENTS: they delay no other change, and clog nothing that a session cannot do without.
To itself, because calls that share a connection share one thread's attention, and libvirt's client before
10.0 can lose the word that there is one more to send (its `g_main_loop_quit` may come before the loop runs):
the second migration was seen to begin only when the first had ended. A question after the job of a domain
goes to its QEMU while that migrates, and one that is stuck keeps it for ever; so those have one more
connection, which may be clogged without harm. All of them are opened as the first two are (deadline, socket
options, keep-alive), stay as long as the session, and end it when they end: they lead to the same daemon.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from types import TracebackType

from drivers.errors import HostFailed, Unreachable
from drivers.libvirt.lane import start_thread
from drivers.libvirt.link import Link

MAX_MOVING = 16
MAX_AGENTS = 16

Another = Callable[[str], Awaitable[Link]]  # opens one for this role; raises HypervisorError


def too_many_migrations() -> HostFailed:
    return HostFailed(f"{MAX_MOVING} migrations leave this host already: none more is sent")


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
            free = await self._free(self._movers, MAX_MOVING, "migrate")
        if free is None:
            raise too_many_migrations()
        return free

    async def agent(self) -> Link:
        """One for a call to an agent, with a free slot unless all are taken. Raises HypervisorError."""
        async with self._adding:
            free = await self._free(self._agents, MAX_AGENTS, "agents")
        return free or self._agents[-1]

    async def _free(self, links: list[Link], most: int, role: str) -> Link | None:
        for link in links:
            if link.lane.has_free_slot:
                return link
        if len(links) >= most:
            return None
        links.append(await self._opened(role))
        return links[-1]

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
