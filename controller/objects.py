"""Objects in the store: users' specs with their status, read and changed by compare-and-set alone.

Between the store (`drivers.store`: keys and bytes) and everything that thinks in objects (the API, the
informer, the leader). An object stands as JSON at `keys.object_key`; its `resourceVersion` is the store's
modification revision and is never stored.

Guaranteed: a Domain, its UUID and its MAC addresses are claimed and released in one transaction, so no two
objects ever share one; every change compares the revision it was computed from (I5). A value that is empty
or cannot be read is *quarantined*: it is reported with its problem, skipped in lists, and nothing is ever
deleted or concluded because of it (I11). Deletion is the leader's: `removal_writes` is what it adds to its
own fenced transaction. How new objects begin is in `controller.birth`; admission and HTTP are in
`controller.api`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from controller import keys
from controller.birth import FINALIZERS, newborn
from controller.model import Identity
from controller.world import World
from drivers.store import Change, Compare, Delete, KeyValue, Page, Put, Store, TxnResult, Write

log = logging.getLogger(__name__)

Body = dict[str, Any]
Parts = tuple[list[Compare], list[Write]]  # of a transaction
_CLAIM_ATTEMPTS = 4
MAX_REPORTED = 10_000  # unreadable values that are told apart


class Kind(Protocol):
    """What is asked of an entry of `specs.kinds`."""

    @property
    def kind(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def namespaced(self) -> bool: ...


class ObjectError(Exception):
    """An object could not be read or changed as asked."""


class NotFound(ObjectError):
    pass


class AlreadyExists(ObjectError):
    pass


class Conflict(ObjectError):
    """The object is not what the change was computed from."""


class Claimed(ObjectError):
    """A value that must be unique in the cluster belongs to another object."""

    def __init__(self, field: str, value: str, owner: str) -> None:
        super().__init__(f"{field} {value} belongs to {owner}")
        self.field = field
        self.value = value
        self.owner = owner


class Corrupt(ObjectError):
    """What stands in the store cannot be read as an object. It is left as it is."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as of `revision`. `body` carries metadata.resourceVersion; treat it as read-only. When
    `problem` is not empty the value could not be read, and `body` holds only kind and name."""

    key: str
    namespace: str
    name: str
    revision: int
    create_revision: int
    body: Body
    problem: str = ""

    @property
    def uid(self) -> str:
        return str(self.body.get("metadata", {}).get("uid", ""))

    @property
    def terminating(self) -> bool:
        return "deletionTimestamp" in self.body.get("metadata", {})


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """Objects in order of their keys, all read at `revision`. `last_key`: the last key read, from which the
    next page goes on when `more`."""

    items: tuple[StoredObject, ...]
    revision: int
    more: bool = False
    last_key: str = ""
    quarantined: tuple[StoredObject, ...] = ()


def split_key(kind: Kind, key: str) -> tuple[str, str]:
    """Namespace ("" for a cluster-scoped kind) and name of the object at `key`."""
    rest = key.removeprefix(keys.object_prefix(kind.plural))
    namespace, _, name = rest.rpartition("/")
    return (namespace, name) if kind.namespaced else ("", rest)


def parse(kind: Kind, kv: KeyValue) -> StoredObject:
    """Read a stored value; never fails."""
    namespace, name = split_key(kind, kv.key)
    try:
        body = msgspec.json.decode(kv.value)
        problem = _shape_problem(kind, body, namespace, name)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = f"not JSON: {error}" if kv.value else "empty"
    if problem:
        metadata: Body = {"name": name, "resourceVersion": str(kv.mod_revision)}
        if namespace:
            metadata["namespace"] = namespace
        stub = {"apiVersion": "domctl.io/v1", "kind": kind.kind, "metadata": metadata}
        return StoredObject(kv.key, namespace, name, kv.mod_revision, kv.create_revision, stub, problem)
    body["metadata"]["resourceVersion"] = str(kv.mod_revision)
    return StoredObject(kv.key, namespace, name, kv.mod_revision, kv.create_revision, body)


def parse_change(kind: Kind, change: Change) -> tuple[StoredObject, StoredObject | None]:
    """The object now and before. For a deletion `now` is a stub without content."""
    before = None if change.previous is None else parse(kind, change.previous)
    return parse(kind, change.kv), before


def _shape_problem(kind: Kind, body: object, namespace: str, name: str) -> str:
    if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
        return "not an object with metadata"
    metadata = body["metadata"]
    if body.get("kind") != kind.kind:
        return f"kind is {body.get('kind')!r}, not {kind.kind}"
    if metadata.get("name") != name or metadata.get("namespace", "") != namespace:
        return "metadata names another object than its key"
    if not all(isinstance(body.get(part, {}), dict) for part in ("spec", "status")):
        return "spec or status is not an object"
    return ""


def encode(body: Body) -> bytes:
    """The form in which `body` is stored: without resourceVersion."""
    metadata = {k: v for k, v in body["metadata"].items() if k != "resourceVersion"}
    return msgspec.json.encode({**body, "metadata": metadata})


def owner_of(namespace: str, name: str) -> bytes:
    """The value of a uniqueness key: whose it is."""
    return f"{namespace}/{name}".encode()


def spec_macs(body: Body) -> frozenset[str]:
    """The MAC addresses that a Domain's spec names, in lower case."""
    interfaces = (body.get("spec") or {}).get("interfaces") or []
    found = (i.get("mac") for i in interfaces if isinstance(i, dict))
    return frozenset(m.lower() for m in found if isinstance(m, str))


