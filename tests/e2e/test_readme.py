"""The README, taken at its word: the demo is brought up as it says, and its tour run as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.serve import CHECKOUT
from tests.e2e.test_demo import DEMO, NOTE, left_behind

README = CHECKOUT / "README.md"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.etcd,
    pytest.mark.timeout(900),
]


def tour() -> list[str]:
    """Its blocks, in order."""
    marked = re.search(r"<!-- tour: .*?-->(.*?)<!-- end of the tour -->", README.read_text(), re.DOTALL)
    assert marked, "the README marks where its tour begins and ends"
    return re.findall(r"^```sh\n(.*?)^```$", marked[1], re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("alone")
def test_every_command_of_the_tour_works(tmp_path: Path) -> None:
    blocks = tour()
    assert len(blocks) >= 6
    up = subprocess.run(
        [str(DEMO), "--keep"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert up.returncode == 0, up.stdout
    stage = Path(NOTE.read_text().strip())
    try:
        environment = f'eval "$({DEMO} --env)"'
        script = "\n".join(["set -eux", "set -o pipefail", environment, *blocks])
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    finally:
        subprocess.run([str(DEMO), "--down"], check=True, capture_output=True, timeout=120)
    assert not left_behind(stage)
