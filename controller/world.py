"""Time and ids as inputs: the only clock and the only source of new ids that the shell has.

In production these are the event loop's monotonic clock, UTC and random UUIDs; under simulation they are
virtual. Nothing in `controller/` calls `time`, `datetime.now`, `random` or `uuid4` by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class World:
    """`now`: monotonic seconds, the loop's clock. `wall`: RFC 3339 UTC with seconds ("2026-11-23T01:02:03Z").
    `new_id`: a fresh UUID as lower-case text. `cpu`: seconds that this thread has computed."""

    now: Callable[[], float]
    wall: Callable[[], str]
    new_id: Callable[[], str]
    cpu: Callable[[], float]
