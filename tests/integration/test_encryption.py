"""Encryption at rest, by the real server on a real etcd: begun, rotated, and its keys lost."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import keys
from controller.sealedstore import REWRITTEN
from drivers.etcd import EtcdConfig, EtcdStore
from tests.apiserver import domain
from tests.e2e.serve import Controller, until
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as running:
        yield running


def standing(etcd: EtcdServer, key: str) -> bytes:
    async def read() -> bytes:
        store = EtcdStore(EtcdConfig(endpoints=(etcd.endpoint,)))
        try:
            kv = await store.get(key)
            return b"" if kv is None else kv.value
        finally:
            await store.close()

    return asyncio.run(read())


def test_values_are_sealed_when_encryption_begins_and_when_keys_change(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    made = {name: base64.b64encode(os.urandom(32)).decode() for name in ("k1", "k2")}
    path, key = tmp_path / "keys", keys.object_key("domains", "default", "web-1")
    path.touch(mode=0o600)
    controller = Controller(tmp_path / "serve", {"store": {"endpoints": [etcd.endpoint]}})
    head = {"apiVersion": "config.domctl.io/v1", "kind": "ControllerConfig"}
    controller.config |= head
    try:
        controller.start()
        controller.apply(domain())
        assert b"web-1" in standing(etcd, key)
        controller.stop()
        controller.config["encryption"] = {"keyFile": str(path)}
        for names in (["k1"], ["k2", "k1"], ["k2"]):
            path.write_text("".join(f"{name} {made[name]}\n" for name in names))
            controller.start()
            until(lambda: standing(etcd, REWRITTEN) == names[0].encode(), 30, controller.tail)  # noqa: B023
            assert standing(etcd, key).startswith(f"domctl:sealed:v1:{names[0]}:".encode())
            assert "web-1" in controller.domctl("get", "domains")
            controller.stop()
        sealed = standing(etcd, key)
        del controller.config["encryption"]
        controller.start(wait=False)
        assert controller.wait_end(30) == 1
        assert 'this store is encrypted with the key "k2"' in controller.tail()
        assert standing(etcd, key) == sealed
    finally:
        controller.stop()
