"""Every door of a lab's hosts: libvirtd by TLS and by TCP with SASL, and sshd, with all that opens them.

A libvirtd has one TCP port, and what it asks there it asks of everybody; so a lab either lets all in by plain
TCP or has these three doors, which is what `lab up --transports` makes. Where the files are:

- on a host: /etc/libvirt/doors (certificate, host key, authorized_keys, sshd_config), /etc/libvirt/sasl;
- on a host, for when it is the source of a migration and so a client of its neighbours, where libvirt and ssh
  look by themselves: /etc/pki, /etc/libvirt/auth.conf, and .ssh of its root, whose home is the host's own;
- for clients on this machine: LAB/clients, and there domctl.yaml, a configuration of domctl that lets Nodes
  name these files.

`lay_server` is the part that tests share, which also make doors that must not open.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .authority import Authority
from .layout import Host, Lab, LabError

ETC = "/etc/libvirt/doors"  # in a host's view, as the next ones
SASL = "/etc/libvirt/sasl"
USER = "domctl"
CONTROLLER = "controller-1"  # CN of the clients' certificate
TRANSPORTS = ("tls", "tcp", "ssh")
# What domains of a Node may name: where a lab's guests and their serial ports are.
ALLOWED_PATHS = ("/run/lab-shared", "/var/lib/libvirt/images", "/var/log/libvirt/serial")

_LIBVIRTD_CONF = """\
listen_tls = 1
tls_port = "16514"
ca_file = "{etc}/cacert.pem"
cert_file = "{etc}/servercert.pem"
key_file = "{etc}/serverkey.pem"
crl_file = ""
auth_tls = "none"
tls_allowed_dn_list = [{allowed}]
auth_tcp = "sasl"
sasl_allowed_username_list = ["{user}*"]
"""
_SSHD_CONF = f"""\
Port 22
HostKey {ETC}/host_key
AuthorizedKeysFile {ETC}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile {ETC}/sshd.pid
"""
_FORCED = 'restrict,command="virt-ssh-helper qemu:///system" '
# Of a host that is off, its neighbour knows the address for half a minute and more: TCP alone gives up after
# 127 s. This bounds the way to the first line of an sshd, which on a busy machine took 9 s.
_SSH_CONF = "ConnectTimeout 15\n"
_AUTH_CONF = """\
[credentials-lab]
username={user}
authname={user}
password={password}
[auth-libvirt-default]
credentials=lab
"""

_DOMCTL_YAML = """\
apiVersion: config.domctl.io/v1
kind: ControllerConfig
connections:
  filesUnder: [{clients}]
"""


@dataclass(frozen=True)
class Door:
    """One host as those who make its doors see it. `etc`: its /etc/libvirt, as this machine sees it."""

    name: str
    address: str
    etc: Path

    @property
    def doors(self) -> Path:
        return self.etc / "doors"


def with_doors(conf: str, allowed: Iterable[str]) -> str:
    """A libvirtd.conf that listens by TLS too and asks for a password on its TCP port; `allowed`: the names
    on certificates that are let in."""
    kept = [line for line in conf.splitlines() if not line.startswith(("listen_tls", "auth_tcp"))]
    names = ", ".join(f'"CN={name}"' for name in allowed)
    return "\n".join(kept) + "\n" + _LIBVIRTD_CONF.format(etc=ETC, allowed=names, user=USER)


def lay_server(door: Door, authority: Authority, password: str, keys: Iterable[Path]) -> None:
    """What a host's libvirtd and sshd need. `keys`: public ones, which let in to libvirt alone."""
    door.doors.mkdir(mode=0o755)
    authority.issue(door.doors, "server", door.name, [door.address, door.name])
    make_key(door.doors / "host_key")
    (door.doors / "sshd_config").write_text(_SSHD_CONF)
    (door.doors / "authorized_keys").write_text("".join(_FORCED + key.read_text() for key in keys))
    sasl = door.etc / "sasl"
    sasl.mkdir()
    _run(
        *("saslpasswd2", "-p", "-c", "-f", str(sasl / "passwd.db"), "-u", door.name, "-a", "libvirt", USER),
        given=password,
    )
    (sasl / "libvirt.conf").write_text(f"mech_list: digest-md5\nsasldb_path: {SASL}/passwd.db\n")


