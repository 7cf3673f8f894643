"""What a request asks for: its path read as Kubernetes reads paths, its query, its body.

Names and namespaces are checked here, once, before they become keys of the store (I19). Bodies are bounded
in size and depth before anything looks at them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from aiohttp import web

from controller.api import errors, protobuf
from controller.api.auth import User
from controller.api.errors import ApiError, Subject
from controller.api.flow import Passage
from controller.api.rbac import Ask
from controller.api.resources import AUTHENTICATION, BY_PATH, GROUPS, Resource, version_of
from specs.meta import GROUP, VERSION

BODY_TIMEOUT_S: Final = 30.0
MAX_FIELDS: Final = 1500  # of one object: what merging and owning them may cost the loop (50 ms)
_MAX_FIELDS_IN_ALL: Final = 12_000
_MAX_DEPTH: Final = 40  # of JSON; the deepest field of a kind is far below
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_PATH_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?", re.ASCII)
_ONE_NAME: Final = re.compile(r"metadata\.name==?([^,=!]+)")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/+=]{0,127}", re.ASCII)
META_GROUP: Final = "meta.k8s.io"
_JSON: Final = frozenset({"application/json", "application/*", "*/*"})
# What clients ask for in a version that is not served otherwise: kubectl 1.27 for `auth whoami`.
_OLDER: Final = {(AUTHENTICATION, "v1beta1"): ["selfsubjectreviews"]}
_VERBS: Final = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
    "GET": "get",
    "HEAD": "get",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What the path names. `resource` is None for everything that is not an object."""

    group: str = ""
    version: str = ""
    resource: Resource | None = None
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def subject(self) -> Subject:
        return Subject(self.plural, self.name, self.group)


@dataclass(slots=True)
class Call:
    """One request on its way through the server. `warnings` become Warning headers; `record` puts what was
    decided into the audit log, safe on the disk when it returns. `impersonator`: who acts as `user`.
    `allowed_by`: which binding it was allowed by. `audited`: the audit log tells its end already. `passage`:
    its part of the bounds (`controller.api.flow`)."""

    request: web.Request
    target: Target
    verb: str
    user: User
    audit_id: str
    record: Callable[[dict[str, Any]], Awaitable[None]]
    created: str = ""  # the name of a new object, which its path does not tell
    warnings: list[str] = field(default_factory=list)
    impersonator: User | None = None
    allowed_by: str = ""
    audited: bool = False
    passage: Passage | None = None

    @property
    def path(self) -> str:
        return self.request.path.rstrip("/") or "/"

    def stand(self) -> None:
        """The answer is under way: what remains to be done waits for the client."""
        if self.passage is not None:
            self.passage.stand()

    def leave(self) -> None:
        """What follows is no longer a request among others: it has ended, or is a watch."""
        if self.passage is not None:
            self.passage.leave()

    @property
    def request_id(self) -> str:
        """What the client calls its request, if that is fit for a log: else nothing."""
        given = self.request.headers.get("X-Request-Id", "")
        return given if _REQUEST_ID.fullmatch(given) else ""

    @property
    def ask(self) -> Ask:
        """What is asked for, as rules see it. A list or watch of one name asks about that one."""
        target = self.target
        if not target.plural:
            return Ask(self.verb, path=self.request.path)
        name = target.name
        if not name and (only := _ONE_NAME.fullmatch(self.query.get("fieldSelector", ""))):
            name = only[1]
        return Ask(self.verb, target.group, target.plural, target.subresource, target.namespace, name)

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query

    @property
    def resource(self) -> Resource:
        assert self.target.resource is not None
        return self.target.resource

    @property
    def stored(self) -> Resource:
        """Whose objects are written."""
        return self.resource.stored

    @property
    def subject(self) -> Subject:
        """For refusals that name the plural; validation errors name the Kind."""
        return self.target.subject

    @property
    def dry_run(self) -> bool:
        return dry_run(self.request.query.getall("dryRun", []))


def dry_run(values: object) -> bool:
    """Whether `dryRun` asks for one. Raises ApiError for any word but All: a dry run that is not
    understood must never become a change."""
    listed = values if isinstance(values, list) else [values]
    wanted = [v for v in listed if v]
    if any(v != "All" for v in wanted):
        raise errors.invalid(
            Subject("DeleteOptions", "", "meta.k8s.io"),
            [errors.Cause("dryRun", f'must be "All", is {wanted[0]!r}', "FieldValueNotSupported")],
        )
    return bool(wanted)


def parse_target(path: str) -> Target:
    """Raises ApiError 404 for what is not there, also for names that no object can have."""
    parts = [p for p in path.split("/") if p]
    if len(parts) >= 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    elif len(parts) >= 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    else:
        return Target()
    if group not in ("", *GROUPS) or (
        version != version_of(group) and rest[:1] != _OLDER.get((group, version))
    ):
        raise errors.by_code(404)
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
        if not _LABEL.fullmatch(namespace):
            raise errors.by_code(404)
    if not rest:
        return Target(group, version)
    plural, name, subresource = (*rest, "", "")[:3]
    if len(rest) > 3:
        raise errors.by_code(404)
    target = Target(group, version, BY_PATH.get((group, plural)), namespace, plural, name, subresource)
    allowed = _PATH_NAME if target.resource is not None and target.resource.path_name else _NAME
    if name and not allowed.fullmatch(name):
        raise errors.not_found(target.subject)
    if target.resource is not None and name and target.resource.namespaced and not namespace:
        raise errors.by_code(404)
    if target.resource is not None and namespace and not target.resource.namespaced:
        raise errors.by_code(404)
    return target


