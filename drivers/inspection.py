"""The Inspector port: what a host tells of itself to somebody who does not manage it yet.

A `Session` says what the controller needs in every cycle; an `Inspection` says what has to be known once,
before a host is trusted: who confines its guests, what it starts by itself, what it could run and move.
Everything here is read-only. A part that the driver has not got, or that could not be read, is named in
`unread` with the reason, and its field is empty: unknown is not absent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from drivers.hypervisor import HostFacts, Session


@dataclass(frozen=True, slots=True)
class SecurityModel:
    """One <secmodel> of a host. `label` is the base label of its guests ("+64055:108" for dac)."""

    name: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Resident:
    """A domain that is there already. `cluster`: whose mark it carries, "" for none."""

    uuid: str
    name: str
    active: bool
    autostart: bool
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class HostObject:
    """A storage pool or a network."""

    name: str
    active: bool
    autostart: bool


@dataclass(frozen=True, slots=True)
class Pages:
    """Memory pages of one size, on all NUMA cells together."""

    size_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class CpuOffer:
    """What domains of `virt_type` get for a processor. `model_xml`: the <cpu> that mode host-model stands
    for there; `machine` and `arch` are what it was asked for. All empty where the driver does not say."""

    arch: str = ""
    machine: str = ""
    virt_type: str = ""
    model: str = ""
    vendor: str = ""
    model_xml: str = ""


class CpuFit(enum.StrEnum):
    """How a host's processor compares with one that is asked for."""

    IDENTICAL = "identical"
    SUPERSET = "superset"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True, slots=True)
class Inspection:
    """`aliases`: machine types by another name, such as q35 for pc-q35-7.2. `residents_left_out`: domains
    beyond the bound that were not asked. `unread`: part → why it could not be read."""

    facts: HostFacts
    keep_alive: bool
    security: tuple[SecurityModel, ...] = ()
    residents: tuple[Resident, ...] = ()
    residents_left_out: int = 0
    pools: tuple[HostObject, ...] = ()
    networks: tuple[HostObject, ...] = ()
    pages: tuple[Pages, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    cpu: CpuOffer = CpuOffer()
    unread: Mapping[str, str] = field(default_factory=dict)


class Inspector(Protocol):
    async def inspect(self, session: Session) -> Inspection:
        """Read all parts, each within a deadline. Raises HypervisorError where not even the facts can be
        had; any other part that fails is `unread`."""
        ...

    async def compare_cpu(self, session: Session, wanted: CpuOffer) -> CpuFit:
        """Whether this session's host offers all of another host's processor. Raises HypervisorError."""
        ...

    async def baseline_cpu(self, session: Session, offers: Sequence[CpuOffer]) -> str:
        """The <cpu> that all of the hosts have, as this session's host sees it. Raises HypervisorError."""
        ...
