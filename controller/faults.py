"""Named fault points: before and after every step of every action, in one table.

A test names one, and the process dies there by SIGKILL, as if the power had gone; a fresh controller must
then reach the same end. The table is derived from the executor's steps, so none can be forgotten.
In production `reach` does nothing: nobody gives it a point.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass


def points(steps: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """`action.step.before` and `action.step.after` for each step of each action."""
    return tuple(
        f"{action}.{step}.{edge}"
        for action, names in steps.items()
        for step in names
        for edge in ("before", "after")
    )


def die(_point: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Faults:
    """`armed`: the point at which `strike` is called ("" for none)."""

    armed: str = ""
    strike: Callable[[str], None] = die

    def reach(self, point: str) -> None:
        if self.armed and point == self.armed:
            self.strike(point)
