"""`domctl validate`: check files without a server, as apply does before it sends anything."""

from __future__ import annotations

import sys

from controller.cli import manifests
from controller.cli.annotations import FORMATS
from controller.cli.errors import UsageError
from controller.cli.lists import configure_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags
    from specs.problems import Problem

ABOUT = """Check files without a server.

 Every problem of every document is named on stderr as file:line:column: field: what is wrong; -o writes
 them all once more to stdout, for a program."""
EXAMPLES = (
    ("Check a directory", "domctl validate -R -f specs/"),
    ("Let GitHub show problems beside their lines", "domctl validate -R -f specs/ -o github"),
)


def configure(flags: Flags) -> None:
    flags.describe("-f FILENAME [-R] [options]", ABOUT, EXAMPLES)
    configure_files(flags)
    flags.value(
        "--validate", default="strict", text="What becomes of unknown fields: strict, warn or ignore."
    )
    flags.value(
        "-o", "--output", text="Output format of problems: text, json, github (annotations) or gitlab."
    )


def run(args: argparse.Namespace) -> int:
    if args.output not in {"", "text", *FORMATS}:
        raise UsageError(f'--output "{args.output}" is not available: text, {", ".join(FORMATS)} are')
    written = FORMATS.get(args.output)
    problems: list[Problem] = []
    try:
        found = manifests.load(
            [*args.filename, *args.words], recursive=args.recursive, check=args.validate, seen=problems
        )
    finally:
        if written is not None:
            sys.stdout.write(written(problems))
    for one in found if written is None else ():
        sys.stdout.write(f"{one.label} valid\n")
    return 0
