"""create, update, patch and the status subresource, generic over kinds.

Each is read, admit, compare-and-set. A change that names a resourceVersion is refused when the object has
moved (409); one that names none is made again of what the object has become, a few times. An update of what
is not there is refused (404), but for the kinds of which Kubernetes creates it then. A change
that changes nothing writes nothing; every other says in managedFields whose it is. An update that takes the
last finalizer of an object that is being deleted ends it, but for Domains and Nodes, which the controller
ends. Server-side apply, in `controller.api.applying`, and scale, in `controller.api.scaling`, write through
here; deletion is in `controller.api.deleting`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import msgspec
from aiohttp import web

from controller.api import errors, managed, owners, patch
from controller.api.admission import UNKNOWN_FIELDS, Admission, Checked, Update, subject_of
from controller.api.errors import Cause, Subject
from controller.api.facade.namespaces import Namespaces
from controller.api.guard import Guard
from controller.api.managed import with_managers
from controller.api.reading import answered, formed
from controller.api.requests import (
    Call,
    as_object,
    is_name,
    json_response,
    media_type,
    read_json,
)
from controller.api.sizes import MAX_FIELDS_IN_ALL, MAX_OWNED, fields_in
from controller.birth import FINALIZERS
from controller.limits import Bounds
from controller.objects import AlreadyExists, Body, Claimed, Conflict, NotFound, Objects, StoredObject
from specs.meta import GROUP
from specs.validate import Unknown

PATCH_ATTEMPTS: Final = 5
_GENERATE_ATTEMPTS: Final = 5
_SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_DEFAULT_NAMESPACE: Final = "default"


class Writer:
    def __init__(
        self,
        objects: Objects,
        admission: Admission,
        guard: Guard,
        namespaces: Namespaces,
        bounds: Bounds,
    ) -> None:
        self._objects = objects
        self._namespaces = namespaces
        self._guard = guard
        self._admission = admission
        self._bounds = bounds

    async def create(self, call: Call) -> web.Response:
        resource = call.resource
        body = enveloped(call, await self._whole(call))
        metadata = body["metadata"]
        if metadata.get("resourceVersion") not in (None, "", "0"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        prefix = metadata.get("generateName")
        generated = not metadata.get("name") and isinstance(prefix, str) and prefix != ""
        for attempt in range(_GENERATE_ATTEMPTS if generated else 1):
            if generated:
                metadata["name"] = f"{prefix[:58]}{self._suffix()}"
            checked = await self._admission.new(resource, body, unknown_fields(call), call.refused_doubles)
            try:
                stored = await self.add(call, self._signed(call, checked))
            except AlreadyExists:
                if generated and attempt + 1 < _GENERATE_ATTEMPTS:
                    continue
                subject = Subject(resource.plural, str(metadata["name"]), resource.group)
                raise errors.already_exists(subject) from None
            return self.answer(call, stored, status=201)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _whole(self, call: Call) -> Body:
        """The object that was sent. What it says twice is refused with all else that is wrong with it."""
        return as_object(await read_json(call, limit=self._bounds.document_bytes, lenient=True))

    async def add(self, call: Call, checked: Checked) -> StoredObject:
        """Write a new object that was admitted. Raises AlreadyExists, ApiError."""
        self._guard.check(call, None, checked.body)
        self._check_size(checked.body)
        if call.stored.namespaced:
            await self._namespaces.open(checked.body["metadata"]["namespace"], dry_run=call.dry_run)
        try:
            stored = await self._objects.create(call.stored, checked.body, dry_run=call.dry_run)
        except Claimed as error:
            raise self._admission.claimed(call.stored, checked.body, error) from None
        call.warnings[:] = checked.warnings
        call.created = stored.name
        return stored

    def answer(self, call: Call, stored: StoredObject, *, status: int = 200) -> web.Response:
        body = self._guard.shown(call, answered(call.resource, stored))
        return json_response(formed(call, body, self._objects.world.wall()), status=status)

    async def update(self, call: Call) -> web.Response:
        """Of the kinds that Kubernetes has, too, one that names no revision is of whatever stands there, and
        of some kinds creates what does not."""
        body = enveloped(call, await self._whole(call))
        metadata = body["metadata"]
        pinned = bool(metadata.get("resourceVersion"))
        if call.resource.put_creates and not call.target.subresource and await self._is_absent(call):
            with contextlib.suppress(AlreadyExists):  # by somebody else, just now: then that is updated
                return self.answer(call, await self._put_new(call, body), status=201)

        def made(current: StoredObject) -> Update:
            _check_name(call, metadata)
            if not pinned and call.resource.group == GROUP:
                message = "must be specified for an update"
                cause = Cause("metadata.resourceVersion", message, "FieldValueRequired")
                raise errors.invalid(subject_of(call.resource, current.body), [cause])
            check_preconditions(call, current, metadata)
            wanted = _stored(call, current, body)
            return Update(current, wanted, unknown_fields(call), doubled=call.refused_doubles)

        return await self._written(call, made, pinned=pinned)

    async def _is_absent(self, call: Call) -> bool:
        try:
            await self._objects.get(call.stored, call.target.namespace, call.target.name)
        except NotFound:
            return True
        return False

    async def _put_new(self, call: Call, body: Body) -> StoredObject:
        """Create what an update names and is not there. One that names a revision, or a uid, means something
        that has gone. Raises AlreadyExists, ApiError."""
        _check_name(call, body["metadata"])
        if body["metadata"].get("resourceVersion") or body["metadata"].get("uid"):
            raise errors.conflict(call.subject, "the object that it is a change of is not there any more")
        checked = await self._admission.new(call.resource, body, unknown_fields(call), call.refused_doubles)
        return await self.add(call, self._signed(call, checked))

    def _signed(self, call: Call, checked: Checked) -> Checked:
        """A new object that says whose its fields are."""
        at = self._objects.world.wall()
        owned = managed.updated({}, checked.body, {}, owners.updater(call), at)
        return replace(checked, body=with_managers(checked.body, owned))

    async def patch(self, call: Call) -> web.Response:
        kind = media_type(call.request)
        if not patch.takes(kind, call.resource):
            raise patch.unsupported()
        owners.refuse_force(call)
        value = await read_json(
            call, limit=self._bounds.body_bytes, accepted=(kind,), most=patch.most_fields(kind)
        )
        self._guard.check_patch(call, value)
        subject = Subject(call.resource.kind, call.target.name, call.resource.group)
        change = patch.parse(kind, value, subject, self._bounds.document_bytes)

        def made(current: StoredObject) -> Update:
            seen = call.resource.pictured(current)
            body = call.resource.entered(change(seen.body))
            _check_identity(call, seen, body)
            check_preconditions(call, current, body["metadata"])
            return Update(current, _stored(call, current, body), unknown_fields(call), patched=True)

        return await self._written(call, made, pinned=patch.names_revision(kind, value))

    async def _written(
        self, call: Call, made: Callable[[StoredObject], Update], *, pinned: bool
    ) -> web.Response:
        """Make a change of what stands there and write it; unless it is `pinned` to one revision, again when
        the object has moved meanwhile. Raises ApiError."""
        for attempt in range(PATCH_ATTEMPTS):
            update = made(await self.current(call))
            try:
                stored = await self.write(call, update)
            except errors.ApiError as error:
                moved = error.code == 409 and error.reason == "Conflict"
                if moved and not pinned and attempt + 1 < PATCH_ATTEMPTS:
                    continue
                raise
            return self.answer(call, stored)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def write(self, call: Call, update: Update) -> StoredObject:
        """Admit, say whose it is, and write. Raises ApiError."""
        who, current = owners.updater(call), update.current
        checked = await self.admit(call, update)
        managers = owners.asked(call, current.body, update.body)
        at = self._objects.world.wall()
        owned = {} if managers is None else managed.updated(current.body, checked.body, managers, who, at)
        return await self.put(call, current, replace(checked, body=with_managers(checked.body, owned)))

    async def admit(self, call: Call, update: Update) -> Checked:
        if call.target.subresource == "status":
            return self._admission.update_status(call.stored, update)
        checked = await self._admission.update(call.stored, update)
        self._guard.check(call, update.current.body, checked.body)
        return checked

    async def put(self, call: Call, current: StoredObject, checked: Checked) -> StoredObject:
        """Write what was admitted in place of `current`, if it is anything else. Raises ApiError."""
        self._check_size(checked.body)
        _check_owned(current.body, checked.body)
        call.warnings[:] = checked.warnings
        if checked.body == current.body:
            return current
        try:
            return await self._replace(call, current, checked)
        except Conflict:
            raise errors.conflict(call.subject) from None
        except Claimed as error:
            raise self._admission.claimed(call.stored, checked.body, error) from None

    async def _replace(self, call: Call, current: StoredObject, checked: Checked) -> StoredObject:
        dry = call.dry_run
        ends = current.terminating and not checked.body["metadata"].get("finalizers")
        if ends and call.stored.kind not in FINALIZERS:
            await self._objects.remove(call.stored, current, dry_run=dry)
            return StoredObject(
                current.key,
                current.namespace,
                current.name,
                current.revision,
                current.create_revision,
                checked.body,
            )
        return await self._objects.replace(call.stored, current, checked.body, dry_run=dry)

    async def current(self, call: Call) -> StoredObject:
        return await current_of(self._objects, call)

    def _suffix(self) -> str:
        number = int(self._objects.world.new_id().replace("-", "")[:12], 16)
        letters = []
        for _ in range(5):
            number, index = divmod(number, len(_SUFFIX_ALPHABET))
            letters.append(_SUFFIX_ALPHABET[index])
        return "".join(letters)

    def _check_size(self, body: Body) -> None:
        size = len(msgspec.json.encode(body))
        if size > self._bounds.document_bytes:
            limit = self._bounds.document_bytes
            raise errors.too_large(f"the object has {size} bytes, at most {limit} are accepted")


def _check_owned(before: Body, after: Body) -> None:
    """Each write goes through all that is owned, by each manager again. What has more of it already may
    become no more. Raises ApiError 413."""
    owned = fields_in(after["metadata"].get("managedFields"), MAX_OWNED)
    if owned > MAX_OWNED and after["metadata"] != before["metadata"]:
        was = fields_in(before["metadata"].get("managedFields"), MAX_FIELDS_IN_ALL)
        if fields_in(after["metadata"]["managedFields"], MAX_FIELDS_IN_ALL) > was:
            raise errors.too_large(
                f"managedFields would have more than {MAX_OWNED} fields: too many managers own parts of this "
                "object; apply less of it by each, or clear metadata.managedFields with [{}]"
            )


async def current_of(objects: Objects, call: Call) -> StoredObject:
    """What stands at the call's path. Raises ApiError 404."""
    target = call.target
    try:
        return await objects.get(call.stored, target.namespace, target.name)
    except NotFound:
        raise errors.not_found(call.subject) from None


