"""What the simulated etcd and the ways to it do beyond the Store contract: everything that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import pytest

from drivers.errors import Compacted, LeaseLost, StoreRefused, StoreUnavailable
from drivers.store import ChangeSet, Compare, Delete, Put, Store, TxnResult, Write
from tests import virtualtime
from tests.sim.etcd import SimEtcd
from tests.sim.network import Network
from tests.sim.store import DEADLINE_S, WATCH_DEADLINE_S, WRITE_S, SimStore


@dataclass
class Bench:
    etcd: SimEtcd
    network: Network
    one: SimStore
    other: SimStore
    began_at: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    @property
    def passed_s(self) -> float:
        return asyncio.get_running_loop().time() - self.began_at

    def value(self, key: str = "a") -> bytes | None:
        kv = self.etcd.peek(key)
        return None if kv is None else kv.value


def world(seed: int, test: Callable[[Bench], Coroutine[Any, Any, Any]]) -> Any:
    """Run `test` in a world of its own and return what it returns."""

    async def main() -> Any:
        clock = asyncio.get_running_loop().time
        network = Network(Random(seed), clock)
        etcd = SimEtcd(clock, Random(seed + 1), network)
        bench = Bench(etcd, network, etcd.client("c1"), etcd.client("c2"))
        try:
            return await test(bench)
        finally:
            await etcd.close()

    return virtualtime.run(main())


async def put(store: Store, value: bytes = b"1", key: str = "a", lease: int = 0) -> TxnResult:
    return await store.txn([], [Put(key, value, lease)])


async def lost(call: Coroutine[Any, Any, Any]) -> bool:
    """Whether the call, which must fail, may have been committed."""
    with pytest.raises(StoreUnavailable) as caught:
        await call
    return caught.value.maybe_committed


@asynccontextmanager
async def following(store: Store, after_revision: int = 1) -> AsyncIterator[list[ChangeSet]]:
    """What a watch brought so far."""
    seen: list[ChangeSet] = []

    async def follow() -> None:
        stream = cast(AsyncGenerator[ChangeSet, None], store.watch("", after_revision))
        async with aclosing(stream):
            async for change_set in stream:
                seen.append(change_set)

    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait({task})


def keys_of(seen: Sequence[ChangeSet]) -> list[str]:
    return [change.kv.key for change_set in seen for change in change_set.changes]


# --- writes whose end is not seen


def test_a_write_whose_reply_is_lost_may_have_happened_and_has() -> None:
    async def test(bench: Bench) -> None:
        bench.one.ways.lose_reply = 1.0
        assert await lost(put(bench.one))
        assert bench.value() == b"1"
        assert WRITE_S <= bench.passed_s < WRITE_S + 1

    world(1, test)


def test_a_write_that_never_arrives_may_have_happened_and_has_not() -> None:
    async def test(bench: Bench) -> None:
        bench.one.ways.lose_request = 1.0
        assert await lost(put(bench.one))
        await asyncio.sleep(100)
        assert bench.value() is None

    world(1, test)


def test_a_write_that_is_turned_away_has_certainly_not_happened() -> None:
    async def test(bench: Bench) -> None:
        bench.one.ways.refuse = 1.0
        assert not await lost(put(bench.one))
        assert bench.value() is None

    world(1, test)


def test_a_write_can_happen_seconds_after_its_sender_gave_up() -> None:
    async def test(bench: Bench) -> tuple[bytes | None, bytes | None]:
        bench.one.ways.delay, bench.one.ways.delay_s = 1.0, 30.0
        try:
            await put(bench.one)
        except StoreUnavailable as error:
            assert error.maybe_committed
            before = bench.value()
            await asyncio.sleep(30)
            return before, bench.value()
        return bench.value(), bench.value()

    assert (None, b"1") in {world(seed, test) for seed in range(20)}


def test_a_reset_connection_is_learnt_of_at_once_and_tells_nothing_of_the_effect() -> None:
    async def test(bench: Bench) -> bytes | None:
        bench.one.ways.reset = 1.0
        assert await lost(put(bench.one))
        assert bench.passed_s < 1
        await asyncio.sleep(10)
        return bench.value()

    assert {world(seed, test) for seed in range(20)} == {None, b"1"}


def test_a_write_into_a_partition_can_arrive_when_it_heals() -> None:
    async def test(bench: Bench) -> tuple[bytes | None, bytes | None]:
        await put(bench.one, b"0")
        bench.network.cut("c1", "etcd")
        assert await lost(put(bench.one))
        assert not await lost(put(bench.one, b"2"))  # by now it knows that it is not connected
        before = bench.value()
        bench.network.heal("c1", "etcd")
        await asyncio.sleep(30)
        return before, bench.value()

    assert {world(seed, test) for seed in range(20)} == {(b"0", b"0"), (b"0", b"1")}


def test_what_a_dead_process_sent_still_arrives_and_nobody_hears_the_answer() -> None:
    async def test(bench: Bench) -> None:
        await bench.one.get("a")
        writing = asyncio.create_task(put(bench.one))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.one.die()
        assert await lost(writing)  # type: ignore[arg-type]
        assert bench.value() is None
        await asyncio.sleep(1)
        assert bench.value() == b"1"
        assert not await lost(put(bench.one))

    world(1, test)


def test_a_cancelled_write_is_on_its_way_nevertheless() -> None:
    async def test(bench: Bench) -> None:
        await bench.one.get("a")
        writing = asyncio.create_task(put(bench.one))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        await asyncio.sleep(1)
        assert bench.value() == b"1"

    world(1, test)


def test_a_short_partition_delays_a_write_and_loses_nothing() -> None:
    async def test(bench: Bench) -> None:
        await bench.one.get("a")
        bench.network.cut("c1", "etcd")
        asyncio.get_running_loop().call_later(2, bench.network.heal, "c1", "etcd")
        assert (await put(bench.one)).ok
        assert bench.passed_s >= 2

    world(1, test)


# --- reads


def test_a_read_is_asked_again_when_its_answer_is_lost() -> None:
    async def test(bench: Bench) -> int:
        await put(bench.other)
        bench.one.ways.lose_reply = bench.one.ways.reset = 0.4
        answers = 0
        for _ in range(20):
            try:
                found = await bench.one.get("a")
            except StoreUnavailable as error:
                assert not error.maybe_committed
            else:
                assert found is not None
                answers += 1
        return answers

    assert world(1, test) > 10


def test_a_read_gives_up_at_its_deadline() -> None:
    async def test(bench: Bench) -> None:
        bench.network.isolate("c1")
        assert not await lost(bench.one.get("a"))
        assert DEADLINE_S - 1 < bench.passed_s <= DEADLINE_S

    world(1, test)


def test_reads_are_linearizable_however_late_watches_are() -> None:
    async def test(bench: Bench) -> None:
        bench.one.ways.lag_s = 5.0
        async with following(bench.one) as seen:
            await asyncio.sleep(1)
            await put(bench.other)
            assert await bench.one.get("a") is not None
            assert keys_of(seen) == []
            await asyncio.sleep(10)
            assert keys_of(seen) == ["a"]

    world(1, test)


# --- watches


def test_a_stalled_watch_says_nothing_and_catches_up() -> None:
    async def test(bench: Bench) -> None:
        async with following(bench.one) as seen:
            await asyncio.sleep(1)
            bench.one.ways.stalled = True
            await put(bench.other)
            await asyncio.sleep(20)
            assert seen == []
            bench.one.ways.stalled = False
            await put(bench.other, b"2")
            await asyncio.sleep(8)
            assert keys_of(seen) == ["a", "a"]

    world(1, test)


def test_a_watch_resumes_after_a_partition_without_gap_or_repetition() -> None:
    async def test(bench: Bench) -> None:
        async with following(bench.one) as seen:
            for number in range(60):
                if number == 20:
                    bench.network.cut("c1", "etcd")
                if number == 40:
                    bench.network.heal("c1", "etcd")
                await put(bench.other, key=f"{number:02}")
                await asyncio.sleep(1)
            await asyncio.sleep(20)
            assert keys_of(seen) == [f"{number:02}" for number in range(60)]

    world(1, test)


def test_a_watch_that_is_cut_off_gives_up_after_its_deadline() -> None:
    async def test(bench: Bench) -> None:
        stream = bench.one.watch("", 1)
        assert await anext(stream) == ChangeSet(1, ())
        bench.network.isolate("c1")
        with pytest.raises(StoreUnavailable):
            await anext(stream)
        assert WATCH_DEADLINE_S < bench.passed_s < 2 * WATCH_DEADLINE_S

    world(1, test)


def test_a_watch_that_missed_what_was_compacted_raises_compacted() -> None:
    async def test(bench: Bench) -> None:
        stream = bench.one.watch("", 1)
        await anext(stream)
        bench.network.isolate("c1")
        await put(bench.other)
        await put(bench.other)
        await asyncio.sleep(15)
        await bench.etcd.compact()
        bench.network.heal_all()
        with pytest.raises(Compacted):
            await anext(stream)

    world(1, test)


def test_progress_marks_come_every_few_seconds_and_no_more() -> None:
    async def test(bench: Bench) -> None:
        async with following(bench.one) as seen:
            await asyncio.sleep(60)
            assert 8 <= len(seen) <= 12

    world(1, test)


# --- leases


def test_leases_have_their_whole_ttl_again_after_a_restart() -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.one.grant(10)
        await put(bench.one, lease=lease)
        await asyncio.sleep(8)
        bench.etcd.stop()
        await asyncio.sleep(60)
        bench.etcd.start()
        await asyncio.sleep(9)
        assert bench.value() == b"1"
        await asyncio.sleep(2)
        assert bench.value() is None

    world(1, test)


def test_leases_run_out_while_the_server_is_frozen() -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.one.grant(10)
        await put(bench.one, lease=lease)
        bench.etcd.freeze()
        assert not await lost(bench.one.keep_alive(lease))
        await asyncio.sleep(8)
        bench.etcd.thaw()
        with pytest.raises(LeaseLost):
            await bench.one.keep_alive(lease)
        assert bench.value() is None

    world(1, test)


def test_leases_can_end_in_bulk_with_all_their_keys() -> None:
    async def test(bench: Bench) -> None:
        leases = [await store.grant(60) for store in (bench.one, bench.other)]
        await put(bench.one, key="a", lease=leases[0])
        await put(bench.other, key="b", lease=leases[1])
        await put(bench.other, key="c")
        await bench.etcd.revoke_all_leases()
        assert [kv.key for kv in bench.etcd.peek_all("")] == ["c"]
        for lease in leases:
            with pytest.raises(LeaseLost):
                await bench.one.keep_alive(lease)

    world(1, test)


# --- the server


def test_a_server_that_is_down_has_certainly_not_written_and_one_that_went_down_may_have() -> None:
    async def test(bench: Bench) -> None:
        await bench.one.get("a")
        writing = asyncio.create_task(put(bench.one))
        await asyncio.sleep(0)
        bench.etcd.stop()
        assert await lost(writing)  # type: ignore[arg-type]
        assert not await lost(put(bench.one))
        bench.etcd.start()
        assert (await put(bench.one)).ok

    world(1, test)


def test_a_frozen_server_does_when_it_wakes_what_it_was_told() -> None:
    async def test(bench: Bench) -> tuple[bytes | None, bytes | None]:
        await bench.one.get("a")
        bench.etcd.freeze()
        assert await lost(put(bench.one))
        before = bench.value()
        bench.etcd.thaw()
        await asyncio.sleep(1)
        return before, bench.value()

    assert (None, b"1") in {world(seed, test) for seed in range(5)}


def test_a_full_server_takes_nothing_and_gives_everything() -> None:
    async def test(bench: Bench) -> None:
        await put(bench.one)
        bench.etcd.full = True
        assert not await lost(put(bench.one, b"2"))
        assert not await lost(bench.one.grant(10))
        assert await bench.one.get("a") is not None
        assert (await bench.one.txn([], [Delete("a")])).ok

    world(1, test)


def test_a_restored_store_is_the_same_cluster_with_an_older_past_and_its_old_leases() -> None:
    async def test(bench: Bench) -> None:
        lease = await bench.one.grant(10)
        await put(bench.one, b"old", lease=lease)
        status = await bench.one.status()
        backup = bench.etcd.snapshot()
        await bench.one.revoke(lease)
        await put(bench.one, b"new")
        stream = bench.other.watch("", status.revision)
        assert [c.kv.value for c in (await anext(stream)).changes] == [b""]
        await asyncio.sleep(100)
        bench.etcd.restore(backup)
        again = await bench.one.status()
        assert (again.cluster_id, again.revision) == (status.cluster_id, status.revision)
        assert bench.value() == b"old"
        assert await bench.one.keep_alive(lease) == 10
        await put(bench.one, b"other", key="b")
        with pytest.raises(Compacted):
            while True:
                await anext(stream)
        await asyncio.sleep(11)
        assert bench.value() is None

    world(1, test)


def test_a_lease_id_is_never_given_twice_even_by_a_restored_store() -> None:
    async def test(bench: Bench) -> None:
        backup = bench.etcd.snapshot()
        ids = [await bench.one.grant(10)]
        bench.etcd.restore(backup)
        ids.append(await bench.one.grant(10))
        bench.etcd.wipe()
        ids.append(await bench.one.grant(10))
        assert len(set(ids)) == 3

    world(1, test)


def test_a_store_can_be_restored_while_it_is_down() -> None:
    async def test(bench: Bench) -> None:
        await put(bench.one, b"old")
        backup = bench.etcd.snapshot()
        await put(bench.one, b"new")
        bench.etcd.stop()
        bench.etcd.restore(backup)
        assert not await lost(put(bench.one))
        bench.etcd.start()
        found = await bench.one.get("a")
        assert found is not None
        assert found.value == b"old"

    world(1, test)


def test_a_lost_store_is_empty_and_young() -> None:
    async def test(bench: Bench) -> None:
        await put(bench.one)
        status = await bench.one.status()
        bench.etcd.wipe()
        page = await bench.one.list("")
        assert (page.items, page.revision) == ((), 1)
        assert (await bench.one.status()).cluster_id == status.cluster_id

    world(1, test)


def test_a_store_of_another_cluster_is_refused_until_the_process_is_started_again() -> None:
    async def test(bench: Bench) -> None:
        await put(bench.one)
        bench.etcd.wipe(same_cluster=False)
        for _ in range(2):
            with pytest.raises(StoreRefused):
                await bench.one.get("a")
        assert await bench.etcd.client("c1").get("a") is None

    world(1, test)


# --- the truth


def test_every_transaction_that_took_place_is_told_with_its_author_and_its_end() -> None:
    async def test(bench: Bench) -> None:
        heard: list[tuple[str, bool]] = []

        def listen(client: str, compares: Sequence[Compare], writes: Sequence[Write], end: TxnResult) -> None:
            heard.append((client, end.ok))

        bench.etcd.listeners.append(listen)
        await put(bench.one)
        await bench.other.txn([Compare("a", 0)], [Put("a", b"2")])
        bench.one.ways.lose_reply = 1.0
        assert await lost(put(bench.one, b"3"))
        bench.one.ways.lose_reply, bench.one.ways.lose_request = 0.0, 1.0
        assert await lost(put(bench.one, b"4"))
        assert heard == [("c1", True), ("c2", False), ("c1", True)]

    world(1, test)


def test_the_end_of_a_lease_is_told_as_every_change() -> None:
    async def test(bench: Bench) -> None:
        gone: list[str] = []
        bench.etcd.on_change.append(
            lambda change_set: gone.extend(c.kv.key for c in change_set.changes if c.kind == "delete")
        )
        await put(bench.one, lease=await bench.one.grant(5))
        await asyncio.sleep(6)
        assert gone == ["a"]

    world(1, test)


def test_two_runs_of_one_seed_are_one_run() -> None:
    async def test(bench: Bench) -> list[tuple[float, str]]:
        log: list[tuple[float, str]] = []
        for store in (bench.one, bench.other):
            store.ways.lose_reply = store.ways.delay = store.ways.reset = 0.2

        async def work(store: SimStore) -> None:
            for number in range(20):
                try:
                    await put(store, b"%d" % number)
                    log.append((bench.passed_s, f"{store.name} wrote {number}"))
                except StoreUnavailable as error:
                    log.append((bench.passed_s, f"{store.name} {error.maybe_committed}"))

        async with following(bench.one) as seen:
            await asyncio.gather(work(bench.one), work(bench.other))
            return [*log, *((float(s.revision), "") for s in seen)]

    assert world(5, test) == world(5, test)
    assert world(5, test) != world(6, test)
