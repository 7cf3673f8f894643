"""Small worlds, whole: nothing that two hosts and two domains can look like leads to a wrong action, and no
action that is interrupted, wherever and however, leads to a wrong world."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from controller.plan import plan
from controller.plan.types import ActionKind, Verdict
from tests.sim import small, smallmoveoracle, smallmoves, smalloracle
from tests.sim.interrupted import MISHAPS, WORST, cases, interrupt
from tests.sim.small import SECOND
from tests.sim.stage import STORIES
from tests.unit.plancase import UUID

SHOWN = 12
PARTS = 8

pytestmark = pytest.mark.timeout(900)


def judged(*, everything: bool) -> Iterator[tuple[object, Callable[[], tuple[Verdict, str]]]]:
    """Every small world, with what it leads to and what is wrong with that."""
    for world in small.worlds(everything=everything):
        yield world, partial(_of_a_domain, world)
    for case in smallmoves.worlds(everything=everything):
        yield case, partial(_of_a_migration, case)


def _of_a_domain(world: small.World) -> tuple[Verdict, str]:
    dirty = [UUID, SECOND] if world.second else [UUID]
    verdict = plan(small.snapshot(world), dirty)[UUID]
    return verdict, smalloracle.wrong(world, verdict)


def _of_a_migration(case: smallmoves.MoveWorld) -> tuple[Verdict, str]:
    verdict = plan(smallmoves.snapshot(case), [UUID])[UUID]
    return verdict, smallmoveoracle.wrong(case, verdict)


def examine(*, everything: bool, part: int = 0, parts: int = 1) -> Counter[str]:
    """Plan for every world; returns how often each kind of action came out."""
    kinds: Counter[str] = Counter()
    broken: dict[str, str] = {}
    for world, judge in itertools.islice(judged(everything=everything), part, None, parts):
        verdict, complaint = judge()
        kind = verdict.action.kind if verdict.action is not None else "none"
        if complaint:
            broken.setdefault(f"{kind}: {complaint}", f"{complaint}\n  {world}\n  {verdict}")
        kinds[kind] += 1
    assert not broken, f"{len(broken)} kinds of wrong plans\n" + "\n".join(list(broken.values())[:SHOWN])
    return kinds


def test_no_small_world_leads_to_a_wrong_action_or_to_silence() -> None:
    kinds = examine(everything=False)
    assert not {*ActionKind} - {*kinds}, "an action that never came out was never examined"


def test_every_kind_of_action_has_a_story_in_which_it_is_interrupted() -> None:
    assert {*STORIES} == {*ActionKind}


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_no_small_world_at_all_leads_to_a_wrong_action_or_to_silence(part: int) -> None:
    examine(everything=True, part=part, parts=PARTS)


@pytest.mark.parametrize("mishap", WORST)
def test_no_interrupted_action_leads_to_a_wrong_world(mishap: str) -> None:
    interrupt_each(mishap, everything=False)


@pytest.mark.long
@pytest.mark.parametrize("mishap", MISHAPS)
def test_no_interruption_at_all_leads_to_a_wrong_world(mishap: str) -> None:
    interrupt_each(mishap, everything=True)


def interrupt_each(mishap: str, *, everything: bool) -> None:
    for case in cases(mishap, everything=everything):
        ending = interrupt(*case)
        assert not ending.wrong, (
            f"{case[:3]} {case[3].__name__}\n" + "\n".join(ending.wrong) + f"\n\n{ending.story}"
        )
