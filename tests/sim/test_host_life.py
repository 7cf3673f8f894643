"""What was measured of libvirt and cannot be said in the contract, of jobs, daemons, machines and
guests: each test is one such fact, and the simulated host must show it."""

from __future__ import annotations

import asyncio
import collections
from dataclasses import replace
from random import Random

import pytest

from drivers.errors import CallTimedOut, DomainBusy, HostFailed, NoDomain
from drivers.hypervisor import EventKind, Outcome, Record, State, StopMethod
from specs.devicexml import AGENT_CHANNEL
from tests import virtualtime
from tests.sim import definition
from tests.sim.twohosts import MARK, OTHER, QUIET, UUID, XML, Lab, failed, now, permit, simulated, took, until

# -- jobs --------------------------------------------------------------------------------------------


@simulated
async def test_an_undefine_waits_for_the_create_before_it(lab: Lab) -> None:
    session = await lab.open()
    await session.define(XML, permit())
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: lab.stands() == (State.PAUSED, "starting-up"))
    assert (await session.undefine(UUID, permit())).outcome is Outcome.DONE
    assert (await creating).outcome is Outcome.DONE
    assert lab.host.active(UUID)
    assert lab.host.domains[UUID].config is None


@simulated
async def test_a_create_behind_a_destroy_and_an_undefine_finds_no_domain(lab: Lab) -> None:
    session = await lab.session()
    late = await lab.open()
    destroying = asyncio.create_task(session.destroy(UUID, permit()))
    undefining = asyncio.create_task(lab.virsh.undefine(UUID))
    await until(lambda: lab.host.lock(UUID).held_by == "undefine")
    creating = asyncio.create_task(late.create(UUID, permit()))
    await destroying
    await undefining
    failed(await creating, NoDomain)


@simulated
async def test_a_guest_that_does_not_react_costs_a_job_time_out_and_a_long_destroy(lab: Lab) -> None:
    session = await lab.session()
    lab.host.stick_guest(UUID)
    asking = asyncio.create_task(session.shutdown(UUID, StopMethod.ACPI, permit()))
    await asyncio.sleep(0.1)
    began = now()
    marking = asyncio.create_task(lab.virsh.set_mark(UUID, MARK, live=True, config=False))
    assert await took(session.list()) < 0.2  # the daemon is well
    assert (await session.detail(UUID)).record.state is State.RUNNING
    failed(await asking, CallTimedOut, Outcome.AMBIGUOUS)
    assert isinstance(await marking, DomainBusy)
    assert now() - began == pytest.approx(30, abs=1)
    destroying = asyncio.create_task(session.destroy(UUID, permit()))
    await asyncio.sleep(0.2)
    with pytest.raises(CallTimedOut):
        await session.list()  # lists wait behind it
    assert (await destroying).outcome is Outcome.DONE
    assert now() - began == pytest.approx(30 + 11.8, abs=1)


@simulated
async def test_a_list_waits_behind_a_destroy(lab: Lab) -> None:
    session = await lab.session()
    destroying = asyncio.create_task(session.destroy(UUID, permit()))
    await until(lambda: lab.host.lock(UUID).held_by == "destroy")
    listing = await session.list()
    assert listing.ended_at - listing.sent_at > 0.1
    assert listing.records == (Record(UUID, "one", State.SHUTOFF, "destroyed", active=False),)
    await destroying


@simulated
async def test_a_list_that_is_kept_shows_what_was_there_when_it_was_taken(lab: Lab) -> None:
    session = await lab.open()
    lab.host.desk.keep_lists()
    listing = asyncio.create_task(session.list())
    await lab.running()
    assert not listing.done()
    assert lab.host.desk.let_lists_go() == 1
    assert (await listing).records == ()
    assert len((await session.list()).records) == 1


def test_the_records_of_one_list_are_not_of_one_moment() -> None:
    """A list that takes some records early and others late shows what never was at any instant."""

    async def run() -> None:
        lab = Lab(temper=replace(QUIET, torn_list=1.0, torn_list_s=(0.5, 0.5)))
        await lab.running()
        await lab.virsh.define(definition.plain(OTHER, "two"))
        session = await lab.open()
        torn = 0
        for _ in range(20):
            listing = asyncio.create_task(session.list())
            await asyncio.sleep(0.2)
            for uuid in (UUID, OTHER):
                domain = lab.host.domains[uuid]
                domain.become(State.PAUSED if domain.state is State.RUNNING else State.RUNNING, "user")
            first, second = (await listing).records
            torn += (first.state is State.RUNNING) != (second.state is not State.RUNNING)
            for uuid in (UUID, OTHER):
                lab.host.domains[uuid].become(State.RUNNING if uuid == UUID else State.PAUSED, "user")
        assert torn > 3

    virtualtime.run(run())


