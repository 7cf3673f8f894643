"""Whom a full read is about, and what two rounds of it came to: shared by all domains of one plan.

A rack that comes back from a power cut brings hundreds of domains, each of which must be read as absent from
thousands of nodes (I22c). Who these nodes are, which of them answer and what was read there does not depend
on the domain, so a plan finds it out once; what is left for each domain is a look at its own signs.

Not here: what may be concluded (`evidence`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Set
from dataclasses import dataclass
from itertools import repeat

from controller.plan.snapshot import Snapshot

Key = tuple[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Circle:
    """Known by `key` in its snapshot. Nodes in the order of their names: those that answer, and the rest.
    `strangers`: those among them that are there for this domain alone. `reads`: of those that answer, in
    their order; `last_at`: when the oldest of their newest listings was sent."""

    key: Key
    answering: tuple[str, ...]
    silent: tuple[str, ...]
    strangers: frozenset[str]
    members: frozenset[str]
    reads: tuple[tuple[tuple[float, float], ...], ...]
    last_at: float


def circle(snap: Snapshot, driver: str, named: Set[str]) -> Circle:
    """All registered nodes of this driver, or of one not known yet ("": of any), and those `named`."""
    same = snap.once(("driver", driver), lambda: _same_driver(snap, driver))
    key = (driver, frozenset(named - same))
    return snap.once(("circle", key), lambda: _circle(snap, same, key))


def _same_driver(snap: Snapshot, driver: str) -> frozenset[str]:
    return frozenset(
        name
        for name in snap.nodes
        if (v := snap.views.get(name)) is None or v.facts is None or not driver or v.facts.driver == driver
    )


def _circle(snap: Snapshot, same: frozenset[str], key: Key) -> Circle:
    _, strangers = key
    names = sorted(same | strangers)
    answering = tuple(n for n in names if (v := snap.views.get(n)) is not None and v.answers)
    members = frozenset(answering)
    reads = tuple(snap.views[n].reads for n in answering)
    return Circle(
        key=key,
        answering=answering,
        silent=tuple(n for n in names if n not in members),
        strangers=strangers,
        members=members,
        reads=reads,
        last_at=min((r[-1][0] for r in reads), default=float("inf")),
    )


def not_read_twice(snap: Snapshot, around: Circle, sign_at: float) -> tuple[str, ...]:
    """Nodes that lack a listing in one of two rounds, the first begun after `sign_at`, the second after the
    first ended. The listings of a node follow each other, so the first after an instant also ended first."""
    if around.last_at <= sign_at:
        return tuple(n for n, r in zip(around.answering, around.reads, strict=True) if r[-1][0] <= sign_at)
    ended = snap.once(("round", around.key, sign_at), lambda: _round_ended(around, sign_at))
    if around.last_at > ended:
        return ()
    return tuple(n for n, r in zip(around.answering, around.reads, strict=True) if r[-1][0] <= ended)


def _round_ended(around: Circle, sign_at: float) -> float:
    """When every node had a listing that was sent after `sign_at`."""
    firsts = map(bisect_right, around.reads, repeat((sign_at, float("inf"))))
    return max((r[i][1] for r, i in zip(around.reads, firsts, strict=True)), default=sign_at)


def named_few(nodes: tuple[str, ...], at_most: int = 8) -> str:
    """For a message that must stay legible with thousands of nodes."""
    more = f" and {len(nodes) - at_most} more" if len(nodes) > at_most else ""
    return ", ".join(nodes[:at_most]) + more
