"""Request bodies in protobuf: what kubectl since 1.32 sends for the kinds that Kubernetes has too.

A body begins with `k8s` and a zero byte; then comes a `runtime.Unknown` with apiVersion, kind and the object.
Only what those kinds are made of is known here: text, flags, numbers, messages, lists and maps of text, by
the field numbers of Kubernetes' generated.proto. The result is what JSON would have said. Fields that are not
known are refused, not skipped: a rule that says less than its author meant may grant more.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from controller.api import errors
from controller.api.sizes import MAX_FIELDS, sized, too_many

MAGIC: Final = b"k8s\x00"
CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"

# A field is (name, what it is): "text", "number", "flag", "map" (of text), "base64 map" (of bytes), or the
# name of a message; with "*" at the end a list of those. "skip" is known, and of no use to a server.
Message = Mapping[int, tuple[str, str]]
_ROLE: Final[Message] = {1: ("metadata", "ObjectMeta"), 2: ("rules", "PolicyRule*")}
_BINDING: Final[Message] = {
    1: ("metadata", "ObjectMeta"),
    2: ("subjects", "Subject*"),
    3: ("roleRef", "RoleRef"),
}
_ATTRIBUTES: Final[Message] = {
    1: ("resourceAttributes", "ResourceAttributes"),
    2: ("nonResourceAttributes", "NonResourceAttributes"),
}


def _review(spec: str) -> Message:
    return {1: ("metadata", "ObjectMeta"), 2: ("spec", spec), 3: ("status", "skip")}


_MESSAGES: Final[Mapping[str, Message]] = {
    "Unknown": {
        1: ("typeMeta", "TypeMeta"),
        2: ("raw", "bytes"),
        3: ("contentEncoding", "text"),
        4: ("contentType", "text"),
    },
    "TypeMeta": {1: ("apiVersion", "text"), 2: ("kind", "text")},
    "ObjectMeta": {
        1: ("name", "text"),
        2: ("generateName", "text"),
        3: ("namespace", "text"),
        4: ("selfLink", "skip"),
        5: ("uid", "text"),
        6: ("resourceVersion", "text"),
        7: ("generation", "skip"),
        8: ("creationTimestamp", "skip"),
        9: ("deletionTimestamp", "skip"),
        10: ("deletionGracePeriodSeconds", "skip"),
        11: ("labels", "map"),
        12: ("annotations", "map"),
        13: ("ownerReferences", "OwnerReference*"),
        14: ("finalizers", "text*"),
        17: ("managedFields", "skip"),
    },
    "OwnerReference": {
        1: ("kind", "text"),
        3: ("name", "text"),
        4: ("uid", "text"),
        5: ("apiVersion", "text"),
        6: ("controller", "flag"),
        7: ("blockOwnerDeletion", "flag"),
    },
    "Role": _ROLE,
    "ClusterRole": {**_ROLE, 3: ("aggregationRule", "AggregationRule")},
    "AggregationRule": {1: ("clusterRoleSelectors", "LabelSelector*")},
    "LabelSelector": {1: ("matchLabels", "map"), 2: ("matchExpressions", "LabelSelectorRequirement*")},
    "LabelSelectorRequirement": {1: ("key", "text"), 2: ("operator", "text"), 3: ("values", "text*")},
    "PolicyRule": {
        1: ("verbs", "text*"),
        2: ("apiGroups", "text*"),
        3: ("resources", "text*"),
        4: ("resourceNames", "text*"),
        5: ("nonResourceURLs", "text*"),
    },
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
    "Subject": {1: ("kind", "text"), 2: ("apiGroup", "text"), 3: ("name", "text"), 4: ("namespace", "text")},
    "RoleRef": {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")},
    "SelfSubjectAccessReview": _review("SelfSubjectAccessReviewSpec"),
    "SelfSubjectAccessReviewSpec": _ATTRIBUTES,
    "SubjectAccessReview": _review("SubjectAccessReviewSpec"),
    "LocalSubjectAccessReview": _review("SubjectAccessReviewSpec"),
    "SubjectAccessReviewSpec": {
        **_ATTRIBUTES,
        3: ("user", "text"),
        4: ("groups", "text*"),
        5: ("extra", "skip"),
        6: ("uid", "text"),
    },
    "ResourceAttributes": {
        1: ("namespace", "text"),
        2: ("verb", "text"),
        3: ("group", "text"),
        4: ("version", "text"),
        5: ("resource", "text"),
        6: ("subresource", "text"),
        7: ("name", "text"),
        8: ("fieldSelector", "skip"),
        9: ("labelSelector", "skip"),
    },
    "NonResourceAttributes": {1: ("path", "text"), 2: ("verb", "text")},
    "SelfSubjectRulesReview": _review("SelfSubjectRulesReviewSpec"),
    "SelfSubjectRulesReviewSpec": {1: ("namespace", "text")},
    "SelfSubjectReview": {1: ("metadata", "ObjectMeta"), 2: ("status", "skip")},
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "skip")},
    "NamespaceSpec": {1: ("finalizers", "text*")},
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "map"),
        3: ("binaryData", "base64 map"),
        4: ("immutable", "flag"),
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "base64 map"),
        3: ("type", "text"),
        4: ("stringData", "map"),
        5: ("immutable", "flag"),
    },
    "Eviction": {1: ("metadata", "ObjectMeta"), 2: ("deleteOptions", "DeleteOptions")},
    "TokenReview": _review("TokenReviewSpec"),
    "TokenReviewSpec": {1: ("token", "text"), 2: ("audiences", "text*")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "number"),
        2: ("preconditions", "Preconditions"),
        3: ("orphanDependents", "flag"),
        4: ("propagationPolicy", "text"),
        5: ("dryRun", "text*"),
    },
    "Preconditions": {1: ("uid", "text"), 2: ("resourceVersion", "text")},
}


_MAPS: Final[Mapping[str, Callable[[bytes], str]]] = {
    "map": bytes.decode,
    "base64 map": lambda data: base64.b64encode(data).decode(),
}


_MOST: Final = 4 * MAX_FIELDS  # a pair of a map is three here, and what is skipped counts too


def decode(body: bytes) -> dict[str, Any]:
    """The object of a body. Raises ApiError (400, 413)."""
    if not body.startswith(MAGIC):
        raise errors.bad_request("the body is not protobuf of Kubernetes: it does not begin with k8s")
    try:
        reader = _Reader()
        envelope = reader.message("Unknown", body[len(MAGIC) :])
        head = envelope.get("typeMeta", {})
        kind = head.get("kind", "")
        if kind not in _MESSAGES or envelope.get("contentEncoding"):
            raise errors.bad_request(f"{kind[:80]!r} is not taken as protobuf here: send JSON")
        value = {**head, **reader.message(kind, envelope.get("raw", b""))}
    except (ValueError, IndexError):
        raise errors.bad_request("the body is not protobuf, or is cut off") from None
    sized(value)
    return value


class _Reader:
    """Of one body, whose fields are counted as they are read, on all levels: no more than may be."""

    def __init__(self) -> None:
        self._left = _MOST

    def message(self, name: str, data: bytes) -> dict[str, Any]:
        """Text that is empty is left out, as it is in Kubernetes' JSON."""
        known = _MESSAGES[name]
        found: dict[str, Any] = {}
        for number, value in self._fields(data):
            if number not in known:
                raise errors.bad_request(f"field {number} of {name} is not known here: send JSON")
            field, kind = known[number]
            if kind == "skip":
                continue
            if kind in _MAPS:
                entry = {1: b"", 2: b""} | dict(self._fields(_data(value)))
                found.setdefault(field, {})[_data(entry[1]).decode()] = _MAPS[kind](_data(entry[2]))
            elif kind.endswith("*"):
                found.setdefault(field, []).append(self._value(kind[:-1], value))
            elif (one := self._value(kind, value)) != "":
                found[field] = one
        return found

    def _value(self, kind: str, value: int | bytes) -> Any:
        if kind in {"number", "flag"}:
            if not isinstance(value, int):
                raise ValueError("a number was expected")
            return bool(value) if kind == "flag" else value
        data = _data(value)
        if kind == "bytes":
            return data
        return data.decode() if kind == "text" else self.message(kind, data)

    def _fields(self, data: bytes) -> Iterator[tuple[int, int | bytes]]:
        """Raises ValueError, IndexError; ApiError (413)."""
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise too_many(MAX_FIELDS)
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            if wire == 0:
                value, at = _varint(data, at)
                yield number, value
            elif wire == 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("cut off")
                yield number, data[at : at + size]
                at += size
            else:
                raise ValueError("a wire type that Kubernetes does not use")


def _data(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes were expected")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise ValueError("a number that is too long")
