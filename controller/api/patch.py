"""merge-patch (RFC 7396) and json-patch (RFC 6902) over an object; what is accepted at all is said here.

Server-side apply is in `controller.api.applying`, strategic merge in `controller.api.strategic`: that is for
built-in kinds only, and is refused exactly as Kubernetes refuses it for custom ones (415), as is everything
else. Patches are bounded: in their operations, in how deep those reach, and in all that they copy together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

import jsonpatch
import jsonpointer
import msgspec

from controller.api import errors, strategic
from controller.api.errors import ApiError, Cause, Subject
from controller.api.resources import Resource
from controller.api.sizes import MAX_DEPTH, MAX_FIELDS, MAX_FIELDS_IN_ALL, fields_in
from controller.objects import Body
from specs.meta import GROUP

MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"
STRATEGIC: Final = "application/strategic-merge-patch+json"
ACCEPTED: Final = (JSON, MERGE, APPLY)
MAX_OPERATIONS: Final = 1000

Patch = Callable[[Body], Body]


def takes(content_type: str, resource: Resource) -> bool:
    return content_type in ACCEPTED or (content_type == STRATEGIC and resource.group != GROUP)


def unsupported() -> ApiError:
    return errors.unsupported_media_type(
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(ACCEPTED)
    )


def parse(content_type: str, value: object, subject: Subject, max_bytes: int) -> Patch:
    """A function from the current object to the patched one, which may be called again when the object has
    moved. Raises ApiError; so does the function."""
    if content_type == MERGE:
        if not isinstance(value, dict):
            raise errors.bad_request("a merge patch must be a JSON object")
        return lambda body: as_body(merge(copy.deepcopy(body), value), subject)
    if content_type == STRATEGIC:
        if not isinstance(value, dict):
            raise errors.bad_request("a strategic merge patch must be a JSON object")
        return lambda body: as_body(strategic.merged(copy.deepcopy(body), value), subject)
    if content_type != JSON:
        raise unsupported()
    if not isinstance(value, list) or not all(isinstance(op, dict) for op in value):
        raise errors.bad_request("a JSON patch must be a list of operations")
    if len(value) > MAX_OPERATIONS:
        raise errors.too_large(f"a patch of {len(value)} operations, at most {MAX_OPERATIONS} are accepted")
    for number, operation in enumerate(value):
        if any(str(operation.get(key)).count("/") > MAX_DEPTH for key in ("path", "from")):
            raise errors.bad_request(
                f"operation {number} of the patch reaches deeper than {MAX_DEPTH} levels"
            )
    try:
        operations = jsonpatch.JsonPatch(value)
    except (jsonpatch.InvalidJsonPatch, jsonpointer.JsonPointerException) as error:
        raise errors.bad_request(f"the JSON patch is malformed: {error}") from None
    return lambda body: as_body(_apply(body, list(operations), subject, max_bytes), subject)


def most_fields(content_type: str) -> int:
    """How many fields a patch may have: an operation alone is four of them."""
    return MAX_FIELDS_IN_ALL if content_type == JSON else MAX_FIELDS


def names_revision(kind: str, value: Any) -> bool:
    """Whether a patch itself asks for one revision."""
    if kind in {MERGE, STRATEGIC}:
        metadata = value.get("metadata")
        return isinstance(metadata, dict) and bool(metadata.get("resourceVersion"))
    return any(op.get("path") == "/metadata/resourceVersion" for op in value)


def merge(target: Any, change: Any) -> Any:
    """RFC 7396. Changes `target` where it is an object."""
    if not isinstance(change, dict):
        return change
    result = target if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _apply(body: Body, operations: list[dict[str, Any]], subject: Subject, max_bytes: int) -> Any:
    """One operation after the other, so that copies of copies are stopped before they are made."""
    current: Any = copy.deepcopy(body)
    copying = _Copying(max_bytes)
    for number, operation in enumerate(operations):
        if operation.get("op") == "copy":
            copying.count(current, operation.get("from"))
        # What is added is changed by what comes after it, and all of it may be done again.
        one: Any = [copy.deepcopy(operation)]
        try:
            current = jsonpatch.JsonPatch(one).apply(current, in_place=True)
        except jsonpatch.JsonPatchTestFailed:
            message = (
                f"operation {number} of the patch: {str(operation.get('path'))[:200]} is not as tested for"
            )
            raise errors.invalid(subject, [Cause("patch", message)]) from None
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError):
            # Not in the library's words: they quote the object, and who may patch it may not read it.
            where = str(operation.get("path"))[:200]
            message = f"operation {number} of the patch cannot be applied: {where} is not there, or no place"
            raise errors.invalid(subject, [Cause("patch", message)]) from None
    return current


class _Copying:
    """What the operations of one patch copy, together: no more than one object may have."""

    def __init__(self, max_bytes: int) -> None:
        self._bytes = max_bytes
        self._fields = MAX_FIELDS

    def count(self, body: Any, source: Any) -> None:
        """Raises ApiError (413)."""
        try:
            value = jsonpointer.resolve_pointer(body, source)
        except (jsonpointer.JsonPointerException, TypeError):
            return  # applying it says what is wrong
        self._fields -= fields_in(value, self._fields)
        self._bytes -= len(msgspec.json.encode(value)) if self._fields >= 0 else 0
        if self._fields < 0 or self._bytes < 0:
            raise errors.too_large(
                "the copies of the patch have more fields or bytes together than one object may have"
            )


def as_body(value: Any, subject: Subject) -> Body:
    if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
        raise errors.invalid(subject, [Cause("metadata", "the patched object must have metadata")])
    return value
