"""Who may use etcd: TLS, client certificates, users with passwords, and what a refusal looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.errors import StoreDenied, StoreRefused
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.store import ChangeSet, Compare, Put
from tests.etcdserver import Authority, EtcdServer

pytestmark = pytest.mark.etcd

TOKEN_TTL_S = 2


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("tls"), authority=authority) as server:
        yield server


@pytest.fixture(scope="module")
def client(authority: Authority, tls: EtcdServer) -> EtcdConfig:
    identity = authority.issue("client")
    return EtcdConfig(
        endpoints=(tls.endpoint,),
        ca_file=str(authority.ca),
        cert_file=str(identity.cert),
        key_file=str(identity.key),
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[EtcdServer]:
    """A server with users: root, and alice, who may use what is under a/."""
    with EtcdServer(tmp_path, args=(f"--auth-token-ttl={TOKEN_TTL_S}", "--bcrypt-cost=4")) as server:
        server.add_user("alice", "secret", prefix="a/")
        server.enable_auth("root")
        yield server


def alice(server: EtcdServer, password: str = "secret") -> EtcdStore:
    return EtcdStore(
        EtcdConfig(endpoints=(server.endpoint,), user="alice", password=password, progress_s=0.3)
    )


async def next_change(store: EtcdStore, prefix: str, after_revision: int) -> ChangeSet:
    async with asyncio.timeout(15), aclosing(store.watch(prefix, after_revision)) as watch:
        async for change_set in watch:
            if change_set.changes:
                return change_set
    raise AssertionError("the watch ended")


# --- TLS


async def test_a_client_with_a_certificate_reads_writes_and_watches(client: EtcdConfig) -> None:
    store = EtcdStore(client)
    revision = (await store.txn([], [Put("k", b"1")])).revision
    later = (await store.txn([Compare("k", revision)], [Put("k", b"2")])).revision
    assert (await next_change(store, "k", revision)).revision == later
    lease = await store.grant(30)
    assert await store.keep_alive(lease) > 0
    await store.close()


async def test_a_client_without_a_certificate_is_denied(client: EtcdConfig) -> None:
    store = EtcdStore(replace(client, cert_file="", key_file=""))
    with pytest.raises(StoreDenied):
        await store.get("k")
    with pytest.raises(StoreDenied):
        await next_change(store, "k", 0)
    await store.close()


async def test_a_certificate_of_another_authority_is_denied(client: EtcdConfig, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).issue("stranger")
    store = EtcdStore(replace(client, cert_file=str(stranger.cert), key_file=str(stranger.key)))
    with pytest.raises(StoreDenied):
        await store.get("k")
    await store.close()


async def test_a_server_of_another_authority_is_not_trusted(client: EtcdConfig, tmp_path: Path) -> None:
    store = EtcdStore(replace(client, ca_file=str(Authority(tmp_path).ca)))
    with pytest.raises(StoreDenied):
        await store.txn([], [Put("k", b"")])
    await store.close()


async def test_a_servers_certificate_for_another_address_is_not_trusted(
    client: EtcdConfig, authority: Authority, tmp_path: Path
) -> None:
    with EtcdServer(tmp_path) as server:
        server.stop()
        server.endpoint = server.endpoint.replace("http://", "https://")
        other = authority.issue("elsewhere", ["127.0.0.2"])
        server._args += [f"--cert-file={other.cert}", f"--key-file={other.key}"]
        server.start()
        store = EtcdStore(replace(client, endpoints=(server.endpoint,)))
        with pytest.raises(StoreDenied):
            await store.get("k")
        await store.close()


async def test_a_store_without_tls_does_not_speak_to_a_server_with_it(client: EtcdConfig) -> None:
    endpoint = client.endpoints[0].replace("https://", "http://")
    store = EtcdStore(EtcdConfig(endpoints=(endpoint,), deadline_s=1.0, write_s=0.5, attempt_s=0.5))
    with pytest.raises(Exception, match="no endpoint of etcd can be used"):
        await store.get("k")
    await store.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"endpoints": ()}, "at least one"),
        ({"endpoints": ("localhost:2379",)}, "must be https://"),
        ({"endpoints": ("http://a:1",), "ca_file": "/etc/hostname"}, "no endpoint is https"),
        ({"endpoints": ("https://a:1",), "ca_file": "/nowhere/ca"}, "/nowhere/ca: no such file"),
        ({"endpoints": ("https://a:1",), "cert_file": "/etc/hostname"}, "needed together"),
        ({"endpoints": ("http://a:1",), "user": "alice"}, "needed together"),
    ],
)
def test_a_wrong_configuration_is_told_at_once(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(StoreRefused, match=words):
        EtcdConfig(**wrong)  # type: ignore[arg-type]


def test_a_password_is_not_shown() -> None:
    config = EtcdConfig(endpoints=("http://a:1",), user="alice", password="geheim")
    assert "geheim" not in repr(config)


# --- users and passwords


async def test_a_user_works_within_its_prefix(guarded: EtcdServer) -> None:
    store = alice(guarded)
    revision = (await store.txn([], [Put("a/k", b"1")])).revision
    assert (await store.list("a/")).revision == revision
    later = (await store.txn([], [Put("a/k", b"2")])).revision
    assert (await next_change(store, "a/", revision)).revision == later
    assert (await store.page("a/", after="zzz")).revision == later
    assert (await store.status()).revision == later
    lease = await store.grant(30)
    assert await store.keep_alive(lease) > 0
    await store.revoke(lease)
    await store.close()


async def test_outside_its_prefix_everything_is_denied(guarded: EtcdServer) -> None:
    store = alice(guarded)
    with pytest.raises(StoreDenied):
        await store.get("b/k")
    with pytest.raises(StoreDenied):
        await store.list("")
    with pytest.raises(StoreDenied):
        await store.txn([], [Put("a/k", b""), Put("b/k", b"")])
    with pytest.raises(StoreDenied):
        await store.txn([Compare("b/k", 0)], [Put("a/k", b"")])
    assert await store.get("a/k") is None
    await store.close()


async def test_a_watch_without_permission_raises_instead_of_hanging(guarded: EtcdServer) -> None:
    store = alice(guarded)
    async with asyncio.timeout(5):
        with pytest.raises(StoreDenied):
            await anext(store.watch("b/", 1))
        with pytest.raises(StoreDenied):
            await anext(store.watch("", 1))
    await store.close()


async def test_a_wrong_password_is_denied_at_once(guarded: EtcdServer) -> None:
    store = alice(guarded, password="wrong")
    async with asyncio.timeout(5):
        with pytest.raises(StoreDenied, match="authentication failed"):
            await store.get("a/k")
        with pytest.raises(StoreDenied):
            await anext(store.watch("a/", 1))
    await store.close()


async def test_without_a_user_everything_is_denied(guarded: EtcdServer) -> None:
    store = EtcdStore(EtcdConfig(endpoints=(guarded.endpoint,)))
    with pytest.raises(StoreDenied):
        await store.get("a/k")
    with pytest.raises(StoreDenied):
        await anext(store.watch("a/", 1))
    await store.close()


async def test_a_token_that_expired_is_renewed_unnoticed(guarded: EtcdServer) -> None:
    store = alice(guarded)
    revision = (await store.txn([], [Put("a/k", b"1")])).revision
    await asyncio.sleep(TOKEN_TTL_S + 1.5)
    result = await store.txn([Compare("a/k", revision)], [Put("a/k", b"2")])
    assert result.ok
    assert result.revision == revision + 1
    await store.close()


async def test_a_token_that_the_server_forgot_is_renewed_for_calls_and_watches(guarded: EtcdServer) -> None:
    store = alice(guarded)
    revision = (await store.txn([], [Put("a/k", b"1")])).revision
    waiting = asyncio.create_task(next_change(store, "a/", revision))
    await asyncio.sleep(0.3)
    guarded.kill()
    guarded.start()
    writer = alice(guarded)
    later = (await writer.txn([], [Put("a/k", b"2")])).revision
    assert (await waiting).revision == later
    results = await asyncio.gather(*(store.txn([], [Put(f"a/{i}", b"")]) for i in range(20)))
    assert len({result.revision for result in results}) == 20
    await store.close()
    await writer.close()


async def test_a_change_of_permissions_takes_effect_without_a_new_store(guarded: EtcdServer) -> None:
    store = alice(guarded)
    await store.txn([], [Put("a/k", b"1")])
    token = str(guarded.api("auth/authenticate", {"name": "root", "password": "root"})["token"])
    guarded.add_user("bob", "x", prefix="b/", token=token)
    await store.txn([], [Put("a/k", b"2")])
    guarded.api("auth/user/grant", {"user": "alice", "role": "bob"}, token=token)
    assert (await store.txn([], [Put("b/k", b"1")])).ok
    await store.close()


async def test_authentication_can_be_switched_on_under_a_running_store(tmp_path: Path) -> None:
    with EtcdServer(tmp_path, args=("--bcrypt-cost=4",)) as server:
        server.add_user("alice", "secret", prefix="a/")
        store = alice(server)
        revision = (await store.txn([], [Put("a/k", b"1")])).revision
        server.enable_auth("root")
        assert (await store.txn([Compare("a/k", revision)], [Put("a/k", b"2")])).ok
        with pytest.raises(StoreDenied):
            await store.get("b/k")
        await store.close()