def test_events_are_lost_and_late_but_those_of_one_session_stay_in_order() -> None:
    async def run() -> None:
        lab = Lab(temper=replace(QUIET, event_loss=0.1, event_late=0.3, event_late_s=3))
        await lab.open()
        for number in range(200):
            await lab.virsh.define(definition.plain(OTHER, "two", mebibytes=32 + number))
            lab.host.say(lab.host.domains[OTHER], EventKind.OTHER, str(number))
        await asyncio.sleep(60)
        numbers = [int(detail) for kind, detail in lab.events() if kind is EventKind.OTHER]
        assert numbers == sorted(numbers)
        assert 150 < len(numbers) < 200

    virtualtime.run(run())


# -- the daemon --------------------------------------------------------------------------------------


@simulated
async def test_a_killed_daemon_ends_sessions_at_once_and_guests_run_on(lab: Lab) -> None:
    await lab.session()
    before = lab.stands()
    lab.host.kill_daemon()
    assert await until(lab.closings) < 0.5
    assert lab.closings() == ["error"]
    lab.host.start_daemon()
    session = await lab.open()
    assert 1 <= await took(session.list()) <= 5
    assert lab.stands() == before
    assert lab.host.active(UUID)


@simulated
async def test_after_a_restart_nobody_knows_why_a_domain_is_shut_off(lab: Lab) -> None:
    session = await lab.session()
    await session.destroy(UUID, permit())
    assert lab.stands() == (State.SHUTOFF, "destroyed")
    lab.host.kill_daemon()
    lab.host.start_daemon()
    await until(lambda: lab.host.daemon == "up")
    assert lab.stands() == (State.SHUTOFF, "unknown")


@pytest.mark.parametrize("transient", [False, True])
def test_a_guest_that_ends_while_the_daemon_is_down_is_found_later_or_is_just_gone(transient: bool) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        await lab.running()
        if transient:
            await lab.virsh.undefine(UUID)
        lab.host.kill_daemon()
        lab.host.poweroff_guest(UUID)
        assert not lab.host.active(UUID)
        lab.host.start_daemon()
        await until(lambda: lab.host.daemon == "up")
        assert lab.stands() == (None if transient else (State.SHUTOFF, "shutdown"))

    run()


def test_a_daemon_that_dies_within_create_leaves_nothing_or_a_paused_copy_or_a_running_guest() -> None:
    left: collections.Counter[object] = collections.Counter()

    async def trial(number: int) -> None:
        lab = Lab(seed=number)
        await lab.virsh.define(XML)
        creating = asyncio.create_task(lab.virsh.start(UUID))
        await asyncio.sleep(Random(number).uniform(0.3, 2))
        lab.host.kill_daemon()
        await creating
        lab.host.start_daemon()
        await until(lambda: lab.host.daemon == "up")
        left[lab.stands()] += 1
        if lab.stands() == (State.PAUSED, "starting-up"):
            assert not lab.host.active(UUID)
            assert lab.host.domains[UUID].detail().live_mark == MARK
            assert await lab.virsh.destroy(UUID) is None

    async def trials() -> None:
        for number in range(60):
            await trial(number)

    virtualtime.run(trials())
    assert set(left) == {(State.SHUTOFF, "unknown"), (State.PAUSED, "starting-up"), (State.RUNNING, "booted")}


@simulated
async def test_a_start_that_libvirtd_lost_half_way_answers_every_change_with_a_time_out(lab: Lab) -> None:
    lab.host.temper.stuck_start = 1.0
    await lab.virsh.define(XML)
    creating = asyncio.create_task(lab.virsh.start(UUID))
    await until(lambda: lab.stands() == (State.PAUSED, "starting-up"))
    lab.host.kill_daemon()
    await creating
    lab.host.start_daemon()
    assert isinstance(await lab.virsh.destroy(UUID), DomainBusy)
    assert lab.stands() == (State.PAUSED, "starting-up")
    lab.virsh.free_start(UUID)
    assert await lab.virsh.start(UUID) is None
    assert lab.host.active(UUID)


# -- the machine -------------------------------------------------------------------------------------


@simulated
async def test_after_a_power_cut_definitions_are_there_and_guests_are_not(lab: Lab) -> None:
    await lab.session()
    lab.host.power_off()
    assert not lab.host.active(UUID)
    assert await until(lab.closings) == pytest.approx(20, abs=0.1)
    lab.host.power_on()
    await until(lambda: lab.host.daemon == "up")
    assert lab.stands() == (State.SHUTOFF, "unknown")


