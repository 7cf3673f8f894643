"""What mends a connection that does not come about, by its cause: one row for each that `drivers.errors` has.

The driver's message says already what is the matter; here are only the commands. Files are those of the
connection's credentials, hosts and users those of its URI.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType

from controller.doctor.findings import Mend
from controller.doctor.seen import Seen, set_values
from drivers.errors import Cause

_SOCKETS = {"tcp": "libvirtd-tcp.socket", "tls": "libvirtd-tls.socket", "ssh": "ssh.socket"}
_PORTS = {"tcp": 16509, "tls": 16514, "ssh": 22}
_FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("known_hosts", "key_file", "pki_dir", "auth_file")}
_NEEDED = {"ssh": ("known_hosts", "key_file"), "tls": ("pki_dir",), "tcp": ("auth_file",)}

Mends = Callable[[Seen], tuple[Mend, ...]]


def mends_for(cause: str) -> Mends | None:
    return _ROWS.get(cause)


def _host(seen: Seen) -> str:
    return shlex.quote(seen.host.uri.host) if seen.host.uri is not None else seen.host.place


def _file(seen: Seen, name: str, below: str = "") -> str:
    """A file of the credentials, or the word for it where none is named."""
    path = str(asdict(seen.host.subject.credentials)[name]) or name.upper().replace("_", "-")
    return shlex.quote(path + below)


def _listen(seen: Seen) -> tuple[Mend, ...]:
    transport = "" if seen.host.uri is None else seen.host.uri.transport
    if transport == "ssh":
        return (seen.on_host("systemctl enable --now ssh"),)
    unit = _SOCKETS.get(transport, "libvirtd.socket")
    return (seen.on_host(f"systemctl stop libvirtd && systemctl enable --now {unit}"),)


def _open_firewall(seen: Seen) -> tuple[Mend, ...]:
    port = seen.host.uri.port if seen.host.uri is not None else 0
    return (seen.on_host(f"iptables -I INPUT -p tcp --dport {port or 'PORT'} -j ACCEPT"),)


def _user_at(seen: Seen) -> str:
    uri = seen.host.uri
    return shlex.quote(f"{uri.user}@{uri.host}" if uri is not None and uri.user else _host(seen))


def _entry(seen: Seen) -> str:
    uri = seen.host.uri
    return _host(seen) if uri is None or uri.port in (0, 22) else shlex.quote(f"[{uri.host}]:{uri.port}")


def _show_certificate(seen: Seen) -> tuple[Mend, ...]:
    shown = _file(seen, "pki_dir", "/clientcert.pem")
    return (seen.here(f"openssl x509 -noout -subject -issuer -dates -in {shown}"),)


def _check_pki(seen: Seen) -> tuple[Mend, ...]:
    return (seen.on_host("virt-pki-validate"),)


def _name_files(seen: Seen) -> tuple[Mend, ...]:
    transport = "" if seen.host.uri is None else seen.host.uri.transport
    flags = " ".join(f"{_FLAGS[name]} {_file(seen, name)}" for name in _NEEDED.get(transport, ()))
    return (seen.here(f"domctl doctor {shlex.quote(seen.name)} {flags}".rstrip()),)


def _allow_files(seen: Seen) -> tuple[Mend, ...]:
    named = [value for value in asdict(seen.host.subject.credentials).values() if value]
    below = shlex.quote(str(named[0]).rpartition("/")[0] or "/") if named else "DIRECTORY"
    return (seen.here(f"domctl doctor {shlex.quote(seen.name)} --files-under {below}"),)


def _allow_command(seen: Seen) -> tuple[Mend, ...]:
    return (seen.here(f"domctl doctor {shlex.quote(seen.name)} --ext-command {_file(seen, 'command')}"),)


def _ask_password(seen: Seen) -> tuple[Mend, ...]:
    transport = "tcp" if seen.host.uri is None else seen.host.uri.transport
    return (seen.on_host(set_values("libvirtd.conf", **{f"auth_{transport}": "sasl"})),)


_ROWS: Mapping[str, Mends] = MappingProxyType(
    {
        Cause.NO_ANSWER: _open_firewall,
        Cause.PORT_REFUSED: _listen,
        Cause.NO_ROUTE: lambda seen: (seen.here(f"ip route get {_host(seen)}"),),
        Cause.DAEMON_DOWN: lambda seen: (seen.on_host("systemctl start libvirtd"),),
        Cause.NAME_UNKNOWN: lambda seen: (seen.here(f"getent hosts {_host(seen)}"),),
        Cause.HOST_KEY_UNKNOWN: lambda seen: (seen.on_host("cat /etc/ssh/ssh_host_ed25519_key.pub"),),
        Cause.HOST_KEY_CHANGED: lambda seen: (
            seen.here(f"ssh-keygen -f {_file(seen, 'known_hosts')} -R {_entry(seen)}"),
        ),
        Cause.KEY_REFUSED: lambda seen: (
            seen.here(f"ssh-copy-id -i {_file(seen, 'key_file', '.pub')} {_user_at(seen)}"),
        ),
        Cause.SHELL_UNFIT: lambda seen: (seen.on_host("apt-get install -y libvirt-daemon"),),
        Cause.SERVER_CERTIFICATE_UNTRUSTED: _check_pki,
        Cause.SERVER_CERTIFICATE_EXPIRED: _check_pki,
        Cause.SERVER_CERTIFICATE_MISNAMED: _check_pki,
        Cause.CLIENT_CERTIFICATE_EXPIRED: _show_certificate,
        Cause.CLIENT_CERTIFICATE_INVALID: _show_certificate,
        Cause.CLIENT_REFUSED: lambda seen: (
            *_show_certificate(seen),
            seen.on_host("grep -A3 '^tls_allowed_dn_list' /etc/libvirt/libvirtd.conf"),
        ),
        Cause.PASSWORD_REFUSED: lambda seen: (seen.on_host("saslpasswd2 -a libvirt NAME"),),
        Cause.PASSWORD_NEEDED: lambda seen: (
            seen.here(f"domctl doctor {shlex.quote(seen.name)} --auth-file {_file(seen, 'auth_file')}"),
        ),
        Cause.PASSWORD_NOT_ASKED: _ask_password,
        Cause.CREDENTIALS_MISSING: _name_files,
        Cause.CREDENTIALS_NOT_ALLOWED: _allow_files,
        Cause.COMMAND_NOT_ALLOWED: _allow_command,
    }
)
