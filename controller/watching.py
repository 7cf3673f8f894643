"""Watches that end when their reader does.

A watch is an async generator behind the Store port; left half read it would be closed whenever the garbage
collector comes by. Everything in `controller/` that watches the store opens the watch here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from drivers.store import ChangeSet, Store


@asynccontextmanager
async def watching(
    store: Store, prefix: str, after_revision: int
) -> AsyncGenerator[AsyncIterator[ChangeSet], None]:
    stream = store.watch(prefix, after_revision)
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
