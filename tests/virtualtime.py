"""Virtual time for tests of the shell: an event loop whose clock jumps to the next timer instead of waiting.

`run` drives a coroutine to its end on such a loop. Everything that asks the loop for the time (sleep,
timeout, call_later) sees hours pass in milliseconds, always in the same order.

What would break the order is refused: threads, and calls from threads. When all wait for something that
nobody will do, `Deadlock` names who waits where; when nothing waits and no time passes, `Livelock` ends it.
Real sockets do not belong here.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from controller.world import World

START_S = 1000.0
MAX_ROUNDS = 1_000_000  # of the loop, at one instant

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(AssertionError):
    """Without timers and without ready callbacks nothing can ever happen."""


class Livelock(AssertionError):
    """Callbacks make each other ready for ever, and the clock stands still."""


class _Clock(selectors.SelectSelector):
    """Waiting is moving the clock on."""

    now_s = START_S
    rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("everything waits for something that nobody will do: " + _waiting())
        self.rounds = 0 if timeout > 0 else self.rounds + 1
        if self.rounds > MAX_ROUNDS:
            raise Livelock(f"{MAX_ROUNDS} rounds of the loop at {self.now_s}: " + _waiting())
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        self._owner = threading.get_ident()
        super().__init__(self._clock)
        self.set_debug(False)  # it looks for calls from threads, which are refused anyhow, and takes time

    def time(self) -> float:
        return self._clock.now_s

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        raise AssertionError(f"no threads in virtual time: {func}")

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """From the loop's own thread it is `call_soon`: a signal's handler ends a run so."""
        assert threading.get_ident() == self._owner, f"no threads in virtual time: {callback}"
        return self.call_soon(callback, *args, context=context)


def _waiting() -> str:
    tasks = []
    for task in asyncio.all_tasks(asyncio.get_running_loop()):
        frames = task.get_stack(limit=1)
        where = f" at {frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else ""
        tasks.append(f"{task.get_name()}{where}")
    return ", ".join(sorted(tasks)) or "no task"


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def world() -> World:
    """The running loop's clock, its wall clock counted from noon of a fixed day, counted ids, and a processor
    that computes at no cost."""
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)

    def wall() -> str:
        seconds = int(loop.time() - START_S)
        return f"2026-01-02T{12 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"

    return World(
        now=loop.time,
        wall=wall,
        new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012}",
        cpu=lambda: 0.0,
    )
