"""An answer that is sent in parts, as they are made: what is too large to be made in one go.

Each part is packed, in a thread, if the client takes gzip, and has to be taken by the client in bounded time,
so that only a little of the answer is in memory, however slow its client is. It ends well or not at all: a
chunked body that is cut too soon is taken for whole by no client.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from controller.api import compression

WRITE_S: Final = 30.0  # for an answer, or a part, to be taken; a client that does not read is cut off


class Parts:
    """All raise ConnectionError, TimeoutError when the client does not take what it asked for."""

    def __init__(self, request: web.Request, content_type: str) -> None:
        self._request = request
        self._packer = compression.Packer() if compression.accepts(request) else None
        self.response = web.StreamResponse(headers={"Content-Type": content_type})
        if request.version >= HttpVersion11:
            self.response.enable_chunked_encoding()
        if self._packer is not None:
            self.response.headers.update(compression.HEADERS)

    async def begin(self) -> None:
        await self.response.prepare(self._request)

    async def add(self, part: bytes) -> None:
        await self._write(part if self._packer is None else await self._packer.add(part))

    async def end(self) -> web.StreamResponse:
        if self._packer is not None:
            await self._write(await self._packer.end())
        async with asyncio.timeout(WRITE_S):
            await self.response.write_eof()
        return self.response

    def cut(self) -> web.StreamResponse:
        """The end of what cannot be ended well."""
        if self._request.transport is not None:
            self._request.transport.abort()
        return self.response

    async def _write(self, part: bytes) -> None:
        if not part or self._request.method == "HEAD":
            return
        async with asyncio.timeout(WRITE_S):
            await self.response.write(part)
        await asyncio.sleep(0)  # what a quick client takes at once would never wait
