"""What a host says of itself, from its capabilities XML and a few short calls.

`parse_capabilities` is pure: XML in, values out, with the care that text from a host deserves. It looks
only at guests of the host's own architecture when it lists machine types, for those are what domains
there are given. `read_facts` runs in a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import libvirt

from drivers.hypervisor import Certificate, HostFacts
from specs.mark import parse_xml
from specs.uri import ParsedUri

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """The part of virConnectGetCapabilities that we use."""

    host_uuid: str
    arch: str
    cpu_model: str
    numa_cells: int
    domain_types: tuple[str, ...]
    machines: tuple[str, ...]


def parse_capabilities(xml: str) -> HostCapabilities:
    """Raises UntrustedXml (a ValueError)."""
    root = parse_xml(xml)
    arch = root.findtext("host/cpu/arch", "")
    guests = root.findall("guest/arch")
    own = [guest for guest in guests if guest.get("name") == arch]
    return HostCapabilities(
        host_uuid=root.findtext("host/uuid", "").strip().lower(),
        arch=arch,
        cpu_model=root.findtext("host/cpu/model", ""),
        numa_cells=len(root.findall("host/topology/cells/cell")),
        domain_types=_sorted(found.get("type", "") for guest in guests for found in guest.iter("domain")),
        machines=_sorted(_machine(found) for guest in own for found in guest.iter("machine")),
    )


def _machine(found: Element) -> str:
    return (found.text or "").strip()


def _sorted(words: Any) -> tuple[str, ...]:
    return tuple(sorted({word for word in words if word}))


def version_text(version: int) -> str:
    """9000000 as 9.0.0."""
    return f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}"


def read_facts(raw: Any, uri: ParsedUri, certificates: tuple[Certificate, ...]) -> HostFacts:
    """Blocking; on a fresh host the capabilities alone take seconds. Raises libvirtError, UntrustedXml."""
    capabilities = parse_capabilities(raw.getCapabilities())
    _, memory_mib, cpus, *_ = raw.getInfo()
    driver = raw.getType().lower()
    return HostFacts(
        host_uuid=capabilities.host_uuid,
        driver=driver,
        mode=uri.mode,
        hostname=raw.getHostname(),
        # What was added for a transport is the controller's own affair, and is another at each opening.
        uri=uri.text if uri.transport in ("tls", "ssh", "ext") else raw.getURI(),
        libvirt_version=version_text(raw.getLibVersion()),
        hypervisor_version=version_text(raw.getVersion()),
        arch=capabilities.arch,
        cpu_model=capabilities.cpu_model,
        cpus=cpus,
        max_vcpus=_or_zero(raw.getMaxVcpus, driver),
        memory_bytes=memory_mib * _MIB,
        free_memory_bytes=_or_zero(raw.getFreeMemory),
        numa_cells=capabilities.numa_cells,
        encrypted=bool(raw.isEncrypted()),
        # libvirt sees a socket of this machine; what a program does beyond it is not known.
        secure=bool(raw.isSecure()) and uri.transport != "ext",
        certificates=certificates,
        domain_types=capabilities.domain_types,
        machines=capabilities.machines,
    )


def _or_zero(call: Any, *arguments: object) -> int:
    """Not every driver has this call; 0 says that it is not known."""
    try:
        return int(call(*arguments))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return 0
        raise
