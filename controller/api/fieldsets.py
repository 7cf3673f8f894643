"""Sets of fields as server-side apply knows them, and what can be done to objects by them. Pure.

A path is a tuple of elements as FieldsV1 writes them: `f:name` a field, `k:{"name":"a"}` an item of a list
by its keys, `v:"x"` an item of a set, `i:0` an item by place. A set of fields is a frozenset of paths, so
union, difference and intersection are Python's own. What is one field follows from the schema
(`shape_of`): scalars and atomic lists are fields, an item of a keyed list is one besides its own fields, a
key of a free map is one. The rules are those of Kubernetes' structured-merge-diff; no code is taken from it.

Values of another type than the schema's are fields as a whole: nothing here fails on them, and admission
says what is wrong. Who owns which fields is in `controller.api.managed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

Path = tuple[str, ...]
FieldSet = frozenset[Path]
NOTHING: Final[FieldSet] = frozenset()
MAX_DEPTH: Final = 40  # of FieldsV1; as deep as a request's body may be
_PREFIXES: Final = ("f:", "k:", "v:", "i:")
_SCALARS: Final = (str, int, float, bool, type(None))
_PRESENT: Final = "present"  # of an item or a key that is a field besides what it holds


class Malformed(ValueError):
    """A list whose items cannot be told apart, or a set of fields that cannot be read."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar, or what is replaced as a whole."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Named fields, and what any other name holds (None: no other is known)."""

    named: Mapping[str, Shape] = field(default_factory=dict)
    other: Shape | None = None

    def inner(self, name: str) -> Shape | None:
        return self.named.get(name, self.other)


@dataclass(frozen=True, slots=True)
class Free:
    """No schema: maps are merged by key, all else is replaced."""

    def inner(self, name: str) -> Shape | None:
        return self

    @property
    def named(self) -> Mapping[str, Shape]:
        return {}


@dataclass(frozen=True, slots=True)
class Items:
    """A list whose items are told apart by `keys`, or a set of scalars when there are none."""

    keys: tuple[str, ...]
    item: Shape


Shape = Leaf | Fields | Free | Items
_LEAF: Final = Leaf()
_FREE: Final = Free()


def shape_of(schema: Mapping[str, Any], components: Mapping[str, Any]) -> Shape:
    """From an OpenAPI schema whose references lead into `components`. It must not be recursive."""
    if "$ref" in schema:
        return shape_of(components[str(schema["$ref"]).rpartition("/")[2]], components)
    if schema.get("allOf"):
        return shape_of(schema["allOf"][0], components)
    if schema.get("x-kubernetes-map-type") == "atomic":
        return _LEAF
    if schema.get("type") == "array":
        return _list_shape(schema, components)
    if "properties" in schema:
        return Fields({name: shape_of(one, components) for name, one in schema["properties"].items()})
    if isinstance(schema.get("additionalProperties"), Mapping):
        return Fields(other=shape_of(schema["additionalProperties"], components))
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return _FREE
    return _LEAF


def _list_shape(schema: Mapping[str, Any], components: Mapping[str, Any]) -> Shape:
    merging = schema.get("x-kubernetes-list-type", "atomic")
    if merging == "map":
        return Items(tuple(schema["x-kubernetes-list-map-keys"]), shape_of(schema["items"], components))
    return Items((), _LEAF) if merging == "set" else _LEAF


def canonical(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def keyed(values: Iterable[Any], kind: Items) -> dict[str, Any]:
    """Items by their path element, in their order. A set's duplicates are one. Raises Malformed."""
    found: dict[str, Any] = {}
    for value in values:
        element = _element(value, kind)
        if element in found and kind.keys:
            raise Malformed(f"duplicate entries for key {_readable(element)}")
        found.setdefault(element, value)
    return found


