"""Every action of the executor, interrupted at each of its steps, in each of many ways.

Two hosts, two domains, two replicas. A `Story` leads to one kind of action; its leader comes to a fault point
of that action, and there a mishap begins: it dies, is stopped and goes on, is cut off from hosts or etcd,
loses replies, or its commands are kept for later, while the other replica takes over and users change their
minds. Then all heals, and `interrupt` answers what was wrong: whatever the checks saw of the truth on the way
(I1 before all), that the world did not become as wanted, once as it is and once with all domains running
(L1), or that it was not left in peace then (L2).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from logging.handlers import BufferingHandler
from typing import Final

from controller.executor import STEPS
from controller.faults import points
from controller.plan.types import ActionKind
from tests.sim.cluster import Replica
from tests.sim.converged import what_is_left
from tests.sim.process import loop_of_processes
from tests.sim.stage import HOSTS, NAMES, OTHER_STORIES, STORIES, Stage, Story

CONVERGE_S: Final = 600.0
ANSWERS: Final = 5
REST_S: Final = 15.0
RESYNC_S: Final = 62.0
STILL_S: Final = 70.0
SAMPLE_S: Final = 10.0


# --- mishaps: each begins at the fault point, within the very step, and has ended when `then` returns


@dataclass(frozen=True)
class Mishap:
    at_once: Callable[[Stage, Replica], None]
    then: Callable[[Stage, Replica], Awaitable[None]]


def _nothing(stage: Stage, hit: Replica) -> None:
    """It begins a moment later."""


def _kill(stage: Stage, hit: Replica) -> None:
    hit.kill()


async def _start_again(stage: Stage, hit: Replica, after_s: float) -> None:
    await asyncio.sleep(after_s)
    hit.start()


def _freeze_hosts(stage: Stage, hit: Replica) -> None:
    for host in stage.hosts:
        host.freeze()


async def _kill_and_thaw_hosts(stage: Stage, hit: Replica) -> None:
    """What it sent is in their sockets, and is done when they wake: when the other leads."""
    await asyncio.sleep(0.05)
    hit.kill()
    await asyncio.sleep(30.0)
    for host in stage.hosts:
        host.thaw()
    hit.start()


async def _stop_and_go(stage: Stage, hit: Replica, after_s: float) -> None:
    await asyncio.sleep(after_s)
    hit.freeze()
    await asyncio.sleep(30.0)
    hit.thaw()


def _isolate(stage: Stage, hit: Replica) -> None:
    stage.cluster.network.isolate(hit.name)


async def _depose_and_rejoin(stage: Stage, hit: Replica) -> None:
    """etcd forgets its lease while its commands are on their way: they arrive in another's term."""
    await stage.cluster.etcd.revoke_all_leases()
    await asyncio.sleep(7.0)
    stage.cluster.network.rejoin(hit.name)


async def _rejoin(stage: Stage, hit: Replica) -> None:
    await asyncio.sleep(40.0)
    stage.cluster.network.rejoin(hit.name)


def _cut(stage: Stage, hit: Replica, *, names: tuple[str, ...]) -> None:
    for name in names:
        stage.cluster.network.cut(hit.name, name)


async def _heal(stage: Stage, hit: Replica, *, names: tuple[str, ...]) -> None:
    await asyncio.sleep(30.0)
    for name in names:
        stage.cluster.network.heal(hit.name, name)


async def _cut_later(stage: Stage, hit: Replica) -> None:
    """Hosts have heard it, and their answer does not come through."""
    await asyncio.sleep(0.008)
    _cut(stage, hit, names=HOSTS)
    await _heal(stage, hit, names=HOSTS)


def _spoil(stage: Stage, hit: Replica, **ways: float) -> None:
    for name, value in ways.items():
        setattr(hit.ways, name, value)


async def _mend(stage: Stage, hit: Replica) -> None:
    await asyncio.sleep(12.0)
    _spoil(stage, hit, lose_reply=0.0, lose_request=0.0, delay=0.0, reset=0.0)


async def _etcd_restarts(stage: Stage, hit: Replica) -> None:
    stage.cluster.etcd.stop()
    await asyncio.sleep(3.0)
    stage.cluster.etcd.start()


async def _etcd_is_frozen(stage: Stage, hit: Replica) -> None:
    stage.cluster.etcd.freeze()
    await asyncio.sleep(18.0)
    stage.cluster.etcd.thaw()


async def _daemons_killed(stage: Stage, hit: Replica, after_s: float) -> None:
    await asyncio.sleep(after_s)
    for host in stage.hosts:
        host.kill_daemon()
    await asyncio.sleep(2.0)
    for host in stage.hosts:
        host.start_daemon()


async def _power_lost(stage: Stage, hit: Replica) -> None:
    await asyncio.sleep(0.03)
    for host in stage.hosts:
        host.power_off()
    await asyncio.sleep(20.0)
    for host in stage.hosts:
        host.power_on()


