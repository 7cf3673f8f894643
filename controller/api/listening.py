"""Connections: how many there may be, and how they come to be.

The listener accepts by itself instead of asyncio's server, which would take up a thousand new connections in
one round of the loop. Handshakes that have not ended are bounded apart from connections: the next one waits,
and the oldest gives way once it has had its time, so that clients that never finish theirs keep nobody out. A
connection over the bound is closed without a word. The aiohttp server behind gives a connection IDLE_S for
a whole request head, however slowly it comes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from controller.api.turnstile import Turnstile
from controller.pki import Pki

log = logging.getLogger(__name__)
HTTP_LOG: Final = logging.getLogger(f"{__name__}.http")  # of the aiohttp server: its faults, not its clients'

_HANDSHAKES: Final = 32  # of which each takes about a millisecond of the loop
_GRACE_S: Final = 1.0  # what a handshake has at least, when others wait
_HANDSHAKE_S: Final = 10.0
_BACKLOG: Final = 1024
_THEIRS: Final = (HttpProcessingError, web.RequestPayloadError)
_PAUSE_S: Final = 0.1  # after an accept that failed, as it does when file descriptors are used up


def _is_ours(record: logging.LogRecord) -> bool:
    """Anybody may send what is not HTTP, which is answered and is no news."""
    return not (record.exc_info and isinstance(record.exc_info[1], _THEIRS))


HTTP_LOG.addFilter(_is_ours)


class Listener:
    """Serves `server` on one address. `context` None: without TLS."""

    def __init__(
        self,
        server: web.Server,
        context: ssl.SSLContext | None,
        connections: int,
        turns: Turnstile,
    ) -> None:
        self._server = server
        self._context = context
        self._connections = connections
        self._turns = turns
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], _Handshake] = {}
        self._refusing = False
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when it cannot listen."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, family=socket.AF_UNSPEC
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, protocol)
            self._sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address[0], self.port or address[1], *address[2:]))
            listening.listen(_BACKLOG)
            self.port = listening.getsockname()[1]
        self._tasks = [
            asyncio.create_task(self._accept(listening), name="accept") for listening in self._sockets
        ]

    async def stop(self) -> None:
        """No new connections; those that are there go on."""
        ending = [*self._tasks, *self._handshakes]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._turns.turn()
            await self._room_for_one()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("a connection could not be accepted", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE_S)
                continue
            if self._is_full():
                accepted.close()
                continue
            shaking = _Handshake(accepted, loop.time())
            task = asyncio.create_task(self._take_up(shaking), name="handshake")
            self._handshakes[task] = shaking
            task.add_done_callback(shaking.ended)
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _room_for_one(self) -> None:
        """Wait while as many handshakes as may be are under way; one that takes its time gives way."""
        while len(self._handshakes) >= _HANDSHAKES:
            oldest, shaking = next(iter(self._handshakes.items()))
            left_s = shaking.began_at + _GRACE_S - asyncio.get_running_loop().time()
            if left_s > 0:
                await asyncio.wait(self._handshakes, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                oldest.cancel()
                await asyncio.wait([oldest])

    def _is_full(self) -> bool:
        full = len(self._server.connections) + len(self._handshakes) >= self._connections
        if full != self._refusing:
            self._refusing = full
            words = "new connections are refused: too many" if full else "connections are accepted again"
            log.warning(words, extra={"connections": len(self._server.connections)})
        return full

    async def _take_up(self, shaking: _Handshake) -> None:
        """Until the handshake is done: from then on the connection is the server's."""
        shaking.begun = True
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._server,
                shaking.accepted,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_S if self._context else None,
            )
        except OSError as error:  # ssl.SSLError is one: not TLS, no trust, or gone
            log.debug("a connection did not come about", extra={"error": str(error)})


@dataclass(slots=True)
class _Handshake:
    """A socket is its transport's as soon as that is made: until then it is closed here."""

    accepted: socket.socket
    began_at: float
    begun: bool = False

    def ended(self, task: asyncio.Task[None]) -> None:
        if not self.begun:
            self.accepted.close()


def tls_context(pki: Pki) -> ssl.SSLContext:
    """TLS 1.2 or newer; client certificates are asked for and verified, and who shows none is anonymous."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.server_cert, pki.server_key)
    context.load_verify_locations(pki.ca_cert)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context
