"""Encryption at rest, by the real server on a real etcd: begun, rotated, and its keys lost."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import keys
from controller.sealedstore import REWRITTEN
from drivers.etcd import EtcdConfig, EtcdStore
from tests.apiserver import domain
from tests.e2e.client import ApiError
from tests.e2e.serve import Controller, until
from tests.etcdserver import EtcdServer

pytestmark = pytest.mark.etcd


SECRETS = "/api/v1/namespaces/default/secrets"
PASSWORD = "correct-horse-4711"


def secret() -> dict[str, Any]:
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vnc", "namespace": "default"}}
    return {**head, "stringData": {"password": PASSWORD}}


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
    hidden = keys.object_key("secrets", "default", "vnc")
    path.touch(mode=0o600)
    controller = Controller(tmp_path / "serve", {"store": {"endpoints": [etcd.endpoint]}})
    head = {"apiVersion": "config.domctl.io/v1", "kind": "ControllerConfig"}
    controller.config |= head
    try:
        controller.start()
        controller.apply(domain())
        assert b"web-1" in standing(etcd, key)
        with pytest.raises(ApiError, match="keyFile"):
            controller.api().create(SECRETS, secret())
        assert standing(etcd, hidden) == b"", "a store in clear takes no Secret"
        controller.stop()
        controller.config["encryption"] = {"keyFile": str(path)}
        for names in (["k1"], ["k2", "k1"], ["k2"]):
            path.write_text("".join(f"{name} {made[name]}\n" for name in names))
            controller.start()
            until(lambda: standing(etcd, REWRITTEN) == names[0].encode(), 30, controller.tail)  # noqa: B023
            assert standing(etcd, key).startswith(f"domctl:sealed:v1:{names[0]}:".encode())
            assert "web-1" in controller.domctl("get", "domains")
            if names == ["k1"]:
                controller.api().create(SECRETS, secret())
            assert standing(etcd, hidden).startswith(f"domctl:sealed:v1:{names[0]}:".encode())
            found = controller.api().get(f"{SECRETS}/vnc")["data"]["password"]
            assert base64.b64decode(found).decode() == PASSWORD
            controller.stop()
        on_disk = b"".join(path.read_bytes() for path in (tmp_path / "etcd").rglob("*") if path.is_file())
        assert PASSWORD.encode() not in on_disk and base64.b64encode(PASSWORD.encode()) not in on_disk
        for path in (controller.log, controller.data_dir / "audit.log"):
            assert PASSWORD not in path.read_text() and "Y29ycmVjdC" not in path.read_text()
        sealed = standing(etcd, key)
        del controller.config["encryption"]
        controller.start(wait=False)
        assert controller.wait_end(30) == 1
        assert 'this store is encrypted with the key "k2"' in controller.tail()
        assert standing(etcd, key) == sealed
    finally:
        controller.stop()
