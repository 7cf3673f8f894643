"""metrics.k8s.io: how busy nodes and pods are, for `kubectl top` and whatever else reads it on Kubernetes.

A NodeMetrics or PodMetrics is a picture of a Node or a Domain, like `v1` Nodes and Pods, made of the object
as it stands in the store (name, labels) and of what the leader's board has of it (`controller.figures`).
Where that is nothing there is no picture: kubectl shows <unknown>, or says that there are none yet. Who
serves them is `controller.api.facade.top`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from controller.api.facade import pods
from controller.figures import Reading, Use
from controller.objects import Body, StoredObject

METRICS: Final = "metrics.k8s.io"
METRICS_VERSION: Final = "v1beta1"
NODE_KIND, POD_KIND = "NodeMetrics", "PodMetrics"
OF_NODES: Final = "How busy a libvirt host is. There is none while that is not known."
OF_PODS: Final = "How busy a domain is that is active. There is none while that is not known."
_NANO: Final = 1_000_000_000
_KIB: Final = 1024
_UNITS: Final = {"cpu": "n", "memory": "Ki"}


def of_node(stored: StoredObject, found: Reading | None) -> StoredObject:
    body = _head(NODE_KIND, stored.body["metadata"], ())
    if found is not None and found.host is not None:
        body |= {**_window(found), "usage": _amounts(found.host)}
    return replace(stored, body=body)


def node_of(stored: StoredObject) -> str:
    """Where a domain is, as its pod says."""
    return str((stored.body.get("status") or {}).get("node") or "")


def of_pod(stored: StoredObject, found: Reading | None) -> StoredObject:
    """Of a Domain, and what is known of its node. The owner leads to the Domain, as a pod's does."""
    pod = pods.pictured(stored)
    use = None if found is None else found.domains.get(stored.uid)
    body = _head(POD_KIND, pod.body["metadata"], ("ownerReferences",))
    if found is not None and use is not None and pods.is_there(pod):
        body |= {**_window(found), "containers": [{"name": pods.CONTAINER, "usage": _amounts(use)}]}
    return replace(pod, body=body)


def is_known(picture: StoredObject) -> bool:
    return "timestamp" in picture.body


def _head(kind: str, metadata: Mapping[str, Any], more: tuple[str, ...]) -> Body:
    kept = ("name", "namespace", "creationTimestamp", "labels", *more)
    shown = {field: metadata[field] for field in kept if field in metadata}
    return {"apiVersion": f"{METRICS}/{METRICS_VERSION}", "kind": kind, "metadata": shown}


def _window(found: Reading) -> Body:
    return {"timestamp": found.at, "window": f"{found.window_s:.3f}s"}


def _amounts(use: Use) -> Body:
    return {"cpu": f"{round(use.cores * _NANO)}n", "memory": f"{use.memory_bytes // _KIB}Ki"}


def cpu(body: Mapping[str, Any]) -> str:
    """In thousandths of a processor, rounded up, as kubectl rounds."""
    return f"{-(-_summed(body, 'cpu') // 1_000_000)}m"


def memory(body: Mapping[str, Any]) -> str:
    return f"{_summed(body, 'memory') // _KIB}Mi"


def _summed(body: Mapping[str, Any], what: str) -> int:
    parts = body.get("containers") or [body]
    return sum(int(str(part["usage"][what]).removesuffix(_UNITS[what])) for part in parts)
