"""What may not be deleted yet: a Node that domains may be on, a namespace that has anything in it.

Asked before an object is marked or removed, in dry runs too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import msgspec

from controller import keys
from controller.api import errors
from controller.api.errors import Subject
from controller.api.facade.namespaces import Namespaces
from controller.model import Assignment
from controller.objects import Objects, StoredObject
from drivers.store import KeyValue

_NAMED: Final = 5
_PAGE: Final = 500  # assignments, which are looked through in some milliseconds


class Deletable:
    """`check` raises ApiError (403, 409), which says what is in the way."""

    def __init__(self, objects: Objects, namespaces: Namespaces) -> None:
        self._objects = objects
        self._namespaces = namespaces
        self._checks: Mapping[str, Callable[[StoredObject, Subject], Awaitable[None]]] = {
            "Node": self._check_node,
            "Namespace": self._check_namespace,
        }

    async def check(self, kind: str, current: StoredObject, subject: Subject) -> None:
        check = self._checks.get(kind)
        if check is not None:
            await check(current, subject)

    async def _check_node(self, current: StoredObject, subject: Subject) -> None:
        """A Node stays while anything may be on it. The leader looks again before it takes the finalizer
        away, and assigns nothing to a Node that is being deleted; it is the only one that assigns."""
        node = current.name
        holders: list[str] = []
        async for kv in self._assignments():
            try:
                record = msgspec.json.decode(kv.value, type=Assignment)
            except msgspec.DecodeError:
                raise errors.conflict(subject, f"{kv.key} cannot be read, so it may name it") from None
            if node in record.candidates or record.node == node:
                holders.append(f"{record.namespace}/{record.name}")
        if holders:
            more = len(holders) - _NAMED
            listed = ", ".join(sorted(holders)[:_NAMED]) + (f" and {more} more" if more > 0 else "")
            raise errors.conflict(
                subject,
                f"domains may still be on it: {listed}; delete or move them first, or if the node is off for "
                f"good, run 'domctl node confirm-dead {node}'",
            )

    async def _assignments(self) -> AsyncIterator[KeyValue]:
        """All of them at one revision, and the loop given back now and then: there may be very many."""
        after, revision = "", 0
        while True:
            page = await self._objects.store.page(
                keys.ASSIGNMENTS, after=after, limit=_PAGE, revision=revision
            )
            revision = page.revision
            for kv in page.items:
                yield kv
            if not page.more:
                return
            after = page.items[-1].key
            await asyncio.sleep(0)

    async def _check_namespace(self, current: StoredObject, subject: Subject) -> None:
        await self._namespaces.check_deletable(current.name, subject)
