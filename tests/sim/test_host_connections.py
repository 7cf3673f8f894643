"""What was measured of libvirt and cannot be said in the contract, of connections and of late
commands: each test is one such fact, and the simulated host must show it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from drivers.errors import CallTimedOut, PermitExpired, Unreachable
from drivers.hypervisor import Outcome, State
from drivers.libvirt import sockets
from drivers.libvirt.lane import SLOTS
from tests.sim.connection import socket_options
from tests.sim.twohosts import UUID, XML, Lab, failed, now, permit, simulated, took, until

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
async def test_what_waits_for_a_slot_when_the_connection_ends_does_not_wait_for_its_deadline(
    lab: Lab,
) -> None:
    """libvirt refuses a call over a closed socket at once."""
    session = await lab.open()
    lab.network.cut("c1", "h1")
    began = now()
    results = await asyncio.gather(*(session.create(UUID, permit()) for _ in range(SLOTS + 3)))
    assert all(isinstance(result.error, Unreachable) for result in results)
    assert {result.outcome for result in results[SLOTS:]} == {Outcome.FAILED}
    assert now() - began == pytest.approx(10, abs=0.1)


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
