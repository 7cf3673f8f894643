"""Domains in all their states, on real QEMU: paused, saved, transient, at boot, and ended by themselves.

What is true is asked of the hosts; that a guest goes on, or stands still, is told by what it writes.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import DOMAINS, condition, reason
from tests.e2e.cluster import IMAGES, Cluster, Copy, copies, with_tick_images
from tests.e2e.serve import until
from tests.labhost import LAB, LabHost

ACPI = [{"method": "acpi", "timeoutSeconds": 20}, {"method": "destroy"}]
STRANGER = """<domain type='qemu'><name>stranger</name><memory unit='MiB'>32</memory>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>
<source file='{image}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
SAVES = "/var/lib/libvirt/qemu/save"


def ticks(host: LabHost, name: str) -> int:
    path = host.path(f"{IMAGES}/ticks/{name}")
    return path.read_text(errors="replace").count("TICK ") if path.exists() else 0


def boots(host: LabHost, name: str) -> int:
    lines = host.path(f"{IMAGES}/ticks/{name}").read_text(errors="replace").splitlines()
    return lines.count("TICK 0")


def stands_still(host: LabHost, name: str) -> bool:
    before = ticks(host, name)
    time.sleep(0.4)
    return ticks(host, name) == before


def in_state(cluster: Cluster, name: str, state: str) -> Copy:
    cluster.wait_ready(name)
    return cluster.verify(name, state=state)


def outcome(cluster: Cluster, name: str, request: str) -> str:
    requests = cluster.domain(name)["status"].get("requests", [])
    return next((r["outcome"] for r in requests if r["name"] == request), "")


def test_a_guest_is_paused_and_saved_and_goes_on_where_it_was(cluster: Cluster) -> None:
    with_tick_images(cluster.hosts)
    cluster.run("states", ticking=True, shutdown=ACPI)
    first = cluster.verify("states")
    host, domctl = first.host, cluster.controller.domctl
    until(lambda: ticks(host, "states") > 3, 20, lambda: cluster.story("states"))

    domctl("pause", "states", "--wait")
    in_state(cluster, "states", "paused")
    assert stands_still(host, "states")
    domctl("resume", "states", "--wait")
    cluster.verify("states", same_run=first)
    assert not stands_still(host, "states")

    domctl("save", "states", "--wait")
    in_state(cluster, "states", "shut off")
    assert host.path(f"{SAVES}/states.save").exists()
    assert condition(cluster.domain("states"), "SavedMemory")["reason"] == "OfThisDefinition"
    assert condition(cluster.domain("states"), "SaveRoom")["reason"] == "NotChecked"
    before = ticks(host, "states")
    domctl("restore", "states", "--wait")
    in_state(cluster, "states", "running")
    until(lambda: ticks(host, "states") > before, 10, lambda: cluster.story("states"))
    assert boots(host, "states") == 1, "it did not boot anew"

    domctl("pause", "states", "--wait")
    calls = cluster.mutations()
    domctl("shutdown", "states", "--wait", "--timeout=40s")
    in_state(cluster, "states", "shut off")
    assert "destroyed" not in host.virsh("domstate", "--reason", "states"), "it heard the power button"
    assert cluster.mutations() - calls <= 4


