"""Is it still the store that we knew? The rules as a table, then replicas with disks, and restores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from controller import keys
from controller.model import ClusterRecord, Decision, StoreMemory
from controller.storewatch import Horizon, Past, Seen, StoreTrust, StoreWatch, judge
from drivers.memory import MemoryStore
from drivers.store import Put
from tests import virtualtime
from tests.faultystore import FaultyStore

KNOWN = StoreMemory(cluster="c", revision=100, value="v100", high_revision=120)

# (name, remembered, seen, verdict)
TABLE = [
    ("an empty store, no memory", None, Seen("", 1, 0, ""), StoreTrust.NEW),
    ("only the election's keys, no memory", None, Seen("c", 9, 8, "v"), StoreTrust.NEW),
    ("objects, no memory", None, Seen("c", 9, 8, "v", occupied=True), StoreTrust.UNKNOWN_STORE),
    ("nothing happened", KNOWN, Seen("c", 120, 100, "v100"), StoreTrust.TRUSTED),
    ("others wrote", KNOWN, Seen("c", 500, 100, "v100"), StoreTrust.TRUSTED),
    ("a later heartbeat of one past", KNOWN, Seen("c", 130, 125, "w", past=Past.SAME), StoreTrust.TRUSTED),
    ("a later heartbeat, past compacted", KNOWN, Seen("c", 130, 125, "w"), StoreTrust.TRUSTED),
    (
        "a later heartbeat, another past",
        KNOWN,
        Seen("c", 130, 125, "w", past=Past.OTHER),
        StoreTrust.RESTORED,
    ),
    ("a lower revision, same heartbeat", KNOWN, Seen("c", 119, 100, "v100"), StoreTrust.RESTORED),
    ("a lower revision and heartbeat", KNOWN, Seen("c", 90, 80, "v80"), StoreTrust.RESTORED),
    ("an older heartbeat at a higher revision", KNOWN, Seen("c", 300, 95, "v95"), StoreTrust.RESTORED),
    ("another value at the same revision", KNOWN, Seen("c", 130, 100, "other"), StoreTrust.RESTORED),
    ("no heartbeat any more", KNOWN, Seen("c", 300, 0, ""), StoreTrust.RESTORED),
    ("another cluster", KNOWN, Seen("d", 300, 100, "v100"), StoreTrust.RESTORED),
    ("no cluster any more", KNOWN, Seen("", 300, 100, "v100"), StoreTrust.RESTORED),
    ("emptied and begun anew", KNOWN, Seen("", 1, 0, ""), StoreTrust.RESTORED),
    (
        "no cluster known yet",
        StoreMemory(high_revision=5),
        Seen("c", 7, 6, "v"),
        StoreTrust.TRUSTED,
    ),
    (
        "no heartbeat known yet, lower revision",
        StoreMemory(cluster="c", high_revision=50),
        Seen("c", 40, 30, "v"),
        StoreTrust.RESTORED,
    ),
    (
        "a doubt of before",
        msgspec.structs.replace(KNOWN, doubt="restored", doubt_revision=90, sentence="s"),
        Seen("c", 500, 100, "v100"),
        StoreTrust.RESTORED,
    ),
    (
        "unknown before, and still",
        msgspec.structs.replace(KNOWN, doubt="unknown-store", sentence="s"),
        Seen("c", 500, 100, "v100"),
        StoreTrust.UNKNOWN_STORE,
    ),
    (
        "unknown before, restored now",
        msgspec.structs.replace(KNOWN, doubt="unknown-store", sentence="s"),
        Seen("c", 50, 40, "v40"),
        StoreTrust.RESTORED,
    ),
]


@pytest.mark.parametrize(("name", "remembered", "seen", "trust"), TABLE, ids=[row[0] for row in TABLE])
def test_the_verdict_on(name: str, remembered: StoreMemory | None, seen: Seen, trust: StoreTrust) -> None:
    verdict = judge(remembered, seen)
    assert verdict.trust is trust
    assert bool(verdict.sentence) == (trust in (StoreTrust.RESTORED, StoreTrust.UNKNOWN_STORE))


class Disk:
    def __init__(self) -> None:
        self.data: bytes | None = None
        self.full = False

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.data = data

    @property
    def memory(self) -> StoreMemory:
        assert self.data is not None
        return msgspec.json.decode(self.data, type=StoreMemory)


class Site:
    """A store and what stands in it; `back` replaces it by one that took another way from some point on."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.store = self._new()

    @staticmethod
    def _new() -> MemoryStore:
        return MemoryStore(asyncio.get_running_loop().time)

    def replica(self) -> StoreWatch:
        return StoreWatch(self.disk.load, self.disk.save)

    async def found(self) -> None:
        record = ClusterRecord(id="c", created_at="t")
        await self.store.txn([], [Put(keys.CLUSTER, msgspec.json.encode(record))])

    async def beat(self, value: str) -> int:
        return (await self.store.txn([], [Put(keys.HEARTBEAT, value.encode())])).revision

    async def write(self, times: int = 1, key: str = keys.OBJECTS + "domains/default/a") -> None:
        for number in range(times):
            await self.store.txn([], [Put(key, b"%d" % number)])

    async def back(self, replay: Callable[[], Awaitable[None]]) -> None:
        """The store is replaced by one in which only `replay` happened."""
        await self.store.close()
        self.store = self._new()
        await replay()

    async def close(self) -> None:
        await self.store.close()


