"""What is asked over ssh, and what the answers mean: a fixed table of read-only commands, and pure parsers.

An answer that is of no use (no systemd, no leave to read a file) is `unread` with the reason, and so is what
a parser does not understand: unknown is not well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from drivers.shell import Answer

DAEMONS = ("libvirtd.service", "libvirtd.socket", "virtqemud.service", "virtqemud.socket")
TIME_SERVICES = (
    "systemd-timesyncd.service",
    "chrony.service",
    "chronyd.service",
    "ntp.service",
    "ntpsec.service",
)
LOCK_DAEMONS = ("virtlockd.socket", "virtlockd.service")
GUESTS = "libvirt-guests.service"
UNITS = (*DAEMONS, *TIME_SERVICES, *LOCK_DAEMONS, GUESTS)

# Nothing here may change anything, and nothing here comes from a user or a host.
COMMANDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "clock": ("date", "+%s.%N"),
        "units": ("systemctl", "show", "--property=Id,LoadState,ActiveState,UnitFileState", *UNITS),
        "qemu_conf": ("cat", "/etc/libvirt/qemu.conf"),
        "libvirtd_conf": ("cat", "/etc/libvirt/libvirtd.conf"),
        "autostart_links": ("ls", "-1", "/etc/libvirt/qemu/autostart"),
        "listening": ("ss", "-Hltn"),
        "iptables": ("iptables", "-S", "INPUT"),
        "nftables": ("nft", "list", "ruleset"),
        "cgroups": ("stat", "-fc", "%T", "/sys/fs/cgroup"),
        "clients": ("virt-admin", "-c", "libvirtd:///system", "srv-clients-info", "libvirtd"),
    }
)
_CONF_LINE = re.compile(r'^\s*([a-z_]+)\s*=\s*(?:"([^"]*)"|([^#]*?))\s*(?:#.*)?$')
_ABSENT = "No such file or directory"


@dataclass(frozen=True, slots=True)
class Unit:
    """As systemd calls it: loaded or not-found; active, inactive, failed; enabled, disabled, static, ..."""

    load: str
    active: str
    enabled: str


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a host's clock is ahead of ours, and by how much that may be wrong, in seconds."""

    ahead_s: float
    within_s: float


@dataclass(frozen=True, slots=True)
class Firewall:
    """`closed`: what no rule names is dropped or refused; `text`: all rules."""

    closed: bool
    text: str


@dataclass(frozen=True, slots=True)
class ShellFacts:
    """None where it was not read; `unread` says why."""

    clock: Clock | None = None
    units: Mapping[str, Unit] | None = None
    qemu_conf: Mapping[str, str] | None = None
    libvirtd_conf: Mapping[str, str] | None = None
    autostart_links: tuple[str, ...] | None = None
    listening: frozenset[int] | None = None
    iptables: Firewall | None = None
    nftables: Firewall | None = None
    cgroups: str | None = None
    clients: Mapping[str, int] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


class NotUnderstood(ValueError):
    """The message says what would have to be there."""


def facts_of(answers: Mapping[str, Answer], unanswered: Mapping[str, str]) -> ShellFacts:
    """`unanswered`: command → why there is no answer to it."""
    found: dict[str, Any] = {}
    unread = dict(unanswered)
    for name, answer in answers.items():
        try:
            found[name] = PARSERS[name](answer)
        except NotUnderstood as error:
            unread[name] = str(error)
    return ShellFacts(**found, unread=unread)


def _output(answer: Answer, program: str = "it") -> str:
    """What was said. Raises NotUnderstood where the command failed: `program` is what is not there then."""
    if answer.code != 0:
        lines = (answer.err or answer.out).strip().splitlines()
        words = lines[-1].strip() if lines else f"exit code {answer.code}"
        needs = "root there" if "ermission denied" in words or "must be root" in words else f"{program} there"
        raise NotUnderstood(f"{needs} ({words})")
    return answer.out


def parse_clock(answer: Answer) -> Clock:
    try:
        there = float(_output(answer).strip())
    except ValueError:
        raise NotUnderstood("a date that knows %s.%N") from None
    took_s = answer.ended_at - answer.began_at
    return Clock(there - (answer.began_at + took_s / 2), took_s / 2)


def parse_units(answer: Answer) -> Mapping[str, Unit]:
    units = {}
    for block in _output(answer, "systemd").split("\n\n"):
        about = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in about:
            units[about["Id"]] = Unit(
                about.get("LoadState", ""), about.get("ActiveState", ""), about.get("UnitFileState", "")
            )
    if not units:
        raise NotUnderstood("systemd there")
    return units


def parse_conf(answer: Answer) -> Mapping[str, str]:
    """Keys and values without quotes and comments; lists that go on over lines are cut at the first."""
    found = {}
    for line in _output(answer).splitlines():
        match = _CONF_LINE.match(line)
        if match:
            found[match[1]] = match[2] if match[2] is not None else match[3]
    return found


def parse_links(answer: Answer) -> tuple[str, ...]:
    if answer.code != 0 and _ABSENT in answer.err:
        return ()
    names = _output(answer).splitlines()
    return tuple(sorted(name.removesuffix(".xml") for name in names if name.endswith(".xml")))


def parse_listening(answer: Answer) -> frozenset[int]:
    """Ports that others than the host itself can reach."""
    ports = set()
    for line in _output(answer).splitlines():
        fields = line.split()
        if len(fields) >= 4:
            address, _, port = fields[3].rpartition(":")
            if port.isdigit() and not address.strip("[]").startswith(("127.", "::1")):
                ports.add(int(port))
    return frozenset(ports)


def parse_iptables(answer: Answer) -> Firewall:
    text = _output(answer, "iptables")
    lines = text.splitlines()
    last = lines[-1] if lines else ""
    everything = re.fullmatch(r"-A INPUT -j (DROP|REJECT)( .*)?", last) is not None
    return Firewall(everything or "-P INPUT DROP" in lines, text)


def parse_nftables(answer: Answer) -> Firewall:
    text = _output(answer, "nft")
    return Firewall(re.search(r"hook input [^;]*;\s*policy drop", text) is not None, text)


def parse_clients(answer: Answer) -> Mapping[str, int]:
    pairs = (line.partition(":") for line in _output(answer, "virt-admin").splitlines())
    found = {name.strip(): int(value) for name, _, value in pairs if value.strip().isdigit()}
    if "nclients_max" not in found:
        raise NotUnderstood("virt-admin there")
    return found


PARSERS: Mapping[str, Callable[[Answer], object]] = MappingProxyType(
    {
        "clock": parse_clock,
        "units": parse_units,
        "qemu_conf": parse_conf,
        "libvirtd_conf": parse_conf,
        "autostart_links": parse_links,
        "listening": parse_listening,
        "iptables": parse_iptables,
        "nftables": parse_nftables,
        "cgroups": lambda answer: _output(answer).strip(),
        "clients": parse_clients,
    }
)
