"""`domctl diff`: what apply would change, as the server would have it.

Exit code 0: nothing; 1: differences, shown as a unified diff of YAML; 2: it could not be found out.
"""

from __future__ import annotations

import sys

from controller.cli import destroying, diffreport, manifests, output
from controller.cli.apply import applier, configure_applying, set_for
from controller.cli.client import at_last, connect
from controller.cli.clientside import live_object
from controller.cli.diffreport import Difference
from controller.cli.errors import CliError, StatusError, UsageError, rendered
from controller.cli.lists import configure_files
from controller.cli.serverside import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.apply import Applier, Placed
    from controller.cli.client import Client
    from controller.cli.flags import Flags

    Object = dict[str, Any]

ABOUT = """Show the difference between what is there and what apply would make of it.

 The server computes it and changes nothing. Exit code: 0 no differences, 1 differences, 2 an error."""
EXAMPLES = (
    ("Show what a file would change", "domctl diff -f web.yaml"),
    (
        "As a comment, with what pruning would delete",
        "domctl diff -R -f specs/ --prune --applyset=specs -o markdown",
    ),
    ("In a script", "domctl diff -f specs/ -R >/dev/null; test $? -le 1"),
)
FAILED = 2


def configure(flags: Flags) -> None:
    flags.usage_code = FAILED
    flags.describe("-f FILENAME [-R] [options]", ABOUT, EXAMPLES)
    configure_files(flags)
    configure_applying(flags)
    destroying.configure(flags)
    flags.value("-o", "--output", text="Output format: markdown, for a comment on a pull request.")
    flags.switch("--show-managed-fields", text="Include managed fields in the diff.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except CliError as error:
        error.exit_code = FAILED
        raise


def _run(args: argparse.Namespace) -> int:
    if args.output not in {"", "markdown"}:
        raise UsageError(f'--output "{args.output}" is not available: leave it out, or write markdown')
    found = manifests.load(args.filename, recursive=args.recursive, check=args.validate)
    client = connect(args)
    placed = manifests.with_namespaces(found, client.namespace, args.namespace)
    chosen = applier(args, "server")
    members = set_for(client, args, placed)
    differences, failures = _compared(client, args, chosen, placed)
    for one in members.leaving(placed) if members else ():
        before = _shown(args, client.get(one.resource.path(one.namespace, one.name)))
        differences.append(_difference(one.label, one.resource.plural, one.namespace, (before, None)))
    differences = [one for one in differences if one.lines]
    if args.output:
        sys.stdout.write(diffreport.markdown(differences, failures, args.allow_destroy))
    else:
        sys.stdout.write(diffreport.unified(differences))
    sys.stdout.flush()
    sys.stderr.write("".join(failures))
    return FAILED if failures else 1 if differences else 0


def _compared(
    client: Client, args: argparse.Namespace, chosen: Applier, placed: Placed
) -> tuple[list[Difference], list[str]]:
    """What would become of each object of the files, and what could not be found out."""
    differences: list[Difference] = []
    failures: list[str] = []
    for one, namespace in placed:
        try:
            before = live_object(client, one, namespace)
            _, after = at_last(chosen.apply(client, one, namespace))
        except StatusError as error:
            failures.append(rendered(error.while_(f"error when comparing {one.place}")))
            continue
        except Refused as error:
            failures.append(rendered(error))
            continue
        pair = (_shown(args, before) if before else None, _shown(args, after))
        differences.append(_difference(one.label, one.resource.plural, namespace, pair))
    return differences, failures


def _shown(args: argparse.Namespace, value: Object) -> Object:
    return value if args.show_managed_fields else output.without_managed_fields(value)


def _difference(
    label: str, plural: str, namespace: str, pair: tuple[Object | None, Object | None]
) -> Difference:
    where = f" in {namespace}" if namespace else ""
    return Difference(label + where, f"{plural}/{namespace or '-'}/{label.rpartition('/')[2]}", *pair)
