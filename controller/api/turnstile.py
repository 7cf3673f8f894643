"""Turns: how the API's work leaves room on the loop for the controller's.

All of a replica runs on one event loop. A thousand requests or watchers that become ready in the same moment
would run one after the other before the loop looks at anything else; so each takes a turn first, and only
some are let through in one round of the loop. How many follows from how long rounds last: fewer after a long
one, more after a short one. What was there first goes first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

_LONG_S: Final = 0.008  # a round that lasted longer was too full
_SHORT_S: Final = 0.004
_MOST: Final = 64


class Turnstile:
    """`now`: monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._each_round = 8
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._round_at: float | None = None

    async def turn(self) -> None:
        """Returns when there is room for one more in this round of the loop."""
        loop = asyncio.get_running_loop()
        if self._round_at is None:
            self._round_at, self._passed = self._now(), 0
            loop.call_soon(self._next_round)
        if not self._waiting and self._passed < self._each_round:
            self._passed += 1
            return
        future = loop.create_future()
        self._waiting.append(future)
        await future

    def _next_round(self) -> None:
        now = self._now()
        lasted = now - (self._round_at or now)
        if lasted > _LONG_S:
            self._each_round = max(1, self._each_round // 2)
        elif lasted < _SHORT_S and self._waiting:
            self._each_round = min(_MOST, self._each_round * 2)
        self._passed = 0
        while self._waiting and self._passed < self._each_round:
            future = self._waiting.popleft()
            if not future.done():  # else whoever waited has gone
                future.set_result(None)
                self._passed += 1
        if self._passed or self._waiting:
            self._round_at = now
            asyncio.get_running_loop().call_soon(self._next_round)
        else:
            self._round_at = None
