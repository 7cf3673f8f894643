"""A session's circuit: its connections to one host, how a call runs on one of them, and their one end.

Every call runs whole in one worker thread of its connection's lane and is bounded by its limit. When that
passes, the caller is told at once (CallTimedOut; for a mutation that was sent: Ambiguous), and the
*connection* is asked for a sign of life, a call that needs no domain:

- it answers: only the call is lost (a stuck guest, a job lock). Its slot stays taken until libvirt lets go;
  when all slots of one of the first two connections are lost in this way the circuit is worthless, and ends;
- it does not: the circuit ends, the sockets are shut down, and that frees the threads.

Calls that share a connection are sent by whichever thread waits for its answers, and libvirt's client before
10.0 can lose the word that there is one more to send (`moving` tells how). So a call that joins others and
has no answer after NUDGE_S is followed by a sign of life, whose sending sends what was forgotten.

A mutation is sent only if its permit still holds at the last moment, in the worker thread, by the same
clock that the permit was given by (safety: I4). Which outcome an error means stands in `errors`; what was
never sent is Failed. Nothing here reconnects or retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from drivers.errors import CallTimedOut, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import HostEvent, Outcome, Permit, Result, SessionClosed, Target
from drivers.libvirt.consoles import Consoles
from drivers.libvirt.deadlines import Deadlines
from drivers.libvirt.events import Feed
from drivers.libvirt.lane import DeadlinePassed, Gate, start_thread
from drivers.libvirt.link import Link, attempt
from drivers.libvirt.moving import Another, Moving
from drivers.libvirt.opening import Opened
from drivers.libvirt.reads import Clock
from drivers.libvirt.sending import Call, Reply, Sending, result_of, send
from specs.uri import ParsedUri

NUDGE_S = 0.05

T = TypeVar("T")

CallMeter = Callable[[str, str, str, float], None]  # node, call, result, seconds
Tell = Callable[[tuple[HostEvent | SessionClosed, ...]], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session is given besides its connections."""

    target: Target
    uri: ParsedUri
    feed: Feed
    clock: Clock
    deadlines: Deadlines
    meter: CallMeter
    another: Another
    consoles: Consoles


