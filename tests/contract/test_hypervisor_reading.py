"""The Hypervisor port's contract: what is read of a host: complete listings, and one domain in detail.

Every test acts through the port and asks the host itself, by a way of its own, what came of it.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from drivers.errors import NoDomain
from drivers.hypervisor import Record, Session, State, StopMethod
from tests.contract.hypervisors import OTHER, can_save, done, permit, records, started
from tests.contract.worlds import MEMORY_BYTES, UUID, World, domain_xml

AGENT = (
    "<devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>"
)

# -- listing -----------------------------------------------------------------------------------------


async def test_an_empty_host_has_a_complete_and_empty_listing(session: Session, world: World) -> None:
    assert set(await records(session)) == world.residents


async def test_a_listing_is_as_old_as_its_request(session: Session) -> None:
    before = time.monotonic()
    listing = await session.list()
    assert before <= listing.sent_at <= listing.ended_at <= time.monotonic()


async def test_a_defined_domain_is_listed_as_shut_off_for_no_known_reason(
    session: Session, world: World
) -> None:
    done(await session.define(domain_xml(world), permit()))
    assert (await records(session))[UUID] == Record(UUID, "one", State.SHUTOFF, "unknown", active=False)


async def test_a_started_domain_is_listed_as_booted(session: Session, world: World) -> None:
    await started(session, world)
    assert (await records(session))[UUID] == Record(UUID, "one", State.RUNNING, "booted", active=True)


async def test_a_destroyed_domain_is_listed_as_destroyed(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.destroy(UUID, permit()))
    assert (await records(session))[UUID] == Record(UUID, "one", State.SHUTOFF, "destroyed", active=False)


async def test_a_paused_domain_is_active(session: Session, world: World) -> None:
    await started(session, world)
    world.suspend()
    assert (await records(session))[UUID] == Record(UUID, "one", State.PAUSED, "user", active=True)


async def test_what_others_do_is_seen_at_once(session: Session, world: World) -> None:
    world.define(domain_xml(world))
    assert UUID in await records(session)
    world.undefine()
    assert UUID not in await records(session)


async def test_many_listings_at_once_are_all_complete(session: Session, world: World) -> None:
    for number in range(10):
        uuid = f"33333333-3333-4333-8333-{number:012d}"
        done(await session.define(domain_xml(world, uuid, f"d{number}"), permit()))
    listings = await asyncio.gather(*(session.list() for _ in range(16)))
    assert {len(listing.records) for listing in listings} == {10 + len(world.residents)}


async def test_a_domain_that_stays_is_never_missing_while_others_come_and_go(
    session: Session, world: World
) -> None:
    done(await session.define(domain_xml(world), permit()))
    stop = asyncio.Event()

    async def churn() -> None:
        while not stop.is_set():
            done(await session.define(domain_xml(world, OTHER, "two"), permit()))
            done(await session.undefine(OTHER, permit()))

    churning = asyncio.create_task(churn())
    for _ in range(100):
        assert UUID in await records(session)
    stop.set()
    await churning


# -- detail ------------------------------------------------------------------------------------------


async def test_the_detail_of_a_defined_domain_has_its_definition_only(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world, vcpus=2), permit()))
    detail = await session.detail(UUID)
    assert (detail.persistent, detail.autostart, detail.managed_save, detail.snapshots) == (
        True,
        False,
        False,
        0,
    )
    assert (detail.vcpus, detail.memory_bytes) == (2, MEMORY_BYTES)
    assert detail.config_xml is not None
    assert detail.live_xml is None
    assert f"<uuid>{UUID}</uuid>" in detail.config_xml


async def test_the_detail_of_an_unknown_domain_is_no_domain(session: Session) -> None:
    with pytest.raises(NoDomain):
        await session.detail(OTHER)
    assert session.is_open


async def test_what_is_known_already_is_read_again_for_its_state_and_whole_once_it_has_ended(
    session: Session, world: World
) -> None:
    await started(session, world)
    known = await session.detail(UUID)
    world.suspend()
    paused = await session.detail(UUID, known)
    assert (paused.record.state, paused.record.reason) == (State.PAUSED, "user")
    assert (paused.live_xml, paused.sent_at) == (known.live_xml, known.sent_at)
    done(await session.destroy(UUID, permit()))
    ended = await session.detail(UUID, paused)
    assert (ended.record.state, ended.live_xml) == (State.SHUTOFF, None)
    assert ended.sent_at > known.sent_at


async def test_a_domain_without_our_mark_has_none(session: Session, world: World) -> None:
    other = "<x:domain xmlns:x='https://example.org/' cluster='c1'/>"
    done(await session.define(domain_xml(world, metadata=other), permit()))
    detail = await session.detail(UUID)
    assert (detail.config_mark, detail.live_mark) == (None, None)


@can_save
async def test_a_saved_image_and_autostart_are_seen(session: Session, world: World) -> None:
    await started(session, world)
    world.set_autostart()
    world.managed_save()
    detail = await session.detail(UUID)
    assert (detail.record.state, detail.record.reason) == (State.SHUTOFF, "saved")
    assert (detail.autostart, detail.managed_save) == (True, True)


@can_save
async def test_snapshots_are_counted(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    world.add_snapshot()
    assert (await session.detail(UUID)).snapshots == 1


async def test_a_channel_for_an_agent_that_nobody_opened_is_told_of_what_runs(
    session: Session, world: World
) -> None:
    more = AGENT if StopMethod.AGENT in session.capabilities.stop_methods else ""
    done(await session.define(domain_xml(world, more=more), permit()))
    assert (await session.detail(UUID)).agent == ""
    done(await session.create(UUID, permit()))
    assert (await session.detail(UUID)).agent == ("disconnected" if more else "")
