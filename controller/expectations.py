"""Expectations: what was changed is unknown until it was seen (I6).

After a mutation, whatever its answer, the domain on that node counts as Unknown until a listing, or a read
of this domain, that was *sent* later was taken over. So nothing is ever done twice on one observation, and a
reply that was lost is never taken for a refusal. Writes to etcd need no expectation: the cache takes over its
own at once. A definition or a start that was not answered may be carried out later still, though a listing
did not show it: a frozen daemon keeps what it received. When the node answered first since is kept for that.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any, Final

KEPT_S: Final = 600.0  # longer than any late command is waited for


@dataclass(slots=True)
class Expectations:
    """`pending`: (uuid, node) to the monotonic instant before which no listing counts. `held`: the nodes on
    which a domain is being started just now; what comes of it is read when that is over. `unanswered`: where
    a definition or start was sent in vain, and when a complete listing of that node ended first since then
    (None: none has yet)."""

    pending: dict[tuple[str, str], float] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)
    unanswered: dict[tuple[str, str], float | None] = field(default_factory=dict)
    _in_vain: dict[tuple[str, str], float] = field(default_factory=dict)  # until when that was waited for

    def expect(self, uuid: str, node: str, now: float) -> None:
        self.pending[(uuid, node)] = now

    def hold(self, uuid: str, node: str) -> None:
        self.held.setdefault(uuid, set()).add(node)

    def release(self, uuid: str) -> None:
        self.held.pop(uuid, None)

    def is_held(self, uuid: str, node: str) -> bool:
        return node in self.held.get(uuid, ())

    def held_on(self, node: str) -> frozenset[str]:
        return frozenset(uuid for uuid, nodes in self.held.items() if node in nodes)

    def doubt(self, uuid: str, node: str, now: float) -> None:
        """A definition or start was sent, and nobody knows what came of it."""
        self.unanswered[(uuid, node)] = None
        self._in_vain[(uuid, node)] = now

    def settle(
        self, node: str, sent_at: float, ended_at: float, except_for: Set[str] = frozenset()
    ) -> list[str]:
        """A listing of `node`, sent at `sent_at`, was taken over; the UUIDs that are known again."""
        self._answered(node, sent_at, ended_at)
        met = [
            (uuid, on)
            for (uuid, on), at in self.pending.items()
            if on == node and at < sent_at and uuid not in except_for
        ]
        for key in met:
            del self.pending[key]
        return [uuid for uuid, _ in met]

    def _answered(self, node: str, sent_at: float, ended_at: float) -> None:
        for key, at in list(self.unanswered.items()):
            if key[1] != node:
                continue
            if at is None and self._in_vain[key] < sent_at:
                self.unanswered[key] = ended_at
            elif at is not None and ended_at - at > KEPT_S:
                del self.unanswered[key], self._in_vain[key]

    def settle_one(self, uuid: str, node: str, sent_at: float) -> bool:
        """One domain was read by itself, by a request sent at `sent_at`; whether it is known again."""
        met = self.pending.get((uuid, node), sent_at) < sent_at
        if met:
            del self.pending[(uuid, node)]
        return met

    def forget_node(self, node: str) -> None:
        tables: tuple[dict[tuple[str, str], Any], ...] = (self.pending, self.unanswered, self._in_vain)
        for table in tables:
            for key in [key for key in table if key[1] == node]:
                del table[key]
