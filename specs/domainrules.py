"""What a Domain's spec must be beyond its types: what its fields mean together.

Works on the cleaned value of `specs.walker`; see `specs.metarules`. Whether a path is allowed depends on
the node, and is checked where the XML is made (`specs.domainxml`); that a path is sound is checked here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

from specs import metarules, paths, quantity
from specs.domain import LOOPBACK
from specs.hypervisors import Hypervisor
from specs.problems import Keys, shown
from specs.typerules import check_type, hypervisor_of
from specs.walker import Report

MIN_MEMORY: Final = 1 << 20
MAX_MEMORY: Final = 64 << 40
# The prefix of a target's name for each bus, as libvirt understands it.
TARGET_PREFIX: Final = {
    "virtio": "vd",
    "sata": "sd",
    "scsi": "sd",
    "usb": "sd",
    "ide": "hd",
    "fdc": "fd",
    "xen": "xvd",
}
_DEVICES: Final = ("disks", "interfaces", "serials", "consoles")


def check_domain(spec: object, report: Report) -> None:
    if not isinstance(spec, Mapping):
        return
    _check_memory(spec.get("memory"), report)
    _check_os(spec.get("os"), report)
    _check_disks(spec, report)
    _check_interfaces(spec, report)
    _check_character_devices(spec, report)
    _check_names(spec, report)
    _check_graphics(spec, report)
    _check_ladder(spec.get("shutdown"), report)
    check_type(spec, report)
    _check_persistence(spec, report)
    xml = spec.get("xml")
    if isinstance(xml, str):
        from specs import overlay  # noqa: PLC0415 - its grammar takes longer to load than all other rules

        report.problems += overlay.check(xml)
    placement = spec.get("placement")
    if isinstance(placement, Mapping):
        metarules.check_labels(placement.get("nodeSelector"), ("spec", "placement", "nodeSelector"), report)


def _items(spec: Mapping[str, Any], name: str) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """The entries of one of spec's lists that are objects at all, with their paths."""
    listed = spec.get(name)
    for index, item in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(item, Mapping):
            yield ("spec", name, index), item


def _check_memory(memory: object, report: Report) -> None:
    keys = ("spec", "memory")
    if isinstance(memory, bool) or not isinstance(memory, str | int):
        return
    try:
        amount = quantity.to_bytes(memory)
    except ValueError as error:
        report.add(keys, str(error))
        return
    if not MIN_MEMORY <= amount <= MAX_MEMORY:
        unit = " (bytes; did you forget Mi?)" if isinstance(memory, int) and 0 < memory < MIN_MEMORY else ""
        report.add(keys, f"must be between 1Mi and 64Ti, is {memory}{unit}")


def _check_path(path: object, keys: Keys, report: Report) -> None:
    if isinstance(path, str) and path.startswith("/") and (fault := paths.fault(path)) is not None:
        report.add(keys, f"must {fault}, is {shown(path)}")


def _check_os(os: object, report: Report) -> None:
    if not isinstance(os, Mapping):
        return
    keys: Keys = ("spec", "os")
    for name in ("kernel", "initrd"):
        _check_path(os.get(name), (*keys, name), report)
    for name in ("initrd", "cmdline"):
        if name in os and "kernel" not in os:
            report.add((*keys, name), "needs os.kernel: it is for a kernel that is booted directly")
    if "boot" in os and "kernel" in os:
        report.add((*keys, "boot"), "cannot stand beside os.kernel, which is booted directly")
    boot = os.get("boot")
    if isinstance(boot, list) and len({str(one) for one in boot}) != len(boot):
        report.add((*keys, "boot"), "names a device twice", "FieldValueDuplicate")
    cmdline = os.get("cmdline")
    if isinstance(cmdline, str) and any(c in cmdline for c in "\r\n\t"):
        report.add((*keys, "cmdline"), "must be one line without tabs")


def _check_disks(spec: Mapping[str, Any], report: Report) -> None:
    targets: dict[object, Keys] = {}
    row = hypervisor_of(spec)
    for keys, disk in _items(spec, "disks"):
        device = disk.get("device", "disk")
        _check_source(disk, device, keys, report)
        if not row.container:
            _check_bus(disk, device, keys, report, row)
            _check_format(disk, device, keys, report, row)
        target = disk.get("target")
        if isinstance(target, str):
            if target in targets:
                report.add((*keys, "target"), f"is there twice: {target}", "FieldValueDuplicate")
            targets[target] = keys
        if device == "cdrom" and disk.get("readOnly") is False:
            report.add((*keys, "readOnly"), "cannot be false: a cdrom is always read-only")
    _check_images(spec, report)


