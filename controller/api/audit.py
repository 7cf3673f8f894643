"""The audit log: who asked to change what, as JSON lines in the shape of audit.k8s.io/v1 Events.

A line is written and flushed *before* the change acts (stage RequestReceived) and another when it is
answered (ResponseComplete); a change whose line cannot be written is refused. Reads are not audited, unless
they are refused (`controller.api.trail`).
Operators' decisions are logged with what was decided and synced to the disk. The file is rotated by size;
old ones are kept by number. Values of objects are not logged: they may hold what nobody should read. What a
client put into a path or its name for itself is logged without what looks like a secret.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from controller.api.auth import User
from specs.redaction import redacted_value

MAX_BYTES: Final = 32 << 20
KEPT: Final = 5


class AuditLog:
    """Appends to `path`, up to `max_bytes`; then `kept` old ones stand beside it. Raises OSError when a line
    cannot be written."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._file = self._open()

    def _open(self) -> io.FileIO:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        # Unbuffered: what `write` returned from is with the kernel, and outlives this process.
        return io.FileIO(str(self._path), "a", opener=private)

    def write(self, event: Mapping[str, Any]) -> None:
        line = _encoded(event) + b"\n"
        if self._file.tell() + len(line) > self._max_bytes and self._file.tell() > 0:
            self._rotate()
        written = self._file.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of an audit line were written")

    async def sync(self) -> None:
        """What was written is on the disk when this returns."""
        await asyncio.to_thread(os.fsync, self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._open()


def _encoded(event: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(event)
    except (
        UnicodeEncodeError
    ):  # of a header that was no UTF-8: whoever sends one must leave a line all the same
        return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def event(
    *, audit_id: str, stage: str, verb: str, user: User, times: tuple[str, str], **more: Any
) -> dict[str, Any]:
    """One line. `times`: when it was received, and now. `more`: impersonatedUser, requestURI, objectRef,
    sourceIPs, userAgent, responseStatus, requestObject, annotations."""
    received_at, at = times
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request" if "requestObject" in more else "Metadata",
        "auditID": audit_id,
        "stage": stage,
        "verb": verb,
        "user": {"username": user.name, "groups": list(user.groups)},
        "requestReceivedTimestamp": _micro(received_at),
        "stageTimestamp": _micro(at),
        **{k: redacted_value(v) for k, v in more.items() if v},
    }


def _micro(at: str) -> str:
    """In the form of Kubernetes' MicroTime, which readers of audit logs parse; the clock gives seconds."""
    return at.replace("Z", ".000000Z") if "." not in at else at
