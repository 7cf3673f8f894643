"""One call of a simulated session, from its wait for a slot to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drivers.errors import CallTimedOut, HypervisorError, PermitExpired
from drivers.hypervisor import Permit
from tests.sim.connection import Connection

if TYPE_CHECKING:
    from tests.sim.hypervisor import SimSession


class Call:
    """Its two sides are the caller, who waits
    until the deadline at most, and what would be a thread, which keeps the slot until an answer comes."""

    __slots__ = (
        "_arguments",
        "_future",
        "_limit_s",
        "_permit",
        "_session",
        "_state",
        "_timer",
        "_uuid",
        "at_last",
        "began_at",
        "call",
        "connection",
        "sent",
    )

    def __init__(  # noqa: PLR0917 - all that it stands between
        self,
        session: SimSession,
        connection: Connection,
        call: str,
        arguments: tuple[Any, ...],
        limit_s: float,
        permit: Permit | None = None,
        uuid: str = "",
    ) -> None:
        self._session = session
        self.connection = connection
        self.call = call
        self._arguments = arguments
        self._limit_s = limit_s
        self._permit = permit
        self._uuid = uuid
        self._state = "waiting"  # for a slot; then "running", "overdue", and "over"
        self.began_at = 0.0
        self.sent = False
        self.at_last: Callable[[], None] | None = None  # when the answer came, however late
        loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = loop.create_future()
        self._timer = loop.call_later(limit_s, self._too_late)

    async def run(self) -> Any:
        """The answer, or the error as a value."""
        connection = self.connection
        if connection.free and not connection.queue:
            connection.free -= 1
            self._begin()
        else:
            connection.queue.append(self._slot)
        try:
            return await self._future
        finally:
            self._timer.cancel()
            if self._state == "waiting" and self.at_last is not None:
                self.at_last()

    def _slot(self) -> bool:
        """A slot is free: is it still wanted?"""
        if self._future.done():
            return False
        self._timer.cancel()  # the deadline counts anew: those before it were slow, not this
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._too_late)
        self._begin()
        return True

    def _begin(self) -> None:
        self._state = "running"
        self.began_at = self._session.clock()
        if self._permit is None:
            self.connection.ask(self.call, self._arguments, self._over)
        elif self.call == "define":
            self._fire()
        else:
            self.connection.ask("lookup", (self._uuid,), self._found)

    def _found(self, error: HypervisorError | None) -> None:
        if error is not None:
            self._over(error)
        else:
            self._fire()

    def _fire(self) -> None:
        """Nothing may come between the look at the clock and the sending."""
        assert self._permit is not None
        if self._future.done():
            self._over(None)  # given up before it was sent
            return
        late_s = self._session.clock() - self._permit.not_after_s
        if late_s >= 0:
            said = f"{self.call}: not sent, the leave to act had ended {late_s:.3f} s before"
            self._over(PermitExpired(said))
            return
        self.sent = True
        self.connection.ask(self.call, self._arguments, self._over)
        self._session.leaves(self.call, self._uuid)

    def _over(self, answer: Any) -> None:
        """The slot comes back, and the caller has the answer if it still waits."""
        if self._state == "overdue":
            self.connection.overdue -= 1
        self._state = "over"
        if self.at_last is not None:
            self.at_last()
        if not self._future.done():
            self._future.set_result(answer)
        self.connection.give_slot()

    def _too_late(self) -> None:
        held = self.connection.held
        if held is not None:
            held.append(self._too_late)
            return
        if self._future.done():
            return
        started = self._state == "running"
        if not self._session.is_open and not started:
            self._future.set_result(self._session.closed())
            return
        if started:
            self._state = "overdue"
            self.connection.overdue += 1
        self._future.set_result(CallTimedOut(f"{self.call}: no answer within {self._limit_s:g} s"))
        self._session.suspect(self.connection, started)
