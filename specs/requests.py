"""Requests: what is to be done to a domain once, asked for by an annotation whose value is a time.

As `kubectl rollout restart` does it: a later value is a new request, and is carried out once at most,
whatever becomes of the controller. A value that is not later than one that was answered (a commit that was
taken back, an old manifest applied again) asks for nothing, nor does one that is old: nobody wants a guest
reset hours after he asked. What came of it stands in status.requests. What a domain should *be* stands in
spec; only what leaves no trace there, or throws something away, is asked for here.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import UnsetType

from specs.meta import ObjectMeta
from specs.problems import shown
from specs.walker import Report

ANNOTATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reboot": "domctl.io/reboot-at",
        "reset": "domctl.io/reset-at",
        "resume": "domctl.io/resume-at",
        "restore": "domctl.io/restore-at",
        "drop-saved": "domctl.io/drop-saved-at",
    }
)
"""reboot: ask the guest to start again. reset: as by the reset button. resume: let go on what somebody, or
an error of its disks, paused. restore: start from saved memory although the definition changed since, or try
again to read it. drop-saved: throw saved memory away."""

IMPOSSIBLE: Final = frozenset(
    {("lxc", "reset"), ("lxc", "restore"), ("lxc", "drop-saved"), ("test", "reset")}
)
"""Of these types no driver has it."""

MAX_VALUE: Final = 64
LATE_S: Final = 600.0
"""A request that is older when it could be carried out is not."""
AHEAD_S: Final = 60.0
"""Clocks may differ by so much; what is of a time that is further to come is of a clock that is wrong."""


def requests_of(meta: ObjectMeta) -> dict[str, str]:
    """The requests of an object, by name, with their values."""
    if isinstance(meta.annotations, UnsetType):
        return {}
    return {name: meta.annotations[key] for name, key in ANNOTATIONS.items() if meta.annotations.get(key)}


def check_requests(body: Any, report: Report) -> None:
    """On the cleaned value of a whole Domain."""
    metadata, spec = body.get("metadata"), body.get("spec")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping):
        return
    kind = spec.get("type", "kvm") if isinstance(spec, Mapping) else "kvm"
    for name, key in ANNOTATIONS.items():
        value = annotations.get(key)
        if not isinstance(value, str) or not value:
            continue
        where = ("metadata", "annotations", key)
        if not _is_time(value):
            report.add(where, f"must be a time such as 2026-01-31T12:00:00Z, is {shown(value)}")
        elif (kind, name) in IMPOSSIBLE:
            report.add(where, f"is not possible for a domain of type {kind}", "FieldValueForbidden")


def _is_time(value: str) -> bool:
    return instant_of(value) is not None


def instant_of(value: str) -> float | None:
    """The time that a value says, in seconds since 1970; None if it says none."""
    if len(value) > MAX_VALUE:
        return None
    try:
        found = datetime.datetime.fromisoformat(value)
        return None if found.tzinfo is None else found.timestamp()
    except (ValueError, OverflowError):
        return None
