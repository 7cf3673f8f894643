"""What every Store does with lists and pages: one revision, and what compaction leaves.

Revisions are compared, never counted from 1, except where a test says that nobody else writes.
"""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import Compacted, StoreRefused
from drivers.store import (
    KeyValue,
    Put,
)
from tests.contract.store.bench import Bench

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


async def test_a_list_holds_the_prefix_and_nothing_else(bench: Bench) -> None:
    for name in ("a/1", "a/2", "a0", "b", "a"):
        await bench.put(name)
    page = await bench.store.list(bench.key("a/"))
    assert [kv.key for kv in page.items] == [bench.key("a/1"), bench.key("a/2")]
    assert not page.more


async def test_an_empty_list_still_tells_its_revision(bench: Bench) -> None:
    revision = await bench.put("a")
    page = await bench.store.list(bench.key("nothing/"))
    assert page.items == ()
    assert page.revision == revision


async def test_the_empty_prefix_lists_everything(bench: Bench) -> None:
    await bench.put("a")
    assert bench.key("a") in {kv.key for kv in (await bench.store.list("")).items}


async def test_a_list_is_of_one_revision_while_it_is_being_written(bench: Bench) -> None:
    """Every transaction sets all keys to one number: a list that mixes numbers mixed revisions."""
    keys = [bench.key(f"{i:04}") for i in range(100)]
    await bench.store.txn([], [Put(key, b"0") for key in keys])
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await bench.store.txn([], [Put(key, b"%d" % number) for key in keys])
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    for _ in range(20):
        page = await bench.store.list(bench.prefix)
        assert len({kv.value for kv in page.items}) == 1
        assert page.revision >= page.items[0].mod_revision
        await asyncio.sleep(0)
    stop.set()
    await writer


async def test_pages_walk_all_keys_at_the_first_pages_revision(bench: Bench) -> None:
    for i in range(10):
        await bench.put(f"{i}")
    page = await bench.store.page(bench.prefix, limit=4)
    revision, seen, more = page.revision, list(page.items), page.more
    while more:
        await bench.put("35")  # would be the next page's first key
        await bench.delete("9")
        page = await bench.store.page(bench.prefix, after=seen[-1].key, limit=4, revision=revision)
        seen, more = [*seen, *page.items], page.more
        assert page.revision == revision
    assert [kv.key.removeprefix(bench.prefix) for kv in seen] == [f"{i}" for i in range(10)]


async def test_a_page_tells_how_many_keys_follow_at_its_own_revision(bench: Bench) -> None:
    for name in ("a", "b", "c", "d"):
        await bench.put(name)
    page = await bench.store.page(bench.prefix, limit=1)
    await bench.delete("c")
    await bench.put("e")
    await bench.put("f")
    after = {"after": bench.key("a"), "limit": 1}
    old = await bench.store.page(bench.prefix, **after, revision=page.revision)
    new = await bench.store.page(bench.prefix, **after)
    last = await bench.store.page(bench.prefix, after=bench.key("b"), limit=9)
    assert [one.remaining for one in (page, old, new, last)] == [3, 2, 3, 0]


async def test_a_page_that_ends_with_the_last_key_says_that_no_more_follows(bench: Bench) -> None:
    await bench.put("a")
    await bench.put("b")
    assert not (await bench.store.page(bench.prefix, limit=2)).more
    assert (await bench.store.page(bench.prefix, limit=1)).more


async def test_a_page_after_the_last_key_is_empty(bench: Bench) -> None:
    await bench.put("a")
    for after in (bench.key("a"), bench.key("zzz"), "\U0010ffff"):
        page = await bench.store.page(bench.prefix, after=after)
        assert page.items == ()
        assert not page.more


async def test_a_page_after_a_key_before_the_prefix_begins_with_the_prefix(bench: Bench) -> None:
    await bench.put("a")
    page = await bench.store.page(bench.prefix, after="/")
    assert [kv.key for kv in page.items] == [bench.key("a")]


async def test_a_page_can_be_read_at_an_old_revision(bench: Bench) -> None:
    old = await bench.put("a", b"1")
    await bench.put("a", b"2")
    await bench.put("b")
    page = await bench.store.page(bench.prefix, revision=old)
    assert page.items == (KeyValue(bench.key("a"), b"1", old, old),)
    assert page.revision == old


async def test_a_page_at_a_compacted_revision_raises_compacted(bench: Bench) -> None:
    old = await bench.put("a", b"1")
    new = await bench.put("a", b"2")
    await bench.compact(new)
    with pytest.raises(Compacted):
        await bench.store.page(bench.prefix, revision=old)
    assert [kv.value for kv in (await bench.store.page(bench.prefix, revision=new)).items] == [b"2"]


async def test_a_page_at_a_revision_not_reached_yet_raises_compacted(bench: Bench) -> None:
    """The store is younger than the question: whoever asks has seen another store and must list again."""
    now = await bench.put("a")
    with pytest.raises(Compacted):
        await bench.store.page(bench.prefix, revision=now + 1000)


async def test_a_page_without_a_limit_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreRefused):
        await bench.store.page(bench.prefix, limit=0)


async def test_compaction_keeps_what_is_there_and_forgets_what_is_gone(bench: Bench) -> None:
    await bench.put("kept", b"1")
    await bench.put("gone")
    await bench.delete("gone")
    await bench.compact(await bench.put("kept", b"2"))
    assert await bench.names() == ["kept"]
    await bench.put("gone")
    assert await bench.names() == ["gone", "kept"]
