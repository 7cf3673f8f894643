"""What every Store does with leases: what hangs on them, and how they end.

Revisions are compared, never counted from 1, except where a test says that nobody else writes.
"""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import LeaseLost
from drivers.store import (
    Compare,
    KeyValue,
    Put,
)
from tests.contract.store.bench import Bench

# Its successor chooses a loop for all tests of a directory, not for one parameter of a module.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")


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
