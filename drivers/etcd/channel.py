"""One gRPC channel per endpoint, and which of them is in use.

gRPC could balance over endpoints by itself; then nobody would know which member answered, a frozen one
would be asked again and again, and a watch could land on another member unnoticed. So each endpoint has a
channel of its own with its own TCP connection, and `calls` decides. Nothing here sends anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
from aetcd import rpc

from drivers.etcd.config import EtcdConfig


class Endpoint:
    """A member's address and the channel to it. `is_introduced`: it told which cluster it belongs to, on
    this connection; `version` is what it said it is."""

    def __init__(self, url: str, config: EtcdConfig) -> None:
        self.url = url
        self.version: tuple[int, ...] = ()
        self.is_introduced = False
        self._config = config
        self._open()

    def _open(self) -> None:
        self._channel = _channel(self.url, self._config)
        self.kv: Any = rpc.KVStub(self._channel)
        self.lease: Any = rpc.LeaseStub(self._channel)
        self.watch: Any = rpc.WatchStub(self._channel)
        self.auth: Any = rpc.AuthStub(self._channel)
        self.maintenance: Any = rpc.MaintenanceStub(self._channel)

    @property
    def is_ready(self) -> bool:
        """A call sent now goes out on a connection whose other end is known. Once a connection is seen
        lost, the next one must be introduced anew."""
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:
            self.is_introduced = False
        return self.is_introduced

    async def reopen(self) -> None:
        """Give up the connection, and what is under way on it, for a fresh one. A path that went silent
        may stay so for as long as TCP retries; a new connection finds out at once. New credentials are
        read from their files, too."""
        old = self._channel
        self.is_introduced = False
        self._open()
        await old.close()

    async def close(self) -> None:
        await self._channel.close()


class Endpoints:
    """All endpoints; `current` is the one that calls go to until it is blamed."""

    def __init__(self, config: EtcdConfig) -> None:
        self._all = [Endpoint(url, config) for url in config.endpoints]
        self._at = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def current(self) -> Endpoint:
        return self._all[self._at]

    def blame(self, endpoint: Endpoint) -> None:
        """`endpoint` failed: it must introduce itself again, and the next one gets the calls. Many calls
        blame the same failure; only the first of them moves on."""
        endpoint.is_introduced = False
        if endpoint is self.current:
            self._at = (self._at + 1) % len(self._all)

    async def close(self) -> None:
        for endpoint in self._all:
            await endpoint.close()


def _channel(url: str, config: EtcdConfig) -> grpc.aio.Channel:
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.enable_retries", 0),  # a write is sent once (maybe_committed)
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # else reopen() would get the same connection again
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(config.attempt_s * 1000)),  # the connect timeout, too
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    scheme, _, address = url.partition(":")
    if scheme == "unix":
        return grpc.aio.insecure_channel(f"unix:{quote(address)}", options=options)
    target = address.removeprefix("//").rstrip("/")
    if scheme == "http":
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, _credentials(config), options=options)


def _credentials(config: EtcdConfig) -> grpc.ChannelCredentials:
    def read(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(read(config.ca_file), read(config.key_file), read(config.cert_file))
