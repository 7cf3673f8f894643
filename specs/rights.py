"""Who may do what: the kinds of rbac.authorization.k8s.io/v1, and domctl's own Token.

The RBAC kinds have the fields and the rules of Kubernetes, so that its YAML can be used here unchanged; what
they mean is in `controller.api.rbac`. One difference: what a user left out is not filled in (a subject
without `apiGroup` means what Kubernetes would have written there).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from specs.meta import ObjectMeta, Struct
from specs.walker import Report

RBAC_GROUP: Final = "rbac.authorization.k8s.io"
RBAC_API_VERSION: Final = "rbac.authorization.k8s.io/v1"
_MAX: Final = 1000
_SELECTORS: Final = 50
_REQUIRED: Final = "FieldValueRequired"
_WORDS = Annotated[list[str], Meta(max_length=_MAX)]


class PolicyRule(Struct, frozen=True, kw_only=True):
    """Some verbs on some resources, or on some paths that are no resources.

    verbs: get, list, watch, create, update, patch, delete, use, impersonate, bind, escalate; * is all.
    api_groups: Groups of the resources; "" is the core group, * all.
    resources: Plurals, or plural/subresource; * is all of them, */scale that subresource of all.
    resource_names: When given, only objects of these names.
    nonResourceURLs: Paths such as /metrics; a * at the end stands for any rest. In a ClusterRole only.
    """

    verbs: Annotated[list[str], Meta(min_length=1, max_length=_MAX)]
    api_groups: _WORDS | UnsetType = UNSET
    resources: _WORDS | UnsetType = UNSET
    resource_names: _WORDS | UnsetType = UNSET
    non_resource_urls: _WORDS | UnsetType = msgspec.field(name="nonResourceURLs", default=UNSET)


class Role(Struct, frozen=True, kw_only=True):
    """Rights in one namespace, which a RoleBinding grants.

    api_version: rbac.authorization.k8s.io/v1.
    kind: Role.
    metadata: Name, namespace, labels and so on.
    rules: What it allows; nothing is ever denied by a rule.
    """

    api_version: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["Role"]
    metadata: ObjectMeta
    rules: Annotated[list[PolicyRule], Meta(max_length=_MAX)] | UnsetType = UNSET


class LabelSelectorRequirement(Struct, frozen=True, kw_only=True):
    """One condition on labels.

    key: The label.
    operator: In or NotIn (of the values), Exists or DoesNotExist.
    values: What the label may, or may not, be.
    """

    key: Annotated[str, Meta(min_length=1, max_length=317)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: _WORDS | UnsetType = UNSET


class LabelSelector(Struct, frozen=True, kw_only=True):
    """Chooses by labels, of which all that is said must hold; all objects, if nothing is said.

    match_labels: Labels with their values.
    match_expressions: Conditions.
    """

    match_labels: dict[str, str] | UnsetType = UNSET
    match_expressions: Annotated[list[LabelSelectorRequirement], Meta(max_length=_SELECTORS)] | UnsetType = (
        UNSET
    )


class AggregationRule(Struct, frozen=True, kw_only=True):
    """Of which others a ClusterRole is made.

    cluster_role_selectors: All that any of these chooses.
    """

    cluster_role_selectors: Annotated[list[LabelSelector], Meta(min_length=1, max_length=_SELECTORS)]


class ClusterRole(Struct, frozen=True, kw_only=True):
    """Rights that a ClusterRoleBinding grants everywhere, or a RoleBinding in its namespace.

    api_version: rbac.authorization.k8s.io/v1.
    kind: ClusterRole.
    metadata: Name, namespace, labels and so on.
    rules: What it allows; nothing is ever denied by a rule.
    aggregation_rule: Of which other ClusterRoles it is made: their rules are written over its own.
    """

    api_version: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["ClusterRole"]
    metadata: ObjectMeta
    rules: Annotated[list[PolicyRule], Meta(max_length=_MAX)] | UnsetType = UNSET
    aggregation_rule: AggregationRule | UnsetType = UNSET


class Subject(Struct, frozen=True, kw_only=True):
    """One to whom a role is given.

    kind: User, Group, or ServiceAccount.
    api_group: rbac.authorization.k8s.io for users and groups, nothing for service accounts.
    name: A user is the CN of a certificate or the user of a Token; a group is an O, or a group of a Token.
    namespace: Of a service account.
    """

    kind: Literal["User", "Group", "ServiceAccount"]
    api_group: str | UnsetType = UNSET
    name: Annotated[str, Meta(min_length=1, max_length=253)]
    namespace: str | UnsetType = UNSET


class RoleRef(Struct, frozen=True, kw_only=True):
    """The role that is given. It cannot be changed: write another binding.

    api_group: rbac.authorization.k8s.io.
    kind: Role or ClusterRole.
    name: Its name.
    """

    api_group: str | UnsetType = UNSET
    kind: Literal["Role", "ClusterRole"]
    name: Annotated[str, Meta(min_length=1, max_length=253)]


class RoleBinding(Struct, frozen=True, kw_only=True):
    """Gives a role to users and groups, in its own namespace.

    api_version: rbac.authorization.k8s.io/v1.
    kind: RoleBinding.
    metadata: Name, namespace, labels and so on.
    subjects: To whom.
    role_ref: Which role: a Role of this namespace or a ClusterRole.
    """

    api_version: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["RoleBinding"]
    metadata: ObjectMeta
    subjects: Annotated[list[Subject], Meta(max_length=_MAX)] | UnsetType = UNSET
    role_ref: RoleRef


class ClusterRoleBinding(Struct, frozen=True, kw_only=True):
    """Gives a ClusterRole to users and groups, everywhere.

    api_version: rbac.authorization.k8s.io/v1.
    kind: ClusterRoleBinding.
    metadata: Name, namespace, labels and so on.
    subjects: To whom.
    role_ref: Which ClusterRole.
    """

    api_version: Literal["rbac.authorization.k8s.io/v1"]
    kind: Literal["ClusterRoleBinding"]
    metadata: ObjectMeta
    subjects: Annotated[list[Subject], Meta(max_length=_MAX)] | UnsetType = UNSET
    role_ref: RoleRef


def check_rights(value: Mapping[str, Any], report: Report) -> None:
    """What fields of the RBAC kinds mean together, by Kubernetes' rules."""
    rules = value.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, Mapping):
            _check_rule(rule, value.get("kind") == "Role", index, report)
    aggregation = value.get("aggregationRule")
    if isinstance(aggregation, Mapping):
        _check_selectors(aggregation.get("clusterRoleSelectors"), report)
    reference = value.get("roleRef")
    if isinstance(reference, Mapping):
        if reference.get("apiGroup") not in (None, "", RBAC_GROUP):
            report.add(("roleRef", "apiGroup"), f"must be {RBAC_GROUP}", "FieldValueNotSupported")
        if value.get("kind") == "ClusterRoleBinding" and reference.get("kind") == "Role":
            report.add(("roleRef", "kind"), "must be ClusterRole", "FieldValueNotSupported")
    subjects = value.get("subjects")
    for index, subject in enumerate(subjects if isinstance(subjects, list) else ()):
        if isinstance(subject, Mapping):
            _check_subject(subject, index, report)


