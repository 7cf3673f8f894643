"""What was measured of libvirt hosts and cannot be said in the contract: each test is one such fact, and the
simulated host must show it."""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from drivers.errors import (
    CallTimedOut,
    DomainBusy,
    HypervisorError,
    NoDomain,
    PeerUnreachable,
    PermitExpired,
    Unreachable,
)
from drivers.hypervisor import (
    EventKind,
    HostEvent,
    Mark,
    Move,
    Outcome,
    Permit,
    Record,
    Result,
    Session,
    SessionClosed,
    State,
    StopMethod,
    Target,
)
from drivers.libvirt import sockets
from specs import mark as marks
from tests import virtualtime
from tests.sim import definition
from tests.sim.connection import socket_options
from tests.sim.domain import Change
from tests.sim.host import SimHost, Temper
from tests.sim.hypervisor import Sent, SimHypervisor
from tests.sim.migration import Manner, Migration
from tests.sim.network import Network
from tests.sim.virsh import Virsh

UUID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
MARK = Mark("c1", UUID, 3, "sha256:ab")
XML = definition.plain(UUID, "one", marks.element(MARK))
QUIET = Temper(event_loss=0.0, event_late=0.0, torn_list=0.0, deaf=0.0, stale_definition=0.0, left_paused=0.0)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Lab:
    """Two hosts, a client, and what was heard, changed and sent; `when_sent` meddles as something leaves."""

    seed: object = 0
    temper: Temper = field(default_factory=lambda: replace(QUIET))
    heard: list[HostEvent | SessionClosed] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    when_sent: Callable[[Sent], None] = lambda _sent: None

    def __post_init__(self) -> None:
        self.network = Network(Random(f"{self.seed}/network"), now)
        self.hosts = {
            name: SimHost(name, self.network, now, Random(f"{self.seed}/{name}"), temper=replace(self.temper))
            for name in ("h1", "h2")
        }
        self.host, self.other = self.hosts["h1"], self.hosts["h2"]
        for host in self.hosts.values():
            host.listeners.append(self.changes.append)
        self.virsh = Virsh(self.host, Random(f"{self.seed}/virsh"))
        self.hypervisor = self.client("c1")

    def client(self, name: str) -> SimHypervisor:
        return SimHypervisor(
            name, self.hosts, self.network, now, Random(f"{self.seed}/{name}"), self._on_sent
        )

    def _on_sent(self, sent: Sent) -> None:
        self.sent.append(sent)
        self.when_sent(sent)

    async def open(self, host: str = "h1") -> Session:
        target = Target(host, f"qemu+tcp://{host}/system")
        return await self.hypervisor.open(target, lambda _session, events: self.heard.extend(events))

    async def running(self) -> None:
        assert await self.virsh.define(XML) is None
        assert await self.virsh.start(UUID) is None

    async def session(self) -> Session:
        """One with a running domain on its host."""
        await self.running()
        return await self.open()

    def events(self) -> list[tuple[EventKind, str]]:
        return [(event.kind, event.detail) for event in self.heard if isinstance(event, HostEvent)]

    def closings(self) -> list[str]:
        return [event.reason for event in self.heard if isinstance(event, SessionClosed)]

    def stands(self, host: str = "h1", uuid: str = UUID) -> tuple[State, str] | None:
        domain = self.hosts[host].domains.get(uuid)
        return None if domain is None else (domain.record.state, domain.record.reason)


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """In virtual time."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def whole() -> None:
            await test(Lab(), *arguments, **named)

        virtualtime.run(whole())

    del run.__wrapped__
    return run


def permit(seconds: float = 60) -> Permit:
    return Permit(now() + seconds)


def failed(result: Result, error: type[HypervisorError], outcome: Outcome = Outcome.FAILED) -> None:
    assert (result.outcome, type(result.error)) == (outcome, error), result


async def until(condition: Callable[[], object], limit_s: float = 120) -> float:
    began = now()
    while not condition():
        assert now() - began < limit_s, "it does not happen"
        await asyncio.sleep(0.05)
    return now() - began


async def took(work: Awaitable[object]) -> float:
    began = now()
    try:
        await work
    except HypervisorError:
        return now() - began
    return now() - began


# -- connections -------------------------------------------------------------------------------------


@simulated
async def test_a_session_over_a_cut_link_ends_by_keep_alive_after_twenty_seconds(lab: Lab) -> None:
    await lab.open()
    lab.network.cut("c1", "h1")
    assert await until(lab.closings) == pytest.approx(20, abs=0.1)
    assert lab.closings() == ["keepalive"]


@simulated
async def test_a_session_with_a_frozen_daemon_ends_by_keep_alive_after_twenty_seconds(lab: Lab) -> None:
    await lab.open()
    lab.host.freeze()
    assert await until(lab.closings) == pytest.approx(20, abs=0.1)
    assert lab.closings() == ["keepalive"]


@simulated
async def test_a_session_outlives_a_short_silence(lab: Lab) -> None:
    session = await lab.open()
    lab.host.freeze()
    await asyncio.sleep(15)
    lab.host.thaw()
    lab.network.cut("c1", "h1")
    await asyncio.sleep(8)
    lab.network.heal("c1", "h1")
    await asyncio.sleep(60)
    assert (await session.list()).records == ()
    assert lab.closings() == []


@simulated
async def test_what_is_sent_into_a_cut_link_is_given_up_after_ten_seconds(lab: Lab) -> None:
    session = await lab.open()
    lab.network.cut("c1", "h1")
    began = now()
    failed(await session.define(XML, permit()), Unreachable, Outcome.AMBIGUOUS)
    assert now() - began == pytest.approx(10, abs=0.1)
    assert not session.is_open


@simulated
async def test_a_frozen_daemon_acknowledges_what_it_does_not_read(lab: Lab) -> None:
    """So TCP's own limit does not help: reads time out, and then there is no sign of life."""
    session = await lab.open()
    lab.host.freeze()
    began = now()
    with pytest.raises(CallTimedOut):
        await session.list()
    assert now() - began == pytest.approx(10, abs=0.1)
    assert session.is_open
    assert await until(lab.closings) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("why", ["cut", "frozen", "no power"])
