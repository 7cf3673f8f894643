"""What may be used to reach a host, what a Node says of it, and what is said when it fails."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.nodes import about_certificates
from controller.plan.snapshot import StoredNode
from controller.target import is_open_to_all, refusal, target_of
from drivers.errors import AuthFailed, Cause, HostFailed, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import Certificate, Credentials
from drivers.libvirt import tunnel
from drivers.libvirt.access import Access, read_password, secret
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR, translate
from drivers.libvirt.ways import SSH_SAYS, about_passwords, about_ssh
from specs.node import Node
from specs.uri import parse_uri
from tests.unit.plancase import facts


def stored(**spec: Any) -> StoredNode:
    return StoredNode(msgspec.convert({"metadata": {"name": "a"}, "spec": spec}, Node), 1)


# --- what a Node says


def test_what_a_node_names_is_what_the_driver_is_told() -> None:
    given = {"knownHosts": "/e/known_hosts", "keyFile": "/e/key"}
    target = target_of(stored(uri="qemu+ssh://root@h/system", connection=given, observeOnly=True))
    assert target.credentials == Credentials(known_hosts="/e/known_hosts", key_file="/e/key")
    assert (target.node, target.uri, target.read_only) == ("a", "qemu+ssh://root@h/system", True)
    assert target_of(stored(uri="qemu:///system")).credentials == Credentials()


def test_another_file_is_another_way_so_the_node_is_opened_anew() -> None:
    one, two = (
        target_of(stored(uri="qemu+tls://h/system", connection={"pkiDir": directory}))
        for directory in ("/a", "/b")
    )
    assert one != two


@pytest.mark.parametrize(
    ("spec", "open_to_all", "refused"),
    [
        ({"uri": "qemu+tcp://h/system"}, True, True),
        ({"uri": "qemu+tcp://h/system", "insecure": True}, True, False),
        ({"uri": "qemu+tcp://h/system", "connection": {"authFile": "/e/a"}}, False, False),
        ({"uri": "qemu+tls://h/system"}, False, False),
        ({"uri": "qemu+ssh://h/system"}, False, False),
        ({"uri": "qemu+ssh://h/system?no_verify=1"}, False, True),
    ],
)
def test_only_a_port_that_asks_nobody_needs_to_be_declared_insecure(
    spec: dict[str, Any], open_to_all: bool, refused: bool
) -> None:
    assert is_open_to_all(stored(**spec).node.spec) is open_to_all
    assert bool(refusal(stored(**spec))) is refused


# --- files and programs


def allowing(directory: Path) -> Access:
    return Access(files_under=(str(directory / "allowed"),))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "allowed").mkdir()
    for name in ("allowed/key", "key"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def test_a_node_may_name_files_below_allowed_directories_only(files: Path) -> None:
    inside = str(files / "allowed/key")
    assert allowing(files).path(Credentials(key_file=inside), "key_file", "ssh") == inside
    (files / "allowed/link").symlink_to(files / "key")
    for path in (files / "key", files / "allowed/../key", files / "allowed/link", files / "allowedx"):
        with pytest.raises(Unsupported, match="keyFile names") as caught:
            allowing(files).path(Credentials(key_file=str(path)), "key_file", "ssh")
        assert caught.value.cause is Cause.CREDENTIALS_NOT_ALLOWED
    with pytest.raises(Unsupported):
        Access().path(Credentials(key_file=inside), "key_file", "ssh")


def test_the_configurations_own_files_stand_where_it_likes(files: Path) -> None:
    access = Access(defaults=Credentials(key_file=str(files / "key")))
    assert access.path(Credentials(), "key_file", "ssh") == str(files / "key")


@pytest.mark.parametrize("named", ["", "allowed/none"])
def test_a_file_that_is_not_named_or_not_there_is_said_so(files: Path, named: str) -> None:
    credentials = Credentials(key_file=str(files / named) if named else "")
    with pytest.raises(AuthFailed, match=r"keyFile is needed|no such file") as caught:
        allowing(files).path(credentials, "key_file", "transport ssh")
    assert caught.value.cause is Cause.CREDENTIALS_MISSING


def test_a_secret_that_others_can_read_is_not_used(files: Path) -> None:
    assert secret(str(files / "key"))
    (files / "key").chmod(0o640)
    with pytest.raises(AuthFailed, match="chmod 600"):
        secret(str(files / "key"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "a\nb\n", "{username: a", "[a]", "username: a\n", "username: a\npassword: 1234\n"),
        "username: a\npassword: s\nx: y",
    ],
)
def test_a_password_file_says_both_and_is_never_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "auth"
    path.touch(mode=0o600)
    path.write_text("username: a\npassword: 'very secret'\n")
    assert read_password(str(path)) == ("a", "very secret")
    path.write_text(text)
    with pytest.raises(AuthFailed) as caught:
        read_password(str(path))
    assert "1234" not in caught.value.message and caught.value.__cause__ is None


def test_only_a_program_of_the_allow_list_is_run(tmp_path: Path) -> None:
    program = tmp_path / "reach"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    allowed = Access(commands=frozenset({str(program), "/nonexistent"}))
    assert allowed.program(str(program)) == str(program)
    for access, command in ((Access(), str(program)), (allowed, "/bin/sh"), (allowed, "/nonexistent")):
        with pytest.raises(Unsupported) as caught:
            access.program(command)
        assert caught.value.cause is Cause.COMMAND_NOT_ALLOWED


# --- ssh's configuration


def ssh_sees(script: str, *arguments: str) -> dict[str, str]:
    """What ssh itself makes of the configuration: -G prints it and connects nowhere."""
    config = str(Path(script).parent / "config")
    done = subprocess.run(
        [tunnel.SSH, "-G", "-F", config, *arguments], capture_output=True, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_ssh_trusts_one_file_tries_one_key_and_asks_nobody(tmp_path: Path) -> None:
    script, _ = tunnel.ssh(tmp_path / "links", "/e/known_hosts", "/e/key")
    seen = ssh_sees(script, "-l", "root", "h")
    assert seen["stricthostkeychecking"] in ("yes", "true")
    assert (seen["userknownhostsfile"], seen["globalknownhostsfile"]) == ("known", "/dev/null")
    where = Path(script).parent
    assert (where / "known").readlink() == Path("/e/known_hosts")
    assert f"env -C {where} /usr/bin/ssh" in Path(script).read_text(), "the name holds where ssh runs"
    assert (seen["identityfile"], seen["identitiesonly"]) == ("/e/key", "yes")
    assert (seen["batchmode"], seen["passwordauthentication"]) == ("yes", "no")
    assert (seen["serveraliveinterval"], seen["serveralivecountmax"]) == ("5", "3")
    assert seen["connecttimeout"] == "4" and seen["proxyusefdpass"] == "yes"
    assert seen["controlmaster"] in ("no", "false") and seen["forwardagent"] == "no"
    assert (Path(script).parent.stat().st_mode & 0o777, Path(script).stat().st_mode & 0o777) == (0o700, 0o700)


def test_the_script_becomes_what_it_starts_and_says_who_that_is(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = tmp_path / "reach"
    program.write_text(f'#!/bin/sh\necho "$$ $*" >{told}\n')
    program.chmod(0o755)
    script, _ = tunnel.ext(tmp_path / "links", str(program), "h1", 7)
    child = subprocess.Popen([script])
    assert child.wait(10) == 0
    assert told.read_text().split() == [str(child.pid), "h1", "7"]
    assert (Path(script).parent / "pid").read_text().strip() == str(child.pid)


def test_nobody_elses_process_is_taken_for_a_child(tmp_path: Path) -> None:
    _, beneath = tunnel.ext(tmp_path / "links", "/bin/true", "", 0)
    (directory,) = (tmp_path / "links").iterdir()
    for pid in (1, os.getppid(), os.getpid()):
        (directory / "pid").write_text(f"{pid}\n")
        assert beneath.grip() is None
    child = subprocess.Popen(["/bin/sleep", "60"])
    (directory / "pid").write_text(f"{child.pid}\n")
    grip = beneath.grip()
    assert grip is not None
    grip.sever()
    assert child.wait(10) == -9
    grip.release()
    grip.release()  # twice is once
    beneath.stay()
    assert not directory.exists()


# --- what errors mean

SSH_WORDS = {
    "Cannot recv data: No ED25519 host key is known for h and you have requested strict checking.\r\n"
    "Host key verification failed.: Connection reset by peer": Cause.HOST_KEY_UNKNOWN,
    "Cannot recv data: @@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
    "Host key verification failed.: Connection reset by peer": Cause.HOST_KEY_CHANGED,
    "Cannot recv data: root@h: Permission denied (publickey).: Connection reset by peer": Cause.KEY_REFUSED,
    "packet 1416128879 bytes received from server too large, want 33554432": Cause.SHELL_UNFIT,
    "Cannot recv data: sh: 1: nc: not found: Connection reset by peer": Cause.SHELL_UNFIT,
}


@pytest.mark.parametrize("words", SSH_WORDS)
def test_sshs_words_become_a_cause_with_what_to_do(words: str) -> None:
    said = translate(SYSTEM_ERROR, FROM_RPC, words, "open")
    error = about_ssh(said, parse_uri("qemu+ssh://root@h:2222/system"), "/e/known_hosts", "/e/key")
    assert isinstance(error, AuthFailed)
    assert (error.cause, error.code, error.origin) == (SSH_WORDS[words], SYSTEM_ERROR, FROM_RPC)
    assert " ".join(words.split()) in error.message, "libvirt's words are kept"
    if error.cause in (Cause.HOST_KEY_UNKNOWN, Cause.HOST_KEY_CHANGED):
        assert "/e/known_hosts" in error.message and "[h]:2222" in error.message


def test_a_daemon_that_does_not_run_is_no_refusal() -> None:
    words = (
        "Cannot recv data: virt-ssh-helper: cannot connect to 'x': Failed to connect socket to 'x': refused"
    )
    error = about_ssh(
        translate(SYSTEM_ERROR, FROM_RPC, words, "open"), parse_uri("qemu+ssh://h/system"), "", ""
    )
    assert (type(error), error.cause) == (Unreachable, Cause.DAEMON_DOWN)


def test_every_row_of_sshs_words_can_be_filled_in() -> None:
    known = dict.fromkeys(("host", "entry", "user", "known_hosts", "key_file"), "x")
    assert all("{" not in advice.format(**known) for _, _, advice in SSH_SAYS)


@pytest.mark.parametrize(
    "error",
    [Unreachable("Cannot recv data: Connection reset by peer", code=38, origin=7), HostFailed("no")],
)
def test_what_ssh_did_not_say_stays_what_it_was(error: HypervisorError) -> None:
    assert about_ssh(error, parse_uri("qemu+ssh://h/system"), "/k", "/i") is error
    assert about_passwords(error) is error


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("authentication failed: authentication failed", Cause.PASSWORD_REFUSED),
        (
            "authentication failed: Failed to start SASL negotiation: -4 (SASL(-4): no mechanism available: "
            "No worthy mechs found)",
            Cause.PASSWORD_NEEDED,
        ),
    ],
)
def test_sasls_words_become_a_cause(words: str, cause: Cause) -> None:
    error = about_passwords(translate(45, FROM_RPC, words, "open"))
    assert isinstance(error, AuthFailed) and error.cause is cause and words in error.message


# --- certificates on the Node


@pytest.mark.parametrize(
    ("wall", "status", "reason"),
    [
        ("2027-01-01T00:00:00Z", "False", "Valid"),
        ("2027-01-20T00:00:00Z", "True", "ExpiresSoon"),
        ("2028-01-01T00:00:00Z", "True", "ExpiresSoon"),
    ],
)
def test_a_certificate_that_runs_out_is_announced(wall: str, status: str, reason: str) -> None:
    certificates = (
        Certificate("client", "CN=c", "2027-06-01T00:00:00Z"),
        Certificate("server", "CN=h", "2027-02-01T00:00:00Z"),
    )
    (condition,) = about_certificates(dataclasses.replace(facts("a"), certificates=certificates), wall, 3)
    assert (condition.type, condition.status, condition.reason) == ("CertificateExpiring", status, reason)
    assert "host's certificate (CN=h) expires at 2027-02-01" in condition.message
    assert "controller's certificate (CN=c) expires at 2027-06-01" in condition.message
    assert about_certificates(facts("a"), wall, 3) == []
