"""What each libvirt driver can do: a table, measured, not guessed.

libvirt's drivers answer *unsupported* one call at a time and in several ways (codes 3, 8 and 84), some
only once a domain is in the right state. The table is asked before a call is made. It is keyed by the
driver's own name for itself (virConnectGetType) and, where flags came later, by the daemon's version.
Measured with libvirt 9.0.0; a driver that is not listed is refused when the connection is opened.
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


@dataclass(frozen=True, slots=True)
class Driver:
    """One row. `one_world`: the state of the host lives in the connection itself, so that a session has
    only one. `memory_is_usage`: virDomainGetInfo's current memory is what a running domain uses at the
    moment, not what it is given. `shutdown_flags`: how each method is asked for; a method that is missing
    is unsupported."""

    bulk_stats: bool
    managed_save: bool
    live_migration: bool
    snapshots: bool
    undefine: frozenset[str]
    raced_create_undefine: bool
    one_world: bool = False
    suspend: bool = True
    reset: bool = True
    memory_is_usage: bool = False
    shutdown_flags: dict[StopMethod, int] = field(default_factory=dict)


DRIVERS = {
    "qemu": Driver(
        bulk_stats=True,
        managed_save=True,
        live_migration=True,
        snapshots=True,
        undefine=frozenset(UNDEFINE_FLAGS),
        raced_create_undefine=True,
        shutdown_flags={StopMethod.ACPI: ACPI_POWER_BTN, StopMethod.AGENT: GUEST_AGENT},
    ),
    "lxc": Driver(
        bulk_stats=False,
        managed_save=False,
        live_migration=False,
        snapshots=False,
        undefine=frozenset(),
        raced_create_undefine=True,
        memory_is_usage=True,
        reset=False,
        shutdown_flags={StopMethod.ACPI: DEFAULT},  # asks the container's init, by initctl or a signal
    ),
    "test": Driver(
        bulk_stats=True,
        managed_save=True,
        live_migration=False,
        snapshots=True,
        undefine=frozenset({"snapshots-metadata"}),  # its other flag is MANAGED_SAVE
        raced_create_undefine=True,
        one_world=True,
        reset=False,
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
    )
