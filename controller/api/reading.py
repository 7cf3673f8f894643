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
from typing import Any, Final

import msgspec
from aiohttp import web

from controller.api import errors, listoptions, selectors, tables
from controller.api.accepting import Form, form_of, include_of
from controller.api.lists import ListAnswer
from controller.api.requests import Call, json_response, positive
from controller.api.resources import Resource
from controller.objects import Body, Objects, StoredObject
from drivers.errors import Compacted

PAGE: Final = 500
STREAM_PAGE: Final = 100  # for who is told what is read as it is read
MAX_REVISION: Final = 2**63  # of a store; revisions are smaller
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
    """Raises ApiError 400. A token made for another collection is refused: it would be a way around. So is
    one that nobody made: what is no revision, or no key, no store could read."""
    try:
        raw = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        revision, after = raw["rv"], raw["start"]
        after.encode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise errors.bad_request("continue key is not valid") from None
    if type(revision) is not int or not 0 < revision < MAX_REVISION or not after.startswith(prefix):
        raise errors.bad_request("continue key is not valid")
    return Position(revision, after)


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


def formed(call: Call, body: Body, wall: str) -> Body:
    """One object, read or written, in the form that is asked for; a Status is itself in every form."""
    form = form_of(call.request)
    if form == "whole" or body.get("kind") == "Status":
        return body
    if form == "partial":
        return tables.partial(body)
    resource, version = call.resource, body["metadata"].get("resourceVersion", "")
    row = tables.row(resource, body, instant(wall), include_of(call, form))
    return tables.table(tables.definitions(resource), [row], {"resourceVersion": version})


def instant(wall: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(wall)


@dataclass(slots=True)
class Scan:
    """A list under way. `limit` 0: no limit. `page`: how many are read of the store at once. `least`: the
    revision that the store must have reached. `pinned`: the one that is asked for, and no other. In the end
    there are `next`, where the next page begins, and `remaining`, how many follow; None: nobody knows."""

    resource: Resource
    namespace: str
    selector: selectors.Selector
    limit: int
    position: Position | None = None
    revision: int = 0
    next: Position | None = None
    page: int = field(default_factory=lambda: PAGE)
    least: int = 0
    pinned: int = 0
    remaining: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Of a list that ends here, as clients read it."""
        found: dict[str, Any] = {"resourceVersion": str(self.revision)}
        if self.next is not None:
            found["continue"] = encode_position(self.next)
            if self.remaining is not None:
                found["remainingItemCount"] = self.remaining
        return found


def scan_of(call: Call) -> Scan:
    """What a list, or the deletion of a collection, is to go over. Raises ApiError (400, 422)."""
    resource, query = call.resource, call.query
    selector = selectors.parse(
        query.get("labelSelector", ""), query.get("fieldSelector", ""), resource.fields
    )
    options = listoptions.of_list(query)
    scan = Scan(resource, call.target.namespace, selector, options.limit)
    if options.token:
        scan.position = decode_position(options.token, resource.scope(scan.namespace))
    elif options.exact:
        scan.pinned, scan.position = options.revision, Position(options.revision, "")
    else:
        scan.least = options.revision
    return scan


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
        least = positive(call.query, "resourceVersion", 0)
        kv = await self._objects.store.get(resource.key(target.namespace, target.name))
        if least > (0 if kv is None else kv.mod_revision):
            current = await self._newest(resource)
            if least > current:
                raise errors.not_reached(least, current)
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
        return json_response(formed(call, shown(resource, stored), self._objects.world.wall()))

    async def list(self, call: Call) -> web.StreamResponse:
        form = form_of(call.request)
        scan = scan_of(call)
        answer = ListAnswer(call, *_listed(call.resource, form))
        try:
            await self._fill(answer, scan, Shape(form, include_of(call, form)))
            return await answer.end(scan.metadata)
        except Compacted as error:
            if answer.in_parts:
                return answer.cut(error)
            raise await self.gone(scan) from None
        except Exception as error:  # a second answer cannot be given
            if answer.in_parts:
                return answer.cut(error)
            raise

    async def gone(self, scan: Scan) -> errors.ApiError:
        """Why there is no page of this scan. Stores say of a revision that they have not reached, too, that
        it cannot be had."""
        if scan.pinned and (current := await self._newest(scan.resource)) < scan.pinned:
            return errors.not_reached(scan.pinned, current)
        return errors.expired(
            "The provided continue parameter is too old to display a consistent list result. "
            "You must start a new list without the continue parameter."
        )

    async def _newest(self, resource: Resource) -> int:
        """The store's revision."""
        return (await self._objects.store.page(resource.prefix, limit=1)).revision

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
        next page. Raises Compacted, StoreError, ApiError (504)."""
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
            if revision < scan.least:
                raise errors.not_reached(scan.least, revision)
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
                if scan.selector.matches_all and scan.resource.shows_all:
                    scan.remaining = page.remaining + sum(kv.key > after for kv in page.items)
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
