"""What the API serves: one table of resources, from which paths, discovery, OpenAPI and tables follow.

All verbs are generic over this table; a kind is an entry of `specs.kinds` and, if it should look well in a
terminal, of `COLUMNS` in `controller.api.tables`. Events and assignments are the controller's own records,
served read-only through the same machinery. Pictures of Kubernetes' own kinds (`controller.api.facade`) are
read through it too, and written where they say how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from controller import keys
from controller.api.errors import Cause
from controller.api.facade import namespaces, nodes, pods, usage
from controller.api.facade.usage import METRICS, METRICS_VERSION
from controller.model import Assignment
from controller.objects import Body, StoredObject, parse
from drivers.store import KeyValue
from specs import secret
from specs.core import CORE_API_VERSION
from specs.kinds import KINDS, Kind
from specs.meta import API_VERSION, GROUP, VERSION
from specs.rights import RBAC_GROUP

READ: Final = ("get", "list", "watch")
WRITE: Final = ("create", "update", "patch", "delete", "deletecollection")
Path = tuple[str, ...]
SCALE_GROUP: Final = "autoscaling"
SCALE_KIND: Final = "Scale"

_METADATA_FIELDS: Final[Mapping[str, Path]] = {
    "metadata.name": ("metadata", "name"),
    "metadata.namespace": ("metadata", "namespace"),
}
_EVENT_FIELDS: Final[Mapping[str, Path]] = {
    **{
        f"involvedObject.{f}": ("involvedObject", f)
        for f in ("kind", "name", "namespace", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    **{f: (f,) for f in ("reason", "type", "reportingComponent")},
}


def _all(stored: StoredObject) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Scale:
    """Where in an object stands how many are wanted, how many there are, and what selects them (as text)."""

    wanted: Path
    found: Path
    selector: Path


@dataclass(frozen=True, slots=True)
class Resource:
    """One served collection. `kind`, `plural` and `namespaced` make it a Kind for `controller.objects`;
    `prefix` is where it stands in the store, `api_version` how it is shown. `fields` maps what a field
    selector may name to its path. `group` "" is the core group. For `path_name` and `put_creates` see
    `specs.kinds`.

    `pictured` makes of an object as it stands what is shown of it, where that is not the same. `source` is
    the resource whose objects these are pictures of, and `taken` makes its object of (that object, its
    picture, the picture as it is wanted), with what cannot be wanted. `refusals` say for a verb that is not
    served what to do instead. `shows` is whether there is a picture at all, and `key_name` the name of the
    object that a picture's name leads to. `actions` are subresources that are only ever posted to, each with
    the group and kind of what is posted. `entered` is what a client's words become before anything is made of
    them, and `completed` what an object becomes before it is admitted. `streams` are those of consoles,
    with their kind and verbs."""

    group: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    prefix: str
    api_version: str = API_VERSION
    verbs: tuple[str, ...] = READ
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    has_status: bool = False
    fields: Mapping[str, Path] = field(default_factory=lambda: _METADATA_FIELDS)
    struct: type[msgspec.Struct] | None = None
    decode: Callable[[Resource, KeyValue], StoredObject] = parse
    path_name: bool = False
    put_creates: bool = False
    scale: Scale | None = None
    pictured: Callable[[StoredObject], StoredObject] = lambda stored: stored
    source: Resource | None = None
    taken: Callable[[Body, Body, Body], tuple[Body, list[Cause]]] = lambda ours, seen, wanted: (wanted, [])
    refusals: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    shows: Callable[[StoredObject], bool] = _all
    key_name: Callable[[str], str] = lambda name: name
    actions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    entered: Callable[[Body], Body] = lambda body: body
    completed: Callable[[Body], Body] = lambda body: body
    streams: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def subresources(self) -> tuple[str, ...]:
        return (*(("status",) if self.has_status else ()), *(("scale",) if self.scale is not None else ()))

    @property
    def stored(self) -> Resource:
        """Whose objects stand in the store."""
        return self.source or self

    @property
    def shows_all(self) -> bool:
        """Whether there are as many to be seen as there are keys."""
        return self.shows is _all

    def read(self, kv: KeyValue) -> StoredObject:
        """A value of the store as it is shown; never fails."""
        found = self.decode(self, kv)
        return found if found.problem else self.pictured(found)

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def scope(self, namespace: str) -> str:
        """The prefix of all keys in `namespace`, or of all."""
        return f"{self.prefix}{namespace}/" if self.namespaced and namespace else self.prefix

    def key(self, namespace: str, name: str) -> str:
        return self.scope(namespace) + self.key_name(name)


def _assignment(resource: Resource, kv: KeyValue) -> StoredObject:
    """An assignment as an object. Its `config` (the domain's XML) is not shown: it may hold passwords."""
    uuid = kv.key.removeprefix(resource.prefix)
    metadata: Body = {"name": uuid, "uid": uuid, "resourceVersion": str(kv.mod_revision)}
    body: Body = {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata}
    try:
        record = msgspec.to_builtins(msgspec.json.decode(kv.value, type=Assignment))
    except msgspec.DecodeError as error:
        problem = f"not an assignment: {error}"
        return StoredObject(kv.key, "", uuid, kv.mod_revision, kv.create_revision, body, problem)
    record.pop("config", None)
    return StoredObject(
        kv.key, "", uuid, kv.mod_revision, kv.create_revision, {**body, "status": _camel(record)}
    )


def _camel(record: Mapping[str, Any]) -> Body:
    def renamed(key: str) -> str:
        first, *rest = key.split("_")
        return first + "".join(part.capitalize() for part in rest)

    return {renamed(key): value for key, value in record.items()}


_MORE_FIELDS: Final[Mapping[str, Mapping[str, Path]]] = {
    "Domain": {"status.node": ("status", "node"), "status.phase": ("status", "phase")},
    "Namespace": {"status.phase": ("status", "phase")},
    "Secret": {"type": ("type",)},
}
_STREAMS: Final[Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]]] = {
    "Domain": {"console": ("Domain", ("create", "get")), "log": ("Domain", ("get",))}
}
_VERBS: Final = {"Namespace": (*READ, *(verb for verb in WRITE if verb != "deletecollection"))}
_PICTURED: Final[Mapping[str, Callable[[StoredObject], StoredObject]]] = {"Namespace": namespaces.pictured}
_ENTERED: Final[Mapping[str, Callable[[Body], Body]]] = {"Secret": secret.without_string_data}
_COMPLETED: Final[Mapping[str, Callable[[Body], Body]]] = {"Secret": secret.completed}


