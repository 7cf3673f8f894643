"""The doors of one process: what it asks of etcd and of hosts passes here, and is noted for the checks.

They change nothing while the process runs. Whoever was stopped in the middle of a step goes on until its
task next waits; behind a closed door it waits until its process goes on, if ever. What hosts say reaches a
stopped process when it goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec import Struct

from drivers.errors import NoDomain
from drivers.hypervisor import (
    Capabilities,
    Console,
    ConsoleSink,
    Detail,
    EventSink,
    Figures,
    HostEvent,
    HostFacts,
    Hypervisor,
    Job,
    Listing,
    Mark,
    Move,
    Outcome,
    Permit,
    Result,
    Session,
    SessionClosed,
    StopMethod,
    Target,
)
from drivers.store import ChangeSet, Compare, KeyValue, Page, Store, StoreStatus, TxnResult, Write
from tests.sim.hypervisor import Sent
from tests.sim.process import Process

T = TypeVar("T")


class Call(Struct, frozen=True):
    """One call to a host, once it came back. `outcome`: of a mutation, None for reads that answered;
    `failed`: a read that raised; `absent`: for there is no such domain."""

    client: str
    host: str
    call: str
    uuid: str
    began_at: float
    ended_at: float
    outcome: Outcome | None = None
    failed: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Notes:
    """Who hears what passed. `renewed`: a keep-alive that succeeded was sent then. `answered`: an answer to a
    transaction came, of this revision. `died`: a process is gone. `restored`: etcd is of another past."""

    called: Callable[[Call], None]
    renewed: Callable[[str, float], None]
    answered: Callable[[str, int], None]
    died: Callable[[str], None]
    restored: Callable[[], None]
    sent: Callable[[Sent], None]


class StoreDoor:
    def __init__(self, inner: Store, process: Process, notes: Notes, clock: Callable[[], float]) -> None:
        self.inner, self.process, self.notes, self.clock = inner, process, notes, clock

    async def _stopped(self) -> None:
        if not self.process.runs:
            await self.process.going_on()

    async def get(self, key: str) -> KeyValue | None:
        await self._stopped()
        return await self.inner.get(key)

    async def list(self, prefix: str) -> Page:
        await self._stopped()
        return await self.inner.list(prefix)

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        await self._stopped()
        return await self.inner.page(prefix, after=after, limit=limit, revision=revision)

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        await self._stopped()
        result = await self.inner.txn(compares, writes)
        self.notes.answered(self.process.name, result.revision)
        return result

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        stream = self.inner.watch(prefix, after_revision)
        try:
            async for change_set in stream:
                yield change_set
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def grant(self, ttl_s: int) -> int:
        await self._stopped()
        return await self.inner.grant(ttl_s)

    async def keep_alive(self, lease: int) -> int:
        await self._stopped()
        sent_at = self.clock()
        left_s = await self.inner.keep_alive(lease)
        self.notes.renewed(self.process.name, sent_at)
        return left_s

    async def revoke(self, lease: int) -> None:
        await self._stopped()
        await self.inner.revoke(lease)

    async def status(self) -> StoreStatus:
        await self._stopped()
        return await self.inner.status()

    async def close(self) -> None:
        await self.inner.close()


class HypervisorDoor:
    def __init__(self, inner: Hypervisor, process: Process, notes: Notes, clock: Callable[[], float]) -> None:
        self.inner, self.process, self.notes, self.clock = inner, process, notes, clock

    async def open(self, target: Target, sink: EventSink) -> SessionDoor:
        if not self.process.runs:
            await self.process.going_on()
        door = SessionDoor(self, target, sink)
        began_at = self.clock()
        failed = True
        try:
            door.session = await self.inner.open(target, door.heard)
            failed = False
        finally:
            now = self.clock()
            self.notes.called(Call(self.process.name, target.node, "open", "", began_at, now, failed=failed))
        return door

    async def close(self) -> None:
        await self.inner.close()


class SessionDoor:
    """A session as its process has it."""

    session: Session

    def __init__(self, door: HypervisorDoor, target: Target, sink: EventSink) -> None:
        self._door, self._target, self._sink = door, target, sink

    def heard(self, _session: Session, events: tuple[HostEvent | SessionClosed, ...]) -> None:
        self._door.process.hear(lambda: self._sink(self, events))

    @property
    def target(self) -> Target:
        return self.session.target

    @property
    def opened_at(self) -> float:
        return self.session.opened_at

    @property
    def capabilities(self) -> Capabilities:
        return self.session.capabilities

    @property
    def is_open(self) -> bool:
        return self.session.is_open

    async def _read(self, call: str, uuid: str, work: Callable[[], Awaitable[T]]) -> T:
        door = self._door
        if not door.process.runs:
            await door.process.going_on()
        began_at, failed, absent = door.clock(), True, False
        try:
            answer = await work()
            failed = False
            return answer
        except NoDomain:
            absent = True
            raise
        finally:
            where = (door.process.name, self._target.node, call, uuid)
            door.notes.called(Call(*where, began_at, door.clock(), failed=failed, absent=absent))

    async def _change(self, call: str, uuid: str, work: Callable[[], Awaitable[Result]]) -> Result:
        door = self._door
        if not door.process.runs:
            await door.process.going_on()
        began_at = door.clock()
        outcome = Outcome.AMBIGUOUS
        try:
            result = await work()
            outcome = result.outcome
            return result
        finally:
            door.notes.called(
                Call(door.process.name, self._target.node, call, uuid, began_at, door.clock(), outcome)
            )

    async def facts(self) -> HostFacts:
        return await self._read("facts", "", self.session.facts)

    async def list(self) -> Listing:
        return await self._read("list", "", self.session.list)

    async def detail(self, uuid: str, known: Detail | None = None) -> Detail:
        return await self._read("detail", uuid, lambda: self.session.detail(uuid, known))

    async def figures(self) -> Figures:
        """Nothing is decided by them, so they are noted for no check, and no story tells of them."""
        if not self._door.process.runs:
            await self._door.process.going_on()
        return await self.session.figures()

    async def define(self, xml: str, permit: Permit) -> Result:
        return await self._change("define", "", lambda: self.session.define(xml, permit))

    async def create(self, uuid: str, permit: Permit) -> Result:
        return await self._change("create", uuid, lambda: self.session.create(uuid, permit))

    async def shutdown(
        self, uuid: str, method: StopMethod, permit: Permit, limit_s: float | None = None
    ) -> Result:
        return await self._change(
            "shutdown", uuid, lambda: self.session.shutdown(uuid, method, permit, limit_s)
        )

    async def destroy(self, uuid: str, permit: Permit) -> Result:
        return await self._change("destroy", uuid, lambda: self.session.destroy(uuid, permit))

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        return await self._change("undefine", uuid, lambda: self.session.undefine(uuid, permit))

    async def set_mark(
        self, uuid: str, mark: Mark | None, *, live: bool, config: bool, permit: Permit
    ) -> Result:
        def work() -> Awaitable[Result]:
            return self.session.set_mark(uuid, mark, live=live, config=config, permit=permit)

        return await self._change("set_mark", uuid, work)

    async def set_autostart(self, uuid: str, on: bool, permit: Permit) -> Result:
        return await self._change("set_autostart", uuid, lambda: self.session.set_autostart(uuid, on, permit))

    async def job(self, uuid: str, *, completed: bool = False) -> Job | None:
        return await self._read("job", uuid, lambda: self.session.job(uuid, completed=completed))

    async def migrate(self, uuid: str, move: Move, permit: Permit) -> Result:
        return await self._change("migrate", uuid, lambda: self.session.migrate(uuid, move, permit))

    async def abort_job(self, uuid: str, permit: Permit) -> Result:
        return await self._change("abort_job", uuid, lambda: self.session.abort_job(uuid, permit))

    async def console(self, uuid: str, device: str, sink: ConsoleSink) -> Console:
        return await self._read("console", uuid, lambda: self.session.console(uuid, device, sink))

    async def suspend(self, uuid: str, permit: Permit) -> Result:
        return await self._change("suspend", uuid, lambda: self.session.suspend(uuid, permit))

    async def resume(self, uuid: str, permit: Permit) -> Result:
        return await self._change("resume", uuid, lambda: self.session.resume(uuid, permit))

    async def save(self, uuid: str, permit: Permit) -> Result:
        return await self._change("save", uuid, lambda: self.session.save(uuid, permit))

    async def save_room(self) -> int | None:
        return await self._read("facts", "", self.session.save_room)

    async def drop_saved(self, uuid: str, permit: Permit) -> Result:
        return await self._change("drop_saved", uuid, lambda: self.session.drop_saved(uuid, permit))

    async def reboot(self, uuid: str, permit: Permit) -> Result:
        return await self._change("reboot", uuid, lambda: self.session.reboot(uuid, permit))

    async def reset(self, uuid: str, permit: Permit) -> Result:
        return await self._change("reset", uuid, lambda: self.session.reset(uuid, permit))

    async def close(self) -> None:
        await self.session.close()