def test_opening_what_does_not_answer_takes_five_seconds(why: str) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        {
            "cut": lambda: lab.network.cut("c1", "h1"),
            "frozen": lab.host.freeze,
            "no power": lab.host.power_off,
        }[why]()
        began = now()
        with pytest.raises(Unreachable):
            await lab.open()
        assert now() - began == pytest.approx(5, abs=0.01)

    run()


@simulated
async def test_a_host_without_its_daemon_refuses_at_once(lab: Lab) -> None:
    lab.host.kill_daemon()
    assert await took(lab.open()) < 0.5


@simulated
async def test_a_call_that_was_never_sent_failed_and_one_that_was_is_ambiguous(lab: Lab) -> None:
    session = await lab.session()
    lab.host.freeze()
    lookup_waits = asyncio.create_task(session.destroy(UUID, permit()))
    sent = asyncio.create_task(session.define(XML, permit()))
    failed(await lookup_waits, Unreachable)
    failed(await sent, Unreachable, Outcome.AMBIGUOUS)
    assert [one.call for one in lab.sent] == ["define"]


@simulated
async def test_leave_that_ends_during_the_lookup_sends_nothing(lab: Lab) -> None:
    session = await lab.session()
    lab.host.freeze()
    destroying = asyncio.create_task(session.destroy(UUID, permit(0.5)))
    await asyncio.sleep(1)
    lab.host.thaw()
    failed(await destroying, PermitExpired)
    assert lab.host.active(UUID)


@simulated
async def test_a_lost_reply_may_belong_to_a_start_that_happened(lab: Lab) -> None:
    session = await lab.open()
    await session.define(XML, permit())
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: lab.stands() == (State.PAUSED, "starting-up"))
    lab.network.cut("c1", "h1")
    failed(await creating, Unreachable, Outcome.AMBIGUOUS)
    assert lab.host.active(UUID)


