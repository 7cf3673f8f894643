"""Fixtures of the end-to-end tests: a controller, with an etcd of its own or of the test's, and hosts."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.serve import CHECKOUT, Controller
from tests.etcdserver import EtcdServer, require_etcd
from tests.labhost import Lab, LabHost

# As in production but for the waits, which would make each test minutes long.
# A dead leader is followed after the lease; what it may still have sent is waited for from then on.
QUICK: dict[str, Any] = {
    "apiVersion": "config.domctl.io/v1",
    "kind": "ControllerConfig",
    "timing": {
        "leaseTtlS": 3,
        "renewEveryS": 0.5,
        "actWithinS": 2,
        "quietS": 1,
        "stuckS": 8,
        "suspectAfterS": 5,
        "probeMaxS": 1,
        "labOnly": True,
    },
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: sockets stand below it."""
    directory = Path(tempfile.mkdtemp(prefix="domctl-e2e-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def dark_cluster(hosts: tuple[LabHost, ...], place: Path) -> Iterator[Cluster]:
    """Three empty hosts, and a controller with a private etcd that was not started yet."""
    require_etcd()
    controller = Controller(place, QUICK)
    try:
        yield Cluster(controller, hosts)
    finally:
        controller.stop()


@pytest.fixture
def cluster(dark_cluster: Cluster) -> Cluster:
    """Three empty hosts, all of them Ready."""
    dark_cluster.controller.start()
    dark_cluster.join()
    return dark_cluster


@pytest.fixture(scope="module")
def lasting_cluster(lab: Lab) -> Iterator[Cluster]:
    require_etcd()
    lab.reset()
    directory = Path(tempfile.mkdtemp(prefix="domctl-e2e-"))
    made = Cluster(Controller(directory, QUICK), lab.hosts)
    try:
        made.controller.start()
        made.join()
        yield made
    finally:
        made.controller.stop()
        lab.reset()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def calm_cluster(lasting_cluster: Cluster) -> Iterator[Cluster]:
    """As `cluster`, but made once for all tests of a module that leave its controller and Nodes as they are;
    their domains go when each has ended. While others use the same hosts it stands by, and wants nothing."""
    for name in lasting_cluster.nodes:
        lasting_cluster.wait_node(name)  # another test may have used the hosts in between
    yield lasting_cluster
    lasting_cluster.clear()


@pytest.fixture
def etcd(place: Path) -> Iterator[EtcdServer]:
    """An etcd that outlives the controller, and that tests may kill or write to."""
    with EtcdServer(place / "etcd") as server:
        yield server


@pytest.fixture
def stored_cluster(hosts: tuple[LabHost, ...], etcd: EtcdServer, place: Path) -> Iterator[Cluster]:
    """As `cluster`, but its store is `etcd`."""
    config = {**QUICK, "store": {"endpoints": [etcd.endpoint]}}
    controller = Controller(place / "serve", config)
    try:
        made = Cluster(controller.start(), hosts)
        made.join()
        yield made
    finally:
        controller.stop()


@pytest.fixture
def alone() -> Iterator[None]:
    """The demo may be run: as root, and there is one of this checkout at a time. Another worker's tests of
    it are waited for."""
    if os.geteuid() != 0:
        pytest.skip("demo: needs root")
    cache = CHECKOUT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go with the file
        note = cache / "demo"
        if note.exists() and Path(note.read_text().strip()).exists():
            pytest.fail("a demo of this checkout is up; end it with ./deploy/demo --down")
        yield
