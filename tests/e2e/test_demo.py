"""The demo, as anybody runs it: it must verify what it shows, and leave nothing behind however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.serve import CHECKOUT, until

DEMO = CHECKOUT / "deploy" / "demo"
NOTE = CHECKOUT / ".cache" / "demo"
pytestmark = [
    pytest.mark.lab,
    pytest.mark.etcd,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("alone"),
]


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(DEMO), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(stage: Path) -> list[str]:
    """Processes, directories and interfaces of a demo that should be gone."""
    found = [str(path) for path in (stage, NOTE) if path.exists()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(stage).encode() in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_the_demo_verifies_what_it_shows_and_leaves_nothing() -> None:
    with start() as demo:
        assert demo.stdout is not None
        until(NOTE.exists, 60, "it does not begin")
        stage = Path(NOTE.read_text().strip())
        said = demo.stdout.read()
    last = said.splitlines()[-1]
    assert demo.returncode == 0, said
    shown = re.fullmatch(
        r"demo: ok: (\d+) domains on 3 nodes, migration downtime (\d+) ms, (\d+) drifts repaired in [\d.]+ s",
        last,
    )
    assert shown and int(shown[1]) >= 6 and int(shown[2]) < 5000 and int(shown[3]) >= 6, said
    assert not left_behind(stage)


MOMENTS = ("libvirt hosts", "starting domctl", "Starting", "its QEMU is killed")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("moment", "how"),
    [  # both signals are one to the demo: each moment by one of them, and by the other where there is time
        pytest.param(moment, how, marks=[pytest.mark.long] if (i + j) % 2 else [])
        for i, moment in enumerate(MOMENTS)
        for j, how in enumerate(SIGNALS)
    ],
)
def test_an_interrupted_demo_leaves_nothing(moment: str, how: signal.Signals) -> None:
    with start() as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if moment in line:
                stage = Path(NOTE.read_text().strip())
                time.sleep(0.3)
                demo.send_signal(how)
                break
        rest = demo.stdout.read()
    assert demo.returncode == 128 + how, "".join(said) + rest
    assert rest.splitlines()[-1] == f"demo: failed: interrupted by signal {int(how)}"
    assert not left_behind(stage)


def test_a_demo_that_was_killed_is_cleaned_up_by_down() -> None:
    with start() as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "specs/examples" in line:
                break
        stage = Path(NOTE.read_text().strip())
        demo.kill()
    assert left_behind(stage), "there must be something to be cleaned up"
    refused = subprocess.run([str(DEMO)], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1 and "--down" in refused.stdout
    subprocess.run([str(DEMO), "--down"], check=True, capture_output=True, timeout=120)
    assert not left_behind(stage)
