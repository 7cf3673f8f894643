"""Faults that meet something in its course: a command on its way, an intent just recorded, a move half done.

What is drawn by time alone rarely falls into the few milliseconds that a command travels. A drill waits for
its moment, and begins there; the rest of the world is as the seed draws it. Planted bugs that need such a
moment are hunted with a drill, named in `mutants/caught.txt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import msgspec

from controller import keys
from controller.api.resources import DOMAINS, NODES
from controller.model import Assignment
from drivers.errors import StoreError
from drivers.hypervisor import Mark
from drivers.memory import Backup
from drivers.store import Compare, Delete, KeyValue, Put, TxnResult, Write
from specs.requests import ANNOTATIONS
from tests.sim import pasts
from tests.sim.cluster import Cluster, Replica
from tests.sim.hands import Hands
from tests.sim.host import SimHost
from tests.sim.hypervisor import Sent
from tests.sim.people import NAMESPACE, Api, Body
from tests.sim.workload import FIRST_HOSTS, SPARE_HOST

FIRST_S, LAST_S = 25.0, 520.0
TIMES = 6  # in one run
LONG_AGO = "2026-01-02T11:45:00Z"  # of every run
WITHIN_S = 120.0  # after that the moment does not come any more


@dataclass(frozen=True, slots=True)
class Moment:
    """A command leaves, or an intent was recorded: `what` is the call, or the intent's kind."""

    client: str
    host: str
    what: str
    uuid: str


