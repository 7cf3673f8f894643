"""Expectations: what was changed is unknown until it was seen (I6).

After a mutation, whatever its answer, the domain on that node counts as Unknown until a listing, or a read
of this domain, that was *sent* later was taken over. So nothing is ever done twice on one observation, and a
reply that was lost is never taken for a refusal. Writes to etcd need no expectation: the cache takes over its
own at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Expectations:
    """`pending`: (uuid, node) to the monotonic instant before which no listing counts. `held`: the nodes on
    which an action is changing a domain just now; what it comes to is read when it is over."""

    pending: dict[tuple[str, str], float] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)

    def hold(self, uuid: str, node: str) -> None:
        self.held.setdefault(uuid, set()).add(node)

    def release(self, uuid: str) -> list[str]:
        """The action is over; the nodes to read."""
        return sorted(self.held.pop(uuid, ()))

    def is_held(self, uuid: str, node: str) -> bool:
        return node in self.held.get(uuid, ())

    def expect(self, uuid: str, node: str, now: float) -> None:
        self.pending[(uuid, node)] = now

    def settle(self, node: str, sent_at: float) -> list[str]:
        """A listing of `node`, sent at `sent_at`, was taken over; the UUIDs that are known again."""
        met = [key for key, at in self.pending.items() if key[1] == node and at < sent_at]
        for key in met:
            del self.pending[key]
        return [uuid for uuid, _ in met]

    def settle_one(self, uuid: str, node: str, sent_at: float) -> bool:
        """One domain was read by itself, by a request sent at `sent_at`; whether it is known again."""
        met = self.pending.get((uuid, node), sent_at) < sent_at
        if met:
            del self.pending[(uuid, node)]
        return met

    def forget_node(self, node: str) -> None:
        for key in [key for key in self.pending if key[1] == node]:
            del self.pending[key]
