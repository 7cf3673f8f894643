"""The Hypervisor port's contract: the life of a domain: started, paused, saved, asked to stop, ended.

Every test acts through the port and asks the host itself, by a way of its own, what came of it.
"""

from __future__ import annotations

import asyncio

import pytest

from drivers.errors import HostFailed, NoDomain, Unsupported, WrongState
from drivers.hypervisor import EventKind, Outcome, Record, Result, Session, State, StopMethod
from tests.contract.hypervisors import (
    LXC,
    OTHER,
    QEMU,
    Heard,
    can_save,
    done,
    failed,
    permit,
    records,
    started,
)
from tests.contract.worlds import UUID, World, domain_xml

STARTS = 3

# -- create, destroy, shutdown -----------------------------------------------------------------------


async def test_create_starts_a_defined_domain(session: Session, world: World) -> None:
    await started(session, world)
    assert world.is_running()


async def test_a_second_create_fails_and_changes_nothing(session: Session, world: World) -> None:
    await started(session, world)
    failed(await session.create(UUID, permit()), WrongState)
    assert world.is_running()


async def test_of_many_creates_at_once_one_is_done(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    results = await asyncio.gather(*(session.create(UUID, permit()) for _ in range(5)))
    assert sorted(result.outcome.value for result in results) == ["done"] + ["failed"] * 4
    assert {type(result.error) for result in results} == {type(None), WrongState}


async def test_destroying_a_stopped_domain_fails(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.destroy(UUID, permit()), WrongState)


async def test_a_guest_can_be_asked_to_stop(session: Session, world: World) -> None:
    """A container that was just started has no init to ask yet; and of one whose controller was late libvirt
    9.0 never learns which it is, so that it must be started anew."""
    await started(session, world)
    for _ in range(STARTS):
        result = await _asked_to_stop(session)
        if result.outcome is Outcome.DONE or not isinstance(result.error, WrongState):
            break
        done(await session.destroy(UUID, permit()))
        done(await session.create(UUID, permit()))
    done(result)


async def _asked_to_stop(session: Session) -> Result:
    for _ in range(50):
        result = await session.shutdown(UUID, StopMethod.ACPI, permit())
        if result.outcome is Outcome.DONE or not isinstance(result.error, WrongState):
            break
        await asyncio.sleep(0.1)
    return result


async def test_a_stopped_guest_cannot_be_asked_to_stop(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.shutdown(UUID, StopMethod.ACPI, permit()), WrongState)


async def test_an_agent_that_is_not_there_cannot_be_asked(session: Session, world: World) -> None:
    await started(session, world)
    result = await session.shutdown(UUID, StopMethod.AGENT, permit())
    assert result.outcome in (Outcome.REJECTED, Outcome.FAILED)
    assert world.is_running()


# -- pausing -----------------------------------------------------------------------------------------


async def test_a_suspended_domain_is_paused_by_its_user_and_active(
    session: Session, world: World, heard: Heard
) -> None:
    await started(session, world)
    done(await session.suspend(UUID, permit()))
    assert (await records(session))[UUID] == Record(UUID, "one", State.PAUSED, "user", active=True)
    await heard.until(lambda: (EventKind.SUSPENDED, "paused") in heard.of(UUID))


async def test_a_resumed_domain_runs_again(session: Session, world: World, heard: Heard) -> None:
    await started(session, world)
    done(await session.suspend(UUID, permit()))
    done(await session.resume(UUID, permit()))
    record = (await records(session))[UUID]
    assert (record.state, record.reason, record.active) == (State.RUNNING, "unpaused", True)


async def test_suspending_twice_changes_nothing(session: Session, world: World) -> None:
    """Drivers differ in whether that is an error; none starts anything by it."""
    await started(session, world)
    done(await session.suspend(UUID, permit()))
    again = await session.suspend(UUID, permit())
    assert again.outcome in (Outcome.DONE, Outcome.FAILED)
    assert (await records(session))[UUID].state is State.PAUSED


async def test_what_does_not_run_is_neither_suspended_nor_resumed(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.suspend(UUID, permit()), WrongState)
    failed(await session.resume(UUID, permit()), WrongState)
    failed(await session.suspend(OTHER, permit()), NoDomain)


# -- saving, restarting, starting at boot ------------------------------------------------------------


@can_save
async def test_a_saved_domain_is_off_and_the_next_start_goes_on_from_there(
    session: Session, world: World, heard: Heard
) -> None:
    await started(session, world)
    done(await session.save(UUID, permit()))
    detail = await session.detail(UUID)
    assert (detail.record.state, detail.record.reason) == (State.SHUTOFF, "saved")
    assert detail.managed_save and world.has_saved_image()
    await heard.until(lambda: (EventKind.STOPPED, "saved") in heard.of(UUID))
    done(await session.create(UUID, permit()))
    detail = await session.detail(UUID)
    assert detail.record.active and not detail.managed_save


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_saved_memory_tells_the_definition_that_it_goes_on_with(session: Session, world: World) -> None:
    """Whatever was defined beside it since; and that is the one that it has when it runs again."""
    await started(session, world)
    done(await session.save(UUID, permit()))
    done(await session.define(domain_xml(world, vcpus=3), permit()))
    detail = await session.detail(UUID)
    assert detail.saved_xml is not None and detail.config_xml is not None
    assert (">1</vcpu>" in detail.saved_xml, ">3</vcpu>" in detail.config_xml) == (True, True)
    done(await session.create(UUID, permit()))
    assert ">1</vcpu>" in ((await session.detail(UUID)).live_xml or "")


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_a_guest_that_was_paused_when_it_was_saved_comes_back_paused(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.suspend(UUID, permit()))
    done(await session.save(UUID, permit()))
    done(await session.create(UUID, permit()))
    assert (await records(session))[UUID].state is State.PAUSED
    done(await session.resume(UUID, permit()))
    assert (await records(session))[UUID].state is State.RUNNING


@can_save
async def test_saved_memory_that_was_dropped_is_gone_and_the_next_start_boots(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.save(UUID, permit()))
    done(await session.drop_saved(UUID, permit()))
    assert not world.has_saved_image()
    done(await session.create(UUID, permit()))
    assert (await records(session))[UUID].reason == "booted"


@can_save
async def test_what_does_not_run_or_is_transient_is_not_saved(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.save(UUID, permit()), WrongState)
    done(await session.create(UUID, permit()))
    done(await session.undefine(UUID, permit()))
    failed(await session.save(UUID, permit()), WrongState)
    assert world.is_running()


@pytest.mark.parametrize("world", [LXC], indirect=True)
async def test_a_container_is_neither_saved_nor_reset(session: Session, world: World) -> None:
    await started(session, world)
    failed(await session.save(UUID, permit()), Unsupported, Outcome.REJECTED)
    failed(await session.reset(UUID, permit()), Unsupported, Outcome.REJECTED)
    assert world.is_running()


@pytest.mark.parametrize("world", [QEMU, "sim"], indirect=True)
async def test_a_domain_that_is_reset_or_asked_to_reboot_stays_the_same_run(
    session: Session, world: World
) -> None:
    await started(session, world)
    before = (await session.detail(UUID)).live_xml or ""
    done(await session.reset(UUID, permit()))
    done(await session.reboot(UUID, permit()))
    assert (await records(session))[UUID].state is State.RUNNING
    assert ((await session.detail(UUID)).live_xml or "").splitlines()[0] == before.splitlines()[0]


@can_save
async def test_room_for_saved_memory_is_not_known_where_no_pool_tells(session: Session) -> None:
    assert await session.save_room() is None


async def test_a_domain_that_is_undefined_while_it_runs_is_transient_and_vanishes_at_its_end(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.undefine(UUID, permit()))
    detail = await session.detail(UUID)
    assert detail.record.active and not detail.persistent and detail.config_xml is None
    done(await session.destroy(UUID, permit()))
    assert not world.exists()


async def test_autostart_is_set_and_goes_with_the_definition(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    done(await session.set_autostart(UUID, True, permit()))
    assert (await session.detail(UUID)).autostart
    done(await session.undefine(UUID, permit()))
    done(await session.define(domain_xml(world), permit()))
    assert not (await session.detail(UUID)).autostart


async def test_a_suspended_domain_is_destroyed_like_any_other(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.suspend(UUID, permit()))
    done(await session.destroy(UUID, permit()))
    assert not world.is_running()


# -- QEMU alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [QEMU], indirect=True)
async def test_a_start_that_the_host_cannot_do_is_failed_and_costs_no_connection(
    world: World, session: Session
) -> None:
    disk = (
        "<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        "<source file='/nonexistent/disk'/><target dev='vda' bus='virtio'/></disk></devices>"
    )
    done(await session.define(domain_xml(world, more=disk), permit()))
    error = failed(await session.create(UUID, permit()), HostFailed)
    assert "/nonexistent/disk" in error.message
    assert (await records(session))[UUID].state is State.SHUTOFF