def _element(value: Any, kind: Items) -> str:
    if not kind.keys:
        if not isinstance(value, _SCALARS):
            raise Malformed("items of a set must be scalars")
        return "v:" + canonical(value)
    if not isinstance(value, dict):
        raise Malformed("items must be objects")
    missing = [key for key in kind.keys if not isinstance(value.get(key), str | int | float | bool)]
    if missing:
        raise Malformed(f"an item lacks {', '.join(missing)}, by which items are told apart")
    return "k:" + canonical({key: value[key] for key in kind.keys})


def ambiguous(value: Any, shape: Shape, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and problem of each list whose items cannot be told apart, in what is applied."""
    if isinstance(shape, Fields | Free) and isinstance(value, dict):
        for name, inner in value.items():
            kind = shape.inner(name)
            if kind is not None:
                yield from ambiguous(inner, kind, f"{path}.{name}" if path else name)
    elif isinstance(shape, Items) and isinstance(value, list):
        try:
            if len(keyed(value, shape)) < len(value):
                yield path, "duplicate entries in a set"
        except Malformed as problem:
            yield path, str(problem)
        for index, item in enumerate(value):
            yield from ambiguous(item, shape.item, f"{path}[{index}]")


def flatten(value: Any, shape: Shape) -> dict[Path, Any]:
    """Every field of `value` with what it holds; the set of its fields are the keys."""
    found: dict[Path, Any] = {}
    _collect(value, shape, (), found)
    found.pop((), None)
    return found


def _collect(value: Any, shape: Shape, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(shape, Fields | Free) and isinstance(value, dict) and value:
        for name, inner in value.items():
            kind = shape.inner(name)
            if kind is not None:
                here = (*path, f"f:{name}")
                _collect(inner, kind, here, found)
                if name not in shape.named:
                    found.setdefault(here, _PRESENT)
        return
    items = _items(value, shape)
    if items is None:
        found[path] = value
        return
    assert isinstance(shape, Items)
    for element, item in items.items():
        here = (*path, element)
        _collect(item, shape.item, here, found)
        found.setdefault(here, _PRESENT)


def _items(value: Any, shape: Shape) -> dict[str, Any] | None:
    """None for what is one field as a whole."""
    if not isinstance(shape, Items) or not isinstance(value, list):
        return None
    try:
        return keyed(value, shape)
    except Malformed:
        return None


def merge(live: Any, applied: Any, shape: Shape) -> Any:
    """What `live` becomes where `applied` says something. Items come in the order of `applied`, those that
    only `live` has keep their places between them. Neither argument is changed."""
    if isinstance(shape, Fields | Free) and isinstance(live, dict) and isinstance(applied, dict):
        result = dict(live)
        for name, value in applied.items():
            kind = shape.inner(name)
            known = name in live and kind is not None
            result[name] = merge(live[name], value, kind) if known and kind is not None else value
        return result
    before, after = _items(live, shape), _items(applied, shape)
    if before is None or after is None:
        return applied
    assert isinstance(shape, Items)
    return list(_interleaved(before, after, shape.item))


def _interleaved(before: Mapping[str, Any], after: Mapping[str, Any], shape: Shape) -> Iterator[Any]:
    rest = iter(after.items())
    for element, item in before.items():
        if element not in after:
            yield item
            continue
        for coming, value in rest:
            yield merge(before[coming], value, shape) if coming in before else value
            if coming in before:
                break
    for coming, value in rest:
        yield merge(before[coming], value, shape) if coming in before else value


def remove(value: Any, gone: FieldSet, kept: FieldSet, shape: Shape) -> Any:
    """`value` without the fields of `gone`. What thereby becomes empty goes too, unless it is in `kept`; the
    keys of an item go only with the item."""
    return _without(value, _tree(gone), kept, shape, ())


_END: Final = "."
_Tree = dict[str, Any]


def _tree(paths: Iterable[Path]) -> _Tree:
    root: _Tree = {}
    for path in paths:
        node = root
        for element in path:
            node = node.setdefault(element, {})
        node[_END] = {}
    return root


def _without(value: Any, tree: _Tree, kept: FieldSet, shape: Shape, path: Path) -> Any:
    if isinstance(shape, Fields | Free) and isinstance(value, dict):
        pairs = {f"f:{name}": (name, inner) for name, inner in value.items()}
        left = _left(pairs, tree, kept, shape.inner, path)
        return dict(left)
    items = _items(value, shape)
    if items is None:
        return value
    assert isinstance(shape, Items)
    held = {f"f:{key}" for key in shape.keys}
    inner_trees = {
        element: branch if _END in branch else {k: v for k, v in branch.items() if k not in held}
        for element, branch in tree.items()
        if element != _END
    }
    pairs = {element: (element, item) for element, item in items.items()}
    return [item for _, item in _left(pairs, inner_trees, kept, lambda _: shape.item, path)]


def _left(
    pairs: Mapping[str, tuple[str, Any]],
    tree: _Tree,
    kept: FieldSet,
    inner: Callable[[str], Shape | None],
    path: Path,
) -> Iterator[tuple[str, Any]]:
    for element, (name, value) in pairs.items():
        branch = tree.get(element)
        if branch is None:
            yield name, value
            continue
        here = (*path, element)
        if _END in branch and here not in kept:
            continue
        kind = inner(name)
        rest = _without(value, branch, kept, kind, here) if kind is not None else value
        if rest or not value or not isinstance(value, dict | list) or here in kept:
            yield name, rest


def with_parents(fields: Iterable[Path]) -> FieldSet:
    """The fields and all that they stand in."""
    return frozenset(path[:length] for path in fields for length in range(1, len(path) + 1))


def to_v1(fields: FieldSet) -> dict[str, Any]:
    """As FieldsV1 writes it: a field that holds others and is one itself is marked by `.`."""

    def written(tree: _Tree) -> dict[str, Any]:
        inner = {key: written(tree[key]) for key in sorted(tree) if key != _END}
        return {_END: {}, **inner} if _END in tree and inner else inner

    return written(_tree(fields))


def from_v1(value: object) -> FieldSet:
    """Raises Malformed."""
    found: set[Path] = set()
    pending: list[tuple[Path, object]] = [((), value)]
    while pending:
        path, node = pending.pop()
        if not isinstance(node, dict):
            raise Malformed("fieldsV1 must be objects within objects")
        if len(path) > MAX_DEPTH:
            raise Malformed(f"fieldsV1 is nested more than {MAX_DEPTH} deep")
        inner = {key: one for key, one in node.items() if key != _END}
        if path and (not inner or _END in node):
            found.add(path)
        pending += [((*path, _read_element(key)), one) for key, one in inner.items()]
    return frozenset(found)


def _read_element(key: object) -> str:
    if not isinstance(key, str) or key[:2] not in _PREFIXES:
        raise Malformed(f"fieldsV1 has the key {str(key)[:80]!r}, keys begin with f:, k:, v: or i:")
    if key[:2] == "f:":
        return key
    try:
        value = msgspec.json.decode(key[2:])
    except (msgspec.DecodeError, RecursionError):
        raise Malformed(f"fieldsV1 has the key {key[:80]!r}, which is not JSON after its prefix") from None
    wanted: tuple[type, ...] = {"k:": (dict,), "i:": (int,)}.get(key[:2], _SCALARS)
    flat = not isinstance(value, dict) or all(isinstance(one, _SCALARS) for one in value.values())
    if not isinstance(value, wanted) or not flat:
        raise Malformed(f"fieldsV1 has the key {key[:80]!r}, whose value has another type")
    return key[:2] + canonical(value)


def shown(path: Path) -> str:
    """As Kubernetes names it in conflicts: .spec.disks[name="root"].bus"""
    return "".join(f".{element[2:]}" if element[:2] == "f:" else _readable(element) for element in path)


def _readable(element: str) -> str:
    if element[:2] == "k:":
        pairs = msgspec.json.decode(element[2:])
        return "[" + ",".join(f"{name}={canonical(value)}" for name, value in pairs.items()) + "]"
    return f"[={element[2:]}]" if element[:2] == "v:" else f"[{element[2:]}]"
