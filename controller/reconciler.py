"""The reconciler: takes dirty keys, plans them at one moment, has each action carried out, says the result.

One pass: all keys that are ready → one snapshot → plan → for each domain an action (one at a time per
domain, for its key stays taken until the action ended), or a deferral with its own alarm clock. It holds no
state of its own: everything it needs after a crash is in etcd and on the hosts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

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
from controller.workqueue import WorkQueue
from controller.world import World
from controller.writer import StatusWriter

log = logging.getLogger(__name__)


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
    slots: asyncio.Semaphore
    _tasks: dict[asyncio.Task[None], None] = field(default_factory=dict)  # in order: seeds tell one story

    async def run(self) -> None:
        """Pass after pass until the queue is shut down."""
        while await self.parts.queue.wait():
            self.one_pass()
            await asyncio.sleep(0)

    def one_pass(self) -> int:
        """Plan all ready keys and set their actions going; answers how many actions there were."""
        parts = self.parts
        ready = parts.queue.get_all_ready()
        nodes = [k for k in ready if k.startswith(NODE_KEY)]
        uuids = [k.removeprefix(DOMAIN_KEY) for k in ready if k.startswith(DOMAIN_KEY)]
        began = parts.world.now()
        verdicts = plan(parts.cache.snapshot(), uuids) if uuids else {}
        parts.metrics.planned(len(uuids), parts.world.now() - began)
        actions = 0
        for uuid, verdict in verdicts.items():
            actions += self._dispatch(uuid, verdict)
        for key in nodes:
            self._spawn(self._node(key), key)
        for key in (k for k in ready if k.startswith(MIGRATION_KEY)):
            self._spawn(self._migration(key), key)
        return actions

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
        self.parts.observer.look(deferred.relist)
        if deferred.retry_after_s is not None:
            self.parts.queue.add_after(key, max(deferred.retry_after_s, 0.05))

    def _reserve(self, action: Action) -> None:
        """Until it stands in etcd, what was decided on takes its capacity, and its place among what moves."""
        held = self.parts.cache.assignments.get(action.uuid)
        if action.kind is ActionKind.MIGRATE and action.after is not None and action.after.intent is not None:
            cost = Usage(action.after.vcpus, action.after.memory_bytes)
            self.parts.cache.capacity.reserve(action.uuid, action.target, cost)
            self.parts.cache.departing[action.uuid] = action.after.intent
            self.parts.cache.leaving.add(action.uuid)
            return
        if action.after is not None and (held is None or not held.assignment.candidates):
            cost = Usage(action.after.vcpus, action.after.memory_bytes)
            self.parts.cache.capacity.reserve(action.uuid, action.node, cost)

    async def _act(self, action: Action) -> None:
        parts = self.parts
        began = parts.world.now()
        try:
            async with self.slots:
                report = await parts.executor.run(action)
        finally:
            self._left(action)
        parts.metrics.acted(action.kind.value, report.ending.value, parts.world.now() - began)
        ENDINGS[report.ending](self, action, report)

    def _left(self, action: Action) -> None:
        """However far it came: what stands in etcd now is followed, what does not is forgotten."""
        cache = self.parts.cache
        cache.departing.pop(action.uuid, None)
        cache.leaving.discard(action.uuid)
        if action.uuid in cache.moving:
            cache.moved.set()

    def _done(self, action: Action, _report: Report) -> None:
        attempts, now = self.parts.cache.attempts, self.parts.world.now()
        repeated = attempts.in_vain(action.uuid, f"{action.kind}: {action.why}", now)
        if repeated and action.kind is not ActionKind.START:  # those have a crash loop's pauses
            attempts.failed(action.uuid, f"{action.kind} was done, and has no effect ({action.why})", now)
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
            attempts.failed(action.uuid, report.message, now)
        self.parts.queue.retry(DOMAIN_KEY + action.uuid)

    def _failed(self, action: Action, report: Report) -> None:
        cache = self.parts.cache
        cache.attempts.failed(action.uuid, report.message, self.parts.world.now())
        log.info("failed", extra={"domain": action.key, "what": action.kind.value, "why": report.message})
        self.parts.queue.add(DOMAIN_KEY + action.uuid)

    def _rejected(self, action: Action, report: Report) -> None:
        """The stall stands in the cache for definitions; anything else that libvirt rejects backs off."""
        defines = action.kind in (ActionKind.START, ActionKind.DEFINE)
        if not defines or action.uuid not in self.parts.cache.attempts.stalls:
            self.parts.cache.attempts.failed(action.uuid, report.message, self.parts.world.now())
        self.parts.queue.add(DOMAIN_KEY + action.uuid)

    async def _node(self, key: str) -> None:
        await self.parts.keeper.reconcile(key.removeprefix(NODE_KEY))

    async def _migration(self, key: str) -> None:
        if await self.parts.migrations.reconcile(key.removeprefix(MIGRATION_KEY)):
            self.parts.queue.forget(key)
        else:
            self.parts.queue.retry(key)

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
