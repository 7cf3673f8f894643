"""What every Store does with transactions: compares, fences, and all writes or none.

Revisions are compared, never counted from 1, except where a test says that nobody else writes.
"""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import StoreRefused
from drivers.store import (
    MAX_TXN_OPS,
    Compare,
    Delete,
    KeyValue,
    Put,
    Write,
)
from tests.contract.store.bench import Bench

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


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
