"""A session: the port's calls to one host, each in libvirt's words and with its deadline.

Reads and events use the observing connection, mutations the changing one, so that a start of many seconds
delays no listing; migrations, and questions after jobs, have further ones, opened when they are needed (see
`moving`), so that they delay neither. How a call runs, what becomes of it when its deadline passes, and how
all connections end together is in `circuit`. The session never reconnects and never retries (I6): who uses
it reads again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from drivers.errors import (
    CallTimedOut,
    DomainBusy,
    HostBusy,
    HypervisorError,
    SpecRejected,
    Unsupported,
)
from drivers.hypervisor import (
    Capabilities,
    ConsoleSink,
    Detail,
    EventSink,
    Figures,
    HostFacts,
    Job,
    Listing,
    Mark,
    Move,
    Outcome,
    Permit,
    Result,
    StopMethod,
    Target,
)
from drivers.libvirt import capabilities as table
from drivers.libvirt.circuit import Circuit, Surroundings
from drivers.libvirt.consoles import LibvirtConsole
from drivers.libvirt.deadlines import LIMITS_OF
from drivers.libvirt.facts import read_facts
from drivers.libvirt.migration import migration_request, read_job
from drivers.libvirt.moving import Asked
from drivers.libvirt.opening import Opened
from drivers.libvirt.reads import read_detail, read_listing, read_save_room
from drivers.libvirt.sending import Call
from drivers.libvirt.usage import read_figures
from specs.mark import MARK_KEY, MARK_NAMESPACE, UntrustedXml, find, payload

T = TypeVar("T")

MAX_MESSAGE_BYTES = 4 * 1024 * 1024 - 4096  # libvirt's protocol ends a string at 4 MiB
FIGURES, MORE_FIGURES = "figures", "figures, aside"  # calls that a stuck guest may keep
MAX_ACCEPTED = 100_000  # digests remembered; a host has fewer definitions


class LibvirtSession:
    """The port's Session. Made by LibvirtHypervisor.open, on the asyncio loop, and used there alone."""

    def __init__(self, opened: Opened, given: Surroundings, sink: EventSink) -> None:
        self._asking: set[str] = set()  # domains whose job was asked for, without an answer yet
        self._driver = opened.driver
        self._given = given
        self._limits = given.deadlines
        self._capabilities = table.public(opened.driver, opened.version, keep_alive=opened.keep_alive)
        self._undefine_flags = table.undefine_bits(self._capabilities.undefine_flags)
        self._certificates = opened.certificates
        self._opened_at = given.clock()
        self._accepted: set[str] = set()  # digests of definitions that this host took or has
        self._circuit = Circuit(opened, given, functools.partial(sink, self))

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
        return self._circuit.is_open

    @property
    def overdue_calls(self) -> int:
        """Calls given up that still hold a thread."""
        return self._circuit.overdue_calls

    # -- reads ---------------------------------------------------------------------------------------

    async def facts(self) -> HostFacts:
        limit, uri = self._limits.facts_s, self._given.uri
        return await self._circuit.read("facts", limit, lambda raw: read_facts(raw, uri, self._certificates))

    async def list(self) -> Listing:
        limit, clock = self._limits.read_s, self._given.clock
        return await self._circuit.read("list", limit, lambda raw: read_listing(raw, self._driver, clock))

    async def detail(self, uuid: str, known: Detail | None = None) -> Detail:
        limit, clock = self._limits.read_s, self._given.clock
        detail = await self._circuit.read(
            "detail", limit, lambda raw: read_detail(raw, self._driver, clock, uuid, known)
        )
        self._accept(detail.config_mark)
        return detail

    def _accept(self, mark: Mark | None) -> None:
        if mark is not None and len(self._accepted) < MAX_ACCEPTED:
            self._accepted.add(mark.digest)

    async def figures(self) -> Figures:
        """On the connection that observes. A guest that is stuck keeps such a call, and one of four slots
        with it; then the next goes aside, where it costs nobody anything, and passes that guest by."""
        if self._circuit.closed_because:
            raise self._circuit.closed()
        owed = FIGURES in self._asking
        if self._circuit.is_used(beside=int(owed)):
            raise HostBusy("figures: the host has other questions to answer")
        link, what = self._circuit.observe, FIGURES
        if owed:
            link, what = await self._circuit.more.aside(), MORE_FIGURES
        if what in self._asking or not link.lane.has_free_slot:
            raise HostBusy("figures: earlier calls have not come back yet")
        asked, clock = Asked(self._asking, what), self._given.clock

        def work(raw: Any) -> Figures:
            with asked:
                return read_figures(raw, self._driver, clock)

        try:
            return await self._circuit.read("figures", self._limits.figures_s, work, link)
        finally:
            asked.unless_begun()

    async def ask(self, call: str, limit_s: float, work: Callable[[Any], T]) -> T:
        """A read that is not the port's, for `inspection`: `work` on libvirt's handle, in a worker thread."""
        return await self._circuit.read(call, limit_s, work)

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
        result = await self._circuit.mutate(
            "define",
            self._limits.define_s,
            permit,
            lambda raw: functools.partial(raw.defineXMLFlags, xml, flags),
        )
        if result.outcome is Outcome.DONE:
            self._accept(mark)
        return result

    async def create(self, uuid: str, permit: Permit) -> Result:
        limit = self._limits.create_s
        return await self._circuit.mutate(
            "create", limit, permit, lambda raw: raw.lookupByUUIDString(uuid).create
        )

    async def shutdown(
        self, uuid: str, method: StopMethod, permit: Permit, limit_s: float | None = None
    ) -> Result:
        flags = self._driver.shutdown_flags.get(method)
        if flags is None:
            return _unsupported(
                f"driver {self._given.uri.driver} cannot ask a guest to stop by {method.value}"
            )
        return await self._circuit.mutate(
            "shutdown",
            self._limits.shutdown_s if limit_s is None else min(limit_s, self._limits.shutdown_s),
            permit,
            lambda raw: functools.partial(raw.lookupByUUIDString(uuid).shutdownFlags, flags),
            await self._circuit.for_agent() if method is StopMethod.AGENT else None,
        )

    async def destroy(self, uuid: str, permit: Permit) -> Result:
        limit = self._limits.destroy_s
        return await self._circuit.mutate(
            "destroy", limit, permit, lambda raw: raw.lookupByUUIDString(uuid).destroy
        )

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        flags = self._undefine_flags
        return await self._circuit.mutate(
            "undefine",
            self._limits.undefine_s,
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
        return await self._circuit.mutate(
            "set_mark",
            self._limits.metadata_s,
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
        limit = self._limits.facts_s
        return await self._circuit.read("save_room", limit, lambda raw: read_save_room(raw, self._driver))

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
        if self._circuit.closed_because:
            raise self._circuit.closed()
        link = await self._circuit.more.aside()
        if uuid in self._asking or link.lane.is_clogged:
            raise CallTimedOut("job: an earlier call has not come back yet")
        asked = Asked(self._asking, uuid)

        def work(raw: Any) -> Job | None:
            with asked:
                return read_job(raw, uuid, completed=completed)

        try:
            return await self._circuit.read("job", self._limits.read_s, work, link)
        finally:
            asked.unless_begun()

    async def migrate(self, uuid: str, move: Move, permit: Permit) -> Result:
        if not self._driver.live_migration:
            return _unsupported(f"driver {self._given.uri.driver} cannot migrate a running domain")
        if self.target.read_only:
            return _unsupported("the node is read-only")
        if self._circuit.closed_because:
            return Result(Outcome.FAILED, self._circuit.closed())
        try:
            link = await self._circuit.more.mover()
        except HypervisorError as error:
            return Result(Outcome.FAILED, error)
        uri, parameters, flags = migration_request(move)
        return await self._circuit.mutate(
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
        if self._circuit.closed_because:
            return Result(Outcome.FAILED, self._circuit.closed())
        what = f"the end of {uuid}'s job"
        try:
            link = await self._circuit.more.aside()
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
            return await self._circuit.mutate("abort_job", self._limits.suspend_s, permit, prepare, link)
        finally:
            asked.unless_begun()

    # -- consoles ------------------------------------------------------------------------------------

    async def console(self, uuid: str, device: str, sink: ConsoleSink) -> LibvirtConsole:
        if not self._driver.consoles:
            raise Unsupported(f"driver {self._given.uri.driver} opens no consoles")
        if self.target.read_only:
            raise Unsupported("the node is read-only, and libvirt opens no console over such a connection")
        if self._circuit.closed_because:
            raise self._circuit.closed()
        return await self._given.consoles.open(uuid, device, sink)

    async def _on_domain(self, call: str, uuid: str, permit: Permit, bind: Callable[[Any], Call]) -> Result:
        """One C call on a domain; `bind` names it."""
        limit_s = LIMITS_OF[call](self._limits)
        return await self._circuit.mutate(
            call,
            limit_s,
            permit,
            lambda raw: bind(raw.lookupByUUIDString(uuid)),
        )

    async def close(self) -> None:
        """Bounded. Calls still in flight fail, mutations among them with outcome Ambiguous."""
        await self._circuit.close()


def _mark_in(xml: str) -> Mark | None:
    try:
        return find(xml)
    except UntrustedXml:  # libvirt says better what is wrong with it
        return None


def _unsupported(message: str) -> Result:
    return Result(Outcome.REJECTED, Unsupported(message))
