"""etcd's bad days: servers killed, frozen, cut off, partitioned, compacted and restored under the driver.

Deadlines are shortened (`QUICK`), never removed; the proportions are those of the defaults.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.errors import Compacted, LeaseLost, StoreRefused, StoreUnavailable
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.store import ChangeSet, Compare, Put
from tests.etcdserver import EtcdCluster, EtcdServer
from tests.tcpproxy import Proxy

pytestmark = pytest.mark.etcd

QUICK = EtcdConfig(
    endpoints=("http://unset:1",),
    attempt_s=0.5,
    deadline_s=2.0,
    write_s=1.0,
    progress_s=0.4,
    patience_s=4.0,
    watch_deadline_s=1.5,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "one") as running:
        yield running


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(tmp_path_factory.mktemp("three")) as running:
        yield running


@pytest.fixture
def cluster(members: EtcdCluster) -> EtcdCluster:
    members.heal()
    return members


@asynccontextmanager
async def opened(*endpoints: str, config: EtcdConfig = QUICK) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(replace(config, endpoints=endpoints))
    try:
        yield store
    finally:
        await store.close()


class Log:
    """A watch in the background: what it delivered, and how it ended."""

    def __init__(self, store: EtcdStore, prefix: str, after_revision: int) -> None:
        self.change_sets: list[ChangeSet] = []
        self.marked = 0
        self._watch: AsyncGenerator[ChangeSet, None] = store.watch(prefix, after_revision)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with aclosing(self._watch):
            async for change_set in self._watch:
                if change_set.changes:
                    self.change_sets.append(change_set)
                self.marked = change_set.revision

    @property
    def revisions(self) -> list[int]:
        return [change_set.revision for change_set in self.change_sets]

    async def reaches(self, revision: int, within_s: float = 15.0) -> None:
        async with asyncio.timeout(within_s):
            while not self.marked >= revision and not self.task.done():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        if self.task.done():
            self.task.result()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def put(store: EtcdStore, key: str, value: bytes = b"v") -> int:
    return (await store.txn([], [Put(key, value)])).revision


async def put_through(store: EtcdStore, key: str) -> int:
    """Put as a careful caller does: after a failure look whether it happened."""
    before = await store.get(key)
    seen = before.mod_revision if before else 0
    for _ in range(50):
        try:
            result = await store.txn([Compare(key, seen)], [Put(key, b"v")])
        except StoreUnavailable:
            await asyncio.sleep(0.05)
            continue
        if result.ok:
            return result.revision
        current = result.current[key]
        assert current is not None
        return current.mod_revision
    raise AssertionError("the store stayed unavailable")


# --- one server


async def test_a_watch_goes_on_over_a_restart_without_gap_or_repetition(server: EtcdServer) -> None:
    async with opened(server.endpoint) as store:
        revisions = [await put(store, f"k/{i % 3}") for i in range(5)]
        log = Log(store, "k/", revisions[0] - 1)
        await log.reaches(revisions[-1])
        for kill in (server.kill, server.stop):
            kill()
            server.start()
            revisions += [await put_through(store, f"k/{i % 3}") for i in range(5)]
        await log.reaches(revisions[-1])
        assert log.revisions == revisions
        await log.end()


async def test_a_dead_server_is_unavailable_within_the_deadline_and_nothing_was_sent(
    server: EtcdServer,
) -> None:
    async with opened(server.endpoint) as store:
        await put(store, "k")
        server.kill()
        await asyncio.sleep(0.2)  # a write before the reset is noticed may honestly have been sent
        async with asyncio.timeout(QUICK.deadline_s + 1):
            failures = await asyncio.gather(
                store.get("k"), store.list(""), put(store, "k", b"2"), store.grant(9), return_exceptions=True
            )
        assert [type(failure) for failure in failures] == [StoreUnavailable] * 4
        assert not any(f.maybe_committed for f in failures if isinstance(f, StoreUnavailable))
        server.start()
        kv = await store.get("k")
        assert kv is not None
        assert kv.value == b"v"


async def test_a_read_waits_for_a_server_that_comes_back_within_the_deadline(server: EtcdServer) -> None:
    async with opened(server.endpoint, config=replace(QUICK, deadline_s=10.0)) as store:
        revision = await put(store, "k")
        server.kill()
        reading = asyncio.create_task(store.get("k"))
        await asyncio.sleep(0.3)
        server.start()
        kv = await reading
        assert kv is not None
        assert kv.mod_revision == revision


async def test_a_write_whose_reply_is_lost_may_be_committed_and_is_not_sent_again(server: EtcdServer) -> None:
    async with opened(server.endpoint) as store:
        before = await put(store, "n", b"0")
        server.freeze()
        async with asyncio.timeout(QUICK.deadline_s + 1):
            with pytest.raises(StoreUnavailable) as caught:
                await put(store, "n", b"1")
        server.thaw()
        assert caught.value.maybe_committed
        await asyncio.sleep(0.5)  # what the frozen server had received may happen only now, or never
        kv = await store.get("n")
        assert kv is not None
        assert (kv.value, kv.mod_revision - before) in {(b"0", 0), (b"1", 1)}
        assert (await store.status()).revision == kv.mod_revision


async def test_a_reply_that_the_network_swallows_leaves_one_write(server: EtcdServer) -> None:
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}") as store:
        before = await put(store, "n", b"0")
        proxy.mute()
        with pytest.raises(StoreUnavailable) as caught:
            await put(store, "n", b"1")
        assert caught.value.maybe_committed
        proxy.mute(False)
        proxy.cut()
        kv = await store.get("n")
        assert kv is not None
        assert (kv.value, kv.mod_revision) == (b"1", before + 1)
        assert (await store.status()).revision == before + 1


async def test_a_connection_reset_during_a_write_may_have_committed(server: EtcdServer) -> None:
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}") as store:
        await put(store, "n")
        proxy.hold()
        writing = asyncio.create_task(put(store, "n"))
        await asyncio.sleep(0.2)
        proxy.cut()
        proxy.release()
        with pytest.raises(StoreUnavailable) as caught:
            await writing
        assert caught.value.maybe_committed


async def test_writes_that_never_left_are_told_apart_from_those_in_flight(server: EtcdServer) -> None:
    async with opened(server.endpoint, config=replace(QUICK, max_writes=3)) as store:
        await put(store, "k")
        server.freeze()
        results = await asyncio.gather(*(put(store, f"k{i}") for i in range(10)), return_exceptions=True)
        server.thaw()
        failures = [r for r in results if isinstance(r, StoreUnavailable)]
        assert len(failures) == 10
        assert [f.maybe_committed for f in failures].count(True) <= 3 * 2
        sent = {i for i, f in enumerate(failures) if f.maybe_committed}
        await asyncio.sleep(0.3)
        there = {int(kv.key[1:]) for kv in (await store.list("k")).items if kv.key != "k"}
        assert there <= sent


async def test_a_watch_on_a_frozen_server_goes_on_when_it_thaws(server: EtcdServer) -> None:
    config = replace(QUICK, watch_deadline_s=30.0)
    async with opened(server.endpoint, config=config) as store:
        log = Log(store, "k", await put(store, "k"))
        await asyncio.sleep(0.2)
        server.freeze()
        await asyncio.sleep(2.0)  # longer than it takes to give the stream up
        server.thaw()
        revision = await put_through(store, "k")
        await log.reaches(revision, within_s=6)
        assert log.revisions == [revision]
        await log.end()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_watch_raises_when_no_endpoint_answers_for_its_deadline(server: EtcdServer, how: str) -> None:
    async with opened(server.endpoint) as store:
        log = Log(store, "k", await put(store, "k"))
        await asyncio.sleep(0.2)
        getattr(server, how)()
        async with asyncio.timeout(12):
            with pytest.raises(StoreUnavailable):
                await log.task


async def test_a_path_that_stays_dead_is_left_for_a_new_connection(server: EtcdServer) -> None:
    """A firewall forgot the connection: TCP would go on trying for a quarter of an hour."""
    config = replace(QUICK, deadline_s=4.0, watch_deadline_s=8.0)
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}", config=config) as store:
        log = Log(store, "k", await put(store, "k"))
        await log.reaches(1)
        proxy.strand()
        assert await store.get("k") is not None
        revision = await put(store, "k")
        await log.reaches(revision)
        assert log.revisions == [revision]
        await log.end()


async def test_a_stranded_watch_alone_finds_out_by_itself(server: EtcdServer) -> None:
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}") as store:
        log = Log(store, "k", await put(store, "k"))
        await log.reaches(1)
        proxy.strand()
        revision = server.put("k")
        await log.reaches(revision)
        assert log.revisions == [revision]
        await log.end()


async def test_compaction_while_a_watch_was_cut_off_raises_compacted(server: EtcdServer) -> None:
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}") as store:
        log = Log(store, "k", await put(store, "k"))
        await asyncio.sleep(0.2)
        proxy.refuse()
        proxy.cut()
        async with opened(server.endpoint) as other:
            await put(other, "k")
            await other.compact(await put(other, "k"))
        proxy.refuse(False)
        async with asyncio.timeout(10):
            with pytest.raises(Compacted):
                await log.task


async def test_compaction_elsewhere_does_not_hurt_a_quiet_watch_that_was_cut_off(server: EtcdServer) -> None:
    """Progress marks carry it over: nothing happened under its prefix, and it knows."""
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}") as store:
        log = Log(store, "k", await put(store, "k"))
        elsewhere = [await put(store, "x") for _ in range(10)]
        await log.reaches(elsewhere[-1])
        proxy.refuse()
        proxy.cut()
        await store_compact(server, elsewhere[-1])
        proxy.refuse(False)
        revision = await put_through(store, "k")
        await log.reaches(revision)
        assert log.revisions == [revision]
        await log.end()


async def store_compact(server: EtcdServer, revision: int) -> None:
    async with opened(server.endpoint) as other:
        await other.compact(revision)


async def test_a_restored_store_raises_compacted_on_watches_and_pages(server: EtcdServer) -> None:
    async with opened(server.endpoint) as store:
        await put(store, "k")
        server.stop()
        shutil.copytree(server.data_dir, server.directory / "backup")
        server.start()
        revision = 0
        for _ in range(5):
            revision = await put_through(store, "k")
        log = Log(store, "k", revision)
        await asyncio.sleep(0.2)
        server.kill()
        shutil.rmtree(server.data_dir)
        shutil.copytree(server.directory / "backup", server.data_dir)
        server.start()
        async with asyncio.timeout(10):
            with pytest.raises(Compacted, match="set back"):
                await log.task
        with pytest.raises(Compacted):
            await store.page("k", revision=revision)
        assert (await store.status()).revision < revision


async def test_a_replaced_store_is_refused(server: EtcdServer) -> None:
    """The same address, another cluster: every decision so far was about somebody else's data."""
    async with opened(server.endpoint) as store:
        log = Log(store, "k", await put(store, "k"))
        server.kill()
        shutil.rmtree(server.data_dir)
        server.token = "another"
        server.start()
        with pytest.raises(StoreRefused, match="belongs to cluster"):
            await store.get("k")
        with pytest.raises(StoreRefused, match="belongs to cluster"):
            await put(store, "k")
        with pytest.raises(StoreRefused, match="belongs to cluster"):
            await log.task
        async with opened(server.endpoint) as fresh:
            assert await fresh.get("k") is None


