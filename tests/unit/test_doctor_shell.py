"""`domctl doctor --ssh`: what is asked, what answers mean, what is found, and how ssh is called."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from controller.doctor.examine import destination
from controller.doctor.facts import Host, Subject
from controller.doctor.findings import Severity
from controller.doctor.shell import COMMANDS, PARSERS, Clock, Firewall, ShellFacts, Unit, facts_of
from controller.doctor.shellchecks import SHELL_CHECKS
from drivers.inspection import SecurityModel
from drivers.shell import Answer, Destination, ShellFailed
from drivers.ssh import OpenSsh, command_line
from tests.doctorcase import SHELL, host, resident, the_finding, verdict, with_shell

# -- what answers mean -----------------------------------------------------------------------------------


def answer(
    out: str = "", *, code: int = 0, err: str = "", began_at: float = 100.0, took_s: float = 0.2
) -> Answer:
    return Answer(code, out, err, began_at, began_at + took_s)


UNITS = """\
Id=libvirtd.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=virtqemud.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
"""
QEMU_CONF = """\
# user = "qemu"
#lock_manager = "lockd"
user = "root"   # so it was
cgroup_controllers = [ ]
max_files=32768
"""
LISTENING = """\
LISTEN 0      128          0.0.0.0:22         0.0.0.0:*
LISTEN 0      512        127.0.0.1:5432       0.0.0.0:*
LISTEN 0      30              [::]:16514         [::]:*
LISTEN 0      30             [::1]:631          [::]:*
LISTEN 0      128    10.0.0.1%eth0:53         0.0.0.0:*
"""
NFT = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		tcp dport { 22, 49152-49215 } accept
	}
}
"""
CLIENTS = """\
nclients_max        : 5000
nclients            : 12
"""
OPEN = "-P INPUT ACCEPT\n-A INPUT -j ACCEPT\n"
REFUSING = "-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with x"


@pytest.mark.parametrize(
    ("fact", "given", "value"),
    [
        ("clock", answer("103.100000000\n"), Clock(pytest.approx(3.0), pytest.approx(0.1))),
        (
            "units",
            answer(UNITS),
            {
                "libvirtd.service": Unit("loaded", "active", "enabled"),
                "virtqemud.service": Unit("not-found", "inactive", ""),
            },
        ),
        ("qemu_conf", answer(QEMU_CONF), {"user": "root", "cgroup_controllers": "[ ]", "max_files": "32768"}),
        ("autostart_links", answer("web.xml\nold.xml\n"), ("old", "web")),
        ("autostart_links", answer(code=2, err="ls: cannot access 'x': No such file or directory\n"), ()),
        ("listening", answer(LISTENING), frozenset({22, 16514, 53})),
        ("iptables", answer("-P INPUT DROP\n"), Firewall(True, "-P INPUT DROP\n")),
        ("iptables", answer(OPEN), Firewall(False, OPEN)),
        ("iptables", answer(REFUSING), Firewall(True, REFUSING)),
        ("nftables", answer(NFT), Firewall(True, NFT)),
        ("nftables", answer(""), Firewall(False, "")),
        ("cgroups", answer("cgroup2fs\n"), "cgroup2fs"),
        ("clients", answer(CLIENTS), {"nclients_max": 5000, "nclients": 12}),
    ],
)
def test_an_answer_becomes_a_fact(fact: str, given: Answer, value: object) -> None:
    assert getattr(facts_of({fact: given}, {}), fact) == value


