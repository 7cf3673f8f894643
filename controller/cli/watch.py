"""Changes after a list, over dropped connections.

`follow` resumes from the last resourceVersion it saw. When that is too old (410) it raises, and the caller
lists again: only the caller knows what it has shown. A server that stays away for longer than RECONNECT_S
ends the watch with the reason.
"""

from __future__ import annotations

import gc
import time

from controller.cli.client import JSON
from controller.cli.errors import CliError, StatusError, Unreached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from controller.cli.client import Client

    Event = tuple[str, dict[str, Any]]

RECONNECT_S = 60.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SERVER_ENDS_S = 300


class Scope:
    """What is watched: a collection, its selectors, and the form in which objects are wanted."""

    def __init__(self, path: str, query: Sequence[tuple[str, str]], accept: str = JSON) -> None:
        self.path = path
        self.query = query
        self.accept = accept


def follow(client: Client, scope: Scope, start: str, until: float | None = None) -> Iterator[Event]:
    """Every change after the revision `start`, as (type, object). Ends at `until` (monotonic), else never.
    Raises StatusError (`is_expired`: list again), Unreached."""
    gc.enable()  # a watch may last for days
    revision = start
    pause_s, failing_since = _FIRST_PAUSE_S, None
    while until is None or time.monotonic() < until:
        asked = [*scope.query, ("watch", "true"), ("allowWatchBookmarks", "true")]
        asked += [("resourceVersion", revision), ("timeoutSeconds", str(_SERVER_ENDS_S))]
        began = time.monotonic()
        try:
            for line in client.stream(scope.path, asked, scope.accept, until):
                failing_since, pause_s = None, _FIRST_PAUSE_S
                kind, value = str(line.get("type")), line.get("object") or {}
                if kind == "ERROR":
                    raise StatusError(value)
                revision = _revision(value) or revision
                if kind != "BOOKMARK":
                    yield kind, value
        except (StatusError, Unreached) as error:
            failing_since = failing_since or began
            if not _may_pass(error) or time.monotonic() - failing_since > RECONNECT_S:
                raise
        if time.monotonic() - began < _FIRST_PAUSE_S or failing_since:
            left = _LONGEST_PAUSE_S if until is None else max(0.0, until - time.monotonic())
            time.sleep(min(pause_s, left))
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def deadline(client: Client) -> float | None:
    """When a watch must end that was given a time, from now on (monotonic)."""
    return None if client.watch_s is None else time.monotonic() + client.watch_s


def _may_pass(error: CliError) -> bool:
    return isinstance(error, Unreached) or (
        isinstance(error, StatusError) and error.code >= 429 and error.code != 501
    )


def _revision(value: dict[str, Any]) -> str:
    """Of an object, or of a Table with the object's row."""
    found = (value.get("metadata") or {}).get("resourceVersion")
    if not found and value.get("kind") == "Table":
        for row in value.get("rows") or ():
            found = ((row.get("object") or {}).get("metadata") or {}).get("resourceVersion") or found
    return str(found or "")
