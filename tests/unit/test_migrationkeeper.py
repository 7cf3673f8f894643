"""What a Migration says of itself reaches etcd, also when etcd did not say whether it wrote; when it goes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controller import keys
from controller.cache import MIGRATION_KEY
from controller.ledger import Commit, CommitOutcome
from controller.migrationkeeper import MigrationKeeper
from controller.migrations import left_s
from controller.plan.snapshot import StoredMigration
from controller.reconciler import Reconciler
from controller.turns import Turns
from controller.underway import Underway
from controller.workqueue import Backoff, WorkQueue
from drivers.store import Compare, Put
from specs.migration import Migration
from tests.unit.plancase import UUID
from tests.unit.spine import Spine, run, running_on_a, spine
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
        moves=Underway(),
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
    reconciler = Reconciler(parts, lambda _why: None, Turns(1, 1))
    running = asyncio.create_task(reconciler.run())
    queue.add(MIGRATION_KEY + UID)
    async with asyncio.timeout(5):
        while not ledger.written:  # noqa: ASYNC110 - what is waited for is what stands in etcd
            await asyncio.sleep(0.005)
    queue.shut_down()
    await running
    assert ledger.written[0].metadata.name == "m1"


# --- when its time is over


ENDED = {"phase": "Succeeded", "completedAt": "2026-01-01T00:00:00Z"}
NEVER_BEGAN = {
    "phase": "Aborted",
    "conditions": [
        {"type": "Complete", "status": "False", "reason": "x", "lastTransitionTime": "2026-01-01T00:00:05Z"},
        {"type": "Failed", "status": "True", "reason": "x", "lastTransitionTime": "2026-01-01T00:00:10Z"},
    ],
}
LEFT: list[tuple[Any, dict[str, Any], float | None]] = [
    # how long it is to stay (None: it does not say), its status, and how long that is yet
    (60, ENDED, 40.0),
    (20, ENDED, 0.0),
    (0, ENDED, -20.0),
    (None, ENDED, None),
    (60, NEVER_BEGAN, 50.0),
    (60, {"phase": "Running", "startedAt": "2026-01-01T00:00:00Z"}, None),
    (60, {**ENDED, "phase": "Pending"}, None),
    (60, {}, None),
    (0, {"phase": "Failed"}, None),
    (0, {"phase": "Failed", "completedAt": "yesterday"}, None),
    (0, {"phase": "Failed", "completedAt": "2026-01-01T00:00:00"}, None),
]


@pytest.mark.parametrize(("ttl_s", "status", "expected"), LEFT)
def test_a_request_stays_as_long_as_it_says_after_its_end_or_for_ever(
    ttl_s: int | None, status: dict[str, Any], expected: float | None
) -> None:
    spec = {} if ttl_s is None else {"ttlSecondsAfterFinished": ttl_s}
    body = {"metadata": {"name": "m"}, "spec": {"domain": "web", **spec}, "status": status}
    stored = StoredMigration(msgspec.convert(body, Migration), 3)
    assert left_s(stored, "2026-01-01T00:00:20Z") == expected


def test_what_is_being_deleted_already_is_not_deleted_again() -> None:
    stamp = {"deletionTimestamp": "2026-01-01T00:00:10Z", "finalizers": ["example.org/x"]}
    body = {
        "metadata": {"name": "m", **stamp},
        "spec": {"domain": "web", "ttlSecondsAfterFinished": 0},
        "status": ENDED,
    }
    assert left_s(StoredMigration(msgspec.convert(body, Migration), 3), "2026-01-01T00:00:20Z") is None


def key_of(number: int) -> str:
    return keys.object_key("migrations", "default", f"m{number}")


async def ended(s: Spine, number: int, meta: dict[str, Any] | None = None, **spec: Any) -> None:
    """A Migration of the domain that has just come to its end."""
    metadata = {"name": f"m{number}", "namespace": "default", "uid": f"m-{number}", **(meta or {})}
    body = {
        "apiVersion": "domctl.io/v1",
        "kind": "Migration",
        "metadata": metadata,
        "spec": {"domain": "web", **spec},
        "status": {"phase": "Succeeded", "completedAt": s.world.wall()},
    }
    await s.write(key_of(number), body)


def test_requests_go_when_their_time_is_over_and_their_domain_is_not_concerned() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            leader = await running_on_a(s)
            held = await s.assignment()
            sent = [host.heard[:] for host in s.hosts.values()]
            await ended(s, 1, ttlSecondsAfterFinished=30)
            await ended(s, 2)
            await ended(s, 3, {"finalizers": ["example.org/x"]}, ttlSecondsAfterFinished=0)
            await ended(s, 4, ttlSecondsAfterFinished=100_000)
            await asyncio.sleep(25)
            assert await s.exists(key_of(1))
            await asyncio.sleep(10)
            assert not await s.exists(key_of(1))
            await ended(s, 4, ttlSecondsAfterFinished=5)  # somebody thinks it is enough
            await asyncio.sleep(10)
            assert not await s.exists(key_of(4))
            await asyncio.sleep(7200)
            assert await s.exists(key_of(2)), "it does not say how long"
            kv = await s.store.get(key_of(3))
            assert kv is not None and "deletionTimestamp" in msgspec.json.decode(kv.value)["metadata"]
            assert set(leader.cache.migrations.by_uid) == {"m-2", "m-3"}
            assert [host.heard for host in s.hosts.values()] == sent
            assert await s.assignment() == held and s.running_on() == ["a"]

    run(main)


def test_the_next_leader_takes_away_what_the_last_one_left() -> None:
    async def main() -> None:
        async with spine("a", "b") as s:
            first = await running_on_a(s)
            await ended(s, 1, ttlSecondsAfterFinished=20)
            await asyncio.sleep(5)
            await first.die()
            await asyncio.sleep(60)
            assert await s.exists(key_of(1))
            await s.lead("next")
            while await s.exists(key_of(1)):  # noqa: ASYNC110 - what is waited for is what stands in etcd
                await asyncio.sleep(1)

    run(main)
