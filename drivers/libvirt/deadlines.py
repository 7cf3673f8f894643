"""How long each call to a host may take. Used by `session`, which passes them to `circuit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each call may take, in seconds. The values were measured against what libvirt itself may
    need: 30 s for a job lock, 27 s for destroying a stuck guest, seconds for a fresh host's first facts."""

    open_s: float = 5.0
    read_s: float = 10.0
    facts_s: float = 30.0
    figures_s: float = 10.0
    define_s: float = 30.0
    create_s: float = 60.0
    destroy_s: float = 60.0
    undefine_s: float = 45.0
    shutdown_s: float = 30.0
    metadata_s: float = 30.0
    suspend_s: float = 35.0  # longer than the 30 s of a job lock, so that its error is heard
    save_s: float = 600.0
    sign_of_life_s: float = 3.0
    close_s: float = 2.0


LIMITS_OF: Mapping[str, Callable[[Deadlines], float]] = MappingProxyType(
    {
        "set_autostart": lambda d: d.metadata_s,
        "suspend": lambda d: d.suspend_s,
        "resume": lambda d: d.suspend_s,
        "save": lambda d: d.save_s,
        "drop_saved": lambda d: d.metadata_s,
        "reboot": lambda d: d.shutdown_s,
        "reset": lambda d: d.suspend_s,
    }
)
