"""get and list of metrics.k8s.io: the pictures of `controller.api.facade.usage`, with the leader's figures.

Selected, paged and shown by the machinery that reads everything else. A replica that does not lead has no
figures and says who leads (503), rather than that nothing is known.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from aiohttp import web

from controller import keys
from controller.api import errors
from controller.api.errors import ApiError, Subject
from controller.api.facade import usage
from controller.api.reading import Reader
from controller.api.requests import Call
from controller.api.resources import NODE_METRICS, POD_METRICS, Resource
from controller.figures import Board
from controller.model import LeaderRecord
from controller.objects import Objects, StoredObject


class Top:
    def __init__(self, objects: Objects, reader: Reader, board: Board) -> None:
        self._objects = objects
        self._reader = reader
        self._board = board
        self._bound = {
            NODE_METRICS.plural: replace(NODE_METRICS, pictured=self._of_node, shows=usage.is_known),
            POD_METRICS.plural: replace(POD_METRICS, pictured=self._of_pod, shows=usage.is_known),
        }

    async def handle(self, call: Call) -> web.StreamResponse:
        """Raises ApiError."""
        resource = self._bound.get(call.target.plural)
        if resource is None or call.target.subresource:
            raise errors.by_code(404)
        if call.verb not in resource.verbs:
            raise errors.method_not_allowed()
        if not self._board.is_kept:
            raise await self._elsewhere()
        call.target = replace(call.target, resource=resource)
        if call.verb == "list":
            return await self._reader.list(call)
        try:
            return await self._reader.get(call)
        except ApiError as error:
            raise errors.not_found(_subject(resource, call)) if error.code == 404 else error from None

    def _of_node(self, stored: StoredObject) -> StoredObject:
        return usage.of_node(stored, self._board.of(stored.name))

    def _of_pod(self, stored: StoredObject) -> StoredObject:
        return usage.of_pod(stored, self._board.of(usage.node_of(stored)))

    async def _elsewhere(self) -> ApiError:
        """No Retry-After: clients would wait silently."""
        kv = await self._objects.store.get(keys.LEADER)
        try:
            record = None if kv is None else msgspec.json.decode(kv.value, type=LeaderRecord)
        except msgspec.DecodeError:
            record = None
        who = "nobody leads just now" if record is None else f"the one on {record.host} does"
        why = "figures are kept by the replica that leads, and this one does not lead"
        return ApiError(503, "ServiceUnavailable", f"{why}: {who}")


def _subject(resource: Resource, call: Call) -> Subject:
    """As metrics-server has it: nodemetrics, podmetrics with the namespace before the name."""
    target = call.target
    name = f"{target.namespace}/{target.name}" if resource.namespaced else target.name
    return Subject(resource.kind.lower(), name, resource.group)
