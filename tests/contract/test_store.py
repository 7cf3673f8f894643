"""What every Store does: one suite over the store in memory, the simulated etcd, and a real one.

Tests share one etcd server and keep apart by a prefix of their own; revisions are therefore compared, never
counted from 1, except where a test says that nobody else writes. The simulated ones live in virtual time.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.sealedstore import Key, SealedStore
from drivers.errors import Compacted, LeaseLost, StoreRefused, StoreUnavailable
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.memory import MemoryStore
from drivers.store import (
    MAX_REQUEST_BYTES,
    MAX_TXN_OPS,
    MAX_VALUE_BYTES,
    Change,
    ChangeSet,
    Compare,
    Delete,
    KeyValue,
    Put,
    Store,
    Write,
)
from tests.etcdserver import EtcdServer
from tests.sim.etcd import SimEtcd
from tests.sim.network import Network
from tests.virtualtime import VirtualLoop

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


@dataclass
class Bench:
    """A store under test, a prefix that only this test uses, and the one thing the port lacks. `seal`: bytes
    that it adds to a value, which count."""

    store: Store
    prefix: str
    compact: Callable[[int], Awaitable[None]]
    seal: int = 0

    def key(self, name: str) -> str:
        return self.prefix + name

    async def put(self, name: str, value: bytes = b"v", *, lease: int = 0) -> int:
        result = await self.store.txn([], [Put(self.key(name), value, lease)])
        return result.revision

    async def delete(self, name: str) -> int:
        return (await self.store.txn([], [Delete(self.key(name))])).revision

    async def get(self, name: str) -> KeyValue | None:
        return await self.store.get(self.key(name))

    async def names(self) -> list[str]:
        return [kv.key.removeprefix(self.prefix) for kv in (await self.store.list(self.prefix)).items]

    async def names_become(self, expected: list[str]) -> bool:
        for _ in range(80):
            if await self.names() == expected:
                return True
            await asyncio.sleep(0.1)
        return False

    async def now(self) -> int:
        return (await self.store.list(self.prefix)).revision

    def watch(self, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        return cast(AsyncGenerator[ChangeSet, None], self.store.watch(self.prefix, after_revision))

    async def changes(self, after_revision: int, count: int) -> list[ChangeSet]:
        """The first `count` change sets with changes in them after a revision."""
        found: list[ChangeSet] = []
        async with asyncio.timeout(15), aclosing(self.watch(after_revision)) as watch:
            async for change_set in watch:
                if change_set.changes:
                    found.append(change_set)
                if len(found) == count:
                    break
        return found

    def short(self, change_sets: list[ChangeSet]) -> list[list[str]]:
        return [[f"{c.kind} {c.kv.key.removeprefix(self.prefix)}" for c in s.changes] for s in change_sets]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(params=["memory", "sealed", "sim", pytest.param("etcd", marks=pytest.mark.etcd)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def event_loop_policy(kind: str) -> asyncio.AbstractEventLoopPolicy:
    """What makes the loop that a test runs on."""
    return asyncio.DefaultEventLoopPolicy() if kind == "etcd" else VirtualPolicy()


class VirtualPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> VirtualLoop:
        return VirtualLoop()


@pytest.fixture
async def bench(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    clock = asyncio.get_running_loop().time
    prefix = f"/t/{uuid.uuid4()}/"
    if kind == "memory":
        memory = MemoryStore(clock, progress_s=0.5)
        yield Bench(memory, prefix, memory.compact)
        await memory.close()
    elif kind == "sealed":
        memory = MemoryStore(clock, progress_s=0.5)
        monkeypatch.setattr("controller.sealedstore.SEALED", (prefix,))
        yield Bench(SealedStore(memory, (Key("k1", AESGCM(bytes(32))),)), prefix, memory.compact, 64)
        await memory.close()
    elif kind == "sim":
        etcd = SimEtcd(clock, Random(7), Network(Random(8), clock), progress_s=0.5)
        client = etcd.client("c1")
        yield Bench(client, prefix, etcd.compact)
        await client.close()
        await etcd.close()
    else:
        server: EtcdServer = request.getfixturevalue("server")
        store = EtcdStore(EtcdConfig(endpoints=(server.endpoint,), progress_s=0.5))
        yield Bench(store, prefix, store.compact)
        await store.close()


# --- single keys


async def test_a_key_that_was_never_written_reads_as_none(bench: Bench) -> None:
    assert await bench.get("a") is None


async def test_a_put_is_read_back_with_its_revisions(bench: Bench) -> None:
    first = await bench.put("a", b"1")
    second = await bench.put("a", b"2")
    assert second > first
    assert await bench.get("a") == KeyValue(bench.key("a"), b"2", first, second)


async def test_a_deleted_key_is_gone_and_begins_a_new_life_when_put_again(bench: Bench) -> None:
    await bench.put("a")
    await bench.delete("a")
    assert await bench.get("a") is None
    again = await bench.put("a")
    kv = await bench.get("a")
    assert kv is not None
    assert kv.create_revision == kv.mod_revision == again


async def test_deleting_an_absent_key_changes_no_revision(bench: Bench) -> None:
    before = await bench.put("a")
    assert await bench.delete("b") == before


@pytest.mark.parametrize("name", ["ü/ß", "雪", "\U0001f5a5", "a b\tc", "x" * 900])
async def test_any_text_can_be_a_key(bench: Bench, name: str) -> None:
    revision = await bench.put(name, name.encode())
    assert await bench.get(name) == KeyValue(bench.key(name), name.encode(), revision, revision)
    assert await bench.names() == [name]


async def test_keys_sort_as_their_utf8_bytes_do(bench: Bench) -> None:
    names = ["a", "a/b", "ab", "z", "ü", "\uffff", "\U00010000"]
    for name in reversed(names):
        await bench.put(name)
    assert await bench.names() == names


async def test_values_are_any_bytes_up_to_the_limit(bench: Bench) -> None:
    size = MAX_VALUE_BYTES - bench.seal
    value = bytes(range(256)) * (size // 256) + b"\0" * (size % 256)
    await bench.put("a", value)
    await bench.put("b", b"")
    assert [kv.value for kv in (await bench.store.list(bench.prefix)).items] == [value, b""]


async def test_a_value_above_the_limit_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreRefused):
        await bench.put("a", b"x" * (MAX_VALUE_BYTES + 1))
    assert await bench.get("a") is None


async def test_a_transaction_above_the_request_limit_is_refused_whole(bench: Bench) -> None:
    half = b"x" * (MAX_REQUEST_BYTES // 2 + 1)
    with pytest.raises(StoreRefused):
        await bench.store.txn([], [Put(bench.key("a"), half), Put(bench.key("b"), half)])
    assert await bench.names() == []


async def test_an_empty_key_is_refused(bench: Bench) -> None:
    with pytest.raises(StoreRefused):
        await bench.store.get("")
    with pytest.raises(StoreRefused):
        await bench.store.txn([], [Put("", b"")])
    with pytest.raises(StoreRefused):
        await bench.store.txn([Compare("", 0)], [])


# --- transactions


async def test_all_writes_of_a_transaction_share_one_revision(bench: Bench) -> None:
    await bench.put("gone")
    writes = [Put(bench.key(f"{i:03}"), b"v") for i in range(MAX_TXN_OPS - 1)]
    result = await bench.store.txn([], [*writes, Delete(bench.key("gone"))])
    items = (await bench.store.list(bench.prefix)).items
    assert result.ok
    assert {kv.mod_revision for kv in items} == {result.revision}
    assert len(items) == MAX_TXN_OPS - 1


@pytest.mark.parametrize("count", [MAX_TXN_OPS + 1, 1000])
async def test_too_many_operations_are_refused_whole(bench: Bench, count: int) -> None:
    with pytest.raises(StoreRefused):
        await bench.store.txn([], [Put(bench.key(str(i)), b"v") for i in range(count)])
    with pytest.raises(StoreRefused):
        await bench.store.txn([Compare(bench.key(str(i)), 0) for i in range(count)], [])
    assert await bench.names() == []


async def test_as_many_compares_as_writes_fit_in_one_transaction(bench: Bench) -> None:
    keys = [bench.key(f"{i:03}") for i in range(MAX_TXN_OPS)]
    create = await bench.store.txn([Compare(k, 0) for k in keys], [Put(k, b"1") for k in keys])
    assert create.ok
    again = await bench.store.txn([Compare(k, 0) for k in keys], [Put(k, b"2") for k in keys])
    assert not again.ok
    assert {kv.value for kv in again.current.values() if kv} == {b"1"}
    assert sorted(again.current) == keys


async def test_a_key_written_twice_in_a_transaction_is_refused(bench: Bench) -> None:
    key = bench.key("a")
    put, delete = Put(key, b"1"), Delete(key)
    cases: list[list[Write]] = [[put, Put(key, b"2")], [put, delete], [delete, delete]]
    for writes in cases:
        with pytest.raises(StoreRefused):
            await bench.store.txn([], writes)
    assert await bench.names() == []


async def test_create_if_absent_succeeds_once(bench: Bench) -> None:
    key = bench.key("a")
    first = await bench.store.txn([Compare(key, 0)], [Put(key, b"1")])
    second = await bench.store.txn([Compare(key, 0)], [Put(key, b"2")])
    assert (first.ok, second.ok) == (True, False)
    assert second.current == {key: KeyValue(key, b"1", first.revision, first.revision)}


async def test_an_update_compares_the_modification_revision(bench: Bench) -> None:
    key = bench.key("a")
    old = await bench.put("a", b"1")
    new = await bench.put("a", b"2")
    stale = await bench.store.txn([Compare(key, old)], [Put(key, b"3")])
    assert not stale.ok
    assert stale.current == {key: KeyValue(key, b"2", old, new)}
    assert (await bench.store.txn([Compare(key, new)], [Put(key, b"3")])).ok


async def test_a_fence_compares_the_create_revision(bench: Bench) -> None:
    leader, key = bench.key("leader"), bench.key("a")
    created = await bench.put("leader")
    await bench.put("leader", b"renewed")
    mine = Compare(leader, created, on="create")
    assert (await bench.store.txn([mine], [Put(key, b"1")])).ok
    await bench.delete("leader")
    await bench.put("leader", b"another")
    assert not (await bench.store.txn([mine], [Put(key, b"2")])).ok
    kv = await bench.get("a")
    assert kv is not None
    assert kv.value == b"1"


async def test_a_fence_compares_the_lease_that_a_key_hangs_on(bench: Bench) -> None:
    leader, key = bench.key("leader"), bench.key("a")
    mine, other = [await bench.store.grant(60) for _ in range(2)]
    await bench.store.txn([], [Put(leader, b"1", lease=mine)])
    assert (await bench.store.txn([Compare(leader, mine, on="lease")], [Put(key, b"1")])).ok
    assert not (await bench.store.txn([Compare(leader, other, on="lease")], [Put(key, b"2")])).ok
    await bench.put("leader", b"hangs on none")
    assert not (await bench.store.txn([Compare(leader, mine, on="lease")], [Put(key, b"3")])).ok
    kv = await bench.get("a")
    assert kv is not None
    assert kv.value == b"1"


@pytest.mark.parametrize("on", ["mod", "create"])
async def test_absence_is_revision_zero_on_both_compares(bench: Bench, on: str) -> None:
    compare = Compare(bench.key("a"), 0, on=on)  # type: ignore[arg-type]
    assert (await bench.store.txn([compare], [])).ok
    await bench.put("a")
    assert not (await bench.store.txn([compare], [])).ok
    await bench.delete("a")
    assert (await bench.store.txn([compare], [])).ok


async def test_one_failed_compare_of_many_stops_every_write(bench: Bench) -> None:
    revision = await bench.put("a", b"1")
    a, b = bench.key("a"), bench.key("b")
    result = await bench.store.txn(
        [Compare(a, revision), Compare(b, revision)], [Put(a, b"2"), Put(bench.key("c"), b"")]
    )
    assert not result.ok
    assert result.current == {a: KeyValue(a, b"1", revision, revision), b: None}
    assert result.revision == await bench.now()
    assert await bench.names() == ["a"]


async def test_a_transaction_without_compares_and_writes_tells_the_revision(bench: Bench) -> None:
    revision = await bench.put("a")
    result = await bench.store.txn([], [])
    assert result.ok
    assert result.revision == revision


async def test_of_many_concurrent_claims_exactly_one_wins(bench: Bench) -> None:
    key = bench.key("a")
    claims = [bench.store.txn([Compare(key, 0)], [Put(key, b"%d" % i)]) for i in range(50)]
    results = await asyncio.gather(*claims)
    winners = [i for i, result in enumerate(results) if result.ok]
    kv = await bench.get("a")
    assert kv is not None
    assert [b"%d" % i for i in winners] == [kv.value]


async def test_concurrent_counters_lose_no_increment(bench: Bench) -> None:
    key = bench.key("n")
    await bench.put("n", b"0")

    async def increment() -> None:
        kv = await bench.store.get(key)
        while True:
            assert kv is not None
            write = Put(key, b"%d" % (int(kv.value) + 1))
            result = await bench.store.txn([Compare(key, kv.mod_revision)], [write])
            if result.ok:
                return
            kv = result.current[key]

    await asyncio.gather(*(increment() for _ in range(20)))
    kv = await bench.get("n")
    assert kv is not None
    assert kv.value == b"20"


# --- lists and pages


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


# --- watches


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


# --- leases


async def test_keys_of_a_lease_vanish_after_its_ttl(bench: Bench) -> None:
    lease = await bench.store.grant(2)
    await bench.put("kept")
    revision = await bench.put("a", lease=lease)
    await bench.put("b", lease=lease)
    kv = await bench.get("a")
    assert kv == KeyValue(bench.key("a"), b"v", revision, revision, lease)
    await asyncio.sleep(0.8)
    assert await bench.names() == ["a", "b", "kept"]
    assert await bench.names_become(["kept"])


async def test_a_watch_sees_the_end_of_a_lease_in_one_revision(bench: Bench) -> None:
    lease = await bench.store.grant(2)
    result = await bench.store.txn([], [Put(bench.key(n), b"v", lease) for n in ("a", "b")])
    (change_set,) = await bench.changes(result.revision, 1)
    assert sorted(bench.short([change_set])[0]) == ["delete a", "delete b"]
    assert {c.previous.value for c in change_set.changes if c.previous} == {b"v"}


async def test_keep_alive_extends_a_lease(bench: Bench) -> None:
    lease = await bench.store.grant(2)
    await bench.put("a", lease=lease)
    for _ in range(4):
        await asyncio.sleep(0.7)
        assert 0 < await bench.store.keep_alive(lease) <= 2
    assert await bench.names() == ["a"]


async def test_keep_alive_of_a_lease_that_ended_raises_lease_lost(bench: Bench) -> None:
    lease = await bench.store.grant(1)
    await bench.put("a", lease=lease)
    assert await bench.names_become([])
    with pytest.raises(LeaseLost):
        await bench.store.keep_alive(lease)


async def test_revoking_a_lease_deletes_its_keys_at_once(bench: Bench) -> None:
    lease = await bench.store.grant(60)
    await bench.put("a", lease=lease)
    await bench.put("b")
    await bench.store.revoke(lease)
    assert await bench.names() == ["b"]
    with pytest.raises(LeaseLost):
        await bench.store.keep_alive(lease)


async def test_revoking_a_lease_that_is_gone_is_no_error(bench: Bench) -> None:
    lease = await bench.store.grant(60)
    await bench.store.revoke(lease)
    await bench.store.revoke(lease)


async def test_a_put_with_a_lease_that_is_gone_raises_lease_lost_and_writes_nothing(bench: Bench) -> None:
    lease = await bench.store.grant(60)
    await bench.store.revoke(lease)
    with pytest.raises(LeaseLost):
        await bench.store.txn([], [Put(bench.key("a"), b""), Put(bench.key("b"), b"", lease)])
    assert await bench.names() == []


async def test_a_failed_compare_comes_before_a_missing_lease(bench: Bench) -> None:
    lease = await bench.store.grant(60)
    await bench.store.revoke(lease)
    write = Put(bench.key("a"), b"", lease)
    assert not (await bench.store.txn([Compare(bench.key("a"), 1)], [write])).ok


async def test_a_put_without_the_lease_frees_a_key_from_it(bench: Bench) -> None:
    lease = await bench.store.grant(60)
    await bench.put("a", lease=lease)
    await bench.put("a", b"free")
    await bench.store.revoke(lease)
    assert await bench.names() == ["a"]


async def test_a_put_with_another_lease_moves_the_key_to_it(bench: Bench) -> None:
    one, other = await bench.store.grant(60), await bench.store.grant(60)
    await bench.put("a", lease=one)
    await bench.put("a", lease=other)
    await bench.store.revoke(one)
    assert await bench.names() == ["a"]
    await bench.store.revoke(other)
    assert await bench.names() == []


# --- the whole


async def test_status_tells_the_revision_and_one_cluster(bench: Bench) -> None:
    revision = await bench.put("a")
    status = await bench.store.status()
    assert status.revision == revision
    assert status.cluster_id != 0
    assert status.cluster_id == (await bench.store.status()).cluster_id
    assert status.version
    assert status.endpoint


async def test_a_closed_store_refuses_calls_and_ends_watches(bench: Bench) -> None:
    start = await bench.put("a")
    waiting = asyncio.create_task(bench.changes(start, 1))
    await asyncio.sleep(0.1)
    await bench.store.close()
    with pytest.raises(StoreUnavailable):
        await waiting
    with pytest.raises(StoreUnavailable) as caught:
        await bench.put("b")
    assert not caught.value.maybe_committed
    with pytest.raises(StoreUnavailable):
        await bench.store.list(bench.prefix)
