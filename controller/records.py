"""What was heard of etcd, key by key: only newer revisions count, and what cannot be read is set aside.

Who keeps the records (`controller.cache`) gives one handler for each prefix; it is called with each key that
changed, and with its value or None. A handler that raises has not taken the value: nothing is deleted or
stopped because of it (I11).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from drivers.store import Change, ChangeSet, KeyValue

Handler = Callable[[str, KeyValue | None], None]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Records:
    """`handlers`: by prefix; of a key with none only the revision is kept. `on_corrupt` is called when
    something turned out to be unreadable. `corrupt`: by key, why."""

    handlers: Sequence[tuple[str, Handler]]
    on_corrupt: Callable[[], None]
    corrupt: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)

    def reset(self, items: tuple[KeyValue, ...], revision: int) -> str:
        """A complete list replaces all that was known. Answers why it cannot be of the past that is known
        here: a key's revision never falls ("" if it can be). The list is believed all the same."""
        contradiction = ""
        present = {kv.key for kv in items}
        for key in [k for k, at in self.revisions.items() if k not in present and at <= revision]:
            self._drop(key, revision)
        for kv in items:
            known = self.revisions.get(kv.key, 0)
            if kv.mod_revision < known <= revision:
                contradiction = f"{kv.key} is of revision {kv.mod_revision}, it was of {known} before"
                self.revisions[kv.key] = 0
            self._put(kv)
        return contradiction

    def apply(self, changes: ChangeSet) -> None:
        for change in changes.changes:
            self._change(change)

    def wrote(self, written: Mapping[str, bytes | None], revision: int) -> None:
        """One's own transaction: seen at once, and never overwritten by an older watch event."""
        for key, value in written.items():
            if value is None:
                self._drop(key, revision)
            else:
                self._put(KeyValue(key, value, 0, revision))

    def _change(self, change: Change) -> None:
        if change.kind == "delete":
            self._drop(change.kv.key, change.kv.mod_revision)
        else:
            self._put(change.kv)

    def _put(self, kv: KeyValue) -> None:
        if self.revisions.get(kv.key, 0) >= kv.mod_revision:
            return
        self.revisions[kv.key] = kv.mod_revision
        handler = self._handler(kv.key)
        if handler is None:
            return
        try:
            handler(kv.key, kv)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            if self.corrupt.get(kv.key) != str(error):
                log.warning(
                    "object in etcd cannot be read and is set aside", extra={"key": kv.key, "why": str(error)}
                )
            self.corrupt[kv.key] = str(error)
            self.on_corrupt()
        else:
            self.corrupt.pop(kv.key, None)

    def _drop(self, key: str, revision: int) -> None:
        if self.revisions.get(key, 0) > revision:
            return
        self.revisions[key] = revision
        self.corrupt.pop(key, None)
        handler = self._handler(key)
        if handler is not None:
            handler(key, None)

    def _handler(self, key: str) -> Handler | None:
        return next((handler for prefix, handler in self.handlers if key.startswith(prefix)), None)
