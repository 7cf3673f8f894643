"""What a Migration says of itself: computed from its domain's assignment and written to its status.

The counterpart of `controller.status` for requests, small enough to be one file. How an attempt ended stands
in the assignment (`last_move`), where the transaction that closed the intent put it, so the status can be
derived again after any crash. Once it has ended a Migration is not touched again, but to take it away when
the time is over that its spec gives it. That concerns the request alone: where its domain is stands
elsewhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, UnsetType

from controller import keys
from controller.cache import Cache
from controller.events import Recorder
from controller.ledger import Ledger
from controller.metrics import Metrics
from controller.migrations import domain_of, left_s
from controller.model import IntentKind, MoveOutcome, MoveRecord
from controller.plan import disks, states
from controller.plan.case import Case
from controller.plan.departing import depart, target_of
from controller.plan.evidence import is_away
from controller.plan.present import pinned
from controller.plan.snapshot import Snapshot, StoredMigration
from controller.plan.types import Deferred
from controller.status import Truth, sentence, with_times
from controller.world import World
from drivers.store import Compare, Delete, Put
from specs.meta import Condition
from specs.migration import MigrationProgress, MigrationStatus, is_finished

log = logging.getLogger(__name__)

_MOVED_BY_HAND = (
    "it was migrated by hand, and where to was not seen: it can be asked to move once it ran on {home} again"
    "; to end this: domctl start {name}, and domctl resolve {name} --keep {home} if it runs nowhere else"
)


@dataclass(frozen=True, slots=True)
class MigrationKeeper:
    cache: Cache
    ledger: Ledger
    recorder: Recorder
    world: World
    metrics: Metrics
    _told: dict[str, str] = field(default_factory=dict)

    async def reconcile(self, uid: str) -> bool:
        """Bring one Migration's status in line. False: etcd did not say that it wrote, so it is to be tried
        again. Raises Fenced."""
        stored = self.cache.migrations.by_uid.get(uid)
        if stored is None:
            self._told.pop(uid, None)
            return True
        if is_finished(stored.migration):
            left = left_s(stored, self.world.wall())
            return left is None or left > 0 or await self._take_away(uid, stored)
        if any(intent.request == uid for intent in self.cache.moves.departing.values()):
            return True  # it is being recorded at this moment, and tells then
        status = migration_status(self.cache.snapshot(), stored, self.cache.uuid_of(domain_of(stored)))
        old = stored.migration.status
        timed = msgspec.structs.replace(
            status,
            conditions=with_times(
                () if isinstance(status.conditions, UnsetType) else status.conditions,
                () if isinstance(old, UnsetType) or isinstance(old.conditions, UnsetType) else old.conditions,
                self.world.wall(),
            ),
        )
        if timed == old:
            return True
        migration = msgspec.structs.replace(stored.migration, status=timed)
        key, namespace = _key(stored), _namespace(stored)
        value = msgspec.json.encode(migration)
        commit = await self.ledger.commit([Compare(key, stored.revision)], [Put(key, value)])
        if commit.ok:
            self._tell(uid, namespace, migration.metadata.name, timed)
            self.cache.wrote({key: value}, commit.revision)
        return commit.ok

    def left_s(self, uid: str) -> float | None:
        """In how many seconds it is to be taken away; None: it is not, as it stands now."""
        stored = self.cache.migrations.by_uid.get(uid)
        return None if stored is None else left_s(stored, self.world.wall())

    async def _take_away(self, uid: str, stored: StoredMigration) -> bool:
        """As if somebody deleted it: one that others wait for to finish with is marked. False as `reconcile`.
        Raises Fenced."""
        migration, key = stored.migration, _key(stored)
        value: bytes | None = None
        if not isinstance(migration.metadata.finalizers, UnsetType) and migration.metadata.finalizers:
            metadata = msgspec.structs.replace(
                migration.metadata, deletion_timestamp=self.world.wall(), deletion_grace_period_seconds=0
            )
            value = msgspec.json.encode(msgspec.structs.replace(migration, metadata=metadata))
        write = Delete(key) if value is None else Put(key, value)
        commit = await self.ledger.commit([Compare(key, stored.revision)], [write])
        if commit.ok:
            log.info("took away a request whose time is over", extra={"key": key, "uid": uid})
            self.cache.wrote({key: value}, commit.revision)
        return commit.ok

    def _tell(self, uid: str, namespace: str, name: str, status: MigrationStatus) -> None:
        """An event when the reason changed; an end is counted."""
        reason = "" if isinstance(status.reason, UnsetType) else status.reason
        if self._told.get(uid) != reason:
            self._told[uid] = reason
            conditions = () if isinstance(status.conditions, UnsetType) else status.conditions
            message = next((c.message for c in conditions if c.type == "Ready"), "")
            kind = "Warning" if status.phase in ("Failed",) else "Normal"
            self.recorder.event("Migration", namespace, name, uid, kind, reason, message, "Migrate")
        if status.phase in ("Succeeded", "Failed", "Aborted"):
            downtime = status.downtime_milliseconds
            self.metrics.migrated(
                str(status.phase), None if isinstance(downtime, UnsetType) else downtime / 1000
            )


def _namespace(stored: StoredMigration) -> str:
    return domain_of(stored).partition("/")[0]


def _key(stored: StoredMigration) -> str:
    return keys.object_key("migrations", _namespace(stored), stored.migration.metadata.name)


def migration_status(snap: Snapshot, stored: StoredMigration, uuid: str) -> MigrationStatus:
    """What this request has come to, as far as this snapshot tells; conditions carry no times yet."""
    case = Case(snap, uuid)
    uid = stored.migration.metadata.uid
    last = case.assignment.last_move if case.held is not None else None
    if last is not None and last.request == uid and last.outcome is not MoveOutcome.RETRYING:
        return _ended(stored, last)
    intent = case.assignment.intent if case.held is not None else None
    if intent is not None and intent.request == uid:
        return _running(snap, stored, case)
    if stored.migration.spec.abort is True:
        return _ended(
            stored,
            _not_again(last) if last is not None and last.request == uid else _never_begun(stored, case),
        )
    return _waiting(stored, case, last if last is not None and last.request == uid else None)


def _never_begun(stored: StoredMigration, case: Case) -> MoveRecord:
    """The plan begins nothing that somebody wants to end."""
    uid, node = stored.migration.metadata.uid, stored.migration.spec.node
    assert not isinstance(uid, UnsetType)
    return MoveRecord(
        request=uid,
        source=case.node,
        target="" if isinstance(node, UnsetType) else node,
        outcome=MoveOutcome.ABORTED,
        reason="Aborted",
        message="it was ended before it began",
        attempts=0,
        at="",
    )


def _not_again(last: MoveRecord) -> MoveRecord:
    """It was to be tried again, and somebody wants to end it before that."""
    message = f"it was ended before it was tried again; the last attempt: {last.message}"
    return msgspec.structs.replace(last, outcome=MoveOutcome.ABORTED, reason="Aborted", message=message)


def _ended(stored: StoredMigration, last: MoveRecord) -> MigrationStatus:
    succeeded = last.outcome is MoveOutcome.SUCCEEDED
    conditions = [
        *_conditions(stored, "True" if succeeded else "False", "False", last.reason, last.message),
        _condition(stored, "Complete", "True" if succeeded else "False", last.reason, last.message),
        _condition(stored, "Failed", "False" if succeeded else "True", last.reason, last.message),
    ]
    if not succeeded:
        conditions[2] = _condition(stored, "Stalled", "True", last.reason, last.message)
    return MigrationStatus(
        observed_generation=_generation(stored),
        phase=last.outcome.value,
        reason=last.reason,
        source=last.source or UNSET,
        target=last.target or UNSET,
        attempts=last.attempts,
        started_at=last.began_at or UNSET,
        completed_at=last.at or UNSET,
        downtime_milliseconds=UNSET if last.downtime_ms is None else last.downtime_ms,
        bytes=UNSET if last.copied_bytes is None else last.copied_bytes,
        conditions=conditions,
    )


def _running(snap: Snapshot, stored: StoredMigration, case: Case) -> MigrationStatus:
    intent = case.assignment.intent
    assert intent is not None
    watch = snap.watches.get(case.uuid)
    job = watch.job if watch is not None else None
    status = stored.migration.status
    progress = (
        (UNSET if isinstance(status, UnsetType) else status.progress)  # as it was said last
        if job is None
        else MigrationProgress(
            processed_bytes=job.processed_bytes,
            remaining_bytes=job.remaining_bytes,
            total_bytes=job.total_bytes,
        )
    )
    live = intent.kind is IntentKind.MIGRATE
    source, target = (intent.node, intent.target) if live else (intent.target, intent.node)
    message = f"on its way from {source} to {target}"
    return MigrationStatus(
        observed_generation=_generation(stored),
        phase="Running",
        reason="Migrating",
        source=source,
        target=target,
        started_at=intent.at,
        progress=progress,
        conditions=_conditions(stored, "False", "True", "Migrating", message),
    )


def _waiting(stored: StoredMigration, case: Case, last: MoveRecord | None) -> MigrationStatus:
    """It has not begun, or is to be tried again: what it waits for."""
    reason, message, target = _why(stored, case)
    if last is not None and reason == "Pending":
        reason, message = "Retrying", last.message
    return MigrationStatus(
        observed_generation=_generation(stored),
        phase="Pending",
        reason=reason,
        source=case.node or UNSET,
        target=target or UNSET,
        attempts=UNSET if last is None else last.attempts,
        conditions=_conditions(stored, "False", "True", reason, message),
    )


def _why(stored: StoredMigration, case: Case) -> tuple[str, str, str]:
    """(reason, sentence, target)."""
    domain = stored.migration.spec.domain
    if not case.uuid or case.stored is None:
        return "NoSuchDomain", f"there is no domain {domain}", ""
    if case.deleting:
        return "DomainDeleted", f"domain {domain} is being deleted, and is not moved any more", ""
    if case.request is not None and case.request.migration.metadata.uid != stored.migration.metadata.uid:
        return "Queued", f"waits for Migration {case.request.migration.metadata.name} of the same domain", ""
    if case.is_transient and case.wanted not in states.RUNS and not case.all_sightings:
        return states.NOWHERE, f"domain {domain} is transient and off: it is defined nowhere", ""
    if case.held is None or not case.assignment.candidates:
        return "NotPlaced", f"domain {domain} has no node at the moment", ""
    target = target_of(case, stored)
    if isinstance(target, Deferred):
        return target.reason.value, sentence(target), ""
    seen = case.own_sighting
    if seen is None or not seen.active:
        held_up = disks.hold(case) or pinned(case, "it is to be moved")
        if held_up is not None:
            return held_up.reason.value, sentence(held_up), target
        if is_away(case.snap, case.assignment):
            return "RunsElsewhere", _MOVED_BY_HAND.format(name=case.command_target, home=case.node), target
        return "Pending", f"domain {domain} does not run; it is moved as it is", target
    hold = disks.hold(case) or depart(case, seen)
    if isinstance(hold, Deferred):
        return hold.reason.value, sentence(hold), target
    return "Pending", "it begins as soon as its domain is free", target


def _generation(stored: StoredMigration) -> int:
    generation = stored.migration.metadata.generation
    return 0 if isinstance(generation, UnsetType) else generation


def _conditions(
    stored: StoredMigration, ready: Truth, reconciling: Truth, reason: str, message: str
) -> list[Condition]:
    return [
        _condition(stored, "Ready", ready, reason, message),
        _condition(stored, "Reconciling", reconciling, reason, message),
        _condition(stored, "Stalled", "False", reason, message),
    ]


def _condition(stored: StoredMigration, kind: str, status: Truth, reason: str, message: str) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:1024],
        observed_generation=_generation(stored),
    )
