"""Logs and terminals of domains: what stands on the tapes of `controller.consoles`, to those who may see it.

    GET …/namespaces/NS/pods/POD/log, …/domains/NAME/log         as Kubernetes has it: follow, tailLines, …
    GET …/namespaces/NS/pods/POD/attach, …/domains/NAME/console  a WebSocket, v5.channel.k8s.io

Consoles are read by the leader, so it alone answers; any other replica says who that is. To attach is to
type on a terminal on which somebody may be logged in: it takes `create`, whatever the method, and stands in
the audit log. Every write to a client is bounded in size and time; who reads too slowly misses some, and is
told so, and who does not read at all is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import WSMsgType, web

from controller import keys
from controller.api import errors
from controller.api.errors import ApiError
from controller.api.requests import Call, positive
from controller.api.resources import DOMAINS
from controller.consoles import lines
from controller.consoles.desk import Desk
from controller.consoles.tape import Tape
from controller.model import LeaderRecord
from controller.objects import NotFound, Objects, StoredObject
from drivers.errors import HypervisorError
from specs.consoles import ONLY, terminals
from specs.domain import DomainSpec

PROTOCOL: Final = "v5.channel.k8s.io"
CONTAINER: Final = "domain"
PART_BYTES: Final = 32 << 10  # of one write to a client
_PAUSE_S: Final = 0.02  # after each: no client is sent more than 1.6 MB/s
_WRITE_S: Final = 15.0
_LOOK_S: Final = 5.0  # how often a quiet follower looks whether its client is still there
_OPEN_S: Final = 5.0  # for a console that was just asked for
_HEARTBEAT_S: Final = 20.0
_INPUT_BYTES: Final = 64 << 10  # of one message of a client
_STDIN, _STDOUT, _STATUS, _CLOSE = 0, 1, 3, 255  # channels
_MOST: Final = 1 << 60
_FIRST: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LAST: Final = datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What of a log is asked for."""

    follow: bool
    tail: int | None
    since: str
    timestamps: bool
    limit: int


