"""The Migration objects as the cache keeps them: by uid, and for each domain those that have not ended.

Fed by the informer through `controller.cache`. The oldest request of a domain is the one that is carried out;
the others wait for it. What an object says of itself (its status) is believed here only for "it has ended".
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from msgspec import UnsetType

from controller.plan.snapshot import StoredMigration
from specs.migration import finished_at, is_finished


@dataclass(slots=True)
class Migrations:
    """`waiting`: by namespace/name of the domain."""

    by_uid: dict[str, StoredMigration] = field(default_factory=dict)
    waiting: dict[str, tuple[StoredMigration, ...]] = field(default_factory=dict)
    _by_key: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, after: StoredMigration | None) -> Iterator[tuple[str, str]]:
        """Take over an object, or that it is gone (None); (uid, domain) of all that this may concern."""
        uid = self._by_key.pop(key, "")
        before = self.by_uid.pop(uid, None)
        touched = []
        if after is not None:
            new = after.migration.metadata.uid
            if isinstance(new, UnsetType):
                raise ValueError("a stored Migration has no metadata.uid")
            if before is not None and uid == new and not after.created:  # our own writes do not tell
                after = replace(after, created=before.created)
            self._by_key[key] = new
            self.by_uid[new] = after
            touched.append((new, domain_of(after)))
        if before is not None:
            touched.append((uid, domain_of(before)))
        for _, domain in touched:
            self._line_up(domain)
        behind = [(u, d) for d in {d for _, d in touched} for u in self.of(d)]
        return iter(dict.fromkeys([*touched, *behind]))

    def of(self, domain: str) -> Iterator[str]:
        """The uids of those that wait for this domain."""
        for request in self.waiting.get(domain, ()):
            assert not isinstance(request.migration.metadata.uid, UnsetType)
            yield request.migration.metadata.uid

    def _line_up(self, domain: str) -> None:
        found = [m for m in self.by_uid.values() if domain_of(m) == domain and not is_finished(m.migration)]
        if found:
            self.waiting[domain] = tuple(sorted(found, key=_age))
        else:
            self.waiting.pop(domain, None)


def domain_of(stored: StoredMigration) -> str:
    """namespace/name of the domain that it is about."""
    namespace = stored.migration.metadata.namespace
    return f"{'default' if isinstance(namespace, UnsetType) else namespace}/{stored.migration.spec.domain}"


def left_s(stored: StoredMigration, wall: str) -> float | None:
    """How long it is to stay yet, in seconds; not above 0: its time is over. None: for ever, for it does not
    say when it ended or how long it is to stay; or it is being deleted already. `wall`: now, RFC 3339."""
    meta, ttl_s = stored.migration.metadata, stored.migration.spec.ttl_seconds_after_finished
    if isinstance(ttl_s, UnsetType) or not isinstance(meta.deletion_timestamp, UnsetType):
        return None
    try:
        since = datetime.datetime.fromisoformat(wall) - datetime.datetime.fromisoformat(
            finished_at(stored.migration)
        )
    except (ValueError, TypeError):  # I11: nothing goes because of what cannot be read
        return None
    return ttl_s - since.total_seconds()


def _age(stored: StoredMigration) -> tuple[int, str, str]:
    meta = stored.migration.metadata
    return (
        stored.created,
        "" if isinstance(meta.creation_timestamp, UnsetType) else meta.creation_timestamp,
        "" if isinstance(meta.uid, UnsetType) else meta.uid,
    )
