"""`domctl scale`: set how many replicas an object should have, by its scale subresource."""

from __future__ import annotations

import sys

from controller.cli import lists
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words
from controller.cli.client import MERGE_PATCH, connect
from controller.cli.errors import CliError, StatusError, UsageError, printable, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

EXAMPLES = (("Set the number of replicas", "domctl scale TYPE/NAME --replicas=3"),)


def configure(flags: Flags) -> None:
    about = "Set how many replicas objects should have. Only kinds that have replicas can be scaled."
    flags.describe("(-f FILENAME | TYPE NAME… | TYPE/NAME…) --replicas=COUNT [options]", about, EXAMPLES)
    flags.value("--replicas", default=-1, to=int, text="The new desired number of replicas. Required.")
    flags.value("--current-replicas", default=-1, to=int, text="Scale only if there are as many now.")
    flags.value("--resource-version", text="Scale only what is still of this version.")
    lists.configure_files(flags)
    configure_dry_run(flags)
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    if args.replicas < 0:
        raise UsageError("--replicas=COUNT is required, and COUNT must be 0 or more")
    client = connect(args)
    failed: list[CliError] = []
    for resource, names in lists.targets(client, args, args.words):
        if not names:
            raise UsageError("resource(s) were provided, but no name was specified")
        for name in names:
            try:
                _scale(client, args, resource, name)
            except CliError as error:
                failed.append(error)
                continue
            sys.stdout.write(f"{resource.word}/{printable(name)} scaled{dry_words(dry_run)}\n")
    report(failed)
    return 0


def _scale(client: Client, args: argparse.Namespace, resource: Resource, name: str) -> None:
    """Raises CliError."""
    path = resource.path(client.namespace if resource.namespaced else "", name, "scale")
    try:
        current: dict[str, Any] = client.get(path)
    except StatusError as error:
        if error.code in {404, 405} and not error.is_not_found:
            raise CliError(f"cannot scale {resource.qualified}: it has no replicas") from None
        raise
    count = (current.get("spec") or {}).get("replicas", 0)
    version = str(current["metadata"].get("resourceVersion") or "")
    if args.current_replicas not in {-1, count}:
        raise CliError(f"Expected replicas to be {args.current_replicas}, was {count}")
    if args.resource_version and args.resource_version != version:
        raise CliError(f"Expected resource version to be {args.resource_version}, was {version}")
    if args.dry_run == "client":
        return
    query = [("fieldManager", "domctl-scale"), *([("dryRun", "All")] if args.dry_run == "server" else [])]
    body: dict[str, Any] = {"spec": {"replicas": args.replicas}}
    if args.current_replicas >= 0 or args.resource_version:
        body["metadata"] = {"resourceVersion": version}
    client.call("PATCH", path, query, body, content_type=MERGE_PATCH)
