"""Migrations through the whole of domctl, on real hosts: live, cold, as they are; and what is in the way."""

from __future__ import annotations

import pytest

from specs.domainxml import machine_of
from tests.e2e.cluster import Cluster
from tests.e2e.moving import asked, ended, home, status
from tests.e2e.serve import until

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(240)]


def test_a_running_domain_moves_and_its_guest_is_the_same_one(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a")
    source = home(cluster, "a")
    found = ended(cluster, asked(cluster, "a"))
    assert found["phase"] == "Succeeded", found
    assert found["source"] == source
    assert found["target"] != source
    assert 0 <= found["downtimeMilliseconds"] < 5000
    assert found["bytes"] > 0
    until(lambda: home(cluster, "a") == found["target"], 10.0, lambda: cluster.story("a"))
    cluster.wait_ready("a")
    (copy,) = cluster.copies("a")
    assert copy.host is cluster.nodes[found["target"]]
    assert copy.state == "running"
    assert copy.is_persistent


def test_it_moves_to_the_node_that_was_named_and_back(calm_cluster: Cluster) -> None:
    """Back also though libvirtd was killed and restarted there, and knows less of the domain since."""
    cluster = calm_cluster
    cluster.run("a")
    first = home(cluster, "a")
    other = next(n for n in cluster.nodes if n != first)
    assert ended(cluster, asked(cluster, "a", node=other))["target"] == other
    cluster.wait_ready("a")
    machine = machine_of(cluster.nodes[other].virsh("dumpxml", "--inactive", "a"))
    cluster.nodes[other].restart_libvirtd()
    cluster.wait_node(other)
    assert ended(cluster, asked(cluster, "a", node=first))["target"] == first
    assert ended(cluster, asked(cluster, "a", node=first))["reason"] == "AlreadyThere"
    cluster.wait_ready("a")
    (copy,) = cluster.copies("a")
    assert copy.host is cluster.nodes[first]
    assert machine_of(copy.host.virsh("dumpxml", "--inactive", "a")) == machine != ""


def test_a_domain_that_is_shut_off_moves_as_it_is(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a", state="shutoff")
    source = home(cluster, "a")
    found = ended(cluster, asked(cluster, "a", node=next(n for n in cluster.nodes if n != source)))
    assert found["phase"] == "Succeeded"
    cluster.wait_ready("a")
    (copy,) = cluster.copies("a")
    assert copy.host is cluster.nodes[found["target"]]
    assert copy.state == "shut off"


def test_a_cold_migration_stops_the_domain_and_starts_it_elsewhere(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a", shutdown=[{"method": "destroy"}])
    source = home(cluster, "a")
    found = ended(cluster, asked(cluster, "a", mode="Cold"))
    assert found["phase"] == "Succeeded"
    assert found["target"] != source
    (copy,) = cluster.copies("a")
    assert copy.host is cluster.nodes[found["target"]]
    assert copy.state == "running"


def test_a_cordoned_node_takes_nothing_and_the_request_says_so(cluster: Cluster) -> None:
    cluster.run("a")
    others = [n for n in cluster.nodes if n != home(cluster, "a")]
    for name in others:
        cluster.controller.api().merge(f"/apis/domctl.io/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    name = asked(cluster, "a")
    until(
        lambda: status(cluster, name).get("reason") == "NoNodeFits",
        10.0,
        lambda: str(status(cluster, name)),
    )
    ready = next(c for c in status(cluster, name)["conditions"] if c["type"] == "Ready")
    assert "is unschedulable" in ready["message"]
    cluster.controller.api().merge(
        f"/apis/domctl.io/v1/nodes/{others[0]}", {"spec": {"unschedulable": False}}
    )
    assert ended(cluster, name)["target"] == others[0]


def test_a_peer_that_the_source_cannot_reach_fails_the_migration_and_nothing_else(cluster: Cluster) -> None:
    cluster.run("a")
    target = next(n for n in cluster.nodes if n != home(cluster, "a"))
    cluster.controller.api().merge(
        f"/apis/domctl.io/v1/nodes/{target}",
        {"spec": {"migrationURI": "qemu+tcp://10.255.255.1:1/system"}},
    )
    name = asked(cluster, "a", node=target)
    found = ended(cluster, name, 90.0)
    assert (found["phase"], found["reason"]) == ("Failed", "NoPeerPath"), found
    assert found["attempts"] >= 1
    cluster.wait_ready("a")
    (copy,) = cluster.copies("a")
    assert copy.state == "running"
    assert copy.is_persistent


def test_the_controller_may_die_while_a_domain_moves(cluster: Cluster) -> None:
    cluster.run("a", memory="256Mi")
    name = asked(cluster, "a")
    until(lambda: status(cluster, name).get("phase") == "Running", 10.0, lambda: str(status(cluster, name)))
    cluster.controller.kill()
    cluster.controller.start()
    found = ended(cluster, name, 60.0)
    assert found["phase"] in ("Succeeded", "Failed")
    cluster.wait_ready("a")
    copies = cluster.copies("a")
    assert [c.state for c in copies] == ["running"]
