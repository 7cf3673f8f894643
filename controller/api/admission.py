"""What may be written: a user's object against the kinds' rules, the rest of the cluster, and this server.

Between the verbs and the store. Every change, a dry run too, passes here; all that is wrong with it is told
at once. What the server owns in `metadata` is taken from the object that stands in the store, never from
the request; finalizers of domctl go away through the controller only. `spec` is stored as it was written,
less the fields that no kind has. `generation` moves with `spec` alone, a Secret's with its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from controller.api import errors
from controller.api.errors import Cause, Subject
from controller.api.resources import Resource
from controller.api.sizes import MAX_FIELDS, fields_of
from controller.birth import FINALIZERS
from controller.objects import Body, Claimed, Objects, StoredObject
from specs.problems import Problem
from specs.uri import parse_uri
from specs.validate import Unknown, decode, immutable_problems

UNKNOWN_FIELDS: Final = {"": Unknown.WARN, **{u.value: u for u in Unknown}}
_SERVERS: Final = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
)
_GENERATED: Final = {"Secret": ("data",)}
_NOT_ASKED: Final = (*_SERVERS, "managedFields")  # whose fields they are is `controller.api.managed`'s to say

NOT_COLLECTED: Final = (
    "metadata.ownerReferences: kept for those who read them, and without effect: "
    "domctl deletes nothing because its owner is gone"
)
NOT_SEALED: Final = (
    "is refused: the store of this server is not encrypted, so it would stand in clear in etcd and in every "
    "backup of it; name a key file in the configuration of 'domctl serve' (encryption.keyFile) first"
)


@dataclass(frozen=True, slots=True)
class Checked:
    """An admitted object, and what its author should hear."""

    body: Body
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """A change to `current`. `patched`: `body` was computed from the whole object, so what it lacks was
    taken away; otherwise what a client did not send in metadata.finalizers stays. `doubled`: what it says
    twice, if that is to be refused."""

    current: StoredObject
    body: Body
    unknown: Unknown
    patched: bool = False
    doubled: Sequence[str] = ()


class Admission:
    """`allow_xml`: whether this server accepts `spec.xml` (it is root on a host). `sealed`: whether Secrets
    would stand encrypted in the store; where they would not, there are none."""

    def __init__(self, objects: Objects, *, allow_xml: bool, sealed: bool) -> None:
        self._objects = objects
        self._allow_xml = allow_xml
        self._sealed = sealed

    async def new(
        self, resource: Resource, body: Body, unknown: Unknown, doubled: Sequence[str] | None = None
    ) -> Checked:
        """`doubled`: what it says twice, if that is to be refused; None: it was not sent as a whole. Raises
        ApiError."""
        subject = subject_of(resource, body)
        body = resource.completed(body)
        given = {k: v for k, v in body.items() if k != "status"}
        given["metadata"] = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
        checked, causes = self._check(given, unknown)
        causes += await self._cluster_causes(resource, body, {})
        _refuse(subject, causes, doubled)
        return replace(checked, warnings=(*checked.warnings, *_owner_warnings({}, checked.body)))

    async def update(self, resource: Resource, update: Update) -> Checked:
        """The whole object with a new spec, labels and so on; its status stays. Raises ApiError."""
        current, subject = update.current, subject_of(resource, update.current.body)
        merged = resource.completed(self._merged(resource, update))
        given = {k: v for k, v in merged.items() if k != "status"}
        checked, causes = self._check(given, update.unknown)
        causes += _immutable_causes(current.body, given)
        causes += _finalizer_causes(resource, current, merged)
        causes += await self._cluster_causes(resource, merged, current.body)
        _refuse(subject, causes, None if update.patched else update.doubled)
        result = {**checked.body, "metadata": {**checked.body["metadata"], **_servers(current.body)}}
        if "status" in current.body:
            result["status"] = current.body["status"]
        if any(
            result.get(part) != current.body.get(part) for part in _GENERATED.get(resource.kind, ("spec",))
        ):
            generation = current.body["metadata"].get("generation")
            result["metadata"]["generation"] = (generation if isinstance(generation, int) else 0) + 1
        return Checked(result, (*checked.warnings, *_owner_warnings(current.body, result)))

    def update_status(self, resource: Resource, update: Update) -> Checked:
        """The whole object with a new status; all else stays. Raises ApiError."""
        status = update.body.get("status")
        candidate = {**update.current.body, "status": {} if status is None else status}
        typed, problems = decode(candidate, update.unknown)
        ours = [p for p in problems if p.keys[:1] == ("status",)]
        causes = [_cause(p) for p in ours if not p.warning]
        _refuse(subject_of(resource, update.current.body), causes, None if update.patched else update.doubled)
        if typed is not None:
            candidate["status"] = msgspec.to_builtins(typed)["status"]
        return Checked(candidate, _warnings(ours))

    def claimed(self, resource: Resource, body: Body, error: Claimed) -> errors.ApiError:
        """A refusal that names the other owner."""
        interfaces = body.get("spec", {}).get("interfaces") or []
        index = next(
            (n for n, one in enumerate(interfaces) if str(one.get("mac", "")).lower() == error.value), 0
        )
        owner = error.owner.lstrip("/")
        message = f"{error.value} belongs to Domain {owner}; an address is used once in a cluster"
        cause = Cause(f"spec.interfaces[{index}].mac", message, "FieldValueDuplicate")
        return errors.invalid(subject_of(resource, body), [cause])

    def _check(self, body: Body, unknown: Unknown) -> tuple[Checked, list[Cause]]:
        if (count := fields_of(body)) > MAX_FIELDS:
            raise errors.too_large(f"the object would have {count} fields, at most {MAX_FIELDS} are accepted")
        typed, problems = decode(body, unknown)
        causes = [_cause(p) for p in problems if not p.warning]
        spec = body.get("spec")
        if not self._allow_xml and isinstance(spec, dict) and spec.get("xml") is not None:
            message = "is not allowed by this server's configuration (allowXml): it is root on the host"
            causes.append(Cause("spec.xml", message, "FieldValueForbidden"))
        if not self._sealed and body.get("kind") == "Secret" and body.get("data"):
            causes.append(Cause("data", NOT_SEALED, "FieldValueForbidden"))
        clean = body if typed is None else msgspec.to_builtins(typed)
        return Checked(clean, _warnings(problems)), causes

    def _merged(self, resource: Resource, update: Update) -> Body:
        """What the client sent, with what it may not say taken from the store."""
        old = update.current.body["metadata"]
        metadata = {k: v for k, v in update.body["metadata"].items() if k not in _NOT_ASKED}
        if not update.patched and "finalizers" not in metadata and "finalizers" in old:
            metadata["finalizers"] = old["finalizers"]
        return {**update.body, "metadata": {**metadata, **_servers(update.current.body)}}

    async def _cluster_causes(self, resource: Resource, body: Body, before: Body) -> list[Cause]:
        """What depends on other objects: one host, one Node; one secret, one Token. Two that are created at
        the same instant pass here: Nodes are told apart by their identity at first contact, and a secret of
        two Tokens is nobody's. Others are only read where that changes."""
        found = _ALONE.get(resource.kind) if resource.stored is resource else None
        wanted = None if found is None else found.value(body)
        if found is None or wanted is None or wanted == found.value(before):
            return []
        for other in (await self._objects.list(resource)).items:
            if other.uid != body["metadata"].get("uid") and found.value(other.body) == wanted:
                return [Cause(found.field, found.message.format(other.name), "FieldValueDuplicate")]
        return []


