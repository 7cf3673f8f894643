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
from functools import partial
from random import Random
from typing import Any

from msgspec import Struct, structs

from drivers.errors import (
    AuthFailed,
    CallTimedOut,
    Cause,
    DomainBusy,
    HypervisorError,
    SpecRejected,
    Unreachable,
    Unsupported,
)
from drivers.hypervisor import (
    Capabilities,
    ConsoleSink,
    Detail,
    EventKind,
    EventSink,
    Figures,
    HostEvent,
    HostFacts,
    Job,
    Listing,
    Mark,
    Move,
    Outcome,
    Permit,
    Result,
    SessionClosed,
    StopMethod,
    Target,
)
from drivers.libvirt.capabilities import DRIVERS, public
from drivers.libvirt.deadlines import Deadlines
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR, outcome, told_by_daemon
from drivers.libvirt.lane import SLOTS
from drivers.libvirt.link import SLOTS_OF
from drivers.libvirt.moving import MAX_MOVING, too_many_migrations
from drivers.libvirt.session import MAX_MESSAGE_BYTES
from specs.uri import ParsedUri, UriNotAllowed, parse_uri
from tests.sim import definition
from tests.sim.busy import Asker
from tests.sim.call import Call
from tests.sim.connection import Connection
from tests.sim.consoles import SimConsole
from tests.sim.domain import dated
from tests.sim.host import SimHost
from tests.sim.migration import Manner
from tests.sim.network import Network

CAPABILITIES = public(DRIVERS["qemu"], 9_000_000, keep_alive=True)


class Sent(Struct, frozen=True):
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
        host = self._host_of(target.uri)
        if host is None:
            raise Unreachable(f"{target.uri}: Name or service not known", code=SYSTEM_ERROR, origin=FROM_RPC)
        if self._closed:
            raise Unreachable("the driver is closed")
        observe, change = (Connection(self.client, host, self._network, _not_yet) for _ in range(2))
        await self._dial_all(target.uri, (observe, change))
        session = SimSession(self, target, sink, observe, change)
        self._sessions[session] = None
        return session

    def host_at(self, uri: str) -> SimHost | None:
        """The host that another one reaches by this URI."""
        try:
            return self._host_of(uri)
        except HypervisorError:
            return None

    def _host_of(self, text: str) -> SimHost | None:
        """The host that a URI names, if there is one. Raises as libvirt and ssh would."""
        uri = _parsed(text)
        host = self._hosts.get(uri.host)
        has_keys = uri.transport == "ssh" and host is not None and host.relayed
        if uri.transport in {"ssh", "tls"} and not has_keys:
            raise AuthFailed(f"{uri.host} has no keys for {uri.transport}", cause=Cause.CREDENTIALS_MISSING)
        return host

    async def another(self, session: SimSession, host: SimHost) -> Connection:
        """One more connection of a session. Raises Unreachable."""
        connection = Connection(self.client, host, self._network, _not_yet)
        await self._dial_all(session.target.uri, (connection,))
        return connection

    async def _dial_all(self, uri: str, connections: tuple[Connection, ...]) -> None:
        """All of them within the open deadline, or none."""
        self._opening.update(dict.fromkeys(connections))
        try:
            async with asyncio.timeout(self.deadlines.open_s):
                for connection in connections:
                    await self._dial(connection)
        except BaseException as error:
            for connection in connections:
                connection.close()
            if isinstance(error, TimeoutError):
                limit = f"{self.deadlines.open_s:g} s"
                raise Unreachable(f"{uri}: no connection within {limit}") from None
            raise
        finally:
            for connection in connections:
                self._opening.pop(connection, None)

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


