"""The reads, as blocking functions of a libvirt connection; each runs whole in one worker thread.

A listing is two bulk calls: `listAllDomains` for completeness, and `getAllDomainStats` with an explicit
mask and NOWAIT for the states (mask 0 asks every guest's monitor and hangs on a stopped one). Drivers
without bulk statistics, and domains that only the first call saw, are asked one by one; a domain that is
gone by then (error 42) vanished in between. Any other error fails the listing: it is complete or it is
not there at all (safety: I3).

Nothing here looks at deadlines or threads; see `session` and `lane`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt
from msgspec.structs import replace

from drivers.hypervisor import Detail, Listing, Record, State
from drivers.libvirt.capabilities import Driver
from drivers.libvirt.errors import NO_DOMAIN
from drivers.libvirt.records import state_of
from specs.devicexml import AGENT_CHANNEL
from specs.mark import find, parse_xml

_DETAIL_ATTEMPTS = 3
_KIB = 1024

Clock = Callable[[], float]


def record_of(domain: Any, state: int, reason: int) -> Record:
    """`active` without a further call: only of a crashed domain, or one without a state, does the state
    not say it, and there the id that came with the handle does."""
    word, why = state_of(state, reason)
    asked_of_id = word in (State.CRASHED, State.NOSTATE)
    active = domain.ID() != -1 if asked_of_id else word is not State.SHUTOFF
    return Record(domain.UUIDString(), domain.name(), word, why, active)


def read_listing(raw: Any, driver: Driver, clock: Clock) -> Listing:
    sent_at = clock()
    known = raw.listAllDomains(0)
    records: dict[str, Record] = {}
    if driver.bulk_stats:
        for domain, stats in raw.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        ):
            state, reason = stats.get("state.state"), stats.get("state.reason")
            if state is not None and reason is not None:
                record = record_of(domain, state, reason)
                records[record.uuid] = record
    for domain in known:
        if domain.UUIDString() not in records:
            asked = _ask_state(domain)
            if asked is not None:
                records[asked.uuid] = asked
    return Listing(sent_at, clock(), tuple(records.values()))


def _ask_state(domain: Any) -> Record | None:
    try:
        return record_of(domain, *domain.state())
    except libvirt.libvirtError as error:
        if error.get_error_code() == NO_DOMAIN:
            return None
        raise


def read_detail(raw: Any, driver: Driver, clock: Clock, uuid: str, known: Detail | None = None) -> Detail:
    """Everything of one domain, read between two equal states: a domain that started or stopped in the
    middle is read again, so that its two XMLs belong together. Of one that did neither since it was `known`
    its state alone."""
    domain = raw.lookupByUUIDString(uuid)
    if known is not None:
        now = record_of(domain, *domain.state())
        if (now.active, now.name) == (known.record.active, known.record.name):
            return replace(known, record=now)
    for _ in range(_DETAIL_ATTEMPTS - 1):
        detail = _read_once(domain, driver, clock)
        if record_of(domain, *domain.state()) == detail.record:
            return detail
        domain = raw.lookupByUUIDString(uuid)  # its id, and its name, are of the moment it was looked up
    return _read_once(domain, driver, clock)


def _read_once(domain: Any, driver: Driver, clock: Clock) -> Detail:
    sent_at = clock()
    record = record_of(domain, *domain.state())
    persistent = bool(domain.isPersistent())
    config_xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else None
    live_xml = domain.XMLDesc(0) if record.active else None
    _, most_kib, now_kib, vcpus, _ = domain.info()
    saved = driver.managed_save and persistent and bool(domain.hasManagedSaveImage())
    return Detail(
        record=record,
        sent_at=sent_at,
        persistent=persistent,
        autostart=persistent and bool(domain.autostart()),
        managed_save=saved,
        config_xml=config_xml,
        live_xml=live_xml,
        config_mark=None if config_xml is None else find(config_xml),
        live_mark=None if live_xml is None else find(live_xml),
        vcpus=vcpus,
        memory_bytes=(most_kib if driver.memory_is_usage else now_kib) * _KIB,
        snapshots=domain.snapshotNum() if driver.snapshots else 0,
        saved_xml=_saved_xml(domain, driver) if saved else None,
        agent="" if live_xml is None else agent_of(live_xml),
    )


def agent_of(live_xml: str) -> str:
    """The state of the channel for the guest's agent, as `Detail.agent` has it."""
    if AGENT_CHANNEL not in live_xml:  # most domains: no need to parse
        return ""
    for target in parse_xml(live_xml).iterfind("devices/channel/target"):
        if target.get("name") == AGENT_CHANNEL:
            return target.get("state", "unknown")
    return ""


def _saved_xml(domain: Any, driver: Driver) -> str | None:
    """None where the driver cannot tell, or where the image is not to be read: a start will say so."""
    try:
        return str(domain.managedSaveGetXMLDesc(0)) if driver.saved_xml else None
    except libvirt.libvirtError as error:
        if error.get_error_domain() == libvirt.VIR_FROM_RPC or error.get_error_code() == NO_DOMAIN:
            raise
        return None


def read_save_room(raw: Any, driver: Driver) -> int | None:
    """Only a pool of that very directory counts: of one above it nobody knows what is mounted between. It is
    refreshed, for libvirt tells what it knew at the last refresh."""
    if not driver.managed_save or not driver.save_directory:
        return None
    for pool in raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        path = parse_xml(pool.XMLDesc(0)).findtext("target/path", "").rstrip("/")
        if path == driver.save_directory:
            pool.refresh(0)
            return int(pool.info()[3])
    return None
