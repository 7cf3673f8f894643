"""The ladder of `spec.shutdown` on a Linux guest with QEMU's own agent, and with one that is no use."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import condition
from tests.e2e.cluster import IMAGES, Cluster
from tests.e2e.serve import until
from tests.labhost import LAB, LabHost

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(240)]

ALONE = [{"method": "agent", "timeoutSeconds": 600}]
BOOT_S = 90.0
FILES = ("vmlinuz", "agent.gz")


@pytest.fixture
def linux(cluster: Cluster) -> Cluster:
    """Every host has the guest with an agent, which has written nothing there yet."""
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([str(LAB), "guest", "--out", made], check=True, capture_output=True)
        assert (Path(made) / "agent.gz").exists(), "no qemu-ga: run deploy/bootstrap"
        for host in cluster.hosts:
            for name in FILES:
                host.path(f"{IMAGES}/{name}").write_bytes((Path(made) / name).read_bytes())
            written = host.path(f"{IMAGES}/ticks")
            written.mkdir(exist_ok=True)
            for file in written.iterdir():
                file.unlink()
    return cluster


def guest(name: str, agent: str, ladder: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "memory": "160Mi",
        "os": {
            "kernel": f"{IMAGES}/vmlinuz",
            "initrd": f"{IMAGES}/agent.gz",
            "cmdline": f"console=ttyS0 quiet agent={agent}",
        },
        "serials": [{"name": "console", "type": "file", "path": console(name), "append": True}],
        "shutdown": ladder,
    }


def console(name: str) -> str:
    return f"{IMAGES}/ticks/{name}"


def booted(host: LabHost, name: str, agent: str, times: int = 1) -> None:
    said = host.path(console(name))
    until(
        lambda: boots(host, name, agent) >= times,
        BOOT_S,
        lambda: said.read_text(errors="replace")[-2000:] if said.exists() else "it wrote nothing",
    )


def boots(host: LabHost, name: str, agent: str) -> int:
    said = host.path(console(name))
    return said.read_text(errors="replace").count(f"AGENT {agent}") if said.exists() else 0


def channel(host: LabHost, name: str) -> str:
    """libvirt's word on whether somebody has opened the agent's channel in the guest."""
    xml = host.virsh("dumpxml", name)
    return xml.partition("name='org.qemu.guest_agent.0' state='")[2].partition("'")[0]


def told(cluster: Cluster, name: str) -> str:
    """domctl's word on the same."""
    return str(condition(cluster.domain(name), "AgentConnected").get("reason"))


def shut_off(cluster: Cluster, name: str, within_s: float) -> float:
    """Seconds from the wish until its host has it off."""
    began = time.monotonic()
    cluster.controller.domctl("shutdown", name)
    until(lambda: cluster.the_copy(name).state == "shut off", within_s, lambda: cluster.story(name))
    took_s = time.monotonic() - began
    cluster.wait_ready(name)
    return took_s


def test_the_agent_ends_a_guest_that_does_not_listen_to_acpi(linux: Cluster) -> None:
    """There is no other step, so nothing else can have done it; nor does the guest hear the power button."""
    linux.run("a", **guest("a", "answers", ALONE))
    host = linux.host_of("a")
    booted(host, "a", "answers")
    until(lambda: channel(host, "a") == "connected", 10, lambda: channel(host, "a"))
    until(lambda: told(linux, "a") == "Connected", 10, lambda: linux.story("a"))  # a list comes once a minute
    host.virsh("shutdown", "a", "--mode", "acpi")
    time.sleep(2)
    before = host.path(console("a")).stat().st_size
    time.sleep(1)
    assert host.path(console("a")).stat().st_size > before, "it heard the power button"
    shut_off(linux, "a", 30)


@pytest.mark.long
def test_a_guest_is_asked_once_to_start_again_and_its_run_stays_the_same(linux: Cluster) -> None:
    """By its agent, for it hears nothing else."""
    linux.run("a", **guest("a", "answers", ALONE))
    before = linux.verify("a")
    booted(before.host, "a", "answers")
    until(lambda: channel(before.host, "a") == "connected", 10, lambda: channel(before.host, "a"))
    linux.controller.domctl("reboot", "a")
    booted(before.host, "a", "answers", times=2)
    until(lambda: asked(linux, "a") == {"reboot": "done"}, 10, lambda: linux.story("a"))
    linux.wait_ready("a")
    linux.verify("a", same_run=before)
    linux.controller.kill()
    linux.controller.start()
    linux.wait_ready("a")
    time.sleep(3)
    assert boots(before.host, "a", "answers") == 2, "it was asked again"


def asked(cluster: Cluster, name: str) -> dict[str, str]:
    """What came of requests."""
    return {r["name"]: r["outcome"] for r in cluster.domain(name)["status"].get("requests", [])}


NEXT = [{"method": "agent", "timeoutSeconds": 12}, {"method": "destroy"}]
# What becomes of the agent, whether its channel looks open, and how long the next step may be waited for.
# libvirt asks an agent to say a number after it, for 5 s, before it asks for anything else.
USELESS = {
    "dead": ("disconnected", 0.0, 8.0),
    "stuck": ("connected", 4.0, 12.0),
    "deaf": ("connected", 11.0, 18.0),  # libvirt waits on for the guest's end; we do not
}


@pytest.mark.long
def test_an_agent_that_is_no_use_is_followed_by_the_next_step(linux: Cluster) -> None:
    """One that has ended, or answers nothing, at once: libvirt says so. One that answers and does nothing,
    when the step's time is over, and not before."""
    for agent in USELESS:
        linux.run(agent, **guest(agent, agent, NEXT))
    for agent, (state, _, _) in USELESS.items():
        host = linux.host_of(agent)
        booted(host, agent, agent)
        until(lambda: channel(host, agent) == state, 10, lambda: channel(host, agent))  # noqa: B023
        shown = {"connected": "Connected", "disconnected": "NotConnected"}[state]
        until(lambda: told(linux, agent) == shown, 10, lambda: linux.story(agent))  # noqa: B023
    took = {agent: shut_off(linux, agent, 60) for agent in USELESS}
    for agent, (_, least_s, most_s) in USELESS.items():
        assert least_s <= took[agent] <= most_s, took
    assert "node does not answer" not in linux.controller.tail(1 << 20), "a slow agent is no broken host"
