"""The private etcd: nobody else gets in, it dies with its parent, and comes back when it dies alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.errors import StoreRefused, StoreUnavailable
from drivers.etcd import EtcdStore, PrivateEtcd
from drivers.store import Put
from tests.etcdserver import require_etcd

pytestmark = pytest.mark.etcd

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[tuple[PrivateEtcd, EtcdStore]]:
    require_etcd()
    etcd = PrivateEtcd(data_dir)
    await etcd.start()
    store = EtcdStore(etcd.config)
    try:
        yield etcd, store
    finally:
        await store.close()
        await etcd.stop()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def sockets_of(pid: int) -> set[str]:
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}


def listening_inodes() -> set[str]:
    rows = [r.split() for f in ("tcp", "tcp6") for r in Path(f"/proc/net/{f}").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A"}


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "etcd") as (_, store):
        await store.txn([], [Put("k", b"1")])
        cluster_id = (await store.status()).cluster_id
    async with running(tmp_path / "etcd") as (_, store):
        kv = await store.get("k")
        assert kv is not None
        assert kv.value == b"1"
        assert (await store.status()).cluster_id == cluster_id


async def test_two_data_directories_are_two_clusters(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as (_, one), running(tmp_path / "b") as (_, other):
        assert (await one.status()).cluster_id != (await other.status()).cluster_id


async def test_it_listens_on_no_network_and_its_directory_is_ours_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "etcd"
    data_dir.mkdir(mode=0o755)
    async with running(data_dir) as (etcd, _):
        assert etcd.pid is not None
        assert sockets_of(etcd.pid), "it has sockets"
        assert not sockets_of(etcd.pid) & listening_inodes()
        assert data_dir.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_cannot_reach_it() -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)  # the way there is open, but for the last step
        async with running(Path(parent) / "etcd") as (etcd, _):
            path = etcd.config.endpoints[0].removeprefix("unix:")
            nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            for command, works in ((["test", "-S", path], True), ([*nobody, "test", "-S", path], False)):
                process = await asyncio.create_subprocess_exec(*command)
                assert (await process.wait() == 0) is works


async def test_a_killed_etcd_is_started_again_and_the_store_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path / "etcd") as (etcd, store):
        await store.txn([], [Put("k", b"1")])
        first = etcd.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        kv = await store.get("k")
        assert kv is not None
        assert kv.value == b"1"
        assert etcd.pid not in (None, first)


async def test_a_second_one_on_the_same_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.etcd.private._LOCK_S", 0.3)
    async with running(tmp_path / "etcd") as (_, store):
        with pytest.raises(StoreRefused, match="in use"):
            await PrivateEtcd(tmp_path / "etcd").start()
        assert (await store.status()).revision > 0


async def parent_and_child(data_dir: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Another process with a private etcd, and that etcd's id."""
    require_etcd()
    script = f"""
import asyncio, sys
from pathlib import Path
from drivers.etcd import EtcdStore, PrivateEtcd
from drivers.store import Put
async def main():
    etcd = PrivateEtcd(Path({str(data_dir)!r}))
    await etcd.start()
    await EtcdStore(etcd.config).txn([], [Put("k", b"1")])
    print(etcd.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    return parent, int(await parent.stdout.readline())


async def test_it_dies_with_a_parent_that_is_killed_and_the_next_parent_takes_over(tmp_path: Path) -> None:
    parent, child = await parent_and_child(tmp_path / "etcd")
    assert is_alive(child)
    parent.kill()
    await parent.wait()
    async with running(tmp_path / "etcd") as (_, store):
        assert not is_alive(child)
        assert await store.get("k") is not None


async def test_an_etcd_that_outlives_its_parent_keeps_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.etcd.private._LOCK_S", 0.5)
    parent, child = await parent_and_child(tmp_path / "etcd")
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    try:
        with pytest.raises(StoreRefused, match="does not end"):
            await PrivateEtcd(tmp_path / "etcd").start()
    finally:
        os.kill(child, signal.SIGCONT)
    monkeypatch.setattr("drivers.etcd.private._LOCK_S", 10.0)
    async with running(tmp_path / "etcd") as (_, store):
        assert await store.get("k") is not None


async def test_etcds_environment_variables_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379")
    monkeypatch.setenv("ETCD_DATA_DIR", str(tmp_path / "elsewhere"))
    async with running(tmp_path / "etcd") as (_, store):
        assert (await store.status()).revision > 0
    assert not (tmp_path / "elsewhere").exists()


async def test_a_directory_too_deep_for_a_socket_and_with_odd_characters_works(tmp_path: Path) -> None:
    odd = tmp_path / "with space" / "100%25"
    deep = tmp_path / ("d" * 120)
    for data_dir in (odd, deep):
        async with running(data_dir) as (_, store):
            assert (await store.txn([], [Put("k", b"")])).ok


async def test_a_missing_binary_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match=r"install etcd-server, or set store\.binary"):
        await PrivateEtcd(tmp_path / "etcd", binary="no-such-etcd").start()
    with pytest.raises(StoreRefused, match="is no etcd"):
        await PrivateEtcd(tmp_path / "etcd", binary="true").start()


async def test_a_database_that_etcd_cannot_open_is_told_with_its_words(tmp_path: Path) -> None:
    require_etcd()
    database = tmp_path / "etcd" / "data" / "member" / "snap"
    database.mkdir(parents=True, mode=0o700)
    for directory in (database.parent, database.parent.parent):
        directory.chmod(0o700)
    (database / "db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="etcd ended with"):
        await PrivateEtcd(tmp_path / "etcd").start()
