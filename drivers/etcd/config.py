"""Where etcd is, who we are to it, and every limit of the driver in one place.

`EtcdConfig` is checked when it is made, so that a wrong configuration is told at the start and in its own
words (StoreRefused), not as a connection that never comes about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from drivers.errors import StoreRefused

SCHEMES = ("http://", "https://", "unix:")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdConfig:
    """`endpoints`: "https://host:2379", "http://host:2379" or "unix:/path", tried in this order, all
    members of one cluster. Files are PEM; without `ca_file`, https trusts the system's authorities.

    An attempt on one endpoint takes `attempt_s`, the next ones more; a read ends after `deadline_s`. A
    write is sent once and its reply awaited for `write_s`. A watch gives up when nothing answered for
    `watch_deadline_s`."""

    endpoints: tuple[str, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    attempt_s: float = 2.0
    deadline_s: float = 8.0
    write_s: float = 5.0
    progress_s: float = 2.0  # a watch that heard nothing for so long asks
    patience_s: float = 30.0  # silence of a stream whose server answers other calls
    watch_deadline_s: float = 30.0
    max_writes: int = 8  # gRPC starves a watch beside many writers of one loop
    page_keys: int = 10_000
    page_bytes: int = 16 << 20  # what a page of a list aims at; bounds the loop's stall, too
    max_message_bytes: int = 128 << 20

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise StoreRefused("store.endpoints: at least one is needed")
        for endpoint in self.endpoints:
            if not endpoint.startswith(SCHEMES) or len(endpoint) < len("unix:/x"):
                raise StoreRefused(f"store.endpoints: {endpoint!r}: must be https://, http:// or unix:/path")
        if bool(self.cert_file) != bool(self.key_file):
            raise StoreRefused("store: a certificate and its key are needed together")
        if (self.ca_file or self.cert_file) and not self.uses_tls:
            raise StoreRefused("store: certificates are configured, but no endpoint is https://")
        if bool(self.user) != bool(self.password):
            raise StoreRefused("store: a user and a password are needed together")
        if not 0 < self.attempt_s <= self.write_s < self.deadline_s:
            raise StoreRefused("store: attempt_s must be the shortest deadline, deadline_s the longest")
        for path in (self.ca_file, self.cert_file, self.key_file):
            if path and not Path(path).is_file():
                raise StoreRefused(f"store: {path}: no such file")

    @property
    def uses_tls(self) -> bool:
        return any(endpoint.startswith("https://") for endpoint in self.endpoints)
