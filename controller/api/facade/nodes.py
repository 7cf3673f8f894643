"""v1 Node: a picture of a Node of domctl.io, for `kubectl get nodes`, describe, label, taint and cordon.

    metadata.labels, annotations    both ways
    spec.unschedulable, taints      both ways
    status.capacity, nodeInfo, …    from our status: what the host said last
    status.allocatable              capacity with overcommit, less what is reserved
    status.conditions               ours

`pictured` makes it; `taken` puts what may be written through it back into our Node, and refuses the rest: a
client that believes to have changed something must not be left in that belief. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from controller.api.errors import Cause
from controller.objects import Body, StoredObject

DESCRIPTION: Final = (
    "A libvirt host as Kubernetes shows nodes: a picture of a Node of domctl.io/v1. Labels, annotations, "
    "spec.taints and spec.unschedulable can be changed here, all else in the Node of domctl.io/v1."
)
CREATE: Final = (
    "create a Node of domctl.io/v1 instead: it needs spec.uri, by which libvirt's daemon is reached "
    "(kubectl explain nodes.domctl.io)"
)
_ROLE: Final = "node-role.kubernetes.io/"
_WRITABLE_METADATA: Final = ("labels", "annotations")
_WRITABLE_SPEC: Final = ("unschedulable", "taints")


def pictured(stored: StoredObject) -> StoredObject:
    ours = stored.body
    spec, status = ours.get("spec") or {}, ours.get("status") or {}
    metadata = {k: v for k, v in ours["metadata"].items() if k not in {"finalizers", "managedFields"}}
    body: Body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {field: spec[field] for field in _WRITABLE_SPEC if field in spec},
        "status": {
            "capacity": _amounts(status.get("cpus"), status.get("memoryBytes")),
            "allocatable": _amounts(*_promised(status)),
            "conditions": [_condition(one) for one in conditions_of(status)],
            "addresses": _addresses(status),
            "nodeInfo": _info(status),
        },
    }
    return replace(stored, body=body)


def taken(ours: Body, seen: Body, wanted: Body) -> tuple[Body, list[Cause]]:
    """Our Node with what `wanted` changes of its picture `seen`, and what cannot be changed by way of it."""
    metadata, spec = dict(ours["metadata"]), dict(ours.get("spec") or {})
    if not isinstance(wanted.get("spec") or {}, dict):
        return ours, [Cause("spec", "must be an object", "FieldValueTypeInvalid")]
    for part, before, after, writable in (
        (metadata, seen["metadata"], wanted["metadata"], _WRITABLE_METADATA),
        (spec, seen["spec"], wanted.get("spec") or {}, _WRITABLE_SPEC),
    ):
        for field in writable:
            if after.get(field) == before.get(field):
                continue
            if after.get(field) in (None, [], {}):
                part.pop(field, None)
            else:
                part[field] = after[field]
    causes = [
        Cause(f"spec.{field}", "is a picture only: change the Node of domctl.io/v1", "FieldValueForbidden")
        for field in _changed(seen["spec"], wanted.get("spec") or {})
        if field not in _WRITABLE_SPEC
    ]
    return {**ours, "metadata": metadata, "spec": spec}, causes


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [field for field in {**before, **after} if before.get(field) != after.get(field)]


def _promised(status: Mapping[str, Any]) -> tuple[Any, Any]:
    found = status.get("allocatable")
    return (found.get("vcpus"), found.get("memoryBytes")) if isinstance(found, dict) else (None, None)


def _amounts(cpus: object, memory_bytes: object) -> Body:
    found = {"cpu": cpus, "memory": memory_bytes}
    return {name: str(value) for name, value in found.items() if isinstance(value, int)}


def conditions_of(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What stands in a store need not be what it should: pictures leave out what cannot be read."""
    found = status.get("conditions")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _condition(ours: Mapping[str, Any]) -> Body:
    """`lastHeartbeatTime` is left out: domctl does not note when it heard of a host last."""
    fields = ("type", "status", "reason", "message", "lastTransitionTime")
    return {field: ours[field] for field in fields if field in ours}


def _addresses(status: Mapping[str, Any]) -> list[Body]:
    hostname = status.get("hostname")
    return [{"type": "Hostname", "address": hostname}] if hostname else []


def _info(status: Mapping[str, Any]) -> Body:
    """Clients want all of its fields to be there; what libvirt does not tell is empty."""
    libvirt, driver = status.get("libvirtVersion"), status.get("driver")
    runtime = f"{driver}://{status.get('hypervisorVersion', '')}" if driver else ""
    return {
        "machineID": "",
        "systemUUID": status.get("hostUuid", ""),
        "bootID": "",
        "kernelVersion": "",
        "osImage": "",
        "containerRuntimeVersion": runtime,
        "kubeletVersion": f"libvirt-{libvirt}" if libvirt else "",
        "kubeProxyVersion": "",
        "operatingSystem": "",
        "architecture": status.get("arch", ""),
    }


def condition_word(body: Mapping[str, Any]) -> str:
    """As kubectl has it: Ready, NotReady or Unknown, and whether it takes new domains."""
    conditions = body["status"]["conditions"]
    ready = next((c.get("status") for c in conditions if c.get("type") == "Ready"), "Unknown")
    word = {"True": "Ready", "False": "NotReady"}.get(str(ready), "Unknown")
    return f"{word},SchedulingDisabled" if body["spec"].get("unschedulable") is True else word


def roles(body: Mapping[str, Any]) -> str:
    labels = body["metadata"].get("labels") or {}
    return ",".join(sorted(label.removeprefix(_ROLE) for label in labels if label.startswith(_ROLE)))


def hostname(body: Mapping[str, Any]) -> str:
    return next((str(one["address"]) for one in body["status"]["addresses"]), "")
