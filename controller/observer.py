"""The observer: from nodes to the cache, by one watcher for each node.

It follows the Node objects, and hands on who wants a node or a domain read now, or all nodes once. A node
that hangs holds up nobody but its own watcher.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from controller.nodewatcher import Eyes, NodeWatcher
from controller.plan.snapshot import Link, NodeView, StoredNode
from controller.target import refusal, target_of
from drivers.hypervisor import Session


@dataclass(slots=True)
class Observer:
    """All watchers. `sync` follows the Node objects: it starts, stops and re-targets watchers."""

    eyes: Eyes
    watchers: dict[str, NodeWatcher] = field(default_factory=dict)
    serials: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _synced: dict[str, StoredNode] = field(default_factory=dict)

    async def sync(self) -> None:
        cache = self.eyes.cache
        if cache.nodes == self._synced:
            return
        before, self._synced = self._synced, dict(cache.nodes)
        wanted = {name: target_of(stored) for name, stored in cache.nodes.items()}
        for name in list(self.watchers):
            anew = name not in wanted or _is_another(before.get(name), self._synced[name])
            if anew or wanted[name] != self.watchers[name].target or refusal(self._synced[name]):
                await self._stop(name)
                if anew:
                    cache.forget_node(name)
        for name, target in wanted.items():
            problem = refusal(self._synced[name])
            if problem:
                cache.set_view(name, NodeView(link=Link.REFUSED, why=problem))
            elif name not in self.watchers:
                watcher = NodeWatcher(self.eyes, name, target, self.serials)
                self.watchers[name] = watcher
                self._tasks[name] = asyncio.create_task(watcher.run(), name=f"watch {name}")

    def session(self, node: str) -> Session | None:
        watcher = self.watchers.get(node)
        session = watcher.session if watcher is not None else None
        return session if session is not None and session.is_open else None

    def look(self, nodes: Iterable[str], uuid: str = "") -> None:
        for node in nodes:
            if node in self.watchers:
                self.watchers[node].look(uuid)

    def is_glancing(self, node: str) -> bool:
        """Whether a domain there is being read by itself, and may soon be acted upon."""
        return node in self.watchers and self.watchers[node].is_glancing

    async def fresh(self, node: str) -> bool:
        """Read one node now; True once a listing sent after this call was taken over."""
        watcher = self.watchers.get(node)
        return False if watcher is None else await watcher.fresh(self.eyes.now())

    async def glance(self, node: str, uuid: str) -> bool:
        """Read one domain on one node now; True once what the node said was taken over."""
        watcher = self.watchers.get(node)
        return watcher is not None and await watcher.glanced(uuid)

    async def cycle(self, *, deep: bool) -> int:
        """One complete listing of all nodes that answer; answers how many domains had changed."""
        ready = [w for w in self.watchers.values() if self.eyes.cache.view(w.node).answers]
        for watcher in ready:
            watcher.deep = watcher.deep or deep
        asked_at = self.eyes.now()
        done = await asyncio.gather(*(w.fresh(asked_at) for w in ready))
        return sum(w.changed for w, ok in zip(ready, done, strict=True) if ok)

    async def close(self) -> None:
        for name in list(self.watchers):
            await self._stop(name)

    async def _stop(self, name: str) -> None:
        self.watchers.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # Nobody reads it any more: what was read last must not be believed as if it were read now.
            view = self.eyes.cache.view(name)
            self.eyes.cache.set_view(name, replace(view, link=Link.CONNECTING, why="", cause="", session=0))


def _is_another(before: StoredNode | None, after: StoredNode) -> bool:
    """One of the same name: who was behind the one before was forgotten with it, and is to be pinned anew."""
    return before is not None and before.node.metadata.uid != after.node.metadata.uid