@dataclass
class Drills:
    """One run's."""

    cluster: Cluster
    hands: Hands
    api: Api = field(init=False)
    _waiting: list[tuple[frozenset[str], str, asyncio.Future[Moment]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Before any replica starts."""
        notes = self.cluster.notes
        self.api = Api(self.cluster, self.cluster.etcd.client("drill"), "drill")

        def sent(one: Sent) -> None:
            notes.sent(one)
            self._meet(Moment(one.client, one.host, one.call, one.uuid))

        self.cluster.notes = replace(notes, sent=sent)
        self.cluster.etcd.listeners.append(self._transacted)

    def draw(self, name: str, drill: Drill) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        rng = self.cluster.random(f"drill/{name}")
        return [
            (rng.uniform(FIRST_S, LAST_S), partial(drill, self, Random(rng.getrandbits(64))))
            for _ in range(TIMES)
        ]

    # --- moments

    def _transacted(
        self, client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if not result.ok or client not in self.cluster.replicas:
            return
        for write in writes:
            if isinstance(write, Put) and write.key.startswith(keys.ASSIGNMENTS):
                after = msgspec.json.decode(write.value, type=Assignment)
                if after.intent is not None:
                    self._meet(Moment(client, after.intent.node, f"intent {after.intent.kind}", after.uuid))

    def _meet(self, moment: Moment) -> None:
        for waiting in self._waiting:
            wanted, name, future = waiting
            if name and self.cluster.trace.named(moment.uuid) != name:
                continue
            if moment.what in wanted and not future.done():
                future.set_result(moment)
                self._waiting.remove(waiting)
                return

    async def moment(self, *wanted: str, name: str = "") -> tuple[Moment, Replica, SimHost] | None:
        """The next of these, of any domain or of this one, if it comes soon; whoever waits acts before the
        message travels."""
        future: asyncio.Future[Moment] = asyncio.get_running_loop().create_future()
        waiting = (frozenset(wanted), name, future)
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(WITHIN_S):
                moment = await future
        except TimeoutError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            return None
        if moment.host not in self.cluster.hosts or self.hands.guard.moves:
            return None  # see Guard
        self.say(f"{moment.client} was met at {moment.what} {moment.uuid} to {moment.host}")
        return moment, self.cluster.replicas[moment.client], self.cluster.hosts[moment.host]

    def say(self, what: str) -> None:
        self.cluster.trace.say("DRILL", what)

    async def some_uuid(self, rng: Random, *, active: bool = True) -> tuple[str, SimHost] | None:
        found = [
            (uuid, host)
            for uuid in self.cluster.assignments()
            for host in self.cluster.hosts.values()
            if uuid in host.domains and host.daemon == "up" and host.powered and host.active(uuid) == active
        ]
        return rng.choice(found) if found else None

    async def again(self, replica: Replica, after_s: float) -> None:
        await self.cluster.sleep(after_s)
        if not replica.lives:
            replica.start()

    # --- what is done to a command on its way

    async def stranded(self, rng: Random) -> None:
        """A cut catches the command, its sender dies, and the cut ends before TCP would have given up."""
        met = await self.moment(rng.choice(["create", "define", "destroy", "undefine", "shutdown"]))
        if met is None:
            return
        moment, replica, _ = met
        self.cluster.network.cut(moment.client, moment.host)
        await self.cluster.sleep(rng.choice([0.0, 0.0, 4.0, 8.0]))
        replica.kill()
        await self.cluster.sleep(rng.uniform(70.0, 95.0))
        self.cluster.network.heal(moment.client, moment.host)
        await self.again(replica, rng.uniform(0.0, 60.0))

    async def ordered_end(self, rng: Random) -> None:
        """A cut, or a frozen daemon, keeps the command while its sender is told to end."""
        met = await self.moment("create", "define", "destroy", "undefine", "shutdown")
        if met is None:
            return
        _, replica, host = met
        host.freeze()
        stopping = asyncio.create_task(replica.stop())
        await self.cluster.sleep(rng.uniform(24.0, 90.0))
        host.thaw()
        await asyncio.wait({stopping}, timeout=90.0)
        await self.again(replica, rng.uniform(0.0, 5.0))

    async def asleep(self, rng: Random) -> None:
        """Its sender sleeps from somewhere in the action until another leads."""
        met = await self.moment("create", "define", "destroy", "undefine")
        if met is None:
            return
        _, replica, _ = met
        await self.cluster.sleep(rng.uniform(0.0, 0.15))
        replica.freeze()
        await self.cluster.sleep(rng.choice([9.0, 12.0, 18.0, 30.0, 60.0]))
        replica.thaw()

    async def killed(self, rng: Random) -> None:
        """Its sender dies in the moment that it left, and the next leader finds what comes of it."""
        met = await self.moment("create", "define", "destroy", "undefine", "shutdown")
        if met is None:
            return
        _, replica, host = met
        if rng.random() < 0.5:
            host.freeze()
        replica.kill()
        await self.again(replica, rng.uniform(20.0, 60.0))
        host.thaw()

    async def asked_once(self, rng: Random) -> None:
        """A user asks for something to be done once, and whoever does it dies as the command leaves."""
        found = await self.some_uuid(rng)
        if found is None:
            return
        what = rng.choice(["reset", "reboot"])
        at = self.cluster.world_of("drill").wall()
        await self.api.edit(DOMAINS, self.cluster.trace.named(found[0]), _asks(what, at), what)
        met = await self.moment(what)
        if met is not None:
            _, replica, _ = met
            replica.kill()
            await self.again(replica, rng.uniform(20.0, 60.0))

    async def asked_before(self, rng: Random) -> None:
        """A user asks twice, and then the first value is back, as by a commit that is taken back; and then he
        asks for something else, by a value of long ago."""
        found = await self.some_uuid(rng)
        if found is None or not self.cluster.etcd.running:
            return
        name, (what, other) = self.cluster.trace.named(found[0]), rng.sample(["reset", "reboot"], 2)
        wall, values = self.cluster.world_of("drill").wall, []
        for _ in range(2):
            values.append(wall())
            await self.api.edit(DOMAINS, name, _asks(what, values[-1]), what)
            await self.cluster.sleep(rng.uniform(4.0, 8.0))
        for again, value in ((what, values[0]), (other, LONG_AGO)):
            await self.api.edit(DOMAINS, name, _asks(again, value), f"{again} of before")
            await self.cluster.sleep(8.0)

    async def slow_lease(self, rng: Random) -> None:
        """etcd answers late, and then not any more, while the host keeps a command waiting."""
        leader, found = self.cluster.leader, await self.some_uuid(rng)
        if leader is None or found is None:
            return
        leader.ways.delay, leader.ways.delay_s = 1.0, 4.5
        await self.cluster.sleep(12.0)
        name = self.cluster.trace.named(found[0])
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="shutoff"), "shutoff")
        met = await self.moment("intent stop", "intent revoke")
        if met is not None:
            _, replica, host = met
            host.freeze()
            await self.cluster.sleep(0.3)
            self.cluster.network.cut(replica.name, "etcd")
            await self.cluster.sleep(rng.uniform(2.0, 10.0))
            host.thaw()
            await self.cluster.sleep(20.0)
            self.cluster.network.heal(replica.name, "etcd")
        leader.ways.delay, leader.ways.delay_s = 0.0, 12.0

    async def cut_off(self, rng: Random) -> None:
        """The host holds a command back until the lease of its sender, who lost etcd, has ended."""
        met = await self.moment("intent stop", "intent revoke", "define")
        if met is None:
            return
        _, replica, host = met
        await self.cluster.sleep(rng.choice([0.002, 0.05, 0.1]))
        host.freeze()
        self.cluster.network.cut(replica.name, "etcd")
        await self.cluster.sleep(rng.uniform(10.5, 18.0))
        host.thaw()
        await self.cluster.sleep(20.0)
        self.cluster.network.heal(replica.name, "etcd")

    async def change_of_mind(self, rng: Random) -> None:
        """The domain is to stop while the definition that it is to be started with is still being made."""
        met = await self.moment("define")
        if met is None:
            return
        moment, _, host = met
        host.freeze()
        name = self.cluster.trace.named(moment.uuid)
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="shutoff"), "shutoff")
        await self.cluster.sleep(rng.uniform(16.5, 18.5))
        host.thaw()

    async def taken_back(self, rng: Random) -> None:
        """A guest that does not listen is to stop, and then is not, which its leader is told late (I18)."""
        found, leader = await self.some_uuid(rng), self.cluster.leader
        if found is None or leader is None:
            return
        name, deaf = self.cluster.trace.named(found[0]), found[1].temper.deaf
        found[1].temper.deaf = 1.0
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="shutoff"), "shutoff")
        met = await self.moment("intent stop", name=name)
        leader.ways.lag_s = 60.0
        if met is not None:
            await self.cluster.sleep(rng.uniform(0.5, 4.0))
            await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="running"), "running")
            await self.cluster.sleep(60.0)
        leader.ways.lag_s, found[1].temper.deaf = 0.0, deaf

    async def started_by_hand(self, rng: Random) -> None:
        """Somebody starts a domain just before its definition is taken away."""
        found = await self.some_uuid(rng)
        if found is None:
            return
        name, others = self.cluster.trace.named(found[0]), [h for h in FIRST_HOSTS if h != found[1].name]
        place = {"node": rng.choice(others)}
        aim = {"state": "shutoff", "placement": place}
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(aim), f"to {place}")
        met = await self.moment("intent revoke", name=name)
        if met is not None and not self.cluster.active_on(met[0].uuid):  # the command was typed already
            await met[2].desk.ask("create", (met[0].uuid,), "virsh")

    async def moved_away(self, rng: Random) -> None:
        """A host does not answer, its leader has never read it, and a domain there is to be elsewhere."""
        found, leader = await self.some_uuid(rng), self.cluster.leader
        if found is None or leader is None or self.hands.guard.moves:
            return
        name, host = self.cluster.trace.named(found[0]), found[1].name
        place = {"node": rng.choice([h for h in FIRST_HOSTS if h != host])}
        self.say(f"{host} does not answer, and {name} is to move")
        self.cluster.network.isolate(host)
        leader.kill()
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(placement=place), f"to {place}")
        await self.again(leader, 5.0)
        await self.cluster.sleep(rng.uniform(80.0, 110.0))
        self.cluster.network.rejoin(host)

    async def came_back(self, rng: Random) -> None:
        """A host that was taken for dead comes back while a new leader keeps quiet, and a domain is sent
        there."""
        found = await self.some_uuid(rng)
        if found is None or self.hands.guard.moves:
            return
        host = found[1]
        self.say(f"{host.name} has no power")
        host.power_off()
        await self.cluster.sleep(rng.uniform(60.0, 100.0))
        self.hands.power_on(host)
        leader = self.cluster.leader
        if leader is not None:
            leader.kill()
            await self.again(leader, 1.0)
        spec = {"type": "qemu", "memory": "32Mi", "placement": {"node": host.name}}
        await self.api.create(DOMAINS, f"f{rng.randrange(1000)}", spec)

    # --- what is done to what a leader knows

    async def autostart_lost(self, rng: Random) -> None:
        """The host goes in the moment in which its definition was to lose autostart."""
        found = await self.some_uuid(rng)
        if found is None:
            return
        uuid, host = found
        await self.hands.on(host.name).autostart(uuid)
        met = await self.moment("set_autostart")
        if met is None:
            return
        met[2].power_off()
        await self.cluster.sleep(rng.uniform(60.0, 100.0))
        self.hands.power_on(met[2])

    async def lost_key(self, rng: Random) -> None:
        """Somebody deletes an object's key with etcdctl, and puts it back, unless somebody created another of
        that name meanwhile: then what was lost stays so."""
        found = await self.some_uuid(rng)
        if found is None or not self.cluster.etcd.running:
            return
        name = self.cluster.trace.named(found[0])
        kv, past = self.cluster.etcd.peek(keys.object_key("domains", NAMESPACE, name)), self.cluster.pasts
        if kv is None or b"deletionTimestamp" in kv.value:
            return
        of, store = self.cluster.etcd.peek(keys.CLUSTER), self.api.objects.store
        with suppress(StoreError):  # perhaps it is deleted nonetheless
            await store.txn([Compare(kv.key, kv.mod_revision)], [Delete(kv.key)])
        self.say(f"the key of {name} is lost")
        await self.cluster.sleep(rng.uniform(5.0, 25.0))
        if self.cluster.pasts != past and self.cluster.etcd.peek(keys.CLUSTER) != of:
            self.cluster.lost.add(found[0])
            return  # it belongs to a cluster that is gone
        while (uid := await self._put_back(kv)) is None:
            await self.cluster.sleep(1.0)
        if uid == found[0]:
            self.say(f"the key of {name} is back")
            self.cluster.lost.discard(found[0])
        else:
            self.say(f"the key of {name} is another's now")
            self.cluster.lost.add(found[0])

    async def _put_back(self, kv: KeyValue) -> str | None:
        """The uid of the object that the key holds now; None if it must be tried again."""
        try:
            result = await self.api.objects.store.txn([Compare(kv.key, 0)], [Put(kv.key, kv.value)])
        except StoreError:
            return None
        now = kv if result.ok else self.cluster.etcd.peek(kv.key)
        return None if now is None else str(msgspec.json.decode(now.value)["metadata"]["uid"])

    async def cloned_machine(self, rng: Random) -> None:
        """A copy of another host, with that one's host_uuid, is registered, and domains are sent there."""
        host = self.cluster.hosts[SPARE_HOST]
        if host.uuid in {self.cluster.hosts[name].uuid for name in FIRST_HOSTS}:
            return  # it is one already
        own, host.uuid = host.uuid, self.cluster.hosts[rng.choice(FIRST_HOSTS)].uuid
        spec = {"uri": f"qemu+tcp://{SPARE_HOST}/system", "insecure": True, "allowedPaths": ["/srv"]}
        found = await self.some_uuid(rng)
        if found is not None and await self.api.create(NODES, SPARE_HOST, spec, {"zone": "b"}):
            name = self.cluster.trace.named(found[0])

            def move(body: Body) -> None:
                body["spec"].update(state="shutoff", placement={"node": SPARE_HOST})

            await self.api.edit(DOMAINS, name, move, f"to {SPARE_HOST}")
            await self.cluster.sleep(rng.uniform(30.0, 55.0))
        host.uuid = own

    async def other_cluster(self, rng: Random) -> None:
        """Another cluster's mark on a domain of ours, for a while."""
        found = await self.some_uuid(rng)
        if found is None:
            return
        uuid, host = found
        virsh = self.hands.on(host.name)
        mark = Mark("another-cluster", uuid, 3, "0")
        await virsh.set_mark(uuid, mark, live=True, config=True)
        await self.cluster.sleep(rng.uniform(30.0, 60.0))
        for node, there in self.cluster.hosts.items():
            while (domain := there.domains.get(uuid)) is not None:
                domain.saved = None  # what memory bears that mark goes, too
                had = live, config = domain.live is not None, domain.config is not None
                done = await self.hands.on(node).set_mark(uuid, None, live=live, config=config) is None
                has = domain.live is not None, domain.config is not None
                if done and had == has:  # it may have arrived meanwhile, with its definition
                    break
                await self.cluster.sleep(1.0)  # its daemon is away just now

    async def deleted_while_saved(self, rng: Random) -> None:
        found = await self.some_uuid(rng)
        if found is None:
            return
        uuid, host = found
        saving = asyncio.create_task(self.hands.on(host.name).managed_save(uuid))
        await self.cluster.sleep(rng.uniform(0.0, 0.3))
        await self.api.delete(DOMAINS, self.cluster.trace.named(uuid))
        await asyncio.wait({saving})

    async def moved_unheard(self, rng: Random) -> None:
        """A quick move by hand of which no event tells; the source is read at once when it is over."""
        ends = await self.ends_of_a_move(rng)
        if ends is None:
            return
        uuid, source, target = ends
        for host in (source, target):
            host.temper.event_loss, host.temper.copy_s = 1.0, (0.2, 1.0)
        async with self.moving():
            self.say(f"{uuid} is moved from {source.name} to {target.name}")
            answer = await self.hands.on(source.name).migrate(uuid, target)
            if answer is None and self.cluster.policy.hand_migrations:
                source.kill_daemon()
                source.start_daemon()
            await self.cluster.sleep(30.0)
        for host in (source, target):
            host.temper.event_loss, host.temper.copy_s = 0.02, (5.0, 25.0)

    async def moved_slowly(self, rng: Random) -> None:
        """A move by hand that takes long, of a domain that is deleted meanwhile."""
        ends = await self.ends_of_a_move(rng)
        if ends is None:
            return
        uuid, source, target = ends
        for host in (source, target):
            host.temper.copy_s = (50.0, 70.0)
        async with self.moving():
            self.say(f"{uuid} is moved from {source.name} to {target.name}")
            moving = asyncio.create_task(self.hands.on(source.name).migrate(uuid, target))
            await self.cluster.sleep(rng.uniform(2.0, 12.0))
            await self.api.delete(DOMAINS, self.cluster.trace.named(uuid))
            await asyncio.wait({moving})
            await self.cluster.sleep(15.0)
        for host in (source, target):
            host.temper.copy_s = (5.0, 25.0)

    async def ends_of_a_move(self, rng: Random) -> tuple[str, SimHost, SimHost] | None:
        """None, too, where moves by hand are not declared and a host is out of sight: README promises nothing
        of a domain that is moved to one."""
        found = await self.some_uuid(rng)
        if found is None or not self.cluster.etcd.running or self.hands.guard.moves:
            return None
        if not (self.cluster.policy.hand_migrations or self.hands.all_is_well()):
            return None
        uuid, source = found
        others = [n for n in self.cluster.objects("nodes") if n in self.cluster.hosts and n != source.name]
        return uuid, source, self.cluster.hosts[rng.choice(sorted(others))]

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[None]:
        """Meanwhile nothing becomes unreachable: see Guard."""
        self.hands.guard.moves += 1
        try:
            yield
        finally:
            self.hands.guard.moves -= 1

    async def set_back(self, rng: Random, *, is_remembered: bool = True) -> None:
        """etcd is set back to when a domain had no place yet, and its leader goes, while the host on which it
        was started since does not answer; perhaps with all data directories, that remember another etcd."""
        cluster = self.cluster
        if not cluster.etcd.running:
            return
        name, past = f"e{rng.randrange(1000)}", cluster.pasts
        spec = {"type": "qemu", "memory": "32Mi"}
        backups: list[Backup] = []

        def remember(
            client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
        ) -> None:
            if client == "drill" and result.ok and writes and not backups:
                backups.append(cluster.etcd.snapshot())

        led_by = cluster.leader
        cluster.etcd.listeners.append(remember)
        created = await self.api.create(DOMAINS, name, spec)
        cluster.etcd.listeners.remove(remember)
        await cluster.sleep(8.0)
        if not created or self.hands.guard.moves or name not in cluster.objects("domains"):
            return
        if cluster.pasts != past or cluster.etcd.peek(keys.CLUSTER) is None:
            return
        if set(cluster.objects("nodes")) != cluster.nodes_in(backups[0]):
            return
        leader = cluster.leader
        others = [r for r in cluster.replicas.values() if r is not leader]
        saw = any(r.runs and r.ways.good and cluster.network.up(r.name, "etcd") for r in others)
        if not saw or led_by is None or led_by is not leader:  # there was nothing for the others to see
            return  # where nobody is left who saw the time that is lost, README promises nothing
        active = cluster.active_on(cluster.objects("domains")[name]["metadata"]["uid"])
        for host in active:
            cluster.network.isolate(host)
        self.say(f"etcd is set back to when {name} was new, {active} does not answer")
        cluster.pasts += 1
        cluster.etcd.restore(backups[0])
        cluster.notes.restored()
        gone = list(cluster.replicas.values())
        if is_remembered:
            gone = [replica for replica in gone if replica is cluster.leader]
        for replica in gone:
            replica.kill()
        if not is_remembered:
            for replica in gone:
                replica.disk.clear()
                await self.again(replica, 0.0)
        await cluster.sleep(rng.uniform(40.0, 90.0))
        for host in active:
            cluster.network.rejoin(host)
        for replica in gone:
            await self.again(replica, 0.0)

    async def forgotten(self, rng: Random) -> None:
        """etcd is set back to before a domain was started again, and no data directory remembers it: only the
        hosts do."""
        cluster, found = self.cluster, await self.some_uuid(rng)
        if found is None or not cluster.etcd.running:
            return
        name, backup, past = cluster.trace.named(found[0]), cluster.etcd.snapshot(), cluster.pasts
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="shutoff"), "shutoff")
        await cluster.sleep(25.0)
        await self.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="running"), "running")
        await cluster.sleep(25.0)
        if self.hands.guard.moves or set(cluster.objects("nodes")) != cluster.nodes_in(backup):
            return
        if cluster.pasts != past:
            return
        self.say(f"etcd is set back to when {name} ran before, and every data directory is lost")
        for replica in cluster.replicas.values():
            replica.kill()
            replica.disk.clear()
        cluster.pasts += 1
        cluster.etcd.restore(backup)
        cluster.notes.restored()
        await cluster.sleep(20.0)
        for replica in cluster.replicas.values():
            await self.again(replica, 0.0)


