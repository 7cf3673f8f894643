"""Processes in one event loop: what a replica's tasks do can be stopped as a whole, and never go on.

A process is a `Process` in the context of its tasks. SIGSTOP is its gate closing: its tasks take no further
step, while the network, hosts and etcd go on and answers pile up, and timers pass; SIGCONT lets it take all
steps that are due, with a clock that has moved on. SIGKILL is a gate that does not open again, before the
run is over and everything is buried.

Only steps of tasks are held. Tasks that the simulated world sets going for a process (a message under way)
are the world's, and go on: they are known by where their code stands.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, TypeVarTuple, Unpack

from tests.virtualtime import MAX_ROUNDS, VirtualLoop

GLANCE_S = 1e-9
Ts = TypeVarTuple("Ts")

HERE = str(Path(__file__).parent)
OWN = {str(Path(__file__).parent / name) for name in ("cluster.py", "doors.py", "process.py")}


class Process:
    """One process: `runs` until it is stopped or killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = True
        self.went_on_at = float("-inf")
        self.held: list[_Handle] = []

    async def going_on(self) -> None:
        """Until it runs: a task of it that was stopped in the middle of a step."""
        while not self.runs:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.held.append(_Handle(_settle, (waiting,), copy_context()))
            await waiting

    def hear(self, callback: Callable[[], None]) -> None:
        """What another's code calls in this process: at once, or when it goes on."""
        if self.runs:
            callback()
        else:
            self.held.append(_Handle(callback, (), copy_context()))


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Handle:
    """A callback, with what anybody asks of asyncio's handles and timers: to be cancelled. A run makes some
    forty thousand."""

    __slots__ = ("args", "callback", "context")

    def __init__(
        self, callback: Callable[..., object] | None, args: tuple[Any, ...], context: Context
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None


class ProcessLoop(VirtualLoop):
    """Virtual time with processes in it. Looking at the clock takes a moment, so that two looks differ, as
    two looks at a real one do. Its rounds are asyncio's own without what virtual time has no use for: there
    are no sockets, and no thread can come in between."""

    _ready: deque[_Handle]  # type: ignore[assignment]  # asyncio's own queue of callbacks
    _stopping: bool  # as its `stop` says

    def __init__(self) -> None:
        super().__init__()
        self._stopped = 0
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = 0
        self.set_task_factory(_make_task)

    def time(self) -> float:
        clock = self._clock
        clock.now_s = now_s = clock.now_s + GLANCE_S
        return now_s

    def stop_process(self, process: Process) -> None:
        if process.runs:
            process.runs = False
            self._stopped += 1

    def go_on(self, process: Process) -> None:
        if not process.runs:
            process.runs = True
            process.went_on_at = self.time()
            self._stopped -= 1
            for handle in process.held:
                self._ready.append(handle)
            process.held.clear()

    def call_soon(  # type: ignore[override]  # as much of a handle as is used
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> _Handle:
        handle = _Handle(callback, args, copy_context() if context is None else context)
        if self._stopped and context is not None and isinstance(_owner(callback), asyncio.Task):
            process = context.get(PROCESS)
            if process is not None and not process.runs:
                process.held.append(handle)
                return handle
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        timer = _Handle(callback, args, copy_context() if context is None else context)
        self._numbers += 1
        heappush(self._timers, (when, self._numbers, timer))
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> _Handle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Not one round, as asyncio's own, but all until it is told to stop."""
        timers, ready, clock = self._timers, self._ready, self._clock
        rounds = 0  # at one instant
        while not self._stopping:
            if ready:
                rounds += 1
                assert rounds < MAX_ROUNDS, f"the clock stands still at {clock.now_s}"
            else:
                rounds = 0
                while timers and timers[0][2].callback is None:
                    heappop(timers)
                if not timers:
                    clock.select(None)  # raises: nothing can ever happen
                clock.now_s = max(clock.now_s, timers[0][0])
            now_s = clock.now_s
            while timers and timers[0][0] <= now_s:
                ready.append(heappop(timers)[2])
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle.callback is None:
                    continue
                try:
                    handle.context.run(handle.callback, *handle.args)
                except Exception as error:  # noqa: BLE001 - as asyncio's own handles do
                    told = {"message": "Exception in callback", "exception": error, "handle": handle}
                    self.call_exception_handler(told)


@contextmanager
def loop_of_processes() -> Iterator[tuple[asyncio.Runner, ProcessLoop]]:
    """For one run. Garbage is collected when it is over: a run is short, and would look through all of
    itself again and again."""
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=ProcessLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, ProcessLoop)
            yield runner, loop
    finally:
        gc.enable()


def _owner(callback: object) -> object:
    return getattr(callback, "__self__", None)


@cache
def _is_the_worlds(filename: str) -> bool:
    return filename.startswith(HERE) and filename not in OWN


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    context: Context | None = None,
) -> asyncio.Task[Any]:
    if context is None and PROCESS.get() is not None:
        code = getattr(coro, "cr_code", None)
        if code is not None and _is_the_worlds(code.co_filename):
            context = Context()
    return asyncio.Task(coro, loop=loop, context=context)
