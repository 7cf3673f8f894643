"""Token buckets by name: how often each may, remembered for a bounded number of names.

The name that was seen longest ago is forgotten first. A forgotten one begins again with a full bucket, so
what is bounded for sure is memory, and the rate of those who keep coming.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

KEPT: Final = 4096


class Buckets:
    """`rate` a second, `burst` at once. `now`: monotonic seconds."""

    def __init__(self, now: Callable[[], float], rate: float, burst: float, *, kept: int = KEPT) -> None:
        self._now = now
        self._rate = rate
        self._burst = burst
        self.kept = kept
        self._full_at: dict[str, float] = {}  # when the bucket is full again; insertion order is age

    def wait_s(self, name: str) -> float:
        """Take one. 0 if there was one, else the seconds until there is, and none is taken."""
        now = self._now()
        full_at = max(self._full_at.pop(name, now), now)
        wait = (full_at - now) - (self._burst - 1) / self._rate
        self._full_at[name] = full_at if wait > 0 else full_at + 1 / self._rate
        if len(self._full_at) > self.kept:
            del self._full_at[next(iter(self._full_at))]
        return max(0.0, wait)
