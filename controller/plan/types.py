"""What a plan says: actions that leave the executor no choice, and deferrals that say why not.

For each domain a plan holds exactly one `Verdict`: its situation, and either an action, or a reason for
doing nothing, or neither when it is converged. A `Deferred` always names the rule, what is missing and, if
a human can end it, the command that does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from msgspec import Struct

from controller.model import Assignment, Decision
from drivers.hypervisor import Mark, Move, StopMethod
from specs.graphics import SecretUse


class Situation(enum.StrEnum):
    """A domain's class: the first rule that matches (controller.plan.classify)."""

    CONVERGED = "Converged"
    NEW = "New"
    MISSING = "Missing"
    STOPPED = "Stopped"
    DRIFTED = "Drifted"
    STRAY = "Stray"
    ELSEWHERE = "Elsewhere"
    DUPLICATE = "Duplicate"
    MIGRATING = "Migrating"
    FOREIGN = "Foreign"
    DELETING = "Deleting"
    ABANDONED = "Abandoned"
    UNKNOWN = "Unknown"
    HELD = "Held"


class Reason(enum.StrEnum):
    """Why nothing is being done; shown to users as it stands here."""

    STORE_NOT_TRUSTED = "StoreNotTrusted"
    STORE_RESTORED = "StoreRestored"
    ASSIGNMENT_UNREADABLE = "AssignmentUnreadable"
    FOREIGN_MARK = "ForeignMark"
    DUPLICATE = "Duplicate"
    MIGRATING = "Migrating"
    MIGRATION_DOUBT = "MigrationDoubt"
    MIGRATION_QUEUED = "MigrationQueued"
    NO_PEER_PATH = "NoPeerPath"
    HAS_SNAPSHOTS = "HasSnapshots"
    MIGRATION_IN_PROGRESS = "MigrationInProgress"
    RUNS_ELSEWHERE = "RunsElsewhere"
    AWAITING_OBSERVATION = "AwaitingObservation"
    READING_ALL_NODES = "ReadingAllNodes"
    NODE_NOT_READ = "NodeNotRead"
    NODE_UNREACHABLE = "NodeUnreachable"
    NODE_REFUSED = "NodeRefused"
    NODE_GONE = "NodeGone"
    NODE_OBSERVE_ONLY = "NodeObserveOnly"
    QUIET_TIME = "QuietTime"
    OBJECT_MISSING = "ObjectMissing"
    UUID_IN_USE = "UuidInUse"
    NAME_TAKEN = "NameTaken"
    NODES_CONNECTING = "NodesConnecting"
    NO_NODE_FITS = "NoNodeFits"
    SPEC_REFUSED = "SpecRefused"
    REJECTED = "Rejected"
    BACKING_OFF = "BackingOff"
    DISK_LOCKED = "DiskLocked"
    DISK_MOVED_BY_HAND = "DiskMovedByHand"
    CRASH_LOOP = "CrashLoop"
    COMPLETED = "Completed"
    PAUSED_BY_HAND = "PausedByHand"
    PAUSED_ON_ERROR = "PausedOnError"
    JOB_IN_PROGRESS = "JobInProgress"
    NOTHING_TO_SAVE = "NothingToSave"
    SAVED_OTHERWISE = "SavedOtherwise"
    SAVE_UNREADABLE = "SaveUnreadable"
    SAVE_IN_THE_WAY = "SaveInTheWay"
    CRASHED_PRESERVED = "CrashedPreserved"
    SUSPENDED = "Suspended"
    STARTING_UP = "StartingUp"
    STUCK_START = "StuckStart"
    POSTCOPY = "PostCopy"
    ORPHAN_COPIES = "OrphanCopies"
    AUTOSTART_ON_DEAD_NODE = "AutostartOnDeadNode"
    INTERNAL = "InternalError"
    SHUTTING_DOWN = "ShuttingDown"
    SHUTDOWN_IGNORED = "ShutdownIgnored"
    MUST_STOP_TO_MOVE = "MustStopToMove"
    PINNED_BY_STORAGE = "PinnedByStorage"
    PATH_IN_USE = "PathInUse"
    DRIVER_UNPROVED = "DriverUnproved"
    UNSUPPORTED = "Unsupported"


