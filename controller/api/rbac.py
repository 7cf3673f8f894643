"""May this user do that? Kubernetes' role-based access control, as one pure function.

`Policy` is an immutable picture of all roles and bindings; `Policy.decide` says by which binding a request is
allowed, or None. Guaranteed, and tested by invented policies: only what some rule names is ever granted,
another binding never takes a right away, and a role that is missing or cannot be read grants nothing. Rules
match as Kubernetes matches them (`*`, `resource/subresource`, `*/subresource`, names, paths that end in `*`);
`uncovered` is its protection against escalation: what of some rules is not covered by others.

Members of `ADMIN_GROUPS` may do everything, whatever stands in the store, so that no change of roles locks
the last administrator out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Final

ADMIN_GROUPS: Final = frozenset({"domctl:admins", "system:masters"})
ALL: Final = "*"
MOST_WORK: Final = 50_000  # comparisons of which four take a microsecond or two


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a role. Either resources or paths."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants to do: on a resource, or, where `path` is given, on a path that is none. `name` ""
    is the whole collection, or an object that has no name yet."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def combined(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()

    @property
    def is_admin(self) -> bool:
        return not ADMIN_GROUPS.isdisjoint(self.groups)


@dataclass(frozen=True, slots=True)
class Holder:
    """One subject of a binding. A service account is the user of that long name."""

    kind: str
    name: str
    namespace: str = ""

    @property
    def key(self) -> tuple[str, str]:
        if self.kind == "ServiceAccount":
            return "User", f"system:serviceaccount:{self.namespace}:{self.name}"
        return self.kind, self.name

    def __str__(self) -> str:
        name = f"{self.name}/{self.namespace}" if self.kind == "ServiceAccount" else self.name
        return f'{self.kind} "{name}"'


@dataclass(frozen=True, slots=True)
class Binding:
    """`namespace` "": a ClusterRoleBinding. `role` is a Role of that namespace, or a ClusterRole."""

    name: str
    namespace: str
    role_kind: str
    role: str
    holders: tuple[Holder, ...]

    @property
    def role_key(self) -> tuple[str, str]:
        return (self.namespace if self.role_kind == "Role" else "", self.role)

    def granted_to(self, holder: Holder) -> str:
        """In Kubernetes' words."""
        kind = "RoleBinding" if self.namespace else "ClusterRoleBinding"
        name = f"{self.name}/{self.namespace}" if self.namespace else self.name
        return f'{kind} "{name}" of {self.role_kind} "{self.role}" to {holder}'


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it is allowed, and why; why not is known where a binding names a role that is not there."""

    allowed: bool
    reason: str = ""


Rules = tuple[Rule, ...]
_BY_GROUP: Final = Verdict(True, "RBAC: members of the administrators' groups may do everything")
EVERYTHING: Final[Rules] = (
    Rule((ALL,), groups=(ALL,), resources=(ALL,)),
    Rule((ALL,), paths=(ALL,)),
)


@dataclass(frozen=True)
class Policy:
    """All roles by (namespace, name), "" for ClusterRoles, and all bindings."""

    roles: Mapping[tuple[str, str], Rules] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    _by_holder: dict[tuple[str, str], list[tuple[Binding, Holder]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for binding in self.bindings:
            for holder in binding.holders:
                self._by_holder.setdefault(holder.key, []).append((binding, holder))

    def decide(self, user: User, ask: Ask) -> Verdict:
        if user.is_admin:
            return _BY_GROUP
        missing: list[str] = []
        for binding, holder in self._bindings(user, ask.namespace):
            rules = self.roles.get(binding.role_key)
            if rules is None:
                missing.append(_missing(binding))
            elif any(allows(rule, ask) for rule in rules):
                return Verdict(True, f"RBAC: allowed by {binding.granted_to(holder)}")
        listed = ", ".join(dict.fromkeys(missing))
        words = f"[{listed}]" if len(set(missing)) > 1 else listed
        return Verdict(False, f"RBAC: {words}" if missing else "")

    def rules_of(self, user: User, namespace: str) -> Rules:
        """All rules that hold for `user` in `namespace`; "" for those that hold everywhere."""
        if user.is_admin:
            return EVERYTHING
        found: dict[Rule, None] = {}
        for binding, _ in self._bindings(user, namespace):
            found.update(dict.fromkeys(self.roles.get(binding.role_key, ())))
        return tuple(found)

    def _bindings(self, user: User, namespace: str) -> Iterator[tuple[Binding, Holder]]:
        """Those of the user and his groups that hold in `namespace`, the cluster's first."""
        keys = [("User", user.name), *(("Group", group) for group in dict.fromkeys(user.groups))]
        held = [pair for key in keys for pair in self._by_holder.get(key, ())]
        yield from (pair for pair in held if not pair[0].namespace)
        if namespace:
            yield from (pair for pair in held if pair[0].namespace == namespace)


def _missing(binding: Binding) -> str:
    return f'{binding.role_kind.lower()}.rbac.authorization.k8s.io "{binding.role}" not found'


