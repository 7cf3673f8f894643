"""The Store port: a strictly serialisable key-value store with revisions, leases and watches (etcd v3).

Everything the controller wants, decided or promised stands behind this port; nothing else is kept.
Two implementations pass one contract suite: `drivers.etcd` (real) and `drivers.memory` (simulation only).

Guaranteed by every implementation: reads are linearizable; a transaction happens wholly or not at all;
all its writes share one revision; a watch delivers every change after the revision asked for, in order,
the changes of one revision together, or raises `Compacted`. Not here: object kinds, JSON, who may write
(see `controller.store`), and who leads (`controller.election`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

from drivers.errors import StoreRefused

MAX_TXN_OPS = 128  # etcd's default --max-txn-ops
MAX_VALUE_BYTES = 1_000_000  # below etcd's 1.5 MiB request limit
MAX_REQUEST_BYTES = 1_500_000  # keys and values of one transaction, below the same limit


class KeyValue(Struct, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Page(Struct, frozen=True):
    """Keys in order, all read at `revision`. `remaining`: how many keys follow the last one."""

    items: tuple[KeyValue, ...]
    revision: int
    remaining: int = 0

    @property
    def more(self) -> bool:
        return self.remaining > 0


class Compare(Struct, frozen=True):
    """Holds when `key`'s create or modification revision equals `revision`; 0 means: the key is absent. On
    "lease" it is the id of the lease that the key hangs on, in the place of a revision."""

    key: str
    revision: int
    on: Literal["mod", "create", "lease"] = "mod"


def compared(kv: KeyValue, compare: Compare) -> int:
    """What of a key that is there `compare.revision` is held against."""
    return {"mod": kv.mod_revision, "create": kv.create_revision, "lease": kv.lease}[compare.on]


class Put(Struct, frozen=True):
    key: str
    value: bytes
    lease: int = 0


class Delete(Struct, frozen=True):
    key: str


Write = Put | Delete


class TxnResult(Struct, frozen=True):
    """`revision` is the store's after the transaction. When `ok` is False nothing was written, and
    `current` holds what the compared keys look like now (None: absent)."""

    ok: bool
    revision: int
    current: dict[str, KeyValue | None] = field(default_factory=dict)


class Change(Struct, frozen=True):
    """One key's change. For a deletion `value` is empty and `mod_revision` is the deletion's.
    `previous` is what stood there before, where the store still has it."""

    kind: Literal["put", "delete"]
    kv: KeyValue
    previous: KeyValue | None = None


class ChangeSet(Struct, frozen=True):
    """All changes of one revision under the watched prefix. Empty `changes` is a progress mark:
    everything up to `revision` has been delivered."""

    revision: int
    changes: tuple[Change, ...]


class StoreStatus(Struct, frozen=True):
    cluster_id: int
    revision: int
    version: str
    endpoint: str


def check_txn(compares: Sequence[Compare], writes: Sequence[Write]) -> None:
    """Raise StoreRefused for what no implementation takes, before anything is sent."""
    if len(compares) > MAX_TXN_OPS or len(writes) > MAX_TXN_OPS:
        raise StoreRefused(f"too many operations in one transaction: more than {MAX_TXN_OPS}")
    size = 0
    seen: set[str] = set()
    for op in (*compares, *writes):
        if not op.key:
            raise StoreRefused("the key is empty")
        size += 2 * len(op.key.encode(errors="surrogateescape"))  # a compared key is sent twice
    for write in writes:
        if write.key in seen:
            raise StoreRefused(f"{write.key}: written twice in one transaction")
        seen.add(write.key)
        if isinstance(write, Put):
            if len(write.value) > MAX_VALUE_BYTES:
                raise StoreRefused(f"{write.key}: {len(write.value)} bytes, the limit is {MAX_VALUE_BYTES}")
            size += len(write.value)
    if size > MAX_REQUEST_BYTES:
        raise StoreRefused(f"the transaction has {size} bytes, the limit is {MAX_REQUEST_BYTES}")


class Store(Protocol):
    """All methods raise `StoreError`s (drivers.errors). Each call is bounded by the driver's deadline."""

    async def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        ...

    async def list(self, prefix: str) -> Page:
        """Read all keys under `prefix` at one revision, however many pages that takes (`more` is False)."""
        ...

    async def page(self, prefix: str, *, after: str = "", limit: int = 500, revision: int = 0) -> Page:
        """Read up to `limit` keys under `prefix` that sort after the key `after`, at `revision`
        (0: now). Raises Compacted when that revision is gone."""
        ...

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> TxnResult:
        """Apply `writes` if every compare holds. At most MAX_TXN_OPS of each, no key written twice
        (StoreRefused). Raises StoreUnavailable with `maybe_committed` when the reply was lost."""
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[ChangeSet]:
        """Yield the changes under `prefix` with a revision greater than `after_revision`, resuming by
        itself over reconnects and across endpoints, without gap or repetition. Progress marks arrive at
        least every few seconds. Raises Compacted when the next change can no longer be had (list again),
        StoreUnavailable when no endpoint answered for the driver's watch deadline, StoreDenied."""
        ...

    async def grant(self, ttl_s: int) -> int:
        """Create a lease; returns its id."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease; returns the remaining TTL in seconds (> 0). Raises LeaseLost when it is gone."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys. A lease that is gone already is no error."""
        ...

    async def status(self) -> StoreStatus: ...

    async def close(self) -> None: ...
