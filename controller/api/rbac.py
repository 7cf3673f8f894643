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
from typing import Final

ADMIN_GROUPS: Final = frozenset({"domctl:admins", "system:masters"})
ALL: Final = "*"


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
_EVERYTHING: Final[Rules] = (
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
            return _EVERYTHING
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


def uncovered(wanted: Iterable[Rule], held: Rules) -> Rules:
    """What of `wanted`, taken apart into its smallest pieces, no single rule of `held` covers."""
    return tuple(
        dict.fromkeys(
            piece
            for rule in wanted
            for piece in _pieces(rule)
            if not any(_covers(own, piece) for own in held)
        )
    )


def _pieces(rule: Rule) -> Iterator[Rule]:
    for verb in rule.verbs:
        for path in rule.paths:
            yield Rule((verb,), paths=(path,))
        for group in rule.groups:
            for resource in rule.resources:
                for name in rule.names or (None,):
                    yield Rule((verb,), (group,), (resource,), () if name is None else (name,))


def _covers(own: Rule, piece: Rule) -> bool:
    """`piece` has one of each."""
    if not _has(own.verbs, piece.verbs[0]):
        return False
    if piece.paths:
        return any(_path_matches(path, piece.paths[0]) for path in own.paths)
    if not _has(own.groups, piece.groups[0]):
        return False
    resource = piece.resources[0]
    _, slash, subresource = resource.partition("/")
    if not _has(own.resources, resource) and not (slash and f"*/{subresource}" in own.resources):
        return False
    return not own.names or (bool(piece.names) and piece.names[0] in own.names)


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
