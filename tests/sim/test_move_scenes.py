"""Migrations in scenes of their own: what a leader finds that did not send it, and one that never ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from controller.api.resources import DOMAINS
from tests.sim.process import loop_of_processes
from tests.sim.stage import Stage, both

Scene = Callable[[Stage], Awaitable[None]]


def play(seed: str, scene: Scene) -> None:
    async def whole(stage: Stage) -> None:
        for replica in (stage.one, stage.other):
            replica.start()
            await asyncio.sleep(0.5)
        await both(stage)
        await stage.api.edit(DOMAINS, "one", lambda body: body["spec"].pop("placement"), "let it go anywhere")
        await stage.until(stage.settled)
        await scene(stage)
        assert stage.checks.violations == []
        stage.trace.close()
        for replica in (stage.one, stage.other):
            replica.kill()
        await stage.cluster.bury()

    with loop_of_processes() as (runner, loop):
        runner.run(whole(Stage(loop, seed)))


async def under_way(stage: Stage) -> None:
    await stage.move("one")
    assert await stage.until(lambda: stage.copying("one")), stage.trace.text()


def move_of(stage: Stage) -> Any:
    return stage.cluster.objects("migrations")["move-one"].get("status", {})


def boots(stage: Stage) -> int:
    uuid = stage.uuid("one")
    return max(host.domains[uuid].boots for host in stage.hosts if uuid in host.domains)


@pytest.mark.parametrize("seed", range(6))
def test_a_migration_whose_end_nobody_heard_is_not_taken_for_one_that_failed(seed: int) -> None:
    """Its source vanishes between two readings, and answers late what it is at: the copy at the target is the
    guest, and is not cleared away for having stood there long."""

    async def scene(stage: Stage) -> None:
        for host in stage.hosts:
            host.temper.event_loss = 1.0
            host.temper.copy_s = (90.0, 100.0)
            host.temper.job_s = (4.0, 4.0)
        booted = boots(stage)
        await under_way(stage)
        await asyncio.sleep(5)
        for replica in (stage.one, stage.other):
            replica.kill()
        stage.one.start()
        assert await stage.until(lambda: move_of(stage).get("phase") in ("Succeeded", "Failed"))
        assert move_of(stage)["phase"] == "Succeeded", stage.trace.text()
        await stage.until(stage.settled)
        assert boots(stage) == booted, "its memory is lost"

    play(f"unheard/{seed}", scene)


def test_a_migration_that_never_converges_is_ended_by_the_leader_that_began_it() -> None:
    async def scene(stage: Stage) -> None:
        for host in stage.hosts:
            host.temper.stalls, host.temper.grows = 1.0, True
        booted, began = boots(stage), stage.loop.time()
        await under_way(stage)
        assert await stage.until(lambda: not stage.copying("one"), 400.0), "it goes on and on"
        assert stage.loop.time() - began > 290, "libvirt was not given its time"
        for host in stage.hosts:
            host.temper.stalls = 0.0
        assert await stage.until(lambda: move_of(stage).get("phase") == "Succeeded"), stage.trace.text()
        assert boots(stage) == booted

    play("growing", scene)