class Circuit:
    """Used on the asyncio loop alone. `observe` is for reads and events, `change` for mutations; `more` has
    the further connections. `tell` hears all events, and the end as the last of them."""

    def __init__(self, opened: Opened, given: Surroundings, tell: Tell) -> None:
        self.given = given
        self.observe = opened.observe
        self.change = opened.change
        self.more = Moving(given.another)
        self.closed_because = ""
        self._tell = tell
        self._main = opened.links
        self._questions: dict[Link, asyncio.Task[None]] = {}  # signs of life being waited for
        self._dismantled = asyncio.Event()
        given.feed.start(self._deliver)

    @property
    def is_open(self) -> bool:
        return not self.closed_because

    @property
    def _links(self) -> tuple[Link, ...]:
        return self._main + self.more.links

    def is_used(self, *, beside: int = 0) -> bool:
        """Whether more calls than `beside` are under way on the first two connections."""
        return sum(link.lane.in_flight for link in self._main) > beside

    @property
    def overdue_calls(self) -> int:
        """Calls given up that still hold a thread."""
        return sum(link.lane.overdue + link.sign_of_life.overdue for link in self._links)

    async def read(self, call: str, limit_s: float, work: Callable[[Any], T], link: Link | None = None) -> T:
        if self.closed_because:
            raise self.closed()
        link, started_at = link or self.observe, self.given.clock()
        try:
            with self._nudged(link):
                answer = await link.lane.run(
                    functools.partial(attempt, link.raw, call, lambda: work(link.raw)), limit_s
                )
        except DeadlinePassed as passed:
            self._suspect(link, passed)
            answer = CallTimedOut(f"{call}: no answer within {limit_s:g} s")
        result = type(answer).__name__ if isinstance(answer, HypervisorError) else "done"
        self.given.meter(self.given.target.node, call, result, self.given.clock() - started_at)
        if isinstance(answer, HypervisorError):
            self._end_if_unreachable(answer)
            raise answer
        return answer

    async def mutate(
        self,
        call: str,
        limit_s: float,
        permit: Permit,
        prepare: Callable[[Any], Call],
        link: Link | None = None,
    ) -> Result:
        """`prepare` finds the domain and returns the one C call that changes something."""
        if self.given.target.read_only:
            return Result(Outcome.REJECTED, Unsupported("the node is read-only"))
        if self.closed_because:
            return Result(Outcome.FAILED, self.closed())
        link, gate, started_at = link or self.change, Gate(), self.given.clock()
        work = functools.partial(send, Sending(link.raw, call, prepare, gate, permit, self.given.clock))
        try:
            with self._nudged(link):
                reply = await link.lane.run(work, limit_s)
        except DeadlinePassed as passed:
            self._suspect(link, passed)
            sent = not gate.shut()
            reply = Reply(sent, CallTimedOut(f"{call}: no answer within {limit_s:g} s"))
        except asyncio.CancelledError:
            gate.shut()  # what nobody waits for any more is not begun
            raise
        result = result_of(reply)
        self.given.meter(self.given.target.node, call, result.outcome.value, self.given.clock() - started_at)
        if result.error is not None:
            self._end_if_unreachable(result.error)
        return result

    async def for_agent(self) -> Link | None:
        """A connection for a call that waits for a guest's agent; None where none can be had, and the call
        must make do with the one for changes."""
        if self.closed_because or self.given.target.read_only:
            return None
        try:
            return await self.more.agent()
        except HypervisorError:
            return None

    async def close(self) -> None:
        """Bounded. Calls still in flight fail, mutations among them with outcome Ambiguous."""
        self._end("client")
        with contextlib.suppress(TimeoutError):  # a thread that even this does not free is lost
            async with asyncio.timeout(2 * self.given.deadlines.close_s):
                await self._dismantled.wait()

    @contextlib.contextmanager
    def _nudged(self, link: Link) -> Iterator[None]:
        """Around a call: it is not to wait for the others on its connection to be answered."""
        if not link.lane.is_busy:
            yield
            return
        nudge = asyncio.get_running_loop().call_later(NUDGE_S, self._nudge, link)
        try:
            yield
        finally:
            nudge.cancel()

    def _nudge(self, link: Link) -> None:
        if self.is_open and link.sign_of_life.has_free_slot:
            work = functools.partial(attempt, link.raw, "nudge", link.raw.getLibVersion)
            nudge = asyncio.create_task(link.sign_of_life.run(work, self.given.deadlines.sign_of_life_s))
            nudge.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody asks

    def _suspect(self, link: Link, passed: DeadlinePassed) -> None:
        """A call's deadline passed on `link`: is it the call, or the connection?"""
        if link.lane.is_clogged and link in self._main:
            self._end("error")
        elif passed.started and link not in self._questions and self.is_open:
            self._questions[link] = asyncio.create_task(self._ask_for_sign_of_life(link))

    async def _ask_for_sign_of_life(self, link: Link) -> None:
        work = functools.partial(attempt, link.raw, "sign-of-life", link.raw.getLibVersion)
        try:
            answer = await link.sign_of_life.run(work, self.given.deadlines.sign_of_life_s)
        except DeadlinePassed:
            self._end("keepalive")
            return
        finally:
            self._questions.pop(link, None)
        if isinstance(answer, HypervisorError):
            self._end("error")

    def closed(self) -> Unreachable:
        return Unreachable(f"the session is closed ({self.closed_because})")

    def _end_if_unreachable(self, error: HypervisorError) -> None:
        if isinstance(error, Unreachable):
            self._end("error")

    def _deliver(self, events: tuple[HostEvent, ...], closed: str) -> None:
        """From the feed. A batch that came with the end is delivered before it."""
        if events and self.is_open:
            self._tell(events)
        if closed:
            self._end(closed)

    def _end(self, reason: str) -> None:
        """Once: no call begins any more, those under way fail, and the sink is told."""
        if self.closed_because:
            return
        self.closed_because = reason
        self.more.close()
        self.given.consoles.close(f"the session is closed ({reason})")
        last: tuple[HostEvent | SessionClosed, ...] = (
            *self.given.feed.stop(),
            SessionClosed(reason, self.given.clock()),
        )
        graceful = reason == "client" and not any(link.lane.is_busy for link in self._links)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._tell, last)
        for question in self._questions.values():
            if question is not asyncio.current_task():
                question.cancel()
        if graceful:
            loop.call_later(self.given.deadlines.close_s, self._sever)
        else:
            self._sever()
        dismantle = functools.partial(_dismantle, self._links, loop, self._dismantled)
        if not start_thread("libvirt-close", dismantle):
            self._sever()  # after which it does not block
            dismantle()

    def _sever(self) -> None:
        for link in self._links:
            link.sever()


def _dismantle(links: tuple[Link, ...], loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    for link in links:
        link.dismantle()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(done.set)
