"""Which part of a ring a reader of logs wants, and the times before its lines. Pure.

A line is what ends with a line feed; its time is that of its first byte. What stands in the ring before the
first line feed may be the rest of a line whose beginning is gone: it counts as a line.
"""

from __future__ import annotations

import math

from controller.consoles.ring import Ring


def beginning(ring: Ring, *, tail: int | None, since: str) -> int:
    """The offset at which to begin: the last `tail` lines (None: all), none that began before `since` (wall
    time, "" for no such bound). From the end backwards, and lines are counted, not listed: a ring that is
    full of line feeds costs no more than another."""
    pieces = list(ring.pieces())
    first = next((number for number, (_, at, _) in enumerate(pieces) if at >= since), len(pieces))
    left: float = math.inf if tail is None else tail
    found = ring.ends
    for number in range(len(pieces) - 1, first - 1, -1):
        if left <= 0:
            break
        begins, _, data = pieces[number]
        fresh = number == 0 or pieces[number - 1][2].endswith(b"\n")  # its first byte begins a line
        count = data.count(b"\n", 0, len(data) - 1) + fresh  # of lines that begin here
        if count:
            found = begins + _nth(data, max(0, count - left), fresh=fresh)
            left -= count
    return found


def _nth(data: bytes, number: float, *, fresh: bool) -> int:
    """Where the line begins before which so many others do."""
    position = 0
    for _ in range(int(number) + (not fresh)):
        position = data.index(b"\n", position) + 1
    return position


class Stamper:
    """Puts the time before each line of a stream that is read piece by piece."""

    def __init__(self) -> None:
        self._fresh = True

    def stamped(self, data: bytes, at: str) -> bytes:
        """`data` with the time `at` before every line that begins in it."""
        if not data:
            return data
        stamp = at.encode() + b" "
        ends = data.endswith(b"\n")
        body = data[:-1] if ends else data
        lines = (stamp if self._fresh else b"") + body.replace(b"\n", b"\n" + stamp)
        self._fresh = ends
        return lines + b"\n" if ends else lines
