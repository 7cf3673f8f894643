"""The controller's own records: what it promised, what operators decided, who may act.

These stand in etcd beside the users' objects (see `controller.keys`) and are written only by fenced
transactions (`controller.ledger`), but for the decisions, which the API writes and the leader obeys.
`Assignment` is the heart: it outlives its object until the domain is proved absent everywhere it may be.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

EVENT_LIFETIME_S: Final = 3600


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of what is kept as JSON in etcd."""


class IntentKind(enum.StrEnum):
    """Why the domain's node is being asked for something. Recorded before anything is sent (I20)."""

    START = "start"
    DEFINE = "define"
    STOP = "stop"
    REVOKE = "revoke"  # take the definition away from `node` (R1)
    DELETE = "delete"
    PAUSE = "pause"
    RESUME = "resume"
    SAVE = "save"
    FORGET = "forget"  # take the definition of a running domain away: it is transient from then on
    DROP_SAVED = "drop-saved"
    REBOOT = "reboot"
    RESET = "reset"
    MIGRATE = "migrate"  # from `node` to `target`: what became of it is read by table M (safety §5)


class Copy(enum.StrEnum):
    """What is recorded of the copy that a migration leaves standing at its target."""

    STANDING = ""  # nothing yet: it has not run
    WHOLE = "whole"  # the source stood still and is destroyed: nothing ran since this copy was made
    LET_GO = "let-go"  # it may run: recorded before its resume is sent
    OLD = "old"  # the source ran on without it: it must never run, and is destroyed


class Intent(Record, frozen=True, kw_only=True):
    """One recorded purpose. `op` names the operation in logs and events; `why` is for people. Of a migration:
    `target`, the `request` (a Migration's uid), whether it `copies` disks that the hosts do not share,
    whether what arrives `goes_on` (it ran when it left, and stands at the target until it is resumed), and
    what became of the `copy` there. Of a start: why the domain was off `before`, as its home said."""

    kind: IntentKind
    node: str
    epoch: int
    op: str
    why: str
    at: str  # RFC 3339
    target: str = ""
    request: str = ""
    copies: bool = False
    goes_on: bool = False
    copy: Copy = Copy.STANDING
    before: str = ""


class MoveOutcome(enum.StrEnum):
    """How an attempt to move a domain ended; all but RETRYING end the request."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ABORTED = "Aborted"
    RETRYING = "Retrying"


class MoveRecord(Record, frozen=True, kw_only=True):
    """The last attempt to move a domain, recorded with the transaction that closed its intent, so that the
    request learns of it whatever happens in between. `request`: the Migration's uid. `reason`: one word."""

    request: str
    source: str
    target: str
    outcome: MoveOutcome
    reason: str
    message: str
    attempts: int
    at: str
    began_at: str = ""
    downtime_ms: int | None = None
    copied_bytes: int | None = None


class Rule(enum.StrEnum):
    """The proofs by which a domain may leave a node (safety: R1, R3; R2 comes with fencing)."""

    REVOKED = "R1"  # undefined there, then listed absent
    CONFIRMED_DEAD = "R3"  # an operator vouches for the node being dead
    RESOLVED = "resolved"  # an operator vouches for this one domain not being there
    MOVED = "M"  # migrated, both ends read, and none of it left there
    ABSENT = "absent"  # read as absent everywhere, twice, after it vanished


BY_WORD: Final = frozenset({Rule.CONFIRMED_DEAD, Rule.RESOLVED})
"""Proofs that rest on what an operator said, and end when the node speaks for itself."""


class Proof(Record, frozen=True, kw_only=True):
    """`node` no longer holds the capability to run the domain as of `epoch`. `vanished`: the definition
    was gone before it was taken, or its last state proved nothing, so a start needs the full read of I22.
    `wiped`: whoever vouched also said that nothing on the node's disks starts again. `used`: the domain was
    started on the strength of it, which nobody can take back."""

    node: str
    rule: Rule
    epoch: int
    at: str
    vanished: bool = False
    wiped: bool = False
    used: bool = False


class Answered(Record, frozen=True, kw_only=True):
    """What became of the request that had this value. `outcome`: BEGUN before anything is sent, and later
    what came of it; neither the value that stands here nor one that is not later is ever carried out again.
    `latest`: the latest that was answered before, where that is not this one: it was earlier, or of a time
    that had not come ("": there was none)."""

    value: str
    outcome: str
    at: str = ""
    latest: str | None = None

    @property
    def counts_to(self) -> str:
        """Only what is later is a request."""
        return self.value if self.latest is None else self.latest


