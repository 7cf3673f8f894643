"""The libvirt XML that a Domain becomes: `render`, pure and deterministic.

XML is only ever made by ElementTree's serialiser (I19), every host path is checked against the node's
allowedPaths, and the image format is always explicit, for a guest could otherwise turn its raw disk into a
qcow2 image that names a file of the host. Devices carry the alias `ua-<name>`, by which drift matches them
(`specs.xmldiff`). What the spec leaves open is left to libvirt, except what differs between hosts for no
good reason or costs: the architecture is written out, there is no USB controller unless a disk needs one,
no graphics, no sound. `spec.xml` is merged last (`specs.overlay`), then our mark is added.

Deliberately not here: choosing MAC addresses (`specs.macs`), and types that the host rejects anyway.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from xml.etree import ElementTree

from msgspec import UnsetType

from specs import overlay, paths, quantity
from specs.digest import digest
from specs.domain import (
    CharacterDevice,
    Disk,
    Domain,
    DomainSpec,
    Interface,
    OperatingSystem,
    effective_type,
    effective_vcpus,
    libvirt_name,
)
from specs.domainrules import DEFAULT_BUS, TARGET_PREFIX
from specs.mark import MARK_KEY, MARK_NAMESPACE, Mark
from specs.problems import Keys, Problem

__all__ = ["RenderRefused", "Rendered", "alias", "render"]

_X86: Final = ("x86_64", "i686")
_MIB: Final = 1 << 20
_Element = ElementTree.Element
_T = TypeVar("_T")
_D = TypeVar("_D")


@dataclass(frozen=True, slots=True)
class Rendered:
    """`digest` covers all of the XML but the mark's epoch and the digest itself."""

    xml: str
    digest: str


