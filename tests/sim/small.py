"""Small worlds, whole: every way two hosts and two domains can look to the plan, by enumeration.

A `World` is plain words: what each host last said of the domain, what is wanted, what was promised, and what
else bears on the case. `worlds` goes through their product: all mixtures of what is central (both hosts, the
wish, the promise) with each single thing beside them, or, when asked for everything, with each pair of these.
`snapshot` makes of the words what a leader would plan from. What is right is said elsewhere
(`tests.sim.smalloracle`), in terms of the words alone.

By symmetry the domain's place is host a, if it has one; the names matter to nothing but ties.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from controller.limits import Timing
from controller.model import (
    Assignment,
    Decision,
    Intent,
    IntentKind,
    MovedDisk,
    Proof,
    Quarantine,
    Rule,
)
from controller.plan.snapshot import (
    Held,
    Ladder,
    Link,
    NodeView,
    Policy,
    Sighting,
    Snapshot,
    StoredDomain,
    Term,
    Usage,
    WitnessedEnd,
)
from drivers.errors import Cause
from drivers.hypervisor import Detail, Record, State
from specs.mark import Mark
from specs.requests import ANNOTATIONS
from tests.unit.plancase import CLUSTER, NOW, UUID, WALL, WALL_S, Cluster

OTHER_CLUSTER: Final = "f0f0f0f0-0000-4000-8000-00000000000f"
SECOND: Final = "d0d0d0d0-0000-4000-8000-000000000002"
EPOCH: Final = 3
READS: Final = ((990.0, 991.0), (995.0, 996.0))
IMAGE, OVERLAY = "/srv/root.img", "/srv/root.s1"
DISK: Final = [{"name": "root", "source": {"file": IMAGE, "shared": True}}]
MOVED: Final = ("disk moved", "disk moved, noted")
"""On host a it stands on OVERLAY, by hand; its spec says IMAGE."""

# (state, reason, libvirt's isActive)
STATES: Final[dict[str, tuple[str, str, bool]]] = {
    "running": ("running", "booted", True),
    "user-paused": ("paused", "user", True),
    "crashed": ("crashed", "panicked", True),
    "ending": ("shutdown", "user", True),
    "migrating": ("paused", "migration", True),
    "starting": ("paused", "starting-up", True),
    "stuck-start": ("paused", "starting-up", True),
    "postcopy": ("paused", "postcopy", True),
    "ended": ("shutoff", "shutdown", False),
    "destroyed": ("shutoff", "destroyed", False),
    "ended-by-crash": ("shutoff", "crashed", False),
    "saved": ("shutoff", "saved", False),
    "off-unknown": ("shutoff", "unknown", False),
    "migrated-away": ("shutoff", "migrated", False),
}
MARKS: Final = ("right", "old", "old live", "none", "foreign", "future", "clone")


class Obs(Struct, frozen=True):
    """One host and the domain on it. `link`: ready, awaiting (something was sent since it was read), silent,
    refused (by the host itself), new. `seen`: "" or one of STATES, when it was read last. `extra`: transient,
    autostart."""

    link: str
    seen: str = ""
    mark: str = "right"
    extra: str = ""


class Promise(Struct, frozen=True):
    """The assignment to host a. `intent`: kind@node; `proof`: node:rule, with a ! if the domain vanished."""

    candidates: tuple[str, ...] = ("a",)
    intent: str = ""
    started: bool = True
    stopped: bool = False
    tombstone: bool = False
    proof: str = ""
    paused: bool = False
    saved: bool = False
    ended: bool = False


class World(Struct, frozen=True):
    """`wanted`: running, shutoff, deleted, orphaned (deleted, and to be kept), or none (there is no object).
    `word`: an operator's. `end`: as witnessed on host a, on this connection or one before. `second`: what
    the other domain does. `aside`: one more thing."""

    a: Obs
    b: Obs
    wanted: str
    promise: Promise | None
    resigned: bool = True
    word: str = ""
    end: str = ""
    signs: str = "old"
    second: str = ""
    aside: str = ""

    def on(self, node: str) -> Obs:
        return self.a if node == "a" else self.b


# --- the enumeration

_UNREAD = (
    Obs("new"),
    Obs("silent"),
    Obs("silent", "running"),
    Obs("silent", "ended"),
    Obs("awaiting"),
    Obs("awaiting", "running"),
    Obs("awaiting", "ended"),
)
_MORE_UNREAD = (
    Obs("silent", "ended", extra="autostart"),
    Obs("silent", "migrating"),
    Obs("refused", "running"),
)
_CENTRAL_STATES = (
    "running",
    "user-paused",
    "crashed",
    "migrating",
    "starting",
    "stuck-start",
    "ended",
    "off-unknown",
    "migrated-away",
)
FEW: Final = (
    *(o for o in _UNREAD if o != Obs("awaiting", "ended")),
    Obs("ready"),
    *(
        Obs("ready", s)
        for s in ("running", "user-paused", "migrating", "stuck-start", "ended", "saved", "off-unknown")
    ),
    Obs("ready", "running", extra="transient"),
)
AWAY: Final = (
    Obs("silent"),
    Obs("silent", "running"),
    Obs("ready"),
    Obs("ready", "migrating"),
    Obs("ready", "ended"),
)
"""The other host, where what matters is how the domain stands at home."""
MANY: Final = (
    *_UNREAD,
    Obs("ready"),
    *(Obs("ready", s) for s in _CENTRAL_STATES),
    *(Obs("ready", s, m) for s in ("running", "ended") for m in ("old", "none", "foreign", "future")),
    Obs("ready", "postcopy"),
    Obs("ready", "running", "old live"),
    Obs("ready", "running", extra="autostart"),
)
ALL: Final = (
    *_UNREAD,
    *_MORE_UNREAD,
    Obs("ready"),
    *(Obs("ready", s, m) for s in STATES for m in MARKS),
    Obs("ready", "running", extra="transient"),
    Obs("ready", "running", extra="autostart"),
    Obs("ready", "ended", extra="autostart"),
)

WISHES: Final = ("running", "shutoff", "deleted", "none")
MORE_WISHES: Final = ("paused", "saved", "transient", "transient, off")
ALL_WISHES: Final = (*WISHES, *MORE_WISHES)
INTENTS: Final = ("", "start@a", "stop@a", "revoke@b", "revoke@a", "define@a")
PROMISES: Final[tuple[Promise | None, ...]] = (
    None,
    *(
        Promise(candidates, intent)
        for candidates in ((), ("a",), ("a", "b"))
        for intent in INTENTS
        if intent.partition("@")[2] in ("", *candidates)
    ),
)
MORE_PROMISES: Final = (
    Promise(started=False),
    Promise((), started=False),
    Promise(stopped=True),
    Promise(paused=True),
    Promise(saved=True),
    Promise(saved=True, stopped=True),
    Promise(intent="save@a", saved=True),
    Promise(intent="reboot@a"),
    Promise(intent="drop-saved@a", saved=True),
    Promise(intent="pause@a", paused=True),
    Promise(intent="resume@a", paused=True),
    Promise(tombstone=True),
    Promise((), tombstone=True),
    Promise(("b",)),
    *(
        Promise(candidates, proof=proof)
        for candidates in ((), ("a",))
        for proof in ("b:R1", "b:R1!", "b:R3", "b:resolved!", "b:absent!")
    ),
    *(Promise((), proof=proof) for proof in ("a:R1", "a:R1!", "a:R3", "a:absent!")),
)

_RESTING: Final = (
    Promise(ended=True),
    Promise(intent="define@a", ended=True),
    *(Promise((), proof=proof, ended=True) for proof in ("a:R1", "a:R1!", "a:R3", "a:absent!")),
    *(Promise((), proof=proof) for proof in ("a:R3", "a:absent!")),
)
_FEW_PROMISES: Final = (None, Promise(), Promise(intent="start@a"), Promise(("a", "b")))

# One at a time beside the centre, or in pairs.
BESIDE: Final[tuple[dict[str, Any], ...]] = (
    {"resigned": False},
    {"word": "dead a"},
    {"word": "dead b"},
    {"word": "not on b"},
    {"word": "not on a"},
    {"word": "keep a"},
    {"word": "keep b"},
    {"end": "shutdown now"},
    {"end": "migrated now"},
    {"end": "shutdown before"},
    {"signs": "fresh"},
    {"signs": "between reads"},
    {"second": "takes the name on a"},
    {"second": "fills both"},
    {"aside": "migration seen"},
    {"aside": "hand migrations"},
    {"aside": "b observe only"},
    {"aside": "a observe only"},
    {"aside": "a in quarantine"},
    {"aside": "b is not registered"},
    {"aside": "store held"},
    {"aside": "unreadable"},
    {"aside": "must leave a"},
    {"aside": "was asked to stop"},
    *({"aside": moved} for moved in MOVED),
    {"wanted": "orphaned"},
)


BESIDE_STATES: Final[tuple[dict[str, Any], ...]] = (
    {"resigned": False},
    *({"aside": f"asked to {what}"} for what in ANNOTATIONS),
    *({"aside": f"asked long ago to {what}"} for what in ANNOTATIONS),
    {"aside": "older memory"},
    {"aside": "autostart wanted"},
    {"aside": "disk moved, noted"},
)
"""Beside these, all wishes."""


def worlds(*, everything: bool) -> Iterator[World]:
    """Every world once, or nearly so."""
    wide = ALL if everything else MANY
    for a, b, wanted, promise in itertools.product(wide, wide, WISHES, PROMISES):
        yield World(a, b, wanted, promise)
    near = MANY if everything else FEW
    for a, b, wanted, promise in itertools.product(near, near, WISHES, MORE_PROMISES):
        yield World(a, b, wanted, promise)
    beside_b = near if everything else AWAY
    for a, b, wanted, promise in itertools.product(near, beside_b, MORE_WISHES, (*PROMISES, *MORE_PROMISES)):
        yield World(a, b, wanted, promise)
    promises = (*PROMISES, *MORE_PROMISES) if everything else _FEW_PROMISES
    for beside in BESIDE:
        for a, b, wanted, promise in itertools.product(near, near, WISHES, promises):
            yield replace(World(a, b, wanted, promise), **beside)
    for beside in BESIDE_STATES:
        for a, b, wanted, promise in itertools.product(near, AWAY, ALL_WISHES, promises):
            yield replace(World(a, b, wanted, promise), **beside)
    for a, b, wanted, promise in itertools.product(near, AWAY, ALL_WISHES, (*promises, *_RESTING)):
        yield World(a, b, wanted, promise, aside="never again")
    if everything:
        for one, other in itertools.combinations(BESIDE, 2):
            if not one.keys() & other.keys():
                for a, b, wanted, promise in itertools.product(FEW, FEW, WISHES, PROMISES[:9]):
                    yield replace(World(a, b, wanted, promise), **one, **other)


# --- what a leader would plan from


def snapshot(world: World) -> Snapshot:
    nodes, memo = _nodes(world.aside), _memo(world.wanted, world.aside)
    disk = IMAGE if world.aside in MOVED else ""
    moved = {"a": OVERLAY if disk else "", "b": disk}
    seen = {n: _sighting(n, world.on(n), moved[n]) for n in ("a", "b") if world.on(n).seen}
    stored = _stored(world.wanted, world.aside)
    names: dict[str, dict[str, str]] = {n: {"web": UUID} for n in seen}
    usage: dict[str, Usage] = {}
    if world.second == "takes the name on a":
        names["a"] = {"web": SECOND}
    if world.second == "fills both":
        usage = {f"host-{n}": Usage(8, 4 << 30) for n in ("a", "b")}
    return Snapshot(
        now=NOW,
        wall_s=WALL_S,
        cluster=CLUSTER,
        term=Term(elected_at=900.0 if world.resigned else 980.0, predecessor_resigned=world.resigned),
        timing=Timing(),
        policy=Policy(hand_migrations=world.aside == "hand migrations"),
        hold="the store is not trusted" if world.aside == "store held" else "",
        unreadable=frozenset({UUID} if world.aside == "unreadable" else ()),
        nodes=nodes,
        views={n: _view(n, world.on(n).link) for n in ("a", "b") if n in nodes},
        domains={} if stored is None else {UUID: stored},
        assignments={} if world.promise is None else {UUID: _held(world.promise, disk, world.aside)},
        sightings={UUID: seen} if seen else {},
        names=names,
        usage=usage,
        dead=_dead(world.word),
        dead_since=dict.fromkeys(_dead(world.word), NOW),
        quarantine=_quarantine(world.aside),
        resolutions=_resolutions(world.word),
        resolved_since={(UUID, n): NOW for n in ("a", "b")},
        proved_since={(UUID, n): NOW for n in ("a", "b")},
        awaiting={(UUID, n): 999.0 for n in ("a", "b") if world.on(n).link == "awaiting"},
        ends=_ends(world.end),
        signs={UUID: {"old": 980.0, "between reads": 993.0, "fresh": 999.0}[world.signs]},
        ladders={UUID: Ladder(0, 0.0)} if world.aside == "was asked to stop" else {},
        migrated=frozenset({UUID} if world.aside == "migration seen" else ()),
        memo=memo,
    )


@cache
def _nodes(aside: str) -> dict[str, Any]:
    cluster = Cluster()
    for name in ("a", "b"):
        if name == "b" and aside == "b is not registered":
            continue
        cluster.node(name, observeOnly=aside == f"{name} observe only", allowedPaths=["/srv"])
    return cluster.nodes


@cache
def _view(node: str, link: str) -> NodeView:
    view = Cluster().answering(node, READS).views[node]
    if link == "new":
        return NodeView()
    if link in ("silent", "refused"):
        how, cause = (Link.BACKING_OFF, "") if link == "silent" else (Link.REFUSED, Cause.KEY_REFUSED)
        return replace(view, link=how, cause=cause, why="so", session=0)
    return view


_ASKED_AT = {"asked ": WALL, "asked long ago ": "2026-01-31T11:50:00Z"}


@cache
def _stored(wanted: str, aside: str) -> StoredDomain | None:
    if wanted == "none":
        return None
    deleted = wanted in ("deleted", "orphaned")
    spec: dict[str, Any] = {"state": wanted if wanted in ("shutoff", "paused", "saved") else "running"}
    if wanted.startswith("transient"):
        spec = {"persistence": "transient", "state": "shutoff" if wanted.endswith("off") else "running"}
    if wanted == "orphaned":
        spec["deletionPolicy"] = "Orphan"
    if aside == "must leave a":
        spec["placement"] = {"node": "b"}
    if aside == "autostart wanted" and not wanted.startswith("transient"):
        spec |= {"placement": {"node": "a"}, "recovery": {"autostart": True}}
    if aside == "never again":
        spec["restartPolicy"] = "Never"
    if aside == "older memory":
        spec["memory"] = "48Mi"
    if aside in MOVED:
        spec["disks"] = DISK
    meta: dict[str, Any] = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}
    when, asks, what = aside.partition("to ")
    if asks and when in _ASKED_AT:
        meta["annotations"] = {ANNOTATIONS[what]: _ASKED_AT[when]}
    return Cluster().domain(UUID, meta=meta, **spec).domains[UUID]


@cache
def _memo(wanted: str, aside: str) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Rendering the same spec again and again would take most of the time."""
    return {}


