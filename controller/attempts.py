"""What was tried for a domain, and how it went: back-offs, stalls, restarts, shutdown ladders.

In memory only: a new leader tries again from the first rung, which is safe, because every rung can be
repeated. Only how often a domain was started again is also in its assignment. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.limits import Timing
from controller.plan.snapshot import Backoff, Ladder, Restarts, Stall

REPEATS, REPEAT_WITHIN_S = 3, 10.0
LOCKED_PAUSE_S = 60.0


@dataclass(slots=True)
class Attempts:
    timing: Timing
    ladders: dict[str, Ladder] = field(default_factory=dict)
    backoffs: dict[str, Backoff] = field(default_factory=dict)
    unwritten: dict[str, Backoff] = field(default_factory=dict)  # the same, of what is only written down
    stalls: dict[str, Stall] = field(default_factory=dict)
    unreadable_saves: dict[str, str] = field(default_factory=dict)  # what a start from saved memory came to
    unsupported: dict[tuple[str, str, str], str] = field(default_factory=dict)  # (uuid, node, call): why
    restarts: dict[str, Restarts] = field(default_factory=dict)
    moves: dict[str, Backoff] = field(default_factory=dict)
    done: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def failed(
        self, uuid: str, message: str, now: float, *, disk_locked: bool = False, is_record: bool = False
    ) -> None:
        """Another attempt in vain: pauses double from 1 s to the limit, and are long from the first on where
        somebody else uses its disk (fault F33). What is only written down has a pause of its own: a command
        that failed is no reason to forget what was seen meanwhile."""
        pauses = self.unwritten if is_record else self.backoffs
        before = pauses.get(uuid)
        count = 1 if before is None else before.count + 1
        pause_s = min(2.0 ** min(count - 1, 16), self.timing.retry_max_s)
        if disk_locked:
            pause_s = max(pause_s, LOCKED_PAUSE_S)
        pauses[uuid] = Backoff(count, now + pause_s, message, disk_locked)

    def succeeded(self, uuid: str) -> None:
        self.backoffs.pop(uuid, None)
        self.unwritten.pop(uuid, None)
        self.stalls.pop(uuid, None)

    def written(self, uuid: str, now: float) -> None:
        """Something was written down. What failed before is still to be waited for."""
        failed = self.backoffs.get(uuid)
        if failed is None or failed.until <= now:
            self.succeeded(uuid)
        self.unwritten.pop(uuid, None)

    def started(self, uuid: str, now: float) -> None:
        """Count starts that follow each other without a stable run between them."""
        before = self.restarts.get(uuid)
        stable = before is None or now - before.last_at > self.timing.stable_after_s
        self.restarts[uuid] = Restarts(1 if stable or before is None else before.count + 1, now)

    def known(self, uuid: str, count: int, now: float) -> None:
        """An earlier leader counted so many starts: its pauses go on, from now."""
        self.restarts.setdefault(uuid, Restarts(count, now))

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

    def node_returned(self, uuid: str) -> None:
        """A node of its is back: what was in vain without it is tried again at once. A disk that something
        else has open is as it was, and a node that comes and goes must not make a storm of it (F33)."""
        failed = self.backoffs.get(uuid)
        if failed is not None and not failed.disk_locked:
            del self.backoffs[uuid]

    def stopped(self, uuid: str) -> None:
        """It is off because that is wanted: whatever starts it next is no restart after a crash."""
        self.restarts.pop(uuid, None)

    def inactive(self, uuid: str) -> None:
        """It does not run any more: no shutdown is under way."""
        self.ladders.pop(uuid, None)

    def spec_changed(self, uuid: str) -> None:
        """What was refused may be accepted now."""
        self.succeeded(uuid)

    def forget(self, uuid: str) -> None:
        self.done.pop(uuid, None)
        tables = (
            self.ladders,
            self.backoffs,
            self.unwritten,
            self.stalls,
            self.restarts,
            self.moves,
            self.unreadable_saves,
        )
        for table in tables:
            table.pop(uuid, None)
        for key in [key for key in self.unsupported if key[0] == uuid]:
            del self.unsupported[key]
