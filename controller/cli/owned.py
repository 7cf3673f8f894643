"""metadata.managedFields as a client reads it: what a manager applied before, and the take-over of what was
applied from the client's side.

Pure. Who applied from its own side (domctl until it had server-side apply; kubectl by default) owns fields as
`Update` and left what it applied in an annotation. `take_over` makes them the applier's, as kubectl does for
itself: without that, its own fields would be conflicts, and what is no longer in the file would stay for
ever. FieldsV1 is a tree of `f:NAME`, `k:{KEYS}` for items of lists by key, `v:VALUE` for items of sets, and
`.` for the item itself.
"""

from __future__ import annotations

import json

from controller.cli.merge3 import LAST_APPLIED, last_applied, same

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    Json = dict[str, Any]
    Path = tuple[str, ...]

CLIENT_SIDE = ("domctl-client-side-apply", "kubectl-client-side-apply")
_ANNOTATION = ("f:metadata", "f:annotations", f"f:{LAST_APPLIED}")
_NOBODYS = frozenset({"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"})
_ITSELF = "."


def take_over(live: Mapping[str, Any], manager: str) -> list[Json]:
    """The JSON patch after which `manager` owns what was applied from a client's side; [] when there is
    nothing to take. It fails where the object was changed meanwhile."""
    meta = live["metadata"]
    entries: list[Json] = meta.get("managedFields") or []
    taken = [entry for entry in entries if _is_client_side(entry)]
    fields = _united([_fields(entry) for entry in taken])
    if not entries:  # from a time before fields had owners
        fields = _of_annotation(live)
    if not taken and not fields:
        return []
    mine = next((entry for entry in entries if _is_mine(entry, manager)), None)
    fields = _without(_united([_fields(mine) if mine else {}, fields]), _ANNOTATION)
    entry = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": live["apiVersion"],
        "time": (taken[0] if taken else meta).get("time") or meta.get("creationTimestamp"),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    kept = [one for one in entries if one is not mine and one not in taken]
    patch: list[Json] = [{"op": "add", "path": "/metadata/managedFields", "value": [*kept, entry]}]
    annotations = meta.get("annotations") or {}
    if LAST_APPLIED in annotations:
        only = len(annotations) == 1
        patch.append(
            {"op": "remove", "path": f"/metadata/annotations{'' if only else _pointer(LAST_APPLIED)}"}
        )
    return [*patch, {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]}]


def would_change(live: Mapping[str, Any], wanted: Mapping[str, Any], manager: str) -> bool:
    """Whether an apply of `wanted` changes `live`, as far as it can be told without the server."""
    entries: list[Json] = live["metadata"].get("managedFields") or []
    said = [_fields(entry) for entry in entries if _is_mine(entry, manager) or _is_client_side(entry)]
    before = _without(_united(said) if entries else _of_annotation(live), _ANNOTATION)
    shape = _united([_fields(entry) for entry in entries])
    return not _covers(live, wanted, shape) or any(not _has(wanted, path) for path in _leaves(before))


def _is_mine(entry: Mapping[str, Any], manager: str) -> bool:
    return (
        entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
    )


def _is_client_side(entry: Mapping[str, Any]) -> bool:
    if entry.get("operation") != "Update" or entry.get("subresource"):
        return False
    annotated = _fields(entry).get(_ANNOTATION[0], {}).get(_ANNOTATION[1], {})
    return entry.get("manager") in CLIENT_SIDE or _ANNOTATION[2] in annotated


def _fields(entry: Mapping[str, Any]) -> Json:
    found = entry.get("fieldsV1")
    return found if isinstance(found, dict) else {}


def _united(trees: Sequence[Json]) -> Json:
    whole: Json = {}
    for tree in trees:
        for key, inner in tree.items():
            whole[key] = _united([whole.get(key, {}), inner])
    return whole


def _without(tree: Json, path: Path) -> Json:
    """`tree` without what stands at `path`, and without parents that this leaves empty."""
    if path[0] not in tree:
        return tree
    rest = {key: value for key, value in tree.items() if key != path[0]}
    if len(path) == 1:
        return rest
    inner = _without(tree[path[0]], path[1:])
    return {**rest, path[0]: inner} if set(inner) - {_ITSELF} else rest


def _of_annotation(live: Mapping[str, Any]) -> Json:
    """What the annotation says was applied and is still there; a list is one field."""
    said = last_applied(live)
    return _tree(said, live, top=True) if said else {}


def _tree(said: Mapping[str, Any], live: Mapping[str, Any], *, top: bool = False) -> Json:
    tree: Json = {}
    for key, value in said.items():
        under = live.get(key)
        if key not in live or (top and key in {"apiVersion", "kind", "status"}):
            continue
        if isinstance(value, dict) and isinstance(under, dict) and value:
            trimmed = {k: v for k, v in value.items() if k not in _NOBODYS} if key == "metadata" else value
            inner = _tree(trimmed, under)
            if inner:
                tree[f"f:{key}"] = inner
        else:
            tree[f"f:{key}"] = {}
    return tree


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _covers(live: object, wanted: object, shape: Json) -> bool:
    """Whether all of `wanted` stands in `live`; `shape` tells which lists have items by key or value."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        keys = [key for key, value in wanted.items() if value is not None]
        return all(k in live and _covers(live[k], wanted[k], shape.get(f"f:{k}", {})) for k in keys)
    if isinstance(wanted, list) and isinstance(live, list):
        by_key = [step for step in shape if step.startswith("k:")]
        if by_key:
            names = sorted(json.loads(by_key[0][2:]))
            return all(
                _covers(_item(live, {n: one.get(n) for n in names}), one, _inner(shape)) for one in wanted
            )
        if any(step.startswith("v:") for step in shape):
            return all(any(same(one, other) for other in live) for one in wanted)
    return same(live, wanted)


def _inner(shape: Json) -> Json:
    return _united([inner for step, inner in shape.items() if step.startswith("k:")])


def _item(items: object, keys: Mapping[str, Any]) -> object:
    for one in items if isinstance(items, list) else ():
        if isinstance(one, dict) and all(same(one.get(name), value) for name, value in keys.items()):
            return one
    return None


def _leaves(tree: Json, before: Path = ()) -> Iterator[Path]:
    for step, inner in tree.items():
        if step == _ITSELF:
            yield before
        elif inner:
            yield from _leaves(inner, (*before, step))
        else:
            yield (*before, step)


def _has(value: object, path: Path) -> bool:
    for step in path:
        kind, rest = step[:2], step[2:]
        if kind == "f:":
            if not isinstance(value, dict) or rest not in value:
                return False
            value = value[rest]
        elif kind == "k:":
            value = _item(value, json.loads(rest))
            if value is None:
                return False
        elif not (isinstance(value, list) and any(same(one, json.loads(rest)) for one in value)):
            return False
    return True
