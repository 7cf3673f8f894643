"""What was seen on the nodes, domain by domain: the half of the cache that observers fill.

A complete listing says what a node has, and by silence what it has not; a glance says the same of one domain,
later than the list before it. Beside the sightings stand the *witnesses* that evidence is made of: ends
heard on an unbroken connection (I22a), the last sign of each domain, which an absence must outlast (I22c),
migrations whose end was not seen, and when a domain began to run where it is not at home. Nothing here
decides, and nothing here knows etcd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from msgspec.structs import replace

from controller.expectations import Expectations
from controller.plan.snapshot import Sighting, Usage, WitnessedEnd
from drivers.hypervisor import Detail, EventKind, HostEvent, Listing


@dataclass(frozen=True, slots=True)
class Belongings:
    """What sightings must know of etcd: whether a UUID has an object or an assignment, whether it has an
    assignment, and the node that it is assigned to ("": none)."""

    is_known: Callable[[str], bool]
    is_assigned: Callable[[str], bool]
    home: Callable[[str], str]


@dataclass(slots=True)
class Sightings:
    """`by_uuid`: each domain as last seen, by node. `names`: libvirt's names on each node. `on_change` is
    told (uuid, node) of each change, `on_inactive` a UUID that was seen not to run."""

    belongings: Belongings
    on_change: Callable[[str, str], None]
    on_inactive: Callable[[str], None]
    by_uuid: dict[str, dict[str, Sighting]] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    ends: dict[tuple[str, str], WitnessedEnd] = field(default_factory=dict)
    signs: dict[str, float] = field(default_factory=dict)
    heard_at: dict[str, float] = field(default_factory=dict)
    migrated: dict[str, float] = field(default_factory=dict)
    resumes: dict[tuple[str, str], float] = field(default_factory=dict)
    suspends: dict[tuple[str, str], float] = field(default_factory=dict)
    vanished: dict[tuple[str, str], float] = field(default_factory=dict)
    expectations: Expectations = field(default_factory=Expectations)
    _ran: dict[str, set[str]] = field(
        default_factory=dict
    )  # by node: what was known to run on this connection
    _glances: dict[str, dict[str, float]] = field(default_factory=dict)  # by node: read later than its list

    def find(self, uuid: str, node: str) -> Sighting | None:
        return self.by_uuid.get(uuid, {}).get(node)

    def uuids_on(self, node: str) -> tuple[str, ...]:
        return tuple(self.names.get(node, {}).values())

    def foreign_usage(self, node: str) -> Usage:
        """Active domains that are not assigned take capacity too, as they are."""
        taken = Usage()
        for uuid in self.uuids_on(node):
            sighting = self.find(uuid, node)
            if sighting is not None and sighting.record.active and not self.belongings.is_assigned(uuid):
                taken = taken.plus(sighting.detail.vcpus, sighting.detail.memory_bytes)
        return taken

    # --- what observers bring

    def connected(self, node: str) -> None:
        """A connection is being opened: what was known to run over the one before may have ended, or been
        moved, unheard. An end counts as witnessed only of what was known to run on the connection that told
        of it: a libvirtd that just started tells of ends that it finds (seed 46 of armed_behind_a_cut)."""
        self._ran[node] = set()

    def listed(
        self, node: str, listing: Listing, details: Mapping[str, Detail], except_for: Set[str] = frozenset()
    ) -> tuple[int, list[str]]:
        """One complete listing, with fresh details where they were read: how many domains changed, and the
        UUIDs that were awaited and are known again.

        What is not listed is absent as of `listing.sent_at`. Every listed domain must have a detail, now or
        from before: a domain that is listed but not read must not look absent. Of those in `except_for`,
        which are being started, nothing is concluded: they are read when that is over."""
        changed = 0
        there = {record.uuid for record in listing.records}
        glances = self._glances.setdefault(node, {})
        younger = {uuid for uuid, at in glances.items() if at > listing.sent_at}
        skipped = except_for | self.expectations.held_on(node)
        for uuid in skipped:
            self._sign(uuid, listing.sent_at)  # this listing shows no absence of it
        for uuid in self.uuids_on(node):
            if uuid not in there and uuid not in younger and uuid not in skipped:
                self._unsee(uuid, node, listing.sent_at)
                changed += 1
        for record in listing.records:
            if record.uuid in younger or record.uuid in skipped:
                continue
            before = self.find(record.uuid, node)
            detail = details.get(record.uuid, before.detail if before is not None else None)
            assert detail is not None, f"{record.uuid} was listed on {node} but never read"
            changed += self._take(node, Sighting(record, detail, listing.sent_at, listing.sent_at))
        self._glances[node] = {uuid: at for uuid, at in glances.items() if uuid in younger}
        return changed, self.expectations.settle(node, listing.sent_at, listing.ended_at, skipped)

    def glanced(self, node: str, uuid: str, detail: Detail | None, sent_at: float) -> bool:
        """One domain read by itself, asked for at `sent_at`; None: the node knows no such domain. It says
        what a list would of this one domain, and a list that was sent before it does not undo it. Whether it
        was awaited and is known again."""
        before = self.find(uuid, node)
        if before is not None and before.seen_at > sent_at:
            if detail is not None and before.detail.sent_at < sent_at and before.record == detail.record:
                self._take(node, replace(before, detail=detail))  # the list read none, and agrees
            return False
        self._glances.setdefault(node, {})[uuid] = sent_at
        if detail is not None:
            self._take(node, Sighting(detail.record, detail, sent_at, sent_at))
        elif before is not None:
            self._unsee(uuid, node, sent_at)
        return self.expectations.settle_one(uuid, node, sent_at)

    def heard(self, node: str, session: int, event: HostEvent) -> bool:
        """A wake-up. Only ends and signs are kept from it. Whether it is about a domain of ours."""
        uuid = event.uuid
        if not self.belongings.is_known(uuid):
            return False
        self._sign(uuid, event.at)
        self.heard_at[uuid] = max(self.heard_at.get(uuid, 0.0), event.at)
        ran = self._ran.setdefault(node, set())
        if event.kind is EventKind.STOPPED:
            self.ends[(uuid, node)] = WitnessedEnd(session if uuid in ran else 0, event.detail, event.at)
            ran.discard(uuid)
        elif event.kind in (EventKind.STARTED, EventKind.RESUMED):
            self.ends.pop((uuid, node), None)
            ran.add(uuid)
        if event.kind is EventKind.RESUMED:
            self.resumes[(uuid, node)] = event.at
        if event.kind is EventKind.SUSPENDED and event.detail == "migrated":
            self.suspends[(uuid, node)] = event.at
        if event.detail == "migrated":
            self.migrated[uuid] = event.at
        return True

    def forget_node(self, node: str) -> None:
        """What was seen there counts no more."""
        for uuid in self.uuids_on(node):
            self._unsee(uuid, node, 0.0)
        self.names.pop(node, None)
        self._glances.pop(node, None)
        self._ran.pop(node, None)
        self.expectations.forget_node(node)
        for table in (self.ends, self.resumes, self.suspends, self.vanished):
            for key in [key for key in table if key[1] == node]:
                del table[key]

    def forget(self, uuid: str) -> None:
        """Nobody asks for its witnesses any more."""
        self.signs.pop(uuid, None)
        self.heard_at.pop(uuid, None)
        self.migrated.pop(uuid, None)
        for table in (self.ends, self.resumes, self.suspends, self.vanished):
            for key in [key for key in table if key[0] == uuid]:
                del table[key]

    def settle_at_home(self, uuid: str, node: str) -> None:
        """Where it is active where it belongs, no migration that was seen before matters any more. What was
        asked for before that, and is answered only now, says nothing of it (seed 83 of moved_from_sight)."""
        if uuid in self.migrated and node == self.belongings.home(uuid):
            sighting = self.find(uuid, node)
            if sighting is not None and sighting.active and sighting.seen_at > self.migrated[uuid]:
                del self.migrated[uuid]

    # --- one domain on one node

    def _take(self, node: str, after: Sighting) -> bool:
        """Take over a sighting; whether anything but its age changed."""
        uuid = after.record.uuid
        ran = self._ran.setdefault(node, set())
        (ran.add if after.active else ran.discard)(uuid)
        before = self.find(uuid, node)
        if before is not None and _same_state(before, after):
            after = replace(after, since=before.since)
        changed = (
            before is None or before.record != after.record or not _same_detail(before.detail, after.detail)
        )
        if changed:
            self._see(node, after, before)
        else:
            self.by_uuid[uuid][node] = after
        self.settle_at_home(uuid, node)
        return changed

    def _see(self, node: str, after: Sighting, before: Sighting | None) -> None:
        uuid = after.record.uuid
        self.by_uuid.setdefault(uuid, {})[node] = after
        self.vanished.pop((uuid, node), None)
        if before is not None and before.record.name != after.record.name:
            self._free_name(node, before.record.name, uuid)
        self.names.setdefault(node, {})[after.record.name] = uuid
        if before is not None and before.record.active:
            self._sign(uuid, before.seen_at)
        if node != self.belongings.home(uuid) or after.record.active:
            self._sign(uuid, after.seen_at)
        if after.record.active:
            end = self.ends.get((uuid, node))
            if end is not None and end.at < after.seen_at:  # else the list was on its way when it ended
                del self.ends[(uuid, node)]
        else:
            self.on_inactive(uuid)
        if after.record.state == "running" and node != self.belongings.home(uuid):
            self.resumes[(uuid, node)] = after.seen_at  # it runs there: no event needed to say so
        if after.record.reason == "migrated" and not after.record.active:
            self.migrated[uuid] = after.seen_at
        self.on_change(uuid, node)

    def _unsee(self, uuid: str, node: str, sent_at: float) -> None:
        """What was read by a request sent then shows that it is not there any more."""
        seen = self.by_uuid.get(uuid, {})
        gone = seen.pop(node, None)
        if not seen:
            self.by_uuid.pop(uuid, None)
            self.on_inactive(uuid)
        if gone is not None:
            # Absence can only be shown by listings sent after the last one that showed it (I22c).
            self._sign(uuid, gone.seen_at)
            self.vanished[(uuid, node)] = sent_at
            self._free_name(node, gone.record.name, uuid)
        self.on_change(uuid, node)

    def _free_name(self, node: str, name: str, uuid: str) -> None:
        """Another domain may have the name by now."""
        if self.names.get(node, {}).get(name) == uuid:
            self.names[node].pop(name)

    def _sign(self, uuid: str, at: float) -> None:
        """Something was heard or seen of a domain that an absence must outlast."""
        if self.belongings.is_known(uuid):
            self.signs[uuid] = max(self.signs.get(uuid, 0.0), at)


def _same_state(before: Sighting, after: Sighting) -> bool:
    """In this state for this reason without a break, as far as was seen."""
    was, now = before.record, after.record
    return (was.state, was.reason) == (now.state, now.reason)


def _same_detail(before: Detail, after: Detail) -> bool:
    """Equal but for when it was read and for the record, which is compared apart."""
    return before is after or replace(before, sent_at=0.0, record=after.record) == replace(after, sent_at=0.0)
