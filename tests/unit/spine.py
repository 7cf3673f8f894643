"""The spine above invented hosts: real terms of leadership on the in-memory store, in virtual time.

`Spine` holds the store and the hosts; `Leader` is one replica whose every term is a real
`controller.leader.reign`. A `Host` is what a libvirt host would be if it were a dictionary: it has domains,
answers or does not, and can be told to be slow, mute or broken. Tests change objects and hosts, let time
pass, and look at objects and hosts again. Nothing here decides.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller import keys
from controller.cache import Cache
from controller.consoles.desk import Desk
from controller.election import Election, Leadership
from controller.faults import Faults
from controller.figures import Board
from controller.leader import Office, Reign, reign
from controller.limits import Bounds, Timing
from controller.metrics import Metrics
from controller.model import Assignment
from controller.objects import Objects
from controller.plan.snapshot import Policy
from controller.storewatch import StoreWatch
from drivers.errors import AuthFailed, Cause, HostFailed, HypervisorError, NoDomain, Unreachable, WrongState
from drivers.hypervisor import (
    Capabilities,
    Detail,
    DomainFigures,
    EventKind,
    EventSink,
    Figures,
    HostEvent,
    HostFacts,
    HostFigures,
    Listing,
    Mark,
    Outcome,
    Permit,
    Record,
    Result,
    SessionClosed,
    State,
    StopMethod,
    Target,
)
from drivers.memory import MemoryStore
from drivers.store import Put
from specs import mark as marks
from tests import virtualtime
from tests.faultystore import FaultyStore
from tests.unit.plancase import CLUSTER, UUID, facts

DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 2, "finalizers": ["domctl.io/domain"]}
FOREIGN_XML = "<domain/>"
MARK = re.compile(rf"<{marks.MARK_KEY}:domain [^>]*>")
PASSWORD = re.compile(r' passwd="[^"]*"')
SAVED = "Refusing to undefine while domain managed save image exists"


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], object], limit_s: float = 120) -> float:
    """Wait for `condition`; returns how long it took."""
    began = now()
    while not condition():
        assert now() - began < limit_s, "it does not happen"
        await asyncio.sleep(0.05)
    return now() - began


@dataclass
class HostDomain:
    """A domain as its host has it: `config` is the persistent definition, `live` the running one."""

    uuid: str
    name: str
    config: str | None = FOREIGN_XML
    live: str | None = None
    reason: str = "unknown"
    autostart: bool = False
    managed_save: bool = False

    @property
    def record(self) -> Record:
        active = self.live is not None
        state = State.RUNNING if active else State.SHUTOFF
        return Record(self.uuid, self.name, state, "booted" if active else self.reason, active)

    def copy(self) -> HostDomain:
        return HostDomain(self.uuid, self.name, self.config, self.live)


@dataclass
class Host:
    """`heard` is what a host would find in its own log: when it was told what."""

    name: str
    machine: str = ""  # "" if this is all that answers there; else as another host with another driver
    driver: str = "qemu"
    domains: dict[str, HostDomain] = field(default_factory=dict)
    heard: list[tuple[float, str]] = field(default_factory=list)
    sessions: list[HostSession] = field(default_factory=list)
    reachable: bool = True
    denial: Cause | None = None  # it answers, but not to us
    mute: bool = False  # sends no events
    latency_s: float = 0.005
    define_s: float = 0.0
    quotes: bool = False  # definitions fail, and it says all of them
    bug: Exception | None = None  # raised by lists, instead of an answer
    illegible: set[str] = field(default_factory=set)  # listed, but cannot be shown in detail
    figures: Exception | None = None  # raised by figures, instead of an answer

    def runs(self, uuid: str = UUID) -> bool:
        return uuid in self.domains and self.domains[uuid].live is not None

    def times(self, command: str, since: float = 0.0) -> int:
        return sum(1 for at, heard in self.heard if heard == command and at >= since)

    def say(self, kind: EventKind, detail: str = "", uuid: str = UUID) -> None:
        """Send an event over the newest session."""
        if self.sessions:
            self.sessions[-1].say(uuid, kind, detail)

    def end(self, reason: str, uuid: str = UUID) -> None:
        """A domain stops running, and the host says so."""
        domain = self.domains[uuid]
        domain.live, domain.reason = None, reason
        self.say(EventKind.STOPPED, reason, uuid)

    def lose(self) -> None:
        """The network goes: nothing that is connected hears from the host again."""
        self.reachable = False
        self.cut()

    def cut(self) -> None:
        """The connection breaks; a new one may be opened."""
        self.sessions[-1].cut()


class HostSession:
    """The port's Session on one invented host."""

    opened_at = 0.0
    capabilities = Capabilities(
        bulk_stats=True,
        managed_save=True,
        live_migration=False,
        keep_alive=True,
        raced_create_undefine=True,
    )

    def __init__(self, host: Host, target: Target, sink: EventSink) -> None:
        self._host, self._target, self._sink, self._open = host, target, sink, True
        host.sessions.append(self)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def is_open(self) -> bool:
        return self._open

    def say(self, uuid: str, kind: EventKind, detail: str) -> None:
        if self._open and not self._host.mute:
            event = HostEvent(uuid, "web", kind, detail, now())
            asyncio.get_running_loop().call_soon(self._sink, self, (event,))

    def cut(self) -> None:
        self._open = False
        self._sink(self, (SessionClosed("error", now()),))

    async def close(self) -> None:
        self._open = False

    # --- reads

    async def _answer(self) -> None:
        await asyncio.sleep(self._host.latency_s)
        if not self._open or not self._host.reachable:
            raise Unreachable("connection reset by peer")

    async def facts(self) -> HostFacts:
        await self._answer()
        return facts(self._host.machine or self._host.name, driver=self._host.driver)

    async def list(self) -> Listing:
        sent_at = now()
        await self._answer()
        if self._host.bug is not None:
            raise self._host.bug
        return Listing(sent_at, now(), tuple(d.record for d in self._host.domains.values()))

    async def figures(self) -> Figures:
        """Every domain that runs keeps half a processor busy, the host two."""
        if self._host.figures is not None:
            raise self._host.figures
        sent_at = now()
        await self._answer()
        found = [d.uuid for d in self._host.domains.values() if d.live is not None]
        domains = tuple(DomainFigures(uuid, now() / 2, 32 << 20, 40 << 20) for uuid in found)
        return Figures(sent_at, now(), domains, HostFigures(now() * 2, 1 << 30, 8 << 30))

    async def detail(self, uuid: str, known: Detail | None = None) -> Detail:
        sent_at = now()
        await self._answer()
        if uuid in self._host.illegible:
            raise HostFailed("internal error: cannot format the domain")
        domain = self._host.domains.get(uuid)
        if domain is None:
            raise NoDomain("no domain with matching uuid")
        return Detail(
            record=domain.record,
            sent_at=sent_at,
            persistent=domain.config is not None,
            autostart=domain.autostart,
            managed_save=domain.managed_save,
            config_xml=_shown(domain.config),
            live_xml=_shown(domain.live),
            config_mark=marks.find(domain.config) if domain.config else None,
            live_mark=marks.find(domain.live) if domain.live else None,
            vcpus=1,
            memory_bytes=32 << 20,
        )

    # --- mutations

    async def _told(self, command: str) -> Result | None:
        """None: the host heard it and may carry it out."""
        await asyncio.sleep(self._host.latency_s)
        if not self._open or not self._host.reachable:
            return Result(Outcome.AMBIGUOUS, Unreachable("connection reset by peer"))
        self._host.heard.append((now(), command))
        return None

    def _done(self, uuid: str, kind: EventKind, detail: str) -> Result:
        self.say(uuid, kind, detail)
        return Result(Outcome.DONE)

    async def define(self, xml: str, permit: Permit) -> Result:
        await asyncio.sleep(self._host.define_s)
        lost = await self._told("define")
        if lost:
            return lost
        if self._host.quotes:
            return Result(Outcome.FAILED, HostFailed(f"internal error: cannot take {xml}"))
        mark = marks.find(xml)
        assert mark is not None
        name = xml.split("<name>")[1].split("<", maxsplit=1)[0]
        domain = self._host.domains.setdefault(mark.uuid, HostDomain(mark.uuid, name))
        domain.config = xml
        return self._done(mark.uuid, EventKind.DEFINED, "updated")

    async def create(self, uuid: str, permit: Permit) -> Result:
        lost = await self._told("create")
        if lost:
            return lost
        domain = self._host.domains.get(uuid)
        if domain is None or domain.live is not None:
            return _failed(WrongState("domain is already running"))
        domain.live = domain.config
        return self._done(uuid, EventKind.STARTED, "booted")

    async def shutdown(
        self, uuid: str, method: StopMethod, permit: Permit, _limit_s: float | None = None
    ) -> Result:
        """The guests of these hosts do not listen."""
        return await self._told("shutdown") or Result(Outcome.DONE)

    async def destroy(self, uuid: str, permit: Permit) -> Result:
        lost = await self._told("destroy")
        if lost:
            return lost
        if not self._host.runs(uuid):
            return _failed(WrongState("domain is not running"))
        self._host.end("destroyed", uuid)
        return Result(Outcome.DONE)

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        lost = await self._told("undefine")
        if lost:
            return lost
        domain = self._host.domains.get(uuid)
        if domain is None:
            return _failed(NoDomain("no domain with matching uuid"))
        if domain.managed_save:
            return _failed(WrongState(SAVED))
        domain.config = None
        if domain.live is None:
            del self._host.domains[uuid]
        return self._done(uuid, EventKind.UNDEFINED, "removed")

    async def set_mark(
        self, uuid: str, mark: Mark | None, *, live: bool, config: bool, permit: Permit
    ) -> Result:
        lost = await self._told("set_mark")
        if lost:
            return lost
        domain = self._host.domains[uuid]
        if config and domain.config is not None:
            domain.config = _marked(domain.config, mark)
        if live and domain.live is not None:
            domain.live = _marked(domain.live, mark)
        return self._done(uuid, EventKind.OTHER, "")

    async def set_autostart(self, uuid: str, on: bool, permit: Permit) -> Result:
        """libvirt sends no event for it."""
        lost = await self._told("set_autostart")
        if lost:
            return lost
        self._host.domains[uuid].autostart = on
        return Result(Outcome.DONE)


