"""The executor: carries out one action, step by step, and decides nothing.

Steps are a table. Each begins and ends at a named fault point; a controller that dies at any of them leaves
a state from which a fresh one reaches the same place (rule: progress can be derived again). First the
intent is recorded by a fenced transaction (I20), then the node is asked with a permit of the lease (I4), and
what was done, or may have been done, is Unknown until a listing sent afterwards shows it (I6).
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import msgspec

from controller import faults, keys
from controller.cache import Cache
from controller.ledger import NEVER, Commit, CommitOutcome, Fenced, Ledger
from controller.limits import Bounds
from controller.model import Assignment, Quarantine, Rule
from controller.objects import Objects, StoredObject, owner_of, parse
from controller.observer import Observer
from controller.plan.case import Case
from controller.plan.evidence import Absent, Known, Unknown, observe
from controller.plan.snapshot import Ladder, Stall
from controller.plan.types import Action, ActionKind
from controller.world import World
from drivers.errors import (
    Advice,
    HostFailed,
    HypervisorError,
    NoDomain,
    SaveUnreadable,
    StoreError,
    Unsupported,
)
from drivers.hypervisor import Outcome, Permit, Result, Session
from drivers.store import Compare, Delete, Put, Write
from specs.domain import ACTIVE_STATES, Domain, effective_state
from specs.kinds import KIND_OF

log = logging.getLogger(__name__)
audit = logging.getLogger("domctl.audit")

DOMAIN = KIND_OF["Domain"]
MINUTE_S: Final = 60.0
TOGETHER_S, TOGETHER_LOOKS = 0.005, 10


class Ending(enum.Enum):
    """How an action came out; what it means is the reconciler's business."""

    DONE = "done"
    STALE = "stale"  # the world moved before anything was sent: plan again
    FAILED = "failed"  # tried, or could not be tried: again later
    REJECTED = "rejected"  # will never be accepted as it stands


@dataclass(frozen=True, slots=True)
class Report:
    ending: Ending
    message: str = ""


NEVER_ASKED: Final = float("-inf")  # the time of a rung that is over


class Halt(Exception):
    """A step ends its action early, with this report."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.message)
        self.report = report


class RungRefused(Halt):
    """This way of asking a guest does not exist here, or does not work: there is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What the executor acts with. `permit` gives leave to mutate, or None past the lease's deadline;
    `begin`/`end` count calls whose outcome is out, for a leader may not resign over them; `reacted` is told
    how long after a domain's witnessed end its create was sent; `send_off` begins a migration."""

    cache: Cache
    ledger: Ledger
    objects: Objects
    observer: Observer
    world: World
    bounds: Bounds
    permit: Callable[[], Permit | None]
    begin: Callable[[], None]
    end: Callable[[bool], None]
    reacted: Callable[[float], None]
    send_off: Callable[[Action, Session, Permit], None]
    faults: faults.Faults


