"""An abort that asks two nodes: what is asked first, what it waits for, and what ends it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.calls import Calls
from controller.hands import Ending, Halt, Hands, Progress
from controller.plan.types import Action, ActionKind
from drivers.errors import DomainBusy, NoDomain
from drivers.hypervisor import Outcome, Permit, Result
from tests import virtualtime
from tests.unit.plancase import UUID

DONE = Result(Outcome.DONE)


@dataclass
class Hosts:
    """Two hosts between which the domain moves: at the target an undefine waits until that is over."""

    asked: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    undefined: Result = DONE
    waits: bool = True
    aborted: Result = DONE

    def session(self, node: str) -> Any:
        return SimpleNamespace(undefine=self._undefine, abort_job=self._abort) if node in "ab" else None

    async def _undefine(self, uuid: str, permit: Permit) -> Result:
        self.asked.append("undefine")
        if self.waits:
            await self.over.wait()
            self.asked.append("undefined")
        return self.undefined

    async def _abort(self, uuid: str, permit: Permit) -> Result:
        self.asked.append("abort")
        self.over.set()
        return self.aborted


def _abort(hosts: Hosts, target: str) -> Progress:
    seen: list[tuple[str, str]] = []
    hands = SimpleNamespace(
        observer=hosts,
        permit=lambda: Permit(1e9),
        begin=lambda: None,
        end=lambda known, node: None,
        world=SimpleNamespace(now=lambda: 0.0),
        cache=SimpleNamespace(
            await_observation=lambda uuid, node: seen.append((uuid, node)), attempts=SimpleNamespace()
        ),
    )
    action = Action(ActionKind.ABORT, UUID, "default/web", "a", "to be ended", 1, 1, 1, None, target=target)
    progress = Progress(action, 1)
    virtualtime.run(Calls(cast(Hands, hands)).abort(progress))
    assert {node for _, node in seen} == set(progress.touched)
    return progress


def test_a_definition_at_the_target_is_asked_to_go_before_the_job_is_ended() -> None:
    hosts = Hosts()
    assert _abort(hosts, "b").touched == ["b", "a"]
    assert hosts.asked == ["undefine", "abort", "undefined"]


def test_without_one_nothing_is_asked_of_the_target() -> None:
    hosts = Hosts()
    assert _abort(hosts, "").touched == ["a"]
    assert hosts.asked == ["abort"]


@pytest.mark.parametrize(
    ("error", "ending"), [(NoDomain("gone"), Ending.STALE), (DomainBusy("job"), Ending.FAILED)]
)
def test_a_target_that_refuses_at_once_leaves_the_job_alone(error: Any, ending: Ending) -> None:
    hosts = Hosts(undefined=Result(Outcome.FAILED, error), waits=False)
    with pytest.raises(Halt) as halt:
        _abort(hosts, "b")
    assert halt.value.report.ending is ending
    assert hosts.asked == ["undefine"]


def test_an_abort_that_is_refused_is_told_when_the_target_has_answered() -> None:
    hosts = Hosts(aborted=Result(Outcome.FAILED, DomainBusy("job")))
    with pytest.raises(Halt):
        _abort(hosts, "b")
    assert hosts.asked == ["undefine", "abort", "undefined"]
