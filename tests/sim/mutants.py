"""Planted bugs: what the simulator is worth is shown by the bugs that it catches.

Each `mutants/NAME.patch` breaks one rule of the protocol in production code, and says which, and what follows
from it. A mutant lives in a copy of this tree; seeds run there in a process of their own, one after the
other, until one finds a violation or does not converge. `mutants/caught.txt` keeps the seed that first caught
each, the drill that it was run with, and what it complained of; a mutant that survives says that the faults
which are drawn are too mild.

    python -m tests.sim.mutants [NAME ...] [--seeds N] [--from K] [--drill NAME]     try to catch them
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from tests.sim.main import MUTANTS, mutated, outcome_of
from tests.sim.process import loop_of_processes
from tests.sim.seed import ALL_DRILLS, Run
from tests.sim.trace import Trace

CAUGHT = MUTANTS / "caught.txt"
NO_DRILL = "-"
HUNT = "--hunt"  # says to this module that it runs in a mutant's own tree


class Catch(NamedTuple):
    """What caught a mutant: a seed with a drill ("": none), and what it complained of first (I1, L1, ...)."""

    mutant: str
    seed: int
    drill: str
    invariant: str
    text: str = ""


def names() -> list[str]:
    return sorted(path.stem for path in MUTANTS.glob("*.patch"))


def known() -> dict[str, Catch]:
    """What first caught each mutant."""
    lines = [line.split() for line in CAUGHT.read_text().splitlines() if line and not line.startswith("#")]
    return {
        name: Catch(name, int(seed), "" if drill == NO_DRILL else drill, invariant)
        for name, seed, drill, invariant in lines
    }


@contextmanager
def planted(name: str) -> Iterator[Path]:
    """A copy of this tree with the bug in it. Raises CalledProcessError when the patch no longer applies."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as there:
        yield mutated(name, Path(there))


def hunt(name: str, seeds: Sequence[int], drill: str = "") -> Catch | None:
    """Run these seeds with the bug planted, up to the first that fails."""
    with planted(name) as tree:
        command = [sys.executable, "-m", "tests.sim.mutants", HUNT, drill or NO_DRILL, *map(str, seeds)]
        told = subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE).stdout
    found = msgspec.json.decode(told, type=tuple[int, str] | None)
    if found is None:
        return None
    seed, text = found
    return Catch(name, seed, drill, text.partition(" ")[0].rstrip(":"), text)


def hunt_soundly(name: str, seeds: Sequence[int], drill: str = "") -> Catch | None:
    """As `hunt`, passing over seeds that fail without the bug as well."""
    left = list(seeds)
    while left and (catch := hunt(name, left, drill)) is not None:
        if outcome_of(catch.seed, drill).ok:
            return catch
        left = left[left.index(catch.seed) + 1 :]
    return None


def _hunted(arguments: list[str]) -> None:
    """In a mutant's own tree and process, which ends with the first violation, wherever the world is then:
    what a bug leads to may go on for long."""
    drill, *seeds = arguments
    logging.disable(logging.CRITICAL)
    for seed in map(int, seeds):
        try:
            with loop_of_processes() as (runner, loop):
                run = Run(seed, loop, "" if drill == NO_DRILL else drill)
                _end_at_violation(seed, run.trace)
                runner.run(run.all())
        except Exception as error:  # noqa: BLE001 - the shell, or the world, fell over the bug
            _tell((seed, f"crash: {type(error).__name__}: {error}"))
        if run.left:
            _tell((seed, f"L1: {run.left[0]}"))
    _tell(None)


def _end_at_violation(seed: int, trace: Trace) -> None:
    say = trace.say

    def told(who: str, what: str) -> None:
        say(who, what)
        if who == "VIOLATION" and not trace.closed:
            _tell((seed, what))

    trace.say = told  # type: ignore[method-assign]


def _tell(found: tuple[int, str] | None) -> NoReturn:
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.buffer.flush()
    os._exit(0)


def main() -> int:
    if sys.argv[1:2] == [HUNT]:
        _hunted(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="tests.sim.mutants", description="Catch planted bugs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of which (all)")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many, for each")
    parser.add_argument("--from", type=int, default=1, metavar="K", dest="first", help="the first one")
    parser.add_argument(
        "--drill", default="", metavar="NAME", choices=("", *ALL_DRILLS), help="with this drill"
    )
    asked = parser.parse_args()
    survivors = 0
    for name in asked.names or names():
        began = time.monotonic()
        catch = hunt_soundly(name, range(asked.first, asked.first + asked.seeds), asked.drill)
        took = f"{time.monotonic() - began:.0f} s"
        if catch is None:
            survivors += 1
            print(
                f"# {name} survived {asked.seeds} seeds, drill {asked.drill or 'none'} ({took})", flush=True
            )
        else:
            told = f"{catch.seed} {catch.drill or NO_DRILL} {catch.invariant}"
            print(f"{name} {told}  # {took}: {catch.text.splitlines()[0]}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