def _asks(what: str, at: str) -> Callable[[Body], object]:
    return lambda body: body["metadata"].setdefault("annotations", {}).update({ANNOTATIONS[what]: at})


Drill = Callable[[Drills, Random], Awaitable[None]]

DRILLS: dict[str, Drill] = {
    "stranded": Drills.stranded,
    "ordered_end": Drills.ordered_end,
    "asleep": Drills.asleep,
    "killed": Drills.killed,
    "asked_once": Drills.asked_once,
    "asked_before": Drills.asked_before,
    "slow_lease": Drills.slow_lease,
    "cut_off": Drills.cut_off,
    "change_of_mind": Drills.change_of_mind,
    "taken_back": Drills.taken_back,
    "autostart_lost": Drills.autostart_lost,
    "lost_key": Drills.lost_key,
    "cloned_machine": Drills.cloned_machine,
    "other_cluster": Drills.other_cluster,
    "deleted_while_saved": Drills.deleted_while_saved,
    "moved_unheard": Drills.moved_unheard,
    "moved_slowly": Drills.moved_slowly,
    "set_back": Drills.set_back,
    "forgotten": Drills.forgotten,
    "old_memory": pasts.old_memory,
    "twice": pasts.twice,
    "between_beats": pasts.between_beats,
    "elected_again": pasts.elected_again,
    "word_forgotten": pasts.word_forgotten,
    "started_by_hand": Drills.started_by_hand,
    "moved_away": Drills.moved_away,
    "came_back": Drills.came_back,
}
"""name: how it is made."""
