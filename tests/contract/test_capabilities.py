"""The table of what each driver can do, against the drivers: what is said to be there works, the rest is not.

libvirt itself is asked, not the port, which refuses what the table denies. *Not there* is one of libvirt's
codes 3 (no support), 8 and 74 (a flag or an argument that the driver does not know) and 84; anything else,
another error too, shows that the driver has the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from drivers.hypervisor import StopMethod
from drivers.libvirt.capabilities import DRIVERS, UNDEFINE_FLAGS, Driver
from tests.contract.worlds import LibvirtWorld, domain_xml
from tests.labhost import Lab

ABSENT = {3, 8, 74, 84}
METADATA = "<t:x xmlns:t='https://example.org/t'>kept</t:x>"
AGENT = (
    "<devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>"
)


@pytest.fixture(scope="module")
def qemu(lab: Lab) -> Iterator[LibvirtWorld]:
    yield from _world("qemu", lab.hosts[0].uri)


@pytest.fixture(scope="module")
def lxc(lab: Lab) -> Iterator[LibvirtWorld]:
    yield from _world("lxc", lab.hosts[0].uri.replace("qemu", "lxc", 1))


@pytest.fixture(scope="module")
def mock() -> Iterator[LibvirtWorld]:
    yield from _world("test", "test:///default")


def _world(driver: str, uri: str) -> Iterator[LibvirtWorld]:
    world = LibvirtWorld(driver, uri)
    yield world
    world.clear()
    world.close()


@pytest.fixture(
    params=[pytest.param("qemu", marks=pytest.mark.lab), pytest.param("lxc", marks=pytest.mark.lab), "mock"]
)
def world(request: pytest.FixtureRequest) -> Iterator[LibvirtWorld]:
    made: LibvirtWorld = request.getfixturevalue(request.param)
    made.clear()
    yield made
    made.clear()


@pytest.fixture
def row(world: LibvirtWorld) -> Driver:
    return DRIVERS[world.driver]


def defined(world: LibvirtWorld, more: str = "") -> Any:
    return world.raw.defineXML(domain_xml(world, metadata=METADATA, more=more))


def running(world: LibvirtWorld, more: str = "") -> Any:
    domain = defined(world, more)
    domain.create()
    return domain


def has(call: Callable[[], object]) -> bool:
    try:
        call()
    except libvirt.libvirtError as error:
        return error.get_error_code() not in ABSENT
    return True


MIGRATE = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
CALLS: dict[str, Callable[[Any], Callable[[], object]]] = {
    "bulk_stats": lambda domain: domain.connect().getAllDomainStats,
    "snapshots": lambda domain: domain.snapshotNum,
    "suspend": lambda domain: domain.suspend,
    "reset": lambda domain: lambda: domain.reset(0),
    "autostart": lambda domain: lambda: domain.setAutostart(0),
    "jobs": lambda domain: domain.jobStats,
    "set_metadata": lambda domain: (
        lambda: domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_TITLE, "t", None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
    ),
    "live_migration": lambda domain: (
        lambda: domain.migrateToURI3("qemu+tcp://127.0.0.1:1/system", {}, MIGRATE)
    ),
    "managed_save": lambda domain: lambda: domain.managedSave(0),  # the last: it ends the domain
}


def test_a_call_is_there_if_the_table_says_so(world: LibvirtWorld, row: Driver) -> None:
    """One domain for all: starting and ending one takes seconds."""
    domain = running(world)
    found = {name: has(call(domain)) for name, call in CALLS.items()}
    assert found == {name: getattr(row, name) for name in CALLS}
    assert has(domain.abortJob) == row.jobs
    assert has(lambda: domain.reboot(0))  # of lxc's nobody hears: see tests.e2e.test_containers
    assert has(domain.managedSaveRemove) == row.managed_save


def test_a_paused_domain_and_a_saved_one_go_on(world: LibvirtWorld, row: Driver) -> None:
    domain = running(world)
    domain.suspend()
    assert domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]
    domain.resume()
    assert domain.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED]
    if row.managed_save:
        domain.managedSave(0)
        assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED]
        domain.create()
        assert (domain.state()[0], domain.hasManagedSaveImage()) == (libvirt.VIR_DOMAIN_RUNNING, 0)


@pytest.mark.parametrize("name", UNDEFINE_FLAGS)
def test_undefine_takes_the_flags_of_the_table_and_no_others(
    world: LibvirtWorld, row: Driver, name: str
) -> None:
    domain = defined(world)
    assert has(lambda: domain.undefineFlags(UNDEFINE_FLAGS[name])) == (name in row.undefine)
    assert world.exists() == (name not in row.undefine)


def test_all_flags_of_a_row_are_taken_at_once(world: LibvirtWorld, row: Driver) -> None:
    defined(world).undefineFlags(sum(UNDEFINE_FLAGS[name] for name in row.undefine))
    assert not world.exists()


def test_what_is_undefined_while_it_runs_is_transient_and_can_be_defined_again(world: LibvirtWorld) -> None:
    domain = running(world)
    domain.undefine()
    assert (domain.isPersistent(), domain.isActive()) == (0, 1)
    defined(world)
    assert (domain.isPersistent(), domain.isActive()) == (1, 1)


@pytest.mark.parametrize("method", StopMethod)
def test_a_guest_is_asked_to_stop_in_the_ways_of_the_table(
    world: LibvirtWorld, row: Driver, method: StopMethod
) -> None:
    domain = running(world, AGENT if world.driver == "qemu" else "")
    flags = row.shutdown_flags.get(method)
    if flags is not None:
        assert has(lambda: _asked(domain, flags))
    else:
        assert not has(lambda: domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT))


def _asked(domain: Any, flags: int) -> None:
    """A container that was just started has no init to ask yet; one whose controller was late on a busy
    machine never has (libvirt 9.0), and is started again."""
    for attempt in range(200):
        try:
            domain.shutdownFlags(flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            time.sleep(0.02)
        else:
            return
        if attempt == 100:
            domain.destroy()
            domain.create()
    raise AssertionError("it has no init after two starts")


def test_a_running_domain_shows_what_the_table_says(world: LibvirtWorld, row: Driver) -> None:
    domain = running(world)
    for which in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
        assert (">kept<" in domain.XMLDesc(which)) == row.keeps_metadata
    _, most, now, _, _ = domain.info()
    assert (now < most) == row.memory_is_usage


def test_what_was_run_is_in_this_suite_and_what_was_not_has_no_proof() -> None:
    assert {name for name, one in DRIVERS.items() if one.run} == {"qemu", "lxc", "test"}
    assert all(one.run for one in DRIVERS.values() if one.raced_create_undefine or one.live_migration)


def test_autostart_is_kept_and_taken_away(world: LibvirtWorld, row: Driver) -> None:
    domain = defined(world)
    assert row.autostart
    for on in (1, 0):
        domain.setAutostart(on)
        assert domain.autostart() == on
