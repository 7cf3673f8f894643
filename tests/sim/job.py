"""The job lock of one domain on one host: what changes a domain is done one after the other.

libvirtd serialises define, create, destroy and undefine of one domain with it (45 of 45 raced trials), also
for a domain that does not exist any more or not yet. It is not first come, first served: of an undefine and a
create that waited behind a migration the create, which came last, went first in 3 of 10 trials. Who waits
longer than LOCK_S gives up with error 68. A few holders give way: a command that waits for a stuck guest, and
a migration, end when the guest is killed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

LOCK_S = 30.0
OVERTAKES = 0.3  # how often the last of those that wait is the first
ARRIVAL = "migration in"  # who holds it on a migration's target
DEPARTURE = "migration out"


class JobLock:
    """Any of those that wait may be next. `yields` is what to do to make the holder let go, if it can be made
    to. Who has it knows its turn, a number above 0, and cannot let go of another's."""

    __slots__ = ("_rng", "_turn", "_waiting", "held_by", "yields")

    def __init__(self, rng: random.Random) -> None:
        self.held_by = ""
        self.yields: Callable[[], None] | None = None
        self._turn = 0
        self._rng = rng
        self._waiting: list[tuple[asyncio.Future[int], str]] = []

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
        self._waiting = [one for one in self._waiting if not one[0].done()]
        if self._waiting:
            last_first = len(self._waiting) > 1 and self._rng.random() < OVERTAKES
            waiting, what = self._waiting.pop(-1 if last_first else 0)
            waiting.set_result(self._give(what))


def _give_up(turn: asyncio.Future[int]) -> None:
    if not turn.done():
        turn.set_result(0)
