"""What a leader owes to those before and after it, checked against ground truth: more of `checks`.

A term's commands are carried out before the next leader counts them as impossible (the quiet time), and the
next leader keeps still until then. What starts was still wanted a moment ago. Nothing is removed that nobody
deleted, a node of which it is known that its definition starts by itself is not given up, a managed save is
never thrown away, and what carries another cluster's mark is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from controller import keys
from controller.model import Assignment, IntentKind, LeaderRecord, Proof, Rule
from drivers.store import Compare, Put, TxnResult, Write
from specs.domain import ACTIVE_STATES
from specs.mark import Mark
from specs.requests import ANNOTATIONS
from tests.sim import definition
from tests.sim.checks import Checks
from tests.sim.cluster import Cluster
from tests.sim.domain import Change, waited_in_guest
from tests.sim.doors import Call
from tests.sim.hypervisor import Sent

TAKING = frozenset({"undefine", "destroy", "shutdown", "resume", "save", "drop_saved"})
DECIDED_BEFORE_S = 0.5  # what is recorded may have been decided on before the last read, where etcd is slow
READ_AGAIN_S = 15.0  # a linearizable read, and the leave to act that was given after it
DOMAINS = keys.object_prefix("domains")


@dataclass(slots=True)
class Term:
    """One leader's time in office, as etcd and the hosts saw it begin."""

    client: str
    elected_at: float
    trusts: bool  # its predecessor resigned
    past: int  # of etcd: what a backup says of predecessors is said of others
    first_read_at: dict[str, float]