def in_a_site(main: Callable[[Site], Awaitable[None]]) -> None:
    async def run() -> None:
        site = Site()
        await main(site)
        await site.close()

    virtualtime.run(run())


def test_nothing_is_allowed_before_the_store_was_examined() -> None:
    async def main(site: Site) -> None:
        watch = site.replica()
        assert watch.trust is StoreTrust.UNEXAMINED
        assert not watch.may_mutate
        assert not watch.may_create

    in_a_site(main)


def test_a_new_store_is_free_and_known_again_after_a_restart() -> None:
    async def main(site: Site) -> None:
        watch = site.replica()
        assert await watch.examine(site.store) is StoreTrust.NEW
        assert watch.may_create
        await site.found()
        await site.beat("one")
        await site.write(5)
        assert await watch.examine(site.store) is StoreTrust.TRUSTED
        again = site.replica()
        assert await again.examine(site.store) is StoreTrust.TRUSTED

    in_a_site(main)


def test_a_store_met_without_memory_creates_nothing_until_every_node_was_read_over_restarts_too() -> None:
    async def main(site: Site) -> None:
        await site.found()
        await site.write(3)
        watch = site.replica()
        assert await watch.examine(site.store) is StoreTrust.UNKNOWN_STORE
        assert watch.may_mutate
        assert not watch.may_create
        again = site.replica()
        assert await again.examine(site.store) is StoreTrust.UNKNOWN_STORE
        assert not again.settle(["n1", "n2"], ["n1"])
        assert again.unread(["n1", "n2"], ["n1"]) == ("n2",)
        assert again.settle(["n1", "n2"], ["n2", "n1"])
        assert again.trust is StoreTrust.TRUSTED
        assert await site.replica().examine(site.store) is StoreTrust.TRUSTED

    in_a_site(main)


def test_nodes_named_in_the_acknowledgement_need_not_be_read() -> None:
    async def main(site: Site) -> None:
        await site.write(3)
        watch = site.replica()
        await watch.examine(site.store)
        revision = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        word = Decision(by="op", at="t", nodes=("dead",))
        assert watch.acknowledge(word, revision)
        assert not watch.acknowledge(word, revision)
        assert not watch.settle(["n1", "dead"], [])
        assert watch.settle(["n1", "dead"], ["n1"])

    in_a_site(main)


async def lived(site: Site) -> StoreWatch:
    """A replica that has followed its store for a while."""
    watch = site.replica()
    await watch.examine(site.store)
    await site.found()
    for value in ("one", "two", "three"):
        await site.beat(value)
        await site.write(3)
        await watch.examine(site.store)
    assert watch.trust is StoreTrust.TRUSTED
    return watch


async def restored_early(site: Site) -> None:
    """The backup was taken after the second heartbeat, and the store went on from there."""
    await site.found()
    await site.beat("one")
    await site.write(3)
    await site.beat("two")


@pytest.mark.parametrize("later_writes", [0, 1, 30])
@pytest.mark.parametrize("later_beats", [0, 1, 3])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_restored_store_is_known_by_its_past_however_far_it_has_gone_on(
    later_writes: int, later_beats: int, restarted: bool
) -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)

        async def replay() -> None:
            await restored_early(site)
            for number in range(later_beats):
                await site.write(later_writes)
                await site.beat(f"new{number}")
            await site.write(later_writes)

        await site.back(replay)
        if restarted:
            watch = site.replica()
        assert await watch.examine(site.store) is StoreTrust.RESTORED
        assert not watch.may_mutate
        again = site.replica()
        assert await again.examine(site.store) is StoreTrust.RESTORED

    in_a_site(main)


