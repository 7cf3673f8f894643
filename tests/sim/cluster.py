"""One simulated world: etcd, a network, hosts, and replicas that are put together as `controller.app` does.

A `Replica` is one installation of domctl: a data directory that survives, and at any time at most one
process, with its own ways to etcd and to the hosts. `Cluster` holds them all, with the truth that checks and
people of the run ask for. Nothing here decides, and nothing here goes wrong by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import fnmatch
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import msgspec

from controller import keys
from controller.app import _campaign, _cluster_id
from controller.consoles.desk import Desk
from controller.election import Election, Leadership
from controller.faults import Faults
from controller.figures import Board
from controller.leader import Office, reign
from controller.limits import Bounds, Timing
from controller.metrics import Metrics
from controller.model import Assignment, LeaderRecord
from controller.objects import Objects
from controller.plan.snapshot import Policy
from controller.storewatch import StoreWatch
from controller.world import World
from drivers.errors import StoreError
from drivers.memory import Backup
from drivers.store import KeyValue
from tests.sim.doors import HypervisorDoor, Notes, StoreDoor
from tests.sim.etcd import SimEtcd
from tests.sim.host import SimHost
from tests.sim.hypervisor import SimHypervisor
from tests.sim.network import Network
from tests.sim.process import PROCESS, Process, ProcessLoop
from tests.sim.store import SimStore, Ways
from tests.sim.trace import Trace
from tests.virtualtime import START_S

SLICED_RUNS, SLOW_VERDICT_S = 0.3, 0.004
RESTART_S = 2.0  # as systemd would
BOUNDS = Bounds(destroys_per_minute=6)
Body = dict[str, Any]


def _wall(now: float) -> str:
    seconds = int(now - START_S)
    return f"2026-01-02T{12 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


@dataclass
class Tripwire:
    """Stands in for `controller.faults.Faults`: at the first step that matches, `strike` is called once."""

    pattern: str = ""
    strike: Callable[[str], None] | None = None

    def reach(self, point: str) -> None:
        if self.strike is not None and fnmatch.fnmatchcase(point, self.pattern):
            strike, self.strike = self.strike, None
            strike(point)


@dataclass
class Replica:
    """One installation. `disk` is the memory of the store that its data directory keeps."""

    cluster: Cluster
    name: str
    disk: list[bytes] = field(default_factory=list)
    process: Process | None = None
    identity: str = ""
    task: asyncio.Task[None] | None = None
    hypervisor: SimHypervisor | None = None
    client: SimStore | None = None
    tripwire: Tripwire = field(default_factory=Tripwire)
    starts: int = 0
    ways: Ways = field(default_factory=Ways)
    stopping: asyncio.Event | None = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.runs

    @property
    def lives(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        assert self.process is None, "it runs already"
        self.starts += 1
        self.process = Process(self.name)
        context = contextvars.copy_context()
        context.run(PROCESS.set, self.process)
        self.stopping = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(
            self._run(self.process, self.stopping), context=context
        )
        self.cluster.trace.say(self.name, "starts")

    def kill(self, why: str = "SIGKILL") -> None:
        """Nothing of it goes on. What it sent and what stands in kernels is on its way still."""
        if self.process is None:
            return
        self.cluster.trace.say(self.name, why)
        self.cluster.loop.stop_process(self.process)
        if self.hypervisor is not None:
            self.hypervisor.die()
        if self.client is not None:
            self.client.die()
        self.cluster.notes.died(self.name)
        if self.task is not None:
            self.cluster.graves.append((self.process, self.task))
        self.process = self.task = self.hypervisor = self.client = None
        self.identity = ""

    def freeze(self) -> None:
        if self.process is not None and self.process.runs:
            self.cluster.trace.say(self.name, "SIGSTOP")
            self.cluster.loop.stop_process(self.process)
            if self.hypervisor is not None:
                self.hypervisor.freeze()

    def thaw(self) -> None:
        if self.process is not None and not self.process.runs:
            self.cluster.trace.say(self.name, "SIGCONT")
            if self.hypervisor is not None:
                self.hypervisor.thaw()
            self.cluster.loop.go_on(self.process)

    async def stop(self) -> None:
        """SIGTERM: in order."""
        if self.process is None or not self.process.runs or self.stopping is None or self.task is None:
            return
        self.cluster.trace.say(self.name, "SIGTERM")
        process, task = self.process, self.task
        self.stopping.set()
        await asyncio.wait({task})
        if self.process is process:
            self.cluster.trace.say(self.name, "has ended")
            self.cluster.notes.died(self.name)
            self.process = self.task = self.hypervisor = self.client = None
            self.identity = ""

    # --- what the process does, in its own context

    async def _run(self, process: Process, stopping: asyncio.Event) -> None:
        """A process that cannot start ends, and is started again after a while."""
        while not stopping.is_set():
            try:
                await self._serve(process, stopping)
            except StoreError:
                await asyncio.sleep(RESTART_S)

    async def _serve(self, process: Process, stopping: asyncio.Event) -> None:
        cluster = self.cluster
        world = cluster.world_of(self)
        client = cluster.etcd.client(self.name)
        client.ways = self.ways
        store = StoreDoor(client, process, cluster.notes, cluster.clock)
        hypervisor = SimHypervisor(
            self.name,
            cluster.hosts,
            cluster.network,
            cluster.clock,
            Random(f"{cluster.seed}/hypervisor/{self.name}/{self.starts}"),
            cluster.notes.sent,
        )
        self.hypervisor, self.client = hypervisor, client
        try:
            storewatch = StoreWatch(lambda: self.disk[-1] if self.disk else None, self.disk.append)
            await storewatch.examine(store)
            office = Office(
                store=store,
                objects=Objects(store, world),
                hypervisor=HypervisorDoor(hypervisor, process, cluster.notes, cluster.clock),
                world=world,
                timing=cluster.timing,
                bounds=BOUNDS,
                policy=cluster.policy,
                metrics=Metrics(world.now, "0"),
                storewatch=storewatch,
                cluster=await _cluster_id(store, world),
                faults=cast(Faults, self.tripwire),
                on_synced=lambda _: None,
                desk=Desk(world.wall, BOUNDS.console_bytes, BOUNDS.consoles_bytes),
                figures=Board(world.now),
            )
            await self._lead_until_stopped(office, stopping)
        finally:
            await hypervisor.close()
            await store.close()

    async def _lead_until_stopped(self, office: Office, stopping: asyncio.Event) -> None:
        async def lead(leadership: Leadership) -> None:
            await reign(office, leadership).run()

        self.identity = office.world.new_id()
        self.cluster.identities[self.identity] = self
        self.cluster.trace.call(self.identity, f"{self.name}#{self.starts}")
        election = Election(
            office.store, office.world, office.timing, self.identity, self.name, office.storewatch
        )
        tasks = [
            asyncio.create_task(stopping.wait(), name="stop"),
            asyncio.create_task(_campaign(election, lead), name="election"),
            asyncio.create_task(office.storewatch.run(office.store), name="storewatch"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Cluster:
    """All of it. `loop` is running."""

    seed: str
    loop: ProcessLoop
    policy: Policy
    trace: Trace
    notes: Notes
    timing: Timing = field(default_factory=Timing)
    replicas: dict[str, Replica] = field(default_factory=dict)
    hosts: dict[str, SimHost] = field(default_factory=dict)
    identities: dict[str, Replica] = field(default_factory=dict)
    last_fault_at: float = 0.0
    etcd_away_at: float | None = None  # stopped or frozen since then
    pasts: int = 0  # how often etcd was set back
    healed: bool = False  # from now on the world is to come to rest: nobody asks for anything new
    armed: dict[tuple[str, str], float] = field(default_factory=dict)  # host, uuid: see `Hands.moves`
    doubled: set[str] = field(default_factory=set)  # what somebody started a second time by hand
    lost: set[str] = field(default_factory=set)  # whose objects somebody deleted with etcdctl for good
    disks_at: dict[str, str] = field(default_factory=dict)  # whose own storage has a domain's disks, as it is
    disks_forgotten: set[str] = field(default_factory=set)  # whose were elsewhere in a restored store
    graves: list[tuple[Process, asyncio.Task[None]]] = field(default_factory=list)
    _decoded: dict[str, tuple[bytes, Any]] = field(default_factory=dict)
    _promises: dict[str, tuple[bytes, Assignment]] = field(default_factory=dict)
    clock: Callable[[], float] = field(init=False)
    network: Network = field(init=False)
    etcd: SimEtcd = field(init=False)

    def __post_init__(self) -> None:
        self.clock = self.loop.time
        self.network = Network(self.random("network"), self.clock)
        self.etcd = SimEtcd(self.clock, self.random("etcd"), self.network)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def random(self, name: str) -> Random:
        return Random(f"{self.seed}/{name}")

    def world_of(self, who: Replica | str) -> World:
        """The clock, and ids that nobody else draws. In some runs a plan is so dear that a pass comes in
        slices of a few domains."""
        name = who if isinstance(who, str) else f"{who.name}/{who.starts}"
        ids = self.random(f"ids/{name}")

        def new_id() -> str:
            text = f"{ids.getrandbits(128):032x}"
            return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"

        verdicts = itertools.count()
        step_s = SLOW_VERDICT_S if self.random("slices").random() < SLICED_RUNS else 0.0
        return World(
            now=self.loop.time,
            wall=lambda: _wall(self.loop.time()),
            new_id=new_id,
            cpu=lambda: next(verdicts) * step_s,
        )

    def add_host(self, name: str) -> SimHost:
        host = SimHost(name, self.network, self.clock, self.random(f"host/{name}"))
        self.hosts[name] = host
        return host

    def quiet_over_at(self, host: str, elected_at: float, read_at: float) -> float:
        """When nothing that former leaders sent to a host can arrive any more (safety 4)."""
        timing, lease_over_at = self.timing, elected_at + self.timing.lease_ttl_s
        over_at = max(lease_over_at, read_at) + timing.quiet_s
        return max(over_at, lease_over_at + timing.tunnel_quiet_s) if self.hosts[host].relayed else over_at

    def add_replica(self, name: str) -> Replica:
        self.replicas[name] = Replica(self, name)
        return self.replicas[name]

    # --- the truth

    @property
    def leader(self) -> Replica | None:
        """Whose leader key stands in etcd, if that very process is there."""
        kv = self.etcd.peek(keys.LEADER)
        if kv is None:
            return None
        identity = msgspec.json.decode(kv.value, type=LeaderRecord).id
        replica = self.identities.get(identity)
        return replica if replica is not None and replica.identity == identity else None

    def stored(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """(key, value as plain data) of all that stands under a prefix. Who looks often sees mostly what
        stood there before: each value is decoded once, and nobody may change what is handed out."""
        decoded = self._decoded
        for kv in self.etcd.peek_all(prefix):
            known = decoded.get(kv.key)
            if known is None or known[0] is not kv.value:
                known = decoded[kv.key] = (kv.value, msgspec.json.decode(kv.value))
            yield kv.key, known[1]

    def objects(self, plural: str) -> dict[str, Body]:
        """By name; domains are all in one namespace."""
        prefix = keys.object_prefix(plural)
        return {key.rpartition("/")[2]: body for key, body in self.stored(prefix)}

    def assignment(self, uuid: str) -> Assignment | None:
        kv = self.etcd.peek(keys.assignment(uuid))
        return None if kv is None else self._promise(kv)

    def assignments(self) -> dict[str, Assignment]:
        return {
            kv.key.removeprefix(keys.ASSIGNMENTS): self._promise(kv)
            for kv in self.etcd.peek_all(keys.ASSIGNMENTS)
        }

    def _promise(self, kv: KeyValue) -> Assignment:
        """Decoded once, as in `stored`."""
        known = self._promises.get(kv.key)
        if known is None or known[0] is not kv.value:
            known = self._promises[kv.key] = (kv.value, msgspec.json.decode(kv.value, type=Assignment))
        return known[1]

    @property
    def quarantined(self) -> frozenset[str]:
        return frozenset(kv.key.removeprefix(keys.QUARANTINE) for kv in self.etcd.peek_all(keys.QUARANTINE))

    def nodes_in(self, backup: Backup) -> set[str]:
        prefix = keys.object_prefix("nodes")
        return {
            key.removeprefix(prefix)
            for key, (_, values) in backup.versions.items()
            if key.startswith(prefix) and values and values[-1] is not None
        }

    def active_on(self, uuid: str) -> list[str]:
        return [name for name, host in self.hosts.items() if host.active(uuid)]

    # --- the end

    async def bury(self) -> None:
        """End every process that is or was: nothing counts any more that happens now."""
        tasks = [task for _, task in self.graves]
        for process, _ in self.graves:
            self.loop.go_on(process)
        for replica in self.replicas.values():
            if replica.process is not None:
                self.loop.go_on(replica.process)
            if replica.task is not None:
                tasks.append(replica.task)
        for _ in itertools.count():
            left = [task for task in tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=10.0)
        with contextlib.suppress(StoreError):
            await self.etcd.close()