@cache
def _rendered(epoch: int, disk: str = "") -> tuple[str, str]:
    """As domctl gave it; and where somebody moved its disk, with that since."""
    cluster = Cluster().node("a", allowedPaths=["/srv"])
    cluster.domain(UUID, state="running", **({"disks": DISK} if disk else {}))
    xml, digest = cluster.assigned("a", UUID, epoch=epoch).rendered("a", UUID)
    return xml.replace(IMAGE, disk or IMAGE), digest


@cache
def _sighting(node: str, obs: Obs, disk: str) -> Sighting:
    state, reason, active = STATES[obs.seen]
    record = Record(UUID, "web", State(state), reason, active)
    epoch = {"old": EPOCH - 1, "future": EPOCH + 1}.get(obs.mark, EPOCH)
    xml, digest = _rendered(epoch, disk)
    mark: Mark | None = Mark(CLUSTER, UUID, epoch, digest)
    if obs.mark == "none":
        mark = None
    elif obs.mark == "foreign":
        mark = Mark(OTHER_CLUSTER, UUID, epoch, digest)
    elif obs.mark == "clone":
        mark = Mark(CLUSTER, SECOND, epoch, digest)
    persistent = obs.extra != "transient"
    detail = Detail(
        record=record,
        sent_at=995.0,
        persistent=persistent,
        autostart=obs.extra == "autostart",
        managed_save=obs.seen == "saved",
        saved_xml=xml if obs.seen == "saved" else None,
        config_xml=xml if persistent else None,
        live_xml=xml if active else None,
        config_mark=mark if persistent else None,
        live_mark=_live_mark(mark, obs) if active else None,
        vcpus=1,
        memory_bytes=32 << 20,
    )
    return Sighting(record, detail, 995.0, 900.0 if obs.seen == "stuck-start" else 990.0)