def test_saved_memory_of_another_definition_or_that_is_broken_waits_for_a_word(cluster: Cluster) -> None:
    domctl = cluster.controller.domctl
    cluster.run("older", "broken")
    for name in ("older", "broken"):
        domctl("save", name, "--wait")
    home = {name: cluster.host_of(name) for name in ("older", "broken")}
    image = home["broken"].path(f"{SAVES}/broken.save")
    image.write_bytes(b"\xff" * 64 + image.read_bytes()[64:])
    cluster.controller.api().merge(f"{DOMAINS}/older", {"spec": {"memory": "48Mi"}})
    until(
        lambda: condition(cluster.domain("older"), "SavedMemory").get("reason") == "OfOlderDefinition",
        15,
        lambda: cluster.story("older"),
    )
    domctl("start", "older", "broken")
    cluster.wait_reason("older", "SavedOtherwise")
    cluster.wait_reason("broken", "SaveUnreadable")
    assert "domctl restore older" in cluster.message("older")
    assert "domctl drop-saved broken" in cluster.message("broken")
    calls = cluster.mutations()
    time.sleep(3)
    assert cluster.mutations() == calls, "no storm of starts"

    domctl("restore", "older", "--wait")
    assert "32768" in home["older"].virsh("dommemstat", "older") or condition(
        cluster.domain("older"), "RestartRequired"
    ), "it goes on with what it was saved with, and says so"
    domctl("drop-saved", "broken")
    cluster.wait_ready("broken")
    cluster.verify("broken")
    assert outcome(cluster, "broken", "drop-saved") == "done"


def test_a_disk_that_a_stranger_runs_with_is_told_and_not_tried_in_a_storm(cluster: Cluster) -> None:
    """QEMU's own lock of the image is the last line; what holds it is nobody's that domctl knows."""
    host, image = cluster.hosts[0], f"{IMAGES}/locked.img"
    host.path(image).write_bytes(bytes(1 << 20))
    host.define(STRANGER.format(image=image))
    host.virsh("start", "stranger")
    disks = [{"name": "root", "source": {"file": image}}]
    cluster.apply("second", placement={"node": "n1"}, disks=disks)
    cluster.wait_reason("second", "DiskLocked")
    assert condition(cluster.domain("second"), "Stalled")["status"] == "True"
    calls = cluster.mutations()
    time.sleep(8)
    assert cluster.mutations() == calls, "no storm of starts"
    assert "running" in host.virsh("domstate", "stranger")


def on_overlay(host: LabHost, name: str) -> bool:
    return f"{name}.s1" in host.virsh("domblklist", name)


def test_a_guest_on_an_external_snapshot_is_left_there_and_never_booted_from_its_base(
    cluster: Cluster,
) -> None:
    """What backup tools do. One guest dies on it before domctl can have noticed, one thereafter."""
    host, names = cluster.hosts[0], ("follows", "commits")
    for name in names:
        image = f"{IMAGES}/{name}.qcow2"
        host.run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
        disk = {"name": "root", "source": {"file": image, "shared": True}, "format": "qcow2"}
        cluster.apply(name, placement={"node": "n1"}, disks=[disk])
    cluster.wait_ready(*names)
    for name in names:
        spec = f"vda,file={IMAGES}/{name}.s1"
        host.virsh("snapshot-create-as", name, "--disk-only", "--no-metadata", "--diskspec", spec)
    host.virsh("destroy", "follows")
    held = cluster.wait_reason("follows", "DiskMovedByHand")
    assert condition(held, "Stalled")["status"] == "True"
    runs = next(copy for copy in copies(host) if copy.name == "commits")
    host.virsh("suspend", "commits")  # so that it is looked at before the next deep reading
    host.virsh("resume", "commits")
    cluster.wait_reason("commits", "DiskMovedByHand")
    cluster.verify("commits", same_run=runs)
    assert f"{IMAGES}/commits.s1" in cluster.controller.domctl("describe", "domain", "commits")
    calls = cluster.mutations()
    host.virsh("destroy", "commits")
    time.sleep(4)
    assert cluster.mutations() == calls, "neither is defined with its base, nor started from it"
    for name in names:
        assert cluster.the_copy(name).state == "shut off"
        assert on_overlay(host, name)

    disk = {"name": "root", "source": {"file": f"{IMAGES}/follows.s1", "shared": True}, "format": "qcow2"}
    cluster.apply("follows", placement={"node": "n1"}, disks=[disk])
    host.virsh("start", "commits")
    host.virsh("blockcommit", "commits", "vda", "--active", "--pivot", "--wait")
    host.virsh("suspend", "commits")
    host.virsh("resume", "commits")
    cluster.wait_ready(*names)
    for name in names:
        cluster.verify(name)
        assert on_overlay(host, name) == (name == "follows")


