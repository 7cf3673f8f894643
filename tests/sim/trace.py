"""The story of a run: who did what, when, in words, and the same words whenever the seed is the same.

Lines are kept as they were said, with short names in the place of UUIDs; times are virtual seconds since the
run began. `text` is what a failing seed prints. Nothing here may depend on hashes, ids or the wall clock,
for two runs of one seed must say the same, byte for byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LINES_SHOWN = 400


@dataclass
class Trace:
    """`clock` gives virtual seconds; `names` says what a UUID is called by those who read."""

    clock: Callable[[], float]
    began_at: float = 0.0
    names: dict[str, str] = field(default_factory=dict)
    closed: bool = False
    _said: list[tuple[float, str, str]] = field(default_factory=list)

    def close(self) -> None:
        """What is said from now on is not of this run."""
        self.closed = True

    def say(self, who: str, what: str) -> None:
        if not self.closed:
            self._said.append((self.clock() - self.began_at, who, what))

    def call(self, uuid: str, name: str) -> None:
        """From now on, and in all that was said, `uuid` is called `name`."""
        self.names.setdefault(uuid, name)

    def named(self, uuid: str) -> str:
        return self.names.get(uuid, uuid[:8])

    def lines(self) -> list[str]:
        return [f"{at:9.3f}  {who:<9} {self._plain(what)}" for at, who, what in self._said]

    def _plain(self, text: str) -> str:
        return UUID.sub(lambda found: self.named(found.group()), text)

    def text(self, last: int = LINES_SHOWN) -> str:
        lines = self.lines()
        left_out = len(lines) - last
        head = [f"... {left_out} lines before ..."] if left_out > 0 else []
        return "\n".join([*head, *lines[-last:]])

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()