STALLING = frozenset(
    {
        Reason.STORE_RESTORED,
        Reason.ASSIGNMENT_UNREADABLE,
        Reason.FOREIGN_MARK,
        Reason.DUPLICATE,
        Reason.MIGRATION_DOUBT,
        Reason.NO_PEER_PATH,
        Reason.HAS_SNAPSHOTS,
        Reason.RUNS_ELSEWHERE,
        Reason.NODE_REFUSED,
        Reason.NODE_GONE,
        Reason.NODE_OBSERVE_ONLY,
        Reason.OBJECT_MISSING,
        Reason.UUID_IN_USE,
        Reason.NAME_TAKEN,
        Reason.SPEC_REFUSED,
        Reason.REJECTED,
        Reason.DISK_LOCKED,
        Reason.DISK_MOVED_BY_HAND,
        Reason.PAUSED_BY_HAND,
        Reason.PAUSED_ON_ERROR,
        Reason.NOTHING_TO_SAVE,
        Reason.SAVED_OTHERWISE,
        Reason.SAVE_UNREADABLE,
        Reason.SAVE_IN_THE_WAY,
        Reason.CRASHED_PRESERVED,
        Reason.SHUTDOWN_IGNORED,
        Reason.STUCK_START,
        Reason.POSTCOPY,
        Reason.ORPHAN_COPIES,
        Reason.AUTOSTART_ON_DEAD_NODE,
        Reason.INTERNAL,
        Reason.MUST_STOP_TO_MOVE,
        Reason.PINNED_BY_STORAGE,
        Reason.PATH_IN_USE,
        Reason.DRIVER_UNPROVED,
        Reason.UNSUPPORTED,
    }
)
"""Reasons that no waiting ends: a human or another spec is needed (kstatus: Stalled)."""


class Deferred(Struct, frozen=True):
    """`command` ends the hold, where a human can. `relist`: nodes to be read again now. `retry_after_s`:
    look again then even if nothing is heard (None: wait for an event)."""

    reason: Reason
    message: str
    command: str = ""
    relist: tuple[str, ...] = ()
    retry_after_s: float | None = None


class ActionKind(enum.StrEnum):
    """One purpose each; their steps are a table in controller.executor."""

    START = "start"
    DEFINE = "define"
    SHUTDOWN = "shutdown"
    DESTROY = "destroy"
    PAUSE = "pause"
    RESUME = "resume"
    SAVE = "save"
    FORGET = "forget"  # transient: undefine while it runs
    DROP_SAVED = "drop-saved"
    REBOOT = "reboot"
    RESET = "reset"
    REVOKE = "revoke"  # R1: undefine, list, prove
    RELEASE = "release"  # a node leaves the candidates by a proof already at hand
    RECORD = "record"  # the assignment alone changes
    MARK = "mark"
    AUTOSTART = "autostart"
    HAND_BACK = "handback"
    FINISH = "finish"  # the object and its assignment go
    MIGRATE = "migrate"  # the source gives its definition up, then libvirtd moves it, peer to peer
    ABORT = "abort"  # the source's job is ended
    GO_ON = "go-on"  # a source that a migration left paused
    UNPLANT = "unplant"  # a definition that no end of a migration should have is taken away


class Premise(Struct, frozen=True):
    """What stood at `key` when an action was decided on: its revision (0: nothing stood there; None: not
    known, so that it is read before anything is written) and what it means (`controller.plan.premises`)."""

    key: str
    revision: int | None
    meaning: object


@dataclass(frozen=True, slots=True)
class Action:
    """One mutation, fully determined. `before_revision` is the assignment's (0: there is none), and
    `object_revision` the object's (0: none). The transaction that records it holds only if the assignment
    still stands, and if its `premises` mean what they meant.
    `after`: the assignment as it is recorded before anything is sent (None: it is removed). `proved`: the
    assignment once the last step has proved what it should (revoke). `reserve`: MACs to be taken.
    `room_bytes`: what a save may need on the host's disk.
    `consumes`: it acts on an operator's resolution, of which only `left` stands afterwards. `target` and
    `move`: of a migration; of one that is to be ended, `target` has a definition that goes with it.
    `dead`: of a start, nodes that it takes for dead by a word that stands.
    `secrets`: whose values are put into `xml` (and that of `move`) when it is sent, and stand in neither.
    `is_clear`: what migrations of it were seen is accounted for. `retry_after_s`: the attempt to move it
    failed, and the next one is not made before. `persists`: the hold that it tries to end once more, which
    stands until it is done. `limit_s`: how long the call may take, where that is less than the driver's own
    deadline."""

    kind: ActionKind
    uuid: str
    key: str
    node: str
    why: str
    before_revision: int
    object_revision: int
    generation: int
    after: Assignment | None
    settled: Assignment | None = None
    xml: str | None = None
    mark: Mark | None = None
    method: StopMethod | None = None
    step: int = 0
    autostart: bool = False
    room_bytes: int = 0
    reserve: tuple[str, ...] = ()
    release_macs: tuple[str, ...] = ()
    quarantine: tuple[str, ...] = ()
    consumes: bool = False
    left: Decision | None = None
    target: str = ""
    move: Move | None = None
    is_clear: bool = False
    retry_after_s: float = 0.0
    persists: Deferred | None = None
    limit_s: float | None = None
    dead: tuple[str, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    premises: tuple[Premise, ...] = ()


class Verdict(Struct, frozen=True):
    """What the plan makes of one domain. `note`: what is worth saying though nothing is wrong, such as
    fields that wait for a restart (`pending`: path, live value, desired value). `again_after_s`: all is well,
    and something that was asked for waits: look again then."""

    situation: Situation
    action: Action | None = None
    deferred: Deferred | None = None
    note: str = ""
    pending: tuple[tuple[str, str, str], ...] = ()
    again_after_s: float | None = None


Answer = Action | Deferred | Verdict | None
"""What a rule says of a case. None: it does not apply."""
