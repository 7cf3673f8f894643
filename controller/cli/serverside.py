"""Apply by the server: it merges what a file says into the object, and keeps whose each field is.

Each object is one request that says all a file says of it. What another manager owns and the file would
change is a conflict, which is told with the manager and the field and never forced unless asked. What was
applied from the client's side before, with domctl or kubectl, is taken over first (`controller.cli.owned`);
a dry run of that is computed as the client's side would. With dry_run "client" nothing is sent but reads.
"""

from __future__ import annotations

from controller.cli import owned
from controller.cli.client import APPLY_PATCH, JSON_PATCH
from controller.cli.clientside import ATTEMPTS, ClientSide, live_in_steps, warn_of_end
from controller.cli.errors import CliError, StatusError, printable
from controller.cli.merge3 import LAST_APPLIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from controller.cli.client import Client, Steps
    from controller.cli.manifests import Manifest

    Object = dict[str, Any]

FIELD_MANAGER = "domctl-apply"  # not `domctl`, by which the controller is known
PART_OF = "applyset.kubernetes.io/part-of"
_MOVES = ("managedFields", "resourceVersion", "generation")


class Refused(CliError):
    """One object cannot be applied, and was not sent."""


class ServerSide:
    """Applies objects, each by a client of its own or all by one."""

    def __init__(self, field_manager: str, dry_run: str, *, validation: str = "Strict", force: bool) -> None:
        self._manager = field_manager
        self._dry_run = dry_run
        self._force = force
        self._validation = validation
        self._query = [("fieldManager", field_manager), ("fieldValidation", validation)]
        self._apply_query = [*self._query, ("force", "true" if force else "false")]
        if dry_run == "server":
            self._apply_query.append(("dryRun", "All"))

    def apply(self, client: Client, one: Manifest, namespace: str) -> Steps[tuple[str, Object]]:
        """created, configured or unchanged, with the object as it then is. Raises StatusError."""
        for attempt in range(ATTEMPTS):
            live = yield from live_in_steps(client, one, namespace)
            try:
                return (yield from self._apply(client, one, namespace, live))
            except StatusError as error:
                racing = error.reason == "Conflict" and not error.field_conflicts
                if not racing or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _apply(
        self, client: Client, one: Manifest, namespace: str, live: Object | None
    ) -> Steps[tuple[str, Object]]:
        wanted = sent(one, namespace)
        if live and not self._force:
            _refuse_other_set(one, wanted, live)
        if self._dry_run == "client":
            if live is None:
                return "created", wanted
            return ("configured" if owned.would_change(live, wanted, self._manager) else "unchanged"), wanted
        path = one.resource.path(namespace, one.name)
        patch = owned.take_over(live, self._manager) if live else []
        if patch and self._dry_run == "server":
            told = ClientSide(self._manager, "server", self._validation)
            return (yield from told.apply(client, one, namespace))
        if patch:
            yield from client.asked("PATCH", path, self._query, patch, content_type=JSON_PATCH)
        after: Object = yield from client.asked(
            "PATCH", path, self._apply_query, wanted, content_type=APPLY_PATCH
        )
        if live is None:
            return "created", after
        if settled(live) == settled(after):
            return "unchanged", after
        warn_of_end(one, live)
        return "configured", after


def _refuse_other_set(one: Manifest, wanted: Object, live: Object) -> None:
    """An object is pruned with the set that it is in: none takes another's in silence."""
    mine = (wanted["metadata"].get("labels") or {}).get(PART_OF)
    other = (live["metadata"].get("labels") or {}).get(PART_OF)
    if mine and other and mine != other:
        raise Refused(
            f"error when applying {one.place}: {one.label} belongs to another ApplySet, {printable(other)}",
            hint="take it out of the other set's files first, or let this one have it by --force-conflicts",
        )


def sent(one: Manifest, namespace: str) -> Object:
    """What the file says, in `namespace` ("" for cluster-scoped kinds)."""
    metadata = {k: v for k, v in one.raw["metadata"].items() if k != "managedFields"}
    if namespace:
        metadata["namespace"] = namespace
    return {**one.raw, "metadata": metadata}


def settled(value: Object) -> Object:
    """An object without what changes by itself: two that are equal say the same."""
    metadata = {k: v for k, v in value["metadata"].items() if k not in _MOVES}
    annotations = {k: v for k, v in (metadata.pop("annotations", None) or {}).items() if k != LAST_APPLIED}
    if annotations:
        metadata["annotations"] = annotations
    return {**{k: v for k, v in value.items() if k != "status"}, "metadata": metadata}