@simulated
async def test_five_calls_fill_a_connection_and_the_port_allows_four(lab: Lab) -> None:
    session = await lab.open()
    lab.host.daemon = "starting"  # where every call waits
    calls = [asyncio.create_task(session.list()) for _ in range(6)]
    await asyncio.sleep(1)
    (observing, _) = lab.hypervisor._sessions.copy().popitem()[0].connections
    assert (observing.running, observing.free, len(observing.queue)) == (4, 0, 2)
    for _ in range(3):
        observing.ask("list", (), lambda _answer: None)
    await asyncio.sleep(1)
    assert (observing.running, len(observing.unread)) == (5, 2)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@simulated
async def test_a_lane_whose_slots_are_all_overdue_ends_the_session(lab: Lab) -> None:
    session = await lab.open()
    lab.host.daemon = "starting"
    ends = await asyncio.gather(*(session.list() for _ in range(4)), return_exceptions=True)
    assert {type(end) for end in ends} == {CallTimedOut}
    await asyncio.sleep(0.1)
    assert lab.closings() == ["error"]


# -- late commands -----------------------------------------------------------------------------------


async def _create_into_a_cut(lab: Lab, ends: str) -> Callable[[], bool]:
    """A create is sent just as the link goes; then its client's process or session ends."""
    session = await lab.open()
    await session.define(XML, permit())
    lab.when_sent = lambda sent: lab.network.cut(sent.client, sent.host)
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: len(lab.sent) == 2)
    if ends == "dies":
        lab.hypervisor.die()
    else:
        await session.close()
    await asyncio.sleep(5)
    creating.cancel()
    lab.network.heal_all()
    await asyncio.sleep(60)
    return lambda: lab.host.active(UUID)


@pytest.mark.parametrize("ends", ["dies", "closes"])
def test_a_command_sent_into_a_cut_dies_with_its_client(ends: str) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        assert not (await _create_into_a_cut(lab, ends))()

    run()


def _only_user_timeout(held: sockets.Held) -> None:
    held._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, sockets.USER_TIMEOUT_MS)


@pytest.mark.parametrize("ends", ["dies", "closes"])
@pytest.mark.parametrize("tune", [lambda _held: None, _only_user_timeout], ids=["neither", "no linger"])
def test_without_its_options_the_kernel_delivers_a_dead_clients_command(
    ends: str, tune: Callable[[sockets.Held], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which shows that the test above would find one, and that the driver's own options are simulated."""
    monkeypatch.setattr(sockets.Held, "tune", tune)
    socket_options.cache_clear()

    @simulated
    async def run(lab: Lab) -> None:
        assert (await _create_into_a_cut(lab, ends))()

    try:
        run()
    finally:
        monkeypatch.undo()
        socket_options.cache_clear()
    assert socket_options().resets
    assert socket_options().user_timeout_s == 10


@simulated
async def test_an_orphan_is_not_sent_for_ever(lab: Lab) -> None:
    session = await lab.open()
    lab.network.cut("c1", "h1")
    sending = asyncio.create_task(session.define(XML, permit()))
    await asyncio.sleep(1)
    lab.hypervisor.die()
    await asyncio.sleep(120)
    sending.cancel()
    lab.network.heal_all()
    await asyncio.sleep(60)
    assert lab.host.domains == {}


@simulated
async def test_a_frozen_daemon_carries_out_what_it_received_whoever_died(lab: Lab) -> None:
    session = await lab.open()
    await session.define(XML, permit())
    lab.when_sent = lambda _sent: lab.host.freeze()
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: len(lab.sent) == 2)
    await asyncio.sleep(1)
    lab.hypervisor.die()
    await asyncio.sleep(300)
    assert not lab.host.active(UUID)
    creating.cancel()
    lab.host.thaw()
    assert await until(lambda: lab.host.active(UUID)) < 5


@simulated
async def test_a_new_daemon_does_nothing_that_was_sent_to_the_old(lab: Lab) -> None:
    session = await lab.open()
    await session.define(XML, permit())
    lab.when_sent = lambda _sent: lab.host.freeze()
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: len(lab.sent) == 2)
    await asyncio.sleep(1)
    lab.host.kill_daemon()
    lab.host.start_daemon()
    failed(await creating, Unreachable, Outcome.AMBIGUOUS)
    await asyncio.sleep(60)
    assert lab.stands() == (State.SHUTOFF, "unknown")