def _shown(xml: str | None) -> str | None:
    """As a host shows it where it is not asked for its secrets."""
    return None if xml is None else PASSWORD.sub("", xml)


def _marked(xml: str, mark: Mark | None) -> str:
    """The definition with this mark in the place of the one that it has."""
    marked, count = MARK.subn(marks.element(mark) if mark is not None else "", xml)
    assert count == 1, "only definitions that were marked once are marked again"
    return marked


def _failed(error: HypervisorError) -> Result:
    return Result(Outcome.FAILED, error)


@dataclass(frozen=True)
class InventedHypervisor:
    """The port's Hypervisor: the authority of a URI is the key of a host."""

    hosts: dict[str, Host]

    async def open(self, target: Target, sink: EventSink) -> HostSession:
        await asyncio.sleep(0.01)
        host = self.hosts[target.uri.split("//")[1].split("/")[0]]
        if host.denial is not None:
            raise AuthFailed("it says no", cause=host.denial)
        if not host.reachable:
            raise Unreachable("no route to host", cause=Cause.NO_ROUTE)
        return HostSession(host, target, sink)

    async def close(self) -> None:
        return


@dataclass
class Leader:
    """One replica: its way to the store, its data directory, and the term that it leads or led last."""

    spine: Spine
    name: str
    store: FaultyStore
    disk: list[bytes] = field(default_factory=list)
    leadership: Leadership | None = None
    reign: Reign | None = None
    storewatch: StoreWatch = field(init=False)
    figures: Board = field(init=False)
    metrics: Metrics = field(init=False)
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.storewatch = StoreWatch(lambda: self.disk[-1] if self.disk else None, self.disk.append)
        self.figures = Board(self.spine.world.now)
        self.metrics = Metrics(self.spine.world.now, "0")

    async def start(self) -> None:
        election = Election(
            self.store, self.spine.world, Timing(), self.name, "host-of-" + self.name, self.storewatch
        )
        self.task = asyncio.create_task(election.run(self._lead))

    async def _lead(self, leadership: Leadership) -> None:
        world = self.spine.world
        office = Office(
            store=self.store,
            objects=Objects(self.store, world),
            hypervisor=InventedHypervisor(self.spine.hosts),
            world=world,
            timing=Timing(),
            bounds=Bounds(),
            policy=Policy(),
            metrics=self.metrics,
            storewatch=self.storewatch,
            cluster=CLUSTER,
            faults=Faults(),
            on_synced=lambda _: None,
            desk=Desk(world.wall, 1 << 16, 1 << 20),
            figures=self.figures,
        )
        self.leadership = leadership
        self.reign = reign(office, leadership)
        await self.reign.run()

    @property
    def cache(self) -> Cache:
        assert self.reign is not None, "it does not lead"
        return self.reign.cache

    def answers(self, node: str) -> bool:
        return self.cache.view(node).answers

    async def stop(self) -> None:
        """In order, as for a restart."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    async def die(self) -> None:
        """Like SIGKILL: nothing more reaches the store."""
        self.store.silent = True
        await self.stop()


class Spine:
    """The store, the hosts, and who leads."""

    def __init__(self, *hosts: str) -> None:
        self.world = virtualtime.world()
        self.store = MemoryStore(self.world.now)
        self.hosts = {name: Host(name) for name in hosts}
        self.leaders: list[Leader] = []
        self.tasks: list[asyncio.Task[None]] = []

    def leader(self, name: str = "me") -> Leader:
        self.leaders.append(Leader(self, name, FaultyStore(self.store)))
        return self.leaders[-1]

    async def successor(self, name: str) -> Leader:
        """A replica that stands by, and follows the store as it does."""
        leader = self.leader(name)
        await leader.start()
        self.tasks.append(asyncio.create_task(leader.storewatch.run(leader.store)))
        return leader

    async def lead(self, name: str = "me") -> Leader:
        """A leader whose term has begun."""
        leader = self.leader(name)
        await leader.start()
        await until(lambda: leader.reign)
        return leader

    # --- what users write

    async def write(self, key: str, body: dict[str, Any]) -> None:
        await self.store.txn([], [Put(key, msgspec.json.encode(body))])

    async def node(self, name: str, uri: str = "", meta: dict[str, Any] | None = None, **spec: Any) -> None:
        body = {
            "apiVersion": "domctl.io/v1",
            "kind": "Node",
            "metadata": {"name": name, "uid": f"n-{name}", "generation": 1, **(meta or {})},
            "spec": {"uri": f"qemu+tcp://{uri or name}/system", "insecure": True, **spec},
        }
        await self.write(keys.object_key("nodes", "", name), body)

    async def domain(self, uuid: str = UUID, meta: dict[str, Any] | None = None, **spec: Any) -> None:
        body = {
            "apiVersion": "domctl.io/v1",
            "kind": "Domain",
            "metadata": {
                "name": "web",
                "namespace": "default",
                "uid": uuid,
                "generation": 1,
                **(meta or {}),
            },
            "spec": {"memory": "32Mi", "type": "qemu", **spec},
        }
        await self.write(keys.object_key("domains", "default", "web"), body)

    async def confirm_dead(self, node: str) -> None:
        await self.write(keys.confirmed_dead(node), {"by": "alice", "at": "now", "node": node})

    async def resolve(self, keep: str, uuid: str = UUID) -> None:
        await self.write(keys.resolution(uuid), {"by": "alice", "at": "now", "keep": keep})

    # --- what users read

    async def status(self) -> tuple[str, str]:
        """(reason, message) of the domain's Ready condition."""
        kv = await self.store.get(keys.object_key("domains", "default", "web"))
        assert kv is not None
        status = msgspec.json.decode(kv.value)["status"]
        return status["reason"], status["conditions"][0]["message"]

    async def node_reason(self, name: str) -> str:
        kv = await self.store.get(keys.object_key("nodes", "", name))
        assert kv is not None
        return str(msgspec.json.decode(kv.value)["status"]["reason"])

    async def assignment(self, uuid: str = UUID) -> Assignment | None:
        kv = await self.store.get(keys.assignment(uuid))
        return None if kv is None else msgspec.json.decode(kv.value, type=Assignment)

    async def exists(self, key: str) -> bool:
        return await self.store.get(key) is not None

    def running_on(self, uuid: str = UUID) -> list[str]:
        return [name for name, host in self.hosts.items() if host.runs(uuid)]


@asynccontextmanager
async def spine(*hosts: str) -> AsyncIterator[Spine]:
    made = Spine(*hosts)
    yield made
    for leader in made.leaders:
        await leader.stop()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.store.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtualtime.run(main())


async def running_on_a(s: Spine) -> Leader:
    """The domain runs on a, for no other node was there when it was placed; b has joined since."""
    leader = await s.lead()
    await s.node("a")
    await s.domain()
    await until(s.hosts["a"].runs)
    await s.node("b")
    await until(lambda: leader.answers("b"))
    await asyncio.sleep(5)
    return leader


async def died_on_a_and_runs_on_b(s: Spine) -> Leader:
    """a was confirmed dead and the domain was started on b."""
    leader = await running_on_a(s)
    s.hosts["a"].lose()
    await asyncio.sleep(5)
    await s.confirm_dead("a")
    await until(s.hosts["b"].runs)
    await asyncio.sleep(30)
    return leader
