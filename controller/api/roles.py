"""The roles that are there from the start, and who has them.

They are objects like any other, written to the store by each server that starts and does not find them, so
that they can be read, bound and, if need be, changed. A role that lacks a right which a newer domctl knows
gets it, unless its annotation `rbac.authorization.kubernetes.io/autoupdate` was set to "false", as on
Kubernetes; what was added by hand stays. The names that Kubernetes has too mean what they mean there.

What is root on a host is in none of `view`, `edit` and `admin`; see `controller.api.guard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controller.api.facade.usage import METRICS
from controller.api.rbac import ALL, Rule, uncovered
from controller.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Resource
from controller.objects import AlreadyExists, Body, Conflict, Objects
from specs.meta import GROUP
from specs.rights import RBAC_API_VERSION, RBAC_GROUP

AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")

_SEEN: Final = ("assignments", "domains", "domains/status", "migrations", "migrations/status", "nodes")
_VIEW: Final = (
    Rule(_READ, (GROUP,), (*_SEEN, "nodes/status")),
    Rule(("get",), (GROUP,), ("domains/log",)),
    Rule(("get",), ("",), ("pods/log",)),
    Rule(_READ, ("", GROUP), ("events",)),
    Rule(_READ, ("",), ("configmaps", "namespaces", "nodes", "pods")),
    Rule(("get", "list"), (METRICS,), ("nodes", "pods")),
)
_EDIT: Final = (
    *_VIEW,
    Rule(_WRITE, (GROUP,), ("domains", "migrations")),
    Rule(_WRITE, ("",), ("configmaps",)),
    Rule((*_READ, *_WRITE), ("",), ("secrets",)),
    Rule(("create",), ("",), ("pods/attach", "pods/eviction")),
    Rule(("create",), (GROUP,), ("domains/console",)),
)
_ADMIN: Final = (
    *_EDIT,
    Rule((*_READ, *_WRITE), (RBAC_GROUP,), ("rolebindings", "roles")),
    Rule(("create",), ("authorization.k8s.io",), ("localsubjectaccessreviews",)),
)
_DISCOVERY: Final = ("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/")
_HEALTH: Final = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_SELF: Final = ("selfsubjectaccessreviews", "selfsubjectrulesreviews")

ROLES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "cluster-admin": (Rule((ALL,), (ALL,), (ALL,)), Rule((ALL,), paths=(ALL,))),
    "admin": _ADMIN,
    "edit": _EDIT,
    "view": _VIEW,
    "domctl:operator": (
        *_VIEW,
        Rule(("create", "delete"), (GROUP,), ("nodes/confirmdead",)),
        Rule(("create",), (GROUP,), ("assignments/resolve", "domains/resolve", "storeacks")),
    ),
    "domctl:node-admin": (
        Rule((*_READ, *_WRITE), ("", GROUP), ("nodes",)),
        Rule(("use",), (GROUP,), ("nodes/allowedpaths", "nodes/uri")),
    ),
    "system:basic-user": (
        Rule(("create",), ("authorization.k8s.io",), _SELF),
        Rule(("create",), ("authentication.k8s.io",), ("selfsubjectreviews",)),
    ),
    "system:discovery": (Rule(("get",), paths=(*_DISCOVERY, *_HEALTH)),),
    "system:monitoring": (Rule(("get",), paths=("/metrics", *_HEALTH)),),
}
BOUND: Final[Mapping[str, tuple[str, ...]]] = {
    "cluster-admin": ("domctl:admins", "system:masters"),
    "system:basic-user": ("system:authenticated",),
    "system:discovery": ("system:authenticated",),
    "system:monitoring": ("system:monitoring",),
}


async def ensure(objects: Objects) -> None:
    """See to it that they are there. Raises the store's errors."""
    standing = {o.name: o for o in (await objects.list(CLUSTER_ROLES)).items}
    for name, rules in ROLES.items():
        found = standing.get(name)
        if found is None:
            await _create(objects, CLUSTER_ROLES, name, {"rules": [rule_body(rule) for rule in rules]})
            continue
        body = found.body
        added = [rule_body(rule) for rule in rules if uncovered([rule], rules_in(body))]
        annotations = body["metadata"].get("annotations") or {}
        if added and annotations.get(AUTOUPDATE) == "true" and not found.terminating:
            try:
                await objects.replace(CLUSTER_ROLES, found, {**body, "rules": [*body["rules"], *added]})
            except Conflict:
                continue  # another server has just done it, or somebody changes it by hand
    bound = {o.name for o in (await objects.list(CLUSTER_ROLE_BINDINGS)).items}
    for name in BOUND.keys() - bound:
        await _create(objects, CLUSTER_ROLE_BINDINGS, name, _binding(name))


async def _create(objects: Objects, resource: Resource, name: str, parts: Body) -> None:
    metadata = {"name": name, "labels": _LABELS, "annotations": {AUTOUPDATE: "true"}}
    head = {"apiVersion": RBAC_API_VERSION, "kind": resource.kind, "metadata": metadata}
    try:
        await objects.create(resource, {**head, **parts})
    except AlreadyExists:
        return  # by another server that starts, or it is there and cannot be read: then it stays (I11)


def _binding(name: str) -> Body:
    subjects = [{"kind": "Group", "apiGroup": RBAC_GROUP, "name": group} for group in BOUND[name]]
    return {"subjects": subjects, "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": name}}


_FIELDS: Final = {
    "verbs": "verbs",
    "groups": "apiGroups",
    "resources": "resources",
    "names": "resourceNames",
    "paths": "nonResourceURLs",
}


def rule_body(rule: Rule) -> Body:
    """As it stands in a role."""
    return {field: list(values) for name, field in _FIELDS.items() if (values := getattr(rule, name))}


def rules_in(body: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a Role or ClusterRole that was admitted."""
    return tuple(
        Rule(**{name: tuple(rule.get(field) or ()) for name, field in _FIELDS.items()})
        for rule in body.get("rules") or ()
    )
