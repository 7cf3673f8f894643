"""Users of the API, without HTTP: what they write passes the same admission and the same claims.

A user's request goes to whatever API server answers; here that is one with a way to etcd of its own. What is
refused, or not answered, is not done, and its author hears so: he is asked to try again later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from controller import keys
from controller.api.admission import Admission, Update
from controller.api.errors import ApiError
from controller.api.resources import DOMAINS, NODES, Resource
from controller.birth import FINALIZERS
from controller.model import Assignment, Decision
from controller.objects import AlreadyExists, Claimed, Conflict, NotFound, Objects
from drivers.errors import StoreError
from drivers.store import Compare, Delete, Put, Store
from specs.meta import API_VERSION
from specs.validate import Unknown
from tests.sim.cluster import Cluster

ATTEMPTS = 5
NAMESPACE = "default"
Body = dict[str, Any]
Change = Callable[[Body], None]


class Api:
    """One way to the API. Every method answers whether it was done."""

    def __init__(self, cluster: Cluster, store: Store, whose: str = "api") -> None:
        """`whose`: where a world has more than one, each has a name, for ids that no other draws."""
        self._cluster = cluster
        self.objects = Objects(store, cluster.world_of(whose))
        self._admission = Admission(self.objects, allow_xml=False, sealed=False)

    def _say(self, what: str) -> None:
        self._cluster.trace.say("user", what)

    async def create(self, resource: Resource, name: str, spec: Body, labels: Body | None = None) -> bool:
        metadata: Body = {"name": name, "labels": labels or {}}
        if resource.namespaced:
            metadata["namespace"] = NAMESPACE
        body = {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata, "spec": spec}
        try:
            checked = await self._admission.new(resource, body, Unknown.STRICT)
            await self.objects.create(resource, checked.body)
        except (ApiError, AlreadyExists, Claimed, StoreError) as error:
            self._say(f"cannot create {resource.singular} {name}: {_words(error)}")
            return False
        self._say(f"creates {resource.singular} {name} {spec} {labels or ''}")
        return True

    async def edit(self, resource: Resource, name: str, change: Change, what: str) -> bool:
        namespace = NAMESPACE if resource.namespaced else ""
        for _ in range(ATTEMPTS):
            try:
                current = await self.objects.get(resource, namespace, name)
                body: Body = msgspec.json.decode(msgspec.json.encode(current.body))
                change(body)
                update = Update(current, body, Unknown.STRICT, patched=True)
                checked = await self._admission.update(resource, update)
                if checked.body == current.body:
                    return True
                await self.objects.replace(resource, current, checked.body)
            except Conflict:
                continue
            except (ApiError, NotFound, Claimed, StoreError) as error:
                self._say(f"cannot edit {resource.singular} {name} ({what}): {_words(error)}")
                return False
            self._say(f"edits {resource.singular} {name}: {what}")
            return True
        return False

    async def delete(self, resource: Resource, name: str) -> bool:
        """As `controller.api.writing` does it."""
        namespace = NAMESPACE if resource.namespaced else ""
        for _ in range(ATTEMPTS):
            try:
                current = await self.objects.get(resource, namespace, name)
                if current.terminating:
                    return True
                if resource is NODES and await self._held(name):
                    self._say(f"cannot delete node {name}: domains may be on it")
                    return False
                ours = FINALIZERS[resource.kind]
                metadata = {
                    **current.body["metadata"],
                    "finalizers": current.body["metadata"].get("finalizers") or [ours],
                    "deletionTimestamp": self.objects.world.wall(),
                    "deletionGracePeriodSeconds": 0,
                }
                await self.objects.replace(resource, current, {**current.body, "metadata": metadata})
            except Conflict:
                continue
            except (NotFound, StoreError) as error:
                self._say(f"cannot delete {resource.singular} {name}: {_words(error)}")
                return False
            self._say(f"deletes {resource.singular} {name}")
            return True
        return False

    async def _held(self, node: str) -> bool:
        for kv in (await self.objects.store.list(keys.ASSIGNMENTS)).items:
            record = msgspec.json.decode(kv.value, type=Assignment)
            if node in record.candidates or record.node == node:
                return True
        return False

    # --- operators' decisions, as `controller.api.operations` writes them

    def _decision(self, **parts: Any) -> Decision:
        return Decision(by="operator", at=self.objects.world.wall(), **parts)

    async def confirm_dead(self, name: str, *, wiped: bool = False) -> bool:
        try:
            node = await self.objects.get(NODES, "", name)
            same = Compare(node.key, node.create_revision, on="create")
            value = msgspec.json.encode(self._decision(node=name, wiped=wiped))
            return (await self.objects.store.txn([same], [Put(keys.confirmed_dead(name), value)])).ok
        except (NotFound, StoreError):
            return False

    async def withdraw(self, name: str) -> bool:
        key = keys.confirmed_dead(name)
        try:
            kv = await self.objects.store.get(key)
            if kv is None:
                return False
            return (await self.objects.store.txn([Compare(key, kv.mod_revision)], [Delete(key)])).ok
        except StoreError:
            return False

    async def resolve(self, name: str, *, not_on: tuple[str, ...] = (), keep: str = "") -> bool:
        try:
            uuid = (await self.objects.get(DOMAINS, NAMESPACE, name)).uid
            key = keys.resolution(uuid)
            standing = await self.objects.store.get(key)
            if standing is not None and not_on:
                earlier = msgspec.json.decode(standing.value, type=Decision).not_on
                not_on = tuple(dict.fromkeys((*earlier, *not_on)))
            value = msgspec.json.encode(self._decision(not_on=not_on, keep=keep))
            seen = Compare(key, 0 if standing is None else standing.mod_revision)
            return (await self.objects.store.txn([seen], [Put(key, value)])).ok
        except (NotFound, StoreError):
            return False

    async def acknowledge(self) -> bool:
        value = msgspec.json.encode(self._decision())
        try:
            return (await self.objects.store.txn([], [Put(keys.STORE_ACK, value)])).ok
        except StoreError:
            return False


def _words(error: Exception) -> str:
    return getattr(error, "message", "") or f"{type(error).__name__} {error}"
