"""The Hypervisor port over simulated hosts, for one client: what `drivers.libvirt` is over real ones.

It keeps that driver's manners: two connections a session, at most SLOTS calls in flight on each, its very
deadlines and its table of outcomes; a domain is looked up before it is changed, the permit is looked at as
the last thing before a mutation leaves, and a call that was given up before is never sent. What was given up
after that keeps its slot until an answer comes. `on_sent` hears of every mutation in the moment it leaves: a
fault that is to meet a command on its way (a cut, a kill, a frozen daemon) begins there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from drivers.errors import (
    CallTimedOut,
    HypervisorError,
    PermitExpired,
    SpecRejected,
    Unreachable,
    Unsupported,
)
from drivers.hypervisor import (
    Capabilities,
    Detail,
    EventKind,
    EventSink,
    HostEvent,
    HostFacts,
    Listing,
    Mark,
    Outcome,
    Permit,
    Result,
    SessionClosed,
    StopMethod,
    Target,
)
from drivers.libvirt.capabilities import DRIVERS, public
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR, outcome
from drivers.libvirt.lane import SLOTS
from drivers.libvirt.session import MAX_MESSAGE_BYTES, Deadlines
from specs.uri import UriNotAllowed, parse_uri
from tests.sim import definition
from tests.sim.connection import Connection
from tests.sim.domain import dated
from tests.sim.host import SimHost
from tests.sim.network import Network

CAPABILITIES = public(DRIVERS["qemu"], 9_000_000, keep_alive=True)


@dataclass(frozen=True, slots=True)
class Sent:
    """A mutation leaves a client."""

    at: float
    client: str
    host: str
    call: str
    uuid: str


class SimHypervisor:
    """The port's Hypervisor for one client: one process of a replica."""

    def __init__(  # noqa: PLR0917 - all that it stands between
        self,
        client: str,
        hosts: Mapping[str, SimHost],
        network: Network,
        clock: Callable[[], float],
        rng: Random,
        on_sent: Callable[[Sent], None],
    ) -> None:
        self.client = client
        self.clock = clock
        self.on_sent = on_sent
        self.deadlines = Deadlines()
        self.rng = rng
        self.dead = False
        self._hosts = hosts
        self._network = network
        self._sessions: dict[SimSession, None] = {}
        self._opening: dict[Connection, None] = {}
        self._closed = False

    async def open(self, target: Target, sink: EventSink) -> SimSession:
        host = self._hosts.get(_host_of(target.uri))
        if host is None:
            raise Unreachable(f"{target.uri}: Name or service not known", code=SYSTEM_ERROR, origin=FROM_RPC)
        if self._closed:
            raise Unreachable("the driver is closed")
        observe, change = (Connection(self.client, host, self._network, _not_yet) for _ in range(2))
        self._opening[observe] = None
        self._opening[change] = None
        try:
            async with asyncio.timeout(self.deadlines.open_s):
                for connection in (observe, change):
                    await self._dial(connection)
        except BaseException as error:
            observe.close()
            change.close()
            if isinstance(error, TimeoutError):
                limit = f"{self.deadlines.open_s:g} s"
                raise Unreachable(f"{target.uri}: no connection within {limit}") from None
            raise
        finally:
            self._opening.pop(observe, None)
            self._opening.pop(change, None)
        session = SimSession(self, target, sink, observe, change)
        self._sessions[session] = None
        return session

    async def _dial(self, connection: Connection) -> None:
        came: asyncio.Future[HypervisorError | None] = asyncio.get_running_loop().create_future()

        def settle(answer: HypervisorError | None) -> None:
            if not came.done():
                came.set_result(answer)

        connection.ask("open", (), settle)
        answer = await came
        if answer is not None:
            raise answer
        connection.keep_alive()

    async def close(self) -> None:
        self._closed = True
        for connection in list(self._opening):
            connection.close()
        for session in list(self._sessions):
            await session.close()

    def forget(self, session: SimSession) -> None:
        self._sessions.pop(session, None)

    # --- the client's process

    def _connections(self) -> list[Connection]:
        return [*self._opening, *(one for session in self._sessions for one in session.connections)]

    def die(self) -> None:
        """SIGKILL: its kernel closes the sockets, and nothing is delivered any more."""
        self.dead = True
        for connection in self._connections():
            connection.die()

    def freeze(self) -> None:
        """SIGSTOP: its kernel goes on receiving, and nobody reads."""
        for connection in self._connections():
            connection.freeze()

    def thaw(self) -> None:
        for connection in self._connections():
            connection.thaw()


def _host_of(text: str) -> str:
    try:
        uri = parse_uri(text)
    except UriNotAllowed as refused:
        raise Unsupported(str(refused)) from None
    except ValueError as malformed:
        raise SpecRejected(str(malformed)) from None
    if uri.driver != "qemu":
        raise Unsupported(f"driver {uri.driver} is not simulated")
    return uri.host


