"""Sixty live migrations under fire, as `tests/chaos/migrate` makes them; and what it draws and tells."""

from __future__ import annotations

import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.chaos.ledger import Ledger, Run, table
from tests.chaos.misfortunes import MISFORTUNES

PROGRAM = Path(__file__).parent / "migrate"
RUNS = 60


def made(number: int, what: str, wrong: str = "") -> Run:
    return Run(number, "1", what, "asked + 0.10 s", 1.0, "Succeeded", "target", "kept", 2.0, wrong)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    loader = SourceFileLoader("chaos_migrate", str(PROGRAM))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.lab
@pytest.mark.etcd
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_sixty_migrations_under_fire_end_where_they_should_and_never_run_twice(tmp_path: Path) -> None:
    command = [str(PROGRAM), "--runs", str(RUNS), "--state", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"chaos migrate: {RUNS} runs, 0 wrong"


def test_sixty_runs_meet_every_misfortune_at_least_twice(program: ModuleType) -> None:
    drawn = [program.drawn("1", number, "")[0] for number in range(RUNS)]
    assert {what: drawn.count(what) >= 2 for what in MISFORTUNES} == dict.fromkeys(MISFORTUNES, True)


def test_a_run_is_drawn_again_as_it_was(program: ModuleType) -> None:
    first, again = program.drawn("1", 7, ""), program.drawn("1", 7, "")
    assert first[:2] == again[:2]
    assert first[2].random() == again[2].random()
    assert program.drawn("1", 7, "nothing")[0] == "nothing"


def test_runs_of_several_invocations_add_up_in_one_table(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    Ledger(path).add(made(0, "leader killed"))
    Ledger(path).add(made(1, "leader killed", "it ran twice"))
    assert Ledger(path).runs() == [made(0, "leader killed"), made(1, "leader killed", "it ran twice")]
    row = table(Ledger(path).runs()).splitlines()[1]
    assert "1x Succeeded, target, kept" in row
    assert "1x WRONG (it ran twice)" in row
