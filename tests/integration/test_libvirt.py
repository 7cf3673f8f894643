"""Misfortunes of real hosts, as the libvirt driver must take them: killed, frozen, cut off, stuck."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import struct
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.errors import CallTimedOut, HostFailed, NoDomain, PermitExpired, Unreachable
from drivers.hypervisor import (
    EventKind,
    HostEvent,
    Move,
    Outcome,
    Permit,
    Session,
    SessionClosed,
    State,
    Target,
)
from drivers.libvirt import Deadlines, LibvirtHypervisor
from specs.mark import Mark, element
from tests.labhost import LabHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parent.parent.parent
UUID = "11111111-1111-4111-8111-111111111111"
SHORT = Deadlines(read_s=0.5, facts_s=0.5, create_s=0.5, destroy_s=0.5, define_s=0.5, sign_of_life_s=0.5)


def xml(uuid: str = UUID, name: str = "one") -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>32768</memory>"
        "<vcpu>1</vcpu><os><type>hvm</type></os></domain>"
    )


def permit(seconds: float = 60) -> Permit:
    return Permit(time.monotonic() + seconds)


class Heard:
    def __init__(self) -> None:
        self.all: list[HostEvent | SessionClosed] = []

    def sink(self, _session: Session, events: tuple[HostEvent | SessionClosed, ...]) -> None:
        self.all.extend(events)

    def closings(self) -> list[SessionClosed]:
        return [event for event in self.all if isinstance(event, SessionClosed)]

    def events(self) -> list[tuple[EventKind, str]]:
        return [(event.kind, event.detail) for event in self.all if isinstance(event, HostEvent)]


async def until(happened: Callable[[], object], within_s: float) -> float:
    """How long it took."""
    started_at = time.monotonic()
    while not happened():
        assert time.monotonic() - started_at < within_s, f"not within {within_s} s"
        await asyncio.sleep(0.002)
    return time.monotonic() - started_at


def threads_of_openings() -> int:
    return sum(thread.name in ("libvirt-open", "libvirt-close") for thread in threading.enumerate())


@pytest.fixture
async def hypervisor() -> AsyncIterator[LibvirtHypervisor]:
    made = LibvirtHypervisor()
    yield made
    await made.close()


@pytest.fixture
async def impatient() -> AsyncIterator[LibvirtHypervisor]:
    """With deadlines that make a test short; what happens at them is the same."""
    made = LibvirtHypervisor(deadlines=SHORT)
    yield made
    await made.close()


@pytest.fixture
def host(hosts: tuple[LabHost, ...]) -> Iterator[LabHost]:
    yield hosts[0]


def running(host: LabHost) -> bool:
    return UUID in host.virsh("list", "--uuid").split()


# -- definitions -----------------------------------------------------------------------------------


async def test_a_definition_is_validated_unless_the_host_took_one_of_its_digest(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    """What libvirt's schema does not know shows whether it was asked: unvalidated it is dropped silently."""

    def marked(epoch: int, digest: str, more: str = "") -> str:
        mark = element(Mark("c", UUID, epoch, digest))
        return xml().replace("<memory", f"<metadata>{mark}</metadata>{more}<memory")

    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    unknown = "<nonsense/>"
    assert (await session.define(marked(1, "x", unknown), permit())).outcome is Outcome.REJECTED
    assert (await session.define(marked(1, "x"), permit())).outcome is Outcome.DONE
    assert (await session.define(marked(2, "x", unknown), permit())).outcome is Outcome.DONE
    assert (await session.define(marked(3, "y", unknown), permit())).outcome is Outcome.REJECTED
    await session.close()
    another = await hypervisor.open(Target("n", host.uri), Heard().sink)
    assert (await another.define(marked(4, "x", unknown), permit())).outcome is Outcome.REJECTED
    await another.detail(UUID)
    assert (await another.define(marked(5, "x", unknown), permit())).outcome is Outcome.DONE


