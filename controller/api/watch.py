"""watch: one store watch for each resource, read by any number of clients out of one bounded history.

A client names the revision it has seen and gets every change after it, in order, none twice: from the
hub's history when that reaches back far enough, else from a store watch of its own until it does. A client
that does not read fast enough, or asks for a revision that is compacted, is told to list again (410
Expired) and dropped. Nothing is queued for a client: it is a place in the history, so that however many
there are and however slow, they make the server not grow. A value that cannot be read makes no event: for
all that clients know the object is as it was (I11).

What a thousand clients cost is how often each of them is written to. So events are published in batches,
the further apart the more clients there are; all who keep up read the same batches, which
`controller.api.frames` puts into bytes once for each view.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Final

from controller.api import errors
from controller.api.frames import Frames
from controller.api.resources import Resource
from controller.objects import StoredObject
from controller.watching import watching
from drivers.errors import Compacted, StoreError
from drivers.store import Change, Store

log = logging.getLogger(__name__)

HISTORY: Final = 4096  # events kept for clients that resume
HISTORY_BYTES: Final = 16 << 20
LAG_BYTES: Final = 8 << 20  # that a client may be behind; well below what is kept
BATCH: Final = 100  # events taken at once
BATCH_BYTES: Final = 256 << 10  # after which a batch ends; what is written to one client in one go
_ENCODED: Final = 512  # of the newest events, whose encoded forms are kept
_PACE_S: Final = 0.0001  # between two publications, for each client: what writing to one takes
_MAX_PACE_S: Final = 0.1
_RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # how often who waits for news looks whether its client is still there


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object. `now` is None for a deletion. `size`: about how many bytes it holds.
    `encoded` caches its forms."""

    revision: int
    size: int
    key: str
    created: bool
    now: StoredObject | None
    before: StoredObject | None
    encoded: dict[object, bytes] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events `start` to `end` (exclusive), counted from the hub's first. Who keeps up is given the same ones.
    `limit` is where it would have ended but for its size, in bytes."""

    start: int
    end: int
    limit: int
    size: int
    events: Sequence[Event]


class Subscription:
    """One client's place in the history. `own`: the server's own, which counts as none."""

    def __init__(self, hub: Hub, at: int, own: bool) -> None:
        self._hub = hub
        self._at = at
        self._passed = hub.bytes_before(at)
        self.own = own
        self.end: errors.ApiError | None = None

    @property
    def is_current(self) -> bool:
        """Whether all that was published has been taken, and more may come."""
        return self.end is None and self._at >= self._hub.published_to

    async def wait(self) -> bool:
        """Whether there is something to take; False now and then when there is not (LOOK_S), for whoever
        waits to look whether it is still worth while. A thousand watchers share the hub's one timer."""
        if self.is_current:
            await self._hub.news()
        return not self.is_current

    def take(self) -> Batch:
        """The next events, as many as go into one write. Raises ApiError when no more will come, or this
        client was too slow."""
        if self.end is not None:
            raise self.end
        if self._hub.is_behind(self._at, self._passed):
            raise errors.expired("too old resource version: the watcher did not keep up; list again")
        batch = self._hub.batch(self._at)
        self._at = batch.end
        self._passed += batch.size
        return batch


