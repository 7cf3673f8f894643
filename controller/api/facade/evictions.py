"""policy/v1 Eviction of a pod: asks for a live migration of its domain to any node that takes it.

The first eviction of a pod creates a Migration, `evict-` and the pod's name, which is carried out like any
other: within the budgets of both nodes, so that a drained node's domains leave one after another. Until the
domain has left, an eviction is answered as Kubernetes answers where a disruption budget forbids it (429, with
what it waits for), and `kubectl drain` asks again. Then the pod of that name is gone, and the answer is 404,
which drain takes for done. A domain that is being deleted goes anyhow: 201.

A Migration that failed is asked for anew after a while, never more often, under the same name: what waits in
the store does not grow with the number of requests, and what has ended goes after an hour, as Events do. It
stays when whoever drained gives up; deleting it ends the wish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from aiohttp import web

from controller.api import errors
from controller.api.errors import ApiError
from controller.api.reading import Reader, Scan
from controller.api.requests import Call, as_object, dry_run, json_response, read_json
from controller.api.resources import DOMAINS, MIGRATIONS
from controller.api.selectors import Selector
from controller.model import EVENT_LIFETIME_S
from controller.objects import AlreadyExists, Body, Conflict, NotFound, Objects, StoredObject
from specs.meta import API_VERSION
from specs.migration import FINISHED

_LIMIT: Final = 64 << 10
KEPT_S: Final = EVENT_LIFETIME_S  # a Migration that nobody wrote, after its end; longer than _AGAIN_S
_AGAIN_S: Final = 60.0  # after a Migration that ended without moving the domain
_REMEMBERED: Final = 10_000  # Migrations that ended; one that is forgotten is asked for later
_KINDS: Final = (None, "", "Eviction")
_VERSIONS: Final = (None, "", "policy/v1", "policy/v1beta1")
_DONE: Final = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class Evictions:
    def __init__(self, objects: Objects, reader: Reader) -> None:
        self._objects = objects
        self._reader = reader
        self._ended_seen: dict[str, float] = {}  # by uid, in monotonic seconds, in the order of seeing

    async def handle(self, call: Call) -> web.Response:
        """Raises ApiError."""
        if call.verb != "create":
            raise errors.method_not_allowed()
        options = await self._options(call)
        domain, pod = await self._pod(call)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != pod.uid:
            raise errors.conflict(
                call.subject,
                f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {pod.uid}",
            )
        if domain.terminating:
            return json_response(_DONE, status=201)
        dry = call.dry_run or dry_run(options.get("dryRun") or [])
        standing = await self._standing(domain, pod)
        if standing is not None and not _is_finished(standing):
            raise _not_yet(standing)  # as for most that drain asks: nothing else need be read
        under_way = await self._under_way(domain)
        if under_way is None and standing is not None:
            under_way = await self._ended(standing, dry=dry)
        if under_way is not None:
            raise _not_yet(under_way)
        if dry:
            return json_response(_DONE, status=201)
        raise _not_yet(await self._ask(call, domain, pod))

    async def _options(self, call: Call) -> Body:
        value = await read_json(call, limit=_LIMIT)
        body = {} if value is None else as_object(value)
        if body.get("kind") not in _KINDS or body.get("apiVersion") not in _VERSIONS:
            raise errors.bad_request("the body must be an Eviction of policy/v1")
        metadata, options = body.get("metadata") or {}, body.get("deleteOptions") or {}
        if not isinstance(metadata, dict) or not isinstance(options, dict):
            raise errors.bad_request("metadata and deleteOptions must be objects")
        if not isinstance(options.get("preconditions") or {}, dict):
            raise errors.bad_request("preconditions must be an object")
        if metadata.get("name") not in (call.target.name, None, ""):
            raise errors.bad_request("name in URL does not match name in Eviction object")
        return options

    async def _pod(self, call: Call) -> tuple[StoredObject, StoredObject]:
        resource, target = call.resource, call.target
        try:
            domain = await self._objects.get(DOMAINS, target.namespace, resource.key_name(target.name))
        except NotFound:
            raise errors.not_found(call.subject) from None
        pod = resource.pictured(domain)
        if pod.name != target.name or not resource.shows(pod):
            raise errors.not_found(call.subject)
        return domain, pod

    async def _under_way(self, domain: StoredObject) -> StoredObject | None:
        """Anybody's Migration of the domain that has not come to its end. Finished ones may stay for ever,
        so there may be very many, which are read in turns."""
        scan = Scan(MIGRATIONS, domain.namespace, Selector(), 0)
        async with aclosing(self._reader.slices(scan)) as slices:
            async for found in slices:
                for migration in found:
                    spec = migration.body.get("spec") or {}
                    if spec.get("domain") == domain.name and not _is_finished(migration):
                        return migration
        return None

    async def _standing(self, domain: StoredObject, pod: StoredObject) -> StoredObject | None:
        try:
            return await self._objects.get(MIGRATIONS, domain.namespace, migration_name(domain, pod))
        except NotFound:
            return None

    async def _ended(self, standing: StoredObject, *, dry: bool) -> StoredObject | None:
        """A request of ours that has ended, while it is too early to ask again; else it makes way."""
        if self._seen_for_s(standing) < _AGAIN_S:
            return standing
        try:
            await self._objects.remove(MIGRATIONS, standing, dry_run=dry)
        except Conflict:
            return standing
        return None

    def _seen_for_s(self, migration: StoredObject) -> float:
        """How long this replica has known that it ended, in seconds. When it did is told by the clock of
        another machine, which may be hours from ours."""
        now = self._objects.world.now()
        seen_at = self._ended_seen.setdefault(migration.uid, now)
        if len(self._ended_seen) > _REMEMBERED:
            del self._ended_seen[next(iter(self._ended_seen))]
        return now - seen_at

    async def _ask(self, call: Call, domain: StoredObject, pod: StoredObject) -> StoredObject:
        name = migration_name(domain, pod)
        body: Body = {
            "apiVersion": API_VERSION,
            "kind": MIGRATIONS.kind,
            "metadata": {"name": name, "namespace": domain.namespace},
            "spec": {"domain": domain.name, "ttlSecondsAfterFinished": KEPT_S},
        }
        await call.record({"migration": f"{domain.namespace}/{name}", "domain": domain.name})
        try:
            return await self._objects.create(MIGRATIONS, body)
        except AlreadyExists:
            return await self._objects.get(MIGRATIONS, domain.namespace, name)


def _is_finished(migration: StoredObject) -> bool:
    return (migration.body.get("status") or {}).get("phase") in FINISHED


def migration_name(domain: StoredObject, pod: StoredObject) -> str:
    """A DNS label, of one pod alone."""
    name = f"evict-{pod.name}"
    if len(name) <= _NAME_MAX:
        return name
    return (
        f"evict-{domain.name[:40].rstrip('-')}-{hashlib.blake2b(pod.uid.encode(), digest_size=6).hexdigest()}"
    )


_NAME_MAX: Final = 63


def _not_yet(migration: StoredObject) -> ApiError:
    """No Retry-After: clients would wait silently, and drain could not say what for."""
    said, name = _said(migration.body), f"{migration.namespace}/{migration.name}"
    return ApiError(
        429,
        "TooManyRequests",
        f"Cannot evict pod before its domain has moved: Migration {name}: {said}",
        details={
            "name": migration.name,
            "group": MIGRATIONS.group,
            "kind": MIGRATIONS.plural,
            "causes": [{"reason": "LiveMigration", "message": said}],
        },
    )


def _said(body: Mapping[str, Any]) -> str:
    status = body.get("status") or {}
    conditions = status.get("conditions") or ()
    message = next((str(c.get("message")) for c in conditions if c.get("type") == "Ready"), "")
    return f"{status.get('phase', 'Pending')}: {message or 'it has just been asked for'}"
