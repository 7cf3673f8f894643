"""v1 Pod: a read-only picture of each domain that is active, for `kubectl get pods`, describe and drain.

One pod is one domain on one node, as KubeVirt's launcher pods are: its name is the domain's with an ending
made of the domain's uid and the node, and so is its uid. When the domain moves, that pod is gone and another
is there, by which `kubectl drain` sees that it left. A domain whose node does not answer keeps its pod, with
phase Unknown: unknown is not absent. A domain that is off, or was never placed, has none. Its one container
is the domain; where several consoles are recorded, each is one and has its name: by containers clients name
what they look at and type on.

Its owner is the Domain, which is the one to create, change and delete. Only eviction acts, see
`controller.api.facade.evictions`. Pure.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from controller.api.facade.nodes import conditions_of
from controller.objects import Body, StoredObject
from specs.consoles import recorded_in
from specs.meta import API_VERSION

DESCRIPTION: Final = (
    "A domain that is active, as Kubernetes shows pods: a picture of a Domain of domctl.io/v1, which nothing "
    "but an eviction can be asked of. Its name has an ending for the node that it is on."
)
_DOMAIN: Final = "change the Domain of domctl.io/v1 that owns it instead"
REFUSALS: Final[Mapping[str, str]] = {
    "create": "create a Domain of domctl.io/v1 instead: a pod is only the picture of one that runs",
    "update": f"a pod is only the picture of a domain: {_DOMAIN}",
    "patch": f"a pod is only the picture of a domain: {_DOMAIN}",
    "delete": (
        "a pod is only the picture of a domain: to move the domain to another node, evict the pod (kubectl "
        "drain, without --disable-eviction) or create a Migration; to stop it, set spec.state of its Domain "
        "to shutoff; to end it, delete its Domain"
    ),
    "deletecollection": "pods are only pictures of domains: stop or delete their Domains instead",
}
_NOWHERE: Final = frozenset({"", "absent", "shutoff"})  # states in which no node is known to run it
_ENDING: Final = 5
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
CONTAINER: Final = "domain"  # of a pod with one
_UNKNOWN: Final = "unknown"


def domain_of(pod: str) -> str:
    """The name of the Domain that a pod of this name would be of."""
    return pod.rpartition("-")[0] or pod


def is_there(stored: StoredObject) -> bool:
    """Whether a picture is of a domain that is active, or may be."""
    return bool(stored.body["status"]["phase"] != "Succeeded")


def pictured(stored: StoredObject) -> StoredObject:
    domain = stored.body
    spec, status = domain.get("spec") or {}, domain.get("status") or {}
    node, uid = str(status.get("node") or ""), stored.uid
    name = f"{stored.name}-{_ending(uid, node)}"
    body: Body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(domain["metadata"], name, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{uid}/{node}"))),
        "spec": _spec(spec, node),
        "status": _status(spec, status, node),
    }
    return replace(stored, name=name, body=body)


def _ending(uid: str, node: str) -> str:
    number = int.from_bytes(hashlib.blake2b(f"{uid}/{node}".encode(), digest_size=8).digest())
    letters = []
    for _ in range(_ENDING):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return "".join(letters)


def _metadata(ours: Mapping[str, Any], name: str, uid: str) -> Body:
    kept = (
        *("namespace", "creationTimestamp", "resourceVersion", "labels"),
        *("deletionTimestamp", "deletionGracePeriodSeconds"),
    )
    owner = {
        "apiVersion": API_VERSION,
        "kind": "Domain",
        "name": ours["name"],
        "uid": ours.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": False,
    }
    shown = {field: ours[field] for field in kept if field in ours}
    return {"name": name, "uid": uid, **shown, "ownerReferences": [owner]}


def _spec(spec: Mapping[str, Any], node: str) -> Body:
    requests = {"cpu": str(spec.get("vcpus", 1)), "memory": str(spec.get("memory", 0))}
    # With a terminal, so that `kubectl attach -it` asks for one.
    first, *others = (
        {"name": name, "image": _image(spec), "resources": {}, "stdin": True, "tty": True}
        for name in _containers(spec)
    )
    containers = [{**first, "resources": {"requests": requests}}, *others]
    return {**({"nodeName": node} if node else {}), "containers": containers, "restartPolicy": "Always"}


def _containers(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """One, or one for each recorded console, by its name: what kubectl's logs and attach take for -c."""
    found = recorded_in(spec)
    return found if len(found) > 1 else (CONTAINER,)


def _image(spec: Mapping[str, Any]) -> str:
    """The type of the domain stands where a container's image would."""
    return str(spec.get("type", "kvm"))


def _status(spec: Mapping[str, Any], status: Mapping[str, Any], node: str) -> Body:
    state = str(status.get("state") or "")
    ready = _condition(status)
    container: Body = {
        "image": _image(spec),
        "imageID": "",
        "ready": ready.get("status") == "True",
        "restartCount": status.get("restarts") or 0,
        "state": _container_state(state),
    }
    containers = [{"name": name, **container} for name in _containers(spec)]
    shown: Body = {"phase": _phase(state, node), "containerStatuses": containers}
    if ready:
        shown["conditions"] = [ready, {**ready, "type": "ContainersReady"}]
    if state not in {"running", *_NOWHERE}:
        shown["reason"] = state.capitalize()
    return shown


def _phase(state: str, node: str) -> str:
    if not node or state in _NOWHERE:
        return "Succeeded"
    return "Unknown" if state == _UNKNOWN else "Running"


def _container_state(state: str) -> Body:
    if state in {"running", "blocked"}:
        return {"running": {}}
    return {"waiting": {"reason": state.capitalize() or "Pending"}}


def _condition(status: Mapping[str, Any]) -> Body:
    found: Mapping[str, Any] = next((c for c in conditions_of(status) if c.get("type") == "Ready"), {})
    fields = ("type", "status", "reason", "message", "lastTransitionTime")
    return {field: found[field] for field in fields if field in found}


def ready_word(body: Mapping[str, Any]) -> str:
    containers = body["status"]["containerStatuses"]
    return f"{sum(one['ready'] for one in containers)}/{len(containers)}"


def status_word(body: Mapping[str, Any]) -> str:
    if "deletionTimestamp" in body["metadata"]:
        return "Terminating"
    return str(body["status"].get("reason") or body["status"]["phase"])


def restarts(body: Mapping[str, Any]) -> str:
    return str(body["status"]["containerStatuses"][0]["restartCount"])
