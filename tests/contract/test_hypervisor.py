"""The Hypervisor port's contract, kept by QEMU and LXC on a lab host, by libvirt's test driver, and by the
simulated hypervisor.

Every test acts through the port and asks the host itself, by a way of its own, what came of it. What is said
of threads and descriptors of this process is asked of the real drivers alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

import libvirt
import pytest

from drivers.errors import (
    AuthFailed,
    HostFailed,
    HypervisorError,
    NameConflict,
    NoDomain,
    PermitExpired,
    SpecRejected,
    Unreachable,
    Unsupported,
    WrongState,
)
from drivers.hypervisor import (
    Capabilities,
    EventKind,
    HostEvent,
    Hypervisor,
    Mark,
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
from specs.mark import element
from tests.contract.worlds import MEMORY_BYTES, UUID, LibvirtWorld, SimWorld, World, domain_xml
from tests.doors import Doors
from tests.labhost import Lab

log = logging.getLogger(__name__)
OTHER = "22222222-2222-4222-8222-222222222222"
MARK = Mark("c1", UUID, 3, "sha256:ab")


@pytest.fixture(scope="module")
def qemu(lab: Lab) -> Iterator[World]:
    lab.reset()
    world = LibvirtWorld("qemu", lab.hosts[0].uri)
    yield world
    world.clear()
    world.close()


@pytest.fixture(scope="module")
def lxc(lab: Lab) -> Iterator[World]:
    world = LibvirtWorld("lxc", lab.hosts[1].uri.replace("qemu+", "lxc+"))
    yield world
    world.clear()
    world.close()


def _through(doors: Doors, transport: str) -> Iterator[World]:
    target = Target("node-1", doors.uri(transport), credentials=doors.credentials(transport))
    world = LibvirtWorld("qemu", doors.host.uri, target, doors.access)
    yield world
    world.clear()
    world.close()


@pytest.fixture(scope="module")
def tls(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "tls")


@pytest.fixture(scope="module")
def sasl(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "tcp")


@pytest.fixture(scope="module")
def ssh(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "ssh")


@pytest.fixture(scope="module")
def ext(doors: Doors) -> Iterator[World]:
    yield from _through(doors, "ext")


@pytest.fixture(scope="module")
def mock() -> Iterator[World]:
    """libvirt's test driver: a world inside this process, as long as a connection to it is open."""
    world = LibvirtWorld("test", "test:///default")
    yield world
    world.close()


@pytest.fixture
def sim() -> World:
    return SimWorld()


QEMU, LXC = (pytest.param(driver, marks=pytest.mark.lab) for driver in ("qemu", "lxc"))
TRANSPORTS = [pytest.param(name, marks=pytest.mark.lab) for name in ("tls", "sasl", "ssh", "ext")]
through_every_door = pytest.mark.parametrize("world", [QEMU, LXC, "mock", "sim", *TRANSPORTS], indirect=True)
can_save = pytest.mark.parametrize("world", [QEMU, "mock", "sim"], indirect=True)
real = pytest.mark.parametrize("world", [QEMU, LXC, "mock"], indirect=True)
long_where_real = pytest.mark.parametrize(
    "world",
    [
        *(pytest.param(name, marks=[pytest.mark.lab, pytest.mark.long]) for name in ("qemu", "lxc")),
        pytest.param("mock", marks=pytest.mark.long),
        "sim",
    ],
    indirect=True,
)


