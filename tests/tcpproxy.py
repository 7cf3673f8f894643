"""A TCP proxy that fails on demand: the network between a client and a server, for tests.

proxy.cut()      all connections are reset; new ones work
proxy.hold()     bytes stop in both directions, connections stay open; `release()` lets them go on
proxy.mute()     what the server says is thrown away, what the client says arrives
proxy.refuse()   new connections are reset at once, old ones stay
"""

from __future__ import annotations

import asyncio
import contextlib


class Proxy:
    """Listens on `address` (host:port) and forwards to `target`."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self.address = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stranded: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._is_mute = False
        self._is_refusing = False

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def hold(self) -> None:
        self._open.clear()

    def strand(self) -> None:
        self._stranded |= self._writers

    def release(self) -> None:
        self._open.set()

    def mute(self, on: bool = True) -> None:
        self._is_mute = on

    def refuse(self, on: bool = True) -> None:
        self._is_refusing = on

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        for args in ((reader, server_writer, False), (server_reader, writer, True)):
            task = asyncio.create_task(self._pump(*args))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if is_reply and self._is_mute:
                    self._stranded.add(writer)
                if writer not in self._stranded:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
