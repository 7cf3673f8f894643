"""Planted bugs must be caught: each patch applies, and a seed that is known finds what it breaks.

The usual run applies every patch, compiles what it changes, and hunts a few mutants by the seeds that caught
them; `--long` hunts them all, by the known seed first and by as many others as `BOUND`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.main import MUTANTS, ROOT, outcome_of, planted_in, tell
from tests.sim.mutants import hunt, hunt_soundly, known, names
from tests.sim.seed import ALL_DRILLS

BOUND = 150
ALWAYS = 3
RULE = re.compile(r"^(I\d+\w?|L\d|R\d|[A-Z][^:]+)[^:]*: .+\.$")


def hunted() -> list[str]:
    """A few in every run, those that are caught first."""
    return [catch.mutant for catch in sorted(known().values(), key=lambda catch: catch.seed)[:ALWAYS]]


def test_there_is_a_catch_for_each_mutant_and_a_mutant_for_each_catch() -> None:
    assert sorted(known()) == names()
    assert len(names()) >= 15
    assert {catch.drill for catch in known().values()} <= {"", *ALL_DRILLS}


@pytest.mark.parametrize("name", names())
def test_a_mutant_applies_says_what_it_breaks_and_is_sound_python(name: str, tmp_path: Path) -> None:
    """One that cannot be imported would be taken for one that is caught."""
    patch = (MUTANTS / f"{name}.patch").read_text()
    rule, *follows = patch.partition("\n\n")[0].splitlines()
    assert RULE.match(rule), f"which rule does it break? {rule}"
    assert follows, "and what follows from it?"
    changed = re.findall(r"^\+\+\+ b/(\S+\.py)", patch, re.MULTILINE)
    assert changed
    assert all(Path(path).parts[0] in ("controller", "drivers") for path in changed)
    for path in changed:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    planted_in(tmp_path, name)
    for path in changed:
        compile((tmp_path / path).read_text(), path, "exec")
    undefined = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F82", *changed]
    subprocess.run(undefined, cwd=tmp_path, check=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", hunted())
def test_a_mutant_is_caught_by_the_seed_that_caught_it_first(name: str) -> None:
    catch = known()[name]
    assert hunt(name, [catch.seed], catch.drill) is not None, f"{name} survives {catch}"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", names())
def test_every_mutant_is_caught(name: str) -> None:
    catch = known()[name]
    seeds = [catch.seed, *(seed for seed in range(1, BOUND + 1) if seed != catch.seed)]
    found = hunt_soundly(name, seeds, catch.drill)
    assert found is not None, f"{name} survived {len(seeds)} seeds: the faults that are drawn are too mild"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("drill", [name for name in ALL_DRILLS if "set_back" not in name])
def test_drills_are_stood(drill: str) -> None:
    """But for `set_back` where etcd loses everything, too: marks of the cluster of before stay (seed 3)."""
    failed = [outcome for seed in range(1, 26) if not (outcome := outcome_of(seed, drill)).ok]
    assert not failed, tell(failed[0], drill=drill)
