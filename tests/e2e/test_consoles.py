"""Consoles of real guests: recorded, shown by `kubectl logs`, followed, and typed on by `kubectl attach`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import IMAGES, Cluster, with_tick_images
from tests.e2e.serve import until
from tests.kubectl import newest

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(240)]

TERMINAL: list[dict[str, Any]] = [{"name": "main", "record": True}]


@pytest.fixture
def cluster(calm_cluster: Cluster) -> Cluster:
    with_tick_images(calm_cluster.hosts)
    return calm_cluster


def guest(image: str, **more: Any) -> dict[str, Any]:
    """Fields of a domain that boots one of the lab's guests, with its serial port recorded."""
    disk = {
        "name": "root",
        "source": {"file": f"{IMAGES}/{image}", "shared": True},
        "format": "raw",
        "readOnly": True,
        "shareable": True,
    }
    return {"os": {"boot": ["hd"]}, "disks": [disk], "serials": TERMINAL, **more}


def environment(cluster: Cluster, home: Path) -> dict[str, str]:
    return {
        "KUBECONFIG": str(cluster.controller.kubeconfig),
        "HOME": str(home),
        "PATH": os.environ["PATH"],
    }


def kubectl(cluster: Cluster, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [newest(), *arguments],
        env=environment(cluster, home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def pod_of(cluster: Cluster, home: Path, name: str) -> str:
    listed = kubectl(cluster, home, "get", "pods", "-o", "name").stdout.split()
    return next(pod for pod in listed if pod.startswith(f"pod/{name}-"))


def test_kubectl_logs_shows_what_a_guest_wrote_to_its_serial_port(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("ticks", **guest("tick.img"))
    pod = pod_of(cluster, tmp_path, "ticks")
    until(lambda: kubectl(cluster, tmp_path, "logs", pod).stdout.count("TICK ") > 5, 20, "no log")
    said = kubectl(cluster, tmp_path, "logs", pod, "--tail=3", "--timestamps").stdout
    rows = said.splitlines()
    assert len(rows) == 3, said
    for row in rows:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (TICK \d+|T?I?C?K?.*)", row), row
    assert len(kubectl(cluster, tmp_path, "logs", pod, "--limit-bytes=10").stdout) == 10
