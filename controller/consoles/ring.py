"""The last bytes of one console, with the time at which each piece came. Pure.

Offsets count from the console's first byte and only grow, so that any number of readers need nothing but an
offset each; one that fell behind finds out by it. Guaranteed: no more than `limit` bytes are kept, whatever
comes, and what is kept is the newest.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 4096  # the oldest are dropped by pieces
MAX_PIECES: Final = 4096  # a guest that writes a little every second has one for each
PIECE_COST: Final = 64  # bytes of the limit for one piece at least; by itself it takes some 190 of memory
FEW_PIECES: Final = 16  # however small the limit


class Ring:
    """`begins`, `ends`: the offsets of the first byte that is kept and of the next one that will come."""

    def __init__(self, limit: int) -> None:
        self.begins = 0
        self.ends = 0
        self._limit = limit
        self._pieces: deque[tuple[str, bytearray]] = deque()

    def limit_to(self, limit: int) -> None:
        self._limit = limit
        self._trim()

    def append(self, data: bytes, at: str) -> None:
        """`at`: when it came, wall time as 2026-11-23T01:02:03Z."""
        if (skipped := len(data) - self._limit) > 0:  # they count, so that readers find out
            self._pieces.clear()
            self.begins = self.ends = self.ends + skipped
            data = data[skipped:]
        for start in range(0, len(data), PIECE_BYTES):
            part = data[start : start + PIECE_BYTES]
            last = self._pieces[-1] if self._pieces else None
            if last is not None and last[0] == at and len(last[1]) + len(part) <= PIECE_BYTES:
                last[1].extend(part)
            else:
                self._pieces.append((at, bytearray(part)))
            self.ends += len(part)
        self._trim()

    def _trim(self) -> None:
        most = max(FEW_PIECES, min(MAX_PIECES, self._limit // PIECE_COST))
        while self.ends - self.begins > self._limit or len(self._pieces) > most:
            self.begins += len(self._pieces.popleft()[1])

    def pieces(self, offset: int = 0) -> Iterator[tuple[int, str, bytes]]:
        """All from `offset` on: where each begins, when it came, its bytes."""
        begins, wanted = self.ends, 0
        for _, data in reversed(self._pieces):  # most readers are near the end
            if begins <= offset:
                break
            begins -= len(data)
            wanted += 1
        for at, data in itertools.islice(self._pieces, len(self._pieces) - wanted, None):
            skipped = max(0, offset - begins)
            yield begins + skipped, at, bytes(data[skipped:])
            begins += len(data)
