"""gzip, for whoever accepts it and where it pays: whole answers of some size, as Kubernetes does.

Done in a thread, so that a list of thousands holds up nobody; what is sent in parts is compressed part by
part. Watches are not compressed, since each event is wanted at once. The level is the quickest: lists of
objects repeat themselves enough for it.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from aiohttp import web

FROM_BYTES: Final = 128 << 10  # Kubernetes' own threshold
HEADERS: Final = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
_LEVEL: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS


async def compressed(request: web.Request, answer: web.StreamResponse) -> None:
    """Compress the body in place, if it is whole and the client takes gzip."""
    body = answer.body if isinstance(answer, web.Response) else None
    if not isinstance(body, bytes) or len(body) < FROM_BYTES or not accepts(request):
        return
    assert isinstance(answer, web.Response)
    answer.body = await asyncio.to_thread(_gzip, body)
    answer.headers.update(HEADERS)


class Packer:
    """One body that is compressed part by part."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)

    async def add(self, part: bytes) -> bytes:
        """What can be sent of it by now."""
        return await asyncio.to_thread(self._packer.compress, part)

    async def end(self) -> bytes:
        return await asyncio.to_thread(self._packer.flush)


def accepts(request: web.Request) -> bool:
    """Kubernetes' reading of the header: gzip is taken where it is named and not refused."""
    for part in request.headers.get("Accept-Encoding", "").split(",")[:8]:
        coding, _, quality = part.partition(";")
        if coding.strip().lower() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0"}
    return False


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()