def allows(rule: Rule, ask: Ask) -> bool:
    """Whether one rule names what is asked for."""
    if not _has(rule.verbs, ask.verb):
        return False
    if ask.path:
        return any(_path_matches(path, ask.path) for path in rule.paths)
    return (
        _has(rule.groups, ask.group)
        and _resource_matches(rule.resources, ask)
        and (not rule.names or ask.name in rule.names)
    )


def _has(words: tuple[str, ...], word: str) -> bool:
    return ALL in words or word in words


def _resource_matches(resources: tuple[str, ...], ask: Ask) -> bool:
    if _has(resources, ask.combined):
        return True
    return bool(ask.subresource) and f"*/{ask.subresource}" in resources


def _path_matches(pattern: str, path: str) -> bool:
    if pattern in (ALL, path):
        return True
    return pattern.endswith(ALL) and path.startswith(pattern.rstrip(ALL))


# The smallest part of a rule: verb, group, resource, name (None: whatever it is called), path ("": none).
Piece = tuple[str, str, str, str | None, str]


class TooWide(Exception):
    """Rules name so many combinations that comparing them would take too long."""


def uncovered(wanted: Iterable[Rule], held: Rules) -> tuple[Piece, ...]:
    """What of `wanted`, taken apart into its smallest pieces, no single rule of `held` covers. Raises TooWide
    before it does what would take more than MOST_WORK comparisons: pieces are the product of all lists."""
    owned = [_Owned(rule) for rule in held]
    work = sum(one.words for one in owned) // 4
    lacking: dict[Piece, None] = {}
    for rule in wanted:
        near = [own for own in owned if own.touches(rule)]
        wide = not any(own.covers_all(rule) for own in near)
        work += len(owned) + (_work(rule, near) if wide else 0)
        if work > MOST_WORK:
            raise TooWide
        if wide:
            lacking.update((p, None) for p in _pieces(rule) if not any(own.covers(p) for own in near))
    return tuple(lacking)


def rule_of(piece: Piece) -> Rule:
    verb, group, resource, name, path = piece
    if path:
        return Rule((verb,), paths=(path,))
    return Rule((verb,), (group,), (resource,), () if name is None else (name,))


def _work(rule: Rule, near: list[_Owned]) -> int:
    """How many comparisons it takes to take `rule` apart."""
    objects = len(rule.groups) * len(rule.resources) * (len(rule.names) or 1) * (1 + len(near))
    paths = len(rule.paths) * (1 + sum(len(own.paths) for own in near))
    return len(rule.verbs) * (objects + paths)


def _pieces(rule: Rule) -> Iterator[Piece]:
    yield from ((verb, "", "", None, path) for verb in rule.verbs for path in rule.paths)
    yield from (
        (*found, "") for found in product(rule.verbs, rule.groups, rule.resources, rule.names or (None,))
    )


class _Owned:
    """A rule that is held, for many comparisons."""

    def __init__(self, rule: Rule) -> None:
        self.verbs, self.groups, self.resources = map(frozenset, (rule.verbs, rule.groups, rule.resources))
        self.names, self.paths = frozenset(rule.names), rule.paths
        lists = (rule.verbs, rule.groups, rule.resources, rule.names, rule.paths)
        self.words = sum(len(one) for one in lists)

    def touches(self, rule: Rule) -> bool:
        """Whether it may cover any of that; what it does not touch it does not."""
        same = ALL in self.verbs or not self.verbs.isdisjoint(rule.verbs)
        return same and (
            bool(rule.paths and self.paths) or ALL in self.groups or not self.groups.isdisjoint(rule.groups)
        )

    def covers_all(self, rule: Rule) -> bool:
        """Whether all of it, as far as that is seen without taking it apart."""
        pairs = ((self.verbs, rule.verbs), (self.groups, rule.groups), (self.resources, rule.resources))
        return (
            all(ALL in own or own.issuperset(asked) for own, asked in pairs)
            and (not self.names or (bool(rule.names) and self.names.issuperset(rule.names)))
            and (not rule.paths or ALL in self.paths)
        )

    def covers(self, piece: Piece) -> bool:
        verb, group, resource, name, path = piece
        if verb not in self.verbs and ALL not in self.verbs:
            return False
        if path:
            return any(_path_matches(own, path) for own in self.paths)
        if group not in self.groups and ALL not in self.groups:
            return False
        if resource not in self.resources and ALL not in self.resources:
            _, slash, subresource = resource.partition("/")
            if not slash or f"*/{subresource}" not in self.resources:
                return False
        return not self.names or name in self.names


def rule_text(rule: Rule) -> str:
    """A rule as Kubernetes writes it in a refusal."""
    parts = {
        "APIGroups": rule.groups,
        "Resources": rule.resources,
        "ResourceNames": rule.names,
        "NonResourceURLs": rule.paths,
        "Verbs": rule.verbs,
    }
    shown = (f"{name}:[{', '.join(_quoted(v) for v in value)}]" for name, value in parts.items() if value)
    return "{" + ", ".join(shown) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