def unknown_fields(call: Call) -> Unknown:
    word = call.query.get("fieldValidation", "")
    if word not in UNKNOWN_FIELDS:
        raise errors.bad_request(f"fieldValidation must be Ignore, Warn or Strict, is {word[:40]!r}")
    return UNKNOWN_FIELDS[word]


def enveloped(call: Call, body: Body) -> Body:
    """The body with its namespace in place; type and place must agree with the path."""
    resource, target = call.resource, call.target
    for name, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if body.get(name) not in (wanted, None, ""):
            raise errors.bad_request(
                f"the {name} in the data ({str(body[name])[:80]}) does not match the expected "
                f"{name} ({wanted})"
            )
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        cause = Cause("metadata", "must be an object with a name", "FieldValueRequired")
        raise errors.invalid(subject_of(resource, body), [cause])
    if resource.namespaced:
        namespace = metadata.get("namespace") or target.namespace or _DEFAULT_NAMESPACE
        if namespace != target.namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        if not is_name(namespace):
            raise errors.bad_request("the namespace must be a DNS label")
        metadata = {**metadata, "namespace": namespace}
    elif "namespace" in metadata and not metadata["namespace"]:
        metadata = {k: v for k, v in metadata.items() if k != "namespace"}
    return resource.entered(
        {
            **body,
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": dict(metadata),
        }
    )


