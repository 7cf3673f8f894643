"""What a Domain's type rules out, and what containers need: checks on the cleaned value of `specs.walker`.

The table is `specs.hypervisors`; this compares a spec with its row. A container without a root file system of
its own is refused: libvirt would give it that of its host, writable, and so root on every file there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from specs import paths, quantity
from specs.hypervisors import HYPERVISORS, Hypervisor
from specs.problems import Keys, shown
from specs.walker import Report

# What machine a domain of type xen is decides what kind of guest libvirt calls it.
XEN_OS_TYPES: Final = {"xenfv": "hvm", "xenpv": "linux", "xenpvh": "xenpvh"}
_DEFAULTS: Final = {"serials.type=pty": "pty"}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_MIB: Final = 1 << 20


def hypervisor_of(spec: Mapping[str, Any]) -> Hypervisor:
    """The row of a spec that may still be wrong: of an unknown type nothing is ruled out by type."""
    named = spec.get("type", "kvm")
    return HYPERVISORS.get(named if isinstance(named, str) else "", HYPERVISORS["kvm"])


def check_type(spec: Mapping[str, Any], report: Report) -> None:
    row = hypervisor_of(spec)
    for path, reason in row.cannot.items():
        names, _, value = path.partition("=")
        for keys, found in _occurrences(spec, names.split("."), ("spec",), _DEFAULTS.get(path)):
            if found == value or (not value and found != []):
                report.add(keys, reason, "FieldValueForbidden")
            elif value and isinstance(found, list) and value in found:
                report.add((*keys, found.index(value)), reason, "FieldValueForbidden")
    if row.container:
        _check_root(spec.get("filesystems"), report)
        _check_init(spec.get("os"), report)
    if row.driver == "xen":
        _check_xen(spec.get("os"), report)
    _check_filesystems(spec.get("filesystems"), report)


def _occurrences(
    value: object, names: list[str], keys: Keys, default: str | None
) -> Iterator[tuple[Keys, object]]:
    """Every value at a path of names, lists on the way gone through. `default`: what the last one means when
    it is left out."""
    if not names:
        yield keys, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _occurrences(item, names, (*keys, index), default)
    elif isinstance(value, Mapping) and names[0] in value:
        yield from _occurrences(value[names[0]], names[1:], (*keys, names[0]), default)
    elif isinstance(value, Mapping) and len(names) == 1 and default is not None:
        yield (*keys, names[0]), default


def _check_root(filesystems: object, report: Report) -> None:
    listed = filesystems if isinstance(filesystems, list) else []
    roots = [one for one in listed if isinstance(one, Mapping) and one.get("target") == "/"]
    if not roots:
        message = (
            "needs one with target /: a container without a root of its own would get that of its host, "
            "every file of it"
        )
        report.add(("spec", "filesystems"), message, "FieldValueRequired")
    elif any(one.get("type", "mount") != "mount" for one in roots):
        index = listed.index(roots[0])
        report.add(("spec", "filesystems", index, "type"), "must be mount for the target /")


def _check_filesystems(filesystems: object, report: Report) -> None:
    seen: set[str] = set()
    for index, one in enumerate(filesystems if isinstance(filesystems, list) else ()):
        if not isinstance(one, Mapping):
            continue
        keys: Keys = ("spec", "filesystems", index)
        target = one.get("target")
        if isinstance(target, str):
            _check_inside(target, (*keys, "target"), report)
            if target in seen:
                report.add((*keys, "target"), f"is there twice: {shown(target)}", "FieldValueDuplicate")
            seen.add(target)
        _check_kind(one, keys, report)


def _check_kind(one: Mapping[str, Any], keys: Keys, report: Report) -> None:
    kind, other = ("size", "source") if one.get("type") == "ram" else ("source", "size")
    name = one.get("type", "mount")
    if kind not in one:
        report.add((*keys, kind), f"is required for type {name}", "FieldValueRequired")
    if other in one:
        report.add((*keys, other), f"is not for type {name}", "FieldValueForbidden")
    source, size = one.get("source"), one.get("size")
    path = source.get("dir") if isinstance(source, Mapping) else None
    if isinstance(path, str) and path.startswith("/") and (fault := paths.fault(path)) is not None:
        report.add((*keys, "source", "dir"), f"must {fault}, is {shown(path)}")
    if isinstance(size, str | int) and not isinstance(size, bool):
        _check_size(size, (*keys, "size"), report)


def _check_size(size: str | int, keys: Keys, report: Report) -> None:
    try:
        amount = quantity.to_bytes(size)
    except ValueError as error:
        report.add(keys, str(error))
        return
    if not _MIB <= amount <= 1 << 40:
        report.add(keys, f"must be between 1Mi and 1Ti, is {size}")


def _check_inside(path: str, keys: Keys, report: Report) -> None:
    """A path inside the container: of the same form as the host's, but that / is one."""
    if path.startswith("/") and path != "/" and (fault := paths.fault(path)) is not None:
        report.add(keys, f"must {fault}, is {shown(path)}")


def _check_init(os: object, report: Report) -> None:
    if not isinstance(os, Mapping):
        return
    keys: Keys = ("spec", "os")
    for name in ("init", "initDir"):
        path = os.get(name)
        if isinstance(path, str):
            _check_inside(path, (*keys, name), report)
    if os.get("init") == "/":
        report.add((*keys, "init"), "must be a program, is the directory /")
    environment = os.get("initEnv")
    for name in environment if isinstance(environment, Mapping) else ():
        if not is_variable(str(name)):
            message = (
                f"has the name {shown(name)}, names have letters, digits and '_', and begin with no digit"
            )
            report.add((*keys, "initEnv"), message)


def is_variable(name: str) -> bool:
    return _VARIABLE.match(name) is not None


def _check_xen(os: object, report: Report) -> None:
    machine = os.get("machine") if isinstance(os, Mapping) else None
    if not isinstance(os, Mapping) or not isinstance(machine, str):
        return
    keys: Keys = ("spec", "os", "machine")
    if machine not in XEN_OS_TYPES:
        report.add(keys, f"must be {', '.join(XEN_OS_TYPES)} for type xen, is {shown(machine)}")
    elif machine != "xenfv" and "kernel" not in os:
        report.add(keys, f"needs os.kernel: {machine} has no firmware that could boot a disk")
    elif machine == "xenfv" and "kernel" in os:
        report.add(keys, "cannot stand beside os.kernel: leave it out, or say xenpv or xenpvh")
