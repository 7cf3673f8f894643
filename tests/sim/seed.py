"""One seed is one run: a world is made, lives ten minutes of work and misfortune, heals, and must converge.

`run_seed` draws all that will happen from the seed alone and returns what the checks found, whether the world
converged within its bound (L1), and the trace. Then it watches the converged world for a while, in which
nothing may be sent (L2).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from controller.plan.snapshot import Policy
from tests.sim.checks import Checks, Violation
from tests.sim.cluster import Cluster
from tests.sim.coincidences import COINCIDENCES
from tests.sim.converged import moves_wait, what_is_left
from tests.sim.diskdrills import DISK_DRILLS
from tests.sim.doors import Notes
from tests.sim.drills import DRILLS, Drills
from tests.sim.duties import Duties
from tests.sim.faults import FIRST_S, LAST_S, Faults
from tests.sim.hands import MEDDLING, Guard, Hands
from tests.sim.leaving import Leaving
from tests.sim.moving import DRILLS as MOVING_DRILLS
from tests.sim.moving import Moving
from tests.sim.operator import Operator
from tests.sim.people import Api
from tests.sim.process import ProcessLoop, loop_of_processes
from tests.sim.resting import RESTING
from tests.sim.trace import Trace
from tests.sim.workload import FIRST_HOSTS, LENGTH_S, SPARE_HOST, Workload

REPLICAS = ("c1", "c2")
MOMENTS = {**DRILLS, **COINCIDENCES, **DISK_DRILLS, **RESTING}
ALL_DRILLS = (*MOMENTS, *MOVING_DRILLS)
SAMPLE_S = 10.0
CONVERGE_S = 900.0
LOOK_S = 5.0
STILL_S = 70.0  # a resync, and more, in which nothing may be sent
SETTLED_LOOKS = 3
RELAYED_RUNS = 0.3  # how many have a host that is reached through ssh
WAITING_LOOKS = 15  # more than a resync


@dataclass(frozen=True)
class Result:
    seed: int
    violations: tuple[Violation, ...]
    unconverged: tuple[str, ...]
    trace: Trace
    virtual_s: float
    cpu_s: float
    converged_after_s: float

    @property
    def ok(self) -> bool:
        return not self.violations and not self.unconverged


def run_seed(seed: int, drill: str = "") -> Result:
    """With a drill (see `drills`), if one is named. Raises what the simulated world or the shell raised
    where nobody caught it."""
    logging.disable(logging.CRITICAL)
    began = time.process_time()
    try:
        with loop_of_processes() as (runner, loop):
            run = Run(seed, loop, drill)
            runner.run(run.all())
    finally:
        logging.disable(logging.NOTSET)
    return Result(
        seed,
        tuple(run.checks.violations),
        tuple(run.left),
        run.trace,
        run.ended_s,
        time.process_time() - began,
        run.converged_after_s,
    )


class Run:
    def __init__(self, seed: int, loop: ProcessLoop, drill: str = "") -> None:
        self.seed = seed
        self.drill = drill
        self.loop = loop
        self.left: list[str] = []
        self.ended_s = self.converged_after_s = 0.0
        self.trace = Trace(loop.time, loop.time())
        self._tasks: list[asyncio.Task[object]] = []
        self._crashed: list[BaseException] = []

    def _build(self) -> None:
        rng = Random(f"{self.seed}/run")
        policy = Policy(hand_migrations=rng.random() < 0.5)
        checks = self.checks = Checks()
        notes = Notes(
            called=checks.called,
            renewed=checks.renewed,
            answered=checks.answered,
            died=checks.died,
            restored=checks.restored,
            sent=checks.sent,
        )
        self.cluster = checks.cluster = Cluster(str(self.seed), self.loop, policy, self.trace, notes)
        for name in (*FIRST_HOSTS, SPARE_HOST):
            self.cluster.add_host(name).listeners.append(self.checks.changed)
        self.cluster.etcd.listeners.append(self.checks.transacted)
        if Random(f"{self.seed}/ways").random() < RELAYED_RUNS:
            self.cluster.hosts[FIRST_HOSTS[self.seed % len(FIRST_HOSTS)]].relayed = True
        for name in REPLICAS if rng.random() < 0.9 else (*REPLICAS, "c3"):
            self.cluster.add_replica(name)
        self.guard = Guard()
        self.hands = Hands(self.cluster, self.guard, checks.read_at)
        self.api = Api(self.cluster, self.cluster.etcd.client("user"))
        self.workload = Workload(self.cluster, self.api)
        self.faults = Faults(self.cluster, self.hands, self.guard, self.workload.something)
        self.moving = Moving(self.faults, self.workload)
        Duties(self.cluster, checks).listen()
        Leaving(self.cluster, checks).listen()
        moment = MOMENTS.get(self.drill)
        self.drills = [] if moment is None else Drills(self.cluster, self.hands).draw(self.drill, moment)
        self.operator = Operator(self.cluster, self.api, self.hands, self.hands.busy)
        self.trace.say("run", f"seed {self.seed}, handMigrations {policy.hand_migrations}")

    async def all(self) -> None:
        self._build()
        self._draw()
        try:
            await self._begin()
            await self._live()
            await self._heal()
            await self._converge()
        finally:
            await self._end()

    def _draw(self) -> None:
        self.workload.draw()
        self.faults.draw()
        if self.drill in MOVING_DRILLS:
            self.moving.drill(self.drill)
        else:
            self.moving.draw()
        rng = Random(f"{self.seed}/meddling")
        self.meddling: list[tuple[float, Callable[[], Awaitable[object]]]] = []
        names = list(MEDDLING)
        for name in rng.choices(names, [MEDDLING[n][0] for n in names], k=rng.randint(1, 6)):
            own = Random(rng.getrandbits(64))
            self.meddling.append((rng.uniform(FIRST_S, LAST_S), partial(MEDDLING[name][1], self.hands, own)))

    async def _begin(self) -> None:
        for replica in self.cluster.replicas.values():
            replica.start()
            await asyncio.sleep(0.3)
        await self.workload.populate()
        self._set_going(self.operator.run())
        self._set_going(self._sample())

    async def _live(self) -> None:
        steps = [(at, 0, n, do) for n, (at, do) in enumerate(self.workload.steps)]
        steps += [(at, 1, n, do) for n, (at, _, do) in enumerate(self.faults.drawn)]
        steps += [(at, 2, n, do) for n, (at, do) in enumerate(self.meddling)]
        steps += [(at, 3, n, do) for n, (at, do) in enumerate(self.drills)]
        steps += [(at, 4, n, do) for n, (at, do) in enumerate(self.moving.drawn)]
        began = self.loop.time()
        for at, _, _, do in sorted(steps, key=lambda step: step[:3]):
            await asyncio.sleep(max(0.0, began + at - self.loop.time()))
            self._set_going(do())
        await asyncio.sleep(max(0.0, began + LENGTH_S - self.loop.time()))

    def _set_going(self, work: Awaitable[object]) -> None:
        async def carefully() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - the run ends with it
                self._crashed.append(error)

        self._tasks.append(asyncio.create_task(carefully()))

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self._look_for_bugs()
            self.checks.sample()

    def _look_for_bugs(self) -> None:
        for error in self._crashed:
            raise error

    async def _heal(self) -> None:
        await self.faults.heal()
        for _ in range(60):
            await asyncio.sleep(5.0)
            await self.faults.heal_again()
            if await self.workload.settle():
                break

    async def _converge(self) -> None:
        began = self.loop.time()
        good = 0
        while good < (WAITING_LOOKS if moves_wait(self.cluster) else SETTLED_LOOKS):
            await asyncio.sleep(LOOK_S)
            if self._crashed:
                raise self._crashed[0]
            self.left = what_is_left(self.cluster)
            good = 0 if self.left else good + 1
            if self.left and self.loop.time() - began > CONVERGE_S:
                for line in self.left:
                    self.trace.say("run", f"not converged: {line}")
                for text in self.operator.not_understood:
                    self.trace.say("run", f"the operator could not follow: {text}")
                return
        self.converged_after_s = self.loop.time() - began
        await self._stay_still()

    async def _stay_still(self) -> None:
        """L2, I17."""
        self.trace.say("run", "converged")
        await asyncio.sleep(LOOK_S)
        before = self.checks.mutations
        await asyncio.sleep(STILL_S)
        if self.checks.mutations != before:
            self.checks.complain("L2", f"{self.checks.mutations - before} commands in a converged world")
        self.left = what_is_left(self.cluster)

    async def _end(self) -> None:
        self.ended_s = self.loop.time() - self.trace.began_at
        self.trace.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cluster.bury()
