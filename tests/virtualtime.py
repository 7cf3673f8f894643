"""Virtual time for tests of the shell: an event loop whose clock jumps to the next timer instead of waiting.

`run` drives a coroutine to its end on such a loop. Everything that asks the loop for the time (sleep,
timeout, call_later) sees hours pass in milliseconds, always in the same order. Real sockets and threads do
not belong on it.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from controller.world import World

START_S = 1000.0

T = TypeVar("T")


class _Clock(selectors.SelectSelector):
    """Waiting is moving the clock on. Without timers and without ready callbacks nothing can ever happen."""

    now_s = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that nobody will do"
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)
        self.slow_callback_duration = float("inf")

    def time(self) -> float:
        return self._clock.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def world() -> World:
    """The running loop's clock, its wall clock counted from noon of a fixed day, and counted ids."""
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)

    def wall() -> str:
        seconds = int(loop.time() - START_S)
        return f"2026-01-02T{12 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"

    return World(now=loop.time, wall=wall, new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012}")
