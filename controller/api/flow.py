"""How much of the server one client may have, and how much all of them together.

Each identity has a rate, a number of requests that may be under way (its bodies and answers included, so that
they bound memory), and a number of watches. What is over a bound is refused at once with 429 and the
seconds after which to come again. All identities together share the seats in which requests are worked on;
free ones go round between the identities that wait, so that a hundred requests of one delay another's by one.
Administrators have no rate, for they are the ones who mend what runs away. Health, version and the
controller's own work ask for nothing here.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from controller.api import errors
from controller.api.rates import Buckets
from controller.api.rbac import ADMIN_GROUPS, User
from controller.limits import Bounds

_WAIT_S: Final = 20.0  # for a seat; longer and the client had better come again


class Passage:
    """One request's part of the bounds. Each end may be said more than once."""

    def __init__(self, flow: Flow, who: str) -> None:
        self._flow = flow
        self._who: str | None = who
        self._seated = False

    async def sit(self) -> None:
        """Take a seat: from here on the request works. Raises ApiError (429)."""
        assert self._who is not None
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._flow.seats.take(self._who)
        except TimeoutError:
            raise errors.too_many("the server is busy with other requests") from None
        self._seated = True

    def stand(self) -> None:
        """The work is done; what remains is to write the answer, or to watch."""
        if self._seated:
            self._seated = False
            self._flow.seats.give()

    def leave(self) -> None:
        self.stand()
        if self._who is not None:
            self._flow.left(self._who)
            self._who = None


class Flow:
    def __init__(self, now: Callable[[], float], bounds: Bounds) -> None:
        self._bounds = bounds
        self._buckets = Buckets(now, bounds.requests_per_second, bounds.requests_burst)
        self._under_way: Counter[str] = Counter()
        self._watches: Counter[str] = Counter()
        self.seats = Seats(bounds.requests_at_once)

    def enter(self, user: User) -> Passage:
        """Raises ApiError (429)."""
        who = user.name
        if self._under_way[who] >= self._bounds.requests_each:
            raise errors.too_many(
                f'"{who}" has {self._under_way[who]} requests under way, no more are served at once'
            )
        if not _is_admin(user) and (wait_s := self._buckets.wait_s(who)) > 0:
            rate = self._bounds.requests_per_second
            raise errors.too_many(f'"{who}" asks more often than {rate:g} times a second', math.ceil(wait_s))
        self._under_way[who] += 1
        return Passage(self, who)

    def left(self, who: str) -> None:
        _less(self._under_way, who)

    @contextmanager
    def watching(self, user: User) -> Iterator[None]:
        """Raises ApiError (429). A twentieth of them is administrators' alone."""
        open_now = self._watches[user.name]
        most = self._bounds.watchers - (0 if _is_admin(user) else self._bounds.watchers // 20)
        if sum(self._watches.values()) >= most:
            raise errors.too_many(f"{most} watches are open, no more are served at once")
        if open_now >= self._bounds.watchers_each and not _is_admin(user):
            raise errors.too_many(f'"{user.name}" has {open_now} watches open, no more are served at once')
        self._watches[user.name] += 1
        try:
            yield
        finally:
            _less(self._watches, user.name)


class Seats:
    """`free` seats, handed on in turn between the names that wait, first come first served within one."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, who: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give()  # it was given in the moment in which its taker went
            raise

    def give(self) -> None:
        while self._waiting:
            who = next(iter(self._waiting))
            queue = self._waiting.pop(who)
            future = queue.popleft()
            if queue:
                self._waiting[who] = queue  # behind the others
            if not future.done():
                future.set_result(None)
                return
        self._free += 1


def _is_admin(user: User) -> bool:
    return not ADMIN_GROUPS.isdisjoint(user.groups)


def _less(counter: Counter[str], who: str) -> None:
    counter[who] -= 1
    if counter[who] <= 0:
        del counter[who]
