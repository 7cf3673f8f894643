"""`domctl doctor` at real hosts of the lab, run as a user would run it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doctorrun import DOMCTL, Ran, doctor
from tests.doors import open_doors
from tests.labhost import LabHost, tick_xml

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

UUID = "5b1f7c52-7f0b-4e6c-9a51-3c6a2b9d1c22"


def test_two_lab_hosts_have_nothing_wrong_but_what_the_lab_leaves_open(hosts: tuple[LabHost, ...]) -> None:
    """The lab's port has no authentication: of a host that no Node vouches for, that is an error."""
    one, other, *_ = hosts
    ran = doctor(one.uri, other.uri, "-o", "json")
    assert ran.code == 1, ran.err
    for host in (one, other):
        assert [f["check"] for fs in ran.findings(host).values() for f in fs if f["severity"] == "error"] == [
            "link"
        ]
        assert {"security-driver", "qemu-user"} <= set(ran.findings(host))
        shown = next(h for h in ran.report["hosts"] if h["uri"] == host.uri)
        assert shown["facts"]["hostUuid"] == host.host_uuid
        assert {"autostart", "host-uuid-unique", "version-skew", "storage-pools"} <= set(shown["passed"])
    for source, target in ((one, other), (other, one)):
        assert ran.of_pair(source, target)["passed"][:2] == ["machines", "cpu"]


def test_autostart_is_found_and_the_command_that_is_named_mends_it(hosts: tuple[LabHost, ...]) -> None:
    host = hosts[0]
    host.define(tick_xml("old", UUID))
    host.virsh("autostart", "old")
    (found,) = doctor(host.uri, "-o", "json").findings(host)["autostart"]
    assert "old" in found["seen"]
    (mend,) = found["mend"]
    subprocess.run(["bash", "-c", mend["command"]], check=True, capture_output=True)
    assert "autostart" not in doctor(host.uri, "-o", "json").findings(host)
    assert re.search(r"Autostart:\s+disable", host.virsh("dominfo", "old"))


@pytest.fixture
def twins(hosts: tuple[LabHost, ...]) -> Iterator[tuple[LabHost, LabHost]]:
    """Two hosts, one of them a clone of the other as far as its host_uuid goes."""
    original, clone = hosts[0], hosts[1]
    file = clone.path("/etc/libvirt/libvirtd.conf")
    before = file.read_text()
    file.write_text(before.replace(clone.host_uuid, original.host_uuid))
    clone.restart_libvirtd()
    yield original, clone
    file.write_text(before)
    clone.restart_libvirtd()


def test_a_cloned_host_uuid_is_an_error_on_both_and_why_no_migration_works(
    twins: tuple[LabHost, LabHost],
) -> None:
    ran = doctor(*(host.uri for host in twins), "--probe", "-o", "json")
    assert ran.code == 1
    for host, other in (twins, twins[::-1]):
        (found,) = ran.findings(host)["host-uuid-unique"]
        assert found["severity"] == "error" and other.uri in found["seen"] and other.name in found["seen"]
        assert [one["why"] for one in ran.of_pair(host, other)["findings"]] == [
            "both have one host_uuid, so libvirt takes them for one host"
        ]
    assert left(*twins) == ["", ""]


# -- probes ----------------------------------------------------------------------------------------------


def left(*hosts: LabHost) -> list[str]:
    return [host.virsh("list", "--all", "--name").strip() for host in hosts]


def test_a_probe_migrates_both_ways_and_leaves_nothing(hosts: tuple[LabHost, ...]) -> None:
    one, other, *_ = hosts
    one.define(tick_xml("old", UUID))
    ran = doctor(one.uri, other.uri, "--probe", "-o", "json")
    for source, target in ((one, other), (other, one)):
        pair = ran.of_pair(source, target)
        assert {"migration", "probe-removed"} <= set(pair["passed"]), pair
        assert pair["probe"]["seconds"] > 0
    assert "2 times, a guest without disks" in ran.err, "it says before what it is going to do"
    assert left(one, other) == ["old", ""]


