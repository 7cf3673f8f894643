"""The libvirt XML that a Domain becomes: `render`, pure and deterministic.

XML is only ever made by ElementTree's serialiser (I19), every host path is checked against the node's
allowedPaths, a container has a root and a network of its own, and the image format is always explicit, for a
guest could otherwise turn its raw disk into a qcow2 image that names a file of the host. Devices
(`specs.devicexml`) carry the alias `ua-<name>`, by which drift matches them (`specs.xmldiff`). What the spec
leaves open is left to libvirt, except what differs between hosts for no good reason or costs: the
architecture is written out, there is no USB controller unless a disk needs one, no graphics, no sound.
`spec.xml` is merged last (`specs.overlay`), then our mark is added.

Deliberately not here: choosing MAC addresses (`specs.macs`), and types that the host rejects anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from xml.etree import ElementTree

from msgspec import UnsetType

from specs import overlay, paths, quantity
from specs.devicexml import add_devices, alias, drop_second_agent, given, has_root, sub
from specs.digest import digest
from specs.domain import (
    Domain,
    DomainSpec,
    OperatingSystem,
    effective_type,
    effective_vcpus,
    libvirt_name,
)
from specs.graphics import SecretFacts, problems_of, versions_of
from specs.hypervisors import HYPERVISORS
from specs.mark import MARK_KEY, MARK_NAMESPACE, Mark, UntrustedXml, parse_xml
from specs.problems import Keys, Problem
from specs.typerules import XEN_OS_TYPES, is_variable

__all__ = ["RenderRefused", "Rendered", "alias", "machine_of", "render"]

DEFAULT_INIT: Final = "/sbin/init"  # libvirt's own choice, written out
_X86: Final = ("x86_64", "i686")
_MIB: Final = 1 << 20
_UNESCAPED: Final = re.compile("[<>&]")
_MACHINE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_Element = ElementTree.Element


@dataclass(frozen=True, slots=True)
class Rendered:
    """`digest` covers all of the XML but the mark's epoch, the digest itself, and a machine type that the
    spec leaves open; and the versions of the Secrets whose values are put into it when it is sent."""

    xml: str
    digest: str


class RenderRefused(Exception):
    """The spec cannot be rendered for this node; `problems` says all that is against it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def render(  # noqa: PLR0913 - one spec and everything that it does not say
    domain: Domain,
    *,
    uuid: str,
    mark: Mark,
    macs: Mapping[str, str],
    allowed_paths: Sequence[str],
    xml_overlay_allowed: bool,
    machine: str = "",
    secrets: Mapping[str, SecretFacts] | None = None,
) -> Rendered:
    """The definition for one node. `secrets`: of its namespace, by name; None: nothing is known of them, and
    whether they fit is not asked. `mark.digest` is ignored and filled in; `macs` has an address for every
    interface without one in the spec; `machine` is taken where the spec leaves that open, and "" leaves it to
    libvirt. Raises RenderRefused with all problems."""
    assert mark.uuid == uuid, "a mark that is not the domain's would make it a clone"
    problems = [*_path_problems(domain.spec, allowed_paths), *_other_problems(domain.spec, macs)]
    if secrets is not None:
        problems += problems_of(domain.spec, secrets)
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
        drop_second_agent(next(root.iter("devices")))
    return _marked(root, mark, machine, versions_of(domain.spec, secrets or {}))


def machine_of(xml: str) -> str:
    """The machine type in a domain's XML as its host shows it, "" where it has none that could be given."""
    try:
        kind = parse_xml(xml).find("os/type")
    except UntrustedXml:
        return ""
    machine = "" if kind is None else kind.get("machine", "")
    return machine if _MACHINE.fullmatch(machine) else ""


def _marked(root: _Element, mark: Mark, machine: str, versions: str) -> Rendered:
    """The mark last: its own epoch and digest are what the digest does not cover."""
    metadata = root.find("metadata")
    if metadata is None:
        metadata = sub(root, "metadata")
    whose = {f"xmlns:{MARK_KEY}": MARK_NAMESPACE, "cluster": mark.cluster, "uuid": mark.uuid}
    element = ElementTree.SubElement(metadata, f"{MARK_KEY}:domain", whose)
    found = digest(ElementTree.tostring(root, encoding="unicode") + versions)
    kind = root.find("os/type")
    if machine and kind is not None and kind.get("machine") is None:
        kind.set("machine", machine)
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
    os = given(spec.os, OperatingSystem())
    for name, path in (("kernel", os.kernel), ("initrd", os.initrd)):
        if not isinstance(path, UnsetType):
            yield ("spec", "os", name), path
    for index, disk in enumerate(given(spec.disks, [])):
        if not isinstance(disk.source, UnsetType):
            for name, path in (("file", disk.source.file), ("block", disk.source.block)):
                if not isinstance(path, UnsetType):
                    yield ("spec", "disks", index, "source", name), path
    for index, filesystem in enumerate(given(spec.filesystems, [])):
        if not isinstance(filesystem.source, UnsetType):
            yield ("spec", "filesystems", index, "source", "dir"), filesystem.source.dir
    for listed, devices in (("serials", spec.serials), ("consoles", spec.consoles)):
        for index, device in enumerate(given(devices, [])):
            if not isinstance(device.path, UnsetType):
                yield ("spec", listed, index, "path"), device.path