@pytest.mark.parametrize(
    ("fact", "given", "why"),
    [
        ("clock", answer("nonsense"), "a date that knows"),
        (
            "units",
            answer(code=1, err="System has not been booted with systemd as init system"),
            "systemd there (System",
        ),
        ("units", answer(""), "systemd there"),
        ("qemu_conf", answer(code=1, err="cat: /etc/libvirt/qemu.conf: Permission denied"), "root there"),
        ("iptables", answer(code=4, err="iptables: Permission denied (you must be root)"), "root there"),
        ("clients", answer(code=127, err="sh: virt-admin: not found"), "virt-admin there (sh: virt-admin"),
        ("clients", answer("odd"), "virt-admin there"),
    ],
)
def test_an_answer_of_no_use_is_unread_and_says_why(fact: str, given: Answer, why: str) -> None:
    found = facts_of({fact: given}, {})
    assert getattr(found, fact) is None
    assert why in found.unread[fact]


def test_every_command_has_a_parser_and_changes_nothing() -> None:
    assert COMMANDS.keys() == PARSERS.keys()
    readers = {"date", "systemctl", "cat", "ls", "ss", "iptables", "nft", "stat", "virt-admin"}
    assert {argv[0] for argv in COMMANDS.values()} == readers
    assert (
        COMMANDS["units"][1] == "show"
        and COMMANDS["iptables"][1] == "-S"
        and COMMANDS["nftables"][1] == "list"
    )
    assert COMMANDS["clients"][3] == "srv-clients-info" and COMMANDS["clock"][1].startswith("+")


# -- what is found ---------------------------------------------------------------------------------------


def units(**changes: Unit | None) -> dict[str, Unit]:
    """`libvirtd_service=Unit(…)`; None takes it away."""
    named = {
        name.replace("_", ".") if "guests" not in name else "libvirt-guests.service": u
        for name, u in changes.items()
    }
    return {name: unit for name, unit in {**(SHELL.units or {}), **named}.items() if unit is not None}


OFF = Unit("loaded", "inactive", "disabled")
GOOD = host("hv1", "qemu:///system")
CASES: tuple[tuple[str, Host, str, str, str], ...] = (
    (
        "ssh",
        replace(GOOD, shell_failure="ssh hv1: Permission denied (publickey)."),
        "warning",
        "Permission denied",
        "ssh ",
    ),
    (
        "ssh",
        replace(GOOD, shell_failure="ssh hv1: WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!"),
        "error",
        "HAS CHANGED",
        "ssh ",
    ),
    (
        "starts-at-boot",
        with_shell(GOOD, units=units(libvirtd_service=OFF, libvirtd_socket=OFF)),
        "warning",
        "neither libvirtd nor virtqemud",
        "systemctl enable libvirtd.socket",
    ),
    (
        "libvirt-guests",
        with_shell(GOOD, units=units(guests=Unit("loaded", "active", "enabled"))),
        "warning",
        "libvirt-guests is enabled",
        "systemctl disable libvirt-guests",
    ),
    ("autostart-links", with_shell(GOOD, autostart_links=("ghost",)), "warning", "ghost", "ls -l"),
    ("lock-manager", with_shell(GOOD, qemu_conf={}), "info", "no lock_manager", 'lock_manager = "lockd"'),
    (
        "virtlockd",
        with_shell(GOOD, units=units(virtlockd_socket=OFF)),
        "error",
        "virtlockd does not run",
        "enable --now virtlockd.socket",
    ),
    (
        "qemu-conf-user",
        with_shell(GOOD, qemu_conf={"user": "root"}),
        "warning",
        "user = root",
        'user = "libvirt',
    ),
    ("clock", with_shell(GOOD, clock=Clock(-3.5, 0.1)), "warning", "3.5 s behind ours", "set-ntp"),
    ("clock", with_shell(GOOD, clock=Clock(4000.0, 0.1)), "error", "4000.0 s ahead of ours", "set-ntp"),
    (
        "time-service",
        with_shell(GOOD, units={k: v for k, v in units().items() if "timesyncd" not in k}),
        "warning",
        "nothing keeps its clock",
        "set-ntp",
    ),
    (
        "open-port",
        with_shell(GOOD, libvirtd_conf={"auth_tcp": "none"}),
        "error",
        "port 16509 is open",
        "disable --now libvirtd-tcp.socket",
    ),
    (
        "firewall",
        with_shell(GOOD, nftables=Firewall(True, "tcp dport 22")),
        "warning",
        "none names",
        "49152:49215",
    ),
    ("firewall", with_shell(GOOD, iptables=Firewall(True, "")), "warning", "none names", "49152:49215"),
    ("cgroups", with_shell(GOOD, cgroups="ext2/ext3"), "warning", "no cgroups", "mount"),
    ("cgroups", with_shell(GOOD, qemu_conf={"cgroup_controllers": "[ ]"}), "warning", "is empty", "sed"),
    (
        "client-limit",
        with_shell(GOOD, clients={"nclients_max": 20, "nclients": 15}),
        "warning",
        "15 of",
        "5000",
    ),
)


