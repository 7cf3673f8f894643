"""Which libvirt URIs a node may have, and what they mean.

libvirt's URIs can do a good deal more than name a host: `+ext` and `+ssh` take a `command=` that is run on
the controller, `no_verify=1` trusts any key for good, and an unknown parameter is silently a file path to
some transport. So nothing reaches libvirt but what this whitelist was written for (safety: I19):
`parse_uri` takes a text apart or refuses it, and `ParsedUri.text` is the only form that is handed on. Files
and commands that a transport needs are no part of a URI: they stand in the Node's `connection`, and it is
the driver that adds what libvirt needs of them.

    qemu:///system                              qemu:///session
    qemu+unix:///system?socket=/path            qemu+unix:///session?socket=/path
    qemu+tcp://HOST[:PORT]/system               the same for lxc, xen and vz (system only)
    qemu+tls://HOST[:PORT]/system               qemu://HOST[:PORT]/system is the same
    qemu+ssh://[USER@]HOST[:PORT]/system        qemu+ext://[HOST[:PORT]]/system
    test:///default  test:///path.xml           test+tcp://HOST[:PORT]/default, test+unix:///default, ...

`parse_migration_uri` is for what one host opens to reach another during a live migration, with credentials
that live on the hosts: tcp, tls, ssh, or a socket that was made for it.

    qemu+unix:///system?socket=/path            and qemu+tcp, qemu+tls and qemu+ssh as above

Pure: no look-up, no file is touched. Whether a driver is really supported is the driver's to say.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

MAX_URI_LENGTH = 512
DEFAULT_TCP_PORT = 16509
DEFAULT_PORTS: Final[Mapping[str, int]] = MappingProxyType(
    {"tcp": DEFAULT_TCP_PORT, "tls": 16514, "ssh": 22, "ext": 0}
)
TUNNELS: Final = frozenset({"ssh", "ext"})  # a child process is between us and the host

_PATHS = {
    "qemu": ("/system", "/session"),
    "lxc": ("/system",),
    "xen": ("/system",),
    "vz": ("/system",),
    "test": ("/default",),  # and any absolute path that ends in .xml
}
_TRANSPORTS = ("unix", *DEFAULT_PORTS)
_MIGRATION_TRANSPORTS = ("tcp", "tls", "ssh", "unix")
_MIGRATION_DRIVER = "qemu"
_SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z0-9]+))?://", re.ASCII)
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII
)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", re.ASCII)
_FILE = re.compile(r"/[A-Za-z0-9._+@:/-]*[A-Za-z0-9._+@-]", re.ASCII)
_MAX_SOCKET_PATH = 107  # sun_path


class UriNotAllowed(ValueError):
    """A well-formed URI that asks for something outside the whitelist."""


@dataclass(frozen=True, slots=True)
class ParsedUri:
    """A URI of the whitelist. `transport` is `local` when the driver runs in our own process (test), else
    unix, tcp, tls, ssh or ext. `host` and `port` are set for the last four (ext may leave out either: it is
    told to its command); `user` for ssh alone, empty: the controller's own. Without `socket` libvirt's
    default is used."""

    driver: str
    transport: str
    host: str
    port: int
    path: str
    socket: str
    user: str = ""

    @property
    def mode(self) -> str:
        """`session` or `system`, the third part of a node's identity."""
        return "session" if self.path == "/session" else "system"

    @property
    def is_tunnel(self) -> bool:
        return self.transport in TUNNELS

    @property
    def text(self) -> str:
        """The URI again, written by us."""
        if self.transport in DEFAULT_PORTS:
            user = f"{self.user}@" if self.user else ""
            host = f"[{self.host}]" if ":" in self.host else self.host
            port = "" if self.port == DEFAULT_PORTS[self.transport] else f":{self.port}"
            return f"{self.driver}+{self.transport}://{user}{host}{port}{self.path}"
        if self.socket:
            return f"{self.driver}+unix://{self.path}?socket={self.socket}"
        plus = "+unix" if self.transport == "unix" and self.driver == "test" else ""
        return f"{self.driver}{plus}://{self.path}"


