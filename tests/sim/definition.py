"""Domain XML as a host reads and rewrites it: pure functions, each document looked at once.

A host parses what it is given (and refuses what libvirt would refuse), gives a running domain its live copy,
and puts a mark in the place of another. Everything is cached by the text itself, for the same few documents
pass many times. libvirt's own additions (addresses, machine versions) are left out: nobody compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from xml.etree.ElementTree import Element

from drivers.errors import HypervisorError
from drivers.hypervisor import Mark
from drivers.libvirt.errors import translate
from specs import mark as marks
from specs.devicexml import AGENT_CHANNEL

_QEMU = 10  # virErrorDomain
_MARK = re.compile(rf"<{marks.MARK_KEY}:domain [^>]*>")
_ROOT = re.compile(r"<domain\b")
_ID = re.compile(r" id='[0-9]+'")
OWN_STORAGE = ("/var/lib/libvirt/", "/srv/own/")  # all other directories are shared by all hosts
_UNITS = {None: 1024, "": 1024, "b": 1, "KiB": 1024, "MiB": 1 << 20, "GiB": 1 << 30}
# The children of <domain> that libvirt's schema knows, as far as anybody here writes them.
_KNOWN = frozenset(
    (
        *(
            "name",
            "uuid",
            "genid",
            "title",
            "description",
            "metadata",
            "maxMemory",
            "memory",
            "currentMemory",
        ),
        *("memoryBacking", "vcpu", "vcpus", "iothreads", "cputune", "numatune", "resource", "sysinfo"),
        *("os", "features", "cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "on_lockfailure", "pm"),
        *("perf", "idmap", "devices", "seclabel", "launchSecurity"),
    )
)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a host needs to know of a document."""

    uuid: str
    name: str
    vcpus: int
    memory_bytes: int
    preserves_crash: bool
    mark: Mark | None
    local_disks: tuple[str, ...] = ()  # targets of disks in the host's own storage
    has_agent: bool = False  # a channel for the guest's agent


def refusal(code: int, message: str, call: str = "", origin: int = _QEMU) -> HypervisorError:
    """libvirt's error with this number, in the port's type: by the driver's own table."""
    return translate(code, origin, message, call)


@lru_cache(maxsize=4096)
def read(xml: str) -> Definition | HypervisorError:
    """What libvirt makes of a document: the error is the one that `define` answers with."""
    try:
        root = marks.parse_xml(xml)
        unknown = [child.tag for child in root if child.tag not in _KNOWN]
        if unknown:
            return refusal(92, f"XML document failed to validate against schema: element {unknown[0]}")
        memory = root.find("memory")
        unit, text = (None, "0") if memory is None else (memory.get("unit"), memory.text or "0")
        return Definition(
            uuid=root.findtext("uuid", "").strip().lower(),
            name=root.findtext("name", "").strip(),
            vcpus=int(root.findtext("vcpu", "1")),
            memory_bytes=int(text) * _UNITS[unit],
            preserves_crash=root.findtext("on_crash", "") == "preserve",
            mark=marks.find(xml),
            local_disks=tuple(
                _attribute(disk, "target", "dev")
                for disk in root.iterfind("devices/disk")
                if _attribute(disk, "source", "file").startswith(OWN_STORAGE)
                and disk.find("readonly") is None
            ),
            has_agent=any(
                target.get("name") == AGENT_CHANNEL for target in root.iterfind("devices/channel/target")
            ),
        )
    except (marks.UntrustedXml, ValueError) as error:
        return refusal(27, f"XML error: {error}")


def _attribute(element: Element, child: str, name: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(name, "")


def known(xml: str) -> Definition:
    """Of a document that was accepted before."""
    found = read(xml)
    assert isinstance(found, Definition), found
    return found


@lru_cache(maxsize=4096)
def live(xml: str, number: int) -> str:
    """The document of a running domain: it has an id."""
    return _ROOT.sub(f"<domain id='{number}'", _ID.sub("", xml, count=1), count=1)


@lru_cache(maxsize=4096)
def inactive(xml: str) -> str:
    return _ID.sub("", xml, count=1)


@lru_cache(maxsize=4096)
def marked(xml: str, mark: Mark | None) -> str:
    """The document with this mark and no other (None: with no mark of ours)."""
    text = "" if mark is None else marks.element(mark)
    bare = _MARK.sub("", xml)
    if not text:
        return bare
    for place, filled in (
        ("<metadata>", f"<metadata>{text}"),
        ("<metadata/>", f"<metadata>{text}</metadata>"),
        ("<metadata />", f"<metadata>{text}</metadata>"),
        ("</domain>", f"<metadata>{text}</metadata></domain>"),
    ):
        if place in bare:
            return bare.replace(place, filled, 1)
    return bare


@lru_cache(maxsize=4096)
def with_memory(xml: str, mebibytes: int) -> str:
    """The same domain with another size."""
    size = f"<\\1 unit='KiB'>{mebibytes * 1024}</\\1>"
    return re.sub(r"<(memory|currentMemory)\b[^>]*>[^<]*</\1>", size, xml)


@lru_cache(maxsize=4096)
def renamed(xml: str, uuid: str, name: str) -> str:
    """A clone as careless tools make it: another uuid and name, everything else copied, our mark too."""
    xml = re.sub(r"<uuid>[^<]*</uuid>", f"<uuid>{uuid}</uuid>", xml, count=1)
    return re.sub(r"<name>[^<]*</name>", f"<name>{name}</name>", xml, count=1)


def plain(uuid: str, name: str, metadata: str = "", mebibytes: int = 32, devices: str = "") -> str:
    """A domain of somebody else's."""
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{metadata}</metadata>"
        f"<memory unit='KiB'>{mebibytes * 1024}</memory><vcpu>1</vcpu><os><type>hvm</type></os>"
        f"{devices}</domain>"
    )
