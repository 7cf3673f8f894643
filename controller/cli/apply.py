"""`domctl apply`: make the server's objects say what files say.

All files are checked first; then each object is created or changed by server-side apply
(`controller.cli.serverside`; `--server-side=false`: `controller.cli.clientside`). One object that fails does
not keep the others back. They are sent in the order of the files, and several at once where neighbours cannot
need one another; what came of them is told in order.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import groupby

from controller.cli import changes, destroying, lanes, lists, manifests, output, until
from controller.cli.client import connect
from controller.cli.clientside import FIELD_MANAGER as CLIENT_SIDE_MANAGER
from controller.cli.clientside import ClientSide
from controller.cli.errors import CliError, Reported, StatusError, Unreached, UsageError, rendered
from controller.cli.flags import duration
from controller.cli.serverside import FIELD_MANAGER, Refused, ServerSide

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any

    from controller.cli.applyset import ApplySet
    from controller.cli.client import Client, Steps
    from controller.cli.flags import Flags
    from controller.cli.manifests import Manifest

    Object = dict[str, Any]
    Applier = ClientSide | ServerSide
    Placed = list[tuple[Manifest, str]]
    Outcome = tuple[str, Object] | StatusError | Refused

ABOUT = """Create objects, or change them to what files say.

 All documents are checked before anything is sent; problems are named as file:line:column. Fields that other
 users or the controller set are left alone, and fields that were applied before and are no longer in the file
 are removed. The server does it and keeps whose each field is: where a file would change what another manager
 owns, that is a conflict, and --force-conflicts takes the field over. What was applied before from a client's
 side, as kubectl does by default, is taken over.

 With --prune, what was applied with the same --applyset before and is in none of the files any more is
 deleted. It is counted before anything is sent: see --allow-destroy. With --wait it is waited for, too."""
EXAMPLES = (
    ("Apply a file", "domctl apply -f web.yaml"),
    (
        "Apply a directory and those below it, and wait",
        "domctl apply -R -f specs/ --wait",
    ),
    ("Apply what another command writes", "generate | domctl apply -f -"),
    ("Let the server check, and change nothing", "domctl apply -f web.yaml --dry-run=server"),
    (
        "Apply a directory, and delete what has left it since the last time",
        "domctl apply -R -f specs/ --prune --applyset=specs",
    ),
    ("Take over fields that others set", "domctl apply -f web.yaml --force-conflicts"),
)
# Kinds of which one object can be applied while another of its kind is.
_ABREAST = ("Domain", "Migration", "Node", "ConfigMap", "Secret")
_FIELD_VALIDATION = {"strict": "Strict", "warn": "Warn", "ignore": "Ignore"}


def configure(flags: Flags) -> None:
    flags.describe("(-f FILENAME | -f DIRECTORY | -f -) [-R] [options]", ABOUT, EXAMPLES)
    lists.configure_files(flags)
    changes.configure_dry_run(flags)
    configure_applying(flags)
    destroying.configure(flags)
    flags.value("-o", "--output", text="Output format: json, yaml or name.")
    flags.switch("--wait", text="Wait until all applied objects are Ready.")
    flags.value("--timeout", default=60.0, to=duration, text="How long --wait waits. Negative: for a week.")
    flags.connection()


def configure_applying(flags: Flags) -> None:
    """What `diff` has, too."""
    flags.value(
        "--validate", default="strict", text="What becomes of unknown fields: strict, warn or ignore."
    )
    flags.switch("--server-side", default=True, text="Let the server merge, and keep whose each field is.")
    flags.switch("--force-conflicts", text="Take fields over that other managers own, instead of failing.")
    flags.value(
        "--field-manager", text=f'Name of the manager of what is applied; if left out, "{FIELD_MANAGER}".'
    )
    flags.switch("--prune", text="Delete what was applied with the same --applyset and has left the files.")
    flags.value(
        "--applyset",
        text="[KIND/]NAME of the object that remembers the set: a configmap, unless another kind is named "
        "(namespace, role, clusterrole, secret).",
    )


def applier(args: argparse.Namespace, dry_run: str) -> Applier:
    """What the options of `configure_applying` ask for. Raises UsageError."""
    validation = _FIELD_VALIDATION[args.validate]
    if args.server_side:
        manager = args.field_manager or FIELD_MANAGER
        return ServerSide(manager, dry_run, validation=validation, force=args.force_conflicts)
    if args.force_conflicts:
        raise UsageError("--force-conflicts only works with --server-side")
    return ClientSide(args.field_manager or CLIENT_SIDE_MANAGER, dry_run, validation)


def set_for(client: Client, args: argparse.Namespace, placed: Placed) -> ApplySet | None:
    """The set that is pruned; what is applied then carries its label. Raises CliError."""
    if args.prune != bool(args.applyset):
        raise UsageError("--prune and --applyset=[KIND/]NAME go together: only members of a set are pruned")
    if not args.prune:
        return None
    if not args.server_side:
        raise UsageError("--prune only works with --server-side")
    from controller.cli import applyset  # noqa: PLC0415 - what it loads is not for every apply

    chosen = applyset.named(client, args.applyset)
    chosen.adopt(placed)
    return chosen


def run(args: argparse.Namespace) -> int:
    if args.words:
        raise UsageError(f"Unexpected args: {args.words}; files are named with -f")
    dry_run = changes.checked_dry_run(args)
    wanted = output.Documents(args.output) if args.output else None
    found = manifests.load(args.filename, recursive=args.recursive, check=args.validate)
    client = connect(args)
    placed = manifests.with_namespaces(found, client.namespace, args.namespace)
    chosen = applier(args, dry_run)
    members = set_for(client, args, placed)
    leaving = members.leaving(placed) if members else []
    destroying.check(leaving, args.allow_destroy, dry_run)
    if members and dry_run == "none":
        members.widen(placed)
    waiting, failed = _apply(client, chosen, placed, wanted, dry_run)
    gone: list[until.Awaited] = []
    if members and failed:
        sys.stderr.write(f"error: nothing was pruned, since {failed} could not be applied\n")
    elif members:
        gone, failed = _prune(members, leaving, placed, wanted, dry_run)
        if dry_run == "none" and not failed:
            members.narrow(placed)
    if args.wait and dry_run == "none":
        failed += changes.wait_gone(client, gone, args.timeout)
        failed += changes.wait_ready(client, waiting, args.timeout)
    if failed:
        raise Reported
    return 0


def _apply(
    client: Client, chosen: Applier, placed: Placed, wanted: output.Documents | None, dry_run: str
) -> tuple[list[until.Awaited], int]:
    """What was applied, and how many could not be."""
    applied: list[until.Awaited] = []
    failed = 0
    for one, namespace, outcome in _outcomes(client, chosen, placed):
        if not isinstance(outcome, tuple):
            doing = f"error when applying {one.place}"
            sys.stdout.flush()
            sys.stderr.write(rendered(outcome.while_(doing) if isinstance(outcome, StatusError) else outcome))
            failed += 1
            continue
        what, value = outcome
        _show(wanted, one, what + changes.dry_words(dry_run), value)
        uid = str((value.get("metadata") or {}).get("uid") or "")
        applied.append(until.Awaited(one.resource, namespace, one.name, uid))
    return applied, failed


def _outcomes(client: Client, chosen: Applier, placed: Placed) -> Iterator[tuple[Manifest, str, Outcome]]:
    """What came of each, in order. Raises Unreached."""
    for _, neighbours in groupby(enumerate(placed), _abreast):
        group = [pair for _, pair in neighbours]
        each = [partial(_steps, chosen, *pair) for pair in group]
        for number, outcome in enumerate(lanes.in_order(client, each)):
            if isinstance(outcome, StatusError) and outcome.code == 422 and len(group) > 1:
                # Of a MAC address, say, that an earlier one gives up: all of those are through by now.
                outcome = _alone(client.twin(), each[number])  # noqa: PLW2901 - the second answer counts
            if isinstance(outcome, CliError) and not isinstance(outcome, StatusError | Refused):
                if isinstance(outcome, Unreached) and outcome.maybe_done and len(group) > 1:
                    outcome.hint = "what is not named above may have been applied, too; run the command again"
                raise outcome
            yield *group[number], outcome


def _alone(client: Client, asked: Callable[[Client], Steps[tuple[str, Object]]]) -> Outcome | CliError:
    try:
        return next(lanes.in_order(client, [asked]))
    finally:
        client.close()


def _abreast(numbered: tuple[int, tuple[Manifest, str]]) -> tuple[str, int]:
    """Equal for neighbours that cannot need one another."""
    number, (one, _) = numbered
    return (one.resource.kind, 0) if one.resource.kind in _ABREAST else ("", number)


def _steps(chosen: Applier, one: Manifest, namespace: str, client: Client) -> Steps[tuple[str, Object]]:
    return chosen.apply(client, one, namespace)


def _prune(
    members: ApplySet,
    leaving: list[destroying.Doomed],
    placed: Placed,
    wanted: output.Documents | None,
    dry_run: str,
) -> tuple[list[until.Awaited], int]:
    """What was asked to go, and how many could not be."""
    gone, failed = members.prune(leaving, placed, dry_run)
    for one in gone:
        if wanted is None or wanted.kind == "name":
            words = f" pruned{changes.dry_words(dry_run)}" if wanted is None else ""
            sys.stdout.write(f"{one.label}{words}\n")
    sys.stdout.flush()
    return [until.Awaited(one.resource, one.namespace, one.name, one.uid) for one in gone], failed


def _show(wanted: output.Documents | None, one: Manifest, what: str, value: Object) -> None:
    if wanted is not None:
        sys.stdout.write(wanted.text(value, one.resource))
    else:
        sys.stdout.write(f"{one.label} {what}\n")
    sys.stdout.flush()
