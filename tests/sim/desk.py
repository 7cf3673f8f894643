"""The desk of a host's libvirtd: how requests come in, wait, and are answered.

A frozen daemon keeps what its kernel received and serves it when it goes on, whoever sent it and whether or
not they live; one that is starting takes connections and answers later. Lists are not taken at one instant,
and wait while a domain is being launched or destroyed, for libvirtd holds that domain's object meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from drivers.errors import HypervisorError
from tests.sim.connection import MAX_CLIENT_REQUESTS, Answer, Connection, Settle
from tests.sim.definition import refusal

if TYPE_CHECKING:
    from tests.sim.host import SimHost

NO_DOMAIN = 42
LATE = frozenset({"migrate"})  # what may find no worker free, once a daemon goes on
READY_AT_ONCE = frozenset({"open", "alive"})  # what needs no look around the host


class Desk:
    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._held: dict[str, int] = {}  # domains whose objects are locked
        self._waiting: list[tuple[str, Callable[[], None]]] = []  # reads behind them; "" waits for all
        self._kept: list[Callable[[], None]] | None = None  # answers to lists, while they are kept

    def clear(self) -> None:
        """The daemon is gone."""
        self._held.clear()
        self._waiting.clear()
        if self._kept is not None:
            self._kept.clear()

    def keep_lists(self) -> None:
        """From now on a list that was taken is not answered: its worker waits for a processor."""
        self._kept = []

    def let_lists_go(self) -> int:
        """Answer those that were taken, as things stood then; how many there were."""
        kept, self._kept = self._kept or [], None
        for answer in kept:
            answer()
        return len(kept)

    def receive(self, connection: Connection, call: str, arguments: tuple[Any, ...], settle: Settle) -> None:
        """A request reaches the host's kernel."""
        host = self._host
        if call == "open":
            if host.daemon == "down":
                connection.reset()
                return
            connection.accepted_by = host.incarnation
            host.connections[connection] = None
        elif connection.accepted_by != host.incarnation:
            connection.reset()
            return
        if connection.running >= MAX_CLIENT_REQUESTS:
            connection.unread.append(partial(self._take, connection, call, arguments, settle))
        else:
            self._take(connection, call, arguments, settle)

    def _take(self, connection: Connection, call: str, arguments: tuple[Any, ...], settle: Settle) -> None:
        connection.running += 1
        host = self._host
        if host.daemon == "up" or (host.daemon == "starting" and call in READY_AT_ONCE):
            self._serve(connection, call, arguments, settle)
        else:
            host.when_up(partial(self._serve_late, connection, call, arguments, settle))

    def _serve_late(
        self, connection: Connection, call: str, arguments: tuple[Any, ...], settle: Settle
    ) -> None:
        """What was kept. What changes something waits for a worker that is free, behind those that come again
        to hosts that had been away; reads go on at once."""
        late_s = self._host.seconds(self._host.temper.late_s) if call in LATE else 0.0
        serve = partial(self._serve, connection, call, arguments, settle)
        if late_s <= 0:
            serve()
            return
        incarnation = self._host.incarnation

        def at_last() -> None:
            if self._host.incarnation == incarnation:
                self._host.when_up(serve)

        asyncio.get_running_loop().call_later(late_s, at_last)

    def _serve(self, connection: Connection, call: str, arguments: tuple[Any, ...], settle: Settle) -> None:
        reply = partial(self._reply, connection, settle)
        if call in READY_AT_ONCE:
            self._send(connection, settle, None)
        elif call == "list":
            self._unheld("", partial(self._list, reply))
        elif call == "lookup":
            self._unheld(arguments[0], partial(self._lookup, arguments[0], reply))
        elif call == "detail":
            self._unheld(arguments[0], partial(self._detail, arguments[0], reply))
        elif call == "facts":
            reply(self._host.facts(*arguments))
        else:
            self._host.run(self._carry_out(call, arguments, connection.client, reply))

    def _reply(self, connection: Connection, settle: Settle, answer: Answer) -> None:
        if self._host.daemon == "up":
            self._send(connection, settle, answer)
        else:
            self._host.when_up(partial(self._send, connection, settle, answer))

    def _send(self, connection: Connection, settle: Settle, answer: Answer) -> None:
        connection.running -= 1
        connection.answer(settle, answer)
        if connection.unread:
            connection.unread.popleft()()

    async def ask(self, call: str, arguments: tuple[Any, ...], by: str) -> Answer:
        """On the host itself, without a network: an answer, or the error as a value. Waits while the daemon
        is frozen or starting; for a caller that bounds it."""
        host = self._host
        if host.daemon == "down":
            return refusal(38, "Failed to connect socket to '/run/libvirt/libvirt-sock'", origin=7)
        came: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        incarnation = host.incarnation

        def reply(answer: Answer) -> None:
            if not came.done():
                came.set_result(answer)

        def lost(what: str) -> None:
            if host.incarnation != incarnation:
                reply(refusal(38, "End of file while reading data", origin=7))

        host.broken[came] = lost
        host.when_up(lambda: host.run(self._carry_out(call, arguments, by, reply)))
        try:
            return await came
        finally:
            host.broken.pop(came, None)

    async def _carry_out(
        self, call: str, arguments: tuple[Any, ...], by: str, reply: Callable[[Answer], None]
    ) -> None:
        answer: Answer = None
        try:
            answer = await self._host.operations.do(call, arguments, by)
        except HypervisorError as error:
            answer = error.with_traceback(None)
        reply(answer)

    # --- reads

    def hold(self, uuid: str) -> None:
        """Until `let_go` nobody can look at this domain."""
        self._held[uuid] = self._held.get(uuid, 0) + 1

    def let_go(self, uuid: str) -> None:
        if uuid not in self._held:
            return  # the daemon was killed meanwhile
        self._held[uuid] -= 1
        if self._held[uuid]:
            return
        del self._held[uuid]
        waiting, self._waiting = self._waiting, []
        for what, read in waiting:
            self._unheld(what, read)

    def _unheld(self, uuid: str, read: Callable[[], None]) -> None:
        if self._held and (not uuid or uuid in self._held):
            self._waiting.append((uuid, read))
        elif self._host.daemon == "up":
            read()
        else:
            self._host.when_up(partial(self._unheld, uuid, read))

    def _list(self, reply: Callable[[Answer], None]) -> None:
        """Records at one instant, or the first few at one and the others a little later."""
        host = self._host
        domains = list(host.domains.values())
        if self._kept is not None:
            self._kept.append(partial(reply, tuple(domain.record for domain in domains)))
            return
        if not domains or host.rng.random() >= host.temper.torn_list:
            reply(tuple(domain.record for domain in domains))
            return
        early = {domain.uuid: domain.record for domain in domains[: host.rng.randrange(len(domains)) + 1]}
        incarnation = host.incarnation

        def rest() -> None:
            if host.incarnation != incarnation:
                return
            late = [domain.record for domain in host.domains.values() if domain.uuid not in early]
            reply((*early.values(), *late))

        wait_s = host.rng.uniform(*host.temper.torn_list_s)
        asyncio.get_running_loop().call_later(wait_s, host.when_up, lambda: self._unheld("", rest))

    def _lookup(self, uuid: str, reply: Callable[[Answer], None]) -> None:
        reply(None if uuid in self._host.domains else no_domain(uuid))

    def _detail(self, uuid: str, reply: Callable[[Answer], None]) -> None:
        domain = self._host.domains.get(uuid)
        reply(no_domain(uuid) if domain is None else domain.detail())


def no_domain(uuid: str) -> HypervisorError:
    return refusal(NO_DOMAIN, f"Domain not found: no domain with matching uuid '{uuid}'")