async def test_a_lease_outlives_a_restart_of_the_server(server: EtcdServer) -> None:
    async with opened(server.endpoint, config=replace(QUICK, deadline_s=8.0)) as store:
        lease = await store.grant(30)
        await store.txn([], [Put("k", b"", lease)])
        server.kill()
        server.start()
        assert await store.keep_alive(lease) > 0
        await store.revoke(lease)
        with pytest.raises(LeaseLost):
            await store.keep_alive(lease)
        assert await store.get("k") is None


async def test_a_full_database_refuses_writes_and_says_that_nothing_happened(tmp_path: Path) -> None:
    with EtcdServer(tmp_path, args=(f"--quota-backend-bytes={2 << 20}",)) as server:
        async with opened(server.endpoint) as store:
            with pytest.raises(StoreUnavailable, match="space exceeded") as caught:
                for i in range(20):
                    await put(store, f"k/{i:02}", b"x" * 500_000)
                    await asyncio.sleep(0.15)  # etcd measures its file as it was at the last commit
            assert not caught.value.maybe_committed
            items = (await store.list("k/")).items
            assert 0 < len(items) < 20
            assert [kv.key for kv in items] == [f"k/{i:02}" for i in range(len(items))]


async def test_large_values_come_in_pages_that_fit_a_message(server: EtcdServer) -> None:
    config = replace(QUICK, max_message_bytes=2 << 20, page_bytes=1 << 20)
    async with opened(server.endpoint, config=config) as store:
        for i in range(60):
            await put(store, f"k/{i:02}", b"%02d" % i * 50_000)
        page = await store.list("k/")
        assert [kv.value[:2] for kv in page.items] == [b"%02d" % i for i in range(60)]
        part = await store.page("k/", limit=60)
        assert part.more
        assert part.items == page.items[: len(part.items)]
        assert len(part.items) > 1


