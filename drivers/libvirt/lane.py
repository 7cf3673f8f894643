"""A lane: the worker threads of one connection, and the only door from asyncio to libvirt's blocking calls.

Every lane has at most SLOTS calls in flight, because a libvirt connection runs five at once and makes the
sixth wait (the fifth is left for the sign of life, see `session`). Its threads are its own: a stuck node
never takes a thread that another node needs (safety: I16). They are daemons, made when needed and gone
after IDLE_S without work, so that thousands of quiet nodes cost none.

A thread cannot be cancelled. When a call's deadline passes, its caller is told at once; the thread, and
with it the slot, comes back when libvirt lets go of it, at the latest when the session closes and shuts
the socket down. A `Gate` decides, once and for all, whether a mutation was sent: the caller that gives up
shuts it, the thread passes it just before the C call, and only one of them is first.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

SLOTS = 4
IDLE_S = 20.0

T = TypeVar("T")


class Gate:
    """Whether a call was sent. `enter` is the thread's, `shut` the caller's; the first one wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken_by = ""

    def enter(self) -> bool:
        """True: go on, it counts as sent from now. False: the caller has given up, do not send."""
        return self._take("thread")

    def shut(self) -> bool:
        """True: it was never sent, and never will be. False: it was, or is just being, sent."""
        return self._take("caller")

    def _take(self, who: str) -> bool:
        with self._lock:
            self._taken_by = self._taken_by or who
            return self._taken_by == who


class DeadlinePassed(Exception):
    """No answer in time. `started` tells whether the call had a thread at all (there is none when the
    slots stay taken, nor when the system has no more of them)."""

    def __init__(self, *, started: bool) -> None:
        super().__init__()
        self.started = started


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    overdue: bool = False


def start_thread(name: str, work: Callable[[], None]) -> bool:
    """A daemon thread; False when the system has none to give."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


class Lane:
    """At most `slots` calls at once, each bounded by its caller's deadline."""

    def __init__(self, name: str, slots: int = SLOTS) -> None:
        self._name = name
        self._slots = slots
        self._free = asyncio.Semaphore(slots)
        self._jobs: queue.SimpleQueue[_Job[object]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)
        self._working = 0
        self._closed = False
        self._idle = 0
        self._overdue = 0
        self._in_flight = 0

    @property
    def is_busy(self) -> bool:
        """Some call holds a thread."""
        return self._in_flight > 0

    @property
    def in_flight(self) -> int:
        """Calls that hold a thread."""
        return self._in_flight

    @property
    def has_free_slot(self) -> bool:
        return not self._free.locked()

    @property
    def overdue(self) -> int:
        """Calls that passed their deadline and still hold a thread and a slot."""
        return self._overdue

    @property
    def is_clogged(self) -> bool:
        """All slots are held by calls that passed their deadline."""
        return self._overdue >= self._slots

    def close(self, within_s: float) -> bool:
        """In a thread: begin no work any more, and wait for what is under way. False: some still is."""
        with self._quiet:
            self._closed = True
            return self._quiet.wait_for(lambda: self._working == 0, within_s)

    async def run(self, work: Callable[[], T], deadline_s: float) -> T:
        """Run `work` in a thread. Raises DeadlinePassed, and whatever `work` raises. The deadline counts
        once for the wait for a slot and, started anew, once for the work itself: a call is not to time
        out because those before it were slow."""
        if self._free.locked():
            await self._wait_for_slot(deadline_s)
        else:
            await self._free.acquire()  # returns without waiting
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(work, loop, loop.create_future())
        if not self._submit(job):
            self._free.release()
            raise DeadlinePassed(started=False)
        self._in_flight += 1
        try:
            async with asyncio.timeout(deadline_s):
                return await job.future
        except TimeoutError:
            self._overdue += 1
            job.overdue = True
            raise DeadlinePassed(started=True) from None

    async def _wait_for_slot(self, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await self._free.acquire()
        except TimeoutError:
            raise DeadlinePassed(started=False) from None

    def _submit(self, job: _Job[T]) -> bool:
        with self._lock:
            waiting = self._idle > 0
            if waiting:
                self._idle -= 1
        if not waiting and not start_thread(self._name, self._work):
            return False
        self._jobs.put(job)  # type: ignore[arg-type]
        return True

    def _work(self) -> None:
        while True:
            job = self._next()
            if job is None:
                return
            with self._lock:
                begins = not self._closed
                self._working += begins
            answer: object = None
            error: Exception | None = None if begins else DeadlinePassed(started=False)
            try:
                answer = job.work() if begins else None
            except Exception as raised:  # noqa: BLE001 - it belongs to the caller, in the other thread
                error = raised
            with self._quiet:
                self._idle += 1
                self._working -= begins
                self._quiet.notify_all()
            try:
                job.loop.call_soon_threadsafe(self._finish, job, answer, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del job, answer, error  # they hold libvirt handles, and those hold the connection

    def _next(self) -> _Job[object] | None:
        while True:
            try:
                return self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:  # else a job is promised to this thread and on its way
                        self._idle -= 1
                        return None

    def _finish(self, job: _Job[T], answer: T, error: BaseException | None) -> None:
        self._in_flight -= 1
        self._free.release()
        if job.overdue:
            self._overdue -= 1
        if job.future.done():
            return
        if error is None:
            job.future.set_result(answer)
        else:
            job.future.set_exception(error)
