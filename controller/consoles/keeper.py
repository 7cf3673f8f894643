"""The keeper of consoles: opens those that are wanted, where their domains run, and fills their tapes.

Wanted is what `record: true` asks for, and what somebody is attached to. Each such console has a task that
opens it on the node on which the domain is active, and again when it ended: after a start, a migration, a
daemon that died, a reader who had it before us. It is woken by every change that concerns its domain, and
pauses between attempts. Nothing here changes anything on a host, and nobody waits for it: where no console
can be had, the tape says why.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field

from controller.cache import DOMAIN_KEY, Cache
from controller.consoles.desk import Desk
from controller.consoles.tape import Key, Tape
from controller.observer import Observer
from drivers.errors import DomainBusy, HypervisorError, NoDomain, WrongState
from drivers.hypervisor import ConsoleEnded, ConsoleOutput, Session
from specs.consoles import recorded
from specs.devicexml import alias

log = logging.getLogger(__name__)

FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 10.0
BUSY = "somebody else reads it there, perhaps with virsh console; it is read again when that ends"


@dataclass(eq=False, slots=True)
class _Served:
    """A wanted console: its task, and what wakes it."""

    task: asyncio.Task[None]
    wake: asyncio.Event


@dataclass(slots=True)
class Keeper:
    cache: Cache
    observer: Observer
    desk: Desk
    _served: dict[Key, _Served] = field(default_factory=dict)
    _dirty: dict[str, None] = field(default_factory=dict)  # ordered: runs can be repeated
    _due: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, uuid: str) -> None:
        """Something about this domain changed."""
        self._dirty[uuid] = None
        self._due.set()

    def look_at(self, key: str) -> None:
        """The same, by the key of a work queue."""
        if key.startswith(DOMAIN_KEY):
            self.look(key.removeprefix(DOMAIN_KEY))

    async def run(self) -> None:
        """Until cancelled."""
        self.desk.on_change = self.look
        self._dirty.update(dict.fromkeys(self.desk.uuids))
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                if not self.cache.synced:  # what is not known yet is not gone
                    await asyncio.sleep(FIRST_PAUSE_S)
                    self._due.set()
                    continue
                self.desk.serving = True
                dirty, self._dirty = self._dirty, {}
                for uuid in dirty:
                    self._follow(uuid)
        finally:
            tasks = [served.task for served in self._served.values()]
            self._served.clear()
            for task in tasks:
                task.cancel()
            self.desk.retire()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, uuid: str) -> None:
        stored = self.cache.domains.get(uuid)
        names = () if stored is None else recorded(stored.domain.spec)
        for name in names:
            self.desk.open(uuid, name).recorded = True
        for tape in self.desk.of(uuid):
            tape.recorded = tape.key[1] in names
            if stored is not None and tape.is_wanted:
                self._serve(tape)
            else:
                self._stop(tape.key)
                self.desk.drop(
                    tape, "the domain was deleted" if stored is None else "it is not recorded any more"
                )

    def _serve(self, tape: Tape) -> None:
        served = self._served.get(tape.key)
        if served is not None:
            served.wake.set()
            return
        wake = asyncio.Event()
        task = asyncio.create_task(self._keep(tape, wake), name=f"console {tape.key[0]}")
        self._served[tape.key] = _Served(task, wake)

    def _stop(self, key: Key) -> None:
        served = self._served.pop(key, None)
        if served is not None:
            served.task.cancel()

    async def _keep(self, tape: Tape, wake: asyncio.Event) -> None:
        """Until cancelled. A bug costs a pause: a task that is over would never be looked at again."""
        while True:
            try:
                await self._keep_open(tape, wake)
            except Exception:
                log.exception("console failed", extra={"uuid": tape.key[0], "console": tape.key[1]})
                tape.closed("reading it failed; domctl's log says how")
            await asyncio.sleep(MAX_PAUSE_S)

    async def _keep_open(self, tape: Tape, wake: asyncio.Event) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            wake.clear()
            places = self._places(tape.key[0])
            if isinstance(places, str):
                _note(tape, places)
                await wake.wait()
                continue
            for node, session in places:
                if await self._read(tape, node, session):
                    pause_s = FIRST_PAUSE_S
                    break
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await asyncio.sleep(FIRST_PAUSE_S)
                        await wake.wait()
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _read(self, tape: Tape, node: str, session: Session) -> bool:
        """Read it there until it ends; False when it could not be opened."""
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def sink(event: ConsoleOutput | ConsoleEnded) -> None:
            if isinstance(event, ConsoleOutput):
                tape.heard(event)
            elif not over.done():
                over.set_result(event.why)

        uuid, name = tape.key
        try:
            console = await session.console(uuid, alias(name) if name else "", sink)
        except HypervisorError as error:
            _note(tape, _words(error, node))
            return False
        tape.opened(console, node)
        try:
            tape.closed(await over)
        finally:
            tape.closed(tape.why or "it is not being read")
            await console.close()
        return True

    def _places(self, uuid: str) -> list[tuple[str, Session]] | str:
        """Where it is active, as far as that is known, the likeliest first; or why it is nowhere."""
        held = self.cache.assignments.get(uuid)
        home = "" if held is None else held.assignment.node
        active = [
            (sighting.in_migration, node != home, node)
            for node, sighting in self.cache.seen.by_uuid.get(uuid, {}).items()
            if sighting.record.active
        ]
        places = [
            (node, session)
            for _, _, node in sorted(active)
            if (session := self.observer.session(node)) is not None
        ]
        if places:
            return places
        if active or (home and not self.cache.view(home).answers):
            node = active[0][2] if active else home
            return f"its node {node} does not answer: {self.cache.view(node).why or 'not read yet'}"
        return "the domain is not running"


def _note(tape: Tape, why: str) -> None:
    if tape.why != why:
        log.debug("console is not read", extra={"uuid": tape.key[0], "console": tape.key[1], "why": why})
        tape.closed(why)


def _words(error: HypervisorError, node: str) -> str:
    if isinstance(error, DomainBusy):
        return f"node {node}: {BUSY}"
    if isinstance(error, NoDomain | WrongState):
        return "the domain is not running"
    return f"node {node} did not open it: {error.message}"
