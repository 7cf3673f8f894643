"""Who takes how much of which host: assignments, foreign domains, and placements not recorded yet.

Kept as running sums, so that a plan costs nothing for it. Nodes with one host_uuid (a qemu and an lxc driver
of one host) share one sum. What is added here is taken away by the same amounts, never recomputed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from controller.plan.snapshot import Usage


@dataclass(slots=True)
class Capacity:
    """`group_of`: the capacity group of a node, as it is known now. `used`: by group."""

    group_of: Callable[[str], str]
    used: dict[str, Usage] = field(default_factory=dict)
    _together: dict[str, set[str]] = field(default_factory=dict)
    _by_node: dict[str, Usage] = field(default_factory=dict)
    _foreign: dict[str, Usage] = field(default_factory=dict)
    _reserved: dict[str, tuple[str, Usage]] = field(default_factory=dict)

    def take(self, node: str, cost: Usage, sign: int = 1) -> None:
        """Add a domain's cost to a node; with `sign` -1, take it away again."""
        change = Usage(sign * cost.vcpus, sign * cost.memory_bytes)
        self._by_node[node] = _sum(self._by_node.get(node, Usage()), change)
        self._add(self.group_of(node), change)

    def foreign(self, node: str, taken: Usage) -> None:
        """All that foreign domains take on a node now."""
        before = self._foreign.get(node, Usage())
        if taken != before:
            self._foreign[node] = taken
            self.take(node, Usage(taken.vcpus - before.vcpus, taken.memory_bytes - before.memory_bytes))

    def reserve(self, uuid: str, node: str, cost: Usage) -> None:
        """A placement that was planned and is not recorded yet takes its capacity now."""
        self.unreserve(uuid)
        self._reserved[uuid] = (node, cost)
        self.take(node, cost)

    def unreserve(self, uuid: str) -> None:
        """It is recorded, and counted as an assignment, or it came to nothing."""
        reserved = self._reserved.pop(uuid, None)
        if reserved is not None:
            self.take(*reserved, sign=-1)

    def is_reserved(self, node: str) -> bool:
        """Whether a placement there is on its way to being recorded."""
        return any(where == node for where, _ in self._reserved.values())

    def regroup(self, node: str, old: str, new: str) -> None:
        """A node turned out to be (part of) another host."""
        if old == new:
            return
        self._together.get(old, set()).discard(node)
        self._together.setdefault(new, set()).add(node)
        here = self._by_node.get(node, Usage())
        self._add(old, Usage(-here.vcpus, -here.memory_bytes))
        self._add(new, here)

    def sharing(self, node: str) -> set[str]:
        """The nodes whose capacity changes with this one's, itself among them."""
        return {node, *self._together.get(self.group_of(node), ())}

    def forget(self, node: str) -> None:
        """It is no node any more; what it was given is taken away by those who gave it."""
        self._together.get(self.group_of(node), set()).discard(node)

    def _add(self, group: str, change: Usage) -> None:
        self.used[group] = _sum(self.used.get(group, Usage()), change)


def _sum(one: Usage, other: Usage) -> Usage:
    return one.plus(other.vcpus, other.memory_bytes)