def _live_mark(mark: Mark | None, obs: Obs) -> Mark | None:
    """Re-defining a running domain leaves the old epoch in its live copy."""
    return dataclasses.replace(mark, epoch=EPOCH - 1) if mark is not None and obs.mark == "old live" else mark


_RULES = {"R1": Rule.REVOKED, "R3": Rule.CONFIRMED_DEAD, "resolved": Rule.RESOLVED, "absent": Rule.ABSENT}


@cache
def _held(promise: Promise, disk: str, aside: str) -> Held:
    kind, _, at = promise.intent.partition("@")
    intent = (
        Intent(kind=IntentKind(kind), node=at, epoch=EPOCH, op="op", why="why", at="then") if kind else None
    )
    proofs: tuple[Proof, ...] = ()
    if promise.proof:
        node, _, rule = promise.proof.partition(":")
        vanished = rule.endswith("!")
        proofs = (Proof(node=node, rule=_RULES[rule.rstrip("!")], epoch=EPOCH, at="then", vanished=vanished),)
    xml, digest = _rendered(EPOCH, disk)
    noted = {"root": MovedDisk(source=OVERLAY, defined=True)} if aside == "disk moved, noted" else {}
    return Held(
        Assignment(
            cluster=CLUSTER,
            uuid=UUID,
            namespace="default",
            name="web",
            libvirt_name="web",
            node="a",
            epoch=EPOCH,
            candidates=promise.candidates,
            intent=intent,
            config=xml,
            digest=digest,
            proofs=proofs,
            memory_bytes=32 << 20,
            tombstone=promise.tombstone,
            started=promise.started,
            stopped=promise.stopped,
            paused=promise.paused,
            saved=digest if promise.saved else "",
            ended="shutdown" if promise.ended else "",
            moved_disks=noted,
        ),
        5,
    )


def _decision(**said: Any) -> Decision:
    return Decision(by="alice", at="then", **said)


@cache
def _dead(word: str) -> dict[str, Decision]:
    said, _, node = word.partition(" ")
    return {node: _decision(node=node)} if said == "dead" else {}


@cache
def _resolutions(word: str) -> dict[str, Decision]:
    said, _, node = word.rpartition(" ")
    if said == "keep":
        return {UUID: _decision(keep=node)}
    return {UUID: _decision(not_on=(node,))} if said == "not on" else {}


@cache
def _quarantine(aside: str) -> dict[str, Quarantine]:
    if aside != "a in quarantine":
        return {}
    return {"a": Quarantine(node="a", rule=Rule.CONFIRMED_DEAD, at="then")}


@cache
def _ends(end: str) -> dict[tuple[str, str], WitnessedEnd]:
    how, _, when = end.partition(" ")
    return {(UUID, "a"): WitnessedEnd(1 if when == "now" else 0, how, 994.0)} if end else {}