def _check_graphics(spec: Mapping[str, Any], report: Report) -> None:
    kinds: set[str] = set()
    for keys, one in _items(spec, "graphics"):
        kind, listen = one.get("type"), one.get("listen", LOOPBACK)
        if isinstance(kind, str):
            if kind in kinds:
                report.add((*keys, "type"), f"is there twice: {shown(kind)}", "FieldValueDuplicate")
            kinds.add(kind)
        try:
            local = not isinstance(listen, str) or ipaddress.ip_address(listen).is_loopback
        except ValueError:
            report.add((*keys, "listen"), f"must be an IP address such as 127.0.0.1, is {shown(listen)}")
            continue
        if not local and "passwordSecret" not in one:
            message = "is required: others than its host reach it"
            report.add((*keys, "passwordSecret"), message, "FieldValueRequired")


def _check_images(spec: Mapping[str, Any], report: Report) -> None:
    """One image behind two disks of a domain, one of them writable: the guest would tear its own file
    system apart, where QEMU's image lock does not stop it first."""
    seen: dict[str, bool] = {}
    for keys, disk in _items(spec, "disks"):
        source = disk.get("source")
        writable = disk.get("readOnly") is not True and disk.get("device") != "cdrom"
        for name in ("file", "block"):
            path = source.get(name) if isinstance(source, Mapping) else None
            if isinstance(path, str):
                if path in seen and (writable or seen[path]):
                    message = f"is there twice, and may be written to: {shown(path)}"
                    report.add((*keys, "source", name), message, "FieldValueDuplicate")
                seen[path] = writable or seen.get(path, False)


def _check_source(disk: Mapping[str, Any], device: object, keys: Keys, report: Report) -> None:
    source = disk.get("source")
    if source is None:
        if device == "disk":
            message = "is required: only a cdrom or floppy drive may be empty"
            report.add((*keys, "source"), message, "FieldValueRequired")
        return
    if not isinstance(source, Mapping):
        return
    if ("file" in source) == ("block" in source):
        report.add((*keys, "source"), "must have exactly one of file and block", "FieldValueRequired")
    for name in ("file", "block"):
        _check_path(source.get(name), (*keys, "source", name), report)


def _check_bus(disk: Mapping[str, Any], device: object, keys: Keys, report: Report, row: Hypervisor) -> None:
    buses = row.buses.get(str(device))
    if buses is None:
        return
    if not buses:
        message = f"cannot be {device}: libvirt's {row.driver} driver has none"
        report.add((*keys, "device"), message, "FieldValueNotSupported")
        return
    bus = disk.get("bus", buses[0])
    if bus not in TARGET_PREFIX:
        return
    if bus not in buses:
        allowed = " or ".join(buses)
        report.add((*keys, "bus"), f"must be {allowed} for a {device}, is {bus}", "FieldValueNotSupported")
        return
    target, prefix = disk.get("target"), TARGET_PREFIX[bus]
    if isinstance(target, str) and _has_prefix(target) and not target.startswith(prefix):
        report.add((*keys, "target"), f"must begin with {prefix} on the bus {bus}, is {target}")
    if row.driver == "qemu" and device == "disk" and bus in ("ide", "sata") and disk.get("readOnly") is True:
        report.add((*keys, "readOnly"), f"is not possible for a disk on the bus {bus}: QEMU has no such disk")


def _has_prefix(target: str) -> bool:
    return target.startswith(tuple(TARGET_PREFIX.values()))


def _check_format(
    disk: Mapping[str, Any], device: object, keys: Keys, report: Report, row: Hypervisor
) -> None:
    """What a type takes; a value that no type has is the schema's to refuse."""
    source = disk.get("source")
    is_file = isinstance(source, Mapping) and "file" in source and device == "disk"
    allowed, given = row.formats if is_file else row.other_formats, disk.get("format")
    if given in ("raw", "qcow2", "vmdk", "ploop") and given not in allowed:
        message = f"must be {' or '.join(allowed)} here for libvirt's {row.driver} driver, is {given}"
        report.add((*keys, "format"), message, "FieldValueNotSupported")