def _of(kind: Kind) -> Resource:
    return Resource(
        kind.group,
        kind.kind,
        kind.plural,
        kind.singular,
        kind.namespaced,
        keys.object_prefix(kind.plural),
        api_version=kind.api_version,
        verbs=_VERBS.get(kind.kind, READ + WRITE),
        short_names=kind.short_names,
        categories=kind.categories,
        has_status=kind.has_status,
        path_name=kind.path_name,
        put_creates=kind.put_creates,
        fields={**_METADATA_FIELDS, **_MORE_FIELDS.get(kind.kind, {})},
        struct=kind.struct,
        pictured=_PICTURED.get(kind.kind, lambda stored: stored),
        entered=_ENTERED.get(kind.kind, lambda body: body),
        completed=_COMPLETED.get(kind.kind, lambda body: body),
        streams=_STREAMS.get(kind.kind, {}),
    )


EVENTS: Final = Resource(
    GROUP,
    "Event",
    "events",
    "event",
    True,
    keys.object_prefix("events"),
    fields={**_METADATA_FIELDS, **_EVENT_FIELDS},
)
CORE_EVENTS: Final = Resource(
    "",
    "Event",
    "events",
    "event",
    True,
    keys.object_prefix("events"),
    api_version="v1",
    verbs=(*READ, "create", "patch"),
    short_names=("ev",),
    fields={**_METADATA_FIELDS, **_EVENT_FIELDS},
)
ASSIGNMENTS: Final = Resource(
    GROUP,
    "Assignment",
    "assignments",
    "assignment",
    False,
    keys.ASSIGNMENTS,
    decode=_assignment,
    description="What the controller promised of one domain, whose uid is its name: on which node it is, in "
    "which epoch, and what is under way. The controller alone writes it; it outlives its Domain until that "
    "is proved absent everywhere.",
)


_VERSIONS: Final = {METRICS: METRICS_VERSION}  # of groups that have another than ours


def version_of(group: str) -> str:
    return _VERSIONS.get(group, VERSION)


def group_version(group: str) -> str:
    return f"{group}/{version_of(group)}" if group else VERSION


@dataclass(frozen=True, slots=True)
class Question:
    """What can be posted, and is answered or noted, but is never kept as an object of its own."""

    group: str
    kind: str
    namespaced: bool = False
    plural: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "plural", self.plural or f"{self.kind.lower()}s")

    @property
    def api_version(self) -> str:
        return group_version(self.group)


