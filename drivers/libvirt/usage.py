"""How busy a host and its domains are, as a blocking function of a libvirt connection; see `Session.figures`.

QEMU domains are asked for in one bulk call, active ones only, with NOWAIT: a domain that another job holds
answers with what needs no job (its processor time, but not what memory QEMU takes). NOWAIT does not keep
libvirt from waiting for the monitor of a guest that is stuck (seen with 9.0 on a stopped QEMU, for as long as
it was stopped, with the processor's group alone too). But that call then holds the guest's job, so the next
one passes it by: it came back at once, with all others complete. Other drivers have no such statistics, and
are asked domain by domain; what virDomainGetInfo says needs neither job nor monitor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import libvirt

from drivers.hypervisor import DomainFigures, Figures, HostFigures
from drivers.libvirt.capabilities import Driver
from drivers.libvirt.errors import NO_DOMAIN
from drivers.libvirt.reads import Clock

_GROUPS = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_NS = 1e-9
_KIB = 1024


def read_figures(raw: Any, driver: Driver, clock: Clock) -> Figures:
    sent_at = clock()
    host = _host(raw) if driver.host_figures else None
    domains = _in_bulk(raw) if driver.bulk_figures else _one_by_one(raw, driver)
    return Figures(sent_at, clock(), tuple(domains), host)


def _host(raw: Any) -> HostFigures:
    times, memory = raw.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS), raw.getMemoryStats(-1)
    busy = times["kernel"] + times["user"]
    idle = memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)
    return HostFigures(busy * _NS, max(0, memory["total"] - idle) * _KIB, memory["total"] * _KIB)


def _in_bulk(raw: Any) -> Iterator[DomainFigures]:
    for domain, told in raw.getAllDomainStats(_GROUPS, _FLAGS):
        yield DomainFigures(
            domain.UUIDString(),
            _scaled(told, "cpu.time", _NS),
            _scaled(told, "balloon.current", _KIB),
            _scaled(told, "balloon.rss", _KIB),
        )


def _scaled(told: Mapping[str, int], name: str, unit: Any) -> Any:
    value = told.get(name)
    return None if value is None else value * unit


def _one_by_one(raw: Any, driver: Driver) -> Iterator[DomainFigures]:
    for domain in raw.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            _, most_kib, now_kib, _, cpu_ns = domain.info()
        except libvirt.libvirtError as error:
            if error.get_error_code() == NO_DOMAIN:
                continue  # it ended in between
            raise
        given = (most_kib if driver.memory_is_usage else now_kib) * _KIB
        yield DomainFigures(domain.UUIDString(), cpu_ns * _NS, given, now_kib * _KIB)
