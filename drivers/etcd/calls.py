"""Deadlines, fail-over, and what may be sent twice.

Reads (and what is as harmless: keep-alives, authentication) are tried again, elsewhere if need be, until
their deadline. A write goes out once, on a connection that is up and whose other end said who it is; only
if the server says that it did nothing may it go again. Every reply's cluster id is compared with the first
one seen: endpoints of two clusters in one list would otherwise make the store a coin to toss.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from aetcd import rpc

from drivers.errors import StoreDenied, StoreRefused, StoreUnavailable
from drivers.etcd.auth import Token
from drivers.etcd.channel import Endpoint, Endpoints
from drivers.etcd.config import EtcdConfig
from drivers.etcd.errors import CallFailed, Meaning, failed

Method = Callable[[Endpoint], Any]  # picks the stub's method: a call on whichever endpoint is used
Reply = Any  # an aetcd.rpc message

Metadata = tuple[tuple[str, str], ...]

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_MAX_TRIES = 10_000  # never reached: a deadline ends every loop
_MIN_ATTEMPT_S = 0.05


class Calls:
    """What the client and the watches send their calls through."""

    def __init__(self, config: EtcdConfig) -> None:
        self.config = config
        self.token = Token(config)
        self.is_closed = False
        self._endpoints = Endpoints(config)
        self._cluster_id = 0
        self._writes = asyncio.Semaphore(config.max_writes)
        self._connecting = asyncio.Lock()

    # --- the two kinds of calls

    async def read(self, method: Method, request: Any) -> Reply:
        """Send what may be sent again. Raises a StoreError."""

        async def attempt(endpoint: Endpoint, timeout_s: float) -> Reply:
            return await self.on(endpoint, method, request, timeout_s)

        return await self.attempt(attempt)

    async def attempt(self, attempt: Callable[[Endpoint, float], Awaitable[Reply]]) -> Reply:
        """Run `attempt` (which raises CallFailed) on one endpoint after the other until the deadline,
        each time with more patience: a server that is only slow answers in the end."""
        deadline = _now() + self.config.deadline_s
        timeout_s = self.config.attempt_s
        for tries in range(_MAX_TRIES):
            endpoint = await self.ready(deadline)
            try:
                return await attempt(endpoint, max(_MIN_ATTEMPT_S, min(timeout_s, deadline - _now())))
            except CallFailed as error:
                self._check_open()
                if error.may_work_elsewhere:
                    self.blame(endpoint)
                if not error.may_work_elsewhere or _now() + _pause_s(tries) >= deadline:
                    raise error.as_store_error(write=False) from error
            if tries >= len(self._endpoints) - 1:
                await asyncio.sleep(_pause_s(tries))
            timeout_s *= 2
        raise AssertionError("unreachable: a deadline ends the attempts")

    async def write(self, method: Method, request: Any) -> Reply:
        """Send once. Raises a StoreError; StoreUnavailable tells whether it may have happened."""
        deadline = _now() + self.config.deadline_s
        try:
            async with asyncio.timeout_at(deadline - self.config.write_s):
                await self._writes.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many writes were waiting for etcd") from None
        try:
            while True:
                endpoint = await self.ready(deadline - self.config.write_s)
                try:
                    return await self.on(endpoint, method, request, self.config.write_s)
                except CallFailed as error:
                    self._check_open(maybe_committed=error.meaning is Meaning.LOST)
                    if error.may_work_elsewhere:
                        self.blame(endpoint)
                    if error.meaning is not Meaning.UNREACHED or _now() >= deadline - self.config.write_s:
                        raise error.as_store_error(write=True) from error
                await asyncio.sleep(_PAUSES_S[0])
        finally:
            self._writes.release()

    # --- one endpoint

    async def on(self, endpoint: Endpoint, method: Method, request: Any, timeout_s: float) -> Reply:
        """One unary call on one endpoint. Raises CallFailed."""
        return await self.with_token(
            endpoint, lambda metadata: once(endpoint, method(endpoint), request, timeout_s, metadata)
        )

    async def with_token(self, endpoint: Endpoint, send: Callable[[Metadata], Awaitable[Reply]]) -> Reply:
        """`send` with the current token. A stale one is renewed and the call sent again: the server turned
        it away before it looked at it. Raises CallFailed."""
        for _ in range(3):
            used = self.token.value
            try:
                reply = await send(self.token.metadata())
            except CallFailed as error:
                if error.meaning is not Meaning.RENEW or not self.token.can_renew:
                    raise
                await self.token.renew(endpoint, used)
                continue
            self.check_cluster(endpoint, reply.header)
            return reply
        raise CallFailed(Meaning.DENIED, endpoint.url, "every new token is refused")

    async def barrier(self, endpoint: Endpoint, key: bytes, timeout_s: float) -> int:
        """Wait until this member has seen all that was committed before; returns its revision then, or 0
        if reading `key` is not permitted (etcd looks at permissions after it waited)."""
        request = rpc.RangeRequest(key=key or b"\0", keys_only=True, limit=1)
        try:
            reply = await self.on(endpoint, lambda e: e.kv.Range, request, timeout_s)
        except CallFailed as error:
            if error.meaning is Meaning.DENIED:
                return 0
            raise
        return int(reply.header.revision)

    async def ready(self, deadline: float) -> Endpoint:
        """An endpoint that is connected and known, the current one if possible. Raises StoreUnavailable
        (nothing was sent), StoreDenied when every endpoint turns us away, StoreRefused."""
        self._check_open()
        if self._is_usable(self._endpoints.current):
            return self._endpoints.current
        denied: set[str] = set()
        words = "it takes too long to connect"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                for tries in range(_MAX_TRIES):
                    try:
                        return await self._connect()
                    except CallFailed as error:
                        self._check_open()
                        words = str(error)
                        if error.meaning in (Meaning.DENIED, Meaning.RENEW):
                            denied.add(error.endpoint)
                            if len(denied) == len(self._endpoints):
                                raise StoreDenied(words) from error
                    if (tries + 1) % len(self._endpoints) == 0:
                        await asyncio.sleep(_pause_s(tries // len(self._endpoints)))
        self._check_open()
        raise StoreUnavailable(f"no endpoint of etcd can be used: {words}")

    async def _connect(self) -> Endpoint:
        """Try the current endpoint, for all calls that wait; blame it if it fails. Raises CallFailed."""
        async with self._connecting:
            endpoint = self._endpoints.current
            if self._is_usable(endpoint):
                return endpoint
            try:
                if self.token.is_missing:
                    await self.token.renew(endpoint, "")
                await self._introduce(endpoint)
            except CallFailed as error:
                self.blame(endpoint)
                if error.meaning in (Meaning.LOST, Meaning.DENIED):
                    await endpoint.reopen()
                raise
            return endpoint

    def _is_usable(self, endpoint: Endpoint) -> bool:
        return endpoint.is_ready and not self.token.is_missing

    async def _introduce(self, endpoint: Endpoint) -> None:
        """Connect, and learn the member's cluster and version. Raises CallFailed."""
        reply = await self.on(
            endpoint, lambda e: e.maintenance.Status, rpc.StatusRequest(), self.config.attempt_s
        )
        if not reply.leader:
            raise CallFailed(Meaning.UNREACHED, endpoint.url, "the member sees no leader")
        endpoint.version = _version(reply.version)
        endpoint.is_introduced = True

    def blame(self, endpoint: Endpoint) -> None:
        self._endpoints.blame(endpoint)

    def check_cluster(self, endpoint: Endpoint, header: Any) -> None:
        """Pin the first cluster id seen; raise StoreRefused for any other."""
        if self._cluster_id and header.cluster_id != self._cluster_id:
            endpoint.is_introduced = False
            raise StoreRefused(
                f"{endpoint.url} belongs to cluster {header.cluster_id:x}, not to {self._cluster_id:x}"
            )
        self._cluster_id = int(header.cluster_id)

    def _check_open(self, *, maybe_committed: bool = False) -> None:
        if self.is_closed:
            raise StoreUnavailable("the store is closed", maybe_committed=maybe_committed)

    async def close(self) -> None:
        self.is_closed = True
        await self._endpoints.close()


async def once(endpoint: Endpoint, method: Any, request: Any, timeout_s: float, metadata: Metadata) -> Reply:
    """One unary call. Raises CallFailed."""
    try:
        return await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise failed(error, endpoint.url) from error
    except (asyncio.CancelledError, grpc.aio.UsageError) as error:
        raise_if_cancelled(error)
        raise CallFailed(Meaning.LOST, endpoint.url, "the connection was given up") from error


def raise_if_cancelled(error: BaseException) -> None:
    """gRPC also raises CancelledError when a channel is closed under a call. Only when somebody asked this
    very task to end must it go on upwards."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
        raise error


def _pause_s(tries: int) -> float:
    return _PAUSES_S[min(tries, len(_PAUSES_S) - 1)]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _version(text: str) -> tuple[int, ...]:
    """(3, 4, 23) of "3.4.23" or "3.6.0-rc.1"; empty when it cannot be read."""
    parts = text.partition("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()
