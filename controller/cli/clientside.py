"""Apply from the client's side: kubectl's three-way merge over kubectl's own annotation.

What was applied before is compared with what stands there at the moment of patching: a conflict is computed
anew, never forced. `--server-side=false` asks for it; and a dry run of what has yet to be taken over from it
is told by it, since the server has no dry run of two steps.
"""

from __future__ import annotations

import sys

from controller.cli import merge3
from controller.cli.client import MERGE_PATCH, Client, at_last
from controller.cli.errors import StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from controller.cli.client import Steps
    from controller.cli.manifests import Manifest

    Object = dict[str, Any]

FIELD_MANAGER = "domctl-client-side-apply"
ATTEMPTS = 5  # as often as kubectl tries


def live_object(client: Client, one: Manifest, namespace: str) -> Object | None:
    """What stands there; None where nothing does. Raises StatusError."""
    return at_last(live_in_steps(client, one, namespace))


def live_in_steps(client: Client, one: Manifest, namespace: str) -> Steps[Object | None]:
    try:
        found: Object = yield from client.asked("GET", one.resource.path(namespace, one.name))
    except StatusError as error:
        if error.is_not_found:
            return None
        raise
    return found


def _said(one: Manifest) -> Mapping[str, Any]:
    """A Secret with all of it in `data`, as it is kept: what was applied stands in its annotations otherwise,
    and in clear."""
    if one.resource.kind != "Secret":
        return one.raw
    from specs.secret import without_string_data  # noqa: PLC0415 - for these alone

    return without_string_data(one.raw)


def warn_of_end(one: Manifest, live: Object) -> None:
    if live["metadata"].get("deletionTimestamp"):
        sys.stderr.write(f"Warning: {one.label} is being deleted; the change does not bring it back\n")


class ClientSide:
    """Applies objects, each by a client of its own or all by one. With dry_run "client" nothing is sent but
    reads."""

    def __init__(self, field_manager: str, dry_run: str, validation: str = "Strict") -> None:
        self._dry_run = dry_run
        self._query = [("fieldManager", field_manager), ("fieldValidation", validation)]
        if dry_run == "server":
            self._query.append(("dryRun", "All"))

    def apply(self, client: Client, one: Manifest, namespace: str) -> Steps[tuple[str, Object]]:
        """created, configured or unchanged, with the object as it then is. Raises StatusError."""
        wanted = merge3.with_last_applied(_said(one), namespace)
        for attempt in range(ATTEMPTS):
            live = yield from live_in_steps(client, one, namespace)
            path = one.resource.path(namespace, one.name if live else "")
            try:
                if live:
                    return (yield from self._patch(client, path, one, wanted, live))
                return (yield from self._create(client, path, wanted))
            except StatusError as error:
                racing = error.reason == "Conflict" or (error.reason == "AlreadyExists" and not live)
                if not racing or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _create(self, client: Client, path: str, wanted: Object) -> Steps[tuple[str, Object]]:
        if self._dry_run == "client":
            return "created", wanted
        return "created", (yield from client.asked("POST", path, self._query, wanted))

    def _patch(
        self, client: Client, path: str, one: Manifest, wanted: Object, live: Object
    ) -> Steps[tuple[str, Object]]:
        patch = merge3.three_way(merge3.last_applied(live), wanted, live)
        if not patch:
            return "unchanged", live
        warn_of_end(one, live)
        if self._dry_run == "client":
            return "configured", merge3.applied(live, patch)
        after: Object = yield from client.asked("PATCH", path, self._query, patch, content_type=MERGE_PATCH)
        same = after["metadata"].get("resourceVersion") == live["metadata"].get("resourceVersion")
        return ("unchanged" if same and self._dry_run == "none" else "configured"), after
