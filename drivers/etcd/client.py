"""EtcdStore: the Store port on etcd. Requests are built and replies read here; `calls` sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import grpc.aio
from aetcd import rpc

from drivers.errors import Compacted, LeaseLost, StoreRefused
from drivers.etcd.calls import Calls, Metadata, raise_if_cancelled
from drivers.etcd.channel import Endpoint
from drivers.etcd.config import EtcdConfig
from drivers.etcd.convert import decode_key, encode_key, key_value, prefix_end
from drivers.etcd.errors import CallFailed, Meaning, failed
from drivers.etcd.watch import follow
from drivers.store import (
    ChangeSet,
    Compare,
    KeyValue,
    Page,
    Put,
    StoreStatus,
    TxnResult,
    Write,
    check_txn,
)

_FIRST_PAGE_KEYS = 1_000
_LIST_TRIES = 3


class EtcdStore:
    """A Store on etcd. Make it inside a running loop; it connects on its first call. It stays with the
    cluster that answered first: another cluster behind the same address is StoreRefused, for ever."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._calls = Calls(config)

    # --- reading

    async def get(self, key: str) -> KeyValue | None:
        if not key:
            raise StoreRefused("the key is empty")
        reply = await self._range(rpc.RangeRequest(key=encode_key(key)))
        return key_value(reply.kvs[0]) if reply.kvs else None

    async def list(self, prefix: str) -> Page:
        """As the port says. The deadline holds for each page."""
        for _ in range(_LIST_TRIES - 1):
            try:
                return await self._list(prefix)
            except Compacted:
                continue  # compacted between two pages: begin anew
        return await self._list(prefix)

    async def _list(self, prefix: str) -> Page:
        start, end = encode_key(prefix) or b"\0", prefix_end(prefix)
        items: list[KeyValue] = []
        revision, limit = 0, min(_FIRST_PAGE_KEYS, self._config.page_keys)
        while True:
            reply, limit = await self._page(
                rpc.RangeRequest(key=start, range_end=end, revision=revision, limit=limit)
            )
            revision = revision or int(reply.header.revision)
            found = [key_value(kv) for kv in reply.kvs]
            items += found
            if not reply.more:
                return Page(items=tuple(items), revision=revision)
            start = encode_key(found[-1].key) + b"\0"
            mean_bytes = sum(len(kv.value) for kv in found) // len(found) + 1
            limit = max(1, min(self._config.page_keys, self._config.page_bytes // mean_bytes))

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        if limit < 1:
            raise StoreRefused(f"a page needs a limit of at least 1, not {limit}")
        start = encode_key(prefix) or b"\0"
        if after:
            start = max(start, encode_key(after) + b"\0")
        end = prefix_end(prefix)
        if end != b"\0" and start >= end:  # nothing can follow: only the revision is wanted
            request = rpc.RangeRequest(key=encode_key(prefix) or b"\0", revision=revision, count_only=True)
        else:
            limit = min(limit, self._config.page_keys)
            request = rpc.RangeRequest(key=start, range_end=end, revision=revision, limit=limit)
        reply, _ = await self._page(request)
        items = tuple(key_value(kv) for kv in reply.kvs)
        remaining = max(1, int(reply.count) - len(items)) if reply.more else 0
        return Page(items=items, revision=revision or int(reply.header.revision), remaining=remaining)

    async def _page(self, request: Any) -> tuple[Any, int]:
        """Send a range request, with fewer and fewer keys while the reply is too large. Returns the
        number of keys that fitted, too."""
        while True:
            try:
                return await self._range(request), request.limit
            except _ReplyTooLarge:
                request.limit = max(1, request.limit // 4)

    async def _range(self, request: Any) -> Any:
        async def attempt(endpoint: Endpoint, timeout_s: float) -> Any:
            try:
                return await self._calls.on(endpoint, lambda e: e.kv.Range, request, timeout_s)
            except CallFailed as error:
                if error.meaning is Meaning.TOO_LARGE and request.limit > 1:
                    raise _ReplyTooLarge from error
                raise

        return await self._calls.attempt(attempt)

    async def status(self) -> StoreStatus:
        """`revision` is the cluster's now, not what a member that lags believes."""

        async def attempt(endpoint: Endpoint, timeout_s: float) -> StoreStatus:
            await self._calls.barrier(endpoint, b"\0", timeout_s)
            reply = await self._calls.on(
                endpoint, lambda e: e.maintenance.Status, rpc.StatusRequest(), timeout_s
            )
            return StoreStatus(
                cluster_id=int(reply.header.cluster_id),
                revision=int(reply.header.revision),
                version=str(reply.version),
                endpoint=endpoint.url,
            )

        status: StoreStatus = await self._calls.attempt(attempt)
        return status

    # --- writing

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        check_txn(compares, writes)
        keys = dict.fromkeys(compare.key for compare in compares)
        request = rpc.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            success=[_operation(write) for write in writes],
            failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=encode_key(key))) for key in keys],
        )
        if not compares and not writes:  # etcd answers an empty transaction without asking the others
            return TxnResult(ok=True, revision=(await self.status()).revision)
        reply = await self._calls.write(lambda e: e.kv.Txn, request)
        revision = int(reply.header.revision)
        if reply.succeeded:
            return TxnResult(ok=True, revision=revision)
        current: dict[str, KeyValue | None] = dict.fromkeys(keys)
        for response in reply.responses:
            for kv in response.response_range.kvs:
                current[decode_key(kv.key)] = key_value(kv)
        return TxnResult(ok=False, revision=revision, current=current)

    async def compact(self, revision: int) -> None:
        """Let etcd forget what was before `revision`. Raises Compacted if that is done already."""
        await self._calls.write(lambda e: e.kv.Compact, rpc.CompactionRequest(revision=revision))

    # --- watching

    def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
        return follow(self._calls, prefix, after_revision)

    # --- leases

    async def grant(self, ttl_s: int) -> int:
        if ttl_s < 1:
            raise StoreRefused(f"a lease needs a TTL of at least 1 s, not {ttl_s}")
        reply = await self._calls.write(lambda e: e.lease.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl_s))
        return int(reply.ID)

    async def keep_alive(self, lease: int) -> int:
        async def attempt(endpoint: Endpoint, timeout_s: float) -> Any:
            return await self._calls.with_token(
                endpoint, lambda metadata: _renew(endpoint, lease, timeout_s, metadata)
            )

        ttl_s = int((await self._calls.attempt(attempt)).TTL)
        if ttl_s <= 0:  # how etcd says it: success, without a TTL
            raise LeaseLost(f"lease {lease:x} is gone")
        return ttl_s

    async def revoke(self, lease: int) -> None:
        try:
            await self._calls.write(lambda e: e.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        except LeaseLost:
            return

    async def close(self) -> None:
        """End what is under way: every call and every watch raises StoreUnavailable."""
        await self._calls.close()


class _ReplyTooLarge(Exception):
    pass


async def _renew(endpoint: Endpoint, lease: int, timeout_s: float, metadata: Metadata) -> Any:
    """etcd offers this as a stream only; one stream for each renewal has nothing to go stale."""
    request = rpc.LeaseKeepAliveRequest(ID=lease)
    call = endpoint.lease.LeaseKeepAlive(iter([request]), timeout=timeout_s, metadata=metadata)
    try:
        reply = await call.read()
    except grpc.aio.AioRpcError as error:
        raise failed(error, endpoint.url) from error
    except (asyncio.CancelledError, grpc.aio.UsageError) as error:
        raise_if_cancelled(error)
        raise CallFailed(Meaning.LOST, endpoint.url, "the connection was given up") from error
    finally:
        call.cancel()
    if reply is grpc.aio.EOF:
        raise CallFailed(Meaning.LOST, endpoint.url, "the stream ended without a reply")
    return reply


_TARGETS: dict[str, Callable[[int], dict[str, Any]]] = {
    "mod": lambda revision: {"target": rpc.Compare.MOD, "mod_revision": revision},
    "create": lambda revision: {"target": rpc.Compare.CREATE, "create_revision": revision},
    "lease": lambda lease: {"target": rpc.Compare.LEASE, "lease": lease},
}


def _compare(compare: Compare) -> Any:
    key = encode_key(compare.key)
    return rpc.Compare(result=rpc.Compare.EQUAL, key=key, **_TARGETS[compare.on](compare.revision))


def _operation(write: Write) -> Any:
    key = encode_key(write.key)
    if isinstance(write, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=write.value, lease=write.lease))
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
