"""Fixtures that several files here share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.apiserver import Api
from tests.clicase import Cli, running
from tests.etcdserver import EtcdServer
from tests.kubectl import real_api


@pytest.fixture
async def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Cli]:
    async with running(tmp_path, monkeypatch) as started:
        yield started


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as started:
        yield started


@pytest.fixture
async def api(etcd: EtcdServer, tmp_path: Path) -> AsyncGenerator[Api]:
    """The server on it, emptied before."""
    async with real_api(etcd, tmp_path) as found:
        yield found