def _check_selectors(selectors: Any, report: Report) -> None:
    for index, selector in enumerate(selectors if isinstance(selectors, list) else ()):
        conditions = selector.get("matchExpressions") if isinstance(selector, Mapping) else None
        for number, one in enumerate(conditions if isinstance(conditions, list) else ()):
            keys = ("aggregationRule", "clusterRoleSelectors", index, "matchExpressions", number, "values")
            if not isinstance(one, Mapping):
                continue
            if one.get("operator") in ("In", "NotIn") and not one.get("values"):
                report.add(keys, "must be specified when operator is In or NotIn", _REQUIRED)
            if one.get("operator") in ("Exists", "DoesNotExist") and one.get("values"):
                message = "may not be specified when operator is Exists or DoesNotExist"
                report.add(keys, message, "FieldValueForbidden")


def _check_rule(rule: Mapping[str, Any], namespaced: bool, index: int, report: Report) -> None:
    keys = ("rules", index)
    if rule.get("nonResourceURLs"):
        where = (*keys, "nonResourceURLs")
        if namespaced:
            report.add(where, "namespaced rules cannot apply to non-resource URLs")
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            report.add(where, "rules cannot apply to both regular resources and non-resource URLs")
        return
    if not rule.get("apiGroups"):
        report.add((*keys, "apiGroups"), "resource rules must supply at least one api group", _REQUIRED)
    if not rule.get("resources"):
        report.add((*keys, "resources"), "resource rules must supply at least one resource", _REQUIRED)


def _check_subject(subject: Mapping[str, Any], index: int, report: Report) -> None:
    keys = ("subjects", index)
    account = subject.get("kind") == "ServiceAccount"
    groups = (None, "") if account else (None, "", RBAC_GROUP)
    if subject.get("apiGroup") not in groups:
        message = "must be empty for a service account" if account else f"must be {RBAC_GROUP}"
        report.add((*keys, "apiGroup"), message, "FieldValueNotSupported")
    if account and not subject.get("namespace"):
        report.add((*keys, "namespace"), "is required for a service account", _REQUIRED)
