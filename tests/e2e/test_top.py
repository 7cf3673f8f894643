"""`kubectl top` and `domctl top` of real hosts: what they print was measured there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.serve import until
from tests.e2e.test_drain import kubectl

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(180)]

ROW = re.compile(r"^(\S+)\s+(\d+)m\s+\S+\s+(\d+)Mi\s", re.MULTILINE)  # NAME CPU CPU% MEMORY MEMORY%
POD = re.compile(r"^(\S+)\s+(\d+)m\s+(\d+)Mi\s*$", re.MULTILINE)


def test_top_shows_what_nodes_and_domains_use(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("busy", placement={"node": "n1"})

    def pods() -> list[tuple[str, str, str]]:
        return POD.findall(kubectl(cluster, tmp_path, "top", "pods").stdout)

    def told() -> str:
        return repr(kubectl(cluster, tmp_path, "top", "pods"))

    ((name, _cpu, memory),) = until(pods, 100, told, pause_s=1.0)
    assert name.startswith("busy-"), "as pods of anything are named"
    assert 0 < int(memory) < 1024
    nodes = {one: (int(cpu), int(mib)) for one, cpu, mib in _nodes(cluster, tmp_path)}
    assert "n1" in nodes, kubectl(cluster, tmp_path, "top", "nodes")
    assert nodes["n1"][1] > int(memory), "a host uses more than its guest"
    assert "busy" in cluster.controller.domctl("top", "domains")


def _nodes(cluster: Cluster, home: Path) -> list[tuple[str, str, str]]:
    return ROW.findall(kubectl(cluster, home, "top", "nodes").stdout)
