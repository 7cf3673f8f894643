"""What goes wrong: a table of kinds, from which each run draws some, with their times and how long they last.

Every fault is a coroutine that begins something and, mostly, ends it again after a while; `heal` ends all
that still lasts. The kinds are weighted so that what is dangerous (two leaders, hosts that go and come back,
etcd that forgets) meets the other kinds often. The README's non-promises are kept: see `Guard`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random

from controller import keys
from drivers.errors import Compacted
from tests.sim.cluster import Cluster, Replica
from tests.sim.hands import Guard, Hands
from tests.sim.host import SimHost, Temper
from tests.sim.store import Ways

QUICK_DEFINE_S = Temper().define_s
FIRST_S, LAST_S = 25.0, 560.0


@dataclass
class Faults:
    """One run's. `drawn` are (time, kind, what to do), in order."""

    cluster: Cluster
    hands: Hands
    guard: Guard
    work: Callable[[Random], Awaitable[object]] | None = None  # something for a user to do
    drawn: list[tuple[float, str, Callable[[], Awaitable[None]]]] = field(default_factory=list)
    _rng: Random = field(init=False)

    def __post_init__(self) -> None:
        self._rng = self.cluster.random("faults")

    def draw(self) -> None:
        """At least five, of kinds drawn out of the table; some of them close together."""
        rng = self._rng
        count = rng.randint(5, 9)
        names = list(KINDS)
        weights = [KINDS[name][0] for name in names]
        for name in rng.choices(names, weights, k=count):
            near = self.drawn and rng.random() < 0.5
            at = self.drawn[-1][0] + rng.uniform(0.0, 25.0) if near else rng.uniform(FIRST_S, LAST_S)
            make = KINDS[name][1]
            own = Random(rng.getrandbits(64))
            self.drawn.append((min(at, LAST_S), name, partial(make, self, own)))
        self.drawn.sort(key=lambda fault: fault[0])

    def say(self, what: str) -> None:
        self.cluster.last_fault_at = self.cluster.clock()
        self.cluster.trace.say("FAULT", what)

    async def lasting(self, seconds: float) -> None:
        await self.cluster.sleep(seconds)

    # --- whom it meets

    def host(self, rng: Random) -> SimHost:
        return self.cluster.hosts[rng.choice(sorted(self.cluster.hosts))]

    def replica(self, rng: Random) -> Replica:
        """Mostly the leader."""
        leader = self.cluster.leader
        if leader is not None and rng.random() < 0.75:
            return leader
        return self.cluster.replicas[rng.choice(sorted(self.cluster.replicas))]

    # --- the network

    async def cut_replica_host(self, rng: Random) -> None:
        await self._cut(self.replica(rng).name, self.host(rng).name, rng)

    async def cut_replica_etcd(self, rng: Random) -> None:
        await self._cut(self.replica(rng).name, "etcd", rng)

    async def cut_hosts(self, rng: Random) -> None:
        a, b = rng.sample(sorted(self.cluster.hosts), 2)
        await self._cut(a, b, rng)

    async def _cut(self, a: str, b: str, rng: Random) -> None:
        await self.guard.passed(self.cluster)
        self.say(f"cut {a} from {b}")
        self.cluster.network.cut(a, b)
        await self.lasting(_some_time(rng))
        self.say(f"heal {a} and {b}")
        self.cluster.network.heal(a, b)

    async def isolate(self, rng: Random) -> None:
        await self.guard.passed(self.cluster)
        name = rng.choice([self.host(rng).name, self.replica(rng).name])
        self.say(f"isolate {name}")
        self.cluster.network.isolate(name)
        await self.lasting(_some_time(rng))
        self.say(f"{name} is back")
        self.cluster.network.rejoin(name)

    async def flap(self, rng: Random) -> None:
        """Up 5 s, down 25 s, several times."""
        await self.guard.passed(self.cluster)
        name = self.host(rng).name
        for _ in range(rng.randint(2, 4)):
            self.say(f"isolate {name}")
            self.cluster.network.isolate(name)
            await self.lasting(rng.uniform(3.0, 25.0))
            self.say(f"{name} is back")
            self.cluster.network.rejoin(name)
            await self.lasting(rng.uniform(1.0, 5.0))

    # --- hosts

    async def power(self, rng: Random) -> None:
        await self.guard.passed(self.cluster)
        host = self.host(rng)
        self.say(f"power loss of {host.name}")
        host.power_off()
        await self.lasting(_some_time(rng) * 1.5)
        self.hands.power_on(host)

    async def daemon_kill(self, rng: Random) -> None:
        await self.guard.passed(self.cluster)
        host = self.host(rng)
        self.say(f"libvirtd of {host.name} is killed")
        host.kill_daemon()
        await self.lasting(rng.choice([0.2, 2.0, 15.0, 60.0]))
        self.say(f"libvirtd of {host.name} starts")
        host.start_daemon()

    async def daemon_freeze(self, rng: Random) -> None:
        await self.guard.passed(self.cluster)
        host = self.host(rng)
        self.say(f"libvirtd of {host.name} is frozen")
        host.freeze()
        await self.lasting(rng.choice([3.0, 12.0, 25.0, 50.0, 90.0]))
        self.say(f"libvirtd of {host.name} goes on")
        host.thaw()

    async def slow_host(self, rng: Random) -> None:
        host = self.host(rng)
        self.say(f"{host.name} is slow")
        host.temper.pace = rng.choice([5.0, 20.0, 60.0])
        await self.lasting(_some_time(rng))
        host.temper.pace = 1.0
        self.say(f"{host.name} is as fast as before")

    async def slow_definitions(self, rng: Random) -> None:
        """A start takes so long that minds change meanwhile."""
        hosts = list(self.cluster.hosts.values())
        self.say("definitions take long everywhere")
        for host in hosts:
            host.temper.define_s = (2.0, 9.0)
        for _ in range(rng.randint(2, 5)):
            await self._make_work(rng)
            await self.lasting(rng.choice([0.5, 2.0, 6.0]))
        await self.lasting(20.0)
        self.say("definitions are quick again")
        for host in hosts:
            host.temper.define_s = QUICK_DEFINE_S

    async def dead_and_back(self, rng: Random) -> None:
        """A machine comes back in the moment in which it was said to be dead for good."""
        await self.guard.passed(self.cluster)
        host = self.host(rng)
        others = [other for other in self.cluster.hosts.values() if other is not host]
        self.say(f"power loss of {host.name}, and definitions take long elsewhere")
        host.power_off()
        for other in others:
            other.temper.define_s = (2.0, 12.0)
        for _ in range(240):
            await self.lasting(0.5)
            if self.cluster.etcd.running and self.cluster.etcd.peek(keys.confirmed_dead(host.name)):
                break
        before, host.temper.boot_s = host.temper.boot_s, (0.1, 1.0)
        await self.lasting(rng.choice([0.0, 1.0, 4.0]))
        self.hands.power_on(host)
        await self.lasting(20.0)
        host.temper.boot_s = before
        self.say("definitions are quick again")
        for other in others:
            other.temper.define_s = QUICK_DEFINE_S

    async def no_starts(self, rng: Random) -> None:
        host = self.host(rng)
        self.say(f"{host.name} refuses every start")
        host.temper.refuses_starts = "cannot allocate memory"
        await self.lasting(_some_time(rng))
        host.temper.refuses_starts = ""
        self.say(f"{host.name} starts domains again")

    async def deaf_events(self, rng: Random) -> None:
        host = self.host(rng)
        before = host.temper.event_loss
        self.say(f"events of {host.name} are lost")
        host.temper.event_loss = rng.choice([0.5, 1.0])
        await self.lasting(_some_time(rng))
        host.temper.event_loss = before
        self.say(f"events of {host.name} are heard again")

    # --- guests

    async def _guest(self, rng: Random, what: str) -> tuple[SimHost, str] | None:
        active = [
            (host, uuid) for host in self.cluster.hosts.values() for uuid in host.domains if host.active(uuid)
        ]
        if not active:
            return None
        host, uuid = rng.choice(active)
        self.say(f"guest {uuid} on {host.name} {what}")
        return host, uuid

    async def guest_crash(self, rng: Random) -> None:
        found = await self._guest(rng, "is killed")
        if found is not None:
            found[0].crash_guest(found[1])

    async def guest_poweroff(self, rng: Random) -> None:
        found = await self._guest(rng, "powers itself off")
        if found is not None:
            found[0].poweroff_guest(found[1])

    async def guest_panic(self, rng: Random) -> None:
        found = await self._guest(rng, "panics")
        if found is not None:
            found[0].panic_guest(found[1])

    async def guest_stuck(self, rng: Random) -> None:
        found = await self._guest(rng, "is stuck")
        if found is not None:
            found[0].stick_guest(found[1])
            await self.lasting(_some_time(rng))
            found[0].unstick_guest(found[1])

    # --- replicas

    async def kill(self, rng: Random) -> None:
        replica = self.replica(rng)
        replica.kill()
        await self._again(replica, rng.choice([0.5, 3.0, 10.0, 40.0]))

    async def strike_at_step(self, rng: Random) -> None:
        """Something happens in the middle of an action, which is brought about."""
        replica = self.replica(rng)
        blow = rng.choice(list(BLOWS))
        pattern = rng.choice(STEPS_HIT)
        struck = asyncio.Event()

        def strike(point: str) -> None:
            self.say(f"{replica.name} reaches {point}")
            BLOWS[blow](self, replica)
            struck.set()

        replica.tripwire.pattern, replica.tripwire.strike = pattern, strike
        self.say(f"at {pattern} {replica.name} will meet: {blow}")
        await self._make_work(rng)
        try:
            async with asyncio.timeout(40.0):
                await struck.wait()
        except TimeoutError:
            replica.tripwire.strike = None
            return
        await self.lasting(rng.choice([1.0, 6.0, 12.0, 17.0, 30.0, 55.0, 75.0]))
        self.cluster.network.rejoin(replica.name)
        self.cluster.network.heal(replica.name, "etcd")
        for name in self.cluster.hosts:
            self.cluster.network.heal(replica.name, name)
        replica.thaw()
        await self._again(replica, 0.0)

    async def _make_work(self, rng: Random) -> None:
        """A user changes his mind, and a guest ends; but not once everything is to come to rest."""
        if self.cluster.healed:
            return
        if self.work is not None:
            await self.work(rng)
        if rng.random() < 0.5:
            await self.guest_crash(rng)

    async def zombies(self, rng: Random) -> None:
        """Commands sent into a cut, or to a frozen daemon, by a leader that dies of it."""
        await self.guard.passed(self.cluster)
        replica, host = self.replica(rng), self.host(rng)
        frozen = rng.random() < 0.4
        self.say(f"commands of {replica.name} to {host.name} are held up")
        if frozen:
            host.freeze()
        else:
            self.cluster.network.cut(replica.name, host.name)
        for _ in range(3):
            await self._make_work(rng)
        await self.lasting(rng.choice([0.5, 2.0, 5.0, 9.0]))
        if rng.random() < 0.7:
            replica.kill()
        else:
            replica.freeze()
        await self.lasting(rng.choice([15.0, 40.0, 60.0, 80.0]))
        host.thaw()
        self.say(f"commands to {host.name} arrive again")
        self.cluster.network.heal(replica.name, host.name)
        await self.lasting(rng.choice([0.0, 5.0, 30.0]))
        replica.thaw()
        await self._again(replica, 0.0)

    async def moved_and_lost(self, rng: Random) -> None:
        """A domain is moved by hand and seen to be; then its new host and whoever saw it are lost."""
        target = await self.hands.moves(rng)
        leader = self.cluster.leader
        if not target or leader is None:
            return
        await self.guard.passed(self.cluster)
        if self.cluster.healed:
            return  # its way took longer than there are faults
        self.say(f"isolate {target}, to which a domain was moved")
        self.cluster.network.isolate(target)
        leader.kill()
        await self.lasting(rng.choice([40.0, 80.0, 110.0]))
        self.say(f"{target} is back")
        self.cluster.network.rejoin(target)
        await self._again(leader, 0.0)

    async def _again(self, replica: Replica, pause_s: float) -> None:
        await self.lasting(pause_s)
        if not replica.lives:
            replica.start()

    async def freeze(self, rng: Random) -> None:
        replica = self.replica(rng)
        replica.freeze()
        await self.lasting(rng.choice([4.0, 11.0, 14.0, 17.0, 22.0, 35.0, 60.0]))
        replica.thaw()

    async def restart(self, rng: Random) -> None:
        """In order."""
        replica = self.replica(rng)
        await replica.stop()
        await self._again(replica, rng.choice([0.5, 5.0]))

    async def kill_all(self, rng: Random) -> None:
        """Nobody is left for a while (I12)."""
        for replica in self.cluster.replicas.values():
            replica.kill()
        await self.lasting(rng.choice([5.0, 30.0, 60.0]))
        for replica in self.cluster.replicas.values():
            await self._again(replica, 0.0)

    # --- etcd

    async def etcd_stop(self, rng: Random) -> None:
        self.say("etcd stops")
        self.cluster.etcd.stop()
        self._etcd_state()
        await self.lasting(rng.choice([1.0, 6.0, 12.0, 20.0, 45.0]))
        self.say("etcd starts")
        self.cluster.etcd.start()
        self._etcd_state()

    async def etcd_freeze(self, rng: Random) -> None:
        self.say("etcd is frozen")
        self.cluster.etcd.freeze()
        self._etcd_state()
        await self.lasting(rng.choice([2.0, 8.0, 16.0, 30.0]))
        self.say("etcd goes on")
        self.cluster.etcd.thaw()
        self._etcd_state()

    def _etcd_state(self) -> None:
        cluster = self.cluster
        if cluster.etcd.running and not cluster.etcd.frozen:
            cluster.etcd_away_at = None
        elif cluster.etcd_away_at is None:
            cluster.etcd_away_at = cluster.clock()

    async def etcd_ways(self, rng: Random) -> None:
        """Replies are lost, late, or connections reset, for one replica."""
        replica = self.replica(rng)
        ways = replica.ways
        ways.lose_reply = rng.choice([0.0, 0.1, 0.4])
        ways.lose_request = rng.choice([0.0, 0.1])
        ways.delay = rng.choice([0.0, 0.3])
        ways.reset = rng.choice([0.0, 0.2])
        ways.lag_s = rng.choice([0.0, 2.0, 8.0])
        ways.stalled = rng.random() < 0.2
        self.say(f"etcd is a bad friend of {replica.name}: {ways}")
        await self.lasting(_some_time(rng))
        _mend(ways)
        self.say(f"etcd is a good friend of {replica.name} again")

    async def etcd_revoke(self, rng: Random) -> None:
        if not self.cluster.etcd.running:
            return
        self.say("etcd ends all leases")
        await self.cluster.etcd.revoke_all_leases()

    async def etcd_compact(self, rng: Random) -> None:
        if not self.cluster.etcd.running:
            return
        self.say("etcd is compacted")
        with suppress(Compacted):  # a backup may have brought a past back that was compacted up to its end
            await self.cluster.etcd.compact()

    async def etcd_wipe(self, rng: Random) -> None:
        """All is lost, and an empty etcd stands in its place."""
        await self.guard.passed(self.cluster)
        if self.cluster.healed:
            return
        self.say("etcd has lost everything")
        self.cluster.pasts += 1
        self.cluster.etcd.wipe()
        self.cluster.notes.restored()

    async def etcd_restore(self, rng: Random) -> None:
        """A backup, of some time before."""
        backup = self.cluster.etcd.snapshot()
        self.say("a backup of etcd is taken")
        await self.lasting(rng.choice([2.0, 15.0, 60.0, 120.0]))
        await self.guard.passed(self.cluster)
        if self.cluster.healed or set(self.cluster.objects("nodes")) != self.cluster.nodes_in(backup):
            return  # whoever restores a backup registers what came since before he acknowledges it
        self.say("the backup of etcd is restored")
        self.cluster.pasts += 1
        self.cluster.etcd.restore(backup)
        self.cluster.notes.restored()

    # --- the end

    async def heal(self) -> None:
        """Everything that lasts ends; machines and processes are there again."""
        self.cluster.healed = True
        self.say("everything heals")
        await self.heal_again()

    async def heal_again(self) -> None:
        """Faults that were under way when everything healed may have come to their point since."""
        cluster = self.cluster
        cluster.network.heal_all()
        for name in cluster.hosts:
            cluster.network.rejoin(name)
        if not cluster.etcd.running:
            cluster.etcd.start()
        cluster.etcd.thaw()
        self._etcd_state()
        for host in cluster.hosts.values():
            host.temper.pace, host.temper.refuses_starts, host.temper.event_loss = 1.0, "", 0.02
            host.temper.define_s = QUICK_DEFINE_S
            self.hands.power_on(host)
            host.thaw()
            host.start_daemon()
            for uuid in list(host.domains):
                host.unstick_guest(uuid)
        for replica in cluster.replicas.values():
            _mend(replica.ways)
            replica.thaw()
            if not replica.lives:
                replica.start()


