"""Keys and values between etcd's bytes and the port's types. Pure.

Keys are UTF-8; bytes that are not (somebody else's keys under a prefix of ours) survive a round trip as
lone surrogates, so that a list never fails on them.
"""

from __future__ import annotations

from typing import Any

from drivers.errors import StoreRefused
from drivers.store import KeyValue


def encode_key(key: str) -> bytes:
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise StoreRefused(f"{key!r} is not a key: {error.reason}") from error


def decode_key(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def key_value(kv: Any) -> KeyValue:
    """A KeyValue of an etcd `KeyValue` message."""
    return KeyValue(decode_key(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def prefix_end(prefix: str) -> bytes:
    """The first key behind all keys with `prefix`, as etcd's `range_end`; a zero byte means: to the end."""
    start = encode_key(prefix).rstrip(b"\xff")
    return start[:-1] + bytes([start[-1] + 1]) if start else b"\0"
