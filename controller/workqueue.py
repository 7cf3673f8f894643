"""The work queue: which keys must be looked at again, and when. client-go's semantics on asyncio.

Place in the flow: events, watches and timers `add` keys; the reconciler takes those that are ready as one
batch, plans for them together, and calls `done` for each. A key is held once however often it is added; a key
that is added while it is being processed is queued again at `done`, never processed twice at a time.
A failed key comes back by `retry` after an exponential back-off whose jitter is a hash of (key, attempt),
so that the same history gives the same instants.

An `add` during a back-off makes the key ready at once, as in client-go: looking is always free. Whether to
*act* before the back-off ended is the plan's business, which asks `retry_at` (no hot loop over a spec that
libvirt rejects). Not here: values, priorities, workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

JITTER: Final = 0.25  # a delay is shortened by up to this part, so that failures do not come back in step
TAKEN_AT_ONCE: Final = 1024  # at fifty thousand keys the taking alone would hold the event loop


class QueueMeter(Protocol):
    """Where the queue reports to (`controller.metrics`)."""

    def added(self, depth: int) -> None: ...
    def retried(self) -> None: ...
    def taken(self, depth: int, waited_s: float) -> None: ...
    def finished(self, worked_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    base_s: float = 1.0
    max_s: float = 300.0


def backoff_delay(key: str, attempt: int, backoff: Backoff) -> float:
    """Seconds before attempt number `attempt` (from 1): doubled each time, capped, then shortened by a
    jitter that depends on nothing but the arguments."""
    full = backoff.max_s if attempt > 32 else min(backoff.max_s, backoff.base_s * 2.0 ** (attempt - 1))
    digest = hashlib.blake2b(f"{key}\x00{attempt}".encode(), digest_size=4).digest()
    return full * (1.0 - JITTER * int.from_bytes(digest, "big") / 2**32)


class WorkQueue:
    """For one event loop; every method but `wait` is immediate. `now` must be the loop's clock."""

    def __init__(self, now: Callable[[], float], meter: QueueMeter, backoff: Backoff) -> None:
        self._now = now
        self._meter = meter
        self._backoff = backoff
        self._ready: dict[str, float] = {}  # key -> when it was added; in order of arrival
        self._processing: dict[str, float] = {}  # key -> when it was taken
        self._again: dict[str, float] = {}  # added while being processed
        self._due: dict[str, float] = {}  # delayed key -> its earliest instant
        self._heap: list[tuple[float, str]] = []  # may hold entries that `_due` no longer knows
        self._attempts: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def add(self, key: str) -> None:
        if self._closed:
            return
        queue = self._again if key in self._processing else self._ready
        if key in queue:
            return
        queue[key] = self._now()
        self._meter.added(len(self._ready))
        self._wake.set()

    def add_after(self, key: str, delay_s: float) -> None:
        """Add `key` once `delay_s` has passed; of several delays the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self._now() + delay_s
        known = self._due.get(key)
        if self._closed or (known is not None and known <= due):
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))
        self._wake.set()

    def retry(self, key: str) -> float:
        """Add `key` again after its next back-off; returns the delay in seconds. Also call `done`."""
        attempt = self._attempts.get(key, 0) + 1
        self._attempts[key] = attempt
        delay_s = backoff_delay(key, attempt, self._backoff)
        self._retry_at[key] = self._now() + delay_s
        self._meter.retried()
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: str) -> None:
        """`key` succeeded: its next failure starts from the shortest back-off. A delay under way stays."""
        self._attempts.pop(key, None)
        self._retry_at.pop(key, None)

    def clear_backoff(self, keys: Iterable[str]) -> None:
        """What kept `keys` from succeeding is gone (their node came back): those backing off are ready."""
        for key in keys:
            if self._retry_at.get(key) is not None:
                self._due.pop(key, None)
                self.add(key)
            self.forget(key)

    def attempts(self, key: str) -> int:
        """Failures in a row."""
        return self._attempts.get(key, 0)

    def retry_at(self, key: str) -> float | None:
        """The instant before which `key` should not be acted on, or None when no back-off is under way."""
        at = self._retry_at.get(key)
        return at if at is not None and at > self._now() else None

    def take(self, at_most: int = TAKEN_AT_ONCE) -> tuple[str, ...]:
        """Take ready keys, in order of arrival; each is being processed until `done`."""
        self._promote()
        now = self._now()
        taken = dict(itertools.islice(self._ready.items(), at_most))
        for key, added_at in taken.items():
            del self._ready[key]
            self._processing[key] = now
            self._meter.taken(len(self._ready), now - added_at)
        return tuple(taken)

    def done(self, key: str) -> None:
        """Processing ended, well or not. Does nothing for a key that was not taken."""
        taken_at = self._processing.pop(key, None)
        if taken_at is None:
            return
        self._meter.finished(self._now() - taken_at)
        added_at = self._again.pop(key, None)
        if added_at is not None and not self._closed:
            self._ready[key] = added_at
            self._meter.added(len(self._ready))
            self._wake.set()

    async def wait(self) -> bool:
        """Return True as soon as a key is ready; False once the queue was shut down."""
        while not self._closed:
            self._promote()
            if self._ready:
                return True
            self._wake.clear()
            pause_s = max(0.0, self._heap[0][0] - self._now()) if self._heap else None
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
        return False

    def shut_down(self) -> None:
        """Take nothing more; what is being processed may still be `done`."""
        self._closed = True
        self._ready.clear()
        self._again.clear()
        self._due.clear()
        self._heap.clear()
        self._wake.set()

    @property
    def is_closed(self) -> bool:
        """It was shut down: nothing is to be begun any more."""
        return self._closed

    @property
    def depth(self) -> int:
        return len(self._ready)

    @property
    def delayed(self) -> int:
        return len(self._due)

    @property
    def processing(self) -> int:
        return len(self._processing)

    def unfinished_s(self) -> float:
        """The summed age of everything being processed."""
        now = self._now()
        return sum(now - taken_at for taken_at in self._processing.values())

    def longest_running_s(self) -> float:
        return self._now() - min(self._processing.values()) if self._processing else 0.0

    def _promote(self) -> None:
        """Make ready what is due; drop heap entries that were overtaken."""
        now = self._now()
        while self._heap:
            due, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
                continue
            if due > now:
                return
            heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
