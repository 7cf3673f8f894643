"""What must hold of every change that a host tells of: I1, I2, I3, I9, I10, and the quiet time.

Ground truth: the host did it, whoever asked for it and however late it came. Duplicates, definitions and
starts that an administrator makes by hand are his.
"""

from __future__ import annotations

import re
from typing import Final

from controller.model import IntentKind, Rule
from tests.sim.definition import OWN_STORAGE
from tests.sim.domain import Change, SimDomain, waited_in_guest
from tests.sim.heard import Heard
from tests.sim.migration import Migration

CLEARED_S: Final = (
    30.0  # within which a leader that is there has cleared what a domain left by hand would start
)
_SOURCE: Final = re.compile(r"<source file=['\"]([^'\"]+)")


class HostChecks:
    """Hear of each change."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._complain = heard, heard.complain

    def changed(self, change: Change) -> None:
        uuid, cluster = change.uuid, self._heard.cluster
        cluster.trace.say(
            change.host,
            f"{change.what} {uuid} ({change.name}) by {change.by}"
            + (f": {change.reason}" if change.reason else ""),
        )
        if change.what == "paused" and change.by == "virsh":
            self._heard.paused_by_hand.add((change.host, uuid))
        self._heard.excused.discard((change.host, uuid))
        self._note_armed(change)
        active = cluster.active_on(uuid)
        if len(active) > 1 and uuid not in cluster.doubled:
            self._complain("I1", f"{uuid} is active on {' and '.join(active)}")
        if change.by in cluster.replicas:
            self._changed_by_replica(change)
        elif change.what in ("defined", "arriving", "started") and not self._heard.is_own_move(change):
            self._heard.by_hand.add((change.host, uuid))
        self._note_run(change)
        if change.what in ("resumed", "stopped", "launched"):
            self._heard.paused_by_hand.discard((change.host, uuid))
        if change.what == "arriving":
            self._check_departure(change)
        if change.what in ("undefined", "vanished"):
            self._heard.by_hand.discard((change.host, uuid))
        if change.what == "stopped":
            moved = change.by == "migration" and change.reason in ("migrated", "unknown")
            if moved and self._heard.is_own_move(change):
                pass  # where it went stands in etcd
            elif moved:
                self._heard.migrated_at[uuid] = cluster.clock()
            elif change.reason != "failed":
                self._heard.ended_at[uuid] = cluster.clock()

    def _note_armed(self, change: Change) -> None:
        """A host that dies within a moment after a domain was moved away from it by hand may boot with it,
        and the README says so (seed 908469)."""
        cluster, where = self._heard.cluster, (change.host, change.uuid)
        if change.what in ("undefined", "vanished") or (change.what, change.reason) == ("autostart", "off"):
            cluster.armed.pop(where, None)
        left_at, died_at = cluster.armed.get(where), cluster.hosts[change.host].died_at
        boots = (change.what, change.by) == ("launched", "host")
        if boots and left_at is not None and left_at <= died_at <= left_at + CLEARED_S:
            cluster.doubled.add(change.uuid)

    def _note_run(self, change: Change) -> None:
        if change.what in ("started", "resumed"):
            self._heard.unmet_since.pop(change.uuid, None)  # however short it ran, between two looks
        if change.what in ("launched", "started") and change.by not in self._heard.cluster.replicas:
            self._heard.rests.pop(change.uuid, None)

    def _check_departure(self, change: Change) -> None:
        """I2: what the port was asked to move goes where an open intent says, and neither end keeps a
        capability of its own, but what somebody put there by hand."""
        uuid = change.uuid
        found = (h.operations.migrations.get(uuid) for h in self._heard.cluster.hosts.values())
        migration = next((m for m in found if m is not None and m.manner.persistent_xml is not None), None)
        pasts = self._heard.cluster.pasts
        if migration is None or migration.target.name != change.host or self._heard.past != pasts:
            return
        if self._heard.moved_in.get((migration.source.name, uuid), pasts) != pasts:
            return  # etcd forgets what it was asked for by (seed 39 of moves_kept)
        self._check_copied(change, migration)
        source, target = migration.source.name, migration.target.name
        held = self._heard.cluster.assignment(uuid)
        intent = held.intent if held is not None else None
        if intent is None or (intent.kind, intent.node, intent.target) != (
            IntentKind.MIGRATE,
            source,
            target,
        ):
            self._complain("I2", f"{uuid} moves from {source} to {target} without such an intent")
        for host, kept in (
            (migration.source, not migration.manner.undefine_source),
            (migration.target, True),
        ):
            domain = host.domains[uuid]
            if domain.config is not None and kept and (host.name, uuid) not in self._heard.by_hand:
                self._complain(
                    "I2", f"{uuid} moves from {source} to {target}, and {host.name} keeps a definition"
                )

    def _changed_by_replica(self, change: Change) -> None:
        uuid, what = change.uuid, change.what
        if uuid not in self._heard.assigned:
            self._complain("I10", f"{change.by} {what} {uuid} on {change.host}, which was never domctl's")
            return
        if what in ("launched", "started", "stopped", "undefined", "resumed", "defined"):
            self._check_quiet(change)
        if what in ("defined", "launched"):
            self._check_disk(change)
        if what == "paused" and not self._heard.was_wanted(uuid, "paused"):
            self._complain("I11", f"{change.by} paused {uuid} on {change.host}, which nobody wanted")
        if what == "autostart" and change.reason == "on" and uuid not in self._heard.autostarts:
            self._complain("I7", f"{change.by} set autostart of {uuid} on {change.host}")
        if what in ("launched", "started"):
            self._check_start(change)
        if what == "resumed":
            self._check_resumed(change)
        if what == "undefined":
            self._check_taken(change, {IntentKind.REVOKE, IntentKind.FORGET, IntentKind.MIGRATE})
        if what == "stopped":
            kinds = {IntentKind.STOP, IntentKind.START, IntentKind.SAVE, IntentKind.MIGRATE}
            self._check_taken(change, kinds)

    def _check_disk(self, change: Change) -> None:
        """Promise 7: what was written where somebody moved its disk by hand is not left behind."""
        domain = self._heard.cluster.hosts[change.host].domains[change.uuid]
        given = domain.config if change.what == "defined" else domain.live
        if domain.moved_to and domain.moved_to not in (given or ""):
            self._complain(
                "Disk", f"{change.by} {change.what} {change.uuid} on {change.host} without {domain.moved_to}"
            )

    def _check_copied(self, change: Change, migration: Migration) -> None:
        """libvirt writes over whatever has the path of a disk that it copies."""
        domains = migration.target.domains
        copied = _images(domains[change.uuid]) if migration.manner.copy_disks else set[str]()
        for uuid, domain in domains.items():
            if uuid != change.uuid and (lost := copied & _images(domain)):
                self._complain("Disk", f"{change.uuid} is copied over {lost} of {uuid} on {change.host}")

    def _check_quiet(self, change: Change) -> None:
        """Safety 4: once another leader's quiet time is over, nothing of former leaders arrives any more."""
        leader, now = self._heard.cluster.leader, self._heard.cluster.clock()
        if leader is None or leader.name == change.by or self._heard.past != self._heard.cluster.pasts:
            return  # or etcd says who led at another time
        if waited_in_guest(change, self._heard.cluster.hosts[change.host].domains.get(change.uuid), now):
            return
        elected_at = self._heard.elected_at.get(leader.name, now)
        first_read_at = self._heard.first_listed.get((leader.name, change.host), now)
        if now > self._heard.cluster.quiet_over_at(change.host, elected_at, first_read_at) + 1.0:
            self._complain(
                "I4",
                f"{change.by} {change.what} {change.uuid} on {change.host}, {now - elected_at:.0f} s after"
                f" {leader.name} was elected",
            )

    def _check_start(self, change: Change) -> None:
        """I2, as the host carries it out: its place, and nobody else's."""
        sent_in = self._heard.created_in.get((change.by, change.host, change.uuid), self._heard.cluster.pasts)
        if self._heard.past != self._heard.cluster.pasts or sent_in != self._heard.cluster.pasts:
            return  # what etcd says is of another past, or forgets what the command rested on
        assignment = self._heard.cluster.assignment(change.uuid)
        if assignment is None:
            self._complain("I2", f"{change.by} {change.what} {change.uuid} on {change.host}: no assignment")
            return
        if assignment.node != change.host:
            self._complain(
                "I2",
                f"{change.by} {change.what} {change.uuid} on {change.host}, its place is {assignment.node}",
            )
        others = [c for c in assignment.candidates if c != change.host]
        if change.what == "launched":
            self._heard.launched[change.host, change.uuid] = assignment.candidates
        elif change.what == "started":  # what came back since its QEMU runs is its next leader's to clear
            at_launch = self._heard.launched.pop((change.host, change.uuid), assignment.candidates)
            others = [c for c in others if c in at_launch]
        if others:
            self._complain(
                "I2",
                f"{change.by} {change.what} {change.uuid} on {change.host}, it may be on {', '.join(others)}",
            )
        vouched = {p.node for p in assignment.proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        for name, host in self._heard.cluster.hosts.items():
            own = name == change.host or name in vouched
            own = own or (name, change.uuid) in self._heard.by_hand | self._heard.excused
            if not own and change.uuid in host.domains:
                self._complain(
                    "I2", f"{change.by} {change.what} {change.uuid} on {change.host}, {name} has it too"
                )

    def _check_resumed(self, change: Change) -> None:
        """I9: the source of a migration goes on only if its target never ran, and its target only if the
        source did not run on, or an operator said so. What else is resumed is at its place (I2)."""
        held = self._heard.intents.get((change.by, change.uuid), ())
        if not held or held[-1].kind is not IntentKind.MIGRATE:
            self._check_start(change)
            self._check_own_pause(change)
            return
        domain = self._heard.cluster.hosts[change.host].domains[change.uuid]
        if domain.handed_over and change.uuid not in self._heard.kept:
            self._complain("I9", f"{change.by} resumes {change.uuid} on {change.host}, which had left it")
        if domain.is_old and change.uuid not in self._heard.kept:
            self._complain("I9", f"{change.by} resumes {change.uuid} on {change.host}, an old copy of it")

    def _check_own_pause(self, change: Change) -> None:
        """A pause by hand is ended by request alone, or by a wish that it be paused, or off, first."""
        by_hand = (change.host, change.uuid) in self._heard.paused_by_hand
        if self._heard.moved_cold:
            return  # it is to stop for that, and must hear it
        wishes = ("paused", "saved", "shutoff", "absent")
        wished = any(self._heard.was_wanted(change.uuid, wish) for wish in wishes)
        if by_hand and not wished and (change.uuid, "resume") not in self._heard.asked:
            self._complain("Whose", f"{change.by} resumed {change.uuid} on {change.host}, paused by hand")

    def _check_taken(self, change: Change, kinds: set[IntentKind]) -> None:
        """I3, I11: destroyed and undefined is only what etcd says should be."""
        held = self._heard.intents.get((change.by, change.uuid), ())
        if not any(i.kind in kinds and change.host in (i.node, i.target) for i in held):
            self._complain(
                "I11", f"{change.by} {change.what} {change.uuid} on {change.host} without such an intent"
            )


def _images(domain: SimDomain) -> set[str]:
    """Files on the host's own storage."""
    found = {image for xml in (domain.config, domain.live) for image in _SOURCE.findall(xml or "")}
    return {image for image in found if image.startswith(OWN_STORAGE)}
