"""Processes in one loop: stopped, going on, killed, while the world around them goes on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from tests.sim.process import PROCESS, Process, ProcessLoop, loop_of_processes

Main = Callable[[ProcessLoop, Process], Coroutine[Any, Any, Any]]


def run(main: Main) -> Any:
    with loop_of_processes() as (runner, loop):
        return runner.run(main(loop, Process("c1")))


def spawn(loop: ProcessLoop, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    context = contextvars.copy_context()
    context.run(PROCESS.set, process)
    return loop.create_task(work, context=context)


async def tick(said: list[float]) -> None:
    while True:
        await asyncio.sleep(1.0)
        said.append(asyncio.get_running_loop().time())


def test_a_stopped_process_takes_no_step_and_goes_on_with_a_clock_that_has_moved() -> None:
    async def main(loop: ProcessLoop, process: Process) -> None:
        said: list[float] = []
        others: list[float] = []
        ticking = spawn(loop, process, tick(said))
        other = loop.create_task(tick(others))
        await asyncio.sleep(3.5)
        loop.stop_process(process)
        await asyncio.sleep(10.0)
        assert (len(said), len(others)) == (3, 13)
        loop.go_on(process)
        await asyncio.sleep(2.0)
        assert len(said) == 5, "the tick that was due, and one after it"
        assert said[3] - said[2] > 9.0
        for task in (ticking, other):
            task.cancel()

    run(main)


def test_what_a_stopped_process_is_told_reaches_it_when_it_goes_on() -> None:
    async def main(loop: ProcessLoop, process: Process) -> None:
        heard: list[str] = []
        loop.stop_process(process)
        process.hear(lambda: heard.append("late"))
        await asyncio.sleep(1.0)
        assert heard == []
        loop.go_on(process)
        await asyncio.sleep(0.0)
        process.hear(lambda: heard.append("at once"))
        assert heard == ["late", "at once"]

    run(main)


def test_a_task_that_stopped_its_own_process_waits_at_the_next_door() -> None:
    async def main(loop: ProcessLoop, process: Process) -> None:
        passed: list[float] = []

        async def step() -> None:
            loop.stop_process(process)
            await process.going_on()
            passed.append(loop.time())

        began = loop.time()
        task = spawn(loop, process, step())
        await asyncio.sleep(5.0)
        assert passed == []
        loop.go_on(process)
        await task
        assert passed[0] - began >= 5.0

    run(main)


def test_two_looks_at_the_clock_differ() -> None:
    async def main(loop: ProcessLoop, _process: Process) -> None:
        assert loop.time() < loop.time()

    run(main)