@dataclass(slots=True)
class Progress:
    """One action on its way: `revision` is the assignment's after the last commit; `touched` are the nodes
    that were asked to change something, which are read when it is over. `room`: what looking for room on the
    host came to."""

    action: Action
    revision: int
    room: str = ""
    touched: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Executor:
    hands: Hands
    _destroys: deque[float] = field(default_factory=deque)
    _preparing: dict[str, str] = field(
        default_factory=dict
    )  # uuid of a start that is not checked yet: its node

    async def run(self, action: Action) -> Report:
        """All steps of the action, or those up to the first that halts it. Raises Fenced."""
        progress = Progress(self._stamped(action), action.before_revision)
        if action.kind is ActionKind.START:
            self._preparing[action.uuid] = action.node
        try:
            for name in STEPS[action.kind]:
                self.hands.faults.reach(f"{action.kind}.{name}.before")
                await _STEP_FUNCTIONS[name](self, progress)
                self.hands.faults.reach(f"{action.kind}.{name}.after")
        except Halt as halt:
            return halt.report
        except Fenced:
            raise
        except StoreError as error:
            return Report(Ending.FAILED, error.message)
        finally:
            self._preparing.pop(action.uuid, None)
            self.hands.cache.capacity.unreserve(action.uuid)
            self.hands.cache.seen.expectations.release(action.uuid)
            self.hands.observer.look(progress.touched, action.uuid)
        return Report(Ending.DONE)

    def _stamped(self, action: Action) -> Action:
        """Time and operation id are inputs: they enter here."""
        at, op = self.hands.world.wall(), self.hands.world.new_id()[:8]
        return replace(action, after=_stamp(action.after, op, at), settled=_stamp(action.settled, op, at))

    # --- etcd --------------------------------------------------------------------------------------

    async def record(self, progress: Progress) -> None:
        """The intent, before anything is sent; capacity and MACs are taken with it."""
        action, after = progress.action, progress.action.after
        assert after is not None
        owner = owner_of(after.namespace, after.name)
        compares, macs = await self._freed_macs(action, owner)
        macs += [Put(keys.mac(m), owner) for m in action.reserve]
        compares += [Compare(keys.mac(m), 0) for m in action.reserve]
        extra = [*macs]
        extra += [self._quarantine(action, node) for node in action.quarantine]
        if action.consumes:
            held, resolution = self._consumed(action)
            compares.append(held)
            extra.append(resolution)
        await self._commit(progress, after, compares, extra)
        self.hands.cache.capacity.unreserve(action.uuid)
        if action.is_clear:
            self.hands.cache.seen.migrated.discard(action.uuid)
        if action.retry_after_s:
            now = self.hands.world.now()
            self.hands.cache.attempts.move_failed(action.uuid, action.why, action.retry_after_s, now)
        self._audit(action)

    async def _freed_macs(self, action: Action, owner: bytes) -> tuple[list[Compare], list[Write]]:
        """What gives up MACs that the domain has no use for: only where the key is its own, and while the
        spec, which might name one again, is the one that was planned with."""
        compares: list[Compare] = []
        writes: list[Write] = []
        for mac in action.release_macs:
            kv = await self.hands.objects.store.get(keys.mac(mac))
            if kv is not None and kv.value == owner:
                compares.append(Compare(kv.key, kv.mod_revision))
                writes.append(Delete(kv.key))
        if writes:
            namespace, _, name = action.key.partition("/")
            compares.append(Compare(keys.object_key("domains", namespace, name), action.object_revision))
        return compares, writes

    def _consumed(self, action: Action) -> tuple[Compare, Write]:
        key = keys.resolution(action.uuid)
        compare = Compare(key, self.hands.cache.revision_of(key))
        return compare, Delete(key) if action.left is None else Put(key, msgspec.json.encode(action.left))

    def _quarantine(self, action: Action, node: str) -> Write:
        """A node that was taken for dead gets nothing new until it was compared (I15)."""
        known = self.hands.cache.quarantine.get(node)
        uuids = {action.uuid, *(known.uuids if known is not None else ())}
        record = Quarantine(
            node=node,
            rule=Rule.CONFIRMED_DEAD,
            at=self.hands.world.wall(),
            uuids=tuple(sorted(uuids)),
        )
        return Put(keys.quarantine(node), msgspec.json.encode(record))

    async def settle(self, progress: Progress) -> None:
        """The intent's aim was reached: it is closed, so that it is no evidence later (I22b)."""
        settled = progress.action.settled
        if settled is not None:
            if progress.room:
                settled = msgspec.structs.replace(settled, save_room=progress.room)
            await self._commit(progress, settled, [], [])

    async def _commit(
        self, progress: Progress, assignment: Assignment, compares: list[Compare], writes: list[Write]
    ) -> None:
        key = keys.assignment(progress.action.uuid)
        value = msgspec.json.encode(assignment)
        compares = [Compare(key, progress.revision), *compares]
        commit = await self.hands.ledger.commit(compares, [Put(key, value), *writes])
        self._check(commit)
        progress.revision = commit.revision
        written: dict[str, bytes | None] = {key: value}
        written |= {w.key: w.value if isinstance(w, Put) else None for w in writes}
        self.hands.cache.wrote(written, commit.revision)

    def _check(self, commit: Commit) -> None:
        if commit.outcome is CommitOutcome.REFUSED:
            raise Halt(Report(Ending.STALE, "etcd moved on since this was planned"))
        if commit.outcome is CommitOutcome.UNKNOWN:
            why = commit.error.message if commit.error is not None else "no answer"
            raise Halt(Report(Ending.FAILED, f"etcd did not say whether it wrote: {why}"))

    async def recheck(self, progress: Progress) -> None:
        """Safety §2.3: by linearizable reads, nothing that justified this start has changed."""
        action = progress.action
        assert action.after is not None
        await self._together(action)
        own = keys.assignment(action.uuid)
        key = keys.object_key("domains", action.after.namespace, action.after.name)
        known = self.hands.cache.domains.get(action.uuid)
        commit = await self.hands.ledger.commit(
            [Compare(own, progress.revision), Compare(key, known.revision if known is not None else NEVER)],
            [],
        )
        if commit.outcome is CommitOutcome.UNKNOWN:
            self._check(commit)
        domain = known.domain if known is not None else None
        if commit.outcome is CommitOutcome.REFUSED:
            held, kv = commit.current.get(own), commit.current.get(key)
            if held is None or held.mod_revision != progress.revision:
                self._check(commit)
            domain = None if kv is None else msgspec.json.decode(kv.value, type=Domain)
        if domain is None or not self._still_wanted(domain, action):
            raise Halt(Report(Ending.STALE, "the object changed while it was being started"))
        seen = Case(self.hands.cache.snapshot(), action.uuid).all_sightings
        elsewhere = [n for n in seen if n != action.node]
        if elsewhere:
            raise Halt(Report(Ending.STALE, f"it was seen on {', '.join(elsewhere)} meanwhile"))
        for node in action.dead_proofs:
            if self.hands.cache.view(node).answers or self.hands.cache.view(node).denies:
                raise Halt(Report(Ending.STALE, f"node {node}, taken for dead, answers"))

    async def _together(self, action: Action) -> None:
        """Wait a moment for other starts on this node that are about to be defined: while libvirt 9 launches
        one domain it holds up the definition of others, for up to a second (measured)."""
        self._preparing.pop(action.uuid, None)
        for _ in range(TOGETHER_LOOKS):
            if action.node not in self._preparing.values() and not self.hands.observer.is_glancing(
                action.node
            ):
                return
            await asyncio.sleep(TOGETHER_S)

    @staticmethod
    def _still_wanted(domain: Domain, action: Action) -> bool:
        meta = domain.metadata
        return (
            meta.uid == action.uuid
            and meta.generation == action.generation
            and isinstance(meta.deletion_timestamp, msgspec.UnsetType)
            and effective_state(domain.spec) in ACTIVE_STATES
        )

    async def finish(self, progress: Progress) -> None:
        """The object and all that it claimed go, in one transaction with its assignment."""
        action = progress.action
        compares: list[Compare] = []
        writes: list[Write] = []
        stored = await self._stored_object(action)
        if stored is not None:
            compares, writes = await self.hands.objects.removal_writes(DOMAIN, stored)
            known = {w.key for w in writes}
            held, freed = await self.hands.objects.release_macs(stored, action.release_macs)
            compares += [c for c in held if c.key not in known]
            writes += [w for w in freed if w.key not in known]
        key = keys.assignment(action.uuid)
        compares.append(Compare(key, progress.revision))
        if progress.revision:
            writes.append(
                Put(key, msgspec.json.encode(action.after))
                if action.kind is ActionKind.FINISH and action.after is not None
                else Delete(key)
            )
        writes.append(Delete(keys.resolution(action.uuid)))
        self._audit(action)
        commit = await self.hands.ledger.commit(compares, writes)
        self._check(commit)
        gone: dict[str, bytes | None] = {w.key: w.value if isinstance(w, Put) else None for w in writes}
        self.hands.cache.wrote(gone, commit.revision)

    async def _stored_object(self, action: Action) -> StoredObject | None:
        """The object as it stands, if it is still the one that this action is about."""
        if not action.object_revision:
            return None
        namespace, _, name = action.key.partition("/")
        kv = await self.hands.objects.store.get(keys.object_key("domains", namespace, name))
        if kv is None:
            return None
        stored = parse(DOMAIN, kv)
        if stored.uid != action.uuid:
            return None
        if not stored.terminating and action.kind is ActionKind.FINISH:
            raise Halt(Report(Ending.STALE, "the object is not being deleted"))
        return stored

    # --- nodes -------------------------------------------------------------------------------------

    async def define(self, progress: Progress) -> None:
        xml = progress.action.xml
        assert xml is not None
        await self._mutate(progress, "define", lambda s, permit: s.define(xml, permit))

    async def create(self, progress: Progress) -> None:
        uuid, cache, now = progress.action.uuid, self.hands.cache, self.hands.world.now()
        end, restarts = cache.seen.ends.get((uuid, progress.action.node)), cache.attempts.restarts.get(uuid)
        if end is not None and (
            restarts is None or restarts.count <= 1
        ):  # later ones have a crash loop's pauses
            self.hands.reacted(now - end.at)
        await self._mutate(progress, "create", lambda s, permit: s.create(uuid, permit))
        cache.attempts.started(uuid, self.hands.world.now())
        cache.attempts.unreadable_saves.pop(uuid, None)

    async def ask(self, progress: Progress) -> None:
        action = progress.action
        method = action.method
        assert method is not None
        self.hands.cache.attempts.ladders[action.uuid] = Ladder(action.step, self.hands.world.now())
        try:
            await self._mutate(
                progress, "shutdown", lambda s, permit: s.shutdown(action.uuid, method, permit)
            )
        except RungRefused:
            self.hands.cache.attempts.ladders[action.uuid] = Ladder(action.step, NEVER_ASKED)
            raise

    async def destroy(self, progress: Progress) -> None:
        """Bounded per minute in the whole cluster (I13)."""
        now = self.hands.world.now()
        while self._destroys and self._destroys[0] < now - MINUTE_S:
            self._destroys.popleft()
        if len(self._destroys) >= self.hands.bounds.destroys_per_minute:
            message = f"{len(self._destroys)} domains were destroyed in the last minute: this one waits"
            raise Halt(Report(Ending.FAILED, message))
        self._destroys.append(now)
        uuid = progress.action.uuid
        await self._mutate(progress, "destroy", lambda s, permit: s.destroy(uuid, permit))

    async def suspend(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "suspend", lambda s, permit: s.suspend(uuid, permit))

    async def resume(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "resume", lambda s, permit: s.resume(uuid, permit))

    async def room(self, progress: Progress) -> None:
        """Whether the host's disk has room for the guest's memory, where the host can tell."""
        action = progress.action
        session = self.hands.observer.session(action.node)
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {action.node} is lost"))
        try:
            free = await session.save_room()
        except HypervisorError as error:
            raise Halt(Report(Ending.FAILED, f"{action.node} was asked for room: {error.message}")) from None
        progress.room = "unchecked" if free is None else "checked"
        if free is not None and free < action.room_bytes:
            needs = action.room_bytes >> 20
            message = f"{action.node} has {free >> 20} MiB free for saved memory, it needs {needs}"
            raise Halt(Report(Ending.FAILED, message))

    async def save(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "save", lambda s, permit: s.save(uuid, permit))

    async def drop_saved(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "drop_saved", lambda s, permit: s.drop_saved(uuid, permit))
        self.hands.cache.attempts.unreadable_saves.pop(uuid, None)

    async def reboot(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "reboot", lambda s, permit: s.reboot(uuid, permit))

    async def reset(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "reset", lambda s, permit: s.reset(uuid, permit))

    async def undefine(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "undefine", lambda s, permit: s.undefine(uuid, permit))

    async def mark(self, progress: Progress) -> None:
        """Both copies of the definition, where there are two."""
        action = progress.action
        sighting = self.hands.cache.seen.find(action.uuid, action.node)
        live = sighting is not None and sighting.record.active
        config = sighting is not None and sighting.detail.persistent
        self._audit(action)
        await self._mutate(
            progress,
            "metadata",
            lambda s, permit: s.set_mark(action.uuid, action.mark, live=live, config=config, permit=permit),
        )

    async def autostart(self, progress: Progress) -> None:
        uuid, on = progress.action.uuid, progress.action.autostart
        await self._mutate(progress, "autostart", lambda s, permit: s.set_autostart(uuid, on, permit))

    async def listed(self, progress: Progress) -> None:
        """R1c: a complete list, sent after the reply, in which the domain is neither active nor defined."""
        action = progress.action
        if not await self.hands.observer.fresh(action.node):
            raise Halt(Report(Ending.FAILED, f"node {action.node} did not answer the list after undefine"))
        seen = observe(self.hands.cache.snapshot(), action.uuid, action.node)
        if isinstance(seen, Unknown):
            raise Halt(Report(Ending.FAILED, seen.deferred.message))
        if isinstance(seen, Known):
            raise Halt(Report(Ending.STALE, f"it is still on {action.node}"))

    # --- migration (safety §5) -----------------------------------------------------------------------

    async def give_up(self, progress: Progress) -> None:
        """The source gives its capability up before anything moves. A domain with a TPM keeps it until the
        end, when libvirt takes it away; one that is transient has none."""
        action = progress.action
        sighting = self.hands.cache.seen.find(action.uuid, action.node)
        assert action.move is not None
        if action.move.undefine_source or (sighting is not None and not sighting.detail.persistent):
            return
        await self.undefine(progress)

    async def look(self, progress: Progress) -> None:
        """By reads sent after the intent stands in etcd: it is still wanted, and the target has nothing."""
        action, hands = progress.action, self.hands
        assert action.after is not None
        key = keys.object_key("domains", action.after.namespace, action.after.name)
        own = keys.assignment(action.uuid)
        compares = [Compare(own, progress.revision), Compare(key, action.object_revision)]
        commit = await hands.ledger.commit(compares, [])
        if commit.outcome is CommitOutcome.UNKNOWN:
            self._check(commit)
        if commit.outcome is CommitOutcome.REFUSED:
            held, kv = commit.current.get(own), commit.current.get(key)
            domain = None if kv is None else msgspec.json.decode(kv.value, type=Domain)
            if held is None or held.mod_revision != progress.revision:
                self._check(commit)
            if domain is None or domain.metadata.uid != action.uuid or _is_deleted(domain):
                raise Halt(Report(Ending.STALE, "the object changed while it was about to move"))
        if not await hands.observer.fresh(action.target):
            raise Halt(
                Report(Ending.FAILED, f"node {action.target} did not answer the list before the migration")
            )
        seen = observe(hands.cache.snapshot(), action.uuid, action.target)
        if not isinstance(seen, Absent):
            raise Halt(Report(Ending.STALE, f"node {action.target} is not known to have nothing of it"))

    async def migrate(self, progress: Progress) -> None:
        """Sent, and left to itself: what becomes of it is watched, and read from both ends."""
        action, hands = progress.action, self.hands
        session, permit = hands.observer.session(action.node), hands.permit()
        if permit is None:
            raise Halt(Report(Ending.FAILED, "the lease is too close to its end to act"))
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {action.node} is lost"))
        hands.send_off(action, session, permit)

    async def abort(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "abort", lambda s, permit: s.abort_job(uuid, permit))

    async def _mutate(
        self, progress: Progress, call: str, send: Callable[[Session, Permit], Awaitable[Result]]
    ) -> None:
        """Send one mutation. Whatever the answer, the domain on this node is Unknown until it was read."""
        action, hands = progress.action, self.hands
        session, permit = hands.observer.session(action.node), hands.permit()
        if permit is None:
            raise Halt(Report(Ending.FAILED, "the lease is too close to its end to act"))
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {action.node} is lost"))
        hands.begin()
        if action.kind is ActionKind.START:
            hands.cache.seen.expectations.hold(action.uuid, action.node)
        progress.touched = [action.node]
        known = False
        try:
            result = await send(session, permit)
            known = result.outcome is not Outcome.AMBIGUOUS
        finally:
            hands.end(known)
            hands.cache.await_observation(action.uuid, action.node)
        if result.outcome is not Outcome.DONE:
            self._refused(action, call, result)

    def _refused(self, action: Action, call: str, result: Result) -> None:
        error = result.error
        message = f"{call} on {action.node}: {error.message if error is not None else result.outcome.value}"
        if isinstance(error, NoDomain):  # somebody took it away just now: look again, nothing failed
            raise Halt(Report(Ending.STALE, message))
        stalled = error is not None and error.advice is Advice.STALL and result.outcome is Outcome.REJECTED
        attempts = self.hands.cache.attempts
        if isinstance(error, SaveUnreadable):
            attempts.unreadable_saves[action.uuid] = message
        if isinstance(error, Unsupported):
            attempts.unsupported[action.uuid, action.node, call] = message
        log.warning("libvirt refused", extra={"domain": action.key, "why": message})
        if stalled and action.mark is not None and call in ("define", "create"):
            self.hands.cache.attempts.stalls[action.uuid] = Stall(action.node, action.mark.digest, message)
        ending = Report(Ending.REJECTED if stalled else Ending.FAILED, message)
        raise RungRefused(ending) if isinstance(error, Unsupported | HostFailed) else Halt(ending)

    def _audit(self, action: Action) -> None:
        audit.info(
            action.kind.value,
            extra={
                "domain": action.key,
                "uuid": action.uuid,
                "node": action.node,
                "why": action.why,
                "epoch": action.after.epoch if action.after is not None else 0,
            },
        )


