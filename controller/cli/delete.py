"""`domctl delete`: ask for objects to be removed, and wait until they are gone.

A domain is gone when the controller has proved that nothing of it is left on any host; its storage is kept.
While that is held up, the object's own reason is shown.
"""

from __future__ import annotations

import sys

from controller.cli import until
from controller.cli.changes import (
    checked_dry_run,
    configure_dry_run,
    configure_files,
    dry_words,
    pending_teller,
)
from controller.cli.client import Client, connect
from controller.cli.errors import CliError, Reported, StatusError, UsageError, printable, rendered
from controller.cli.flags import duration
from controller.cli.resources import Resource, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

    Named = tuple[Resource, str, str]

ABOUT = """Delete objects by file or by name. The storage of domains is never removed.

 The command returns when the objects are gone. A domain whose node does not answer is not gone until the node
 does, or until somebody vouches for it (domctl node confirm-dead, domctl resolve)."""
EXAMPLES = (
    ("Delete a domain", "domctl delete domain web-1"),
    ("Delete what a file names", "domctl delete -f web.yaml"),
    ("Do not wait", "domctl delete domain web-1 --wait=false"),
)


def configure(flags: Flags) -> None:
    flags.describe("(-f FILENAME | TYPE NAME… | TYPE/NAME…) [options]", ABOUT, EXAMPLES)
    configure_files(flags)
    configure_dry_run(flags)
    flags.switch("--wait", default=True, text="Wait for the objects to be gone before returning.")
    flags.value("--timeout", default=0.0, to=duration, text="How long to wait. Zero: as long as it takes.")
    flags.switch("--ignore-not-found", text='Treat "resource not found" as a successful delete.')
    flags.value("-o", "--output", text='Output mode. Use "-o name" for shorter output (resource/name).')
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    if args.output not in {"", "name"}:
        raise UsageError(f"unexpected -o output mode: {args.output}. We only support '-o name'")
    client = connect(args)
    targets = _targets(client, args)
    waiting: list[until.Awaited] = []
    failed: list[CliError] = []
    for resource, namespace, name in targets:
        try:
            uid = _delete(client, resource, namespace, name, dry_run)
        except StatusError as error:
            if not (args.ignore_not_found and error.is_not_found):
                failed.append(error)
            continue
        if args.output:
            sys.stdout.write(f"{resource.word}/{printable(name)}\n")
        else:
            sys.stdout.write(f'{resource.word} "{printable(name)}" deleted{dry_words(dry_run)}\n')
        waiting.append(until.Awaited(resource, namespace, name, uid))
    sys.stdout.flush()
    for failure in failed:
        sys.stderr.write(rendered(failure))
    late = _wait(client, waiting, args.timeout) if args.wait and dry_run == "none" else 0
    if failed or late:
        raise Reported
    return 0


def _targets(client: Client, args: argparse.Namespace) -> list[Named]:
    if args.filename:
        if args.words:
            raise UsageError("when -f is provided as argument, no other arguments are allowed")
        from controller.cli import manifests  # noqa: PLC0415 - slow to load

        files = manifests.load_names(args.filename, recursive=args.recursive)
        return [
            (f.resource, manifests.namespace_for(f, client.namespace, args.namespace), f.name) for f in files
        ]
    found: list[Named] = []
    for resource, names in named(client, args.words):
        if not names:
            raise UsageError("resource(s) were provided, but no name was specified")
        found += [(resource, client.namespace if resource.namespaced else "", name) for name in names]
    return found


def _delete(client: Client, resource: Resource, namespace: str, name: str, dry_run: str) -> str:
    """The uid of what is being deleted, "" when the answer does not say."""
    path = resource.path(namespace, name)
    if dry_run == "client":
        client.get(path)
        return ""
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    if dry_run == "server":
        body["dryRun"] = ["All"]
    query = [("dryRun", "All")] if dry_run == "server" else []
    answer = client.call("DELETE", path, query, body)
    if answer.get("kind") == "Status":
        return str((answer.get("details") or {}).get("uid") or "")
    return str((answer.get("metadata") or {}).get("uid") or "")


def _wait(client: Client, waiting: list[until.Awaited], timeout_s: float) -> int:
    wait = until.Wait(client, lambda value: value is None, timeout_s or -1.0)
    wait.on_pending = pending_teller()
    left = wait.run(waiting)
    for one in left:
        why = until.reason_of(one.last)
        sys.stderr.write(
            f"error: timed out waiting for {one.resource.plural}/{printable(one.name)} to be gone: {why}\n"
        )
    return len(left)
