"""The stores that keep the contract: in memory, sealed, simulated, and a real etcd.

Tests share one etcd server and keep apart by a prefix of their own. All but that live in virtual time.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.sealedstore import Key, SealedStore
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.memory import MemoryStore
from tests.contract.store.bench import Bench
from tests.etcdserver import EtcdServer
from tests.sim.etcd import SimEtcd
from tests.sim.network import Network
from tests.virtualtime import VirtualLoop


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(params=["memory", "sealed", "sim", pytest.param("etcd", marks=pytest.mark.etcd)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def event_loop_policy(kind: str) -> asyncio.AbstractEventLoopPolicy:
    """What makes the loop that a test runs on."""
    return asyncio.DefaultEventLoopPolicy() if kind == "etcd" else VirtualPolicy()


class VirtualPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> VirtualLoop:
        return VirtualLoop()


@pytest.fixture
async def bench(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    clock = asyncio.get_running_loop().time
    prefix = f"/t/{uuid.uuid4()}/"
    if kind == "memory":
        memory = MemoryStore(clock, progress_s=0.5)
        yield Bench(memory, prefix, memory.compact)
        await memory.close()
    elif kind == "sealed":
        memory = MemoryStore(clock, progress_s=0.5)
        monkeypatch.setattr("controller.sealedstore.SEALED", (prefix,))
        yield Bench(SealedStore(memory, (Key("k1", AESGCM(bytes(32))),)), prefix, memory.compact, 64)
        await memory.close()
    elif kind == "sim":
        etcd = SimEtcd(clock, Random(7), Network(Random(8), clock), progress_s=0.5)
        client = etcd.client("c1")
        yield Bench(client, prefix, etcd.compact)
        await client.close()
        await etcd.close()
    else:
        server: EtcdServer = request.getfixturevalue("server")
        store = EtcdStore(EtcdConfig(endpoints=(server.endpoint,), progress_s=0.5))
        yield Bench(store, prefix, store.compact)
        await store.close()