# -- the daemon dies ---------------------------------------------------------------------------------


async def test_a_killed_libvirtd_ends_the_session_at_once_and_once(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await hypervisor.open(Target("n", host.uri), heard.sink)
    await session.list()
    os.kill(host.status()["libvirtd_pid"], signal.SIGKILL)
    await until(heard.closings, 2)
    with pytest.raises(Unreachable):
        await session.list()
    result = await session.create(UUID, permit())
    assert (result.outcome, type(result.error)) == (Outcome.FAILED, Unreachable)
    await asyncio.sleep(0.3)
    assert len(heard.closings()) == 1
    assert heard.all[-1] is heard.closings()[0]
    with pytest.raises(Unreachable):
        await hypervisor.open(Target("n", host.uri), heard.sink)


async def test_guests_outlive_libvirtd_and_a_new_session_finds_them(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    await session.define(xml(), permit())
    await session.create(UUID, permit())
    before = host.qemu_pids()
    host.kill_libvirtd()
    host.restart_libvirtd()
    heard = Heard()
    session = await hypervisor.open(Target("n", host.uri), heard.sink)
    (record,) = (await session.list()).records
    assert (record.uuid, record.state, host.qemu_pids()) == (UUID, State.RUNNING, before)
    await session.destroy(UUID, permit())
    await until(lambda: (EventKind.STOPPED, "destroyed") in heard.events(), 2)


async def test_a_create_whose_reply_was_lost_is_ambiguous(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await hypervisor.open(Target("n", host.uri), heard.sink)
    await session.define(xml(), permit())
    daemon = host.status()["libvirtd_pid"]
    creating = asyncio.create_task(session.create(UUID, permit()))
    await until(lambda: (EventKind.DEFINED, "added") in heard.events(), 2)
    await asyncio.sleep(0.03)
    os.kill(daemon, signal.SIGKILL)
    result = await asyncio.wait_for(creating, 5)
    assert result.outcome is Outcome.AMBIGUOUS
    assert isinstance(result.error, Unreachable)
    assert not session.is_open


async def test_a_killed_qemu_is_told_and_listed_as_crashed(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await hypervisor.open(Target("n", host.uri), heard.sink)
    await session.define(xml(), permit())
    await session.create(UUID, permit())
    (pid,) = host.qemu_pids()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: (EventKind.STOPPED, "failed") in heard.events(), 3)
    (record,) = (await session.list()).records
    assert (record.state, record.reason, record.active) == (State.SHUTOFF, "crashed", False)


# -- the daemon hangs --------------------------------------------------------------------------------


async def test_calls_to_a_frozen_libvirtd_end_at_their_deadline_and_the_session_soon_after(
    impatient: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await impatient.open(Target("n", host.uri), heard.sink)
    host.freeze()
    started_at = time.monotonic()
    with pytest.raises(CallTimedOut):
        await session.list()
    assert time.monotonic() - started_at < 1
    await until(heard.closings, 2)
    assert [event.reason for event in heard.closings()] == ["keepalive"]
    await until(lambda: impatient.lost_threads == 0, 2)


async def test_opening_a_frozen_libvirtd_is_bounded(hypervisor: LibvirtHypervisor, host: LabHost) -> None:
    host.freeze()
    started_at = time.monotonic()
    with pytest.raises(Unreachable, match="waiting for libvirt to answer"):
        await hypervisor.open(Target("n", host.uri), Heard().sink)
    assert 4.5 < time.monotonic() - started_at < 5.5
    await until(lambda: hypervisor.lost_threads == 0, 2)
    host.thaw()
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    assert (await session.list()).records == ()


async def test_leave_that_ends_while_a_host_hangs_sends_nothing_when_it_wakes(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    """The permit is looked at in the thread, after everything that could have waited."""
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    await session.define(xml(), permit())
    host.freeze()
    creating = asyncio.create_task(session.create(UUID, permit(0.5)))
    await asyncio.sleep(1)
    host.thaw()
    result = await creating
    assert (result.outcome, type(result.error)) == (Outcome.FAILED, PermitExpired)
    await asyncio.sleep(1)
    assert not running(host)


async def test_a_call_that_was_given_up_before_it_was_sent_is_never_sent(
    impatient: LibvirtHypervisor, host: LabHost
) -> None:
    session = await impatient.open(Target("n", host.uri), Heard().sink)
    await session.define(xml(), permit())
    host.freeze()
    creating = asyncio.create_task(session.create(UUID, permit()))
    result = await creating
    assert (result.outcome, type(result.error)) == (Outcome.FAILED, CallTimedOut)
    host.thaw()
    await asyncio.sleep(2)
    assert not running(host)


async def test_a_frozen_host_slows_no_other(
    hypervisor: LibvirtHypervisor, hosts: tuple[LabHost, ...]
) -> None:
    stuck = await hypervisor.open(Target("stuck", hosts[0].uri), Heard().sink)
    well = await hypervisor.open(Target("well", hosts[1].uri), Heard().sink)
    hosts[0].freeze()
    waiting = [asyncio.create_task(stuck.list()) for _ in range(8)]
    waiting += [asyncio.create_task(stuck.detail(UUID)) for _ in range(8)]  # type: ignore[arg-type]
    opening = asyncio.create_task(hypervisor.open(Target("stuck", hosts[0].uri), Heard().sink))
    times = []
    for _ in range(200):
        started_at = time.monotonic()
        await well.list()
        times.append(time.monotonic() - started_at)
    assert statistics.median(times) < 0.05
    assert max(times) < 0.5
    await hypervisor.close()
    ended = await asyncio.gather(*waiting, opening, return_exceptions=True)
    assert all(isinstance(end, Unreachable | CallTimedOut) for end in ended), ended


# -- the link is cut ---------------------------------------------------------------------------------


async def test_a_silent_connection_ends_by_keep_alive_without_any_call(
    hypervisor: LibvirtHypervisor, hosts: tuple[LabHost, ...]
) -> None:
    heard = {host: Heard() for host in hosts}
    sessions = {host: await hypervisor.open(Target(host.name, host.uri), heard[host].sink) for host in hosts}
    frozen, cut, well = hosts
    started_at = time.monotonic()
    frozen.freeze()
    cut.cut(blackhole=True)
    await until(lambda: heard[frozen].closings() and heard[cut].closings(), 27)
    for host in (frozen, cut):
        (closed,) = heard[host].closings()
        assert closed.at - started_at < 26
        assert not sessions[host].is_open
    assert heard[well].closings() == []
    assert (await sessions[well].list()).records == ()


async def test_a_mutation_into_a_cut_link_is_ambiguous_in_time(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    """TCP_USER_TIMEOUT tells before keep-alive does, as the command was not acknowledged."""
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    host.cut(blackhole=True)
    started_at = time.monotonic()
    result = await session.define(xml(), permit())
    assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, Unreachable)
    assert time.monotonic() - started_at < 15


async def test_opening_into_a_black_hole_is_bounded(hypervisor: LibvirtHypervisor, host: LabHost) -> None:
    host.cut(blackhole=True)
    started_at = time.monotonic()
    with pytest.raises(Unreachable):
        await hypervisor.open(Target("n", host.uri), Heard().sink)
    assert time.monotonic() - started_at < 5.5
    await until(lambda: hypervisor.lost_threads == 0, 5)


async def test_a_hundred_black_holes_leave_no_threads_behind(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    host.cut(blackhole=True)
    base = host.uri.removesuffix("/system")
    started_at = time.monotonic()
    ends = await asyncio.gather(
        *(hypervisor.open(Target("n", f"{base}:{20000 + i}/system"), Heard().sink) for i in range(100)),
        return_exceptions=True,
    )
    assert {type(end) for end in ends} == {Unreachable}
    assert time.monotonic() - started_at < 6
    await until(lambda: threads_of_openings() == hypervisor.lost_threads == 0, 5)


async def test_a_hundred_openings_of_a_frozen_host_leave_no_threads_behind(host: LabHost) -> None:
    hypervisor = LibvirtHypervisor(deadlines=Deadlines(open_s=0.15))
    host.freeze()
    descriptors = len(os.listdir("/proc/self/fd"))
    stages: list[str] = []
    for _ in range(100):
        with pytest.raises(Unreachable, match=r"no connection within 0\.15 s") as refused:
            await hypervisor.open(Target("n", host.uri), Heard().sink)
        stages.append(str(refused.value).rpartition(", ")[2])
    asked = [
        stage for stage in stages if stage in ("waiting for libvirt to answer", "connecting to its port")
    ]
    # Where other programs have the processors, one that was given up may still end when the next is due.
    assert set(stages) - set(asked) <= {"waiting for an earlier attempt to end"}
    assert len(asked) > 50, "it was hardly asked at all"
    await until(lambda: threads_of_openings() == hypervisor.lost_threads == 0, 8)
    # One that was given up lately may still hold its own; a leak would be of as many as were asked.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 5
    await hypervisor.close()


# -- no command is carried out after its sender is gone ----------------------------------------------


def sockets_to(host: LabHost) -> list[socket.socket]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            held = socket.socket(fileno=os.dup(int(name)))
            try:
                if held.getpeername()[0] == host.address:
                    found.append(held)
                    continue
            except (OSError, IndexError):
                pass
            held.close()
    return found


async def test_libvirts_sockets_have_the_options_that_stop_late_commands(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    with contextlib.suppress(NoDomain):
        await session.job(UUID)
    assert isinstance((await session.migrate(UUID, Move(host.uri, None, 5), permit())).error, NoDomain)
    found = sockets_to(host)
    assert len({os.fstat(held.fileno()).st_ino for held in found}) == 4
    for held in found:
        lingering = held.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("ii", lingering) == (1, 0)
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        held.close()


async def test_a_connection_that_cannot_be_made_safe_is_refused(
    hypervisor: LibvirtHypervisor, host: LabHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.libvirt.sockets.Sockets.claim", lambda *_: None)
    with pytest.raises(HostFailed, match="cannot be made safe"):
        await hypervisor.open(Target("n", host.uri), Heard().sink)


class Looked:
    """A connection whose domain was looked up before, so that the next call sent is the mutation."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._domain = raw.lookupByUUIDString(UUID)

    def lookupByUUIDString(self, _uuid: str) -> Any:
        return self._domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


async def test_a_create_sent_into_a_cut_link_dies_with_its_session(
    impatient: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await impatient.open(Target("n", host.uri), heard.sink)
    assert (await session.define(xml(), permit())).outcome is Outcome.DONE
    link = session._circuit.change
    link.raw = Looked(link.raw)
    host.cut(blackhole=True)
    result = await session.create(UUID, permit())
    assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, CallTimedOut)
    await until(heard.closings, 2)
    await session.close()
    del link
    host.heal()
    assert not await starts_within(host, 15)


async def starts_within(host: LabHost, seconds: float) -> bool:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if running(host):
            return True
        await asyncio.sleep(0.2)
    return False


SENDER = textwrap.dedent(
    """
    import asyncio, sys, time
    from drivers.hypervisor import Permit, Target
    from drivers.libvirt import LibvirtHypervisor, sockets
    from tests.integration.test_libvirt import Looked

    uri, uuid, safe = sys.argv[1:]
    if safe == "no":
        sockets.Held.tune = lambda self: None

    async def main():
        session = await LibvirtHypervisor().open(Target("n", uri), lambda *_: None)
        session._circuit.change.raw = Looked(session._circuit.change.raw)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        sending = asyncio.create_task(session.create(uuid, Permit(time.monotonic() + 60)))
        await asyncio.sleep(0.3)
        print("sent", flush=True)
        await sending

    asyncio.run(main())
    """
)


@pytest.mark.parametrize("safe", ["yes", "no"])
async def test_a_create_sent_into_a_cut_link_dies_with_its_sender(
    host: LabHost, hypervisor: LibvirtHypervisor, safe: str
) -> None:
    """With `no` the options are left out, to show that this would find a late start if there were one."""
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    assert (await session.define(xml(), permit())).outcome is Outcome.DONE
    await session.close()
    sender = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", SENDER, host.uri, UUID, safe),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert sender.stdin is not None
    assert sender.stdout is not None
    assert await sender.stdout.readline() == b"ready\n"
    host.cut(blackhole=True)
    sender.stdin.write(b"go\n")
    assert await sender.stdout.readline() == b"sent\n"
    sender.kill()
    await sender.communicate()
    await asyncio.sleep(1)
    host.heal()
    assert await starts_within(host, 20) is (safe == "no")


# -- stuck guests and long calls ---------------------------------------------------------------------


async def test_starting_many_domains_does_not_delay_reading(
    hypervisor: LibvirtHypervisor, host: LabHost
) -> None:
    session = await hypervisor.open(Target("n", host.uri), Heard().sink)
    uuids = [f"33333333-3333-4333-8333-{number:012d}" for number in range(8)]
    for number, uuid in enumerate(uuids):
        await session.define(xml(uuid, f"d{number}"), permit())
    starting = asyncio.gather(*(session.create(uuid, permit()) for uuid in uuids))
    times = []
    while not starting.done():
        started_at = time.monotonic()
        assert len((await session.list()).records) == 8
        times.append(time.monotonic() - started_at)
        await asyncio.sleep(0.005)
    assert {result.outcome for result in await starting} == {Outcome.DONE}
    assert len(times) > 10
    assert statistics.median(times) < 0.2


async def test_a_stuck_guest_costs_its_calls_but_not_the_session(
    impatient: LibvirtHypervisor, host: LabHost
) -> None:
    """libvirt holds up every list while it destroys a guest that does not react, but the connection
    answers a sign of life: only the calls are given up. What comes of them is read afterwards."""
    heard = Heard()
    session = await impatient.open(Target("n", host.uri), heard.sink)
    patient = LibvirtHypervisor()
    maker = await patient.open(Target("n", host.uri), Heard().sink)
    await maker.define(xml(), permit())
    await maker.create(UUID, permit())
    (pid,) = host.qemu_pids()
    os.kill(pid, signal.SIGSTOP)
    result = await session.destroy(UUID, permit())
    assert (result.outcome, type(result.error)) == (Outcome.AMBIGUOUS, CallTimedOut)
    with pytest.raises(CallTimedOut):
        await session.list()
    await asyncio.sleep(1.5)
    assert session.is_open
    assert session.overdue_calls == 2
    os.kill(pid, signal.SIGCONT)
    await until(lambda: (EventKind.STOPPED, "destroyed") in heard.events(), 20)
    await until(lambda: session.overdue_calls == 0, 20)
    assert {record.state for record in (await session.list()).records} == {State.SHUTOFF}
    await patient.close()


async def test_a_lane_whose_slots_are_all_lost_ends_the_session(
    impatient: LibvirtHypervisor, host: LabHost
) -> None:
    heard = Heard()
    session = await impatient.open(Target("n", host.uri), heard.sink)
    host.freeze()
    ends = await asyncio.gather(*(session.list() for _ in range(12)), return_exceptions=True)
    assert {type(end) for end in ends} <= {CallTimedOut, Unreachable}
    await until(heard.closings, 1)
    await until(lambda: session.overdue_calls == 0, 2)
