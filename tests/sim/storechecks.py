"""What must hold of every transaction: I5, I8, I11, I15, I22. And what users want is written down here.

What etcd says after a restore is of another time: what is demanded then is what that store can know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from controller import keys
from controller.model import Assignment, Decision, Intent, IntentKind, LeaderRecord, Rule
from drivers.store import Compare, Put, TxnResult, Write
from specs.domain import ACTIVE_STATES
from specs.requests import ANNOTATIONS, LATE_S, instant_of
from tests.sim.converged import is_over, message_of, transient
from tests.sim.heard import Heard

MIGRATIONS: Final = keys.object_prefix("migrations")
UNFENCED: Final = frozenset({keys.LEADER, keys.LAST_LEADER, keys.HEARTBEAT, keys.CLUSTER})


class StoreChecks:
    """Hear of each transaction."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._complain = heard, heard.complain

    def transacted(
        self, client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if not writes:
            of = [
                c.key.removeprefix(keys.ASSIGNMENTS) for c in compares if c.key.startswith(keys.ASSIGNMENTS)
            ]
            self._heard.looked |= {(client, uuid): self._heard.cluster.clock() for uuid in of}
        if not result.ok or not writes:
            return
        if client in self._heard.cluster.replicas:
            self._check_fence(client, compares, writes)
        for write in writes:
            if write.key == keys.LEADER:
                self._led(client, write, result)
            elif write.key.startswith(keys.ASSIGNMENTS):
                self._assigns(client, compares, write, result.revision)
            elif write.key.startswith(keys.RESOLUTIONS) and isinstance(write, Put):
                self._heard.kept[write.key.removeprefix(keys.RESOLUTIONS)] = self._heard.cluster.clock()
                self._excuse(write.key.removeprefix(keys.RESOLUTIONS), write)
            elif write.key.startswith(keys.CONFIRMED_DEAD) and isinstance(write, Put):
                self._excuse("", write)
            elif write.key == keys.STORE_ACK:
                self._heard.known.clear()
                self._heard.outdated.clear()
        domains = keys.object_prefix("domains")
        for write in writes:
            if write.key.startswith(domains) and isinstance(write, Put):
                self._object(client, write)
            elif write.key.startswith(MIGRATIONS):
                self._request(client, write)

    def _request(self, client: str, write: Write) -> None:
        """I11: a replica takes a Migration away when that has ended and says how long it is to stay since."""
        heard = self._heard
        before = heard.requested.pop(write.key, None)
        if isinstance(write, Put):
            self._requests(write.key, msgspec.json.decode(write.value))
        elif client in heard.cluster.replicas and not (before and is_over(heard.cluster, before)):
            self._complain("I11", f"{client} takes {write.key} away, which is to stay")

    def _excuse(self, uuid: str, write: Put) -> None:
        """What an operator says of a node counts as a read of what stands there shut off, until that changes:
        where etcd has forgotten who had it, no proof can keep it (drill old_memory, seed 27)."""
        word = msgspec.json.decode(write.value, type=Decision)
        for node in (word.node, *word.not_on):
            host = self._heard.cluster.hosts.get(node)
            left = [] if host is None else [u for u in host.domains if not host.active(u) and uuid in ("", u)]
            self._heard.excused |= {(node, u) for u in left}

    def restored(self) -> None:
        """What etcd says now is what was wanted and promised at another time."""
        self._may_ask_again()
        self._heard.leading = ("", self._heard.cluster.clock())  # a former leader's key may stand again
        self._heard.tries.clear()
        self._heard.rests.clear()
        self._heard.last.clear()
        self._heard.wanted.clear()
        self._heard.unmet_since.clear()
        cluster = self._heard.cluster
        there = {body["metadata"]["uid"] for body in cluster.objects("domains").values()}
        for uuid, assignment in cluster.assignments().items():
            self._heard.last[uuid] = assignment
            if uuid not in there and not assignment.tombstone:
                cluster.lost.add(uuid)  # the backup is of a moment in which its key was lost
        now_at = {uuid: assignment.node for uuid, assignment in cluster.assignments().items()}
        # Nothing tells any more where these were copied to, or that they were made at all.
        cluster.disks_forgotten |= {u for u, host in cluster.disks_at.items() if now_at.get(u) != host}
        for body in self._heard.cluster.objects("domains").values():
            self._wants(body)
        self._heard.requested.clear()
        self._heard.moved_cold.clear()
        for key, body in self._heard.cluster.stored(MIGRATIONS):
            self._requests(key, body)

    def _requests(self, key: str, body: dict[str, Any]) -> None:
        self._heard.requested[key] = body
        if body["spec"].get("mode") == "Cold":
            self._heard.moved_cold.add(body["spec"]["domain"])

    def _may_ask_again(self) -> None:
        """What was asked for once is carried out once more if the backup has the request and not that it was
        begun, as of a request that nobody saw (seed 100761); and what it does not have is not."""
        standing = {body["metadata"]["uid"]: body for body in self._heard.cluster.objects("domains").values()}
        for (uuid, name), values in self._heard.asked.items():
            annotations = standing[uuid]["metadata"].get("annotations") or {} if uuid in standing else {}
            held = self._heard.cluster.assignment(uuid)
            answered = held.requests.get(name) if held is not None else None
            value = annotations.get(ANNOTATIONS[name])
            due = value is not None and (answered is None or answered.value != value)
            self._heard.once[uuid, name] = len(values) - due

    def _check_fence(self, client: str, compares: Sequence[Compare], writes: Sequence[Write]) -> None:
        """I5."""
        written = [w.key for w in writes if w.key not in UNFENCED]
        if not written:
            return
        fenced = any(c.key == keys.LEADER and c.on == "create" and c.revision for c in compares)
        if not fenced:
            self._complain("I5", f"{client} wrote {', '.join(written)} without comparing the leader key")
        leader = self._leader()
        if leader != client:
            self._complain("I5", f"{client} wrote {', '.join(written)} while {leader or 'nobody'} leads")
        compared = {c.key for c in compares}
        for key in written:
            if key.startswith(keys.ASSIGNMENTS) and key not in compared:
                self._complain("I5", f"{client} wrote {key} without comparing its revision")

    def _leader(self) -> str:
        """Whose the leader key is, whether or not that process still runs; "": nobody's."""
        cluster = self._heard.cluster
        kv = cluster.etcd.peek(keys.LEADER)
        holder = cluster.identities.get(msgspec.json.decode(kv.value, type=LeaderRecord).id) if kv else None
        return holder.name if holder is not None else ""

    def _led(self, client: str, write: Write, result: TxnResult) -> None:
        if isinstance(write, Put):
            self._heard.tokens[result.revision] = client
            self._heard.elected_at[client] = self._heard.cluster.clock()
            for listed in [key for key in self._heard.first_listed if key[0] == client]:
                del self._heard.first_listed[listed]
            self._heard.past = self._heard.cluster.pasts
            record = msgspec.json.decode(write.value, type=LeaderRecord)
            self._heard.cluster.trace.say(client, f"is elected as {record.id}, token {result.revision}")
        else:
            self._heard.cluster.trace.say(client, "resigns")

    def _assigns(self, client: str, compares: Sequence[Compare], write: Write, revision: int) -> None:
        uuid = write.key.removeprefix(keys.ASSIGNMENTS)
        if not isinstance(write, Put):
            self._heard.cluster.trace.say(client, f"removes the assignment of {uuid}")
            self._check_forgotten(client, uuid)
            return
        after = msgspec.json.decode(write.value, type=Assignment)
        before_revision = next((c.revision for c in compares if c.key == write.key), 0)
        before = self._previous(uuid, before_revision)
        self._heard.assigned[uuid] = None
        intent = after.intent
        self._heard.cluster.trace.say(
            client,
            f"records {uuid}: {intent.kind if intent is not None else 'no intent'} on {after.node},"
            f" epoch {after.epoch}, candidates {','.join(after.candidates) or 'none'}"
            + (", tombstone" if after.tombstone else "")
            + (f" ({intent.why})" if intent is not None else ""),
        )
        self._heard.last[uuid] = after
        known = before.proofs if before is not None else ()
        for proof in after.proofs:
            if proof not in known:
                self._heard.proved_at[(uuid, proof.node)] = self._heard.cluster.clock()
                if proof.rule is Rule.MOVED:
                    self._check_moved(client, uuid, proof.node)
        if intent is not None:
            mine = self._heard.intents.get((client, uuid), ())
            self._heard.intents[(client, uuid)] = (*mine[-3:], intent)
            if before is None or before.intent != intent:
                self._note_outdated(client, uuid, revision)
                self._check_intended(client, uuid, intent, before, after)
        closes = before is not None and before.intent is not None and after.intent is None
        if closes and before.intent.kind is IntentKind.MIGRATE and after.last_move != before.last_move:
            self._check_both_read(client, uuid, before.intent)
        if (before is not None and before.node != after.node) or before is None:
            self._check_new_place(client, uuid, after)

    def _note_outdated(self, client: str, uuid: str, revision: int) -> None:
        """An intent that is recorded in a store which was set back, by a leader that cannot know it yet: the
        answer, whose revision is not above those of earlier ones, tells, and nothing is to be sent then."""
        if revision <= self._heard.known.get(client, 0):
            self._heard.outdated.add((client, uuid))
        else:
            self._heard.outdated.discard((client, uuid))

    def _check_forgotten(self, client: str, uuid: str) -> None:
        """I11: a deletion ends with proof of absence, and not with a domain that runs where nobody looked.
        What is handed back as it stands has its candidates to the end."""
        heard, last = self._heard, self._heard.last.get(uuid)
        if client not in heard.cluster.replicas or heard.past != heard.cluster.pasts:
            return
        if last is None or last.candidates or uuid in heard.cluster.doubled:
            return
        vouched = {p.node for p in last.proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        left = [n for n in heard.cluster.active_on(uuid) if n not in vouched]
        if left:
            self._complain("I11", f"{client} forgets {uuid}, which runs on {' and '.join(left)}")

    def _previous(self, uuid: str, revision: int) -> Assignment | None:
        return self._heard.last.get(uuid) if revision else None

    def _check_both_read(self, client: str, uuid: str, intent: Intent) -> None:
        """I8: a migration is closed only by what was read at both ends since its call was over. An end that
        was confirmed dead counts as absent until it is heard to answer, whenever its power came back (R3)."""
        over_at = self._heard.moves_over.get((client, uuid), -1.0)
        dead = {key.rpartition("/")[2] for key, _ in self._heard.cluster.stored(keys.CONFIRMED_DEAD)}
        for node in (intent.node, intent.target):
            host = self._heard.cluster.hosts.get(node)
            dark = host is None or not host.powered or host.daemon != "up"
            if dark or node in dead or not self._heard.cluster.network.up(client, node):
                continue
            if max(self._heard.read_of.get((client, node, u), -1.0) for u in (uuid, "")) < over_at:
                self._complain("I8", f"{client} closes the migration of {uuid}, and did not read {node}")

    def _check_moved(self, client: str, uuid: str, node: str) -> None:
        """I8: what a migration is said to have left, or never to have reached, has nothing of it."""
        host = self._heard.cluster.hosts.get(node)
        heard = self._heard
        if heard.past != heard.cluster.pasts or host is None or (node, uuid) in heard.by_hand:
            return
        if uuid in host.domains:
            self._complain("I8", f"{client} closes the migration of {uuid}, and {node} still has it")

    def _check_intended(
        self, client: str, uuid: str, intent: Intent, before: Assignment | None, after: Assignment
    ) -> None:
        """What is to be done is wanted in the moment that it is recorded, however late a watch is (I18)."""
        if intent.kind is IntentKind.FORGET and uuid not in self._heard.transients:
            self._complain("safety 2", f"{client} intends to make {uuid} transient, which nobody wanted")
        standing = self._heard.wanted.get(uuid)
        wanted = standing[-1][1] if standing else "absent"
        told = (client, uuid) in self._heard.outdated  # then its commands are looked at
        if intent.kind is IntentKind.SAVE and wanted != "saved" and not told:
            self._complain("I11", f"{client} intends to save {uuid}, which nobody wants")
        if intent.kind in (IntentKind.STOP, IntentKind.DELETE):
            kept = self._heard.kept.get(uuid, -1e9) > self._heard.cluster.clock() - 600.0
            cold = self._heard.moves_cold(after.name)
            stays = wanted in ACTIVE_STATES and not cold
            if not after.tombstone and not kept and stays and not told:
                self._complain("I11", f"{client} intends to stop {uuid}, which is to run")
        if intent.kind is IntentKind.START:
            self._check_evidence(client, uuid, before)

    def _check_evidence(self, client: str, uuid: str, before: Assignment | None) -> None:
        """I22: with hand-made migrations declared, nodes that did not answer are no evidence."""
        gone_at = self._heard.migrated_at.get(uuid)
        if gone_at is None or before is None or not before.started:
            return
        active = self._heard.cluster.active_on(uuid)
        if active:
            self._complain("I22", f"{client} intends to start {uuid}, which runs on {active}")
        if not self._heard.cluster.policy.hand_migrations or self._heard.kept.get(uuid, -1.0) > gone_at:
            return
        dead = {key.rpartition("/")[2] for key, _ in self._heard.cluster.stored(keys.CONFIRMED_DEAD)}
        vouched = {p.node for p in before.proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        unread = [
            name
            for name in self._heard.cluster.objects("nodes")
            if name not in dead | vouched and self._heard.reads_since.get((client, name), -1.0) <= gone_at
        ]
        last_end = self._heard.ended_at.get(uuid, -1.0)
        if unread and last_end <= gone_at:
            self._complain(
                "I22", f"{client} intends to start {uuid}, migrated by hand, without reading {unread}"
            )

    def _check_new_place(self, client: str, uuid: str, after: Assignment) -> None:
        """I15."""
        held = after.node in self._heard.cluster.quarantined
        if held and after.candidates == (after.node,) and after.intent is not None:
            self._complain("I15", f"{client} places {uuid} on {after.node}, which is in quarantine")

    def _object(self, client: str, write: Put) -> None:
        body = msgspec.json.decode(write.value)
        uuid = body["metadata"]["uid"]
        self._heard.cluster.trace.call(uuid, body["metadata"]["name"])
        self._wants(body)
        status, generation = body.get("status") or {}, body["metadata"].get("generation")
        reason = status.get("reason", "")
        if reason == "Completed" and status.get("observedGeneration") == generation:
            self._heard.rests[uuid] = generation
        elif self._heard.rests.get(uuid) != generation:
            self._heard.rests.pop(uuid, None)
        if client in self._heard.cluster.replicas and self._heard.shown.get(uuid) != reason:
            self._heard.shown[uuid] = reason
            self._heard.cluster.trace.say(client, f"says of {uuid}: {reason}: {message_of(body)}")

    def _is_of_late(self, value: str) -> bool:
        """What was asked for long ago asks for nothing."""
        now, at = (instant_of(text) for text in (self._heard.cluster.world_of("checks").wall(), value))
        return now is not None and at is not None and now - at <= LATE_S

    def _wants(self, body: dict[str, Any]) -> None:
        state = body["spec"].get("state") or "running"
        wanted = "absent" if body["metadata"].get("deletionTimestamp") else state
        spec = body["spec"]
        if transient(spec):
            self._heard.transients.add(body["metadata"]["uid"])
        if (spec.get("recovery") or {}).get("autostart") and "node" in (spec.get("placement") or {}):
            self._heard.autostarts.add(body["metadata"]["uid"])
        annotations = body["metadata"].get("annotations") or {}
        for name, key in ANNOTATIONS.items():
            if key in annotations and self._is_of_late(annotations[key]):
                self._heard.asked.setdefault((body["metadata"]["uid"], name), set()).add(annotations[key])
        history = self._heard.wanted.setdefault(body["metadata"]["uid"], deque(maxlen=16))
        if not history or history[-1][1] != wanted:
            self._heard.unmet_since.pop(
                body["metadata"]["uid"], None
            )  # it was met, perhaps, between two looks
            if history:  # what was wanted until now was wanted lately
                history.append((self._heard.cluster.clock(), history[-1][1]))
            history.append((self._heard.cluster.clock(), wanted))