class MovedDisk(Record, frozen=True, kw_only=True):
    """A disk that somebody moved by hand. `source`: what it stands on; `defined`: its definition says so too,
    and not its running copy alone."""

    source: str
    defined: bool = False


BEGUN: Final = "begun"
DONE: Final = "done"


class Assignment(Record, frozen=True, kw_only=True):
    """`candidates`: every node that may hold the domain or its definition; a node leaves this set only by a
    proof. A start on `node` needs candidates == {node} (I2). `config`: the inactive XML last given to or
    read from libvirt. `tombstone`: deletion was asked for (I11). `started`: a start was ever intended.
    `retired_macs`: no longer wanted, but it may still run with them. `stopped`: it is inactive because that
    was wanted, so the restart policy does not speak. `ended`: how it ended by itself, once that policy let it
    rest: so it stays until it runs, or is stopped because that is wanted. `paused`: its processors stand
    still because that was wanted, so it may be resumed when it is wanted no more. `saved`: the digest of the
    definition that stood beside saved memory when that was first seen; `save_room`: whether room for it was
    looked for ("checked", "unchecked"). `away`: a migration that was not ours took it from its home, and
    nobody saw where to. `autostart`: its definition at home may have it set. `requests`: by name, the last
    one of each that was answered. `moved_disks`: by name, those that stand elsewhere than domctl put them,
    by hand; `older_disks`: what was given before `config` and may still be in use."""

    cluster: str
    uuid: str
    namespace: str
    name: str
    libvirt_name: str
    node: str
    epoch: int
    candidates: tuple[str, ...]
    intent: Intent | None = None
    config: str | None = None
    digest: str = ""
    proofs: tuple[Proof, ...] = ()
    macs: dict[str, str] = {}
    retired_macs: tuple[str, ...] = ()
    vcpus: int = 1
    memory_bytes: int = 0
    tombstone: bool = False
    started: bool = False
    stopped: bool = False
    ended: str = ""
    paused: bool = False
    saved: str = ""
    save_room: str = ""
    away: bool = False
    autostart: bool = False
    requests: dict[str, Answered] = {}
    moved_disks: dict[str, MovedDisk] = {}
    older_disks: dict[str, tuple[str, ...]] = {}
    restarts: int = 0
    last_move: MoveRecord | None = None


class Decision(Record, frozen=True, kw_only=True):
    """An operator's word, audited. confirm-dead: `node`; `wiped`: replaced, so nothing on its disks starts
    again. resolve: `not_on` (each counts as a read of that node for this domain) or `keep`. store ack: the
    `nodes` that need not be read."""

    by: str
    at: str
    reason: str = ""
    node: str = ""
    wiped: bool = False
    not_on: tuple[str, ...] = ()
    keep: str = ""
    nodes: tuple[str, ...] = ()


class Identity(Record, frozen=True, kw_only=True):
    """A host's identity, pinned to the Node that first reached it."""

    node: str
    at: str


class Quarantine(Record, frozen=True, kw_only=True):
    """`node` was taken for dead and may come back with domains that have moved on (I15)."""

    node: str
    rule: Rule
    at: str
    uuids: tuple[str, ...] = ()


class LeaderRecord(Record, frozen=True, kw_only=True):
    id: str
    host: str
    at: str
    resigned: bool = False


class ClusterRecord(Record, frozen=True, kw_only=True):
    id: str
    created_at: str


class StoreMemory(Record, frozen=True, kw_only=True):
    """What a replica keeps on its own disk, to recognise a restored or replaced store. `revision` and
    `value`: the heartbeat's mod revision and value; `high_revision`: the highest revision of the store ever
    seen. `doubt`: why the store is not trusted (a StoreTrust), since its revision `doubt_revision`, in the
    words of `sentence`; `excused`: nodes that an operator said need not be read; `meanwhile`: what was seen
    of a store that is doubted, beside what is remembered of the one known."""

    cluster: str = ""
    revision: int = 0
    value: str = ""
    high_revision: int = 0
    doubt: str = ""
    doubt_revision: int = 0
    sentence: str = ""
    excused: tuple[str, ...] = ()
    meanwhile: StoreMemory | None = None
