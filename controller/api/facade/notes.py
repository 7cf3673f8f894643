"""v1 Events that clients write: notes of operators and the like beside the controller's own.

They are checked (`specs.event`), stand among the controller's, and end as those do, by leases of ten minutes
each, an hour or so after they were written last. What many clients, or one that repeats itself, may keep the
store with is bounded: in the size of one, and in how many are made within ten minutes, in all and by each.
Those of the controller are nobody's to write, and nobody can write what looks like one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from controller import keys
from controller.api import errors, patch
from controller.api.admission import subject_of
from controller.api.errors import Cause, Subject
from controller.api.facade.namespaces import Namespaces
from controller.api.reading import answered, formed
from controller.api.requests import Call, as_object, json_response, media_type, read_json
from controller.api.writing import PATCH_ATTEMPTS, check_preconditions, current_of, enveloped, unknown_fields
from controller.limits import Bounds
from controller.model import EVENT_LIFETIME_S
from controller.objects import Body, Objects, StoredObject, encode
from drivers.errors import LeaseLost
from drivers.store import Compare, Put, TxnResult
from specs import event
from specs.core import CORE_API_VERSION

WINDOW_S: Final = 600.0
MAX_BYTES: Final = 8 << 10
_KEPT: Final = ("name", "namespace", "labels", "annotations")  # of metadata
_PREFIX_MAX: Final = 200


class Notes:
    def __init__(self, objects: Objects, namespaces: Namespaces, bounds: Bounds) -> None:
        self._objects = objects
        self._namespaces = namespaces
        self._bounds = bounds
        self._written: Counter[str] = Counter()  # in this window, by who wrote
        self._lease = 0
        self._until = -1.0

    async def handle(self, call: Call) -> web.Response:
        """create and patch. Raises ApiError."""
        return await (self._create(call) if call.verb == "create" else self._patch(call))

    async def _create(self, call: Call) -> web.Response:
        body = enveloped(call, as_object(await read_json(call, limit=MAX_BYTES)))
        metadata, world = body["metadata"], self._objects.world
        prefix = metadata.get("generateName")
        if not metadata.get("name") and isinstance(prefix, str) and prefix:
            metadata["name"] = prefix[:_PREFIX_MAX] + world.new_id().replace("-", "")[:16]
        head = {"uid": world.new_id(), "creationTimestamp": world.wall()}
        clean = self._checked(call, body, head)
        self._spend(call)
        await self._namespaces.open(call.target.namespace, dry_run=call.dry_run)
        key = keys.object_key("events", call.target.namespace, clean["metadata"]["name"])
        result = await self._write(call, Compare(key, 0), clean)
        if not result.ok:
            raise errors.already_exists(Subject("events", clean["metadata"]["name"], ""))
        call.created = clean["metadata"]["name"]
        return self._answer(call, key, clean, 0 if call.dry_run else result.revision, status=201)

    async def _patch(self, call: Call) -> web.Response:
        kind = media_type(call.request)
        if not patch.takes(kind, call.resource):
            raise patch.unsupported()
        value = await read_json(call, limit=MAX_BYTES, accepted=(kind,))
        subject = Subject(call.resource.kind, call.target.name, call.resource.group)
        change = patch.parse(kind, value, subject, MAX_BYTES)
        for attempt in range(PATCH_ATTEMPTS):
            current = await current_of(self._objects, call)
            if event.is_ours(current.body):
                raise errors.forbidden(
                    call.subject, "it is the controller's own, and nobody else's to change"
                )
            if (result := await self._changed(call, current, change)) is not None:
                return result
            if patch.names_revision(kind, value) or attempt + 1 == PATCH_ATTEMPTS:
                break
        raise errors.conflict(call.subject)

    async def _changed(
        self, call: Call, current: StoredObject, change: Callable[[Body], Body]
    ) -> web.Response | None:
        """None: it has moved meanwhile."""
        before = {**current.body, "apiVersion": CORE_API_VERSION}
        body = change(before)
        check_preconditions(call, current, body["metadata"])
        stays = {name: current.body["metadata"].get(name) for name in ("uid", "creationTimestamp")}
        clean = self._checked(call, body, stays)
        causes = [
            Cause(f"metadata.{part}", "cannot be changed", "FieldValueForbidden")
            for part in ("name", "namespace")
            if clean["metadata"].get(part) != before["metadata"][part]
        ]
        if causes:
            raise errors.invalid(subject_of(call.resource, before), causes)
        result = await self._write(call, Compare(current.key, current.revision), clean)
        if not result.ok:
            return None
        revision = current.revision if call.dry_run else result.revision
        return self._answer(call, current.key, clean, revision, status=200)

    def _checked(self, call: Call, body: Body, head: Body) -> Body:
        """As it will stand in the store."""
        metadata = {k: v for k, v in body["metadata"].items() if k in _KEPT}
        clean, problems = event.noted({**body, "metadata": metadata}, unknown_fields(call))
        causes = [Cause(p.path, p.message, p.reason) for p in problems if not p.warning]
        if causes:
            raise errors.invalid(subject_of(call.resource, body), causes)
        call.warnings[:] = [str(p) for p in problems if p.warning]
        made: Body = {**clean, "metadata": {**clean["metadata"], **head}}
        if len(encode(made)) > MAX_BYTES:
            raise errors.too_large(f"an event may have {MAX_BYTES} bytes")
        return made

    def _spend(self, call: Call) -> None:
        """Raises ApiError (429) where too many were made already."""
        self._turn_over()
        who, bounds = call.user.name, self._bounds
        for found, most, whose in (
            (self._written.total(), bounds.client_events, "all clients"),
            (self._written[who], bounds.client_events_each, "one client"),
        ):
            if found >= most:
                wait_s = max(1, round(self._until - self._objects.world.now()))
                message = f"too many events: {most} of {whose} are taken in ten minutes"
                raise errors.too_many(message, wait_s)
        if not call.dry_run:
            self._written[who] += 1

    def _turn_over(self) -> None:
        if self._objects.world.now() >= self._until:
            self._until = self._objects.world.now() + WINDOW_S
            self._lease = 0
            self._written.clear()

    async def _write(self, call: Call, compare: Compare, body: Body) -> TxnResult:
        if call.dry_run:
            return await self._objects.store.txn([compare], [])
        for _ in range(2):
            try:
                put = Put(compare.key, encode(body), lease=await self._current_lease())
                return await self._objects.store.txn([compare], [put])
            except LeaseLost:  # another store, or one that was down for long
                self._lease = 0
        raise errors.unavailable("the store gives no lease that would end the event")

    async def _current_lease(self) -> int:
        """One for all events of a window; it outlives each of them by up to that window."""
        self._turn_over()
        if not self._lease:
            self._lease = await self._objects.store.grant(EVENT_LIFETIME_S + int(WINDOW_S))
        return self._lease

    def _answer(self, call: Call, key: str, body: Body, revision: int, *, status: int) -> web.Response:
        metadata: dict[str, Any] = dict(body["metadata"])
        if revision:
            metadata["resourceVersion"] = str(revision)
        shown = {**body, "metadata": metadata}
        stored = StoredObject(key, metadata["namespace"], metadata["name"], revision, revision, shown)
        body = formed(call, answered(call.resource, stored), self._objects.world.wall())
        return json_response(body, status=status)
