"""The three-way merge of `apply`: what was applied before, what is applied now, and what stands there.

Pure. The outcome is a JSON merge patch that sets what the file says, removes what the file said before and no
longer says, and leaves alone what others set. What was applied before is kept in kubectl's own annotation, in
kubectl's own bytes, so that domctl and kubectl can apply the same object in turn without a change. A list is
one value to this merge, as it is for kubectl with custom resources. The cases are those of Kubernetes'
jsonmergepatch package.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Json = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_GO_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_MISSING = object()


def with_last_applied(wanted: Mapping[str, Any], namespace: str) -> Json:
    """`wanted` as it is sent: in `namespace` ("" for cluster-scoped kinds), with itself in the annotation,
    which of a Secret has the names alone: a merge asks for no more."""
    metadata = dict(wanted.get("metadata") or {})
    if namespace:
        metadata["namespace"] = namespace
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != LAST_APPLIED}
    plain = {**wanted, "metadata": {**metadata, "annotations": annotations}}
    kept = {**plain, "data": dict.fromkeys(plain["data"], "***")} if _holds_secrets(plain) else plain
    annotations = {**annotations, LAST_APPLIED: encoded(kept)}
    return {**plain, "metadata": {**metadata, "annotations": annotations}}


def _holds_secrets(wanted: Mapping[str, Any]) -> bool:
    return wanted.get("kind") == "Secret" and bool(wanted.get("data"))


def last_applied(live: Mapping[str, Any]) -> Json | None:
    """What was applied before; None if nothing was, or nothing that can be read."""
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def three_way(before: Mapping[str, Any] | None, wanted: Mapping[str, Any], live: Mapping[str, Any]) -> Json:
    """The merge patch from `live` to `wanted`; {} when nothing is to be done."""
    changes = _without_nulls(difference(live, wanted))
    removals = _only_nulls(difference(before or {}, wanted), live)
    return _merged(changes, removals)


def applied(live: Mapping[str, Any], patch: Mapping[str, Any]) -> Json:
    """`live` after the merge patch (RFC 7386)."""
    result = dict(live)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            under = result.get(key)
            result[key] = applied(under if isinstance(under, dict) else {}, value)
        else:
            result[key] = value
    return result


def encoded(value: object) -> str:
    """JSON in the bytes that Go makes of it, with kubectl's newline at the end."""
    text = json.dumps(_go_numbers(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_GO_ESCAPES) + "\n"


def _go_numbers(value: object) -> object:
    """YAML's 1.0 is 1 once it went through Go's JSON."""
    if isinstance(value, dict):
        return {key: _go_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_go_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e21 else value


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Json:
    """The merge patch from `old` to `new`; what `new` lacks is null."""
    patch: Json = {}
    for key, value in new.items():
        known = old.get(key, _MISSING)
        if isinstance(value, dict) and isinstance(known, dict):
            inner = difference(known, value)
            if inner:
                patch[key] = inner
        elif not same(known, value):
            patch[key] = value
    patch.update({key: None for key in old if key not in new})
    return patch


def same(left: object, right: object) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _without_nulls(patch: Mapping[str, Any]) -> Json:
    result: Json = {}
    for key, value in patch.items():
        if isinstance(value, dict):
            inner = _without_nulls(value)
            if inner or not value:
                result[key] = inner
        elif value is not None:
            result[key] = value
    return result


def _only_nulls(patch: Mapping[str, Any], live: Mapping[str, Any]) -> Json:
    """The removals of `patch` that still have something to remove."""
    result: Json = {}
    for key, value in patch.items():
        under = live.get(key)
        if value is None and key in live:
            result[key] = None
        elif isinstance(value, dict) and isinstance(under, dict):
            inner = _only_nulls(value, under)
            if inner:
                result[key] = inner
    return result


def _merged(first: Json, second: Json) -> Json:
    result = dict(first)
    for key, value in second.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result
