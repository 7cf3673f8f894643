"""The Hypervisor port's contract: definitions, marks and autostart; and the race on which R1 stands.

Every test acts through the port and asks the host itself, by a way of its own, what came of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from dataclasses import replace

import msgspec
import pytest

from drivers.errors import NameConflict, NoDomain, PermitExpired, SpecRejected, WrongState
from drivers.hypervisor import Hypervisor, Outcome, Permit, Result, Session
from specs.mark import element
from tests.contract.hypervisors import (
    MARK,
    ON_ONE,
    OTHER,
    Heard,
    can_save,
    done,
    failed,
    long_where_real,
    permit,
    records,
    started,
)
from tests.contract.worlds import UUID, World, domain_xml

log = logging.getLogger(__name__)


# -- define ------------------------------------------------------------------------------------------


async def test_defining_again_changes_the_definition_and_not_the_identity(
    session: Session, world: World
) -> None:
    done(await session.define(domain_xml(world), permit()))
    done(await session.define(domain_xml(world, vcpus=3), permit()))
    assert len(await records(session)) == 1 + len(world.residents)
    assert (await session.detail(UUID)).vcpus == 3


async def test_defining_a_running_domain_changes_its_next_start_only(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.define(domain_xml(world, vcpus=3), permit()))
    detail = await session.detail(UUID)
    assert detail.config_xml is not None
    assert detail.live_xml is not None
    assert ">3</vcpu>" in detail.config_xml
    assert ">1</vcpu>" in detail.live_xml
    assert world.is_running()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("</domain>", "<nonsense/></domain>"),
        ("</domain>", ""),
        ("<vcpu>1</vcpu>", "<vcpu>many</vcpu>"),
        ("<name>one</name>", "<name>one\x00</name>"),
    ],
    ids=["unknown element", "not well-formed", "not a number", "a NUL"],
)
async def test_a_definition_that_libvirt_refuses_is_rejected_and_leaves_nothing(
    session: Session, world: World, right: str, wrong: str
) -> None:
    failed(
        await session.define(domain_xml(world).replace(right, wrong), permit()),
        SpecRejected,
        Outcome.REJECTED,
    )
    assert not world.exists()


async def test_a_definition_too_large_for_libvirt_is_rejected_and_costs_no_connection(
    session: Session, world: World
) -> None:
    large = domain_xml(world, metadata=f"<x:y xmlns:x='https://example.org/'>{'z' * 5_000_000}</x:y>")
    failed(await session.define(large, permit()), SpecRejected, Outcome.REJECTED)
    assert await records(session) is not None


async def test_a_name_that_another_domain_has_is_a_conflict(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.define(domain_xml(world, OTHER, "one"), permit()), NameConflict, Outcome.REJECTED)
    assert not world.exists(OTHER)


async def test_a_uuid_that_another_name_has_is_a_conflict(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.define(domain_xml(world, UUID, "two"), permit()), NameConflict, Outcome.REJECTED)
    assert world.name() == "one"


# -- undefine ----------------------------------------------------------------------------------------


async def test_undefine_takes_a_stopped_domain_away(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    done(await session.undefine(UUID, permit()))
    assert not world.exists()


async def test_undefine_makes_a_running_domain_transient(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.undefine(UUID, permit()))
    detail = await session.detail(UUID)
    assert (detail.persistent, detail.config_xml, detail.record.active) == (False, None, True)
    done(await session.destroy(UUID, permit()))
    assert UUID not in await records(session)


async def test_a_running_domain_without_definition_can_be_defined_again(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.undefine(UUID, permit()))
    done(await session.define(domain_xml(world), permit()))
    detail = await session.detail(UUID)
    assert (detail.persistent, detail.record.active) == (True, True)


@can_save
async def test_undefine_never_throws_a_saved_image_away(session: Session, world: World) -> None:
    await started(session, world)
    world.managed_save()
    failed(await session.undefine(UUID, permit()), WrongState)
    assert world.has_saved_image()


@can_save
async def test_undefine_takes_snapshot_metadata_with_it(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    world.add_snapshot()
    done(await session.undefine(UUID, permit()))
    assert not world.exists()


@pytest.mark.parametrize("name", ON_ONE)
async def test_nothing_can_be_done_to_an_unknown_domain(session: Session, world: World, name: str) -> None:
    failed(await ON_ONE[name](session, world, permit()), NoDomain)
    assert session.is_open


# -- permits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["define", *ON_ONE])
async def test_without_leave_nothing_is_sent(session: Session, world: World, name: str) -> None:
    await started(session, world)
    world.set_autostart()
    before = await session.detail(UUID)
    late = Permit(time.monotonic() - 0.001)
    if name == "define":
        failed(await session.define(domain_xml(world, vcpus=4), late), PermitExpired)
    else:
        failed(await ON_ONE[name](session, world, late), PermitExpired)
    assert msgspec.structs.replace(await session.detail(UUID), sent_at=before.sent_at) == before


# -- marks and autostart -----------------------------------------------------------------------------


async def test_a_mark_survives_start_and_stop(session: Session, world: World) -> None:
    await started(session, world, element(MARK))
    detail = await session.detail(UUID)
    assert (detail.config_mark, detail.live_mark) == (MARK, MARK)
    done(await session.destroy(UUID, permit()))
    assert (await session.detail(UUID)).config_mark == MARK


async def test_a_running_domain_defined_again_keeps_its_old_mark_until_it_is_set(
    session: Session, world: World
) -> None:
    await started(session, world, element(MARK))
    newer = replace(MARK, epoch=4)
    done(await session.define(domain_xml(world, metadata=element(newer)), permit()))
    detail = await session.detail(UUID)
    assert (detail.config_mark, detail.live_mark) == (newer, MARK)
    done(await session.set_mark(UUID, newer, live=True, config=False, permit=permit()))
    assert (await session.detail(UUID)).live_mark == newer


@pytest.mark.parametrize(("live", "config"), [(True, False), (False, True), (True, True)])
async def test_a_mark_is_set_where_it_was_asked_for_and_removed_again(
    session: Session, world: World, live: bool, config: bool
) -> None:
    await started(session, world)
    done(await session.set_mark(UUID, MARK, live=live, config=config, permit=permit()))
    detail = await session.detail(UUID)
    assert detail.live_mark == (MARK if live else None)
    assert detail.config_mark == (MARK if config else None)
    done(await session.set_mark(UUID, None, live=live, config=config, permit=permit()))
    detail = await session.detail(UUID)
    assert (detail.config_mark, detail.live_mark) == (None, None)


async def test_setting_a_mark_keeps_the_metadata_of_others(session: Session, world: World) -> None:
    other = '<x:y xmlns:x="https://example.org/">kept</x:y>'
    done(await session.define(domain_xml(world, metadata=other), permit()))
    done(await session.set_mark(UUID, MARK, live=False, config=True, permit=permit()))
    detail = await session.detail(UUID)
    assert detail.config_mark == MARK
    assert ">kept<" in (detail.config_xml or "")


async def test_a_stopped_domain_has_no_live_mark_to_set(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.set_mark(UUID, MARK, live=True, config=False, permit=permit()), WrongState)


async def test_a_mark_that_is_to_stand_nowhere_is_rejected(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(
        await session.set_mark(UUID, MARK, live=False, config=False, permit=permit()),
        SpecRejected,
        Outcome.REJECTED,
    )


async def test_autostart_is_cleared_whether_it_was_set_or_not(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    world.set_autostart()
    for _ in range(2):
        done(await session.set_autostart(UUID, False, permit()))
        assert not (await session.detail(UUID)).autostart


# -- the definition is the capability ----------------------------------------------------------------


@long_where_real
@pytest.mark.timeout(600)
async def test_a_create_that_races_an_undefine_is_either_seen_or_never_happens(
    world: World, session: Session, hypervisor: Hypervisor
) -> None:
    """R1 stands on this: when undefine has answered Done, the domain is active for all to see, or it is
    gone for good and the late create found no domain."""
    other = await hypervisor.open(world.target, Heard().sink)
    ends = {"active": 0, "gone": 0}
    spread_s = world.start_s
    for trial in range(60):
        done(await session.define(domain_xml(world), permit()))
        delay_s = random.Random(trial).uniform(-spread_s / 4, spread_s)
        creating = asyncio.create_task(_after(-delay_s, session.create(UUID, permit())))
        undefined = await _after(delay_s, other.undefine(UUID, permit()))
        done(undefined)
        seen = (await records(other)).get(UUID)
        created = await creating
        if seen is None:
            failed(created, NoDomain)
            assert UUID not in await records(other), f"trial {trial}: absent, and then active"
            ends["gone"] += 1
        else:
            assert seen.active, f"trial {trial}: {seen}"
            done(created)
            done(await other.destroy(UUID, permit()))
            ends["active"] += 1
        assert not world.exists()
    log.info("create raced undefine on %s: %s", world.driver, ends)  # seen with --log-cli-level=info
    assert sum(ends.values()) >= 45
    assert min(ends.values()) > 0, f"the race was not run on both sides: {ends}"


async def _after(delay_s: float, act: Awaitable[Result]) -> Result:
    if delay_s > 0:
        await asyncio.sleep(delay_s)
    return await act
