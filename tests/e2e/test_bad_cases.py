"""What goes wrong in a cluster, on real parts: each time domctl must do the right thing, and nothing else.

Evidence is what the hosts say, asked with virsh; what domctl says of itself is checked against it.
"""

from __future__ import annotations

import base64
import re
import signal
import time
import uuid
from contextlib import suppress
from typing import Any

import pytest
import yaml

from controller.executor import FAULT_POINTS
from tests.e2e.client import DOMAINS, NODES, ApiError, condition, is_ready, reason
from tests.e2e.cluster import Cluster, Copy, copies, domain, node, with_tick_images
from tests.e2e.serve import until
from tests.etcdserver import EtcdServer
from tests.labhost import LabHost
from tests.oracle import watching

MARK = "https://domctl.io/xmlns/mark/1"
FOREIGN = """\
<domain type='qemu'>
  <name>{name}</name>{uuid}
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64'>hvm</type></os>
</domain>
"""


def define(host: LabHost, xml: str) -> None:
    path = host.path("/run/defined.xml")
    path.write_text(xml)
    host.run("virsh", "-q", "define", "/run/defined.xml")


def test_an_unreachable_node_at_start_up_holds_only_its_own_domains(dark_cluster: Cluster) -> None:
    cluster, hosts = dark_cluster, dark_cluster.hosts
    hosts[2].poweroff()
    cluster.controller.start()
    cluster.join(ready=("n1", "n2"))
    cluster.apply("here", "there")
    cluster.apply("stuck", placement={"node": "n3"})
    cluster.wait_ready("here", "there")
    until(lambda: "n3" in cluster.message("stuck"), 10, lambda: cluster.story("stuck"))
    assert condition(cluster.domain("stuck"), "Ready")["status"] != "True"
    assert reason(cluster.domain("stuck")) in ("NodeUnreachable", "NoNodeFits", "NodeNotRead")
    assert condition(cluster.node("n3"), "Ready")["status"] != "True"
    hosts[2].poweron()
    cluster.wait_ready("stuck")
    assert cluster.host_of("stuck") == hosts[2]


def test_libvirtd_restarted_while_idle_costs_no_guest_and_no_call(cluster: Cluster) -> None:
    names = ("a", "b", "c", "d", "e", "f")
    cluster.run(*names)
    before = {name: cluster.verify(name) for name in names}
    host, calls = before["a"].host, cluster.mutations()
    host.kill_libvirtd()
    node_of = next(name for name, one in cluster.nodes.items() if one == host)
    until(lambda: not is_ready(cluster.node(node_of)), 10, "the node is still called Ready")
    host.restart_libvirtd()
    until(lambda: is_ready(cluster.node(node_of)), 30, "the node does not come back")
    cluster.wait_ready(*names)
    time.sleep(3)
    for name in names:
        cluster.verify(name, same_run=before[name])
    assert cluster.mutations() == calls, "a converged cluster must not cause mutating calls"


@pytest.mark.parametrize("step", ["define", "create"])
def test_libvirtd_killed_under_a_start_ends_in_one_running_copy(cluster: Cluster, step: str) -> None:
    names = [f"d{i}" for i in range(8)]
    cluster.run("old", placement={"node": "n1"})
    old, host = cluster.verify("old"), cluster.hosts[0]
    cluster.apply(*names, placement={"node": "n1"})
    if step == "create":
        until(
            lambda: [c for c in copies(host) if c.name != "old" and c.state == "running"], 20, "none starts"
        )
    else:
        until(lambda: [c for c in copies(host) if c.name != "old"], 20, "none is defined")
    host.kill_libvirtd()
    time.sleep(1)
    host.restart_libvirtd()
    free_what_libvirt_lost(cluster, host, names)
    cluster.wait_ready(*names, "old", timeout_s=60)
    for name in names:
        cluster.verify(name)
    cluster.verify("old", same_run=old)


