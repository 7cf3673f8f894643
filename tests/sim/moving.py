"""What befalls migrations that the controller makes: blows that meet one in a drawn phase of it.

In half of all runs a few more Migrations are asked for, and something strikes while each is under way: one
end's libvirtd, its power or its link, the guest, whoever leads, or an administrator's hand. The phases are
those of `tests.sim.migration`, and the moments before it is sent and after it is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from controller.model import IntentKind
from tests.sim.faults import FIRST_S, LAST_S, Faults
from tests.sim.host import SimHost
from tests.sim.workload import DOMAIN_NAMES, Workload

PHASES = ("recorded", "asking", "copying", "copying", "switching", "arrived", "arrived", "over")
LOOK_S = 0.04
PATIENCE_S = 30.0
LASTING_S = (0.3, 2.0, 8.0, 20.0, 34.0, 45.0, 90.0)


@dataclass(frozen=True)
class Met:
    """A migration that is met: its ends, and the domain."""

    uuid: str
    name: str
    source: SimHost
    target: SimHost


class Moving:
    """`drawn` are (time, what to do)."""

    def __init__(self, faults: Faults, workload: Workload) -> None:
        self._faults, self._workload = faults, workload
        self._cluster = faults.cluster
        self._rng = self._cluster.random("moving")
        self.drawn: list[tuple[float, Callable[[], Awaitable[None]]]] = []

    def draw(self) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            return
        for _ in range(rng.randint(2, 5)):
            own = Random(rng.getrandbits(64))
            self.drawn.append((rng.uniform(FIRST_S, LAST_S), partial(self.meet, own)))

    async def meet(self, rng: Random) -> None:
        """Ask for a migration, wait for its phase, strike, and mend it after a while."""
        name, phase, blow = rng.choice(DOMAIN_NAMES), rng.choice(PHASES), rng.choice(sorted(BLOWS))
        body = self._cluster.objects("domains").get(name) if self._cluster.etcd.running else None
        if body is None:
            return
        await self._workload.move(name, rng.choice(("", "", *sorted(self._cluster.hosts))))
        met = await self._await(body["metadata"]["uid"], name, phase)
        if met is None:
            return
        await self._faults.guard.passed(self._cluster)
        await self._cluster.sleep(rng.choice((0.0, 0.0, 0.02, 0.3)))
        self._faults.say(f"{blow}: {name} is moved from {met.source.name} to {met.target.name} ({phase})")
        await BLOWS[blow](self, met, rng)

    async def _await(self, uuid: str, name: str, phase: str) -> Met | None:
        met: Met | None = None
        for _ in range(int(PATIENCE_S / LOOK_S)):
            held = self._cluster.assignment(uuid) if self._cluster.etcd.running else None
            intent = held.intent if held is not None else None
            if intent is not None and intent.kind is IntentKind.MIGRATE:
                hosts = self._cluster.hosts
                met = Met(uuid, name, hosts[intent.node], hosts[intent.target])
                migration = met.source.operations.migrations.get(uuid)
                now = "recorded" if migration is None else migration.phase
                if now == phase:
                    return met
            elif met is not None:
                return met  # it is over already
            await self._cluster.sleep(LOOK_S)
        return None

    # --- blows

    async def _kill_daemon(self, host: SimHost, rng: Random) -> None:
        host.kill_daemon()
        await self._faults.lasting(rng.choice((0.2, 2.0, 15.0, 60.0)))
        host.start_daemon()

    async def _freeze(self, host: SimHost, rng: Random) -> None:
        host.freeze()
        await self._faults.lasting(rng.choice(LASTING_S))
        host.thaw()

    async def _power(self, host: SimHost, rng: Random) -> None:
        host.power_off()
        await self._faults.lasting(rng.choice(LASTING_S) * 1.5)
        self._faults.hands.power_on(host)

    async def source_daemon(self, met: Met, rng: Random) -> None:
        await self._kill_daemon(met.source, rng)

    async def target_daemon(self, met: Met, rng: Random) -> None:
        await self._kill_daemon(met.target, rng)

    async def both_daemons(self, met: Met, rng: Random) -> None:
        met.source.kill_daemon()
        await self._kill_daemon(met.target, rng)
        met.source.start_daemon()

    async def source_freezes(self, met: Met, rng: Random) -> None:
        await self._freeze(met.source, rng)

    async def target_freezes(self, met: Met, rng: Random) -> None:
        await self._freeze(met.target, rng)

    async def source_power(self, met: Met, rng: Random) -> None:
        await self._power(met.source, rng)

    async def target_power(self, met: Met, rng: Random) -> None:
        await self._power(met.target, rng)

    async def link(self, met: Met, rng: Random) -> None:
        """Between both ends."""
        await self._cut(met.source.name, met.target.name, rng)

    async def source_isolated(self, met: Met, rng: Random) -> None:
        await self._isolated(met.source.name, rng)

    async def target_isolated(self, met: Met, rng: Random) -> None:
        await self._isolated(met.target.name, rng)

    async def leader_from_source(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is not None:
            await self._cut(leader.name, met.source.name, rng)

    async def leader_from_target(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is not None:
            await self._cut(leader.name, met.target.name, rng)

    async def leader_killed(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is None:
            return
        leader.kill()
        await self._faults.lasting(rng.choice((0.5, 3.0, 20.0, 60.0)))
        if not leader.lives:
            leader.start()

    async def leader_killed_and_source_cut(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is None:
            return
        leader.kill()
        await self._cut(leader.name, met.source.name, rng)
        if not leader.lives:
            leader.start()

    async def leader_frozen(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is not None:
            leader.freeze()
            await self._faults.lasting(rng.choice((4.0, 14.0, 22.0, 60.0)))
            leader.thaw()

    async def leader_restarts(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        if leader is not None:
            await leader.stop()
            if not leader.lives:
                leader.start()

    async def source_guest(self, met: Met, rng: Random) -> None:
        met.source.crash_guest(met.uuid)

    async def target_guest(self, met: Met, rng: Random) -> None:
        met.target.crash_guest(met.uuid)

    async def guest_ends(self, met: Met, rng: Random) -> None:
        met.source.poweroff_guest(met.uuid)

    async def guest_stuck(self, met: Met, rng: Random) -> None:
        met.source.stick_guest(met.uuid)
        await self._faults.lasting(rng.choice(LASTING_S))
        met.source.unstick_guest(met.uuid)
        met.target.unstick_guest(met.uuid)

    async def virsh_destroys_source(self, met: Met, rng: Random) -> None:
        await self._faults.hands.destroy(met.source.name, met.uuid)

    async def virsh_destroys_target(self, met: Met, rng: Random) -> None:
        await self._faults.hands.destroy(met.target.name, met.uuid)

    async def virsh_suspends(self, met: Met, rng: Random) -> None:
        await self._faults.hands.on(met.source.name).suspend(met.uuid)
        await self._faults.lasting(rng.choice(LASTING_S))
        for host in (met.source, met.target):
            domain = host.domains.get(met.uuid)
            if domain is not None and domain.live is not None and domain.reason == "user":
                await self._faults.hands.on(host.name).resume(met.uuid)

    async def link_and_leader(self, met: Met, rng: Random) -> None:
        """The worst of all: the ends lose each other, and nobody watched."""
        leader = self._cluster.leader
        if leader is not None:
            leader.kill()
        await self._cut(met.source.name, met.target.name, rng)
        if leader is not None and not leader.lives:
            leader.start()

    async def _cut(self, a: str, b: str, rng: Random) -> None:
        self._cluster.network.cut(a, b)
        await self._faults.lasting(rng.choice(LASTING_S))
        self._cluster.network.heal(a, b)

    async def _isolated(self, name: str, rng: Random) -> None:
        self._cluster.network.isolate(name)
        await self._faults.lasting(rng.choice(LASTING_S))
        self._cluster.network.rejoin(name)


BLOWS: dict[str, Callable[[Moving, Met, Random], Awaitable[None]]] = {
    "source daemon killed": Moving.source_daemon,
    "target daemon killed": Moving.target_daemon,
    "both daemons killed": Moving.both_daemons,
    "source frozen": Moving.source_freezes,
    "target frozen": Moving.target_freezes,
    "source loses power": Moving.source_power,
    "target loses power": Moving.target_power,
    "ends cut from each other": Moving.link,
    "source isolated": Moving.source_isolated,
    "target isolated": Moving.target_isolated,
    "leader cut from source": Moving.leader_from_source,
    "leader cut from target": Moving.leader_from_target,
    "leader killed": Moving.leader_killed,
    "leader killed, source cut": Moving.leader_killed_and_source_cut,
    "leader frozen": Moving.leader_frozen,
    "leader restarted": Moving.leader_restarts,
    "guest killed at source": Moving.source_guest,
    "guest killed at target": Moving.target_guest,
    "guest powers off": Moving.guest_ends,
    "guest stuck": Moving.guest_stuck,
    "virsh destroy at source": Moving.virsh_destroys_source,
    "virsh destroy at target": Moving.virsh_destroys_target,
    "virsh suspend": Moving.virsh_suspends,
    "ends cut, leader killed": Moving.link_and_leader,
}
"""How a migration is met."""
