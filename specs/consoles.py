"""Which of a domain's serial ports and consoles are terminals that can be read, and which of them is meant.

Pure. A name "" stands for the one console that libvirt gives to a container whose spec names none.
"""

from __future__ import annotations

from typing import Final

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
