"""Turns: how many actions are under way at once, at each node and in all (I16).

An action takes a place at its node first, and one of all places only then: what a stuck node keeps waiting
waits among its own, and takes nothing that another node needs. One place at one node is enough for a
migration, too, so no two actions ever wait for each other: its target is only read before the call is sent,
and the budget of migrations for each node is far below the places of a node, so that moves to a stuck target
do not fill their source. Whoever waits is served in the order of arrival, and whoever leaves, however, gives
back what he had.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Node:
    """`users`: those that have a place, and those that wait for one."""

    places: asyncio.Semaphore
    users: int = 0


class Turns:
    """`everywhere` places in all, `each` of them at one node at most."""

    def __init__(self, everywhere: int, each: int) -> None:
        self._all = asyncio.Semaphore(everywhere)
        self._each = each
        self._nodes: dict[str, _Node] = {}

    @asynccontextmanager
    async def at(self, name: str) -> AsyncIterator[None]:
        """Wait for a place at the node, and keep it within."""
        node = self._nodes.setdefault(name, _Node(asyncio.Semaphore(self._each)))
        node.users += 1
        try:
            async with node.places, self._all:
                yield
        finally:
            node.users -= 1
            if not node.users:
                self._nodes.pop(name, None)

    @property
    def users(self) -> int:
        """Actions that have a place, or wait for one."""
        return sum(node.users for node in self._nodes.values())
