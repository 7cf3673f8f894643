"""The driver's tables against the libvirt that is installed: words, errors, capabilities, facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libvirt
import pytest

from drivers import errors as port_errors
from drivers.errors import (
    AuthFailed,
    DiskLocked,
    DomainBusy,
    HostFailed,
    HypervisorError,
    NameConflict,
    NoDomain,
    PeerUnreachable,
    SaveUnreadable,
    SpecRejected,
    Unreachable,
    Unsupported,
    WrongState,
)
from drivers.hypervisor import EventKind, Outcome, State, StopMethod
from drivers.libvirt import capabilities, records
from drivers.libvirt.errors import FROM_RPC, FROM_TEST, OUTCOMES, RULES, outcome, told_by_daemon, translate
from drivers.libvirt.facts import parse_capabilities, version_text

QEMU = libvirt.VIR_FROM_QEMU
STORAGE = libvirt.VIR_FROM_STORAGE

# Constants that share a prefix with a table but belong to another one.
_FLAGS = {
    "VIR_DOMAIN_SHUTDOWN": ("DEFAULT", "ACPI_POWER_BTN", "GUEST_AGENT", "INITCTL", "SIGNAL", "PARAVIRT"),
}


def _constants(prefix: str) -> dict[int, str]:
    """libvirt's enumerators with this prefix, as the port writes them."""
    found: dict[int, str] = {}
    for name, value in vars(libvirt).items():
        rest = name.removeprefix(f"{prefix}_")
        if name != rest and isinstance(value, int) and rest not in _FLAGS.get(prefix, ()):
            found[value] = rest.lower().replace("_", "-")
    return found


@pytest.mark.parametrize("state", list(State))
def test_every_state_and_reason_of_libvirt_has_its_own_word(state: State) -> None:
    number: int = getattr(libvirt, f"VIR_DOMAIN_{state.name}")
    assert records.STATES[number] is state
    for reason, word in _constants(f"VIR_DOMAIN_{state.name}").items():
        assert records.state_of(number, reason) == (state, word)


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.OTHER])
def test_every_event_and_detail_of_libvirt_has_its_own_word(kind: EventKind) -> None:
    number: int = getattr(libvirt, f"VIR_DOMAIN_EVENT_{kind.name}")
    assert records.EVENTS[number] is kind
    for detail, word in _constants(f"VIR_DOMAIN_EVENT_{kind.name}").items():
        assert records.event_of(number, detail) == (kind, word)


def test_reasons_of_closing_are_libvirts() -> None:
    for number, word in _constants("VIR_CONNECT_CLOSE_REASON").items():
        assert records.close_reason(number) == word


def test_a_reason_from_the_future_is_no_reason_we_know() -> None:
    assert records.state_of(libvirt.VIR_DOMAIN_SHUTOFF, 99) == (State.SHUTOFF, "unknown-99")
    assert records.state_of(77, 1) == (State.NOSTATE, "unknown-77")
    assert records.event_of(99, 0) == (EventKind.OTHER, "unknown-99")
    assert records.event_of(libvirt.VIR_DOMAIN_EVENT_STOPPED, -1) == (EventKind.STOPPED, "unknown--1")


