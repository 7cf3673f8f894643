"""Which part of a ring a reader of logs wants, and the times before its lines. Pure.

A line is what ends with a line feed; its time is that of its first byte. What stands in the ring before the
first line feed may be the rest of a line whose beginning is gone: it counts as a line.
"""

from __future__ import annotations

from controller.consoles.ring import Ring


def starts(ring: Ring) -> list[tuple[int, str]]:
    """Where each line that is kept begins, and when that came."""
    found: list[tuple[int, str]] = []
    fresh = True  # the next byte begins a line
    for offset, at, data in ring.pieces():
        position = 0
        while position < len(data):
            if fresh:
                found.append((offset + position, at))
            feed = data.find(b"\n", position)
            fresh = feed >= 0
            position = feed + 1 if fresh else len(data)
    return found


def beginning(ring: Ring, *, tail: int | None, since: str) -> int:
    """The offset at which to begin: the last `tail` lines (None: all), none that began before `since` (wall
    time, "" for no such bound)."""
    lines = [offset for offset, at in starts(ring) if at >= since]
    if tail is not None:
        lines = lines[len(lines) - tail :] if 0 < tail < len(lines) else (lines if tail else [])
    return lines[0] if lines else ring.ends


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
