"""v1 Namespace: stored as it is, made when it is first used, gone only when nothing is in it.

Nobody had to create a namespace before there was this kind, and nobody has to now: `Namespaces.open` makes
one for the first object that is put into it (what Kubernetes calls NamespaceAutoProvision), and `start` makes
those of objects that are there already. Deleting one deletes nothing else: domains cannot be recovered, so a
namespace that has any object but Events is refused, with what is in it. `default` stays.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from controller.api import errors
from controller.api.errors import Subject
from controller.objects import AlreadyExists, Corrupt, Kind, NotFound, Objects, StoredObject
from drivers.errors import StoreError
from specs.core import CORE_API_VERSION
from specs.meta import NAME_PATTERN

log = logging.getLogger(__name__)

DEFAULT: Final = "default"
NAME_LABEL: Final = "kubernetes.io/metadata.name"
_NAME: Final = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_RETRY_S: Final = 2.0
_NAMED: Final = 5  # objects that a refusal names


def pictured(stored: StoredObject) -> StoredObject:
    """With a phase, and the label by which selectors find it by name, as clients expect it."""
    metadata = stored.body["metadata"]
    labels = {**(metadata.get("labels") or {}), NAME_LABEL: stored.name}
    phase = "Terminating" if stored.terminating else "Active"
    body = {**stored.body, "metadata": {**metadata, "labels": labels}, "status": {"phase": phase}}
    return replace(stored, body=body)


class Namespaces:
    """`kind` is the Namespace's own, `kinds` are all that have objects in one."""

    def __init__(self, objects: Objects, kind: Kind, kinds: Sequence[Kind]) -> None:
        self._objects = objects
        self._kind = kind
        self._kinds = kinds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._begin(), name="namespaces")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def open(self, name: str, *, dry_run: bool) -> None:
        """See to it that something may be put there. Raises ApiError (403) when it is being deleted."""
        try:
            found = await self._objects.get(self._kind, "", name)
        except NotFound:
            if not dry_run:
                await self._make(name)
            return
        except Corrupt:
            return  # what cannot be read is in nobody's way
        if found.terminating:
            why = f"unable to create new content in namespace {name} because it is being terminated"
            raise errors.forbidden(Subject("namespaces", name, ""), why)

    async def check_deletable(self, name: str, subject: Subject) -> None:
        """Raises ApiError (403, 409)."""
        if name == DEFAULT:
            raise errors.forbidden(subject, "this namespace may not be deleted")
        for kind in self._kinds:
            page = await self._objects.page(kind, name, limit=_NAMED + 1)
            found = [o.name for o in (*page.items, *page.quarantined)]
            if found:
                listed = ", ".join(found[:_NAMED]) + (" and more" if found[_NAMED:] else "")
                raise errors.conflict(
                    subject,
                    f"it has {kind.plural}: {listed}; it goes only when it is empty, so delete them first",
                )

    async def _begin(self) -> None:
        while True:
            try:
                await self._make(DEFAULT)
                async for name in self._used():
                    await self._make(name)
                return
            except StoreError as error:
                log.warning("looking for namespaces failed", extra={"error": error.message})
            except Exception:  # the boundary of this task: a namespace that is used makes itself known again
                log.exception("looking for namespaces failed")
            await asyncio.sleep(_RETRY_S)

    async def _used(self) -> AsyncIterator[str]:
        """One read for each namespace of each kind: a step over all that is in it."""
        for kind in self._kinds:
            after = ""
            while True:
                page = await self._objects.page(kind, after=after, limit=1)
                found = [*page.items, *page.quarantined]
                if not found:
                    break
                prefix = found[0].key.removesuffix(f"/{found[0].name}")
                after = f"{prefix}0"  # "0" comes after "/"
                if _NAME.match(found[0].namespace):  # a key may be anything, a namespace may not (I19)
                    yield found[0].namespace

    async def _make(self, name: str) -> None:
        head = {"apiVersion": CORE_API_VERSION, "kind": self._kind.kind, "metadata": {"name": name}}
        try:
            await self._objects.create(self._kind, head)
        except AlreadyExists:
            return