# code, origin, call, message; the port's error; what it means for a mutation that was sent
ERRORS = [
    (1, FROM_RPC, "list", "connection closed due to keepalive timeout", Unreachable, Outcome.AMBIGUOUS),
    (38, FROM_RPC, "create", "End of file while reading data", Unreachable, Outcome.AMBIGUOUS),
    (39, FROM_RPC, "create", "cannot decode", Unreachable, Outcome.AMBIGUOUS),
    (6, 20, "create", "invalid connection pointer", Unreachable, Outcome.AMBIGUOUS),
    (38, STORAGE, "create", "Cannot access storage file", HostFailed, Outcome.FAILED),
    (1, QEMU, "create", "process exited while connecting to monitor", HostFailed, Outcome.FAILED),
    (1, QEMU, "create", '... Failed to get "write" lock', DiskLocked, Outcome.FAILED),
    (1, QEMU, "create", '... Failed to get shared "write" lock', DiskLocked, Outcome.FAILED),
    (87, libvirt.VIR_FROM_LOCKSPACE, "create", "resource busy", DiskLocked, Outcome.FAILED),
    (1, FROM_TEST, "create", "Domain 'a' is already running", WrongState, Outcome.FAILED),
    (1, QEMU, "create", "Domain 'a' is already running", HostFailed, Outcome.FAILED),
    (42, QEMU, "create", "Domain not found", NoDomain, Outcome.FAILED),
    (55, QEMU, "create", "domain is already running", WrongState, Outcome.FAILED),
    (68, 0, "destroy", "cannot acquire state change lock", DomainBusy, Outcome.FAILED),
    (9, 20, "define", "domain 'a' already exists with uuid", NameConflict, Outcome.REJECTED),
    (9, QEMU, "create", "operation failed: corrupt image", SaveUnreadable, Outcome.FAILED),
    (27, 0, "define", "XML error", SpecRejected, Outcome.REJECTED),
    (35, 20, "define", "malformed", SpecRejected, Outcome.REJECTED),
    (67, QEMU, "create", "unsupported configuration", SpecRejected, Outcome.REJECTED),
    (92, 5, "define", "failed to validate against schema", SpecRejected, Outcome.REJECTED),
    (3, 20, "list", "not supported by the connection driver", Unsupported, Outcome.REJECTED),
    (84, QEMU, "undefine", "operation is not supported", Unsupported, Outcome.REJECTED),
    (29, 20, "define", "read only access", AuthFailed, Outcome.REJECTED),
    (45, FROM_RPC, "open", "authentication failed", AuthFailed, Outcome.REJECTED),
    (79, 46, "open", "authentication cancelled", AuthFailed, Outcome.REJECTED),
    (45, FROM_RPC, "migrate", "authentication failed", PeerUnreachable, Outcome.AMBIGUOUS),
    (9, QEMU, "migrate", "migration out job: unexpectedly failed", HostFailed, Outcome.FAILED),
    (49, STORAGE, "migrate", "no storage pool with matching target path", HostFailed, Outcome.FAILED),
    (55, QEMU, "migrate", "cannot migrate domain with 1 snapshots", WrongState, Outcome.FAILED),
    (68, QEMU, "migrate", "cannot acquire state change lock", DomainBusy, Outcome.FAILED),
    (78, QEMU, "migrate", "migration out job: canceled by client", HostFailed, Outcome.FAILED),
    (81, QEMU, "migrate", "Migration without shared storage is unsafe", SpecRejected, Outcome.REJECTED),
    (9999, 9999, "create", "something new", HostFailed, Outcome.FAILED),
]


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}-{row[4].__name__}")
def test_an_error_of_libvirt_becomes_one_of_the_port(
    row: tuple[int, int, str, str, type[HypervisorError], Outcome],
) -> None:
    code, origin, call, message, expected, effect = row
    error = translate(code, origin, message, call)
    assert type(error) is expected
    assert (error.code, error.origin, error.message) == (code, origin, message)
    assert outcome(error) is effect


def test_an_error_with_the_numbers_of_a_lost_connection_is_ambiguous_even_if_the_connection_lives() -> None:
    assert (
        outcome(HostFailed("Failed to connect socket to virtlockd", code=38, origin=7)) is Outcome.AMBIGUOUS
    )


@pytest.mark.parametrize(("call", "expected"), [("migrate", PeerUnreachable), ("create", HostFailed)])
def test_a_daemon_that_cannot_reach_something_is_itself_still_reached(
    call: str, expected: type[HypervisorError]
) -> None:
    said = Unreachable("unable to connect to server", code=38, origin=FROM_RPC)
    error = told_by_daemon(said, call)
    assert type(error) is expected
    assert (error.code, error.origin, error.message) == (said.code, said.origin, said.message)
    assert outcome(error) is Outcome.AMBIGUOUS


def test_every_error_of_the_port_has_an_outcome() -> None:
    kinds = {
        kind
        for kind in vars(port_errors).values()
        if isinstance(kind, type) and issubclass(kind, HypervisorError) and kind is not HypervisorError
    }
    assert kinds == set(OUTCOMES)


def test_the_numbers_in_the_error_table_are_libvirts() -> None:
    known = {value for name, value in vars(libvirt).items() if name.startswith("VIR_ERR_")}
    assert {code for rule in RULES for code in rule.codes} <= known
    assert (FROM_RPC, FROM_TEST) == (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_TEST)


def test_undefining_never_throws_away_what_the_guest_keeps() -> None:
    forbidden = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    )
    for driver in capabilities.DRIVERS.values():
        assert capabilities.undefine_bits(driver.undefine) & forbidden == 0