@pytest.mark.long
def test_a_save_that_finds_no_room_leaves_the_guest_running(cluster: Cluster) -> None:
    """Told by a storage pool of that directory, on a file system of its own."""
    cluster.run("big", memory="64Mi", placement={"node": "n1"})
    host, before = cluster.hosts[0], cluster.verify("big")
    host.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", SAVES)
    try:
        host.virsh("pool-create-as", "saves", "dir", "--target", SAVES)
        cluster.controller.domctl("save", "big")
        cluster.wait_reason("big", "BackingOff")
        assert "7 MiB free" in cluster.message("big") or "8 MiB free" in cluster.message("big")
        cluster.still(before)
    finally:
        host.run("virsh", "-q", "pool-destroy", "saves")
        host.run("umount", SAVES)
    in_state(cluster, "big", "shut off")


def test_what_is_asked_for_once_is_done_once_though_the_controller_dies(cluster: Cluster) -> None:
    with_tick_images(cluster.hosts)
    cluster.run("asked", ticking=True)
    before = cluster.verify("asked")
    host, domctl = before.host, cluster.controller.domctl
    until(lambda: ticks(host, "asked") > 3, 20, lambda: cluster.story("asked"))
    domctl("reset", "asked")
    until(lambda: boots(host, "asked") == 2, 15, lambda: cluster.story("asked"))
    until(lambda: outcome(cluster, "asked", "reset") == "done", 10, lambda: cluster.story("asked"))
    cluster.verify("asked", same_run=before)
    cluster.controller.kill()
    cluster.controller.start()
    cluster.wait_ready("asked")
    time.sleep(2)
    assert boots(host, "asked") == 2, "it was reset again"
    host.virsh("suspend", "asked")
    cluster.wait_reason("asked", "PausedByHand")
    domctl("resume", "asked", "--wait")
    cluster.verify("asked", same_run=before)


def test_transient_domains_leave_nothing_to_start_and_pinned_ones_start_at_boot(cluster: Cluster) -> None:
    cluster.apply("t", persistence="transient", placement={"node": "n1"})
    cluster.apply("boots", placement={"node": "n1"}, recovery={"autostart": True})
    cluster.wait_ready("t", "boots")
    host = cluster.hosts[0]
    copy = cluster.the_copy("t")
    assert copy.state == "running" and not copy.is_persistent
    assert "enable" in host.virsh("dominfo", "boots").split("Autostart:")[1].split()[0]
    host.virsh("destroy", "t")

    def runs_again() -> bool:
        return any(
            c.run != copy.run and c.state == "running" and not c.is_persistent for c in cluster.copies("t")
        )

    until(runs_again, 30, lambda: cluster.story("t"))
    cluster.controller.domctl("shutdown", "t", "boots", "--wait")
    assert cluster.copies("t") == []
    assert "disable" in host.virsh("dominfo", "boots").split("Autostart:")[1].split()[0]
    cluster.controller.domctl("start", "t", "--wait")
    assert not cluster.the_copy("t").is_persistent


def test_after_a_power_cut_only_what_was_asked_to_starts_by_itself_and_nothing_starts_twice(
    cluster: Cluster,
) -> None:
    """With no controller anywhere: the host comes back, and its libvirtd alone acts."""
    on_n1 = {"node": "n1"}
    cluster.apply("boots", placement=on_n1, recovery={"autostart": True})
    cluster.apply("rests", placement=on_n1, recovery={"autostart": True}, state="shutoff")
    cluster.apply("waits", placement=on_n1)
    cluster.apply("leaves", recovery={"onNodeFailure": "Restart"}, placement={"nodeSelector": {"node": "n1"}})
    cluster.wait_ready("boots", "rests", "waits", "leaves")
    host = cluster.hosts[0]
    cluster.controller.stop()
    host.poweroff()
    host.poweron()
    until(lambda: cluster.the_copy("boots").state == "running", 30, lambda: str(copies(host)))
    time.sleep(2)
    assert {copy.name: copy.state for copy in copies(host)} == {
        "boots": "running",
        "rests": "shut off",
        "waits": "shut off",
    }, "what may start elsewhere is transient, and left nothing behind"
    by_itself = cluster.the_copy("boots")
    cluster.controller.start()

    def run_again() -> bool:
        found = [copy.state for name in ("waits", "leaves") for copy in cluster.copies(name)]
        return found == ["running", "running"]

    until(run_again, 30, lambda: cluster.story("waits"))
    cluster.wait_ready("boots", "rests", "waits", "leaves")
    cluster.verify("boots", same_run=by_itself)
    cluster.verify("rests", state="shut off")