@simulated
async def test_a_machine_that_returns_at_once_resets_the_connections_it_does_not_know(lab: Lab) -> None:
    await lab.open()
    lab.host.power_off()
    lab.host.power_on()
    assert await until(lab.closings) < 20
    assert lab.closings() == ["error"]


@simulated
async def test_a_transient_domain_does_not_survive_a_power_cut(lab: Lab) -> None:
    await lab.running()
    await lab.virsh.undefine(UUID)
    lab.host.power_off()
    lab.host.power_on()
    assert lab.host.domains == {}


@simulated
async def test_an_autostarted_domain_runs_before_the_first_answer_after_boot(lab: Lab) -> None:
    await lab.virsh.define(XML)
    await lab.virsh.autostart(UUID)
    lab.host.kill_daemon()
    lab.host.start_daemon()
    await until(lambda: lab.host.daemon == "up")
    assert not lab.host.active(UUID)  # not at a mere restart
    lab.host.power_off()
    lab.host.power_on()
    await until(lambda: lab.host.daemon == "starting")
    session = await lab.open()
    (record,) = (await session.list()).records
    assert (record.state, record.reason) == (State.RUNNING, "booted")


# -- guests ------------------------------------------------------------------------------------------


@simulated
async def test_a_killed_qemu_is_told_as_failed_and_listed_as_crashed(lab: Lab) -> None:
    await lab.session()
    lab.host.crash_guest(UUID)
    assert not lab.host.active(UUID)
    await until(lambda: (EventKind.STOPPED, "failed") in lab.events())
    assert lab.stands() == (State.SHUTOFF, "crashed")


@simulated
async def test_a_guest_that_powers_off_is_told_twice(lab: Lab) -> None:
    await lab.session()
    lab.host.poweroff_guest(UUID)
    await until(lambda: (EventKind.STOPPED, "shutdown") in lab.events())
    assert lab.events() == [(EventKind.SHUTDOWN, "guest"), (EventKind.STOPPED, "shutdown")]


@simulated
async def test_a_crashed_guest_that_is_preserved_holds_its_disks(lab: Lab) -> None:
    await lab.virsh.define(XML.replace("<os>", "<on_crash>preserve</on_crash><os>"))
    await lab.virsh.start(UUID)
    lab.host.panic_guest(UUID)
    assert lab.stands() == (State.CRASHED, "panicked")
    assert lab.host.active(UUID)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_guest_that_is_asked_to_stop_obeys_or_is_deaf(deaf: bool) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        lab.host.temper.deaf = float(deaf)
        session = await lab.session()
        assert (await session.shutdown(UUID, StopMethod.ACPI, permit())).outcome is Outcome.DONE
        await asyncio.sleep(60)
        assert lab.host.active(UUID) is deaf

    run()


@simulated
async def test_a_saved_domain_returns_with_the_definition_it_was_saved_with(lab: Lab) -> None:
    await lab.running()
    assert await lab.virsh.managed_save(UUID) is None
    assert lab.stands() == (State.SHUTOFF, "saved")
    await lab.virsh.set_memory(UUID, 64)
    assert await lab.virsh.start(UUID) is None
    assert lab.stands() == (State.RUNNING, "restored")
    detail = lab.host.domains[UUID].detail()
    assert (detail.memory_bytes, detail.managed_save) == (32 << 20, False)


@simulated
async def test_a_clone_carries_the_mark_of_what_it_was_made_from(lab: Lab) -> None:
    await lab.virsh.define(XML)
    await lab.virsh.clone(UUID, OTHER, "two")
    assert lab.host.domains[OTHER].detail().config_mark == MARK
    await lab.virsh.strip_mark(UUID)
    assert lab.host.domains[UUID].detail().config_mark is None


@simulated
async def test_an_agent_opens_its_channel_some_time_after_the_start_and_can_then_be_asked(lab: Lab) -> None:
    channel = f"<channel type='unix'><target type='virtio' name='{AGENT_CHANNEL}'/></channel>"
    session = await lab.open()
    await lab.virsh.define(XML.replace("</domain>", f"<devices>{channel}</devices></domain>"))
    assert (await session.detail(UUID)).agent == ""
    await lab.virsh.start(UUID)
    assert (await session.detail(UUID)).agent == "disconnected"
    failed(await session.shutdown(UUID, StopMethod.AGENT, permit()), HostFailed)
    await until(lambda: (EventKind.OTHER, "agent") in lab.events())
    assert (await session.detail(UUID)).agent == "connected"
    assert (await session.shutdown(UUID, StopMethod.AGENT, permit(), 5.0)).outcome is Outcome.DONE