@pytest.fixture(params=[QEMU, LXC, "mock", "sim"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World = request.getfixturevalue(request.param)
    made.clear()
    yield made
    made.clear()


@dataclass
class Heard:
    """What a session reported, in order."""

    all: list[HostEvent | SessionClosed] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def sink(self, _session: Session, events: tuple[HostEvent | SessionClosed, ...]) -> None:
        self.all.extend(events)
        self.threads.add(threading.get_ident())

    def of(self, uuid: str) -> list[tuple[EventKind, str]]:
        return [(e.kind, e.detail) for e in self.all if isinstance(e, HostEvent) and e.uuid == uuid]

    def closings(self) -> list[SessionClosed]:
        return [event for event in self.all if isinstance(event, SessionClosed)]

    async def until(self, happened: Callable[[], bool], within_s: float = 5) -> None:
        ends_at = time.monotonic() + within_s
        while not happened():
            assert time.monotonic() < ends_at, f"not within {within_s} s; heard {self.all}"
            await asyncio.sleep(0.005)


@pytest.fixture
async def hypervisor(world: World) -> AsyncIterator[Hypervisor]:
    made = world.hypervisor()
    yield made
    await made.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def session(world: World, hypervisor: Hypervisor, heard: Heard) -> Session:
    return await hypervisor.open(world.target, heard.sink)


def permit(seconds: float = 60) -> Permit:
    return Permit(time.monotonic() + seconds)


def done(result: Result) -> None:
    assert result == Result(Outcome.DONE)


def failed(
    result: Result, error: type[HypervisorError], outcome: Outcome = Outcome.FAILED
) -> HypervisorError:
    assert (result.outcome, type(result.error)) == (outcome, error), result
    assert result.error is not None
    assert result.error.message
    return result.error


async def records(session: Session) -> dict[str, Record]:
    return {record.uuid: record for record in (await session.list()).records}


async def started(session: Session, world: World, metadata: str = "") -> None:
    done(await session.define(domain_xml(world, metadata=metadata), permit()))
    done(await session.create(UUID, permit()))


# -- listing -----------------------------------------------------------------------------------------


@through_every_door
async def test_a_listing_has_every_domain_active_and_inactive(session: Session, world: World) -> None:
    await started(session, world)
    done(await session.define(domain_xml(world, OTHER, "two"), permit()))
    assert set(await records(session)) == world.residents | {UUID, OTHER}


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


@through_every_door
async def test_the_detail_of_a_running_domain_has_both_documents(session: Session, world: World) -> None:
    await started(session, world)
    detail = await session.detail(UUID)
    assert detail.record == Record(UUID, "one", State.RUNNING, "booted", active=True)
    assert (detail.vcpus, detail.memory_bytes) == (1, MEMORY_BYTES)
    assert detail.config_xml is not None
    assert detail.live_xml is not None
    assert "id='" in detail.live_xml.splitlines()[0]


async def test_the_detail_of_an_unknown_domain_is_no_domain(session: Session) -> None:
    with pytest.raises(NoDomain):
        await session.detail(OTHER)
    assert session.is_open


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


@through_every_door
async def test_destroy_stops_a_running_domain_and_keeps_its_definition(
    session: Session, world: World
) -> None:
    await started(session, world)
    done(await session.destroy(UUID, permit()))
    assert world.exists()
    assert not world.is_running()


async def test_destroying_a_stopped_domain_fails(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.destroy(UUID, permit()), WrongState)


async def test_a_guest_can_be_asked_to_stop(session: Session, world: World) -> None:
    await started(session, world)
    result = await session.shutdown(UUID, StopMethod.ACPI, permit())
    for _ in range(50):  # a container that was just started has no init to ask yet
        if result.outcome is Outcome.DONE or not isinstance(result.error, WrongState):
            break
        await asyncio.sleep(0.1)
        result = await session.shutdown(UUID, StopMethod.ACPI, permit())
    done(result)


async def test_a_stopped_guest_cannot_be_asked_to_stop(session: Session, world: World) -> None:
    done(await session.define(domain_xml(world), permit()))
    failed(await session.shutdown(UUID, StopMethod.ACPI, permit()), WrongState)


async def test_an_agent_that_is_not_there_cannot_be_asked(session: Session, world: World) -> None:
    await started(session, world)
    result = await session.shutdown(UUID, StopMethod.AGENT, permit())
    assert result.outcome in (Outcome.REJECTED, Outcome.FAILED)
    assert world.is_running()


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


Mutation = Callable[[Session, World, Permit], Awaitable[Result]]
ON_ONE: dict[str, Mutation] = {
    "create": lambda session, world, leave: session.create(UUID, leave),
    "destroy": lambda session, world, leave: session.destroy(UUID, leave),
    "shutdown": lambda session, world, leave: session.shutdown(UUID, StopMethod.ACPI, leave),
    "undefine": lambda session, world, leave: session.undefine(UUID, leave),
    "set_mark": lambda session, world, leave: session.set_mark(
        UUID, MARK, live=False, config=True, permit=leave
    ),
    "set_autostart": lambda session, world, leave: session.set_autostart(UUID, False, leave),
}


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
    assert replace(await session.detail(UUID), sent_at=before.sent_at) == before


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


# -- saving, restarting, starting at boot


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


# -- events ------------------------------------------------------------------------------------------


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


async def test_events_tell_what_others_do_and_when(session: Session, world: World, heard: Heard) -> None:
    before = time.monotonic()
    world.define(domain_xml(world))
    await heard.until(lambda: bool(heard.of(UUID)))
    (event,) = [event for event in heard.all if isinstance(event, HostEvent)]
    assert (event.uuid, event.name, event.kind, event.detail) == (UUID, "one", EventKind.DEFINED, "added")
    assert before <= event.at <= time.monotonic()
    assert session.is_open


async def test_defining_again_and_changing_metadata_are_told(
    session: Session, world: World, heard: Heard
) -> None:
    done(await session.define(domain_xml(world), permit()))
    done(await session.define(domain_xml(world, vcpus=2), permit()))
    done(await session.set_mark(UUID, MARK, live=False, config=True, permit=permit()))
    await heard.until(lambda: bool(heard.of(UUID)) and heard.of(UUID)[-1][0] is EventKind.OTHER)
    assert (EventKind.DEFINED, "updated") in heard.of(UUID) or world.driver == "test"


@real
async def test_events_come_on_the_event_loops_own_thread(
    session: Session, world: World, heard: Heard
) -> None:
    done(await session.define(domain_xml(world), permit()))
    await heard.until(lambda: bool(heard.of(UUID)))
    assert heard.threads == {threading.get_ident()}


async def test_every_session_hears_of_everything(
    session: Session, world: World, hypervisor: Hypervisor, heard: Heard
) -> None:
    other = Heard()
    await hypervisor.open(world.target, other.sink)
    done(await session.define(domain_xml(world), permit()))
    await heard.until(lambda: bool(heard.of(UUID)))
    await other.until(lambda: bool(other.of(UUID)))


async def test_a_storm_of_events_loses_none(session: Session, world: World, heard: Heard) -> None:
    await world.storm(domain_xml(world), 100)
    await heard.until(lambda: len(heard.of(UUID)) >= 200)
    assert heard.of(UUID) == [(EventKind.DEFINED, "added"), (EventKind.UNDEFINED, "removed")] * 100


# -- the end of a session ----------------------------------------------------------------------------


async def test_closing_is_told_once_and_last(session: Session, world: World, heard: Heard) -> None:
    await session.close()
    await session.close()
    world.define(domain_xml(world))
    await asyncio.sleep(0.1)
    assert [event.reason for event in heard.closings()] == ["client"]
    assert heard.all[-1] is heard.closings()[0]


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


async def test_a_session_that_ended_takes_no_other_with_it(
    session: Session, world: World, hypervisor: Hypervisor, heard: Heard
) -> None:
    other = await hypervisor.open(world.target, Heard().sink)
    await other.close()
    done(await session.define(domain_xml(world), permit()))
    await heard.until(lambda: bool(heard.of(UUID)))
    assert UUID in await records(session)


@real
async def test_sessions_leave_no_descriptors_and_no_domains_handles_behind(
    world: World, hypervisor: Hypervisor
) -> None:
    import os

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(2):
        await (await hypervisor.open(world.target, Heard().sink)).close()
    before = count()
    for _ in range(20):
        session = await hypervisor.open(world.target, Heard().sink)
        await session.list()
        with contextlib.suppress(NoDomain):
            await session.detail(OTHER)
        await session.close()
    for _ in range(100):  # threads on their way out may hold one a moment longer
        if count() <= before:
            break
        await asyncio.sleep(0.1)
    assert count() <= before


@through_every_door
async def test_closing_the_hypervisor_closes_its_sessions(world: World, heard: Heard) -> None:
    hypervisor = world.hypervisor()
    session = await hypervisor.open(world.target, heard.sink)
    await hypervisor.close()
    assert not session.is_open
    assert [event.reason for event in heard.closings()] == ["client"]


# -- opening, facts, capabilities --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("nonsense", SpecRejected),
        ("qemu+tcp://-oProxyCommand=x/system", SpecRejected),
        ("qemu+ssh://127.0.0.1/system", AuthFailed),
        ("qemu+tls://127.0.0.1/system", AuthFailed),
        ("qemu+ext://127.0.0.1/system", Unsupported),
        ("qemu+ext:///system?command=/bin/false", Unsupported),
        ("vbox:///session", Unsupported),
        ("qemu+tcp://127.0.0.1:1/system", Unreachable),
        ("qemu+tcp://no-such-host.invalid/system", Unreachable),
        ("qemu+unix:///system?socket=/nonexistent/socket", Unreachable),
    ],
)
@pytest.mark.parametrize("world", ["mock", "sim"], indirect=True)
async def test_what_cannot_be_opened_says_why(
    hypervisor: Hypervisor, heard: Heard, uri: str, error: type[HypervisorError]
) -> None:
    started_at = time.monotonic()
    with pytest.raises(error) as raised:
        await hypervisor.open(Target("node-1", uri), heard.sink)
    assert raised.value.message
    assert time.monotonic() - started_at < 6
    assert heard.all == []


