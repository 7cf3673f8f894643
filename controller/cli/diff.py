"""`domctl diff`: what apply would change, as the server would have it.

Exit code 0: nothing; 1: differences, shown as a unified diff of YAML; 2: it could not be found out.
"""

from __future__ import annotations

import sys

from controller.cli import manifests, output, yamlout
from controller.cli.apply import applier, configure_applying
from controller.cli.changes import configure_files
from controller.cli.client import connect
from controller.cli.clientside import live_object
from controller.cli.errors import CliError, StatusError, printable, rendered
from controller.cli.merge3 import LAST_APPLIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

ABOUT = """Show the difference between what is there and what apply would make of it.

 The server computes it and changes nothing. Exit code: 0 no differences, 1 differences, 2 an error."""
EXAMPLES = (
    ("Show what a file would change", "domctl diff -f web.yaml"),
    ("In a script", "domctl diff -f specs/ -R >/dev/null; test $? -le 1"),
)
FAILED = 2


def configure(flags: Flags) -> None:
    flags.usage_code = FAILED
    flags.describe("-f FILENAME [-R] [options]", ABOUT, EXAMPLES)
    configure_files(flags)
    configure_applying(flags)
    flags.switch("--show-managed-fields", text="Include managed fields in the diff.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except CliError as error:
        error.exit_code = FAILED
        raise


def _run(args: argparse.Namespace) -> int:
    found = manifests.load(args.filename, recursive=args.recursive, check=args.validate)
    client = connect(args)
    chosen = applier(client, args, "server")
    code = 0
    for one in found:
        namespace = manifests.namespace_for(one, client.namespace, args.namespace)
        try:
            before = live_object(client, one, namespace)
            _, after = chosen.apply(one, namespace)
        except StatusError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error.while_(f"error when comparing {one.place}")))
            code = FAILED
            continue
        if not args.show_managed_fields:
            after = output.without_managed_fields(after)
            before = output.without_managed_fields(before) if before else None
        lines = _difference(f"{one.resource.plural}/{namespace or '-'}/{one.name}", before, after)
        sys.stdout.write("".join(lines))
        code = max(code, 1 if lines else 0)
    return code


def _difference(name: str, before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    import difflib  # noqa: PLC0415

    old, new = _lines(before), _lines(after)
    return list(difflib.unified_diff(old, new, f"live/{name}", f"merged/{name}"))


def _lines(value: dict[str, Any] | None) -> list[str]:
    """As YAML, without what changes by itself and the annotation that repeats the file."""
    if value is None:
        return []
    meta = {k: v for k, v in value["metadata"].items() if k != "resourceVersion"}
    annotations = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    meta["annotations"] = annotations
    if not annotations:
        del meta["annotations"]
    text = printable(yamlout.dump({**value, "metadata": meta}), keep="\n")
    return text.splitlines(keepends=True)
