"""`cordon`, `uncordon` and `drain`: let nothing new be placed on a node, and move away what runs there.

`drain` cordons a node and asks for a Migration of each domain that the controller says is on it, or takes the
one that is asked for already; what is off moves as it is. Nothing is ever stopped by it: a domain that cannot
move stays, and says why.
"""

from __future__ import annotations

import sys

from controller.cli import lists, migrate
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words, wait_ready
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, Reported, UsageError, printable, rendered
from controller.cli.flags import duration
from controller.cli.resources import DOMAINS, MIGRATIONS, NODES, named
from controller.cli.until import Awaited

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

CORDON, UNCORDON, DRAIN = "domctl cordon", "domctl uncordon", "domctl drain"
_ABOUT = {
    CORDON: "Let nothing new be placed on nodes. What runs there stays.",
    UNCORDON: "Let domains be placed on nodes again.",
    DRAIN: """Empty nodes: let nothing new be placed there, move every domain away, and wait until all have.

 Domains that run move while they run, no more at once than policy.migrationsPerNode. Who stops waiting ends
 what has not begun with `domctl migrate DOMAIN --abort`.""",
}


def configure(flags: Flags) -> None:
    verb = flags.command
    flags.describe("(NODE… | -l label) [options]", _ABOUT[verb], (("One node, hv1", f"{verb} hv1"),))
    flags.value("-l", "--selector", text="Selector (label query) of the nodes.")
    if verb == DRAIN:
        flags.value(
            "--timeout", default=0.0, to=duration, text="How long to wait for the domains. Zero: a week."
        )
        flags.switch("--ignore-daemonsets", text="Has no meaning here; for what is written for kubectl.")
        flags.switch("--delete-emptydir-data", text="Has no meaning here; for what is written for kubectl.")
    configure_dry_run(flags)
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    if bool(args.words) == bool(args.selector):
        raise UsageError(f"name nodes, or select them with -l: {args.command} NODE…")
    client = connect(args)
    failed = 0
    for node in _nodes(client, args):
        try:
            _set(client, node, off=args.command != UNCORDON, dry_run=dry_run)
            failed += _empty(client, node, args) if args.command == DRAIN else 0
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed += 1
    if failed:
        raise Reported
    return 0


def _nodes(client: Client, args: argparse.Namespace) -> list[str]:
    if args.selector:
        listed = lists.read(client, NODES.path(), [("labelSelector", args.selector)])
        return [str(one["metadata"]["name"]) for one in lists.items(listed)]
    words = [
        word if word.partition("/")[0] in NODES.names and "/" in word else f"node/{word}"
        for word in args.words
    ]
    return [name for _, names in named(client, words) for name in names]


def _set(client: Client, node: str, *, off: bool, dry_run: str) -> None:
    """Raises StatusError."""
    path = NODES.path(name=node)
    done = "cordoned" if off else "uncordoned"
    if bool(client.get(path)["spec"].get("unschedulable")) == off:
        done = f"already {done}"
    elif dry_run != "client":
        patch = {"spec": {"unschedulable": True if off else None}}
        client.call("PATCH", path, migrate.query(dry_run), patch, content_type=MERGE_PATCH)
    sys.stdout.write(f"{NODES.word}/{printable(node)} {done}{dry_words(dry_run)}\n")
    sys.stdout.flush()


def _empty(client: Client, node: str, args: argparse.Namespace) -> int:
    """How many domains are left."""
    there = lists.items(lists.read(client, DOMAINS.path(), [("fieldSelector", f"status.node={node}")]))
    asked: list[Awaited] = []
    failed = 0
    under_way = _under_way(client) if there else {}
    for domain in there:
        meta: dict[str, Any] = domain["metadata"]
        place = (str(meta.get("namespace") or ""), str(meta["name"]))
        if place in under_way:
            asked.append(under_way[place])
            continue
        try:
            asked.append(migrate.ask(client, place, {}, args.dry_run))
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed += 1
    if args.dry_run == "none":
        failed += wait_ready(client, asked, args.timeout or -1.0, migrate.before(asked))
    if not failed:
        sys.stdout.write(f"{NODES.word}/{printable(node)} drained{dry_words(args.dry_run)}\n")
    return failed


def _under_way(client: Client) -> dict[tuple[str, str], Awaited]:
    """The migrations that have not ended, by their domains."""
    found: dict[tuple[str, str], Awaited] = {}
    for one in lists.items(lists.read(client, MIGRATIONS.path())):
        meta = one["metadata"]
        if (one.get("status") or {}).get("phase") not in migrate.FINISHED:
            namespace = str(meta.get("namespace") or "")
            awaited = Awaited(MIGRATIONS, namespace, str(meta["name"]), str(meta.get("uid") or ""))
            found[namespace, str(one["spec"].get("domain"))] = awaited
    return found
