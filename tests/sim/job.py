"""The job lock of one domain on one host: what changes a domain is done one after the other.

libvirtd serialises define, create, destroy and undefine of one domain with it (45 of 45 raced trials), also
for a domain that does not exist any more or not yet. Who waits longer than LOCK_S gives up with error 68. A
few holders give way: a command that waits for a stuck guest, and a migration, end when the guest is killed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LOCK_S = 30.0
ARRIVAL = "migration in"  # who holds it on a migration's target
DEPARTURE = "migration out"


class JobLock:
    """First come, first served. `yields` is what to do to make the holder let go, if it can be made to. Who
    has it knows its turn, a number above 0, and cannot let go of another's."""

    __slots__ = ("_turn", "_waiting", "held_by", "yields")

    def __init__(self) -> None:
        self.held_by = ""
        self.yields: Callable[[], None] | None = None
        self._turn = 0
        self._waiting: deque[tuple[asyncio.Future[int], str]] = deque()

    async def acquire(self, what: str) -> int:
        """The turn, or 0 after LOCK_S."""
        if not self.held_by:
            return self._give(what)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[int] = loop.create_future()
        self._waiting.append((turn, what))
        limit = loop.call_later(LOCK_S, _give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(turn.result())
            raise
        finally:
            limit.cancel()

    def _give(self, what: str) -> int:
        self.held_by = what
        self._turn += 1
        return self._turn

    def release(self, turn: int) -> None:
        if turn != self._turn or not self.held_by:
            return
        self.held_by, self.yields = "", None
        while self._waiting:
            waiting, what = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(self._give(what))
                return


def _give_up(turn: asyncio.Future[int]) -> None:
    if not turn.done():
        turn.set_result(0)