@simulated
async def test_a_stopped_client_sends_nothing_and_looks_at_its_leave_when_it_goes_on(lab: Lab) -> None:
    session = await lab.session()
    destroying = asyncio.create_task(session.destroy(UUID, permit(5)))
    await asyncio.sleep(0)
    lab.hypervisor.freeze()
    await asyncio.sleep(10)
    lab.hypervisor.thaw()
    failed(await destroying, PermitExpired)
    assert lab.sent == []


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
    assert set(left) == {
        (State.SHUTOFF, "unknown"),
        (State.PAUSED, "starting-up"),
        (State.RUNNING, "booted"),
    }


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


# -- migration ---------------------------------------------------------------------------------------

HERE = (State.RUNNING, "booted")
THERE = (State.RUNNING, "migrated")
PAUSED = (State.PAUSED, "migration")
Ends = tuple[tuple[State, str] | None, tuple[State, str] | None]


async def _migrating(
    lab: Lab, manner: Manner | None = None
) -> tuple[asyncio.Task[HypervisorError | None], Migration]:
    await lab.running()
    manner = manner or Manner(copy_s=10)
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, manner))
    await until(lambda: UUID in lab.other.domains)
    return moving, lab.host.operations.migrations[UUID]


def _both(lab: Lab) -> Ends:
    return lab.stands("h1"), lab.stands("h2")


@simulated
async def test_a_migration_shows_on_both_ends_until_it_is_over(lab: Lab) -> None:
    await lab.open("h1")
    await lab.open("h2")
    moving, _ = await _migrating(lab)
    arriving = lab.other.domains[UUID].detail()
    assert (arriving.record.active, arriving.persistent, arriving.live_mark) == (True, False, MARK)
    seen = [_both(lab)]
    while not moving.done():
        if _both(lab) != seen[-1]:
            seen.append(_both(lab))
        assert not (lab.host.active(UUID) and lab.other.active(UUID))
        await asyncio.sleep(0.01)
    assert await moving is None
    assert seen == [(HERE, PAUSED), (PAUSED, PAUSED), (PAUSED, THERE)]
    assert _both(lab) == (None, THERE)
    assert lab.other.domains[UUID].detail().config_mark == MARK
    await asyncio.sleep(1)
    told = lab.events()
    for earlier, later in itertools.pairwise(
        [
            (EventKind.SUSPENDED, "migrated"),
            (EventKind.RESUMED, "migrated"),
            (EventKind.STOPPED, "migrated"),
        ]
    ):
        assert told.index(earlier) < told.index(later)


@simulated
async def test_a_source_that_keeps_its_definition_is_shut_off_as_migrated(lab: Lab) -> None:
    moving, _ = await _migrating(lab, Manner(undefine_source=False, copy_s=10))
    await moving
    assert _both(lab) == ((State.SHUTOFF, "migrated"), THERE)


@simulated
async def test_a_stale_definition_may_stay_at_the_source(lab: Lab) -> None:
    lab.host.temper.stale_definition = 1.0
    moving, _ = await _migrating(lab)
    assert await moving is None
    assert _both(lab) == ((State.SHUTOFF, "unknown"), THERE)


@simulated
async def test_a_transient_domain_arrives_transient(lab: Lab) -> None:
    await lab.running()
    await lab.virsh.undefine(UUID)
    assert await lab.virsh.migrate(UUID, lab.other, Manner(persist=False)) is None
    assert _both(lab) == (None, THERE)
    assert lab.other.domains[UUID].config is None


