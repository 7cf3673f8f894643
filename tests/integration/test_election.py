"""Leaders on a real etcd: crashed, stopped, cut off, and restored under their feet; and the ledger's batches.

The lease is short (3 s), its proportions are those of the defaults.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from controller import keys
from controller.config import file_memory
from controller.election import Election, Leadership
from controller.ledger import CommitOutcome, Fenced, Ledger
from controller.limits import Timing
from controller.model import ClusterRecord, Decision
from controller.storewatch import StoreTrust, StoreWatch
from controller.world import World
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.store import Compare, Put
from tests.etcdserver import EtcdServer
from tests.faultystore import FaultyStore
from tests.term import Term

pytestmark = pytest.mark.etcd

TIMING = Timing(lease_ttl_s=3, renew_every_s=0.6, act_within_s=2.0)
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
    with EtcdServer(tmp_path / "etcd") as running:
        yield running


@dataclass
class Replica:
    network: FaultyStore
    election: Election
    terms: list[Leadership] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def lead(self, leadership: Leadership) -> None:
        self.terms.append(leadership)
        await asyncio.Event().wait()

    def start(self) -> None:
        self.task = asyncio.create_task(self.election.run(self.lead))

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    @property
    def watch(self) -> StoreWatch:
        return self.election.storewatch

    @property
    def may_act(self) -> bool:
        return bool(self.terms) and self.terms[-1].permit() is not None


@dataclass
class Site:
    server: EtcdServer
    store: EtcdStore
    directory: Path
    replicas: list[Replica] = field(default_factory=list)

    def replica(self, name: str) -> Replica:
        loop = asyncio.get_running_loop()
        world = World(
            now=loop.time,
            wall=lambda: "2026-01-02T03:04:05Z",
            new_id=lambda: str(uuid.uuid4()),
            cpu=lambda: 0.0,
        )
        network = FaultyStore(self.store)
        watch = StoreWatch(*file_memory(self.directory / f"{name}.json"))
        self.replicas.append(Replica(network, Election(network, world, TIMING, name, "host", watch)))
        return self.replicas[-1]


@asynccontextmanager
async def site(server: EtcdServer, directory: Path) -> AsyncIterator[Site]:
    store = EtcdStore(replace(QUICK, endpoints=(server.endpoint,)))
    made = Site(server, store, directory)
    try:
        yield made
    finally:
        for replica in made.replicas:
            await replica.stop()
        await store.close()


async def until(condition: Callable[[], object], limit_s: float = 30) -> float:
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what it waits for is not an event of ours
            await asyncio.sleep(0.02)
    return asyncio.get_running_loop().time() - began


async def test_a_crashed_leader_is_followed_within_its_lease_and_a_second(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with site(server, tmp_path) as s:
        a, b = s.replica("a"), s.replica("b")
        a.start()
        await until(lambda: a.may_act)
        assert a.terms[0].predecessor_resigned
        b.start()
        await asyncio.sleep(1)
        a.network.silent = True
        # etcd 3.4 looks for expired leases twice a second; +0.5 s is its own.
        assert await until(lambda: b.may_act) <= TIMING.lease_ttl_s + 1.5
        assert not a.may_act
        assert not b.terms[0].predecessor_resigned
        a.network.silent = False
        await until(a.terms[0].lost.is_set)
        assert len(b.terms) == 1


async def test_a_leader_that_resigns_is_followed_at_once(server: EtcdServer, tmp_path: Path) -> None:
    async with site(server, tmp_path) as s:
        a, b = s.replica("a"), s.replica("b")
        a.start()
        await until(lambda: a.may_act)
        b.start()
        await asyncio.sleep(1)
        await a.stop()
        assert await until(lambda: b.may_act) <= 0.4
        assert b.terms[0].predecessor_resigned


async def test_an_etcd_that_was_away_for_a_while_does_not_end_the_term(
    server: EtcdServer, tmp_path: Path
) -> None:
    """etcd gives leases their time again when it comes back; no other leader can have been in between."""
    async with site(server, tmp_path) as s:
        a = s.replica("a")
        a.start()
        await until(lambda: a.may_act)
        server.kill()
        await until(lambda: not a.may_act)
        await asyncio.sleep(TIMING.lease_ttl_s)
        server.start()
        await until(lambda: a.may_act)
        assert len(a.terms) == 1
        assert a.watch.may_create


async def test_nobody_may_act_while_etcd_is_frozen(server: EtcdServer, tmp_path: Path) -> None:
    async with site(server, tmp_path) as s:
        a, b = s.replica("a"), s.replica("b")
        a.start()
        await until(lambda: a.may_act)
        b.start()
        await asyncio.sleep(1)
        server.freeze()
        assert await until(lambda: not a.may_act) <= TIMING.act_within_s + 0.1
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert not a.may_act
            assert not b.may_act
        server.thaw()
        await until(lambda: a.may_act or b.may_act)
        assert not (a.may_act and b.may_act)


async def found(s: Site) -> None:
    record = ClusterRecord(id="c", created_at="t")
    await s.store.txn([], [Put(keys.CLUSTER, msgspec.json.encode(record))])
    await s.store.txn([], [Put(keys.OBJECTS + "domains/default/a", b"{}")])


def restore(server: EtcdServer, backup: Path) -> None:
    server.kill()
    shutil.rmtree(server.data_dir)
    shutil.copytree(backup, server.data_dir)
    server.start()


async def test_a_leader_whose_etcd_was_restored_has_no_permit_until_an_operator_acknowledges(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with site(server, tmp_path) as s:
        a = s.replica("a")
        a.start()
        await until(lambda: a.may_act)
        await found(s)
        server.kill()
        shutil.copytree(server.data_dir, tmp_path / "backup")
        server.start()
        await until(lambda: a.may_act)
        for number in range(4):
            await s.store.txn([], [Put(keys.OBJECTS + f"domains/default/b{number}", b"{}")])
            await asyncio.sleep(TIMING.renew_every_s)
        assert a.watch.may_create
        restore(server, tmp_path / "backup")
        await until(lambda: a.watch.trust is StoreTrust.RESTORED)
        assert not a.may_act
        await asyncio.sleep(1)
        assert not a.may_act
        await a.watch.examine(s.store)
        ack = (await s.store.txn([], [Put(keys.STORE_ACK, b"{}")])).revision
        assert a.watch.acknowledge(Decision(by="op", at="t"), ack)
        await until(lambda: a.may_act)
        assert not a.watch.may_create
        assert a.watch.settle([], [])
        await asyncio.sleep(1)
        assert a.watch.may_create
        await until(lambda: a.may_act)


async def test_a_replica_started_on_a_restored_etcd_knows_it_from_its_disk(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with site(server, tmp_path) as s:
        a = s.replica("a")
        a.start()
        await until(lambda: a.may_act)
        await found(s)
        server.kill()
        shutil.copytree(server.data_dir, tmp_path / "backup")
        server.start()
        await until(lambda: a.may_act)
        await asyncio.sleep(TIMING.renew_every_s * 4)
        await a.stop()
        restore(server, tmp_path / "backup")
        again = s.replica("a")
        again.start()
        await until(lambda: again.terms)
        assert again.watch.trust is StoreTrust.RESTORED
        await asyncio.sleep(2)
        assert not again.may_act
        fresh = s.replica("fresh")
        assert await fresh.watch.examine(s.store) is StoreTrust.UNKNOWN_STORE


async def test_sixty_commits_at_once_are_each_written_or_refused_for_themselves(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with site(server, tmp_path) as s:
        a = s.replica("a")
        a.start()
        await until(lambda: a.may_act)
        ledger = Ledger(s.store, a.terms[0])
        await s.store.txn([], [Put(keys.assignment("13"), b"other")])
        before = (await s.store.status()).revision
        waiting = [
            ledger.commit([Compare(keys.assignment(str(n)), 0)], [Put(keys.assignment(str(n)), b"x" * 2000)])
            for n in range(60)
        ]
        outcomes = [commit.outcome for commit in await asyncio.gather(*waiting)]
        assert outcomes.count(CommitOutcome.DONE) == 59
        assert outcomes[13] is CommitOutcome.REFUSED
        assert (await s.store.status()).revision - before <= 3  # one of ours, and a heartbeat or two
        await a.stop()
        with pytest.raises(Fenced):
            await Ledger(s.store, Term(a.terms[0].token)).commit([], [Put(keys.assignment("1"), b"late")])
        kv = await s.store.get(keys.assignment("1"))
        assert kv is not None
        assert kv.value != b"late"
