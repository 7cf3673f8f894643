"""The Hypervisor port: what the controller may ask of one libvirt host, and what it gets back.

A `Hypervisor` opens `Session`s. A session is one unbroken relation with one host: what was witnessed on
it counts only while it lasts (safety: I22), so it never reconnects by itself; the observer opens a new
one. Reads raise `HypervisorError`s. Mutations return a `Result`, never a bool and never an exception:
Done, Rejected, Failed or Ambiguous. Domains are named by UUID, for handles die with their connection.

Implementations pass one contract suite: QEMU, LXC and libvirt's test driver through `drivers.libvirt`, each
with its table of capabilities, and the simulator. Not here: retry, back-off,
circuit breaking, what to do about anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from drivers.errors import HypervisorError
from specs.mark import MARK_NAMESPACE, Mark

__all__ = [
    "MARK_NAMESPACE",
    "Capabilities",
    "Certificate",
    "Console",
    "ConsoleEnded",
    "ConsoleOutput",
    "ConsoleSink",
    "Credentials",
    "Detail",
    "DomainFigures",
    "EventKind",
    "EventSink",
    "Figures",
    "HostEvent",
    "HostFacts",
    "HostFigures",
    "Hypervisor",
    "Job",
    "Listing",
    "Mark",
    "Move",
    "Outcome",
    "Permit",
    "Record",
    "Result",
    "Session",
    "SessionClosed",
    "State",
    "StopMethod",
    "Target",
]


class State(enum.StrEnum):
    """virDomainState, in libvirt's own words."""

    NOSTATE = "nostate"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"  # shutting down, still active
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    PMSUSPENDED = "pmsuspended"


class Record(Struct, frozen=True):
    """One domain in a listing. `reason` is libvirt's reason enumerator in lower case with dashes, without
    its prefix (shutoff: unknown, shutdown, destroyed, crashed, migrated, saved, failed, from-snapshot,
    daemon; paused: user, migration, starting-up, postcopy, ...; running: booted, migrated, ...).
    `active` is libvirt's isActive: a crashed-and-preserved or paused domain still holds its disks."""

    uuid: str
    name: str
    state: State
    reason: str
    active: bool


class Listing(Struct, frozen=True):
    """Every domain of the host, active and inactive, in one complete answer; never a partial one.
    `sent_at` and `ended_at` are monotonic seconds: freshness counts from when the request was sent."""

    sent_at: float
    ended_at: float
    records: tuple[Record, ...]


class Detail(Struct, frozen=True):
    """All that is to be known of one domain. `config_xml` is the persistent definition (None: transient),
    `live_xml` the running one (None: inactive); `vcpus` and `memory_bytes` are what it is given now.
    `saved_xml` is the definition that a managed save goes on with (None: there is none, or it is not
    told). `agent`: of the channel for a guest's agent, whether somebody in the guest has it open: connected,
    disconnected, or unknown; empty where what runs has none."""

    record: Record
    sent_at: float
    persistent: bool
    autostart: bool
    managed_save: bool
    config_xml: str | None
    live_xml: str | None
    config_mark: Mark | None
    live_mark: Mark | None
    vcpus: int
    memory_bytes: int
    snapshots: int = 0
    saved_xml: str | None = None
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One end's certificate of a TLS connection: `whose` is client (ours) or server; `expires_at` wall time,
    as 2027-01-31T00:00:00Z."""

    whose: str
    subject: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself. Versions as libvirt writes them ("9.0.0"). `host_uuid` is empty where
    the driver reports none (test)."""

    host_uuid: str
    driver: str  # qemu, lxc, test, ... in lower case
    mode: str  # system or session
    hostname: str
    uri: str
    libvirt_version: str
    hypervisor_version: str
    arch: str
    cpu_model: str
    cpus: int
    max_vcpus: int
    memory_bytes: int
    free_memory_bytes: int
    numa_cells: int
    encrypted: bool
    secure: bool
    domain_types: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    certificates: tuple[Certificate, ...] = ()


class DomainFigures(Struct, frozen=True):
    """What one active domain uses. `cpu_s`: processor time since it was started on this host. `given_bytes`:
    memory that the guest has; `used_bytes`: what of the host's memory it takes (a QEMU with all that belongs
    to it, all processes of a container). None: not told, which is not zero."""

    uuid: str
    cpu_s: float | None
    given_bytes: int | None
    used_bytes: int | None


class HostFigures(Struct, frozen=True):
    """What a host uses, guests and all. `cpu_s`: time that its processors were busy, all of them added up,
    since it was booted; `used_bytes`: memory that is neither free nor a cache of files."""

    cpu_s: float
    used_bytes: int
    total_bytes: int


class Figures(Struct, frozen=True):
    """How busy a host and its active domains are, in one answer; instants as those of a Listing. A domain
    that is missing was not told of: never conclude that it is not there. `host`: None where the driver has
    no figures of the host itself."""

    sent_at: float
    ended_at: float
    domains: tuple[DomainFigures, ...]
    host: HostFigures | None