def test_a_name_that_the_source_cannot_resolve_is_found_and_mended(hosts: tuple[LabHost, ...]) -> None:
    source, target, *_ = hosts
    names = source.directory / "hosts"
    before = names.read_text()
    names.write_text("".join(line for line in before.splitlines(True) if target.name not in line))
    try:
        (found,) = doctor(source.uri, target.uri, "--probe", "-o", "json").of_pair(source, target)["findings"]
        assert found["check"] == "migration" and found["severity"] == "error"
        assert f"cannot resolve {target.name}" in found["why"]
        (mend,) = found["mend"]
        assert mend["on"] == source.name
        source.run("bash", "-c", mend["command"])
        again = doctor(source.uri, target.uri, "--probe", "-o", "json")
        assert "migration" in again.of_pair(source, target)["passed"]
    finally:
        names.write_text(before)
    assert left(source, target) == ["", ""]


def probing(*hosts: LabHost) -> list[str]:
    return [*DOMCTL, "doctor", *(host.uri for host in hosts), "--probe"]


@pytest.fixture
def apart(hosts: tuple[LabHost, ...]) -> Iterator[tuple[LabHost, LabHost]]:
    """Two hosts that answer us, and not the first the second: its packets go to nobody."""
    source, target, *_ = hosts
    nobody = ("lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
    source.run("ip", "neigh", "replace", target.address, *nobody)
    yield source, target
    source.run("ip", "neigh", "del", target.address, "dev", "eth0")


@pytest.mark.long
def test_a_cut_between_two_hosts_is_bounded_and_told_from_one_to_us(apart: tuple[LabHost, LabHost]) -> None:
    source, target = apart
    ran = doctor(source.uri, target.uri, "--probe", "-o", "json")
    assert ran.took_s < 100
    (found,) = ran.of_pair(source, target)["findings"]
    assert (found["check"], found["severity"]) == ("migration", "error")
    assert "vanish on the way" in found["why"]
    assert "probe-removed" in ran.of_pair(source, target)["passed"]
    assert left(source, target) == ["", ""]


def test_ctrl_c_in_a_migration_removes_the_guest_first(apart: tuple[LabHost, LabHost]) -> None:
    source, target = apart
    with subprocess.Popen(probing(source, target), stderr=subprocess.PIPE) as process:
        until(lambda: "running" in source.virsh("list"), 30)
        time.sleep(1)  # the migration is under way, and goes nowhere
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # impatience changes nothing
        assert b"removed first" in process.communicate(timeout=90)[1]
    assert process.returncode == 130
    assert left(source, target) == ["", ""]


@pytest.mark.long
def test_a_guest_whose_probe_was_killed_ends_by_itself(apart: tuple[LabHost, LabHost]) -> None:
    source, target = apart
    with subprocess.Popen(probing(source, target)) as process:
        until(lambda: "running" in source.virsh("list"), 30)
        process.kill()
    assert "left-probes" in doctor(source.uri, "-o", "json").findings(source)
    until(lambda: left(source, target) == ["", ""], 90)


def until(met: Callable[[], bool], within_s: float) -> None:
    end = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.1)


# -- ssh -------------------------------------------------------------------------------------------------

SSHD = "/etc/libvirt/doctor-ssh"  # in the host's view
SSHD_CONFIG = f"""\
HostKey {SSHD}/host_key
AuthorizedKeysFile {SSHD}/authorized_keys
PidFile {SSHD}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


@dataclass(frozen=True)
class SshHost:
    """A host with an sshd; `config` is a client's, which knows its key and has one of its own."""

    host: LabHost
    config: Path

    def doctor(self, *argv: str) -> Ran:
        return doctor(self.host.uri, "--ssh", "root@", "--ssh-config", str(self.config), "-o", "json", *argv)