def _check_interfaces(spec: Mapping[str, Any], report: Report) -> None:
    macs: set[str] = set()
    for keys, interface in _items(spec, "interfaces"):
        if ("network" in interface) == ("bridge" in interface):
            report.add(keys, "must have exactly one of network and bridge", "FieldValueRequired")
        mac = interface.get("mac")
        if isinstance(mac, str):
            if mac in macs:
                report.add((*keys, "mac"), f"is there twice: {shown(mac)}", "FieldValueDuplicate")
            if mac == "00:00:00:00:00:00":
                report.add((*keys, "mac"), "must not be all zeros")
            macs.add(mac)


def _check_character_devices(spec: Mapping[str, Any], report: Report) -> None:
    paths_seen: set[str] = set()
    for name in ("serials", "consoles"):
        for keys, device in _items(spec, name):
            kind, path = device.get("type", "pty"), device.get("path")
            _check_path(path, (*keys, "path"), report)
            if kind == "file" and "path" not in device:
                report.add((*keys, "path"), "is required for type file", "FieldValueRequired")
            elif kind == "file" and device.get("record"):
                message = "is for type pty only: what goes to a file of the host is not read by domctl"
                report.add((*keys, "record"), message, "FieldValueForbidden")
            elif kind == "pty":
                for extra in ("path", "append"):
                    if extra in device:
                        report.add((*keys, extra), "is for type file only", "FieldValueForbidden")
            if isinstance(path, str):
                if path in paths_seen:
                    report.add((*keys, "path"), f"is there twice: {shown(path)}", "FieldValueDuplicate")
                paths_seen.add(path)


def _check_names(spec: Mapping[str, Any], report: Report) -> None:
    """One space of names for all devices: they become the aliases of one domain."""
    seen: dict[object, str] = {}
    for listed in _DEVICES:
        for keys, device in _items(spec, listed):
            name = device.get("name")
            if isinstance(name, str):
                if name in seen:
                    message = f"must be unique among all devices, {shown(name)} is also in spec.{seen[name]}"
                    report.add((*keys, "name"), message, "FieldValueDuplicate")
                seen.setdefault(name, listed)


def _check_ladder(steps: Any, report: Report) -> None:
    destroyed = False
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if not isinstance(step, Mapping):
            continue
        keys = ("spec", "shutdown", index)
        if destroyed:
            report.add(keys, "can never be reached: it comes after destroy")
            return
        destroyed = step.get("method") == "destroy"
        if destroyed and "timeoutSeconds" in step:
            message = "is not for destroy, which waits for nothing"
            report.add((*keys, "timeoutSeconds"), message, "FieldValueForbidden")


def _check_persistence(spec: Mapping[str, Any], report: Report) -> None:
    """What cannot be together: a transient domain has no definition that could be saved beside, or started at
    boot, and one that starts at boot must be where that host is."""
    recovery, placement = spec.get("recovery"), spec.get("placement")
    recovery = recovery if isinstance(recovery, Mapping) else {}
    elsewhere = recovery.get("onNodeFailure") == "Restart"
    if elsewhere and spec.get("persistence") == "persistent":
        message = (
            "cannot be persistent beside recovery.onNodeFailure: Restart: its host may come back with it"
        )
        report.add(("spec", "persistence"), message, "FieldValueForbidden")
    transient = spec.get("persistence") == "transient" or (elsewhere and "persistence" not in spec)
    if transient and spec.get("state") == "saved":
        because = " (as recovery.onNodeFailure: Restart makes it)" if "persistence" not in spec else ""
        message = f"cannot be saved: a transient domain{because} has no definition to go on with"
        report.add(("spec", "state"), message, "FieldValueForbidden")
    if recovery.get("autostart") is not True:
        return
    keys = ("spec", "recovery", "autostart")
    if transient:
        report.add(keys, "is not for transient domains, which leave nothing to start", "FieldValueForbidden")
    elif not isinstance(placement, Mapping) or "node" not in placement:
        message = "needs placement.node: what starts at boot must not be started elsewhere meanwhile"
        report.add(keys, message, "FieldValueForbidden")
