"""`kubectl attach -it` and `domctl console` on real terminals, and a console that says back what it hears.

The server is whole, the guest is not: real guests are in tests/e2e/test_consoles.py. What is held here is
that both speak the WebSocket that the API serves, and what they do with a terminal.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.consoles.desk import Desk
from controller.consoles.tape import Tape
from drivers.hypervisor import ConsoleOutput
from tests.apiserver import DOMAINS, MERGE, Api
from tests.consolecase import MAIN, created, desk, recording, with_consoles
from tests.e2e.serve import DOMCTL
from tests.kubectl import newest
from tests.terminal import Terminal

__all__ = ["desk"]  # a fixture
WITHIN_S = 30.0


@pytest.fixture
async def api(desk: Desk, tmp_path: Path) -> AsyncIterator[Api]:
    async with with_consoles(desk, tmp_path) as served:
        yield served


def in_brackets(data: bytes) -> bytes:
    """What the guest says to what is typed: not what the terminal shows by itself."""
    return b"<" + data.strip() + b">"


async def running(api: Api, desk: Desk, *consoles: str) -> tuple[Tape, str]:
    """The tape of a domain's console `main`, and the name of its pod. `consoles`: others to be recorded."""
    serials = [{"name": name, "record": True} for name in (MAIN, *consoles)]
    tape = await created(api, desk, answer=in_brackets, serials=serials)
    status = {"status": {"state": "running", "node": "hv1"}}
    assert (await api.call("PATCH", f"{DOMAINS}/web-1/status", status, type=MERGE)).status == 200
    (pod,) = (await api.call("GET", "/api/v1/namespaces/default/pods")).body["items"]
    return tape, str(pod["metadata"]["name"])


def environment(api: Api, home: Path) -> dict[str, str]:
    kept = {"KUBECONFIG": str(api.pki.kubeconfig), "HOME": str(home), "TERM": "xterm"}
    return {"PATH": os.environ["PATH"], **kept}


def typed(terminal: Terminal) -> str:
    """ "" if what is typed on it reaches the console, and what that says shows; else what it shows."""
    terminal.type("hello there\n")
    return "" if terminal.shows("<hello there>", WITHIN_S) else terminal.text


@pytest.mark.parametrize("client", ["kubectl", "domctl"])
async def test_what_is_typed_on_a_terminal_reaches_the_console_and_comes_back(
    api: Api, desk: Desk, tmp_path: Path, client: str
) -> None:
    tape, pod = await running(api, desk)
    command = [newest(30), "attach", "-it", pod] if client == "kubectl" else [str(DOMCTL), "console", "web-1"]
    with Terminal(command, environment(api, tmp_path)) as terminal:
        async with asyncio.timeout(WITHIN_S):
            while not tape.attached:  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.05)
        assert not await asyncio.to_thread(typed, terminal)
        tape.heard(ConsoleOutput(b"a word of its own"))
        assert await asyncio.to_thread(terminal.shows, "a word of its own", WITHIN_S), terminal.text
        if client == "domctl":
            terminal.type("\x1d")  # Ctrl+]
            assert await asyncio.to_thread(terminal.process.wait, WITHIN_S) == 0


async def printed(command: list[str], api: Api, home: Path) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment(api, home),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


async def test_kubectl_logs_shows_what_was_recorded(api: Api, desk: Desk, tmp_path: Path) -> None:
    tape, pod = await running(api, desk)
    tape.heard(ConsoleOutput(b"one\ntwo\n"))
    assert await printed([newest(), "logs", pod, "--tail=1"], api, tmp_path) == "two\n"


@pytest.mark.parametrize("client", ["kubectl", "domctl"])
async def test_of_several_consoles_one_is_shown_and_typed_on_by_its_name(
    api: Api, desk: Desk, tmp_path: Path, client: str
) -> None:
    main, pod = await running(api, desk, "debug")
    debug = recording(desk, main.key[0], "debug", answer=in_brackets)
    main.heard(ConsoleOutput(b"of main\n"))
    debug.heard(ConsoleOutput(b"of debug\n"))
    logs, attach = {
        "kubectl": ([newest(30), "logs", pod], [newest(30), "attach", "-it", pod, "-c", "debug"]),
        "domctl": ([str(DOMCTL), "logs", "web-1"], [str(DOMCTL), "console", "web-1", "-c", "debug"]),
    }[client]
    for words, shown in (([], "of main\n"), (["-c", "main"], "of main\n"), (["-c", "debug"], "of debug\n")):
        assert await printed([*logs, *words], api, tmp_path) == shown, words
    with Terminal(attach, environment(api, tmp_path)) as terminal:
        async with asyncio.timeout(WITHIN_S):
            while not debug.attached:  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.05)
        assert not await asyncio.to_thread(typed, terminal)
    assert await printed([*logs, "-c", "main"], api, tmp_path) == "of main\n", "nothing was typed there"
