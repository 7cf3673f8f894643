"""Consoles for tests of the API and its clients: a desk that serves, and guests that answer what is typed.

The server is whole, the guest is not. Used by tests/unit/test_api_consoles*.py and
tests/integration/test_attach.py; real guests are in tests/e2e/test_consoles.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.consoles.desk import Desk
from controller.consoles.tape import Tape
from drivers.hypervisor import ConsoleOutput
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, Api, Options, domain, serving

AT = "2026-11-28T11:00:00Z"
MAIN = "main"

Answer = Callable[[bytes], bytes]


def same(typed: bytes) -> bytes:
    return typed


class Guest:
    """A console that answers what is typed: by itself, as a terminal with echo does."""

    def __init__(self, tape: Tape, answer: Answer = same) -> None:
        self._tape = tape
        self._answer = answer

    async def send(self, data: bytes) -> None:
        self._tape.heard(ConsoleOutput(self._answer(data)))

    async def close(self) -> None:
        return


@pytest.fixture
def desk() -> Desk:
    """One that serves: as where a leader runs."""
    return Desk(lambda: AT, each=1 << 16, total=1 << 20, serving=True)


@asynccontextmanager
async def with_consoles(desk: Desk, tmp_path: Path) -> AsyncIterator[Api]:
    """A server whose consoles are those of `desk`."""
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(desk=desk)) as api:
        yield api
    await store.close()


async def created(api: Api, desk: Desk, name: str = "web-1", *, answer: Answer = same, **spec: Any) -> Tape:
    """A new domain, and the tape of its console `main`, which is read and recorded."""
    reply = await api.call("POST", DOMAINS, domain(name, **spec))
    assert reply.status == 201, reply.body
    return recording(desk, reply.body["metadata"]["uid"], answer=answer)


def recording(desk: Desk, uid: str, console: str = MAIN, *, answer: Answer = same) -> Tape:
    """The tape of a console, which is read and recorded."""
    tape = desk.open(uid, console)
    tape.recorded = True
    tape.opened(Guest(tape, answer), "hv1")
    return tape
