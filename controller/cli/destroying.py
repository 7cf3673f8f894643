"""Deleting, for `delete` and `apply --prune`: one request an object, and a limit on how many.

Deleting a domain ends its guest. So a command deletes few objects unless it is told how many it may
(`--allow-destroy N`): a file that went missing, a wrong directory or a selector that matches all must not
take a cluster down. What would have gone is named, and the limit counts what is really there. What was
selected rather than named goes only if it is still that very object (by uid).
"""

from __future__ import annotations

import sys

from controller.cli.errors import CliError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

FEW = 5
_NAMED = 50


class Doomed:
    """One object that is to be deleted; `uid` "" for whatever has its name."""

    def __init__(self, resource: Resource, namespace: str, name: str, uid: str = "") -> None:
        self.resource = resource
        self.namespace = namespace
        self.name = name
        self.uid = uid

    @property
    def label(self) -> str:
        return f"{self.resource.word}/{printable(self.name)}"


def configure(flags: Flags) -> None:
    flags.value(
        "--allow-destroy",
        default=FEW,
        to=int,
        text="How many objects this command may delete. More are named, and none is deleted.",
    )


def check(doomed: Sequence[Doomed], allowed: int, dry_run: str) -> None:
    """Raises CliError when there are too many; a dry run is only warned."""
    if len(doomed) <= allowed:
        return
    count = len(doomed)
    words = f"this would delete {count} object{'s' if count > 1 else ''}, and {allowed} may be"
    if dry_run != "none":
        sys.stderr.write(f"Warning: {words}: --allow-destroy {count} is needed\n")
        return
    lines = [
        f"  {one.label}" + (f" in {printable(one.namespace)}" if one.namespace else "") for one in doomed
    ]
    more = [f"  and {count - _NAMED} more"] if count > _NAMED else []
    raise CliError(
        "\n".join([f"{words}, so nothing was done:", *lines[:_NAMED], *more]),
        hint=f"--allow-destroy {count} lets all of these go; the guests of domains end",
    )


def delete(client: Client, one: Doomed, dry_run: str) -> str:
    """The uid of what is being deleted, "" when the answer does not say. Raises StatusError."""
    path = one.resource.path(one.namespace, one.name)
    if dry_run == "client":
        client.get(path)
        return ""
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    if one.uid:
        body["preconditions"] = {"uid": one.uid}
    if dry_run == "server":
        body["dryRun"] = ["All"]
    query = [("dryRun", "All")] if dry_run == "server" else []
    answer = client.call("DELETE", path, query, body)
    if answer.get("kind") == "Status":
        return str((answer.get("details") or {}).get("uid") or "")
    return str((answer.get("metadata") or {}).get("uid") or "")
