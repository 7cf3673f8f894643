"""Events: what happened to an object, for people, in the shape of Kubernetes' core/v1 Event.

Place in the flow: the status writer and others tell the recorder, which never waits and never fails; `run`
writes what it was told, batch by batch, through the ledger. The same event about the same object is one
Event whose count grows, also over a change of leaders, since its name is a digest of what it says; an object
about which ever new things are said gets one Event for the rest. Events end an hour after their last
occurrence by themselves: they hang on leases, one for all events of ten minutes.

Nothing decides by events. Under pressure they are dropped and counted, never waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from controller import keys
from controller.ledger import Commit, CommitOutcome, Ledger
from controller.model import EVENT_LIFETIME_S
from controller.world import World
from drivers.errors import LeaseLost, StoreError
from drivers.store import Compare, KeyValue, Put, Store
from specs.event import COMPONENT, REPORTER, is_ours
from specs.meta import API_VERSION
from specs.redaction import redacted

log = logging.getLogger(__name__)

FLUSH_EVERY_S: Final = 0.5
LEASE_WINDOW_S: Final = 600
BATCH: Final = 64
MAX_WAITING: Final = 4096
MAX_REMEMBERED: Final = 4096
MAX_MESSAGE: Final = 1024
MAX_KINDS_PER_OBJECT: Final = 20  # different messages for one reason, before they share one Event
RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Told:
    """One event that waits to be written. `count`: occurrences since it was written last."""

    kind: str
    namespace: str
    name: str
    uid: str
    type: str
    reason: str
    message: str
    action: str
    first_at: str
    last_at: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Written:
    """What stands in the store under one key, as far as this recorder knows."""

    revision: int
    count: int
    first_at: str


def _uncounted(_result: str) -> None:
    """Where nobody counts."""


@dataclass(slots=True, eq=False)
class Recorder:
    """`count` is told written, merged or dropped, for each event."""

    ledger: Ledger
    store: Store
    world: World
    count: Callable[[str], None] = _uncounted
    dropped: int = 0
    _waiting: OrderedDict[str, _Told] = field(default_factory=OrderedDict)
    _known: OrderedDict[str, _Written] = field(default_factory=OrderedDict)
    _kinds: OrderedDict[tuple[str, ...], set[str]] = field(default_factory=OrderedDict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _lease: int = 0
    _lease_until: float = 0.0

    def event(  # noqa: PLR0913, PLR0917 - the fields of an Event, no more and no less
        self,
        kind: str,
        namespace: str,
        name: str,
        uid: str,
        type: str,
        reason: str,
        message: str,
        action: str,
    ) -> None:
        """`type`: Normal or Warning. Cluster-scoped objects have no namespace: theirs stands in default."""
        at = self.world.wall()
        told = _Told(
            kind, namespace, name, uid, type, reason, redacted(message)[:MAX_MESSAGE], action, at, at
        )
        key = self._key(told)
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._waiting[key] = replace(waiting, last_at=at, count=waiting.count + 1, message=told.message)
            self.count("merged")
        elif len(self._waiting) >= MAX_WAITING:
            self._drop(1)
        else:
            self._waiting[key] = told
            self._wake.set()

    async def run(self) -> None:
        """Write what was told until cancelled. Raises Fenced when the leader's term is over."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(FLUSH_EVERY_S)  # what comes together is written together
            while self._waiting:
                if not await self.flush():
                    await asyncio.sleep(RETRY_S)

    async def flush(self) -> bool:
        """Write one batch; False if something must be tried again."""
        batch = [self._waiting.popitem(last=False) for _ in range(min(BATCH, len(self._waiting)))]
        try:
            lease = await self._current_lease()
            written = await asyncio.gather(*(self._write(key, told, lease) for key, told in batch))
        except StoreError as error:
            log.debug("events wait", extra={"error": error.message})
            if isinstance(error, LeaseLost):
                self._lease = 0
            written = [False] * len(batch)
        for (key, told), done in zip(batch, written, strict=True):
            if not done:
                self._put_back(key, told)
        return all(written)

    async def _write(self, key: str, told: _Told, lease: int) -> bool:
        """Once as it is known here, once more as it turned out to be."""
        for _ in range(2):
            known = self._known.get(key)
            total = told.count + (known.count if known is not None else 0)
            first_at = (known.first_at if known is not None else "") or told.first_at
            body = _event_object(key, told, total, first_at)
            commit: Commit = await self.ledger.commit(
                [Compare(key, known.revision if known is not None else 0)], [Put(key, body, lease=lease)]
            )
            if commit.outcome is CommitOutcome.DONE:
                self._remember(key, _Written(commit.revision, total, first_at))
                self.count("written")
                return True
            if commit.outcome is CommitOutcome.UNKNOWN:
                return False
            self._remember(key, _read(commit.current.get(key)))
        return False

    async def _current_lease(self) -> int:
        """One lease for all events of a window; it outlives each of them by up to that window."""
        if not self._lease or self.world.now() >= self._lease_until:
            asked_at = self.world.now()
            self._lease = await self.store.grant(EVENT_LIFETIME_S + LEASE_WINDOW_S)
            self._lease_until = asked_at + LEASE_WINDOW_S
        return self._lease

    def _key(self, told: _Told) -> str:
        """By what it says; by its reason alone once too much was said for that reason."""
        subject = (told.kind, told.namespace, told.name, told.uid, told.type, told.reason, told.action)
        messages = self._kinds.setdefault(subject, set())
        self._kinds.move_to_end(subject)
        while len(self._kinds) > MAX_REMEMBERED:
            self._kinds.popitem(last=False)
        digest = hashlib.blake2b(told.message.encode(), digest_size=8).hexdigest()
        if len(messages) < MAX_KINDS_PER_OBJECT:
            messages.add(digest)
        said = (*subject, digest if digest in messages else "")
        name = hashlib.blake2b("\x00".join(said).encode(), digest_size=8).hexdigest()
        return keys.object_key("events", told.namespace or "default", f"{told.name}.{name}")

    def _put_back(self, key: str, told: _Told) -> None:
        newer = self._waiting.get(key)
        if newer is not None:
            self._waiting[key] = replace(newer, first_at=told.first_at, count=newer.count + told.count)
        elif len(self._waiting) >= MAX_WAITING:
            self._drop(1)
        else:
            self._waiting[key] = told

    def _remember(self, key: str, written: _Written | None) -> None:
        self._known.pop(key, None)
        if written is not None:
            self._known[key] = written
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)

    def _drop(self, events: int) -> None:
        if not self.dropped:
            log.warning("events are dropped", extra={"waiting": len(self._waiting)})
        self.dropped += events
        self.count("dropped")


