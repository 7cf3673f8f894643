"""What was tried for a domain, and how it went: back-offs, stalls, restarts, shutdown ladders.

In memory only: a new leader tries again from the first rung, which is safe, because every rung can be
repeated. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.limits import Timing
from controller.plan.snapshot import Backoff, Ladder, Restarts, Stall

REPEATS, REPEAT_WITHIN_S = 3, 10.0


@dataclass(slots=True)
class Attempts:
    timing: Timing
    ladders: dict[str, Ladder] = field(default_factory=dict)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    stalls: dict[str, Stall] = field(default_factory=dict)
    unreadable_saves: dict[str, str] = field(default_factory=dict)  # what a start from saved memory came to
    unsupported: dict[tuple[str, str, str], str] = field(default_factory=dict)  # (uuid, node, call): why
    restarts: dict[str, Restarts] = field(default_factory=dict)
    moves: dict[str, Backoff] = field(default_factory=dict)
    done: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def failed(self, uuid: str, message: str, now: float) -> None:
        """Another attempt in vain: pauses double from 1 s to the limit."""
        before = self.backoffs.get(uuid)
        count = 1 if before is None else before.count + 1
        pause_s = min(2.0 ** min(count - 1, 16), self.timing.retry_max_s)
        self.backoffs[uuid] = Backoff(count, now + pause_s, message)

    def succeeded(self, uuid: str) -> None:
        self.backoffs.pop(uuid, None)
        self.stalls.pop(uuid, None)

    def started(self, uuid: str, now: float) -> None:
        """Count starts that follow each other without a stable run between them."""
        before = self.restarts.get(uuid)
        stable = before is None or now - before.last_at > self.timing.stable_after_s
        self.restarts[uuid] = Restarts(1 if stable or before is None else before.count + 1, now)

    def in_vain(self, uuid: str, what: str, now: float) -> bool:
        """Whether `what` was done for the domain REPEATS times running, each soon after the last: libvirt
        says that it is done, and it is not (L3)."""
        last, count, at = self.done.get(uuid, ("", 0, 0.0))
        count = count + 1 if last == what and now - at < REPEAT_WITHIN_S else 1
        self.done[uuid] = (what, count, now)
        return count >= REPEATS

    def move_failed(self, uuid: str, message: str, pause_s: float, now: float) -> None:
        """A migration failed and is tried again; the domain itself is well meanwhile."""
        before = self.moves.get(uuid)
        self.moves[uuid] = Backoff(1 if before is None else before.count + 1, now + pause_s, message)

    def inactive(self, uuid: str) -> None:
        """It does not run any more: no shutdown is under way."""
        self.ladders.pop(uuid, None)

    def spec_changed(self, uuid: str) -> None:
        """What was refused may be accepted now."""
        self.succeeded(uuid)

    def forget(self, uuid: str) -> None:
        self.done.pop(uuid, None)
        tables = (self.ladders, self.backoffs, self.stalls, self.restarts, self.moves, self.unreadable_saves)
        for table in tables:
            table.pop(uuid, None)
        for key in [key for key in self.unsupported if key[0] == uuid]:
            del self.unsupported[key]
