"""libvirt's own sockets, found and held on to.

libvirt gives no access to its sockets, and two things can be done only there (both measured):

- SO_LINGER(1, 0) and TCP_USER_TIMEOUT: without them a `create()` sent into a cut link is carried out when
  the link heals, up to 100 s after the process that sent it was killed (safety: leaders). With them the
  kernel throws unsent commands away with the process, and after USER_TIMEOUT_MS in any case.
- `shutdown()`: the one way to free a thread that is stuck in a libvirt call, or in opening.

A socket is found among this process's descriptors by its peer's address: one that is new since the call
that opened it began. That is unambiguous because connections to one address are opened one at a time (see
`opening`). Numbers are quick to compare but are used again as soon as they are free (by a client of the
API that left, say), so where no new number fits, all are looked at, but for the sockets already held.
What is found is duplicated, for libvirt closes its own descriptor when it likes; a `Held` socket must be
released when libvirt closes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Collection
from dataclasses import dataclass

USER_TIMEOUT_MS = 10_000
_DESCRIPTORS = "/proc/self/fd"
_SYN_SENT = 2  # TCP_SYN_SENT, first byte of tcp_info, and "02" in /proc/net/tcp

# What libvirt connects to when a unix URI names no socket (libvirtd, and the modular daemons).
_DEFAULT_SOCKETS = ("libvirt-sock", "libvirt-sock-ro", "virtqemud-sock", "virtqemud-sock-ro", "virtlxcd-sock")


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a connection goes to: resolved (address, port) pairs, or the path of a unix socket (empty:
    libvirt's default ones)."""

    addresses: frozenset[tuple[str, int]]
    unix_path: str = ""

    def is_at(self, name: object) -> bool:
        """Whether `name`, from getpeername, is this peer. Of a unix socket's path only the last part is
        compared: a daemon in another mount namespace bound it under another one."""
        if isinstance(name, tuple):
            return (_plain(name[0]), name[1]) in self.addresses
        if not isinstance(name, str) or not name or self.addresses:
            return False
        wanted = (os.path.basename(self.unix_path),) if self.unix_path else _DEFAULT_SOCKETS
        return os.path.basename(name) in wanted

    def choose(self, found: list[Held]) -> list[Held]:
        """For a unix socket, whose name may be another one's too, only what is unmistakable."""
        if self.addresses or len(found) <= 1:
            return found
        exact = [held for held in found if held.peer_name == self.unix_path]
        for held in found:
            if exact != [held]:
                held.release()
        return exact if len(exact) == 1 else []


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:").partition("%")[0]


def resolve(host: str, port: int) -> Peer:
    """May block for as long as the resolver does. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return Peer(frozenset((_plain(str(entry[4][0])), int(entry[4][1])) for entry in found))


class Held:
    """A duplicate of one of libvirt's descriptors: the same socket. Safe to use from any thread."""

    def __init__(self, descriptor: int, inode: int, peer_name: object = None) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self.inode = inode
        self.peer_name = peer_name

    def tune(self) -> None:
        """What keeps late commands from being delivered (I4, F03)."""
        if self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

    def sever(self) -> None:
        """Let every call on this connection fail at once."""
        with contextlib.suppress(OSError):  # the other end, or we, were first
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the duplicate back, when libvirt has closed or is to close its own."""
        self._socket.close()


def descriptors() -> frozenset[int]:
    """The numbers of all open descriptors."""
    return frozenset(int(name) for name in os.listdir(_DESCRIPTORS))


def find_new(peer: Peer, before: frozenset[int], held: Collection[int]) -> list[Held]:
    """The sockets to `peer`, connected or still connecting, that were not open `before`; `held` are the
    inodes of those that are known."""
    now = descriptors()
    return peer.choose(_find(peer, now - before, held) or _find(peer, now, held))


def _find(peer: Peer, among: frozenset[int], held: Collection[int]) -> list[Held]:
    dialling: set[int] | None = None
    found: dict[int, Held] = {}  # by inode: a duplicate just made may have a number that is looked at yet
    for descriptor in sorted(among):
        inode = _socket_inode(descriptor)
        if inode is None or inode in held or inode in found:
            continue
        name = _peer_name(descriptor)
        if name is None and peer.addresses:  # not connected: getpeername has no answer yet
            dialling = _dialling(peer) if dialling is None else dialling
            if inode in dialling:
                found[inode] = Held(descriptor, inode)
        elif peer.is_at(name):
            found[inode] = Held(descriptor, inode, name)
    return list(found.values())


def _socket_inode(descriptor: int) -> int | None:
    try:
        status = os.fstat(descriptor)
    except OSError:  # closed meanwhile
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


def _peer_name(descriptor: int) -> object:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as borrowed:
            return borrowed.getpeername()
    except OSError:
        return None


def _dialling(peer: Peer) -> set[int]:
    """Inodes of the sockets in SYN-SENT to `peer`, from the kernel's tables."""
    inodes = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        with contextlib.suppress(OSError), open(f"/proc/thread-self/net/{table}", encoding="ascii") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                remote, state, inode = fields[2], int(fields[3], 16), int(fields[9])
                if state == _SYN_SENT and peer.is_at(_kernel_address(family, remote)):
                    inodes.add(inode)
    return inodes


def _kernel_address(family: int, text: str) -> tuple[str, int]:
    """An `0100007F:4001` of /proc/net/tcp: words in host order, the port as a number."""
    words, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
    return socket.inet_ntop(family, packed), int(port, 16)
