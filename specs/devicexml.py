"""The devices of a definition: the elements below <devices>, in the order of the spec.

Part of `specs.domainxml`, which checks paths and names first. What differs between hypervisors stands in
`specs.hypervisors`; here it is only looked up.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar
from xml.etree import ElementTree

from msgspec import UnsetType

from specs import quantity
from specs.domain import (
    LOOPBACK,
    CharacterDevice,
    Disk,
    DomainSpec,
    Filesystem,
    Graphics,
    Interface,
    effective_type,
)
from specs.domainrules import TARGET_PREFIX
from specs.hypervisors import HYPERVISORS, Hypervisor

AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
_PC: Final = ("qemu", "test")
_CONSOLE_TARGETS: Final = {"lxc": "lxc", "xen": "xen"}
_Element = ElementTree.Element
_T = TypeVar("_T")
_D = TypeVar("_D")


def add_devices(devices: _Element, spec: DomainSpec, macs: Mapping[str, str]) -> None:
    row = HYPERVISORS[effective_type(spec)]
    disks = given(spec.disks, [])
    targets = disk_targets(spec)
    for disk in disks:
        _disk(devices, disk, targets[disk.name], row)
    # In this order a mount point is there before what is mounted below it; libvirt finds the root itself.
    for filesystem in sorted(given(spec.filesystems, []), key=lambda one: one.target):
        _filesystem(devices, filesystem)
    if row.emulated and not any(_bus(disk, row) == "usb" for disk in disks):
        sub(devices, "controller", None, {"type": "usb", "index": "0", "model": "none"})
    if row.driver in _PC and any(_bus(disk, row) == "scsi" for disk in disks):
        # libvirt's own choice is a controller of 1996
        sub(devices, "controller", None, {"type": "scsi", "index": "0", "model": "virtio-scsi"})
    for interface in given(spec.interfaces, []):
        _interface(devices, interface, macs, row)
    for port, device in enumerate(given(spec.serials, [])):
        _character_device(devices, "serial", device, {"port": str(port)})
    if row.emulated and any(step.method == "agent" for step in given(spec.shutdown, [])):
        _agent(devices)
    for one in given(spec.graphics, []):
        _graphics(devices, one)
    target = {"type": _CONSOLE_TARGETS.get(row.driver, "virtio")}
    for device in given(spec.consoles, []):  # ports of consoles are libvirt's: it numbers them anew at start
        _character_device(devices, "console", device, target)
    if row.container and not given(spec.consoles, []):  # libvirt starts no container without one
        sub(sub(devices, "console", None, {"type": "pty"}), "target", None, target)


def _agent(devices: _Element) -> None:
    """The guest agent's channel. No device of a user can have this alias: their names have no '_'."""
    channel = sub(devices, "channel", None, {"type": "unix"})
    sub(channel, "target", None, {"type": "virtio", "name": AGENT_CHANNEL})
    sub(channel, "alias", None, {"name": "ua-guest_agent"})


def drop_second_agent(devices: _Element) -> None:
    """An overlay may have a channel for the agent of its own: a guest has one."""
    found = [
        c
        for c in devices.findall("channel")
        if (t := c.find("target")) is not None and t.get("name") == AGENT_CHANNEL
    ]
    if len(found) > 1:
        devices.remove(found[0])


