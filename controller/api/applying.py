"""PATCH with application/apply-patch+yaml: server-side apply, which creates what is not there.

The configuration may leave out what it does not care about; what comes out of merging it must pass the same
admission as any other change. Conflicts are told before anything else is checked, as Kubernetes does. An
apply that changes nothing writes nothing. What is owned is `controller.api.managed`'s to say.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors, managed, owners, patch
from controller.api.admission import Admission, Update, subject_of
from controller.api.errors import ApiError, Cause
from controller.api.fieldsets import ambiguous
from controller.api.managed import Application, Conflicts, Manager, shape_for, with_managers
from controller.api.requests import (
    Call,
    as_object,
    decode_json,
    decode_yaml,
    look_for_doubles,
    read_body,
)
from controller.api.writing import PATCH_ATTEMPTS, Writer, check_preconditions, enveloped, unknown_fields
from controller.limits import Bounds
from controller.objects import AlreadyExists, Body, Objects, StoredObject
from specs.metarules import MAX_ANNOTATION_BYTES

_KUBECTL: Final = "kubectl"
_THROUGH: Final = ("name", "labels", "annotations")  # of metadata, to the object behind a picture


class Applier:
    def __init__(self, objects: Objects, admission: Admission, writer: Writer, bounds: Bounds) -> None:
        self._objects = objects
        self._admission = admission
        self._writer = writer
        self._bounds = bounds

    async def apply(self, call: Call) -> web.Response:
        asked = Application(
            owners.applier(call),
            await self._config(call),
            self._objects.world.wall(),
            owners.forced(call),
        )
        pinned = bool(asked.config["metadata"].get("resourceVersion"))
        for attempt in range(PATCH_ATTEMPTS):
            last = attempt + 1 == PATCH_ATTEMPTS
            try:
                current = await self._writer.current(call)
            except ApiError as error:
                if error.code != 404 or call.target.subresource:
                    raise
                current = None
            try:
                if current is None:
                    return self._writer.answer(call, await self._create(call, asked), status=201)
                return self._writer.answer(call, await self._change(call, asked, current))
            except AlreadyExists:
                if last:
                    raise errors.already_exists(call.subject) from None
            except ApiError as error:
                moved = error.code == 409 and error.reason == "Conflict" and "name" in error.details
                if not moved or pinned or last:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _create(self, call: Call, asked: Application) -> StoredObject:
        if call.resource.source is not None:
            raise errors.method_not_allowed(call.resource.refusals.get("create", ""))
        metadata = asked.config["metadata"]
        if metadata.get("uid"):
            uid = str(metadata["uid"])[:80]
            raise errors.conflict(
                call.subject,
                f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
            )
        if metadata.get("resourceVersion"):
            raise errors.conflict(call.subject)
        blank = {k: asked.config[k] for k in ("apiVersion", "kind")}
        blank["metadata"] = {k: v for k, v in metadata.items() if k in {"name", "namespace"}}
        body, owned = managed.applied(blank, asked, {})
        checked = await self._admission.new(call.resource, body, unknown_fields(call))
        return await self._writer.add(call, replace(checked, body=with_managers(checked.body, owned)))

    async def _change(self, call: Call, asked: Application, current: StoredObject) -> StoredObject:
        check_preconditions(call, current, asked.config["metadata"])
        if call.resource.source is not None:
            asked = _through(call, asked, current)
        try:
            body, owned = managed.applied(current.body, asked, managed.stored(current.body))
        except Conflicts as conflicts:
            raise errors.apply_conflict(conflicts.message(), conflicts.listed()) from None
        body = _with_last_applied(body, asked)
        checked = await self._writer.admit(call, Update(current, body, unknown_fields(call), patched=True))
        return await self._writer.put(
            call, current, replace(checked, body=with_managers(checked.body, owned))
        )

    async def _config(self, call: Call) -> Body:
        """What is applied: of the right kind, name and place, its lists unambiguous. Raises ApiError."""
        value = await self._read(call)
        for field in ("apiVersion", "kind"):
            if not value.get(field):
                raise errors.bad_request(f"{field} must be set in what is applied")
        body = enveloped(call, value)
        metadata = {k: v for k, v in body["metadata"].items() if v is not None}
        if metadata.get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        if metadata.setdefault("name", call.target.name) != call.target.name:
            raise errors.bad_request(
                f"the name of the object ({str(metadata['name'])[:253]}) does not match the name on the URL "
                f"({call.target.name})"
            )
        body = {k: v for k, v in body.items() if v is not None} | {"metadata": metadata}
        causes = [
            Cause(path, problem, "FieldValueDuplicate" if "duplicate" in problem else "FieldValueInvalid")
            for path, problem in ambiguous(body, shape_for(call.resource.kind))
        ]
        if causes:
            raise errors.invalid(subject_of(call.resource, body), causes[:100])
        return body

    async def _read(self, call: Call) -> Body:
        data = await read_body(call.request, self._bounds.document_bytes)
        if data.lstrip()[:1] == b"{":
            try:
                value = as_object(decode_json(data))
                look_for_doubles(call, data)
                if doubled := call.refused_doubles:
                    raise errors.bad_request(f"error strict decoding YAML: {', '.join(doubled)}")
                return value
            except ApiError as error:
                if error.code == 413 or data.lstrip()[1:2] == b'"':  # JSON, and not YAML's flow style
                    raise
        return as_object(await decode_yaml(data))


def _through(call: Call, asked: Application, current: StoredObject) -> Application:
    """What is applied to a picture, as it is applied to the object behind it, whose fields have the same
    names as far as they can be written through it. Raises ApiError (422) for those that cannot."""
    seen = call.resource.pictured(current).body
    config = {k: v for k, v in asked.config.items() if k != "status"}
    _, causes = call.resource.taken(current.body, seen, patch.merge(copy.deepcopy(seen), config))
    if causes:
        raise errors.invalid(subject_of(call.resource, asked.config), causes)
    metadata = {k: v for k, v in config["metadata"].items() if k in _THROUGH}
    return replace(asked, config={**config, "metadata": metadata})


def _with_last_applied(body: Body, asked: Application) -> Body:
    """Where kubectl once applied from its own side, it keeps what it applied there up to date, so that going
    back to that takes away the right fields."""
    annotations: Any = body["metadata"].get("annotations")
    if asked.who != Manager(managed.APPLY, _KUBECTL) or not isinstance(annotations, dict):
        return body
    if managed.LAST_APPLIED not in annotations:
        return body
    config = {k: v for k, v in asked.config.items() if k != "status"}
    text = msgspec.json.encode(config, order="sorted").decode() + "\n"
    if len(text) > MAX_ANNOTATION_BYTES // 2:
        return body
    kept = {**annotations, managed.LAST_APPLIED: text}
    return {**body, "metadata": {**body["metadata"], "annotations": kept}}
