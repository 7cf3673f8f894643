"""Live migration in libvirt's words: flags and parameters of the request, and what a job tells of itself.

Peer to peer always, so that it survives the controller; never UNSAFE, never post-copy, never tunnelled
(safety: I7). The definition is planted at the target by PERSIST_DEST with a `persistent_xml` of ours.

Measured (9.0.0) where the target's libvirtd is frozen at the switch-over for longer than the source waits,
27 s: the source lets its guest go on, and the other, once it goes on, carries out the end of the migration
that it had received. Both ran; with PAUSED the target's copy stands paused (user), as it does after every
migration with that flag. What is told of its downtime is then counted up to that late end (38 s).
"""

from __future__ import annotations

from typing import Any

import libvirt

from drivers.hypervisor import Job, Move

_COMPLETED = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED

# virDomainJobOperation, by number
OPERATIONS = (
    "unknown",
    "start",
    "save",
    "restore",
    "migration-in",
    "migration-out",
    "snapshot",
    "snapshot-revert",
    "dump",
    "backup",
    "snapshot-delete",
)


def migration_request(move: Move) -> tuple[str, dict[str, object], int]:
    """The URI, the typed parameters and the flags of virDomainMigrateToURI3."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    parameters: dict[str, object] = {}
    if move.persistent_xml is not None:
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST
        parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = move.persistent_xml
    if move.undefine_source:
        flags |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    if move.stands:
        flags |= libvirt.VIR_MIGRATE_PAUSED
    if move.copy_disks:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(move.copy_disks)
    return move.target_uri, parameters, flags


def read_job(raw: Any, uuid: str, *, completed: bool) -> Job | None:
    """What libvirt does with the domain, or did last. Blocking.

    Measured (9.0.0): the source of a migration shows its job from before the target appears until its own
    domain is gone, also while it is paused beside a target that runs; the target refuses to tell (84), until
    it has arrived. No bytes are told of before they are copied, some 0.5 s later; from then on QEMU is asked,
    and one that is stopped answers when it goes on.
    What was done last, downtime and bytes with it, is kept at the target, and at a source of which something
    is left, as long as that libvirtd lives; a reader that does not ask to keep it takes it away."""
    domain = raw.lookupByUUIDString(uuid)
    try:
        stats = domain.jobStats(_COMPLETED if completed else 0)
    except libvirt.libvirtError as error:
        match error.get_error_code():
            case libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
                return Job("migration-in", 0.0, 0, 0, 0)
            case libvirt.VIR_ERR_OPERATION_INVALID:  # it does not run
                return None
        raise
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    number = stats.get(libvirt.VIR_DOMAIN_JOB_OPERATION, 0)
    return Job(
        operation=OPERATIONS[number] if 0 <= number < len(OPERATIONS) else f"unknown-{number}",
        elapsed_s=stats.get(libvirt.VIR_DOMAIN_JOB_TIME_ELAPSED, 0) / 1000,
        processed_bytes=stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0),
        remaining_bytes=stats.get(libvirt.VIR_DOMAIN_JOB_DATA_REMAINING, 0),
        total_bytes=stats.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL, 0),
        downtime_ms=stats.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME),
    )
