"""A session: its connections to one host, deadlines on every call, and one end.

Reads and events use the observing connection, mutations the changing one, so that a start of many seconds
delays no listing; migrations, and questions after jobs, have further ones, opened when they are needed (see
`moving`), so that they delay neither. Every call runs whole in one worker thread of its connection's lane and
is bounded by `Deadlines`. When a deadline passes, the caller is told at once (CallTimedOut; for a mutation
that was sent: Ambiguous), and the *connection* is asked for a sign of life, a call that needs no domain:

- it answers: only the call is lost (a stuck guest, a job lock). Its slot stays taken until libvirt lets go;
  when all slots of one of the two are lost in this way the session is worthless, and closes;
- it does not: the session closes, the sockets are shut down, and that frees the threads.

A mutation is sent only if its permit still holds at the last moment, in the worker thread, by the same
clock that the permit was given by (safety: I4). Which outcome an error means stands in `errors`; what was
never sent is Failed. The session never reconnects and never retries (I6): who uses it reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import libvirt

from drivers.errors import (
    CallTimedOut,
    DomainBusy,
    HypervisorError,
    SpecRejected,
    Unreachable,
    Unsupported,
)
from drivers.hypervisor import (
    Capabilities,
    Detail,
    EventSink,
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
from drivers.libvirt import capabilities as table
from drivers.libvirt.events import Feed
from drivers.libvirt.facts import read_facts
from drivers.libvirt.lane import DeadlinePassed, Gate, start_thread
from drivers.libvirt.link import Link, attempt
from drivers.libvirt.migration import migration_request, read_job
from drivers.libvirt.moving import Another, Asked, Moving
from drivers.libvirt.opening import Opened
from drivers.libvirt.reads import Clock, read_detail, read_listing, read_save_room
from drivers.libvirt.sending import Call, Reply, Sending, result_of, send
from specs.mark import MARK_KEY, MARK_NAMESPACE, UntrustedXml, find, payload
from specs.uri import ParsedUri

T = TypeVar("T")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024 - 4096  # libvirt's protocol ends a string at 4 MiB


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each call may take, in seconds. The values were measured against what libvirt itself may
    need: 30 s for a job lock, 27 s for destroying a stuck guest, seconds for a fresh host's first facts."""

    open_s: float = 5.0
    read_s: float = 10.0
    facts_s: float = 30.0
    define_s: float = 30.0
    create_s: float = 60.0
    destroy_s: float = 60.0
    undefine_s: float = 45.0
    shutdown_s: float = 30.0
    metadata_s: float = 30.0
    suspend_s: float = 35.0  # longer than the 30 s of a job lock, so that its error is heard
    save_s: float = 600.0
    sign_of_life_s: float = 3.0
    close_s: float = 2.0


LIMITS_OF: Mapping[str, Callable[[Deadlines], float]] = MappingProxyType(
    {
        "set_autostart": lambda d: d.metadata_s,
        "suspend": lambda d: d.suspend_s,
        "resume": lambda d: d.suspend_s,
        "save": lambda d: d.save_s,
        "drop_saved": lambda d: d.metadata_s,
        "reboot": lambda d: d.shutdown_s,
        "reset": lambda d: d.suspend_s,
    }
)