class RenderRefused(Exception):
    """The spec cannot be rendered for this node; `problems` says all that is against it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def alias(name: str) -> str:
    """libvirt keeps an alias that a user gave only if it begins with `ua-`."""
    return f"ua-{name}"


def render(  # noqa: PLR0913 - one spec and everything that it does not say
    domain: Domain,
    *,
    uuid: str,
    mark: Mark,
    macs: Mapping[str, str],
    allowed_paths: Sequence[str],
    xml_overlay_allowed: bool,
) -> Rendered:
    """The definition for one node. `mark.digest` is ignored and filled in; `macs` has an address for every
    interface without one in the spec. Raises RenderRefused with all problems."""
    assert mark.uuid == uuid, "a mark that is not the domain's would make it a clone"
    problems = [*_path_problems(domain.spec, allowed_paths), *_other_problems(domain.spec, macs)]
    root = None if problems else _domain(domain, uuid, macs)
    if not isinstance(domain.spec.xml, UnsetType):
        if xml_overlay_allowed:
            problems += overlay.check(domain.spec.xml)
        else:
            message = "is not allowed by the server's configuration"
            problems.append(Problem(("spec", "xml"), message, "FieldValueForbidden"))
    if problems or root is None:
        raise RenderRefused(problems)
    if not isinstance(domain.spec.xml, UnsetType):
        problems = overlay.merge(root, domain.spec.xml, allowed_paths)
        if problems:
            raise RenderRefused(problems)
    return _marked(root, mark)


def _marked(root: _Element, mark: Mark) -> Rendered:
    """The mark last: its own epoch and digest are what the digest does not cover."""
    metadata = root.find("metadata")
    if metadata is None:
        metadata = _sub(root, "metadata")
    whose = {f"xmlns:{MARK_KEY}": MARK_NAMESPACE, "cluster": mark.cluster, "uuid": mark.uuid}
    element = ElementTree.SubElement(metadata, f"{MARK_KEY}:domain", whose)
    found = digest(ElementTree.tostring(root, encoding="unicode"))
    mark = replace(mark, digest=found)
    element.set("epoch", str(mark.epoch))
    element.set("digest", mark.digest)
    return Rendered(ElementTree.tostring(root, encoding="unicode"), found)


# What is against it


def _path_problems(spec: DomainSpec, allowed: Sequence[str]) -> Iterator[Problem]:
    for keys, path in _host_paths(spec):
        if not paths.is_allowed(path, allowed):
            yield Problem(keys, paths.refusal(path, allowed), "FieldValueForbidden")


def _host_paths(spec: DomainSpec) -> Iterator[tuple[Keys, str]]:
    """Every path of the host that the generated XML will name."""
    os = _or(spec.os, OperatingSystem())
    for name, path in (("kernel", os.kernel), ("initrd", os.initrd)):
        if not isinstance(path, UnsetType):
            yield ("spec", "os", name), path
    for index, disk in enumerate(_or(spec.disks, [])):
        if not isinstance(disk.source, UnsetType):
            for name, path in (("file", disk.source.file), ("block", disk.source.block)):
                if not isinstance(path, UnsetType):
                    yield ("spec", "disks", index, "source", name), path
    for listed, devices in (("serials", spec.serials), ("consoles", spec.consoles)):
        for index, device in enumerate(_or(devices, [])):
            if not isinstance(device.path, UnsetType):
                yield ("spec", listed, index, "path"), device.path


def _other_problems(spec: DomainSpec, macs: Mapping[str, str]) -> Iterator[Problem]:
    if effective_type(spec) == "lxc":
        yield Problem(("spec", "type"), "is lxc, which cannot be rendered yet", "FieldValueNotSupported")
    for index, interface in enumerate(_or(spec.interfaces, [])):
        if isinstance(interface.mac, UnsetType) and interface.name not in macs:
            keys = ("spec", "interfaces", index, "mac")
            yield Problem(keys, "is left open, and none was reserved", "FieldValueRequired")


# The document, from its root to its devices


def _domain(domain: Domain, uuid: str, macs: Mapping[str, str]) -> _Element:
    spec = domain.spec
    emulated = effective_type(spec) in ("qemu", "kvm")
    root = ElementTree.Element("domain", {"type": effective_type(spec)})
    _sub(root, "name", libvirt_name(domain.metadata))
    _sub(root, "uuid", uuid)
    # QEMU's driver rounds up to whole MiB at start; rounding here keeps the definition and the guest equal.
    kib = -(-quantity.to_bytes(spec.memory) // _MIB) * 1024
    _sub(root, "memory", str(kib), {"unit": "KiB"})
    _sub(root, "currentMemory", str(kib), {"unit": "KiB"})
    _sub(root, "vcpu", str(effective_vcpus(spec)))
    os = _or(spec.os, OperatingSystem())
    arch = os.arch if not isinstance(os.arch, UnsetType) else ("x86_64" if emulated else None)
    _os(root, os, arch)
    if emulated and arch in _X86:
        features = _sub(root, "features")
        _sub(features, "acpi")
        _sub(features, "apic")
    _sub(root, "clock", None, {"offset": "utc"})
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _sub(root, event, action)
    _devices(_sub(root, "devices"), spec, macs)
    return root


def _os(root: _Element, os: OperatingSystem, arch: str | None) -> None:
    element = _sub(root, "os")
    _sub(element, "type", "hvm", {"arch": arch, "machine": _or(os.machine, None)})
    for tag, text in (("kernel", os.kernel), ("initrd", os.initrd), ("cmdline", os.cmdline)):
        if not isinstance(text, UnsetType):
            _sub(element, tag, text)
    for device in _or(os.boot, []):
        _sub(element, "boot", None, {"dev": device})


def _devices(devices: _Element, spec: DomainSpec, macs: Mapping[str, str]) -> None:
    disks = _or(spec.disks, [])
    targets = _targets(disks)
    for disk in disks:
        _disk(devices, disk, targets[disk.name])
    if effective_type(spec) != "test" and not any(_bus(disk) == "usb" for disk in disks):
        _sub(devices, "controller", None, {"type": "usb", "index": "0", "model": "none"})
    if any(_bus(disk) == "scsi" for disk in disks):  # libvirt's own choice is a controller of 1996
        _sub(devices, "controller", None, {"type": "scsi", "index": "0", "model": "virtio-scsi"})
    for interface in _or(spec.interfaces, []):
        _interface(devices, interface, macs)
    for port, device in enumerate(_or(spec.serials, [])):
        _character_device(devices, "serial", device, {"port": str(port)})
    for device in _or(spec.consoles, []):  # ports of consoles are libvirt's: it numbers them anew at start
        _character_device(devices, "console", device, {"type": "virtio"})


def _disk(devices: _Element, disk: Disk, target: str) -> None:
    device = _or(disk.device, "disk")
    source = None if isinstance(disk.source, UnsetType) else disk.source
    kind = "block" if source is not None and not isinstance(source.block, UnsetType) else "file"
    element = _sub(devices, "disk", None, {"type": kind, "device": device})
    # An empty drive has no format: libvirt drops it from the running domain, which would look like drift.
    image_format = None if source is None else _or(disk.format, "raw")
    cache = _or(disk.cache, None)
    _sub(element, "driver", None, {"name": "qemu", "type": image_format, "cache": cache})
    if source is not None:
        _sub(element, "source", None, {"file": _or(source.file, None), "dev": _or(source.block, None)})
    _sub(element, "target", None, {"dev": target, "bus": _bus(disk)})
    if device == "cdrom" or disk.read_only is True:
        _sub(element, "readonly")
    if disk.shareable is True:
        _sub(element, "shareable")
    if not isinstance(disk.serial, UnsetType):
        _sub(element, "serial", disk.serial)
    _alias(element, disk.name)


def _interface(devices: _Element, interface: Interface, macs: Mapping[str, str]) -> None:
    network, bridge = _or(interface.network, None), _or(interface.bridge, None)
    element = _sub(devices, "interface", None, {"type": "network" if network is not None else "bridge"})
    mac = macs[interface.name] if isinstance(interface.mac, UnsetType) else interface.mac
    _sub(element, "mac", None, {"address": mac})
    _sub(element, "source", None, {"network": network, "bridge": bridge})
    _sub(element, "model", None, {"type": _or(interface.model, "virtio")})
    _alias(element, interface.name)


def _character_device(
    devices: _Element, tag: str, device: CharacterDevice, target: Mapping[str, str]
) -> None:
    element = _sub(devices, tag, None, {"type": _or(device.type, "pty")})
    if not isinstance(device.path, UnsetType):
        append = None if isinstance(device.append, UnsetType) else ("on" if device.append else "off")
        _sub(element, "source", None, {"path": device.path, "append": append})
    _sub(element, "target", None, target)
    _alias(element, device.name)


def _bus(disk: Disk) -> str:
    return _or(disk.bus, DEFAULT_BUS[_or(disk.device, "disk")])


def _targets(disks: Sequence[Disk]) -> dict[str, str]:
    """A target for each disk by name: the one that its spec names, or the next free one of its bus."""
    taken = {disk.target for disk in disks if not isinstance(disk.target, UnsetType)}
    targets = {}
    for disk in disks:
        target = disk.target
        if isinstance(target, UnsetType):
            target = next(name for name in _names(TARGET_PREFIX[_bus(disk)]) if name not in taken)
            taken.add(target)
        targets[disk.name] = target
    return targets


def _names(prefix: str) -> Iterator[str]:
    """vda, vdb, …, vdz, vdaa, …: more than the disks that a domain may have."""
    letters = string.ascii_lowercase
    yield from (prefix + one for one in letters)
    yield from (prefix + one + two for one in letters for two in letters)


def _sub(
    parent: _Element, tag: str, text: str | None = None, attributes: Mapping[str, str | None] | None = None
) -> _Element:
    given = {name: value for name, value in (attributes or {}).items() if value is not None}
    element = ElementTree.SubElement(parent, tag, given)
    element.text = text
    return element


def _alias(element: _Element, name: str) -> None:
    _sub(element, "alias", None, {"name": alias(name)})


def _or(value: _T | UnsetType, default: _D) -> _T | _D:
    return default if isinstance(value, UnsetType) else value
