"""Every check of `domctl doctor`, from hosts that were written down: what it finds, and what it does not."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from controller.doctor.among import AMONG_CHECKS, PAIR_CHECKS
from controller.doctor.facts import ClusterFacts, Host, Round
from controller.doctor.findings import Check, Finding, Severity, judge
from controller.doctor.refusals import mends_for
from controller.doctor.report import OF_ONE_HOST
from controller.doctor.seen import Seen, set_values
from controller.doctor.shellchecks import SHELL_CHECKS
from drivers.errors import Cause
from drivers.hypervisor import Certificate
from drivers.inspection import CpuFit, CpuOffer, HostObject, Pages, SecurityModel
from tests.doctorcase import (
    DOMAIN,
    GIB,
    UUID,
    host,
    pair_verdict,
    registered,
    resident,
    second,
    the_finding,
    unreached,
    verdict,
    with_shell,
)

TCP, TLS = "qemu+tcp://hv1/system", "qemu:///system"
OFF = HostObject("images", active=False, autostart=True)
UNSTARTED = HostObject("images", active=True, autostart=False)

# check, the host, severity, what is seen, what the mending command says
ONE_HOST: tuple[tuple[str, Host, str, str, str], ...] = (
    (
        "reachability",
        unreached("unreachable", "name", "x", Cause.NAME_UNKNOWN),
        "error",
        "its name",
        "getent hosts hv1",
    ),
    (
        "reachability",
        unreached("unreachable", "port", "refused", Cause.PORT_REFUSED),
        "error",
        "its port did not answer: refused",
        "enable --now libvirtd-tcp.socket",
    ),
    (
        "reachability",
        unreached("unreachable", "port", "x", Cause.NO_ANSWER),
        "error",
        "its port",
        "--dport 16509",
    ),
    (
        "reachability",
        unreached("unreachable", "handshake", "x"),
        "error",
        "the handshake",
        "restart libvirtd",
    ),
    (
        "reachability",
        unreached("unreachable", "open", "x", Cause.NO_ANSWER),
        "error",
        "libvirtd did",
        "restart libvirtd",
    ),
    ("reachability", unreached("failed", "", "odd"), "error", "no session: odd", "virsh -c"),
    ("authentication", unreached("auth", "open", "denied"), "error", "not let in: denied", "journalctl"),
    (
        "authentication",
        unreached("auth", "", "no file", Cause.CREDENTIALS_MISSING, "qemu+tls://hv1/system"),
        "error",
        "we do not get as far as the host: no file",
        "domctl doctor hv1 --pki-dir PKI-DIR",
    ),
    (
        "certificates",
        host(
            uri="qemu+tls://hv1/system",
            certificates=(Certificate("server", "CN=hv1", "2026-01-21T00:00:00Z"),),
        ),
        "warning",
        "its certificate (CN=hv1) ends in 20 days",
        "virt-pki-validate",
    ),
    (
        "certificates",
        host(
            uri="qemu+tls://hv1/system", certificates=(Certificate("client", "CN=c", "2026-01-03T00:00:00Z"),)
        ),
        "error",
        "our certificate (CN=c) ends in 2 days",
        "openssl x509",
    ),
    ("opening-time", replace(host(uri=TLS), opened_in_s=3.5), "warning", "took 3.5 s", "virt-admin"),
    ("link", host(node=False, encrypted=False, secure=False), "error", "neither encryption", "tls.socket"),
    (
        "link",
        host(encrypted=False, secure=False),
        "warning",
        "neither encryption",
        "disable --now libvirtd-tcp",
    ),
    ("link", host(uri=TLS, secure=False), "warning", "does not deem", "tls.socket"),
    ("keep-alive", host(uri=TLS, keep_alive=False), "warning", "no keep-alive", "apt-get"),
    (
        "identity",
        host(uri=TLS, host_uuid="03000200-0400-0500-0006-000700080009"),
        "error",
        "whole series of boards",
        "uuidgen",
    ),
    ("identity", host(uri=TLS, host_uuid=""), "info", "tells no host_uuid", "capabilities"),
    ("libvirt-version", host(uri=TLS, libvirt_version="8.0.0"), "info", "libvirt 8.0.0", "apt-get"),
    ("libvirt-version", host(uri=TLS, libvirt_version="5.0.0"), "warning", "libvirt 5.0.0", "apt-get"),
    (
        "security-driver",
        host(uri=TLS, security=(SecurityModel("none"), SecurityModel("dac", "+64055:+108"))),
        "warning",
        "neither SELinux nor AppArmor (none, dac)",
        'security_driver = "apparmor"',
    ),
    (
        "security-driver",
        host(uri=TLS, security=()),
        "warning",
        "nor AppArmor (none)",
        "/etc/libvirt/qemu.conf",
    ),
    (
        "qemu-user",
        host(uri=TLS, security=(SecurityModel("selinux"), SecurityModel("dac", "+0:+0"))),
        "warning",
        "QEMU runs as root",
        'user = "libvirt-qemu"',
    ),
    ("kvm", host(uri=TLS, domain_types=("qemu",)), "warning", "no KVM", "modprobe kvm_amd"),
    (
        "autostart",
        host(uri=TLS, residents=(resident("old", autostart=True),)),
        "warning",
        "domain old has autostart set",
        "virsh -c qemu:///system autostart --disable old",
    ),
    (
        "domains",
        host(uri=TLS, residents=(resident("old"),)),
        "info",
        "1 domains that are not domctl's",
        "list",
    ),
    (
        "domains",
        host(uri=TLS, residents=(resident("a", cluster="c2"),)),
        "warning",
        "mark of cluster c2",
        "list",
    ),
    ("domains", host(uri=TLS, residents_left_out=7), "info", "7 more domains", "--autostart"),
    (
        "left-probes",
        host(uri=TLS, residents=(resident("domctl-doctor-ab12"),)),
        "warning",
        "is still there",
        f"destroy {DOMAIN}",
    ),
    (
        "left-probes",
        host(uri=TLS, residents=(resident("domctl-doctor-ab12", active=False),)),
        "warning",
        "is still there",
        f"undefine {DOMAIN}",
    ),
    (
        "storage-pools",
        host(uri=TLS, pools=(OFF,)),
        "warning",
        "images is inactive",
        "pool-start --pool=images",
    ),
    (
        "storage-pools",
        host(uri=TLS, pools=(UNSTARTED,)),
        "info",
        "not started at boot",
        "pool-autostart --pool=images",
    ),
    (
        "networks",
        host(uri=TLS, networks=(OFF,)),
        "warning",
        "network images is inactive",
        "net-start --network=images",
    ),
    (
        "networks",
        host(uri=TLS, networks=(UNSTARTED,)),
        "info",
        "not started at boot",
        "net-autostart --network=images",
    ),
    ("memory", host(uri=TLS, free_memory_bytes=GIB // 4), "warning", "256 MiB of 16384 MiB are free", "ps"),
    ("memory", host(uri=TLS, pages=(Pages(4096, 9), Pages(2 << 20, 512))), "info", "1024 MiB", "freepages"),
)


@pytest.mark.parametrize(("check", "given", "severity", "seen", "mend"), ONE_HOST)
def test_a_check_finds_what_it_is_for(check: str, given: Host, severity: str, seen: str, mend: str) -> None:
    found = the_finding(verdict(given), check)
    assert (found.severity, found.why != "") == (Severity(severity), True)
    assert seen in found.seen
    assert any(mend in one.command for one in found.mend), found.mend


@pytest.mark.parametrize("check", [check.name for check in OF_ONE_HOST])
def test_a_good_host_passes_every_check(check: str) -> None:
    cluster = ClusterFacts(nodes=(registered("hv9", cpu_model="EPYC"),))
    assert check in verdict(with_shell(host(uri="qemu+tls://hv1/system")), second(), cluster=cluster).passed


FILES = {
    "knownHosts": "/d/known",
    "keyFile": "/d/key",
    "pkiDir": "/d/pki",
    "authFile": "/d/a",
    "command": "/d/c",
}


@pytest.mark.parametrize(
    ("cause", "uri", "command"),
    [
        (Cause.NO_ROUTE, "qemu+ssh://root@hv1/system", "ip route get hv1"),
        (Cause.PORT_REFUSED, "qemu+ssh://root@hv1/system", "systemctl enable --now ssh"),
        (Cause.PORT_REFUSED, "qemu+tls://hv1/system", "libvirtd-tls.socket"),
        (Cause.HOST_KEY_UNKNOWN, "qemu+ssh://root@hv1/system", "cat /etc/ssh/ssh_host_ed25519_key.pub"),
        (Cause.HOST_KEY_CHANGED, "qemu+ssh://root@hv1/system", "ssh-keygen -f /d/known -R hv1"),
        (Cause.HOST_KEY_CHANGED, "qemu+ssh://root@hv1:2222/system", "ssh-keygen -f /d/known -R '[hv1]:2222'"),
        (Cause.KEY_REFUSED, "qemu+ssh://root@hv1/system", "ssh-copy-id -i /d/key.pub root@hv1"),
        (Cause.CLIENT_CERTIFICATE_EXPIRED, "qemu+tls://hv1/system", "-in /d/pki/clientcert.pem"),
        (Cause.CLIENT_REFUSED, "qemu+tls://hv1/system", "tls_allowed_dn_list"),
        (Cause.PASSWORD_NOT_ASKED, "qemu+tls://hv1/system", 'auth_tls = "sasl"'),
        (Cause.PASSWORD_NEEDED, "qemu+tcp://hv1/system", "domctl doctor hv1 --auth-file /d/a"),
        (Cause.CREDENTIALS_MISSING, "qemu+ssh://hv1/system", "--known-hosts /d/known --key-file /d/key"),
        (Cause.CREDENTIALS_NOT_ALLOWED, "qemu+ssh://hv1/system", "domctl doctor hv1 --files-under /d"),
        (Cause.COMMAND_NOT_ALLOWED, "qemu+ext:///system", "domctl doctor hv1 --ext-command /d/c"),
    ],
)
def test_a_refusal_names_the_command_that_ends_it(cause: Cause, uri: str, command: str) -> None:
    found = the_finding(verdict(unreached("auth", "", "x", cause, uri, **FILES)), "authentication")
    assert any(command in mend.command for mend in found.mend), found.mend


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_command(cause: Cause) -> None:
    mends = mends_for(cause)
    assert mends is not None
    for uri in ("qemu+tcp://hv1/system", "qemu+ext:///system", "qemu:///system"):
        assert mends(Seen(unreached("auth", "", "x", cause, uri), Round(())))


def test_every_check_has_a_case_that_it_fails() -> None:
    among = {"host-uuid-unique", "host-uuid-registered", "version-skew", "cpu-registered"}  # below
    by_ssh = {check.name for check in SHELL_CHECKS}  # in test_doctor_shell
    assert {name for name, *_ in ONE_HOST} | among | by_ssh == {check.name for check in OF_ONE_HOST}
    assert {check.name for check in AMONG_CHECKS} == among


def test_a_host_that_was_not_reached_is_not_said_to_be_well() -> None:
    found = verdict(unreached("unreachable", "open", "nothing"))
    assert found.passed == ()
    assert {one.check for one in found.not_checked} >= {"autostart", "identity", "security-driver"}
    assert all(one.needs for one in found.not_checked)


def test_a_part_that_was_not_read_is_not_checked_and_says_why() -> None:
    found = verdict(host(unread={"pools": "no storage driver"}))
    assert "storage-pools" not in found.passed
    assert [one.needs for one in found.not_checked if one.check == "storage-pools"] == [
        "an answer of libvirtd: no storage driver"
    ]


def test_questions_without_a_meaning_for_a_driver_are_left_out() -> None:
    found = verdict(host(driver="lxc", uri="lxc:///system"))
    names = {*found.passed, *(one.check for one in found.not_checked), *(one.check for one in found.findings)}
    assert not {"kvm", "qemu-user"} & names
    assert "security-driver" in names


@pytest.mark.parametrize("check", [*OF_ONE_HOST, *PAIR_CHECKS], ids=lambda check: check.name)
def test_checks_have_names_that_scripts_can_ask_for(check: Check[object]) -> None:
    assert check.name == check.name.lower() and " " not in check.name
    assert len({one.name for one in (*OF_ONE_HOST, *PAIR_CHECKS)}) == len(OF_ONE_HOST) + len(PAIR_CHECKS)


# -- whose domains they are ------------------------------------------------------------------------------


def test_autostart_of_a_domain_of_ours_is_an_error() -> None:
    given = host(residents=(resident("web", autostart=True, cluster="c1"),))
    cluster = ClusterFacts(domains={DOMAIN: False})
    assert the_finding(verdict(given, cluster=cluster), "autostart").severity is Severity.ERROR


def test_autostart_that_its_spec_asks_for_is_none() -> None:
    given = host(residents=(resident("web", autostart=True, cluster="c1"),))
    found = verdict(given, cluster=ClusterFacts(domains={DOMAIN: True}))
    assert {"autostart", "domains"} <= set(found.passed)


def test_without_a_cluster_a_mark_says_whose_a_domain_is() -> None:
    given = host(residents=(resident("web", autostart=True, cluster="c1"),))
    found = judge(OF_ONE_HOST, Seen(given, Round((given,))))
    assert the_finding(found, "autostart").severity is Severity.ERROR
    assert "domains" in found.passed


def test_a_name_that_is_no_plain_word_stands_in_no_command() -> None:
    given = host(residents=(resident("-x; reboot", autostart=True),))
    (mend,) = the_finding(verdict(given), "autostart").mend
    assert mend.command.endswith(f"--disable {DOMAIN}")


def test_many_names_are_cut_short() -> None:
    given = host(residents=tuple(resident(f"old-{n}", active=n < 2) for n in range(9)))
    seen = the_finding(verdict(given), "domains").seen
    assert "9 domains" in seen and "2 of them active" in seen and "old-4 and 4 more" in seen


# -- identity --------------------------------------------------------------------------------------------


def test_two_hosts_of_one_host_uuid_are_an_error_on_both() -> None:
    one, other = host("hv1"), host("hv2")
    for this, that in ((one, other), (other, one)):
        found = the_finding(verdict(this, that), "host-uuid-unique")
        assert found.severity is Severity.ERROR
        assert UUID in found.seen and that.name in found.seen
        assert "uuidgen" in found.mend[0].command and found.mend[0].on == this.name


def test_qemu_and_lxc_of_one_host_are_no_duplicates() -> None:
    lxc = host("hv1-lxc", "lxc+tcp://hv1/system", driver="lxc")
    assert "host-uuid-unique" in verdict(host(), lxc).passed


def test_a_host_that_is_registered_already_is_found_by_its_identity() -> None:
    cluster = ClusterFacts(nodes=(registered("hv9", host_uuid=UUID),))
    found = the_finding(verdict(host("new", node=False), cluster=cluster), "host-uuid-registered")
    assert found.severity is Severity.ERROR and "Node hv9" in found.seen


@pytest.mark.parametrize("node", [True, False])
def test_a_node_is_no_duplicate_of_itself(node: bool) -> None:
    cluster = ClusterFacts(nodes=(registered("hv1", host_uuid=UUID),))
    assert "host-uuid-registered" in verdict(host("hv1", node=node), cluster=cluster).passed


def test_without_a_cluster_registered_nodes_are_not_checked() -> None:
    found = judge(OF_ONE_HOST, Seen(host(), Round((host(),), cluster_unread="a kubeconfig")))
    assert [one.needs for one in found.not_checked if one.check == "host-uuid-registered"] == ["a kubeconfig"]


# -- versions --------------------------------------------------------------------------------------------


def test_the_older_of_two_hypervisors_is_warned_of() -> None:
    newer = second(hypervisor_version="8.2.0")
    found = the_finding(verdict(host(), newer), "version-skew")
    assert found.severity is Severity.WARNING and "hv2 has 8.2.0" in found.seen
    assert "version-skew" in verdict(newer, host()).passed


def test_versions_are_numbers_and_not_words() -> None:
    assert (
        "version-skew"
        in verdict(host(hypervisor_version="10.0.0"), second(hypervisor_version="9.9.9")).passed
    )


def test_an_older_libvirt_alone_is_only_told() -> None:
    found = the_finding(verdict(host(), second(libvirt_version="10.0.0")), "version-skew")
    assert found.severity is Severity.INFO


def test_versions_are_compared_with_registered_nodes_too() -> None:
    cluster = ClusterFacts(nodes=(registered("hv9", libvirt_version="9.0.0", hypervisor_version="8.1.0"),))
    assert "hv9 has 8.1.0" in the_finding(verdict(host(), cluster=cluster), "version-skew").seen


def test_a_host_alone_has_no_skew_to_check() -> None:
    found = verdict(host(), host("c", "lxc+tcp://hv1/system", driver="lxc"))
    assert [one.needs for one in found.not_checked if one.check == "version-skew"] == [
        "a second host of this driver, given or registered"
    ]


def test_another_processor_among_the_registered_nodes_is_told() -> None:
    nodes = tuple(registered(name, cpu_model=model) for name, model in (("hv8", "Nehalem"), ("hv9", "EPYC")))
    found = the_finding(verdict(host(), cluster=ClusterFacts(nodes=nodes)), "cpu-registered")
    assert found.severity is Severity.INFO and "a Nehalem on hv8" in found.seen
    assert found.mend[0].command == "domctl doctor hv1 hv8"


def test_a_host_that_was_named_too_is_compared_as_a_pair_only() -> None:
    cluster = ClusterFacts(nodes=(registered("hv2", cpu_model="Nehalem"),))
    found = verdict(host(), second(), cluster=cluster)
    assert "cpu-registered" in {one.check for one in found.not_checked}


# -- pairs -----------------------------------------------------------------------------------------------


def test_two_equal_hosts_pass_as_a_pair() -> None:
    assert pair_verdict(host(), second(), cpu=CpuFit.IDENTICAL).passed == ("machines", "cpu")
    assert pair_verdict(host(), second(), cpu=CpuFit.SUPERSET).passed == ("machines", "cpu")


@pytest.mark.parametrize(
    ("changes", "severity", "seen"),
    [
        ({"arch": "aarch64"}, Severity.ERROR, "hv1 is x86_64, hv2 is aarch64"),
        ({"machines": ("pc-q35-6.0",)}, Severity.ERROR, "no machine type in common"),
        (
            {"machines": ("pc", "pc-i440fx-7.2", "pc-q35-7.1", "q35")},
            Severity.WARNING,
            "machine q35 is pc-q35-7.2 on hv1, which hv2 lacks",
        ),
    ],
)
def test_machine_types_must_be_known_where_a_domain_goes(
    changes: dict[str, object], severity: Severity, seen: str
) -> None:
    found = the_finding(pair_verdict(host(), second(**changes), cpu=CpuFit.IDENTICAL), "machines")
    assert (found.severity, found.seen) == (severity, found.seen)
    assert seen in found.seen


def test_a_lesser_processor_is_warned_of_in_one_direction() -> None:
    lesser = second(cpu=CpuOffer("x86_64", "pc", "kvm", "Nehalem", "Intel", "<cpu/>"))
    found = the_finding(
        pair_verdict(host(), lesser, cpu=CpuFit.INCOMPATIBLE, baseline="<cpu><model>kvm64</model></cpu>"),
        "cpu",
    )
    assert "hv2 does not offer all of the processor of hv1 (EPYC, there Nehalem)" in found.seen
    assert "<model>kvm64</model>" in found.why
    assert pair_verdict(lesser, host(), cpu=CpuFit.SUPERSET).passed == ("machines", "cpu")


def test_processors_that_were_not_compared_are_not_checked() -> None:
    found = pair_verdict(host(), second(), cpu_unread="an answer of hv2: too busy")
    assert [(one.check, one.needs) for one in found.not_checked] == [("cpu", "an answer of hv2: too busy")]


# -- the gear --------------------------------------------------------------------------------------------


def test_each_row_ends_in_one_of_three() -> None:
    finding = Finding("seen", "why", ())
    rows = (
        Check("finds", Severity.INFO, lambda _: "", lambda _: [finding]),
        Check("passes", Severity.INFO, lambda _: "", lambda _: []),
        Check("cannot", Severity.INFO, lambda _: "light", lambda _: [finding]),
        Check("means-nothing", Severity.INFO, lambda _: None, lambda _: [finding]),
    )
    found = judge(rows, 1)
    assert [(one.check, one.severity) for one in found.findings] == [("finds", Severity.INFO)]
    assert found.passed == ("passes",)
    assert [(one.check, one.needs) for one in found.not_checked] == [("cannot", "light")]


def test_a_configuration_command_replaces_what_is_set_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text('# user = "x"\nuser = "root"\nkeep = 1\ngroup="root"\n')
    command = set_values("qemu.conf", user="libvirt-qemu", group="kvm").replace("/etc/libvirt", str(tmp_path))
    subprocess.run(["bash", "-c", command.removesuffix(" && systemctl restart libvirtd")], check=True)
    assert file.read_text() == '# user = "x"\nkeep = 1\nuser = "libvirt-qemu"\ngroup = "kvm"\n'
