"""Every answer that is not a success, as a metav1.Status in Kubernetes' own words.

kubectl prints these messages verbatim and decides by `reason` and `code`, so both are kept exactly. All
causes of a refusal are named at once. Stack traces, the store's inner life and what looks like a secret never
leave through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from specs.meta import VERSION
from specs.redaction import redacted, redacted_value


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong. `reason` is one of Kubernetes' CauseTypes. `strict`: what strict decoding says
    of it, if it is wrong to that alone."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"
    strict: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an answer is about. `kind` is the resource's plural, or the Kind for validation errors."""

    kind: str
    name: str = ""
    group: str = "domctl.io"

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


class ApiError(Exception):
    """An answer to the client."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: dict[str, Any] | None = None
    ) -> None:
        self.message = redacted(message)
        super().__init__(self.message)
        self.code = code
        self.reason = reason
        self.details: dict[str, Any] = redacted_value(details or {})

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


# Answers without a subject: aiohttp's own refusals become one of these.
BY_CODE: Final = {
    400: ("BadRequest", "the request is malformed"),
    404: ("NotFound", "the server could not find the requested resource"),
    405: ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
    408: ("Timeout", "the request was not received in time"),
    413: ("RequestEntityTooLarge", "the request is too large"),
    417: ("BadRequest", "the expectation cannot be met"),
}


def by_code(code: int, message: str = "") -> ApiError:
    reason, words = BY_CODE.get(code, ("Unknown", "the server could not serve this request"))
    return ApiError(code, reason, message or words)


def _details(subject: Subject, **more: Any) -> dict[str, Any]:
    parts = {"name": subject.name, "group": subject.group, "kind": subject.kind, **more}
    return {k: v for k, v in parts.items() if v}


def not_found(subject: Subject) -> ApiError:
    return ApiError(404, "NotFound", f'{subject} "{subject.name}" not found', details=_details(subject))


def already_exists(subject: Subject) -> ApiError:
    message = f'{subject} "{subject.name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(subject))


def conflict(subject: Subject, why: str = "") -> ApiError:
    words = why or (
        "the object has been modified; please apply your changes to the latest version and try again"
    )
    message = f'Operation cannot be fulfilled on {subject} "{subject.name}": {words}'
    return ApiError(409, "Conflict", message, details=_details(subject))


def apply_conflict(message: str, fields: Sequence[tuple[str, str]]) -> ApiError:
    """`fields`: whose each is, as a cause says it, and its path."""
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path}
        for who, path in fields
    ]
    return ApiError(409, "Conflict", message, details={"causes": causes})


def invalid(subject: Subject, causes: Sequence[Cause]) -> ApiError:
    """`subject.kind` is the Kind, as Kubernetes has it here."""
    listed = [f"{c.field}: {c.message}" if c.field else c.message for c in causes]
    words = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    details = _details(
        subject, causes=[{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    )
    return ApiError(422, "Invalid", f'{subject} "{subject.name}" is invalid: {words}', details=details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def not_decoded(kind: str, strict: Sequence[str]) -> ApiError:
    """A whole object in which strict decoding found what says nothing, or says it twice."""
    problems = ", ".join(strict)
    return bad_request(
        f'{kind} in version "{VERSION}" cannot be handled as a {kind}: strict decoding error: {problems}'
    )


def unsupported_media_type(message: str) -> ApiError:
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable(types: Sequence[str]) -> ApiError:
    """`types`: in which the answer could be had."""
    message = f"only the following media types are accepted: {', '.join(types)}"
    return ApiError(406, "NotAcceptable", message)


def too_large(message: str) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", message)


def method_not_allowed(what_to_do: str = "") -> ApiError:
    return by_code(405, what_to_do)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(subject: Subject, why: str) -> ApiError:
    """In Kubernetes' words, which have no place for a name that is not there. A path has no subject.kind."""
    named = f'{subject} "{subject.name}" is ' if subject.name else f"{subject} is "
    message = f"{named if subject.kind else ''}forbidden: {why}"
    return ApiError(403, "Forbidden", message, details=_details(subject) if subject.kind else {})


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def not_reached(revision: int, current: int) -> ApiError:
    """A revision was asked for that the store has not come to. Every read here is of the newest that there
    is, so who names it has seen another life of the store: waiting for it, or asking once more (Retry-After),
    could only end in taking another history for that one. Kubernetes, where it reads without its cache,
    answers so."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Too large resource version: {revision}, current: {current}"
    return ApiError(504, "Timeout", message, details={"causes": [cause]})


def too_many(message: str, retry_after_s: int = 1) -> ApiError:
    return ApiError(429, "TooManyRequests", message, details={"retryAfterSeconds": retry_after_s})


def unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message, details={"retryAfterSeconds": 1})


def outcome_unknown() -> ApiError:
    """A write was sent and its reply was lost: neither yes nor no may be claimed."""
    return ApiError(
        504,
        "Timeout",
        "the store did not answer in time and the change may have been made: read the object again",
    )


def internal(audit_id: str) -> ApiError:
    return ApiError(
        500, "InternalError", f"Internal error occurred: see the server's log for request {audit_id}"
    )
