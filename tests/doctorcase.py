"""Hosts as `domctl doctor` finds them, written down: what checks are tested with.

`host()` is one on which nothing is wrong; tests change what they are about. Taken from a host of the lab with
libvirt 9.0 and QEMU 7.2, with what was wrong with that put right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from controller.doctor.among import PAIR_CHECKS, SeenPair
from controller.doctor.facts import ClusterFacts, Failure, Host, Pair, Registered, Round, Subject, credentials
from controller.doctor.findings import Finding, Verdict, judge
from controller.doctor.report import OF_ONE_HOST
from controller.doctor.seen import Seen
from controller.doctor.shell import Clock, Firewall, ShellFacts, Unit
from drivers.hypervisor import HostFacts
from drivers.inspection import CpuOffer, HostObject, Inspection, Pages, Resident, SecurityModel

UUID = "a8c42c15-27a9-470e-bbfb-d7686dd010ea"
OTHER_UUID = "45a3c3ae-d551-47e6-bae6-c66a4ee3df01"
DOMAIN = "0d6f4f0a-7f0e-4c3e-9f51-0c6a2b9d1c11"
GIB = 1 << 30
NOW_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z

SHELL = ShellFacts(
    clock=Clock(0.02, 0.05),
    units={
        "libvirtd.service": Unit("loaded", "active", "enabled"),
        "libvirtd.socket": Unit("loaded", "active", "enabled"),
        "libvirt-guests.service": Unit("loaded", "inactive", "disabled"),
        "virtlockd.socket": Unit("loaded", "active", "enabled"),
        "virtqemud.service": Unit("not-found", "inactive", ""),
        "systemd-timesyncd.service": Unit("loaded", "active", "enabled"),
    },
    qemu_conf={"lock_manager": "lockd"},
    libvirtd_conf={},
    autostart_links=(),
    listening=frozenset({22, 16509}),
    iptables=Firewall(False, "-P INPUT ACCEPT"),
    cgroups="cgroup2fs",
    clients={"nclients_max": 5000, "nclients": 3},
    unread={"nftables": "root there (x)"},
)

FACTS = HostFacts(
    host_uuid=UUID,
    driver="qemu",
    mode="system",
    hostname="hv1",
    uri="qemu:///system",
    libvirt_version="9.0.0",
    hypervisor_version="7.2.22",
    arch="x86_64",
    cpu_model="EPYC",
    cpus=8,
    max_vcpus=255,
    memory_bytes=16 * GIB,
    free_memory_bytes=12 * GIB,
    numa_cells=1,
    encrypted=True,
    secure=True,
    domain_types=("kvm", "qemu"),
    machines=("pc", "pc-i440fx-7.2", "pc-q35-7.1", "pc-q35-7.2", "q35"),
)
INSPECTION = Inspection(
    facts=FACTS,
    keep_alive=True,
    security=(SecurityModel("apparmor"), SecurityModel("dac", "+64055:+108")),
    pools=(HostObject("default", active=True, autostart=True),),
    networks=(HostObject("default", active=True, autostart=True),),
    pages=(Pages(4096, 4 << 20), Pages(2 << 20, 0)),
    aliases={"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"},
    cpu=CpuOffer("x86_64", "pc-i440fx-7.2", "kvm", "EPYC", "AMD", "<cpu><model>EPYC</model></cpu>"),
)


def host(name: str = "hv1", uri: str = "", *, node: bool = True, **changes: Any) -> Host:
    """Fields of the facts or of the inspection that are named are changed."""
    uri = uri or f"qemu+tcp://{name}/system"
    subject = Subject(name, uri, name if node else "", insecure=node)
    facts = {key: value for key, value in changes.items() if hasattr(FACTS, key)}
    rest = {key: value for key, value in changes.items() if not hasattr(FACTS, key)}
    found = replace(INSPECTION, facts=replace(FACTS, **({"hostname": name} | facts)), **rest)
    return Host(subject, found, opened_in_s=0.1)


def with_shell(given: Host, **changes: Any) -> Host:
    """As ssh found it, with these facts changed."""
    return replace(given, shell=replace(SHELL, **changes))


def second(**changes: Any) -> Host:
    return host("hv2", **({"host_uuid": OTHER_UUID} | changes))


def unreached(
    kind: str, phase: str, message: str, cause: str = "", uri: str = "qemu+tcp://hv1/system", **files: str
) -> Host:
    subject = Subject("hv1", uri, "hv1", insecure=True, credentials=credentials(files))
    return Host(subject, failure=Failure(kind, phase, message, cause))


def resident(name: str, **changes: Any) -> Resident:
    return Resident(**({"uuid": DOMAIN, "name": name, "active": True, "autostart": False} | changes))


def a_round(*hosts: Host, cluster: ClusterFacts | None = None, pairs: tuple[Pair, ...] = ()) -> Round:
    known = ClusterFacts() if cluster is None else cluster
    return Round(hosts, pairs, known, wall_s=NOW_S)


def registered(node: str, **changes: Any) -> Registered:
    known = {"uri": f"qemu+tcp://{node}/system", "host_uuid": OTHER_UUID, "driver": "qemu", "mode": "system"}
    return Registered(node, **(known | changes))


def verdict(first: Host, *others: Host, cluster: ClusterFacts | None = None) -> Verdict:
    """On the first host, in a round with the others."""
    return judge(OF_ONE_HOST, Seen(first, a_round(first, *others, cluster=cluster)))


def pair_verdict(source: Host, target: Host, **changes: Any) -> Verdict:
    pair = Pair(source.name, target.name, **changes)
    return judge(PAIR_CHECKS, SeenPair(pair, a_round(source, target, pairs=(pair,))))


def the_finding(found: Verdict, check: str) -> Finding:
    """The only one of that check."""
    findings = [finding for finding in found.findings if finding.check == check]
    assert len(findings) == 1, found.findings
    return findings[0]
