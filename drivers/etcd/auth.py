"""The token that etcd gives for a user and a password.

etcd's simple tokens die with the member that keeps them and after five idle minutes, and every change of
users or roles makes them old; so a token is something to be renewed, not to be had. Many calls find at
the same moment that it is stale: one of them fetches the new one, the others take it.
"""

from __future__ import annotations

import asyncio
import logging

import grpc.aio
from aetcd import rpc

from drivers.etcd.channel import Endpoint
from drivers.etcd.config import EtcdConfig
from drivers.etcd.errors import CallFailed, Meaning, failed

_log = logging.getLogger(__name__)


class Token:
    """The current token, empty without a user."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._lock = asyncio.Lock()
        self._value = ""
        self._is_warned = False

    @property
    def value(self) -> str:
        return self._value

    @property
    def is_missing(self) -> bool:
        """There is a user, and nobody has asked for a token yet."""
        return bool(self._config.user) and not self._value and not self._is_warned

    @property
    def can_renew(self) -> bool:
        return bool(self._config.user)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._value),) if self._value else ()

    async def renew(self, endpoint: Endpoint, stale: str) -> None:
        """Replace the token `stale`, unless another call did so meanwhile. Raises CallFailed."""
        async with self._lock:
            if self._value != stale:
                return
            request = rpc.AuthenticateRequest(name=self._config.user, password=self._config.password)
            try:
                reply = await endpoint.auth.Authenticate(request, timeout=self._config.attempt_s)
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    raise failed(error, endpoint.url) from error
                self._value = ""
                if not self._is_warned:
                    _log.warning("etcd has authentication switched off; the configured user is not used")
                self._is_warned = True
                return
            if not reply.token:
                raise CallFailed(Meaning.DENIED, endpoint.url, "authentication gave no token")
            self._value = str(reply.token)
