"""What the checks of the simulator heard, of hosts, etcd and what left the replicas, and what it comes to.

One record for all checks of a run (`checks`, `hostchecks`, `commandchecks`, `storechecks`): they write down
what they hear, ask what others heard, and complain here. Times are those of the run's clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from controller.model import Assignment, Intent, IntentKind
from tests.sim.cluster import Cluster
from tests.sim.domain import Change

LATE_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class Violation:
    at: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at:.3f}: {self.text}"


@dataclass
class Heard:
    """Of one run."""

    cluster: Cluster = field(init=False)
    violations: list[Violation] = field(default_factory=list)
    mutations: int = 0
    complained: set[tuple[str, str]] = field(default_factory=set)
    assigned: dict[str, None] = field(default_factory=dict)  # every uuid that ever was
    tokens: dict[int, str] = field(default_factory=dict)
    renewed: dict[str, float] = field(default_factory=dict)
    intents: dict[tuple[str, str], tuple[Intent, ...]] = field(default_factory=dict)
    wanted: dict[str, deque[tuple[float, str]]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    excused: set[tuple[str, str]] = field(default_factory=set)  # node and uuid
    doubtful: dict[tuple[str, str, str], float] = field(default_factory=dict)
    destroys: dict[str, deque[float]] = field(default_factory=dict)
    sent_of: dict[str, deque[float]] = field(default_factory=dict)
    listed: dict[tuple[str, str], float] = field(default_factory=dict)
    reachable_since: dict[tuple[str, str], float] = field(default_factory=dict)
    unmet_since: dict[str, float] = field(default_factory=dict)
    leading: tuple[str, float] = ("", 0.0)
    elected_at: dict[str, float] = field(default_factory=dict)
    first_listed: dict[tuple[str, str], float] = field(default_factory=dict)
    proved_at: dict[tuple[str, str], float] = field(default_factory=dict)
    by_hand: set[tuple[str, str]] = field(default_factory=set)
    migrated_at: dict[str, float] = field(default_factory=dict)
    reads_since: dict[tuple[str, str], float] = field(default_factory=dict)
    last: dict[str, Assignment] = field(default_factory=dict)
    requested: dict[str, dict[str, Any]] = field(default_factory=dict)  # Migrations, by key
    moved_cold: set[str] = field(default_factory=set)  # domains
    ended_at: dict[str, float] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    tries: dict[tuple[str, str], int] = field(default_factory=dict)  # by uuid and request
    moves_over: dict[tuple[str, str], float] = field(default_factory=dict)
    read_of: dict[tuple[str, str, str], float] = field(default_factory=dict)
    past: int = 0
    autostarts: set[str] = field(default_factory=set)  # pinned to a node, and to start there at boot
    paused_by_hand: set[tuple[str, str]] = field(default_factory=set)
    transients: set[str] = field(default_factory=set)
    asked: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # by uuid and request: its values
    once: dict[tuple[str, str], int] = field(default_factory=dict)  # and how often it was sent
    rests: dict[str, int] = field(default_factory=dict)  # said so: by uuid, the generation of which
    created_in: dict[tuple[str, str, str], int] = field(default_factory=dict)  # the past it was sent in
    moved_in: dict[tuple[str, str], int] = field(default_factory=dict)  # likewise, by source and uuid
    looked: dict[tuple[str, str], float] = field(default_factory=dict)  # by client, uuid: a last second look
    launched: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # host, uuid: candidates
    known: dict[str, int] = field(default_factory=dict)  # by client: the highest revision it was answered at
    outdated: set[tuple[str, str]] = field(default_factory=set)  # by client and uuid: see `StoreChecks`

    def complain(self, invariant: str, text: str) -> None:
        """Once for each thing, for one mistake shows itself many times."""
        if self.cluster.trace.closed:
            return
        now = self.cluster.clock()
        self.cluster.trace.say("VIOLATION", f"{invariant}: {text}")
        if (invariant, text) not in self.complained and len(self.violations) < 50:
            self.complained.add((invariant, text))
            plain = self.cluster.trace._plain(text)
            self.violations.append(Violation(now - self.cluster.trace.began_at, invariant, plain))

    def is_own_move(self, change: Change) -> bool:
        """A migration that a replica asked for, as etcd says."""
        held = self.cluster.assignment(change.uuid)
        intent = held.intent if held is not None else None
        asked = intent is not None and intent.kind is IntentKind.MIGRATE
        return asked and change.by == "migration" and change.host in (intent.node, intent.target)

    def was_wanted(self, uuid: str, state: str) -> bool:
        """Now or lately: what was on its way may come late, within the quiet time of another leader. A leader
        of another past wants what was wanted then."""
        if self.past != self.cluster.pasts:
            return True
        since = self.cluster.clock() - LATE_S
        return any(wanted == state and at >= since for at, wanted in self.wanted.get(uuid, ())) or (
            bool(self.wanted.get(uuid)) and self.wanted[uuid][-1][1] == state
        )

    def moves_cold(self, name: str) -> bool:
        """A Migration asks, or asked, for it to be shut off, moved and started again."""
        return name in self.moved_cold

    def term_of(self, client: str) -> str:
        terms = [token for token, name in self.tokens.items() if name == client]
        return f"{client}/{max(terms, default=0)}"

    def is_calm(self, client: str, since: float) -> bool:
        """Nothing went wrong or was mended since then, and `client` and etcd are on good terms."""
        cluster = self.cluster
        replica = cluster.replicas[client]
        steady = replica.process is not None and replica.process.went_on_at < since
        friends = replica.ways.good and cluster.network.up(client, "etcd") and cluster.etcd_away_at is None
        return steady and friends and cluster.last_fault_at < since
