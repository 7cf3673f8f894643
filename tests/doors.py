"""Every door of a lab host: libvirtd over TLS and over TCP with SASL, and sshd, with all that opens them.

`open_doors` lays a CA, a server's certificate, a password file and host keys into a host, starts libvirtd
anew with them and an sshd beside it; `Doors.close` makes the host what it was. What a client needs stands in
`Doors.files`, and so does what must not open: another CA, expired certificates, a key that the host does not
know. Everything is made here, for this run, and is worth nothing elsewhere.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drivers.hypervisor import Credentials
from drivers.libvirt import Access
from tests.labhost import LabHost

USER, PASSWORD = "domctl", "Iekai9ai-chee"
CLIENT, STRANGER = "controller-1", "somebody-else"
_ETC = "/etc/libvirt/doors"  # in the host's view
_SASL = "/etc/libvirt/sasl"  # where a lab's libvirtd looks
_DAY = datetime.timedelta(days=1)

LIBVIRTD_CONF = f"""\
listen_tls = 1
tls_port = "16514"
ca_file = "{_ETC}/cacert.pem"
cert_file = "{_ETC}/servercert.pem"
key_file = "{_ETC}/serverkey.pem"
crl_file = ""
auth_tls = "none"
tls_allowed_dn_list = ["CN={CLIENT}", "CN=expired", "CN=unready"]
auth_tcp = "sasl"
sasl_allowed_username_list = ["{USER}*"]
"""
SSHD_CONF = f"""\
Port 22
HostKey {_ETC}/host_key
AuthorizedKeysFile {_ETC}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile {_ETC}/sshd.pid
"""


class Authority:
    """A CA of our own, and the certificates that it issues."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            self._builder(self._name, self._key, now - _DAY, now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.datetime,
        ends: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def issue(
        self,
        directory: Path,
        role: str,
        name: str,
        names: Iterable[str] = (),
        days: tuple[float, float] = (-1, 90),
    ) -> Path:
        """`role` (client or server) + cert.pem and key.pem, and cacert.pem, in `directory`; valid from and to
        so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            self._builder(subject, key, now + days[0] * _DAY, now + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if known := [_general(name) for name in names]:
            built = built.add_extension(x509.SubjectAlternativeName(known), critical=False)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cacert.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        certificate = built.sign(self._key, hashes.SHA256())
        (directory / f"{role}cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = directory / f"{role}key.pem"
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return directory


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Doors:
    """`host` is the lab's, asked over its unix socket: its TCP port wants a password now."""

    host: LabHost
    files: Path
    authority: Authority
    original: str  # libvirtd.conf

    def uri(self, transport: str, driver: str = "qemu") -> str:
        user = "root@" if transport == "ssh" else ""
        return f"{driver}+{transport}://{user}{self.host.address}/system"

    def credentials(self, transport: str) -> Credentials:
        """What opens the door."""
        return {
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
    etc = host.path(_ETC)
    etc.mkdir(mode=0o755)
    authority = Authority("lab CA")
    authority.issue(etc, "server", host.name, [host.address, host.name])
    _make_pki(authority, files)
    _make_keys(host, etc, files)
    _make_passwords(host, files)
    conf = host.path("/etc/libvirt/libvirtd.conf")
    original = conf.read_text()
    kept = [line for line in original.splitlines() if not line.startswith(("listen_tls", "auth_tcp"))]
    conf.write_text("\n".join(kept) + "\n" + LIBVIRTD_CONF)
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
    other = Authority("another CA")
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


def _make_keys(host: LabHost, etc: Path, files: Path) -> None:
    for path in (etc / "host_key", files / "client_key", files / "other_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))
    (etc / "sshd_config").write_text(SSHD_CONF)
    forced = 'restrict,command="virt-ssh-helper qemu:///system" '
    (etc / "authorized_keys").write_text(forced + (files / "client_key.pub").read_text())
    _known(files / "known_hosts", host.address, etc / "host_key.pub")
    _known(files / "known_hosts-changed", host.address, files / "other_key.pub")
    _known(files / "known_hosts-others", "192.0.2.1", etc / "host_key.pub")


def _known(path: Path, address: str, key: Path) -> None:
    kind, blob, *_ = key.read_text().split()
    path.write_text(f"{address} {kind} {blob}\n")


def _make_passwords(host: LabHost, files: Path) -> None:
    sasl = host.path(_SASL)
    sasl.mkdir()
    subprocess.run(
        ["saslpasswd2", "-p", "-c", "-f", str(sasl / "passwd.db"), "-u", host.name, "-a", "libvirt", USER],
        input=PASSWORD, text=True, check=True, capture_output=True,
    )  # fmt: skip
    (sasl / "libvirt.conf").write_text(f"mech_list: digest-md5\nsasldb_path: {_SASL}/passwd.db\n")
    for name, password in (("auth.yaml", PASSWORD), ("auth-wrong.yaml", "not this one")):
        path = files / name
        path.touch(mode=0o600)
        path.write_text(f"username: {USER}\npassword: {password}\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
