"""Which libvirt URIs a node may have, and what they mean.

libvirt's URIs can do a good deal more than name a host: `+ext` and `+ssh` take a `command=` that is run on
the controller, `no_verify=1` trusts any key for good, and an unknown parameter is silently a file path to
some transport. So nothing reaches libvirt but what this whitelist was written for (safety: I19):
`parse_uri` takes a text apart or refuses it, and `ParsedUri.text` is the only form that is handed on.

    qemu:///system                              qemu:///session
    qemu+unix:///system?socket=/path            qemu+unix:///session?socket=/path
    qemu+tcp://HOST[:PORT]/system               the same for lxc, xen and vz (system only)
    test:///default  test:///path.xml           test+tcp://HOST[:PORT]/default, test+unix:///default

`parse_migration_uri` is for what one host opens to reach another during a live migration, with credentials
that live on the hosts; it adds tls and ssh:

    qemu+tcp://HOST[:PORT]/system               qemu+tls://HOST[:PORT]/system, qemu://HOST[:PORT]/system
    qemu+ssh://[USER@]HOST[:PORT]/system        qemu+unix:///system?socket=/path

Pure: no look-up, no file is touched. Whether a driver is really supported is the driver's to say.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_TCP_PORT = 16509
MAX_URI_LENGTH = 512

_PATHS = {
    "qemu": ("/system", "/session"),
    "lxc": ("/system",),
    "xen": ("/system",),
    "vz": ("/system",),
    "test": ("/default",),  # and any absolute path that ends in .xml
}
_TRANSPORTS = ("unix", "tcp")
_MIGRATION_PORTS = {"tcp": DEFAULT_TCP_PORT, "tls": 16514, "ssh": 22}
_MIGRATION_DRIVER = "qemu"
_SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z0-9]+))?://", re.ASCII)
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII
)
_FILE = re.compile(r"/[A-Za-z0-9._+@:/-]*[A-Za-z0-9._+@-]", re.ASCII)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", re.ASCII)
_MAX_SOCKET_PATH = 107  # sun_path


class UriNotAllowed(ValueError):
    """A well-formed URI that asks for something outside the whitelist."""


@dataclass(frozen=True, slots=True)
class ParsedUri:
    """A URI of the whitelist. `transport` is `local` when the driver runs in our own process (test), else
    unix or tcp. `host` and `port` are set for tcp alone; without `socket` libvirt's default is used."""

    driver: str
    transport: str
    host: str
    port: int
    path: str
    socket: str

    @property
    def mode(self) -> str:
        """`session` or `system`, the third part of a node's identity."""
        return "session" if self.path == "/session" else "system"

    @property
    def text(self) -> str:
        """The URI again, written by us."""
        if self.transport == "tcp":
            host = f"[{self.host}]" if ":" in self.host else self.host
            port = "" if self.port == DEFAULT_TCP_PORT else f":{self.port}"
            return f"{self.driver}+tcp://{host}{port}{self.path}"
        if self.socket:
            return f"{self.driver}+unix://{self.path}?socket={self.socket}"
        plus = "+unix" if self.transport == "unix" and self.driver == "test" else ""
        return f"{self.driver}{plus}://{self.path}"


def parse_uri(uri: str) -> ParsedUri:
    """Take a libvirt URI apart. Raises UriNotAllowed for what we do not allow, ValueError for what is no
    libvirt URI; both say what would be right."""
    scheme, plus, authority, path, query = _split(uri)
    driver, transport = _kind(scheme, plus, authority)
    path = _path(driver, path)
    socket = _socket(query, transport)
    if transport != "tcp":
        if authority:
            raise UriNotAllowed(f"{driver}+{transport} names no host: write {driver}+tcp://{authority}{path}")
        return ParsedUri(driver, transport, "", 0, path, socket)
    host, port = _authority(authority, DEFAULT_TCP_PORT)
    return ParsedUri(driver, transport, host, port, path, "")