class EventKind(enum.StrEnum):
    """virDomainEventType."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    SHUTDOWN = "shutdown"
    PMSUSPENDED = "pmsuspended"
    CRASHED = "crashed"
    OTHER = "other"  # metadata, device, reboot, job: only "look again"


class HostEvent(Struct, frozen=True):
    """A wake-up. `detail` is libvirt's detail enumerator, written as reasons are. `at`: monotonic seconds
    when the driver's thread received it."""

    uuid: str
    name: str
    kind: EventKind
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The last thing that a session reports. `reason`: error, eof, keepalive, client."""

    reason: str
    at: float


EventSink = Callable[["Session", tuple[HostEvent | SessionClosed, ...]], None]


class ConsoleOutput(Struct, frozen=True):
    """What a guest wrote to a console, after `lost` bytes that nobody took in time."""

    data: bytes
    lost: int = 0


@dataclass(frozen=True, slots=True)
class ConsoleEnded:
    """The last thing that a console reports, if it was not closed from here. `why`: for people."""

    why: str


ConsoleSink = Callable[[ConsoleOutput | ConsoleEnded], None]


class Outcome(enum.Enum):
    DONE = "done"  # libvirt said that it is done
    REJECTED = "rejected"  # refused, nothing changed, and the same request will be refused again
    FAILED = "failed"  # libvirt answered with an error, or the request was never sent
    AMBIGUOUS = "ambiguous"  # sent, no reply: it may have happened, or may still happen


class Result(Struct, frozen=True):
    outcome: Outcome
    error: HypervisorError | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to mutate, given by the leader's lease. `not_after_s` (monotonic) is compared with the clock in
    the calling thread as the last statement before the C call (I4); too late is Failed, never sent."""

    not_after_s: float


class StopMethod(enum.StrEnum):
    ACPI = "acpi"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Job:
    """What libvirt is doing with one domain, or did last (virDomainGetJobStats). `operation`: migration-out,
    migration-in, save, restore, dump, snapshot, backup, start, or unknown. Bytes are those of memory and of
    disks that are copied with it. `downtime_ms`: how long the guest stood still, once that is known."""

    operation: str
    elapsed_s: float
    processed_bytes: int
    remaining_bytes: int
    total_bytes: int
    downtime_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A live migration, peer to peer: the source's libvirtd opens `target_uri` with credentials of its own
    and goes on whatever becomes of us. `persistent_xml` is planted as the definition there (None: it arrives
    transient). `copy_disks`: targets (vda) of disks that the hosts do not share and that are copied with it;
    at the target there must be an image of the same size, or an active pool of its directory, where libvirt
    makes one. Any other writable disk on a host's own file system is Rejected (81). `undefine_source`: let
    libvirt take the source's definition away at the end, where it cannot be taken before (TPM). `stands`: it
    arrives paused (user), and runs once somebody resumes it. Without it libvirt itself runs both copies where
    the target is silent at the switch-over for as long as the source waits, and then goes on. `limit_s`: how
    long the call may take before its outcome is given up as ambiguous."""

    target_uri: str
    persistent_xml: str | None
    limit_s: float
    copy_disks: tuple[str, ...] = ()
    undefine_source: bool = False
    stands: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do; asking for anything else gives Unsupported.

    `raced_create_undefine`: that create and undefine of one domain are serialised was proved by the race of
    the contract suite; without it an undefine proves nothing (R1). `keeps_metadata`: definitions keep our
    mark. `forgets_pause`: when libvirtd was started anew, a paused domain is called running. `consoles`: what
    guests write to their consoles can be read over the connection."""

    bulk_stats: bool
    managed_save: bool
    live_migration: bool
    keep_alive: bool
    suspend: bool = True
    reset: bool = True
    autostart: bool = True
    set_metadata: bool = True
    keeps_metadata: bool = True
    forgets_pause: bool = False
    undefine_flags: frozenset[str] = field(default_factory=frozenset)
    stop_methods: frozenset[StopMethod] = frozenset(StopMethod)
    raced_create_undefine: bool = False
    consoles: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files of the controller's machine by which it and a host know each other; empty: none is named.
    `command` is what +ext connects through."""

    known_hosts: str = ""
    key_file: str = ""
    pki_dir: str = ""
    auth_file: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach one node."""

    node: str
    uri: str
    read_only: bool = False
    credentials: Credentials = Credentials()


class Console(Protocol):
    """An open console. It ends with the run of the domain, with its session, or when it is closed."""

    async def send(self, data: bytes) -> None:
        """As typed on the guest's terminal. That it was taken does not say that the guest reads it. Raises
        WrongState when it is closed, CallTimedOut, Unreachable."""
        ...

    async def close(self) -> None:
        """Nothing is reported any more, and another may open it."""
        ...


