"""One host, as libvirt's API tells of it: the way there, who it is, and what confines its guests.

A table of checks over `Seen`; each look is a pure function. What a finding costs when it is ignored stands in
its `why`; the commands are those of Debian where distributions differ.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterator

from controller.doctor.findings import Check, Finding, Severity
from controller.doctor.refusals import mends_for
from controller.doctor.seen import (
    Part,
    Seen,
    always,
    connected,
    has_certificates,
    has_transport,
    is_reached,
    set_values,
    version,
)
from drivers.errors import SAID_BY_HOST

CONFINING = ("selinux", "apparmor")
_SLOW_OPEN_S = 2.0
_EXPIRES_SOON_DAYS, _EXPIRES_NOW_DAYS = 30, 7
_OLDEST = (5, 6, 0)  # undefine of checkpoint metadata; before it no proof can be given for some domains
_TESTED = (9, 0, 0)
# What firmware vendors leave in the DMI tables of whole series of boards.
_COMMON_UUIDS = (
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
)
SET_HOST_UUID = (
    "sed -i '/^host_uuid *=/d' /etc/libvirt/libvirtd.conf && "
    'printf \'host_uuid = "%s"\\n\' "$(uuidgen)" >> /etc/libvirt/libvirtd.conf && systemctl restart libvirtd'
)


# -- the way there ---------------------------------------------------------------------------------------


PHASES = {
    "name": "its name was not resolved",
    "port": "its port did not answer",
    "handshake": "the handshake of TLS was not ended",
    "open": "libvirtd did not answer",
}


def _reachability(seen: Seen) -> Iterator[Finding]:
    failure = seen.host.failure
    if failure is None or failure.kind == "auth":
        return
    is_daemon = failure.phase in ("open", "handshake")  # somebody answers, and then says no more
    mends = None if is_daemon else mends_for(failure.cause)
    restart, ask = seen.on_host("systemctl restart libvirtd"), seen.virsh("version")
    yield Finding(
        seen=f"{PHASES.get(failure.phase, 'no session')}: {failure.message}",
        why="domctl would hold every domain of this host: unreachable is not absent",
        mend=(restart if is_daemon else ask,) if mends is None else mends(seen),
    )


def _authentication(seen: Seen) -> Iterator[Finding]:
    failure = seen.host.failure
    if failure is None:
        return
    by_host = not failure.cause or failure.cause in SAID_BY_HOST
    mends = mends_for(failure.cause)
    yield Finding(
        seen=("the host answers, and we are not let in" if by_host else "we do not get as far as the host")
        + f": {failure.message}",
        why="a refusal is a matter of configuration: it is never waited out, and never a reason to fence",
        mend=(seen.on_host("journalctl -u libvirtd -n 20"),) if mends is None else mends(seen),
    )


def _certificates(seen: Seen) -> Iterator[Finding]:
    for one in seen.inspection.facts.certificates:
        left_days = (_wall_s(one.expires_at) - seen.round.wall_s) / 86400
        if left_days < _EXPIRES_SOON_DAYS:
            ours = one.whose == "client"
            pki = seen.host.subject.credentials.pki_dir or "PKI-DIR"
            show = f"openssl x509 -noout -subject -dates -in {shlex.quote(pki + '/clientcert.pem')}"
            yield Finding(
                seen=f"{'our' if ours else 'its'} certificate ({one.subject}) ends in {left_days:.0f} days, "
                f"at {one.expires_at}",
                why="from then on the host does not answer us, and all its domains are held",
                mend=(seen.here(show),) if ours else (seen.on_host("virt-pki-validate"),),
                severity=Severity.ERROR if left_days < _EXPIRES_NOW_DAYS else Severity.WARNING,
            )


def _wall_s(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _speed(seen: Seen) -> Iterator[Finding]:
    if seen.host.opened_in_s > _SLOW_OPEN_S:
        yield Finding(
            seen=f"opening the connection took {seen.host.opened_in_s:.1f} s",
            why="at 5 s an opening is given up, and the host counts as unreachable",
            mend=(seen.on_host("virt-admin srv-threadpool-info libvirtd"),),
        )


def _link(seen: Seen) -> Iterator[Finding]:
    facts, uri = seen.inspection.facts, seen.host.uri
    assert uri is not None, "a session was opened by it"
    if uri.transport == "tcp" and not facts.encrypted:
        yield Finding(
            seen=f"{seen.host.subject.uri} has neither encryption nor authentication",
            why="whoever reaches that port is root on the host"
            + ("; the Node says insecure: true" if seen.host.subject.insecure else ""),
            mend=(
                seen.on_host("systemctl stop libvirtd && systemctl enable --now libvirtd-tls.socket"),
                seen.on_host("systemctl disable --now libvirtd-tcp.socket"),
            ),
            severity=Severity.WARNING if seen.host.subject.insecure else Severity.ERROR,
        )
    elif not facts.secure:
        yield Finding(
            seen="libvirt does not deem this connection secure",
            why="what is sent over it can be read or changed on the way",
            mend=(seen.on_host("systemctl stop libvirtd && systemctl enable --now libvirtd-tls.socket"),),
            severity=Severity.WARNING,
        )


def _keep_alive(seen: Seen) -> Iterator[Finding]:
    if not seen.inspection.keep_alive:
        yield Finding(
            seen="this connection has no keep-alive",
            why="a cut link is noticed only when a call runs into its deadline",
            mend=(seen.on_host("apt-get install --only-upgrade libvirt-daemon"),),
        )


# -- who it is -------------------------------------------------------------------------------------------


def _identity(seen: Seen) -> Iterator[Finding]:
    facts = seen.inspection.facts
    if facts.host_uuid in _COMMON_UUIDS:
        yield Finding(
            seen=f"its host_uuid is {facts.host_uuid}, which whole series of boards have",
            why="a host is told from others by it: the next such host would be refused as the same one, and "
            "libvirt does not migrate between hosts of one host_uuid",
            mend=(seen.on_host(SET_HOST_UUID),),
        )
    elif not facts.host_uuid:
        yield Finding(
            seen=f"driver {facts.driver} tells no host_uuid",
            why="its URI stands for its identity, so another host behind that URI would not be noticed",
            mend=(seen.virsh("capabilities"),),
            severity=Severity.INFO,
        )


def _version(seen: Seen) -> Iterator[Finding]:
    text = seen.inspection.facts.libvirt_version
    if version(text) < _TESTED:
        yield Finding(
            seen=f"libvirt {text}",
            why="domctl is tried with 9.0.0 and newer; before 8.9 domains with a TPM are pinned to their "
            "node, before 5.6 those with checkpoints cannot be taken away",
            mend=(seen.on_host("apt-get install --only-upgrade libvirt-daemon-system"),),
            severity=Severity.WARNING if version(text) < _OLDEST else Severity.INFO,
        )


# -- what confines its guests ----------------------------------------------------------------------------


def _security(seen: Seen) -> Iterator[Finding]:
    names = [model.name for model in seen.inspection.security]
    if not any(name in CONFINING for name in names):
        yield Finding(
            seen=f"neither SELinux nor AppArmor ({', '.join(names) or 'none'})",
            why="nothing but file permissions confines a guest that breaks out of its hypervisor",
            mend=(
                seen.on_host(
                    "apt-get install -y apparmor && "
                    + set_values(f"{seen.inspection.facts.driver}.conf", security_driver="apparmor")
                ),
            ),
        )


def _qemu_user(seen: Seen) -> Iterator[Finding]:
    dac = next((model for model in seen.inspection.security if model.name == "dac"), None)
    if dac is not None and dac.label.lstrip("+").partition(":")[0] == "0":
        yield Finding(
            seen=f"QEMU runs as root (dac label {dac.label})",
            why="a guest that breaks out of QEMU is root on the host, and reads every file there",
            mend=(seen.on_host(set_values("qemu.conf", user="libvirt-qemu", group="kvm")),),
        )


def _kvm(seen: Seen) -> Iterator[Finding]:
    kinds = seen.inspection.facts.domain_types
    if "kvm" not in kinds:
        vendor = seen.inspection.cpu.vendor
        module = {"AMD": "kvm_amd", "Intel": "kvm_intel"}.get(vendor, "kvm")
        yield Finding(
            seen=f"no KVM: domains can only be of type {', '.join(kinds) or 'unknown'}",
            why="a domain whose spec leaves type out is one of type kvm, and is refused here",
            mend=(seen.on_host(f"modprobe {module} && systemctl restart libvirtd"),),
        )


WARNING, ERROR = Severity.WARNING, Severity.ERROR
HOST_CHECKS: tuple[Check[Seen], ...] = (
    Check("reachability", ERROR, always, _reachability),
    Check("authentication", ERROR, is_reached, _authentication),
    Check("opening-time", WARNING, connected, _speed),
    Check("certificates", WARNING, has_certificates, _certificates),
    Check("link", WARNING, has_transport, _link),
    Check("keep-alive", WARNING, has_transport, _keep_alive),
    Check("identity", ERROR, connected, _identity),
    Check("libvirt-version", WARNING, connected, _version),
    Check("security-driver", WARNING, Part("capabilities", ("qemu", "lxc")), _security),
    Check("qemu-user", WARNING, Part("capabilities", ("qemu",)), _qemu_user),
    Check("kvm", WARNING, Part("cpu", ("qemu",)), _kvm),
)
