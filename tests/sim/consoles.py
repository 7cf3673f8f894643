"""Consoles of simulated hosts: what guests write, who reads it, and what is typed.

At the host a console has one reader, who keeps it until he lets go of it, his connection ends, or the domain
does; a domain has as many as its definition names, and who names none means the first. What a guest writes
while nobody reads is gone, as with QEMU's terminals. A guest sends back what is typed, as one with a shell
would.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from drivers.errors import HypervisorError, WrongState
from drivers.hypervisor import ConsoleEnded, ConsoleOutput, ConsoleSink
from tests.sim.call import Call
from tests.sim.connection import Connection
from tests.sim.definition import refusal

if TYPE_CHECKING:
    from tests.sim.host import SimHost
    from tests.sim.hypervisor import SimSession

INTERNAL, FAILED, INVALID = 1, 9, 55
FROM_QEMU = 10
_DEVICES = re.compile(r"<(?:serial|console)\b[^>]*>\s*<alias name=['\"]([^'\"]+)['\"]")


class Terminals:
    """The host's end."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._readers: dict[tuple[str, str], SimConsole] = {}  # by uuid and device

    def open(self, console: SimConsole) -> None:
        """Raises HypervisorError."""
        domain = self._host.operations.find(console.uuid)
        if domain.live is None:
            raise refusal(INVALID, "Requested operation is not valid: domain is not running")
        devices = _DEVICES.findall(domain.live)
        if console.device and console.device not in devices:
            said = f"internal error: cannot find character device {console.device}"
            raise refusal(INTERNAL, said, origin=FROM_QEMU)
        place = (console.uuid, console.device or next(iter(devices), ""))
        reader = self._readers.get(place)
        if reader is not None and reader.connection.accepted:
            said = "operation failed: Active console session exists for this domain"
            raise refusal(FAILED, said, "console")
        self._readers[place] = console

    def write(self, uuid: str, data: bytes, device: str = "ua-main") -> None:
        """The guest writes."""
        reader = self._readers.get((uuid, device))
        if reader is not None:
            reader.connection.bring(partial(reader.hear, data))

    def type(self, console: SimConsole, data: bytes) -> None:
        place = self._place(console)
        if place is None:
            raise refusal(INVALID, "Requested operation is not valid: the stream is closed")
        self.write(console.uuid, data, place[1])

    def close(self, console: SimConsole) -> None:
        place = self._place(console)
        if place is not None:
            del self._readers[place]

    def ended(self, uuid: str) -> None:
        """The domain has."""
        for place in [place for place in self._readers if place[0] == uuid]:
            reader = self._readers.pop(place)
            reader.connection.bring(partial(reader.end, "the host closed it"))

    def _place(self, console: SimConsole) -> tuple[str, str] | None:
        return next((place for place, reader in self._readers.items() if reader is console), None)


class SimConsole:
    """The port's Console: the client's end."""

    def __init__(
        self, session: SimSession, connection: Connection, uuid: str, device: str, sink: ConsoleSink
    ) -> None:
        self.connection = connection
        self.uuid = uuid
        self.device = device
        self._session = session
        self._sink = sink
        self._over = False

    async def send(self, data: bytes) -> None:
        if self._over:
            raise WrongState("the console is closed")
        await self.ask("console_type", (self, data))

    async def close(self) -> None:
        if not self._over:
            self._over = True
            self.connection.ask("console_close", (self,), lambda _answer: None)

    async def ask(self, call: str, arguments: tuple[object, ...]) -> None:
        """Raises HypervisorError."""
        answer = await Call(self._session, self.connection, call, arguments, 10.0).run()
        if isinstance(answer, HypervisorError):
            raise answer

    def hear(self, data: bytes) -> None:
        if not self._over:
            self._sink(ConsoleOutput(data))

    def end(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._sink(ConsoleEnded(why))
