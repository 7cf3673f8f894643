"""Lists and watches that are large: sent in parts, told in batches, and the same to whoever reads them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller import scrape
from controller.api import lists, reading, streaming
from controller.api.errors import ApiError
from controller.api.frames import KEPT_BYTES, Frames
from controller.api.resources import DOMAINS as DOMAIN_KIND
from controller.api.watch import LAG_BYTES, Hub, Subscription
from controller.limits import Bounds
from controller.metrics import Metrics
from controller.objects import Objects
from drivers.memory import MemoryStore
from tests import virtualtime
from tests.apiserver import (
    DOMAINS,
    MERGE,
    TABLE,
    V1,
    Api,
    Options,
    client_context,
    domain,
    serving,
)

COUNT = 25
LARGE = 240_000
PARTIAL = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time, progress_s=0.05)
    async with serving(store, tmp_path, Options(bounds=Bounds(requests_at_once=1))) as found:
        for n in range(COUNT):
            body = domain(f"d{n:02}")
            body["metadata"]["labels"] = {"odd": str(n % 2)}
            assert (await found.call("POST", DOMAINS, body)).status == 201
        yield found
    await store.close()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large begins with two objects or so."""
    monkeypatch.setattr(lists, "WHOLE_BYTES", 1500)
    monkeypatch.setattr(lists, "_PART_BYTES", 1000)
    monkeypatch.setattr(reading, "_SLICE", 3)
    monkeypatch.setattr(reading, "PAGE", 7)
    monkeypatch.setattr(reading, "STREAM_PAGE", 4)
    monkeypatch.setattr(streaming, "STREAM_PAGE", 4)


QUERIES = ("", "?limit=20", "?labelSelector=odd%3D1", "?labelSelector=odd%3D1&limit=6", "?labelSelector=no")


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("accept", ["application/json", TABLE, PARTIAL.format("List")])
async def test_a_list_in_parts_says_what_one_in_one_piece_says(
    api: Api, query: str, accept: str, request: pytest.FixtureRequest
) -> None:
    whole = await api.call("GET", f"{DOMAINS}{query}", Accept=accept)
    request.getfixturevalue("parts")
    in_parts = await api.call("GET", f"{DOMAINS}{query}", Accept=accept)
    packed = await api.call("GET", f"{DOMAINS}{query}", Accept=accept, Accept_Encoding="gzip")
    assert ageless(in_parts.body) == ageless(whole.body) == ageless(packed.body)
    if query != QUERIES[-1]:
        assert "Content-Length" in whole.headers
        assert in_parts.headers["Transfer-Encoding"] == packed.headers["Transfer-Encoding"] == "chunked"
        assert packed.headers["Content-Encoding"] == "gzip"


def ageless(body: Any) -> Any:
    """A Table tells ages in seconds."""
    for row in body.get("rows", ()):
        row["cells"][5] = "AGE"
    return body


async def test_the_head_of_a_list_in_parts_has_no_body(api: Api, parts: None) -> None:
    reply = await api.call("HEAD", DOMAINS)
    assert (reply.status, reply.text) == (200, "")
    assert (await api.call("GET", f"{DOMAINS}/d00")).status == 200


