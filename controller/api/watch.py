"""watch: one store watch for each resource, fanned out to any number of clients through bounded queues.

A client names the revision it has seen and gets every change after it, in order, none twice: from the
hub's history when that reaches back far enough, else from a store watch of its own until it does. A client
that does not read fast enough, or asks for a revision that is compacted, is told to list again (410
Expired) and dropped; it never makes the server grow or others wait. An event is encoded once for each form
in which it is served, however many clients read it. A value that cannot be read makes no event: for all
that clients know the object is as it was (I11).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from controller.api import errors
from controller.api.resources import Resource
from controller.objects import StoredObject
from controller.watching import watching
from drivers.errors import Compacted, StoreError
from drivers.store import Change, Store

log = logging.getLogger(__name__)

HISTORY: Final = 4096  # events kept for clients that resume
HISTORY_BYTES: Final = 16 << 20
QUEUE_BYTES: Final = 8 << 20  # of one client; events are shared between clients
_RETRY_S: Final = 1.0


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


@dataclass(eq=False, slots=True)
class Subscription:
    """One client's queue. `end` is why no more will come. `own`: the server's own, which counts as none."""

    limit: int
    own: bool = False
    size: int = 0
    queue: deque[Event] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    end: errors.ApiError | None = None

    def offer(self, event: Event) -> None:
        """Queue it, or drop a client that is too slow."""
        if len(self.queue) >= self.limit or self.size > QUEUE_BYTES:
            self.queue.clear()
            self.close(errors.expired("too old resource version: the watcher did not keep up; list again"))
        else:
            self.queue.append(event)
            self.size += event.size
            self.wake.set()

    def close(self, why: errors.ApiError) -> None:
        self.end = why
        self.wake.set()

    async def next(self, timeout_s: float) -> list[Event]:
        """What came since the last call; empty when nothing came for `timeout_s`. Raises ApiError at the
        end."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.wake.wait()
        except TimeoutError:
            if not self.wake.is_set():  # it may have been set in the very moment of the time-out
                return []
        if self.queue:
            batch = list(self.queue)
            self.queue.clear()
            self.size = 0
            if self.end is None:
                self.wake.clear()
            return batch
        assert self.end is not None
        raise self.end


class Hub:
    """The changes of one resource. Starts with its first client and then goes on."""

    def __init__(self, store: Store, resource: Resource, queue_limit: int) -> None:
        self._store = store
        self._resource = resource
        self._queue_limit = queue_limit
        self._clients: set[Subscription] = set()
        self._history: deque[Event] = deque()
        self._history_bytes = 0
        self._floor = 0  # the history holds every event after this revision
        self._revision = 0  # everything up to here has been handed on
        self._task: asyncio.Task[None] | None = None

    @property
    def revision(self) -> int:
        """Everything up to here has been offered to every subscription."""
        return self._revision

    @property
    def clients(self) -> int:
        return sum(not client.own for client in self._clients)

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._close_all(errors.unavailable("the server is shutting down"))
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def begin(self, after: int) -> None:
        """See to it that the hub runs, and that a client may begin after revision `after`. Raises ApiError
        (410) for a revision that the store has not reached: it is from another store's life."""
        if self._task is None:
            self._floor = self._revision = after
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
        """A queue of everything after revision `after`, which the history reaches."""
        subscription = Subscription(self._queue_limit, own)
        subscription.queue.extend(e for e in self._history if e.revision > after)
        if subscription.queue:
            subscription.wake.set()
        self._clients.add(subscription)
        return subscription

    def detach(self, subscription: Subscription) -> None:
        self._clients.discard(subscription)

    async def _run(self) -> None:
        """Whatever ends it, nobody waits for events that will not come, and the next client starts anew."""
        why = errors.unavailable("the watch failed: watch again")
        try:
            why = await self._follow()
        except Exception:  # the boundary of this task: its clients must hear of it
            log.exception("watching failed", extra={"resource": self._resource.qualified})
        finally:
            self._close_all(why)
            self._history.clear()
            self._history_bytes = 0
            self._task = None

    async def _follow(self) -> errors.ApiError:
        """Hand on changes as long as they can be had. Returns why they no longer can."""
        while True:
            try:
                async with watching(self._store, self._resource.prefix, self._revision) as changes:
                    async for change_set in changes:
                        for change in change_set.changes:
                            self._hand_on(_event(self._resource, change))
                        self._revision = change_set.revision
                        self._clients = {c for c in self._clients if c.end is None}
                log.warning("the store ended a watch", extra={"resource": self._resource.qualified})
            except Compacted:
                return _too_old(self._revision)
            except StoreError as error:
                log.warning(
                    "watching the store failed",
                    extra={"resource": self._resource.qualified, "error": error.message},
                )
            await asyncio.sleep(_RETRY_S)

    def _close_all(self, why: errors.ApiError) -> None:
        for client in self._clients:
            client.close(why)
        self._clients.clear()

    def _hand_on(self, event: Event) -> None:
        self._history.append(event)
        self._history_bytes += event.size
        while len(self._history) > HISTORY or self._history_bytes > HISTORY_BYTES:
            oldest = self._history.popleft()
            self._history_bytes -= oldest.size
            self._floor = oldest.revision  # what is left of that revision is in no client's way
        for client in self._clients:
            if client.end is None:
                client.offer(event)


def _event(resource: Resource, change: Change) -> Event:
    kv, previous = change.kv, change.previous
    now = resource.read(kv) if change.kind == "put" else None
    before = None if previous is None else resource.read(previous)
    created = change.kind == "put" and kv.create_revision == kv.mod_revision
    size = len(kv.key) + len(kv.value) + (0 if previous is None else len(previous.value))
    return Event(kv.mod_revision, size, kv.key, created, now, before)


def _too_old(revision: int) -> errors.ApiError:
    return errors.expired(f"too old resource version: {revision}")
