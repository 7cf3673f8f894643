"""The informer: keeps a sink equal to what stands in etcd, by listing and then watching.

Place in the flow: etcd → informer → cache. The sink gets `reset` with everything at one revision, then
`apply` with each later revision, in order and without a gap. Watches are hints (I18): after any error or
compaction, and every `resync_s` anyway, all is listed again, which heals whatever a watch lost.

A store that does not answer changes nothing in the sink: what is known stays known (I11), and `is_healthy`
says that it is getting old. Not here: decoding, objects, and which keys matter (but for `skip`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final, Protocol

from controller import keys
from controller.watching import watching
from controller.workqueue import Backoff, backoff_delay
from controller.world import World
from drivers.errors import Compacted, StoreError
from drivers.store import ChangeSet, KeyValue, Store

log = logging.getLogger(__name__)

RETRY: Final = Backoff(base_s=0.2, max_s=5.0)
STALE_AFTER_S: Final = 15.0  # a watch brings a progress mark every few seconds


class InformerSink(Protocol):
    def reset(self, items: tuple[KeyValue, ...], revision: int) -> None:
        """All keys at `revision`; what is not among them is gone."""
        ...

    def apply(self, changes: ChangeSet) -> None:
        """What happened at one later revision; without changes, a progress mark."""
        ...


@dataclass(slots=True, eq=False)
class Informer:
    """`skip`: key prefixes whose keys never reach the sink. `synced` is set by the first list."""

    store: Store
    world: World
    sink: InformerSink
    prefix: str = keys.ROOT
    resync_s: float = 60.0
    skip: tuple[str, ...] = ()
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    revision: int = 0
    last_progress_at: float | None = None
    failures: int = 0

    @property
    def is_healthy(self) -> bool:
        """Whether the sink is as fresh as a working store makes it."""
        at = self.last_progress_at
        return at is not None and self.world.now() - at <= STALE_AFTER_S

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                await self._list()
                await self._follow()
            except Compacted as error:
                log.info("listing again after a compaction", extra={"error": error.message})
            except StoreError as error:
                self.failures += 1
                level = logging.WARNING if self.failures == 1 else logging.DEBUG
                log.log(level, "cannot follow the store", extra={"error": error.message})
                await asyncio.sleep(backoff_delay(self.prefix, self.failures, RETRY))

    async def _list(self) -> None:
        page = await self.store.list(self.prefix)
        items = page.items
        if self.skip:
            items = tuple(kv for kv in items if not kv.key.startswith(self.skip))
        self.sink.reset(items, page.revision)
        self._progress(page.revision)
        if self.failures:
            log.info("following the store again", extra={"revision": page.revision})
            self.failures = 0
        self.synced.set()

    async def _follow(self) -> None:
        """Watch until the next list is due."""
        try:
            async with (
                asyncio.timeout(self.resync_s),
                watching(self.store, self.prefix, self.revision) as stream,
            ):
                async for change_set in stream:
                    self._apply(change_set)
        except TimeoutError:
            return

    def _apply(self, change_set: ChangeSet) -> None:
        if self.skip and change_set.changes:
            kept = tuple(c for c in change_set.changes if not c.kv.key.startswith(self.skip))
            change_set = ChangeSet(change_set.revision, kept)
        self.sink.apply(change_set)
        self._progress(change_set.revision)

    def _progress(self, revision: int) -> None:
        self.revision = revision
        self.last_progress_at = self.world.now()
