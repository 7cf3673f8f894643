"""Fenced writes on the in-memory store: what is written, refused, unknown, and who may write at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import keys
from controller.ledger import Commit, CommitOutcome, Fenced, Ledger
from controller.model import ClusterRecord
from drivers.errors import LeaseLost, StoreRefused
from drivers.memory import MemoryStore
from drivers.store import MAX_TXN_OPS, Compare, Delete, KeyValue, Put
from tests import virtualtime
from tests.faultystore import FaultyStore
from tests.term import Term


@dataclass
class Desk:
    memory: MemoryStore
    store: FaultyStore
    term: Term
    ledger: Ledger

    async def value(self, key: str) -> bytes | None:
        kv = await self.memory.get(key)
        return kv.value if kv is not None else None

    async def revision(self) -> int:
        return (await self.memory.status()).revision


@asynccontextmanager
async def desk(*, merge: bool = True) -> AsyncIterator[Desk]:
    memory = MemoryStore(asyncio.get_running_loop().time)
    token = (await memory.txn([], [Put(keys.LEADER, b"me")])).revision
    store, term = FaultyStore(memory), Term(token)
    yield Desk(memory, store, term, Ledger(store, term, merge=merge))
    await memory.close()


def test_a_commit_writes_all_or_nothing_and_says_at_which_revision() -> None:
    async def main() -> None:
        async with desk() as d:
            done = await d.ledger.commit([Compare("a", 0)], [Put("a", b"1"), Put("b", b"2")])
            assert (done.ok, done.revision) == (True, await d.revision())
            refused = await d.ledger.commit([Compare("a", 0)], [Put("b", b"3")])
            assert refused.outcome is CommitOutcome.REFUSED
            assert refused.current == {"a": KeyValue("a", b"1", done.revision, done.revision)}
            assert await d.value("b") == b"2"
            gone = await d.ledger.commit([Compare("a", done.revision)], [Delete("a"), Put("b", b"4")])
            assert gone.ok
            assert (await d.value("a"), await d.value("b")) == (None, b"4")

    virtualtime.run(main())


def test_nothing_is_written_while_the_lease_was_not_renewed() -> None:
    """Seed 5 of left_armed: stopped for 75 s, and woken before a backup with its own leader's key."""

    async def main() -> None:
        async with desk() as d:
            d.term.renewed = False
            held = await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])
            assert held.outcome is CommitOutcome.UNKNOWN and "not renewed" in str(held.error)
            assert await d.value("a") is None
            d.term.renewed = True
            assert (await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])).ok
            d.term.lose("it ended")
            with pytest.raises(Fenced):
                await d.ledger.commit([Compare("b", 0)], [Put("b", b"1")])

    virtualtime.run(main())


def test_a_record_is_put_over_the_one_that_was_read_only() -> None:
    async def main() -> None:
        async with desk() as d:
            record = ClusterRecord(id="c", created_at="t")
            first = await d.ledger.put_record("k", record, 0)
            assert first.ok
            assert (await d.ledger.put_record("k", record, 0)).outcome is CommitOutcome.REFUSED
            assert (await d.ledger.put_record("k", record, first.revision)).ok
            assert await d.value("k") == b'{"id":"c","created_at":"t"}'

    virtualtime.run(main())


def test_each_answer_is_told_with_what_was_known_before_it() -> None:
    async def main() -> None:
        async with desk() as d:
            at = await d.revision()
            await d.ledger.commit([], [Put("a", b"1")])
            await d.ledger.commit([], [Delete("was never there")])
            await d.ledger.commit([Compare("a", 99)], [Put("a", b"2")])
            assert [(revision, before.revision, wrote) for revision, before, wrote in d.term.answers] == [
                (at + 1, 0, True), (at + 1, at + 1, False), (at + 1, at + 1, False),
            ]  # fmt: skip

    virtualtime.run(main())


def test_a_lost_reply_tells_of_a_restored_store_by_what_is_read_instead() -> None:
    """Else a leader would act on the word of a store whose lost reply was below what it knew."""

    async def main() -> None:
        async with desk() as d:
            known = d.term.revision = await d.revision() + 5
            d.store.lose_replies = 1
            assert (await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])).ok
            at = await d.revision()
            assert at < known
            assert [(revision, before.revision, wrote) for revision, before, wrote in d.term.answers] == [
                (at, known, False), (at, known, True),
            ]  # fmt: skip

    virtualtime.run(main())


