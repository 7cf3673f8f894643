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
NAME_WORDS = "lower-case letters, digits and '-', beginning and ending with a letter or digit, at most 63"
# `extra["words"]` says in words what a pattern wants; `extra["format"]` names a check of `specs.validate`.
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63, extra={"words": NAME_WORDS})]
Quantity = str | int  # as Kubernetes writes them: 512Mi, 2G, 1024; see specs.quantity


class Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The base of all objects' parts: frozen, by keyword, camelCase on the wire.

    A line `field: text` in the docstring of a part describes that field; `specs.schema` carries these
    texts into OpenAPI, where `kubectl explain` finds them.
    """


class ObjectMeta(Struct, frozen=True, kw_only=True):
    """The envelope of every object. Times are RFC 3339 in UTC.

    name: Unique among the objects of one kind in one namespace: a DNS label. It cannot be changed.
    namespace: Where the object lives; `default` when left out. Nodes have none.
    uid: Given by the server. The uid of a Domain is its libvirt UUID.
    generation: Counts the changes of spec.
    resource_version: The revision of the store; what it is compared with when a write must not be stale.
    creation_timestamp: When the object was created.
    deletion_timestamp: When its deletion was asked for; it goes when its finalizers are gone.
    deletion_grace_period_seconds: Always 0: domains have their own ladder, spec.shutdown.
    labels: Words to select by. Keys and values as on Kubernetes.
    annotations: Notes of tools and people, not selected by.
    finalizers: What must happen before the object goes.
    owner_references: Objects that this one belongs to.
    managed_fields: Who set which field, kept by the server.
    generate_name: A prefix to which the server adds a random ending.
    """

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
    """One aspect of an object's state, by kstatus rules (Ready, Reconciling, Stalled are always there).

    type: Ready, Reconciling, Stalled, or a further aspect.
    status: True, False or Unknown.
    reason: One word for programs.
    message: A sentence for people.
    last_transition_time: When status changed last.
    observed_generation: The generation of spec that this speaks of.
    """

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str | UnsetType = UNSET
    observed_generation: int | UnsetType = UNSET


def labels_of(meta: ObjectMeta) -> dict[str, str]:
    return {} if isinstance(meta.labels, UnsetType) else meta.labels
