"""`domctl migrate`: ask for domains to be moved, by a Migration for each; or for that to be ended.

What is made is an object like any other: `domctl get migrations` shows what became of it as long as it is
kept. Names are the domain's with a few letters behind, so that asking again is another request.
"""

from __future__ import annotations

import math
import secrets
import sys

from controller.cli import until
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words, wait_ready
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, Reported, UsageError, printable, rendered
from controller.cli.flags import duration
from controller.cli.lists import items, read
from controller.cli.resources import DOMAINS, MIGRATIONS, domain_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.flags import Flags

FIELD_MANAGER = "domctl"
NAME_LENGTH = 63
FINISHED = ("Succeeded", "Failed", "Aborted")
LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # as Kubernetes' generated names: they spell nothing
ABOUT = """Move domains to another node, live, while they run.

 The host of the source moves the guest directly to the host of the target, and goes on whatever becomes of
 this command or the controller. A domain that does not run is moved as it is. Without --to the best other
 node is taken."""


def configure(flags: Flags) -> None:
    examples = (
        ("To a node, and wait until it is there", "domctl migrate web-1 --to hv2 --wait"),
        ("Shut it off, move it, start it again", "domctl migrate web-1 --cold"),
        ("Think better of it", "domctl migrate web-1 --abort"),
    )
    flags.describe("DOMAIN… [--to NODE] [options]", ABOUT, examples)
    flags.value("--to", text="The node to move to; any other one that fits when left out.")
    flags.switch("--cold", text="Shut the domain off, move it and start it again.")
    flags.switch("--copy-storage", text="Copy the disks that the hosts do not share, too.")
    flags.value(
        "--ttl",
        default=None,
        to=duration,
        text="How long each request stays to be read after its end. Default: for ever.",
    )
    flags.switch("--abort", text="End the migrations of these domains; they go on where they are.")
    configure_dry_run(flags)
    flags.switch("--wait", text="Wait until the domains have moved.")
    flags.value("--timeout", default=600.0, to=duration, text="How long --wait waits. Negative: for a week.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    names = domain_names(args.words, "name at least one domain: domctl migrate DOMAIN…")
    if args.abort and (args.to or args.cold or args.copy_storage or args.ttl is not None):
        raise UsageError(
            "--abort ends what was asked for before: it takes no --to, --cold, --copy-storage or --ttl"
        )
    if args.ttl is not None and args.ttl < 0:
        raise UsageError("--ttl cannot be negative")
    client = connect(args)
    asked: list[until.Awaited] = []
    failed = 0
    for name in names:
        try:
            asked += _abort(client, name, dry_run) if args.abort else [_ask(client, name, args)]
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed += 1
    if args.wait and dry_run == "none" and not args.abort:
        failed += wait_ready(client, asked, args.timeout, before(asked))
    if failed:
        raise Reported
    return 0


def _ask(client: Client, domain: str, args: argparse.Namespace) -> until.Awaited:
    """Raises StatusError: there is no such domain, for one."""
    client.get(DOMAINS.path(client.namespace, domain))
    spec: dict[str, Any] = {}
    if args.to:
        spec["node"] = args.to.removeprefix("node/").removeprefix("nodes/")
    if args.cold:
        spec["mode"] = "Cold"
    if args.copy_storage:
        spec["copyStorage"] = True
    if args.ttl is not None:
        spec["ttlSecondsAfterFinished"] = math.ceil(args.ttl)
    return ask(client, (client.namespace, domain), spec, args.dry_run)


def ask(client: Client, place: tuple[str, str], spec: dict[str, Any], dry_run: str) -> until.Awaited:
    """Create a Migration of the domain at `place`, its namespace and name. Raises StatusError."""
    namespace, domain = place
    ending = "".join(secrets.choice(LETTERS) for _ in range(5))
    name = f"{domain[: NAME_LENGTH - 6].rstrip('-')}-{ending}"
    body = {
        "apiVersion": "domctl.io/v1",
        "kind": MIGRATIONS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"domain": domain, **spec},
    }
    uid, made = "", None
    if dry_run != "client":
        made = client.call("POST", MIGRATIONS.path(namespace), query(dry_run), body)
        uid = str(made["metadata"].get("uid") or "")
    sys.stdout.write(f"{MIGRATIONS.word}/{name} created{dry_words(dry_run)}\n")
    sys.stdout.flush()
    awaited = until.Awaited(MIGRATIONS, namespace, name, uid)
    awaited.last = made
    return awaited


def before(asked: Sequence[until.Awaited]) -> str:
    """The revision of the first request: with a short --ttl it may be gone before all are made. "" where one
    was made by somebody else, and so perhaps has ended before."""
    made = [str(one.last["metadata"].get("resourceVersion") or "") for one in asked if one.last]
    return made[0] if made and len(made) == len(asked) else ""


def _abort(client: Client, domain: str, dry_run: str) -> list[until.Awaited]:
    """All of the domain's that have not ended."""
    open_ones = [
        str(one["metadata"]["name"])
        for one in items(read(client, MIGRATIONS.path(client.namespace)))
        if one["spec"].get("domain") == domain and (one.get("status") or {}).get("phase") not in FINISHED
    ]
    if not open_ones:
        raise CliError(f'no migration of domain "{printable(domain)}" is under way or waiting')
    for name in open_ones:
        if dry_run != "client":
            path = MIGRATIONS.path(client.namespace, name)
            client.call("PATCH", path, query(dry_run), {"spec": {"abort": True}}, content_type=MERGE_PATCH)
        sys.stdout.write(f"{MIGRATIONS.word}/{printable(name)} to be ended{dry_words(dry_run)}\n")
    return []


def query(dry_run: str) -> list[tuple[str, str]]:
    asked = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
    return [*asked, ("dryRun", "All")] if dry_run == "server" else asked
