"""The stage for interrupted actions: two hosts, two domains, two replicas, and the stories played there.

A `Story` leads, by what people do, to one kind of action of the executor; `STORIES` has one for each. Nothing
goes wrong here: that is `tests.sim.interrupted`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from controller.api.resources import DOMAINS, MIGRATIONS, NODES
from controller.plan.snapshot import Policy
from controller.plan.types import ActionKind
from specs.requests import ANNOTATIONS
from tests.sim.checks import Checks
from tests.sim.cluster import Cluster
from tests.sim.converged import what_is_left
from tests.sim.domain import Change
from tests.sim.doors import Notes
from tests.sim.host import SimHost
from tests.sim.people import Api, Body
from tests.sim.process import ProcessLoop
from tests.sim.trace import Trace
from tests.sim.virsh import Virsh

HOSTS: Final = ("h1", "h2")
NAMES: Final = ("one", "two")
HAPPENS_S: Final = 400.0  # until what must happen has happened
PATIENCE: Final = 30  # of users, with an API that does not answer


class Stage:
    """One world, its people, and what is asked of it."""

    def __init__(self, loop: ProcessLoop, seed: str) -> None:
        self.loop = loop
        self.trace = Trace(loop.time, loop.time())
        self.checks = checks = Checks()
        notes = Notes(
            called=checks.called,
            renewed=checks.renewed,
            answered=checks.answered,
            died=checks.died,
            restored=checks.restored,
            sent=checks.sent,
        )
        self.cluster = checks.cluster = Cluster(seed, loop, Policy(), self.trace, notes)
        for name in HOSTS:
            host = self.cluster.add_host(name)
            host.temper.deaf = 0.0
            host.listeners.append(checks.changed)
        self.cluster.etcd.listeners.append(checks.transacted)
        self.one, self.other = self.cluster.add_replica("c1"), self.cluster.add_replica("c2")
        self.api = Api(self.cluster, self.cluster.etcd.client("user"))

    @property
    def hosts(self) -> list[SimHost]:
        return [self.cluster.hosts[name] for name in HOSTS]

    async def until(self, condition: Callable[[], object], limit_s: float = HAPPENS_S) -> bool:
        began = self.loop.time()
        while not condition():
            if self.loop.time() - began > limit_s:
                return False
            await asyncio.sleep(0.25)
        return True

    # --- what people do

    async def nodes(self) -> None:
        for name in HOSTS:
            await self.api.create(NODES, name, {"uri": f"qemu+tcp://{name}/system", "insecure": True})

    async def domain(self, name: str, **spec: Any) -> None:
        ladder = [{"method": "acpi", "timeoutSeconds": 5}, {"method": "destroy"}]
        await self.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", "shutdown": ladder, **spec})

    async def edit(self, name: str, **spec: Any) -> None:
        def change(body: Body) -> None:
            body["spec"].update(spec)

        if name in self.cluster.objects("domains"):
            await self.until_done(lambda: self.api.edit(DOMAINS, name, change, str(spec)))

    async def ask(self, name: str, what: str) -> None:
        def change(body: Body) -> None:
            annotations = body["metadata"].setdefault("annotations", {})
            annotations[ANNOTATIONS[what]] = self.cluster.world_of("user").wall()

        if name in self.cluster.objects("domains"):
            await self.until_done(lambda: self.api.edit(DOMAINS, name, change, what))

    async def move(self, name: str) -> None:
        """To the other host, live."""
        spec = {"domain": name, "node": self.elsewhere(name).name}
        await self.until_done(lambda: self.api.create(MIGRATIONS, f"move-{name}", spec))

    async def end_move(self, name: str) -> None:
        def change(body: Body) -> None:
            body["spec"]["abort"] = True

        await self.until_done(lambda: self.api.edit(MIGRATIONS, f"move-{name}", change, "abort"))

    async def delete(self, name: str) -> None:
        if name in self.cluster.objects("domains"):
            await self.until_done(lambda: self.api.delete(DOMAINS, name))

    async def until_done(self, request: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(PATIENCE):
            if await request():
                return
            await asyncio.sleep(1.0)

    def uuid(self, name: str) -> str:
        return str(self.cluster.objects("domains")[name]["metadata"]["uid"])

    def settled(self) -> bool:
        return not what_is_left(self.cluster)

    def home(self, name: str) -> str:
        if name not in self.cluster.objects("domains"):
            return ""
        held = self.cluster.assignment(self.uuid(name))
        return held.node if held is not None else ""

    def elsewhere(self, name: str) -> SimHost:
        """The host that it is not on."""
        return next(host for host in self.hosts if host.name != self.home(name))

    def copying(self, name: str) -> bool:
        found = [host.operations.migrations.get(self.uuid(name)) for host in self.hosts]
        return any(migration is not None and migration.phase == "copying" for migration in found)


# --- stories: what leads to each kind of action


async def both(stage: Stage, **spec: Any) -> None:
    """Both domains, one on each host, as wanted."""
    await stage.nodes()
    for name, host in zip(NAMES, HOSTS, strict=True):
        await stage.domain(name, placement={"node": host}, **spec)
    await stage.until(stage.settled)


async def _start(stage: Stage) -> None:
    await stage.nodes()
    for name in NAMES:
        await stage.domain(name)


async def _define(stage: Stage) -> None:
    await stage.nodes()
    for name in NAMES:
        await stage.domain(name, state="shutoff")


async def _stop(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.edit(name, state="shutoff")


async def _pause(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.edit(name, state="paused")


async def _resume(stage: Stage) -> None:
    await both(stage, state="paused")
    for name in NAMES:
        await stage.edit(name, state="running")


async def _save(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.edit(name, state="saved")


async def _drop_saved(stage: Stage) -> None:
    await _save(stage)
    await stage.until(stage.settled)
    for name in NAMES:
        await stage.edit(name, state="shutoff")
        await stage.ask(name, "drop-saved")


async def _reboot(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.ask(name, "reboot")


async def _reset(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.ask(name, "reset")


async def _forget(stage: Stage) -> None:
    await both(stage, persistence="transient")


async def _stop_the_deaf(stage: Stage) -> None:
    for host in stage.hosts:
        host.temper.deaf = 1.0
    await _stop(stage)


async def _move(stage: Stage) -> None:
    """Each to the other's host, and then it shall run there."""
    await both(stage, state="shutoff")
    for name, host in zip(NAMES, reversed(HOSTS), strict=True):
        await stage.edit(name, placement={"node": host}, state="running")