def test_a_replaced_store_is_another_cluster() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)

        async def replay() -> None:
            await site.write(200)

        await site.back(replay)
        assert await watch.examine(site.store) is StoreTrust.RESTORED
        assert "cluster" in watch.sentence

    in_a_site(main)


def test_a_compacted_past_is_no_evidence() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.beat("four")
        await site.write(10)
        await site.store.compact((await site.store.status()).revision)
        assert await watch.examine(site.store) is StoreTrust.TRUSTED

    in_a_site(main)


def test_an_acknowledged_restore_may_create_once_every_node_was_read() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.back(lambda: restored_early(site))
        await watch.examine(site.store)
        assert not watch.settle([], [])
        revision = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        assert watch.acknowledge(Decision(by="op", at="t"), revision)
        assert watch.trust is StoreTrust.UNKNOWN_STORE
        assert watch.may_mutate
        assert await watch.examine(site.store) is StoreTrust.UNKNOWN_STORE
        assert watch.settle(["n"], ["n"])
        await site.beat("new")
        assert await watch.examine(site.store) is StoreTrust.TRUSTED
        assert await site.replica().examine(site.store) is StoreTrust.TRUSTED

    in_a_site(main)


def test_an_acknowledgement_out_of_the_backup_counts_for_nothing() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        old = 0

        async def replay() -> None:
            nonlocal old
            await restored_early(site)
            old = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision

        await site.back(replay)
        await watch.examine(site.store)
        assert not watch.acknowledge(Decision(by="op", at="t"), old)
        assert watch.trust is StoreTrust.RESTORED

    in_a_site(main)


def test_a_doubted_store_that_is_set_back_once_more_wants_another_word() -> None:
    """A replica that did not lead heard neither word; the first is in the second backup (seed 100415)."""

    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.back(lambda: restored_early(site))
        await watch.examine(site.store)
        first = 0

        async def replay() -> None:
            nonlocal first
            await restored_early(site)
            await site.write(3)
            first = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision

        await site.back(replay)
        await watch.examine(site.store)
        assert watch.would_count(first), "as long as it is the only word, and nothing else happened since"
        await site.write(5)
        await site.beat("that was lost")
        await watch.examine(site.store)
        await site.back(replay)
        watch = site.replica()
        assert await watch.examine(site.store) is StoreTrust.RESTORED
        assert not watch.acknowledge(Decision(by="op", at="t"), first)
        second = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        assert watch.acknowledge(Decision(by="op", at="t"), second)

    in_a_site(main)


def test_a_store_that_is_set_back_right_after_the_word_is_known_by_the_next_answer() -> None:
    """What it answered while it was doubted counts, though no look fell into that time (seed 102008)."""

    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.back(lambda: restored_early(site))
        await watch.examine(site.store)
        await site.write(3)
        before = watch.horizon()
        word = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        watch.answered(word, before, wrote=True)
        assert watch.acknowledge(Decision(by="op", at="t"), word)
        assert watch.high_revision == word
        watch.answered(word - 1, watch.horizon(), wrote=True)
        assert watch.trust is StoreTrust.RESTORED

    in_a_site(main)


def test_what_a_doubted_store_answers_below_its_own_height_makes_the_doubt_younger() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.back(lambda: restored_early(site))
        await watch.examine(site.store)
        await site.write(3)
        word = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        watch.answered(word, watch.horizon(), wrote=True)
        watch.answered(word - 2, watch.horizon(), wrote=False)
        assert not watch.would_count(word)
        await watch.examine(site.store)
        assert not watch.would_count(word)
        assert watch.would_count(word + 1)

    in_a_site(main)


def test_a_mark_from_the_future_is_evidence_that_only_a_younger_word_ends() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        watch.note_epoch_regression("u", 9, 7)
        assert watch.sentence == "domain u carries epoch 9 on its node, its assignment has 7"
        early = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        assert not watch.acknowledge(Decision(by="op", at="t"), early)
        assert await watch.examine(site.store) is StoreTrust.RESTORED
        assert not watch.acknowledge(Decision(by="op", at="t"), early)
        later = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        assert watch.acknowledge(Decision(by="op", at="t"), later)
        assert await watch.examine(site.store) is StoreTrust.UNKNOWN_STORE

    in_a_site(main)


def test_a_leaders_own_heartbeat_at_a_lower_revision_than_known_is_evidence() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        since = watch.high_revision
        watch.renewed(since, "mine", Horizon(since, watch.past))
        assert watch.trust is StoreTrust.RESTORED

    in_a_site(main)


