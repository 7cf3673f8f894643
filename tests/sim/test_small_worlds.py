"""Small worlds, whole: nothing that two hosts and two domains can look like leads to a wrong action, and no
action that is interrupted, wherever and however, leads to a wrong world. The actions of migrations, which
come of table M, are met in all their phases by drills instead."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from controller.plan import plan
from tests.sim.interrupted import MISHAPS, WORST, cases, interrupt
from tests.sim.small import SECOND, snapshot, worlds
from tests.sim.smalloracle import wrong
from tests.sim.stage import STORIES
from tests.unit.plancase import UUID

SHOWN = 12
PARTS = 8

pytestmark = pytest.mark.timeout(900)


def examine(*, everything: bool, part: int = 0, parts: int = 1) -> Counter[str]:
    """Plan for every world; returns how often each kind of action came out."""
    kinds: Counter[str] = Counter()
    broken: dict[str, str] = {}
    for world in itertools.islice(worlds(everything=everything), part, None, parts):
        dirty = [UUID, SECOND] if world.second else [UUID]
        verdict = plan(snapshot(world), dirty)[UUID]
        kind = verdict.action.kind if verdict.action is not None else "none"
        complaint = wrong(world, verdict)
        if complaint:
            broken.setdefault(f"{kind}: {complaint}", f"{complaint}\n  {world}\n  {verdict}")
        kinds[kind] += 1
    assert not broken, f"{len(broken)} kinds of wrong plans\n" + "\n".join(list(broken.values())[:SHOWN])
    return kinds


def test_no_small_world_leads_to_a_wrong_action_or_to_silence() -> None:
    kinds = examine(everything=False)
    assert not {*STORIES} - {*kinds}, "an action that never came out was never examined"


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
        assert not ending.wrong, f"{case}\n" + "\n".join(ending.wrong) + f"\n\n{ending.story}"
