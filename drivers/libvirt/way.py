"""The way to a host: what differs between libvirt's transports, and nothing else.

A `Way` is made for one opening, in its thread. It says what libvirt is to dial and with which answers to
questions for a name and a password, what lies beneath a connection that was dialled (a socket of ours, or a
child process), and what an error means on this transport. `ways` has the table of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from drivers.errors import HypervisorError
from drivers.hypervisor import Certificate
from drivers.libvirt.sockets import Peer, Sockets, free_number


class Grip(Protocol):
    """A hold on what carries one connection. Safe to use from any thread."""

    def tune(self) -> None:
        """What keeps late commands from being delivered (I4, F03)."""
        ...

    def sever(self) -> None:
        """Let every call on this connection fail at once."""
        ...

    def release(self) -> None:
        """Give the hold back: libvirt has closed the connection, or is to."""
        ...


class Beneath(Protocol):
    """What carries the connections of one opening, which are dialled one after the other."""

    def begin(self) -> None:
        """Just before a connection is dialled."""
        ...

    def grip(self) -> Grip | None:
        """Take hold of the one dialled last, or being dialled; None if it cannot be told which it is."""
        ...

    def stay(self) -> None:
        """In the opening's thread, after its connections were handed over: return when it may end."""
        ...


@dataclass(slots=True)
class SocketBeneath:
    """A socket of this process, known by whom it is connected to."""

    sockets: Sockets
    peer: Peer
    _start: int = 0

    def begin(self) -> None:
        self._start = free_number()

    def grip(self) -> Grip | None:
        return self.sockets.claim(self.peer, self._start)

    def stay(self) -> None:
        return


class NothingBeneath:
    """The driver is in our own process (test)."""

    def begin(self) -> None:
        return

    def grip(self) -> Grip | None:
        return None

    def stay(self) -> None:
        return


class SignIn(Protocol):
    """Answers to the host's questions. `asked`: whether there was any since the last `request`."""

    asked: bool

    def request(self) -> list[object]:
        """What libvirt's openAuth takes."""
        ...


def _as_it_is(error: HypervisorError) -> HypervisorError:
    return error


@dataclass(frozen=True, slots=True)
class Way:
    """`text`: what libvirt dials. `must_hold`: without a grip on it a connection is not safe to use.
    `keep_alive`: there is somebody at the other end who could fall silent. `sign_in`: with it, a host that
    asks for no password is not the one that was meant."""

    text: str
    beneath: Beneath
    must_hold: bool = True
    keep_alive: bool = True
    sign_in: SignIn | None = None
    certificates: tuple[Certificate, ...] = ()
    explain: Callable[[HypervisorError], HypervisorError] = field(default=_as_it_is)
