"""A term of leadership for tests of what writes in one: it lasts until it is told that it does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from controller import keys
from controller.storewatch import Horizon
from drivers.store import Compare, KeyValue


@dataclass
class Term:
    """`answers`: revision, what was known before it was asked, and whether something was put.
    `renewed`: whether its lease was, in time."""

    token: int
    lease: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    revision: int = 0
    renewed: bool = True
    answers: list[tuple[int, Horizon, bool]] = field(default_factory=list)

    @property
    def fence(self) -> tuple[Compare, ...]:
        return Compare(keys.LEADER, self.token, on="create"), Compare(keys.LEADER, self.lease, on="lease")

    def owns(self, leader: KeyValue | None) -> bool:
        return leader is not None and (leader.create_revision, leader.lease) == (self.token, self.lease)

    @property
    def is_valid(self) -> bool:
        return self.renewed and not self.lost.is_set()

    def lose(self, why: str) -> None:
        self.lost.set()

    def horizon(self) -> Horizon:
        return Horizon(self.revision, 0)

    def answered(self, revision: int, before: Horizon, *, wrote: bool) -> None:
        self.answers.append((revision, before, wrote))
        self.revision = max(self.revision, revision)
