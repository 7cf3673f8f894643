"""The reconciler: takes dirty keys, plans them at one moment, has each action carried out, says the result.

One pass: the keys that are ready → snapshot → plan → for each domain an action (one at a time per domain,
for its key stays taken until the action ended), or a deferral with its own alarm clock. A pass that takes
long gives back the event loop between slices, each planned from a snapshot of its own: what was decided in
one is reserved before the next. Actions wait for their turn at their node (`turns`); what was decided on long
ago is planned again when its turn comes. It holds no state of its own: everything it needs after a crash is
in etcd and on the hosts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from controller.cache import DOMAIN_KEY, MIGRATION_KEY, NODE_KEY, Cache
from controller.executor import Executor
from controller.hands import Ending, Report
from controller.ledger import Fenced
from controller.metrics import Metrics
from controller.migrationkeeper import MigrationKeeper
from controller.nodes import NodeKeeper
from controller.observer import Observer
from controller.plan import plan
from controller.plan.snapshot import Usage
from controller.plan.types import Action, ActionKind, Deferred, Reason, Verdict
from controller.turns import Turns
from controller.workqueue import WorkQueue
from controller.world import World
from controller.writer import StatusWriter

log = logging.getLogger(__name__)

SLICE_S: Final = 0.01
"""Of computing, after which lease, events and everything else on the loop have their turn."""
OLD_S: Final = 1.0
"""Since it was decided on: then an action is planned again before it is carried out."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What one pass goes through."""

    cache: Cache
    queue: WorkQueue
    observer: Observer
    executor: Executor
    keeper: NodeKeeper
    migrations: MigrationKeeper
    writer: StatusWriter
    metrics: Metrics
    world: World


