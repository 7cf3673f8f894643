"""`domctl serve` with a hypervisor that needs no lab: libvirt's test driver, in which domains really start.

For tests of clients: all of the server is there, on a real etcd of its own with encryption, and one Node,
`hv1`. `cleared` takes away what a test before may have left, and waits until the node is ready.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.e2e.client import Api
from tests.e2e.serve import Controller, until

RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_NODES: Final = "/apis/domctl.io/v1/nodes"
NODE: Final = {
    "apiVersion": "domctl.io/v1",
    "kind": "Node",
    "metadata": {"name": "hv1", "labels": {"zone": "a"}},
    "spec": {"uri": "test:///default"},
}
_LEFT: Final = (
    "/apis/domctl.io/v1/migrations",
    "/apis/domctl.io/v1/domains",
    "/apis/domctl.io/v1/tokens",
    f"{RBAC}/roles",
    f"{RBAC}/rolebindings",
    "/api/v1/secrets",
)


def small_domain(name: str, **labels: str) -> dict[str, Any]:
    """A Domain that the test driver can run."""
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"type": "test", "memory": "32Mi", "shutdown": [{"method": "destroy"}]},
    }


@contextlib.contextmanager
def small_server(directory: Path) -> Iterator[Controller]:
    keys = directory / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"k1 {base64.b64encode(os.urandom(32)).decode()}\n")
    head = {"apiVersion": "config.domctl.io/v1", "kind": "ControllerConfig"}
    found = Controller(directory, {**head, "encryption": {"keyFile": str(keys)}})
    try:
        found.start()
        found.api().create(_NODES, NODE)
        yield found
    finally:
        found.stop()


def cleared(controller: Controller) -> Controller:
    api = controller.api()
    for path in _LEFT:
        for item in api.get(path)["items"]:
            metadata = item["metadata"]
            namespace = metadata.get("namespace")
            group, plural = path.rsplit("/", 1)
            where = f"{group}/namespaces/{namespace}/{plural}" if namespace else path
            api.delete(f"{where}/{metadata['name']}")
    until(lambda: not api.get("/apis/domctl.io/v1/domains")["items"], 30, "domains do not go")
    _renew_node(api)
    until(lambda: _ready(api), 30, "the node is not ready")
    return controller


def _renew_node(api: Api) -> None:
    """A Node that was changed is made anew, for its generation tells how often it was."""
    if api.get(f"{_NODES}/hv1")["metadata"]["generation"] == 1:
        return
    api.delete(f"{_NODES}/hv1")
    until(lambda: not api.get(_NODES)["items"], 30, "the node does not go")
    api.create(_NODES, NODE)


def _ready(api: Api) -> bool:
    status = api.get(f"{_NODES}/hv1").get("status") or {}
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
