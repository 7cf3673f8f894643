"""The Hypervisor port's contract: how busy a host and its domains are, asked in nobody's way."""

from __future__ import annotations

import asyncio
import time

import pytest

from drivers.errors import HostBusy, Unreachable
from drivers.hypervisor import DomainFigures, Figures, Session
from tests.contract.hypervisors import OTHER, done, permit, started
from tests.contract.worlds import MEMORY_BYTES, UUID, World, domain_xml

MOST_OF_A_TINY_DOMAIN = 1 << 30


async def asked(session: Session) -> Figures:
    """Asked again where something else was under way."""
    for _ in range(100):
        try:
            return await session.figures()
        except HostBusy:
            await asyncio.sleep(0.02)
    raise AssertionError("it is never free")


def of(figures: Figures, uuid: str = UUID) -> DomainFigures:
    [found] = [one for one in figures.domains if one.uuid == uuid]
    return found


async def test_figures_are_of_active_domains_alone(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world, OTHER, "two"), permit()))
    await started(session, world)
    told = {one.uuid for one in (await asked(session)).domains}
    assert told - world.residents == {UUID}
    done(await session.destroy(UUID, permit()))
    assert {one.uuid for one in (await asked(session)).domains} - world.residents == set()


async def test_what_an_active_domain_uses_is_told_and_its_time_only_grows(
    session: Session, world: World
) -> None:
    await started(session, world)
    before = time.monotonic()
    first = await asked(session)
    assert before <= first.sent_at <= first.ended_at <= time.monotonic()
    await asyncio.sleep(0.3)
    one, two = of(first), of(await asked(session))
    assert one.cpu_s is not None and two.cpu_s is not None
    assert 0 <= one.cpu_s <= two.cpu_s
    assert two.given_bytes == MEMORY_BYTES
    assert two.used_bytes is not None
    assert 0 < two.used_bytes < MOST_OF_A_TINY_DOMAIN


async def test_a_host_that_has_figures_of_its_own_tells_them(session: Session, world: World) -> None:
    first = (await asked(session)).host
    await asyncio.sleep(0.3)
    second = (await asked(session)).host
    if world.driver == "test":
        assert first is second is None, "its numbers never move"
        return
    assert first is not None and second is not None
    assert first.cpu_s <= second.cpu_s
    assert 0 < second.used_bytes < second.total_bytes


async def test_figures_give_way_to_whatever_else_is_asked(session: Session, world: World) -> None:
    await started(session, world)
    listing = asyncio.create_task(session.list())
    await asyncio.sleep(0)
    try:
        await session.figures()
        gave_way = listing.done()  # it was over before the figures were asked for
    except HostBusy:
        gave_way = True
    assert gave_way
    assert (await listing).records
    assert of(await asked(session))


async def test_a_session_that_has_ended_has_no_figures(session: Session) -> None:
    await session.close()
    with pytest.raises(Unreachable):
        await session.figures()
