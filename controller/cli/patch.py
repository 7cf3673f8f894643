"""`domctl patch`: change fields of objects by a patch, as it is given.

The patch is JSON or YAML. Without --type it is a merge patch (RFC 7386), which every kind takes; kubectl's
default, strategic, is only for the kinds that Kubernetes has.
"""

from __future__ import annotations

import sys

from controller.cli import lists, output
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words
from controller.cli.client import JSON_PATCH, MERGE_PATCH, connect
from controller.cli.errors import CliError, UsageError, printable, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

FIELD_MANAGER = "domctl-patch"
TYPES = {"merge": MERGE_PATCH, "json": JSON_PATCH, "strategic": "application/strategic-merge-patch+json"}
EXAMPLES = (
    ("Set a field", """domctl patch domain web-1 -p '{"spec":{"vcpus":4}}'"""),
    (
        "Take one away",
        """domctl patch domain web-1 --type=json -p '[{"op":"remove","path":"/spec/vcpus"}]'""",
    ),
)


def configure(flags: Flags) -> None:
    usage = "(-f FILENAME | TYPE NAME… | TYPE/NAME…) (-p PATCH | --patch-file FILE) [options]"
    flags.describe(usage, "Change fields of objects by a patch, JSON or YAML.", EXAMPLES)
    flags.value("-p", "--patch", text="The patch.")
    flags.value("--patch-file", text="A file with the patch.")
    flags.value("--type", default="merge", text="What kind of patch it is: merge, json or strategic.")
    flags.value("--subresource", text="Change this subresource instead: status, for one.")
    flags.value("--field-manager", default=FIELD_MANAGER, text="Name of the manager of what is changed.")
    flags.value("-o", "--output", text="Output format: json, yaml or name.")
    lists.configure_files(flags)
    configure_dry_run(flags)
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    if args.type not in TYPES:
        raise UsageError(f'--type must be one of {", ".join(TYPES)}, not "{args.type}"')
    if dry_run == "client":
        raise UsageError("only the server knows what comes of a patch: --dry-run=server")
    patch = _patch(args)
    wanted = output.Documents(args.output) if args.output else None
    client = connect(args)
    query = [("fieldManager", args.field_manager), ("fieldValidation", "Strict")]
    query += [("dryRun", "All")] if dry_run == "server" else []
    failed: list[CliError] = []
    for resource, names in lists.targets(client, args, args.words):
        if not names:
            raise UsageError("resource(s) were provided, but no name was specified")
        namespace = client.namespace if resource.namespaced else ""
        for name in names:
            path = resource.path(namespace, name, args.subresource)
            try:
                before = client.get(path)
                after = client.call("PATCH", path, query, patch, content_type=TYPES[args.type])
            except CliError as error:
                failed.append(error)
                continue
            if wanted is not None:
                sys.stdout.write(wanted.text(after, resource))
                continue
            same = "" if _without_revision(before) != _without_revision(after) else " (no change)"
            sys.stdout.write(f"{resource.word}/{printable(name)} patched{dry_words(dry_run)}{same}\n")
    report(failed)
    return 0


def _without_revision(value: dict[str, Any]) -> dict[str, Any]:
    meta = {k: v for k, v in value["metadata"].items() if k not in {"resourceVersion", "managedFields"}}
    return {**value, "metadata": meta}


def _patch(args: argparse.Namespace) -> object:
    """Raises CliError."""
    if bool(args.patch) == bool(args.patch_file):
        raise UsageError("must specify --patch or --patch-file containing the contents of the patch")
    from specs.yamldoc import load  # noqa: PLC0415 - slow to load

    text = args.patch
    if args.patch_file:
        try:
            with open(args.patch_file, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", "") or error
            raise CliError(f"unable to read {args.patch_file}: {why}") from None
    loaded = load(text)
    if loaded.problems:
        raise CliError(f"unable to parse the patch: {'; '.join(map(str, loaded.problems))}")
    if len(loaded.documents) != 1:
        raise CliError(f"the patch must be one document, and has {len(loaded.documents)}")
    return loaded.documents[0].value