Hit = Callable[[Lab], object]
HITS: dict[str, tuple[Hit, float, Ends]] = {
    "the link between them is cut": (lambda lab: lab.network.cut("h1", "h2"), 31.6, (HERE, None)),
    "the source's daemon is killed": (lambda lab: lab.host.kill_daemon(), 0, (HERE, None)),
    "the target's daemon is killed": (lambda lab: lab.other.kill_daemon(), 0, (HERE, PAUSED)),
    "the source's daemon is frozen": (lambda lab: lab.host.freeze(), 31.6, (HERE, None)),
    "the target's daemon is frozen": (lambda lab: lab.other.freeze(), 31.6, (HERE, PAUSED)),
    "the target loses its power": (lambda lab: lab.other.power_off(), 31.6, (HERE, None)),
    "the guest crashes": (
        lambda lab: lab.host.crash_guest(UUID),
        1.2,
        ((State.SHUTOFF, "crashed"), None),
    ),
    "the target's copy is killed": (lambda lab: lab.other.crash_guest(UUID), 1.2, (HERE, None)),
}


@pytest.mark.parametrize("what", HITS)
def test_a_migration_that_fails_while_it_copies_leaves_the_domain_where_it_was(what: str) -> None:
    hit, after_s, ends = HITS[what]

    @simulated
    async def run(lab: Lab) -> None:
        moving, migration = await _migrating(lab, Manner(copy_s=50))
        began = now()
        hit(lab)
        await until(migration.done.done)
        assert now() - began == pytest.approx(after_s, abs=0.1) or now() - began < after_s < 2
        await asyncio.sleep(2)
        assert _both(lab) == ends
        lab.network.heal_all()
        for host in lab.hosts.values():
            host.thaw()
            host.start_daemon()
        await asyncio.sleep(10)
        assert _both(lab) == (ends[0], None)
        assert await moving is not None
        assert all(not host.broken for host in lab.hosts.values())

    run()


