"""The steps by which a migration begins (safety §5): the source gives up its capability, the target is read.

From there on it is watched by `movers`, and judged by table M in `plan.migrating`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import msgspec

from controller import keys
from controller.calls import Calls
from controller.hands import Ending, Halt, Hands, Progress, Report
from controller.ledger import NEVER, CommitOutcome
from controller.passwords import passwords_for
from controller.plan.case import Case
from controller.plan.copying import paths_taken
from controller.plan.evidence import Absent, Known, observe
from controller.plan.premises import once_recorded
from controller.plan.types import Action
from controller.recording import check, still_standing
from drivers.store import Compare
from specs.domain import Domain
from specs.graphics import with_passwords


@dataclass(frozen=True, slots=True)
class Departures:
    hands: Hands
    calls: Calls

    async def give_up(self, progress: Progress) -> None:
        """The source gives its capability up before anything moves. A domain with a TPM keeps it until the
        end, when libvirt takes it away; one that is transient has none."""
        action = progress.action
        sighting = self.hands.cache.seen.find(action.uuid, action.node)
        assert action.move is not None
        if action.move.undefine_source or (sighting is not None and not sighting.detail.persistent):
            return
        await self.calls.undefine(progress)

    async def look(self, progress: Progress) -> None:
        """By reads sent after the intent stands in etcd: it is still wanted, and the target has nothing."""
        action, hands = progress.action, self.hands
        assert action.after is not None
        key = keys.object_key("domains", action.after.namespace, action.after.name)
        own = keys.assignment(action.uuid)
        rests = once_recorded(action)
        compares = [Compare(p.key, NEVER if p.revision is None else p.revision) for p in rests]
        compares += [Compare(own, progress.revision), Compare(key, action.object_revision)]
        commit = await hands.ledger.commit(compares, [])
        if commit.outcome is CommitOutcome.UNKNOWN:
            check(commit)
        if commit.outcome is CommitOutcome.REFUSED:
            held, kv = commit.current.get(own), commit.current.get(key)
            domain = None if kv is None else msgspec.json.decode(kv.value, type=Domain)
            if held is None or held.mod_revision != progress.revision:
                check(commit)
            for premise in rests:
                still_standing(action, premise, commit.current.get(premise.key))
            if domain is None or domain.metadata.uid != action.uuid or _is_deleted(domain):
                raise Halt(Report(Ending.STALE, "the object changed while it was about to move"))
        # Not by lists: those would wait for every domain which is arriving there just now.
        ends = (action.node, action.target)
        read = await asyncio.gather(*(hands.observer.glance(node, action.uuid) for node in ends))
        silent = [node for node, answered in zip(ends, read, strict=True) if not answered]
        if silent:
            raise Halt(Report(Ending.FAILED, f"node {silent[0]} did not answer before the migration"))
        seen = observe(hands.cache.snapshot(), action.uuid, action.target)
        if not isinstance(seen, Absent):
            raise Halt(Report(Ending.STALE, f"node {action.target} is not known to have nothing of it"))
        here = observe(hands.cache.snapshot(), action.uuid, action.node)
        stands_still = isinstance(here, Known) and here.sighting.record.state == "paused"
        if action.move is not None and action.move.stands and stands_still:
            raise Halt(Report(Ending.STALE, "it was paused just before it was to move: it would go on there"))
        copies = action.move is not None and bool(action.move.copy_disks)
        taken = paths_taken(Case(hands.cache.snapshot(), action.uuid), action.target) if copies else None
        if taken is not None:
            raise Halt(Report(Ending.STALE, taken.message))

    async def migrate(self, progress: Progress) -> None:
        """Sent, and left to itself: what becomes of it is watched, and read from both ends."""
        action, hands = await self._with_passwords(progress.action), self.hands
        session, permit = hands.observer.session(action.node), hands.permit()
        if permit is None:
            raise Halt(Report(Ending.FAILED, "the lease is too close to its end to act"))
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {action.node} is lost"))
        hands.send_off(action, session, permit)

    async def _with_passwords(self, action: Action) -> Action:
        """The definition that is planted at the target has them; libvirt itself sends the live one's."""
        passwords = await passwords_for(self.hands, action)
        if not passwords or action.move is None or action.move.persistent_xml is None:
            return action
        xml = with_passwords(action.move.persistent_xml, passwords)
        return replace(action, move=replace(action.move, persistent_xml=xml))


def _is_deleted(domain: Domain) -> bool:
    return not isinstance(domain.metadata.deletion_timestamp, msgspec.UnsetType)
