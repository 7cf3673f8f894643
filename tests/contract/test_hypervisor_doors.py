"""The Hypervisor port's contract: what the way to a host could change, by every way.

Every test acts through the port and asks the host itself, by a way of its own, what came of it.
"""

from __future__ import annotations

from dataclasses import replace

import libvirt
import pytest

from drivers.errors import AuthFailed, NoDomain, Unreachable, Unsupported
from drivers.hypervisor import EventKind, Hypervisor, Outcome, Record, Session, State
from tests.contract.hypervisors import (
    ON_ONE,
    OTHER,
    Heard,
    done,
    failed,
    permit,
    records,
    started,
    through_every_door,
)
from tests.contract.worlds import MEMORY_BYTES, UUID, World, domain_xml


@through_every_door
async def test_a_listing_has_every_domain_active_and_inactive(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.define(domain_xml(world, OTHER, "two"), permit()))
    assert set(await records(session)) == world.residents | {UUID, OTHER}


@through_every_door
async def test_the_detail_of_a_running_domain_has_both_documents(session: Session, world: World) -> None:
    await started(session, world)
    detail = await session.detail(UUID)
    assert detail.record == Record(UUID, "one", State.RUNNING, "booted", active=True)
    assert (detail.vcpus, detail.memory_bytes) == (1, MEMORY_BYTES)
    assert detail.config_xml is not None
    assert detail.live_xml is not None
    assert "id='" in detail.live_xml.splitlines()[0]


@through_every_door
async def test_destroy_stops_a_running_domain_and_keeps_its_definition(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.destroy(UUID, permit()))
    assert world.exists()
    assert not world.is_running()


@through_every_door
async def test_events_tell_a_domains_life_in_order(session: Session, world: World, heard: Heard) -> None:
    await started(session, world)
    done(await session.destroy(UUID, permit()))
    done(await session.undefine(UUID, permit()))
    await heard.until(lambda: (EventKind.UNDEFINED, "removed") in heard.of(UUID))
    besides = [(EventKind.RESUMED, "unpaused"), (EventKind.SHUTDOWN, "host")]
    if world.driver == "lxc":  # sometimes it also takes the end it made itself for a failure
        besides.append((EventKind.STOPPED, "failed"))
    told = [event for event in heard.of(UUID) if event not in besides]
    assert told == [
        (EventKind.DEFINED, "added"),
        (EventKind.STARTED, "booted"),
        (EventKind.STOPPED, "destroyed"),
        (EventKind.UNDEFINED, "removed"),
    ]


@through_every_door
async def test_after_its_end_a_session_reads_nothing_and_sends_nothing(
    session: Session, world: World
) -> None:
    done(await session.define(domain_xml(world), permit()))
    await session.close()
    assert not session.is_open
    for read in (session.list(), session.facts(), session.detail(UUID)):
        with pytest.raises(Unreachable):
            await read
    failed(await session.create(UUID, permit()), Unreachable)
    assert not world.is_running()


@through_every_door
async def test_closing_the_hypervisor_closes_its_sessions(world: World, heard: Heard) -> None:
    hypervisor = world.hypervisor()
    session = await hypervisor.open(world.target, heard.sink)
    await hypervisor.close()
    assert not session.is_open
    assert [event.reason for event in heard.closings()] == ["client"]


@through_every_door
async def test_a_read_only_session_reads_and_changes_nothing(
    world: World, hypervisor: Hypervisor, heard: Heard
) -> None:
    world.define(domain_xml(world))
    session = await hypervisor.open(replace(world.target, read_only=True), heard.sink)
    assert UUID in await records(session)
    assert (await session.detail(UUID)).persistent
    assert (await session.facts()).driver == world.driver
    for act in ON_ONE.values():
        failed(await act(session, world, permit()), Unsupported, Outcome.REJECTED)
    failed(await session.define(domain_xml(world, vcpus=2), permit()), Unsupported, Outcome.REJECTED)
    assert not world.is_running()


@through_every_door
async def test_facts_are_the_hosts_own(session: Session, world: World) -> None:
    facts, claims = await session.facts(), world.claims()
    assert (facts.driver, facts.mode, facts.uri) == (world.driver, "system", claims.uri)
    assert facts.hostname == claims.hostname
    assert facts.libvirt_version.count(".") == facts.hypervisor_version.count(".") == 2
    assert facts.cpus == claims.cpus
    assert facts.max_vcpus >= facts.cpus or world.driver == "lxc"
    assert 0 < facts.free_memory_bytes <= facts.memory_bytes
    assert world.driver in facts.domain_types
    assert (facts.encrypted, facts.numa_cells >= 1) == (claims.encrypted, True)
    assert bool(facts.host_uuid) == (world.driver != "test")


@through_every_door
async def test_errors_keep_libvirts_words_and_numbers(session: Session, world: World) -> None:
    with pytest.raises(NoDomain) as raised:
        await session.detail(OTHER)
    assert raised.value.code == libvirt.VIR_ERR_NO_DOMAIN
    assert "Domain not found" in raised.value.message
    assert not isinstance(raised.value, AuthFailed)