def test_a_disturbed_switch_over_never_runs_the_domain_twice() -> None:
    """60 torture runs; what they leave: one side running, a source that stays paused, a stale definition."""
    ends: collections.Counter[Ends] = collections.Counter()
    hits = [hit for what, (hit, _, _) in HITS.items() if "daemon" in what or "link" in what]

    async def trial(number: int) -> None:
        lab = Lab(seed=number, temper=replace(QUIET, left_paused=0.4))
        moving, migration = await _migrating(lab, Manner(copy_s=5))

        def look(_change: Change) -> None:
            assert not (lab.host.active(UUID) and lab.other.active(UUID))

        for host in lab.hosts.values():
            host.listeners.append(look)
        phase = "switching" if number % 2 else "arrived"
        while migration.phase != phase and not moving.done():  # noqa: ASYNC110 - it is a moment
            await asyncio.sleep(0.01)
        hits[number // 2 % len(hits)](lab)
        await asyncio.sleep(60)
        lab.network.heal_all()
        for host in lab.hosts.values():
            host.thaw()
            host.start_daemon()
        await asyncio.sleep(60)
        assert moving.done()
        ends[_both(lab)] += 1

    async def trials() -> None:
        for number in range(80):
            await trial(number)

    virtualtime.run(trials())
    canceled = (State.RUNNING, "migration-canceled")
    assert set(ends) == {
        (canceled, None),
        (PAUSED, None),
        (PAUSED, THERE),
        ((State.SHUTOFF, "unknown"), THERE),
    }


@simulated
async def test_an_aborted_migration_leaves_the_source_running(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    error = await lab.virsh.abort(UUID)
    assert error is None or error.code == 78
    assert (await moving) is not None
    await asyncio.sleep(2)
    assert _both(lab) == (HERE, None)


@simulated
async def test_destroying_the_target_kills_the_migration_and_not_the_domain(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await Virsh(lab.other, Random(1)).destroy(UUID) is None
    error = await moving
    assert error is not None
    assert error.code == 9
    assert _both(lab) == (HERE, None)


@simulated
async def test_destroying_the_source_ends_the_domain_everywhere(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await lab.virsh.destroy(UUID) is None
    assert await moving is not None
    await asyncio.sleep(2)
    assert _both(lab) == ((State.SHUTOFF, "destroyed"), None)


@simulated
async def test_a_create_on_the_target_queues_behind_the_migration(lab: Lab) -> None:
    _, migration = await _migrating(lab, Manner(copy_s=22))
    began = now()
    error = await Virsh(lab.other, Random(1)).start(UUID)
    assert now() - began > 20
    assert error is not None
    assert error.code == 55
    assert migration.phase in {"arrived", "over"}


@simulated
async def test_a_define_on_the_target_queues_behind_the_migration(lab: Lab) -> None:
    await _migrating(lab, Manner(copy_s=22))
    began = now()
    error = await Virsh(lab.other, Random(1)).define(XML)
    assert now() - began > 20
    assert error is not None
    assert error.code == 9


@simulated
async def test_a_create_on_an_old_definition_at_the_target_runs_it_when_the_migration_aborts(
    lab: Lab,
) -> None:
    """The reason why a target must have no capability of its own: both run."""
    await Virsh(lab.other, Random(1)).define(XML)
    await lab.running()
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, Manner(copy_s=22)))
    await until(lambda: lab.stands("h2") == PAUSED)
    late = asyncio.create_task(Virsh(lab.other, Random(1)).start(UUID))
    await asyncio.sleep(5)
    await lab.virsh.abort(UUID)
    await moving
    assert await late is None
    assert _both(lab) == (HERE, HERE)


@simulated
async def test_a_late_create_on_a_source_without_definition_finds_no_domain(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    late = asyncio.create_task(lab.virsh.start(UUID))
    await moving
    error = await late
    assert isinstance(error, NoDomain)


@simulated
async def test_a_domain_paused_by_its_user_stays_so_on_both_ends(lab: Lab) -> None:
    await lab.running()
    await lab.virsh.suspend(UUID)
    user = (State.PAUSED, "user")
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, Manner(copy_s=10)))
    await until(lambda: lab.stands("h2") == PAUSED)
    assert lab.stands("h1") == user
    assert await moving is None
    assert _both(lab) == (None, user)


@simulated
async def test_a_suspend_during_a_migration_looks_like_the_migrations_own(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await lab.virsh.suspend(UUID) is None
    assert _both(lab) == (PAUSED, PAUSED)
    await moving
    assert _both(lab) == (None, (State.PAUSED, "user"))


@pytest.mark.parametrize(("there", "code"), [("same", 55), ("name", 9), ("uuid", 9)])
def test_what_stands_in_a_migrations_way_is_said_before_it_begins(there: str, code: int) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        await lab.running()
        other = Virsh(lab.other, Random(1))
        uuid, name = {"same": (UUID, "one"), "name": (OTHER, "one"), "uuid": (UUID, "two")}[there]
        await other.define(definition.plain(uuid, name))
        if there == "same":
            await other.start(uuid)
        error = await lab.virsh.migrate(UUID, lab.other)
        assert error is not None
        assert error.code == code
        assert lab.stands() == HERE

    run()


@simulated
async def test_a_domain_with_snapshots_cannot_migrate(lab: Lab) -> None:
    await lab.running()
    lab.host.domains[UUID].snapshots = 1
    error = await lab.virsh.migrate(UUID, lab.other)
    assert error is not None
    assert error.code == 55


# -- migration through the port ----------------------------------------------------------------------

LEAVE = Permit(float("inf"))


def _move(xml: str | None = XML, target: str = "h2", limit_s: float = 600) -> Move:
    return Move(f"qemu+tcp://{target}/system", xml, limit_s)


async def _on_its_way(lab: Lab) -> tuple[Session, asyncio.Task[Result]]:
    """As production does it: the source has given up its definition."""
    session = await lab.session()
    assert (await session.undefine(UUID, LEAVE)).outcome is Outcome.DONE
    moving = asyncio.create_task(session.migrate(UUID, _move(), LEAVE))
    await until(lambda: lab.stands("h2") == PAUSED)
    return session, moving


@simulated
async def test_a_migration_plants_the_definition_that_it_was_given(lab: Lab) -> None:
    session = await lab.session()
    await session.undefine(UUID, LEAVE)
    pending = definition.with_memory(XML, 64)
    assert await session.migrate(UUID, _move(pending), LEAVE) == Result(Outcome.DONE)
    assert _both(lab) == (None, THERE)
    arrived = lab.other.domains[UUID].detail()
    assert (arrived.persistent, arrived.config_xml) == (True, pending)
    assert arrived.memory_bytes == 32 << 20


@simulated
async def test_a_client_that_dies_stops_no_migration(lab: Lab) -> None:
    _, moving = await _on_its_way(lab)
    lab.hypervisor.die()
    moving.cancel()
    await asyncio.sleep(60)
    assert _both(lab) == (None, THERE)


@simulated
async def test_a_reply_that_is_lost_leaves_a_migration_ambiguous_and_it_goes_on(lab: Lab) -> None:
    _, moving = await _on_its_way(lab)
    lab.network.cut("c1", "h1")
    result = await moving
    assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, Unreachable)
    await asyncio.sleep(60)
    assert _both(lab) == (None, THERE)


@simulated
async def test_a_target_that_the_source_cannot_reach_costs_no_session(lab: Lab) -> None:
    session = await lab.session()
    lab.network.cut("h1", "h2")
    for target in ("h2", "nobody"):
        result = await session.migrate(UUID, _move(target=target), LEAVE)
        assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, PeerUnreachable)
    assert session.is_open
    assert _both(lab) == (HERE, None)


