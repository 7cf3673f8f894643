"""A node's watcher: it keeps a session to one node and reads it again and again.

Events only wake a watcher; what was read decides. A domain of ours that an event, or a change of ours, tells
of is read by itself at once (a *glance*), for a list waits behind every change that is under way on its
host; what else is there, and what is not, is decided by complete lists. Details (XML, mark, flags) are read
where an event, a changed record or the slow resync asks for them. A watcher opens, learns who the host is,
has that identity pinned, lists, and then waits; when its session ends it opens a new one, with growing
pauses. Nothing here changes anything on a host.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from controller.cache import Cache
from controller.limits import Timing
from controller.plan.snapshot import Link
from drivers.errors import (
    SAID_BY_HOST,
    AuthFailed,
    Cause,
    DomainBusy,
    HostFailed,
    HypervisorError,
    NoDomain,
    SpecRejected,
    Unreachable,
    Unsupported,
    WrongState,
)
from drivers.hypervisor import (
    Detail,
    EventKind,
    HostEvent,
    HostFacts,
    Hypervisor,
    Listing,
    Record,
    Session,
    SessionClosed,
    Target,
)

log = logging.getLogger(__name__)

MAX_RELISTS = 5
DETAILS_AT_ONCE = 4
LIST_AFTER_GLANCE_S = 2.0  # a complete list follows the events of our own domains, out of a change's way
NEVER = float("inf")
FIRST_PAUSE_S = 0.25
TOGETHER_S = 0.01  # a call's end and its events come within this: one reading after them, not one for each
ILLEGIBLE = (HostFailed, SpecRejected, DomainBusy, WrongState)  # said of one domain, not of its host
CONFIG_EVENTS = frozenset({EventKind.DEFINED, EventKind.UNDEFINED, EventKind.OTHER})

PinIdentity = Callable[[str, HostFacts], Awaitable[str]]
"""Pins a host's identity to a node; answers why it may not be used ("" if it may)."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """What all watchers share."""

    hypervisor: Hypervisor
    cache: Cache
    timing: Timing
    pin_identity: PinIdentity
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Lost:
    """Why a session ended, or none came about."""

    why: str
    link: Link
    cause: Cause | None = None


