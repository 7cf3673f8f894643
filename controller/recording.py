"""The steps of an action that write to etcd: its intent before anything is sent, and its end (I20).

Every write is one fenced transaction (I5) that compares the assignment with the revision that the action was
planned with, or that its own last step left. The one that records an action compares what justifies it, too
(`controller.plan.premises`): nothing is ended, or otherwise changed, for a spec that its user has changed
since, however late the watch is. What was written is in the cache when a step returns.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from controller import keys
from controller.hands import Ending, Halt, Hands, Progress, Report
from controller.ledger import NEVER, Commit, CommitOutcome
from controller.model import Assignment, Quarantine, Rule
from controller.objects import StoredObject, owner_of, parse
from controller.plan.premises import still_means
from controller.plan.types import Action, ActionKind, Premise
from drivers.store import Compare, Delete, KeyValue, Put, Write
from specs.kinds import KIND_OF

_log = logging.getLogger("domctl.audit")

DOMAIN: Final = KIND_OF["Domain"]
LOOKS: Final = 4  # at what an action rests on, while its status moves beneath each


@dataclass(frozen=True, slots=True)
class Recording:
    hands: Hands

    def stamped(self, action: Action) -> Action:
        """Time and operation id are inputs: they enter here."""
        at, op = self.hands.world.wall(), self.hands.world.new_id()[:8]
        return replace(action, after=_stamp(action.after, op, at), settled=_stamp(action.settled, op, at))

    async def record(self, progress: Progress) -> None:
        """The intent, before anything is sent; capacity and MACs are taken with it."""
        action, after = progress.action, progress.action.after
        assert after is not None
        owner = owner_of(after.namespace, after.name)
        compares, macs = await self._freed_macs(action, owner)
        macs += [Put(keys.mac(m), owner) for m in action.reserve]
        compares += [Compare(keys.mac(m), 0) for m in action.reserve]
        extra = [*macs]
        extra += [self._quarantine(action, node) for node in action.quarantine]
        if action.consumes:
            held, resolution = self._consumed(action)
            compares.append(held)
            extra.append(resolution)
        await self._commit(progress, after, compares, extra, action.premises)
        self.hands.cache.capacity.unreserve(action.uuid)
        if action.is_clear:
            self.hands.cache.seen.migrated.pop(action.uuid, None)
        if action.retry_after_s:
            now = self.hands.world.now()
            self.hands.cache.attempts.move_failed(action.uuid, action.why, action.retry_after_s, now)
        audit(action)

    async def _freed_macs(self, action: Action, owner: bytes) -> tuple[list[Compare], list[Write]]:
        """What gives up MACs that the domain has no use for: only where the key is its own, and while the
        spec, which might name one again, is the one that was planned with."""
        compares: list[Compare] = []
        writes: list[Write] = []
        for mac in action.release_macs:
            kv = await self.hands.objects.store.get(keys.mac(mac))
            if kv is not None and kv.value == owner:
                compares.append(Compare(kv.key, kv.mod_revision))
                writes.append(Delete(kv.key))
        if writes:
            namespace, _, name = action.key.partition("/")
            compares.append(Compare(keys.object_key("domains", namespace, name), action.object_revision))
        return compares, writes

    def _consumed(self, action: Action) -> tuple[Compare, Write]:
        key = keys.resolution(action.uuid)
        compare = Compare(key, self.hands.cache.revision_of(key))
        return compare, Delete(key) if action.left is None else Put(key, msgspec.json.encode(action.left))

    def _quarantine(self, action: Action, node: str) -> Write:
        """A node that was taken for dead gets nothing new until it was compared (I15)."""
        known = self.hands.cache.quarantine.get(node)
        uuids = {action.uuid, *(known.uuids if known is not None else ())}
        record = Quarantine(
            node=node,
            rule=Rule.CONFIRMED_DEAD,
            at=self.hands.world.wall(),
            uuids=tuple(sorted(uuids)),
        )
        return Put(keys.quarantine(node), msgspec.json.encode(record))

    async def settle(self, progress: Progress) -> None:
        """The intent's aim was reached: it is closed, so that it is no evidence later (I22b)."""
        settled = progress.action.settled
        if settled is not None:
            if progress.room:
                settled = msgspec.structs.replace(settled, save_room=progress.room)
            await self._commit(progress, settled, [], [])

    async def _commit(
        self,
        progress: Progress,
        assignment: Assignment,
        compares: list[Compare],
        writes: list[Write],
        premises: tuple[Premise, ...] = (),
    ) -> None:
        key = keys.assignment(progress.action.uuid)
        value = msgspec.json.encode(assignment)
        compares = [Compare(key, progress.revision), *compares]
        standing = {p.key: NEVER if p.revision is None else p.revision for p in premises}
        for _ in range(LOOKS):
            held = [Compare(at, revision) for at, revision in standing.items()]
            commit = await self.hands.ledger.commit([*compares, *held], [Put(key, value), *writes])
            if commit.outcome is not CommitOutcome.REFUSED:
                break
            now = {p.key: still_standing(progress.action, p, commit.current.get(p.key)) for p in premises}
            if now == standing:
                break  # it is not for them that it was refused
            standing = now
        check(commit)
        progress.revision = commit.revision
        written: dict[str, bytes | None] = {key: value}
        written |= {w.key: w.value if isinstance(w, Put) else None for w in writes}
        self.hands.cache.wrote(written, commit.revision)

    async def finish(self, progress: Progress) -> None:
        """The object and all that it claimed go, in one transaction with its assignment."""
        action = progress.action
        compares: list[Compare] = []
        writes: list[Write] = []
        stored = await self._stored_object(action)
        if stored is not None:
            compares, writes = await self.hands.objects.removal_writes(DOMAIN, stored)
            known = {w.key for w in writes}
            held, freed = await self.hands.objects.release_macs(stored, action.release_macs)
            compares += [c for c in held if c.key not in known]
            writes += [w for w in freed if w.key not in known]
        key = keys.assignment(action.uuid)
        compares.append(Compare(key, progress.revision))
        if progress.revision:
            writes.append(
                Put(key, msgspec.json.encode(action.after))
                if action.kind is ActionKind.FINISH and action.after is not None
                else Delete(key)
            )
        writes.append(Delete(keys.resolution(action.uuid)))
        audit(action)
        commit = await self.hands.ledger.commit(compares, writes)
        check(commit)
        gone: dict[str, bytes | None] = {w.key: w.value if isinstance(w, Put) else None for w in writes}
        self.hands.cache.wrote(gone, commit.revision)

    async def _stored_object(self, action: Action) -> StoredObject | None:
        """The object as it stands, if it is still the one that this action is about."""
        if not action.object_revision:
            return None
        namespace, _, name = action.key.partition("/")
        kv = await self.hands.objects.store.get(keys.object_key("domains", namespace, name))
        if kv is None:
            return None
        stored = parse(DOMAIN, kv)
        if stored.uid != action.uuid:
            return None
        if not stored.terminating and action.kind is ActionKind.FINISH:
            raise Halt(Report(Ending.STALE, "the object is not being deleted"))
        return stored


