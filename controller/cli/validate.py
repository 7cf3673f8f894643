"""`domctl validate`: check files without a server, as apply does before it sends anything."""

from __future__ import annotations

import sys

from controller.cli import manifests
from controller.cli.changes import configure_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags

ABOUT = """Check files without a server.

 Every problem of every document is named as file:line:column: field: what is wrong."""
EXAMPLES = (("Check a directory", "domctl validate -R -f specs/"),)


def configure(flags: Flags) -> None:
    flags.describe("-f FILENAME [-R] [options]", ABOUT, EXAMPLES)
    configure_files(flags)
    flags.value(
        "--validate", default="strict", text="What becomes of unknown fields: strict, warn or ignore."
    )


def run(args: argparse.Namespace) -> int:
    found = manifests.load([*args.filename, *args.words], recursive=args.recursive, check=args.validate)
    for one in found:
        sys.stdout.write(f"{one.label} valid\n")
    return 0
