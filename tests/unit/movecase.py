"""Migrations of ours for tests of the plan: invented clusters with a recorded one, and what its ends show."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.model import Copy, Intent, IntentKind
from controller.plan.snapshot import MoveWatch, StoredMigration
from controller.plan.types import ActionKind, Reason, Verdict
from drivers.hypervisor import Job
from specs.migration import Migration
from tests.unit.plancase import UUID, Cluster

REQUEST = "eeeeeeee-0000-4000-8000-000000000001"
RUNNING = ("running", "booted")
USER = ("paused", "user")
MIG = ("paused", "migration")
COMING = ("paused", "starting-up")
ENDED = ("shutoff", "destroyed")
LEFT = ("shutoff", "migrated")
UNKNOWN = ("shutoff", "unknown")
JOB = Job("migration-out", 3.0, 10 << 20, 22 << 20, 32 << 20)
READ = MoveWatch(over_at=991.0, asked_at=994.0, read=(993.5, 994.5))


def migration(**spec: Any) -> StoredMigration:
    body = {
        "metadata": {"name": "m1", "namespace": "default", "uid": REQUEST, "generation": 1},
        "spec": {"domain": "web", **spec},
    }
    return StoredMigration(msgspec.convert(body, Migration), 3)


def moving(
    watch: MoveWatch = READ,
    *,
    copies: bool = False,
    goes_on: bool = False,
    copy: Copy = Copy.STANDING,
    **spec: Any,
) -> Cluster:
    """From a to b, recorded, and nothing seen yet; `c` is a bystander."""
    cluster = Cluster().node("a").node("b").node("c").domain(**spec)
    intent = Intent(
        kind=IntentKind.MIGRATE,
        node="a",
        epoch=4,
        op="op",
        why="moves to b",
        at="then",
        target="b",
        request=REQUEST,
        copies=copies,
        goes_on=goes_on,
        copy=copy,
    )
    cluster.assigned("a", epoch=4, candidates=("a", "b"), intent=intent)
    return cluster.given(
        watches={UUID: watch}, moving={UUID: intent}, requests={"default/web": (migration(),)}
    )


def with_ends(
    cluster: Cluster, source: tuple[str, str] | None, target: tuple[str, str] | None, since: float = 940.0
) -> Cluster:
    if source is not None:
        cluster.seen("a", *source, since=since, persistent=source[0] == "shutoff")
    if target is not None:
        cluster.seen("b", *target, since=since, persistent=target not in (MIG, COMING))
    return cluster


def acted(verdict: Verdict) -> tuple[ActionKind, str]:
    assert verdict.action is not None, verdict
    return verdict.action.kind, verdict.action.node


def closed(cluster: Cluster) -> Any:
    """The assignment as the closing transaction leaves it."""
    verdict = cluster.verdict()
    assert acted(verdict)[0] is ActionKind.RECORD, verdict
    assert verdict.action is not None and verdict.action.after is not None
    assert verdict.action.after.intent is None
    return verdict.action.after


def held_for(cluster: Cluster) -> Reason:
    verdict = cluster.verdict()
    assert verdict.deferred is not None, verdict
    return verdict.deferred.reason


def move_of(cluster: Cluster) -> Any:
    verdict = cluster.verdict()
    assert verdict.action is not None and verdict.action.after is not None
    return verdict.action
