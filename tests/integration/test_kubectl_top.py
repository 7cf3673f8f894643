"""`kubectl top` as its users know it, version by version: transcripts, as `test_kubectl` has them.

A real server on a real etcd; the figures are ours, so that what is printed is always the same. That they
come from hosts is tried in `tests.e2e.test_top`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from controller import pki
from controller.figures import Reading, Use
from tests.apiserver import MERGE, NODES, Api, domain, node
from tests.integration.test_kubectl import KUBECTLS, Shell, every_version, play

pytestmark = pytest.mark.etcd

SESSION = Path(__file__).parents[1] / "golden" / "kubectl" / "top" / "top.txt"
HOST = {"cpus": 8, "memoryBytes": 16 << 30, "allocatable": {"vcpus": 8, "memoryBytes": 16 << 30}}
DOMAINS = (  # namespace, name, node, what it uses
    ("default", "web-1", "hv1", Use(0.2501, 300 << 20)),
    ("default", "db-1", "hv1", Use(1.75, 2500 << 20)),
    ("default", "idle-1", "hv2", Use(0.001, 40 << 20)),
    ("team-a", "web-1", "hv1", Use(0.5, 100 << 20)),
)


async def _put(api: Api, path: str, body: dict[str, Any], status: dict[str, Any]) -> str:
    reply = await api.call("POST", path, body)
    assert reply.status == 201, reply.text
    where = f"{path}/{body['metadata']['name']}/status"
    assert (await api.call("PATCH", where, {"status": status}, type=MERGE)).status == 200
    return str(reply.body["metadata"]["uid"])


async def _furnish(api: Api) -> None:
    used = {}
    for name, zone in (("hv1", "a"), ("hv2", "b")):
        body = node(name)
        body["metadata"]["labels"] = {"zone": zone}
        await _put(api, NODES, body, HOST)
    for namespace, name, on, use in DOMAINS:
        body = domain(name)
        body["metadata"]["labels"] = {"app": name[:-2]}
        path = f"/apis/domctl.io/v1/namespaces/{namespace}/domains"
        used[await _put(api, path, body, {"state": "running", "node": on})] = use
    until = api.objects.world.now() + 600
    api.figures.put("hv1", Reading("2026-01-01T00:00:30Z", 30.0, until, Use(2.4, 4 << 30), used))
    for path in ("/api/v1/nodes", "/api/v1/pods"):
        assert (await api.call("GET", path)).body["items"], path


@every_version
async def test_kubectl_top_prints_what_is_written(
    version: str, api: Api, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await _furnish(api)
    pki.write_kubeconfig(api.pki, api.url)
    directory = tmp_path / "home"
    directory.mkdir()
    shell = Shell(dict(KUBECTLS)[version], api.pki.kubeconfig, directory)
    regold = request.config.getoption("--regold")
    wrong = await asyncio.to_thread(play, SESSION, shell, version, regold=regold)
    assert not wrong, wrong