@pytest.mark.parametrize(("check", "given", "severity", "seen", "mend"), CASES)
def test_a_check_finds_what_it_is_for(check: str, given: Host, severity: str, seen: str, mend: str) -> None:
    found = the_finding(verdict(given), check)
    assert (found.severity, found.why != "") == (Severity(severity), True)
    assert seen in found.seen
    assert any(mend in one.command for one in found.mend), found.mend


def test_every_check_has_a_case_that_it_fails() -> None:
    assert {name for name, *_ in CASES} == {check.name for check in SHELL_CHECKS}


@pytest.mark.parametrize(
    ("check", "given"),
    [
        ("firewall", with_shell(GOOD, nftables=Firewall(True, NFT))),
        (
            "firewall",
            with_shell(GOOD, iptables=Firewall(True, "-A INPUT -p tcp --dport 49000:50000 -j ACCEPT")),
        ),
        ("clock", with_shell(GOOD, clock=Clock(3.0, 2.0))),
        ("virtlockd", with_shell(GOOD, qemu_conf={}, units=units(virtlockd_socket=OFF))),
        ("open-port", with_shell(host(), libvirtd_conf={"auth_tcp": "none"})),
        ("open-port", with_shell(GOOD, libvirtd_conf={"auth_tcp": "none"}, listening=frozenset({22}))),
        (
            "autostart-links",
            with_shell(host(residents=(resident("web", autostart=True),)), autostart_links=("web",)),
        ),
        (
            "qemu-conf-user",
            with_shell(host(security=(SecurityModel("dac", "+0:+0"),)), qemu_conf={"user": "root"}),
        ),
    ],
)
def test_what_only_looks_like_a_fault_is_none(check: str, given: Host) -> None:
    assert check in verdict(given).passed


def test_without_ssh_the_option_is_what_is_needed() -> None:
    found = verdict(GOOD)
    needs = {one.needs for one in found.not_checked if one.check in {check.name for check in SHELL_CHECKS}}
    assert needs == {"--ssh [USER@]HOST"}


def test_where_ssh_failed_nothing_is_said_to_be_well() -> None:
    found = verdict(replace(GOOD, shell_failure="ssh hv1: no route"))
    needs = {one.check: one.needs for one in found.not_checked}
    assert needs["clock"] == "a working ssh hv1: no route"


def test_a_fact_that_was_not_read_leaves_only_its_own_checks_open() -> None:
    facts = ShellFacts(clock=Clock(0, 0), cgroups="cgroup2fs", unread={"qemu_conf": "root there (denied)"})
    found = verdict(replace(GOOD, shell=facts))
    needs = {one.check: one.needs for one in found.not_checked}
    assert needs["lock-manager"] == needs["cgroups"] == "root there (denied)"
    assert "clock" in found.passed


# -- how ssh is called -----------------------------------------------------------------------------------


def test_ssh_never_asks_and_never_believes_a_new_key() -> None:
    to = Destination("hv1", "root", 2222, config="/c", known_hosts="/k", key_file="/i")
    line = command_line(to, ("cat", "/etc/a b"))
    options = [line[i + 1] for i, word in enumerate(line) if word == "-o"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "UserKnownHostsFile=/k"} <= set(
        options
    )
    assert line[-3:] == ["--", "hv1", "cat '/etc/a b'"]
    assert [line[line.index(word) + 1] for word in ("-F", "-l", "-p", "-i")] == ["/c", "root", "2222", "/i"]


