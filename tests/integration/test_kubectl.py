"""kubectl as its users know it, version by version: transcripts of sessions with `domctl serve`, all of it.

A real server on its own real etcd with a real (if small) hypervisor, libvirt's test driver: domains really
start and end here. Each file of tests/golden/kubectl is one session, run by every kubectl that is found on
this machine (the oldest and the newest without --long), and must print what stands there. After a change
that is meant, `.venv/bin/pytest --long --regold tests/integration/test_kubectl.py` writes the files anew:
read the difference before it is committed.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import transcripts
from tests.e2e.serve import Controller
from tests.kubectl import kubectls, versions
from tests.smallserver import cleared, small_server
from tests.transcripts import Answer, Step

pytestmark = pytest.mark.etcd

SESSIONS: Final = sorted((Path(__file__).parents[1] / "golden" / "kubectl").glob("*.txt"))
FILES: Final = SESSIONS[0].parent / "files"


def version_of(binary: str) -> str:
    done = subprocess.run([binary, "version", "--client", "-o", "json"], capture_output=True, check=True)
    found = json.loads(done.stdout)["clientVersion"]
    return f"{found['major']}.{found['minor'].rstrip('+')}"


def _found() -> list[tuple[str, str]]:
    """Version and binary, the newest first."""
    found = {version_of(binary): binary for binary in kubectls()}
    return sorted(found.items(), key=lambda one: [int(part) for part in one[0].split(".")], reverse=True)


KUBECTLS: Final = _found()
NEWEST: Final = KUBECTLS[0][0] if KUBECTLS else ""


VERSIONS: Final = [version for version, _ in KUBECTLS]


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with small_server(tmp_path_factory.mktemp("kubectl")) as found:
        yield found


@pytest.fixture
def clean(controller: Controller) -> Controller:
    return cleared(controller)


def _key_pair(directory: Path) -> None:
    """For `kubectl create secret tls`, which reads whether the two belong together."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    certificate = unsigned.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Shell:
    """Runs the commands of a session: words, with $SERVER for where domctl serves, and assignments before
    them; no more of a shell than that."""

    def __init__(self, binary: str, kubeconfig: Path, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        shutil.copytree(FILES, directory / "files")
        _key_pair(directory / "files")
        self._environ = {
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
        }

    def settle(self) -> None:
        """Until the controller has written what it had to say of the step before."""
        ends_at, before, now = time.monotonic() + 30, "", "?"
        while before != now and time.monotonic() < ends_at:
            words = [self._binary, "get", "domains", "-A", "-o", "jsonpath={..resourceVersion}"]
            before = now
            now = subprocess.run(words, env=self._environ, capture_output=True, text=True, check=True).stdout
            time.sleep(0.7)

    def run(self, step: Step) -> Answer:
        words = [word.replace("$SERVER", self._server) for word in shlex.split(step.command)]
        environ = dict(self._environ)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environ[name] = value
        assert words[0] == "kubectl", step.command
        done = subprocess.run(
            [self._binary, *words[1:]],
            env=environ,
            cwd=self._directory / "files",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return transcripts.answer(done.returncode, done.stdout, done.stderr, ages=words[1] != "top")


def play(session: Path, shell: Shell, version: str, *, regold: bool) -> str:
    """What it prints otherwise than it is written; "" if nothing."""
    steps = transcripts.load(session)
    wrong: list[str] = []
    for step in steps:
        expected = step.expected(version)
        if any("(no change)" in line for line in expected):  # which a status that is written denies
            shell.settle()
        seen = shell.run(step)
        if regold:
            step.learn(version, seen, newest=version == NEWEST)
        elif not transcripts.fits(expected, seen):
            wrong += [
                f"$ {step.command}",
                *difflib.unified_diff(expected, seen, "written", "seen", "", "", 9),
            ]
    if regold:
        transcripts.save(session, steps)
    return "\n".join(wrong)


every_version = pytest.mark.parametrize("version", versions(VERSIONS, (*VERSIONS[:1], *VERSIONS[-1:])))


@every_version
@pytest.mark.parametrize("session", SESSIONS, ids=lambda path: path.stem)
def test_a_session_goes_as_it_is_written(
    session: Path, version: str, clean: Controller, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    shell = Shell(dict(KUBECTLS)[version], clean.kubeconfig, tmp_path)
    wrong = play(session, shell, version, regold=request.config.getoption("--regold"))
    assert not wrong, wrong


def test_the_sessions_are_many_enough() -> None:
    """Counted here, so that the figure in the README stays true."""
    commands = [step.command for session in SESSIONS for step in transcripts.load(session)]
    assert len(set(commands)) >= 80
    assert all(command.rpartition("kubectl ")[2] for command in commands)
