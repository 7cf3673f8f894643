"""Every door of a lab host, as `lab up --transports` makes them, and all the keys that must not open one.

`open_doors` lays a CA, a server's certificate, a password file and host keys into a host, starts libvirtd
anew with them and an sshd beside it; `Doors.close` makes the host what it was. What a client needs stands in
`Doors.files`, and so does what must not open: another CA, expired certificates, a key that the host does not
know. Everything is made here, for this run, and is worth nothing elsewhere.
"""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.lablib import transports
from deploy.lablib.authority import Authority
from drivers.hypervisor import Credentials
from drivers.libvirt import Access
from tests.labhost import LabHost

USER, PASSWORD = transports.USER, "Iekai9ai-chee"
CLIENT, STRANGER = transports.CONTROLLER, "somebody-else"
_ETC, _SASL = transports.ETC, transports.SASL


@dataclass(frozen=True)
class Doors:
    """`host` is the lab's, asked over its unix socket: its TCP port wants a password now."""

    host: LabHost
    files: Path
    authority: Authority
    original: str  # libvirtd.conf

    def uri(self, transport: str, driver: str = "qemu") -> str:
        if transport == "unix":
            return self.host.local_uri
        user = "root@" if transport == "ssh" else ""
        return f"{driver}+{transport}://{user}{self.host.address}/system"

    def credentials(self, transport: str) -> Credentials:
        """What opens the door."""
        return {
            "unix": Credentials(),
            "ext": Credentials(command=str(self.files / "ext")),
            "tls": Credentials(pki_dir=str(self.files / "pki")),
            "tcp": Credentials(auth_file=str(self.files / "auth.yaml")),
            "ssh": Credentials(
                known_hosts=str(self.files / "known_hosts"), key_file=str(self.files / "client_key")
            ),
        }[transport]

    @property
    def access(self) -> Access:
        """A configuration that allows what `credentials` names."""
        return Access(
            files_under=(str(self.files),),
            commands=frozenset({str(self.files / "ext")}),
            private_dir=self.files / "links",
        )

    def serve_certificate(self, days: tuple[float, float] = (-1, 90), name: str = "") -> None:
        """Give libvirtd another certificate, and start it anew with it."""
        etc = self.host.path(_ETC)
        names = [name] if name else [self.host.address, self.host.name]
        self.authority.issue(etc, "server", self.host.name, names, days)
        self.host.restart_libvirtd()

    def ask_for_passwords(self, *, over_tls: bool) -> None:
        conf = self.host.path("/etc/libvirt/libvirtd.conf")
        text = conf.read_text().replace('auth_tls = "none"', 'auth_tls = "sasl"')
        conf.write_text(text if over_tls else text.replace('auth_tls = "sasl"', 'auth_tls = "none"'))
        self.host.restart_libvirtd()

    def stop_sshd(self) -> None:
        self._signal_sshd(signal.SIGKILL)

    def freeze_sshd(self) -> None:
        """It accepts nothing any more; its kernel does."""
        pid = (self.host.path(_ETC) / "sshd.pid").read_text().strip()
        self.host.run("/bin/kill", f"-{int(signal.SIGSTOP)}", pid)

    def thaw_sshd(self) -> None:
        pid = (self.host.path(_ETC) / "sshd.pid").read_text().strip()
        self.host.run("/bin/kill", f"-{int(signal.SIGCONT)}", pid)

    def start_sshd(self) -> None:
        self.host.path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.host.run("/usr/sbin/sshd", "-f", f"{_ETC}/sshd_config", "-E", f"{_ETC}/sshd.log")
        pid = self.host.path(_ETC) / "sshd.pid"
        for _ in range(200):
            if pid.exists() and pid.read_text().strip():
                return
            time.sleep(0.02)
        raise AssertionError((self.host.path(_ETC) / "sshd.log").read_text())

    def _signal_sshd(self, number: signal.Signals) -> None:
        """Its pid is one of the host's own namespace."""
        pid = self.host.path(_ETC) / "sshd.pid"
        if pid.exists():
            self.host.run("/bin/kill", f"-{int(number)}", pid.read_text().strip())
            pid.unlink()

    def close(self) -> None:
        self.stop_sshd()
        self.host.path("/etc/libvirt/libvirtd.conf").write_text(self.original)
        self.host.restart_libvirtd()
        for path in (_ETC, _SASL):
            shutil.rmtree(self.host.path(path))


def open_doors(lab_host: LabHost, files: Path) -> Doors:
    """`files`: an empty directory for what clients need."""
    host = replace(lab_host, uri=lab_host.local_uri)
    authority = Authority(files / "authority", "lab CA")
    _make_pki(authority, files)
    for name in ("client_key", "other_key"):
        transports.make_key(files / name)
    door = transports.Door(host.name, host.address, host.path("/etc/libvirt"))
    transports.lay_server(door, authority, PASSWORD, [files / "client_key.pub"])
    _make_known_hosts(door, files)
    for name, password in (("auth.yaml", PASSWORD), ("auth-wrong.yaml", "not this one")):
        transports.write_secret(files / name, transports.auth_yaml(password))
    conf = host.path("/etc/libvirt/libvirtd.conf")
    original = conf.read_text()
    conf.write_text(transports.with_doors(original, [CLIENT, "expired", "unready"]))
    doors = Doors(host, files, authority, original)
    host.restart_libvirtd()
    doors.start_sshd()
    _make_program(host, files / "ext")
    return doors


def _make_pki(authority: Authority, files: Path) -> None:
    authority.issue(files / "pki", "client", CLIENT)
    authority.issue(files / "pki-stranger", "client", STRANGER)
    authority.issue(files / "pki-expired", "client", "expired", days=(-30, -1))
    authority.issue(files / "pki-unready", "client", "unready", days=(1, 30))
    other = Authority(files / "authority-other", "another CA")
    other.issue(files / "pki-other", "client", CLIENT)
    # Ours to look at, but theirs to trust: our certificate is of the lab's CA, and we believe in another.
    mixed = authority.issue(files / "pki-mistrusting", "client", CLIENT)
    shutil.copy(files / "pki-other/cacert.pem", mixed / "cacert.pem")
    unknown = other.issue(files / "pki-unknown", "client", CLIENT)
    shutil.copy(files / "pki/cacert.pem", unknown / "cacert.pem")


def _make_program(host: LabHost, path: Path) -> None:
    """For +ext: straight into the host."""
    init = host.status()["init_pid"]
    path.write_text(f"#!/bin/sh\nexec nsenter -t {init} --mount --net -- virt-ssh-helper qemu:///system\n")
    path.chmod(0o755)


def _make_known_hosts(door: transports.Door, files: Path) -> None:
    own, other = door.doors / "host_key.pub", files / "other_key.pub"
    for file, address, key in (
        ("known_hosts", door.address, own),
        ("known_hosts-changed", door.address, other),
        ("known_hosts-others", "192.0.2.1", own),
    ):
        (files / file).write_text(transports.known_hosts_line([address], key))
