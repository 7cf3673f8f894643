"""A watch as its client sees it: newline-delimited JSON events, Tables if wanted, bookmarks, an end.

`controller.api.watch` brings the events; here they are filtered for one client, put into its form, and
written. What comes into a selector's view is ADDED, what leaves it is DELETED, as Kubernetes has it.
Clients with the same view are written the same bytes, made once; what a watch begins with is sent as it is
read. Writes are bounded in time and in what waits for them, so a client that never reads is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors, listoptions, selectors, tables
from controller.api.accepting import Form, form_of, include_of
from controller.api.listoptions import ListOptions
from controller.api.reading import STREAM_PAGE, Reader, Scan, instant, sees, shown
from controller.api.requests import Call, positive
from controller.api.resources import Resource
from controller.api.selectors import Selector
from controller.api.watch import Batch, Event, Hub
from controller.objects import Body, Objects, StoredObject
from drivers.errors import Compacted, StoreError

log = logging.getLogger(__name__)

BOOKMARK_S: Final = 30.0
_DEFAULT_TIMEOUT_S: Final = 1800
_MAX_TIMEOUT_S: Final = 3600
_WRITE_TIMEOUT_S: Final = 15.0
_BATCH: Final = 100  # lines written at once
_BUFFER_BYTES: Final = 64 << 10  # that wait for one client before its watch waits, too


@dataclass(frozen=True, slots=True)
class _View:
    """What one client wants to see, and in which form."""

    resource: Resource
    scope: str
    selector: Selector
    form: Form
    include: str
    key: tuple[str, ...]  # the same for all who are to be told the same

    def verdicts(self, event: Event) -> list[tuple[str, StoredObject | None]]:
        """The types of the events for this client, and the objects to show (None: a stub)."""
        before, now = event.before, event.now
        if not event.key.startswith(self.scope) or (now is not None and now.problem):
            return []
        if now is None:
            if before is None or before.problem:
                return [("DELETED", None)]
            return [("DELETED", before)] if self._sees(before) else []
        matches = self._sees(now)
        if event.created:
            return [("ADDED", now)] if matches else []
        if before is not None and before.problem:
            return [("MODIFIED", now)] if matches else []
        # Without its predecessor an object may have been in view: saying so too often does no harm.
        matched = before is None or self._sees(before)
        if before is not None and before.name != now.name:  # two pictures of one object
            return [
                *([("DELETED", before)] if matched else []),
                *([("ADDED", now)] if matches else []),
            ]
        if matches:
            return [("MODIFIED" if matched else "ADDED", now)]
        return [("DELETED", before or now)] if matched else []  # as it was when it was last in view

    def _sees(self, stored: StoredObject) -> bool:
        return sees(self.resource, self.selector, stored)


class Streamer:
    """`turn`: what each write to a client waits for, so that a thousand of them leave room for others."""

    def __init__(
        self,
        objects: Objects,
        reader: Reader,
        hubs: dict[tuple[str, str], Hub],
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._objects = objects
        self._reader = reader
        self._hubs = hubs
        self._turn = turn

    async def watch(self, call: Call) -> web.StreamResponse:
        view = self._view(call)
        hub = self._hubs[view.resource.group, view.resource.plural]
        query = call.query
        # 0 is what is said by who says nothing, as on Kubernetes.
        timeout_s = min(positive(query, "timeoutSeconds", 0) or _DEFAULT_TIMEOUT_S, _MAX_TIMEOUT_S)
        options = listoptions.of_watch(query)
        after, initial = options.revision, None
        if options.initial or (options.initial is None and after == 0):
            initial = await self._initial(view, call.target.namespace, after)
            after = initial.scan.revision
        elif after == 0:
            after = (await self._objects.store.page(view.resource.prefix, limit=1)).revision
        await hub.begin(after)
        call.leave()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        writer = _Writer(self._objects, view, call.request, response, self._turn)
        await response.prepare(call.request)
        if call.request.transport is not None:
            call.request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        try:
            async with asyncio.timeout(timeout_s):
                await self._stream(call, hub, writer, _Begin(initial, after, options))
        except TimeoutError:
            pass  # the client's own limit: it watches again from where it is
        except errors.ApiError as error:
            await writer.error(error)
        except Compacted:
            await writer.error(errors.expired("what the watch begins with was compacted: list again"))
        except StoreError as error:
            log.warning("a watch ended", extra={"error": error.message})
            await writer.error(errors.unavailable("the store does not answer"))
        except (ConnectionError, _TooSlow):
            if call.request.transport is not None:
                call.request.transport.abort()
        finally:
            if initial is not None:
                await initial.slices.aclose()
        return response

    async def _initial(self, view: _View, namespace: str, least: int) -> _Initial:
        """What the watch begins with, of which the first part is read, so that failures are told as such."""
        scan = Scan(view.resource, namespace, view.selector, 0, page=STREAM_PAGE, least=least)
        slices = self._reader.slices(scan)
        return _Initial(scan, await anext(slices, []), slices)

    async def _stream(self, call: Call, hub: Hub, writer: _Writer, begin: _Begin) -> None:
        initial, after, bookmarks = begin.initial, begin.after, begin.options.bookmarks
        if initial is not None:
            await writer.initial(initial.first)
            async for part in initial.slices:
                await writer.initial(part)
            if bookmarks and begin.options.initial:
                await writer.bookmark(after, initial_end=True)
        while not hub.reaches(after):
            async with aclosing(hub.catch_up(after)) as missed:
                async for events, revision in missed:
                    await writer.events(events)
                    after = revision
                    if hub.reaches(after):
                        break
        subscription = hub.attach(after)
        try:
            bookmark_at = self._objects.world.now() + BOOKMARK_S
            while not _has_gone(call.request):
                if await subscription.wait():
                    await self._turn()
                    await writer.batch(subscription.take(), hub)
                due = bookmarks and self._objects.world.now() >= bookmark_at
                # Then all up to the hub's revision has been written or was not for us.
                if due and subscription.is_current and hub.revision > after:
                    after = hub.revision
                    await writer.bookmark(after)
                    bookmark_at = self._objects.world.now() + BOOKMARK_S
        finally:
            hub.detach(subscription)

    def _view(self, call: Call) -> _View:
        resource, target = call.resource, call.target
        fields = call.query.get("fieldSelector", "")
        labels = call.query.get("labelSelector", "")
        selector = selectors.parse(labels, fields, resource.fields)
        scope, form = resource.scope(target.namespace), form_of(call.request)
        include = include_of(call, form)
        return _View(resource, scope, selector, form, include, (scope, labels, fields, form, include))


@dataclass(frozen=True, slots=True)
class _Initial:
    scan: Scan
    first: Sequence[StoredObject]
    slices: AsyncGenerator[Sequence[StoredObject], None]


@dataclass(frozen=True, slots=True)
class _Begin:
    """`after`: the revision that its client has seen, or is told to begin with."""

    initial: _Initial | None
    after: int
    options: ListOptions


class _TooSlow(Exception):
    """The client did not take what was sent in time."""


class _Writer:
    """Puts events into the client's form and writes them."""

    def __init__(
        self,
        objects: Objects,
        view: _View,
        request: web.Request,
        response: web.StreamResponse,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._turn = turn
        self._world = objects.world
        self._objects = objects
        self._view = view
        self._request = request
        self._response = response
        self._columns: list[dict[str, Any]] | None = tables.definitions(view.resource)

    async def initial(self, found: Sequence[StoredObject]) -> None:
        await self._turn()
        await self._write([self._shaped("ADDED", shown(self._view.resource, one)) for one in found])

    async def batch(self, batch: Batch, hub: Hub) -> None:
        """What the hub has published, as others with this view are told it, too."""
        if self._view.form == "table" and self._columns is not None:
            await self.events(batch.events)
            return
        key = (self._view.key, batch.start, batch.end)
        frame = hub.frames.get(key)
        if frame is None:
            frame = hub.frames.keep(key, b"".join([b"".join(self._lines(e)) for e in batch.events]))
        if frame:
            await self._write([frame])

    async def events(self, events: Iterable[Event]) -> None:
        lines: list[bytes] = []
        await self._turn()
        for event in events:
            lines += self._lines(event)
            if len(lines) >= _BATCH:
                await self._write(lines)
                await self._turn()
                lines = []
        if lines:
            await self._write(lines)

    async def bookmark(self, revision: int, *, initial_end: bool = False) -> None:
        metadata: Body = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = self._view.resource
        body: Body = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        if self._view.form == "table":
            # A row like any other, which always has what says that the initial events have ended. Columns
            # are told with the first object all the same: a client may pass bookmarks over.
            include = "Metadata" if initial_end and self._view.include == "None" else self._view.include
            row = tables.row(resource, body, instant(self._world.wall()), include)
            body = tables.table(self._columns or [], [row], {"resourceVersion": str(revision)})
        if self._view.form == "partial":
            body = tables.partial(body)
        await self._write([_encode("BOOKMARK", body)])

    async def error(self, error: errors.ApiError) -> None:
        try:
            await self._write([_encode("ERROR", error.status())])
        except (ConnectionError, _TooSlow):
            return  # it has gone, or does not listen

    def _lines(self, event: Event) -> list[bytes]:
        verdicts = self._view.verdicts(event)
        if event.now is not None:
            self._objects.note(event.now)
        return [self._line(event, kind, stored) for kind, stored in verdicts]

    def _line(self, event: Event, kind: str, stored: StoredObject | None) -> bytes:
        view = self._view
        form = (kind, view.form, view.include)
        first_table = view.form == "table" and self._columns is not None
        if not first_table and (line := event.encoded.get(form)) is not None:
            return line
        line = self._shaped(kind, self._body(event, stored))
        if not first_table:
            event.encoded[form] = line
        return line

    def _body(self, event: Event, stored: StoredObject | None) -> Body:
        """The object at the event's revision; one that was deleted in its last known form."""
        resource = self._view.resource
        if stored is None:
            rest = event.key.removeprefix(resource.prefix)
            # A key need not be text; what stands in JSON must.
            namespace, _, name = rest.encode(errors="replace").decode().rpartition("/")
            metadata: Body = {"name": name, "resourceVersion": str(event.revision)}
            if namespace:
                metadata["namespace"] = namespace
            return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        body = shown(resource, stored)
        if stored.revision == event.revision:
            return body
        return {**body, "metadata": {**body["metadata"], "resourceVersion": str(event.revision)}}

    def _shaped(self, kind: str, body: Body) -> bytes:
        if self._view.form == "whole":
            return _encode(kind, body)
        if self._view.form == "partial":
            return _encode(kind, tables.partial(body))
        now = instant(self._world.wall())
        row = tables.row(self._view.resource, body, now, self._view.include)
        # Only the first event carries the columns; clients remember them.
        columns, self._columns = self._columns or [], None
        version = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        return _encode(kind, tables.table(columns, [row], version))

    async def _write(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        # What fits beside nothing that waits is not waited for: a timer for each costs more than the write.
        transport = self._request.transport
        nothing_waits = transport is not None and transport.get_write_buffer_size() == 0
        if nothing_waits and len(data) <= _BUFFER_BYTES:
            await self._response.write(data)
            return
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._response.write(data)
        except TimeoutError:
            raise _TooSlow from None


def _has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _encode(kind: str, body: Body) -> bytes:
    return msgspec.json.encode({"type": kind, "object": body}) + b"\n"
