"""What a plan is made from: everything the controller wants, promised and saw, as one immutable view.

`controller.cache` builds it without copying; a plan runs between two awaits, so nothing moves beneath it.
The same types can be filled from a dump or an invented cluster. Times are monotonic seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec import Struct, UnsetType, field

from controller.limits import Timing
from controller.model import Assignment, Decision, Intent, Quarantine
from drivers.errors import SAID_BY_HOST
from drivers.hypervisor import Capabilities, Detail, HostFacts, Job, Record
from specs.domain import Domain
from specs.graphics import SecretFacts
from specs.migration import Migration
from specs.node import Node

T = TypeVar("T")


class Link(enum.StrEnum):
    """How it stands with a node's connection."""

    CONNECTING = "Connecting"
    READY = "Ready"
    SUSPECT = "Suspect"  # it answered, but not lately
    BACKING_OFF = "BackingOff"  # it does not answer; tried again with growing pauses
    REFUSED = "Refused"  # it answers, and must not be used: identity, authentication or URI


class NodeView(Struct, frozen=True):
    """What the observer knows of a node. `session` numbers unbroken connections (0: none). `reads` are the
    (sent, ended) instants of its last complete listings, newest last. `first_read_at`: when this leader
    first completed a listing there. `cause`: a word for why it cannot be talked to, where that is known.
    `denied_at`: when something at its address last refused us, or was not who it should be."""

    link: Link = Link.CONNECTING
    why: str = ""
    since: float = 0.0
    session: int = 0
    facts: HostFacts | None = None
    capabilities: Capabilities | None = None
    identity_pinned: bool = False
    first_read_at: float | None = None
    reads: tuple[tuple[float, float], ...] = ()
    cause: str = ""
    denied_at: float | None = None

    @property
    def answers(self) -> bool:
        """Its listings may be believed: reachable, listed on this session, and who it says it is."""
        return self.link is Link.READY and self.identity_pinned and bool(self.reads)

    @property
    def denies(self) -> bool:
        """Something at its address refuses us, or is not who it should be: not dead, whatever it is."""
        return self.link is Link.REFUSED and self.cause in SAID_BY_HOST


UNSEEN = NodeView()  # of a node that nobody has looked at


class Usage(Struct, frozen=True):
    """What is promised or taken on one host: domains of ours by their spec, foreign ones as they are."""

    vcpus: int = 0
    memory_bytes: int = 0

    def plus(self, vcpus: int, memory_bytes: int) -> Usage:
        return Usage(self.vcpus + vcpus, self.memory_bytes + memory_bytes)


class Sighting(Struct, frozen=True):
    """A domain as last seen on one node; since `since` it was seen in this state for this reason."""

    record: Record
    detail: Detail
    seen_at: float
    since: float

    @property
    def in_migration(self) -> bool:
        """MIG of the protocol: paused by an incoming or outgoing migration (safety §5)."""
        return self.record.state == "paused" and self.record.reason in ("migration", "starting-up")

    @property
    def active(self) -> bool:
        """It holds its disks: libvirt's isActive, but not MIG."""
        return self.record.active and not self.in_migration


@dataclass(frozen=True, slots=True)
class WitnessedEnd:
    """STOPPED, with libvirt's `detail`, seen on the unbroken connection `session` over which the domain was
    known to run before (I22a; 0: it was not, which proves nothing)."""

    session: int
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class StoredNode:
    node: Node
    revision: int


@dataclass(frozen=True, slots=True)
class StoredDomain:
    """`created`: the store's revision when it was created; 0: not known, so it may be as old as can be."""

    domain: Domain
    revision: int
    created: int = 0


def namespace_of(stored: StoredDomain) -> str:
    namespace = stored.domain.metadata.namespace
    return "default" if isinstance(namespace, UnsetType) else namespace


@dataclass(frozen=True, slots=True)
class StoredMigration:
    """`created`: the store's revision when it was created, which orders requests whatever clocks say."""

    migration: Migration
    revision: int
    created: int = 0


@dataclass(frozen=True, slots=True)
class MoveWatch:
    """What this leader saw of a migration that is recorded as an intent. `in_flight`: its own call has not
    returned; `over_at`: when it did, or was given up (`unsure`: what was sent may still be carried out);
    `error`: what it said then, `rejected`: that it will say so again. `job` is what the source answered at
    `asked_at`; `still_since`: no byte was copied since. `read`: when source and target were last read in this
    order: the first request sent, and the second one sent after its reply. `began_at`, `source_session` and
    `target_session`: when the call was sent, and over which connections its ends were heard then (0: not by
    this leader). `answered_at`: when the source answered first after an unsure call was over. `done`: the
    call said that it was carried out; `result`: what the target tells of it, once it has arrived there."""

    in_flight: bool = False
    over_at: float = 0.0
    unsure: bool = False
    error: str = ""
    rejected: bool = False
    no_path: bool = False
    job: Job | None = None
    asked_at: float | None = None
    still_since: float = 0.0
    read: tuple[float, float] | None = None
    began_at: float = 0.0
    source_session: int = 0
    target_session: int = 0
    answered_at: float | None = None
    done: bool = False
    result: Job | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """An assignment and the revision at which it was read or written."""

    assignment: Assignment
    revision: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """How far a shutdown has come: rung `step` was tried at `asked_at`."""

    step: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """The last attempt failed: `count` times in a row, not again before `until`."""

    count: int
    until: float
    message: str
    disk_locked: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """libvirt refused `digest` on `node` and will again; only another spec helps."""

    node: str
    digest: str
    message: str