class Consoles:
    """`turn`: what each write to a client waits for."""

    def __init__(self, objects: Objects, desk: Desk, turn: Callable[[], Awaitable[None]]) -> None:
        self._objects = objects
        self._desk = desk
        self._turn = turn
        self.clients = 0  # that follow, or are attached

    async def log(self, call: Call) -> web.StreamResponse:
        """Raises ApiError."""
        if call.request.method != "GET":
            raise errors.method_not_allowed()
        wanted = self._wanted(call.query)
        domain = await self._domain(call)
        name = _named(domain, call.query.get("container", ""), recorded=True)
        await self._must_serve()
        tape = self._desk.find(domain.uid, name)
        if tape is None or not tape.recorded:
            raise errors.unavailable(f"the console of {domain.name} has just been asked for: try again")
        if tape.ring.ends == 0 and tape.console is None and not wanted.follow:
            raise errors.bad_request(f"nothing was recorded of {domain.name} yet: {tape.why}")
        return await self._follow(call, tape, wanted)

    async def attach(self, call: Call) -> web.StreamResponse:
        """Raises ApiError."""
        if call.request.method not in {"GET", "POST"}:  # their verbs are others, which give no right to type
            raise errors.method_not_allowed()
        _refuse_strangers(call.request)
        domain = await self._domain(call)
        name = _named(domain, call.query.get("container", ""), recorded=False)
        await self._must_serve()
        call.stand()  # to wait for a host is no work of ours, and keeps nobody from it
        with self._desk.attaching(domain.uid, name, call.user.name) as tape:
            await self._opened(domain, tape)
            offered = call.request.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
            if call.request.method != "GET" or PROTOCOL not in offered:
                raise errors.bad_request(
                    f"a terminal is a WebSocket of protocol {PROTOCOL}: "
                    "use kubectl 1.30 or newer, or domctl console"
                )
            socket = web.WebSocketResponse(
                protocols=(PROTOCOL,), heartbeat=_HEARTBEAT_S, max_msg_size=_INPUT_BYTES, compress=False
            )
            call.leave()
            await socket.prepare(call.request)
            reads_input = call.query.get("stdin") in {"true", "1"}
            self.clients += 1
            try:
                whole = await _Terminal(socket, tape, self._desk, self._turn).run(reads_input=reads_input)
            finally:
                self.clients -= 1
            if not whole and call.request.transport is not None:
                call.request.transport.abort()
            return socket

    def _wanted(self, query: Mapping[str, str]) -> _Wanted:
        if query.get("previous") in {"true", "1"}:
            raise errors.bad_request(
                "earlier runs are not kept apart: the log of a console goes on when its guest starts again"
            )
        since = query.get("sinceTime", "")
        if since:
            since = _utc(since)
        elif seconds := positive(query, "sinceSeconds", 0):
            now = datetime.datetime.fromisoformat(self._objects.world.wall())
            since = (now - datetime.timedelta(seconds=min(seconds, 10**9))).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _Wanted(
            follow=query.get("follow") in {"true", "1"},
            tail=positive(query, "tailLines", 0) if query.get("tailLines") else None,
            since=since,
            timestamps=query.get("timestamps") in {"true", "1"},
            limit=positive(query, "limitBytes", _MOST),
        )

    async def _domain(self, call: Call) -> StoredObject:
        resource, target = call.resource, call.target
        try:
            domain = await self._objects.get(DOMAINS, target.namespace, resource.key_name(target.name))
        except NotFound:
            raise errors.not_found(call.subject) from None
        shown = resource.pictured(domain)
        if shown.name != target.name or not resource.shows(shown):
            raise errors.not_found(call.subject)
        return domain

    async def _must_serve(self) -> None:
        """Raises ApiError where this process does not read consoles."""
        if self._desk.serving:
            return
        leader = await self._objects.store.get(keys.LEADER)
        if leader is None:
            raise errors.unavailable("nobody leads just now; consoles are read by the leader")
        host = msgspec.json.decode(leader.value, type=LeaderRecord).host
        raise ApiError(
            503,
            "ServiceUnavailable",
            f'consoles are read by the leader alone, which is domctl on host "{host}": ask that one',
        )

    async def _opened(self, domain: StoredObject, tape: Tape) -> None:
        """Until it is. Raises ApiError that says why it is not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OPEN_S):
                while tape.console is None and not tape.gone:
                    await tape.news.wait()
        if tape.console is None:
            said = tape.gone or tape.why
            raise errors.bad_request(f"the console of {domain.name} cannot be opened: {said}")

    async def _follow(self, call: Call, tape: Tape, wanted: _Wanted) -> web.StreamResponse:
        ring, left = tape.ring, wanted.limit
        offset = lines.beginning(ring, tail=wanted.tail, since=wanted.since)
        stamper = lines.Stamper() if wanted.timestamps else None
        last = ring.ends
        call.leave()
        response = web.StreamResponse(
            headers={"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        self.clients += 1
        try:
            while left > 0 and (wanted.follow or offset < last):
                news = tape.news
                offset, data = _part(tape, offset, stamper)
                if data:
                    await self._write(response, data[:left])
                    left -= len(data)
                    await asyncio.sleep(_PAUSE_S if offset < ring.ends else 0)
                elif tape.gone or not self._desk.serving:
                    break
                else:
                    await _either(news)
                    if call.request.transport is None or call.request.transport.is_closing():
                        break
        except (ConnectionError, TimeoutError):
            if call.request.transport is not None:
                call.request.transport.abort()
        finally:
            self.clients -= 1
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        await self._turn()
        async with asyncio.timeout(_WRITE_S):
            await response.write(data)


class _Terminal:
    """One client that is attached: two directions, until either ends."""

    def __init__(
        self, socket: web.WebSocketResponse, tape: Tape, desk: Desk, turn: Callable[[], Awaitable[None]]
    ) -> None:
        self._socket = socket
        self._tape = tape
        self._desk = desk
        self._turn = turn

    async def run(self, *, reads_input: bool) -> bool:
        """False: the client does not read, or has gone without a word."""
        shows = asyncio.create_task(self._show(), name="terminal")
        types = asyncio.create_task(self._type(reads_input), name="keyboard")
        try:
            done, _ = await asyncio.wait((shows, types), return_when=asyncio.FIRST_COMPLETED)
            why = next((str(task.result()) for task in done), "")
        except (ConnectionError, TimeoutError):
            return False
        finally:
            for task in (shows, types):
                task.cancel()
            await asyncio.gather(shows, types, return_exceptions=True)
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._send(_STATUS, msgspec.json.encode(_end(why)))
                await self._socket.close()
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def _show(self) -> str:
        """What comes, until nothing will; why not."""
        tape, offset = self._tape, self._tape.ring.ends
        while True:
            news = tape.news
            offset, data = _part(tape, offset, None)
            if data:
                await self._turn()
                async with asyncio.timeout(_WRITE_S):
                    await self._send(_STDOUT, data)
                await asyncio.sleep(_PAUSE_S if offset < tape.ring.ends else 0)
            elif tape.gone or not self._desk.serving:
                return tape.gone or tape.why
            else:
                await _either(news)

    async def _type(self, reads_input: bool) -> str:
        """What the client types, until it leaves; "" then, else why its input was not taken."""
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STDIN and data and reads_input:
                try:
                    await self._tape.write(data)
                except HypervisorError as error:
                    return f"what was typed did not reach the guest: {error.message}"
            elif channel == _CLOSE and data == bytes([_STDIN]):
                reads_input = False  # it goes on looking
        return ""

    async def _send(self, channel: int, data: bytes) -> None:
        await self._socket.send_bytes(bytes([channel]) + data)


def _part(tape: Tape, offset: int, stamper: lines.Stamper | None) -> tuple[int, bytes]:
    """The next bytes for a reader who is at `offset`, and where he is then."""
    found = bytearray()
    if offset < tape.ring.begins:
        missed = tape.ring.begins - offset
        found += (
            f"\r\n[domctl: {missed} bytes were missed: they came faster than they were taken]\r\n".encode()
        )
    for begins, at, data in tape.ring.pieces(max(offset, tape.ring.begins)):
        found += data if stamper is None else stamper.stamped(data, at)
        offset = begins + len(data)
        if len(found) >= PART_BYTES:
            break
    return offset, bytes(found)


async def _either(news: asyncio.Event) -> None:
    """Until there are news, or for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_S):
            await news.wait()


