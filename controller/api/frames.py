"""Frames: what is written to a watcher, made once for all who are to be told the same.

Keyed by what a client wants to see and which events it tells of. Clients that keep up ask for the same few
frames one after the other, so only the newest are kept; what is not there is made again. Bytes alone are
shared: nothing of one client's rights is in them, for those decide whether a watch is opened at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

KEPT_BYTES: Final = 4 << 20  # of one resource
_OVERHEAD: Final = 200  # of an entry, so that empty ones are not kept without end


class Frames:
    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> bytes | None:
        return self._kept.get(key)

    def keep(self, key: Hashable, frame: bytes) -> bytes:
        """The same frame, which may be asked for again."""
        self._kept[key] = frame
        self._bytes += len(frame) + _OVERHEAD
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= len(self._kept.popitem(last=False)[1]) + _OVERHEAD
        return frame
