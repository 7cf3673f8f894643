"""A host that is stuck, or slow, keeps only its own domains waiting; what waited is planned again (I16)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from controller.api.resources import NODES
from tests.sim import cluster
from tests.sim.process import loop_of_processes
from tests.sim.stage import HOSTS, Stage
from tests.sim.virsh import Virsh

PLACES, EACH = 12, 4
MANY = 16  # more than all places
QUIET_S = 60.0  # a new leader starts what stands there later than what is new


def _play(story: Callable[[Stage], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = replace(cluster.BOUNDS, workers=PLACES, workers_each=EACH)
    monkeypatch.setattr(cluster, "BOUNDS", bounds)
    logging.disable(logging.CRITICAL)

    async def main(stage: Stage) -> None:
        stage.one.start()
        roomy = {"insecure": True, "overcommit": {"vcpus": 64}}
        for name in HOSTS:
            await stage.api.create(NODES, name, {"uri": f"qemu+tcp://{name}/system", **roomy})
        await story(stage)
        assert not stage.checks.violations
        stage.trace.close()
        await stage.one.stop()

    try:
        with loop_of_processes() as (runner, loop):
            runner.run(main(Stage(loop, story.__name__)))
    finally:
        logging.disable(logging.NOTSET)


async def _other_takes_s(stage: Stage, name: str) -> float:
    """How long a domain of the second host waits for its start."""
    began = stage.loop.time()
    await stage.domain(name, placement={"node": HOSTS[1]})
    uuid = stage.uuid(name)
    host = stage.hosts[1]
    assert await stage.until(lambda: uuid in host.domains and host.active(uuid), 120)
    return stage.loop.time() - began


async def _many_are_off(stage: Stage) -> None:
    """On the first host, and it was read since: they can be started at once."""
    for number in range(MANY):
        await stage.domain(f"d{number}", state="shutoff", placement={"node": HOSTS[0]})
    assert await stage.until(stage.settled)
    await asyncio.sleep(QUIET_S)
    for host in stage.hosts:
        host.temper.launch_s = host.temper.start_s = (0.1, 0.1)


async def _start_many(stage: Stage) -> None:
    """They have taken what places they can get, when this is over."""
    await asyncio.gather(*(stage.edit(f"d{number}", state="running") for number in range(MANY)))
    await asyncio.sleep(0.2)


async def frozen(stage: Stage) -> None:
    await _many_are_off(stage)
    alone_s = await _other_takes_s(stage, "first")
    stage.hosts[0].freeze()
    await _start_many(stage)
    assert await _other_takes_s(stage, "second") < alone_s + 0.5
    stage.hosts[0].thaw()
    assert await stage.until(stage.settled, 600)


async def slow(stage: Stage) -> None:
    await _many_are_off(stage)
    alone_s = await _other_takes_s(stage, "first")
    stage.hosts[0].temper.launch_s = stage.hosts[0].temper.start_s = (3.0, 3.0)
    await _start_many(stage)
    assert await _other_takes_s(stage, "second") < alone_s + 0.5
    assert await stage.until(stage.settled, 600)


async def paused_while_it_waits(stage: Stage) -> None:
    """What is sent first is slow, and the guest is paused by hand before its reset has its turn: that was
    decided on when it ran."""
    await _many_are_off(stage)
    await stage.edit("d0", state="running")
    host, uuid = stage.hosts[0], stage.uuid("d0")
    assert await stage.until(stage.settled)
    host.temper.launch_s = host.temper.start_s = (3.0, 3.0)
    await asyncio.gather(*(stage.edit(f"d{number}", state="running") for number in range(1, MANY)))
    await asyncio.sleep(0.5)
    await stage.ask("d0", "reset")
    await asyncio.sleep(0.5)
    await Virsh(host, stage.cluster.random("virsh")).suspend(uuid)
    assert await stage.until(lambda: _answer(stage, uuid, "reset") not in ("", "begun"), 600)
    assert _answer(stage, uuid, "reset").startswith("not done, it is paused")


def _answer(stage: Stage, uuid: str, request: str) -> str:
    held = stage.cluster.assignment(uuid)
    answered = held.requests.get(request) if held is not None else None
    return answered.outcome if answered is not None else ""


@pytest.mark.parametrize("story", [frozen, slow], ids=lambda story: story.__name__)
def test_a_host_that_does_not_come_on_holds_no_other_host_up(
    story: Callable[[Stage], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _play(story, monkeypatch)


def test_what_waited_long_for_its_turn_is_planned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _play(paused_while_it_waits, monkeypatch)
