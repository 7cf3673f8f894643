"""What read-only commands on the host tell: a table of checks over facts that came by ssh.

Each names the facts that it needs; without ssh, or where a fact could not be read, it is not checked, and
what would be needed is said. The commands that mend are those of a host with systemd.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from controller.doctor.findings import Check, Finding, Severity
from controller.doctor.seen import Seen, listed, set_values
from controller.doctor.shell import DAEMONS, GUESTS, LOCK_DAEMONS, TIME_SERVICES, Firewall, ShellFacts, Unit

ASK_FOR_IT = "--ssh [USER@]HOST"
_SKEW_S, _BAD_SKEW_S = 2.0, 300.0
_SPARE_CLIENTS = 8
_ON = ("enabled", "enabled-runtime", "static", "alias", "linked")
_ROOT = ("root", "0", "+0")
_MIGRATION_PORTS = range(49152, 49216)
_RANGES = re.compile(r"(\d{4,5})\s*[:-]\s*(\d{4,5})")
_CGROUPS = ("cgroup2fs", "tmpfs")


@dataclass(frozen=True, slots=True)
class By:
    """Needs of a check: all of these facts, or `one` of them; of these drivers only, if any are named."""

    facts: tuple[str, ...]
    drivers: tuple[str, ...] = ()
    one: bool = False

    def __call__(self, seen: Seen) -> str | None:
        host = seen.host
        if self.drivers and (host.inspection is None or host.inspection.facts.driver not in self.drivers):
            return None if host.inspection is not None else "a connection to libvirtd"
        if host.shell is None:
            return f"a working {host.shell_failure}" if host.shell_failure else ASK_FOR_IT
        missing = [fact for fact in self.facts if getattr(host.shell, fact) is None]
        if not missing or (self.one and len(missing) < len(self.facts)):
            return ""
        return host.shell.unread.get(missing[0], f"{missing[0]} there")


def asked(seen: Seen) -> str | None:
    return "" if seen.host.shell is not None or seen.host.shell_failure else None


def _shell(seen: Seen) -> ShellFacts:
    assert seen.host.shell is not None, "what needs facts by ssh says so in `needs`"
    return seen.host.shell


def _units(seen: Seen, names: tuple[str, ...]) -> list[Unit]:
    units = _shell(seen).units or {}
    return [units[name] for name in names if name in units and units[name].load == "loaded"]


def _ssh(seen: Seen) -> Iterator[Finding]:
    failure = seen.host.shell_failure
    if failure:
        changed = "CHANGED" in failure
        yield Finding(
            seen=failure,
            why="another machine may answer under this name: its host key is not the one that is known"
            if changed
            else "domctl believes only host keys that are known here, and never asks for a password",
            mend=(seen.here(f"ssh {seen.host.subject.ssh_text} true"),),
            severity=Severity.ERROR if changed else Severity.WARNING,
        )


def _at_boot(seen: Seen) -> Iterator[Finding]:
    units = _units(seen, DAEMONS)
    if not any(unit.enabled in _ON[:2] for unit in units):
        yield Finding(
            seen="neither libvirtd nor virtqemud is enabled, as service or socket",
            why="after a reboot the host does not answer, and all its domains are held",
            mend=(seen.on_host("systemctl enable libvirtd.socket"),),
        )


def _guests(seen: Seen) -> Iterator[Finding]:
    if any(unit.enabled in _ON[:2] for unit in _units(seen, (GUESTS,))):
        yield Finding(
            seen="libvirt-guests is enabled",
            why="at shutdown it saves or stops the domains behind domctl's back, and at boot it starts what "
            "ran then, wherever it runs now. Do not stop the service (disable --now): that stops the domains",
            mend=(seen.on_host("systemctl disable libvirt-guests"),),
        )


def _lock_manager(seen: Seen) -> Iterator[Finding]:
    conf = _shell(seen).qemu_conf or {}
    if conf.get("lock_manager", "nop") in ("", "nop"):
        yield Finding(
            seen="qemu.conf names no lock_manager",
            why="only QEMU's own image locks keep a disk from a second writer, and block devices have none",
            mend=(
                seen.on_host(
                    "systemctl enable --now virtlockd.socket && "
                    + set_values("qemu.conf", lock_manager="lockd")
                ),
            ),
            severity=Severity.INFO,
        )


def _virtlockd(seen: Seen) -> Iterator[Finding]:
    conf = _shell(seen).qemu_conf or {}
    if conf.get("lock_manager") != "lockd":
        return
    if not any(unit.active == "active" for unit in _units(seen, LOCK_DAEMONS)):
        yield Finding(
            seen="lock_manager is lockd, and virtlockd does not run",
            why="no domain with disks can be started there",
            mend=(seen.on_host("systemctl enable --now virtlockd.socket"),),
        )


def _clock(seen: Seen) -> Iterator[Finding]:
    clock = _shell(seen).clock
    assert clock is not None, "needed"
    if abs(clock.ahead_s) - clock.within_s > _SKEW_S:
        which = "ahead of" if clock.ahead_s > 0 else "behind"
        yield Finding(
            seen=f"its clock is {abs(clock.ahead_s):.1f} s {which} ours",
            why="logs of hosts cannot be laid side by side, and certificates are valid at other times",
            mend=(seen.on_host("timedatectl set-ntp true"),),
            severity=Severity.ERROR if abs(clock.ahead_s) > _BAD_SKEW_S else Severity.WARNING,
        )


def _time_service(seen: Seen) -> Iterator[Finding]:
    if not any(unit.active == "active" for unit in _units(seen, TIME_SERVICES)):
        yield Finding(
            seen="nothing keeps its clock",
            why="it drifts away from the others",
            mend=(seen.on_host("timedatectl set-ntp true"),),
        )


def _configured_user(seen: Seen) -> Iterator[Finding]:
    """Only where it will be otherwise than it is: what it is now is `qemu-user`'s."""
    user = (_shell(seen).qemu_conf or {}).get("user", "")
    models = () if seen.host.inspection is None else seen.host.inspection.security
    now = next((model.label for model in models if model.name == "dac"), "")
    if user in _ROOT and not now.startswith("+0:"):
        yield Finding(
            seen=f"qemu.conf says user = {user}",
            why="from libvirtd's next start on, guests run as root",
            mend=(seen.on_host(set_values("qemu.conf", user="libvirt-qemu", group="kvm")),),
        )


