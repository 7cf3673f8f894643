"""`domctl options`: the options that all commands share."""

from __future__ import annotations

import sys

from controller.cli.flags import Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def configure(flags: Flags) -> None:
    flags.describe("", "Print the options that all commands share.", ())


def run(args: argparse.Namespace) -> int:
    flags = Flags(args.command)
    flags.connection()
    sys.stdout.write(flags.global_help())
    return 0