MISHAPS: Final[dict[str, Mishap]] = {
    "killed": Mishap(_kill, partial(_start_again, after_s=25.0)),
    "killed and back at once": Mishap(_kill, partial(_start_again, after_s=0.5)),
    "killed while hosts are frozen": Mishap(_freeze_hosts, _kill_and_thaw_hosts),
    "stopped for a while": Mishap(_nothing, partial(_stop_and_go, after_s=0.0)),
    "stopped a little later": Mishap(_nothing, partial(_stop_and_go, after_s=0.002)),
    "deposed while cut off": Mishap(_isolate, _depose_and_rejoin),
    "cut off": Mishap(_isolate, _rejoin),
    "hosts cut off": Mishap(partial(_cut, names=HOSTS), partial(_heal, names=HOSTS)),
    "hosts cut off once they heard": Mishap(_nothing, _cut_later),
    "etcd cut off": Mishap(partial(_cut, names=("etcd",)), partial(_heal, names=("etcd",))),
    "replies of etcd lost": Mishap(partial(_spoil, lose_reply=1.0), _mend),
    "requests to etcd lost": Mishap(partial(_spoil, lose_request=1.0), _mend),
    "etcd is late": Mishap(partial(_spoil, delay=1.0), _mend),
    "etcd resets": Mishap(partial(_spoil, reset=1.0), _mend),
    "etcd restarts": Mishap(_nothing, _etcd_restarts),
    "etcd is frozen": Mishap(_nothing, _etcd_is_frozen),
    "daemons killed": Mishap(_nothing, partial(_daemons_killed, after_s=0.03)),
    "daemons killed while at work": Mishap(_nothing, partial(_daemons_killed, after_s=0.3)),
    "power lost": Mishap(_nothing, _power_lost),
}
WORST: Final = (
    "killed",
    "killed while hosts are frozen",
    "stopped for a while",
    "deposed while cut off",
)


TURNS: Final = {mishap: number for number, mishap in enumerate(WORST)}
ALIKE: Final = (
    ActionKind.PAUSE,
    ActionKind.RESUME,
    ActionKind.DROP_SAVED,
    ActionKind.REBOOT,
    ActionKind.RESET,
    ActionKind.FORGET,
    ActionKind.AUTOSTART,
    ActionKind.ABORT,
    ActionKind.GO_ON,
    ActionKind.UNPLANT,
)
"""One call and its records each: they take turns with the mishaps, where not everything is tried."""


# --- and what users do meanwhile, a moment after the mishap began

MEANWHILE_S: Final = 3.0


async def _nobody(stage: Stage) -> None:
    """The mishap alone."""


async def _stop_both(stage: Stage) -> None:
    for name in NAMES:
        await stage.edit(name, state="shutoff")


async def _delete_both(stage: Stage) -> None:
    for name in NAMES:
        await stage.delete(name)


async def _send_away(stage: Stage) -> None:
    """Each to the host where it is not; once all is well they will be started there."""
    for name in NAMES:
        home = stage.home(name)
        await stage.edit(name, state="shutoff", placement={"node": "h1" if home == "h2" else "h2"})


USERS: Final[dict[str, Story]] = {
    "nobody": _nobody,
    "users stop": _stop_both,
    "users delete": _delete_both,
    "users send away": _send_away,
}


# --- one run


@dataclass
class Ending:
    """`wrong` is empty if all went well."""

    wrong: list[str] = field(default_factory=list)
    story: str = ""


def cases(mishap: str, *, everything: bool) -> Iterator[tuple[str, str, str, Story]]:
    """(fault point, mishap, what users do, what leads there), in all combinations; or at each point another
    way of users."""
    for point, users in _points_and_users(mishap, everything=everything):
        kind = ActionKind(point.partition(".")[0])
        yield point, mishap, users, STORIES[kind]
        if kind in OTHER_STORIES:
            yield point, mishap, users, OTHER_STORIES[kind]


def _points_and_users(mishap: str, *, everything: bool) -> Iterator[tuple[str, str]]:
    fault_points = points({kind.value: steps for kind, steps in STEPS.items()})
    if everything:
        yield from itertools.product(fault_points, USERS)
        return
    ways = tuple(USERS)
    turn = list(MISHAPS).index(mishap)
    others = [kind for number, kind in enumerate(ALIKE) if number % len(TURNS) != TURNS.get(mishap, 0)]
    fault_points = tuple(p for p in fault_points if p.partition(".")[0] not in others)
    for number, point in enumerate(fault_points, start=turn):
        yield point, ways[number % len(ways)]


def interrupt(point: str, mishap: str, users: str, story: Story) -> Ending:
    """What a replica logs as an error is a bug that it met, and outlived."""
    bugs = BufferingHandler(capacity=1_000_000)
    bugs.setLevel(logging.ERROR)
    controller = logging.getLogger("controller")
    logging.disable(logging.WARNING)
    controller.addHandler(bugs)
    try:
        with loop_of_processes() as (runner, loop):
            stage = Stage(loop, f"{point}/{mishap}/{users}")
            ending = runner.run(_interrupt(stage, point, mishap, users, story))
    finally:
        controller.removeHandler(bugs)
        logging.disable(logging.NOTSET)
    ending.wrong += dict.fromkeys(_met(record) for record in bugs.buffer)
    return ending