def test_what_an_attempt_before_put_there_tells_of_no_restored_store() -> None:
    """Where etcd is late both replies are lost: the value stands at a revision that was known by then."""

    async def main() -> None:
        async with desk() as d:
            d.store.hold = 1
            assert (
                await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])
            ).outcome is CommitOutcome.UNKNOWN
            await d.store.release()
            at = d.term.revision = await d.revision()
            d.term.answers.clear()
            d.store.lose_replies = 1
            assert (await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])).revision == at
            assert not [answer for answer in d.term.answers if answer[2]]

    virtualtime.run(main())


@pytest.mark.parametrize("successor", [True, False])
def test_a_stale_leader_writes_nothing_and_learns_it(successor: bool) -> None:
    async def main() -> None:
        async with desk() as d:
            await d.memory.txn([], [Delete(keys.LEADER)])
            if successor:
                await d.memory.txn([], [Put(keys.LEADER, b"me")])  # the same words, another term
            with pytest.raises(Fenced):
                await d.ledger.commit([], [Put("a", b"1")])
            assert d.term.lost.is_set()
            assert await d.value("a") is None
            with pytest.raises(Fenced):
                await d.ledger.commit([], [Put("a", b"1")])

    virtualtime.run(main())


def test_all_that_wait_beside_a_fenced_commit_are_fenced_too() -> None:
    async def main() -> None:
        async with desk() as d:
            await d.memory.txn([], [Delete(keys.LEADER)])
            waiting = [d.ledger.commit([], [Put(f"k{n % 7}", b"1")]) for n in range(300)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(result) for result in results} == {Fenced}
            assert (await d.memory.list("k")).items == ()

    virtualtime.run(main())


def test_a_write_whose_reply_was_lost_is_done_when_it_can_be_read() -> None:
    async def main() -> None:
        async with desk() as d:
            d.store.lose_replies = 1
            done = await d.ledger.commit([Compare("a", 0)], [Put("a", b"1"), Put("b", b"2")][:1])
            assert (done.ok, done.revision) == (True, await d.revision())
            d.store.lose_replies = 1
            gone = await d.ledger.commit([Compare("a", done.revision)], [Delete("a")])
            assert gone.ok

    virtualtime.run(main())


@pytest.mark.parametrize("revision", [0, 7], ids=["held", "not held"])
def test_whether_compares_held_is_unknown_where_their_reply_was_lost_and_nothing_was_written(
    revision: int,
) -> None:
    """Seed 804901: what a start was looked at again for had changed, and it was taken for unchanged."""

    async def main() -> None:
        async with desk() as d:
            d.store.lose_looks = 1
            looked = await d.ledger.commit([Compare("a", revision)], [])
            assert looked.outcome is CommitOutcome.UNKNOWN
            looked = await d.ledger.commit([Compare("a", revision)], [])
            assert looked.outcome is (CommitOutcome.REFUSED if revision else CommitOutcome.DONE)

    virtualtime.run(main())


def test_a_write_that_never_arrived_or_may_still_arrive_is_unknown() -> None:
    async def main() -> None:
        async with desk() as d:
            d.store.hold = 1
            late = await d.ledger.commit([Compare("a", 0)], [Put("a", b"1")])
            assert late.outcome is CommitOutcome.UNKNOWN
            await d.store.release()
            assert await d.value("a") == b"1"
            d.store.silent = True
            lost = await d.ledger.commit([Compare("b", 0)], [Put("b", b"1")])
            assert lost.outcome is CommitOutcome.UNKNOWN
            assert lost.error is not None

    virtualtime.run(main())


def test_the_same_value_from_before_is_no_proof_that_a_lost_write_happened() -> None:
    async def main() -> None:
        async with desk() as d:
            before = await d.ledger.commit([Compare("a", 0)], [Put("a", b"same")])
            d.store.hold = 1
            again = await d.ledger.commit([Compare("a", before.revision)], [Put("a", b"same")])
            assert again.outcome is CommitOutcome.UNKNOWN
            d.store.hold = 1
            blind = await d.ledger.commit([], [Put("a", b"same")])
            assert blind.outcome is CommitOutcome.UNKNOWN

    virtualtime.run(main())


def test_a_lost_reply_after_the_leadership_passed_on_fences() -> None:
    async def main() -> None:
        async with desk() as d:
            d.store.hold = 1
            task = asyncio.create_task(d.ledger.commit([Compare("a", 0)], [Put("a", b"1")]))
            await d.memory.txn([], [Delete(keys.LEADER)])
            with pytest.raises(Fenced):
                await task

    virtualtime.run(main())


