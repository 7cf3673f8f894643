"""What every Store does with watches: every revision in order, none twice, none lost.

Revisions are compared, never counted from 1, except where a test says that nobody else writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from drivers.errors import Compacted
from drivers.store import (
    MAX_TXN_OPS,
    Change,
    ChangeSet,
    Delete,
    KeyValue,
    Put,
)
from tests.contract.store.bench import Bench

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


async def test_a_watch_delivers_changes_made_after_it_began(bench: Bench) -> None:
    start = await bench.now()
    waiting = asyncio.create_task(bench.changes(start, 2))
    await asyncio.sleep(0.1)
    put = await bench.put("a", b"1")
    gone = await bench.delete("a")
    (first, second) = await waiting
    kv = KeyValue(bench.key("a"), b"1", put, put)
    assert first == ChangeSet(put, (Change("put", kv),))
    deleted = KeyValue(bench.key("a"), b"", 0, gone)
    assert second == ChangeSet(gone, (Change("delete", deleted, previous=kv),))


async def test_a_watch_from_a_past_revision_delivers_what_followed_it_and_not_itself(bench: Bench) -> None:
    old = await bench.put("a", b"1")
    new = await bench.put("a", b"2")
    (change_set,) = await bench.changes(old, 1)
    assert change_set.revision == new
    assert [c.kv.value for c in change_set.changes] == [b"2"]


async def test_a_put_over_a_key_tells_what_was_there(bench: Bench) -> None:
    old = await bench.put("a", b"1")
    await bench.put("a", b"2")
    (change_set,) = await bench.changes(old, 1)
    assert change_set.changes[0].previous == KeyValue(bench.key("a"), b"1", old, old)


async def test_the_changes_of_one_revision_arrive_together_and_in_order(bench: Bench) -> None:
    start = await bench.put("x")
    names = [f"{i:03}" for i in range(MAX_TXN_OPS - 1)]
    await bench.store.txn([], [*(Put(bench.key(n), b"v") for n in names), Delete(bench.key("x"))])
    await bench.put("y")
    assert bench.short(await bench.changes(start, 2)) == [
        [*(f"put {n}" for n in names), "delete x"],
        ["put y"],
    ]


async def test_large_changes_of_one_revision_arrive_together(bench: Bench) -> None:
    """New and previous values together exceed one message of etcd, which then comes in fragments."""
    names = [f"{i:03}" for i in range(100)]
    for fill in (b"1", b"2", b"3"):
        value = fill * 14_000
        await bench.store.txn([], [Put(bench.key(n), value) for n in names])
    change_sets = await bench.changes(await bench.now() - 3, 3)
    assert [len(s.changes) for s in change_sets] == [100, 100, 100]
    assert [{c.kv.value[:1] for c in s.changes} for s in change_sets] == [{b"1"}, {b"2"}, {b"3"}]


async def test_a_watch_delivers_every_revision_in_order(bench: Bench) -> None:
    start = await bench.now()
    waiting = asyncio.create_task(bench.changes(start, 300))
    revisions = [await bench.put(f"{i % 7}") for i in range(300)]
    assert [s.revision for s in await waiting] == revisions


async def test_a_watch_catches_up_and_goes_on_without_gap_or_repetition(bench: Bench) -> None:
    start = await bench.now()
    past = [await bench.put(f"{i % 5}") for i in range(100)]
    waiting = asyncio.create_task(bench.changes(start, 200))
    coming = [await bench.put(f"{i % 5}") for i in range(100)]
    assert [s.revision for s in await waiting] == past + coming


async def test_a_watch_sees_only_its_prefix(bench: Bench) -> None:
    start = await bench.now()
    await bench.put("a/1")
    await bench.put("b/1")
    await bench.store.txn([], [Put(bench.key("a/2"), b""), Put(bench.key("b/2"), b"")])
    await bench.put("a/3")
    watch = cast(AsyncGenerator[ChangeSet, None], bench.store.watch(bench.key("a/"), start))
    seen: list[ChangeSet] = []
    async with asyncio.timeout(10), aclosing(watch):
        async for change_set in watch:
            seen.append(change_set)
            if [s for s in bench.short(seen) if s] == [["put a/1"], ["put a/2"], ["put a/3"]]:
                return
            assert len(seen) < 10


async def test_two_watches_see_the_same(bench: Bench) -> None:
    start = await bench.now()
    both = asyncio.gather(bench.changes(start, 20), bench.changes(start, 20))
    for i in range(20):
        await bench.put(str(i))
    one, other = await both
    assert one == other


async def test_a_slow_consumer_misses_nothing(bench: Bench) -> None:
    start = await bench.now()
    revisions: list[int] = []
    async with asyncio.timeout(20), aclosing(bench.watch(start)) as watch:
        first = asyncio.ensure_future(anext(watch))
        expected = [await bench.put(str(i), b"x" * 1000) for i in range(500)]
        change_set = await first
        await asyncio.sleep(0.5)
        while True:
            revisions += [change_set.revision] if change_set.changes else []
            if len(revisions) == 500:
                break
            change_set = await anext(watch)
    assert revisions == expected


async def test_progress_marks_pass_what_happened_elsewhere(bench: Bench) -> None:
    start = await bench.now()
    elsewhere = (await bench.store.txn([], [Put(f"/other{bench.prefix}", b"")])).revision
    async with asyncio.timeout(15), aclosing(bench.watch(start)) as watch:
        async for mark in watch:
            assert mark.changes == ()
            if mark.revision >= elsewhere:
                break


async def test_nothing_is_delivered_at_or_below_a_progress_mark(bench: Bench) -> None:
    start = await bench.now()
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await bench.put("a")
            await asyncio.sleep(0.4)

    writer = asyncio.create_task(write())
    seen: list[ChangeSet] = []
    async with asyncio.timeout(20), aclosing(bench.watch(start)) as watch:
        async for change_set in watch:
            if change_set.changes and seen:
                assert change_set.revision > seen[-1].revision
            seen.append(change_set)
            if len(seen) >= 6:
                stop.set()  # then it falls silent, and a mark must come
                if not change_set.changes:
                    break
    await writer


async def test_a_watch_after_a_compacted_revision_raises_compacted(bench: Bench) -> None:
    old = await bench.put("a", b"1")
    await bench.put("a", b"2")
    new = await bench.put("a", b"3")
    await bench.compact(new)
    with pytest.raises(Compacted) as caught:
        await bench.changes(old, 1)
    assert caught.value.compact_revision in (0, new)


async def test_a_watch_from_the_beginning_of_a_compacted_store_raises_compacted(bench: Bench) -> None:
    await bench.put("a")
    await bench.compact(await bench.put("a"))
    with pytest.raises(Compacted):
        await bench.changes(0, 1)


async def test_a_watch_after_the_compacted_revision_itself_goes_on(bench: Bench) -> None:
    await bench.put("a")
    new = await bench.put("a", b"2")
    await bench.compact(new)
    waiting = asyncio.create_task(bench.changes(new, 1))
    await asyncio.sleep(0.1)
    later = await bench.put("a", b"3")
    (change_set,) = await waiting
    assert change_set.revision == later


async def test_a_watch_that_is_up_to_date_survives_compaction(bench: Bench) -> None:
    start = await bench.now()
    waiting = asyncio.create_task(bench.changes(start, 3))
    await bench.put("a")
    await asyncio.sleep(0.2)
    revision = await bench.put("a")
    await asyncio.sleep(0.2)
    await bench.compact(revision)
    last = await bench.put("a")
    assert (await waiting)[-1].revision == last


async def test_a_watch_after_a_revision_not_reached_yet_raises_compacted(bench: Bench) -> None:
    """A restored store: its revision went back, and what the watcher knows never happened."""
    now = await bench.put("a")
    with pytest.raises(Compacted):
        await bench.changes(now + 1000, 1)
