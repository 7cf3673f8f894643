"""Seeds of the simulator: those that ever failed, and a few hundred more, in every run of the tests.

`--long` runs ten thousand in shards. A shard that is done is noted under the digest of this tree, so a run
that was broken off goes on where it stopped, and one after any change begins again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sim.main import Outcome, outcome_of, tell

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "seeds.txt"
FIRST, CHUNKS, CHUNK = 1000, 20, 25
LONG_FIRST, SHARDS, SHARD = 100_000, 40, 250


def kept() -> list[int]:
    """Every line of `seeds.txt` that is no comment begins with a seed, and tells its story."""
    lines = [line for line in KEPT.read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert len(line.split()) > 3, f"a seed without a story: {line}"
    return [int(line.split()[0]) for line in lines]


def expect_good(seeds: list[int]) -> None:
    failed = [outcome for seed in seeds if not (outcome := outcome_of(seed)).ok]
    assert not failed, _told(failed, len(seeds))


def _told(failed: list[Outcome], of: int) -> str:
    first, *others = failed
    return "\n".join(
        [f"{len(failed)} of {of} seeds failed", *(tell(o, story=False) for o in others), tell(first)]
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", kept())
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    expect_good([seed])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds_and_the_world_converges(chunk: int) -> None:
    first = FIRST + chunk * CHUNK
    expect_good(list(range(first, first + CHUNK)))


@pytest.mark.timeout(120)
def test_the_same_seed_tells_the_same_story_whatever_the_hashes_are() -> None:
    program = "import sys; from tests.sim.main import outcome_of as o; print([o(s).digest for s in (7, 13)])"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(told) == 1
    assert "''" not in told.pop(), "a seed ended without a story"


def test_different_seeds_live_through_different_things() -> None:
    assert outcome_of(7).digest != outcome_of(8).digest


# --- ten thousand


def _tree_digest() -> str:
    """Of everything that a run depends on."""
    total = hashlib.sha256()
    for part in ("controller", "drivers", "specs", "tests/sim", "tests/virtualtime.py"):
        where = ROOT / part
        for path in sorted(where.rglob("*.py")) if where.is_dir() else [where]:
            total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:24]


def _done_before(shard: int) -> Path:
    there = Path(tempfile.gettempdir()) / f"domctl-sim-{os.getuid()}" / _tree_digest()
    there.mkdir(parents=True, exist_ok=True)
    return there / f"shard-{shard}"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_ten_thousand_seeds_hold(shard: int) -> None:
    note = _done_before(shard)
    if note.exists():
        return
    first = LONG_FIRST + shard * SHARD
    expect_good(list(range(first, first + SHARD)))
    note.write_text("good\n")