@pytest.fixture
def ssh_host(hosts: tuple[LabHost, ...], tmp_path: Path) -> Iterator[SshHost]:
    host = hosts[0]
    there = host.path(SSHD)
    there.mkdir()
    for key in (there / "host_key", tmp_path / "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (there / "sshd_config").write_text(SSHD_CONFIG)
    (there / "authorized_keys").write_text((tmp_path / "key.pub").read_text())
    kind, blob, *_ = (there / "host_key.pub").read_text().split()
    (tmp_path / "known_hosts").write_text(f"{host.address} {kind} {blob}\n")
    config = tmp_path / "ssh_config"
    config.write_text(
        f"IdentityFile {tmp_path}/key\nUserKnownHostsFile {tmp_path}/known_hosts\nGlobalKnownHostsFile none\n"
        "StrictHostKeyChecking no\n"  # which must not be believed
    )
    host.path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host.run("/usr/sbin/sshd", "-f", f"{SSHD}/sshd_config")
    pid = there / "sshd.pid"
    until(lambda: pid.exists() and pid.read_text().strip() != "", 10)
    yield SshHost(host, config)
    host.run("/bin/kill", "-KILL", pid.read_text().strip())
    shutil.rmtree(there)


def test_over_ssh_a_host_tells_what_libvirt_does_not(ssh_host: SshHost) -> None:
    host = ssh_host.host
    link = host.path("/etc/libvirt/qemu/autostart/ghost.xml")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("/etc/libvirt/qemu/ghost.xml")
    try:
        ran = ssh_host.doctor()
    finally:
        link.unlink()
    found = ran.findings(host)
    (shown,) = ran.report["hosts"]
    assert "ghost" in found["autostart-links"][0]["seen"]
    assert found["lock-manager"][0]["mend"][0]["on"] == host.name
    assert "cgroups" in found, "the lab's qemu.conf says cgroup_controllers = []"
    passed = {"ssh", "clock", "qemu-conf-user", "open-port", "firewall", "client-limit"}
    assert passed <= set(shown["passed"]), shown
    left_open = {one["check"]: one["needs"] for one in shown["notChecked"]}
    assert "systemd there" in left_open["starts-at-boot"], "no systemd runs in the lab, and that is said"


def test_a_firewall_that_lets_no_migration_in_is_found_and_the_command_that_is_named_mends_it(
    ssh_host: SshHost,
) -> None:
    host = ssh_host.host
    host.run(
        "iptables", "-A", "INPUT", "-p", "tcp", "--match", "multiport", "--dports", "22,16509", "-j", "ACCEPT"
    )
    host.run("iptables", "-P", "INPUT", "DROP")
    try:
        (found,) = ssh_host.doctor().findings(host)["firewall"]
        assert (found["severity"], "49152 to 49215" in found["seen"]) == ("warning", True), found
        (mend,) = found["mend"]
        assert mend["on"] == host.name
        host.run("bash", "-c", mend["command"])
        assert "firewall" in ssh_host.doctor().shown(host)["passed"]
    finally:
        host.run("iptables", "-P", "INPUT", "ACCEPT")
        host.run("iptables", "-F", "INPUT")


def test_a_host_key_that_is_not_known_is_never_believed(ssh_host: SshHost) -> None:
    known = ssh_host.config.parent / "known_hosts"
    known.write_text("")
    ran = ssh_host.doctor()
    (found,) = ran.findings(ssh_host.host)["ssh"]
    assert "Host key verification failed" in found["seen"] and found["severity"] == "warning"
    assert known.read_text() == ""
    other = (ssh_host.config.parent / "key.pub").read_text().split()
    known.write_text(f"{ssh_host.host.address} {other[0]} {other[1]}\n")
    (found,) = ssh_host.doctor().findings(ssh_host.host)["ssh"]
    assert "CHANGED" in found["seen"] and found["severity"] == "error"


def test_a_closed_ssh_leaves_what_libvirt_tells(hosts: tuple[LabHost, ...]) -> None:
    ran = doctor(hosts[0].uri, "--ssh", f"root@{hosts[0].address}", "-o", "json")
    assert "ssh" in ran.findings(hosts[0]) and "qemu-user" in ran.findings(hosts[0])
    (shown,) = ran.report["hosts"]
    assert {"clock", "libvirt-guests"} <= {one["check"] for one in shown["notChecked"]}


# -- other transports ------------------------------------------------------------------------------------


def test_a_host_behind_tls_and_ssh_is_looked_at_with_what_opens_its_doors(
    hosts: tuple[LabHost, ...], tmp_path: Path
) -> None:
    doors = open_doors(hosts[0], tmp_path)
    try:
        tls, ssh = doors.uri("tls"), doors.uri("ssh")
        keys = ["--known-hosts", f"{tmp_path}/known_hosts", "--key-file", f"{tmp_path}/client_key"]
        ran = doctor(tls, ssh, "--pki-dir", f"{tmp_path}/pki", *keys, "-o", "json")
        by_tls, by_ssh = ran.report["hosts"]
        assert by_tls["reached"] and by_ssh["reached"], ran.out
        assert {"authentication", "link", "certificates"} <= set(by_tls["passed"])
        assert {"authentication", "link"} <= set(by_ssh["passed"])
        assert ran.code == 1, "one host by two URIs is one identity"

        for files, cause in (
            ([], "--pki-dir PKI-DIR"),
            (["--pki-dir", f"{tmp_path}/pki-expired"], "openssl x509"),
            (["--pki-dir", f"{tmp_path}/pki-stranger"], "tls_allowed_dn_list"),
            (["--pki-dir", f"{tmp_path}/pki-other"], "virt-pki-validate"),
        ):
            (found,) = doctor(tls, *files, "-o", "json").report["hosts"][0]["findings"]
            assert found["check"] == "authentication"
            assert any(cause in mend["command"] for mend in found["mend"]), found
        wrong = ["--auth-file", f"{tmp_path}/auth-wrong.yaml"]
        (found,) = doctor(doors.uri("tcp"), *wrong, "-o", "json").report["hosts"][0]["findings"]
        assert "saslpasswd2" in found["mend"][0]["command"], found
        keys[1] = f"{tmp_path}/known_hosts-changed"
        (found,) = doctor(ssh, *keys, "-o", "json").report["hosts"][0]["findings"]
        assert found["mend"] == [
            {"command": f"ssh-keygen -f {tmp_path}/known_hosts-changed -R {hosts[0].address}"}
        ]
    finally:
        doors.close()


# -- what does not answer --------------------------------------------------------------------------------


def test_a_black_hole_costs_its_deadline_and_no_more(hosts: tuple[LabHost, ...]) -> None:
    lost, well, *_ = hosts
    lost.cut(blackhole=True)
    ran = doctor(lost.uri, well.uri, "-o", "json")
    assert ran.code == 2
    assert ran.took_s < 10, "opening is bounded by 5 s, at all hosts together"
    (found,) = ran.findings(lost)["reachability"]
    assert found["seen"].startswith("its port did not answer")
    assert "link" in ran.findings(well), "the other host was looked at all the same"


def test_a_frozen_daemon_is_told_from_a_closed_port(hosts: tuple[LabHost, ...]) -> None:
    frozen, dead, *_ = hosts
    frozen.freeze()
    dead.kill_libvirtd()
    ran = doctor(frozen.uri, dead.uri, "-o", "json")
    assert ran.code == 2
    assert ran.findings(frozen)["reachability"][0]["seen"].startswith("libvirtd did not answer")
    assert ran.findings(dead)["reachability"][0]["seen"].startswith("its port did not answer")


def test_a_name_that_nobody_knows_is_told_as_such() -> None:
    ran = doctor("qemu+tcp://no-such-host.invalid/system")
    assert ran.code == 2
    assert "its name was not resolved" in ran.out


def test_nothing_of_a_host_is_changed_by_looking(hosts: tuple[LabHost, ...]) -> None:
    host = hosts[0]
    host.define(tick_xml("old", UUID))

    def state() -> list[str]:
        asked = ("list --all --uuid", "dumpxml old --inactive", "pool-list --all", "net-list --all")
        return [host.virsh(*command.split()) for command in asked]

    before = state()
    assert doctor(host.uri, hosts[1].uri).code == 1
    assert state() == before


def test_the_test_driver_is_looked_at_as_far_as_it_goes(tmp_path: Path) -> None:
    ran = doctor("test:///default", "-o", "json")
    assert ran.code == 0, ran.err
    (shown,) = ran.report["hosts"]
    assert [f["check"] for f in shown["findings"] if f["severity"] == "error"] == []
    assert "kvm" not in shown["passed"]
