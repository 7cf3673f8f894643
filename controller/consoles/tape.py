"""One console of one domain: what it wrote lately, who reads along, who may write, and why nothing comes.

Whoever reads along has an offset into the ring and waits for `news`; nothing is kept for him. Several may
write: what each sends goes to the guest whole, in the order in which it came, and all see what the guest
makes of it. What is not the guest's own is put in as a line of its own that begins with `[domctl: `, where
output was lost or nobody read for a while: a gap must not look like silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from controller.consoles.ring import Ring
from drivers.errors import WrongState
from drivers.hypervisor import Console, ConsoleOutput

WRITE_BYTES_PER_S = 16 << 10  # faster than a serial line; libvirt queues what the guest does not read
Key = tuple[str, str]  # the domain's uuid, and the name of its device ("": its first console)


@dataclass(eq=False)
class Tape:
    """`recorded`: it is kept whether or not anybody looks. `why`: why it is not being read, while `console`
    is None; `gone`: why it never will be again. `node`: where it is, or was last, read. `attached`: who is,
    each by a token of his own."""

    key: Key
    ring: Ring
    wall: Callable[[], str]
    recorded: bool = False
    console: Console | None = None
    node: str = ""
    why: str = "it has not been opened yet"
    gone: str = ""
    attached: dict[object, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _read_before: bool = False
    _midline: bool = False
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_wanted(self) -> bool:
        return not self.gone and (self.recorded or bool(self.attached))

    def opened(self, console: Console, node: str) -> None:
        """It is read from now on; before, it was not."""
        if self._read_before:
            self._say(f"read again, on node {node}; what was written in between is not here")
        self._read_before = True
        self.console, self.node, self.why = console, node, ""
        self.tell()

    def heard(self, output: ConsoleOutput) -> None:
        if output.lost:
            self._say(f"{output.lost} bytes came faster than they are read, and are not here")
        if output.data:
            self.ring.append(output.data, self.wall())
            self._midline = not output.data.endswith(b"\n")
            self.tell()

    def closed(self, why: str) -> None:
        self.console, self.why = None, why
        self.tell()

    def end(self, why: str) -> None:
        """For good: who reads along has what there is, and is told."""
        self.console, self.gone = None, self.gone or why
        self.tell()

    async def write(self, data: bytes) -> None:
        """To the guest. Raises HypervisorError."""
        async with self._writing:
            if self.console is None:
                raise WrongState(self.gone or self.why)
            await self.console.send(data)
            await asyncio.sleep(len(data) / WRITE_BYTES_PER_S)

    def tell(self) -> None:
        """Wake all who wait."""
        self.news.set()
        self.news = asyncio.Event()

    def _say(self, text: str) -> None:
        line = f"[domctl: {text}]\r\n"
        self.ring.append((f"\r\n{line}" if self._midline else line).encode(), self.wall())
        self._midline = False
        self.tell()
