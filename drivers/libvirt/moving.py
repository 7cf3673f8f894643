"""Which connections a session keeps for migrations, and how many.

A migration holds its call for as long as it takes, so migrations have connections of their own: one is opened
at a session's first migration, and another whenever all slots of those there are taken.
"""

from __future__ import annotations

from drivers.errors import HostFailed
from drivers.libvirt.lane import SLOTS

MAX_MOVING = 4  # connections for migrations, SLOTS calls on each


def too_many_migrations() -> HostFailed:
    return HostFailed(f"{MAX_MOVING * SLOTS} migrations leave this host already: none more is sent")