async def test_a_list_of_many_keys_is_complete_and_in_order(server: EtcdServer) -> None:
    async with opened(server.endpoint, config=replace(QUICK, page_keys=700)) as store:
        for start in range(0, 5000, 100):
            await store.txn([], [Put(f"k/{i:05}", b"v") for i in range(start, start + 100)])
        page = await store.list("k/")
        assert [kv.key for kv in page.items] == [f"k/{i:05}" for i in range(5000)]
        assert not page.more


async def test_a_list_of_many_pages_is_of_one_revision_while_it_is_being_written(server: EtcdServer) -> None:
    async with opened(server.endpoint, config=replace(QUICK, page_keys=7)) as store:
        keys = [f"k/{i:03}" for i in range(100)]

        async def write(number: int) -> None:
            await store.txn([], [Put(key, b"%d" % number) for key in keys])

        await write(0)
        for number in range(1, 20):
            page, _ = await asyncio.gather(store.list("k/"), write(number))
            assert [kv.key for kv in page.items] == keys
            assert len({kv.value for kv in page.items}) == 1


async def test_a_watch_catches_up_with_more_than_one_batch_of_revisions(server: EtcdServer) -> None:
    """etcd sends at most 1000 revisions at once to a watch that catches up."""
    async with opened(server.endpoint) as store:
        start = await put(store, "k/0")
        revisions: list[int] = []
        for i in range(0, 2500, 50):
            revisions += await asyncio.gather(*(put(store, f"k/{i + j}") for j in range(50)))
        log = Log(store, "k/", start)
        await log.reaches(max(revisions))
        assert log.revisions == sorted(revisions)
        await log.end()