POLICY: Final = "policy"  # of Eviction; kubectl 1.20 evicts only where there is such a group
AUTHORIZATION: Final = "authorization.k8s.io"
AUTHENTICATION: Final = "authentication.k8s.io"
QUESTIONS: Final = (
    Question(GROUP, "Decision", plural="storeacks"),
    Question(AUTHORIZATION, "SelfSubjectAccessReview"),
    Question(AUTHORIZATION, "SelfSubjectRulesReview"),
    Question(AUTHORIZATION, "SubjectAccessReview"),
    Question(AUTHORIZATION, "LocalSubjectAccessReview", namespaced=True),
    Question(AUTHENTICATION, "SelfSubjectReview"),
    Question(AUTHENTICATION, "TokenReview"),
)

_STORED: Final = (*(_of(kind) for kind in KINDS), EVENTS, ASSIGNMENTS, CORE_EVENTS)
NODES: Final = next(r for r in _STORED if (r.group, r.plural) == (GROUP, "nodes"))
CORE_NODES: Final = Resource(
    "",
    "Node",
    "nodes",
    "node",
    False,
    NODES.prefix,
    api_version=CORE_API_VERSION,
    verbs=(*READ, "update", "patch", "delete"),
    short_names=("no",),
    pictured=nodes.pictured,
    source=NODES,
    taken=nodes.taken,
    refusals={"create": nodes.CREATE},
    description=nodes.DESCRIPTION,
)
DOMAINS: Final = next(r for r in _STORED if (r.group, r.plural) == (GROUP, "domains"))
PODS: Final = Resource(
    "",
    "Pod",
    "pods",
    "pod",
    True,
    DOMAINS.prefix,
    api_version=CORE_API_VERSION,
    short_names=("po",),
    fields={**_METADATA_FIELDS, "spec.nodeName": ("spec", "nodeName"), "status.phase": ("status", "phase")},
    decode=lambda resource, kv: parse(DOMAINS, kv),
    pictured=pods.pictured,
    source=DOMAINS,
    shows=pods.is_there,
    key_name=pods.domain_of,
    refusals=pods.REFUSALS,
    description=pods.DESCRIPTION,
    actions={"eviction": (POLICY, "Eviction")},
    streams={"attach": ("PodAttachOptions", ("create", "get")), "log": ("Pod", ("get",))},
)
# Pictures of Nodes and Domains, too; `controller.api.facade.top` has the figures to make them with.
NODE_METRICS: Final = replace(
    CORE_NODES,
    group=METRICS,
    kind=usage.NODE_KIND,
    singular=usage.NODE_KIND.lower(),
    api_version=group_version(METRICS),
    verbs=("get", "list"),
    short_names=(),
    refusals={},
    decode=lambda resource, kv: parse(NODES, kv),
    pictured=lambda stored: usage.of_node(stored, None),
    shows=usage.is_known,
    description=usage.OF_NODES,
)
POD_METRICS: Final = replace(
    PODS,
    group=METRICS,
    kind=usage.POD_KIND,
    singular=usage.POD_KIND.lower(),
    api_version=group_version(METRICS),
    verbs=("get", "list"),
    short_names=(),
    fields=_METADATA_FIELDS,
    refusals={},
    actions={},
    streams={},
    pictured=lambda stored: usage.of_pod(stored, None),
    shows=usage.is_known,
    description=usage.OF_PODS,
)
RESOURCES: Final = (*_STORED, CORE_NODES, PODS, NODE_METRICS, POD_METRICS)
BY_PATH: Final = {(r.group, r.plural): r for r in RESOURCES}
GROUPS: Final = (GROUP, RBAC_GROUP, AUTHORIZATION, AUTHENTICATION, POLICY, METRICS)  # but the core group
NAMESPACES: Final = BY_PATH["", "namespaces"]
MIGRATIONS: Final = BY_PATH[GROUP, "migrations"]
ROLES: Final = BY_PATH[RBAC_GROUP, "roles"]
CLUSTER_ROLES: Final = BY_PATH[RBAC_GROUP, "clusterroles"]
ROLE_BINDINGS: Final = BY_PATH[RBAC_GROUP, "rolebindings"]
CLUSTER_ROLE_BINDINGS: Final = BY_PATH[RBAC_GROUP, "clusterrolebindings"]
TOKENS: Final = BY_PATH[GROUP, "tokens"]