def free_what_libvirt_lost(cluster: Cluster, host: LabHost, names: list[str]) -> None:
    """libvirt 9.0, killed before it noted a new QEMU's pid, keeps that domain as starting for ever. domctl
    holds it and says what ends that; this does what it says. Any other hold is a failure of the caller."""

    held: dict[str, None] = {}  # that is said in turn with trying again, so of two not always at once

    def decided() -> bool:
        found = {name: cluster.domain(name) for name in names}
        held.update({name: None for name, one in found.items() if reason(one) == "StuckStart"})
        return all(is_ready(one) or name in held for name, one in found.items())

    until(decided, 90, lambda: "\n".join(cluster.story(n) for n in names if not is_ready(cluster.domain(n))))
    stuck = [name for name in held if not is_ready(cluster.domain(name))]
    if not stuck:
        return
    files = {name: f"/run/libvirt/qemu/{name}.xml" for name in stuck}
    for name, file in files.items():
        until(lambda: file in cluster.message(name), 60, f"the hold of {name} does not name its cure")  # noqa: B023
    host.kill_libvirtd()
    for file in files.values():
        status = host.path(file)
        assert "pid='0'" in status.read_text(), "libvirt knows of a process: this is not that fault"
        status.unlink()
    host.restart_libvirtd()


def test_a_killed_qemu_is_started_again_where_it_was(cluster: Cluster) -> None:
    cluster.run("a")
    before = cluster.verify("a")
    kill_qemu(before)
    again(cluster, before)
    assert cluster.verify("a").host == before.host
    # From the event to create(), on a machine that other tests use too; tests/bench/converge measures it.
    samples = cluster.controller.api().metrics()
    assert samples["domctl_reaction_seconds_count"] == 1
    assert samples["domctl_reaction_seconds_sum"] < 0.5


@pytest.mark.parametrize("how", ["destroy {0}", "destroy {0}; undefine {0}"])
def test_a_domain_ended_by_virsh_runs_again(calm_cluster: Cluster, how: str) -> None:
    cluster = calm_cluster
    cluster.run("a")
    before = cluster.verify("a")
    before.host.virsh(how.format(before.uuid))
    again(cluster, before)
    assert cluster.verify("a").host == before.host


