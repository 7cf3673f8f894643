"""delete and deletecollection: an object that has finalizers is marked, any other goes at once.

The controller ends what was marked; nothing here removes a Domain or a Node from the store. What may not go
at all yet is in `controller.api.deletable`. Preconditions (uid, resourceVersion) are those of the request,
compared again with what the store holds when it commits. All propagation policies are taken and end alike:
what names the object in its ownerReferences stays, for a Domain must never end because something else is not
there; who asks for Foreground, which waits for dependents to be deleted, is warned. A collection is what
a list with the same options shows, a page of it where there is a limit, and goes on where that goes on; what
somebody else deleted since is passed over, and the first that may not go ends it (what went before it has
gone).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors
from controller.api.deletable import Deletable
from controller.api.errors import ApiError, Cause, Subject
from controller.api.guard import Guard
from controller.api.lists import ListAnswer
from controller.api.reading import Reader, answered, formed, scan_of, shown
from controller.api.requests import Call, as_object, dry_run, json_response, read_json
from controller.api.writing import PATCH_ATTEMPTS, check_preconditions, current_of
from controller.birth import FINALIZERS
from controller.limits import Bounds
from controller.objects import Body, Conflict, Objects, StoredObject
from drivers.errors import Compacted

POLICIES: Final = ("Orphan", "Background", "Foreground")
NO_DEPENDENTS: Final = (
    "propagationPolicy: dependents are not deleted: domctl heeds no metadata.ownerReferences, "
    "so what names this object there stays"
)
_SUBJECT: Final = Subject("DeleteOptions", "", "meta.k8s.io")
_PART: Final = 100  # of a collection's answer, put together at once


@dataclass(frozen=True, slots=True)
class _Options:
    preconditions: Body
    dry_run: bool


class _Chosen(msgspec.Struct, frozen=True, gc=False):
    """One of a collection, kept as bytes: a hundred thousand objects in memory are nobody's wish."""

    namespace: str
    name: str
    uid: str
    shown: bytes


class Deleter:
    def __init__(
        self, objects: Objects, reader: Reader, deletable: Deletable, guard: Guard, bounds: Bounds
    ) -> None:
        self._objects = objects
        self._reader = reader
        self._deletable = deletable
        self._guard = guard
        self._bounds = bounds

    async def delete(self, call: Call) -> web.Response:
        body = await self._one(call, await self._options(call))
        return json_response(formed(call, body, self._objects.world.wall()))

    async def collection(self, call: Call) -> web.StreamResponse:
        """The answer lists what was deleted or marked, each as it was left."""
        resource, target = call.resource, call.target
        options = await self._options(call)
        if options.preconditions.get("uid"):
            raise errors.bad_request("a collection has no uid that could be a precondition")
        scan = scan_of(call)
        try:
            chosen = [
                _Chosen(
                    stored.namespace,
                    stored.name,
                    stored.uid,
                    msgspec.json.encode(self._guard.shown(call, shown(resource, stored))),
                )
                async for part in self._reader.slices(scan)
                for stored in part
            ]
        except Compacted:
            raise await self._reader.gone(scan) from None
        if not options.dry_run:
            await call.record({"deletecollection": [f"{one.namespace}/{one.name}" for one in chosen]})
        items, kind = [], f"{resource.kind}List"
        for found in chosen:
            one = replace(call, target=replace(target, namespace=found.namespace, name=found.name))
            same = {**options.preconditions, "uid": found.uid}
            try:
                await self._one(one, replace(options, preconditions=same))
            except ApiError as error:
                if error.code != 404 and not (error.code == 409 and await self._is_another(one, found.uid)):
                    raise
                continue
            items.append(found.shown)
        answer = ListAnswer(
            call, {"apiVersion": resource.api_version, "kind": kind, "metadata": {}, "items": []}, "items"
        )
        for start in range(0, len(items), _PART):
            await answer.add(items[start : start + _PART])
        return await answer.end(scan.metadata)

    async def _is_another(self, call: Call, uid: str) -> bool:
        """Whether the name is another object's by now, which nobody has asked to delete."""
        try:
            return (await current_of(self._objects, call)).uid != uid
        except ApiError as error:
            return error.code == 404

    async def _one(self, call: Call, options: _Options) -> Body:
        for attempt in range(PATCH_ATTEMPTS):
            current = await current_of(self._objects, call)
            check_preconditions(call, current, options.preconditions)
            await self._deletable.check(call.stored.kind, current, call.subject)
            try:
                return await self._end(call, current, dry=options.dry_run)
            except Conflict:
                if attempt + 1 == PATCH_ATTEMPTS:
                    raise errors.conflict(call.subject) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _end(self, call: Call, current: StoredObject, *, dry: bool) -> Body:
        if current.terminating:
            return self._guard.shown(call, answered(call.resource, current))
        ours = FINALIZERS.get(call.stored.kind)
        finalizers = current.body["metadata"].get("finalizers") or ([ours] if ours else [])
        if not finalizers:
            await self._objects.remove(call.stored, current, dry_run=dry)
            return _deleted(call.subject, current)
        metadata = {
            **current.body["metadata"],
            "finalizers": finalizers,
            "deletionTimestamp": self._objects.world.wall(),
            "deletionGracePeriodSeconds": 0,
        }
        marked = {**current.body, "metadata": metadata}
        stored = await self._objects.replace(call.stored, current, marked, dry_run=dry)
        return self._guard.shown(call, answered(call.resource, stored))

    async def _options(self, call: Call) -> _Options:
        """From the body, or without one from the query, as on Kubernetes. Raises ApiError."""
        value = await read_json(call, limit=self._bounds.document_bytes)
        options: dict[str, Any] = dict(call.query) if value is None else as_object(value)
        preconditions = {} if value is None else options.get("preconditions") or {}
        if not isinstance(preconditions, dict):
            raise errors.bad_request("preconditions must be an object")
        policy, orphan = options.get("propagationPolicy"), options.get("orphanDependents")
        if policy is not None and orphan is not None:
            message = "orphanDependents and propagationPolicy cannot be both set"
            raise errors.invalid(_SUBJECT, [Cause("propagationPolicy", message)])
        if policy is not None and policy not in POLICIES:
            message = f"must be one of {', '.join(POLICIES)}, is {str(policy)[:80]!r}"
            raise errors.invalid(_SUBJECT, [Cause("propagationPolicy", message, "FieldValueNotSupported")])
        if policy == "Foreground" or orphan is False:
            call.warnings[:] = [NO_DEPENDENTS]
        dry = call.dry_run or (value is not None and dry_run(options.get("dryRun") or []))
        return _Options(preconditions, dry)


def _deleted(subject: Subject, current: StoredObject) -> Body:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": subject.name,
            "group": subject.group,
            "kind": subject.kind,
            "uid": current.uid,
        },
    }
