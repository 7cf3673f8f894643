"""What the user sees: a table that is drawn over itself on a terminal, one line for each change elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

Row = tuple[str, ...]


class Screen:
    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0  # lines of the table that stands below everything else
        self._known: dict[str, Row] = {}
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """A line of the story; a table drawn before it stays above it."""
        self._drawn = 0
        print(text, flush=True)

    def step(self, text: str) -> None:
        self.say(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def table(self, header: Row, rows: Sequence[Row]) -> None:
        """Rows are named by their first cell."""
        if self._live:
            self._draw([header, *rows])
            return
        for row in rows:
            if self._known.get(row[0]) != row:
                self._known[row[0]] = row
                self.step("  " + "  ".join(f"{cell:<14}" for cell in row).rstrip())

    def _draw(self, rows: Sequence[Row]) -> None:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        up = f"\033[{self._drawn}A" if self._drawn else ""
        lines = [
            "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        print(up + "".join(f"\033[2K{line}\n" for line in lines) + "\033[J", end="", flush=True)
        self._drawn = len(lines)