def _check_name(call: Call, metadata: Body) -> None:
    """Raises ApiError 400."""
    if metadata.get("name") != call.target.name:
        raise errors.bad_request(
            f"the name of the object ({metadata.get('name')}) does not match the name on the URL "
            f"({call.target.name})"
        )


def _stored(call: Call, current: StoredObject, wanted: Body) -> Body:
    """The object that stands behind what is wanted, where that is a picture. Raises ApiError (422)."""
    resource = call.resource
    body, causes = resource.taken(current.body, resource.pictured(current).body, wanted)
    if causes:
        raise errors.invalid(subject_of(resource, wanted), causes)
    return body


def _check_identity(call: Call, current: StoredObject, body: Body) -> None:
    """A patch may not turn an object into another."""
    causes = [
        Cause(field, "cannot be changed", "FieldValueForbidden")
        for field in ("apiVersion", "kind")
        if body.get(field) != current.body.get(field)
    ]
    metadata = body["metadata"]
    causes += [
        Cause(f"metadata.{field}", "cannot be changed", "FieldValueForbidden")
        for field in ("name", "namespace", "uid")
        if metadata.get(field) != current.body["metadata"].get(field)
    ]
    if causes:
        raise errors.invalid(subject_of(call.resource, current.body), causes)


def check_preconditions(call: Call, current: StoredObject, wanted: Body) -> None:
    """Raises ApiError 409 when uid or resourceVersion are named and are not the current ones."""
    uid = wanted.get("uid")
    if uid and uid != current.uid:
        raise errors.conflict(
            call.subject,
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {current.uid}",
        )
    revision = wanted.get("resourceVersion")
    if revision and revision != str(current.revision):
        raise errors.conflict(call.subject)
