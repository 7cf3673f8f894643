"""Small worlds of migrations: all that both ends of one can show, before it begins and until it is closed.

A `MoveWorld` is a `World` of two hosts with what bears on a migration beside it: what was asked for, what
this leader saw of its call and of the job, in which order it read both ends since, and what it heard of the
target. Where one is recorded, it goes from host a to host b. What is right is said in
`tests.sim.smallmoveoracle`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import msgspec

from controller.model import Copy, Intent, IntentKind
from controller.plan.snapshot import Held, MoveWatch, Sighting, Snapshot, StoredDomain, StoredMigration
from drivers.hypervisor import Job
from specs.migration import Migration
from tests.sim import small
from tests.sim.small import AWAY, EPOCH, Obs, Promise, World
from tests.unit.plancase import UUID, Cluster

REQUEST: Final = "eeeeeeee-0000-4000-8000-000000000001"
KEY: Final = "default/web"
BEGAN_AT, OVER_AT, RESUMED_AT, READ_BEFORE, READ_SINCE = 990.5, 991.0, 990.8, (979.0, 979.5), (998.5, 999.0)
JUST_S: Final = 998.0

RECORDED: Final = Promise(("a", "b"), "migrate@a")
AT_HOME: Final = Promise()

# What the source answered when it was asked for its job: (operation, nothing was copied since)
JOBS: Final[dict[str, tuple[str, float] | None]] = {
    "none": None,
    "running": ("migration-out", 999.0),
    "stuck": ("migration-out", 950.0),
    "another's": ("save", 950.0),
}


class MoveWorld(msgspec.Struct, frozen=True):
    """`asked`: live, live to b, to a, cold; of a recorded one also abort, or none (its request is gone).
    `call`: sent (it has not returned), failed, rejected, unsure (given up, long ago), late (given up, and the
    source has not answered since), or another's (a former leader sent it). `job`: unasked, or one of JOBS.
    `read`: since (it was over and all was seen), before, or never. `heard`: of the target, by this leader:
    unbroken (all there was to hear), broken, or resumed. `copy`: what is recorded of what stands at the
    target (none: it was paused before it left, so nothing does), and `left` what tells that its source did
    not run on: nothing, said (by the source), in time or late (the target had all of it), or heard (and in
    time)."""

    world: World
    asked: str = "live"
    call: str = "failed"
    job: str = "none"
    read: str = "since"
    heard: str = "unbroken"
    copies: bool = False
    reboots: bool = False
    copy: str = "none"
    left: str = "nothing"

    @property
    def is_recorded(self) -> bool:
        return self.world.promise == RECORDED


# --- the enumeration

_UNREAD = (Obs("silent"), Obs("silent", "running"), Obs("silent", "ended"), Obs("awaiting", "running"))
_SEEN = ("running", "user-paused", "migrating", "stuck-start", "ended", "off-unknown", "migrated-away")
SOURCES: Final = (
    *_UNREAD,
    Obs("ready"),
    *(Obs("ready", seen) for seen in _SEEN),
    Obs("ready", "running", extra="transient"),
    Obs("ready", "migrating", extra="just"),
)
TARGETS: Final = (
    *_UNREAD,
    Obs("ready"),
    *(Obs("ready", seen) for seen in _SEEN),
    Obs("ready", "migrating", extra="transient"),
    Obs("ready", "stuck-start", extra="transient"),
)
_MORE = (
    Obs("new"),
    Obs("awaiting"),
    Obs("refused", "running"),
    *(Obs("ready", seen) for seen in ("crashed", "ending", "postcopy", "starting", "destroyed", "saved")),
    *(Obs("ready", "running", mark) for mark in ("old", "none", "foreign", "future", "clone")),
)
_WISHES = ("running", "shutoff", "deleted", "orphaned", "none")

_HEARD = tuple(
    {"call": call, "heard": heard}
    for call in ("failed", "another's", "unsure")
    for heard in ("unbroken", "broken", "resumed")
)
_CALLS = ("sent", "failed", "late", "another's")
_WATCHED = (
    *({"call": call, "job": job} for call in _CALLS for job in ("unasked", *JOBS)),
    *({"call": call, "read": read} for call in _CALLS for read in ("never", "before")),
)
_ALL_WATCHED = tuple(
    {"call": call, "job": job, "read": read}
    for call, job, read in itertools.product(_CALLS, ("unasked", *JOBS), ("never", "before", "since"))
)
_TO_END: tuple[dict[str, Any], ...] = ({}, {"asked": "abort"})
_BESIDE: tuple[dict[str, Any], ...] = (
    *({"word": word} for word in ("keep a", "keep b", "dead a", "dead b", "not on a", "not on b")),
    *({"aside": aside} for aside in ("a observe only", "b observe only", "hand migrations", "store held")),
    {"resigned": False},
    {"signs": "fresh"},
)
_ASKS: tuple[dict[str, Any], ...] = (
    {},
    {"heard": "broken"},
    {"asked": "abort"},
    {"asked": "none"},
    {"copies": True},
    {"copies": True, "heard": "broken"},
    {"reboots": True, "heard": "broken"},
    {"call": "rejected"},
)


COPIES: Final = {"standing": Copy.STANDING, "whole": Copy.WHOLE, "let-go": Copy.LET_GO, "old": Copy.OLD}
LEFT: Final = ("nothing", "said", "in time", "late", "heard")
_STANDS = Obs("ready", "user-paused")
_BESIDE_OR_WATCHED: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    *((beside, {}) for beside in _BESIDE),
    *(({}, watched) for watched in _WATCHED),
)
_LEFT_FROM = (Obs("ready"), Obs("ready", "ended"), Obs("ready", "migrated-away"), Obs("ready", "migrating"))


def worlds(*, everything: bool) -> Iterator[MoveWorld]:
    yield from _recorded(everything=everything)
    yield from _standing(everything=everything)


def _standing(*, everything: bool) -> Iterator[MoveWorld]:
    """What left running, and what became of it at the target."""
    near = ((*SOURCES, *_MORE), (*TARGETS, *_MORE)) if everything else (SOURCES, TARGETS)
    heard = ("unbroken", "resumed") if everything else ("unbroken",)
    for a, b, copy, left, how in itertools.product(*near, COPIES, LEFT, heard):
        yield MoveWorld(World(a, b, "running", RECORDED), copy=copy, left=left, heard=how)
    for a, wanted, copy, left, ask in itertools.product(near[0], _WISHES, COPIES, LEFT, _ASKS):
        how = {"heard": "resumed"} if ask.get("heard") == "broken" else {}
        yield MoveWorld(World(a, _STANDS, wanted, RECORDED), copy=copy, left=left, **{**ask, **how})
    sources = near[0] if everything else _LEFT_FROM
    ways = tuple(itertools.product(_BESIDE, _WATCHED)) if everything else _BESIDE_OR_WATCHED
    for a, copy, left, (beside, watched) in itertools.product(sources, COPIES, LEFT, ways):
        world = msgspec.structs.replace(World(a, _STANDS, "running", RECORDED), **beside)
        yield MoveWorld(world, copy=copy, left=left, **watched)


def _recorded(*, everything: bool) -> Iterator[MoveWorld]:
    near = ((*SOURCES, *_MORE), (*TARGETS, *_MORE)) if everything else (SOURCES, TARGETS)
    for a, b, wanted, heard in itertools.product(*near, _WISHES, _HEARD):
        yield MoveWorld(World(a, b, wanted, RECORDED), **heard)
    for a, b, heard in itertools.product((*SOURCES, *_MORE), (*TARGETS, *_MORE), _HEARD[:2]):
        yield MoveWorld(World(a, b, "running", RECORDED), **heard)
    for a, b, watched in itertools.product(*near, _ALL_WATCHED if everything else _WATCHED):
        yield MoveWorld(World(a, b, "deleted", RECORDED), **watched)
        for ask in _TO_END:
            yield MoveWorld(World(a, b, "running", RECORDED), **watched, **ask)
    wishes = _WISHES if everything else _WISHES[:1]
    for a, b, wanted, beside, ask in itertools.product(*near, wishes, _BESIDE, _ASKS):
        yield MoveWorld(msgspec.structs.replace(World(a, b, wanted, RECORDED), **beside), **ask)
    yield from _before(near[0], near[1] if everything else AWAY)


def _before(sources: tuple[Obs, ...], targets: tuple[Obs, ...]) -> Iterator[MoveWorld]:
    """Somebody asked for one, and it has not begun."""
    promises = (AT_HOME, Promise(("a", "b")), Promise(intent="stop@a"), Promise(paused=True))
    wishes = (*_WISHES, "paused", "transient")
    asks = ("live", "live to b", "to a", "cold", "abort")
    for a, b, wanted, promise, asked in itertools.product(sources, targets, wishes, promises, asks):
        yield MoveWorld(World(a, b, wanted, promise), asked)
    asides = (*_BESIDE, {"aside": "a in quarantine"}, {"second": "fills both"})
    for a, b, beside, asked in itertools.product(sources, targets, asides, ("live", "cold")):
        yield MoveWorld(msgspec.structs.replace(World(a, b, "running", AT_HOME), **beside), asked)


# --- what a leader would plan from


def snapshot(case: MoveWorld) -> Snapshot:
    snap = small.snapshot(case.world)
    request = {} if case.asked == "none" else {KEY: (_request(case.asked),)}
    more: dict[str, Any] = {"requests": request, "heard": snap.signs}
    if case.reboots and UUID in snap.domains:
        more["domains"] = {UUID: _reboots(case.world.wanted)}
    if UUID in snap.sightings:
        more["sightings"] = {UUID: {n: _since(case, n, seen) for n, seen in snap.sightings[UUID].items()}}
    if case.is_recorded:
        held = snap.assignments[UUID]
        intent = _intent(case.copies, case.copy)
        more["assignments"] = {
            UUID: Held(msgspec.structs.replace(held.assignment, intent=intent), held.revision)
        }
        more["moving"] = {UUID: intent}
        more["watches"] = {UUID: _watch(case.call, case.job, case.read, case.heard, case.left)}
        more["resumes"] = {(UUID, "b"): RESUMED_AT} if case.heard == "resumed" else {}
    return msgspec.structs.replace(snap, **more)


def _since(case: MoveWorld, node: str, seen: Sighting) -> Sighting:
    is_new = case.world.on(node).extra == "just"
    return msgspec.structs.replace(seen, since=JUST_S) if is_new else seen


@cache
def _request(asked: str) -> StoredMigration:
    spec: dict[str, Any] = {"domain": "web"}
    if asked.startswith(("live to", "to")):
        spec["node"] = asked[-1]
    if asked == "cold":
        spec["mode"] = "Cold"
    if asked == "abort":
        spec["abort"] = True
    body = {"metadata": {"name": "m", "namespace": "default", "uid": REQUEST, "generation": 1}, "spec": spec}
    return StoredMigration(msgspec.convert(body, Migration), 3)


@cache
def _reboots(wanted: str) -> StoredDomain:
    deleted = wanted in ("deleted", "orphaned")
    meta: dict[str, Any] = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}
    spec: dict[str, Any] = {"deletionPolicy": "Orphan"} if wanted == "orphaned" else {}
    spec |= {"state": wanted if wanted in ("shutoff", "paused") else "running"}
    return Cluster().domain(UUID, meta=meta, migration={"onDoubt": "Reboot"}, **spec).domains[UUID]


@cache
def _intent(copies: bool, copy: str) -> Intent:
    return Intent(
        kind=IntentKind.MIGRATE,
        node="a",
        epoch=EPOCH,
        op="op",
        why="why",
        at="then",
        target="b",
        request=REQUEST,
        copies=copies,
        goes_on=copy != "none",
        copy=COPIES.get(copy, Copy.STANDING),
    )


@cache
def _watch(call: str, job: str, read: str, heard: str, left: str) -> MoveWatch:
    told = JOBS.get(job)
    arrived = {"in time": 200, "heard": 200, "late": 38_000}.get(left)
    watch = MoveWatch(
        result=None if arrived is None else Job("migration-in", 1.0, 1, 0, 1, downtime_ms=arrived),
        done=left == "said",
        job=None if told is None else Job(told[0], 50.0, 10 << 20, 22 << 20, 32 << 20),
        asked_at=None if job == "unasked" else 999.0,
        still_since=0.0 if told is None else told[1],
        read={"never": None, "before": READ_BEFORE, "since": READ_SINCE}[read],
    )
    if call == "another's":
        return watch
    listens = 1 if left in ("heard", "late") else 9
    watch = dataclasses.replace(
        watch,
        began_at=BEGAN_AT,
        source_session=listens,
        target_session=9 if heard == "broken" else 1,
    )
    if call == "sent":
        return dataclasses.replace(watch, in_flight=True)
    return dataclasses.replace(
        watch,
        over_at=OVER_AT,
        error="it said so",
        rejected=call == "rejected",
        unsure=call in ("unsure", "late"),
        answered_at=900.0 if call == "unsure" else None,
    )