def make_key(path: Path) -> None:
    """An ssh key without passphrase, and `path`.pub."""
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path))


def known_hosts_line(names: Iterable[str], key: Path) -> str:
    kind, blob, *_ = key.read_text().split()
    return f"{','.join(names)} {kind} {blob}\n"


def write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def auth_yaml(password: str) -> str:
    return f"username: {USER}\npassword: {password}\n"


def lay_out(lab: Lab) -> None:
    """All files of a new lab with doors, on its hosts and for its clients. Before a host is booted, and after
    its other files were written."""
    clients = lab.clients
    clients.mkdir(mode=0o700)
    authority = Authority(lab.dir / "authority", f"CA of lab {lab.name}")
    password = secrets.token_urlsafe(12)
    authority.issue(clients / "pki", "client", CONTROLLER)
    make_key(clients / "client_key")
    write_secret(clients / "auth.yaml", auth_yaml(password))
    (clients / "domctl.yaml").write_text(_DOMCTL_YAML.format(clients=clients))
    for host in lab.hosts:
        make_key(_home(host) / "id_ed25519")
        (_home(host) / "config").write_text(_SSH_CONF)
    keys = [clients / "client_key.pub", *(_home(host) / "id_ed25519.pub" for host in lab.hosts)]
    allowed = [CONTROLLER, *(host.name for host in lab.hosts)]
    known = ""
    for host in lab.hosts:
        door = Door(host.name, host.address, host.dir / "etc-libvirt")
        lay_server(door, authority, password, keys)
        conf = door.etc / "libvirtd.conf"
        conf.write_text(with_doors(conf.read_text(), allowed))
        known += known_hosts_line((host.address, host.name), door.doors / "host_key.pub")
        _lay_client(host, authority, password)
    (clients / "known_hosts").write_text(known)
    for host in lab.hosts:
        (_home(host) / "known_hosts").write_text(known)


def node(lab: Lab, host: Host, transport: str) -> str:
    """The Node that registers this host by this transport, in YAML. A host is one Node, whatever the way:
    those of one host have one name."""
    user = "root@" if transport == "ssh" else ""
    connection = {
        "tls": {"pkiDir": "pki"},
        "tcp": {"authFile": "auth.yaml"},
        "ssh": {"knownHosts": "known_hosts", "keyFile": "client_key"},
    }[transport]
    lines = [
        "apiVersion: domctl.io/v1",
        "kind: Node",
        "metadata:",
        f"  name: {host.name}",
        "spec:",
        f"  uri: qemu+{transport}://{user}{host.address}/system",
        "  connection:",
        *(f"    {name}: {lab.clients / file}" for name, file in connection.items()),
        "  allowedPaths:",
        *(f"    - {path}" for path in ALLOWED_PATHS),
    ]
    return "\n".join(lines) + "\n"


def _lay_client(host: Host, authority: Authority, password: str) -> None:
    """What a host has of its own to reach its neighbours."""
    pki = host.dir / "etc-pki"
    made = authority.issue(host.dir / "client-pki", "client", host.name)
    for name, place in (
        ("cacert.pem", "CA/cacert.pem"),
        ("clientcert.pem", "libvirt/clientcert.pem"),
        ("clientkey.pem", "libvirt/private/clientkey.pem"),
    ):
        (pki / place).parent.mkdir(parents=True, exist_ok=True)
        (made / name).rename(pki / place)
    made.rmdir()
    write_secret(host.dir / "etc-libvirt/auth.conf", _AUTH_CONF.format(user=USER, password=password))


def _home(host: Host) -> Path:
    """The .ssh of its root, whose home is below a directory that each host has for itself."""
    path = host.dir / "lib/root/.ssh"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _run(*command: str, given: str = "") -> None:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=30,
        env={**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )  # fmt: skip
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