def test_undefine_flags_are_libvirts_and_come_with_its_versions() -> None:
    for name, bit in capabilities.UNDEFINE_FLAGS.items():
        assert bit == getattr(libvirt, f"VIR_DOMAIN_UNDEFINE_{name.upper().replace('-', '_')}")
    qemu = capabilities.DRIVERS["qemu"]
    old = capabilities.undefine_names(qemu, 5_005_000)
    assert old == {"snapshots-metadata", "keep-nvram"}
    assert capabilities.undefine_names(qemu, 8_008_000) == old | {"checkpoints-metadata"}
    assert capabilities.undefine_names(qemu, 9_000_000) == old | {"checkpoints-metadata", "keep-tpm"}


def test_shutdown_flags_are_libvirts() -> None:
    flags = capabilities.DRIVERS["qemu"].shutdown_flags
    assert flags[StopMethod.ACPI] == libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
    assert flags[StopMethod.AGENT] == libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT


README_ROWS = {
    "pause": "suspend",
    "save and restore": "managed_save",
    "reset": "reset",
    "ask a guest to reboot": "reboot",
    "live migration": "live_migration",
    "moves between nodes while shut off": "raced_create_undefine",
    "run by the tests": "run",
}


def test_the_readme_says_of_each_driver_what_its_table_says() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    lines = text.split("## Hypervisors")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    drivers = [name.split(",")[0] for name in table[0][1:]]
    assert set(drivers) == set(capabilities.DRIVERS)
    told = {row[0]: row[1:] for row in table[2:]}
    for words, name in README_ROWS.items():
        for driver, cell in zip(drivers, told[words], strict=True):
            row = capabilities.DRIVERS[driver]
            there = "yes" if row.run else "documented"
            assert (cell == there) == getattr(row, name), f"{words}: {driver}"
    methods = {
        driver: set(cell.split(", "))
        for driver, cell in zip(drivers, told["ways to ask a guest to stop"], strict=True)
    }
    assert methods == {n: {m.value for m in one.shutdown_flags} for n, one in capabilities.DRIVERS.items()}


CAPABILITIES = """<capabilities>
  <host>
    <uuid>AAAAAAAA-0000-4000-8000-000000000001</uuid>
    <cpu><arch>x86_64</arch><model>kvm64</model></cpu>
    <topology><cells num='2'><cell id='0'/><cell id='1'/></cells></topology>
  </host>
  <guest><os_type>hvm</os_type><arch name='x86_64'>
    <machine maxCpus='255'>pc-i440fx-7.2</machine><machine canonical='pc-i440fx-7.2'>pc</machine>
    <domain type='qemu'/><domain type='kvm'><machine>q35</machine></domain>
  </arch></guest>
  <guest><arch name='aarch64'><machine>virt</machine><domain type='qemu'/></arch></guest>
</capabilities>"""


def test_capabilities_tell_the_host_and_the_machines_of_its_own_architecture() -> None:
    found = parse_capabilities(CAPABILITIES)
    assert found.host_uuid == "aaaaaaaa-0000-4000-8000-000000000001"
    assert (found.arch, found.cpu_model, found.numa_cells) == ("x86_64", "kvm64", 2)
    assert found.domain_types == ("kvm", "qemu")
    assert found.machines == ("pc", "pc-i440fx-7.2", "q35")


def test_capabilities_without_anything_are_empty_not_wrong() -> None:
    found = parse_capabilities("<capabilities/>")
    assert (found.host_uuid, found.arch, found.numa_cells, found.machines) == ("", "", 0, ())


@pytest.mark.parametrize("hostile", ["<!DOCTYPE x><capabilities/>", "<capabilities>", "x" * 5_000_000])
def test_capabilities_that_are_no_plain_xml_are_refused(hostile: str) -> None:
    with pytest.raises(ValueError, match="XML"):
        parse_capabilities(hostile)


@pytest.mark.parametrize(("number", "text"), [(9_000_000, "9.0.0"), (7_002_022, "7.2.22"), (0, "0.0.0")])
def test_versions_are_written_as_libvirt_writes_them(number: int, text: str) -> None:
    assert version_text(number) == text


def test_a_crashed_domain_is_active_only_while_it_has_an_id() -> None:
    from drivers.libvirt.reads import record_of

    class Handle:
        def __init__(self, number: int) -> None:
            self._number = number

        def ID(self) -> int:
            return self._number

        def UUIDString(self) -> str:
            return "u"

        def name(self) -> str:
            return "n"

    def active(number: int, state: Any) -> bool:
        return record_of(Handle(number), state, 0).active

    assert active(3, libvirt.VIR_DOMAIN_CRASHED)
    assert not active(-1, libvirt.VIR_DOMAIN_CRASHED)
    assert not active(3, libvirt.VIR_DOMAIN_SHUTOFF)
    assert active(-1, libvirt.VIR_DOMAIN_PAUSED)
