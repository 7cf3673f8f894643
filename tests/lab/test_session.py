"""Hosts without root, run here by a user who has nothing: smaller than the lab's, but hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.test_lab import wait_until
from tests.labhost import LAB, tick_xml

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Nobody:
    """Runs the lab as `nobody` (or as whoever runs the tests, if not root) from a copy it may read."""

    directory: Path

    def lab(self, verb: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(self.directory / "deploy/lab"),
            verb,
            "--dir",
            str(self.directory / "labs"),
            "--name",
            "s",
        ]
        return self.run(*command, *args)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        drop = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
        return subprocess.run(
            [*(drop if os.geteuid() == 0 else ()), *command],
            capture_output=True, text=True, check=False, timeout=100, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def hosts(self) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = json.loads(self.lab("status", "-o", "json").stdout)["hosts"]
        return shown

    def virsh(self, number: int, *args: str) -> str:
        done = self.run("virsh", "-q", "-c", self.hosts()[number - 1]["uri"], *args)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def nobody() -> Iterator[Nobody]:
    directory = Path(tempfile.mkdtemp(prefix="dl", dir="/tmp"))  # short: sockets stand below
    try:
        shutil.copytree(LAB.parent, directory / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        (directory / "labs").mkdir()
        if os.geteuid() == 0:
            shutil.chown(directory / "labs", "nobody")
        for path in (directory, *directory.rglob("*")):
            path.chmod(0o755)
        made = Nobody(directory)
        up = made.lab("up", "--hosts", "2")
        assert up.returncode == 0, up.stderr
        yield made
        made.lab("down")
    finally:
        shutil.rmtree(directory)


def test_hosts_without_root_have_uuids_and_domains_of_their_own_and_end_with_their_lab(
    nobody: Nobody,
) -> None:
    hosts = nobody.hosts()
    for number, host in enumerate(hosts, start=1):
        assert f"<uuid>{host['host_uuid']}</uuid>" in nobody.virsh(number, "capabilities")
    assert len({host["host_uuid"] for host in hosts}) == 2

    own = Path(hosts[0]["directory"])
    assert nobody.run(str(nobody.directory / "deploy/lab"), "guest", "--out", str(own / "lib")).stdout
    serial = own / "lib/serial/web"
    xml = tick_xml("web", str(uuid.uuid4())).replace("/run/lab-shared", f"{own}/lib")
    (own / "web.xml").write_text(xml.replace("/var/log/libvirt/serial/web", str(serial)))
    nobody.virsh(1, "define", str(own / "web.xml"))
    nobody.virsh(1, "start", "web")
    wait_until(lambda: serial.stat().st_size > 0)
    assert nobody.virsh(2, "list", "--all", "--name").split() == []

    identity = nobody.virsh(1, "domid", "web")
    nobody.lab("kill", "1")
    assert nobody.hosts()[0]["libvirtd"] == "dead"
    assert nobody.lab("restart", "1").returncode == 0
    assert nobody.virsh(1, "domid", "web") == identity
    size = serial.stat().st_size
    wait_until(lambda: serial.stat().st_size > size)

    assert "need root" in nobody.lab("cut", "1").stderr
    pids = [pid for host in nobody.hosts() for pid in host["pids"]]
    assert nobody.lab("poweroff", "1").returncode == 0
    assert nobody.lab("poweron", "1").returncode == 0
    assert nobody.virsh(1, "domstate", "web").strip() == "shut off"
    nobody.virsh(1, "start", "web")
    pids += [pid for host in nobody.hosts() for pid in host["pids"]]

    assert nobody.lab("down").returncode == 0
    assert list((nobody.directory / "labs").iterdir()) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