def _owner_warnings(before: Body, after: Body) -> tuple[str, ...]:
    """Whoever names owners believes that the object goes with them; here it does not."""
    owners = after["metadata"].get("ownerReferences")
    if not owners or owners == before.get("metadata", {}).get("ownerReferences"):
        return ()
    return (NOT_COLLECTED,)


def _servers(body: Body) -> Body:
    return {k: v for k, v in body["metadata"].items() if k in _SERVERS}


def subject_of(resource: Resource, body: Body) -> Subject:
    """As validation errors name it: by Kind."""
    metadata = body.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return Subject(resource.kind, str(name), resource.group)


def _cause(problem: Problem) -> Cause:
    return Cause(problem.path, problem.message, problem.reason, problem.strict if problem.unknown else "")


def _warnings(problems: Iterable[Problem]) -> tuple[str, ...]:
    return tuple(p.strict if p.unknown else str(p) for p in problems if p.warning)


def _refuse(subject: Subject, causes: Sequence[Cause], doubled: Sequence[str] | None) -> None:
    """Of a whole object that is wrong to strict decoding alone, in that one's words, as Kubernetes; of what
    is also wrong otherwise, all of it. Raises ApiError (400, 422)."""
    if doubled is not None and all(cause.strict for cause in causes) and (causes or doubled):
        raise errors.not_decoded(subject.kind, [*doubled, *(cause.strict for cause in causes)])
    twice = [Cause("", text, "FieldValueDuplicate") for text in doubled or ()]
    if causes or twice:
        raise errors.invalid(subject, [*twice, *causes])


