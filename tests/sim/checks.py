"""What must hold, checked against ground truth: hosts, etcd and what left the replicas, never a cache.

Each complaint names its invariant (I1 to I22, L1 to L4 of the protocol). Hosts tell of each change, doors of
each call, etcd of each transaction; `sample` looks at all of it now and then. Duplicates, definitions and
starts that an administrator makes by hand are his: the people of the run make none that the README excludes.
"""

from __future__ import annotations

from typing import Final

from tests.sim.cluster import Cluster
from tests.sim.commandchecks import CommandChecks
from tests.sim.converged import is_met, message_of, says_ready
from tests.sim.heard import Heard, Violation
from tests.sim.hostchecks import HostChecks
from tests.sim.storechecks import StoreChecks

UNMET_S: Final = 90.0
LIST_EVERY_S: Final = 75.0


class Checks:
    """Hear everything, complain of what must not be."""

    def __init__(self) -> None:
        self._heard = Heard()
        hosts, commands, store = HostChecks(self._heard), CommandChecks(self._heard), StoreChecks(self._heard)
        self.changed, self.sent, self.called = hosts.changed, commands.sent, commands.called
        self.transacted, self.restored = store.transacted, store.restored

    @property
    def cluster(self) -> Cluster:
        return self._heard.cluster

    @cluster.setter
    def cluster(self, cluster: Cluster) -> None:
        self._heard.cluster = cluster

    @property
    def violations(self) -> list[Violation]:
        return self._heard.violations

    @property
    def mutations(self) -> int:
        return self._heard.mutations

    def complain(self, invariant: str, text: str) -> None:
        self._heard.complain(invariant, text)

    def read_at(self, client: str, host: str) -> float:
        return self._heard.reads_since.get((client, host), float("-inf"))

    def renewed(self, client: str, sent_at: float) -> None:
        self._heard.renewed[client] = sent_at

    def answered(self, client: str, revision: int) -> None:
        """A transaction's answer reached its process."""
        self._heard.known[client] = max(self._heard.known.get(client, 0), revision)

    def died(self, client: str) -> None:
        """Its process is gone, and with it all that it had in mind."""
        self._heard.known.pop(client, None)
        self._heard.renewed.pop(client, None)
        for key in [key for key in self._heard.doubtful if key[0] == client]:
            del self._heard.doubtful[key]
        for listed in [key for key in self._heard.listed if key[0] == client]:
            del self._heard.listed[listed], self._heard.reads_since[listed]

    def sample(self) -> None:
        cluster, now = self._heard.cluster, self._heard.cluster.clock()
        leader = cluster.leader
        name = leader.name if leader is not None and leader.runs else ""
        term = self._heard.term_of(name) if name else ""
        if term != self._heard.leading[0]:
            self._heard.leading = (term, now)
        stable_s = now - self._heard.leading[1] if term and cluster.etcd.running else 0.0
        if leader is not None and name:
            self._check_lists(name, stable_s, now)
        self._check_reasons(name, stable_s, now)

    def _check_lists(self, leader: str, stable_s: float, now: float) -> None:
        """I18, I16: every host that can be reached is read again and again, whatever others do. A new leader
        whose own way to etcd is bad cannot read yet which hosts there are (seed 1179): until its first list,
        or until that way is mended, from when on the time counts. Who read one host knows of all."""
        nodes = self._heard.cluster.objects("nodes")
        began = any(client == leader for client, _ in self._heard.first_listed)
        knows_hosts = began or self._heard.cluster.replicas[leader].ways.good
        for host_name, host in self._heard.cluster.hosts.items():
            key = (leader, host_name)
            fine = (
                knows_hosts
                and host_name in nodes
                and self._heard.cluster.network.up(leader, host_name)
                and host.powered
                and host.daemon == "up"
                and "deletionTimestamp" not in nodes[host_name]["metadata"]
                and f"{host_name}/" in nodes[host_name]["spec"]["uri"]  # the drill another_machine
            )
            if not fine:
                self._heard.reachable_since.pop(key, None)
                continue
            since = self._heard.reachable_since.setdefault(key, now)
            fine_s = min(stable_s, now - since)
            listed_at = self._heard.listed.get(key, -1e9)
            if fine_s > LIST_EVERY_S and now - listed_at > LIST_EVERY_S:
                self._heard.complain("I18", f"{leader} did not list {host_name} in {LIST_EVERY_S:.0f} s")

    def _check_reasons(self, leader: str, stable_s: float, now: float) -> None:
        """L4: what is not as wanted says so, where it can: nothing is written into an etcd that is stopped or
        frozen (seed 31101), or by a leader whose own way there is bad (seed 78 of slow_lease)."""
        cluster = self._heard.cluster
        leads = cluster.replicas.get(leader)
        if cluster.etcd_away_at is not None or (leads is not None and leads.ways.hopeless):
            self._heard.unmet_since.clear()
            return
        for name, body in self._heard.cluster.objects("domains").items():
            uuid = body["metadata"]["uid"]
            if is_met(self._heard.cluster, body):
                self._heard.unmet_since.pop(uuid, None)
                continue
            since = self._heard.unmet_since.setdefault(uuid, now)
            if min(now - since, stable_s) > UNMET_S and leader and says_ready(body):
                self._heard.complain("L4", f"{name} is not as wanted and its status says that it is")
            if min(now - since, stable_s) > UNMET_S and not message_of(body):
                self._heard.complain("L4", f"{name} is not as wanted and no reason is shown")
