"""The kind Migration: a request to move one domain to another node, and what became of it.

A request is carried out once, as a Job is on Kubernetes: it ends Succeeded, Failed or Aborted, and stays to
be read until somebody deletes it, or until the time is over that it is to stay, if it says one. It never
becomes a constraint: where the domain may run stands in the Domain's own placement. Which ways there are to
move a domain is the plan's to say (`controller.plan.migrating`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from specs.meta import API_VERSION, Condition, Name, ObjectMeta, Struct

FINISHED: Final = ("Succeeded", "Failed", "Aborted")


class MigrationSpec(Struct, frozen=True, kw_only=True):
    """Which domain is to be moved, and how. Only `abort` and `ttlSecondsAfterFinished` can be changed later.

    domain: The Domain, in the same namespace.
    node: The node to move it to; any other one that fits when left out.
    mode: Live, also when left out, moves it while it runs; Cold shuts it off, moves it and starts it again. A
        domain that does not run is moved as it is, by either.
    copy_storage: Copies the disks that the hosts do not share with a live migration. Images of the same size
        must be there at the target; those of the source stay behind.
    abort: True ends a migration that has not come to its end: the domain goes on where it is.
    ttl_seconds_after_finished: How long the request stays to be read once it has ended, as a Job's does; 0:
        not at all. Left out, it stays until somebody deletes it. The domain is not concerned.
    """

    domain: Name
    node: Name | UnsetType = UNSET
    mode: Literal["Live", "Cold"] | UnsetType = UNSET
    copy_storage: bool | UnsetType = UNSET
    abort: bool | UnsetType = UNSET
    ttl_seconds_after_finished: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET


class MigrationProgress(Struct, frozen=True, kw_only=True):
    """How far a live migration has come, as libvirt said last.

    processed_bytes: What was copied, memory that changed meanwhile counted again.
    remaining_bytes: What is left to copy now.
    total_bytes: The guest's memory, and the disks that are copied with it.
    """

    processed_bytes: int = 0
    remaining_bytes: int = 0
    total_bytes: int = 0


class MigrationStatus(Struct, frozen=True, kw_only=True):
    """What became of the request.

    observed_generation: The generation of spec that this status speaks of.
    phase: Pending, Running, Succeeded, Failed or Aborted.
    reason: Why it is as it is, one word.
    source: The node that the domain leaves.
    target: The node that it moves to.
    attempts: How often it was tried.
    started_at: When it was tried first.
    completed_at: When it ended.
    downtime_milliseconds: How long the guest stood still, by libvirt's count.
    bytes: What was copied.
    progress: How far it has come.
    conditions: Ready (it succeeded), Reconciling, Stalled; Complete and Failed as a Job has them.
    """

    observed_generation: int | UnsetType = UNSET
    phase: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    started_at: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    downtime_milliseconds: int | UnsetType = UNSET
    bytes: int | UnsetType = UNSET
    progress: MigrationProgress | UnsetType = UNSET
    conditions: list[Condition] | UnsetType = UNSET


class Migration(Struct, frozen=True, kw_only=True):
    """A request to move a domain to another node: carried out once, and kept to be read.

    api_version: domctl.io/v1.
    kind: Migration.
    metadata: The envelope.
    spec: What is to be moved, and how.
    status: What became of it; written by the controller.
    """

    api_version: Literal["domctl.io/v1"] = API_VERSION
    kind: Literal["Migration"] = "Migration"
    metadata: ObjectMeta
    spec: MigrationSpec
    status: MigrationStatus | UnsetType = UNSET


def is_finished(migration: Migration) -> bool:
    status = migration.status
    return not isinstance(status, UnsetType) and status.phase in FINISHED


def finished_at(migration: Migration) -> str:
    """When it ended, RFC 3339; "" where nobody noted that. One that ended before it began has no completedAt:
    of that the condition tells which says how it ended."""
    status = migration.status
    if isinstance(status, UnsetType) or status.phase not in FINISHED:
        return ""
    if status.completed_at:
        return status.completed_at
    conditions = () if isinstance(status.conditions, UnsetType) else status.conditions
    ends = (c.last_transition_time for c in conditions if c.type in _ENDS and c.status == "True")
    return next((at for at in ends if not isinstance(at, UnsetType)), "")


_ENDS: Final = ("Complete", "Failed")
