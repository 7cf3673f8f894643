"""Apply from the client's side: kubectl's three-way merge over kubectl's own annotation.

What was applied before is compared with what stands there at the moment of patching: a conflict is computed
anew, never forced. `--server-side=false` asks for it; and a dry run of what has yet to be taken over from it
is told by it, since the server has no dry run of two steps.
"""

from __future__ import annotations

import sys

from controller.cli import merge3
from controller.cli.client import MERGE_PATCH, Client
from controller.cli.errors import StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from controller.cli.manifests import Manifest

    Object = dict[str, Any]

FIELD_MANAGER = "domctl-client-side-apply"
ATTEMPTS = 5  # as often as kubectl tries


def live_object(client: Client, one: Manifest, namespace: str) -> Object | None:
    """What stands there; None where nothing does. Raises StatusError."""
    try:
        found: Object = client.get(one.resource.path(namespace, one.name))
    except StatusError as error:
        if error.is_not_found:
            return None
        raise
    return found


def warn_of_end(one: Manifest, live: Object) -> None:
    if live["metadata"].get("deletionTimestamp"):
        sys.stderr.write(f"Warning: {one.label} is being deleted; the change does not bring it back\n")


class ClientSide:
    """Applies one object at a time. With dry_run "client" nothing is sent but reads."""

    def __init__(self, client: Client, field_manager: str, dry_run: str, validation: str = "Strict") -> None:
        self._client = client
        self._dry_run = dry_run
        self._query = [("fieldManager", field_manager), ("fieldValidation", validation)]
        if dry_run == "server":
            self._query.append(("dryRun", "All"))

    def apply(self, one: Manifest, namespace: str) -> tuple[str, Object]:
        """created, configured or unchanged, with the object as it then is. Raises StatusError."""
        wanted = merge3.with_last_applied(one.raw, namespace)
        for attempt in range(ATTEMPTS):
            live = live_object(self._client, one, namespace)
            try:
                return (
                    self._patch(one, namespace, wanted, live)
                    if live
                    else self._create(one, namespace, wanted)
                )
            except StatusError as error:
                racing = error.reason == "Conflict" or (error.reason == "AlreadyExists" and not live)
                if not racing or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _create(self, one: Manifest, namespace: str, wanted: Object) -> tuple[str, Object]:
        if self._dry_run == "client":
            return "created", wanted
        return "created", self._client.call("POST", one.resource.path(namespace), self._query, wanted)

    def _patch(self, one: Manifest, namespace: str, wanted: Object, live: Object) -> tuple[str, Object]:
        patch = merge3.three_way(merge3.last_applied(live), wanted, live)
        if not patch:
            return "unchanged", live
        warn_of_end(one, live)
        if self._dry_run == "client":
            return "configured", merge3.applied(live, patch)
        path = one.resource.path(namespace, one.name)
        after: Object = self._client.call("PATCH", path, self._query, patch, content_type=MERGE_PATCH)
        same = after["metadata"].get("resourceVersion") == live["metadata"].get("resourceVersion")
        return ("unchanged" if same and self._dry_run == "none" else "configured"), after