CallMeter = Callable[[str, str, str, float], None]  # node, call, result, seconds


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session is given besides its connections."""

    target: Target
    uri: ParsedUri
    sink: EventSink
    feed: Feed
    clock: Clock
    deadlines: Deadlines
    meter: CallMeter
    another: Another


MAX_ACCEPTED = 100_000  # digests remembered; a host has fewer definitions


class LibvirtSession:
    """The port's Session. Made by LibvirtHypervisor.open, on the asyncio loop, and used there alone."""

    def __init__(self, opened: Opened, given: Surroundings) -> None:
        self._main = opened.links
        self._more = Moving(given.another)
        self._asking: set[str] = set()  # domains whose job was asked for, without an answer yet
        self._observe = opened.observe
        self._change = opened.change
        self._driver = opened.driver
        self._given = given
        self._capabilities = table.public(opened.driver, opened.version, keep_alive=opened.keep_alive)
        self._undefine_flags = table.undefine_bits(self._capabilities.undefine_flags)
        self._certificates = opened.certificates
        self._opened_at = given.clock()
        self._closed_because = ""
        self._accepted: set[str] = set()  # digests of definitions that this host took or has
        self._questions: dict[Link, asyncio.Task[None]] = {}  # signs of life being waited for
        self._dismantled = asyncio.Event()
        given.feed.start(self._deliver)

    @property
    def target(self) -> Target:
        return self._given.target

    @property
    def opened_at(self) -> float:
        return self._opened_at

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def is_open(self) -> bool:
        return not self._closed_because

    @property
    def _links(self) -> tuple[Link, ...]:
        return self._main + self._more.links

    @property
    def overdue_calls(self) -> int:
        """Calls given up that still hold a thread."""
        return sum(link.lane.overdue + link.sign_of_life.overdue for link in self._links)

    # -- reads ---------------------------------------------------------------------------------------

    async def facts(self) -> HostFacts:
        limit, uri = self._given.deadlines.facts_s, self._given.uri
        return await self._read("facts", limit, lambda raw: read_facts(raw, uri, self._certificates))

    async def list(self) -> Listing:
        limit, clock = self._given.deadlines.read_s, self._given.clock
        return await self._read("list", limit, lambda raw: read_listing(raw, self._driver, clock))

    async def detail(self, uuid: str) -> Detail:
        limit, clock = self._given.deadlines.read_s, self._given.clock
        detail = await self._read("detail", limit, lambda raw: read_detail(raw, self._driver, clock, uuid))
        self._accept(detail.config_mark)
        return detail

    def _accept(self, mark: Mark | None) -> None:
        if mark is not None and len(self._accepted) < MAX_ACCEPTED:
            self._accepted.add(mark.digest)

    async def ask(self, call: str, limit_s: float, work: Callable[[Any], T]) -> T:
        """A read that is not the port's, for `inspection`: `work` on libvirt's handle, in a worker thread."""
        return await self._read(call, limit_s, work)

    async def _read(self, call: str, limit_s: float, work: Callable[[Any], T], link: Link | None = None) -> T:
        if self._closed_because:
            raise self._closed()
        link, started_at = link or self._observe, self._given.clock()
        try:
            answer = await link.lane.run(
                functools.partial(attempt, link.raw, call, lambda: work(link.raw)), limit_s
            )
        except DeadlinePassed as passed:
            self._suspect(link, passed)
            answer = CallTimedOut(f"{call}: no answer within {limit_s:g} s")
        result = type(answer).__name__ if isinstance(answer, HypervisorError) else "done"
        self._given.meter(self.target.node, call, result, self._given.clock() - started_at)
        if isinstance(answer, HypervisorError):
            self._end_if_unreachable(answer)
            raise answer
        return answer

    # -- mutations -----------------------------------------------------------------------------------

    async def define(self, xml: str, permit: Permit) -> Result:
        if len(xml.encode()) > MAX_MESSAGE_BYTES:
            return Result(
                Outcome.REJECTED, SpecRejected(f"XML of more than {MAX_MESSAGE_BYTES} bytes cannot be sent")
            )
        # Validating reads libvirt's whole schema anew, 6 to 15 ms of the host's time, and what passed on this
        # host once passes again: the mark's digest says what is the same definition, but for its epoch.
        mark = _mark_in(xml)
        is_known = mark is not None and mark.digest in self._accepted
        flags = 0 if is_known else libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        result = await self._mutate(
            "define",
            self._given.deadlines.define_s,
            permit,
            lambda raw: functools.partial(raw.defineXMLFlags, xml, flags),
        )
        if result.outcome is Outcome.DONE:
            self._accept(mark)
        return result

    async def create(self, uuid: str, permit: Permit) -> Result:
        limit = self._given.deadlines.create_s
        return await self._mutate("create", limit, permit, lambda raw: raw.lookupByUUIDString(uuid).create)

    async def shutdown(self, uuid: str, method: StopMethod, permit: Permit) -> Result:
        flags = self._driver.shutdown_flags.get(method)
        if flags is None:
            return _unsupported(
                f"driver {self._given.uri.driver} cannot ask a guest to stop by {method.value}"
            )
        return await self._mutate(
            "shutdown",
            self._given.deadlines.shutdown_s,
            permit,
            lambda raw: functools.partial(raw.lookupByUUIDString(uuid).shutdownFlags, flags),
        )

    async def destroy(self, uuid: str, permit: Permit) -> Result:
        limit = self._given.deadlines.destroy_s
        return await self._mutate("destroy", limit, permit, lambda raw: raw.lookupByUUIDString(uuid).destroy)

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        flags = self._undefine_flags
        return await self._mutate(
            "undefine",
            self._given.deadlines.undefine_s,
            permit,
            lambda raw: functools.partial(raw.lookupByUUIDString(uuid).undefineFlags, flags),
        )

    async def set_mark(
        self, uuid: str, mark: Mark | None, *, live: bool, config: bool, permit: Permit
    ) -> Result:
        if not (live or config):
            return Result(
                Outcome.REJECTED, SpecRejected("a mark is set in the live or the persistent definition")
            )
        if not self._driver.set_metadata:
            return _unsupported(f"driver {self._given.uri.driver} cannot set metadata")
        where = live * libvirt.VIR_DOMAIN_AFFECT_LIVE | config * libvirt.VIR_DOMAIN_AFFECT_CONFIG
        text = None if mark is None else payload(mark)
        element = (libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, MARK_KEY, MARK_NAMESPACE, where)
        return await self._mutate(
            "set_mark",
            self._given.deadlines.metadata_s,
            permit,
            lambda raw: functools.partial(raw.lookupByUUIDString(uuid).setMetadata, *element),
        )

    async def set_autostart(self, uuid: str, on: bool, permit: Permit) -> Result:
        if not self._driver.autostart:
            return _unsupported(f"driver {self._given.uri.driver} has no autostart to set")
        return await self._on_domain(
            "set_autostart", uuid, permit, lambda domain: functools.partial(domain.setAutostart, on)
        )

    async def suspend(self, uuid: str, permit: Permit) -> Result:
        if not self._driver.suspend:
            return _unsupported(f"driver {self._given.uri.driver} cannot pause a domain")
        return await self._on_domain("suspend", uuid, permit, lambda domain: domain.suspend)

    async def resume(self, uuid: str, permit: Permit) -> Result:
        return await self._on_domain("resume", uuid, permit, lambda domain: domain.resume)

    async def save(self, uuid: str, permit: Permit) -> Result:
        if not self._driver.managed_save:
            return _unsupported(f"driver {self._given.uri.driver} cannot save a domain")
        return await self._on_domain(
            "save", uuid, permit, lambda domain: functools.partial(domain.managedSave, 0)
        )

    async def save_room(self) -> int | None:
        if self._given.uri.path != "/system":
            return None  # a session's are in its user's home
        limit = self._given.deadlines.facts_s
        return await self._read("save_room", limit, lambda raw: read_save_room(raw, self._driver))

    async def drop_saved(self, uuid: str, permit: Permit) -> Result:
        return await self._on_domain(
            "drop_saved", uuid, permit, lambda domain: functools.partial(domain.managedSaveRemove, 0)
        )

    async def reboot(self, uuid: str, permit: Permit) -> Result:
        if not self._driver.reboot:
            return _unsupported(f"driver {self._given.uri.driver} cannot ask a guest to start again")
        return await self._on_domain(
            "reboot", uuid, permit, lambda domain: functools.partial(domain.reboot, 0)
        )

    async def reset(self, uuid: str, permit: Permit) -> Result:
        if not self._driver.reset:
            return _unsupported(f"driver {self._given.uri.driver} cannot reset a domain")
        return await self._on_domain("reset", uuid, permit, lambda domain: functools.partial(domain.reset, 0))

    async def job(self, uuid: str, *, completed: bool = False) -> Job | None:
        """Once at a time for each domain: one that is stuck would not answer a second call the sooner."""
        if not self._driver.live_migration:
            raise Unsupported(f"driver {self._given.uri.driver} tells nothing of jobs")
        if self._closed_because:
            raise self._closed()
        link = await self._more.aside()
        if uuid in self._asking or link.lane.is_clogged:
            raise CallTimedOut("job: an earlier call has not come back yet")
        asked = Asked(self._asking, uuid)

        def work(raw: Any) -> Job | None:
            with asked:
                return read_job(raw, uuid, completed=completed)

        try:
            return await self._read("job", self._given.deadlines.read_s, work, link)
        finally:
            asked.unless_begun()

    async def migrate(self, uuid: str, move: Move, permit: Permit) -> Result:
        if not self._driver.live_migration:
            return _unsupported(f"driver {self._given.uri.driver} cannot migrate a running domain")
        if self.target.read_only:
            return _unsupported("the node is read-only")
        if self._closed_because:
            return Result(Outcome.FAILED, self._closed())
        try:
            link = await self._more.mover()
        except HypervisorError as error:
            return Result(Outcome.FAILED, error)
        uri, parameters, flags = migration_request(move)
        return await self._mutate(
            "migrate",
            move.limit_s,
            permit,
            lambda raw: functools.partial(raw.lookupByUUIDString(uuid).migrateToURI3, uri, parameters, flags),
            link,
        )

    async def abort_job(self, uuid: str, permit: Permit) -> Result:
        """As `job`: once at a time for each domain, and beside all else, for QEMU may be stuck."""
        if not self._driver.live_migration:
            return _unsupported(f"driver {self._given.uri.driver} has no jobs")
        if self._closed_because:
            return Result(Outcome.FAILED, self._closed())
        what = f"the end of {uuid}'s job"
        try:
            link = await self._more.aside()
        except HypervisorError as error:
            return Result(Outcome.FAILED, error)
        if what in self._asking or link.lane.is_clogged:
            return Result(Outcome.FAILED, DomainBusy("abort_job: an earlier call has not come back yet"))
        asked = Asked(self._asking, what)

        def prepare(raw: Any) -> Call:
            domain = raw.lookupByUUIDString(uuid)

            def call() -> object:
                with asked:
                    return domain.abortJob()

            return call

        try:
            return await self._mutate("abort_job", self._given.deadlines.suspend_s, permit, prepare, link)
        finally:
            asked.unless_begun()

    async def _on_domain(self, call: str, uuid: str, permit: Permit, bind: Callable[[Any], Call]) -> Result:
        """One C call on a domain; `bind` names it."""
        limit_s = LIMITS_OF[call](self._given.deadlines)
        return await self._mutate(
            call,
            limit_s,
            permit,
            lambda raw: bind(raw.lookupByUUIDString(uuid)),
        )

    async def _mutate(
        self,
        call: str,
        limit_s: float,
        permit: Permit,
        prepare: Callable[[Any], Call],
        link: Link | None = None,
    ) -> Result:
        """`prepare` finds the domain and returns the one C call that changes something."""
        if self.target.read_only:
            return _unsupported("the node is read-only")
        if self._closed_because:
            return Result(Outcome.FAILED, self._closed())
        link, gate, started_at = link or self._change, Gate(), self._given.clock()
        work = functools.partial(send, Sending(link.raw, call, prepare, gate, permit, self._given.clock))
        try:
            reply = await link.lane.run(work, limit_s)
        except DeadlinePassed as passed:
            self._suspect(link, passed)
            sent = not gate.shut()
            reply = Reply(sent, CallTimedOut(f"{call}: no answer within {limit_s:g} s"))
        except asyncio.CancelledError:
            gate.shut()  # what nobody waits for any more is not begun
            raise
        result = result_of(reply)
        self._given.meter(self.target.node, call, result.outcome.value, self._given.clock() - started_at)
        if result.error is not None:
            self._end_if_unreachable(result.error)
        return result

    # -- the end -------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Bounded. Calls still in flight fail, mutations among them with outcome Ambiguous."""
        self._end("client")
        with contextlib.suppress(TimeoutError):  # a thread that even this does not free is lost
            async with asyncio.timeout(2 * self._given.deadlines.close_s):
                await self._dismantled.wait()

    def _suspect(self, link: Link, passed: DeadlinePassed) -> None:
        """A call's deadline passed on `link`: is it the call, or the connection?"""
        if link.lane.is_clogged and link in self._main:
            self._end("error")
        elif passed.started and link not in self._questions and self.is_open:
            self._questions[link] = asyncio.create_task(self._ask_for_sign_of_life(link))

    async def _ask_for_sign_of_life(self, link: Link) -> None:
        work = functools.partial(attempt, link.raw, "sign-of-life", link.raw.getLibVersion)
        try:
            answer = await link.sign_of_life.run(work, self._given.deadlines.sign_of_life_s)
        except DeadlinePassed:
            self._end("keepalive")
            return
        finally:
            self._questions.pop(link, None)
        if isinstance(answer, HypervisorError):
            self._end("error")

    def _closed(self) -> Unreachable:
        return Unreachable(f"the session is closed ({self._closed_because})")

    def _end_if_unreachable(self, error: HypervisorError) -> None:
        if isinstance(error, Unreachable):
            self._end("error")

    def _deliver(self, events: tuple[HostEvent, ...], closed: str) -> None:
        """From the feed. A batch that came with the end is delivered before it."""
        if events and self.is_open:
            self._given.sink(self, events)
        if closed:
            self._end(closed)

    def _end(self, reason: str) -> None:
        """Once: no call begins any more, those under way fail, and the sink is told."""
        if self._closed_because:
            return
        self._closed_because = reason
        self._more.close()
        last: tuple[HostEvent | SessionClosed, ...] = (
            *self._given.feed.stop(),
            SessionClosed(reason, self._given.clock()),
        )
        graceful = reason == "client" and not any(link.lane.is_busy for link in self._links)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._given.sink, self, last)
        for question in self._questions.values():
            if question is not asyncio.current_task():
                question.cancel()
        if graceful:
            loop.call_later(self._given.deadlines.close_s, self._sever)
        else:
            self._sever()
        dismantle = functools.partial(_dismantle, self._links, loop, self._dismantled)
        if not start_thread("libvirt-close", dismantle):
            self._sever()  # after which it does not block
            dismantle()

    def _sever(self) -> None:
        for link in self._links:
            link.sever()


def _mark_in(xml: str) -> Mark | None:
    try:
        return find(xml)
    except UntrustedXml:  # libvirt says better what is wrong with it
        return None


def _unsupported(message: str) -> Result:
    return Result(Outcome.REJECTED, Unsupported(message))


def _dismantle(links: tuple[Link, ...], loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    for link in links:
        link.dismantle()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(done.set)
