"""How busy nodes and domains are, as far as anybody knows: what each used between two readings of its node.

The leader's gatherer fills the board, the API reads it (`metrics.k8s.io`). It is kept in memory alone: a
figure is worth nothing once it is old, and the store is not written to for it; so only the replica that leads
has any. What is not known is absent: a node that does not answer, a domain that was seen once only, or whose
counter went back because it was started anew, has no figure, never a zero or an old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from drivers.hypervisor import Figures


@dataclass(frozen=True, slots=True)
class Use:
    """`cores`: processors kept busy, on average over the window. `memory_bytes`: of the host's memory."""

    cores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one node. `at`: wall time of the window's end, as `World.wall`; `until`: monotonic, from when on it
    is too old. `domains`: by UUID."""

    at: str
    window_s: float
    until: float
    host: Use | None
    domains: Mapping[str, Use]


def reading(before: Figures, after: Figures, at: str, until: float) -> Reading:
    """What was used between two answers of one host."""
    window_s = after.sent_at - before.sent_at
    cpu_before = {one.uuid: one.cpu_s for one in before.domains}
    domains: dict[str, Use] = {}
    for one in after.domains:
        use = _use(cpu_before.get(one.uuid), one.cpu_s, window_s, one.used_bytes)
        if use is not None:
            domains[one.uuid] = use
    host = None
    if before.host is not None and after.host is not None:
        host = _use(before.host.cpu_s, after.host.cpu_s, window_s, after.host.used_bytes)
    return Reading(at, window_s, until, host, domains)


def _use(
    before_s: float | None, after_s: float | None, window_s: float, used_bytes: int | None
) -> Use | None:
    if before_s is None or after_s is None or used_bytes is None or after_s < before_s or window_s <= 0:
        return None
    return Use((after_s - before_s) / window_s, used_bytes)


@dataclass(slots=True)
class Board:
    """`now`: monotonic seconds. `is_kept`: whether this process gathers, so that absent means unknown and not
    merely unknown here."""

    now: Callable[[], float]
    is_kept: bool = False
    _readings: dict[str, Reading] = field(default_factory=dict)

    def put(self, node: str, found: Reading) -> None:
        self._readings[node] = found

    def drop(self, node: str) -> None:
        self._readings.pop(node, None)

    def clear(self) -> None:
        self._readings.clear()

    def of(self, node: str) -> Reading | None:
        found = self._readings.get(node)
        return found if found is not None and self.now() < found.until else None
