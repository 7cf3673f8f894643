"""One libvirt connection: its handle, what carries it, its lane, and its end.

A connection ends in two steps. `sever` shuts the socket down, or kills the child that carries it, and returns
at once: every call on it fails within a millisecond. `dismantle` blocks and belongs in a thread: it takes the
callbacks away, closes the handle and gives the hold on the carrier back; only then has the kernel closed the
socket (with a reset, because of the linger option). Without deregistering first, libvirt's own references
would keep it open for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import libvirt

from drivers.errors import HostFailed, HypervisorError, SpecRejected, Unreachable
from drivers.libvirt.errors import told_by_daemon, translate
from drivers.libvirt.lane import SLOTS, Lane
from drivers.libvirt.way import Grip
from specs.mark import UntrustedXml

T = TypeVar("T")

SLOTS_OF: Final[dict[str, int]] = {"migrate": 1, "agents": 1}  # by role, where it is not SLOTS (`moving`)
LAST_CALLS_S = 5.0  # a severed connection gives its threads back within a millisecond


class Link:
    """A connection. `raw` is libvirt's handle; it is used in worker threads only."""

    def __init__(self, node: str, role: str, raw: Any, held: Grip | None) -> None:
        self.raw = raw
        self.lane = Lane(f"libvirt-{node}-{role}", SLOTS_OF.get(role, SLOTS))
        self.sign_of_life = Lane(f"libvirt-{node}-{role}-alive", slots=1)
        self.held = held
        self.registered: list[int] = []  # event callbacks

    def sever(self) -> None:
        if self.held is not None:
            self.held.sever()

    def dismantle(self) -> None:
        """Blocking, but not on a severed connection."""
        for registered in self.registered:
            with contextlib.suppress(
                libvirt.libvirtError
            ):  # of a dead connection it is done on our side alone
                self.raw.domainEventDeregisterAny(registered)
        with contextlib.suppress(libvirt.libvirtError):
            self.raw.unregisterCloseCallback()
        # A handle that is closed under a call in another thread is memory that was given back.
        if all(lane.close(LAST_CALLS_S) for lane in (self.lane, self.sign_of_life)):
            with contextlib.suppress(libvirt.libvirtError):
                self.raw.close()
        if self.held is not None:
            self.held.release()


def attempt(raw: Any, call: str, work: Callable[[], T]) -> T | HypervisorError:
    """Run blocking `work` on `raw`; libvirt's error comes back as a value of the port's.

    As a value, and never chained to libvirt's: an exception's traceback would hold the frames, these the
    handles, and those the connection's socket, for as long as somebody remembers the error."""
    try:
        return work()
    except libvirt.libvirtError as error:
        code, origin = error.get_error_code() or 0, error.get_error_domain() or 0
        message = str(error)
    except UntrustedXml as error:
        return HostFailed(f"the host sent a document that is not read: {error}")
    except ValueError as error:  # libvirt-python, of a text with a NUL
        return SpecRejected(str(error))
    found = translate(code, origin, message, call)
    if isinstance(found, Unreachable) and _still_open(raw):
        return told_by_daemon(found, call)
    return found


def _still_open(raw: Any) -> bool:
    """Whether libvirt has not given the connection up. It says nothing of the other end: with the link
    cut it stays true for ever; but after an error of the connection itself it is false."""
    try:
        return raw is not None and bool(raw.isAlive())
    except libvirt.libvirtError:
        return False
