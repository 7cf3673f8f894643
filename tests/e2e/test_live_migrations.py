"""Live migrations of every kind of guest, with what moves with it: on real hosts, through all of domctl.

What a guest has counted, and where, tells whether it is the one that left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import NODES
from tests.e2e.cluster import IMAGES, Cluster
from tests.e2e.conftest import QUICK
from tests.e2e.moving import (
    FULL,
    another,
    asked,
    coming,
    ended,
    filled,
    has_job,
    home,
    ready_to_tick,
    slow,
    status,
    ticks,
)
from tests.e2e.serve import until
from tests.labhost import Lab, LabHost

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(240)]

DISK_BYTES = 4 << 20
STUCK_S = float(QUICK["timing"]["stuckS"])


@pytest.fixture
def ticking(calm_cluster: Cluster) -> Cluster:
    ready_to_tick(calm_cluster)
    return calm_cluster


def goes_on(host: LabHost, name: str, after: int) -> None:
    """Its guest counts there, from where it had come to elsewhere."""
    until(lambda: ticks(host, name), 20, "its guest does not go on")
    assert ticks(host, name)[0] > after, "it began anew"


def test_a_migration_that_is_under_way_is_ended_on_request_and_its_guest_goes_on_where_it_was(
    ticking: Cluster,
) -> None:
    ticking.run("a", **FULL)
    source, target = filled(ticking, "a"), another(ticking, "a")
    before = ticking.verify("a")
    slow(source, "a")
    name = asked(ticking, "a", node=target)
    until(lambda: coming(ticking.nodes[target], "a"), 20, lambda: ticking.story("a"))
    ticking.controller.domctl("migrate", "a", "--abort")
    found = ended(ticking, name)
    assert (found["phase"], found["attempts"]) == ("Aborted", 1), found
    ticking.wait_ready("a")
    ticking.verify("a", same_run=before)
    counted = len(ticks(source, "a"))
    until(lambda: len(ticks(source, "a")) > counted, 10, "it stands still")
    assert ticks(ticking.nodes[target], "a") == []


def test_a_guest_that_is_paused_arrives_paused_and_has_not_run(ticking: Cluster) -> None:
    ticking.run("a", **FULL)
    source, target = filled(ticking, "a"), another(ticking, "a")
    ticking.controller.domctl("pause", "a", "--wait", "--timeout=20s")
    last = ticks(source, "a")[-1]
    assert ended(ticking, asked(ticking, "a", node=target))["phase"] == "Succeeded"
    ticking.wait_ready("a")
    assert ticking.verify("a", state="paused").host is ticking.nodes[target]
    time.sleep(1)
    assert ticks(ticking.nodes[target], "a") == []
    ticking.controller.domctl("resume", "a", "--wait", "--timeout=20s")
    goes_on(ticking.nodes[target], "a", last)


def test_what_may_start_elsewhere_leaves_no_definition_on_either_host(ticking: Cluster) -> None:
    ticking.run("a", **FULL, recovery={"onNodeFailure": "Restart"})
    source, target = filled(ticking, "a"), another(ticking, "a")
    last = ticks(source, "a")[-1]
    assert ended(ticking, asked(ticking, "a", node=target))["phase"] == "Succeeded"
    ticking.wait_ready("a")
    found = ticking.the_copy("a")
    assert (found.host, found.state, found.is_persistent) == (ticking.nodes[target], "running", False)
    assert found.uuid == ticking.domain("a")["metadata"]["uid"]
    goes_on(found.host, "a", last)


def test_disks_that_the_hosts_do_not_share_are_copied_where_that_is_asked_for(ticking: Cluster) -> None:
    images = {name: host.path(f"{IMAGES}/own.raw") for name, host in ticking.nodes.items()}
    for image in images.values():
        image.write_bytes(os.urandom(DISK_BYTES))  # each its own
    ticking.run("a", **with_disk({"file": f"{IMAGES}/own.raw"}))
    source, target = home(ticking, "a"), another(ticking, "a")
    filled(ticking, "a")
    left = asked(ticking, "a", node=target)
    until(
        lambda: status(ticking, left).get("reason") == "PinnedByStorage",
        10,
        lambda: str(status(ticking, left)),
    )
    ticking.controller.domctl("migrate", "a", "--abort")
    assert ended(ticking, left)["phase"] == "Aborted"
    last = ticks(ticking.nodes[source], "a")[-1]
    assert images[target].read_bytes() != images[source].read_bytes()
    found = ended(ticking, asked(ticking, "a", node=target, copyStorage=True))
    assert found["phase"] == "Succeeded", found
    assert images[target].read_bytes() == images[source].read_bytes()
    ticking.wait_ready("a")
    assert ticking.verify("a").host is ticking.nodes[target]
    goes_on(ticking.nodes[target], "a", last)


def with_disk(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The ticking guest, and one more disk, that it may write to."""
    root = {"name": "root", "source": {"file": f"{IMAGES}/full.img", "shared": True}, "format": "raw"}
    disks = [{**root, "readOnly": True, "shareable": True}, {"name": "own", "source": source, **more}]
    return {**FULL, "disks": disks}


def test_a_block_device_that_the_hosts_share_stays_where_it_is(cluster: Cluster, lab: Lab) -> None:
    ready_to_tick(cluster)
    device = lab.shared_disk(4)
    for name in cluster.nodes:
        allowed = {"spec": {"allowedPaths": [IMAGES, str(Path(device).parent)]}}
        cluster.controller.api().merge(f"{NODES}/{name}", allowed)
    cluster.run("a", **with_disk({"block": device, "shared": True}, cache="none"))
    source, target = filled(cluster, "a"), another(cluster, "a")
    last = ticks(source, "a")[-1]
    assert ended(cluster, asked(cluster, "a", node=target))["phase"] == "Succeeded"
    cluster.wait_ready("a")
    assert cluster.verify("a").host is cluster.nodes[target]
    assert f"{device}" in cluster.nodes[target].virsh("domblklist", "a")
    goes_on(cluster.nodes[target], "a", last)


@pytest.mark.long
def test_a_job_that_stands_still_is_ended_and_tried_again(ticking: Cluster) -> None:
    """Nothing is copied to a QEMU that is stopped, for longer than stuckS."""
    ticking.run("a", **FULL)
    source, target = filled(ticking, "a"), another(ticking, "a")
    slow(source, "a")
    name = asked(ticking, "a", node=target)
    until(lambda: has_job(source, "a") and coming(ticking.nodes[target], "a"), 20, lambda: ticking.story("a"))
    stuck = ticking.nodes[target].qemu_pids()
    for pid in stuck:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(STUCK_S / 2)
        assert has_job(source, "a"), "it is given time"
        until(lambda: not has_job(source, "a"), 3 * STUCK_S, lambda: ticking.story("a"))
        last = ticks(source, "a")[-1]
        until(lambda: ticks(source, "a")[-1] > last, 10, "it stands still")
    finally:
        for pid in stuck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    found = ended(ticking, name, 90)
    assert (found["phase"], found["attempts"]) == ("Succeeded", 2), found
    ticking.wait_ready("a")
    assert ticking.verify("a").host is ticking.nodes[target]
    goes_on(ticking.nodes[target], "a", last)
