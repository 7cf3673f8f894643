"""How objects look in a terminal: meta.k8s.io Tables, for lists and for watches.

kubectl prints exactly these columns; priority 1 is shown with `-o wide` only. A cell never fails: what is
missing or odd is shown as `<none>` or `<unknown>`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.api.facade import nodes, pods, usage
from controller.api.resources import Resource
from specs.ages import age
from specs.secret import OPAQUE

Object = Mapping[str, Any]
NONE: Final = "<none>"
META: Final = "meta.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Column:
    """`cell` gets the object and the present instant."""

    name: str
    cell: Callable[[Object, datetime.datetime], Any]
    description: str
    type: str = "string"
    wide: bool = False
    format: str = ""


def _at(body: Object, *path: str) -> Any:
    value: Any = body
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(*path: str, missing: str = NONE) -> Callable[[Object, datetime.datetime], str]:
    def cell(body: Object, now: datetime.datetime) -> str:
        value = _at(body, *path)
        return missing if value is None or value == "" else str(value)

    return cell


def _of(word: Callable[[Object], str]) -> Callable[[Object, datetime.datetime], str]:
    """A cell that does not depend on the time."""
    return lambda body, now: word(body) or NONE


def _data(body: Object, now: datetime.datetime) -> str:
    found = [body.get(field) for field in ("data", "binaryData")]
    return str(sum(len(one) for one in found if isinstance(one, Mapping)))


def _name(body: Object, now: datetime.datetime) -> str:
    return str(_at(body, "metadata", "name"))


def _condition(body: Object, kind: str) -> Object:
    conditions = _at(body, "status", "conditions")
    for condition in conditions if isinstance(conditions, list) else []:
        if isinstance(condition, Mapping) and condition.get("type") == kind:
            return condition
    return {}


def _ready(body: Object, now: datetime.datetime) -> str:
    return str(_condition(body, "Ready").get("status", "Unknown"))


def _reason(body: Object, now: datetime.datetime) -> str:
    return str(_at(body, "status", "reason") or _condition(body, "Ready").get("reason") or NONE)


def _memory_bytes(*path: str) -> Callable[[Object, datetime.datetime], str]:
    def cell(body: Object, now: datetime.datetime) -> str:
        value = _at(body, *path)
        return f"{value // (1 << 20)}Mi" if isinstance(value, int) else NONE

    return cell


def _downtime(body: Object, now: datetime.datetime) -> str:
    found = _at(body, "status", "downtimeMilliseconds")
    return f"{found}ms" if isinstance(found, int) else NONE


def _age(body: Object, now: datetime.datetime) -> str:
    return age(_at(body, "metadata", "creationTimestamp"), now)


def _last_seen(body: Object, now: datetime.datetime) -> str:
    return age(body.get("lastTimestamp") or _at(body, "metadata", "creationTimestamp"), now)


def _involved(body: Object, now: datetime.datetime) -> str:
    kind, name = _at(body, "involvedObject", "kind"), _at(body, "involvedObject", "name")
    return f"{str(kind).lower()}/{name}" if kind else NONE


def _intent(body: Object, now: datetime.datetime) -> str:
    return str(_at(body, "status", "intent", "kind") or NONE)


def _object(body: Object, now: datetime.datetime) -> str:
    return f"{_at(body, 'status', 'namespace')}/{_at(body, 'status', 'name')}"


def _token_groups(body: Object, now: datetime.datetime) -> str:
    found = _at(body, "spec", "groups")
    return ",".join(map(str, found)) if isinstance(found, list) and found else NONE


def _role_of(body: Object, now: datetime.datetime) -> str:
    return f"{_at(body, 'roleRef', 'kind')}/{_at(body, 'roleRef', 'name')}"


def _subjects(kind: str) -> Callable[[Object, datetime.datetime], str]:
    def cell(body: Object, now: datetime.datetime) -> str:
        found = body.get("subjects")
        named = [s for s in found if s.get("kind") == kind] if isinstance(found, list) else []
        if kind == "ServiceAccount":
            return ", ".join(f"{s.get('namespace')}/{s.get('name')}" for s in named)
        return ", ".join(str(s.get("name")) for s in named)

    return cell


def _candidates(body: Object, now: datetime.datetime) -> str:
    found = _at(body, "status", "candidates")
    return ",".join(map(str, found)) if isinstance(found, Sequence) and found else NONE


NAME_COLUMN = Column("Name", _name, "Name within the namespace", format="name")
AGE_COLUMN = Column("Age", _age, "Time since creation")

_ROLE: Final = (
    NAME_COLUMN,
    Column("Created At", _text("metadata", "creationTimestamp"), "When it was created"),
)
_BINDING: Final = (
    NAME_COLUMN,
    Column("Role", _role_of, "The role that is given"),
    AGE_COLUMN,
    Column("Users", _subjects("User"), "Users it is given to", wide=True),
    Column("Groups", _subjects("Group"), "Groups it is given to", wide=True),
    Column("ServiceAccounts", _subjects("ServiceAccount"), "Service accounts it is given to", wide=True),
)

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "Domain": (
        NAME_COLUMN,
        Column("State", _text("status", "state", missing="Unknown"), "libvirt's state of the domain"),
        Column("Node", _text("status", "node"), "The node that it is assigned to"),
        Column("Ready", _ready, "Whether it is as its spec wants it"),
        Column("Reason", _reason, "Why it is as it is"),
        AGE_COLUMN,
        Column("VCPUs", _text("spec", "vcpus", missing="1"), "Virtual CPUs wanted", wide=True),
        Column("Memory", _text("spec", "memory"), "Memory wanted", wide=True),
        Column("UUID", _text("metadata", "uid"), "libvirt's UUID", wide=True),
    ),
    "Node": (
        NAME_COLUMN,
        Column("Ready", _ready, "Whether it answers and may be acted on"),
        Column("Reason", _reason, "Why it is as it is"),
        Column("URI", _text("spec", "uri"), "libvirt's URI"),
        Column("Domains", _text("status", "domains"), "Domains assigned to it"),
        AGE_COLUMN,
        Column("Libvirt", _text("status", "libvirtVersion"), "Version of libvirt", wide=True),
        Column("Hypervisor", _text("status", "hypervisorVersion"), "Version of the hypervisor", wide=True),
        Column("CPUs", _text("status", "cpus"), "Host CPUs", wide=True),
        Column("Memory", _memory_bytes("status", "memoryBytes"), "Host memory", wide=True),
    ),
    "Migration": (
        NAME_COLUMN,
        Column("Domain", _text("spec", "domain"), "The domain that is moved"),
        Column("Phase", _text("status", "phase", missing="Pending"), "How far it has come"),
        Column("Source", _text("status", "source"), "The node that it leaves"),
        Column("Target", _text("status", "target"), "The node that it moves to"),
        Column("Reason", _reason, "Why it is as it is"),
        AGE_COLUMN,
        Column("Downtime", _downtime, "How long the guest stood still", wide=True),
        Column("Copied", _memory_bytes("status", "bytes"), "What was copied", wide=True),
        Column("Attempts", _text("status", "attempts"), "How often it was tried", wide=True),
    ),
    "Event": (
        Column("Last Seen", _last_seen, "Time since it was last seen"),
        Column("Type", _text("type"), "Normal or Warning"),
        Column("Reason", _text("reason"), "A word for machines"),
        Column("Object", _involved, "What it is about"),
        Column("Message", _text("message"), "A sentence for people"),
        Column("Name", _name, "Name of the event", wide=True, format="name"),
    ),
    "Assignment": (
        NAME_COLUMN,
        Column("Object", _object, "The Domain"),
        Column("Node", _text("status", "node"), "The node it is promised to"),
        Column("Epoch", _text("status", "epoch"), "How often it was promised"),
        Column("Intent", _intent, "What is being done"),
        Column("Candidates", _candidates, "Every node that may hold it"),
    ),
    "Token": (
        NAME_COLUMN,
        Column("User", _text("spec", "user"), "Who its bearer is"),
        Column("Groups", _token_groups, "The groups its bearer is in"),
        Column("Expires", _text("spec", "expires"), "From when on it is refused"),
        AGE_COLUMN,
    ),
    "Role": _ROLE,
    "ClusterRole": _ROLE,
    "RoleBinding": _BINDING,
    "ClusterRoleBinding": _BINDING,
}
_USAGE: Final = (
    NAME_COLUMN,
    Column("CPU", _of(usage.cpu), "Processors used, in thousandths"),
    Column("Memory", _of(usage.memory), "Memory of the host used"),
    Column("Window", _text("window"), "How long it was measured"),
)
# Kinds of Kubernetes whose names domctl has too, or has not, with the columns that they have there.
_PICTURES: Final[Mapping[str, tuple[Column, ...]]] = {
    "nodes": (
        NAME_COLUMN,
        Column("Status", _of(nodes.condition_word), "Whether it answers, and takes new domains"),
        Column("Roles", _of(nodes.roles), "By its labels node-role.kubernetes.io/ROLE"),
        AGE_COLUMN,
        Column("Version", _text("status", "nodeInfo", "kubeletVersion"), "Version of libvirt"),
        Column("Hostname", _of(nodes.hostname), "The host's name for itself", wide=True),
        Column(
            "Container-Runtime",
            _text("status", "nodeInfo", "containerRuntimeVersion"),
            "The hypervisor and its version",
            wide=True,
        ),
    ),
    "pods": (
        NAME_COLUMN,
        Column("Ready", _of(pods.ready_word), "Whether the domain is as its spec wants it"),
        Column("Status", _of(pods.status_word), "libvirt's state of the domain"),
        Column("Restarts", _of(pods.restarts), "How often it was started again"),
        AGE_COLUMN,
        Column("Node", _text("spec", "nodeName"), "The node that it is on", wide=True),
    ),
    "nodes.metrics.k8s.io": _USAGE,
    "pods.metrics.k8s.io": _USAGE,
    "configmaps": (NAME_COLUMN, Column("Data", _data, "How many keys it has"), AGE_COLUMN),
    "secrets": (
        NAME_COLUMN,
        Column("Type", _text("type", missing=OPAQUE), "What it is for"),
        Column("Data", _data, "How many keys it has"),
        AGE_COLUMN,
    ),
    "namespaces": (
        NAME_COLUMN,
        Column("Status", _text("status", "phase"), "Active, or Terminating"),
        AGE_COLUMN,
    ),
}
_PLAIN: Final = (NAME_COLUMN, AGE_COLUMN)


def _columns(resource: Resource) -> tuple[Column, ...]:
    return _PICTURES.get(resource.qualified) or COLUMNS.get(resource.kind, _PLAIN)


def definitions(resource: Resource) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": 1 if column.wide else 0,
        }
        for column in _columns(resource)
    ]


def row(resource: Resource, body: Object, now: datetime.datetime, include: str) -> dict[str, Any]:
    """`include` is the request's includeObject: Metadata (default), Object or None."""
    cells = [column.cell(body, now) for column in _columns(resource)]
    if include == "None":
        return {"cells": cells}
    if include == "Object":
        return {"cells": cells, "object": body}
    return {"cells": cells, "object": partial(body)}


def partial(body: Object) -> dict[str, Any]:
    """Of an object, its metadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": body["metadata"]}


def table(columns: list[dict[str, Any]], rows: list[Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "Table",
        "apiVersion": META,
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    }
