"""`kubectl drain` of a real host: its domains leave it alive, one after another, and it takes no new ones."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import MIGRATIONS
from tests.e2e.cluster import Cluster
from tests.e2e.conftest import QUICK
from tests.kubectl import newest

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(240)]

NAMES = ("a", "b", "c")


def kubectl(cluster: Cluster, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        "KUBECONFIG": str(cluster.controller.kubeconfig),
        "HOME": str(home),
        "PATH": os.environ["PATH"],
    }
    return subprocess.run(
        [newest(), *arguments], env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def moves(cluster: Cluster) -> list[dict[str, Any]]:
    return [item["status"] for item in cluster.controller.api().get(MIGRATIONS)["items"]]


def test_a_drained_node_ends_empty_with_its_domains_alive_elsewhere(
    dark_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = dark_cluster
    cluster.controller.config = {**QUICK, "policy": {"migrationsPerNode": 1}}
    cluster.controller.start()
    cluster.join()
    cluster.run(*NAMES, placement={"nodeSelector": {"node": "n1"}})
    for name in NAMES:  # where they are now is not where they have to be
        path = f"/apis/domctl.io/v1/namespaces/default/domains/{name}"
        cluster.controller.api().merge(path, {"spec": {"placement": None}})
    cluster.wait_ready(*NAMES)
    assert {cluster.host_of(name) for name in NAMES} == {cluster.nodes["n1"]}
    pods = kubectl(cluster, tmp_path, "get", "pods", "--field-selector=spec.nodeName=n1", "-o", "name")
    assert len(pods.stdout.split()) == len(NAMES), pods
    done = kubectl(cluster, tmp_path, "drain", "n1", "--ignore-daemonsets", "--timeout=100s")
    assert done.returncode == 0, f"{done.stderr}\n{cluster.controller.tail()}"
    assert "node/n1 drained" in done.stdout
    cluster.wait_ready(*NAMES)
    for name in NAMES:
        copy = cluster.verify(name)
        assert copy.host is not cluster.nodes["n1"]
    ended = sorted(moves(cluster), key=lambda status: status["startedAt"])
    assert [status["phase"] for status in ended] == ["Succeeded"] * len(NAMES)
    assert all("downtimeMilliseconds" in status for status in ended), "moved while it ran"
    for before, after in itertools.pairwise(ended):
        assert before["completedAt"] <= after["startedAt"], "one after another"
    listed = kubectl(cluster, tmp_path, "get", "nodes", "n1").stdout
    assert "Ready,SchedulingDisabled" in listed
    assert kubectl(cluster, tmp_path, "uncordon", "n1").returncode == 0
    assert "unschedulable" not in cluster.node("n1")["spec"]
