"""Fixtures that several files here share; a file that needs another one has its own of the same name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from drivers.memory import MemoryStore
from tests.apiserver import Api, serving


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api]:
    """The server on a store of its own in memory."""
    store = MemoryStore(asyncio.get_running_loop().time)
    async with serving(store, tmp_path) as found:
        yield found
    await store.close()
