"""Watches: every change once and in order, seen through selectors, resumed, bounded, and ended in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import keys
from controller.api import streaming, watch
from controller.api.resources import DOMAINS as DOMAIN_KIND
from controller.limits import Bounds
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, MERGE, TABLE, V1, Api, Options, domain, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    store = MemoryStore(asyncio.get_running_loop().time, progress_s=0.05)
    async with serving(store, tmp_path) as found:
        yield found
    await store.close()


async def take(events: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [await anext(events) for _ in range(count)]


def told(events: list[Any]) -> list[tuple[str, str]]:
    return [(e["type"], e["object"]["metadata"]["name"]) for e in events]


async def label(api: Api, name: str, **labels: str | None) -> str:
    return (await api.call("PATCH", f"{DOMAINS}/{name}", {"metadata": {"labels": labels}}, type=MERGE)).rv


async def remove(api: Api, name: str) -> None:
    stored = await api.objects.get(DOMAIN_KIND, "default", name)
    assert (await api.store.txn(*await api.objects.removal_writes(DOMAIN_KIND, stored))).ok


async def test_a_watch_tells_every_change_after_its_revision(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    async with api.watch(f"{DOMAINS}?watch=true&resourceVersion={rv}") as events:
        await api.call("POST", DOMAINS, domain("b"))
        changed = await label(api, "a", x="1")
        await remove(api, "a")
        found = await take(events, 3)
    assert told(found) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert found[1]["object"]["metadata"]["resourceVersion"] == changed
    last = found[2]["object"]
    assert last["metadata"]["labels"] == {"x": "1"}, "a deleted object is told as it was"
    assert int(last["metadata"]["resourceVersion"]) > int(changed), "at the revision of its deletion"


async def test_a_watch_without_revision_begins_with_what_is_there(api: Api) -> None:
    for name in ("a", "b"):
        await api.call("POST", DOMAINS, domain(name))
    for version in ("", "&resourceVersion=0"):
        async with api.watch(f"{DOMAINS}?watch=1{version}") as events:
            assert told(await take(events, 2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_initial_events_end_with_a_bookmark_when_asked_for(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    async with api.watch(f"{DOMAINS}?{query}") as events:
        first, mark = await take(events, 2)
    assert first["type"] == "ADDED"
    assert (mark["type"], mark["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", rv)
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


BEGIN = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"


@pytest.mark.parametrize("include", ["", "Metadata", "Object", "None"])
async def test_initial_events_end_in_a_table_with_a_row_that_says_so(api: Api, include: str) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    async with api.watch(f"{DOMAINS}?{BEGIN}&includeObject={include or 'Metadata'}", Accept=TABLE) as events:
        first, mark = await take(events, 2)
        await label(api, "a", x="1")
        (then,) = await take(events, 1)
    assert [e["type"] for e in (first, mark, then)] == ["ADDED", "BOOKMARK", "MODIFIED"]
    assert first["object"]["columnDefinitions"] and not then["object"]["columnDefinitions"]
    (row,) = mark["object"]["rows"]
    assert (mark["object"]["kind"], mark["object"]["metadata"]["resourceVersion"]) == ("Table", rv)
    assert row["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert row["object"]["metadata"]["resourceVersion"] == rv
    assert len(row["cells"]) == len(first["object"]["columnDefinitions"])
    assert row["object"]["kind"] == ("Domain" if include == "Object" else "PartialObjectMetadata")


async def test_columns_come_with_the_first_object_whatever_marks_come_before_it(api: Api) -> None:
    async with api.watch(f"{DOMAINS}?{BEGIN}", Accept=TABLE) as events:
        (mark,) = await take(events, 1)
        await api.call("POST", DOMAINS, domain("a"))
        (first,) = await take(events, 1)
    assert mark["object"]["columnDefinitions"] == first["object"]["columnDefinitions"] != []


async def test_what_enters_a_selectors_view_is_added_and_what_leaves_it_is_deleted(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}&labelSelector=app%3Dweb") as events:
        await api.call("POST", DOMAINS, domain("other"))
        await label(api, "a", app="web")
        await label(api, "a", more="1")
        left = await label(api, "a", app=None)
        await label(api, "a", more="2")
        await label(api, "a", app="web")
        found = await take(events, 4)
    assert told(found) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "a")]
    gone = found[2]["object"]["metadata"]
    assert (gone["labels"], gone["resourceVersion"]) == ({"app": "web", "more": "1"}, left), (
        "as it was in view"
    )


async def test_a_watch_of_no_seconds_is_one_that_says_nothing_of_them(api: Api) -> None:
    async with api.watch(f"{DOMAINS}?watch=1&timeoutSeconds=0") as events:
        await asyncio.sleep(0.2)
        await api.call("POST", DOMAINS, domain("a"))
        assert told(await take(events, 1)) == [("ADDED", "a")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{V1}/domains?fieldSelector=metadata.name%3Da&", ["a", "a"]),
        (f"{DOMAINS}?", ["b", "a"]),
        (f"{DOMAINS}?fieldSelector=metadata.name%3Db&", ["b"]),
    ],
)
async def test_a_watch_of_one_name_or_namespace_sees_only_that(
    api: Api, path: str, expected: list[str]
) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    async with api.watch(f"{path}watch=1&resourceVersion={rv}&timeoutSeconds=1") as events:
        await api.call("POST", f"{V1}/namespaces/other/domains", domain("a"))
        await api.call("POST", DOMAINS, domain("b"))
        await label(api, "a", x="1")
        assert [event["object"]["metadata"]["name"] async for event in events] == expected


async def test_a_table_watch_tells_its_columns_once(api: Api) -> None:
    async with api.watch(f"{DOMAINS}?watch=1", Accept=TABLE) as events:
        await api.call("POST", DOMAINS, domain("a"))
        await label(api, "a", x="1")
        first, second = await take(events, 2)
    assert first["object"]["kind"] == second["object"]["kind"] == "Table"
    assert [c["name"] for c in first["object"]["columnDefinitions"]][:2] == ["Name", "State"]
    assert second["object"]["columnDefinitions"] == []
    assert second["object"]["rows"][0]["cells"][0] == "a"
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion=1", Accept=TABLE) as events:
        (again,) = await take(events, 1)
    assert again["object"]["columnDefinitions"], "each client gets them"


async def test_a_watch_resumes_from_any_revision_without_gap_or_repetition(api: Api) -> None:
    revisions = [int((await api.call("POST", DOMAINS, domain(f"d{n}"))).rv) for n in range(6)]
    for start in (revisions[5], revisions[2], revisions[0], revisions[4]):
        async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={start}") as events:
            last = int(await label(api, "d0", at=str(start)))
            found = await take(events, last - start)
        assert [int(e["object"]["metadata"]["resourceVersion"]) for e in found] == list(
            range(start + 1, last + 1)
        )


async def test_history_that_was_dropped_is_read_from_the_store(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HISTORY", 3)
    start = int((await api.call("POST", DOMAINS, domain("d"))).rv)
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={start}") as live:
        for n in range(10):
            await label(api, "d", n=str(n))
        await take(live, 10)
        async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={start}") as late:
            await label(api, "d", n="last")
            found = await take(late, 11)
    assert [e["object"]["metadata"]["labels"]["n"] for e in found] == [*map(str, range(10)), "last"]


async def test_a_compacted_revision_is_expired(api: Api) -> None:
    await api.call("POST", DOMAINS, domain("a"))
    await label(api, "a", x="1")
    rv = await label(api, "a", x="2")
    assert isinstance(api.store, MemoryStore)
    await api.store.compact(int(rv))
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion=1") as events:
        (event,) = await take(events, 1)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}") as events:
        await label(api, "a", x="3")
        assert told(await take(events, 1)) == [("MODIFIED", "a")], "the next client begins anew"


async def test_a_revision_that_was_never_reached_is_expired(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}") as events:
        await label(api, "a", x="1")
        await take(events, 1)
        reply = await api.call("GET", f"{DOMAINS}?watch=1&resourceVersion=999999&timeoutSeconds=1")
    assert (reply.status, reply.body["reason"]) == (410, "Expired")


async def test_a_quiet_watch_gets_bookmarks_if_it_wants_them(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BOOKMARK_S", 0.1)
    monkeypatch.setattr(watch, "LOOK_S", 0.05)
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    quiet = f"{V1}/namespaces/quiet/domains?watch=1&resourceVersion={rv}&timeoutSeconds=1"
    async with api.watch(f"{quiet}&allowWatchBookmarks=true") as events:
        moved = await label(api, "a", x="1")
        (event,) = await take(events, 1)
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"]["resourceVersion"] == moved
    assert (await api.call("GET", quiet)).text == ""


async def test_a_watch_ends_at_its_own_timeout(api: Api) -> None:
    async with asyncio.timeout(10):
        reply = await api.call("GET", f"{DOMAINS}?watch=1&timeoutSeconds=1")
    assert (reply.status, reply.text) == (200, "")


async def test_unreadable_values_make_no_event(api: Api) -> None:
    rv = (await api.call("POST", DOMAINS, domain("a"))).rv
    key = keys.object_key("domains", "default", "a")
    kv = await api.store.get(key)
    assert kv is not None
    async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}") as events:
        await api.put_raw(key, b"")
        await api.put_raw(keys.object_key("domains", "default", "b"), b"\xff")
        await api.put_raw(key, kv.value)
        assert told(await take(events, 1)) == [("MODIFIED", "a")]


async def test_a_client_that_does_not_read_is_dropped_and_others_are_not(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time, progress_s=0.05)
    options = Options(bounds=Bounds(watch_queue=20))
    big = {"metadata": {"annotations": {"a": "x" * 100_000}}}
    async with serving(store, tmp_path, options) as api:
        rv = (await api.call("POST", DOMAINS, domain("a"))).rv
        path = f"{DOMAINS}?watch=1&resourceVersion={rv}"
        async with api.session.get(api.url + path) as slow, api.watch(path) as good:
            reader = asyncio.create_task(take(good, 150))
            for n in range(150):
                big["metadata"]["annotations"]["n"] = str(n)
                await api.call("PATCH", f"{DOMAINS}/a", big, type=MERGE)
            last = (await reader)[-1]
            assert last["object"]["metadata"]["annotations"]["n"] == "149"
            lines = [msgspec.json.decode(line) async for line in _lines(slow.content)]
        assert len(lines) < 150
        assert (lines[-1]["type"], lines[-1]["object"]["code"]) == ("ERROR", 410)
    await store.close()


async def _lines(content: Any) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


async def test_no_more_watches_are_served_than_allowed(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path, Options(bounds=Bounds(watchers=1))) as api:
        rv = (await api.call("POST", DOMAINS, domain("a"))).rv
        async with api.watch(f"{DOMAINS}?watch=1&resourceVersion={rv}") as events:
            await label(api, "a", x="1")
            await take(events, 1)
            reply = await api.call("GET", f"{DOMAINS}?watch=1&resourceVersion={rv}")
            assert (reply.status, reply.body["reason"]) == (429, "TooManyRequests")
            assert reply.headers["Retry-After"] == "1"
    await store.close()


async def test_stopping_the_server_ends_watches(tmp_path: Path) -> None:
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as api:
        async with api.watch(f"{DOMAINS}?watch=1") as events:
            await api.call("POST", DOMAINS, domain("a"))
            await take(events, 1)
            async with asyncio.timeout(5):
                await api.server.stop()
                rest = [event async for event in events]
        assert [e["object"]["code"] for e in rest] == [503]
    await store.close()