def _parsed(text: str) -> ParsedUri:
    try:
        uri = parse_uri(text)
    except UriNotAllowed as refused:
        raise Unsupported(str(refused)) from None
    except ValueError as malformed:
        raise SpecRejected(str(malformed)) from None
    if uri.driver != "qemu" or uri.transport == "ext":
        raise Unsupported(f"driver {uri.driver} over {uri.transport} is not simulated")
    return uri


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
        self._moving: list[Connection] = []  # for migrations, made when needed
        self._aside: Connection | None = None  # for asking after jobs
        self._console_line: Connection | None = None
        self._consoles: list[SimConsole] = []
        self._adding = asyncio.Lock()
        self._asking: set[str] = set()  # domains whose job was asked for, without an answer yet
        self._busy = Asker(self, change.host, owner.client)
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
    def connections(self) -> tuple[Connection, ...]:
        aside = () if self._aside is None else (self._aside,)
        consoles = () if self._console_line is None else (self._console_line,)
        return self._observe, self._change, *self._moving, *aside, *consoles

    # --- reads

    async def facts(self) -> HostFacts:
        facts: HostFacts = (await self._read("facts", (self._target.uri,), self._limits.facts_s))[1]
        return facts

    async def list(self) -> Listing:
        sent_at, records = await self._read("list", (), self._limits.read_s)
        return Listing(sent_at, self.clock(), records)

    async def detail(self, uuid: str, known: Detail | None = None) -> Detail:
        sent_at, detail = await self._read("detail", (uuid,), self._limits.read_s)
        if known is not None and known.record.active == detail.record.active:
            return structs.replace(known, record=detail.record)
        return dated(detail, sent_at)

    async def figures(self) -> Figures:
        if self._closed_because:
            raise self.closed()
        return await self._busy.figures(self._limits.figures_s)

    async def _read(self, call: str, arguments: tuple[Any, ...], limit_s: float) -> tuple[float, Any]:
        if self._closed_because:
            raise self.closed()
        asked = Call(self, self._observe, call, arguments, limit_s)
        answer = await self._answer(asked)
        if isinstance(answer, HypervisorError):
            raise answer
        return asked.began_at, answer

    async def _answer(self, asked: Call) -> Any:
        answer = await asked.run()
        if isinstance(answer, Unreachable):
            if asked.connection.is_open:
                return told_by_daemon(answer, asked.call)
            self._end("error")
        return answer

    async def job(self, uuid: str, *, completed: bool = False) -> Job | None:
        """Once at a time for each domain: who is asked after again does not answer the faster."""
        if self._closed_because:
            raise self.closed()
        limit_s = self._limits.read_s
        connection = await self._aside_connection()
        if uuid in self._asking:
            raise CallTimedOut(f"job: the domain {uuid} has not answered to an earlier call")
        self._asking.add(uuid)
        asked = Call(self, connection, "job", (uuid, completed), limit_s)
        asked.at_last = partial(self._asking.discard, uuid)
        answer = await self._answer(asked)
        if isinstance(answer, HypervisorError):
            raise answer
        job: Job | None = answer
        return job

    async def _aside_connection(self) -> Connection:
        async with self._adding:
            if self._aside is None:
                self._aside = await self._another("jobs")
            return self._aside

    async def _another(self, role: str) -> Connection:
        connection = await self._owner.another(self, self._change.host)
        connection.free = SLOTS_OF.get(role, SLOTS)
        connection.on_lost = self._lost
        if self._closed_because:
            connection.close()
            raise self.closed()
        return connection

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

    async def shutdown(
        self, uuid: str, method: StopMethod, permit: Permit, limit_s: float | None = None
    ) -> Result:
        within_s = self._limits.shutdown_s if limit_s is None else min(limit_s, self._limits.shutdown_s)
        return await self._mutate("shutdown", uuid, (uuid, method), within_s, permit)

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

    async def suspend(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("suspend", uuid, (uuid,), self._limits.suspend_s, permit)

    async def resume(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("resume", uuid, (uuid,), self._limits.suspend_s, permit)

    async def save(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("save", uuid, (uuid,), self._limits.save_s, permit)

    async def save_room(self) -> int | None:
        await self.facts()  # as long as that takes, and what stands in its way
        return self._change.host.temper.save_room

    async def drop_saved(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("drop_saved", uuid, (uuid,), self._limits.metadata_s, permit)

    async def reboot(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("reboot", uuid, (uuid,), self._limits.shutdown_s, permit)

    async def reset(self, uuid: str, permit: Permit) -> Result:
        return await self._mutate("reset", uuid, (uuid,), self._limits.suspend_s, permit)

    async def migrate(self, uuid: str, move: Move, permit: Permit) -> Result:
        if self._target.read_only:
            return Result(Outcome.REJECTED, Unsupported("the node is read-only"))
        if self._closed_because:
            return Result(Outcome.FAILED, self.closed())
        manner = Manner(
            persist=move.persistent_xml is not None,
            undefine_source=move.undefine_source,
            persistent_xml=move.persistent_xml,
            copy_disks=move.copy_disks,
            stands=move.stands,
            by_hand=False,
        )
        arguments = (uuid, self._owner.host_at(move.target_uri), manner)
        try:
            connection = await self._moving_connection()
        except HypervisorError as error:
            return Result(Outcome.FAILED, error)
        return await self._mutate("migrate", uuid, arguments, move.limit_s, permit, (connection, None))

    async def _moving_connection(self) -> Connection:
        """One with a free slot. Raises HypervisorError."""
        async with self._adding:
            for connection in self._moving:
                if connection.free:
                    return connection
            if len(self._moving) >= MAX_MOVING:
                raise too_many_migrations()
            self._moving.append(await self._another("migrate"))
            return self._moving[-1]

    async def abort_job(self, uuid: str, permit: Permit) -> Result:
        """As `job`: once at a time for each domain, and beside all else."""
        if self._closed_because:
            return Result(Outcome.FAILED, self.closed())
        what = f"the end of {uuid}'s job"
        try:
            connection = await self._aside_connection()
        except HypervisorError as error:
            return Result(Outcome.FAILED, error)
        if what in self._asking:
            return Result(Outcome.FAILED, DomainBusy("abort_job: an earlier call has not come back yet"))
        self._asking.add(what)
        at_last = partial(self._asking.discard, what)
        limit_s = self._limits.suspend_s
        return await self._mutate("abort_job", uuid, (uuid,), limit_s, permit, (connection, at_last))

    async def _mutate(  # noqa: PLR0917 - what a mutation is
        self,
        call: str,
        uuid: str,
        arguments: tuple[Any, ...],
        limit_s: float,
        permit: Permit,
        aside: tuple[Connection, Callable[[], None] | None] | None = None,
    ) -> Result:
        if self._target.read_only:
            return Result(Outcome.REJECTED, Unsupported("the node is read-only"))
        if self._closed_because:
            return Result(Outcome.FAILED, self.closed())
        connection, at_last = aside or (self._change, None)
        asked = Call(self, connection, call, arguments, limit_s, permit, uuid)
        asked.at_last = at_last
        answer = await self._answer(asked)
        if answer is None:
            return Result(Outcome.DONE)
        found = outcome(answer)
        if not asked.sent and found is Outcome.AMBIGUOUS:
            found = Outcome.FAILED
        return Result(found, answer)

    # --- consoles

    async def console(self, uuid: str, device: str, sink: ConsoleSink) -> SimConsole:
        """Over a connection of its own, whose end is not the session's."""
        if self._target.read_only:
            raise Unsupported("the node is read-only")
        if self._closed_because:
            raise self.closed()
        async with self._adding:
            if self._console_line is None:
                self._console_line = await self._another("consoles")
                self._console_line.on_lost = self._consoles_lost
            line = self._console_line
        console = SimConsole(self, line, uuid, device, sink)
        self._consoles.append(console)
        await console.ask("console", (console,))
        return console

    def _consoles_lost(self, connection: Connection, why: str) -> None:
        if connection is self._console_line:
            self._console_line = None
        consoles, self._consoles = self._consoles, []
        for console in consoles:
            console.end(f"the connection for consoles was lost ({why})")

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
        if connection is self._console_line:
            return
        if connection.overdue >= SLOTS and connection in (self._observe, self._change):
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
        for connection in self.connections:
            connection.close(reason)
        for console in self._consoles:
            console.end(f"the session is closed ({reason})")