def parse_migration_uri(uri: str) -> str:
    """The URI by which a source host reaches the target of a migration, written by us. It names a host (or a
    socket on the source host) and carries no parameter that could name a file or run a command there.
    Raises UriNotAllowed, or ValueError for what is no libvirt URI; both say what would be right."""
    driver, plus, authority, path, query = _split(uri)
    if driver != _MIGRATION_DRIVER:
        raise UriNotAllowed(f"a migration URI begins with {_MIGRATION_DRIVER}, this one with {driver!r}")
    transport = plus or ("tls" if authority else "")
    if transport == "unix":
        socket = _socket(query, transport)
        if authority or not socket:
            raise UriNotAllowed(f"a migration over unix needs {driver}+unix://{path}?socket=PATH")
        return ParsedUri(driver, transport, "", 0, _path(driver, path), socket).text
    if transport not in _MIGRATION_PORTS:
        known = ", ".join(f"{driver}+{name}" for name in (*_MIGRATION_PORTS, "unix"))
        raise UriNotAllowed(f"a migration URI is one of {known} and names the host to go to, is {uri!r}")
    if query:
        raise UriNotAllowed(f"a migration URI has no parameters; found {query!r}")
    user, at, address = authority.rpartition("@")
    if at and (transport != "ssh" or not _USER.fullmatch(user)):
        raise UriNotAllowed(f"only ssh has a user, of plain letters and without a password; found {user!r}")
    default = _MIGRATION_PORTS[transport]
    host, port = _authority(address, default)
    where = f"[{host}]" if ":" in host else host
    number = "" if port == default else f":{port}"
    return f"{driver}+{transport}://{user}{at}{where}{number}{_path(driver, path)}"


def _split(uri: str) -> tuple[str, str | None, str, str, str]:
    """(driver, transport, authority, path, query), each as it was written."""
    if len(uri) > MAX_URI_LENGTH:
        raise ValueError(f"a libvirt URI has at most {MAX_URI_LENGTH} characters, this one has {len(uri)}")
    if any(not " " < character <= "~" for character in uri):
        raise ValueError("a libvirt URI has no spaces, control characters or characters outside ASCII")
    scheme = _SCHEME.match(uri)
    if scheme is None:
        raise ValueError(f"{uri!r} is no libvirt URI, such as qemu+tcp://host/system or qemu:///system")
    rest = uri[scheme.end() :]
    if "#" in rest:
        raise UriNotAllowed("a libvirt URI has no fragment (#)")
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    return scheme.group(1), scheme.group(2), authority, slash + path, query


def _kind(driver: str, transport: str | None, authority: str) -> tuple[str, str]:
    if driver not in _PATHS:
        raise UriNotAllowed(f"driver {driver!r} is not one of {', '.join(sorted(_PATHS))}")
    if transport is None and authority:
        raise UriNotAllowed(
            f"{driver}://HOST means TLS, which is not supported: write {driver}+tcp://HOST/..."
        )
    if transport is None:
        return driver, "local" if driver == "test" else "unix"
    if transport not in _TRANSPORTS:
        raise UriNotAllowed(f"transport {transport!r} is not one of {', '.join(_TRANSPORTS)}")
    return driver, transport


def _path(driver: str, path: str) -> str:
    if path in _PATHS[driver]:
        return path
    if driver == "test" and path.endswith(".xml") and _is_file(path):
        return path
    also = ", or an absolute path that ends in .xml" if driver == "test" else ""
    raise UriNotAllowed(f"the path of a {driver} URI is {' or '.join(_PATHS[driver])}{also}, is {path!r}")


def _socket(query: str, transport: str) -> str:
    if not query:
        return ""
    name, _, value = query.partition("=")
    if name != "socket" or "&" in query or transport != "unix":
        raise UriNotAllowed(f"the only parameter is socket=PATH, with transport unix; found {query!r}")
    if not _is_file(value) or len(value) > _MAX_SOCKET_PATH:
        raise ValueError(f"socket must be an absolute path of plain characters, is {value!r}")
    return value


def _authority(authority: str, default_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise UriNotAllowed("a user name has no meaning for transport tcp")
    bracketed, closing, port = authority.rpartition("]")
    if closing:
        host = _ipv6(bracketed)
        if port and not port.startswith(":"):
            raise ValueError(f"{authority!r} is not [ADDRESS]:PORT")
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
        host = host.lower()
        if not _HOSTNAME.fullmatch(host):
            raise ValueError(f"the host must be a DNS name or an IP address, is {host!r}")
    if not port and not authority.endswith(":"):
        return host, default_port
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"the port must be between 1 and 65535, is {port!r}")
    return host, int(port)


def _ipv6(bracketed: str) -> str:
    try:
        if "%" in bracketed:  # a zone names an interface of whoever connects
            raise ValueError
        return str(ipaddress.IPv6Address(bracketed.removeprefix("[")))
    except ValueError:
        raise ValueError(f"{bracketed + ']'!r} is no IPv6 address in brackets") from None


def _is_file(path: str) -> bool:
    return _FILE.fullmatch(path) is not None and "//" not in path and ".." not in path.split("/")
