"""What a probe's end means: why a migration is not possible between two hosts, and what mends it.

libvirt gives most of these one and the same code, so its words are gone through from the top (`DIAGNOSES`,
first match wins). They are shown as they came in any case; what is made of them decides nothing but which
command is named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.doctor.facts import Host, Probe
from controller.doctor.findings import Finding, Mend, Severity
from controller.doctor.hostchecks import SET_HOST_UUID

QEMU_PORTS = range(49152, 49216)
_OPEN_QEMU = "iptables -I INPUT -p tcp --dport 49152:49215 -j ACCEPT"
_SOCKETS = {16509: "libvirtd-tcp.socket", 16514: "libvirtd-tls.socket"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """`source` and `target` are the hosts, `from_` and `to` how people call them."""

    probe: Probe
    source: Host
    target: Host
    from_: str
    to: str
    peer_uri: str

    @property
    def as_source(self) -> Mend:
        """What the source's libvirtd does, by hand."""
        return Mend(f"virsh -c {shlex.quote(self.peer_uri)} version", self.from_)


Explain = Callable[[Attempt, re.Match[str]], tuple[str, tuple[Mend, ...]]]


def _unresolved(attempt: Attempt, found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    name = found["name"]
    uri = attempt.target.uri
    host = uri.host if uri is not None else ""
    address = host if re.fullmatch(r"[0-9.]+|.*:.*", host) else f"ADDRESS-OF-{attempt.to}"
    whose = "the name that it calls itself" if int(found["port"]) in QEMU_PORTS else "the name in its URI"
    return (
        f"{attempt.from_} cannot resolve {name}, {whose}",
        (Mend(f"echo {shlex.quote(f'{address} {name}')} >> /etc/hosts", attempt.from_),),
    )


def _unconnected(attempt: Attempt, found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    port, why = int(found["port"]), found["why"]
    if port in QEMU_PORTS:
        return (
            f"QEMU on {attempt.from_} cannot reach port {port} of {attempt.to} ({why}): each migration takes "
            "a port between 49152 and 49215 there",
            (Mend(_OPEN_QEMU, attempt.to),),
        )
    openings = [Mend(f"iptables -I INPUT -p tcp --dport {port} -j ACCEPT", attempt.to)]
    if "refused" in why and port in _SOCKETS:
        openings = [Mend(f"systemctl stop libvirtd && systemctl enable --now {_SOCKETS[port]}", attempt.to)]
    return f"libvirtd on {attempt.from_} cannot reach port {port} of {attempt.to} ({why})", tuple(openings)


def _same(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return "both have one host_uuid, so libvirt takes them for one host", (Mend(SET_HOST_UUID, attempt.to),)


def _processor(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        f"the processor of {attempt.to} lacks what that of {attempt.from_} has",
        (Mend(f"virsh -c {shlex.quote(attempt.target.subject.uri)} domcapabilities"),),
    )


def _machine(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        f"{attempt.to} does not know the machine type that {attempt.from_} gives by default",
        (Mend("apt-get install --only-upgrade qemu-system-x86", attempt.to),),
    )


def _certificate(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        f"libvirtd on {attempt.from_} needs the CA's certificate and a client certificate of its own that "
        f"{attempt.to} accepts",
        (Mend("virt-pki-validate", attempt.from_), attempt.as_source),
    )


def _ssh_key(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    where = re.sub(r"^\w+\+ssh://([^/:]*).*", r"\1", attempt.peer_uri)
    return (
        f"root on {attempt.from_} must know the host key of {attempt.to}, and be let in by a key without "
        "passphrase",
        (Mend(f"ssh {shlex.quote(where)} true", attempt.from_), attempt.as_source),
    )


def _credentials(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        f"{attempt.to} does not let libvirtd of {attempt.from_} in, which has credentials of its own",
        (attempt.as_source,),
    )


def _silent(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        f"packets from {attempt.from_} to {attempt.to} vanish on the way, which firewalls do",
        (
            Mend(
                "iptables -I INPUT -p tcp -m multiport --dports 16509,16514,49152:49215 -j ACCEPT", attempt.to
            ),
        ),
    )


def _unknown(attempt: Attempt, _found: re.Match[str]) -> tuple[str, tuple[Mend, ...]]:
    return (
        "libvirt refuses it",
        (attempt.as_source, Mend("journalctl -u libvirtd -n 50", attempt.from_)),
    )


DIAGNOSES: tuple[tuple[str, Explain], ...] = (
    (r"same host", _same),
    (r"[Hh]ost key|Permission denied|ssh: ", _ssh_key),
    (r"certificate|TLS|x509", _certificate),
    (r"Unable to resolve address '(?P<name>[^']+)' service '(?P<port>\d+)'", _unresolved),
    (r"unable to connect to server at '.*:(?P<port>\d+)': (?P<why>.*)", _unconnected),
    (r"CPU", _processor),
    (r"machine type|does not support machine", _machine),
    (r"[Aa]uthentication", _credentials),
    (r"no answer within|timed out|keepalive", _silent),
    (r"", _unknown),
)


def diagnose(attempt: Attempt) -> Iterator[Finding]:
    """What is wrong with the way, if anything."""
    probe = attempt.probe
    if probe.refused:
        yield Finding(
            seen=f"a guest does not start on {attempt.from_} with {probe.refused}",
            why=f"it was tried with {probe.virt_type} instead; domains whose spec leaves type out need kvm",
            mend=(Mend("ls -l /dev/kvm", attempt.from_),),
            severity=Severity.WARNING,
        )
    if not probe.stage:
        return
    if probe.stage != "migrate":
        yield Finding(
            seen=f"the probe ended before its migration, at {probe.stage}: {probe.message}",
            why=f"a guest without disks, of type {probe.virt_type or 'none'}, does not get that far",
            mend=(Mend("journalctl -u libvirtd -n 50", attempt.from_),),
        )
        return
    explain, found = next(
        (explain, match)
        for pattern, explain in DIAGNOSES
        if (match := re.search(pattern, probe.message)) is not None
    )
    why, mend = explain(attempt, found)
    yield Finding(seen=f"a migration over {attempt.peer_uri} fails: {probe.message}", why=why, mend=mend)