class Duties:
    """Hears what everybody else hears, too; complaints are those of `checks`."""

    def __init__(self, cluster: Cluster, checks: Checks) -> None:
        self._cluster = cluster
        self._complain = checks.complain
        self._last: LeaderRecord | None = None
        self._term: Term | None = None
        self._sent_in: dict[tuple[str, str, str], Term | None] = {}
        self._wanted: dict[str, tuple[str, float]] = {}
        self._deleted: set[str] = set()
        self._marked: dict[tuple[str, str], float] = {}
        self._knows_mark: dict[tuple[str, str, str], float] = {}
        self._sent_at: dict[tuple[str, str, str, str], float] = {}
        self._read_at: dict[tuple[str, str, str], float] = {}
        self._restored_at: float | None = None
        self._dead: dict[str, set[str]] = {}  # what was given up with each host
        self._held_by: dict[str, tuple[str, ...]] = {}
        self._proofs: dict[str, tuple[Proof, ...]] = {}
        self._drops: set[str] = set()  # whose saved memory a user asked to throw away
        self._knows_autostart: dict[tuple[str, str], Term | None] = {}

    def listen(self) -> None:
        """Before any replica starts."""
        notes = self._cluster.notes

        def sent(one: Sent) -> None:
            self.sent(one)
            notes.sent(one)

        def called(call: Call) -> None:
            self.called(call)
            notes.called(call)

        def restored() -> None:
            self.restored()
            notes.restored()

        self._cluster.notes = replace(notes, sent=sent, called=called, restored=restored)
        self._cluster.etcd.listeners.append(self.transacted)
        for host in self._cluster.hosts.values():
            host.listeners.append(self.changed)

    def restored(self) -> None:
        """Another past: who leads, and what is wanted, has to be heard anew."""
        kv = self._cluster.etcd.peek(keys.LAST_LEADER)
        self._last = None if kv is None else msgspec.json.decode(kv.value, type=LeaderRecord)
        self._term = None
        self._wanted.clear()
        self._dead.clear()
        self._restored_at = self._cluster.clock()
        self._proofs = {uuid: held.proofs for uuid, held in self._cluster.assignments().items()}

    # --- hosts

    def sent(self, sent: Sent) -> None:
        now, term = self._cluster.clock(), self._term
        self._sent_in[(sent.client, sent.host, sent.uuid)] = term
        if sent.call == "set_autostart":
            self._knows_autostart[(sent.host, sent.uuid)] = term
        pinned = self._pinned_to(self._cluster.hosts[sent.host].uuid)
        if pinned and sent.host not in pinned:
            self._complain("I10", f"{sent.client} uses {sent.host}, a host that is {' and '.join(pinned)}")
        self._check_seen_since(sent, now)
        self._check_epoch(sent, now)
        if sent.call == "destroy" and self._arrives(sent):
            self._complain(
                "I9", f"{sent.client} destroys {sent.uuid} on {sent.host}, which a migration fills"
            )
        if sent.call == "create":
            wanted, since = self._wanted.get(sent.uuid, ("running", now))
            if wanted not in ACTIVE_STATES and now - since > READ_AGAIN_S:
                self._complain("I2", f"{sent.client} starts {sent.uuid}, to be {wanted} for a while already")
        if sent.call in TAKING and not self._stands(sent) and term is not None and term.client == sent.client:
            left_s = self._quiet_until(term, sent.host) - now
            if left_s > 0:
                self._complain(
                    "I2",
                    f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host}, {left_s:.1f} s too early",
                )

    def _check_seen_since(self, sent: Sent, now: float) -> None:
        """I6: nothing is done twice on one observation."""
        what = (sent.client, sent.host, sent.uuid, sent.call)
        before = self._sent_at.get(what)
        reads = (self._read_at.get(what[:3], 0.0), self._read_at.get((*what[:2], ""), 0.0))
        if before is not None and max(reads) < before:
            self._complain("I6", f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host} twice, unseen")
        self._sent_at[what] = now

    def _check_epoch(self, sent: Sent, now: float) -> None:
        """Hosts that are of a later time than etcd are left alone until somebody acknowledged that."""
        restored_at = self._restored_at
        if restored_at is None or now < restored_at + READ_AGAIN_S:
            return
        domain = self._cluster.hosts[sent.host].domains.get(sent.uuid)
        shown = None if domain is None else domain.config or domain.live
        mark, held = (
            None if shown is None else definition.known(shown).mark,
            self._cluster.assignment(sent.uuid),
        )
        if mark is not None and held is not None and mark.uuid == sent.uuid and mark.epoch > held.epoch:
            self._complain(
                "I11",
                f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host}, which is of epoch {mark.epoch},"
                f" etcd of {held.epoch}",
            )

    def _arrives(self, sent: Sent) -> bool:
        """A migration is at work, and this is its target."""
        hosts = self._cluster.hosts
        domain = hosts[sent.host].domains.get(sent.uuid)
        at_work = any(sent.uuid in host.operations.migrations for host in hosts.values())
        return at_work and domain is not None and domain.in_migration and len(self._holders(sent.uuid)) > 1

    def _holders(self, uuid: str) -> list[str]:
        return [name for name, host in self._cluster.hosts.items() if uuid in host.domains]

    def _pinned_to(self, host_uuid: str) -> list[str]:
        """The Nodes that this identity is pinned to."""
        return [
            str(record["node"])
            for key, record in self._cluster.stored(keys.IDENTITIES)
            if key.startswith(keys.IDENTITIES + host_uuid)
        ]

    def _quiet_until(self, term: Term, host: str) -> float:
        if term.trusts:
            return term.elected_at
        read_at = term.first_read_at.get(host, float("inf"))
        return self._cluster.quiet_over_at(host, term.elected_at, read_at)

    def called(self, call: Call) -> None:
        term = self._term
        if call.call in ("list", "detail") and (call.uuid or not call.failed):
            self._read_at[(call.client, call.host, call.uuid)] = call.began_at
        if call.failed:
            return
        if call.call == "list" and term is not None and term.client == call.client:
            term.first_read_at.setdefault(call.host, call.ended_at)
        if call.call == "detail" and self._marked.get((call.host, call.uuid), call.began_at) < call.began_at:
            self._knows_mark.setdefault((call.client, call.host, call.uuid), call.ended_at)

    def changed(self, change: Change) -> None:
        where = (change.host, change.uuid)
        if change.by in self._cluster.replicas:
            self._check_late(change)
        by_hand = (change.what, change.by, change.reason) == ("defined", "virsh", "added")
        if by_hand or change.what in ("vanished", "arriving"):  # brought there later, it was not left there
            self._dead.get(change.host, set()).discard(change.uuid)
        if change.what == "save lost" and not self._asked_to_drop(change):
            self._complain("R1", f"{change.by} threw away the saved state of {change.uuid} on {change.host}")
        if change.what == "autostart":
            self._knows_autostart.pop(where, None)
        mark = self._foreign_mark(change.host, change.uuid)
        if mark is None:
            self._marked.pop(where, None)
            for known in [key for key in self._knows_mark if key[1:] == where]:
                del self._knows_mark[known]
        else:
            self._marked.setdefault(where, self._cluster.clock())

    def _asked_to_drop(self, change: Change) -> bool:
        """By hand, or by a user's request: an annotation."""
        if change.by not in self._cluster.replicas:
            return change.by == "virsh"
        return change.uuid in self._drops

    def _foreign_mark(self, node: str, uuid: str) -> Mark | None:
        host = self._cluster.hosts.get(node)
        domain = None if host is None else host.domains.get(uuid)
        shown = None if domain is None else domain.live or domain.config
        mark = None if shown is None else definition.known(shown).mark
        return mark if mark is not None and mark.cluster.startswith("another") else None

    def _check_late(self, change: Change) -> None:
        """A command is carried out after the next leader's quiet time. What a guest that is stuck was asked
        stands in its own socket, and no daemon can take it back (seed 600290)."""
        term, now = self._term, self._cluster.clock()
        if waited_in_guest(change, self._cluster.hosts[change.host].domains.get(change.uuid), now):
            return
        sender = self._sent_in.get((change.by, change.host, change.uuid))
        if sender is None or term is None or sender is term:
            return
        late_s = now - self._quiet_until(term, change.host)
        if late_s > 0 and sender.elected_at < term.elected_at and sender.past == term.past:
            self._complain(
                "I2",
                f"{change.by} {change.what} {change.uuid} on {change.host}, {late_s:.1f} s after the next"
                " leader's quiet time",
            )

    # --- etcd

    def transacted(
        self, client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if not result.ok:
            return
        for write in writes:
            if write.key == keys.LEADER and isinstance(write, Put):
                trusts = self._last is None or self._last.resigned
                self._term = Term(client, self._cluster.clock(), trusts, self._cluster.pasts, {})
        for write in writes:
            if write.key == keys.LAST_LEADER and isinstance(write, Put):
                self._last = msgspec.json.decode(write.value, type=LeaderRecord)
            elif write.key.startswith(DOMAINS) and isinstance(write, Put):
                self._object(write)
            elif write.key.startswith(keys.ASSIGNMENTS) and isinstance(write, Put):
                self._assigns(client, write)

    def _object(self, write: Put) -> None:
        body = msgspec.json.decode(write.value)
        uuid = body["metadata"]["uid"]
        wanted = body["spec"].get("state") or "running"
        if ANNOTATIONS["drop-saved"] in (body["metadata"].get("annotations") or {}):
            self._drops.add(uuid)
        if body["metadata"].get("deletionTimestamp"):
            self._deleted.add(uuid)
            wanted = "absent"
        if self._wanted.get(uuid, ("", 0.0))[0] != wanted:
            self._wanted[uuid] = (wanted, self._cluster.clock())

    def _assigns(self, client: str, write: Put) -> None:
        after = msgspec.json.decode(write.value, type=Assignment)
        uuid = after.uuid
        if after.tombstone and uuid not in self._deleted:
            self._complain("I11", f"{client} removes {uuid}, which nobody deleted")
        known = self._proofs.get(uuid, ())
        self._proofs[uuid] = after.proofs
        for proof in (p for p in after.proofs if p not in known):
            if proof.rule is Rule.CONFIRMED_DEAD:
                self._check_autostart(client, uuid, proof.node)
                self._dead.setdefault(proof.node, set()).add(uuid)
            if proof.rule is Rule.REVOKED:
                self._check_revoked(client, uuid, proof.node)
        intent = after.intent
        if intent is not None and intent.kind is IntentKind.MIGRATE:
            self._dead.get(intent.target, set()).discard(uuid)  # what is to come there is not left there
        if after.node not in self._held_by.get(uuid, ()):  # what was there already is nothing new
            self._check_clean(client, after)
        self._held_by[uuid] = after.candidates
        knew_at = self._knows_mark.get((client, after.node, uuid))
        late_s = 0.0 if self._cluster.replicas[client].ways.good else DECIDED_BEFORE_S
        knew = knew_at is not None and self._cluster.clock() > knew_at + late_s
        if after.intent is not None and knew and self._foreign_mark(after.node, uuid) is not None:
            self._complain("I10", f"{client} intends to {after.intent.kind} {uuid}, which is another's")

    def _check_revoked(self, client: str, uuid: str, node: str) -> None:
        """At the time of the proof: somebody may bring it back there by hand (seed 212270)."""
        host = self._cluster.hosts.get(node)
        if host is not None and node not in self._assigned_to(uuid) and host.active(uuid):
            self._complain("R1", f"{client} says that {uuid} is not on {node}, where it runs")

    def _stands(self, sent: Sent) -> bool:
        """Nothing that comes late starts its source again, which is gone: it need not wait. One that somebody
        paused while it moved looks the same, and its source is as gone (seed 104922)."""
        domain = self._cluster.hosts[sent.host].domains.get(sent.uuid)
        held = self._cluster.assignment(sent.uuid)
        if sent.call != "resume" or domain is None:
            return False
        intent = held.intent if held is not None else None
        arrived = intent is not None and (intent.goes_on, intent.target) == (True, sent.host)
        return domain.came_from is not None or (arrived and self._cluster.active_on(sent.uuid) == [sent.host])

    def _home(self, uuid: str) -> str:
        held = self._cluster.assignment(uuid)
        return "" if held is None else held.node

    def _assigned_to(self, uuid: str) -> tuple[str, ...]:
        held = self._cluster.assignment(uuid)
        return () if held is None else held.candidates

    def _check_clean(self, client: str, after: Assignment) -> None:
        """I15: by what stands on the host, not by what etcd says of a quarantine."""
        node, host = after.node, self._cluster.hosts.get(after.node)
        if host is None or after.intent is None or after.candidates != (node,) or after.uuid in host.domains:
            return
        moved_on = [
            u for u in self._dead.get(node, ()) if u in host.domains and self._home(u) not in ("", node)
        ]
        if moved_on:
            self._complain("I15", f"{client} places {after.uuid} on {node}, where {len(moved_on)} are left")

    def _check_autostart(self, client: str, uuid: str, node: str) -> None:
        host = self._cluster.hosts.get(node)
        domain = None if host is None else host.domains.get(uuid)
        knows = self._knows_autostart.get((node, uuid))
        if domain is not None and domain.autostart and knows is not None and knows is self._term:
            self._complain("R3", f"{client} gives up {node}, where {uuid} has autostart set")
