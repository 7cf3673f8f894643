"""What steps act with, and how they end early: shared by the executor and the modules that hold its steps.

`Hands` are given once per term; `Progress` is one action on its way; a step that cannot go on raises `Halt`
with the report that its action ends with. Nothing here acts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from controller import faults
from controller.cache import Cache
from controller.ledger import Ledger
from controller.limits import Bounds
from controller.objects import Objects
from controller.observer import Observer
from controller.plan.types import Action
from controller.world import World
from drivers.hypervisor import Permit, Session


class Ending(enum.Enum):
    """How an action came out; what it means is the reconciler's business."""

    DONE = "done"
    STALE = "stale"  # the world moved before anything was sent: plan again
    FAILED = "failed"  # tried, or could not be tried: again later
    REJECTED = "rejected"  # will never be accepted as it stands


@dataclass(frozen=True, slots=True)
class Report:
    ending: Ending
    message: str = ""
    disk_locked: bool = False  # somebody else has one of its disks open


NEVER_ASKED: Final = float("-inf")  # the time of a rung that is over


class Halt(Exception):
    """A step ends its action early, with this report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message)
        self.report = report


class RungRefused(Halt):
    """This way of asking a guest does not exist here, or does not work: there is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What the executor acts with. `permit` gives leave to mutate, or None past the lease's deadline;
    `begin`/`end` count calls whose outcome is out, for a leader may not resign over them; `reacted` is told
    how long after a domain's witnessed end its create was sent; `send_off` begins a migration."""

    cache: Cache
    ledger: Ledger
    objects: Objects
    observer: Observer
    world: World
    bounds: Bounds
    permit: Callable[[], Permit | None]
    begin: Callable[[], None]
    end: Callable[[bool, str], None]
    reacted: Callable[[float], None]
    send_off: Callable[[Action, Session, Permit], None]
    faults: faults.Faults


@dataclass(slots=True)
class Progress:
    """One action on its way: `revision` is the assignment's after the last commit; `touched` are the nodes
    that were asked to change something, which are read when it is over. `room`: what looking for room on the
    host came to."""

    action: Action
    revision: int
    room: str = ""
    touched: list[str] = field(default_factory=list)
