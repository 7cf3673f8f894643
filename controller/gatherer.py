"""The gatherer: asks nodes how busy they are, on a slow beat of its own, one bulk call a node each time.

It comes after everything else, and nothing waits for it. A node on which a domain is being changed, or read
by itself, is left alone until that is over: libvirt would hold up the change behind the question. Readings of
the session that are under way keep it off in the driver (HostBusy), and there a call that a stuck guest keeps
costs one slot of four at most. What fails is asked again at the next beat, and forgotten when it is too old.
Nothing is decided by figures (I3): that one is missing says nothing of its domain.

`DOMAINS_PER_S` bounds what it costs however many domains there are: the beat grows with them, from BEAT_S.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field

from controller.cache import Cache
from controller.figures import Board, reading
from controller.metrics import Metrics
from controller.observer import Observer
from controller.plan.snapshot import namespace_of
from controller.world import World
from drivers.errors import HostBusy, HypervisorError
from drivers.hypervisor import Figures

log = logging.getLogger(__name__)

BEAT_S = 30.0
SECOND_S = 5.0  # from a node's first figures to its second, which make the first rates
BUSY_S = 2.0  # until a node that is worked on is looked at again; and how often one looks for what is due
AT_ONCE = 16  # nodes
DOMAINS_PER_S = 500  # read in the whole cluster: about one hundredth of a processor
GOOD_BEATS = 2.5  # for so long a reading is shown


@dataclass(slots=True)
class _Beat:
    """One node's. `session`: the one that `last` was read on; counters of another are not compared."""

    due_at: float
    session: int = 0
    last: Figures | None = None
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Gatherer:
    cache: Cache
    observer: Observer
    board: Board
    metrics: Metrics
    world: World
    _beats: dict[str, _Beat] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled: then what it knew is unknown again, for nobody goes on reading."""
        self.board.is_kept = True
        try:
            while True:
                self._follow()
                self._begin_due()
                await asyncio.sleep(BUSY_S)
        finally:
            tasks = [beat.task for beat in self._beats.values() if beat.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.board.is_kept = False
            self.board.clear()
            self.metrics.figures.clear()

    @property
    def beat_s(self) -> float:
        domains = sum(len(beat.last.domains) for beat in self._beats.values() if beat.last is not None)
        return max(BEAT_S, domains / DOMAINS_PER_S)

    def _follow(self) -> None:
        """Nodes that answer have a beat. The first comes at once, the spread over a beat later."""
        now = self.world.now()
        answering = {node for node in self.cache.nodes if self.cache.view(node).answers}
        for node in list(self._beats):
            if node not in answering:
                task = self._beats.pop(node).task
                if task is not None:
                    task.cancel()
                self._forget(node)
        for node in self.cache.nodes:
            if node in answering and node not in self._beats:
                self._beats[node] = _Beat(now)

    def _forget(self, node: str) -> None:
        self.board.drop(node)
        self.metrics.figures.drop(node)

    def _begin_due(self) -> None:
        now = self.world.now()
        under_way = sum(beat.task is not None for beat in self._beats.values())
        for node, beat in self._beats.items():
            if under_way >= AT_ONCE:
                return
            if beat.task is None and beat.due_at <= now and not self._is_worked_on(node):
                beat.task = asyncio.create_task(self._take(node, beat), name=f"figures of {node}")
                under_way += 1

    def _is_worked_on(self, node: str) -> bool:
        expectations = self.cache.seen.expectations
        return (
            self.observer.is_glancing(node)
            or any(on == node for _, on in expectations.pending)
            or bool(expectations.held_on(node))
        )

    async def _take(self, node: str, beat: _Beat) -> None:
        try:
            figures = await self._ask(node)
            if figures is not None:
                self._take_over(node, beat, figures)
            beat.due_at = self.world.now() + self._pause_s(node, beat)
        except HostBusy:
            self.metrics.figures.asked("busy")
            beat.due_at = self.world.now() + BUSY_S
        except Exception as error:
            if not isinstance(error, HypervisorError):  # a bug met on one node
                log.exception("figures could not be read", extra={"node": node})
            self.metrics.figures.asked("failed")
            beat.due_at = self.world.now() + self.beat_s
        finally:
            beat.task = None

    async def _ask(self, node: str) -> Figures | None:
        session = self.observer.session(node)
        return None if session is None else await session.figures()

    def _take_over(self, node: str, beat: _Beat, figures: Figures) -> None:
        serial = self.cache.view(node).session
        before = beat.last if beat.session == serial else None
        beat.session, beat.last = serial, figures
        if before is not None:
            until = self.world.now() + GOOD_BEATS * self.beat_s
            self.board.put(node, reading(before, figures, self.world.wall(), until))
        self.metrics.figures.asked("read")
        names = {}
        for one in figures.domains:
            held, stored = self.cache.assignments.get(one.uuid), self.cache.domains.get(one.uuid)
            if held is not None and stored is not None and held.assignment.node == node:
                names[one.uuid] = (namespace_of(stored), stored.domain.metadata.name)
        self.metrics.figures.put(node, figures, names)

    def _pause_s(self, node: str, beat: _Beat) -> float:
        """Until the node is asked again. The second beat after its first is early or late by its name, so
        that nodes which were met together are not asked together for ever."""
        if self.board.of(node) is None:
            return SECOND_S
        spread = int.from_bytes(hashlib.blake2b(node.encode(), digest_size=2).digest()) / 0xFFFF
        return self.beat_s * (0.9 + 0.2 * spread)