def still_standing(action: Action, premise: Premise, kv: KeyValue | None) -> int:
    """The revision at which what an action rests on stands now. Raises Halt unless it means the same."""
    try:
        stands = still_means(premise, action.uuid, None if kv is None else kv.value)
    except ValueError:  # what cannot be read justifies nothing (I11)
        stands = False
    if not stands:
        raise Halt(Report(Ending.STALE, f"{action.kind}: {premise.key} changed since this was decided on"))
    return 0 if kv is None else kv.mod_revision


def _stamp(assignment: Assignment | None, op: str, at: str) -> Assignment | None:
    if assignment is None:
        return None
    intent = assignment.intent
    if intent is not None and not intent.at:
        intent = msgspec.structs.replace(intent, op=op, at=at)
    proofs = tuple(p if p.at else msgspec.structs.replace(p, at=at) for p in assignment.proofs)
    requests = {n: a if a.at else msgspec.structs.replace(a, at=at) for n, a in assignment.requests.items()}
    move = assignment.last_move
    if move is not None and not move.at:
        move = msgspec.structs.replace(move, at=at)
    return msgspec.structs.replace(
        assignment, intent=intent, proofs=proofs, requests=requests, last_move=move
    )


def check(commit: Commit) -> None:
    """Raises Halt unless it is known to have been written."""
    if commit.outcome is CommitOutcome.REFUSED:
        raise Halt(Report(Ending.STALE, "etcd moved on since this was planned"))
    if commit.outcome is CommitOutcome.UNKNOWN:
        why = commit.error.message if commit.error is not None else "no answer"
        raise Halt(Report(Ending.FAILED, f"etcd did not say whether it wrote: {why}"))


def audit(action: Action) -> None:
    _log.info(
        action.kind.value,
        extra={
            "domain": action.key,
            "uuid": action.uuid,
            "node": action.node,
            "why": action.why,
            "epoch": action.after.epoch if action.after is not None else 0,
        },
    )
