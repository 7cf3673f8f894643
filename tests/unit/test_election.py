"""The election in virtual time, on the in-memory store behind a network with faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from controller import keys
from controller.election import Election, Leadership
from controller.limits import Timing
from controller.model import Decision, LeaderRecord, StoreMemory
from controller.storewatch import StoreTrust, StoreWatch
from controller.world import World
from drivers.memory import MemoryStore
from drivers.store import Put
from tests import virtualtime
from tests.faultystore import FaultyStore

TIMING = Timing()


@dataclass
class Replica:
    """One candidate with its own way to the store; `terms` are its leaderships so far."""

    name: str
    store: FaultyStore
    election: Election
    terms: list[Leadership] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)  # when `lead` was cancelled
    task: asyncio.Task[None] | None = None

    async def lead(self, leadership: Leadership) -> None:
        self.terms.append(leadership)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(now())

    def start(self, lead: Callable[[Leadership], Awaitable[None]] | None = None) -> None:
        self.task = asyncio.create_task(self.election.run(lead or self.lead))

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait({self.task})

    async def die(self) -> None:
        """Like SIGKILL: nothing more reaches the store."""
        self.store.silent = True
        await self.stop()

    @property
    def term(self) -> Leadership | None:
        """The term that it believes to be leading in."""
        return self.terms[-1] if self.terms and not self.terms[-1].lost.is_set() else None

    @property
    def may_act(self) -> bool:
        return self.term is not None and self.term.permit() is not None


@dataclass
class Memory:
    """A disk that survives its replica."""

    data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data


class Cluster:
    def __init__(self) -> None:
        self.world: World = virtualtime.world()
        self.store = MemoryStore(self.world.now)
        self.replicas: list[Replica] = []

    def replica(self, name: str, memory: Memory | None = None) -> Replica:
        store = FaultyStore(self.store)
        disk = memory or Memory()
        election = Election(store, self.world, TIMING, name, "host", StoreWatch(disk.load, disk.save))
        self.replicas.append(Replica(name, store, election))
        return self.replicas[-1]

    async def last(self) -> LeaderRecord:
        kv = await self.store.get(keys.LAST_LEADER)
        assert kv is not None
        return msgspec.json.decode(kv.value, type=LeaderRecord)


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    yield made
    for replica in made.replicas:
        if replica.task is not None:
            await replica.stop()
    await made.store.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], object], limit_s: float = 120) -> float:
    """Wait for `condition`; returns how long it took."""
    began = now()
    while not condition():
        assert now() - began < limit_s, "it does not happen"
        await asyncio.sleep(0.05)
    return now() - began


def test_the_first_leader_ever_need_not_wait_for_anybody() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            term = a.terms[0]
            assert term.previous is None
            assert term.predecessor_resigned
            key = await c.store.get(keys.LEADER)
            assert key is not None
            assert key.create_revision == term.token
            assert (await c.last()).id == "a"
            assert not (await c.last()).resigned

    virtualtime.run(main())


def test_a_store_that_lost_everything_is_no_proof_that_nobody_led_before() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            for _ in range(2):  # as it does all the time
                await b.election.storewatch.examine(b.store)
            await a.die()
            await c.store.close()
            c.store = b.store.inner = MemoryStore(c.world.now)
            b.start()
            await until(lambda: b.terms)
            assert not b.terms[0].predecessor_resigned

    virtualtime.run(main())


def test_a_permit_lasts_as_the_timing_says_from_when_the_keep_alive_was_sent() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            began = now()
            a.start()
            await until(lambda: a.may_act)
            permit = a.terms[0].permit()
            assert permit is not None
            assert began <= permit.not_after_s - TIMING.act_within_s <= now()
            await asyncio.sleep(3600)
            later = a.terms[0].permit()
            assert later is not None
            assert later.not_after_s > now() + TIMING.act_within_s - TIMING.renew_every_s - 0.1
            assert len(a.terms) == 1

    virtualtime.run(main())


def test_a_crashed_leader_is_followed_within_its_ttl_and_a_second_as_one_that_did_not_resign() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            b.start()
            await asyncio.sleep(33)
            await a.die()
            assert await until(lambda: b.may_act) <= TIMING.lease_ttl_s + 1
            assert not b.terms[0].predecessor_resigned
            assert b.terms[0].previous is not None
            assert b.terms[0].previous.id == "a"
            assert b.terms[0].token > a.terms[0].token

    virtualtime.run(main())


def test_a_follower_whose_watch_is_deaf_still_takes_over_in_time() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            b.store.deaf_watches = True
            a.start()
            await until(lambda: a.may_act)
            b.start()
            await asyncio.sleep(12)
            await a.die()
            assert await until(lambda: b.may_act) <= TIMING.lease_ttl_s + 1

    virtualtime.run(main())


def test_a_leader_that_is_stopped_in_good_order_resigns_and_the_next_one_takes_over_at_once() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            b.start()
            await asyncio.sleep(20)
            await a.stop()
            assert await until(lambda: b.may_act) <= 0.2
            assert b.terms[0].predecessor_resigned
            assert a.terms[0].permit() is None

    virtualtime.run(main())


@pytest.mark.parametrize("phase_s", [0.05, 0.2, 0.35])
def test_a_follower_hears_of_a_resignation_though_the_store_was_compacted_since_the_term_began(
    phase_s: float,
) -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            await asyncio.sleep(20)
            await c.store.compact(c.store.revision)
            b.start()
            await asyncio.sleep(3 + phase_s)
            await a.stop()
            assert await until(lambda: b.may_act) <= 0.1

    virtualtime.run(main())


@pytest.mark.parametrize("known", [None, False])
def test_a_leader_with_an_outstanding_or_unknown_mutation_does_not_resign(known: bool | None) -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            b.start()
            await asyncio.sleep(20)
            a.terms[0].begin_mutation()
            if known is not None:
                a.terms[0].end_mutation(known, "n")
            await a.stop()
            waited = await until(lambda: b.may_act)
            assert TIMING.lease_ttl_s - TIMING.renew_every_s <= waited <= TIMING.lease_ttl_s + 1
            assert not b.terms[0].predecessor_resigned

    virtualtime.run(main())


def test_what_a_node_did_not_answer_to_is_known_to_be_over_once_it_answers_and_is_quiet() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            term, reads = a.terms[0], [(0.0, 0.1)]
            term.begin_mutation()
            term.end_mutation(False, "n")

            def note() -> bool:
                term.note_answers(lambda node: reads, lambda node: 35.0)
                return bool(term.unknown)

            await asyncio.sleep(60)
            assert note(), "it never answered since"
            now = term.world.now()
            reads.append((now - 1, now))
            assert note()
            await asyncio.sleep(34)
            assert note()
            await asyncio.sleep(2)
            assert not note()
            await a.stop()
            assert await c.store.get(keys.LEADER) is None, "it resigned"

    virtualtime.run(main())


def test_a_leader_whose_mutations_all_came_back_resigns() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            a.terms[0].begin_mutation()
            a.terms[0].end_mutation(True, "n")
            await a.stop()
            b.start()
            assert await until(lambda: b.may_act) <= 0.2
            assert b.terms[0].predecessor_resigned

    virtualtime.run(main())


def test_a_leader_cut_off_stops_acting_before_the_next_one_begins_and_learns_of_it_once_back() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.start()
            await until(lambda: a.may_act)
            b.start()
            await asyncio.sleep(17.3)
            a.store.silent = True
            cut_at = now()
            await until(lambda: not a.may_act)
            assert now() - cut_at <= TIMING.act_within_s
            assert not b.may_act
            await until(lambda: b.may_act)
            assert not a.may_act
            a.store.silent = False
            await until(lambda: a.term is None)
            assert len(a.ended) == 1
            await asyncio.sleep(60)
            assert (len(a.terms), len(b.terms)) == (1, 1)

    virtualtime.run(main())


def test_two_replicas_never_hold_a_permit_at_the_same_time_however_the_network_flaps() -> None:
    async def main() -> None:
        async with cluster() as c:
            replicas = [c.replica(name) for name in "abc"]
            for replica in replicas:
                replica.start()
            for step in range(4000):
                await asyncio.sleep(0.25)
                assert sum(replica.may_act for replica in replicas) <= 1
                for number, replica in enumerate(replicas):
                    replica.store.silent = (step // (97 + 31 * number) + number) % 3 == 0
                    replica.store.lose_replies = int(step % (29 + number) == 0)
            for replica in replicas:
                replica.store.silent = False
            await until(lambda: any(replica.may_act for replica in replicas))
            assert sum(len(replica.terms) for replica in replicas) > 3

    virtualtime.run(main())


def test_a_store_away_for_less_than_the_lease_interrupts_permits_but_not_the_term() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            await asyncio.sleep(TIMING.renew_every_s * 2 + 0.1)
            a.store.silent = True
            await asyncio.sleep(TIMING.act_within_s + 1)
            assert not a.may_act
            assert a.term is not None
            a.store.silent = False
            assert await until(lambda: a.may_act) <= 1
            assert len(a.terms) == 1

    virtualtime.run(main())


def test_a_candidacy_whose_reply_was_lost_is_recognised_as_won() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.store.lose_replies = 1
            a.start()
            assert await until(lambda: a.may_act) <= 1
            key = await c.store.get(keys.LEADER)
            assert key is not None
            assert key.create_revision == a.terms[0].token
            assert a.terms[0].predecessor_resigned

    virtualtime.run(main())


def test_a_candidacy_whose_reply_was_lost_does_not_take_what_another_won_meanwhile() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")
            a.store.hold = 1

            async def other_wins() -> None:
                b.start()
                await until(lambda: b.may_act)

            a.store.on_hold = other_wins
            a.start()
            await until(lambda: b.may_act)
            await asyncio.sleep(60)
            assert (len(a.terms), len(b.terms)) == (0, 1)
            assert b.may_act

    virtualtime.run(main())


def test_a_candidacy_that_arrives_late_does_not_bring_anybody_to_power_unawares() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.store.hold = 1
            a.start()
            await until(lambda: a.store._held)
            await asyncio.sleep(1.2)
            await a.store.release()
            await until(lambda: a.may_act)
            await asyncio.sleep(40)
            key = await c.store.get(keys.LEADER)
            assert key is not None
            assert key.create_revision == a.terms[-1].token
            assert len(a.terms) == 1

    virtualtime.run(main())


def test_a_heartbeat_whose_reply_was_lost_is_no_sign_of_a_restored_store() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            for _ in range(5):
                a.store.lose_replies = 1
                await asyncio.sleep(TIMING.renew_every_s)
            a.store.hold = 1
            await until(lambda: a.store._held)
            await a.store.release()
            await asyncio.sleep(20)
            assert a.may_act
            assert a.election.storewatch.may_create
            assert len(a.terms) == 1

    virtualtime.run(main())


def test_a_heartbeat_that_the_leader_did_not_write_takes_the_permits_away_but_not_the_term() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            await c.store.txn([], [Put(keys.HEARTBEAT, b"out of a backup")])
            await until(lambda: not a.may_act)
            assert a.election.storewatch.trust is StoreTrust.RESTORED
            await asyncio.sleep(60)
            assert a.term is not None
            assert not a.may_act

    virtualtime.run(main())


def test_a_doubt_that_was_ended_before_the_leaders_next_heartbeat_stays_ended() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            watch = a.election.storewatch
            await c.store.txn([], [Put(keys.HEARTBEAT, b"out of a backup")])
            watch.note_restored("an administrator's hand")
            await watch.examine(c.store)
            word = (await c.store.txn([], [Put(keys.STORE_ACK, b"")])).revision
            assert watch.acknowledge(Decision(by="op", at="t"), word)
            await asyncio.sleep(3 * TIMING.renew_every_s)
            assert watch.trust is StoreTrust.UNKNOWN_STORE
            assert a.may_act

    virtualtime.run(main())


def test_a_replica_that_remembers_a_later_store_leads_without_a_permit() -> None:
    async def main() -> None:
        async with cluster() as c:
            memory = Memory(msgspec.json.encode(StoreMemory(revision=700, value="x", high_revision=900)))
            a = c.replica("a", memory)
            a.start()
            await until(lambda: a.term is not None)
            await asyncio.sleep(30)
            assert not a.may_act
            assert a.election.storewatch.sentence == "the store is at revision 2, it was at 900 before"

    virtualtime.run(main())


def test_leadership_is_lost_at_once_when_the_lease_is_gone() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")
            a.start()
            await until(lambda: a.may_act)
            key = await c.store.get(keys.LEADER)
            assert key is not None
            await c.store.revoke(key.lease)
            await until(lambda: len(a.ended) == 1)
            assert a.terms[0].lost.is_set()
            await until(lambda: a.may_act)
            assert len(a.terms) == 2
            assert not a.terms[1].predecessor_resigned

    virtualtime.run(main())


def test_a_bug_in_the_leaders_work_ends_the_election_without_a_resignation() -> None:
    async def main() -> None:
        async with cluster() as c:
            a, b = c.replica("a"), c.replica("b")

            async def crash(leadership: Leadership) -> None:
                await asyncio.sleep(7)
                raise ZeroDivisionError

            a.start(crash)
            await asyncio.sleep(6)
            b.start()
            assert a.task is not None
            with pytest.raises(ZeroDivisionError):
                await a.task
            a.task = None
            await until(lambda: b.may_act)
            assert not b.terms[0].predecessor_resigned

    virtualtime.run(main())


def test_a_leader_whose_work_is_over_resigns_and_does_not_stand_again() -> None:
    async def main() -> None:
        async with cluster() as c:
            a = c.replica("a")

            async def work(leadership: Leadership) -> None:
                await asyncio.sleep(7)

            a.start(work)
            assert a.task is not None
            await a.task
            a.task = None
            assert await c.store.get(keys.LEADER) is None
            assert (await c.last()).resigned

    virtualtime.run(main())


def test_a_last_leaders_record_that_cannot_be_read_counts_as_not_resigned() -> None:
    async def main() -> None:
        async with cluster() as c:
            await c.store.txn([], [Put(keys.LAST_LEADER, b"{")])
            a = c.replica("a")
            a.start()
            await until(lambda: a.term is not None)
            assert a.terms[0].previous is None
            assert not a.terms[0].predecessor_resigned

    virtualtime.run(main())
