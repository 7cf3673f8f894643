"""Which of a domain's serial ports and consoles are terminals that can be read, and which of them is meant.

Pure. A name "" stands for the one console that libvirt gives to a container whose spec names none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

from specs.devicexml import given
from specs.domain import DomainSpec, effective_type
from specs.hypervisors import HYPERVISORS

ONLY: Final = ""


def terminals(spec: DomainSpec) -> dict[str, bool]:
    """By name, in the order in which they are meant where none is named: whether it is recorded."""
    listed = [*given(spec.serials, []), *given(spec.consoles, [])]
    found = {one.name: one.record is True for one in listed if given(one.type, "pty") == "pty"}
    if not listed and HYPERVISORS[effective_type(spec)].container:
        return {ONLY: False}
    return found


def recorded(spec: DomainSpec) -> tuple[str, ...]:
    return tuple(name for name, is_recorded in terminals(spec).items() if is_recorded)


def recorded_in(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """As `recorded`, of a spec as it stands in the store. Whatever stands there instead of one names none."""
    listed = [spec[field] for field in ("serials", "consoles") if isinstance(spec.get(field), list)]
    return tuple(one["name"] for one in itertools.chain.from_iterable(listed) if _is_kept(one))


def _is_kept(one: object) -> bool:
    if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
        return False
    return one.get("record") is True and one.get("type", "pty") == "pty"
