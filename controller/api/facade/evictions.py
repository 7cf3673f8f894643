"""policy/v1 Eviction of a pod: asks for a live migration of its domain to any node that takes it.

The first eviction of a pod creates a Migration, `evict-` and the pod's name, which is carried out like any
other: within the budgets of both nodes, so that a drained node's domains leave one after another. Until the
domain has left, an eviction is answered as Kubernetes answers where a disruption budget forbids it (429, with
what it waits for), and `kubectl drain` asks again. Then the pod of that name is gone, and the answer is 404,
which drain takes for done. A domain that is being deleted goes anyhow: 201.

A Migration that failed is asked for anew after a while, never more often, under the same name: what waits in
the store does not grow with the number of requests. It stays when whoever drained gives up; deleting it ends
the wish.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from controller.api import errors
from controller.api.errors import ApiError
from controller.api.requests import Call, as_object, dry_run, json_response, read_json
from controller.api.resources import DOMAINS, MIGRATIONS
from controller.objects import AlreadyExists, Body, Conflict, NotFound, Objects, StoredObject
from specs.meta import API_VERSION
from specs.migration import FINISHED

_LIMIT: Final = 64 << 10
_AGAIN_S: Final = 60.0  # after a Migration that ended without moving the domain
_KINDS: Final = (None, "", "Eviction")
_VERSIONS: Final = (None, "", "policy/v1", "policy/v1beta1")
_DONE: Final = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class Evictions:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

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
        under_way = await self._under_way(domain)
        if under_way is None and (standing := await self._standing(domain, pod)) is not None:
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
        """Anybody's Migration of the domain that has not come to its end."""
        for migration in (await self._objects.list(MIGRATIONS, domain.namespace)).items:
            spec, status = migration.body.get("spec") or {}, migration.body.get("status") or {}
            if spec.get("domain") == domain.name and status.get("phase") not in FINISHED:
                return migration
        return None

    async def _standing(self, domain: StoredObject, pod: StoredObject) -> StoredObject | None:
        try:
            return await self._objects.get(MIGRATIONS, domain.namespace, migration_name(domain, pod))
        except NotFound:
            return None

    async def _ended(self, standing: StoredObject, *, dry: bool) -> StoredObject | None:
        """A request of ours that has ended, while it is too early to ask again; else it makes way."""
        if self._since_s(standing) < _AGAIN_S:
            return standing
        try:
            await self._objects.remove(MIGRATIONS, standing, dry_run=dry)
        except Conflict:
            return standing
        return None

    def _since_s(self, migration: StoredObject) -> float:
        """How long ago it ended, in seconds."""
        now = datetime.datetime.fromisoformat(self._objects.world.wall())
        try:
            ended = datetime.datetime.fromisoformat(str((migration.body["status"])["completedAt"]))
            return (now - ended).total_seconds()
        except (KeyError, TypeError, ValueError):
            return _AGAIN_S  # it ended before it began, and nobody noted when

    async def _ask(self, call: Call, domain: StoredObject, pod: StoredObject) -> StoredObject:
        name = migration_name(domain, pod)
        body: Body = {
            "apiVersion": API_VERSION,
            "kind": MIGRATIONS.kind,
            "metadata": {"name": name, "namespace": domain.namespace},
            "spec": {"domain": domain.name},
        }
        await call.record({"migration": f"{domain.namespace}/{name}", "domain": domain.name})
        try:
            return await self._objects.create(MIGRATIONS, body)
        except AlreadyExists:
            return await self._objects.get(MIGRATIONS, domain.namespace, name)


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