@pytest.mark.long
def test_a_rung_that_does_not_work_is_followed_by_the_next_at_once(cluster: Cluster) -> None:
    """The guest has the agent's channel, and nobody at its other end."""
    ladder = [{"method": "agent", "timeoutSeconds": 600}, {"method": "destroy"}]
    cluster.run("a", shutdown=ladder)
    host = cluster.host_of("a")
    assert "org.qemu.guest_agent.0" in host.virsh("dumpxml", "a")
    calls = cluster.mutations()
    time.sleep(2)
    assert cluster.mutations() == calls, "the channel is no drift"
    cluster.controller.domctl("shutdown", "a", "--wait", "--timeout=30s")
    in_state(cluster, "a", "shut off")


PANIC = "<domain><devices><panic model='isa'/></devices></domain>"


@pytest.fixture
def endings(cluster: Cluster) -> Cluster:
    """Guests that end by themselves a second after they began, on every host."""
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([str(LAB), "guest", "--out", made], check=True, capture_output=True)
        for host in cluster.hosts:
            for how in ("off", "fault", "reboot", "panic"):
                host.path(f"{IMAGES}/{how}.img").write_bytes((Path(made) / f"{how}.img").read_bytes())
    cluster.controller.stop()
    cluster.controller.config = {**cluster.controller.config, "xmlOverlay": {"allowed": True}}
    cluster.controller.start()
    return cluster


def ending(how: str, **more: Any) -> dict[str, Any]:
    source = {"file": f"{IMAGES}/{how}.img", "shared": True}
    disk = {"name": "root", "source": source, "readOnly": True, "shareable": True}
    return {"os": {"boot": ["hd"]}, "disks": [disk], **({"xml": PANIC} if how == "panic" else {}), **more}


@pytest.mark.long
def test_guests_that_end_by_themselves_are_restarted_as_their_policy_says(endings: Cluster) -> None:
    cluster = endings
    told = {
        "off-never": ("Completed", ending("off", restartPolicy="Never")),
        "off-failure": ("Completed", ending("off", restartPolicy="OnFailure")),
        "off-always": ("CrashLoop", ending("off")),
        "panic-never": ("Completed", ending("panic", restartPolicy="Never")),
        "panic-failure": ("CrashLoop", ending("panic", restartPolicy="OnFailure")),
        "panic-kept": ("CrashedPreserved", ending("panic", onCrash="preserve")),
        "reboot-ends": ("Completed", ending("reboot", restartPolicy="Never", onReboot="destroy")),
        "fault-ends": ("CrashLoop", ending("fault", onReboot="destroy")),
    }
    for name, (_, spec) in told.items():
        cluster.apply(name, **spec)
    cluster.run("fault-goes-on", **ending("fault", restartPolicy="Never"))
    cluster.run("reboot-goes-on", **ending("reboot", restartPolicy="Never"))
    kept = {name: cluster.the_copy(name) for name in ("fault-goes-on", "reboot-goes-on")}
    for name, (wanted, _) in told.items():
        cluster.wait_reason(name, wanted, timeout_s=60)
    assert cluster.the_copy("panic-kept").state == "crashed", "it holds its disks"
    assert reason(cluster.domain("off-never")) == "Completed"
    for name, before in kept.items():
        cluster.verify(name, same_run=before)
