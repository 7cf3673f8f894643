"""The scale subresource: how many of something are wanted, as `autoscaling/v1` Scale.

`kubectl scale` and autoscalers know nothing else of a kind that has it. A Scale is a view: writing it writes
the one field of the object that its resource names (`resources.Scale`), through the same admission, and is
owned under the subresource as on Kubernetes. The replicas that are shown as found are the controller's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from controller.api import errors, owners, patch
from controller.api.admission import Update
from controller.api.errors import Cause, Subject
from controller.api.requests import Call, as_object, json_response, media_type, read_json
from controller.api.resources import SCALE_GROUP, SCALE_KIND, Path, Scale
from controller.api.writing import PATCH_ATTEMPTS, Writer, check_preconditions, unknown_fields
from controller.limits import Bounds
from controller.objects import Body, StoredObject

API_VERSION: Final = f"{SCALE_GROUP}/v1"
_ACCEPTED: Final = (patch.MERGE, patch.JSON)
_MAX: Final = 2**31 - 1  # replicas are an int32 on the wire


class Scaler:
    def __init__(self, writer: Writer, bounds: Bounds) -> None:
        self._writer = writer
        self._bounds = bounds

    async def handle(self, call: Call) -> web.Response:
        scale = call.resource.scale
        assert scale is not None
        if call.verb == "get":
            return json_response(view(scale, await self._writer.current(call)))
        if call.verb == "update":
            sent = as_object(await read_json(call, limit=self._bounds.document_bytes))
            return await self._write(call, scale, lambda body: sent, pinned=True)
        if call.verb == "patch":
            return await self._patch(call, scale)
        raise errors.method_not_allowed()

    async def _patch(self, call: Call, scale: Scale) -> web.Response:
        kind = media_type(call.request)
        if kind not in _ACCEPTED:
            raise errors.unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: "
                + ", ".join(_ACCEPTED)
            )
        owners.refuse_force(call)
        value = await read_json(call, limit=self._bounds.body_bytes, accepted=_ACCEPTED)
        change = patch.parse(kind, value, _subject(call), self._bounds.document_bytes)
        return await self._write(call, scale, change, pinned=patch.names_revision(kind, value))

    async def _write(
        self, call: Call, scale: Scale, change: Callable[[Body], Body], *, pinned: bool
    ) -> web.Response:
        for attempt in range(PATCH_ATTEMPTS):
            current = await self._writer.current(call)
            wanted = change(view(scale, current))
            metadata = wanted.get("metadata")
            check_preconditions(call, current, metadata if isinstance(metadata, dict) else {})
            body = _with(current.body, scale.wanted, _replicas(call, wanted))
            try:
                stored = await self._writer.write(
                    call, Update(current, body, unknown_fields(call), patched=True)
                )
            except errors.ApiError as error:
                moved = error.code == 409 and error.reason == "Conflict"
                if moved and not pinned and attempt + 1 < PATCH_ATTEMPTS:
                    continue
                raise
            return json_response(view(scale, stored))
        raise AssertionError("unreachable: the last attempt returns or raises")


def view(scale: Scale, stored: StoredObject) -> Body:
    """The Scale of an object. What is not there counts as none."""
    metadata = stored.body["metadata"]
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    wanted, found, selector = (_at(stored.body, p) for p in (scale.wanted, scale.found, scale.selector))
    status: Body = {"replicas": found if isinstance(found, int) else 0}
    if isinstance(selector, str) and selector:
        status["selector"] = selector
    return {
        "kind": SCALE_KIND,
        "apiVersion": API_VERSION,
        "metadata": {k: metadata[k] for k in shown if k in metadata},
        "spec": {"replicas": wanted if isinstance(wanted, int) else 0},
        "status": status,
    }


def _subject(call: Call) -> Subject:
    return Subject(SCALE_KIND, call.target.name, SCALE_GROUP)


def _replicas(call: Call, wanted: Body) -> int:
    """Raises ApiError."""
    causes = [
        Cause(field, f"must be {value}", "FieldValueInvalid")
        for field, value in (("apiVersion", API_VERSION), ("kind", SCALE_KIND))
        if wanted.get(field) not in (value, None, "")
    ]
    metadata = wanted.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name not in (call.target.name, None, ""):
        causes.append(Cause("metadata.name", "must be the name on the URL"))
    spec = wanted.get("spec")
    replicas = spec.get("replicas") if isinstance(spec, dict) else 0
    replicas = 0 if replicas is None else replicas  # as Kubernetes reads it
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= _MAX:
        causes.append(Cause("spec.replicas", f"must be a whole number from 0 to {_MAX}"))
    if causes:
        raise errors.invalid(_subject(call), causes)
    return int(replicas)


def _at(body: Body, path: Path) -> Any:
    value: Any = body
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _with(body: Body, path: Path, value: Any) -> Body:
    changed = copy.deepcopy(body)
    inner = changed
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
    inner[path[-1]] = value
    return changed