async def test_one_revision_in_many_fragments_is_one_change_set(server: EtcdServer) -> None:
    """A live watch: 100 changes with their previous values are twice what etcd puts in one message."""
    async with opened(server.endpoint) as store:
        keys = [f"k/{i:03}" for i in range(100)]
        await store.txn([], [Put(key, b"1" * 14_000) for key in keys])
        log = Log(store, "k/", (await store.status()).revision)
        await asyncio.sleep(0.3)
        revision = (await store.txn([], [Put(key, b"2" * 14_000) for key in keys])).revision
        await log.reaches(revision)
        (change_set,) = log.change_sets
        assert [change.kv.key for change in change_set.changes] == keys
        assert {c.previous.value[:1] for c in change_set.changes if c.previous} == {b"1"}
        await log.end()


async def test_a_cancelled_call_leaves_the_store_usable(server: EtcdServer) -> None:
    async with opened(server.endpoint) as store:
        await put(store, "k")
        server.freeze()
        calls = [asyncio.create_task(call) for call in (put(store, "k"), store.get("k"), store.grant(9))]
        log = Log(store, "k", 1)
        await asyncio.sleep(0.2)
        for task in (*calls, log.task):
            task.cancel()
        results = await asyncio.gather(*calls, log.task, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        server.thaw()
        assert await store.get("k") is not None


# --- three members


async def test_a_dead_first_endpoint_costs_nothing_but_a_moment(server: EtcdServer) -> None:
    async with opened("http://127.0.0.1:9", server.endpoint) as store:
        async with asyncio.timeout(2):
            revision = await put(store, "k")
        assert (await store.status()).endpoint == server.endpoint
        log = Log(store, "k", revision - 1)
        await log.reaches(revision)
        await log.end()


async def test_a_black_hole_as_first_endpoint_is_passed(server: EtcdServer) -> None:
    async with Proxy(server.endpoint) as proxy, opened(f"http://{proxy.address}", server.endpoint) as store:
        proxy.hold()
        assert await store.get("k") is None
        assert (await put(store, "k")) > 0
        assert (await store.status()).endpoint == server.endpoint
        proxy.release()


async def test_endpoints_of_two_clusters_are_refused(server: EtcdServer, tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "other") as other:
        async with opened(server.endpoint, other.endpoint) as store:
            revision = await put(store, "k")
            log = Log(store, "k", revision)
            server.kill()
            with pytest.raises(StoreRefused, match="belongs to cluster"):
                await store.get("k")
            with pytest.raises(StoreRefused, match="belongs to cluster"):
                await put(store, "k")
            with pytest.raises(StoreRefused, match="belongs to cluster"):
                await log.task
        assert other.put("probe") == 2, "nothing was written to the other cluster"


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_calls_and_watches_go_on_at_another_member(cluster: EtcdCluster, how: str) -> None:
    config = replace(QUICK, deadline_s=10.0, write_s=3.0, watch_deadline_s=20.0)
    async with opened(*cluster.endpoints, config=config) as store:
        revisions = [await put_through(store, "k") for _ in range(5)]
        log = Log(store, "k", revisions[0] - 1)
        await log.reaches(revisions[-1])
        victim = next(m for m in cluster.members if m.endpoint == cluster.endpoints[0])
        getattr(victim, how)()
        async with asyncio.timeout(10):
            assert (await store.get("k")) is not None
        revisions += [await put_through(store, "k") for _ in range(5)]
        await log.reaches(revisions[-1])
        assert log.revisions == revisions
        await log.end()


async def test_a_watch_moved_to_a_member_that_lags_does_not_go_back(cluster: EtcdCluster) -> None:
    first, second, third = cluster.members
    config = replace(QUICK, deadline_s=10.0, write_s=3.0, watch_deadline_s=20.0)
    async with (
        opened(first.endpoint, second.endpoint, config=config) as store,
        opened(third.endpoint, config=config) as other,
    ):
        revisions = [await put_through(other, "k")]
        log = Log(store, "k", revisions[0] - 1)
        second.freeze()
        revisions += [await put_through(other, f"k{i % 3}") for i in range(30)]
        await log.reaches(revisions[-1])
        second.thaw()
        first.freeze()  # the watch must go to the second, which knows nothing of the last thirty
        revisions += [await put_through(other, f"k{i % 3}") for i in range(10)]
        await log.reaches(revisions[-1])
        assert log.revisions == revisions
        await log.end()


async def test_without_a_majority_nothing_is_answered_from_memory(cluster: EtcdCluster) -> None:
    first, second, third = cluster.members
    async with opened(first.endpoint) as store, opened(first.endpoint) as watcher:
        await put_through(store, "k")
        log = Log(watcher, "k", 1)
        await log.reaches(1)
        second.kill()
        third.kill()
        async with asyncio.timeout(QUICK.deadline_s + 1):
            failures = await asyncio.gather(
                store.get("k"), store.status(), put(store, "k"), store.keep_alive(1), return_exceptions=True
            )
        assert [type(failure) for failure in failures] == [StoreUnavailable] * 4
        async with asyncio.timeout(15):
            with pytest.raises(StoreUnavailable):
                await log.task
        second.start(wait=False)
        await put_through(store, "k")