@pytest.mark.parametrize("world", [QEMU], indirect=True)
@pytest.mark.parametrize("driver", ["xen", "vz"])
async def test_a_host_that_lacks_a_driver_says_so(
    world: World, hypervisor: Hypervisor, heard: Heard, driver: str
) -> None:
    """Their URIs are allowed; no host with either could be had."""
    with pytest.raises(Unsupported) as raised:
        await hypervisor.open(Target("node-1", world.uri.replace("qemu", driver, 1)), heard.sink)
    assert raised.value.message


async def test_a_session_knows_its_target_and_when_it_began(session: Session, world: World) -> None:
    assert session.target == world.target
    assert session.opened_at <= time.monotonic()
    assert session.is_open


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


async def test_a_read_only_session_hears_events(world: World, hypervisor: Hypervisor, heard: Heard) -> None:
    await hypervisor.open(replace(world.target, read_only=True), heard.sink)
    world.define(domain_xml(world))
    await heard.until(lambda: bool(heard.of(UUID)))


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


async def test_capabilities_name_only_flags_that_keep_the_guests_data(session: Session, world: World) -> None:
    able: Capabilities = session.capabilities
    assert able.bulk_stats == (world.driver != "lxc")
    assert able.undefine_flags <= {"snapshots-metadata", "checkpoints-metadata", "keep-nvram", "keep-tpm"}


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


@through_every_door
async def test_errors_keep_libvirts_words_and_numbers(session: Session, world: World) -> None:
    with pytest.raises(NoDomain) as raised:
        await session.detail(OTHER)
    assert raised.value.code == libvirt.VIR_ERR_NO_DOMAIN
    assert "Domain not found" in raised.value.message
    assert not isinstance(raised.value, AuthFailed)