async def _lose_a_host(stage: Stage) -> None:
    await stage.nodes()
    for name in NAMES:
        await stage.domain(name)
    await stage.until(stage.settled)
    lost = stage.cluster.hosts[stage.home("one")]
    lost.power_off()
    await asyncio.sleep(5.0)
    await stage.until_done(lambda: stage.api.confirm_dead(lost.name))


async def _lose_the_mark(stage: Stage) -> None:
    await both(stage)
    for name, host in zip(NAMES, stage.hosts, strict=True):
        await _virsh(stage, host).set_mark(stage.uuid(name), None, live=True, config=False)


async def _set_autostart(stage: Stage) -> None:
    await both(stage)
    for name, host in zip(NAMES, stage.hosts, strict=True):
        await _virsh(stage, host).autostart(stage.uuid(name))


def _virsh(stage: Stage, host: SimHost) -> Virsh:
    return Virsh(host, stage.cluster.random(f"virsh/{host.name}"))


async def _hand_back(stage: Stage) -> None:
    await both(stage, deletionPolicy="Orphan")
    for name in NAMES:
        await stage.delete(name)


async def _delete(stage: Stage) -> None:
    await both(stage)
    for name in NAMES:
        await stage.delete(name)


async def _migrate(stage: Stage, copy_s: tuple[float, float] = (1.0, 2.0)) -> None:
    """Each to the other's host, while it runs."""
    await stage.nodes()
    for host in stage.hosts:
        host.temper.copy_s = copy_s
    for name in NAMES:
        await stage.domain(name)
    await stage.until(stage.settled)
    for name in NAMES:
        await stage.move(name)


async def _migrate_slowly(stage: Stage) -> None:
    await _migrate(stage, (30.0, 40.0))
    await stage.until(lambda: all(stage.copying(name) for name in NAMES))


async def _end_moves(stage: Stage) -> None:
    await _migrate_slowly(stage)
    for name in NAMES:
        await stage.end_move(name)


async def _define_at_the_target(stage: Stage) -> None:
    """It waits there for the migration, and is carried out when that is ended: before anything was read."""
    for host in stage.hosts:
        host.temper.define_s = (0.0005, 0.001)
    await _migrate_slowly(stage)
    defining = []
    for name in NAMES:
        source, target = stage.cluster.hosts[stage.home(name)], stage.elsewhere(name)
        copying = _virsh(stage, source).copy_definition(stage.uuid(name), _virsh(stage, target))
        defining.append(asyncio.create_task(copying))
    await asyncio.sleep(2.0)  # until they wait for the job there
    for name in NAMES:
        await stage.end_move(name)
    await asyncio.gather(*defining)


async def _lose_the_target(stage: Stage) -> None:
    """Its guest dies as it takes over, once for each; the source stays paused, and its daemon lets it."""
    lost: set[str] = set()

    def changed(change: Change) -> None:
        if (change.what, change.by) == ("paused", "migration") and change.uuid not in lost:
            lost.add(change.uuid)
            target = next(host for host in stage.hosts if host.name != change.host)
            stage.loop.call_soon(target.crash_guest, change.uuid)

    for host in stage.hosts:
        host.temper.left_paused, host.temper.notices_s = 1.0, (0.0, 0.0)
        host.listeners.append(changed)
    await _migrate(stage)


Story = Callable[[Stage], Awaitable[None]]

STORIES: Final[dict[ActionKind, Story]] = {
    ActionKind.START: _start,
    ActionKind.DEFINE: _define,
    ActionKind.SHUTDOWN: _stop,
    ActionKind.DESTROY: _stop_the_deaf,
    ActionKind.PAUSE: _pause,
    ActionKind.RESUME: _resume,
    ActionKind.SAVE: _save,
    ActionKind.FORGET: _forget,
    ActionKind.DROP_SAVED: _drop_saved,
    ActionKind.REBOOT: _reboot,
    ActionKind.RESET: _reset,
    ActionKind.REVOKE: _move,
    ActionKind.RELEASE: _lose_a_host,
    ActionKind.RECORD: _stop,
    ActionKind.MARK: _lose_the_mark,
    ActionKind.AUTOSTART: _set_autostart,
    ActionKind.HAND_BACK: _hand_back,
    ActionKind.FINISH: _delete,
    ActionKind.MIGRATE: _migrate,
    ActionKind.ABORT: _end_moves,
    ActionKind.GO_ON: _migrate,
    ActionKind.UNPLANT: _define_at_the_target,
}

OTHER_STORIES: Final[dict[ActionKind, Story]] = {ActionKind.GO_ON: _lose_the_target}
"""Which lead to the same kind of action for another reason."""