async def test_a_list_that_cannot_be_ended_is_cut_off_and_never_looks_whole(
    api: Api, parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(api.store, MemoryStore)
    store, read = api.store, api.store.page

    async def page(prefix: str, **how: Any) -> Any:
        if how.get("after", "").endswith("d06"):
            await api.call("PATCH", f"{DOMAINS}/d00", {"metadata": {"labels": {"x": "1"}}}, type=MERGE)
            await store.compact(store.revision)
        return await read(prefix, **how)

    monkeypatch.setattr(store, "page", page)
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.call("GET", DOMAINS)
    assert (await api.call("GET", f"{DOMAINS}/d00")).status == 200


async def test_who_does_not_read_a_list_keeps_no_others_waiting_and_is_cut_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.api.parts.WRITE_S", 3.0)
    note = {"metadata": {"annotations": {"note": "x" * LARGE}}}
    for n in range(COUNT):
        assert (await api.call("PATCH", f"{DOMAINS}/d{n:02}", note, type=MERGE)).status == 200
    admin = client_context(api.pki.ca_cert, api.pki.admin_cert, api.pki.admin_key)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    deaf.connect(api.server.address)
    host = api.server.address[0]
    reader, writer = await asyncio.open_connection(sock=deaf, ssl=admin, server_hostname=host, limit=20)
    writer.write(f"GET {DOMAINS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b"200" in await reader.readexactly(15)
    async with asyncio.timeout(2.5):  # there is one seat, and the list has left it
        assert (await api.call("GET", f"{DOMAINS}/d00")).status == 200
    await asyncio.sleep(3.5)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(COUNT * LARGE)
    writer.close()


async def test_what_a_watch_begins_with_is_one_revision_and_what_follows_comes_once(
    api: Api, parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, changed = api.store.page, False

    async def page(prefix: str, **how: Any) -> Any:
        nonlocal changed
        if how.get("after", "").endswith("d07") and not changed:  # in the middle of what it begins with
            changed = True
            for name in ("d03", "d20"):
                await api.call("PATCH", f"{DOMAINS}/{name}", {"metadata": {"labels": {"x": "1"}}}, type=MERGE)
        return await read(prefix, **how)

    monkeypatch.setattr(api.store, "page", page)
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with asyncio.timeout(60), api.watch(f"{DOMAINS}?{query}") as events:
        first = [await anext(events) for _ in range(COUNT)]
        mark = await anext(events)
        then = [await anext(events) for _ in range(2)]
    assert [e["object"]["metadata"]["name"] for e in first] == [f"d{n:02}" for n in range(COUNT)]
    assert not any("x" in e["object"]["metadata"]["labels"] for e in first)
    assert mark["type"] == "BOOKMARK"
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in then] == [
        ("MODIFIED", "d03"),
        ("MODIFIED", "d20"),
    ]


async def test_metadata_alone_are_served_to_whoever_asks_for_them(api: Api) -> None:
    one = (await api.call("GET", f"{DOMAINS}/d00", Accept=PARTIAL.format(""))).body
    assert (one["kind"], one["apiVersion"], one["metadata"]["name"]) == (
        "PartialObjectMetadata",
        "meta.k8s.io/v1",
        "d00",
    )
    assert set(one) == {"kind", "apiVersion", "metadata"}
    listed = (await api.call("GET", f"{DOMAINS}?limit=2", Accept=PARTIAL.format("List"))).body
    assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert listed["items"][0] == one
    assert listed["metadata"]["continue"]
    async with asyncio.timeout(60), api.watch(f"{DOMAINS}?watch=1", Accept=PARTIAL.format("")) as events:
        assert (await anext(events)) == {"type": "ADDED", "object": one}


async def test_what_is_not_served_falls_back_to_the_next_form_that_is(api: Api) -> None:
    for accept, kind in (
        ("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1,application/json", "Domain"),
        ("application/json;as=Nonsense;g=meta.k8s.io;v=v1,*/*", "Domain"),
        ("application/json;as=Table;g=example.org;v=v1", "Status"),  # 406
        ("application/json,application/json;as=Table;g=meta.k8s.io;v=v1", "Domain"),
        ("application/json; as=Table; v=v1; g=meta.k8s.io", "Table"),
    ):
        assert (await api.call("GET", f"{DOMAINS}/d00", Accept=accept)).body["kind"] == kind, accept


async def test_watchers_with_one_view_are_told_the_same_and_others_only_theirs(api: Api) -> None:
    rv = (await api.call("GET", f"{DOMAINS}?limit=1")).rv
    views = {
        "": [f"d{n:02}" for n in range(COUNT)],
        "&labelSelector=odd%3D1": [f"d{n:02}" for n in range(1, COUNT, 2)],
        "&fieldSelector=metadata.name%3Dd07": ["d07"],
    }
    path = f"{V1}/domains?watch=1&resourceVersion={rv}"
    async with AsyncExitStack() as stack:
        opened = [
            (view, await stack.enter_async_context(api.watch(f"{path}{view}")))
            for view in views
            for _ in range(3)
        ]  # fmt: skip
        for n in range(COUNT):
            await api.call("PATCH", f"{DOMAINS}/d{n:02}", {"spec": {"vcpus": 2}}, type=MERGE)
        async with asyncio.timeout(20):
            for view, events in opened:
                told = [await anext(events) for _ in views[view]]
                assert [e["object"]["metadata"]["name"] for e in told] == views[view]
                assert {e["type"] for e in told} == {"MODIFIED"}


class Fanout:
    """A hub before a store that is written to directly, both in virtual time."""

    def __init__(self) -> None:
        self.store = MemoryStore(asyncio.get_running_loop().time)
        self.objects = Objects(self.store, virtualtime.world())
        self.hub = Hub(self.store, DOMAIN_KIND, 1000)

    async def change(self, name: str, size: int = 0) -> None:
        body = domain(name)
        body["metadata"] |= {"namespace": "default", "annotations": {"note": "x" * size}}
        await self.objects.create(DOMAIN_KIND, body)


def in_fanout(check: Callable[[Fanout], Awaitable[None]]) -> None:
    async def main() -> None:
        found = Fanout()
        await found.hub.begin(found.store.revision)
        await asyncio.sleep(1)  # after a pause
        await check(found)
        await found.hub.stop()
        await found.store.close()

    virtualtime.run(main())


async def taken(place: Subscription, count: int) -> list[tuple[float, int]]:
    """When so many events came, and how many at once."""
    found: list[tuple[float, int]] = []
    began = asyncio.get_running_loop().time()
    while sum(size for _, size in found) < count:
        assert await place.wait()
        found.append((asyncio.get_running_loop().time() - began, len(place.take().events)))
    return found


@pytest.mark.parametrize(("watchers", "apart_s"), [(1, 0.001), (100, 0.01), (5000, 0.1)])
def test_the_more_watchers_there_are_the_larger_are_the_batches(watchers: int, apart_s: float) -> None:
    async def check(fanout: Fanout) -> None:
        places = [fanout.hub.attach(fanout.hub.revision) for _ in range(watchers)]
        reading = asyncio.create_task(taken(places[0], 100))
        for n in range(100):
            await fanout.change(f"d{n}")
            await asyncio.sleep(0.005)  # 200 a second
        times = [at for at, _ in await reading]
        assert times[0] < 0.001, "the first after a pause is told at once"
        between = [b - a for a, b in pairwise(times)]
        assert max(between) <= max(apart_s, 0.005) + 0.006, "the oldest of a batch has waited no longer"
        assert len(times) <= 0.5 / apart_s + 2

    in_fanout(check)


def test_a_place_in_the_history_is_lost_by_who_is_too_far_behind() -> None:
    size = 200_000

    async def check(fanout: Fanout) -> None:
        slow, quick = fanout.hub.attach(fanout.hub.revision), fanout.hub.attach(fanout.hub.revision)
        for n in range(LAG_BYTES // size + 2):
            await fanout.change(f"d{n}", size)
            assert [count for _, count in await taken(quick, 1)] == [1]
        assert await slow.wait(), "it is told"
        with pytest.raises(ApiError, match="did not keep up"):
            slow.take()

    in_fanout(check)


def test_a_batch_is_bounded_by_what_is_written_to_one_watcher_at_once() -> None:
    async def check(fanout: Fanout) -> None:
        place = fanout.hub.attach(fanout.hub.revision)
        for n in range(12):
            await fanout.change(f"d{n}", 60_000)
        assert max(count for _, count in await taken(place, 12)) <= 5, "of 60 kB each in 256 KiB"

    in_fanout(check)


def test_a_watch_goes_on_in_the_next_life_of_its_hub() -> None:
    async def check(fanout: Fanout) -> None:
        place = fanout.hub.attach(fanout.hub.revision)
        await fanout.change("d0")
        await fanout.hub.stop()
        assert await place.wait()
        with pytest.raises(ApiError, match="shutting down"):
            place.take()
        await fanout.hub.begin(fanout.store.revision)
        again = fanout.hub.attach(fanout.store.revision)
        await fanout.change("d1")
        assert await again.wait()
        assert [event.now.name for event in again.take().events if event.now] == ["d1"]

    in_fanout(check)


def test_frames_are_kept_while_there_is_room_the_newest_ones() -> None:
    frames, size = Frames(), KEPT_BYTES // 10
    for n in range(30):
        frames.keep(n, b"x" * size)
    assert [n for n in range(30) if frames.get(n) is not None] == list(range(21, 30))
    frames.keep("large", b"x" * KEPT_BYTES)
    assert frames.get("large") is not None, "whatever is made is there for the next one"
    assert frames.get(29) is None


async def test_a_page_of_metrics_lets_others_on_between_its_parts_and_is_whole_or_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    metrics = Metrics(asyncio.get_running_loop().time, "1")
    monkeypatch.setattr(scrape, "LINES", 10)
    for n in range(200):
        metrics.domain("default", f"d{n}", "running", ready=True)
    rounds, seen, broken_after = 0, [], 1000

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    def parts() -> Iterator[bytes]:
        for number, part in enumerate(Metrics.parts(metrics)):
            if number >= broken_after:
                raise RuntimeError("a bug")
            seen.append(rounds)
            yield part

    monkeypatch.setattr(metrics, "parts", parts)
    async with serving(store, tmp_path, Options(metrics=metrics)) as api:
        turning = asyncio.create_task(others())
        plain = await api.call("GET", "/metrics", Accept_Encoding="identity")
        assert len(seen) > 40
        assert all(late > early for early, late in pairwise(seen))
        packed = await api.call("GET", "/metrics", Accept_Encoding="gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        for reply in (plain, packed):
            assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert reply.text.count("domctl_domain_state{") == 200
        assert (await api.call("HEAD", "/metrics")).text == ""
        broken_after = 20
        with pytest.raises(aiohttp.ClientPayloadError):
            await api.call("GET", "/metrics")
        broken_after = 0
        assert (await api.call("GET", "/metrics")).status == 500
        turning.cancel()
    await store.close()