class Hub:
    """The changes of one resource. Starts with its first client and then goes on. `frames` is for those
    who read them."""

    def __init__(self, store: Store, resource: Resource, lag_limit: int) -> None:
        self._store = store
        self._resource = resource
        self._lag_limit = lag_limit
        self._clients: set[Subscription] = set()
        self.frames = Frames()
        self._history: list[Event] = []
        self._first = 0  # the number of the first event of the history
        self._bytes_gone = 0  # of all events before it
        self._bytes = 0  # of all events ever
        self._floor = 0  # the history holds every event after this revision
        self._revision = 0  # everything up to here has come
        self.published_to = 0  # the number before which clients may take
        self._published_revision = 0
        self._published_at = 0.0
        self._publishing: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._latest = Batch(0, 0, 0, 0, ())
        self._task: asyncio.Task[None] | None = None

    @property
    def revision(self) -> int:
        """Everything up to here has been published."""
        return self._published_revision

    @property
    def clients(self) -> int:
        return sum(not client.own for client in self._clients)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._close_all(errors.unavailable("the server is shutting down"))
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def begin(self, after: int) -> None:
        """See to it that the hub runs, and that a client may begin after revision `after`. Raises ApiError
        (410) for a revision that the store has not reached: it is from another store's life."""
        if self._task is None:
            self._floor = self._revision = self._published_revision = after
            self._task = asyncio.create_task(self._run(), name=f"watch-{self._resource.qualified}")
        elif after > self._revision:
            page = await self._store.page(self._resource.prefix, limit=1)
            if after > page.revision:
                raise _too_old(after)

    def reaches(self, after: int) -> bool:
        """Whether a subscription after revision `after` would miss nothing."""
        return after >= self._floor

    async def catch_up(self, after: int) -> AsyncGenerator[tuple[list[Event], int], None]:
        """For a client that the history does not reach: events from the store itself, with the revision up
        to which they are complete. Raises ApiError (410), StoreError."""
        try:
            async with watching(self._store, self._resource.prefix, after) as changes:
                async for change_set in changes:
                    yield [_event(self._resource, c) for c in change_set.changes], change_set.revision
        except Compacted:
            raise _too_old(after) from None

    def attach(self, after: int, *, own: bool = False) -> Subscription:
        """A place after revision `after`, which the history reaches."""
        at = self._total
        for event in reversed(self._history):
            if event.revision <= after:
                break
            at -= 1
        subscription = Subscription(self, at, own)
        self._clients.add(subscription)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        return subscription

    def detach(self, subscription: Subscription) -> None:
        self._clients.discard(subscription)

    async def news(self) -> None:
        """Returns when there is news of any kind, or was none for long."""
        await self._news.wait()

    def bytes_before(self, number: int) -> int:
        return self._bytes_gone + sum(e.size for e in self._history[: number - self._first])

    def is_behind(self, at: int, passed: int) -> bool:
        """Whether a client at that number, which has passed so many bytes, is too slow to be served."""
        lag, lag_bytes = self._total - at, self._bytes - passed
        return at < self._first or lag > self._lag_limit or (lag > 1 and lag_bytes > LAG_BYTES)

    def batch(self, at: int) -> Batch:
        """What was published from number `at` on, up to a bound."""
        end = min(at + BATCH, self.published_to)
        if (self._latest.start, self._latest.limit) == (at, end):
            return self._latest
        found: list[Event] = []
        size = 0
        for event in self._history[at - self._first : end - self._first]:
            found.append(event)
            size += event.size
            if size >= BATCH_BYTES:
                break
        self._latest = Batch(at, at + len(found), end, size, found)
        return self._latest

    async def _run(self) -> None:
        """Whatever ends it, nobody waits for events that will not come, and the next client starts anew."""
        why = errors.unavailable("the watch failed: watch again")
        try:
            why = await self._follow()
        except Exception:  # the boundary of this task: its clients must hear of it
            log.exception("watching failed", extra={"resource": self._resource.qualified})
        finally:
            self._close_all(why)
            self._forget(len(self._history))
            self._task = None

    async def _follow(self) -> errors.ApiError:
        """Hand on changes as long as they can be had. Returns why they no longer can."""
        while True:
            try:
                async with watching(self._store, self._resource.prefix, self._revision) as changes:
                    async for change_set in changes:
                        for change in change_set.changes:
                            self._append(_event(self._resource, change))
                        self._revision = change_set.revision
                        self._publish_soon()
                log.warning("the store ended a watch", extra={"resource": self._resource.qualified})
            except Compacted:
                return _too_old(self._revision)
            except StoreError as error:
                log.warning(
                    "watching the store failed",
                    extra={"resource": self._resource.qualified, "error": error.message},
                )
            await asyncio.sleep(_RETRY_S)

    @property
    def _total(self) -> int:
        return self._first + len(self._history)

    def _close_all(self, why: errors.ApiError) -> None:
        for client in self._clients:
            client.end = why
        self._clients.clear()
        self._publish()

    def _append(self, event: Event) -> None:
        self._history.append(event)
        self._bytes += event.size
        while len(self._history) > HISTORY or self._bytes - self._bytes_gone > HISTORY_BYTES:
            # What is left of the revision of the last one that goes is in no client's way.
            self._floor = self._history[0].revision
            self._forget(1)
        if len(self._history) > _ENCODED:
            self._history[-_ENCODED - 1].encoded.clear()

    def _forget(self, count: int) -> None:
        self._bytes_gone += sum(event.size for event in self._history[:count])
        self._first += count
        del self._history[:count]

    def _publish_soon(self) -> None:
        """At once after a pause, else when the pause is over that so many clients want."""
        if self._publishing is not None:
            return
        loop = asyncio.get_running_loop()
        due = self._published_at + min(_MAX_PACE_S, len(self._clients) * _PACE_S)
        if self._total == self.published_to or loop.time() >= due:
            self._publish()
        else:
            self._publishing = loop.call_at(due, self._publish)

    def _publish(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        self._published_at = asyncio.get_running_loop().time()
        self.published_to, self._published_revision = self._total, self._revision
        self._wake()

    def _look(self) -> None:
        """Wake whoever has waited for long."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK_S, self._look) if self._clients else None
        if loop.time() - self._published_at >= LOOK_S:
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _event(resource: Resource, change: Change) -> Event:
    kv, previous = change.kv, change.previous
    now = resource.read(kv) if change.kind == "put" else None
    before = None if previous is None else resource.read(previous)
    created = change.kind == "put" and kv.create_revision == kv.mod_revision
    size = len(kv.key) + len(kv.value) + (0 if previous is None else len(previous.value))
    return Event(kv.mod_revision, size, kv.key, created, now, before)


def _too_old(revision: int) -> errors.ApiError:
    return errors.expired(f"too old resource version: {revision}")