def _filesystem(devices: _Element, filesystem: Filesystem) -> None:
    """Without an alias: libvirt's lxc driver keeps none, and its target tells it from the others."""
    element = sub(devices, "filesystem", None, {"type": given(filesystem.type, "mount")})
    if not isinstance(filesystem.source, UnsetType):
        sub(element, "source", None, {"dir": filesystem.source.dir})
    elif not isinstance(filesystem.size, UnsetType):
        kib = -(-quantity.to_bytes(filesystem.size) // 1024)
        sub(element, "source", None, {"usage": str(kib), "units": "KiB"})
    sub(element, "target", None, {"dir": filesystem.target})
    if filesystem.read_only is True:
        sub(element, "readonly")


def has_root(spec: DomainSpec) -> bool:
    """Whether a container has a root file system of its own."""
    return any(
        one.target == "/" and given(one.type, "mount") == "mount" and not isinstance(one.source, UnsetType)
        for one in given(spec.filesystems, [])
    )


def _disk(devices: _Element, disk: Disk, target: str, row: Hypervisor) -> None:
    device = given(disk.device, "disk")
    source = None if isinstance(disk.source, UnsetType) else disk.source
    kind = "block" if source is not None and not isinstance(source.block, UnsetType) else "file"
    element = sub(devices, "disk", None, {"type": kind, "device": device})
    # An empty drive has no format: libvirt drops it from the running domain, which would look like drift.
    formats = row.formats if kind == "file" and device == "disk" else row.other_formats
    image_format = None if source is None else given(disk.format, formats[0])
    cache = given(disk.cache, None)
    name = (
        "qemu" if row.driver in _PC or (row.driver == "xen" and image_format not in (None, "raw")) else None
    )
    if name is not None or image_format is not None:
        sub(element, "driver", None, {"name": name, "type": image_format, "cache": cache})
    if source is not None:
        sub(element, "source", None, {"file": given(source.file, None), "dev": given(source.block, None)})
    sub(element, "target", None, {"dev": target, "bus": _bus(disk, row)})
    if device == "cdrom" or disk.read_only is True:
        sub(element, "readonly")
    if disk.shareable is True:
        sub(element, "shareable")
    if not isinstance(disk.serial, UnsetType):
        sub(element, "serial", disk.serial)
    _alias(element, disk.name)


def _interface(devices: _Element, interface: Interface, macs: Mapping[str, str], row: Hypervisor) -> None:
    network, bridge = given(interface.network, None), given(interface.bridge, None)
    element = sub(devices, "interface", None, {"type": "network" if network is not None else "bridge"})
    mac = macs[interface.name] if isinstance(interface.mac, UnsetType) else interface.mac
    sub(element, "mac", None, {"address": mac})
    sub(element, "source", None, {"network": network, "bridge": bridge})
    model = given(interface.model, row.model)
    if model:
        sub(element, "model", None, {"type": model})
    _alias(element, interface.name)


def _character_device(
    devices: _Element, tag: str, device: CharacterDevice, target: Mapping[str, str]
) -> None:
    element = sub(devices, tag, None, {"type": given(device.type, "pty")})
    if not isinstance(device.path, UnsetType):
        append = None if isinstance(device.append, UnsetType) else ("on" if device.append else "off")
        sub(element, "source", None, {"path": device.path, "append": append})
    sub(element, "target", None, target)
    _alias(element, device.name)


def _graphics(devices: _Element, one: Graphics) -> None:
    """Without its password, which `specs.graphics` puts in. The port is left out, for a running domain shows
    the one that it was given."""
    element = sub(devices, "graphics", None, {"type": one.type, "autoport": "yes"})
    sub(element, "listen", None, {"type": "address", "address": given(one.listen, LOOPBACK)})


def _bus(disk: Disk, row: Hypervisor) -> str:
    return given(disk.bus, row.buses[given(disk.device, "disk")][0])


def disk_targets(spec: DomainSpec) -> dict[str, str]:
    """A target for each disk by name: the one that its spec names, or the next free one of its bus."""
    row, disks = HYPERVISORS[effective_type(spec)], given(spec.disks, [])
    taken = {disk.target for disk in disks if not isinstance(disk.target, UnsetType)}
    targets = {}
    for disk in disks:
        target = disk.target
        if isinstance(target, UnsetType):
            target = next(name for name in _names(TARGET_PREFIX[_bus(disk, row)]) if name not in taken)
            taken.add(target)
        targets[disk.name] = target
    return targets


def _names(prefix: str) -> Iterator[str]:
    """vda, vdb, …, vdz, vdaa, …: more than the disks that a domain may have."""
    letters = string.ascii_lowercase
    yield from (prefix + one for one in letters)
    yield from (prefix + one + two for one in letters for two in letters)


def sub(
    parent: _Element, tag: str, text: str | None = None, attributes: Mapping[str, str | None] | None = None
) -> _Element:
    """A new element below `parent`, with those attributes that have a value."""
    known = {name: value for name, value in (attributes or {}).items() if value is not None}
    element = ElementTree.SubElement(parent, tag, known)
    element.text = text
    return element


def alias(name: str) -> str:
    """libvirt keeps an alias that a user gave only if it begins with `ua-`."""
    return f"ua-{name}"


def _alias(element: _Element, name: str) -> None:
    sub(element, "alias", None, {"name": alias(name)})


def given(value: _T | UnsetType, default: _D) -> _T | _D:
    """What the spec says, or else the default."""
    return default if isinstance(value, UnsetType) else value