def test_commits_that_wait_together_share_few_transactions_and_fail_each_for_itself() -> None:
    async def main() -> None:
        async with desk() as d:
            await d.memory.txn([], [Put("k13", b"other"), Put("k40", b"other")])
            before = await d.revision()
            waiting = [d.ledger.commit([Compare(f"k{n}", 0)], [Put(f"k{n}", b"1")]) for n in range(60)]
            commits = await asyncio.gather(*waiting)
            refused = [n for n, commit in enumerate(commits) if not commit.ok]
            assert refused == [13, 40]
            assert commits[13].current["k13"] is not None
            assert await d.revision() - before == 1

    virtualtime.run(main())


def test_commits_on_the_same_key_do_not_share_and_the_later_one_sees_the_earlier_one() -> None:
    async def main() -> None:
        async with desk() as d:
            first, second = await asyncio.gather(
                d.ledger.commit([Compare("a", 0)], [Put("a", b"1")]),
                d.ledger.commit([Compare("a", 0)], [Put("a", b"2")]),
            )
            assert (first.outcome, second.outcome) == (CommitOutcome.DONE, CommitOutcome.REFUSED)
            assert await d.value("a") == b"1"

    virtualtime.run(main())


def test_one_bad_request_does_not_spoil_those_that_travel_with_it() -> None:
    async def main() -> None:
        async with desk() as d:
            results = await asyncio.gather(
                d.ledger.commit([], [Put("a", b"1")]),
                d.ledger.commit([], [Put("b", b"1", lease=4711)]),
                d.ledger.commit([], [Put("c", b"1")]),
                d.ledger.commit([], [Put("d", b"x" * 2_000_000)]),
                return_exceptions=True,
            )
            assert isinstance(results[1], LeaseLost)
            assert isinstance(results[3], StoreRefused)
            assert [isinstance(r, Commit) and r.ok for r in results] == [True, False, True, False]
            assert (await d.value("a"), await d.value("c")) == (b"1", b"1")

    virtualtime.run(main())


def test_a_lost_reply_settles_every_commit_of_the_batch_by_its_own_keys() -> None:
    async def main() -> None:
        async with desk() as d:
            d.store.lose_replies = 1
            waiting = [d.ledger.commit([Compare(f"k{n}", 0)], [Put(f"k{n}", b"1")]) for n in range(60)]
            assert {commit.outcome for commit in await asyncio.gather(*waiting)} == {CommitOutcome.DONE}

    virtualtime.run(main())


def test_a_cancelled_caller_leaves_the_others_of_its_batch_alone() -> None:
    async def main() -> None:
        async with desk() as d:
            tasks = [asyncio.create_task(d.ledger.commit([], [Put(f"k{n}", b"1")])) for n in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], asyncio.CancelledError)
            assert [isinstance(r, Commit) and r.ok for r in results] == [True, False, True]

    virtualtime.run(main())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=4, unique_by=lambda w: w[0]),
            st.lists(st.integers(0, 9), max_size=3, unique=True),
        ),
        max_size=80,
    )
)
def test_merged_commits_come_out_as_if_they_had_been_sent_one_after_the_other(
    wanted: list[tuple[list[tuple[int, bool]], list[int]]],
) -> None:
    """Each commit puts or deletes some keys if others are absent; merging must not change any result."""

    async def outcome(merge: bool) -> tuple[list[bool], list[tuple[str, bytes]]]:
        async with desk(merge=merge) as d:
            waiting = []
            for number, (written, absent) in enumerate(wanted):
                writes = [Put(f"k{k}", b"%d" % number) if put else Delete(f"k{k}") for k, put in written]
                waiting.append(d.ledger.commit([Compare(f"k{k}", 0) for k in absent], writes))
            commits = await asyncio.gather(*waiting)
            page = await d.memory.list("k")
            return [commit.ok for commit in commits], [(kv.key, kv.value) for kv in page.items]

    assert virtualtime.run(outcome(True)) == virtualtime.run(outcome(False))


def test_no_transaction_is_larger_than_etcd_takes() -> None:
    async def main() -> None:
        async with desk() as d:
            many = [
                d.ledger.commit([], [Put(f"a{n}/{i}", b"1") for i in range(MAX_TXN_OPS)]) for n in range(3)
            ]
            large = [d.ledger.commit([], [Put(f"b{n}", b"x" * 400_000)]) for n in range(6)]
            compared = [
                d.ledger.commit([Compare(f"c{n}/{i}", 0) for i in range(50)], [Put(f"c{n}", b"1")])
                for n in range(6)
            ]
            assert all(commit.ok for commit in await asyncio.gather(*many, *large, *compared))

    virtualtime.run(main())