def status_macs(body: Body) -> frozenset[str]:
    """The MAC addresses that the domain has been given or still runs with."""
    macs = (body.get("status") or {}).get("macs")
    return frozenset(str(m).lower() for m in macs.values()) if isinstance(macs, dict) else frozenset()


class Objects:
    """Typed access to objects. All methods also raise the store's errors."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._reported: set[tuple[str, int]] = set()

    @property
    def store(self) -> Store:
        return self._store

    @property
    def world(self) -> World:
        return self._world

    @property
    def quarantined_total(self) -> int:
        """How many unreadable values were met so far (each once)."""
        return len(self._reported)

    def note(self, stored: StoredObject) -> StoredObject:
        """Say once in the log what could not be read, and count it."""
        seen = (stored.key, stored.revision)
        if stored.problem and seen not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add(seen)
            log.error(
                "quarantined an unreadable object; nothing is done about it",
                extra={"key": stored.key, "revision": stored.revision, "problem": stored.problem},
            )
        return stored

    async def get(self, kind: Kind, namespace: str, name: str) -> StoredObject:
        """Raises NotFound, Corrupt."""
        key = keys.object_key(kind.plural, namespace, name)
        kv = await self._store.get(key)
        if kv is None:
            raise NotFound(key)
        stored = self.note(parse(kind, kv))
        if stored.problem:
            raise Corrupt(f"{key} at revision {stored.revision}: {stored.problem}")
        return stored

    async def page(
        self, kind: Kind, namespace: str = "", *, after: str = "", limit: int = 500, revision: int = 0
    ) -> ObjectPage:
        prefix = keys.object_prefix(kind.plural, namespace)
        return self._page(kind, await self._store.page(prefix, after=after, limit=limit, revision=revision))

    async def list(self, kind: Kind, namespace: str = "") -> ObjectPage:
        """All objects at one revision."""
        return self._page(kind, await self._store.list(keys.object_prefix(kind.plural, namespace)))

    def _page(self, kind: Kind, page: Page) -> ObjectPage:
        found = [self.note(parse(kind, kv)) for kv in page.items]
        return ObjectPage(
            tuple(o for o in found if not o.problem),
            page.revision,
            page.more,
            page.items[-1].key if page.items else "",
            tuple(o for o in found if o.problem),
        )

    async def create(self, kind: Kind, body: Body, *, dry_run: bool = False) -> StoredObject:
        """Create as `birth.newborn` completes it. Raises AlreadyExists, Claimed."""
        complete = newborn(kind.kind, body, self._world)
        metadata = complete["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        key = keys.object_key(kind.plural, namespace, name)
        compares, writes = [Compare(key, 0)], [Put(key, encode(complete))]
        claims: list[_Claim] = []
        if kind.kind == "Domain":
            uid_key = keys.uuid_owner(metadata["uid"])
            compares.append(Compare(uid_key, 0))
            writes.append(Put(uid_key, owner_of(namespace, name)))
            claims = [_Claim(m, namespace, name) for m in sorted(spec_macs(complete))]
        result = await self._commit(compares, writes, claims, dry_run)
        if not result.ok:
            raise AlreadyExists(key)
        new = StoredObject(key, namespace, name, result.revision, result.revision, complete)
        return new if dry_run else _stored(new, complete, result.revision)

    async def replace(
        self, kind: Kind, current: StoredObject, body: Body, *, dry_run: bool = False
    ) -> StoredObject:
        """Write `body` in place of `current`, which it was computed from. Raises Conflict, Claimed."""
        compares, writes = [Compare(current.key, current.revision)], [Put(current.key, encode(body))]
        claims: list[_Claim] = []
        releases: Iterable[str] = ()
        if kind.kind == "Domain":
            before, after = spec_macs(current.body), spec_macs(body)
            claims = [_Claim(m, current.namespace, current.name) for m in sorted(after - before)]
            # What the domain still runs with stays claimed until it runs without it.
            releases = before - after - status_macs(current.body) - status_macs(body)
        freed, deletes = await self._releases(current, releases)
        result = await self._commit([*compares, *freed], [*writes, *deletes], claims, dry_run)
        if not result.ok:
            raise Conflict(current.key)
        return _stored(current, body, current.revision if dry_run else result.revision)

    async def remove(self, kind: Kind, stored: StoredObject, *, dry_run: bool = False) -> None:
        """Remove an object of a kind without a finalizer of ours. Raises Conflict."""
        assert kind.kind not in FINALIZERS
        compares, writes = await self.removal_writes(kind, stored)
        if not (await self._store.txn(compares, [] if dry_run else writes)).ok:
            raise Conflict(stored.key)

    async def removal_writes(self, kind: Kind, stored: StoredObject) -> Parts:
        """What removes the object for good, with everything that it claimed: for the leader's own fenced
        transaction, once nothing of it is left anywhere. Other owners' keys are never touched."""
        compares: list[Compare] = [Compare(stored.key, stored.revision)]
        writes: list[Write] = [Delete(stored.key)]
        if kind.kind == "Domain":
            macs = spec_macs(stored.body) | status_macs(stored.body)
            freed, deletes = await self._releases(stored, macs)
            uid_compares, uid_deletes = await self._release_key(
                keys.uuid_owner(stored.uid), owner_of(stored.namespace, stored.name)
            )
            compares += [*uid_compares, *freed]
            writes += [*uid_deletes, *deletes]
        if kind.kind == "Node":
            freed, deletes = await self._release_node(stored)
            compares += freed
            writes += deletes
        return compares, writes

    async def release_macs(self, stored: StoredObject, macs: Iterable[str]) -> Parts:
        """What frees those of `macs` that are this object's: for the leader, when a domain runs without an
        address that its spec no longer names."""
        return await self._releases(stored, macs)

    async def _releases(self, owner: StoredObject, macs: Iterable[str]) -> Parts:
        compares: list[Compare] = []
        writes: list[Write] = []
        for address in sorted(macs):
            freed, deletes = await self._release_key(keys.mac(address), owner_of(owner.namespace, owner.name))
            compares += freed
            writes += deletes
        return compares, writes

    async def _release_key(self, key: str, owner: bytes) -> Parts:
        kv = await self._store.get(key)
        if kv is None or kv.value != owner:
            return [], []
        return [Compare(key, kv.mod_revision)], [Delete(key)]

    async def _release_node(self, stored: StoredObject) -> Parts:
        """A Node's identity, and the word that it is dead: a Node of the same name is not that host. Its
        quarantine stays."""
        compares: list[Compare] = []
        writes: list[Write] = []
        for kv in (await self._store.list(keys.IDENTITIES)).items:
            try:
                pinned = msgspec.json.decode(kv.value, type=Identity)
            except msgspec.DecodeError:
                continue  # nothing is deleted because it cannot be read (I11)
            if pinned.node == stored.name:
                compares.append(Compare(kv.key, kv.mod_revision))
                writes.append(Delete(kv.key))
        dead = await self._store.get(keys.confirmed_dead(stored.name))
        if dead is not None:
            compares.append(Compare(dead.key, dead.mod_revision))
            writes.append(Delete(dead.key))
        return compares, writes

    async def _commit(
        self, compares: Sequence[Compare], writes: Sequence[Write], claims: Sequence[_Claim], dry_run: bool
    ) -> TxnResult:
        """Commit with the claims. The first try takes every claimed key for free; one that this very object
        holds already (an address domctl chose for it) is kept. Raises Claimed.

        A dry run commits the same compares without writes, so that it fails exactly as the change would."""
        expected = {c.key: 0 for c in claims}
        for _ in range(_CLAIM_ATTEMPTS):
            claimed = [Compare(c.key, expected[c.key]) for c in claims]
            puts = [Put(c.key, c.owner) for c in claims if not expected[c.key]]
            result = await self._store.txn([*compares, *claimed], [] if dry_run else [*writes, *puts])
            if result.ok or not _all_hold(compares, result):
                return result
            for claim in claims:
                kv = result.current.get(claim.key)
                if kv is not None and kv.value != claim.owner:
                    raise Claimed("MAC address", claim.mac, kv.value.decode(errors="replace"))
                expected[claim.key] = 0 if kv is None else kv.mod_revision
        return result


@dataclass(frozen=True, slots=True)
class _Claim:
    mac: str
    namespace: str
    name: str

    @property
    def key(self) -> str:
        return keys.mac(self.mac)

    @property
    def owner(self) -> bytes:
        return owner_of(self.namespace, self.name)


def _all_hold(compares: Sequence[Compare], result: TxnResult) -> bool:
    for compare in compares:
        kv = result.current.get(compare.key)
        revision = 0 if kv is None else kv.mod_revision
        if revision != compare.revision:
            return False
    return True


def _stored(where: StoredObject, body: Body, revision: int) -> StoredObject:
    metadata = {**body["metadata"], "resourceVersion": str(revision)}
    return replace(where, revision=revision, body={**body, "metadata": metadata})
