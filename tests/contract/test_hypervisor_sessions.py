"""The Hypervisor port's contract: sessions from their opening to their end, and what they tell.

Every test acts through the port and asks the host itself, by a way of its own, what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import pytest

from drivers.errors import AuthFailed, HypervisorError, NoDomain, SpecRejected, Unreachable, Unsupported
from drivers.hypervisor import Capabilities, EventKind, HostEvent, Hypervisor, Session, Target
from tests.contract.hypervisors import MARK, OTHER, QEMU, Heard, done, permit, real, records
from tests.contract.worlds import UUID, World, domain_xml

# -- events ------------------------------------------------------------------------------------------


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


async def test_a_read_only_session_hears_events(world: World, hypervisor: Hypervisor, heard: Heard) -> None:
    await hypervisor.open(replace(world.target, read_only=True), heard.sink)
    world.define(domain_xml(world))
    await heard.until(lambda: bool(heard.of(UUID)))


async def test_capabilities_name_only_flags_that_keep_the_guests_data(session: Session, world: World) -> None:
    able: Capabilities = session.capabilities
    assert able.bulk_stats == (world.driver != "lxc")
    assert able.undefine_flags <= {"snapshots-metadata", "checkpoints-metadata", "keep-nvram", "keep-tpm"}