@simulated
async def test_a_job_is_told_of_at_the_source_until_the_end_and_kept_at_the_target(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    there = await lab.open("h2")
    arriving = await there.job(UUID)
    assert arriving is not None
    assert arriving.operation == "migration-in"
    copied = []
    while lab.stands("h2") == PAUSED:
        job = await session.job(UUID)
        assert job is not None
        assert job.operation == "migration-out"
        copied.append(job.processed_bytes)
        await asyncio.sleep(1)
    assert copied == sorted(set(copied))
    assert (await moving).outcome is Outcome.DONE
    assert await there.job(UUID) is None
    ended = await there.job(UUID, completed=True)
    assert ended is not None
    assert ended.downtime_ms is not None
    assert 0 < ended.downtime_ms < 1000
    with pytest.raises(NoDomain):
        await session.job(UUID)


@simulated
async def test_a_guest_that_is_stopped_holds_up_its_migration_and_no_other_read(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    lab.host.stick_guest(UUID)
    for limit_s in (10, 0):  # whoever asks again does not wait
        began = now()
        with pytest.raises(CallTimedOut):
            await session.job(UUID)
        assert now() - began == pytest.approx(limit_s, abs=0.1)
    assert len((await session.list()).records) == 1
    await asyncio.sleep(60)
    assert not moving.done()
    lab.host.unstick_guest(UUID)
    assert (await moving).outcome is Outcome.DONE


@simulated
async def test_more_migrations_than_one_connection_takes_go_on_at_once(lab: Lab) -> None:
    session = await lab.open()
    uuids = [f"33333333-3333-4333-8333-{number:012d}" for number in range(8)]
    for uuid in uuids:
        await lab.virsh.define(definition.plain(uuid, f"d{uuid[-1]}"))
        await lab.virsh.start(uuid)
    moving = [
        asyncio.create_task(session.migrate(uuid, _move(definition.plain(uuid, f"d{uuid[-1]}")), LEAVE))
        for uuid in uuids
    ]
    await until(lambda: len(lab.other.domains) == 8)
    assert all(result.outcome is Outcome.DONE for result in await asyncio.gather(*moving))


@simulated
async def test_a_migration_that_is_aborted_through_the_port_leaves_the_source_running(lab: Lab) -> None:
    session, moving = await _on_its_way(lab)
    assert (await session.abort_job(UUID, LEAVE)).outcome is Outcome.DONE
    result = await moving
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.code == 78
    await asyncio.sleep(2)
    assert _both(lab) == (HERE, None)
    assert (await session.define(XML, LEAVE)).outcome is Outcome.DONE


@simulated
async def test_a_guest_faster_than_the_copying_never_arrives(lab: Lab) -> None:
    lab.host.temper.stalls = 1.0
    session, moving = await _on_its_way(lab)
    await asyncio.sleep(100)
    assert not moving.done()
    first, second = await session.job(UUID), await session.job(UUID)
    assert first is not None
    assert second is not None
    assert first.processed_bytes == second.processed_bytes
    await session.abort_job(UUID, LEAVE)
    assert (await moving).outcome is Outcome.FAILED
