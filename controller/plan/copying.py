"""Disks that are copied along with a migration, and what their paths at its target belong to already.

libvirt takes a file or device of that path at the target for the empty volume that it asks for, and writes
over it from end to end; only an image that a QEMU has open just then is spared, by its lock. So nothing is
copied to a path that any other domain seen at that host names, defined or running, at the top of a chain or
below or in memory that was saved, nor to one that domctl itself has promised to a domain there: what is off
may well be wanted again. What no domain names cannot be seen from here; nor can what backs the image of one
that is off, where its definition does not name the chain.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from msgspec import UnsetType

from controller.model import Assignment
from controller.plan.case import Case
from controller.plan.place import capacity_group
from controller.plan.snapshot import UNSEEN
from controller.plan.types import Deferred, Reason
from specs.disksources import paths_in
from specs.domain import DomainSpec, pinning_disks
from specs.mark import UntrustedXml


def paths_taken(case: Case, target: str) -> Deferred | None:
    """Why this domain's own disks may not be copied to where they would be at `target`."""
    copied = _copied(case)
    for node in _of_one_host(case, target) if copied else ():
        for uuid, holder, named in _named_at(case, node):
            if named is None:
                return Deferred(
                    Reason.PATH_IN_USE,
                    f"what domain {holder} ({uuid}) on {node} has for disks could not be read, so "
                    "nothing is copied there",
                    command=f"mend or undefine {holder} on {node}, or another spec.node",
                    retry_after_s=5.0,
                )
            if common := sorted(copied & named):
                return Deferred(
                    Reason.PATH_IN_USE,
                    f"{common[0]} on {node} is a disk of domain {holder} ({uuid}), which a copy would "
                    "write over",
                    command="another spec.node, or another path for one of the two disks",
                    retry_after_s=5.0,
                )
    return None


def _copied(case: Case) -> frozenset[str]:
    """As the spec says, and as the running copy has it, which is where libvirt writes."""
    assert case.stored is not None
    names = pinning_disks(case.stored.domain.spec)
    seen = case.all_sightings.get(case.node)
    live = frozenset[str]()
    if names and seen is not None and seen.detail.live_xml is not None:
        live = paths_in(seen.detail.live_xml, names)
    return live | _of_spec(case.stored.domain.spec, names)


def _of_spec(spec: DomainSpec, names: tuple[str, ...] | None = None) -> frozenset[str]:
    disks = () if isinstance(spec.disks, UnsetType) else spec.disks
    sources = [d.source for d in disks if names is None or d.name in names]
    paths = [p for s in sources if not isinstance(s, UnsetType) for p in (s.file, s.block)]
    return frozenset(posixpath.normpath(p) for p in paths if not isinstance(p, UnsetType))


def _of_one_host(case: Case, target: str) -> list[str]:
    """An lxc Node of a host has the same files as its qemu Node."""
    views = case.snap.views
    host = capacity_group(views.get(target, UNSEEN), target)
    return sorted(n for n in case.snap.nodes if capacity_group(views.get(n, UNSEEN), n) == host)


def _named_at(case: Case, node: str) -> Iterator[tuple[str, str, frozenset[str] | None]]:
    """(UUID, name, paths) of every other domain that is there, or may be; None: its disks are not known."""
    for uuid, seen in case.snap.sightings.items():
        if uuid != case.uuid and node in seen:
            detail = seen[node].detail
            xmls = (detail.config_xml, detail.live_xml, detail.saved_xml)
            unread = detail.managed_save and detail.saved_xml is None
            yield uuid, seen[node].record.name, None if unread else _read(*xmls)
    for uuid, held in case.snap.assignments.items():
        was = held.assignment
        if uuid != case.uuid and (node == was.node or node in was.candidates):
            yield uuid, was.name, _promised(case, was)


def _promised(case: Case, was: Assignment) -> frozenset[str]:
    """What it was given last, what its spec says now, and what somebody moved it to."""
    given = None if was.config is None else _read(was.config)
    stored = case.snap.domains.get(was.uuid)
    wanted = frozenset[str]() if stored is None else _of_spec(stored.domain.spec)
    moved = frozenset(posixpath.normpath(disk.source) for disk in was.moved_disks.values())
    return (given or frozenset()) | wanted | moved


def _read(*xmls: str | None) -> frozenset[str] | None:
    given = [xml for xml in xmls if xml is not None]
    try:
        return frozenset().union(*(paths_in(xml) for xml in given)) if given else None
    except UntrustedXml:
        return None