def _normal_uri(body: Body) -> str | None:
    spec = body.get("spec")
    text = spec.get("uri") if isinstance(spec, dict) else None
    try:
        return parse_uri(text).text if isinstance(text, str) else None
    except ValueError:
        return None  # the kind's own rules say what is wrong with it


def _digest(body: Body) -> str | None:
    spec = body.get("spec")
    text = spec.get("sha256") if isinstance(spec, dict) else None
    return text if isinstance(text, str) else None


@dataclass(frozen=True, slots=True)
class _Alone:
    """A field that two objects of a kind cannot have the same in."""

    field: str
    value: Callable[[Body], str | None]
    message: str


_ALONE: Final = {
    "Node": _Alone("spec.uri", _normal_uri, "is the URI of Node {} already; a host is registered once"),
    "Token": _Alone("spec.sha256", _digest, "is another Token's: a secret has one bearer"),
}


def _immutable_causes(old: Body, new: Body) -> list[Cause]:
    """Compares what both sides say; one that its own rules refuse is told so by them."""
    before, _ = decode({k: v for k, v in old.items() if k != "status"}, Unknown.IGNORE)
    after, _ = decode(new, Unknown.IGNORE)
    if before is None or after is None:
        return []
    return [_cause(problem) for problem in immutable_problems(before, after)]


def _finalizer_causes(resource: Resource, current: StoredObject, merged: Body) -> list[Cause]:
    before = _texts(current.body["metadata"].get("finalizers"))
    after = _texts(merged["metadata"].get("finalizers"))
    ours = FINALIZERS.get(resource.kind)
    causes: list[Cause] = []
    if ours in before and ours not in after:
        causes.append(Cause("metadata.finalizers", _HOW_TO_END[resource.kind], "FieldValueForbidden"))
    added = [name for name in after if name not in before]
    if current.terminating and added:
        message = f"no new finalizers can be added if the object is being deleted, found {added}"
        causes.append(Cause("metadata.finalizers", message, "FieldValueForbidden"))
    return causes


_HOW_TO_END: Final = {
    "Domain": (
        "domctl.io/undefine is taken away by the controller alone, once no node can hold the domain any "
        "more. To end it, delete the Domain. If that waits for a node which does not answer: "
        "'domctl node confirm-dead NODE' if the node is off for good, or "
        "'domctl resolve DOMAIN --not-on NODE' if the domain is certainly not there"
    ),
    "Node": (
        "domctl.io/node is taken away by the controller alone, once nothing is assigned to the node. "
        "To end it, delete its Domains or let them move, then delete the Node"
    ),
}


def _texts(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, Iterable) else []
