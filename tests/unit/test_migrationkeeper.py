"""What a Migration says of itself reaches etcd, also when etcd did not say whether it wrote."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from controller.cache import MIGRATION_KEY
from controller.ledger import Commit, CommitOutcome
from controller.migrationkeeper import MigrationKeeper
from controller.reconciler import Reconciler
from controller.workqueue import Backoff, WorkQueue
from drivers.store import Compare, Put
from specs.migration import Migration
from tests.unit.plancase import UUID
from tests.unit.test_departing import asked, request

UID = str(request().migration.metadata.uid)


class Ledger:
    """Its first answer is lost; what it wrote all the same is not seen."""

    def __init__(self) -> None:
        self.written: list[Migration] = []
        self.lost = 1

    async def commit(self, _compares: list[Compare], writes: list[Put]) -> Commit:
        if self.lost:
            self.lost -= 1
            return Commit(CommitOutcome.UNKNOWN)
        self.written += [msgspec.json.decode(w.value, type=Migration) for w in writes]
        return Commit(CommitOutcome.DONE, revision=9)


async def test_a_status_whose_write_had_no_answer_is_written_again_without_waiting_for_a_pass() -> None:
    cluster, stored, ledger = asked(), request(), Ledger()
    cache = SimpleNamespace(
        migrations=SimpleNamespace(by_uid={UID: stored}),
        departing={},
        snapshot=cluster.snapshot,
        uuid_of=lambda _key: UUID,
        wrote=lambda *_: None,
    )
    nothing: Any = SimpleNamespace(event=lambda *_: None, migrated=lambda *_: None)
    world: Any = SimpleNamespace(wall=lambda: "now")
    keeper = MigrationKeeper(cache, ledger, nothing, world, nothing)  # type: ignore[arg-type]
    meter: Any = SimpleNamespace(**dict.fromkeys(("added", "retried", "taken", "finished"), lambda *_: None))
    queue = WorkQueue(asyncio.get_running_loop().time, meter, Backoff(0.01, 0.02))
    empty: Any = SimpleNamespace(planned=lambda *_: None, now=lambda: 0.0)
    parts: Any = SimpleNamespace(queue=queue, migrations=keeper, cache=cache, metrics=empty, world=empty)
    reconciler = Reconciler(parts, lambda _why: None, asyncio.Semaphore(1))
    running = asyncio.create_task(reconciler.run())
    queue.add(MIGRATION_KEY + UID)
    async with asyncio.timeout(5):
        while not ledger.written:  # noqa: ASYNC110 - what is waited for is what stands in etcd
            await asyncio.sleep(0.005)
    queue.shut_down()
    await running
    assert ledger.written[0].metadata.name == "m1"
