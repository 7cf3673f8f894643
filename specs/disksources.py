"""Which image, device or volume each disk of a definition stands on: what a guest loses if that is mistaken.

Read from XML that domctl rendered or that a host gave, inactive or live. Only the top of a chain counts: what
backs it belongs to whoever made the chain. Drives whose medium is changed at will (CD-ROM, floppy) hold
nothing of the guest's, and are not looked at. Disks are matched as `specs.xmldiff` does it, by alias, else by
what the guest calls them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from specs.mark import parse_xml

_MEDIA: Final = ("cdrom", "floppy")
_PATHS: Final = ("file", "dev", "dir")
_OURS: Final = "ua-"


@dataclass(frozen=True, slots=True)
class DiskSource:
    """`name`: the spec's, or `target` where it has none. `source`: a normalised path, or for what is no path
    its attributes; "" for an empty drive."""

    name: str
    target: str
    source: str


def disk_sources(xml: str) -> tuple[DiskSource, ...]:
    """In the order of the definition. Raises specs.mark.UntrustedXml for XML from a host that is not to be
    read."""
    disks = parse_xml(xml).findall("devices/disk")
    return tuple(_of(disk) for disk in disks if disk.get("device") not in _MEDIA)


def source_in(disk: DiskSource, among: Iterable[DiskSource]) -> str:
    """What `disk` stands on in another definition; "" if it is not there."""
    by_name = {one.name: one.source for one in among}
    by_target = {one.target: one.source for one in among}
    return by_name.get(disk.name) or by_target.get(disk.target, "")


def paths_in(xml: str, names: Collection[str] | None = None) -> frozenset[str]:
    """Every path that disks (all, or those named) stand on: media too, and what backs them as far as it is
    written there. Raises specs.mark.UntrustedXml."""
    found = set[str]()
    for disk in parse_xml(xml).findall("devices/disk"):
        if names is None or _of(disk).name in names:
            found |= {path for source in disk.iter("source") if (path := _path(source))}
    return frozenset(found)


def _of(disk: ElementTree.Element) -> DiskSource:
    target, alias = disk.find("target"), disk.find("alias")
    called = "" if target is None else target.get("dev", "")
    given = "" if alias is None else alias.get("name", "")
    name = given.removeprefix(_OURS) if given.startswith(_OURS) else called
    return DiskSource(name, called, _source(disk.find("source")))


def _source(element: ElementTree.Element | None) -> str:
    if element is None:
        return ""
    if any(attribute in element.attrib for attribute in _PATHS):
        return _path(element)
    return " ".join(f"{key}={value}" for key, value in sorted(element.attrib.items()) if key != "index")


def _path(element: ElementTree.Element) -> str:
    path = next((p for a in _PATHS if (p := element.get(a))), "")
    return posixpath.normpath(path) if path else ""