@dataclass(frozen=True, slots=True)
class Restarts:
    """Starts in a row without a stable run between them."""

    count: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Policy:
    """What the cluster's configuration allows."""

    hand_migrations: bool = False
    xml_overlay: bool = False
    migrations_per_node: int = 4


@dataclass(frozen=True, slots=True)
class Term:
    """This leader's term. After a predecessor that did not resign, late commands may still arrive."""

    elected_at: float
    predecessor_resigned: bool


class Snapshot(Struct, frozen=True):
    """Maps are by node name or by domain UUID. `hold`: why nothing at all may be changed now ("" if it
    may). `wall_s`: seconds since 1970 by this controller's clock, for times that people wrote; nothing else
    is measured by it. `unreadable`: UUIDs whose assignment in etcd cannot be read. `signs`: last event, or
    sighting where it was not expected, of a UUID; `heard`: the last event alone. `migrated`: UUIDs for which
    a migration was seen since they were last active at home. `vanished`: when what was seen on a node was
    first read as not there any more. `names`: libvirt names on each node. `requests`: by
    namespace/name of the domain, those that have not ended, oldest first. `moving`: open intents to migrate.
    `unanswered`: where a definition or start of ours was not answered, and when that node was listed first
    since (None: not yet). `inherited`: by UUID, the operation that a former leader left open. `kin`: the
    other nodes of a node's host. `resumes`: when a domain was last heard to resume on a node, or seen to run
    where it is not at home; `suspends`: when it was last heard to stand still there for a migration.
    `secrets`: by namespace and name, what may be known of Secrets.
    `dead_since`, `resolved_since`, `proved_since`: from when on the word of a node, the word that a domain is
    not on a node, and a proof by either counts: what answered there since speaks for itself.
    `revisions`: of keys of the store, as last seen.
    `acknowledged_at`: the store's revision when an operator last acknowledged that it had lost its past, 0 if
    nobody ever did. `memo`: by UUID and question, what rendering and comparing definitions came to, with what
    it was asked of; plans ask the same again and again. `shared`: what was found out of this snapshot that no
    single domain's case depends on (`once`)."""

    now: float
    cluster: str
    term: Term
    timing: Timing
    policy: Policy
    hold: str = ""
    wall_s: float = 0.0
    unreadable: frozenset[str] = frozenset()
    nodes: Mapping[str, StoredNode] = field(default_factory=dict)
    views: Mapping[str, NodeView] = field(default_factory=dict)
    domains: Mapping[str, StoredDomain] = field(default_factory=dict)
    assignments: Mapping[str, Held] = field(default_factory=dict)
    sightings: Mapping[str, Mapping[str, Sighting]] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, SecretFacts]] = field(default_factory=dict)
    kin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dead: Mapping[str, Decision] = field(default_factory=dict)
    dead_since: Mapping[str, float] = field(default_factory=dict)
    quarantine: Mapping[str, Quarantine] = field(default_factory=dict)
    resolutions: Mapping[str, Decision] = field(default_factory=dict)
    resolved_since: Mapping[tuple[str, str], float] = field(default_factory=dict)
    proved_since: Mapping[tuple[str, str], float] = field(default_factory=dict)
    awaiting: Mapping[tuple[str, str], float] = field(default_factory=dict)
    unanswered: Mapping[tuple[str, str], float | None] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[tuple[str, str], WitnessedEnd] = field(default_factory=dict)
    signs: Mapping[str, float] = field(default_factory=dict)
    heard: Mapping[str, float] = field(default_factory=dict)
    migrated: Collection[str] = frozenset()
    vanished: Mapping[tuple[str, str], float] = field(default_factory=dict)
    ladders: Mapping[str, Ladder] = field(default_factory=dict)
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    unwritten: Mapping[str, Backoff] = field(default_factory=dict)
    stalls: Mapping[str, Stall] = field(default_factory=dict)
    unreadable_saves: Mapping[str, str] = field(default_factory=dict)
    unsupported: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    restarts: Mapping[str, Restarts] = field(default_factory=dict)
    requests: Mapping[str, tuple[StoredMigration, ...]] = field(default_factory=dict)
    moving: Mapping[str, Intent] = field(default_factory=dict)
    watches: Mapping[str, MoveWatch] = field(default_factory=dict)
    resumes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    suspends: Mapping[tuple[str, str], float] = field(default_factory=dict)
    move_backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    acknowledged_at: int = 0
    memo: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, question: Hashable, answer: Callable[[], T]) -> T:
        """What `answer` says, asked once of this snapshot. Only what stays as it is while a plan is made."""
        if question not in self.shared:
            self.shared[question] = answer()
        found: T = self.shared[question]
        return found
