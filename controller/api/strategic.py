"""Strategic merge patches: what clients send of the kinds that Kubernetes has too. Pure.

Of the lists of those kinds Kubernetes merges two, metadata's finalizers (as a set) and ownerReferences (by
uid); every other is replaced as a whole, so that all else is as in a merge patch. What a patch says in words
of its own is done: `$patch` of an object, or of an owner; `$retainKeys`; and for the two lists
`$deleteFromPrimitiveList/…` and `$setElementOrder/…`. A word that has no meaning where it stands is refused,
for what it would have asked for is not known; within status, which no patch here reaches, it is passed over.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

from controller.api.errors import ApiError, bad_request

Path = tuple[str, ...]
_ORDER: Final = "$setElementOrder/"
_DELETE: Final = "$deleteFromPrimitiveList/"
_KEYS: Final[
    Mapping[Path, str]
] = {  # of lists that are merged: the field that tells items apart, "" for none
    ("metadata", "finalizers"): "",
    ("metadata", "ownerReferences"): "uid",
}


def merged(current: Any, change: Any, path: Path = ()) -> Any:
    """`current` as `change` wants it. Changes neither. Raises ApiError (400)."""
    if not isinstance(change, dict):
        return change
    fields = {k: v for k, v in change.items() if not k.startswith("$")}
    words = {k: v for k, v in change.items() if k.startswith("$")}
    match words.pop("$patch", "merge"):
        case "delete":
            return {}
        case "replace":
            result = {}
        case "merge":
            result = dict(current) if isinstance(current, dict) else {}
        case other:
            raise bad_request(f"$patch must be merge, replace or delete, is {str(other)[:80]!r}")
    if isinstance(words.get("$retainKeys"), list):
        kept = words.pop("$retainKeys")
        if stray := [name for name, value in fields.items() if value is not None and name not in kept]:
            raise bad_request(f"$retainKeys does not name {stray[0][:80]!r}, which the patch sets beside it")
        result = {k: v for k, v in result.items() if k in kept}
    for name, value in fields.items():
        inner = (*path, name)
        if value is None:
            result.pop(name, None)
        elif inner in _KEYS and isinstance(value, list):
            result[name] = _united(result.get(name), value, inner)
        else:
            result[name] = merged(result.get(name), value, inner)
    for word, value in words.items():
        _obey(result, word, value, path)
    return result


def _obey(result: dict[str, Any], word: str, value: Any, path: Path) -> None:
    """What a patch says of a list beside it, once the list itself is merged."""
    start, _, name = word.partition("/")
    inner = (*path, name)
    if inner[:1] == ("status",):
        return
    if inner not in _KEYS or f"{start}/" not in {_ORDER, _DELETE} or not isinstance(value, list):
        raise bad_request(f"the strategic merge patch says {word[:80]!r}, which has no meaning there")
    found = result.get(name)
    if not isinstance(found, list):
        return
    named = {_identity(item, inner) for item in value}
    if f"{start}/" == _DELETE:
        result[name] = [item for item in found if _identity(item, inner) not in named]
        return
    order = list(dict.fromkeys(_identity(item, inner) for item in value))
    first = [item for item in found if _identity(item, inner) in named]
    rest = [item for item in found if _identity(item, inner) not in named]
    result[name] = [*sorted(first, key=lambda item: order.index(_identity(item, inner))), *rest]


def _united(current: Any, items: Sequence[Any], path: Path) -> list[Any]:
    found: dict[Hashable, Any] = {}
    replaced = {"$patch": "replace"} in items
    for item in () if replaced or not isinstance(current, list) else current:
        found[_identity(item, path)] = item
    for item in _without_marker(items):
        key = _identity(item, path)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), item, path)
    return list(found.values())


def _without_marker(items: Iterable[Any]) -> Iterable[Any]:
    return (item for item in items if item != {"$patch": "replace"})


def _identity(item: Any, path: Path) -> Hashable:
    """What tells an item of a merged list from the others. Raises ApiError (400)."""
    field = _KEYS[path]
    key = item.get(field) if field and isinstance(item, dict) else item
    if not isinstance(key, str):
        raise _nameless(path, field)
    return key


def _nameless(path: Path, field: str) -> ApiError:
    needed = f"a {field}" if field else "nothing but text"
    return bad_request(f"{'.'.join(path)}: the items of a strategic merge patch must have {needed}")
