"""The client's half of a WebSocket (RFC 6455) with Kubernetes' channels: what `domctl console` speaks.

Only what that needs: whole binary messages of a first byte, the channel, and data; pings are answered, and
messages of more than MAX_BYTES end it. Blocking; who waits for two things at once asks `waiting` and selects
on `fileno`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import struct

from controller.cli.client import status_of
from controller.cli.errors import CliError, StatusError, Unreached

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from controller.cli.client import Client

MAX_BYTES = 1 << 20
MAX_HEAD = 64 << 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_FIN, _MASK = 0x80, 0x80
_GONE = "the connection to the server was lost"


class WebSocket:
    """Open once made. Raises StatusError where the server refuses, and Unreached."""

    def __init__(self, client: Client, path: str, query: Sequence[tuple[str, str]], protocol: str) -> None:
        key = base64.b64encode(os.urandom(16))
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": key.decode(),
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": protocol,
        }
        self._sock: socket.socket = client.begin(path, query, headers)
        self._rest = b""
        self._closed = False
        head = self._head()
        first = head.split(b" ", 2)
        code = int(first[1]) if len(first) > 1 and first[1].isdigit() else 0
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if code != 101:
            length = fields.get(b"content-length", b"0")
            raise StatusError(status_of(code, self._exactly(int(length) if length.isdigit() else 0)))
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        if fields.get(b"sec-websocket-accept") != accept:
            raise Unreached("the server did not answer as a WebSocket: is there a proxy in between?")

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> bool:
        """Whether something was received already, which a select would not see."""
        pending = getattr(self._sock, "pending", None)
        return bool(self._rest) or (pending is not None and pending() > 0)

    def send(self, channel: int, data: bytes) -> None:
        self._frame(_BINARY, bytes([channel]) + data)

    def receive(self) -> tuple[int, bytes] | None:
        """The next message, or None at the end."""
        whole = b""
        while True:
            first, second = self._exactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self._exactly(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self._exactly(8))
            if length + len(whole) > MAX_BYTES:
                raise CliError("the server sent a message that is too long")
            data = self._exactly(length)
            operation = first & 0x0F
            if operation == _PING:
                self._frame(_PONG, data)
            elif operation == _CLOSE:
                self.close()
                return None
            elif operation != _PONG:
                whole += data
                if first & _FIN:
                    return (whole[0], whole[1:]) if whole else (0, b"")
            if not whole and operation in {_PING, _PONG} and not self.waiting:
                return 0, b""  # nothing for anybody, and the caller may have more to wait for

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(Unreached):
                self._frame(_CLOSE, struct.pack(">H", 1000))
            self._sock.close()

    def _frame(self, operation: int, data: bytes) -> None:
        head = bytes([_FIN | operation])
        if len(data) < 126:
            head += bytes([_MASK | len(data)])
        elif len(data) < 1 << 16:
            head += bytes([_MASK | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([_MASK | 127]) + struct.pack(">Q", len(data))
        mask = os.urandom(4)
        body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        try:
            self._sock.sendall(head + mask + body)
        except OSError:
            raise Unreached(_GONE) from None

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._rest:
            self._more()
            if len(self._rest) > MAX_HEAD:
                raise Unreached("the server did not answer as a WebSocket: is it domctl?")
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._more()
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def _more(self) -> None:
        try:
            chunk = self._sock.recv(1 << 16)
        except OSError:
            raise Unreached(_GONE) from None
        if not chunk:
            raise Unreached(_GONE)
        self._rest += chunk
