"""Whether a host's port can be reached at all, said in words that help, before libvirt is asked.

libvirt has one number for "no such name", "no route", "refused" and "no answer", and waits minutes for the
last. Blocking; each address of a name is given PROBE_TIMEOUT_S.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from drivers.errors import Cause, Unreachable
from drivers.libvirt.errors import FROM_RPC, SYSTEM_ERROR
from drivers.libvirt.sockets import Peer, resolve
from specs.uri import ParsedUri

PROBE_TIMEOUT_S = 3.0

Enter = Callable[[str], None]
"""Tells what is being done, and raises when nobody waits for it any more."""

LISTENERS = {
    "tcp": "libvirtd (virtproxyd), started with listen_tcp, or its socket unit libvirtd-tcp.socket",
    "tls": "libvirtd (virtproxyd), started with listen_tls, or its socket unit libvirtd-tls.socket",
    "ssh": "sshd",
}


def find(uri: ParsedUri, enter: Enter) -> Peer:
    """Whom the URI's host and port mean. Raises Unreachable."""
    enter("resolving its name")
    try:
        return resolve(uri.host, uri.port)
    except OSError as error:
        raise _unreachable(
            f"the controller's machine knows no host {uri.host} ({error.strerror or error}); "
            "use a name that it can resolve, or an address",
            Cause.NAME_UNKNOWN,
        ) from None


def knock(uri: ParsedUri, enter: Enter) -> socket.socket:
    """A connection to the port, for whoever wants to look further. Raises Unreachable."""
    enter("connecting to its port")
    try:
        connection = socket.create_connection((uri.host, uri.port), timeout=PROBE_TIMEOUT_S)
    except OSError as error:
        raise explained(uri, error) from None
    enter("connecting")
    return connection


def explained(uri: ParsedUri, error: OSError) -> Unreachable:
    where = f"port {uri.port} of {uri.host}"
    if isinstance(error, TimeoutError):
        return _unreachable(
            f"no answer from {where} within {PROBE_TIMEOUT_S:g} s: the host is off or cut off, or a firewall "
            "drops what is sent to that port",
            Cause.NO_ANSWER,
        )
    if isinstance(error, ConnectionRefusedError):
        return _unreachable(
            f"{where} refuses connections: {LISTENERS[uri.transport]} must listen there ({error})",
            Cause.PORT_REFUSED,
        )
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return _unreachable(
            f"no way to {where}: the host is off or cut off, or a route is missing ({error})", Cause.NO_ROUTE
        )
    return _unreachable(f"{where}: {error}", Cause.NO_ANSWER)


def _unreachable(message: str, cause: Cause) -> Unreachable:
    return Unreachable(message, code=SYSTEM_ERROR, origin=FROM_RPC, cause=cause)