@dataclass(slots=True)
class NodeWatcher:
    """One node's connection and its readings. `generation` of asking and answering tells `fresh` when a
    listing that was begun after it asked has ended."""

    eyes: Eyes
    node: str
    target: Target
    serials: Iterator[int]
    session: Session | None = None
    deep: bool = True
    _serial: int = 0
    _stale: set[str] = field(default_factory=set)
    _illegible: set[str] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _list_at: float = NEVER
    _closed: bool = False
    _glances: dict[str, bool] = field(default_factory=dict)  # uuid under way: whether to read it once more
    _tasks: dict[asyncio.Task[None], None] = field(default_factory=dict)  # ordered: runs can be repeated
    _read: asyncio.Condition = field(default_factory=asyncio.Condition)
    changed: int = 0

    def look(self, uuid: str = "") -> None:
        """Read again, now: all by a complete list, or one domain by a glance."""
        if uuid:
            self._glance(uuid)
        else:
            self._list_within(0.0)

    def _list_within(self, seconds: float) -> None:
        at = self.eyes.now() + seconds
        if at < self._list_at:
            self._list_at = at
            self._wake.set()

    async def fresh(self, asked_at: float) -> bool:
        """Wait until a listing sent after `asked_at` was taken over; False when the session ended first."""
        self.look()
        async with self._read:
            while True:
                view = self.eyes.cache.view(self.node)
                if view.reads and view.reads[-1][0] > asked_at:
                    return True
                if self.session is None:
                    return False
                await self._read.wait()

    async def run(self) -> None:
        """Until cancelled: open, read, lose, open again."""
        failures = 0
        try:
            while True:
                lost = await self._attempt()
                failures = 1 if self._was_ready() else failures + 1
                self._note_lost(lost, failures)
                pause_s = min(FIRST_PAUSE_S * 2.0 ** (failures - 1), self.eyes.timing.probe_max_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s * _jitter(self.node, failures)):
                        await asyncio.Event().wait()
        finally:
            await self._close()

    async def _attempt(self) -> _Lost:
        """One session from open to its end; answers why it ended."""
        try:
            await self._open()
            refused = await self._introduce()
            if refused:
                return _Lost(refused, Link.REFUSED)
            await self._watch()
        except (AuthFailed, Unsupported, SpecRejected) as error:
            return _Lost(error.message, Link.REFUSED, error.cause)
        except HypervisorError as error:
            return _Lost(error.message, Link.BACKING_OFF, error.cause)
        except Exception as error:
            # A bug met on one node: that node counts as unread, and is tried again; it never looks alive.
            log.exception("observing failed", extra={"node": self.node})
            bug = f"domctl cannot read it, which is a bug: {type(error).__name__}: {error}"
            return _Lost(bug, Link.BACKING_OFF)
        finally:
            await self._close()
        return _Lost("the connection was lost", Link.SUSPECT)

    async def _open(self) -> None:
        self._closed = False
        self._serial = next(self.serials)
        self.eyes.cache.seen.connected(self.node)
        self.deep = True
        self.session = await self.eyes.hypervisor.open(self.target, self._on_events)

    async def _introduce(self) -> str:
        """Learn who the host is and have that pinned; answers why the node must not be used."""
        assert self.session is not None
        facts = await self.session.facts()
        refused = await self.eyes.pin_identity(self.node, facts)
        view = self.eyes.cache.view(self.node)
        self.eyes.cache.set_view(
            self.node,
            replace(
                view,
                facts=facts,
                capabilities=self.session.capabilities,
                session=self._serial,
                identity_pinned=not refused,
                why=refused,
            ),
        )
        return refused

    async def _watch(self) -> None:
        while not self._closed:
            self._list_at = NEVER
            await self._take_listing()
            async with self._read:
                self._read.notify_all()
            self._list_within(self.eyes.timing.resync_s)
            await self._until_due()

    async def _until_due(self) -> None:
        """Wait until the next list is due, which is sooner and sooner while its reasons gather."""
        while not self._closed and (left_s := self._list_at - self.eyes.now()) > 0:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()

    # --- glances

    @property
    def is_glancing(self) -> bool:
        return bool(self._glances)

    def _glance(self, uuid: str) -> None:
        """Read one domain by itself; once more if it is being read just now, for that may be too early. One
        that migrates is read by the movers: both hosts are at work on it, and would have to stop for us."""
        if self.eyes.cache.moves.concerns(uuid, self.node):
            return
        if uuid in self._glances:
            self._glances[uuid] = True
            return
        self._glances[uuid] = False
        task = asyncio.create_task(self._read_alone(uuid), name=f"glance {self.node}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _is_held(self, uuid: str) -> bool:
        """Whether an action is changing it. It is read when that is over: libvirt 9 holds up whoever looks up
        a domain that is just being launched, and behind him all who define another on that host."""
        return self.eyes.cache.seen.expectations.is_held(uuid, self.node)

    async def _read_alone(self, uuid: str) -> None:
        """A glance that fails decides nothing: a list, which reads this domain's detail too, will."""
        try:
            again = True
            while again:
                await asyncio.sleep(TOGETHER_S)
                self._glances[uuid] = False
                known = await self.glanced(uuid)
                # What was done to it in the very instant of the request is not answered yet.
                awaited = (uuid, self.node) in self.eyes.cache.seen.expectations.pending
                again = known and (self._glances[uuid] or awaited) and not self._is_held(uuid)
        finally:
            del self._glances[uuid]
        if not known:
            self._stale.add(uuid)
            self._list_within(0.0)

    async def glanced(self, uuid: str) -> bool:
        """Whether the cache knows the domain now as it stands on this node."""
        session, serial, cache = self.session, self._serial, self.eyes.cache
        if session is None or not self._was_ready():
            return False
        sent_at = self.eyes.now()
        detail: Detail | None = None
        try:
            detail = await session.detail(uuid)
        except NoDomain:
            pass
        except HypervisorError:
            return False
        if self._closed or serial != self._serial or not self._was_ready():
            return False
        self._illegible.discard(uuid)
        cache.glanced(self.node, uuid, detail, sent_at)
        return True

    # --- lists

    async def _take_listing(self) -> None:
        """List, read what needs reading, and hand both to the cache as one."""
        stale, self._stale = self._stale, set()
        deep, self.deep = self.deep, False
        details: dict[str, Detail] = {}
        for _ in range(MAX_RELISTS):
            held = self.eyes.cache.seen.expectations.held_on(self.node)
            listing = await self._read_once(stale, deep, details)
            if listing is not None:
                break
        else:
            raise Unreachable(f"domains of {self.node} came and went in {MAX_RELISTS} listings in a row")
        cache = self.eyes.cache
        if cache.view(self.node).link is not Link.READY:
            log.info("node answers", extra={"node": self.node})
        cache.set_view(
            self.node,
            replace(cache.view(self.node), link=Link.READY, why="", cause="", since=self.eyes.now()),
        )
        self._doubt_illegible(listing)
        self.changed = cache.observed(self.node, listing, details, except_for=held)

    async def _read_once(self, stale: set[str], deep: bool, details: dict[str, Detail]) -> Listing | None:
        """A list, with `details` filled for all that needs reading; None when a domain went in between.
        What an earlier attempt read is kept, so that a busy host is read to the end."""
        assert self.session is not None
        listing = await self.session.list()
        records = listing.records
        wanted = [
            r
            for r in records
            if not self._is_held(r.uuid)
            and not (r.uuid in details and details[r.uuid].record.active == r.active)
            and (deep or r.uuid in stale or self._is_due(r.uuid, r.active))
        ]
        try:
            for start in range(0, len(wanted), DETAILS_AT_ONCE):
                chunk = wanted[start : start + DETAILS_AT_ONCE]
                for detail in await asyncio.gather(*(self._detail(self.session, r) for r in chunk)):
                    details[detail.record.uuid] = detail
        except NoDomain:
            return None  # it went between list and read: only a new list is complete
        # A detail was read after the list, so its record is the newer one.
        newest = tuple(details[r.uuid].record if r.uuid in details else r for r in records)
        return replace(listing, records=newest)

    async def _detail(self, session: Session, record: Record) -> Detail:
        """One domain in all its detail. One that libvirt lists but cannot show must neither look absent nor
        take its node with it: it stands with what was last read of it, or with nothing but its record (so it
        is no domain of ours unless it is assigned), and counts as Unknown until it was read."""
        uuid = record.uuid
        try:
            detail = await session.detail(uuid)
        except ILLEGIBLE as error:
            if uuid not in self._illegible:
                extra = {"node": self.node, "uuid": uuid, "why": error.message}
                log.warning("domain is listed but cannot be read", extra=extra)
            self._illegible.add(uuid)
            before = self.eyes.cache.seen.find(uuid, self.node)
            return _bare(record) if before is None else replace(before.detail, record=record)
        self._illegible.discard(uuid)
        return detail

    def _doubt_illegible(self, listing: Listing) -> None:
        """Decide nothing about domains of the cluster that could not be read, and read them again: the last
        word on them is to be a listing that was sent after this one."""
        self._illegible &= {record.uuid for record in listing.records}
        self._stale |= self._illegible
        cache = self.eyes.cache
        for uuid in self._illegible:
            if uuid in cache.assignments or uuid in cache.domains:
                cache.await_observation(uuid, self.node)

    def _is_due(self, uuid: str, active: bool) -> bool:
        """Its detail was never read, or not since it changed or may have been changed by us."""
        seen = self.eyes.cache.seen
        before = seen.find(uuid, self.node)
        awaited = (uuid, self.node) in seen.expectations.pending
        return before is None or awaited or before.record.active != active

    def _on_events(self, session: Session, events: tuple[HostEvent | SessionClosed, ...]) -> None:
        if session is not self.session and self.session is not None:
            return
        for event in events:
            if isinstance(event, SessionClosed):
                self._closed = True
                continue
            if self.eyes.cache.heard(self.node, self._serial, event):
                if self.eyes.cache.moves.concerns(event.uuid, self.node):
                    continue
                if event.kind is not EventKind.SHUTDOWN and not self._is_held(event.uuid):
                    self._glance(event.uuid)
                self._list_within(LIST_AFTER_GLANCE_S)
                continue
            if event.kind in CONFIG_EVENTS:
                self._stale.add(event.uuid)
            self._list_within(self.eyes.timing.event_batch_s)  # events that come together cause one list
        if self._closed:
            self._wake.set()

    def _was_ready(self) -> bool:
        return self.eyes.cache.view(self.node).link is Link.READY

    def _note_lost(self, lost: _Lost, failures: int) -> None:
        cache, view = self.eyes.cache, self.eyes.cache.view(self.node)
        link, why = lost.link, lost.why
        if view.link is Link.READY or failures == 1:
            log.warning("node does not answer", extra={"node": self.node, "why": why})
        else:
            log.debug("node still does not answer", extra={"node": self.node, "why": why})
        if failures > 1 and link is Link.SUSPECT:
            link = Link.BACKING_OFF
        since = self.eyes.now() if view.link is Link.READY else view.since
        denied_at = self.eyes.now() if lost.cause in SAID_BY_HOST else view.denied_at
        cache.set_view(
            self.node,
            replace(
                view,
                link=link,
                why=why,
                cause=lost.cause or "",
                denied_at=denied_at,
                since=since,
                session=0,
            ),
        )

    async def _close(self) -> None:
        session, self.session = self.session, None
        for task in self._tasks:
            task.cancel()
        if session is not None:
            await session.close()
        async with self._read:
            self._read.notify_all()


def _bare(record: Record) -> Detail:
    """What a record alone says of a domain: it is there. No XML, no marks, no size."""
    return Detail(
        record=record,
        sent_at=0.0,
        persistent=True,
        autostart=False,
        managed_save=False,
        config_xml=None,
        live_xml=None,
        config_mark=None,
        live_mark=None,
        vcpus=0,
        memory_bytes=0,
    )


def _jitter(name: str, attempt: int) -> float:
    """0.75 to 1.25, the same for the same node and attempt on every controller."""
    digest = hashlib.blake2b(f"{name}/{attempt}".encode(), digest_size=2).digest()
    return 0.75 + int.from_bytes(digest) / 0x1FFFE