def _open_port(seen: Seen) -> Iterator[Finding]:
    facts, uri = _shell(seen), seen.host.uri
    open_to_all = (facts.libvirtd_conf or {}).get("auth_tcp", "sasl") == "none"
    if 16509 in (facts.listening or ()) and open_to_all and (uri is None or uri.transport != "tcp"):
        yield Finding(
            seen="port 16509 is open, with auth_tcp = none",
            why="whoever reaches that port is root on the host, however safe our own way there is",
            mend=(seen.on_host("systemctl disable --now libvirtd-tcp.socket"),),
        )


def _firewall(seen: Seen) -> Iterator[Finding]:
    facts = _shell(seen)
    walls = [wall for wall in (facts.iptables, facts.nftables) if wall is not None]
    if any(wall.closed and not _lets_migrations_in(wall) for wall in walls):
        yield Finding(
            seen="the firewall drops what no rule names, and none names the ports 49152 to 49215",
            why="each migration to this host takes one of them",
            mend=(seen.on_host("iptables -I INPUT -p tcp --dport 49152:49215 -j ACCEPT"),),
        )


def _lets_migrations_in(wall: Firewall) -> bool:
    """Some rule names a range that holds them. Whether it lets in whom it should, only `--probe` tells."""
    first, last = _MIGRATION_PORTS[0], _MIGRATION_PORTS[-1]
    return any(int(low) <= first and last <= int(high) for low, high in _RANGES.findall(wall.text))


def _links(seen: Seen) -> Iterator[Finding]:
    inspection = seen.host.inspection
    assert inspection is not None, "By names the driver"
    known = {one.name for one in inspection.residents if one.autostart}
    stray = [name for name in _shell(seen).autostart_links or () if name not in known]
    if stray and not inspection.residents_left_out:
        yield Finding(
            seen=f"autostart links of domains that libvirtd does not show as such: {listed(stray)}",
            why="it reads them at its next start, and starts what it finds",
            mend=(seen.on_host("ls -l /etc/libvirt/qemu/autostart"),),
        )


def _cgroups(seen: Seen) -> Iterator[Finding]:
    facts = _shell(seen)
    none_used = (facts.qemu_conf or {}).get("cgroup_controllers", "").replace(" ", "") == "[]"
    if facts.cgroups not in _CGROUPS or none_used:
        yield Finding(
            seen="cgroup_controllers is empty in qemu.conf" if none_used else f"no cgroups: {facts.cgroups}",
            why="nothing bounds what a guest takes of processor and memory, and shares are not honoured",
            mend=(
                seen.on_host(
                    "sed -i '/^cgroup_controllers *=/d' /etc/libvirt/qemu.conf && systemctl restart libvirtd"
                ),
            )
            if none_used
            else (seen.on_host("mount -t cgroup2 none /sys/fs/cgroup"),),
        )


def _clients(seen: Seen) -> Iterator[Finding]:
    clients = _shell(seen).clients or {}
    most, now = clients.get("nclients_max", 0), clients.get("nclients", 0)
    if most - now < _SPARE_CLIENTS:
        yield Finding(
            seen=f"{now} of at most {most} clients are connected to libvirtd",
            why="each controller needs two connections and more for migrations; the next one may be refused",
            mend=(seen.on_host("virt-admin srv-clients-set libvirtd --max-clients 5000"),),
        )


SHELL_CHECKS: tuple[Check[Seen], ...] = (
    Check("ssh", Severity.WARNING, asked, _ssh),
    Check("starts-at-boot", Severity.WARNING, By(("units",)), _at_boot),
    Check("libvirt-guests", Severity.WARNING, By(("units",)), _guests),
    Check("autostart-links", Severity.WARNING, By(("autostart_links",), ("qemu",)), _links),
    Check("lock-manager", Severity.INFO, By(("qemu_conf",), ("qemu",)), _lock_manager),
    Check("virtlockd", Severity.ERROR, By(("qemu_conf", "units"), ("qemu",)), _virtlockd),
    Check("qemu-conf-user", Severity.WARNING, By(("qemu_conf",), ("qemu",)), _configured_user),
    Check("clock", Severity.WARNING, By(("clock",)), _clock),
    Check("time-service", Severity.WARNING, By(("units",)), _time_service),
    Check("open-port", Severity.ERROR, By(("listening", "libvirtd_conf")), _open_port),
    Check("firewall", Severity.WARNING, By(("nftables", "iptables"), ("qemu",), one=True), _firewall),
    Check("cgroups", Severity.WARNING, By(("cgroups", "qemu_conf"), ("qemu",)), _cgroups),
    Check("client-limit", Severity.WARNING, By(("clients",)), _clients),
)
