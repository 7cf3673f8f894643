"""Consoles of real guests: recorded, shown by `kubectl logs`, followed, and typed on by `kubectl attach`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import DOMAINS
from tests.e2e.cluster import IMAGES, Cluster, with_tick_images
from tests.e2e.serve import DOMCTL, until
from tests.kubectl import newest
from tests.terminal import Terminal

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


class Follower:
    """A command that goes on printing; what it printed so far."""

    def __init__(self, command: list[str], env: dict[str, str], output: Path) -> None:
        self.output = output
        self._file = output.open("wb")
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._file.close()

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def ticks(self) -> list[int]:
        return [int(number) for number in re.findall(r"TICK (\d+)\r?\n", self.text)]


def following(cluster: Cluster, home: Path, name: str) -> Follower:
    pod = pod_of(cluster, home, name)
    return Follower(
        [newest(), "logs", "-f", "--tail=1", pod], environment(cluster, home), home / f"{name}.log"
    )


def test_kubectl_logs_f_goes_on_over_a_migration_and_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("moves", **guest("tick.img"))
    first = cluster.host_of("moves")
    with following(cluster, tmp_path, "moves") as follower:
        until(lambda: len(follower.ticks) > 3, 20, lambda: f"nothing came: {follower.text}")
        done = domctl(cluster, "migrate", "moves", "--wait", "--timeout=60s")
        assert done.returncode == 0, done.stderr
        assert cluster.host_of("moves") is not first
        seen = len(follower.ticks)
        until(lambda: len(follower.ticks) > seen + 10, 20, lambda: f"ended: {follower.text[-300:]}")
        assert follower.ticks == sorted(follower.ticks), "it is the same guest, which counts on"
        assert "[domctl: read again, on node " in follower.text
        before = cluster.the_copy("moves")
        cluster.host_of("moves").virsh("destroy", "moves")  # and domctl starts it again
        until(lambda: follower.ticks[-1] < follower.ticks[seen], 30, lambda: f"{follower.text[-300:]}")
        assert cluster.the_copy("moves").run != before.run


def domctl(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DOMCTL), *arguments],
        env={**os.environ, "KUBECONFIG": str(cluster.controller.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.long
def test_a_daemon_that_dies_is_only_a_gap(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("gaps", **guest("tick.img"))
    host = cluster.host_of("gaps")
    with following(cluster, tmp_path, "gaps") as follower:
        until(lambda: len(follower.ticks) > 3, 20, lambda: f"nothing came: {follower.text}")
        host.kill_libvirtd()
        host.restart_libvirtd()
        until(lambda: "read again" in follower.text, 40, lambda: f"not read again: {follower.text[-300:]}")
        seen = len(follower.ticks)
        until(lambda: len(follower.ticks) > seen, 20, lambda: f"ended: {follower.text[-300:]}")


@pytest.mark.long
def test_of_a_domain_that_is_off_what_it_wrote_is_still_there(cluster: Cluster) -> None:
    cluster.run("ends", **guest("tick.img"))
    until(lambda: "TICK" in domctl(cluster, "logs", "ends").stdout, 20, "no log")
    cluster.controller.api().merge(f"{DOMAINS}/ends", {"spec": {"state": "shutoff"}})
    cluster.wait_ready("ends")
    assert "TICK" in domctl(cluster, "logs", "ends", "--tail=5").stdout
    refused = domctl(cluster, "console", "ends")
    assert refused.returncode == 1
    assert "the console of ends cannot be opened: the domain is not running" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("client", ["kubectl", "domctl"])
def test_a_terminal_can_be_typed_on_while_others_watch(cluster: Cluster, tmp_path: Path, client: str) -> None:
    name = f"echo-{client}"
    cluster.run(name, **guest("echo.img", serials=[{"name": "main", "record": True}]))
    env = {**os.environ, **environment(cluster, tmp_path), "TERM": "xterm"}
    pod = pod_of(cluster, tmp_path, name)
    command = {
        "kubectl": [newest(30), "attach", "-it", pod],
        "domctl": [str(DOMCTL), "console", name],
    }[client]
    with following(cluster, tmp_path, name) as watcher, Terminal(command, env) as terminal:
        for _ in range(40):  # what is typed before it is attached, the terminal itself shows
            terminal.type("hello there\n")
            terminal.shows("nothing of the kind", 2)
            if "hello there" in watcher.text:
                break
        story = f"{terminal.text!r}\n{watcher.text!r}\n{cluster.controller.tail()}"
        assert "hello there" in watcher.text, story
        assert terminal.shows("hello there", 10), terminal.text
        if client == "domctl":
            terminal.type("\x1d")
            terminal.shows("nothing of the kind", 1)
            assert terminal.process.wait(20) == 0
        assert "hello there" in kubectl(cluster, tmp_path, "logs", pod).stdout
