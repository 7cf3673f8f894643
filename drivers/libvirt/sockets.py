"""libvirt's own sockets, found and held on to.

libvirt gives no access to its sockets, and two things can be done only there (both measured):

- SO_LINGER(1, 0) and TCP_USER_TIMEOUT: without them a `create()` sent into a cut link is carried out when
  the link heals, up to 100 s after the process that sent it was killed (safety: leaders). With them the
  kernel throws unsent commands away with the process, and after USER_TIMEOUT_MS in any case.
- `shutdown()`: the one way to free a thread that is stuck in a libvirt call, or in opening.

A socket is found among this process's descriptors by its peer: it is the one that nobody holds yet, since
connections to one address are opened one at a time (see `opening`). The kernel gives out the lowest free
number, so the search begins at the number that was free just before, and all descriptors are looked at
only where it did not end there. What is found is duplicated, for libvirt closes its own descriptor when it
likes; a `Held` socket must be released when libvirt closes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

USER_TIMEOUT_MS = 10_000
_DESCRIPTORS = "/proc/self/fd"
_NEIGHBOURHOOD = 64  # numbers to look at, from the one that was free, before looking at all
_SYN_SENT = 2  # TCP_SYN_SENT in /proc/net/tcp

# What libvirt connects to when a unix URI names no socket (libvirtd, and the modular daemons).
_DEFAULT_SOCKETS = ("libvirt-sock", "libvirt-sock-ro", "virtqemud-sock", "virtqemud-sock-ro", "virtlxcd-sock")


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a connection goes to: resolved (address, port) pairs, or the path of a unix socket (empty:
    libvirt's default ones)."""

    addresses: frozenset[tuple[str, int]]
    unix_path: str = ""

    def is_at(self, name: object) -> bool:
        """Whether `name`, from getpeername, is this peer beyond doubt."""
        if isinstance(name, tuple):
            return (_plain(name[0]), name[1]) in self.addresses
        return isinstance(name, str) and name != "" and name == self.unix_path

    def may_be_at(self, name: object) -> bool:
        """Whether it can be: a daemon in another mount namespace bound its socket under another path."""
        if not isinstance(name, str) or not name or self.addresses:
            return False
        wanted = (os.path.basename(self.unix_path),) if self.unix_path else _DEFAULT_SOCKETS
        return os.path.basename(name) in wanted


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:").partition("%")[0]


def resolve(host: str, port: int) -> Peer:
    """May block for as long as the resolver does. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return Peer(frozenset((_plain(str(entry[4][0])), int(entry[4][1])) for entry in found))


def free_number() -> int:
    """The number that the next descriptor would get; where to begin looking for it."""
    probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(probe)
    return probe


class Held:
    """A duplicate of one of libvirt's descriptors: the same socket. Safe to use from any thread."""

    def __init__(self, descriptor: int, on_release: Callable[[], None]) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._on_release = on_release

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
        self._on_release()
        self._socket.close()


class Sockets:
    """Which of libvirt's sockets in this process are held already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inodes: set[int] = set()

    def claim(self, peer: Peer, start: int) -> Held | None:
        """The socket to `peer`, connected or still connecting, that nobody holds; None if it cannot be
        told. `start`: where to begin."""
        with self._lock:
            found = self._find(peer, range(start, start + _NEIGHBOURHOOD)) or self._find(peer, _descriptors())
            if found is None:
                return None
            descriptor, inode = found
            held = Held(descriptor, lambda: self._inodes.discard(inode))
            self._inodes.add(inode)
            return held

    def _find(self, peer: Peer, among: Iterable[int]) -> tuple[int, int] | None:
        perhaps = []
        dialling: set[int] | None = None
        for descriptor in among:
            inode = _socket_inode(descriptor)
            if inode is None or inode in self._inodes:
                continue
            name = _peer_name(descriptor)
            if peer.is_at(name):
                return descriptor, inode
            if peer.may_be_at(name):
                perhaps.append((descriptor, inode))
            elif name is None and peer.addresses:  # not connected: getpeername has no answer yet
                dialling = _dialling(peer) if dialling is None else dialling
                if inode in dialling:
                    return descriptor, inode
        return perhaps[0] if len(perhaps) == 1 else None


def _descriptors() -> list[int]:
    return sorted(int(name) for name in os.listdir(_DESCRIPTORS))


def _socket_inode(descriptor: int) -> int | None:
    try:
        status = os.fstat(descriptor)
    except OSError:  # not open
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
