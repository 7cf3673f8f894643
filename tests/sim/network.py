"""The simulated network: who reaches whom, how long a message takes, and what is in flight.

Names are those of replicas (c1), hosts (h1) and "etcd". Between two names there is a link; it is cut or not,
in both directions. A `Pipe` is one direction of one TCP connection: it keeps order, loses nothing while both
ends live, and holds what was sent into a cut until the link heals and the sender tries again, which takes the
longer the longer it was silent (as TCP's retransmission does). What a cut catches on its way counts as not
arrived. An end that is gone says so by `drop`: then what had not arrived never will.

Latencies are drawn from the network's own random numbers; they alone make the interleavings of a run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

Deliver = Callable[[], None]
Pair = tuple[str, str]


@dataclass(slots=True)
class Pace:
    """How long messages take: most of them between `fastest_s` and `slowest_s`, one in `tail_every` up to
    `tail_s`. After a cut of T seconds the first retransmission comes within `resend_s` + `resend` x T."""

    fastest_s: float = 0.0002
    slowest_s: float = 0.003
    tail_s: float = 0.08
    tail_every: int = 25
    resend_s: float = 0.2
    resend: float = 0.5


def pair_of(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


class Network:
    """All links. `clock` is the loop's time."""

    def __init__(self, rng: Random, clock: Callable[[], float], pace: Pace | None = None) -> None:
        self.clock = clock
        self.pace = pace or Pace()
        self._random = rng.random
        self._cut: set[Pair] = set()
        self._isolated: set[str] = set()
        self._dark: set[str] = set()
        self._followers: dict[Pair, dict[object, Callable[[bool], None]]] = {}
        self._broken = False  # whether any link is: the usual answer of `up` without a look

    # --- faults

    def cut(self, a: str, b: str) -> None:
        self._change(lambda: self._cut.add(pair_of(a, b)))

    def heal(self, a: str, b: str) -> None:
        self._change(lambda: self._cut.discard(pair_of(a, b)))

    def isolate(self, name: str) -> None:
        """Cut `name` from everybody, until `rejoin` or `heal_all`."""
        self._change(lambda: self._isolated.add(name))

    def rejoin(self, name: str) -> None:
        self._change(lambda: self._isolated.discard(name))

    def heal_all(self) -> None:
        """Every cut and every isolation ends; machines without power stay dark."""

        def everything() -> None:
            self._cut.clear()
            self._isolated.clear()

        self._change(everything)

    def darken(self, name: str) -> None:
        """The machine lost its power: a black hole, until `lighten`."""
        self._change(lambda: self._dark.add(name))

    def lighten(self, name: str) -> None:
        self._change(lambda: self._dark.discard(name))

    def _change(self, change: Callable[[], None]) -> None:
        before = {pair: self.up(*pair) for pair in self._followers}
        change()
        self._broken = bool(self._cut or self._isolated or self._dark)
        for pair, was in before.items():
            now_up = self.up(*pair)
            if was != now_up:
                for follow in list(self._followers.get(pair, {}).values()):
                    follow(now_up)

    # --- use

    def up(self, a: str, b: str) -> bool:
        if not self._broken:
            return True
        apart = self._isolated or self._dark
        if apart and not {a, b}.isdisjoint(self._isolated | self._dark):
            return False
        return pair_of(a, b) not in self._cut

    def latency_s(self) -> float:
        pace, draw = self.pace, self._random()
        if draw * pace.tail_every < 1.0:
            return pace.slowest_s + draw * pace.tail_every * (pace.tail_s - pace.slowest_s)
        return pace.fastest_s + draw * (pace.slowest_s - pace.fastest_s)

    def resend_s(self, silent_s: float) -> float:
        """How long after a cut ends a sender that was `silent_s` without an answer tries again."""
        return self._random() * (self.pace.resend_s + self.pace.resend * silent_s)

    async def pass_(self, a: str, b: str) -> None:
        """One message's way; waits while the link is cut, for the caller to bound."""
        began, loop = self.clock(), asyncio.get_running_loop()
        while True:
            if self.up(a, b):
                arrived: asyncio.Future[None] = loop.create_future()
                loop.call_later(self.latency_s(), _settle, arrived, True)
                await arrived
                if self.up(a, b):
                    return
            healed: asyncio.Future[None] = loop.create_future()
            self.follow(healed, a, b, partial(_settle, healed))
            try:
                await healed
            finally:
                self.unfollow(healed, a, b)
            await asyncio.sleep(self.resend_s(self.clock() - began))

    def follow(self, who: object, a: str, b: str, told: Callable[[bool], None]) -> None:
        """Call `told` whenever the link goes (False) or comes back (True)."""
        self._followers.setdefault(pair_of(a, b), {})[who] = told

    def unfollow(self, who: object, a: str, b: str) -> None:
        self._followers.get(pair_of(a, b), {}).pop(who, None)

    def pipe(self, source: str, target: str) -> Pipe:
        return Pipe(self, source, target)


def _settle(healed: asyncio.Future[None], up: bool) -> None:
    if up and not healed.done():
        healed.set_result(None)


class Pipe:
    """One direction of a connection. `on_stuck` is told when the oldest message that did not arrive was sent,
    once the link is cut and there is one. Whoever owns the pipe passes cuts on to it (`link`)."""

    __slots__ = ("_due_at", "_network", "_resend", "_timers", "_waiting", "on_stuck", "source", "target")

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self.source = source
        self.target = target
        self.on_stuck: Callable[[float], None] | None = None
        self._waiting: deque[tuple[float, Deliver]] = deque()
        self._timers: deque[asyncio.TimerHandle] = deque()
        self._due_at = 0.0
        self._resend: asyncio.TimerHandle | None = None

    @property
    def oldest_at(self) -> float | None:
        """When the oldest message was sent that has not arrived."""
        return self._waiting[0][0] if self._waiting else None

    def send(self, deliver: Deliver) -> None:
        now = self._network.clock()
        self._waiting.append((now, deliver))
        if self._resend is None and self._network.up(self.source, self.target):
            self._launch(now)
        elif self.on_stuck is not None and len(self._waiting) == 1:
            self.on_stuck(now)

    def _launch(self, now: float) -> None:
        self._due_at = max(self._due_at, now + self._network.latency_s())
        self._timers.append(asyncio.get_running_loop().call_at(self._due_at, self._arrive))

    def _arrive(self) -> None:
        self._timers.popleft()
        _, deliver = self._waiting.popleft()
        deliver()

    def link(self, up: bool) -> None:
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None
        if up:
            silent_s = self._network.clock() - self._waiting[0][0] if self._waiting else 0.0
            wait_s = self._network.resend_s(silent_s)
            self._resend = asyncio.get_running_loop().call_later(wait_s, self._resume)
            return
        while self._timers:
            self._timers.popleft().cancel()
        if self._waiting and self.on_stuck is not None:
            self.on_stuck(self._waiting[0][0])

    def _resume(self) -> None:
        self._resend = None
        now = self._network.clock()
        for _ in self._waiting:
            self._launch(now)

    def drop(self) -> None:
        """An end is gone: what has not arrived never will."""
        while self._timers:
            self._timers.popleft().cancel()
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None
        self._waiting.clear()

    def drop_unsent(self) -> None:
        """The sender reset the connection: what is on the wire arrives, what waits in its kernel is gone."""
        if not self._timers:
            self.drop()
