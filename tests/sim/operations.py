"""What libvirtd does when it is asked to change something: the same for every hand that asks.

Each operation takes the domain's job lock, looks again, takes its time, and only then has its effect; what
is killed in the middle stays as far as it came. Errors carry libvirt's own numbers. `by` says who asked, for
the record of changes alone. An operation that waits for a stuck guest keeps the lock until the guest goes on
or is destroyed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from drivers.errors import HypervisorError
from drivers.hypervisor import EventKind, Job, Mark, State, StopMethod
from tests.sim import definition
from tests.sim.definition import refusal
from tests.sim.desk import no_domain
from tests.sim.domain import SimDomain
from tests.sim.job import ARRIVAL, DEPARTURE, LOCK_S
from tests.sim.migration import Held, Manner, Migration

if TYPE_CHECKING:
    from tests.sim.consoles import SimConsole
    from tests.sim.host import Range, SimHost

INVALID, TIMEOUT, FAILED, UNSUPPORTED_ARGUMENT, INTERNAL, SYSTEM_ERROR = 55, 68, 9, 74, 1, 38
AGENT_UNRESPONSIVE = 86
WORKS_S = 30.0
"""What a daemon that answers has begun is over after that, as its own time limits are: quiet times rest on it
(safety 4), and a slow host whose definitions take long, too, would be at one for minutes."""
NOT_RUNNING = "Requested operation is not valid: domain is not running"
BUSY = "Timed out during operation: cannot acquire state change lock (held by monitor={})"


class Operations:
    def __init__(self, host: SimHost) -> None:
        self._host = host
        self.migrations: dict[str, Migration] = {}  # away from here
        self._stuck: dict[SimDomain, list[asyncio.Future[bool]]] = {}
        self._calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "define": self.define,
            "create": self.create,
            "destroy": self.destroy,
            "undefine": self.undefine,
            "shutdown": self.shutdown,
            "set_mark": self.set_mark,
            "set_autostart": self.set_autostart,
            "suspend": self.suspend,
            "resume": self.resume,
            "managed_save": self.managed_save,
            "save": self.managed_save,
            "drop_saved": self.drop_saved,
            "reboot": self.reboot,
            "reset": self.reset,
            "migrate": self.migrate,
            "abort": self.abort_job,
            "abort_job": self.abort_job,
            "job": self.job,
            "console": self.console,
            "console_type": self.console_type,
            "console_close": self.console_close,
        }

    async def do(self, call: str, arguments: tuple[Any, ...], by: str) -> Any:
        """Raises HypervisorError."""
        return await self._calls[call](*arguments, by)

    # --- consoles, which take no job lock

    async def console(self, console: SimConsole, _by: str) -> None:
        self._host.terminals.open(console)

    async def console_type(self, console: SimConsole, data: bytes, _by: str) -> None:
        self._host.terminals.type(console, data)

    async def console_close(self, console: SimConsole, _by: str) -> None:
        self._host.terminals.close(console)

    # --- definitions

    async def define(self, xml: str, by: str) -> None:
        known = definition.read(xml)
        if isinstance(known, HypervisorError):
            raise known
        self._conflicts(known.uuid, known.name)
        arriving = self._host.lock(known.uuid).held_by == ARRIVAL
        async with self._job(known.uuid, "define"):
            self._conflicts(known.uuid, known.name)
            if arriving and self._host.active(known.uuid):  # it waited for a migration, which has come
                raise refusal(FAILED, f"operation failed: domain '{known.name}' already exists", "define")
            await self._work(self._host.temper.define_s)
            self._conflicts(known.uuid, known.name)
            self.put(definition.inactive(xml), by)

    def put(self, xml: str, by: str) -> SimDomain:
        """The definition stands."""
        host, known = self._host, definition.known(xml)
        domain = host.domains.get(known.uuid)
        how = "added" if domain is None or domain.config is None else "updated"
        if domain is None:
            domain = host.domains[known.uuid] = SimDomain(known.uuid, known.name)
        domain.config = xml
        host.changed(domain, "defined", by, how)
        host.say(domain, EventKind.DEFINED, how)
        return domain

    def _conflicts(self, uuid: str, name: str) -> None:
        host = self._host
        other = host.named(name)
        if other is not None and other.uuid != uuid:
            said = f"operation failed: domain '{name}' already exists with uuid {other.uuid}"
            raise refusal(FAILED, said, "define")
        same = host.domains.get(uuid)
        if same is not None and same.name != name:
            said = f"operation failed: domain '{same.name}' is already defined with uuid {uuid}"
            raise refusal(FAILED, said, "define")

    async def undefine(self, uuid: str, flags: frozenset[str], by: str) -> None:
        self.find(uuid)
        async with self._job(uuid, "undefine"):
            domain = self.find(uuid)
            if domain.config is None:
                raise refusal(INVALID, "Requested operation is not valid: cannot undefine transient domain")
            if domain.saved is not None and "managed-save" in flags:
                domain.saved = None
                self._host.changed(domain, "save lost", by)
            if domain.saved is not None:
                said = "Refusing to undefine while domain managed save image exists"
                raise refusal(INVALID, f"Requested operation is not valid: {said}")
            await self._work(self._host.temper.undefine_s)
            self.take_away(self.find(uuid), by)

    def take_away(self, domain: SimDomain, by: str) -> None:
        """The definition is gone; a running domain is transient from now on."""
        host = self._host
        domain.config, domain.autostart, domain.snapshots = None, False, 0
        host.changed(domain, "undefined", by)
        host.say(domain, EventKind.UNDEFINED, "removed")
        if domain.live is None:
            del host.domains[domain.uuid]
            host.changed(domain, "vanished", by)

    async def set_mark(self, uuid: str, mark: Mark | None, live: bool, config: bool, by: str) -> None:
        self.find(uuid)
        async with self._job(uuid, "metadata"):
            domain = self.find(uuid)
            if live and domain.live is None:
                raise refusal(INVALID, NOT_RUNNING)
            if config and domain.config is None:
                said = "transient domains do not have any persistent config"
                raise refusal(INVALID, f"Requested operation is not valid: {said}")
            await self._work(self._host.temper.metadata_s)
            if live and domain.live is not None:
                domain.live = definition.marked(domain.live, mark)
            if config and domain.config is not None:
                domain.config = definition.marked(domain.config, mark)
            self._host.changed(domain, "mark", by, "" if mark is None else str(mark.epoch))
            self._host.say(domain, EventKind.OTHER, "metadata-change")

    async def set_autostart(self, uuid: str, autostart: bool, by: str) -> None:
        """libvirt tells nobody."""
        self.find(uuid)
        async with self._job(uuid, "autostart"):
            domain = self.find(uuid)
            if domain.config is None:
                said = "cannot set autostart for transient domain"
                raise refusal(INVALID, f"Requested operation is not valid: {said}")
            await self._work(self._host.temper.metadata_s)
            domain.autostart = autostart
            self._host.changed(domain, "autostart", by, "on" if autostart else "off")

    # --- life

    async def create(self, uuid: str, by: str) -> None:
        host = self._host
        self.find(uuid)
        async with self._job(uuid, "start"):
            domain = self.find(uuid)
            if domain.live is not None:
                raise refusal(INVALID, "Requested operation is not valid: domain is already running")
            host.desk.hold(uuid)
            try:
                await self._work(host.temper.launch_s)
                if host.temper.refuses_starts:
                    domain.become(State.SHUTOFF, "failed")
                    raise refusal(INTERNAL, f"internal error: {host.temper.refuses_starts}")
                host.launch(domain, by)
            finally:
                host.desk.let_go(uuid)
            if domain.saved is not None and host.temper.corrupt_saves:
                host.end(domain, "failed", "failed", by)
                raise refusal(FAILED, "operation failed: failed to read qemu header", "create")
            boots = domain.boots
            await self._work(host.temper.start_s)
            if domain.gone or domain.boots != boots or domain.live is None:
                if domain.gone:
                    host.end(domain, "failed", "failed", "host")
                raise refusal(INTERNAL, "internal error: process exited while connecting to monitor")
            host.start(domain, by)
            await self._work((0.0, 0.05))

    async def destroy(self, uuid: str, by: str) -> None:
        host, domain = self._host, self._running(uuid)
        lock = host.lock(uuid)
        if lock.yields is not None:
            lock.yields()
        async with self._job(uuid, "destroy"):
            domain = self._running(uuid)
            host.desk.hold(uuid)
            try:
                temper = host.temper
                stuck_s = (temper.destroy_stuck_s, temper.destroy_stuck_s)
                await self._work(stuck_s if domain.stuck else temper.destroy_s)
                if domain.live is None:
                    raise refusal(INVALID, NOT_RUNNING)
                host.end(domain, "destroyed", "destroyed", by)
            finally:
                host.desk.let_go(uuid)

    async def shutdown(self, uuid: str, method: StopMethod, by: str) -> None:
        self._running(uuid)
        async with self._job(uuid, "shutdown"):
            domain = self._running(uuid)
            if method is StopMethod.AGENT and not domain.agent:
                raise refusal(
                    UNSUPPORTED_ARGUMENT, "argument unsupported: QEMU guest agent is not configured"
                )
            if method is StopMethod.AGENT and not domain.agent_up:
                raise refusal(
                    AGENT_UNRESPONSIVE, "Guest agent is not responding: QEMU guest agent is not connected"
                )
            await self._monitor(domain)
            self._host.changed(domain, "asked to stop", by)
            self._host.guests.obey(domain)

    async def suspend(self, uuid: str, by: str) -> None:
        self._running(uuid)
        migration = self.migrations.get(uuid)
        if migration is not None and migration.suspend(by):
            return
        async with self._job(uuid, "suspend"):
            domain = self._running(uuid)
            await self._monitor(domain)
            if domain.state is not State.RUNNING or domain.gone:
                raise refusal(INVALID, "Requested operation is not valid: domain is not running")
            domain.become(State.PAUSED, "user")
            self._host.changed(domain, "paused", by)
            self._host.say(domain, EventKind.SUSPENDED, "paused")

    async def resume(self, uuid: str, by: str) -> None:
        self._running(uuid)
        async with self._job(uuid, "resume"):
            domain = self._running(uuid)
            await self._monitor(domain)
            if domain.state is not State.PAUSED or domain.gone:
                raise refusal(INVALID, "Requested operation is not valid: domain is already running")
            domain.become(State.RUNNING, "unpaused")
            if domain.came_from is not None:
                domain.came_from.handed_over, domain.came_from = True, None
            self._host.changed(domain, "resumed", by)  # heard before it is forgotten what it was
            domain.handed_over = domain.is_old = False
            self._host.say(domain, EventKind.RESUMED, "unpaused")

    async def managed_save(self, uuid: str, by: str) -> None:
        host = self._host
        self._running(uuid)
        async with self._job(uuid, "save"):
            domain = self._running(uuid)
            if domain.config is None:
                said = "cannot do managed save for transient domain"
                raise refusal(INVALID, f"Requested operation is not valid: {said}")
            await self._monitor(domain)
            domain = self._running(uuid)  # its end may have been noticed meanwhile
            before = (domain.state, domain.reason)
            domain.become(State.PAUSED, "save")  # a daemon that dies now lets it go on when it is back
            await self._work(host.temper.save_s)
            if domain.live is None or domain.gone:
                raise refusal(FAILED, "operation failed: domain is no longer running")
            if host.temper.no_room:
                domain.become(*before)
                raise refusal(SYSTEM_ERROR, "unable to write to the save image: No space left on device")
            domain.saved_paused = before[0] is State.PAUSED
            domain.saved = definition.inactive(domain.live)
            host.changed(domain, "saved", by)
            host.end(domain, "saved", "saved", by)

    async def drop_saved(self, uuid: str, by: str) -> None:
        self.find(uuid)
        async with self._job(uuid, "managed save remove"):
            domain = self.find(uuid)
            await self._work(self._host.temper.metadata_s)
            if domain.saved is not None:
                domain.saved = None
                self._host.changed(domain, "save lost", by)

    async def reboot(self, uuid: str, by: str) -> None:
        """Asked for as a shutdown is; and then it is started again in its place."""
        self._running(uuid)
        async with self._job(uuid, "reboot"):
            domain = self._running(uuid)
            await self._monitor(domain)
            self._host.changed(domain, "asked to reboot", by)

    async def reset(self, uuid: str, by: str) -> None:
        self._running(uuid)
        async with self._job(uuid, "reset"):
            domain = self._running(uuid)
            await self._monitor(domain)
            self._host.changed(domain, "reset", by)
            self._host.say(domain, EventKind.OTHER, "reboot")

    # --- elsewhere

    async def migrate(
        self, uuid: str, target: SimHost | None, manner: Manner, by: str
    ) -> HypervisorError | None:
        """`target` None: a name that nobody knows."""
        self._running(uuid)
        if target is None:
            raise refusal(38, "Unable to resolve address: Name or service not known", origin=7)
        async with self._job(uuid, DEPARTURE) as held:
            domain = self._running(uuid)
            usable = domain.state is State.RUNNING or domain.record.reason == "user"
            if domain.gone or domain.stuck or not usable:
                raise refusal(INVALID, NOT_RUNNING)
            migration = self.migrations[uuid] = Migration(self._host, target, uuid, manner)
            try:
                return await migration.run(held)
            finally:
                self.migrations.pop(uuid, None)

    async def job(self, uuid: str, completed: bool, _by: str) -> Job | None:
        """What is done with the domain. Who asks waits for whatever is not a migration; in a migration, for
        QEMU's answer."""
        domain = self.find(uuid)
        if completed:
            return domain.completed
        if domain.live is None:
            return None
        if self._host.lock(uuid).held_by == ARRIVAL:
            return Job("migration-in", 0.0, 0, 0, 0)
        migration = self.migrations.get(uuid)
        if migration is None:
            async with self._job(uuid, "query"):  # QEMU is not asked: it has none to tell of
                return None
        if domain.stuck:
            await self._reply_of(domain)
        if self._host.temper.job_s[1]:
            await asyncio.sleep(self._host.seconds(self._host.temper.job_s))
        return migration.job() if uuid in self.migrations else None

    async def abort_job(self, uuid: str, by: str) -> HypervisorError | None:
        """At the source."""
        self._running(uuid)
        migration = self.migrations.get(uuid)
        if migration is None or migration.phase == "asking":
            raise refusal(INVALID, "Requested operation is not valid: no job is active on the domain")
        domain = self.find(uuid)
        if domain.stuck:
            await self._reply_of(domain)
        self._host.changed(domain, "migration aborted", by)
        return migration.abort()

    # --- how

    def find(self, uuid: str) -> SimDomain:
        domain = self._host.domains.get(uuid)
        if domain is None:
            raise no_domain(uuid)
        return domain

    def _running(self, uuid: str) -> SimDomain:
        domain = self.find(uuid)
        if domain.live is None:
            raise refusal(INVALID, NOT_RUNNING)
        return domain

    @asynccontextmanager
    async def _job(self, uuid: str, what: str) -> AsyncIterator[Held]:
        """The domain's job lock; nothing happens before the daemon runs."""
        lock = self._host.lock(uuid)
        stuck = self._host.domains.get(uuid)
        turn = await lock.acquire(what)
        try:
            await self._awake()
            if turn and stuck is not None and stuck.starts_stuck:
                await asyncio.sleep(LOCK_S)
                await self._awake()
            if not turn or (stuck is not None and stuck.starts_stuck):
                raise refusal(TIMEOUT, BUSY.format(lock.held_by))
            yield Held(lock, turn)
        finally:
            lock.release(turn)

    async def _work(self, between: Range) -> None:
        await asyncio.sleep(min(self._host.seconds(between), WORKS_S))
        await self._awake()

    async def _awake(self) -> None:
        while self._host.daemon != "up":
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._host.when_up(partial(_settle, woken, None))
            await woken

    async def _monitor(self, domain: SimDomain) -> None:
        """A command to QEMU: one that is stopped answers when it goes on, or when it is killed."""
        if not domain.stuck:
            await self._work(self._host.temper.metadata_s)
            return
        self._host.lock(domain.uuid).yields = partial(self.answered, domain, False)
        await self._reply_of(domain)

    async def _reply_of(self, stuck: SimDomain) -> None:
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._stuck.setdefault(stuck, []).append(answered)
        if not await answered:
            raise refusal(INTERNAL, "internal error: End of file from qemu monitor")
        await self._awake()

    def answered(self, domain: SimDomain, lives: bool) -> None:
        """The guest goes on and answers, or it is dead."""
        for waiting in self._stuck.pop(domain, ()):
            _settle(waiting, lives)


def _settle(waiting: asyncio.Future[Any], value: object) -> None:
    if not waiting.done():
        waiting.set_result(value)
