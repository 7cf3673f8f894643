"""Whether the store may be believed, and what the leader does while it may not (safety §1, last point).

`controller.storewatch` judges the store; this keeps the verdict current in the cache, where the first rule
of every plan reads it, adds the evidence of the hosts (marks from the future), and carries out an operator's
`store ack`: first all epochs are raised above those seen, then the doubt is over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from controller import keys
from controller.cache import DOMAIN_KEY, Cache
from controller.ledger import Ledger
from controller.storewatch import StoreTrust, StoreWatch
from drivers.store import Compare

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrustKeeper:
    cache: Cache
    ledger: Ledger
    storewatch: StoreWatch

    async def refresh(self) -> None:
        """Bring the cache's hold in line with what is known now. Raises Fenced."""
        if not self.cache.synced:
            return  # an empty cache would make an empty cluster of it
        for uuid, seen, known in self._regressions():
            self.storewatch.note_epoch_regression(uuid, seen, known)
        await self._acknowledge()
        read: list[str] = []
        if not self.storewatch.may_create:
            read = [n for n in self.cache.nodes if self.cache.view(n).first_read_at is not None]
            self.storewatch.settle(self._registered(), read)
        self._hold(self._sentence(read))

    def _regressions(self) -> list[tuple[str, int, int]]:
        """(uuid, epoch of the mark, epoch of the assignment) where the mark is newer."""
        assignments = self.cache.assignments
        return [(uuid, seen, assignments[uuid].assignment.epoch) for uuid, seen in self.cache.ahead.items()]

    async def _acknowledge(self) -> None:
        decision = self.cache.store_ack
        revision = self.cache.revision_of(keys.STORE_ACK)
        if decision is None or not self.storewatch.would_count(revision):
            return
        # What the cache knows may be of the store that is gone, whose revisions say nothing (seed 102638).
        if not (await self.ledger.commit([Compare(keys.STORE_ACK, revision)], [])).ok:
            return
        for uuid, seen, _ in self._regressions():
            held = self.cache.assignments.get(uuid)
            if held is None:
                continue
            raised = msgspec.structs.replace(held.assignment, epoch=seen + 1)
            key = keys.assignment(uuid)
            commit = await self.ledger.put_record(key, raised, held.revision)
            if not commit.ok:
                return  # tried again at the next refresh
            self.cache.wrote({key: msgspec.json.encode(raised)}, commit.revision)
        if self.storewatch.acknowledge(decision, revision):
            log.warning("store acknowledged", extra={"by": decision.by, "why": decision.reason})

    def _registered(self) -> set[str]:
        """All Nodes, those that cannot be read from etcd included."""
        prefix = keys.object_prefix("nodes")
        unreadable = {k.removeprefix(prefix) for k in self.cache.records.corrupt if k.startswith(prefix)}
        return unreadable.union(self.cache.nodes)

    def _sentence(self, read: list[str]) -> str:
        if self.storewatch.may_create:
            return ""
        unread = self.storewatch.unread(self._registered(), read)
        waiting = f"; not read yet: {', '.join(unread)}" if unread else ""
        if self.storewatch.trust is StoreTrust.UNKNOWN_STORE:
            return f"{self.storewatch.sentence}{waiting}"
        return self.storewatch.sentence

    def _hold(self, sentence: str) -> None:
        if sentence == self.cache.hold:
            return
        log.warning("store", extra={"hold": sentence or "none any more"})
        self.cache.hold = sentence
        for uuid in {*self.cache.domains, *self.cache.assignments}:
            self.cache.on_dirty(DOMAIN_KEY + uuid)