def _met(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return f"a bug: {record.getMessage()}: {error!r}"


async def _interrupt(stage: Stage, point: str, mishap: str, users: str, story: Story) -> Ending:
    struck, over = asyncio.Event(), asyncio.Event()
    following: list[asyncio.Task[None]] = []

    async def go_wrong(hit: Replica) -> None:
        await asyncio.gather(MISHAPS[mishap].then(stage, hit), meanwhile())
        stage.cluster.last_fault_at = stage.loop.time() + REST_S  # what it held up comes yet
        over.set()

    async def meanwhile() -> None:
        await asyncio.sleep(MEANWHILE_S)
        await USERS[users](stage)

    def strike(hit: Replica, reached: str) -> None:
        if not struck.is_set():
            stage.trace.say("FAULT", f"{mishap} at {reached}")
            stage.cluster.last_fault_at = float("inf")  # for as long as it lasts
            struck.set()
            following.append(asyncio.create_task(go_wrong(hit)))
            MISHAPS[mishap].at_once(stage, hit)

    for replica in (stage.one, stage.other):
        replica.tripwire.pattern, replica.tripwire.strike = point, partial(strike, replica)
    sampling = asyncio.create_task(_sample(stage))
    ending = Ending()
    stage.one.start()
    await stage.until(lambda: stage.cluster.leader is stage.one)
    stage.other.start()
    await story(stage)
    if await stage.until(struck.is_set):
        await over.wait()
        await _converge(stage, ending)
    else:
        ending.wrong.append(f"nothing ever came to {point}")
    ending.wrong += map(str, stage.checks.violations)
    ending.story = stage.trace.text()
    stage.trace.close()
    for task in (sampling, *following):
        task.cancel()
    await asyncio.gather(sampling, *following, return_exceptions=True)
    await stage.cluster.bury()
    return ending


async def _sample(stage: Stage) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        stage.checks.sample()


async def _settles(stage: Stage) -> bool:
    """Where saved memory is in the way, a user says that it may go, and stops what must stop to move; an
    operator looks at doubtful disks."""
    for _ in range(ANSWERS):
        if await stage.until(stage.settled, CONVERGE_S / ANSWERS):
            return True
        for name, body in stage.cluster.objects("domains").items():
            if (body.get("status") or {}).get("reason") in ("SaveInTheWay", "PinnedByStorage"):
                await stage.ask(name, "drop-saved")
            if (body.get("status") or {}).get("reason") == "NothingToSave":
                await stage.edit(name, state="running")
            if (body.get("status") or {}).get("reason") == "MustStopToMove":
                await stage.edit(name, state="shutoff")
            if (body.get("status") or {}).get("reason") == "MigrationDoubt":
                await _decide_doubt(stage, name)
            if (body.get("status") or {}).get("reason") == "RunsElsewhere":
                await _vouch(stage, name)
    return False


async def _decide_doubt(stage: Stage, name: str) -> None:
    """Whoever looks at the disks of what stands paused sees whether the other end wrote to them since."""
    home, uuid = stage.home(name), stage.uuid(name)
    domain = stage.cluster.hosts[home].domains.get(uuid)
    there = stage.elsewhere(name).domains.get(uuid)
    if domain is None and there is not None and there.came_from is not None and not there.is_old:
        await stage.until_done(lambda: stage.api.resolve(name, keep=stage.elsewhere(name).name))
    elif (domain is not None and domain.handed_over) or (there is not None and there.is_old):
        await stage.edit(name, migration={"onDoubt": "Reboot"})
    elif domain is not None and not stage.elsewhere(name).active(uuid):
        await stage.until_done(lambda: stage.api.resolve(name, keep=home))


async def _vouch(stage: Stage, name: str) -> None:
    """An event of its own migration came after that was closed, and it does not run: whoever looks at the
    other host sees that it is not there."""
    if not stage.elsewhere(name).active(stage.uuid(name)):
        await stage.until_done(lambda: stage.api.resolve(name, keep=stage.home(name)))


async def _converge(stage: Stage, ending: Ending) -> None:
    for host in stage.hosts:
        host.power_on()
        host.temper.deaf = 0.0
    for names in ((), NAMES):
        for name in names:
            await stage.edit(name, state="running")
        if not await _settles(stage):
            ending.wrong += [f"L1: {line}" for line in what_is_left(stage.cluster)]
            return
        await asyncio.sleep(REST_S)
    await asyncio.sleep(RESYNC_S)  # what a lost event hid is found by then
    before = stage.checks.mutations
    await asyncio.sleep(STILL_S)
    if stage.checks.mutations != before:
        ending.wrong.append(f"L2: {stage.checks.mutations - before} commands in a converged world")
    ending.wrong += [f"L1, later: {line}" for line in what_is_left(stage.cluster)]