def _not_yet(_connection: Connection, _why: str) -> None:
    """Lost while it is being opened: the dial says so."""


class SimSession:
    """The port's Session: made by SimHypervisor.open."""

    def __init__(
        self, owner: SimHypervisor, target: Target, sink: EventSink, observe: Connection, change: Connection
    ) -> None:
        self._owner = owner
        self._target = target
        self._sink = sink
        self._observe = observe
        self._change = change
        self.clock = owner.clock
        self._opened_at = owner.clock()
        self._closed_because = ""
        self._asked: dict[Connection, asyncio.TimerHandle] = {}  # signs of life being waited for
        observe.hear = self._hear
        for connection in (observe, change):
            connection.on_lost = self._lost
            if not connection.is_open:  # lost between its opening and now
                asyncio.get_running_loop().call_soon(self._end, "error")

    @property
    def target(self) -> Target:
        return self._target

    @property
    def opened_at(self) -> float:
        return self._opened_at

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def is_open(self) -> bool:
        return not self._closed_because

    @property
    def connections(self) -> tuple[Connection, Connection]:
        return self._observe, self._change

    # --- reads

    async def facts(self) -> HostFacts:
        facts: HostFacts = (await self._read("facts", (self._target.uri,), self._limits.facts_s))[1]
        return facts

    async def list(self) -> Listing:
        sent_at, records = await self._read("list", (), self._limits.read_s)
        return Listing(sent_at, self.clock(), records)

    async def detail(self, uuid: str) -> Detail:
        sent_at, detail = await self._read("detail", (uuid,), self._limits.read_s)
        return dated(detail, sent_at)

    async def _read(self, call: str, arguments: tuple[Any, ...], limit_s: float) -> tuple[float, Any]:
        if self._closed_because:
            raise self.closed()
        asked = _Call(self, self._observe, call, arguments, limit_s)
        answer = await asked.run()
        if isinstance(answer, HypervisorError):
            self._end_if_unreachable(answer)
            raise answer
        return asked.began_at, answer

    # --- mutations

    async def define(self, xml: str, permit: Permit) -> Result:
        if len(xml.encode()) > MAX_MESSAGE_BYTES:
            said = f"XML of more than {MAX_MESSAGE_BYTES} bytes cannot be sent"
            return Result(Outcome.REJECTED, SpecRejected(said))
        known = definition.read(xml)
        uuid = "" if isinstance(known, HypervisorError) else known.uuid
        return await self._mutate("define", uuid, (xml,), self._limits.define_s, permit)

    async def create(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("create", uuid, (uuid,), self._limits.create_s, permit)

    async def shutdown(self, uuid: str, method: StopMethod, permit: Permit) -> Result:
        return await self._mutate("shutdown", uuid, (uuid, method), self._limits.shutdown_s, permit)

    async def destroy(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("destroy", uuid, (uuid,), self._limits.destroy_s, permit)

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        arguments = (uuid, CAPABILITIES.undefine_flags)
        return await self._mutate("undefine", uuid, arguments, self._limits.undefine_s, permit)

    async def set_mark(
        self, uuid: str, mark: Mark | None, *, live: bool, config: bool, permit: Permit
    ) -> Result:
        if not (live or config):
            said = "a mark is set in the live or the persistent definition"
            return Result(Outcome.REJECTED, SpecRejected(said))
        arguments = (uuid, mark, live, config)
        return await self._mutate("set_mark", uuid, arguments, self._limits.metadata_s, permit)

    async def set_autostart(self, uuid: str, on: bool, permit: Permit) -> Result:
        return await self._mutate("set_autostart", uuid, (uuid, on), self._limits.metadata_s, permit)

    async def _mutate(
        self, call: str, uuid: str, arguments: tuple[Any, ...], limit_s: float, permit: Permit
    ) -> Result:
        if self._target.read_only:
            return Result(Outcome.REJECTED, Unsupported("the node is read-only"))
        if self._closed_because:
            return Result(Outcome.FAILED, self.closed())
        asked = _Call(self, self._change, call, arguments, limit_s, permit, uuid)
        answer = await asked.run()
        if answer is None:
            return Result(Outcome.DONE)
        self._end_if_unreachable(answer)
        found = outcome(answer)
        if not asked.sent and found is Outcome.AMBIGUOUS:
            found = Outcome.FAILED
        return Result(found, answer)

    # --- the end

    async def close(self) -> None:
        self._end("client")
        await asyncio.sleep(0)

    @property
    def _limits(self) -> Deadlines:
        return self._owner.deadlines

    def closed(self) -> Unreachable:
        return Unreachable(f"the session is closed ({self._closed_because})")

    def leaves(self, call: str, uuid: str) -> None:
        self._owner.on_sent(Sent(self.clock(), self._owner.client, self._change.host.name, call, uuid))

    def suspect(self, connection: Connection, started: bool) -> None:
        """A call's deadline passed: is it the call, or the connection?"""
        if connection.overdue >= SLOTS:
            self._end("error")
        elif started and connection not in self._asked and self.is_open:
            loop = asyncio.get_running_loop()
            limit_s = self._limits.sign_of_life_s
            self._asked[connection] = loop.call_later(limit_s, self._no_sign, connection)
            connection.ask("alive", (), partial(self._sign, connection))

    def _no_sign(self, connection: Connection) -> None:
        if connection.held is not None:
            connection.held.append(partial(self._no_sign, connection))
        elif connection in self._asked:
            self._end("keepalive")

    def _sign(self, connection: Connection, _answer: object) -> None:
        """Any answer; the end of the connection comes another way."""
        waiting = self._asked.pop(connection, None)
        if waiting is not None:
            waiting.cancel()

    def _end_if_unreachable(self, error: HypervisorError) -> None:
        if isinstance(error, Unreachable):
            self._end("error")

    def _hear(self, uuid: str, name: str, kind: EventKind, detail: str) -> None:
        if self.is_open:
            self._sink(self, (HostEvent(uuid, name, kind, detail, self.clock()),))

    def _lost(self, _connection: Connection, why: str) -> None:
        self._end(why)

    def _end(self, reason: str) -> None:
        if self._closed_because or self._owner.dead:
            return
        self._closed_because = reason
        last = SessionClosed(reason, self.clock())
        asyncio.get_running_loop().call_soon(self._sink, self, (last,))
        for timer in self._asked.values():
            timer.cancel()
        self._asked.clear()
        self._owner.forget(self)
        self._observe.close(reason)
        self._change.close(reason)


class _Call:
    """One call of a session, from its wait for a slot to its answer. Its two sides are the caller, who waits
    until the deadline at most, and what would be a thread, which keeps the slot until an answer comes."""

    __slots__ = (
        "_arguments",
        "_call",
        "_connection",
        "_future",
        "_limit_s",
        "_permit",
        "_session",
        "_state",
        "_timer",
        "_uuid",
        "began_at",
        "sent",
    )

    def __init__(  # noqa: PLR0917 - all that it stands between
        self,
        session: SimSession,
        connection: Connection,
        call: str,
        arguments: tuple[Any, ...],
        limit_s: float,
        permit: Permit | None = None,
        uuid: str = "",
    ) -> None:
        self._session = session
        self._connection = connection
        self._call = call
        self._arguments = arguments
        self._limit_s = limit_s
        self._permit = permit
        self._uuid = uuid
        self._state = "waiting"  # for a slot; then "running", "overdue", and "over"
        self.began_at = 0.0
        self.sent = False
        loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = loop.create_future()
        self._timer = loop.call_later(limit_s, self._too_late)

    async def run(self) -> Any:
        """The answer, or the error as a value."""
        connection = self._connection
        if connection.free and not connection.queue:
            connection.free -= 1
            self._begin()
        else:
            connection.queue.append(self._slot)
        try:
            return await self._future
        finally:
            self._timer.cancel()

    def _slot(self) -> bool:
        """A slot is free: is it still wanted?"""
        if self._future.done():
            return False
        self._timer.cancel()  # the deadline counts anew: those before it were slow, not this
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._too_late)
        self._begin()
        return True

    def _begin(self) -> None:
        self._state = "running"
        self.began_at = self._session.clock()
        if self._permit is None:
            self._connection.ask(self._call, self._arguments, self._over)
        elif self._call == "define":
            self._fire()
        else:
            self._connection.ask("lookup", (self._uuid,), self._found)

    def _found(self, error: HypervisorError | None) -> None:
        if error is not None:
            self._over(error)
        else:
            self._fire()

    def _fire(self) -> None:
        """Nothing may come between the look at the clock and the sending."""
        assert self._permit is not None
        if self._future.done():
            self._over(None)  # given up before it was sent
            return
        late_s = self._session.clock() - self._permit.not_after_s
        if late_s >= 0:
            said = f"{self._call}: not sent, the leave to act had ended {late_s:.3f} s before"
            self._over(PermitExpired(said))
            return
        self.sent = True
        self._connection.ask(self._call, self._arguments, self._over)
        self._session.leaves(self._call, self._uuid)

    def _over(self, answer: Any) -> None:
        """The slot comes back, and the caller has the answer if it still waits."""
        if self._state == "overdue":
            self._connection.overdue -= 1
        self._state = "over"
        if not self._future.done():
            self._future.set_result(answer)
        self._connection.give_slot()

    def _too_late(self) -> None:
        held = self._connection.held
        if held is not None:
            held.append(self._too_late)
            return
        if self._future.done():
            return
        if not self._session.is_open and self._state == "waiting":
            self._future.set_result(self._session.closed())
            return
        started = self._state == "running"
        if started:
            self._state = "overdue"
            self._connection.overdue += 1
        self._future.set_result(CallTimedOut(f"{self._call}: no answer within {self._limit_s:g} s"))
        self._session.suspect(self._connection, started)
