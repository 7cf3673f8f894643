"""All tapes of this process: made by the leader's keeper, found by the API.

It outlives a term: who leads again goes on with what it has, after a line that says so. `serving` is whether
this process leads, and so reads consoles at all. What all rings together may hold is bounded: they share
`total` bytes, and each has no more than `each`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from controller.consoles.ring import PIECE_BYTES, Ring
from controller.consoles.tape import Tape

NOT_LEADING = "this process does not lead any more"


@dataclass(slots=True)
class Desk:
    """`on_change`: told the uuid of a domain whose consoles are wanted by more, or by fewer, than before."""

    wall: Callable[[], str]
    each: int
    total: int
    serving: bool = False
    on_change: Callable[[str], None] = lambda _uuid: None
    _tapes: dict[str, dict[str, Tape]] = field(default_factory=dict)
    _count: int = 0
    _limit: int = 0

    def find(self, uuid: str, device: str) -> Tape | None:
        return self._tapes.get(uuid, {}).get(device)

    def open(self, uuid: str, device: str) -> Tape:
        """The tape of this console, a new one if there is none."""
        tape = self.find(uuid, device)
        if tape is None:
            tape = Tape((uuid, device), Ring(self._limit or self.each), self.wall)
            self._tapes.setdefault(uuid, {})[device] = tape
            self._share(+1)
        return tape

    def of(self, uuid: str) -> tuple[Tape, ...]:
        return tuple(self._tapes.get(uuid, {}).values())

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(self._tapes)

    def drop(self, tape: Tape, why: str) -> None:
        uuid, device = tape.key
        if self.find(uuid, device) is tape:
            del self._tapes[uuid][device]
            if not self._tapes[uuid]:
                del self._tapes[uuid]
            self._share(-1)
        tape.end(why)

    def retire(self) -> None:
        """The term is over: who reads along asks again, perhaps elsewhere. What was recorded stays."""
        self.serving = False
        for tape in [tape for tapes in self._tapes.values() for tape in tapes.values()]:
            if tape.recorded:
                tape.closed(NOT_LEADING)
            else:
                self.drop(tape, NOT_LEADING)

    @contextmanager
    def attaching(self, uuid: str, device: str, who: str) -> Iterator[Tape]:
        """While this lasts the console is wanted."""
        tape, token = self.open(uuid, device), object()
        tape.attached[token] = who
        self.on_change(uuid)
        try:
            yield tape
        finally:
            del tape.attached[token]
            self.on_change(uuid)
            if not tape.is_wanted and not self.serving:
                self.drop(tape, NOT_LEADING)

    def _share(self, more: int) -> None:
        """Among so many, by powers of two, so that it changes seldom."""
        self._count += more
        parts = 1 << max(0, self._count - 1).bit_length()
        limit = max(PIECE_BYTES, min(self.each, self.total // parts))
        if limit != self._limit:
            self._limit = limit
            for tapes in self._tapes.values():
                for tape in tapes.values():
                    tape.ring.limit_to(limit)
