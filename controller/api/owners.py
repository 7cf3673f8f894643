"""Who a request comes from, as managedFields names it, and what it says about managedFields itself.

`fieldManager` of the query; for all but apply, the User-Agent up to its first `/` when there is none.
"""

from __future__ import annotations

from typing import Final

import msgspec

from controller.api import errors, managed
from controller.api.errors import ApiError, Cause, Subject
from controller.api.fieldsets import Malformed
from controller.api.managed import Manager, Owned
from controller.api.requests import Call, options_of
from controller.objects import Body

MAX_NAME_BYTES: Final = 128
_UNKNOWN: Final = "unknown"


def applier(call: Call) -> Manager:
    """Raises ApiError 422: apply must be signed."""
    if not call.query.get("fieldManager"):
        message = "is required for apply patch"
        raise _refused(call, Cause("fieldManager", message, "FieldValueRequired"))
    return Manager(managed.APPLY, _checked(call), call.target.subresource)


def updater(call: Call) -> Manager:
    name = _checked(call)
    if not name:
        agent = call.request.headers.get("User-Agent", "").partition("/")[0].strip()
        name = (
            agent if len(agent.encode("utf-8", "replace")) <= MAX_NAME_BYTES and agent.isprintable() else ""
        )
    return Manager(managed.UPDATE, name or _UNKNOWN, call.target.subresource)


def forced(call: Call) -> bool:
    word = call.query.get("force", "").lower()
    if word not in {"", "0", "1", "false", "true", "f", "t"}:
        raise errors.bad_request(f"force must be true or false, is {word[:40]!r}")
    return word in {"1", "true", "t"}


def refuse_force(call: Call) -> None:
    if forced(call):
        raise _refused(
            call, Cause("force", "may not be specified for non-apply patch", "FieldValueForbidden")
        )


def asked(call: Call, current: Body, body: Body) -> dict[Manager, Owned] | None:
    """The managers that a change goes out from: those it sends, else those that stand there. None when it
    gives all ownership up, which one empty entry says; an empty list says nothing. Raises ApiError."""
    entries = body["metadata"].get("managedFields")
    if call.target.subresource or not entries or entries == current["metadata"].get("managedFields"):
        return managed.stored(current)
    if entries == [{}]:
        return None
    size = len(msgspec.json.encode(entries))
    if size > _MAX_BYTES:
        raise errors.too_large(f"managedFields have {size} bytes, at most {_MAX_BYTES} are accepted")
    try:
        return managed.decode(entries, current["apiVersion"])
    except Malformed as problem:
        subject = Subject(call.resource.kind, call.target.name, call.resource.group)
        raise errors.invalid(subject, [Cause("metadata.managedFields", str(problem))]) from None


_MAX_BYTES: Final = 256 << 10  # as much as a whole object


def _checked(call: Call) -> str:
    name = call.query.get("fieldManager", "")
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        message = f"may not be more than {MAX_NAME_BYTES} bytes"
        raise _refused(call, Cause("fieldManager", message, "FieldValueTooLong"))
    if not name.isprintable():
        raise _refused(call, Cause("fieldManager", "should only contain printable characters"))
    return name


def _refused(call: Call, cause: Cause) -> ApiError:
    return errors.invalid(Subject(options_of(call.verb), "", "meta.k8s.io"), [cause])