def _refuse_strangers(request: web.Request) -> None:
    """Browsers open WebSockets for any page, with the client certificate of whoever looks at it, and tell
    only of which page that is. Raises ApiError (403)."""
    origin = request.headers.get("Origin", "")
    if origin and origin.partition("://")[2] != request.host:
        raise ApiError(403, "Forbidden", f"a terminal cannot be opened from {origin[:200]}")


def _named(domain: StoredObject, container: str, *, recorded: bool) -> str:
    """The console that is meant. Raises ApiError, which says what to do."""
    found = terminals(msgspec.convert(domain.body["spec"], DomainSpec))
    name = "" if container == CONTAINER and CONTAINER not in found else container
    about = f'domain "{domain.name}"'
    if not found:
        raise errors.bad_request(
            f"{about} has no console of type pty: add one to spec.serials or spec.consoles, with "
            "record: true to have it recorded; the domain has it from its next start on"
        )
    if name and name not in found:
        raise errors.bad_request(f'{about} has no console "{name}", it has {", ".join(found)}')
    kept = [one for one, is_kept in found.items() if is_kept]
    meant = name or (kept[0] if kept else next(iter(found)))
    if recorded and meant not in kept:
        which = f'console "{meant}" of {about}' if meant != ONLY else f"the console of {about}"
        raise errors.bad_request(
            f"{which} is not recorded: set record: true on it in the spec; "
            f"what it writes from now on is shown by: domctl console {domain.name}"
        )
    return meant


def _utc(text: str) -> str:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.bad_request(
            f"sinceTime must be a time as 2026-01-31T00:00:00Z, is {text[:40]!r}"
        ) from None
    if found.tzinfo is None:
        raise errors.bad_request("sinceTime must name a time zone, as the Z of 2026-01-31T00:00:00Z does")
    # Of years beyond, the text in UTC is not comparable, or cannot be had; nothing was written then.
    return min(max(found, _FIRST), _LAST).astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _end(why: str) -> dict[str, object]:
    """The Status with which a terminal ends."""
    if not why:
        return {"metadata": {}, "status": "Success"}
    return {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": why, "code": 500}