@dataclass(slots=True)
class Reconciler:
    parts: Parts
    on_fenced: Callable[[str], None]
    turns: Turns
    _tasks: dict[asyncio.Task[None], None] = field(default_factory=dict)  # in order: seeds tell one story

    async def run(self) -> None:
        """Pass after pass until the queue is shut down."""
        while await self.parts.queue.wait():
            await self.one_pass()
            await asyncio.sleep(0)

    async def one_pass(self) -> int:
        """Plan ready keys and set their actions going; answers how many actions there were. What is shut down
        between two slices begins nothing more: who resigns has counted what is under way by then."""
        ready = self.parts.queue.take()
        uuids = sorted(k.removeprefix(DOMAIN_KEY) for k in ready if k.startswith(DOMAIN_KEY))
        left, actions = self._slice(uuids)
        for key in (k for k in ready if k.startswith(NODE_KEY)):
            self._spawn(self._node(key), key)
        for key in (k for k in ready if k.startswith(MIGRATION_KEY)):
            self._spawn(self._migration(key), key)
        while left:
            await asyncio.sleep(0)
            if self.parts.queue.is_closed:
                break
            left, more = self._slice(left)
            actions += more
        return actions

    def _slice(self, uuids: list[str]) -> tuple[list[str], int]:
        """Plan some, and set their actions going in the same step, so that nothing moves beneath what was
        decided; answers which are left, and how many actions there were."""
        if not uuids:
            return [], 0
        parts = self.parts
        began, until = parts.world.now(), parts.world.cpu() + SLICE_S
        verdicts = plan(parts.cache.snapshot(), uuids, lambda: parts.world.cpu() >= until)
        parts.metrics.planned(len(verdicts), parts.world.now() - began)
        actions = sum(self._dispatch(uuid, verdict) for uuid, verdict in verdicts.items())
        looks = [v.deferred.relist for v in verdicts.values() if v.deferred is not None]
        parts.observer.look(dict.fromkeys(itertools.chain.from_iterable(looks)))
        return [uuid for uuid in uuids if uuid not in verdicts], actions

    def _dispatch(self, uuid: str, verdict: Verdict) -> int:
        parts, key = self.parts, DOMAIN_KEY + uuid
        parts.writer.want(uuid, verdict)
        parts.metrics.verdict(uuid, verdict)
        for request in parts.cache.requests_of(uuid):
            parts.queue.add(MIGRATION_KEY + request)  # what it waits for may be another thing now
        if verdict.action is None:
            if verdict.deferred is not None and verdict.deferred.reason is Reason.INTERNAL:
                log.error("cannot plan", extra={"uuid": uuid, "why": verdict.deferred.message})
            if verdict.deferred is not None:
                self._defer(key, verdict.deferred)
            if verdict.again_after_s is not None:
                parts.queue.add_after(key, max(verdict.again_after_s, 0.05))
            parts.queue.done(key)
            return 0
        self._reserve(verdict.action)
        self._spawn(self._act(verdict.action), key)
        return 1

    def _defer(self, key: str, deferred: Deferred) -> None:
        if deferred.retry_after_s is not None:
            self.parts.queue.add_after(key, max(deferred.retry_after_s, 0.05))

    def _reserve(self, action: Action) -> None:
        """Until it stands in etcd, what was decided on takes its capacity, and its place among what moves."""
        held = self.parts.cache.assignments.get(action.uuid)
        if action.kind is ActionKind.MIGRATE and action.after is not None and action.after.intent is not None:
            cost = Usage(action.after.vcpus, action.after.memory_bytes)
            self.parts.cache.capacity.reserve(action.uuid, action.target, cost)
            self.parts.cache.moves.begins(action.uuid, action.after.intent)
            return
        if action.after is not None and (held is None or not held.assignment.candidates):
            cost = Usage(action.after.vcpus, action.after.memory_bytes)
            self.parts.cache.capacity.reserve(action.uuid, action.node, cost)

    async def _act(self, action: Action) -> None:
        parts = self.parts
        began = parts.world.now()
        try:
            async with self.turns.at(action.node):
                due = action if parts.world.now() - began <= OLD_S else self._again(action)
                if due is None:
                    return
                action = due
                report = await parts.executor.run(action)
        finally:
            self._left(action)
        parts.metrics.acted(action.kind.value, report.ending.value, parts.world.now() - began)
        ENDINGS[report.ending](self, action, report)

    def _again(self, action: Action) -> Action | None:
        """It waited, and what it was decided on is old: what is due there now. None: the next pass sees to
        it."""
        parts, uuid = self.parts, action.uuid
        self._left(action)  # or what it reserved itself would be in its way
        if parts.queue.is_closed:
            return None
        verdict = plan(parts.cache.snapshot(), [uuid])[uuid]
        due = verdict.action
        if due is None or due.node != action.node:
            parts.queue.add(DOMAIN_KEY + uuid)
            return None
        parts.writer.want(uuid, verdict)
        parts.metrics.verdict(uuid, verdict)
        self._reserve(due)
        return due

    def _left(self, action: Action) -> None:
        """However far it came: what stands in etcd now is followed, what does not is forgotten."""
        cache = self.parts.cache
        cache.capacity.unreserve(action.uuid)
        cache.moves.sent(action.uuid)

    def _done(self, action: Action, _report: Report) -> None:
        attempts, now = self.parts.cache.attempts, self.parts.world.now()
        repeated = attempts.in_vain(action.uuid, f"{action.kind}: {action.why}", now)
        is_record = action.kind is ActionKind.RECORD
        if repeated and action.kind is not ActionKind.START:  # those have a crash loop's pauses
            message = f"{action.kind} was done, and has no effect ({action.why})"
            attempts.failed(action.uuid, message, now, is_record=is_record)
        elif is_record:
            attempts.written(action.uuid, now)
        else:
            attempts.succeeded(action.uuid)
        self.parts.queue.forget(DOMAIN_KEY + action.uuid)
        self.parts.queue.add(DOMAIN_KEY + action.uuid)

    def _stale(self, action: Action, report: Report) -> None:
        """Planned again, which helps once the cache has caught up with etcd. That may take its time where a
        watch lags, and each attempt before it costs a transaction and a define (L3)."""
        log.debug("planned again", extra={"domain": action.key, "why": report.message})
        attempts, now = self.parts.cache.attempts, self.parts.world.now()
        if attempts.in_vain(action.uuid, f"{action.kind}: {report.message}", now):
            is_record = action.kind is ActionKind.RECORD
            attempts.failed(action.uuid, report.message, now, is_record=is_record)
        self.parts.queue.retry(DOMAIN_KEY + action.uuid)

    def _failed(self, action: Action, report: Report) -> None:
        attempts, now = self.parts.cache.attempts, self.parts.world.now()
        is_record = action.kind is ActionKind.RECORD
        attempts.failed(action.uuid, report.message, now, disk_locked=report.disk_locked, is_record=is_record)
        log.info("failed", extra={"domain": action.key, "what": action.kind.value, "why": report.message})
        self.parts.queue.add(DOMAIN_KEY + action.uuid)

    def _rejected(self, action: Action, report: Report) -> None:
        """The stall stands in the cache for definitions; anything else that libvirt rejects backs off."""
        defines = action.kind in (ActionKind.START, ActionKind.DEFINE)
        if not defines or action.uuid not in self.parts.cache.attempts.stalls:
            self.parts.cache.attempts.failed(action.uuid, report.message, self.parts.world.now())
        self.parts.queue.add(DOMAIN_KEY + action.uuid)

    async def _node(self, key: str) -> None:
        if await self.parts.keeper.reconcile(key.removeprefix(NODE_KEY)):
            self.parts.queue.forget(key)
        else:
            self.parts.queue.retry(key)

    async def _migration(self, key: str) -> None:
        uid = key.removeprefix(MIGRATION_KEY)
        if not await self.parts.migrations.reconcile(uid):
            self.parts.queue.retry(key)
            return
        self.parts.queue.forget(key)
        if (left_s := self.parts.migrations.left_s(uid)) is not None:
            self.parts.queue.add_after(key, max(left_s, 0.05))

    def _spawn(self, work: Awaitable[None], key: str) -> None:
        task = asyncio.create_task(self._guarded(work, key), name=key)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _guarded(self, work: Awaitable[None], key: str) -> None:
        try:
            await work
        except Fenced as fenced:
            self.on_fenced(str(fenced))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A bug in one key's work must not stop all others; it is loud, and tried again slowly.
            log.exception("reconcile failed", extra={"key": key})
            if key.startswith(DOMAIN_KEY):
                message = f"domctl cannot act on it, which is a bug: {type(error).__name__}: {error}"
                uuid = key.removeprefix(DOMAIN_KEY)
                self.parts.cache.attempts.failed(uuid, message, self.parts.world.now())
            self.parts.queue.retry(key)
        finally:
            self.parts.queue.done(key)

    async def close(self) -> None:
        """Let calls that are out come to their end, for their outcome matters to who may resign."""
        if self._tasks:
            await asyncio.wait(self._tasks)


ENDINGS: Mapping[Ending, Callable[[Reconciler, Action, Report], None]] = {
    Ending.DONE: Reconciler._done,
    Ending.STALE: Reconciler._stale,
    Ending.FAILED: Reconciler._failed,
    Ending.REJECTED: Reconciler._rejected,
}
