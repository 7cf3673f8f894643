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


class JobLock:
    """First come, first served. `yields` is what to do to make the holder let go, if it can be made to."""

    __slots__ = ("_waiting", "held_by", "yields")

    def __init__(self) -> None:
        self.held_by = ""
        self.yields: Callable[[], None] | None = None
        self._waiting: deque[tuple[asyncio.Future[bool], str]] = deque()

    def take(self, what: str) -> bool:
        """Only if it is free."""
        if self.held_by:
            return False
        self.held_by = what
        return True

    async def acquire(self, what: str) -> bool:
        """False after LOCK_S."""
        if self.take(what):
            return True
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((turn, what))
        limit = loop.call_later(LOCK_S, _give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.release()
            raise
        finally:
            limit.cancel()

    def release(self) -> None:
        self.held_by, self.yields = "", None
        while self._waiting:
            turn, what = self._waiting.popleft()
            if not turn.done():
                self.held_by = what
                turn.set_result(True)
                return


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