def verb_of(method: str, target: Target, query: Mapping[str, str]) -> str:
    verb = _VERBS.get(method, method.lower())
    if method == "GET" and is_terminal(target):
        return "create"  # a WebSocket is opened by GET, and what is typed there acts
    if target.plural and method == "GET" and query.get("watch") in {"true", "1"}:
        return "watch"
    if target.plural and verb == "get" and not target.name:
        return "list"
    if target.plural and verb == "delete" and not target.name:
        return "deletecollection"
    return verb


def is_terminal(target: Target) -> bool:
    """Whether what is asked for is to type on somebody's terminal."""
    return (target.plural, target.subresource) in {("pods", "attach"), ("domains", "console")}


def is_name(text: object) -> bool:
    """A DNS label: what a Domain's or a Node's name, or a namespace, may be."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def media_type(request: web.Request) -> str:
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_json(call: Call, *, limit: int, accepted: tuple[str, ...] = ("application/json",)) -> Any:
    """The decoded body, None when there is none. Raises ApiError 400, 408, 413, 415."""
    body = await read_body(call.request, limit)
    if not body:
        return None
    # A body whose type nobody names is JSON, as on Kubernetes; Python's official client sends such.
    found = media_type(call.request) or ("application/json" if "application/json" in accepted else "")
    if found == protobuf.CONTENT_TYPE and call.target.group != GROUP and "application/json" in accepted:
        return protobuf.decode(body)
    if found not in accepted:
        raise errors.unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(accepted)
        )
    return decode_json(body)


async def read_body(request: web.Request, limit: int) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise errors.by_code(408) from None
    if len(body) > limit:
        raise errors.too_large(f"the document has {len(body)} bytes, at most {limit} are accepted")
    return body


def decode_json(body: bytes) -> Any:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.bad_request(f"the body is not JSON: {error}") from None
    return sized(value)


def sized(value: Any) -> Any:
    """The same, if it is no deeper and has no more fields than is worked on in one go. Raises ApiError."""
    if too_deep(value, _MAX_DEPTH):
        raise errors.bad_request(f"the body is nested deeper than {_MAX_DEPTH} levels")
    written, found = fields_of(value), _fields(value)
    if written > MAX_FIELDS or found > _MAX_FIELDS_IN_ALL:
        raise errors.too_large(
            f"the document has {max(written, found)} fields, at most {MAX_FIELDS} are accepted "
            f"({_MAX_FIELDS_IN_ALL} with status and managedFields)"
        )
    return value


def fields_of(body: Any) -> int:
    """How many fields and list items a document has, but for its status and what says whose they are."""
    if not isinstance(body, dict):
        return _fields(body)
    rest = {k: v for k, v in body.items() if k != "status"}
    if isinstance(metadata := rest.get("metadata"), dict):
        rest["metadata"] = {k: v for k, v in metadata.items() if k != "managedFields"}
    return _fields(rest)


def _fields(value: Any) -> int:
    count, open_now = 0, [value]
    while open_now:
        one = open_now.pop()
        if isinstance(one, dict | list):
            count += len(one)
            open_now.extend(one.values() if isinstance(one, dict) else one)
    return count


def too_deep(value: object, levels: int) -> bool:
    """Whether containers nest deeper than `levels`; looks no further down than that."""
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def as_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.bad_request("the body must be a JSON object")
    return value


Form = Literal["whole", "table", "partial"]
_FORMS: Final[Mapping[str, Form]] = {
    "Table": "table",
    "PartialObjectMetadata": "partial",
    "PartialObjectMetadataList": "partial",
}


def form_of(request: web.Request) -> Form:
    """In which form the client wants objects: the first of those that it takes and that are served. kubectl
    asks for Tables, clients that only look at metadata for PartialObjectMetadata; "whole" is all of it."""
    for part in request.headers.get("Accept", "").split(",")[:8]:
        kind, *parameters = (word.strip() for word in part.split(";"))
        wanted = dict(word.split("=", 1) for word in parameters if "=" in word)
        if kind not in _JSON or wanted.get("g", META_GROUP) != META_GROUP:
            continue
        if (name := wanted.get("as")) is None:
            return "whole"
        if wanted.get("v", VERSION) == VERSION and name in _FORMS:
            return _FORMS[name]
    return "whole"


def json_response(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def positive(query: Mapping[str, str], name: str, default: int) -> int:
    """A whole number from the query. Raises ApiError 400."""
    text = query.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise errors.bad_request(f"{name} must be a whole number, is {text[:40]!r}")
    return int(text)


def error_response(error: ApiError) -> web.Response:
    response = json_response(error.status(), status=error.code)
    if retry := error.details.get("retryAfterSeconds"):
        response.headers["Retry-After"] = str(retry)
    return response
