"""What must hold, checked against ground truth: hosts, etcd and what left the replicas, never a cache.

Each complaint names its invariant (I1 to I22, L1 to L4 of the protocol). Hosts tell of each change, doors of
each call, etcd of each transaction; `sample` looks at all of it now and then. Duplicates, definitions and
starts that an administrator makes by hand are his: the people of the run make none that the README excludes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from controller import keys
from controller.model import Assignment, Decision, Intent, IntentKind, LeaderRecord, Rule
from drivers.hypervisor import Outcome
from drivers.store import Compare, Put, TxnResult, Write
from specs.domain import ACTIVE_STATES
from specs.requests import ANNOTATIONS
from tests.sim.cluster import BOUNDS, Cluster
from tests.sim.converged import is_met, message_of, says_ready, transient
from tests.sim.domain import Change
from tests.sim.doors import Call
from tests.sim.hypervisor import Sent

DEADLINES_S: Final = {
    "open": 5.0,
    "list": 10.0,
    "detail": 10.0,
    "facts": 30.0,
    "define": 30.0,
    "create": 60.0,
    "destroy": 60.0,
    "undefine": 45.0,
    "shutdown": 30.0,
    "set_mark": 30.0,
    "set_autostart": 30.0,
    "suspend": 35.0,
    "job": 10.0,
    "migrate": 6 * 3600.0,
    "abort_job": 35.0,
    "resume": 35.0,
    "save": 600.0,
    "drop_saved": 30.0,
    "reboot": 30.0,
    "reset": 35.0,
}
SLACK_S: Final = 4.0  # a driver looks for a sign of life after a deadline
ACT_WITHIN_S: Final = 10.0
UNFENCED: Final = frozenset({keys.LEADER, keys.LAST_LEADER, keys.HEARTBEAT, keys.CLUSTER})
INTENTS_OF: Final = {
    "define": {IntentKind.START, IntentKind.DEFINE},
    "create": {IntentKind.START},
    "shutdown": {IntentKind.STOP},
    "suspend": {IntentKind.PAUSE},
    "destroy": {IntentKind.STOP, IntentKind.START, IntentKind.MIGRATE},  # what a start left half-done
    "undefine": {IntentKind.REVOKE, IntentKind.FORGET, IntentKind.MIGRATE},
    "migrate": {IntentKind.MIGRATE},
    "abort_job": {IntentKind.MIGRATE},
    "resume": {IntentKind.RESUME, IntentKind.MIGRATE},
    "save": {IntentKind.SAVE},
    "drop_saved": {IntentKind.DROP_SAVED},
    "reboot": {IntentKind.REBOOT},
    "reset": {IntentKind.RESET},
}
REQUEST_OF: Final = {"drop_saved": "drop-saved", "reboot": "reboot", "reset": "reset"}
WANTED_LATELY_S: Final = 25.0  # a watch that lags 8 s, and then a write that takes 12
LATE_S: Final = 180.0
RECHECKED_S: Final = 1.0
CALM_S: Final = 20.0
UNMET_S: Final = 90.0
LIST_EVERY_S: Final = 75.0
BURST: Final = 60  # L3: mutations of one domain in a minute
TRIES: Final = 3  # L3: of one request to migrate


@dataclass(frozen=True, slots=True)
class Violation:
    at: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at:.3f}: {self.text}"


@dataclass
class Checks:
    """Hear everything, complain of what must not be."""

    cluster: Cluster = field(init=False)
    violations: list[Violation] = field(default_factory=list)
    mutations: int = 0
    last_sent_at: float = 0.0
    _complained: set[tuple[str, str]] = field(default_factory=set)
    _assigned: dict[str, None] = field(default_factory=dict)  # every uuid that ever was
    _tokens: dict[int, str] = field(default_factory=dict)
    _renewed: dict[str, float] = field(default_factory=dict)
    _intents: dict[tuple[str, str], tuple[Intent, ...]] = field(default_factory=dict)
    _wanted: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)
    _kept: dict[str, float] = field(default_factory=dict)
    _excused: set[tuple[str, str]] = field(default_factory=set)  # node and uuid
    _doubtful: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _destroys: dict[str, deque[float]] = field(default_factory=dict)
    _sent_of: dict[str, deque[float]] = field(default_factory=dict)
    _listed: dict[tuple[str, str], float] = field(default_factory=dict)
    _reachable_since: dict[tuple[str, str], float] = field(default_factory=dict)
    _unmet_since: dict[str, float] = field(default_factory=dict)
    _leading: tuple[str, float] = ("", 0.0)
    _elected_at: dict[str, float] = field(default_factory=dict)
    _first_listed: dict[tuple[str, str], float] = field(default_factory=dict)
    _proved_at: dict[tuple[str, str], float] = field(default_factory=dict)
    _by_hand: set[tuple[str, str]] = field(default_factory=set)
    _migrated_at: dict[str, float] = field(default_factory=dict)
    _reads_since: dict[tuple[str, str], float] = field(default_factory=dict)
    _last: dict[str, Assignment] = field(default_factory=dict)
    _ended_at: dict[str, float] = field(default_factory=dict)
    _shown: dict[str, str] = field(default_factory=dict)
    _tries: dict[tuple[str, str], int] = field(default_factory=dict)  # by uuid and request
    _moves_over: dict[tuple[str, str], float] = field(default_factory=dict)
    _read_of: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _past: int = 0
    _autostarts: set[str] = field(default_factory=set)  # pinned to a node, and to start there at boot
    _paused_by_hand: set[tuple[str, str]] = field(default_factory=set)
    _transients: set[str] = field(default_factory=set)
    _asked: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # by uuid and request: its values
    _once: dict[tuple[str, str], int] = field(default_factory=dict)  # and how often it was sent
    _created_in: dict[tuple[str, str, str], int] = field(default_factory=dict)  # the past it was sent in

    def complain(self, invariant: str, text: str) -> None:
        """Once for each thing, for one mistake shows itself many times."""
        if self.cluster.trace.closed:
            return
        now = self.cluster.clock()
        self.cluster.trace.say("VIOLATION", f"{invariant}: {text}")
        if (invariant, text) not in self._complained and len(self.violations) < 50:
            self._complained.add((invariant, text))
            plain = self.cluster.trace._plain(text)
            self.violations.append(Violation(now - self.cluster.trace.began_at, invariant, plain))

    # --- hosts

    def changed(self, change: Change) -> None:
        uuid, cluster = change.uuid, self.cluster
        cluster.trace.say(
            change.host,
            f"{change.what} {uuid} ({change.name}) by {change.by}"
            + (f": {change.reason}" if change.reason else ""),
        )
        if change.what == "paused" and change.by == "virsh":
            self._paused_by_hand.add((change.host, uuid))
        self._excused.discard((change.host, uuid))
        active = cluster.active_on(uuid)
        if len(active) > 1:
            self.complain("I1", f"{uuid} is active on {' and '.join(active)}")
        if change.by in cluster.replicas:
            self._changed_by_replica(change)
        elif change.what in ("defined", "arriving", "started") and not self._is_own_move(change):
            self._by_hand.add((change.host, uuid))
        if change.what in ("started", "resumed"):
            self._unmet_since.pop(uuid, None)  # however short it ran, between two looks
        if change.what in ("resumed", "stopped", "launched"):
            self._paused_by_hand.discard((change.host, uuid))
        if change.what == "arriving":
            self._check_departure(change)
        if change.what in ("undefined", "vanished"):
            self._by_hand.discard((change.host, uuid))
        if change.what == "stopped":
            moved = change.by == "migration" and change.reason in ("migrated", "unknown")
            if moved and self._is_own_move(change):
                pass  # where it went stands in etcd
            elif moved:
                self._migrated_at[uuid] = cluster.clock()
            elif change.reason != "failed":
                self._ended_at[uuid] = cluster.clock()

    def _check_departure(self, change: Change) -> None:
        """I2: what the port was asked to move goes where an open intent says, and neither end keeps a
        capability of its own, but what somebody put there by hand."""
        uuid = change.uuid
        found = (h.operations.migrations.get(uuid) for h in self.cluster.hosts.values())
        migration = next((m for m in found if m is not None and m.manner.persistent_xml is not None), None)
        if migration is None or migration.target.name != change.host or self._past != self.cluster.pasts:
            return
        source, target = migration.source.name, migration.target.name
        held = self.cluster.assignment(uuid)
        intent = held.intent if held is not None else None
        if intent is None or (intent.kind, intent.node, intent.target) != (
            IntentKind.MIGRATE,
            source,
            target,
        ):
            self.complain("I2", f"{uuid} moves from {source} to {target} without such an intent")
        for host, kept in (
            (migration.source, not migration.manner.undefine_source),
            (migration.target, True),
        ):
            domain = host.domains[uuid]
            if domain.config is not None and kept and (host.name, uuid) not in self._by_hand:
                self.complain(
                    "I2", f"{uuid} moves from {source} to {target}, and {host.name} keeps a definition"
                )

    def _check_spared(self, sent: Sent) -> None:
        """I9: of the two ends of a migration, never the one that goes on is destroyed."""
        held = self._intents.get((sent.client, sent.uuid), ())
        host = self.cluster.hosts[sent.host]
        if held and held[-1].kind is IntentKind.MIGRATE and host.active(sent.uuid):
            wanted = self._wanted.get(sent.uuid)
            if wanted and wanted[-1][1] in ACTIVE_STATES:
                self.complain("I9", f"{sent.client} destroys {sent.uuid} on {sent.host}, where it went on")

    def _check_both_read(self, client: str, uuid: str, intent: Intent) -> None:
        """I8: a migration is closed only by what was read at both ends since its call was over."""
        over_at = self._moves_over.get((client, uuid), -1.0)
        for node in (intent.node, intent.target):
            host = self.cluster.hosts.get(node)
            dark = host is None or not host.powered or host.daemon != "up"
            if dark or not self.cluster.network.up(client, node):
                continue
            if max(self._read_of.get((client, node, u), -1.0) for u in (uuid, "")) < over_at:
                self.complain("I8", f"{client} closes the migration of {uuid}, and did not read {node}")

    def _check_moved(self, client: str, uuid: str, node: str) -> None:
        """I8: what a migration is said to have left, or never to have reached, has nothing of it."""
        host = self.cluster.hosts.get(node)
        if self._past != self.cluster.pasts or host is None or (node, uuid) in self._by_hand:
            return
        if uuid in host.domains:
            self.complain("I8", f"{client} closes the migration of {uuid}, and {node} still has it")

    def _is_own_move(self, change: Change) -> bool:
        """A migration that a replica asked for, as etcd says."""
        held = self.cluster.assignment(change.uuid)
        intent = held.intent if held is not None else None
        asked = intent is not None and intent.kind is IntentKind.MIGRATE
        return asked and change.by == "migration" and change.host in (intent.node, intent.target)

    def _changed_by_replica(self, change: Change) -> None:
        uuid, what = change.uuid, change.what
        if uuid not in self._assigned:
            self.complain("I10", f"{change.by} {what} {uuid} on {change.host}, which was never domctl's")
            return
        if what in ("launched", "started", "stopped", "undefined", "resumed", "defined"):
            self._check_quiet(change)
        if what == "paused" and not self._was_wanted(uuid, "paused"):
            self.complain("I11", f"{change.by} paused {uuid} on {change.host}, which nobody wanted")
        if what == "autostart" and change.reason == "on" and uuid not in self._autostarts:
            self.complain("I7", f"{change.by} set autostart of {uuid} on {change.host}")
        if what in ("launched", "started"):
            self._check_start(change)
        if what == "resumed":
            self._check_resumed(change)
        if what == "undefined":
            self._check_taken(change, {IntentKind.REVOKE, IntentKind.FORGET, IntentKind.MIGRATE})
        if what == "stopped":
            kinds = {IntentKind.STOP, IntentKind.START, IntentKind.SAVE, IntentKind.MIGRATE}
            self._check_taken(change, kinds)

    def _was_wanted(self, uuid: str, state: str) -> bool:
        """Now or lately: what was on its way may come late, within the quiet time of another leader. A leader
        of another past wants what was wanted then."""
        if self._past != self.cluster.pasts:
            return True
        since = self.cluster.clock() - LATE_S
        return any(wanted == state and at >= since for at, wanted in self._wanted.get(uuid, ())) or (
            bool(self._wanted.get(uuid)) and self._wanted[uuid][-1][1] == state
        )

    def _check_quiet(self, change: Change) -> None:
        """Safety 4: once another leader's quiet time is over, nothing of former leaders arrives any more."""
        leader, now = self.cluster.leader, self.cluster.clock()
        if leader is None or leader.name == change.by or self._past != self.cluster.pasts:
            return  # or etcd says who led at another time
        elected_at = self._elected_at.get(leader.name, now)
        first_read_at = self._first_listed.get((leader.name, change.host), now)
        if now > self.cluster.quiet_over_at(change.host, elected_at, first_read_at) + 1.0:
            self.complain(
                "I4",
                f"{change.by} {change.what} {change.uuid} on {change.host}, {now - elected_at:.0f} s after"
                f" {leader.name} was elected",
            )

    def _check_start(self, change: Change) -> None:
        """I2, as the host carries it out: its place, and nobody else's."""
        sent_in = self._created_in.get((change.by, change.host, change.uuid), self.cluster.pasts)
        if self._past != self.cluster.pasts or sent_in != self.cluster.pasts:
            return  # what etcd says is of another past, or forgets what the command rested on
        assignment = self.cluster.assignment(change.uuid)
        if assignment is None:
            self.complain("I2", f"{change.by} {change.what} {change.uuid} on {change.host}: no assignment")
            return
        if assignment.node != change.host:
            self.complain(
                "I2",
                f"{change.by} {change.what} {change.uuid} on {change.host}, its place is {assignment.node}",
            )
        others = [c for c in assignment.candidates if c != change.host]
        if others:
            self.complain(
                "I2",
                f"{change.by} {change.what} {change.uuid} on {change.host}, it may be on {', '.join(others)}",
            )
        vouched = {p.node for p in assignment.proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        for name, host in self.cluster.hosts.items():
            own = name == change.host or name in vouched
            own = own or (name, change.uuid) in self._by_hand | self._excused
            if not own and change.uuid in host.domains:
                self.complain(
                    "I2", f"{change.by} {change.what} {change.uuid} on {change.host}, {name} has it too"
                )

    def _check_resumed(self, change: Change) -> None:
        """I9: the source of a migration goes on only if its target never ran, or an operator said so. What
        else is resumed is at its place (I2)."""
        held = self._intents.get((change.by, change.uuid), ())
        if not held or held[-1].kind is not IntentKind.MIGRATE:
            self._check_start(change)
            self._check_own_pause(change)
            return
        domain = self.cluster.hosts[change.host].domains[change.uuid]
        if domain.handed_over and change.uuid not in self._kept:
            self.complain("I9", f"{change.by} resumes {change.uuid} on {change.host}, which had left it")

    def _check_own_pause(self, change: Change) -> None:
        """A pause by hand is ended by request alone, or by a wish that it be paused, or off, first."""
        by_hand = (change.host, change.uuid) in self._paused_by_hand
        moves = self.cluster.objects("migrations").values()
        if any(m["spec"].get("mode") == "Cold" for m in moves):
            return  # it is to stop for that, and must hear it
        wished = any(self._was_wanted(change.uuid, s) for s in ("paused", "saved", "shutoff", "absent"))
        if by_hand and not wished and (change.uuid, "resume") not in self._asked:
            self.complain("Whose", f"{change.by} resumed {change.uuid} on {change.host}, paused by hand")

    def _check_taken(self, change: Change, kinds: set[IntentKind]) -> None:
        """I3, I11: destroyed and undefined is only what etcd says should be."""
        held = self._intents.get((change.by, change.uuid), ())
        if not any(i.kind in kinds and change.host in (i.node, i.target) for i in held):
            self.complain(
                "I11", f"{change.by} {change.what} {change.uuid} on {change.host} without such an intent"
            )

    # --- what leaves a replica

    def sent(self, sent: Sent) -> None:
        if sent.call == "create":
            self._created_in[sent.client, sent.host, sent.uuid] = self.cluster.pasts
        cluster, now = self.cluster, self.cluster.clock()
        cluster.trace.say(sent.client, f"sends {sent.call} {sent.uuid} to {sent.host}")
        self.mutations += 1
        self.last_sent_at = now
        renewed_at = self._renewed.get(sent.client)
        if renewed_at is None or now > renewed_at + ACT_WITHIN_S + 1e-6:
            late = "never" if renewed_at is None else f"{now - renewed_at:.3f} s ago"
            self.complain("I4", f"{sent.client} sends {sent.call} {sent.uuid}, its lease was renewed {late}")
        away_at = cluster.etcd_away_at
        if away_at is not None and now > away_at + ACT_WITHIN_S:
            self.complain("I12", f"{sent.client} sends {sent.call} {sent.uuid}, etcd is gone")
        self._check_intent(sent)
        if sent.call == "destroy":
            self._check_spared(sent)
        self._check_read_again(sent)
        if sent.call == "create":
            self._check_still_due(sent, now)
        if sent.call == "migrate":
            self._check_tries(sent)
        if sent.call in REQUEST_OF:
            self._check_asked(sent, REQUEST_OF[sent.call])
        self._count(sent, now)

    def _check_asked(self, sent: Sent, name: str) -> None:
        """What is asked for once is sent once at most."""
        sent_before = self._once.get((sent.uuid, name), 0)
        self._once[sent.uuid, name] = sent_before + 1
        asked = len(self._asked.get((sent.uuid, name), ()))
        if sent_before >= asked and self._past == self.cluster.pasts:
            self.complain(
                "once", f"{sent.client} sends {sent.call} {sent.uuid} again, it was asked for {asked} times"
            )

    def _check_tries(self, sent: Sent) -> None:
        """L3: a migration that fails is tried a few times, and given up."""
        held = self._intents.get((sent.client, sent.uuid), ())
        if not held or not held[-1].request:
            return
        tried = self._tries.get((sent.uuid, held[-1].request), 0) + 1
        self._tries[sent.uuid, held[-1].request] = tried
        if tried > TRIES and self._past == self.cluster.pasts:
            self.complain("L3", f"{sent.client} migrates {sent.uuid} for the {tried}th time for one request")

    def _check_still_due(self, sent: Sent, now: float) -> None:
        """Safety 2, step 3: what justified this start was looked at again just before."""
        if not self._is_calm(sent.client, now - CALM_S):
            return  # a call looks the domain up before it is sent, through whatever was cut
        since, wanted = self._wanted.get(sent.uuid, ((now, "running"),))[-1]
        if wanted not in ACTIVE_STATES and since < now - RECHECKED_S:
            self.complain(
                "I2", f"{sent.client} creates {sent.uuid} on {sent.host}, {wanted} for {now - since:.1f} s"
            )
        held = self.cluster.assignment(sent.uuid)
        for proof in held.proofs if held is not None else ():
            answered_at = self._listed.get((sent.client, proof.node), -1.0)
            recorded_at = self._proved_at.get((sent.uuid, proof.node), now)
            if proof.rule is Rule.CONFIRMED_DEAD and recorded_at < answered_at < now - RECHECKED_S:
                self.complain(
                    "I2", f"{sent.client} creates {sent.uuid} on {sent.host}, the dead {proof.node} answers"
                )

    def _check_intent(self, sent: Sent) -> None:
        """I20: what is to be done stands in etcd before it is sent."""
        kinds = INTENTS_OF.get(sent.call)
        if kinds is None:
            return
        held = self._intents.get((sent.client, sent.uuid), ())
        if not held or held[-1].kind not in kinds or sent.host not in (held[-1].node, held[-1].target):
            said = f"{held[-1].kind} on {held[-1].node}" if held else "nothing"
            self.complain(
                "I20",
                f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host}, recorded before was {said}",
            )

    def _check_read_again(self, sent: Sent) -> None:
        """I6: after a call whose effect is not known, the host is read before the next."""
        doubtful = (sent.client, sent.host, sent.uuid)
        if doubtful in self._doubtful:
            self.complain(
                "I6", f"{sent.client} sends {sent.call} {sent.uuid} to {sent.host} and did not look before"
            )

    def _count(self, sent: Sent, now: float) -> None:
        mine = self._sent_of.setdefault(sent.uuid, deque())
        mine.append(now)
        while mine[0] < now - 60.0:
            mine.popleft()
        if len(mine) > BURST:
            self.complain("L3", f"more than {BURST} commands for {sent.uuid} in a minute")
        if sent.call != "destroy":
            return
        destroys = self._destroys.setdefault(self._term_of(sent.client), deque())
        destroys.append(now)
        while destroys[0] < now - 60.0:
            destroys.popleft()
        if len(destroys) > BOUNDS.destroys_per_minute:
            self.complain("I13", f"{sent.client} destroys more than {BOUNDS.destroys_per_minute} a minute")

    def _term_of(self, client: str) -> str:
        terms = [token for token, name in self._tokens.items() if name == client]
        return f"{client}/{max(terms, default=0)}"

    # --- calls

    def called(self, call: Call) -> None:
        took_s = call.ended_at - call.began_at
        process = self.cluster.replicas[call.client].process
        stopped = process is None or process.went_on_at >= call.began_at or not process.runs
        if took_s > DEADLINES_S[call.call] + SLACK_S and not stopped:
            self.complain("I16", f"{call.call} to {call.host} took {call.client} {took_s:.1f} s")
        if call.outcome is Outcome.AMBIGUOUS and call.uuid:
            self._doubtful[(call.client, call.host, call.uuid)] = call.ended_at
        if call.call == "migrate":
            self._moves_over[(call.client, call.uuid)] = call.ended_at
        if call.call in ("list", "detail") and (call.uuid or not call.failed):
            self._read_of[(call.client, call.host, call.uuid)] = call.began_at
        if call.call not in ("list", "detail") or call.failed:
            return
        read = [
            key
            for key, at in self._doubtful.items()
            if key[:2] == (call.client, call.host)
            and at <= call.began_at
            and (call.call == "list" or key[2] == call.uuid)
        ]
        for key in read:
            del self._doubtful[key]
        if call.call == "list":
            self._first_listed.setdefault((call.client, call.host), call.ended_at)
            self._listed[(call.client, call.host)] = call.ended_at
            self._reads_since[(call.client, call.host)] = call.began_at

    def read_at(self, client: str, host: str) -> float:
        return self._reads_since.get((client, host), float("-inf"))

    def renewed(self, client: str, sent_at: float) -> None:
        self._renewed[client] = sent_at

    def died(self, client: str) -> None:
        """Its process is gone, and with it all that it had in mind."""
        self._renewed.pop(client, None)
        for key in [key for key in self._doubtful if key[0] == client]:
            del self._doubtful[key]
        for listed in [key for key in self._listed if key[0] == client]:
            del self._listed[listed], self._reads_since[listed]

    # --- etcd

    def transacted(
        self, client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if not result.ok or not writes:
            return
        if client in self.cluster.replicas:
            self._check_fence(client, compares, writes)
        for write in writes:
            if write.key == keys.LEADER:
                self._led(client, write, result)
            elif write.key.startswith(keys.ASSIGNMENTS):
                self._assigns(client, compares, write)
            elif write.key.startswith(keys.RESOLUTIONS) and isinstance(write, Put):
                self._kept[write.key.removeprefix(keys.RESOLUTIONS)] = self.cluster.clock()
                self._excuse(write.key.removeprefix(keys.RESOLUTIONS), write)
            elif write.key.startswith(keys.CONFIRMED_DEAD) and isinstance(write, Put):
                self._excuse("", write)
        domains = keys.object_prefix("domains")
        for write in writes:
            if write.key.startswith(domains) and isinstance(write, Put):
                self._object(client, write)

    def _excuse(self, uuid: str, write: Put) -> None:
        """What an operator says of a node counts as a read of what stands there shut off, until that changes:
        where etcd has forgotten who had it, no proof can keep it (drill old_memory, seed 27)."""
        word = msgspec.json.decode(write.value, type=Decision)
        for node in (word.node, *word.not_on):
            host = self.cluster.hosts.get(node)
            left = [] if host is None else [u for u in host.domains if not host.active(u) and uuid in ("", u)]
            self._excused |= {(node, u) for u in left}

    def restored(self) -> None:
        """What etcd says now is what was wanted and promised at another time."""
        self._may_ask_again()
        self._tries.clear()
        self._last.clear()
        self._wanted.clear()
        self._unmet_since.clear()
        for uuid, assignment in self.cluster.assignments().items():
            self._last[uuid] = assignment
        for body in self.cluster.objects("domains").values():
            self._wants(body)

    def _may_ask_again(self) -> None:
        """What was asked for once is carried out once more if the backup has the request and not that it was
        begun, as of a request that nobody saw (seed 100761); and what it does not have is not."""
        standing = {body["metadata"]["uid"]: body for body in self.cluster.objects("domains").values()}
        for (uuid, name), values in self._asked.items():
            annotations = standing[uuid]["metadata"].get("annotations") or {} if uuid in standing else {}
            held = self.cluster.assignment(uuid)
            answered = held.requests.get(name) if held is not None else None
            value = annotations.get(ANNOTATIONS[name])
            due = value is not None and (answered is None or answered.value != value)
            self._once[uuid, name] = len(values) - due

    def _check_fence(self, client: str, compares: Sequence[Compare], writes: Sequence[Write]) -> None:
        """I5."""
        written = [w.key for w in writes if w.key not in UNFENCED]
        if not written:
            return
        fenced = any(c.key == keys.LEADER and c.on == "create" and c.revision for c in compares)
        if not fenced:
            self.complain("I5", f"{client} wrote {', '.join(written)} without comparing the leader key")
        compared = {c.key for c in compares}
        for key in written:
            if key.startswith(keys.ASSIGNMENTS) and key not in compared:
                self.complain("I5", f"{client} wrote {key} without comparing its revision")

    def _led(self, client: str, write: Write, result: TxnResult) -> None:
        if isinstance(write, Put):
            self._tokens[result.revision] = client
            self._elected_at[client] = self.cluster.clock()
            for listed in [key for key in self._first_listed if key[0] == client]:
                del self._first_listed[listed]
            self._past = self.cluster.pasts
            record = msgspec.json.decode(write.value, type=LeaderRecord)
            self.cluster.trace.say(client, f"is elected as {record.id}, token {result.revision}")
        else:
            self.cluster.trace.say(client, "resigns")

    def _assigns(self, client: str, compares: Sequence[Compare], write: Write) -> None:
        uuid = write.key.removeprefix(keys.ASSIGNMENTS)
        if not isinstance(write, Put):
            self.cluster.trace.say(client, f"removes the assignment of {uuid}")
            return
        after = msgspec.json.decode(write.value, type=Assignment)
        before_revision = next((c.revision for c in compares if c.key == write.key), 0)
        before = self._previous(uuid, before_revision)
        self._assigned[uuid] = None
        intent = after.intent
        self.cluster.trace.say(
            client,
            f"records {uuid}: {intent.kind if intent is not None else 'no intent'} on {after.node},"
            f" epoch {after.epoch}, candidates {','.join(after.candidates) or 'none'}"
            + (", tombstone" if after.tombstone else "")
            + (f" ({intent.why})" if intent is not None else ""),
        )
        self._last[uuid] = after
        known = before.proofs if before is not None else ()
        for proof in after.proofs:
            if proof not in known:
                self._proved_at[(uuid, proof.node)] = self.cluster.clock()
                if proof.rule is Rule.MOVED:
                    self._check_moved(client, uuid, proof.node)
        if intent is not None:
            mine = self._intents.get((client, uuid), ())
            self._intents[(client, uuid)] = (*mine[-3:], intent)
            if before is None or before.intent != intent:
                self._check_intended(client, uuid, intent, before, after)
        closes = before is not None and before.intent is not None and after.intent is None
        if closes and before.intent.kind is IntentKind.MIGRATE and after.last_move != before.last_move:
            self._check_both_read(client, uuid, before.intent)
        if (before is not None and before.node != after.node) or before is None:
            self._check_new_place(client, uuid, after)

    def _previous(self, uuid: str, revision: int) -> Assignment | None:
        return self._last.get(uuid) if revision else None

    def _check_intended(
        self, client: str, uuid: str, intent: Intent, before: Assignment | None, after: Assignment
    ) -> None:
        now = self.cluster.clock()
        if intent.kind is IntentKind.FORGET and uuid not in self._transients:
            self.complain("safety 2", f"{client} intends to make {uuid} transient, which nobody wanted")
        if intent.kind is IntentKind.SAVE and not self._was_wanted(uuid, "saved"):
            self.complain("I11", f"{client} intends to save {uuid}, which nobody wanted")
        if intent.kind in (IntentKind.STOP, IntentKind.DELETE):
            lately = [wanted for at, wanted in self._wanted.get(uuid, ()) if at >= now - WANTED_LATELY_S]
            standing = self._wanted.get(uuid)
            wanted_now = standing[-1][1] if standing else "absent"
            kept = self._kept.get(uuid, -1e9) > now - 600.0
            stays = (
                wanted_now in ACTIVE_STATES and "shutoff" not in lately and not self._moves_cold(after.name)
            )
            if not after.tombstone and not kept and stays:
                self.complain("I11", f"{client} intends to stop {uuid}, which is to run")
        if intent.kind is IntentKind.START:
            self._check_evidence(client, uuid, before)

    def _moves_cold(self, name: str) -> bool:
        """A Migration that has not ended asks for it to be shut off, moved and started again."""
        return any(
            body["spec"]["domain"] == name and body["spec"].get("mode") == "Cold"
            for body in self.cluster.objects("migrations").values()
        )

    def _check_evidence(self, client: str, uuid: str, before: Assignment | None) -> None:
        """I22: with hand-made migrations declared, nodes that did not answer are no evidence."""
        gone_at = self._migrated_at.get(uuid)
        if gone_at is None or before is None or not before.started:
            return
        if self.cluster.active_on(uuid):
            self.complain(
                "I22", f"{client} intends to start {uuid}, which runs on {self.cluster.active_on(uuid)}"
            )
        if not self.cluster.policy.hand_migrations or self._kept.get(uuid, -1.0) > gone_at:
            return
        dead = {key.rpartition("/")[2] for key, _ in self.cluster.stored(keys.CONFIRMED_DEAD)}
        vouched = {p.node for p in before.proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        unread = [
            name
            for name in self.cluster.objects("nodes")
            if name not in dead | vouched and self._reads_since.get((client, name), -1.0) <= gone_at
        ]
        last_end = self._ended_at.get(uuid, -1.0)
        if unread and last_end <= gone_at:
            self.complain(
                "I22", f"{client} intends to start {uuid}, migrated by hand, without reading {unread}"
            )

    def _check_new_place(self, client: str, uuid: str, after: Assignment) -> None:
        """I15."""
        held = after.node in self.cluster.quarantined
        if held and after.candidates == (after.node,) and after.intent is not None:
            self.complain("I15", f"{client} places {uuid} on {after.node}, which is in quarantine")

    def _object(self, client: str, write: Put) -> None:
        body = msgspec.json.decode(write.value)
        uuid = body["metadata"]["uid"]
        self.cluster.trace.call(uuid, body["metadata"]["name"])
        self._wants(body)
        reason = (body.get("status") or {}).get("reason", "")
        if client in self.cluster.replicas and self._shown.get(uuid) != reason:
            self._shown[uuid] = reason
            self.cluster.trace.say(client, f"says of {uuid}: {reason}: {message_of(body)}")

    def _wants(self, body: dict[str, Any]) -> None:
        state = body["spec"].get("state") or "running"
        wanted = "absent" if body["metadata"].get("deletionTimestamp") else state
        spec = body["spec"]
        if transient(spec):
            self._transients.add(body["metadata"]["uid"])
        if (spec.get("recovery") or {}).get("autostart") and "node" in (spec.get("placement") or {}):
            self._autostarts.add(body["metadata"]["uid"])
        annotations = body["metadata"].get("annotations") or {}
        for name, key in ANNOTATIONS.items():
            if key in annotations:
                self._asked.setdefault((body["metadata"]["uid"], name), set()).add(annotations[key])
        history = self._wanted.setdefault(body["metadata"]["uid"], deque(maxlen=16))
        if not history or history[-1][1] != wanted:
            if history:  # what was wanted until now was wanted lately
                history.append((self.cluster.clock(), history[-1][1]))
            history.append((self.cluster.clock(), wanted))

    # --- now and then

    def _is_calm(self, client: str, since: float) -> bool:
        """Nothing went wrong or was mended since then, and `client` and etcd are on good terms."""
        cluster = self.cluster
        replica = cluster.replicas[client]
        steady = replica.process is not None and replica.process.went_on_at < since
        friends = replica.ways.good and cluster.network.up(client, "etcd") and cluster.etcd_away_at is None
        return steady and friends and cluster.last_fault_at < since

    def sample(self) -> None:
        cluster, now = self.cluster, self.cluster.clock()
        leader = cluster.leader
        name = leader.name if leader is not None and leader.runs else ""
        term = self._term_of(name) if name else ""
        if term != self._leading[0]:
            self._leading = (term, now)
        stable_s = now - self._leading[1] if term and cluster.etcd.running else 0.0
        if leader is not None and name:
            self._check_lists(name, stable_s, now)
        self._check_reasons(name, stable_s, now)

    def _check_lists(self, leader: str, stable_s: float, now: float) -> None:
        """I18, I16: every host that can be reached is read again and again, whatever others do. A new leader
        whose own way to etcd is bad cannot read yet which hosts there are (seed 1179): until its first list,
        or until that way is mended, from when on the time counts. Who read one host knows of all."""
        nodes = self.cluster.objects("nodes")
        began = any(client == leader for client, _ in self._first_listed)
        knows_hosts = began or self.cluster.replicas[leader].ways.good
        for host_name, host in self.cluster.hosts.items():
            key = (leader, host_name)
            fine = (
                knows_hosts
                and host_name in nodes
                and self.cluster.network.up(leader, host_name)
                and host.powered
                and host.daemon == "up"
                and "deletionTimestamp" not in nodes[host_name]["metadata"]
            )
            if not fine:
                self._reachable_since.pop(key, None)
                continue
            since = self._reachable_since.setdefault(key, now)
            fine_s = min(stable_s, now - since)
            listed_at = self._listed.get(key, -1e9)
            if fine_s > LIST_EVERY_S and now - listed_at > LIST_EVERY_S:
                self.complain("I18", f"{leader} did not list {host_name} in {LIST_EVERY_S:.0f} s")

    def _check_reasons(self, leader: str, stable_s: float, now: float) -> None:
        """L4: what is not as wanted says so, where it can: nothing is written into an etcd that is stopped or
        frozen (seed 31101)."""
        if self.cluster.etcd_away_at is not None:
            self._unmet_since.clear()
            return
        for name, body in self.cluster.objects("domains").items():
            uuid = body["metadata"]["uid"]
            if is_met(self.cluster, body):
                self._unmet_since.pop(uuid, None)
                continue
            since = self._unmet_since.setdefault(uuid, now)
            if min(now - since, stable_s) > UNMET_S and leader and says_ready(body):
                self.complain("L4", f"{name} is not as wanted and its status says that it is")
            if min(now - since, stable_s) > UNMET_S and not message_of(body):
                self.complain("L4", f"{name} is not as wanted and no reason is shown")
