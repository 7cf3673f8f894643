"""The house's own checks, as tests: so that one run and one closing line tell about everything."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


PYTHON, SHELL = r"^#!.*python", r"^#!.*[/ ](ba)?sh$"


def programs(first_line: str) -> list[str]:
    """Files without a suffix that begin with such a line; the tools do not find these by themselves."""
    found = []
    for folder in (
        ".ci",
        "deploy",
        "deploy/gitops",
        "deploy/gitops/hooks",
        "tests",
        "tests/bench",
        "tests/chaos",
    ):
        for path in sorted((CHECKOUT / folder).iterdir()):
            if path.is_file() and not path.suffix:
                line = path.read_bytes().partition(b"\n")[0].decode(errors="replace")
                if re.search(first_line, line):
                    found.append(str(path.relative_to(CHECKOUT)))
    return found


CHECKS: dict[str, list[str | Path]] = {
    "ruff finds nothing": [BIN / "ruff", "check", ".", *programs(PYTHON)],
    "the code is formatted": [BIN / "ruff", "format", "--check", ".", *programs(PYTHON)],
    "types hold strictly": [BIN / "mypy"],
    "imports go down only": [BIN / "lint-imports"],
    "shell scripts parse": ["bash", "-c", 'for f; do bash -n "$f" || exit 1; done', "-", *programs(SHELL)],
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", CHECKS)
def test_house(check: str) -> None:
    done = subprocess.run(
        CHECKS[check], cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!~ \[;]", line)[0].lower().replace("_", "-") for line in wanted}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE))
    assert not names - locked, "run pip-compile as the lock's first lines say"