class Session(Protocol):
    """One unbroken relation with one host. Every call is bounded; at most four are in flight on each of its
    connections; long mutations never delay reads. After it closed every read raises Unreachable and every
    mutation is Failed(Unreachable), not sent."""

    @property
    def target(self) -> Target: ...
    @property
    def opened_at(self) -> float: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def is_open(self) -> bool: ...

    async def facts(self) -> HostFacts: ...
    async def list(self) -> Listing: ...

    async def detail(self, uuid: str, known: Detail | None = None) -> Detail:
        """Raises NoDomain when the host knows no such domain, active or defined. `known`: what an earlier one
        said; where the domain neither began nor ended since, its state alone may be read anew, as a list
        does, and the rest stands as it was read then (`sent_at`)."""
        ...

    async def figures(self) -> Figures:
        """Comes after everything else: raises HostBusy, and asks nothing, while another read or a mutation is
        under way on this session, or two such calls are still owed. A guest that is stuck may keep one; those
        after it pass it by, and leave out what only that guest could tell."""
        ...

    async def define(self, xml: str, permit: Permit) -> Result:
        """Define or redefine, validated against libvirt's schema (VIR_DOMAIN_DEFINE_VALIDATE)."""
        ...

    async def create(self, uuid: str, permit: Permit) -> Result:
        """Start a defined domain. `already running` is Failed(WrongState)."""
        ...

    async def shutdown(
        self, uuid: str, method: StopMethod, permit: Permit, limit_s: float | None = None
    ) -> Result:
        """Ask the guest to stop; Done says only that it was asked. `limit_s`: give its answer up after that
        time, where it is less than the driver's own deadline. An agent that answers nothing holds up no call
        but other agents'."""
        ...

    async def destroy(self, uuid: str, permit: Permit) -> Result: ...

    async def undefine(self, uuid: str, permit: Permit) -> Result:
        """Take the definition away, keeping NVRAM and TPM state, never a managed save (R1)."""
        ...

    async def set_mark(
        self, uuid: str, mark: Mark | None, *, live: bool, config: bool, permit: Permit
    ) -> Result:
        """Write (None: remove) our element in <metadata> of the live and/or persistent definition."""
        ...

    async def set_autostart(self, uuid: str, on: bool, permit: Permit) -> Result: ...

    async def suspend(self, uuid: str, permit: Permit) -> Result:
        """Stop its processors; it keeps its memory and its disks."""
        ...

    async def resume(self, uuid: str, permit: Permit) -> Result: ...

    async def save(self, uuid: str, permit: Permit) -> Result:
        """Managed save: its memory goes to the host's disk, and the next create restores it."""
        ...

    async def save_room(self) -> int | None:
        """Bytes that are free where managed saves go, as just measured; None where the host cannot be asked:
        no active storage pool has that very directory for its target."""
        ...

    async def drop_saved(self, uuid: str, permit: Permit) -> Result:
        """Throw a managed save away: what the guest had in memory is lost."""
        ...

    async def reboot(self, uuid: str, permit: Permit) -> Result:
        """Ask the guest to start again; Done says only that it was asked."""
        ...

    async def reset(self, uuid: str, permit: Permit) -> Result:
        """As by the reset button: the guest is not asked."""
        ...

    async def job(self, uuid: str, *, completed: bool = False) -> Job | None:
        """What libvirt is doing with the domain, None for nothing; `completed`: what it did last, which a
        migration leaves at its target. Raises NoDomain."""
        ...

    async def migrate(self, uuid: str, move: Move, permit: Permit) -> Result:
        """Move a running domain, live and peer to peer, over a connection of its own; never UNSAFE, never
        post-copy, never tunnelled (I7). Returns when libvirt's call does. Whatever it says, only reading both
        ends tells where the domain is (I8)."""
        ...

    async def abort_job(self, uuid: str, permit: Permit) -> Result:
        """End the job of a migration's source; the domain goes on there."""
        ...

    async def console(self, uuid: str, device: str, sink: ConsoleSink) -> Console:
        """Open a console of a running domain, over a connection that only consoles use. `device`: its alias,
        "" for the first. `sink` is called on the event loop with what the guest writes from now on, seldom
        enough that a flood does not delay it, and with the end. A console has one reader: raises DomainBusy
        while it has another, NoDomain, WrongState (it does not run), SpecRejected (no such console),
        Unsupported, Unreachable."""
        ...

    async def close(self) -> None: ...


class Hypervisor(Protocol):
    async def open(self, target: Target, sink: EventSink) -> Session:
        """Connect within the open deadline (5 s), events subscribed before it returns. `sink` is called on
        the event loop, in batches; SessionClosed comes exactly once. Raises Unreachable, AuthFailed,
        Unsupported (URI not on the whitelist) or SpecRejected (malformed URI)."""
        ...

    async def close(self) -> None: ...
