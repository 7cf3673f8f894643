"""get and list: any resource, as JSON or as a Table, paged at one revision.

A list is read page by page, and what begins a watch is too; after each slice the loop is given back, so that
reading everything never holds up other requests. How it is sent is in `controller.api.lists`. `continue`
names the revision and the last key read, and goes on by seeking there; when that revision is compacted the
client is told to list again (410).
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web

from controller.api import errors, selectors, tables
from controller.api.lists import ListAnswer
from controller.api.requests import Call, Form, form_of, json_response, positive
from controller.api.resources import Resource
from controller.objects import Body, Objects, StoredObject
from drivers.errors import Compacted

PAGE: Final = 500
STREAM_PAGE: Final = 100  # for who is told what is read as it is read
_SLICE: Final = 50  # objects read, and encoded, before others get a turn


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next page begins."""

    revision: int
    after: str


def encode_position(position: Position) -> str:
    # json and not msgspec: a key need not be text, and its surrogates survive there.
    raw = json.dumps({"v": 1, "rv": position.revision, "start": position.after})
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def decode_position(token: str, prefix: str) -> Position:
    """Raises ApiError 400. A token made for another collection is refused: it would be a way around."""
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        position = Position(int(raw["rv"]), str(raw["start"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise errors.bad_request("continue key is not valid") from None
    if not position.after.startswith(prefix) or position.revision <= 0:
        raise errors.bad_request("continue key is not valid")
    return position


def shown(resource: Resource, stored: StoredObject) -> Body:
    """What was read by this resource, as it is served."""
    if stored.body.get("apiVersion") == resource.api_version:
        return stored.body
    return {**stored.body, "apiVersion": resource.api_version}


def sees(resource: Resource, selector: selectors.Selector, stored: StoredObject) -> bool:
    """Whether somebody who asks with this selector is to see it."""
    return resource.shows(stored) and selector.matches(stored.body)


def answered(resource: Resource, stored: StoredObject) -> Body:
    """What was written, as this resource serves it."""
    return shown(resource, resource.pictured(stored))


def instant(wall: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(wall)


@dataclass(slots=True)
class Scan:
    """A list under way. `limit` 0: no limit. `page`: how many are read of the store at once."""

    resource: Resource
    namespace: str
    selector: selectors.Selector
    limit: int
    position: Position | None = None
    revision: int = 0
    next: Position | None = None
    page: int = field(default_factory=lambda: PAGE)


@dataclass(frozen=True, slots=True)
class Shape:
    """How one object is shown in a list. `include` is the request's includeObject, of a Table."""

    form: Form
    include: str

    def item(self, resource: Resource, body: Body, now: datetime.datetime) -> Body:
        if self.form == "table":
            return tables.row(resource, body, now, self.include)
        return tables.partial(body) if self.form == "partial" else body


def _listed(resource: Resource, form: Form) -> tuple[Body, str]:
    """The list that objects stand in, and in which of its fields."""
    if form == "table":
        return tables.table(tables.definitions(resource), [], {}), "rows"
    kind, version = f"{resource.kind}List", resource.api_version
    if form == "partial":
        kind, version = "PartialObjectMetadataList", tables.META
    return {"apiVersion": version, "kind": kind, "metadata": {}, "items": []}, "items"


async def _yield() -> None:
    await asyncio.sleep(0)


class Reader:
    """`turn`: what is waited for between slices, so that others come in between."""

    def __init__(self, objects: Objects, turn: Callable[[], Awaitable[None]] = _yield) -> None:
        self._objects = objects
        self._turn = turn

    async def get(self, call: Call) -> web.Response:
        resource, target = call.resource, call.target
        kv = await self._objects.store.get(resource.key(target.namespace, target.name))
        if kv is None:
            raise errors.not_found(call.subject)
        stored = self._objects.note(resource.read(kv))
        if stored.problem:
            raise errors.ApiError(
                500,
                "InternalError",
                f'{call.subject} "{target.name}" cannot be read ({stored.problem}); it is left as it is',
            )
        if stored.name != target.name or not resource.shows(stored):
            raise errors.not_found(call.subject)
        body = shown(resource, stored)
        form = form_of(call.request)
        if form == "whole":
            return json_response(body)
        if form == "partial":
            return json_response(tables.partial(body))
        now = instant(self._objects.world.wall())
        rows = [tables.row(resource, body, now, call.query.get("includeObject", "Metadata"))]
        version = {"resourceVersion": str(stored.revision)}
        return json_response(tables.table(tables.definitions(resource), rows, version))

    async def list(self, call: Call) -> web.StreamResponse:
        resource, form = call.resource, form_of(call.request)
        selector = selectors.parse(
            call.query.get("labelSelector", ""), call.query.get("fieldSelector", ""), resource.fields
        )
        scan = Scan(resource, call.target.namespace, selector, positive(call.query, "limit", 0))
        token = call.query.get("continue", "")
        scan.position = decode_position(token, resource.scope(scan.namespace)) if token else None
        if not token and call.query.get("resourceVersionMatch") == "Exact":
            scan.position = Position(positive(call.query, "resourceVersion", 0), "")
        answer = ListAnswer(call, *_listed(resource, form))
        try:
            await self._fill(answer, scan, Shape(form, call.query.get("includeObject", "Metadata")))
            metadata = {"resourceVersion": str(scan.revision)}
            if scan.next is not None:
                metadata["continue"] = encode_position(scan.next)
            return await answer.end(metadata)
        except Compacted as error:
            if answer.in_parts:
                return answer.cut(error)
            raise errors.expired(
                "The provided continue parameter is too old to display a consistent list result. "
                "You must start a new list without the continue parameter."
            ) from None
        except Exception as error:  # a second answer cannot be given
            if answer.in_parts:
                return answer.cut(error)
            raise

    async def _fill(self, answer: ListAnswer, scan: Scan, shape: Shape) -> None:
        now = instant(self._objects.world.wall())
        async with aclosing(self.slices(scan)) as slices:
            async for found in slices:
                shapes = [shape.item(scan.resource, shown(scan.resource, one), now) for one in found]
                await answer.add([msgspec.json.encode(one) for one in shapes])
                if answer.in_parts:  # what was read and is not sent is in memory until the client takes it
                    scan.page = STREAM_PAGE

    async def all(self, resource: Resource, namespace: str, selector: selectors.Selector) -> _Everything:
        """Everything that matches, and the revision at which it was read. For few objects."""
        scan = Scan(resource, namespace, selector, 0)
        found = [stored async for part in self.slices(scan) for stored in part]
        return _Everything(found, scan.revision)

    async def slices(self, scan: Scan) -> AsyncGenerator[Sequence[StoredObject], None]:
        """Yield what matches, slice by slice; `scan` tells the revision from the first on, and in the end the
        next page. Raises Compacted, StoreError."""
        wanted = scan.limit
        prefix = scan.resource.scope(scan.namespace)
        after, revision = ("", 0) if scan.position is None else (scan.position.after, scan.position.revision)
        exact = self._exact_key(scan)
        while True:
            size = min(scan.page, wanted) if scan.limit and scan.selector.matches_all else scan.page
            page = await self._objects.store.page(
                exact or prefix, after=after, limit=1 if exact else size, revision=revision
            )
            revision = scan.revision = page.revision
            matching: list[StoredObject] = []
            for number, kv in enumerate(page.items):
                if number % _SLICE == 0:  # whatever of them matches
                    await self._turn()
                after = kv.key
                if exact and kv.key != exact:
                    return
                stored = self._objects.note(scan.resource.read(kv))
                if stored.problem or not sees(scan.resource, scan.selector, stored):
                    continue
                matching.append(stored)
                if scan.limit and len(matching) == wanted:
                    break
                if len(matching) == _SLICE:
                    yield matching
                    wanted -= len(matching)
                    matching = []
            if matching:
                yield matching
                wanted -= len(matching)
            last_read = bool(page.items) and after == page.items[-1].key
            if exact or (last_read and not page.more) or not page.items:
                return
            if scan.limit and wanted <= 0:
                scan.next = Position(revision, after)
                return

    def _exact_key(self, scan: Scan) -> str:
        """When a selector names one object, its key: `kubectl wait` and `get -w NAME` need no scan."""
        name = scan.selector.name
        namespace = scan.namespace or scan.selector.namespace
        if not name or "/" in name or "/" in namespace or (scan.resource.namespaced and not namespace):
            return ""
        return scan.resource.key(namespace, name)


@dataclass(frozen=True, slots=True)
class _Everything:
    items: list[StoredObject]
    revision: int
