"""What each libvirt driver can do: a table, measured, not guessed.

libvirt's drivers answer *unsupported* one call at a time and in several ways (codes 3, 8, 74 and 84), some
only once a domain is in the right state. The table is asked before a call is made. It is keyed by the
driver's own name for itself (virConnectGetType) and, where flags came later, by the daemon's version. qemu,
lxc and test were measured with libvirt 9.0.0, and the contract suite asks the real drivers again whether each
entry is true. xen and vz are from libvirt's documentation and source and were never run; what was never run
is said to be absent where believing in it could cost a domain. A driver that is not listed is refused when
the connection is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from drivers.hypervisor import Capabilities, StopMethod

# virDomainUndefineFlagsValues. Never MANAGED_SAVE (1): it throws the guest's memory away; never NVRAM (4)
# and TPM (32): they delete what the guest keeps there.
UNDEFINE_FLAGS = {"snapshots-metadata": 2, "keep-nvram": 8, "checkpoints-metadata": 16, "keep-tpm": 64}
_SINCE = {"checkpoints-metadata": 5_006_000, "keep-tpm": 8_009_000}

DEFAULT = 0  # of virDomainShutdownFlagValues: let the driver choose how to ask
ACPI_POWER_BTN = 1
GUEST_AGENT = 2
SIGNAL = 8
CONSOLE_SAFE = 2  # of virDomainConsoleFlags: only where the driver keeps two readers apart


@dataclass(frozen=True, slots=True)
class Driver:
    """One row: which calls the driver has.

    bulk_stats: virConnectGetAllDomainStats. managed_save, snapshots, suspend, reset, autostart: the calls of
    these names. reboot: the guest hears of it. jobs: virDomainGetJobStats, and virDomainAbortJob.
    live_migration: peer to peer. set_metadata: virDomainSetMetadata. keeps_metadata: a definition comes back
    with the <metadata> that it was given. undefine: the flags that it takes. raced_create_undefine: the race
    of R1 was run, and won.
    forgets_pause: after its daemon was started anew, a paused domain is called running, and still stands.
    shutdown_flags: how each way of asking a guest to stop is asked for; one that is missing is unsupported.
    memory_is_usage: virDomainGetInfo's current memory is what a running domain uses at the moment, not what
    it is given. one_world: the host's state lives in the connection, so that a session has only one.
    consoles: virDomainOpenConsole; console_flags: what it is asked with.
    saved_xml: virDomainManagedSaveGetXMLDesc; save_directory: where managed saves are kept.
    bulk_figures: its bulk statistics have processor time and memory, else domains are asked one by one;
    host_figures: virNodeGetCPUStats and virNodeGetMemoryStats, with numbers that move.
    run: whether any of this was measured."""

    bulk_stats: bool
    managed_save: bool
    live_migration: bool
    snapshots: bool
    undefine: frozenset[str]
    raced_create_undefine: bool
    suspend: bool = True
    reset: bool = True
    reboot: bool = True
    autostart: bool = True
    jobs: bool = True
    set_metadata: bool = True
    keeps_metadata: bool = True
    forgets_pause: bool = False
    memory_is_usage: bool = False
    one_world: bool = False
    run: bool = True
    saved_xml: bool = False
    save_directory: str = ""
    consoles: bool = False
    console_flags: int = 0
    bulk_figures: bool = False
    host_figures: bool = False
    shutdown_flags: dict[StopMethod, int] = field(default_factory=dict)


DRIVERS = {
    "qemu": Driver(
        bulk_stats=True,
        managed_save=True,
        live_migration=True,
        snapshots=True,
        undefine=frozenset(UNDEFINE_FLAGS),
        raced_create_undefine=True,
        saved_xml=True,
        save_directory="/var/lib/libvirt/qemu/save",
        consoles=True,
        console_flags=CONSOLE_SAFE,
        bulk_figures=True,
        host_figures=True,
        shutdown_flags={StopMethod.ACPI: ACPI_POWER_BTN, StopMethod.AGENT: GUEST_AGENT},
    ),
    # suspend freezes the container's control group. ACPI is SIGTERM to its init: the driver's default, an
    # initctl pipe, answers *done* where there is no such pipe, and nobody was asked. So does its reboot,
    # whose other way, SIGHUP, means to most inits that they should read their configuration again.
    "lxc": Driver(
        bulk_stats=False,
        managed_save=False,
        live_migration=False,
        snapshots=False,
        undefine=frozenset(),
        raced_create_undefine=True,
        reset=False,
        reboot=False,
        jobs=False,
        forgets_pause=True,
        memory_is_usage=True,
        consoles=True,
        host_figures=True,
        shutdown_flags={StopMethod.ACPI: SIGNAL},
    ),
    "test": Driver(
        bulk_stats=True,
        managed_save=True,
        live_migration=False,
        snapshots=True,
        undefine=frozenset({"snapshots-metadata"}),  # its other flag is MANAGED_SAVE
        raced_create_undefine=True,
        jobs=False,
        one_world=True,
        shutdown_flags={StopMethod.ACPI: DEFAULT},
    ),
    # libvirt's libxl driver: no bulk statistics, no snapshots, no reset; undefine takes MANAGED_SAVE only; it
    # migrates, but not for us before somebody has seen it. virDomainSetMetadata is not among its calls.
    "xen": Driver(
        bulk_stats=False,
        managed_save=True,
        live_migration=False,
        snapshots=False,
        undefine=frozenset(),
        raced_create_undefine=False,
        reset=False,
        jobs=False,
        set_metadata=False,
        run=False,
        shutdown_flags={StopMethod.ACPI: DEFAULT},
    ),
    # Virtuozzo keeps its own description of a domain, from which libvirt's is made: <metadata> has no place
    # in it, so no domain there could carry our mark. No autostart can be set, either.
    "vz": Driver(
        bulk_stats=False,
        managed_save=True,
        live_migration=False,
        snapshots=True,
        undefine=frozenset({"snapshots-metadata"}),
        raced_create_undefine=False,
        reset=False,
        autostart=False,
        jobs=False,
        set_metadata=False,
        keeps_metadata=False,
        run=False,
        shutdown_flags={StopMethod.ACPI: DEFAULT},
    ),
}


def undefine_names(driver: Driver, version: int) -> frozenset[str]:
    """The undefine flags that `driver` has in the daemon's `version` (9.0.0 is 9,000,000)."""
    return frozenset(name for name in driver.undefine if version >= _SINCE.get(name, 0))


def undefine_bits(names: frozenset[str]) -> int:
    return sum(UNDEFINE_FLAGS[name] for name in names)


def public(driver: Driver, version: int, *, keep_alive: bool) -> Capabilities:
    """The part of a row that the controller plans with."""
    return Capabilities(
        bulk_stats=driver.bulk_stats,
        managed_save=driver.managed_save,
        live_migration=driver.live_migration,
        keep_alive=keep_alive,
        undefine_flags=undefine_names(driver, version),
        raced_create_undefine=driver.raced_create_undefine,
        suspend=driver.suspend,
        reset=driver.reset,
        autostart=driver.autostart,
        set_metadata=driver.set_metadata,
        keeps_metadata=driver.keeps_metadata,
        forgets_pause=driver.forgets_pause,
        stop_methods=frozenset(driver.shutdown_flags),
        consoles=driver.consoles,
    )
