"""Logs and terminals over HTTP: what is shown of a tape, to whom, and how its clients end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from controller import keys
from controller.api import consoles
from controller.consoles.desk import Desk
from controller.consoles.tape import Tape
from controller.limits import Bounds
from controller.model import LeaderRecord
from drivers.hypervisor import ConsoleOutput
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, Api, Options, serving
from tests.consolecase import Guest, created, desk, with_consoles

__all__ = ["desk"]  # a fixture
SERIALS = [{"name": "main", "record": True}, {"name": "other"}]


@pytest.fixture
async def api(desk: Desk, tmp_path: Path) -> AsyncIterator[Api]:
    async with with_consoles(desk, tmp_path) as served:
        yield served


async def made(api: Api, desk: Desk, **spec: Any) -> Tape:
    """A domain, and the tape of its recorded console, which is being read."""
    return await created(api, desk, **{"serials": SERIALS, **spec})


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://127.0.0.1:1"])
async def test_a_page_of_somebody_else_opens_no_terminal(api: Api, desk: Desk, origin: str) -> None:
    await made(api, desk)
    for sent, code in ((origin, 403), (api.url, 101)):
        try:
            socket = await api.session.ws_connect(
                f"{api.url}{DOMAINS}/web-1/console", protocols=(consoles.PROTOCOL,), headers={"Origin": sent}
            )
            await socket.close()
            found = 101
        except aiohttp.WSServerHandshakeError as error:
            found = error.status
        assert found == code, sent


async def text(api: Api, query: str = "", name: str = "web-1") -> tuple[int, str]:
    async with api.session.get(f"{api.url}{DOMAINS}/{name}/log{query}") as reply:
        return reply.status, await reply.text()


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", "one\ntwo\nthr"),
        ("?tailLines=2", "two\nthr"),
        ("?tailLines=0", ""),
        ("?limitBytes=5", "one\nt"),
        ("?sinceTime=2026-11-28T11:00:01Z", ""),
        ("?sinceTime=2026-11-28T12:00:00%2B01:00", "one\ntwo\nthr"),
        ("?sinceTime=0001-01-01T00:00:00%2B14:00", "one\ntwo\nthr"),
        ("?sinceTime=0900-01-01T00:00:00Z", "one\ntwo\nthr"),
        ("?sinceTime=9999-12-31T23:59:59-14:00", ""),
        ("?timestamps=true&tailLines=1", "2026-11-28T11:00:00Z thr"),
        ("?container=domain", "one\ntwo\nthr"),
        ("?container=main", "one\ntwo\nthr"),
    ],
)
async def test_a_log_is_shown_as_it_is_asked_for(api: Api, desk: Desk, query: str, shown: str) -> None:
    (await made(api, desk)).heard(ConsoleOutput(b"one\ntwo\nthr"))
    assert await text(api, query) == (200, shown)


@pytest.mark.parametrize(
    ("spec", "query", "said"),
    [
        ({"serials": []}, "", "has no console of type pty: add one to spec.serials or spec.consoles"),
        ({"serials": [{"name": "x"}]}, "", 'console "x" of domain "web-1" is not recorded: set record: true'),
        ({}, "?container=other", 'console "other" of domain "web-1" is not recorded: set record: true'),
        ({}, "?container=none", 'domain "web-1" has no console "none", it has main, other'),
        ({}, "?previous=true", "earlier runs are not kept apart"),
        ({}, "?sinceTime=yesterday", "sinceTime must be a time as 2026-01-31T00:00:00Z"),
        ({}, "?sinceTime=2026-11-28T11:00:01", "must name a time zone"),
        ({}, "?tailLines=-1", "tailLines must be a whole number"),
    ],
)
async def test_why_there_is_no_log_is_said(
    api: Api, desk: Desk, spec: dict[str, Any], query: str, said: str
) -> None:
    await made(api, desk, **spec)
    code, answer = await text(api, query)
    assert code == 400
    assert said in json.loads(answer)["message"]


async def test_of_a_console_that_wrote_nothing_and_is_not_read_the_reason_is_told(
    api: Api, desk: Desk
) -> None:
    (await made(api, desk)).closed("the domain is not running")
    code, answer = await text(api)
    assert (code, json.loads(answer)["message"]) == (
        400,
        "nothing was recorded of web-1 yet: the domain is not running",
    )


async def test_a_replica_that_does_not_lead_says_who_does(api: Api, desk: Desk) -> None:
    await made(api, desk)
    desk.serving = False
    code, answer = await text(api)
    assert (code, json.loads(answer)["message"][:20]) == (503, "nobody leads just no")
    record = LeaderRecord(id="x", host="ctl-2", at="2026-11-28T11:00:00Z")
    await api.put_raw(keys.LEADER, msgspec.json.encode(record))
    code, answer = await text(api)
    assert code == 503
    assert 'domctl on host "ctl-2": ask that one' in json.loads(answer)["message"]


async def test_who_follows_gets_what_comes_until_the_console_is_gone(api: Api, desk: Desk) -> None:
    tape = await made(api, desk)
    tape.heard(ConsoleOutput(b"old\nlast\n"))
    async with api.session.get(f"{api.url}{DOMAINS}/web-1/log?follow=true&tailLines=1") as reply:
        got = b""
        for said in (b"last\n", b"a", b"b\n"):
            if said != b"last\n":
                tape.heard(ConsoleOutput(said))
            while not got.endswith(said):
                got += await asyncio.wait_for(reply.content.readany(), 5)
        desk.drop(tape, "the domain was deleted")
        assert await asyncio.wait_for(reply.content.read(), 5) == b""
        assert got == b"last\nab\n"


@asynccontextmanager
async def attached(api: Api, query: str = "?stdin=true") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"{api.url}{DOMAINS}/web-1/console{query}"
    async with api.session.ws_connect(url, protocols=(consoles.PROTOCOL,)) as socket:
        assert socket.protocol == consoles.PROTOCOL
        yield socket


async def test_several_are_attached_to_one_console_and_all_may_type(api: Api, desk: Desk) -> None:
    tape = await made(api, desk)
    async with attached(api) as ann, attached(api) as ben:
        for who, word in ((ann, b"from ann"), (ben, b"from ben")):
            await who.send_bytes(b"\0" + word)
            assert await ann.receive_bytes(timeout=5) == b"\1" + word
            assert await ben.receive_bytes(timeout=5) == b"\1" + word
        await ann.send_bytes(b'\4{"Width":80,"Height":24}')  # its size; nobody at the host wants it
        desk.drop(tape, "the domain was deleted")
        for who in (ann, ben):
            last = await who.receive_bytes(timeout=5)
            assert last[:1] == b"\3"
            assert json.loads(last[1:])["message"] == "the domain was deleted"
            assert (await who.receive(timeout=5)).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}


async def test_who_did_not_say_that_he_types_only_looks(api: Api, desk: Desk) -> None:
    tape = await made(api, desk)
    async with attached(api, "?stdin=false") as watcher:
        await watcher.send_bytes(b"\0typed")
        tape.heard(ConsoleOutput(b"shown"))
        assert await watcher.receive_bytes(timeout=5) == b"\1shown"


async def test_a_console_that_nobody_records_is_wanted_only_while_somebody_is_attached(
    api: Api, desk: Desk
) -> None:
    tape = await made(api, desk)
    uuid = tape.key[0]

    def open_it(_uuid: str) -> None:
        other = desk.find(uuid, "other")
        if other is not None and other.console is None and other.is_wanted:
            other.opened(Guest(other), "hv1")
        elif other is not None and not other.is_wanted:
            desk.drop(other, "nobody looks")

    desk.on_change = open_it
    async with attached(api, "?stdin=true&container=other") as one:
        await one.send_bytes(b"\0x")
        assert await one.receive_bytes(timeout=5) == b"\1x"
    for _ in range(100):
        if desk.find(uuid, "other") is None:
            break
        await asyncio.sleep(0.05)
    assert desk.find(uuid, "other") is None


async def test_a_terminal_is_a_websocket_of_version_5(api: Api, desk: Desk) -> None:
    await made(api, desk)
    for method in ("GET", "POST"):
        reply = await api.call(method, f"{DOMAINS}/web-1/console")
        assert reply.status == 400
        assert "kubectl 1.30 or newer, or domctl console" in reply.body["message"]


async def test_a_console_that_cannot_be_opened_is_refused_with_the_reason(
    api: Api, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "_OPEN_S", 0.05)
    (await made(api, desk)).closed("its node n1 does not answer: no route")
    reply = await api.call("GET", f"{DOMAINS}/web-1/console")
    assert reply.status == 400
    assert reply.body["message"] == (
        "the console of web-1 cannot be opened: its node n1 does not answer: no route"
    )


async def test_who_waits_for_a_console_keeps_no_other_request_waiting(tmp_path: Path, desk: Desk) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    options = Options(desk=desk, bounds=Bounds(requests_at_once=2))
    async with serving(store, tmp_path, options) as api:
        tape = await made(api, desk)
        tape.closed("the domain is not running")
        waiting = [asyncio.create_task(api.call("GET", f"{DOMAINS}/web-1/console")) for _ in range(2)]
        async with asyncio.timeout(5):
            while len(tape.attached) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with asyncio.timeout(4):
            assert (await api.call("GET", DOMAINS)).status == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await store.close()


async def test_to_attach_stands_in_the_audit_log_and_to_read_does_not(api: Api, desk: Desk) -> None:
    (await made(api, desk)).heard(ConsoleOutput(b"x"))
    await text(api)
    async with attached(api):
        pass
    rows = [json.loads(line) for line in api.audit_log.read_text().splitlines()]
    about = [(row["verb"], row["objectRef"].get("subresource", "")) for row in rows]
    assert ("create", "console") in about
    assert not [row for row in about if row[1] == "log"]


async def test_a_flood_and_readers_who_never_read_delay_nobody(
    api: Api, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "_WRITE_S", 1.0)
    tape = await made(api, desk)
    async with AsyncExitStack() as opened:
        for _ in range(5):
            path = f"{api.url}{DOMAINS}/web-1/log?follow=true"
            reply = await opened.enter_async_context(api.session.get(path, read_bufsize=1 << 10))
            assert reply.connection is not None and reply.connection.transport is not None
            reply.connection.transport.pause_reading()
        assert await followers(api) == 5
        worst, line = 0.0, b"all work and no play\n" * 10_000
        ends_at = time.monotonic() + 30
        while await followers(api) and time.monotonic() < ends_at:
            for _ in range(10):
                tape.heard(ConsoleOutput(line))
                began = time.monotonic()
                await asyncio.sleep(0.02)
                worst = max(worst, time.monotonic() - began - 0.02)
        assert await followers(api) == 0, "who never reads is cut off"
    assert tape.ring.ends - tape.ring.begins <= 1 << 16
    assert worst < 0.5, "of a busy machine; alone it is some milliseconds"


async def followers(api: Api) -> int:
    async with api.session.get(f"{api.url}/metrics") as reply:
        rows = (await reply.text()).splitlines()
    return int(float(next(row for row in rows if row.startswith("domctl_api_console_clients")).split()[1]))
