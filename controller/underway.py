"""Migrations that are under way, as this leader knows them: decided on, recorded, sent, watched.

`controller.cache` keeps it in step with etcd; who carries a migration out, and who follows it
(`controller.movers`), say the rest. Nothing here decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.model import Intent, IntentKind
from controller.plan.snapshot import MoveWatch


@dataclass(slots=True)
class Underway:
    """All by UUID. `moving`: open intents to migrate; `departing`: those that were decided on and are not
    recorded yet; `leaving`: those whose steps this leader is carrying out just now, up to the sending of the
    call. `watches`: what was found out of each. `news`: there is some, of any."""

    moving: dict[str, Intent] = field(default_factory=dict)
    departing: dict[str, Intent] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    watches: dict[str, MoveWatch] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self) -> Mapping[str, Intent]:
        """Those that are recorded, and those that will be."""
        return {**self.departing, **self.moving} if self.departing else self.moving

    def concerns(self, uuid: str, node: str) -> bool:
        """Whether it is between this node and another, so that the movers read it, in their own order."""
        intent = self.moving.get(uuid) or self.departing.get(uuid)
        return intent is not None and node in (intent.node, intent.target)

    def heard(self, uuid: str) -> None:
        if uuid in self.moving:
            self.news.set()

    def recorded(self, uuid: str, intent: Intent | None) -> None:
        """The domain's intent is this one now."""
        before = self.moving.get(uuid)
        if intent is not None and intent.kind is IntentKind.MIGRATE:
            self.departing.pop(uuid, None)
            self.moving[uuid] = intent
            self.news.set()
            if before is None or before.epoch != intent.epoch:
                self.watches.pop(uuid, None)
        elif before is not None:
            del self.moving[uuid]
            self.watches.pop(uuid, None)

    def begins(self, uuid: str, intent: Intent) -> None:
        """It was decided on, and its steps begin."""
        self.departing[uuid] = intent
        self.leaving.add(uuid)

    def sent(self, uuid: str) -> None:
        """Its steps are over, whatever came of them."""
        self.departing.pop(uuid, None)
        self.leaving.discard(uuid)
        self.heard(uuid)
