"""A page of metrics in parts: none takes long to make, and no family shows two moments.

What prometheus_client keeps is made family by family, each in one go, since those are small. What there is
one of for each domain, or for each call to each node, is kept by ourselves (`Kept`): when its family is
reached all its lines are taken hold of at once, which copies no text, and made or joined a thousand at a
time. Between two parts whoever asked can let others have a turn; families are then of different moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

LINES: Final = 1000  # of kept ones, in a part: 0.2 ms
PART_BYTES: Final = 32 << 10  # of what prometheus_client makes: 3 ms


@dataclass(frozen=True, slots=True)
class Lines:
    """One family: its head, and as of one moment what its lines are made of, and how."""

    head: str
    found: Sequence[Any]
    line: Callable[[Any], str]


class Kept(Protocol):
    """`joined`: its families are not to be collected just now, for they are made from `families`."""

    joined: bool

    def families(self) -> Iterator[Lines]: ...

    def collect(self) -> Iterator[Metric]: ...


def parts(registry: CollectorRegistry, kept: Sequence[Kept]) -> Iterator[bytes]:
    """Everything in `registry`, and of `kept`, in Prometheus' text format."""
    waiting: list[bytes] = []
    for family in _rest(registry, kept):
        waiting.append(generate_latest(_Single(family)))
        if sum(map(len, waiting)) >= PART_BYTES:
            yield b"".join(waiting)
            waiting = []
    yield b"".join(waiting)
    for one in kept:
        for lines in one.families():
            yield lines.head.encode()
            for start in range(0, len(lines.found), LINES):
                yield "".join(map(lines.line, lines.found[start : start + LINES])).encode()


@dataclass(frozen=True, slots=True)
class _Single:
    """One family, as prometheus_client wants to be given it."""

    family: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.family


def _rest(registry: CollectorRegistry, kept: Sequence[Kept]) -> Iterator[Metric]:
    """Collected one by one; whoever collects in between gets the kept ones, too."""
    families = iter(registry.collect())
    while True:
        for one in kept:
            one.joined = True
        try:
            family = next(families, None)
        finally:
            for one in kept:
                one.joined = False
        if family is None:
            return
        yield family
