"""A watch as its client sees it: newline-delimited JSON events, Tables if wanted, bookmarks, an end.

`controller.api.watch` brings the events; here they are filtered for one client, put into its form, and
written. What comes into a selector's view is ADDED, what leaves it is DELETED, as Kubernetes has it.
Writes are bounded in time, so a client that never reads is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors, selectors, tables
from controller.api.reading import Reader, instant, sees, shown
from controller.api.requests import Call, positive, wants_table
from controller.api.resources import Resource
from controller.api.selectors import Selector
from controller.api.watch import Event, Hub
from controller.objects import Body, Objects, StoredObject
from drivers.errors import StoreError

log = logging.getLogger(__name__)

BOOKMARK_S: Final = 30.0
_LOOK_S: Final = 5.0  # how often a quiet watch looks whether its client is still there
_DEFAULT_TIMEOUT_S: Final = 1800
_MAX_TIMEOUT_S: Final = 3600
_WRITE_TIMEOUT_S: Final = 15.0
_BATCH: Final = 100  # events written at once


@dataclass(frozen=True, slots=True)
class _View:
    """What one client wants to see, and in which form."""

    resource: Resource
    scope: str
    selector: Selector
    table: bool
    include: str

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
        return [("DELETED", now)] if matched else []

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
        timeout_s = min(positive(query, "timeoutSeconds", _DEFAULT_TIMEOUT_S), _MAX_TIMEOUT_S)
        after = positive(query, "resourceVersion", 0)
        initial: list[StoredObject] | None = None
        if query.get("sendInitialEvents") == "true" or after == 0:
            everything = await self._reader.all(view.resource, call.target.namespace, view.selector)
            initial, after = everything.items, everything.revision
        await hub.begin(after)
        call.leave()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        writer = _Writer(self._objects, view, response, self._turn)
        await response.prepare(call.request)
        try:
            async with asyncio.timeout(timeout_s):
                await self._stream(call, hub, writer, initial, after)
        except TimeoutError:
            pass  # the client's own limit: it watches again from where it is
        except errors.ApiError as error:
            await writer.error(error)
        except StoreError as error:
            log.warning("a watch ended", extra={"error": error.message})
            await writer.error(errors.unavailable("the store does not answer"))
        except (ConnectionError, _TooSlow):
            if call.request.transport is not None:
                call.request.transport.abort()
        return response

    async def _stream(
        self, call: Call, hub: Hub, writer: _Writer, initial: list[StoredObject] | None, after: int
    ) -> None:
        bookmarks = call.query.get("allowWatchBookmarks") in {"true", "1"}
        if initial is not None:
            await writer.initial(initial)
            if bookmarks and call.query.get("sendInitialEvents") == "true":
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
                batch = await subscription.next(_LOOK_S)
                if batch:
                    await writer.events(batch)
                due = bookmarks and self._objects.world.now() >= bookmark_at
                # With an empty queue all up to the hub's revision has been written or was not for us.
                if due and not subscription.queue and hub.revision > after:
                    after = hub.revision
                    await writer.bookmark(after)
                    bookmark_at = self._objects.world.now() + BOOKMARK_S
        finally:
            hub.detach(subscription)

    def _view(self, call: Call) -> _View:
        resource, target = call.resource, call.target
        fields = call.query.get("fieldSelector", "")
        if target.name:
            fields = ",".join(filter(None, (fields, f"metadata.name={target.name}")))
        selector = selectors.parse(call.query.get("labelSelector", ""), fields, resource.fields)
        return _View(
            resource,
            resource.scope(target.namespace),
            selector,
            wants_table(call.request),
            call.query.get("includeObject", "Metadata"),
        )


class _TooSlow(Exception):
    """The client did not take what was sent in time."""


class _Writer:
    """Puts events into the client's form and writes them."""

    def __init__(
        self,
        objects: Objects,
        view: _View,
        response: web.StreamResponse,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._turn = turn
        self._world = objects.world
        self._objects = objects
        self._view = view
        self._response = response
        self._columns: list[dict[str, Any]] | None = tables.definitions(view.resource)

    async def initial(self, found: list[StoredObject]) -> None:
        for start in range(0, len(found), _BATCH):
            part = found[start : start + _BATCH]
            await self._turn()
            await self._write([self._form("ADDED", shown(self._view.resource, one)) for one in part])

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
        if self._view.table:
            body = tables.table([], [], {"resourceVersion": str(revision)})
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
        form = (kind, view.table, view.include)
        first_table = view.table and self._columns is not None
        if not first_table and (line := event.encoded.get(form)) is not None:
            return line
        line = self._form(kind, self._body(event, stored))
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

    def _form(self, kind: str, body: Body) -> bytes:
        if not self._view.table:
            return _encode(kind, body)
        now = instant(self._world.wall())
        row = tables.row(self._view.resource, body, now, self._view.include)
        # Only the first event carries the columns; clients remember them.
        columns, self._columns = self._columns or [], None
        version = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        return _encode(kind, tables.table(columns, [row], version))

    async def _write(self, lines: list[bytes]) -> None:
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._response.write(b"".join(lines))
        except TimeoutError:
            raise _TooSlow from None


def _has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _encode(kind: str, body: Body) -> bytes:
    return msgspec.json.encode({"type": kind, "object": body}) + b"\n"
