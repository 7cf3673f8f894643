"""A Store that encrypts what may hold secrets: wraps the driver, so that nobody above it sees ciphertext.

Values below SEALED (the XML of assignments and Domains may hold passwords, Secrets do) are AES-256-GCM under
the first key of a key file; each of its keys opens what it sealed. The key of the store is authenticated
with the value, so that a value moved to another place is as unreadable as a damaged one. **What cannot be
opened is handed up as it stands**: it is no JSON, and so quarantined as every unreadable value is, held and
never taken for absent (I11). Values that are not sealed yet are read as they are; `rewrite` seals them.
A check value stands in the store: without the keys for it nothing is served at all (`examine`); another
says under which key all was sealed, so that `rewrite` reads everything only after a change of keys.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.structs import replace

from controller import keys
from controller.watching import watching
from drivers.errors import StoreError
from drivers.store import (
    Change,
    ChangeSet,
    Compare,
    KeyValue,
    Page,
    Put,
    Store,
    StoreStatus,
    TxnResult,
    Write,
)

log = logging.getLogger(__name__)

SEALED: Final = (
    keys.ASSIGNMENTS,
    keys.object_prefix("domains"),
    keys.object_prefix("secrets"),
)
CHECK: Final = keys.ROOT + "encryption"
REWRITTEN: Final = keys.ROOT + "encrypted-with"
_MARK: Final = b"domctl:sealed:v1:"
_NONCE: Final = 12
_KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_REPORTED: Final = 10_000


class KeyFileError(Exception):
    """The key file cannot be used; the text says where and why, and never a key."""


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    cipher: AESGCM


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file: a line each, NAME and 32 bytes in base64; `#` begins a comment. Raises
    KeyFileError."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: cannot be read: {type(error).__name__}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(f"{path}: others can read it: chmod 600 {path}")
    found: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or words[0] in found:
            raise KeyFileError(f"{path}:{number}: must be NAME and a key in base64, each name once")
        try:
            material = base64.b64decode(words[1], validate=True)
        except binascii.Error:
            material = b""
        if len(material) != _KEY_BYTES:
            raise KeyFileError(f"{path}:{number}: the key must be {_KEY_BYTES} bytes in base64")
        found[words[0]] = Key(words[0], AESGCM(material))
    if not found:
        raise KeyFileError(f"{path}: holds no key: make one with 'head -c 32 /dev/urandom | base64'")
    return tuple(found.values())


class SealedStore:
    """Implements Store. Without `ring` it seals nothing, and still knows what it cannot open. `random` gives
    so many random bytes."""

    def __init__(
        self, store: Store, ring: Sequence[Key], random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._store = store
        self._ring = {key.name: key for key in ring}
        self._first = ring[0] if ring else None
        self._random = random
        self._reported: set[tuple[str, int]] = set()

    # --- sealing

    def _seal(self, write: Write) -> Write:
        key = self._first
        if key is None or not isinstance(write, Put) or not _is_sealed(write.key):
            return write
        nonce = self._random(_NONCE)
        body = key.cipher.encrypt(nonce, write.value, write.key.encode(errors="surrogateescape"))
        return replace(write, value=_MARK + key.name.encode() + b":" + nonce + body)

    def _open(self, kv: KeyValue) -> KeyValue:
        """What cannot be opened stays as it is."""
        if not kv.value.startswith(_MARK):
            return kv
        name, _, rest = kv.value.removeprefix(_MARK).partition(b":")
        key = self._ring.get(name.decode("ascii", "replace"))
        if key is not None:
            try:
                aad = kv.key.encode(errors="surrogateescape")
                return replace(kv, value=key.cipher.decrypt(rest[:_NONCE], rest[_NONCE:], aad))
            except (InvalidTag, ValueError):
                pass
        seen = (kv.key, kv.mod_revision)
        if seen not in self._reported and len(self._reported) < _REPORTED:
            self._reported.add(seen)
            why = "it was damaged or moved" if key is not None else "its key is not in the key file"
            log.error(
                "a value cannot be decrypted; it is left as it is",
                extra={"key": kv.key, "revision": kv.mod_revision, "sealed_by": name[:64], "why": why},
            )
        return kv

    def _opened(self, kv: KeyValue | None) -> KeyValue | None:
        return None if kv is None else self._open(kv)

    # --- at the start

    async def examine(self) -> None:
        """Raises StoreError when the store was sealed with keys that are not here: with all promises
        unreadable nothing could be done but wait. Seals the check value with the first key."""
        kv = await self._store.get(CHECK)
        if kv is not None and self._open(kv).value.startswith(_MARK):
            name = kv.value.removeprefix(_MARK).partition(b":")[0].decode("ascii", "replace")
            raise StoreError(
                f'this store is encrypted with the key "{name[:63]}", which the key file of '
                "encryption.keyFile lacks, or has otherwise; nothing is done until it is there"
            )
        if self._first is not None and (kv is None or not self._is_current(kv)):
            revision = 0 if kv is None else kv.mod_revision
            await self.txn([Compare(CHECK, revision)], [Put(CHECK, b"domctl")])

    async def rewrite(self, fence: Sequence[Compare]) -> int:
        """Seal with the first key what is not: how many were. Each only as it was read, and while `fence`
        holds; one that was changed meanwhile is sealed by its own writer. Raises StoreError."""
        if self._first is None:
            return 0
        name = self._first.name.encode()
        done = await self._store.get(REWRITTEN)
        if done is not None and done.value == name:
            return 0
        count = unread = 0
        for prefix in SEALED:
            for kv in (await self._store.list(prefix)).items:
                if self._is_current(kv):
                    continue
                opened = self._open(kv)
                if opened.value.startswith(_MARK):
                    unread += 1
                    continue  # left as it is, and looked at again when somebody leads anew
                put = Put(kv.key, opened.value, kv.lease)
                count += (await self.txn([*fence, Compare(kv.key, kv.mod_revision)], [put])).ok
        if not unread:
            await self._store.txn(fence, [Put(REWRITTEN, name)])
        return count

    def _is_current(self, kv: KeyValue) -> bool:
        assert self._first is not None
        return kv.value.startswith(_MARK + self._first.name.encode() + b":")

    # --- the port

    async def get(self, key: str) -> KeyValue | None:
        return self._opened(await self._store.get(key))

    async def list(self, prefix: str) -> Page:
        return self._page(await self._store.list(prefix))

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        return self._page(await self._store.page(prefix, after=after, limit=limit, revision=revision))

    def _page(self, page: Page) -> Page:
        return replace(page, items=tuple(map(self._open, page.items)))

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        result = await self._store.txn(compares, [self._seal(write) for write in writes])
        if not result.current:
            return result
        return replace(result, current={key: self._opened(kv) for key, kv in result.current.items()})

    async def watch(self, prefix: str, after_revision: int) -> AsyncIterator[ChangeSet]:
        async with watching(self._store, prefix, after_revision) as stream:
            async for found in stream:
                yield replace(found, changes=tuple(map(self._change, found.changes)))

    def _change(self, change: Change) -> Change:
        return replace(change, kv=self._open(change.kv), previous=self._opened(change.previous))

    async def grant(self, ttl_s: int) -> int:
        return await self._store.grant(ttl_s)

    async def keep_alive(self, lease: int) -> int:
        return await self._store.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._store.revoke(lease)

    async def status(self) -> StoreStatus:
        return await self._store.status()

    async def close(self) -> None:
        await self._store.close()


def _is_sealed(key: str) -> bool:
    return key == CHECK or key.startswith(SEALED)