@lru_cache(maxsize=8192)
def parse_uri(uri: str) -> ParsedUri:
    """Take a libvirt URI apart. Raises UriNotAllowed for what we do not allow, ValueError for what is no
    libvirt URI; both say what would be right. Those of Nodes are asked for whenever one of them changes."""
    driver, plus, authority, path, query = _split(uri)
    if driver not in _PATHS:
        raise UriNotAllowed(f"driver {driver!r} is not one of {', '.join(sorted(_PATHS))}")
    transport = plus or _unsaid(driver, authority)
    if plus is not None and plus not in _TRANSPORTS:
        raise UriNotAllowed(f"transport {plus!r} is not one of {', '.join(_TRANSPORTS)}")
    path = _path(driver, path)
    socket = _socket(query, transport)
    if transport not in DEFAULT_PORTS:
        if authority:
            raise UriNotAllowed(f"{driver}+{transport} names no host: write {driver}+tls://{authority}{path}")
        return ParsedUri(driver, transport, "", 0, path, socket)
    user, address = _user(authority, transport)
    if transport == "ext" and not address:
        return ParsedUri(driver, transport, "", 0, path, "")
    host, port = _authority(address, DEFAULT_PORTS[transport])
    return ParsedUri(driver, transport, host, port, path, "", user)


def is_tunnel(uri: str) -> bool:
    """Whether a child process of the controller carries this URI's connection. No URI at all: it does not."""
    scheme = _SCHEME.match(uri)
    return scheme is not None and scheme.group(2) in TUNNELS


def is_plain_file(path: str) -> bool:
    """An absolute path that means the same to libvirt, ssh and a shell: no blank, quote, percent sign or
    variable, nor `..`."""
    return _is_file(path)


def parse_migration_uri(uri: str) -> str:
    """The URI by which a source host reaches the target of a migration, written by us. It names a host (or a
    socket on the source host) and carries no parameter that could name a file or run a command there.
    Raises UriNotAllowed, or ValueError for what is no libvirt URI; both say what would be right."""
    driver, plus, authority, _, query = _split(uri)
    if driver != _MIGRATION_DRIVER:
        raise UriNotAllowed(f"a migration URI begins with {_MIGRATION_DRIVER}, this one with {driver!r}")
    transport = plus or _unsaid(driver, authority)
    if transport not in _MIGRATION_TRANSPORTS or not (authority or query):
        known = ", ".join(f"{driver}+{name}" for name in _MIGRATION_TRANSPORTS)
        raise UriNotAllowed(f"a migration URI is one of {known} and names the host to go to, is {uri!r}")
    if query and transport != "unix":
        raise UriNotAllowed(f"a migration URI has no parameters; found {query!r}")
    return parse_uri(uri).text


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


def _unsaid(driver: str, authority: str) -> str:
    """What libvirt takes a URI without a transport for."""
    if authority:
        return "tls"
    return "local" if driver == "test" else "unix"


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
        raise UriNotAllowed(
            f"there are no parameters but socket=PATH, with transport unix; found {query!r} "
            "(keys, certificates and commands stand in spec.connection)"
        )
    if not _is_file(value) or len(value) > _MAX_SOCKET_PATH:
        raise ValueError(f"socket must be an absolute path of plain characters, is {value!r}")
    return value


def _user(authority: str, transport: str) -> tuple[str, str]:
    """(user, the rest). Never a password: who reads a Node's spec would have it."""
    user, at, address = authority.rpartition("@")
    if at and transport != "ssh":
        raise UriNotAllowed(f"a user name has no meaning for transport {transport}")
    if at and not _USER.fullmatch(user):
        raise UriNotAllowed("the user must be a plain login name, and a URI never holds a password")
    return user, address


def _authority(authority: str, default_port: int) -> tuple[str, int]:
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