def _some_time(rng: Random) -> float:
    return rng.choice([1.0, 4.0, 8.0, 12.0, 18.0, 25.0, 40.0, 70.0, 110.0]) * rng.uniform(0.8, 1.2)


def _mend(ways: Ways) -> None:
    ways.lose_reply = ways.lose_request = ways.delay = ways.reset = ways.lag_s = 0.0
    ways.stalled = False


async def every(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


STEPS_HIT = (
    "start.*",
    "start.define.*",
    "start.recheck.*",
    "start.create.*",
    "start.settle.*",
    "*.record.after",
    "*.before",
    "*.after",
    "re*.*",
    "revoke.*",
    "destroy.*",
    "shutdown.*",
    "define.*",
    "finish.*",
    "migrate.*",
    "migrate.migrate.*",
)


def _cut_from_hosts(faults: Faults, replica: Replica) -> None:
    for name in faults.cluster.hosts:
        faults.cluster.network.cut(replica.name, name)


def _cut_off_and_kill(faults: Faults, replica: Replica) -> None:
    faults.cluster.network.isolate(replica.name)
    asyncio.get_running_loop().call_later(0.5, replica.kill)


def _kill(faults: Faults, replica: Replica) -> None:
    replica.kill()


def _freeze(faults: Faults, replica: Replica) -> None:
    replica.freeze()


def _isolate(faults: Faults, replica: Replica) -> None:
    faults.cluster.network.isolate(replica.name)


def _cut_from_etcd(faults: Faults, replica: Replica) -> None:
    faults.cluster.network.cut(replica.name, "etcd")


BLOWS: dict[str, Callable[[Faults, Replica], None]] = {
    "SIGKILL": _kill,
    "SIGSTOP": _freeze,
    "isolation": _isolate,
    "a cut from etcd": _cut_from_etcd,
    "a cut from all hosts": _cut_from_hosts,
    "isolation and SIGKILL": _cut_off_and_kill,
}

Make = Callable[[Faults, Random], Awaitable[None]]

KINDS: dict[str, tuple[int, Make]] = {
    "cut_replica_host": (6, Faults.cut_replica_host),
    "cut_replica_etcd": (5, Faults.cut_replica_etcd),
    "cut_hosts": (1, Faults.cut_hosts),
    "isolate": (5, Faults.isolate),
    "flap": (2, Faults.flap),
    "power": (7, Faults.power),
    "daemon_kill": (4, Faults.daemon_kill),
    "daemon_freeze": (5, Faults.daemon_freeze),
    "slow_host": (2, Faults.slow_host),
    "slow_definitions": (4, Faults.slow_definitions),
    "dead_and_back": (4, Faults.dead_and_back),
    "no_starts": (1, Faults.no_starts),
    "deaf_events": (3, Faults.deaf_events),
    "guest_crash": (2, Faults.guest_crash),
    "guest_poweroff": (2, Faults.guest_poweroff),
    "guest_panic": (1, Faults.guest_panic),
    "guest_stuck": (2, Faults.guest_stuck),
    "kill": (6, Faults.kill),
    "strike_at_step": (14, Faults.strike_at_step),
    "moved_and_lost": (4, Faults.moved_and_lost),
    "zombies": (6, Faults.zombies),
    "freeze": (6, Faults.freeze),
    "restart": (3, Faults.restart),
    "kill_all": (1, Faults.kill_all),
    "etcd_stop": (3, Faults.etcd_stop),
    "etcd_freeze": (2, Faults.etcd_freeze),
    "etcd_ways": (5, Faults.etcd_ways),
    "etcd_revoke": (3, Faults.etcd_revoke),
    "etcd_compact": (2, Faults.etcd_compact),
    "etcd_wipe": (1, Faults.etcd_wipe),
    "etcd_restore": (3, Faults.etcd_restore),
}
"""kind: (weight, how it is made)."""