@pytest.mark.parametrize(
    "bad", [{"host": "-oProxyCommand=x"}, {"host": ""}, {"host": "a b"}, {"host": "h;x"}]
)
def test_a_host_that_could_be_an_option_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no name or address"):
        Destination(**bad)


@pytest.mark.parametrize(
    ("text", "uri", "found"),
    [
        ("root@hv9", "qemu+tcp://hv1/system", Destination("hv9", "root")),
        ("hv9:2222", "qemu+tcp://hv1/system", Destination("hv9", "", 2222)),
        ("root@", "qemu+tcp://hv1:16510/system", Destination("hv1", "root")),
        ("@", "qemu+tcp://hv1/system", Destination("hv1")),
        ("root@fd00::1", "qemu:///system", Destination("fd00::1", "root")),
    ],
)
def test_what_is_left_out_is_that_of_the_uri(text: str, uri: str, found: Destination) -> None:
    assert destination(text, uri) == found


@pytest.mark.parametrize(
    ("text", "uri", "message"),
    [
        ("root@", "qemu:///system", "names no host"),
        ("hv1:ssh", "qemu:///system", "port must be a number"),
        ("-x@hv1", "qemu:///system", "no user's name"),
    ],
)
def test_a_destination_that_is_none_says_why(text: str, uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        destination(text, uri)


class FakeSsh:
    """An ssh that is a shell script, the first on PATH; it may leave its pid."""

    def __init__(self, directory: Path) -> None:
        self._script = directory / "ssh"
        self._pid = directory / "pid"
        self._script.touch(mode=0o755)

    def does(self, script: str) -> None:
        self._script.write_text(f"#!/bin/sh\n{script}\n")

    def sleeps(self) -> None:
        self.does(f"echo $$ > {self._pid}\nexec sleep 600")

    @property
    def pid(self) -> str:
        return self._pid.read_text().strip() if self._pid.exists() else ""

    @property
    def is_gone(self) -> bool:
        return self.pid != "" and not Path(f"/proc/{self.pid}").exists()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return FakeSsh(tmp_path)


async def test_what_says_too_much_is_cut(ssh: FakeSsh) -> None:
    ssh.does("head -c 300000 /dev/zero | tr '\\0' x")
    found = await OpenSsh(max_bytes=1000).run(Destination("hv1"), ("true",))
    assert (found.code, len(found.out)) == (0, 1000)


async def test_what_never_ends_is_killed(ssh: FakeSsh) -> None:
    ssh.sleeps()
    began = time.monotonic()
    with pytest.raises(ShellFailed, match="no answer within"):
        await OpenSsh(command_s=1).run(Destination("hv1"), ("true",))
    assert time.monotonic() - began < 5
    assert ssh.is_gone


async def test_a_look_that_is_given_up_leaves_no_ssh_behind(ssh: FakeSsh) -> None:
    ssh.sleeps()
    task = asyncio.create_task(OpenSsh().run(Destination("hv1"), ("true",)))
    while not ssh.pid:  # noqa: ASYNC110 - it is another process that we wait for
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ssh.is_gone


async def test_what_ssh_itself_says_is_why_there_is_no_way(ssh: FakeSsh) -> None:
    ssh.does("echo 'root@hv1: Permission denied (publickey).' >&2; exit 255")
    with pytest.raises(ShellFailed, match="ssh root@hv1: root@hv1: Permission denied"):
        await OpenSsh().run(Destination("hv1", "root"), ("true",))


def test_a_subject_tells_where_it_is_reached_by_ssh() -> None:
    assert Subject("a", "b", ssh=Destination("hv1", "root")).ssh_text == "root@hv1"
    assert Subject("a", "b").ssh_text == ""
