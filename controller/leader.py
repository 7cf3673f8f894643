"""One term of leadership: everything that only the leader does, put together and taken down again.

Built anew for each term, so that nothing is believed from an earlier one. Its tasks end together: when the
term is lost or the process is told to stop, no new action begins, calls that are out come to their end, and
then the election may resign.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from controller import keys
from controller.cache import NODE_KEY, Cache, Setting
from controller.consoles.desk import Desk
from controller.consoles.keeper import Keeper
from controller.election import Leadership
from controller.events import Recorder
from controller.executor import Executor
from controller.faults import Faults
from controller.figures import Board
from controller.gatherer import Gatherer
from controller.hands import Hands
from controller.informer import Informer
from controller.ledger import Ledger
from controller.limits import Bounds, Timing
from controller.metrics import Metrics
from controller.migrationkeeper import MigrationKeeper
from controller.movers import Movers
from controller.nodes import NodeKeeper
from controller.nodewatcher import Eyes
from controller.objects import Objects
from controller.observer import Observer
from controller.plan.evidence import quiet_over, quiet_s
from controller.plan.snapshot import Policy, Term
from controller.reconciler import Parts, Reconciler
from controller.storewatch import StoreWatch
from controller.trust import TrustKeeper
from controller.turns import Turns
from controller.words import Words
from controller.workqueue import Backoff, WorkQueue
from controller.world import World
from controller.writer import StatusWriter
from drivers.errors import StoreError
from drivers.hypervisor import Hypervisor
from drivers.store import ChangeSet, KeyValue, Store

log = logging.getLogger(__name__)

LIGHT_CYCLE_S = 10.0  # a list of every node, to prove that no event was missed
TRUST_CYCLE_S = 1.0
LAST_CALLS_S = 60.0  # the longest deadline of a call that may still be out
REPLAN_BASE_S, REPLAN_MAX_S = 0.02, 5.0
NODE_PAUSE_S = 0.25  # what domains do to a node's figures is written once, not once for each


@dataclass(frozen=True, slots=True)
class Office:
    """What outlives a term."""

    store: Store
    objects: Objects
    hypervisor: Hypervisor
    world: World
    timing: Timing
    bounds: Bounds
    policy: Policy
    metrics: Metrics
    storewatch: StoreWatch
    cluster: str
    faults: Faults
    on_synced: Callable[[bool], None]
    desk: Desk
    figures: Board


@dataclass(slots=True)
class Reign:
    """The parts of one term, and the tasks that drive them."""

    office: Office
    leadership: Leadership
    cache: Cache
    ledger: Ledger
    queue: WorkQueue
    observer: Observer
    reconciler: Reconciler
    trust: TrustKeeper
    writer: StatusWriter
    recorder: Recorder
    informer: Informer
    movers: Movers
    consoles: Keeper
    gatherer: Gatherer
    nodes_changed: asyncio.Event
    measured: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled or fenced. When it returns, no call is out that had not outlasted its deadline."""
        log.info("leading", extra={"token": self.leadership.token})
        drivers = (
            self.informer.run(),
            self.reconciler.run(),
            self.writer.run(),
            self.recorder.run(),
            self._follow_nodes(),
            self._cycle(),
            self._watch_trust(),
            self.movers.run(),
            self.consoles.run(),
            self.gatherer.run(),
            self.leadership.lost.wait(),
        )
        tasks = [asyncio.create_task(work) for work in drivers]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.office.on_synced(False)
            self.queue.shut_down()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_CALLS_S):
                        await self.reconciler.close()
            finally:  # also when it is cancelled once more while the last calls end
                await self._end(tasks)

    async def _end(self, tasks: Iterable[asyncio.Task[object]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.observer.close()
        log.info("not leading any more", extra={"token": self.leadership.token})

    async def _follow_nodes(self) -> None:
        while True:
            await self.nodes_changed.wait()
            self.nodes_changed.clear()
            await self.observer.sync()

    async def _watch_trust(self) -> None:
        """A store that turns out to be another past's ends the term: what the cache knows of it is compared
        by revisions, and the younger ones of the past that was given up would win (seeds 13, 25, 26, 29)."""
        set_backs = self.office.storewatch.set_backs
        while True:
            if self.office.storewatch.set_backs != set_backs:
                self.leadership.lose("the store was restored: all that is known of it must be read anew")
            try:
                await self.trust.refresh()
            except StoreError as error:
                log.warning("the store refused", extra={"why": error.message})
            await asyncio.sleep(TRUST_CYCLE_S)

    async def _cycle(self) -> None:
        """Light cycles prove that no event was lost; every resync the details are read again and everything
        is planned again, so that a mistake anywhere is not kept for ever."""
        deep_at = self.office.world.now() + self.office.timing.resync_s
        while True:
            await asyncio.sleep(min(LIGHT_CYCLE_S, self.office.timing.resync_s))
            deep = self.office.world.now() >= deep_at
            began = self.office.world.now()
            changed = await self.observer.cycle(deep=deep)
            if deep:
                deep_at = self.office.world.now() + self.office.timing.resync_s
                for key in self.cache.all_keys():
                    self.queue.add(key)
            elif not changed and not self.queue.depth:
                self.office.metrics.noop_pass(self.office.world.now() - began)
            self._measure()
            self._note_quiet()

    def _note_quiet(self) -> None:
        """A successor may skip the quiet time only if this term has outlived its own (safety §4)."""
        if not self.leadership.quiet_over:
            self.leadership.quiet_over = quiet_over(self.cache.snapshot())
        snap = self.cache.snapshot()
        self.leadership.note_answers(lambda node: self.cache.view(node).reads, partial(quiet_s, snap))

    def _measure(self) -> None:
        self.office.metrics.store_trusted(not self.cache.hold)
        for node in self.measured - set(self.cache.nodes):
            self.office.metrics.forget_node(node)
        self.measured = set(self.cache.nodes)
        for node in self.measured:
            view = self.cache.view(node)
            self.office.metrics.node_up(node, view.answers)
            if view.reads:
                self.office.metrics.observed(node, view.reads[-1][0])


@dataclass(frozen=True, slots=True)
class _Sink:
    """What the informer fills: the cache, and the flag that says that it is full."""

    cache: Cache
    office: Office

    def reset(self, items: tuple[KeyValue, ...], revision: int) -> None:
        contradiction = self.cache.reset(items, revision)
        if contradiction:
            self.office.storewatch.note_restored(contradiction)
        self.office.storewatch.saw_revision(revision)
        self.office.on_synced(True)

    def apply(self, changes: ChangeSet) -> None:
        self.cache.records.apply(changes)
        self.office.storewatch.saw_revision(changes.revision)


def reign(office: Office, leadership: Leadership) -> Reign:
    """Put one term together."""
    world, timing = office.world, office.timing
    backoff = Backoff(REPLAN_BASE_S, REPLAN_MAX_S)
    queue = WorkQueue(world.now, office.metrics.queue("domains"), backoff)
    nodes_changed = asyncio.Event()

    def on_dirty(key: str) -> None:
        if key.startswith(NODE_KEY):
            nodes_changed.set()
            queue.add_after(key, NODE_PAUSE_S)
        else:
            queue.add(key)
            consoles.look_at(key)

    term = Term(leadership.elected_at, leadership.predecessor_resigned)
    setting = Setting(office.cluster, term, timing, office.policy, world.now, world.wall)
    words = Words(leadership.clock)
    cache = Cache(setting, on_dirty, hold=office.storewatch.sentence, words=words)
    ledger = Ledger(office.store, leadership)
    keeper = NodeKeeper(cache, ledger, office.objects, world)
    observer = Observer(Eyes(office.hypervisor, cache, timing, keeper.pin_identity, world.now))
    consoles = Keeper(cache, observer, office.desk)
    movers = Movers(cache, observer, world.now, leadership.begin_mutation, leadership.end_mutation)
    hands = Hands(
        cache=cache,
        ledger=ledger,
        objects=office.objects,
        observer=observer,
        world=world,
        bounds=office.bounds,
        permit=leadership.permit,
        begin=leadership.begin_mutation,
        end=leadership.end_mutation,
        reacted=office.metrics.reacted,
        send_off=movers.send_off,
        faults=office.faults,
    )
    recorder = Recorder(ledger, office.store, world, office.metrics.event)
    office.metrics.watch_queue("domains", queue)
    writer = StatusWriter(cache, ledger, recorder, world, office.metrics)
    migrations = MigrationKeeper(cache, ledger, recorder, world, office.metrics)
    parts = Parts(cache, queue, observer, Executor(hands), keeper, migrations, writer, office.metrics, world)
    return Reign(
        office=office,
        leadership=leadership,
        cache=cache,
        ledger=ledger,
        queue=queue,
        observer=observer,
        reconciler=Reconciler(
            parts, leadership.lose, Turns(office.bounds.workers, office.bounds.workers_each)
        ),
        trust=TrustKeeper(cache, ledger, office.storewatch),
        writer=writer,
        recorder=recorder,
        informer=Informer(
            office.store,
            world,
            _Sink(cache, office),
            resync_s=timing.resync_s,
            skip=(keys.HEARTBEAT, keys.object_prefix("events")),
        ),
        movers=movers,
        consoles=consoles,
        gatherer=Gatherer(cache, observer, office.figures, office.metrics, world),
        nodes_changed=nodes_changed,
    )
