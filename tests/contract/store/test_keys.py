"""What every Store does with single keys, and when it is closed: revisions, order, limits.

Revisions are compared, never counted from 1, except where a test says that nobody else writes.
"""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import StoreRefused, StoreUnavailable
from drivers.store import (
    MAX_REQUEST_BYTES,
    MAX_VALUE_BYTES,
    Compare,
    KeyValue,
    Put,
)
from tests.contract.store.bench import Bench

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


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
