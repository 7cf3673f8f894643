"""A watch that outlives its streams: resumed by revision, grouped by revision, never silent for ever.

Before each stream the member must have caught up with the cluster (a linearizable read): a member that
lags could be asked for a revision it has not reached, and a store whose revision lies *below* the watch's
was restored from a backup; the watch then raises Compacted, so that its owner lists again and sees it.

The stream begins at the last revision delivered, not after it, and what is known is dropped: newer etcds
do not answer progress requests of a watch that begins in the future, and a deletion at the very revision
of a compaction would be missed (etcd #19179). Old ones repeat events after a member was reset (#15520).

A frozen server and a stuck stream look alike: nothing comes. So a stream that was silent is asked for its
progress, then the server is asked something else, and the stream is given up when either stays silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import grpc.aio
from aetcd import rpc

from drivers.errors import Compacted, StoreError, StoreUnavailable
from drivers.etcd.calls import Calls, raise_if_cancelled
from drivers.etcd.channel import Endpoint
from drivers.etcd.convert import encode_key, prefix_end
from drivers.etcd.errors import CallFailed, Meaning, failed, meaning_of
from drivers.etcd.position import Position, orders_progress
from drivers.store import ChangeSet

_REQUESTED = -1  # the watch id of progress that was asked for
_PAUSES_S = (0.02, 0.1, 0.3, 1.0)


async def follow(calls: Calls, prefix: str, after_revision: int) -> AsyncGenerator[ChangeSet, None]:
    """The Store's watch."""
    loop = asyncio.get_running_loop()
    position = Position(after_revision)
    healthy_at = loop.time()
    failures = 0
    while True:
        try:
            endpoint = await calls.ready(loop.time() + calls.config.deadline_s)
            try:
                await _check_revision(calls, endpoint, prefix, position)
                if calls.is_closed:
                    raise StoreUnavailable("the store is closed")
                stream = _Stream(calls, endpoint, prefix, position)
                async with aclosing(stream.change_sets()) as change_sets:
                    async for change_set in change_sets:
                        yield change_set
                        healthy_at, failures = loop.time(), 0
            except CallFailed:
                calls.blame(endpoint)
                raise
            finally:
                position.lose()
        except (CallFailed, StoreUnavailable) as error:
            if calls.is_closed:
                raise StoreUnavailable("the store is closed") from error
            if isinstance(error, CallFailed) and not error.may_work_elsewhere:
                raise error.as_store_error(write=False) from error
            if loop.time() - healthy_at > calls.config.watch_deadline_s:
                raise StoreUnavailable(f"watch of {prefix}: {error}") from error
        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        failures += 1


async def _check_revision(calls: Calls, endpoint: Endpoint, prefix: str, position: Position) -> None:
    revision = await calls.barrier(endpoint, encode_key(prefix), calls.config.attempt_s)
    if revision and revision < position.reached:
        raise Compacted(
            f"the store is at revision {revision} and was at {position.reached}: it was set back",
        )


class _Stream:
    """One watch stream on one endpoint. Raises CallFailed when it ends, for whatever reason."""

    def __init__(self, calls: Calls, endpoint: Endpoint, prefix: str, position: Position) -> None:
        self._calls = calls
        self._config = calls.config
        self._endpoint = endpoint
        self._prefix = prefix
        self._position = position
        self._parts: list[Any] = []  # events of a response that came in fragments, so far
        self._is_waiting = False  # for the server, not for our consumer
        self._silent = 0  # rounds of the watchdog since the last message
        self._verdict: CallFailed | StoreError | None = None  # the watchdog's
        # A member without a leader ends streams that ask for one; else it would stay silent, and alive.
        self._call = endpoint.watch.Watch(metadata=(*calls.token.metadata(), ("hasleader", "true")))

    async def change_sets(self) -> AsyncGenerator[ChangeSet, None]:
        watchdog = asyncio.create_task(self._watch_over())
        try:
            await self._write(rpc.WatchRequest(create_request=self._create_request()))
            while True:
                self._is_waiting = True
                response = await self._call.read()
                self._is_waiting, self._silent = False, 0
                if response is grpc.aio.EOF:
                    raise self._lost("the watch stream ended")
                for change_set in self._take(response):
                    yield change_set
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from error
        except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise_if_cancelled(error)
            raise (self._verdict or self._lost("the watch stream was given up")) from error
        finally:
            self._call.cancel()
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)

    def _take(self, response: Any) -> Iterator[ChangeSet]:
        self._calls.check_cluster(self._endpoint, response.header)
        if response.canceled:
            raise self._canceled(response)
        if response.created:
            return
        self._parts.extend(response.events)
        if response.fragment:
            return
        events, self._parts = self._parts, []
        if events:
            yield from self._position.take(events)
            return
        is_sure = response.watch_id != _REQUESTED or orders_progress(self._endpoint.version)
        now = asyncio.get_running_loop().time()
        mark = self._position.progress(int(response.header.revision), is_sure=is_sure, now=now)
        if mark is not None:
            yield mark

    async def _watch_over(self) -> None:
        """End the stream when its server shows no sign of life while we wait for one."""
        try:
            while True:
                await asyncio.sleep(self._config.progress_s)
                if self._is_waiting:
                    self._silent += 1
                    await self._ask()
        except (CallFailed, StoreError) as error:
            self._verdict = error
            self._call.cancel()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            self._call.cancel()  # the stream ended, and the reader knows better why

    def _create_request(self) -> Any:
        return rpc.WatchCreateRequest(
            key=encode_key(self._prefix) or b"\0",
            range_end=prefix_end(self._prefix),
            start_revision=max(1, self._position.reached),
            progress_notify=True,
            prev_kv=True,
            fragment=True,
        )

    async def _ask(self) -> None:
        """Ask the stream for its progress; if it answered nothing last time, ask the server, too."""
        await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        if self._silent > 1:
            await self._calls.barrier(self._endpoint, encode_key(self._prefix), self._config.attempt_s)
        if self._silent * self._config.progress_s > self._config.patience_s:
            raise self._lost("the watch stream is stuck")

    async def _write(self, request: Any) -> None:
        try:
            async with asyncio.timeout(self._config.attempt_s):
                await self._call.write(request)
        except TimeoutError:
            raise self._lost("the watch stream takes nothing") from None

    def _lost(self, words: str) -> CallFailed:
        return CallFailed(Meaning.LOST, self._endpoint.url, words)

    def _canceled(self, response: Any) -> CallFailed | Compacted:
        """The server ended the watch, and why."""
        if response.compact_revision:
            return Compacted(
                f"the changes after revision {self._position.reached} have been compacted",
                compact_revision=int(response.compact_revision),
            )
        reason = response.cancel_reason or "the watch was cancelled"
        meaning = meaning_of(None, reason)
        if meaning is Meaning.RENEW and self._calls.token.can_renew:
            return self._lost(reason)  # the next stream's barrier gets a new token
        return CallFailed(meaning, self._endpoint.url, reason)

    def _failed(self, error: grpc.aio.AioRpcError) -> CallFailed | Compacted:
        failure = failed(error, self._endpoint.url)
        if failure.meaning is Meaning.TOO_LARGE:
            return Compacted("the changes to catch up with are too many for one message")
        return failure