def test_a_domain_undefined_while_it_runs_is_defined_again_and_runs_on(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a")
    before = cluster.verify("a")
    before.host.virsh("undefine", before.uuid)
    until(lambda: cluster.the_copy("a").is_persistent, 20, lambda: cluster.story("a"))
    cluster.wait_ready("a")
    cluster.verify("a", same_run=before)
    assert MARK in before.host.virsh("dumpxml", "--inactive", before.uuid)


def test_a_domain_redefined_by_virsh_gets_its_definition_back_and_runs_on(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a")
    before = cluster.verify("a")
    xml = before.host.virsh("dumpxml", "--inactive", before.uuid)
    assert "<vcpu placement='static'>1</vcpu>" in xml
    define(before.host, xml.replace(">1</vcpu>", ">3</vcpu>"))

    def vcpus() -> str:
        return before.host.virsh("dumpxml", "--inactive", before.uuid).split("</vcpu>")[0][-1]

    until(lambda: vcpus() == "1", 20, lambda: cluster.story("a"))
    cluster.wait_ready("a")
    cluster.verify("a", same_run=before)


def test_a_foreign_domain_of_the_same_name_is_refused_explained_and_untouched(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    host = cluster.hosts[0]
    define(host, FOREIGN.format(name="a", uuid=""))
    host.virsh("start", "a")
    before, xml = cluster.the_copy("a"), host.virsh("dumpxml", "a")
    until(lambda: cluster.node("n1")["status"].get("foreignDomains") == 1, 20, "it is not seen")
    cluster.apply("a", placement={"node": "n1"})
    cluster.wait_reason("a", "NoNodeFits")
    assert "n1 has another domain named a" in cluster.message("a")
    time.sleep(2)
    assert cluster.copies("a") == [before]
    assert host.virsh("dumpxml", "a") == xml
    cluster.delete("a")
    cluster.wait_gone("a")
    assert cluster.copies("a") == [before]


def test_a_foreign_domain_in_the_place_of_ours_is_refused_explained_and_untouched(cluster: Cluster) -> None:
    cluster.run("a")
    ours = cluster.verify("a")
    cluster.controller.kill()
    ours.host.virsh(f"destroy {ours.uuid}; undefine {ours.uuid}")
    define(ours.host, FOREIGN.format(name="a", uuid=""))
    foreign = cluster.the_copy("a")
    cluster.controller.start()
    until(
        lambda: condition(cluster.domain("a"), "Stalled")["status"] == "True", 30, lambda: cluster.story("a")
    )
    assert reason(cluster.domain("a")) in ("NameTaken", "Rejected")
    assert foreign.uuid in cluster.message("a"), "it says whose way this is"
    time.sleep(2)
    assert cluster.copies("a") == [foreign]
    foreign.host.virsh("undefine", foreign.uuid)  # the way is free
    cluster.wait_ready("a")
    cluster.verify("a")


def test_clones_that_carry_our_mark_are_never_touched(cluster: Cluster) -> None:
    """virt-clone copies <metadata>, so the mark names another UUID than the clone's own."""
    cluster.run("a")
    before, host, clones = cluster.verify("a"), cluster.hosts[1], ("runs", "off")
    xml = before.host.virsh("dumpxml", "--inactive", before.uuid)
    for name in clones:
        clone = re.sub(r"<uuid>[^<]*</uuid>", f"<uuid>{uuid.uuid4()}</uuid>", xml).replace(
            "<name>a</name>", f"<name>{name}</name>"
        )
        assert MARK in clone
        define(host, clone)
    host.virsh("start", "runs")

    def as_they_are() -> list[tuple[Copy, str]]:
        return [(cluster.the_copy(name), host.virsh("dumpxml", name)) for name in clones]

    there = as_they_are()
    time.sleep(3)
    cluster.controller.kill()
    cluster.controller.start()
    cluster.wait_ready("a")
    time.sleep(3)
    assert as_they_are() == there
    cluster.verify("a", same_run=before)
    cluster.delete("a")
    cluster.wait_gone("a")
    assert as_they_are() == there, "deleting the original must not touch the clones"


def test_a_spec_that_libvirt_rejects_stalls_with_its_words_and_is_not_tried_in_a_storm(
    calm_cluster: Cluster,
) -> None:
    cluster = calm_cluster
    cluster.apply("a", os={"machine": "no-such-machine"})
    shown = cluster.wait_reason("a", "Rejected")
    assert condition(shown, "Stalled")["status"] == "True"
    assert re.search("XML error|unsupported|not support", cluster.message("a")), (
        "libvirt's own words are kept"
    )
    calls = cluster.mutations()
    time.sleep(5)
    assert cluster.mutations() - calls <= 2, "it is tried in a storm"
    assert not cluster.copies("a")
    cluster.run("a")  # a corrected spec ends it


def test_etcd_gone_for_several_leases_leaves_guests_alone_and_then_all_goes_on(
    stored_cluster: Cluster, etcd: EtcdServer
) -> None:
    cluster = stored_cluster
    cluster.run("a", "b", "c")
    before = {name: cluster.verify(name) for name in "abc"}
    etcd.kill()
    time.sleep(4)  # a lease lasts 3
    kill_qemu(before["c"])  # nobody may act on it now
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        assert cluster.the_copy("c").state == "shut off", "started without a lease"
        time.sleep(1)
    for name in "ab":
        cluster.still(before[name])
    etcd.start()
    again(cluster, before["c"], timeout_s=60)
    cluster.wait_ready("a", "b", "c", timeout_s=60)
    for name in "ab":
        cluster.verify(name, same_run=before[name])
    cluster.run("d")


def test_one_host_registered_as_two_nodes_is_refused_the_second_time(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    same = cluster.controller.run("apply", "-f", "-", stdin=yaml.safe_dump(node("same", host.uri)))
    assert same.returncode == 1 and "n1" in same.stderr, "the same URI is refused at once"
    cluster.controller.apply(node("twin", host.local_uri))
    until(lambda: condition(cluster.node("twin"), "Stalled").get("status") == "True", 20, "it is not refused")
    twin = cluster.node("twin")
    assert condition(twin, "Ready")["status"] == "False"
    assert "n1" in condition(twin, "Ready")["message"], "the node that has it already is named"
    cluster.apply("a", placement={"node": "twin"})
    time.sleep(3)
    assert not cluster.copies("a"), "placed on a node that was refused"
    assert is_ready(cluster.node("n1"))
    cluster.run("b", placement={"node": "n1"})


GARBAGE = (b"", b"{", b"null", b'{"kind":"Domain"}', b"\x00\xff\xfe")


def test_corrupt_objects_are_quarantined_and_nothing_is_deleted(
    stored_cluster: Cluster, etcd: EtcdServer
) -> None:
    cluster = stored_cluster
    broken, unassigned = ([f"{one}{i}" for i in range(len(GARBAGE))] for one in "ab")
    cluster.run(*broken, *unassigned)
    before = {name: cluster.verify(name) for name in (*broken, *unassigned)}
    for i, garbage in enumerate(GARBAGE):
        etcd.put(f"/domctl/objects/domains/default/a{i}", garbage)
        etcd.put(f"/domctl/objects/domains/default/zzz{i}", garbage)
        etcd.put(f"/domctl/assignments/{before[f'b{i}'].uuid}", garbage)
    time.sleep(3)
    cluster.controller.kill()
    cluster.controller.start()
    time.sleep(5)
    for copy in before.values():
        cluster.still(copy)
    listed = {item["metadata"]["name"] for item in cluster.controller.api().get(DOMAINS)["items"]}
    assert listed >= set(unassigned), "bad objects must not hide others"
    cluster.run("c")


def test_an_emptied_store_deletes_nothing(stored_cluster: Cluster, etcd: EtcdServer) -> None:
    """Keys that are missing are no wish to delete (I11)."""
    cluster = stored_cluster
    cluster.run("a", "b")
    before = {name: cluster.verify(name) for name in "ab"}
    begin, end = (base64.b64encode(key).decode() for key in (b"/domctl/objects/", b"/domctl/objects0"))
    etcd.api("kv/deleterange", {"key": begin, "range_end": end})
    time.sleep(3)
    cluster.controller.kill()
    cluster.controller.start()
    time.sleep(5)
    for name in "ab":
        cluster.still(before[name])


def points(*kinds: str) -> list[Any]:
    """Where a controller may be killed in these actions. Nothing happens between the end of a step and the
    beginning of the next: what begins an action is always tried, what begins a later step takes long, and so
    does a second action's record, which is made as the first one's is, and the end of a step that only
    reads."""
    found = [p for p in FAULT_POINTS if p.split(".")[0] in kinds]
    first = [p for p in found if p.split(".")[1] in ("record", "finish")]
    late = {p for p in found if p.endswith(".before")} - {*first}
    late |= {p for p in found if p.startswith("revoke.record") or p.split(".")[1] in ("recheck", "listed")}
    return [pytest.param(p, marks=[pytest.mark.long] if p in late else []) for p in found]


START_POINTS, DELETE_POINTS = points("start"), points("destroy", "revoke", "finish")


@pytest.mark.parametrize("point", START_POINTS)
def test_killed_at_any_point_of_a_start_a_restart_converges_and_nothing_runs_twice(
    dark_cluster: Cluster, point: str
) -> None:
    cluster, controller = dark_cluster, dark_cluster.controller
    ticks = with_tick_images(cluster.hosts)
    with watching(ticks, controller.directory / "oracle") as oracle:
        controller.start(DOMCTL_FAULT_POINT=point)
        cluster.join()
        with suppress(AssertionError):  # it may die before it has answered
            cluster.apply("a", ticking=True)
        assert controller.wait_end(20) == -signal.SIGKILL
        controller.start()
        cluster.apply("a", ticking=True)
        cluster.wait_ready("a", timeout_s=60)
        copy = cluster.verify("a")
        until(lambda: (ticks[copy.host.name] / "a").stat().st_size > 0, 10, "the guest is silent")
        time.sleep(1)
        oracle.check()


@pytest.mark.parametrize("point", DELETE_POINTS)
def test_killed_at_any_point_of_a_delete_a_restart_ends_it_and_touches_nothing_else(
    dark_cluster: Cluster, point: str
) -> None:
    cluster, controller = dark_cluster, dark_cluster.controller
    ticks = with_tick_images(cluster.hosts)
    with watching(ticks, controller.directory / "oracle") as oracle:
        controller.start(DOMCTL_FAULT_POINT=point)
        cluster.join()
        cluster.run("a", "b", ticking=True)
        kept = cluster.verify("b")
        with suppress(ConnectionError):  # it may die before it has answered
            cluster.delete("a")
        assert controller.wait_end(20) == -signal.SIGKILL
        controller.start()
        cluster.wait_gone("a", timeout_s=60)
        assert not cluster.copies("a")
        cluster.verify("b", same_run=kept)
        oracle.check()


def test_deleting_removes_the_domain_and_never_its_storage(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    with_tick_images(cluster.hosts)
    cluster.run("a", ticking=True)
    host = cluster.host_of("a")
    cluster.delete("a")
    cluster.wait_gone("a")
    assert not cluster.copies("a")
    assert host.path("/var/lib/libvirt/images/tick.img").exists()
    assert host.path("/var/lib/libvirt/images/ticks/a").exists()


def test_a_converged_cluster_causes_no_mutating_call_after_a_restart_either(cluster: Cluster) -> None:
    names = ("a", "b", "c", "d")
    cluster.run(*names[:3])
    cluster.run("d", state="shutoff")
    before = {name: cluster.the_copy(name) for name in names}
    for end in (cluster.controller.stop, cluster.controller.kill):
        end()
        cluster.controller.start()
        cluster.wait_ready(*names)
        time.sleep(5)
        assert cluster.mutations() == 0
        assert {name: cluster.the_copy(name) for name in names} == before


def test_a_stale_write_conflicts_and_a_bad_one_names_every_cause(calm_cluster: Cluster) -> None:
    cluster = calm_cluster
    cluster.run("a")
    api = cluster.controller.api()
    old = cluster.domain("a")
    api.merge(f"{DOMAINS}/a", {"metadata": {"labels": {"changed": "yes"}}})
    with pytest.raises(ApiError) as stale:
        api.request("PUT", f"{DOMAINS}/a", old)
    assert stale.value.code == 409
    with pytest.raises(ApiError) as bad:
        api.create(DOMAINS, domain("bad", vcpus=0, memory="1Ki", state="asleep"))
    assert bad.value.code == 422
    causes = {cause["field"] for cause in bad.value.status["details"]["causes"]}
    assert causes >= {"spec.vcpus", "spec.memory", "spec.state"}
    assert api.get(NODES)["items"]


def kill_qemu(copy: Copy) -> None:
    copy.host.run("sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/{copy.name}.pid)")


def again(cluster: Cluster, before: Copy, timeout_s: float = 20) -> None:
    """Wait until it runs anew: another run than `before`."""

    def runs_anew() -> bool:
        found = cluster.copies(before.name)
        return len(found) == 1 and found[0].state == "running" and found[0].run != before.run

    until(runs_anew, timeout_s, lambda: cluster.story(before.name))
    cluster.wait_ready(before.name)