def _other_problems(spec: DomainSpec, macs: Mapping[str, str]) -> Iterator[Problem]:
    if HYPERVISORS[effective_type(spec)].container and not has_root(spec):
        message = "needs one of type mount with target /: the container would get the root of its host"
        yield Problem(("spec", "filesystems"), message, "FieldValueRequired")
    for name, value in given(given(spec.os, OperatingSystem()).init_env, {}).items():
        if _UNESCAPED.search(value) or not is_variable(name):
            message = "has characters that libvirt does not escape there: it would read them as XML"
            yield Problem(("spec", "os", "initEnv", name), message)
    for index, interface in enumerate(given(spec.interfaces, [])):
        if isinstance(interface.mac, UnsetType) and interface.name not in macs:
            keys = ("spec", "interfaces", index, "mac")
            yield Problem(keys, "is left open, and none was reserved", "FieldValueRequired")


# The document, from its root to its devices


def _domain(domain: Domain, uuid: str, macs: Mapping[str, str]) -> _Element:
    spec, row = domain.spec, HYPERVISORS[effective_type(domain.spec)]
    root = ElementTree.Element("domain", {"type": effective_type(spec)})
    sub(root, "name", libvirt_name(domain.metadata))
    sub(root, "uuid", uuid)
    # QEMU's driver rounds up to whole MiB at start; rounding here keeps the definition and the guest equal.
    kib = -(-quantity.to_bytes(spec.memory) // _MIB) * 1024
    sub(root, "memory", str(kib), {"unit": "KiB"})
    sub(root, "currentMemory", str(kib), {"unit": "KiB"})
    sub(root, "vcpu", str(effective_vcpus(spec)))
    os = given(spec.os, OperatingSystem())
    if row.container:
        _container(root, os)
        # Without it a container that has no interface is on the network of its host, as the host itself.
        sub(sub(root, "features"), "privnet")
    else:
        arch = given(os.arch, "x86_64" if row.emulated else None)
        kind = _machine(root, os, arch, is_xen=row.driver == "xen")
        if (row.emulated and arch in _X86) or (row.driver == "xen" and kind == "hvm"):
            features = sub(root, "features")
            sub(features, "acpi")
            sub(features, "apic")
    sub(root, "clock", None, {"offset": "utc"})
    for event, action in (
        ("on_poweroff", "destroy"),
        ("on_reboot", given(spec.on_reboot, "restart")),
        ("on_crash", given(spec.on_crash, "destroy")),
    ):
        sub(root, event, action)
    add_devices(sub(root, "devices"), spec, macs)
    return root


def _machine(root: _Element, os: OperatingSystem, arch: str | None, *, is_xen: bool) -> str:
    """<os> of a machine; answers what kind of guest it is. Xen's have a kind of their own where a kernel is
    started without firmware."""
    machine, kind = given(os.machine, None), "hvm"
    if is_xen:
        machine = machine or ("xenfv" if isinstance(os.kernel, UnsetType) else "xenpv")
        kind = XEN_OS_TYPES.get(machine, kind)
    element = sub(root, "os")
    sub(element, "type", kind, {"arch": arch, "machine": machine})
    for tag, text in (("kernel", os.kernel), ("initrd", os.initrd), ("cmdline", os.cmdline)):
        if not isinstance(text, UnsetType):
            sub(element, tag, text)
    for device in given(os.boot, []):
        sub(element, "boot", None, {"dev": device})
    return kind


def _container(root: _Element, os: OperatingSystem) -> None:
    element = sub(root, "os")
    sub(element, "type", "exe", {"arch": given(os.arch, None)})
    sub(element, "init", given(os.init, DEFAULT_INIT))
    for argument in given(os.init_args, []):
        sub(element, "initarg", argument)
    for name, value in sorted(given(os.init_env, {}).items()):
        sub(element, "initenv", value, {"name": name})
    if not isinstance(os.init_dir, UnsetType) and os.init_dir != "/":  # it starts there; no schema has it
        sub(element, "initdir", os.init_dir)
