"""What befalls migrations that the controller makes: blows that meet one in a drawn phase of it.

In half of all runs a few more Migrations are asked for, and something strikes while each is under way: one
end's libvirtd, its power or its link, the guest, whoever leads, or an administrator's hand. The phases are
those of `tests.sim.migration`, and the moments before it is sent and after it is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from controller.model import IntentKind
from tests.sim.converged import is_met
from tests.sim.domain import Change
from tests.sim.faults import FIRST_S, LAST_S, Faults
from tests.sim.host import SimHost
from tests.sim.hypervisor import Sent
from tests.sim.workload import DOMAIN_NAMES, Workload

PHASES = ("recorded", "asking", "copying", "copying", "switching", "arrived", "arrived", "over")
LOOK_S = 1.0
PATIENCE_S = 30.0
TIMES = 6  # in a drill
KEPT_S = (5.0, 20.0)
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
        self._leaving: dict[str, asyncio.Event] = {}  # set as the command to migrate leaves: by uuid
        notes = self._cluster.notes

        def sent(one: Sent) -> None:
            notes.sent(one)
            if one.call == "migrate" and one.uuid in self._leaving:
                self._leaving[one.uuid].set()

        self._cluster.notes = replace(notes, sent=sent)

    def draw(self) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            return
        for _ in range(rng.randint(2, 5)):
            self._at(rng, DRILLS["moves_met"])

    def drill(self, name: str) -> None:
        """More of them, of one sort, on hosts that do the rarer thing each time."""
        drill, rng = DRILLS[name], self._cluster.random(f"moving/{name}")
        for host in self._cluster.hosts.values():
            host.temper.left_paused = drill.left_paused
            host.temper.stalls = drill.stalls
            host.temper.late_s = drill.late_s
        for _ in range(TIMES):
            self._at(rng, drill)

    def _at(self, rng: Random, drill: Drill) -> None:
        own = Random(rng.getrandbits(64))
        self.drawn.append((rng.uniform(FIRST_S, LAST_S), partial(self.meet, own, drill)))

    async def meet(self, rng: Random, drill: Drill) -> None:
        """Ask for a migration, wait for its phase, strike, and mend it after a while."""
        phases, blows = drill.phases, drill.blows
        names = self._movable() if drill.movable else ()
        name, phase, blow = rng.choice(names or DOMAIN_NAMES), rng.choice(phases), rng.choice(blows)
        if drill.copies:
            name = f"k{rng.randrange(1000)}"
            await self._workload.own_disk(name)
            await self._cluster.sleep(5.0)
        body = self._cluster.objects("domains").get(name) if self._cluster.etcd.running else None
        if body is None:
            return
        target = rng.choice(("", "", *sorted(self._cluster.hosts)))
        await self._workload.move(name, target, copies=drill.copies)
        met = await self._await(body["metadata"]["uid"], name, phase)
        if met is None:
            return
        if phase != "sent":
            await self._faults.guard.passed(self._cluster)
            await self._cluster.sleep(rng.choice((0.0, 0.0, 0.02, 0.3)))
        self._faults.say(f"{blow}: {name} is moved from {met.source.name} to {met.target.name} ({phase})")
        await BLOWS[blow](self, met, rng)

    def _movable(self) -> tuple[str, ...]:
        """Domains that run, as they are to."""
        found = self._cluster.objects("domains") if self._cluster.etcd.running else {}
        return tuple(
            name
            for name in DOMAIN_NAMES
            if (body := found.get(name)) is not None
            and (body["spec"].get("state") or "running") == "running"
            and is_met(self._cluster, body)
        )

    async def _await(self, uuid: str, name: str, phase: str) -> Met | None:
        """When it is in this phase. Looked for at every change of a host, and now and then."""
        if phase == "sent":
            return await self._await_sent(uuid, name)
        moved, met = asyncio.Event(), None
        until = self._cluster.clock() + PATIENCE_S

        def changed(change: Change) -> None:
            if change.uuid == uuid:
                moved.set()

        for host in self._cluster.hosts.values():
            host.listeners.append(changed)
        try:
            while self._cluster.clock() < until:
                met, is_there = self._look(uuid, name, phase, met)
                if is_there:
                    return met
                moved.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await moved.wait()
        finally:
            for host in self._cluster.hosts.values():
                host.listeners.remove(changed)
        return None

    async def _await_sent(self, uuid: str, name: str) -> Met | None:
        leaves = self._leaving.setdefault(uuid, asyncio.Event())
        leaves.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await leaves.wait()
        met, _ = self._look(uuid, name, "sent", None)
        return met if leaves.is_set() and not self._faults.guard.moves else None

    def _look(self, uuid: str, name: str, phase: str, met: Met | None) -> tuple[Met | None, bool]:
        held = self._cluster.assignment(uuid) if self._cluster.etcd.running else None
        intent = held.intent if held is not None else None
        if intent is None or intent.kind is not IntentKind.MIGRATE:
            return met, met is not None  # it is over already
        hosts = self._cluster.hosts
        met = Met(uuid, name, hosts[intent.node], hosts[intent.target])
        migration = met.source.operations.migrations.get(uuid)
        return met, ("recorded" if migration is None else migration.phase) == phase

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

    async def arrived_and_forgotten(self, met: Met, rng: Random) -> None:
        """It arrives while nobody listens, and its target's libvirtd begins anew, which forgets how it went:
        whether its source ran on is told by nothing."""
        leader = self._cluster.leader
        if leader is not None:
            leader.kill()
        await self._faults.lasting(rng.choice((2.0, 6.0)))
        met.target.kill_daemon()
        await self._faults.lasting(rng.choice((0.2, 2.0)))
        met.target.start_daemon()
        if leader is not None and not leader.lives:
            leader.start()
        await self._faults.lasting(40.0)

    async def went_on_and_gone(self, met: Met, rng: Random) -> None:
        """It goes on at its target, writes to its disks, ends and leaves nothing; and whoever let it go has
        died as soon as it did."""
        leader = self._cluster.leader
        if leader is None or not await self._goes_on(met):
            return
        leader.kill()
        await self._faults.lasting(rng.choice((1.0, 3.0)))
        met.target.crash_guest(met.uuid)
        await self._faults.lasting(rng.choice((2.0, 20.0)))
        if not leader.lives:
            leader.start()
        await self._faults.lasting(40.0)

    async def _goes_on(self, met: Met) -> bool:
        """When it is resumed at its target, at once."""
        resumed = asyncio.Event()

        def changed(change: Change) -> None:
            if (change.what, change.uuid) == ("resumed", met.uuid):
                resumed.set()

        met.target.listeners.append(changed)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await resumed.wait()
        finally:
            met.target.listeners.remove(changed)
        return resumed.is_set()

    async def ran_on_and_gone(self, met: Met, rng: Random) -> None:
        """Its target is frozen for longer than the source waits: that one goes on, ends and leaves nothing;
        then the target takes over. Nobody listens: who leads next finds a copy that stands, and is old."""
        leader = self._cluster.leader
        met.target.freeze()
        if leader is not None:
            leader.kill()
        await self._faults.lasting(rng.choice((33.0, 40.0)))
        met.source.crash_guest(met.uuid)
        await self._faults.lasting(rng.choice((2.0, 10.0)))
        met.target.thaw()
        if leader is not None and not leader.lives:
            leader.start()
        await self._faults.lasting(40.0)

    async def source_keeps_it(self, met: Met, rng: Random) -> None:
        """The command waits in a frozen daemon until whoever sent it has lost the connection."""
        met.source.freeze()
        await self._faults.lasting(rng.choice((21.0, 24.0, 35.0)))
        met.source.thaw()

    async def source_keeps_it_of_the_dead(self, met: Met, rng: Random) -> None:
        leader = self._cluster.leader
        met.source.freeze()
        await self._faults.lasting(0.5)
        if leader is not None:
            leader.kill()
        await self._faults.lasting(rng.choice((5.0, 24.0, 35.0)))
        met.source.thaw()
        if leader is not None and not leader.lives:
            leader.start()

    async def arrives_unheard(self, met: Met, rng: Random) -> None:
        """No event tells of its arrival, and its source does not hear of it either."""
        before, met.target.temper.event_loss = met.target.temper.event_loss, 1.0
        if await self._await(met.uuid, met.name, "arrived") is not None:
            met.source.kill_daemon()
            await self._faults.lasting(rng.choice((0.2, 2.0)))
            met.source.start_daemon()
            await self._faults.lasting(50.0)
        met.target.temper.event_loss = before

    async def planted(self, met: Met, rng: Random) -> None:
        """Somebody defines it on its target while the command to move it is on its way there, too late for
        whoever looked; and then it is not to move after all."""
        shown = self._faults.hands.on(met.source.name).shown(met.uuid)
        if shown is None:
            return
        met.target.operations.put(shown, "virsh")
        await self._faults.lasting(rng.choice((0.5, 2.0, 4.0)))
        await self._workload.end_moves(met.name)

    async def no_way(self, met: Met, rng: Random) -> None:
        """Between both ends, for as long as it may be tried again and again."""
        self._cluster.network.cut(met.source.name, met.target.name)
        await self._faults.lasting(200.0)
        self._cluster.network.heal(met.source.name, met.target.name)

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
    "it arrives unheard, and that is forgotten": Moving.arrived_and_forgotten,
    "its source ran on and is gone, unheard": Moving.ran_on_and_gone,
    "it went on and is gone, unheard": Moving.went_on_and_gone,
    "source frozen, and keeps it": Moving.source_keeps_it,
    "source frozen, and keeps it of a dead leader": Moving.source_keeps_it_of_the_dead,
    "it arrives unheard": Moving.arrives_unheard,
    "no way between the ends": Moving.no_way,
    "defined at the target, and ended": Moving.planted,
}
"""How a migration is met."""


@dataclass(frozen=True)
class Drill:
    """What meets migrations, and in which phases. `left_paused`, `stalls`: how often a source stays paused
    after a switch-over that was disturbed, and how often a guest is faster than the copying. `late_s`: how
    long after it goes on a daemon that was frozen begins a migration."""

    phases: tuple[str, ...]
    blows: tuple[str, ...]
    left_paused: float = 0.1
    stalls: float = 0.0
    late_s: tuple[float, float] = (0.0, 0.0)
    movable: bool = False
    copies: bool = False  # a domain of its own, whose disk is copied


_ENDS = ("source daemon killed", "target daemon killed", "both daemons killed", "ends cut from each other")
_KEPT = ("source frozen, and keeps it", "source frozen, and keeps it of a dead leader")
_ALONE = (
    "it arrives unheard",
    "no way between the ends",
    "defined at the target, and ended",
    "its source ran on and is gone, unheard",
    "it went on and is gone, unheard",
)
_RARE = (*_KEPT, *_ALONE)  # in drills of their own
_LATE = ("target frozen", "target isolated", "ends cut from each other")
_SWITCH = ("switching", "arrived")
DRILLS: dict[str, Drill] = {
    "moves_left_paused": Drill(_SWITCH, _ENDS, left_paused=1.0),
    "moves_unheard": Drill(_SWITCH, ("target isolated", "leader killed", "ends cut, leader killed"), 1.0),
    "moves_lost": Drill(("arrived",), ("target isolated",), left_paused=0.0),
    "moves_gone": Drill(("arrived",), ("it arrives unheard, and that is forgotten",), left_paused=0.0),
    "moves_copied": Drill(("arrived",), ("it went on and is gone, unheard",), left_paused=0.0, copies=True),
    "moves_late": Drill(("switching",), _LATE, left_paused=0.0, movable=True),
    "moves_old": Drill(("switching",), ("its source ran on and is gone, unheard",), left_paused=0.0),
    "moves_cut_off": Drill(("asking", "copying", *_SWITCH), ("source isolated", "source frozen"), 1.0),
    "moves_stalled": Drill(("copying",), ("leader killed", "leader restarted"), stalls=1.0),
    "moves_kept": Drill(("sent",), _KEPT, late_s=KEPT_S, movable=True),
    "moves_deaf": Drill(("recorded", "copying"), ("it arrives unheard",), left_paused=1.0, movable=True),
    "moves_planted": Drill(("sent",), ("defined at the target, and ended",), stalls=0.5, movable=True),
    "moves_without_way": Drill(("recorded",), ("no way between the ends",), movable=True),
    "moves_met": Drill(PHASES, tuple(sorted(set(BLOWS) - set(_RARE)))),
}
