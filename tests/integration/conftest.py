"""Fixtures that several files here share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.clicase import Cli, running


@pytest.fixture
async def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cli]:
    async with running(tmp_path, monkeypatch) as started:
        yield started