def _is_deleted(domain: Domain) -> bool:
    return not isinstance(domain.metadata.deletion_timestamp, msgspec.UnsetType)


def _stamp(assignment: Assignment | None, op: str, at: str) -> Assignment | None:
    if assignment is None:
        return None
    intent = assignment.intent
    if intent is not None and not intent.at:
        intent = msgspec.structs.replace(intent, op=op, at=at)
    proofs = tuple(p if p.at else msgspec.structs.replace(p, at=at) for p in assignment.proofs)
    requests = {n: a if a.at else msgspec.structs.replace(a, at=at) for n, a in assignment.requests.items()}
    move = assignment.last_move
    if move is not None and not move.at:
        move = msgspec.structs.replace(move, at=at)
    return msgspec.structs.replace(
        assignment, intent=intent, proofs=proofs, requests=requests, last_move=move
    )


STEPS: Final[Mapping[ActionKind, tuple[str, ...]]] = MappingProxyType(
    {
        ActionKind.START: ("record", "define", "recheck", "create", "settle"),
        ActionKind.DEFINE: ("record", "define", "settle"),
        ActionKind.SHUTDOWN: ("record", "ask"),
        ActionKind.DESTROY: ("record", "destroy"),
        ActionKind.REVOKE: ("record", "undefine", "listed", "settle"),
        ActionKind.RELEASE: ("record",),
        ActionKind.RECORD: ("record",),
        ActionKind.MARK: ("mark",),
        ActionKind.AUTOSTART: ("record", "autostart", "settle"),
        ActionKind.FORGET: ("record", "undefine", "settle"),
        ActionKind.PAUSE: ("record", "suspend", "settle"),
        ActionKind.RESUME: ("record", "resume", "settle"),
        ActionKind.SAVE: ("record", "room", "save", "settle"),
        ActionKind.DROP_SAVED: ("record", "drop_saved", "settle"),
        ActionKind.REBOOT: ("record", "reboot", "settle"),
        ActionKind.RESET: ("record", "reset", "settle"),
        ActionKind.HAND_BACK: ("record", "mark", "finish"),
        ActionKind.FINISH: ("finish",),
        ActionKind.MIGRATE: ("record", "give_up", "look", "migrate"),
        ActionKind.ABORT: ("record", "abort"),
        ActionKind.GO_ON: ("record", "resume"),
        ActionKind.UNPLANT: ("record", "undefine"),
    }
)
"""What each action does, in order."""

_STEP_FUNCTIONS: Final[Mapping[str, Callable[[Executor, Progress], Awaitable[None]]]] = MappingProxyType(
    {
        "record": Executor.record,
        "define": Executor.define,
        "recheck": Executor.recheck,
        "create": Executor.create,
        "settle": Executor.settle,
        "ask": Executor.ask,
        "destroy": Executor.destroy,
        "suspend": Executor.suspend,
        "resume": Executor.resume,
        "room": Executor.room,
        "save": Executor.save,
        "drop_saved": Executor.drop_saved,
        "reboot": Executor.reboot,
        "reset": Executor.reset,
        "undefine": Executor.undefine,
        "listed": Executor.listed,
        "mark": Executor.mark,
        "autostart": Executor.autostart,
        "finish": Executor.finish,
        "give_up": Executor.give_up,
        "look": Executor.look,
        "migrate": Executor.migrate,
        "abort": Executor.abort,
    }
)

FAULT_POINTS: Final = faults.points({kind.value: steps for kind, steps in STEPS.items()})
