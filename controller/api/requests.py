"""What a request asks for: its path read as Kubernetes reads paths, its query, its body.

Names and namespaces are checked here, once, before they become keys of the store (I19). Bodies are bounded
in size and depth before anything looks at them.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors, protobuf
from controller.api.auth import User
from controller.api.doubles import doubles
from controller.api.errors import ApiError, Subject
from controller.api.flow import Passage
from controller.api.rbac import Ask
from controller.api.resources import AUTHENTICATION, BY_PATH, GROUPS, Resource, version_of
from controller.api.sizes import MAX_FIELDS, refuse_large, sized
from specs import yamldoc
from specs.meta import GROUP

BODY_TIMEOUT_S: Final = 30.0
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_PATH_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?", re.ASCII)
_ONE_NAME: Final = re.compile(r"(?:^|,)metadata\.name==?([^,=!\s]+)(?=,|$)")
_SELECTING: Final = frozenset({"list", "watch"})
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_WRITING: Final = frozenset({"create", "update", "patch"})
_MAX_DOUBLES: Final = 10  # that are told
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/+=]{0,127}", re.ASCII)
JSON: Final = "application/json"
YAML: Final = "application/yaml"
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
    """One request on its way through the server. `warnings` become Warning headers, and so does `doubled`:
    what its body says twice. `record` puts what was decided into the audit log, safe on the disk when it
    returns. `impersonator`: who acts as `user`. `allowed_by`: which binding it was allowed by. `audited`: the
    audit log tells its end already. `passage`: its part of the bounds (`controller.api.flow`)."""

    request: web.Request
    target: Target
    verb: str
    user: User
    audit_id: str
    record: Callable[[dict[str, Any]], Awaitable[None]]
    created: str = ""  # the name of a new object, which its path does not tell
    warnings: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
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
        """What is asked for, as rules see it. A list or watch of one name asks about that one, as on
        Kubernetes, whatever else it selects by; of any other verb the query names nothing."""
        target = self.target
        if not target.plural:
            return Ask(self.verb, path=self.request.path)
        name, selected = target.name, self.query.get("fieldSelector", "")
        if not name and self.verb in _SELECTING and "\\" not in selected:  # of which commas part no terms
            only = set(_ONE_NAME.findall(selected))
            name = only.pop() if len(only) == 1 else ""
        itself = (target.group, target.plural) == ("", "namespaces")
        namespace = target.name if itself else target.namespace
        return Ask(self.verb, target.group, target.plural, target.subresource, namespace, name)

    @property
    def refused_doubles(self) -> Sequence[str]:
        """Of what the body says twice, what the client wants to be refused."""
        return self.doubled if self.query.get("fieldValidation") == "Strict" else ()

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
        return dry_run(self.request.query.getall("dryRun", []), options_of(self.verb))


def options_of(verb: str) -> str:
    """What Kubernetes calls the query of a request that changes something."""
    words = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
    return words.get(verb, "DeleteOptions")


def dry_run(values: object, options: str = "DeleteOptions") -> bool:
    """Whether `dryRun` asks for one. Raises ApiError for any word but All: a dry run that is not
    understood must never become a change."""
    listed = values if isinstance(values, list) else [values]
    wanted = [v for v in listed if v]
    if any(v != "All" for v in wanted):
        raise errors.invalid(
            Subject(options, "", "meta.k8s.io"),
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
    if not target.plural:
        return method.lower()  # of what is no object, rules name the methods themselves
    verb = _VERBS.get(method, method.lower())
    if method == "GET" and is_terminal(target):
        return "create"  # a WebSocket is opened by GET, and what is typed there acts
    if method == "GET" and not target.name and flag(query, "watch"):
        return "watch"  # of one name it is a get, as on Kubernetes
    if verb == "get" and not target.name:
        return "list"
    if verb == "delete" and not target.name:
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


async def read_json(
    call: Call,
    *,
    limit: int,
    accepted: tuple[str, ...] = (JSON, YAML),
    most: int = MAX_FIELDS,
    lenient: bool = False,
) -> Any:
    """The decoded body, None when there is none. `limit`: in bytes, `most`: in fields. `lenient`: what it
    says twice is for the caller to refuse. Raises ApiError 400, 408, 413, 415, 422."""
    body = await read_body(call.request, limit)
    if not body:
        return None
    # A body whose type nobody names is JSON, as on Kubernetes; Python's official client sends such.
    found = media_type(call.request) or (JSON if JSON in accepted else "")
    if found == protobuf.CONTENT_TYPE and call.target.group != GROUP and JSON in accepted:
        return protobuf.decode(body)
    if found not in accepted:
        raise errors.unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(accepted)
        )
    if found == YAML:
        return await decode_yaml(body, most)
    value = decode_json(body, most)
    look_for_doubles(call, body)
    if not lenient and (doubled := call.refused_doubles):
        raise _twice(call, doubled)
    return value


def _twice(call: Call, doubled: Sequence[str]) -> ApiError:
    """Kubernetes refuses a patch as invalid, and whole objects as nothing that it can read."""
    if call.verb != "patch":
        return errors.not_decoded(call.resource.kind, doubled)
    subject = Subject(call.resource.kind, call.target.name, call.target.group)
    return errors.invalid(subject, [errors.Cause("patch", f"strict decoding error: {', '.join(doubled)}")])


def look_for_doubles(call: Call, body: bytes) -> None:
    """What JSON says twice counts as said last."""
    mode = call.query.get("fieldValidation", "")
    if call.target.resource is None or call.verb not in _WRITING or mode == "Ignore":
        return
    call.doubled[:] = [f'duplicate field "{path}"' for path in doubles(body, _MAX_DOUBLES)]


async def read_body(request: web.Request, limit: int) -> bytes:
    """As it was sent. One that is packed is refused, for Kubernetes takes none either, and a megabyte of gzip
    is a gigabyte to unpack. Raises ApiError 400, 408, 413, 415."""
    coding = request.headers.get("Content-Encoding", "").strip()
    if request.can_read_body and coding.lower() not in {"", "identity"}:
        raise errors.unsupported_media_type(
            f"the body is packed (Content-Encoding: {coding[:40]}), which is not taken: send it as it is"
        )
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise errors.by_code(408) from None
    except web.RequestPayloadError:
        raise errors.bad_request("the body does not come as its headers say") from None
    if len(body) > limit:
        raise errors.too_large(f"the document has {len(body)} bytes, at most {limit} are accepted")
    return body


def decode_json(body: bytes, most: int = MAX_FIELDS) -> Any:
    """A document of at most `most` fields (`controller.api.sizes`). Raises ApiError 400, 413."""
    refuse_large(body)
    try:
        value = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.bad_request(f"the body is not JSON: {error}") from None
    return sized(value, most)


async def decode_yaml(body: bytes, most: int = MAX_FIELDS) -> Any:
    """The same of YAML, in which nothing can be said twice. It is read in a thread, for that takes long."""
    loaded = await asyncio.to_thread(yamldoc.load, body)
    if loaded.problems:
        raise errors.bad_request(f"the body is not YAML: {loaded.problems[0]}")
    if len(loaded.documents) != 1:
        raise errors.bad_request(f"the body has {len(loaded.documents)} documents, it must have one")
    return sized(loaded.documents[0].value, most)


def as_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.bad_request("the body must be a JSON object")
    return value


def _float(text: str) -> float:
    """By Python, which takes 1 us for the numbers that msgspec's own reader takes 9 us for."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


_DECODER: Final = msgspec.json.Decoder(float_hook=_float)


def json_response(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A yes or no from the query, as Kubernetes reads it: whatever stands there is a yes, but for false and
    0. None where it does not stand there."""
    text = query.get(name)
    return None if text is None else text.lower() not in {"false", "0"}


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
