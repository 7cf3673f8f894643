"""What leaves its host, checked against ground truth: more of `checks`.

A migration is sent only after its target was read once more; a source that it left paused and alone is ended
by nobody unasked; disks on a host's own storage are where their domain last ran, or was copied to; and where
a domain went that somebody moved by hand is written down before it is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from controller import keys
from controller.model import Assignment, Intent, IntentKind
from drivers.store import Compare, Put, TxnResult, Write
from specs.domain import ACTIVE_STATES
from tests.sim import definition
from tests.sim.checks import Checks
from tests.sim.cluster import Cluster
from tests.sim.converged import message_of
from tests.sim.domain import Change
from tests.sim.doors import Call
from tests.sim.hypervisor import Sent

LATELY_S = 60.0  # what a leader may still take for there
DOMAINS = keys.object_prefix("domains")
ELSEWHERE = re.compile(r"it runs on (?P<node>\S+), not on \S+ where domctl put it")


class Leaving:
    """Hears what everybody else hears, too; complaints are those of `checks`."""

    def __init__(self, cluster: Cluster, checks: Checks) -> None:
        self._cluster = cluster
        self._complain = checks.complain
        self._departs: dict[tuple[str, str], tuple[float, Intent]] = {}  # by client and uuid
        self._read_at: dict[tuple[str, str, str], float] = {}  # by client, host and uuid ("": a list)
        self._defined_at: dict[tuple[str, str], float] = {}  # by host and uuid
        self._shown_at: dict[tuple[str, str, str], float] = {}  # and was answered by what is there
        self._undefined_at: dict[tuple[str, str, str], float] = {}  # by client, host and uuid: asked to be
        self._left_at: dict[tuple[str, str], float] = {}  # by host and uuid
        self._as_good: dict[str, str] = {}  # another host whose disks are what those at the last are

    def listen(self) -> None:
        """Before any replica starts."""
        notes = self._cluster.notes

        def sent(one: Sent) -> None:
            self.sent(one)
            notes.sent(one)

        def called(call: Call) -> None:
            self.called(call)
            notes.called(call)

        self._cluster.notes = replace(notes, sent=sent, called=called)
        self._cluster.etcd.listeners.append(self.transacted)
        for host in self._cluster.hosts.values():
            host.listeners.append(self.changed)

    # --- what is sent

    def called(self, call: Call) -> None:
        if call.call in ("list", "detail") and (call.uuid or not call.failed):
            self._read_at[call.client, call.host, call.uuid] = call.began_at
        if call.call in ("list", "detail") and not call.failed:
            self._shown_at[call.client, call.host, call.uuid] = call.began_at

    def sent(self, sent: Sent) -> None:
        departs_at, intent = self._departs.get((sent.client, sent.uuid), (0.0, None))
        if intent is None:
            return
        if sent.call == "migrate":
            self._check_target_read(sent, departs_at, intent)
        if sent.call == "undefine":
            self._undefined_at[sent.client, sent.host, sent.uuid] = sent.at
        if sent.call == "abort_job":
            self._check_target_bare(sent, intent)
        if sent.call == "destroy":
            self._check_only_copy(sent, intent)

    def _check_target_read(self, sent: Sent, departs_at: float, intent: Intent) -> None:
        """Safety 5: the target has no capability of its own, as it was read since the intent stands."""
        where = (sent.client, intent.target)
        if max(self._read_at.get((*where, u), -1.0) for u in (sent.uuid, "")) < departs_at:
            self._complain("I2", f"{sent.client} sends {sent.uuid} to {intent.target}, and did not read that")

    def _check_target_bare(self, sent: Sent, intent: Intent) -> None:
        """Safety 5: before an abort goes, or is asked to go, what the target could be started with, if it was
        read there."""
        target = self._cluster.hosts[intent.target]
        if target.daemon != "up" or not self._cluster.network.up(sent.client, target.name):
            return  # nobody can ask it just now
        domain = target.domains.get(sent.uuid)
        defined_at = self._defined_at.get((intent.target, sent.uuid), float("inf"))
        where = (sent.client, intent.target)
        read_at = max(self._shown_at.get((*where, u), -1.0) for u in (sent.uuid, ""))
        if self._undefined_at.get((sent.client, intent.target, sent.uuid), -1.0) > defined_at:
            return  # it waits there, for the migration has the domain
        if domain is not None and domain.config is not None and read_at > defined_at:
            self._complain(
                "I2", f"{sent.client} ends the move of {sent.uuid}, which {intent.target} can start"
            )

    def _check_only_copy(self, sent: Sent, intent: Intent) -> None:
        """Table M, MIG | absent: ended by somebody's word, or by leave. So is what stands at the target when
        the source is gone, unless that ran on."""
        uuid, cluster = sent.uuid, self._cluster
        domain = cluster.hosts[sent.host].domains.get(uuid)
        stands = domain is not None and domain.came_from is not None and not domain.is_old
        if domain is None or not (stands or (domain.in_migration and sent.host == intent.node)):
            return
        since = cluster.clock() - LATELY_S
        for name, host in cluster.hosts.items():
            lately = not stands and self._left_at.get((name, uuid), -1e9) > since
            if name != sent.host and (uuid in host.domains or lately):
                return
        body = next((b for b in cluster.objects("domains").values() if b["metadata"]["uid"] == uuid), None)
        if body is None or body["metadata"].get("deletionTimestamp"):
            return
        leave = (body["spec"].get("migration") or {}).get("onDoubt") == "Reboot"
        vouched = cluster.etcd.peek(keys.resolution(uuid)) is not None
        if not leave and not vouched and (body["spec"].get("state") or "running") in ACTIVE_STATES:
            self._complain("I9", f"{sent.client} ends {uuid} on {sent.host}, the only copy, unasked")

    # --- hosts

    def changed(self, change: Change) -> None:
        if change.what in ("stopped", "vanished", "undefined"):
            self._left_at[change.host, change.uuid] = change.at
        if change.what in ("started", "resumed"):
            self._check_disks(change)
        if change.what == "defined":
            self._defined_at.setdefault((change.host, change.uuid), change.at)
        if change.what == "undefined":
            self._defined_at.pop((change.host, change.uuid), None)
        if change.what == "arriving":
            self._check_budget(change)

    def _check_budget(self, change: Change) -> None:
        """I8: what one leader moves at once, to and from one node, is bounded."""
        cluster = self._cluster
        at_work = [m for host in cluster.hosts.values() for m in host.operations.migrations.values()]
        for client in cluster.replicas:
            intents = {u: intent for (c, u), (_, intent) in self._departs.items() if c == client}
            ours = [m for m in at_work if m.uuid in intents and intents[m.uuid].target == m.target.name]
            if change.uuid not in {m.uuid for m in ours}:
                continue
            for node in (intents[change.uuid].node, change.host):
                count = sum(node in (m.source.name, m.target.name) for m in ours)
                if count > cluster.policy.migrations_per_node:
                    self._complain("I8", f"{client} moves {count} domains at once to or from {node}")

    def _check_disks(self, change: Change) -> None:
        domain = self._cluster.hosts[change.host].domains.get(change.uuid)
        if domain is None or domain.live is None:
            return
        if not definition.known(domain.live).local_disks:
            self._cluster.disks_at.pop(change.uuid, None)
            return
        last = self._cluster.disks_at.get(change.uuid, change.host)
        as_good = self._as_good.pop(change.uuid, last)
        if domain.came_from is not None:  # it stands, and has written nothing yet (seed 0 of copied_over)
            self._as_good[change.uuid] = last
        if (
            change.host not in (last, as_good)
            and change.uuid not in self._cluster.disks_forgotten
            and change.by in self._cluster.replicas
            and not self._is_shared(change.uuid)
        ):
            self._complain(
                "Pinned", f"{change.by} starts {change.uuid} on {change.host}, disks are on {last}"
            )
        if change.host not in (last, as_good):
            self._cluster.disks_forgotten.discard(change.uuid)  # from here on it is known again
        self._cluster.disks_at[change.uuid] = change.host

    def _is_shared(self, uuid: str) -> bool:
        """Somebody says so in its spec, and is believed (seed 6 of own_disk: an operator did not look)."""
        bodies = self._cluster.objects("domains").values()
        disks = [d for b in bodies if b["metadata"]["uid"] == uuid for d in b["spec"].get("disks", ())]
        return all(disk["source"].get("shared") is True for disk in disks)

    # --- etcd

    def transacted(
        self, client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if not result.ok or client not in self._cluster.replicas:
            return
        for write in writes:
            if isinstance(write, Put) and write.key.startswith(keys.ASSIGNMENTS):
                self._assigns(client, msgspec.json.decode(write.value, type=Assignment))
            elif isinstance(write, Put) and write.key.startswith(DOMAINS):
                self._check_noted(client, msgspec.json.decode(write.value))

    def _assigns(self, client: str, after: Assignment) -> None:
        intent = after.intent
        before = self._departs.pop((client, after.uuid), None)
        if intent is None or intent.kind is not IntentKind.MIGRATE:
            return
        same = before is not None and before[1] == intent
        self._departs[client, after.uuid] = before if same and before else (self._cluster.clock(), intent)

    def _check_noted(self, client: str, body: dict[str, Any]) -> None:
        """I22: the next leader may find that node silent and the domain's home empty."""
        found, held = ELSEWHERE.search(message_of(body)), self._cluster.assignment(body["metadata"]["uid"])
        if found is not None and held is not None and found["node"] not in held.candidates:
            self._complain("I22", f"{client} says of {held.name}: {found.group()}; etcd does not know")
