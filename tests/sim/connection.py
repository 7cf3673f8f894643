"""One TCP connection between a client and libvirtd, with all that it does besides carrying messages.

Its client's end has slots, a keep-alive that ends it after 20 s of silence (a cut link, a frozen daemon),
and the socket options that production code sets on libvirt's sockets: they are read from a real socket that
was tuned by that very code, so what they are good for is tried here. Without them, as on the way through
a relay, the kernel goes on sending for a dead client, for some 100 s. The host's end takes five calls at once
and leaves the sixth unread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from drivers.errors import Unreachable
from drivers.hypervisor import EventKind
from drivers.libvirt.errors import FROM_RPC, INTERNAL_ERROR, SYSTEM_ERROR
from drivers.libvirt.lane import SLOTS
from drivers.libvirt.opening import KEEP_ALIVE_COUNT, KEEP_ALIVE_INTERVAL_S
from drivers.libvirt.sockets import Held
from tests.sim.network import Network

if TYPE_CHECKING:
    from tests.sim.host import SimHost

KEEP_ALIVE_S = float(KEEP_ALIVE_INTERVAL_S * (KEEP_ALIVE_COUNT + 1))
ORPHAN_S = 100.0  # how long a kernel goes on sending what a dead process left (tcp_orphan_retries)
SERVER_KEEP_ALIVE_S = 30.0  # libvirtd's own, for a client that does not answer
MAX_CLIENT_REQUESTS = 5

Answer = object  # what a host says: a value, or a HypervisorError as a value
Settle = Callable[[Any], None]
Hear = Callable[[str, str, EventKind, str], None]


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """`resets`: closing, or dying, throws away what was not sent. `user_timeout_s`: how long sent data may
    stay without an acknowledgement (0: as long as TCP likes)."""

    resets: bool
    user_timeout_s: float


@cache
def socket_options() -> SocketOptions:
    """What the driver makes of a socket of libvirt's."""
    with socket.socket() as tried:
        held = Held(tried.fileno(), lambda: None)
        held.tune()
        held.release()
        lingers, seconds = struct.unpack("ii", tried.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
        user_timeout_ms = tried.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return SocketOptions(bool(lingers) and seconds == 0, user_timeout_ms / 1000)


RELAYED = SocketOptions(resets=False, user_timeout_s=0.0)
"""Of the sockets of a relay (ssh, or somebody's program): nobody tunes them."""


def lost(why: str) -> Unreachable:
    code = INTERNAL_ERROR if why == "keepalive" else SYSTEM_ERROR
    words = {
        "keepalive": "internal error: connection closed due to keepalive timeout",
        "client": "internal error: client socket is closed",
    }
    return Unreachable(words.get(why, "End of file while reading data"), code=code, origin=FROM_RPC)


class Connection:
    """`on_lost` is told once that the connection ended by itself, and why. `hear` takes events, on the
    connection that a session observes with."""

    def __init__(
        self, client: str, host: SimHost, network: Network, on_lost: Callable[[Connection, str], None]
    ) -> None:
        self.client = client
        self.host = host
        self.hear: Hear | None = None
        self.free = SLOTS
        self.overdue = 0
        self.queue: deque[Callable[[], bool]] = deque()  # calls without a slot: each answers if it took one
        self.running = 0  # at the host's end
        self.unread: deque[Callable[[], None]] = deque()
        self.is_open = True  # at the client's end
        self.accepted = True  # at the host's end
        self.accepted_by = 0  # which incarnation of libvirtd
        self.held: list[Callable[[], None]] | None = None  # what came while the client was stopped
        self._network = network
        self.on_lost = on_lost
        self._options = RELAYED if host.relayed else socket_options()
        self._up = network.pipe(client, host.name)
        self._down = network.pipe(host.name, client)
        self._up.on_stuck = self._stuck
        self._open_calls: dict[Settle, None] = {}
        self._events: deque[Callable[[], None]] = deque()
        self._event_due_at = 0.0
        self._keeps_alive = False
        self._link_up = network.up(client, host.name)
        self._silence: asyncio.TimerHandle | None = None
        self._speaks: asyncio.TimerHandle | None = None
        self._unacked: asyncio.TimerHandle | None = None
        self._server_patience: asyncio.TimerHandle | None = None
        network.follow(self, client, host.name, self._link)

    # --- the client's end

    def ask(self, call: str, arguments: tuple[Any, ...], settle: Settle) -> None:
        """Send a request; `settle` gets the answer, or Unreachable when the connection ends first. One that
        waited for a slot may have it of the connection's very end (seed 14 of all_to_one)."""
        if not self.is_open:
            asyncio.get_running_loop().call_soon(settle, lost("client"))
            return
        self._open_calls[settle] = None
        self._up.send(partial(self.host.receive, self, call, arguments, settle))

    def keep_alive(self) -> None:
        """From now on silence ends it."""
        self._keeps_alive = True
        self.attend()

    def attend(self) -> None:
        """The host froze or thawed, or the link changed: does it hear from the daemon?"""
        if not self._keeps_alive or not self.is_open:
            return
        hears = self._link_up and self.host.daemon != "frozen"
        if hears and self._silence is not None:
            self._silence.cancel()
            self._silence = None
        elif not hears and self._silence is None:
            self._silence = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self.lose, "keepalive")

    def give_slot(self) -> None:
        """A call is over at last: the next one may have its slot."""
        self.free += 1
        while self.queue and self.free:
            if self.queue.popleft()():
                self.free -= 1

    def freeze(self) -> None:
        """The client's process is stopped: what comes waits for it, and its host takes it for dead."""
        self.held = []
        self._server_patience = asyncio.get_running_loop().call_later(SERVER_KEEP_ALIVE_S, self.reset)

    def thaw(self) -> None:
        held, self.held = self.held or [], None
        if self._server_patience is not None:
            self._server_patience.cancel()
        for happened in held:
            happened()

    def lose(self, why: str) -> None:
        """It ended by itself."""
        if self.held is not None:
            self.held.append(partial(self.lose, why))
            return
        if self.is_open:
            self.close(why)
            self.on_lost(self, why)

    def close(self, why: str = "client") -> None:
        """The client closes its socket; calls that wait are told."""
        if not self.is_open:
            return
        waiting, self._open_calls = self._open_calls, {}
        self.die()
        error = lost(why)
        for settle in waiting:
            settle(error)

    def die(self) -> None:
        """The client's process is gone, or the socket closed: nobody is told."""
        self.is_open = False
        for timer in (self._silence, self._speaks, self._server_patience):
            if timer is not None:
                timer.cancel()
        self._down.drop()
        self.host.forget(self)
        if self._options.resets:
            self._up.drop_unsent()
        if self._up.oldest_at is None:
            self._bury()
        else:
            asyncio.get_running_loop().call_later(ORPHAN_S, self._bury)

    def _bury(self) -> None:
        self._up.drop()
        self._network.unfollow(self, self.client, self.host.name)
        if self._unacked is not None:
            self._unacked.cancel()

    def _link(self, up: bool) -> None:
        self._link_up = up
        if not self.is_open and self._options.resets and not up:
            self._bury()  # the reset went before, so nothing is sent again
            return
        self._up.link(up)
        if not self.is_open:
            return
        self._down.link(up)
        if self._speaks is not None:
            self._speaks.cancel()
            self._speaks = None
        if up:  # it hears again when somebody tries again
            again_s = self._network.resend_s(KEEP_ALIVE_INTERVAL_S)
            self._speaks = asyncio.get_running_loop().call_later(again_s, self._hears_again)
            self._link_up = False
        else:
            self.attend()

    def _hears_again(self) -> None:
        self._speaks = None
        self._link_up = True
        if self.accepted:
            self.attend()
        else:
            self.lose("error")  # a machine that knows nothing of this connection answers with a reset

    def _stuck(self, sent_at: float) -> None:
        """Something that was sent is not acknowledged, as the link is cut."""
        if self._options.user_timeout_s:
            if self._unacked is not None:
                self._unacked.cancel()
            at = sent_at + self._options.user_timeout_s
            self._unacked = asyncio.get_running_loop().call_at(at, self._user_timeout)

    def _user_timeout(self) -> None:
        oldest_at, limit_s = self._up.oldest_at, self._options.user_timeout_s
        if oldest_at is None:
            return
        if oldest_at > self._network.clock() - limit_s + 1e-6:
            self._stuck(oldest_at)
            return
        self._up.drop()
        self.lose("error")

    # --- the host's end

    def answer(self, settle: Settle, answer: Answer) -> None:
        if self.accepted and self.is_open:
            self._down.send(partial(self._settle, settle, answer))

    def _settle(self, settle: Settle, answer: Answer) -> None:
        if self.held is not None:
            self.held.append(partial(self._settle, settle, answer))
            return
        if self._open_calls.pop(settle, settle) is None:
            settle(answer)

    def tell(self, delay_s: float, uuid: str, name: str, kind: EventKind, detail: str) -> None:
        """An event, in order, `delay_s` late."""
        if self.hear is None:
            return
        now = self._network.clock()
        due_at = max(self._event_due_at, now + delay_s)
        event = partial(self._hears, uuid, name, kind, detail)
        if due_at <= now:
            self._down.send(event)
            return
        self._event_due_at = due_at
        self._events.append(event)
        asyncio.get_running_loop().call_at(due_at, self._next_event)

    def _next_event(self) -> None:
        event = self._events.popleft()
        if self.accepted and self.is_open:
            self._down.send(event)

    def _hears(self, uuid: str, name: str, kind: EventKind, detail: str) -> None:
        if self.held is not None:
            self.held.append(partial(self._hears, uuid, name, kind, detail))
            return
        if self.hear is not None and self.is_open:
            self.hear(uuid, name, kind, detail)

    def bring(self, happened: Callable[[], None]) -> None:
        """Something that comes in order behind all that was sent before: a piece of a stream."""
        if self.accepted and self.is_open:
            self._down.send(partial(self._brought, happened))

    def _brought(self, happened: Callable[[], None]) -> None:
        if self.held is not None:
            self.held.append(partial(self._brought, happened))
        elif self.is_open:
            happened()

    def reset(self) -> None:
        """The daemon is gone, its kernel says so."""
        if self.accepted:
            self.accepted = False
            self.host.forget(self)
            self.unread.clear()
            self._down.send(partial(self.lose, "error"))

    def vanish(self) -> None:
        """The whole machine is gone and says nothing."""
        self.accepted = False
        self.unread.clear()
