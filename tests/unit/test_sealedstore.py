"""Values that may hold secrets are ciphertext in the store, and one that cannot be opened is never absent."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from controller import keys
from controller.sealedstore import CHECK, REWRITTEN, Key, KeyFileError, SealedStore, read_keys
from controller.watching import watching
from drivers.errors import StoreError
from drivers.memory import MemoryStore
from drivers.store import Compare, Delete, Put
from tests.apiserver import DOMAINS, domain, serving

PROMISE = keys.assignment("11111111-1111-1111-1111-111111111111")
OTHER = keys.assignment("22222222-2222-2222-2222-222222222222")
XML = b'{"config":"<graphics passwd=\'hunter2\'/>"}'
FENCE = [Compare(keys.LEADER, 0)]


def ring(tmp_path: Path, *names: str) -> tuple[Key, ...]:
    """Keys by their names, the same for the same name."""
    path = tmp_path / "-".join(names)
    path.touch(mode=0o600)
    path.write_text(
        "".join(f"{n} {base64.b64encode(n.encode().ljust(32, b'.')).decode()}  # a key\n" for n in names)
    )
    return read_keys(path)


@pytest.fixture
async def raw() -> AsyncGenerator[MemoryStore, None]:
    store = MemoryStore(asyncio.get_running_loop().time)
    yield store
    await store.close()


async def standing(store: MemoryStore, key: str) -> bytes:
    kv = await store.get(key)
    assert kv is not None
    return kv.value


async def read(store: SealedStore, key: str) -> bytes:
    kv = await store.get(key)
    assert kv is not None
    return kv.value


async def test_what_stands_in_the_store_is_ciphertext_and_every_read_gives_the_value(
    raw: MemoryStore, tmp_path: Path
) -> None:
    store = SealedStore(raw, ring(tmp_path, "k1"))
    written = await store.txn([], [Put(PROMISE, XML), Put(keys.CLUSTER, b"plain")])
    assert b"hunter2" not in await standing(raw, PROMISE)
    assert await standing(raw, keys.CLUSTER) == b"plain"
    assert await read(store, PROMISE) == XML
    assert [kv.value for kv in (await store.list(keys.ASSIGNMENTS)).items] == [XML]
    assert [kv.value for kv in (await store.page(keys.ASSIGNMENTS, limit=1)).items] == [XML]
    refused = await store.txn([Compare(PROMISE, 0)], [Delete(PROMISE)])
    assert refused.ok is False
    assert (current := refused.current[PROMISE]) is not None
    assert current.value == XML
    await store.txn([], [Put(PROMISE, b"{}")])
    async with asyncio.timeout(5), watching(store, keys.ASSIGNMENTS, written.revision) as changes:
        async for found in changes:
            if found.changes:
                break
    (change,) = found.changes
    assert (change.kv.value, change.previous and change.previous.value) == (b"{}", XML)


async def test_the_same_value_never_looks_the_same_twice(raw: MemoryStore, tmp_path: Path) -> None:
    store = SealedStore(raw, ring(tmp_path, "k1"))
    await store.txn([], [Put(PROMISE, XML), Put(OTHER, XML)])
    assert await standing(raw, PROMISE) != await standing(raw, OTHER)


@pytest.mark.parametrize("how", ["damaged", "moved", "cut", "no key", "another key of that name", "no keys"])
async def test_what_cannot_be_opened_is_there_and_unreadable(
    raw: MemoryStore, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await SealedStore(raw, ring(tmp_path, "k1")).txn([], [Put(PROMISE, XML)])
    sealed = await standing(raw, PROMISE)
    key, held = PROMISE, ring(tmp_path, "k1")
    if how == "damaged":
        await raw.txn([], [Put(PROMISE, sealed[:-1] + bytes([sealed[-1] ^ 1]))])
    elif how == "moved":
        await raw.txn([], [Put(OTHER, sealed)])
        key = OTHER
    elif how == "cut":
        await raw.txn([], [Put(PROMISE, sealed[:30])])
    elif how == "no key":
        held = ring(tmp_path, "k2")
    elif how == "another key of that name":
        held = (Key("k1", ring(tmp_path, "k2")[0].cipher),)
    else:
        held = ()
    store = SealedStore(raw, held)
    value = await read(store, key)
    assert value.startswith(b"domctl:sealed:")
    assert len((await store.list(keys.ASSIGNMENTS)).items) == (2 if how == "moved" else 1)
    assert "cannot be decrypted" in caplog.text
    assert "hunter2" not in caplog.text
    assert await store.rewrite(FENCE) == 0
    assert await standing(raw, key) == value, "it is left as it is"


async def test_keys_are_rotated_and_old_values_sealed_anew(raw: MemoryStore, tmp_path: Path) -> None:
    await raw.txn([], [Put(PROMISE, XML)])
    first = SealedStore(raw, ring(tmp_path, "k1"))
    assert await read(first, PROMISE) == XML, "what was never sealed is read"
    await first.examine()
    assert await first.rewrite(FENCE) == 1
    assert (await standing(raw, PROMISE)).startswith(b"domctl:sealed:v1:k1:")
    assert await standing(raw, REWRITTEN) == b"k1"
    both = SealedStore(raw, ring(tmp_path, "k2", "k1"))
    await both.examine()
    await both.txn([], [Put(OTHER, XML)])
    assert await both.rewrite(FENCE) == 1
    assert await both.rewrite(FENCE) == 0
    second = SealedStore(raw, ring(tmp_path, "k2"))
    await second.examine()
    assert (await read(second, PROMISE), await read(second, OTHER)) == (XML, XML)


async def test_who_no_longer_leads_rewrites_nothing(raw: MemoryStore, tmp_path: Path) -> None:
    await raw.txn([], [Put(PROMISE, XML)])
    store = SealedStore(raw, ring(tmp_path, "k1"))
    assert await store.rewrite([Compare(keys.LEADER, 7, on="create")]) == 0
    assert await standing(raw, PROMISE) == XML
    assert await raw.get(REWRITTEN) is None


async def test_without_the_stores_keys_nothing_begins(raw: MemoryStore, tmp_path: Path) -> None:
    await SealedStore(raw, ()).examine()
    await SealedStore(raw, ring(tmp_path, "k1")).examine()
    before = await standing(raw, CHECK)
    for held in ((), ring(tmp_path, "k2"), (Key("k1", ring(tmp_path, "k2")[0].cipher),)):
        with pytest.raises(StoreError, match='encrypted with the key "k1"'):
            await SealedStore(raw, held).examine()
    assert await standing(raw, CHECK) == before
    await SealedStore(raw, ring(tmp_path, "k2", "k1")).examine()


async def test_an_object_that_cannot_be_opened_is_neither_absent_nor_made_again(
    raw: MemoryStore, tmp_path: Path
) -> None:
    async with serving(SealedStore(raw, ring(tmp_path, "k1")), tmp_path) as api:
        assert (await api.call("POST", DOMAINS, domain())).status == 201
    key = keys.object_key("domains", "default", "web-1")
    before = await standing(raw, key)
    assert b"web-1" not in before
    (tmp_path / "b").mkdir()
    async with serving(SealedStore(raw, ()), tmp_path / "b") as api:
        reply = await api.call("GET", f"{DOMAINS}/web-1")
        assert (reply.status, "cannot be read" in reply.body["message"]) == (500, True)
        assert (await api.call("POST", DOMAINS, domain())).status == 409
        assert (await api.call("DELETE", f"{DOMAINS}/web-1")).status == 500
    assert await standing(raw, key) == before


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("", 0o600, "holds no key"),
        ("k1 c2hvcnQ=", 0o600, "32 bytes"),
        ("k1 not-base64!", 0o600, "32 bytes"),
        ("k1", 0o600, "NAME and a key"),
        ("K_1 c2hvcnQ=", 0o600, "NAME and a key"),
        (f"k1 {'A' * 43}=\nk1 {'A' * 43}=", 0o600, "once"),
        (f"k1 {'A' * 43}=", 0o644, "others can read it"),
    ],
)
def test_a_key_file_that_is_no_good_is_refused_without_saying_a_key(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=words) as caught:
        read_keys(path)
    assert "AAAA" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_keys(tmp_path / "none")
