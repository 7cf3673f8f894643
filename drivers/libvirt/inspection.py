"""The Inspector on libvirt: each part of an inspection is one bounded read of an open session.

The parts stand in a table, so that a driver without one of them (the test driver has no domain capabilities)
or a host that fails in one says so for that part alone. `parse_…` are pure: text from a host in, values out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from xml.etree import ElementTree

import libvirt

from drivers.errors import HypervisorError
from drivers.hypervisor import HostFacts, Session
from drivers.inspection import CpuFit, CpuOffer, HostObject, Inspection, Pages, Resident, SecurityModel
from drivers.libvirt.errors import NO_DOMAIN
from drivers.libvirt.session import LibvirtSession
from specs.mark import MARK_NAMESPACE, parse_xml

Part = Callable[[Any, HostFacts], dict[str, Any]]

MAX_RESIDENTS = 2000  # each costs a round trip
PART_S = 30.0
CPU_S = 20.0  # the first time, QEMU itself is asked
_KIB = 1024
_NO_METADATA = 80  # VIR_ERR_NO_DOMAIN_METADATA
_PAGE_UNITS = {"KiB": _KIB}
_BEST_FIRST = ("kvm", "qemu")
_FITS = {0: CpuFit.INCOMPATIBLE, 1: CpuFit.IDENTICAL, 2: CpuFit.SUPERSET}


class LibvirtInspector:
    """Stateless; its sessions are those of LibvirtHypervisor."""

    async def inspect(self, session: Session) -> Inspection:
        asked = _ours(session)
        facts = await asked.facts()
        found: dict[str, Any] = {}
        unread: dict[str, str] = {}
        for part, read in _PARTS.items():
            try:
                found |= await asked.ask(f"inspect-{part}", PART_S, partial(_read_part, read, facts))
            except HypervisorError as error:
                unread[part] = error.message
        return Inspection(
            facts=facts,
            keep_alive=session.capabilities.keep_alive,
            unread=unread,
            **found,
        )

    async def compare_cpu(self, session: Session, wanted: CpuOffer) -> CpuFit:
        number = await _ours(session).ask(
            "inspect-cpu",
            CPU_S,
            lambda raw: raw.compareHypervisorCPU(
                None, wanted.arch, wanted.machine, wanted.virt_type, wanted.model_xml, 0
            ),
        )
        return _FITS.get(int(number), CpuFit.INCOMPATIBLE)

    async def baseline_cpu(self, session: Session, offers: Sequence[CpuOffer]) -> str:
        first = offers[0]
        models = [offer.model_xml for offer in offers]
        return str(
            await _ours(session).ask(
                "inspect-cpu",
                CPU_S,
                lambda raw: raw.baselineHypervisorCPU(
                    None, first.arch, first.machine, first.virt_type, models, 0
                ),
            )
        )


def _ours(session: Session) -> LibvirtSession:
    assert isinstance(session, LibvirtSession), "an inspector's sessions come from LibvirtHypervisor"
    return session


def _read_part(read: Part, facts: HostFacts, raw: Any) -> dict[str, Any]:
    return read(raw, facts)


# -- the parts, in worker threads ------------------------------------------------------------------------


def _capabilities(raw: Any, _facts: HostFacts) -> dict[str, Any]:
    return parse_host(raw.getCapabilities())


def _residents(raw: Any, _facts: HostFacts) -> dict[str, Any]:
    """Three lists, and then one question for each domain: over a long way each costs a round trip."""
    domains = raw.listAllDomains(0)
    active = _uuids(raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
    autostart = _uuids(raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART))
    found = []
    for domain in domains[:MAX_RESIDENTS]:
        uuid, cluster = domain.UUIDString(), _cluster(domain)
        if cluster is not None:
            found.append(Resident(uuid, domain.name(), uuid in active, uuid in autostart, cluster))
    return {"residents": tuple(found), "residents_left_out": max(0, len(domains) - MAX_RESIDENTS)}


def _uuids(domains: Sequence[Any]) -> frozenset[str]:
    return frozenset(domain.UUIDString() for domain in domains)


def _cluster(domain: Any) -> str | None:
    """None: the domain was gone by then."""
    try:
        text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, MARK_NAMESPACE)
    except libvirt.libvirtError as error:
        if error.get_error_code() == NO_DOMAIN:
            return None
        if error.get_error_code() in (_NO_METADATA, libvirt.VIR_ERR_NO_SUPPORT):
            return ""
        raise
    return parse_xml(text).get("cluster", "")


def _pools(raw: Any, _facts: HostFacts) -> dict[str, Any]:
    return {"pools": _host_objects(raw.listAllStoragePools(0))}


def _networks(raw: Any, _facts: HostFacts) -> dict[str, Any]:
    return {"networks": _host_objects(raw.listAllNetworks(0))}


def _host_objects(found: Sequence[Any]) -> tuple[HostObject, ...]:
    made = [HostObject(one.name(), bool(one.isActive()), bool(one.autostart())) for one in found]
    return tuple(sorted(made, key=lambda one: one.name))


def _cpu(raw: Any, facts: HostFacts) -> dict[str, Any]:
    virt_type = next((word for word in _BEST_FIRST if word in facts.domain_types), None)
    if virt_type is None:
        virt_type = facts.domain_types[0] if facts.domain_types else None
    return {"cpu": parse_cpu_offer(raw.getDomainCapabilities(None, facts.arch, None, virt_type, 0))}


_PARTS: Mapping[str, Part] = {
    "capabilities": _capabilities,
    "residents": _residents,
    "pools": _pools,
    "networks": _networks,
    "cpu": _cpu,
}


# -- pure ------------------------------------------------------------------------------------------------


def parse_host(xml: str) -> dict[str, Any]:
    """Security models, page sizes and machine aliases of capabilities XML. Raises UntrustedXml."""
    root = parse_xml(xml)
    arch = root.findtext("host/cpu/arch", "")
    pages: dict[int, int] = {}
    for entry in root.findall("host/topology/cells/cell/pages"):
        size = int(entry.get("size", "0")) * _PAGE_UNITS.get(entry.get("unit", ""), 0)
        pages[size] = pages.get(size, 0) + int(entry.text or 0)
    own = [guest for guest in root.findall("guest/arch") if guest.get("name") == arch]
    machines = [one for guest in own for one in guest.iter("machine")]
    return {
        "security": tuple(_security(model) for model in root.findall("host/secmodel")),
        "pages": tuple(Pages(size, count) for size, count in sorted(pages.items())),
        "aliases": {(m.text or "").strip(): m.get("canonical", "") for m in machines if m.get("canonical")},
    }


def _security(model: ElementTree.Element) -> SecurityModel:
    labels = {label.get("type"): (label.text or "").strip() for label in model.findall("baselabel")}
    return SecurityModel(model.findtext("model", "").strip(), labels.get("kvm") or labels.get("qemu") or "")


def parse_cpu_offer(xml: str) -> CpuOffer:
    """Domain capabilities: the processor of mode host-model, "" where it is not supported. Raises
    UntrustedXml."""
    root = parse_xml(xml)
    mode = root.find("cpu/mode[@name='host-model']")
    head = {name: root.findtext(name, "") for name in ("arch", "machine")} | {
        "virt_type": root.findtext("domain", "")
    }
    if mode is None or mode.get("supported") != "yes":
        return CpuOffer(**head)
    cpu = ElementTree.Element("cpu")
    cpu.extend(list(mode))
    return CpuOffer(
        **head,
        model=mode.findtext("model", ""),
        vendor=mode.findtext("vendor", ""),
        model_xml=ElementTree.tostring(cpu, encoding="unicode"),
    )