@pytest.mark.parametrize(("wrote", "lag", "trust"), [
    (True, 0, StoreTrust.RESTORED),
    (True, -1, StoreTrust.TRUSTED),
    (False, 0, StoreTrust.TRUSTED),
    (False, 1, StoreTrust.RESTORED),
])  # fmt: skip
def test_every_answer_of_the_store_tells_whether_it_was_set_back(
    wrote: bool, lag: int, trust: StoreTrust
) -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        before = watch.horizon()
        watch.answered(before.revision - lag, before, wrote=wrote)
        assert watch.trust is trust

    in_a_site(main)


def test_a_heartbeat_that_was_under_way_when_the_store_was_acknowledged_is_no_new_evidence() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        await site.back(lambda: restored_early(site))
        since, past = watch.high_revision, watch.past
        await watch.examine(site.store)
        acknowledged = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
        assert watch.acknowledge(Decision(by="op", at="t"), acknowledged)
        written = await site.beat("mine")
        assert written < since
        watch.renewed(written, "mine", Horizon(since, past))
        assert watch.trust is StoreTrust.UNKNOWN_STORE

    in_a_site(main)


def test_a_leaders_heartbeats_are_remembered_on_disk() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        since = watch.high_revision
        watch.renewed(await site.beat("mine"), "mine", Horizon(since, watch.past))
        assert (site.disk.memory.value, watch.trust) == ("mine", StoreTrust.TRUSTED)
        assert await watch.examine(site.store) is StoreTrust.TRUSTED

    in_a_site(main)


def test_a_look_that_began_before_the_leaders_renewal_is_no_evidence() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)

        async def renew() -> None:
            since = watch.high_revision
            watch.renewed(await site.beat("mine"), "mine", Horizon(since, watch.past))

        await site.beat("four")
        network = FaultyStore(site.store)
        network.before_page = renew
        assert await watch.examine(network) is StoreTrust.TRUSTED
        assert await watch.examine(site.store) is StoreTrust.TRUSTED
        assert site.disk.memory.value == "mine"

    in_a_site(main)


def test_a_look_that_began_before_the_acknowledgement_does_not_undo_it() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)

        async def replay() -> None:
            await restored_early(site)
            await site.write(100)
            await site.beat("new")

        async def acknowledge() -> None:
            revision = (await site.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
            assert watch.acknowledge(Decision(by="op", at="t"), revision)

        await site.back(replay)
        assert await watch.examine(site.store) is StoreTrust.RESTORED
        network = FaultyStore(site.store)
        network.before_page = acknowledge
        assert await watch.examine(network) is StoreTrust.UNKNOWN_STORE
        assert await watch.examine(site.store) is StoreTrust.UNKNOWN_STORE

    in_a_site(main)


def test_a_watch_that_showed_a_revision_makes_a_lower_one_evidence() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        watch.saw_revision(watch.high_revision + 100)
        assert await watch.examine(site.store) is StoreTrust.RESTORED

    in_a_site(main)


def test_a_memory_that_cannot_be_read_is_no_memory() -> None:
    async def main(site: Site) -> None:
        await lived(site)
        for garbage in (b"", b"{", b"[]", b'{"doubt": "?"}', b'{"revision": "x"}'):
            site.disk.data = garbage
            assert await site.replica().examine(site.store) is StoreTrust.UNKNOWN_STORE

    in_a_site(main)


def test_a_full_disk_does_not_stop_the_replica_and_is_made_up_for() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        site.disk.full = True
        await site.beat("four")
        assert await watch.examine(site.store) is StoreTrust.TRUSTED
        assert site.disk.memory.value == "three"
        site.disk.full = False
        await watch.examine(site.store)
        assert site.disk.memory.value == "four"

    in_a_site(main)


def test_a_running_replica_notices_a_restore_by_itself() -> None:
    async def main(site: Site) -> None:
        watch = await lived(site)
        network = FaultyStore(site.store)
        task = asyncio.create_task(watch.run(network))
        await asyncio.sleep(12)
        assert watch.may_create
        network.silent = True
        await asyncio.sleep(30)
        assert watch.may_create  # a store that does not answer is no other store
        await site.back(lambda: restored_early(site))
        network.inner = site.store
        network.silent = False
        await asyncio.sleep(6)
        assert watch.trust is StoreTrust.RESTORED
        task.cancel()
        await asyncio.wait({task})

    in_a_site(main)
