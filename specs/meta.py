"""What every object has: Kubernetes' envelope, conditions and names, as typed, frozen data.

Objects are `msgspec` structs. A field that a user may leave out is `T | UnsetType`: left out means
left out, and nothing is ever defaulted into a user's `spec`; functions named `effective_*` in the kinds'
modules say what is meant then. Stored as JSON; `resourceVersion` is never stored, it is the store's
revision. Deliberately not here: what any kind means.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

GROUP: Final = "domctl.io"
VERSION: Final = "v1"
API_VERSION: Final = "domctl.io/v1"
FINALIZER: Final = "domctl.io/undefine"

# A DNS label: it becomes a libvirt name, a metric label and a path on hosts, so nothing else may pass (I19).
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Quantity = str | int  # as Kubernetes writes them: 512Mi, 2G, 1024; see specs.quantity


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of all objects' parts: frozen, by keyword, camelCase on the wire."""


class ObjectMeta(Struct, frozen=True, kw_only=True):
    """metadata. `uid` of a Domain is its libvirt UUID. Times are RFC 3339 in UTC."""

    name: str
    namespace: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    generation: int | UnsetType = UNSET
    resource_version: str | UnsetType = UNSET
    creation_timestamp: str | UnsetType = UNSET
    deletion_timestamp: str | UnsetType = UNSET
    deletion_grace_period_seconds: int | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET
    finalizers: list[str] | UnsetType = UNSET
    owner_references: list[dict[str, Any]] | UnsetType = UNSET
    managed_fields: list[dict[str, Any]] | UnsetType = UNSET
    generate_name: str | UnsetType = UNSET


class Condition(Struct, frozen=True, kw_only=True):
    """One aspect of an object's state, by kstatus rules (Ready, Reconciling, Stalled are always there)."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str | UnsetType = UNSET
    observed_generation: int | UnsetType = UNSET


def labels_of(meta: ObjectMeta) -> dict[str, str]:
    return {} if isinstance(meta.labels, UnsetType) else meta.labels
