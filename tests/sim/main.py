"""`tests/sim/run`: seeds by number, in parallel, with the story of each that fails.

    ./tests/sim/run --seeds N [--from K] [--mutant NAME] [--drill NAME] [--jobs J]

A drill adds faults that meet something in its course (see `drills`). A mutant is a patch of
`tests/sim/mutants`: it is applied to a copy of this tree, and the seeds run there.
The exit status is 0 when no seed failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.sim.seed import ALL_DRILLS, run_seed

ROOT = Path(__file__).parents[2]
MUTANTS = Path(__file__).parent / "mutants"
STORIES_TOLD = 3
PROGRESS_S = 60.0


class Outcome(NamedTuple):
    """What is left of a run: small enough to be sent between processes."""

    seed: int
    violations: tuple[str, ...]
    unconverged: tuple[str, ...]
    cpu_s: float
    story: str
    digest: str

    @property
    def ok(self) -> bool:
        return not self.violations and not self.unconverged


def outcome_of(seed: int, drill: str = "", *, always: bool = False) -> Outcome:
    """One seed, whatever happens to it; the story is told when it failed, or `always`."""
    try:
        result = run_seed(seed, drill)
    except Exception as error:  # noqa: BLE001 - a crash of the world or the shell is what is looked for
        import traceback

        where = "".join(traceback.format_exception(error)[-12:])
        return Outcome(seed, (f"crash: {type(error).__name__}: {error}\n{where}",), (), 0.0, "", "")
    violations = tuple(str(v) for v in result.violations)
    story = result.trace.text() if always or not result.ok else ""
    return Outcome(seed, violations, result.unconverged, result.cpu_s, story, result.trace.digest())


def outcomes(seeds: Iterable[int], jobs: int, drill: str = "") -> Iterator[Outcome]:
    work = partial(outcome_of, drill=drill)
    if jobs <= 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, seeds, chunksize=1)


def replay(seed: int, mutant: str = "", drill: str = "") -> str:
    more = (f" --mutant {mutant}" if mutant else "") + (f" --drill {drill}" if drill else "")
    return f"./tests/sim/run --seeds 1 --from {seed}{more}"


def tell(outcome: Outcome, mutant: str = "", drill: str = "", *, story: bool = True) -> str:
    """What a failed seed prints."""
    lines = [f"seed {outcome.seed} failed; replay it by: {replay(outcome.seed, mutant, drill)}"]
    lines += [f"  violation: {text}" for text in outcome.violations]
    lines += [f"  unconverged: {text}" for text in outcome.unconverged]
    return "\n".join([*lines, outcome.story] if story else lines)


def summary(found: list[Outcome], took_s: float) -> str:
    violations = sum(bool(o.violations) for o in found)
    unconverged = sum(bool(o.unconverged) for o in found)
    return f"sim: {len(found)} seeds, {violations} violations, {unconverged} unconverged, {took_s:.0f} s"


def mutated(name: str, target: Path) -> Path:
    """A copy of this tree with the mutant in it. Raises as `planted_in` does."""
    tree = target / "tree"
    for part in ("controller", "drivers", "specs", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    planted_in(tree, name)
    return tree


def planted_in(tree: Path, name: str) -> None:
    """Raises CalledProcessError when the mutant no longer applies to what is there."""
    patch = (MUTANTS / f"{name}.patch").read_bytes()
    subprocess.run(["patch", "-p1", "--fuzz=0", "-s"], input=patch, cwd=tree, check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/sim/run", description="Run seeds of the simulator.")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many")
    parser.add_argument("--from", type=int, default=1, metavar="K", dest="first", help="the first one")
    parser.add_argument("--mutant", default="", metavar="NAME", help="run with this planted bug")
    parser.add_argument(
        "--drill", default="", metavar="NAME", choices=("", *ALL_DRILLS), help="add this drill"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes")
    parser.add_argument("--story", action="store_true", help="tell the story of every seed")
    return parser.parse_args()


def main() -> int:
    asked = _arguments()
    if asked.mutant:
        with tempfile.TemporaryDirectory(prefix="mutant-") as there:
            tree = mutated(asked.mutant, Path(there))
            command = [sys.executable, "-m", "tests.sim.main", "--seeds", str(asked.seeds)]
            command += ["--from", str(asked.first), "--jobs", str(asked.jobs), "--drill", asked.drill]
            return subprocess.run(command, cwd=tree, check=False).returncode
    began = time.monotonic()
    found: list[Outcome] = []
    seeds = range(asked.first, asked.first + asked.seeds)
    told = 0
    next_word = began + PROGRESS_S
    all_of_them = (
        (outcome_of(s, asked.drill, always=True) for s in seeds)
        if asked.story
        else outcomes(seeds, asked.jobs, asked.drill)
    )
    for outcome in all_of_them:
        found.append(outcome)
        if not outcome.ok:
            print(tell(outcome, asked.mutant, asked.drill, story=told < STORIES_TOLD), flush=True)
            told += 1
        elif asked.story:
            print(outcome.story)
        if time.monotonic() > next_word:
            far = summary(found, time.monotonic() - began)
            print(f"{far}, of {asked.seeds} seeds", file=sys.stderr)
            next_word += PROGRESS_S
    print(summary(found, time.monotonic() - began))
    return 0 if all(outcome.ok for outcome in found) else 1


if __name__ == "__main__":
    sys.exit(main())
