"""The status writer: puts what `controller.status` computed into the objects, and says what changed.

Level-triggered: the newest verdict of each domain waits to be written, older ones are forgotten. Only
changes are written, by compare-and-set on the object's revision; a refused write waits for the informer to
bring the newer object, whose key is planned again anyway. Events and log lines are made here, on change.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import msgspec
from msgspec import UnsetType

from controller import keys
from controller.cache import Cache
from controller.events import Recorder
from controller.ledger import CommitOutcome, Ledger
from controller.metrics import Metrics
from controller.plan.snapshot import StoredDomain, namespace_of
from controller.plan.types import STALLING, ActionKind, Reason, Verdict
from controller.status import domain_status, said, with_times
from controller.world import World
from drivers.errors import StoreError
from drivers.store import Compare, Put
from specs.domain import DomainStatus

log = logging.getLogger(__name__)

WRITES_AT_ONCE = 32
RETRY_PAUSE_S = 0.2
PASSING = frozenset({Reason.AWAITING_OBSERVATION, Reason.NODES_CONNECTING})
PASSING_S = 6.0
"""Over within milliseconds, or within the few seconds that a node has to answer."""
BOOKKEEPING = frozenset({ActionKind.RECORD, ActionKind.MARK})
"""Changes of what is written about a domain: what is said of it next follows within milliseconds."""
ACTING_S = 1.0
"""An action on a domain that was ready is an event at once, and a status if it takes longer than this: first
acting, then writing about it."""


@dataclass(slots=True)
class StatusWriter:
    """`want` is called after each plan; `run` writes until cancelled. Raises Fenced from `run`."""

    cache: Cache
    ledger: Ledger
    recorder: Recorder
    world: World
    metrics: Metrics
    _wanted: dict[str, Verdict] = field(default_factory=dict)
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)
    _passing: dict[str, float] = field(default_factory=dict)
    _later: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)
    _measured: dict[str, tuple[str, str]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def want(self, uuid: str, verdict: Verdict) -> None:
        if verdict.deferred is not None and verdict.deferred.reason in PASSING:
            began = self._passing.setdefault(uuid, self.world.now())
            if self.world.now() - began < PASSING_S:
                return  # what was said before still holds
        else:
            self._passing.pop(uuid, None)
        if verdict.action is not None and verdict.action.kind is ActionKind.FINISH:
            return  # the object goes: a write now would only be in the way
        later = self._later.pop(uuid, None)
        if later is not None:
            later.cancel()
        stored = self.cache.domains.get(uuid)
        kind = None if verdict.action is None else verdict.action.kind
        if kind is not None and stored is not None and (_was_ready(stored) or kind in BOOKKEEPING):
            if _was_ready(stored) and kind not in BOOKKEEPING:
                self._announce(stored, *said(verdict, stored), warning=False)
            self._later[uuid] = asyncio.get_running_loop().call_later(
                ACTING_S, self._write_soon, uuid, verdict
            )
        else:
            self._write_soon(uuid, verdict)

    def _write_soon(self, uuid: str, verdict: Verdict) -> None:
        self._later.pop(uuid, None)
        self._wanted[uuid] = verdict
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                batch = [self._wanted.popitem() for _ in range(min(len(self._wanted), WRITES_AT_ONCE))]
                settled = await asyncio.gather(*(self._write(u, v) for u, v in batch))
                if not all(settled):
                    await asyncio.sleep(RETRY_PAUSE_S)

    async def _write(self, uuid: str, verdict: Verdict) -> bool:
        """True when the object says what the verdict means; False when it must be tried again."""
        stored = self.cache.domains.get(uuid)
        if stored is None:
            self._forget(uuid)
            return True
        old = stored.domain.status
        new = self._status(uuid, verdict, old)
        self._measure(uuid, stored, new)
        if new == old:
            return True
        key = keys.object_key("domains", namespace_of(stored), stored.domain.metadata.name)
        value = msgspec.json.encode(msgspec.structs.replace(stored.domain, status=new))
        try:
            commit = await self.ledger.commit([Compare(key, stored.revision)], [Put(key, value)])
        except StoreError as error:  # this one object is too large, or denied: all others go on
            log.error("status cannot be written", extra={"domain": key, "why": error.message})
            return True
        if commit.outcome is not CommitOutcome.DONE:
            self._wanted.setdefault(uuid, verdict)
            self._wake.set()
            return False
        self.cache.wrote({key: value}, commit.revision)
        warning = verdict.deferred is not None and verdict.deferred.reason in STALLING
        self._announce(stored, *said(verdict, stored), warning=warning)
        return True

    def _measure(self, uuid: str, stored: StoredDomain, status: DomainStatus) -> None:
        names = (namespace_of(stored), stored.domain.metadata.name)
        self._measured[uuid] = names
        self._time_convergence(uuid, stored, status)
        state = "unknown" if isinstance(status.state, UnsetType) else status.state
        self.metrics.domain(*names, state, ready=_is_ready(status))

    def _time_convergence(self, uuid: str, stored: StoredDomain, status: DomainStatus) -> None:
        """From the first verdict on a generation to the one that calls it ready."""
        generation = stored.domain.metadata.generation
        asked, now = self._asked.get(uuid), self.world.now()
        if isinstance(generation, UnsetType):
            return
        if asked is None or asked[0] < generation:
            asked = self._asked[uuid] = (generation, now)
        if asked[1] >= 0 and _is_ready(status):
            self.metrics.converged(now - asked[1])
            self._asked[uuid] = (generation, -1.0)

    def _forget(self, uuid: str) -> None:
        for table in (self._asked, self._passing, self._told):
            table.pop(uuid, None)
        names = self._measured.pop(uuid, None)
        if names is not None:
            self.metrics.forget_domain(uuid, *names)

    def _status(self, uuid: str, verdict: Verdict, old: DomainStatus | UnsetType) -> DomainStatus:
        new = domain_status(self.cache.snapshot(), uuid, verdict)
        before = () if isinstance(old, UnsetType) or isinstance(old.conditions, UnsetType) else old.conditions
        conditions = () if isinstance(new.conditions, UnsetType) else new.conditions
        return msgspec.structs.replace(
            new, conditions=with_times(conditions, list(before), self.world.wall())
        )

    def _announce(self, stored: StoredDomain, reason: str, message: str, *, warning: bool) -> None:
        """An event when the reason changed, for whoever asks `describe` why."""
        meta, status = stored.domain.metadata, stored.domain.status
        uid = "" if isinstance(meta.uid, UnsetType) else meta.uid
        before = (
            "" if isinstance(status, UnsetType) or isinstance(status.reason, UnsetType) else status.reason
        )
        if reason == self._told.get(uid, before):
            return
        self._told[uid] = reason
        log.info("domain", extra={"domain": meta.name, "reason": reason, "why": message})
        kind = "Warning" if warning else "Normal"
        self.recorder.event(
            "Domain", namespace_of(stored), meta.name, uid, kind, reason, message, "Reconcile"
        )


def _was_ready(stored: StoredDomain) -> bool:
    status = stored.domain.status
    return not isinstance(status, UnsetType) and _is_ready(status)


def _is_ready(status: DomainStatus) -> bool:
    conditions = () if isinstance(status.conditions, UnsetType) else status.conditions
    return any(c.type == "Ready" and c.status == "True" for c in conditions)
