"""The answer to a list: in one piece while it is small, and from some size on in parts, as it is read.

A list may be of a hundred thousand objects. What is small is made as a whole, so that whatever goes wrong
while it is read is told as a status. From WHOLE_BYTES on the answer is under way before all was read: its
making and its encryption hold up nobody, and only a little of it is in memory, however slow its client is.
What goes wrong then can only cut the connection, which ends a chunked body too soon for any client to take
it for whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api.accepting import flow, wants_yaml
from controller.api.parts import Parts
from controller.api.requests import JSON, YAML, Call, json_response

log = logging.getLogger(__name__)

WHOLE_BYTES: Final = 2 << 20
_PART_BYTES: Final = 128 << 10  # at least so much is written at once


class ListAnswer:
    """`frame` is the answer without what it lists, in the order of its fields; `field` names what is listed.
    Its metadata, known at the end, stand where `frame` has them, or last if the answer is sent in parts."""

    def __init__(self, call: Call, frame: Mapping[str, Any], field: str) -> None:
        self._call = call
        self._frame = frame
        self._field = field
        self._items: list[bytes] = []
        self._size = 0
        self._listed = 0
        self._parts: Parts | None = None
        self._yaml = wants_yaml(call.request)

    @property
    def in_parts(self) -> bool:
        return self._parts is not None

    async def add(self, items: Sequence[bytes]) -> None:
        """Raises ConnectionError, TimeoutError when the client does not take what it asked for."""
        self._items += items
        self._size += sum(map(len, items))
        if self._parts is None and self._size > WHOLE_BYTES:
            await self._begin()
        elif self._parts is not None and self._size >= _PART_BYTES:
            await self._flush()

    async def end(self, metadata: Mapping[str, Any]) -> web.StreamResponse:
        if self._parts is None:
            listed = [msgspec.Raw(item) for item in self._items]
            return json_response({**self._frame, "metadata": metadata, self._field: listed})
        await self._flush(b'],"metadata":' + msgspec.json.encode(metadata) + b"}")
        return await self._parts.end()

    def cut(self, error: Exception) -> web.StreamResponse:
        """The end of an answer that was sent in parts and cannot be ended well."""
        assert self._parts is not None
        log.warning("a list was cut off", extra={"error": str(error), "audit_id": self._call.audit_id})
        return self._parts.cut()

    async def _begin(self) -> None:
        self._call.stand()  # what follows waits for its client, and works in turns
        self._parts = Parts(self._call.request, YAML if self._yaml else JSON)
        await self._parts.begin()
        head = {k: v for k, v in self._frame.items() if k not in {"metadata", self._field}}
        await self._write(msgspec.json.encode(head)[:-1] + f',"{self._field}":['.encode())
        items, self._items = self._items, []
        size, step = len(items), max(1, len(items) * _PART_BYTES // self._size)
        for start in range(0, size, step):
            self._items = items[start : start + step]
            await self._flush()

    async def _flush(self, end: bytes = b"") -> None:
        comma = b"," if self._listed and self._items else b""
        part = comma + b",".join(self._items) + end
        self._listed += len(self._items)
        self._items, self._size = [], 0
        await self._write(part)

    async def _write(self, part: bytes) -> None:
        assert self._parts is not None
        await self._parts.add(flow(part) if self._yaml else part)
