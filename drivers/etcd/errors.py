"""etcd's and gRPC's errors to ours, once, from one table.

A row is (gRPC status, part of the message) → what it means; the first that matches wins. What no row
names is LOST: the effect of a write is then unknown, which is always safe to say. etcd tells most errors
by text alone; the texts are those of its rpctypes, the same from 3.4 to 3.6.
"""

from __future__ import annotations

import enum

import grpc
import grpc.aio

from drivers.errors import (
    Compacted,
    LeaseLost,
    StoreDenied,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

_Code = grpc.StatusCode


class Meaning(enum.Enum):
    """What a failed call tells. Only LOST leaves open whether a write happened."""

    LOST = "no answer, or one that says nothing of the effect"
    UNREACHED = "never sent, or turned away unread: it may be sent to another endpoint"
    RENEW = "the token is not, or no longer, valid: authenticate and send it again"
    DENIED = "wrong user, password, certificate or permission"
    REFUSED = "the request is wrong and stays so"
    FULL = "the server did nothing, because it cannot"
    TOO_LARGE = "the reply is larger than we take"
    COMPACTED = "the revision asked for cannot be had"
    LEASE_LOST = "the lease is gone"


_TLS_ALERT = "TSI_DATA_CORRUPTED"

_TABLE: tuple[tuple[grpc.StatusCode | None, str, Meaning], ...] = (
    (_Code.UNAUTHENTICATED, "", Meaning.RENEW),
    (None, "etcdserver: invalid auth token", Meaning.RENEW),
    (None, "etcdserver: revision of auth store is old", Meaning.RENEW),
    (None, "etcdserver: user name is empty", Meaning.RENEW),
    (_Code.PERMISSION_DENIED, "", Meaning.DENIED),
    (None, "etcdserver: permission denied", Meaning.DENIED),
    (None, "etcdserver: authentication failed", Meaning.DENIED),
    (_Code.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", Meaning.DENIED),
    (_Code.UNAVAILABLE, "Hostname Verification Check failed", Meaning.DENIED),
    # A fatal TLS alert: the server's only answer to a client certificate that is missing or not trusted.
    (_Code.UNAVAILABLE, _TLS_ALERT, Meaning.DENIED),
    (_Code.UNAVAILABLE, "failed to connect to all addresses", Meaning.UNREACHED),
    (None, "etcdserver: too many requests", Meaning.UNREACHED),
    (None, "etcdserver: rpc not supported for learner", Meaning.UNREACHED),
    (None, "etcdserver: not capable", Meaning.UNREACHED),
    (_Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Meaning.FULL),
    (_Code.RESOURCE_EXHAUSTED, "CLIENT: ", Meaning.TOO_LARGE),
    (_Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max", Meaning.REFUSED),  # the server's
    (_Code.RESOURCE_EXHAUSTED, "eceived message larger than max", Meaning.TOO_LARGE),  # our own core's
    (_Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision", Meaning.COMPACTED),
    (None, "etcdserver: mvcc: required revision has been compacted", Meaning.COMPACTED),
    (_Code.NOT_FOUND, "etcdserver: requested lease not found", Meaning.LEASE_LOST),
    (_Code.OUT_OF_RANGE, "", Meaning.REFUSED),
    (_Code.INVALID_ARGUMENT, "", Meaning.REFUSED),
    (_Code.UNIMPLEMENTED, "", Meaning.REFUSED),
)

_ELSEWHERE = {Meaning.LOST, Meaning.UNREACHED}


def meaning_of(code: grpc.StatusCode | None, details: str) -> Meaning:
    for row_code, part, meaning in _TABLE:
        if (row_code is None or row_code is code) and part in details:
            return meaning
    return Meaning.LOST


class CallFailed(Exception):
    """One attempt at one endpoint failed. Never leaves this package: `as_store_error` does."""

    def __init__(self, meaning: Meaning, endpoint: str, details: str) -> None:
        super().__init__(f"{endpoint}: {details}")
        self.meaning = meaning
        self.endpoint = endpoint

    @property
    def may_work_elsewhere(self) -> bool:
        return self.meaning in _ELSEWHERE

    def as_store_error(self, *, write: bool) -> StoreError:
        words = str(self)
        match self.meaning:
            case Meaning.DENIED | Meaning.RENEW:
                return StoreDenied(words)
            case Meaning.REFUSED | Meaning.TOO_LARGE:
                return StoreRefused(words)
            case Meaning.COMPACTED:
                return Compacted(words)
            case Meaning.LEASE_LOST:
                return LeaseLost(words)
            case Meaning.LOST:
                return StoreUnavailable(words, maybe_committed=write)
            case Meaning.FULL | Meaning.UNREACHED:
                return StoreUnavailable(words)


def failed(error: grpc.aio.AioRpcError, endpoint: str) -> CallFailed:
    code, details = error.code(), error.details() or ""
    words = details if "etcdserver: " in details else f"{code.name}: {details}"
    if _TLS_ALERT in details:
        words = f"the server does not accept our certificate ({words})"
    return CallFailed(meaning_of(code, details), endpoint, words)