def _event_object(key: str, told: _Told, count: int, first_at: str) -> bytes:
    namespace = told.namespace or "default"
    involved = {"apiVersion": API_VERSION, "kind": told.kind, "name": told.name, "uid": told.uid}
    if told.namespace:
        involved["namespace"] = told.namespace
    digest = hashlib.blake2b(f"{key}\x00{first_at}".encode(), digest_size=16).hexdigest()
    value: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": key.rpartition("/")[2],
            "namespace": namespace,
            "uid": f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}",
            "creationTimestamp": first_at,
        },
        "involvedObject": involved,
        "reason": told.reason,
        "message": told.message,
        "type": told.type,
        "action": told.action,
        "count": count,
        "firstTimestamp": first_at,
        "lastTimestamp": told.last_at,
        "eventTime": None,
        "source": {"component": COMPONENT},
        "reportingComponent": REPORTER,
        "reportingInstance": "domctl",
    }
    return msgspec.json.encode(value)


def _read(kv: KeyValue | None) -> _Written | None:
    """What an earlier leader wrote. What cannot be read is overwritten, as it says nothing."""
    if kv is None:
        return None
    try:
        value = msgspec.json.decode(kv.value, type=dict[str, Any])
        if not is_ours(value):  # somebody else's, under a name that was to be ours
            return _Written(kv.mod_revision, 0, "")
        return _Written(kv.mod_revision, int(value["count"]), str(value["firstTimestamp"]))
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError):
        return _Written(kv.mod_revision, 0, "")
