"""A lab with doors (`lab up --transports`): its hosts are reached as hosts of one's own are, by what
`lab status` prints; and they reach each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller import config
from controller.doctor.facts import credentials
from drivers.errors import AuthFailed
from drivers.hypervisor import Credentials, Target
from drivers.libvirt import Access, LibvirtHypervisor
from specs.uri import parse_migration_uri
from specs.validate import load_file_objects
from tests.doctorrun import doctor
from tests.labhost import LAB, CommandError, Lab, LabHost, lab_up, tick_xml

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]
TRANSPORTS = ("tls", "tcp", "ssh")


@pytest.fixture(scope="module")
def open_lab(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts with doors, beside the session's lab, which is asked for only to be skipped with it."""
    made = lab_up(tmp_path_factory.mktemp("doors"), "open", 2, "--transports")
    try:
        made.make_guests()
        yield made
    finally:
        made.down()


def by_socket(host: LabHost) -> LabHost:
    """Its port asks for a password; its socket does not."""
    return replace(host, uri=host.local_uri)


def run(lab: Lab, verb: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LAB), verb, "--dir", str(lab.base), "--name", lab.name, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def nodes(lab: Lab, transport: str) -> dict[str, Any]:
    """What `lab status` tells to apply, read as domctl reads it."""
    shown = run(lab, "status", "--transport", transport).stdout
    objects, problems = load_file_objects(shown)
    assert not problems
    return {one.raw["metadata"]["name"]: one.raw["spec"] for one in objects}


def access(lab: Lab, tmp_path: Path) -> Access:
    """What the configuration allows that the lab brings along."""
    file = lab.base / lab.name / "clients/domctl.yaml"
    allowed = config.parse(file.read_text(), str(file), {"data_dir": str(tmp_path)}).connections
    return Access(files_under=allowed.files_under, private_dir=tmp_path / "links")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_host_is_registered_by_each_transport_as_status_prints_it(
    open_lab: Lab, tmp_path: Path, transport: str
) -> None:
    hypervisor = LibvirtHypervisor(access=access(open_lab, tmp_path))
    shown = nodes(open_lab, transport)
    assert list(shown) == [host.name for host in open_lab.hosts]
    for host in open_lab.hosts:
        spec = shown[host.name]
        aim = Target(host.name, spec["uri"], credentials=credentials(spec["connection"]))
        session = await hypervisor.open(aim, lambda *_: None)
        facts = await session.facts()
        assert (facts.host_uuid, facts.secure) == (host.host_uuid, True)
    await hypervisor.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nobody_comes_in_without_what_opens_a_door(
    open_lab: Lab, tmp_path: Path, transport: str
) -> None:
    """A lab's own plain TCP is among them: its port asks everybody for a password now."""
    hypervisor = LibvirtHypervisor(access=access(open_lab, tmp_path))
    spec = nodes(open_lab, transport)[open_lab.hosts[0].name]
    wrong = Credentials(known_hosts=credentials(spec["connection"]).known_hosts)
    with pytest.raises(AuthFailed):
        await hypervisor.open(Target("n", spec["uri"], credentials=wrong), lambda *_: None)
    await hypervisor.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_guest_migrates_between_the_hosts_by_each_transport(open_lab: Lab, transport: str) -> None:
    """Peer to peer, by the URI of the target's Node, with what the source has to show."""
    source, target = (by_socket(host) for host in open_lab.hosts)
    uri = parse_migration_uri(nodes(open_lab, transport)[target.name]["uri"])
    source.define(tick_xml("web", str(uuid.uuid4())))
    try:
        source.virsh("start", "web")
        source.virsh("migrate", "--live", "--p2p", "--persistent", "--undefinesource", "web", uri)
        assert source.virsh("list", "--all", "--name").split() == []
        assert target.virsh("list", "--name").split() == ["web"]
        before = target.ticks("web")
        ends_at = time.monotonic() + 20
        while target.ticks("web") <= before:
            assert time.monotonic() < ends_at
            time.sleep(0.05)
    finally:
        source.clear()
        target.clear()


@pytest.mark.parametrize("transport", ["tls", "ssh"])
def test_a_probe_goes_between_the_hosts_by_the_transport_of_their_uris(open_lab: Lab, transport: str) -> None:
    shown = nodes(open_lab, transport)
    one, other = (replace(host, uri=shown[host.name]["uri"]) for host in open_lab.hosts)
    ran = doctor(one.uri, other.uri, "--probe", *keys(shown[one.name]["connection"]), "-o", "json")
    for source, target in ((one, other), (other, one)):
        pair = ran.of_pair(source, target)
        assert {"migration", "probe-removed"} <= set(pair["passed"]), pair
    assert [by_socket(host).virsh("list", "--all", "--name").strip() for host in open_lab.hosts] == ["", ""]


def keys(connection: dict[str, str]) -> list[str]:
    """What opens the doors, in the words of the command line."""
    words = {"pkiDir": "--pki-dir", "knownHosts": "--known-hosts", "keyFile": "--key-file"}
    return [arg for name, path in connection.items() for arg in (words[name], path)]


@pytest.mark.long
def test_sshd_comes_back_with_the_power_and_with_up(open_lab: Lab) -> None:
    host, other = open_lab.hosts
    way = f"qemu+ssh://root@{host.address}/system"
    host.poweroff()
    assert host.status()["sshd"] == "dead"
    with pytest.raises(CommandError):
        other.run("virsh", "-q", "-c", way, "hostname")
    host.poweron()
    assert host.status()["sshd"] == "running"
    assert other.run("virsh", "-q", "-c", way, "hostname").strip() == host.name
    pid = (host.directory / "sshd.pid").read_text().split()[0]
    subprocess.run(["kill", "-KILL", pid], check=True)
    assert run(open_lab, "up", "--hosts", "2", "--transports").returncode == 0
    assert other.run("virsh", "-q", "-c", way, "hostname").strip() == host.name


def test_up_changes_no_lab_into_one_of_the_other_kind(open_lab: Lab) -> None:
    done = run(open_lab, "up", "--hosts", "2")
    assert done.returncode == 1 and "is up with --transports; run `lab down` first" in done.stderr


def test_status_as_json_has_the_nodes_too(open_lab: Lab) -> None:
    shown = json.loads(run(open_lab, "status", "-o", "json").stdout)["hosts"]
    assert [list(host["nodes"]) for host in shown] == [list(TRANSPORTS)] * 2


def test_a_lab_without_doors_says_how_to_have_them(lab: Lab) -> None:
    done = run(lab, "status", "--transport", "tls")
    assert done.returncode == 1 and "--transports" in done.stderr
