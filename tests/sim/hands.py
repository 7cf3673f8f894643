"""An administrator's hands: virsh on every host, and what he may do with it.

He does what people do to hosts behind domctl's back, with the README's non-promises kept: he starts no second
copy himself, moves a domain only between hosts that domctl knows and, where hand-made migrations are not
declared, only while both ends are well. What he does by `meddle` is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from controller import keys
from drivers.errors import HypervisorError
from drivers.hypervisor import Mark, State
from tests.sim.cluster import Cluster
from tests.sim.host import SimHost
from tests.sim.migration import Manner
from tests.sim.virsh import Virsh


@dataclass
class Guard:
    """A domain that an administrator moves by hand, where that is not declared (`handMigrations`): until
    domctl has seen where it went, nothing may become unreachable, for the README promises nothing then."""

    moves: int = 0

    async def passed(self, cluster: Cluster) -> None:
        while self.moves:
            await cluster.sleep(1.0)


class Hands:
    """`read_at` says when a replica's last complete list of a host was asked for. `busy`: names of domains
    that somebody is at; nobody else touches them meanwhile."""

    def __init__(self, cluster: Cluster, guard: Guard, read_at: Callable[[str, str], float]) -> None:
        self.cluster = cluster
        self.guard = guard
        self.read_at = read_at
        self.busy: dict[str, None] = {}
        self.taken_for_dead: dict[str, None] = {}
        self._virsh = {
            name: Virsh(host, cluster.random(f"virsh/{name}")) for name, host in cluster.hosts.items()
        }

    def on(self, node: str) -> Virsh:
        return self._virsh[node]

    async def destroy(self, node: str, uuid: str) -> bool:
        return self._said(f"virsh destroy {uuid} on {node}", await self.on(node).destroy(uuid))

    async def undefine(self, node: str, uuid: str) -> bool:
        return self._said(f"virsh undefine {uuid} on {node}", await self.on(node).undefine(uuid))

    async def abort(self, node: str, uuid: str) -> bool:
        return self._said(f"virsh domjobabort {uuid} on {node}", await self.on(node).abort(uuid))

    async def resume(self, node: str, uuid: str) -> bool:
        return self._said(f"virsh resume {uuid} on {node}", await self.on(node).resume(uuid))

    def _said(self, what: str, answer: HypervisorError | None) -> bool:
        self.cluster.trace.say("admin", what + (f": {answer.message}" if answer is not None else ""))
        return answer is None

    async def managedsave_remove(self, node: str, uuid: str) -> bool:
        """libvirt tells nobody."""
        host = self.cluster.hosts[node]
        domain = host.domains.get(uuid)
        if domain is None or domain.saved is None or not host.powered:
            return False
        domain.saved = None
        self.cluster.trace.say("admin", f"virsh managedsave-remove {uuid} on {node}")
        return True

    async def forget_stuck_start(self, node: str, uuid: str) -> bool:
        """Stop libvirtd, check that no QEMU runs it, remove its note, start libvirtd."""
        host = self.cluster.hosts[node]
        domain = host.domains.get(uuid)
        if domain is None or domain.holds_disks or not host.powered:
            return False
        host.kill_daemon()
        domain.live, domain.starts_stuck = None, False
        domain.become(State.SHUTOFF, "unknown")
        host.start_daemon()
        return True

    def migrates(self, uuid: str) -> bool:
        """Whether a migration of it is at work."""
        return any(uuid in host.operations.migrations for host in self.cluster.hosts.values())

    def stalls(self, uuid: str) -> bool:
        """Whether one is, and nothing of it comes across."""
        found = (host.operations.migrations.get(uuid) for host in self.cluster.hosts.values())
        return any(migration is not None and migration.stalls for migration in found)

    def power_on(self, host: SimHost) -> None:
        """A machine that somebody said is dead for good does not boot as it is: what would start there by
        itself is taken out first, for `domctl` may not have seen that it was set."""
        if host.powered:
            return
        if host.name in self.taken_for_dead:
            del self.taken_for_dead[host.name]
            for domain in host.domains.values():
                domain.autostart = False
        self.cluster.trace.say("FAULT", f"{host.name} has power again")
        host.power_on()

    # --- meddling

    def _some(self, rng: Random, wanted: Callable[[SimHost, str], bool]) -> tuple[str, str] | None:
        """(node, uuid) of a domain of ours on a host that can be worked on."""
        ours = self.cluster.assignments() if self.cluster.etcd.running else {}
        found = [
            (name, uuid)
            for name, host in self.cluster.hosts.items()
            for uuid in host.domains
            if uuid in ours
            and host.powered
            and host.daemon == "up"
            and self.cluster.trace.named(uuid) not in self.busy
            and wanted(host, uuid)
        ]
        return rng.choice(found) if found else None

    async def _one(
        self,
        rng: Random,
        wanted: Callable[[SimHost, str], bool],
        what: str,
        do: Callable[[Virsh, str], Awaitable[HypervisorError | None]],
    ) -> None:
        found = self._some(rng, wanted)
        if found is None:
            return
        node, uuid = found
        self.cluster.trace.say("admin", f"virsh {what} {uuid} on {node}")
        self._said(f"virsh {what} {uuid} on {node} ended", await do(self.on(node), uuid))

    async def destroys(self, rng: Random) -> None:
        await self._one(rng, _runs, "destroy", lambda virsh, uuid: virsh.destroy(uuid))

    async def shuts_down(self, rng: Random) -> None:
        await self._one(rng, _runs, "shutdown", lambda virsh, uuid: virsh.shutdown(uuid))

    async def undefines(self, rng: Random) -> None:
        await self._one(rng, _defined, "undefine", lambda virsh, uuid: virsh.undefine(uuid))

    async def removes(self, rng: Random) -> None:
        async def do(virsh: Virsh, uuid: str) -> HypervisorError | None:
            await virsh.destroy(uuid)
            return await virsh.undefine(uuid)

        await self._one(rng, _defined, "destroy and undefine", do)

    async def suspends(self, rng: Random) -> None:
        await self._one(rng, _runs, "suspend", lambda virsh, uuid: virsh.suspend(uuid))

    async def starts(self, rng: Random) -> None:
        """What is shut off here and runs nowhere, and where no operator said that this host is dead."""

        def wanted(host: SimHost, uuid: str) -> bool:
            held = self.cluster.assignment(uuid)
            home = held is not None and held.node == host.name and held.candidates == (host.name,)
            return home and host.domains[uuid].live is None and not self.cluster.active_on(uuid)

        await self._one(rng, wanted, "start", lambda virsh, uuid: virsh.start(uuid))

    async def edits(self, rng: Random) -> None:
        await self._one(rng, _defined, "edit", lambda virsh, uuid: virsh.set_memory(uuid, 80))

    async def strips_mark(self, rng: Random) -> None:
        await self._one(rng, _defined, "define, from a file without the mark,", lambda v, u: v.strip_mark(u))

    async def strips_live_mark(self, rng: Random) -> None:
        await self._one(
            rng, _runs, "metadata --remove", lambda v, u: v.set_mark(u, None, live=True, config=False)
        )

    async def sets_autostart(self, rng: Random) -> None:
        await self._one(rng, _defined, "autostart", lambda virsh, uuid: virsh.autostart(uuid))

    async def saves(self, rng: Random) -> None:
        await self._one(rng, _runs, "managedsave", lambda virsh, uuid: virsh.managed_save(uuid))

    async def clones(self, rng: Random) -> None:
        new = f"cccccccc-0000-4000-8000-{rng.getrandbits(48):012x}"
        await self._one(rng, _defined, "clone", lambda v, u: v.clone(u, new, f"clone-{new[-4:]}"))

    async def moves(self, rng: Random) -> str:
        """`virsh migrate` to another host that domctl knows; without `handMigrations`, while all is well.
        Returns where it runs now, "" if nothing was moved. A host that it left with its definition armed must
        not boot before that was cleared there (README)."""
        declared = self.cluster.policy.hand_migrations
        manner = Manner(persist=rng.random() < 0.9, undefine_source=rng.random() < 0.9)
        found = self._some(rng, _runs)
        if found is None or not (declared or self.all_is_well()):
            return ""
        node, uuid = found
        targets = [n for n in self._targets(uuid) if n != node]
        if not targets or self.cluster.etcd.peek(keys.resolution(uuid)) is not None:
            return ""
        target = rng.choice(targets)
        self.guard.moves += not declared
        try:
            self.cluster.trace.say("admin", f"virsh migrate {uuid} from {node} to {target} {manner}")
            self._said(
                f"virsh migrate {uuid} ended",
                await self.on(node).migrate(uuid, self.cluster.hosts[target], manner),
            )
            left = self.cluster.hosts[node].domains.get(uuid)
            if left is not None and left.autostart and left.live is None:
                self.cluster.armed[node, uuid] = self.cluster.clock()
            if not declared:
                await self._seen_since(self.cluster.clock(), (node, target))
                await self._written_down(uuid, target)
        finally:
            self.guard.moves -= not declared
        return target if self.cluster.active_on(uuid) == [target] else ""

    def _targets(self, uuid: str) -> list[str]:
        dead = {key.rpartition("/")[2] for key, _ in self.cluster.stored(keys.CONFIRMED_DEAD)}
        return [
            name
            for name, body in self.cluster.objects("nodes").items()
            if name in self._virsh
            and name not in dead | self.cluster.quarantined
            and "deletionTimestamp" not in body["metadata"]
            and self.cluster.hosts[name].daemon == "up"
        ]

    def all_is_well(self) -> bool:
        cluster = self.cluster
        return cluster.leader is not None and all(
            host.daemon == "up" and cluster.network.up(name, replica)
            for name, host in cluster.hosts.items()
            for replica in (*cluster.replicas, *cluster.hosts)
            if replica != name
        )

    async def _seen_since(self, since: float, nodes: tuple[str, ...]) -> None:
        """Until the leader has read both ends, and has had a moment to write down what it saw."""
        while True:
            leader = self.cluster.leader
            if leader is not None and all(self.read_at(leader.name, node) > since for node in nodes):
                break
            await self.cluster.sleep(1.0)
        await self.cluster.sleep(2.0)

    async def _written_down(self, uuid: str, node: str) -> None:
        """Until etcd says where it went: a leader that must not write, for the store is not trusted, takes
        what it saw with it (seed 31067)."""
        for _ in range(300):
            held = self.cluster.assignment(uuid) if self.cluster.etcd.running else None
            if held is not None and node in held.candidates:
                return
            if self.cluster.active_on(uuid) != [node]:
                return
            await self.cluster.sleep(1.0)

    async def copies_definition(self, rng: Random) -> None:
        """A stale definition on another host that is registered."""
        nodes = self.cluster.objects("nodes") if self.cluster.etcd.running else {}
        others = [n for n in sorted(nodes) if n in self._virsh and self.cluster.hosts[n].daemon == "up"]
        if others:
            target = self.on(rng.choice(others))
            await self._one(
                rng,
                _defined,
                f"define, on {target.host.name} too,",
                lambda v, u: v.copy_definition(u, target),
            )

    async def brings_foreign(self, rng: Random) -> None:
        """A domain of somebody else's, or of another cluster's, with whatever name."""
        uuid = f"ffffffff-0000-4000-8000-{rng.getrandbits(48):012x}"
        name = rng.choice(["theirs", "d2", "d5"])
        mark = Mark("another-cluster", uuid, 3, "0") if rng.random() < 0.5 else None
        node = rng.choice(sorted(self._virsh))
        if self.cluster.hosts[node].daemon != "up":
            return
        starts = rng.random() < 0.5
        done = self._said(f"virsh define {name} on {node}", await self.on(node).foreign(uuid, name, mark))
        if done and starts:
            await self.on(node).start(uuid)


def _runs(host: SimHost, uuid: str) -> bool:
    return host.active(uuid) and host.domains[uuid].state is State.RUNNING


def _defined(host: SimHost, uuid: str) -> bool:
    domain = host.domains[uuid]
    return domain.config is not None and not domain.in_migration


Meddle = Callable[[Hands, Random], Awaitable[object]]

MEDDLING: dict[str, tuple[int, Meddle]] = {
    "admin_destroys": (2, Hands.destroys),
    "admin_shuts_down": (1, Hands.shuts_down),
    "admin_undefines": (3, Hands.undefines),
    "admin_removes": (2, Hands.removes),
    "admin_suspends": (1, Hands.suspends),
    "admin_moves": (5, Hands.moves),
    "admin_starts": (2, Hands.starts),
    "admin_edits": (1, Hands.edits),
    "admin_strips_mark": (1, Hands.strips_mark),
    "admin_strips_live_mark": (1, Hands.strips_live_mark),
    "admin_sets_autostart": (1, Hands.sets_autostart),
    "admin_saves": (2, Hands.saves),
    "admin_clones": (1, Hands.clones),
    "admin_copies_definition": (2, Hands.copies_definition),
    "admin_brings_foreign": (2, Hands.brings_foreign),
}
