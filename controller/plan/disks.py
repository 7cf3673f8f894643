"""Disks that somebody moved by hand: a guest's writes stand where it put them, whatever its spec says.

An external snapshot, a block copy or a block commit points a domain at another image, in its running copy and
in its definition alike. To call that drift and repair it would define the older image again, and boot from
it: all that was written since would be gone. So a disk that stands on neither what the spec names nor what
domctl gave before holds the domain until they agree. It is written down when it is first seen, for a domain
without a definition, or one whose node dies, takes the news with it. A change of the spec is no such thing:
what it replaces is what domctl gave (`config`, and `older_disks` until that is in use no more).
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.model import MovedDisk
from controller.plan.case import Case
from controller.plan.snapshot import Sighting
from controller.plan.types import Deferred, Reason
from specs.disksources import DiskSource, disk_sources, source_in

_DISK = "devices/disk"


def moved(case: Case) -> Mapping[str, MovedDisk]:
    """By name, the disks that somebody moved and nobody has moved back, as far as is known: what is recorded
    where the domain cannot be seen."""
    was = case.assignment.moved_disks
    rendered = _wanted(case)
    if rendered is None:
        return was
    seen = case.own_sighting
    if not was and (seen is None or not _differs(case)):
        return was
    found = {}
    for disk in disk_sources(rendered):
        one = _moved(case, disk, seen)
        if disk.source and one is not None:
            found[disk.name] = one
    return found


def _wanted(case: Case) -> str | None:
    """By any node's lights if its own is not registered any more: sources are the spec's."""
    node = case.node if case.node in case.snap.nodes else next(iter(sorted(case.snap.nodes)), "")
    if case.stored is None or not node:
        return None
    rendered = case.desired(node, case.assignment.epoch).rendered
    return None if rendered is None else rendered.xml


def _differs(case: Case) -> bool:
    return any(d.path.startswith(_DISK) for d in (*case.config_drift, *case.live_drift))


def _moved(case: Case, disk: DiskSource, seen: Sighting | None) -> MovedDisk | None:
    recorded = case.assignment.moved_disks.get(disk.name)
    if recorded is not None and recorded.source == disk.source:
        recorded = None  # the spec was set to it
    if seen is None:
        return recorded
    defined, live = (_in(xml, disk) for xml in (seen.detail.config_xml, seen.detail.live_xml))
    known = _given(case, disk, seen)
    strange = [] if known is None else [s for s in (live, defined) if s and s not in known]
    if strange:
        return MovedDisk(source=strange[0], defined=defined in strange)
    if recorded is None or live or (recorded.defined and defined):
        return None  # it is back, where it had been seen
    return recorded


def _given(case: Case, disk: DiskSource, seen: Sighting) -> frozenset[str] | None:
    """What this disk may stand on by domctl's own doing; None where that is not known."""
    was, mark = case.assignment, seen.detail.config_mark
    rendered = case.desired_here.rendered
    if was.config is None and (mark is None or rendered is None or mark.digest != rendered.digest):
        return None
    return frozenset({disk.source, _in(was.config, disk), *was.older_disks.get(disk.name, ())})


def _in(xml: str | None, disk: DiskSource) -> str:
    return "" if xml is None else source_in(disk, disk_sources(xml))


def left_in_use(case: Case, wanted: str, *, live_only: bool) -> dict[str, tuple[str, ...]]:
    """What disks stand on at home that `wanted` would have elsewhere: in its running copy, and unless that is
    there already (`live_only`), in its definition."""
    seen = case.own_sighting if case.held is not None else None
    if seen is None or not _differs(case):
        return {}
    xmls = (seen.detail.live_xml, None if live_only else seen.detail.config_xml)
    used = {d.name: {_in(xml, d) for xml in xmls} - {"", d.source} for d in disk_sources(wanted) if d.source}
    return {name: tuple(sorted(sources)) for name, sources in used.items() if sources}


def in_memory(case: Case, wanted: str) -> dict[str, tuple[str, ...]]:
    """What disks stand on in saved memory, which a start goes on with, that `wanted` would have elsewhere."""
    seen = case.own_sighting if case.held is not None else None
    if seen is None or not seen.detail.managed_save:
        return {}
    saved = seen.detail.saved_xml
    if saved is None:
        return dict(case.assignment.older_disks)  # it cannot be read: what was known before still may hold
    used = {d.name: _in(saved, d) for d in disk_sources(wanted) if d.source}
    here = {d.name: d.source for d in disk_sources(wanted)}
    return {name: (source,) for name, source in used.items() if source and source != here[name]}


def hold(case: Case) -> Deferred | None:
    """Why it is neither defined nor started nor moved: its spec and its disks must agree first."""
    found = moved(case) if case.held is not None else {}
    if not found:
        return None
    is_registered = case.node in case.snap.nodes  # else its home was dead, and deleted since
    if is_registered and case.desired_here.rendered is None:  # not to be had there, wherever the disks are
        return Deferred(Reason.SPEC_REFUSED, f"on {case.node}: {case.desired_here.problem}")
    name, disk = sorted(found.items())[0]
    wanted, target = _of_spec(case, name)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Deferred(
        Reason.DISK_MOVED_BY_HAND,
        f"disk {name} is on {disk.source} at {case.node}, by hand, where the spec says {wanted}{more}: "
        f"what was written there would be lost, so it is not defined, started or moved with {wanted}",
        command=_ways_out(case, name, disk, target),
    )


def _of_spec(case: Case, name: str) -> tuple[str, str]:
    rendered = _wanted(case)
    disks = () if rendered is None else disk_sources(rendered)
    return next(((d.source, d.target) for d in disks if d.name == name), ("another", name))


def _ways_out(case: Case, name: str, disk: MovedDisk, target: str) -> str:
    spec = f"set spec.disks[{name}].source to {disk.source}"
    seen = case.own_sighting
    if seen is None or not (seen.record.active or disk.defined):
        return spec
    commit = f"virsh blockcommit {case.assignment.libvirt_name} {target} --active --pivot on {case.node}"
    return f"{commit}{'' if seen.record.active else ' (once virsh start has started it there)'}, or {spec}"
