"""`domctl logs`: what a domain wrote to its console, as far as it was recorded; with `-f`, as it comes.

The server keeps the last of what consoles with `record: true` in the spec wrote, also over restarts and
migrations. Options are those of `kubectl logs`. The output is the guest's own, byte for byte.
"""

from __future__ import annotations

import sys

from controller.cli.client import connect
from controller.cli.errors import UsageError
from controller.cli.flags import duration
from controller.cli.resources import DOMAINS, domain_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags

EXAMPLES = (
    ("What was recorded", "domctl logs web-1"),
    ("The last lines, and what follows", "domctl logs web-1 --tail=20 -f"),
    ("Of the last ten minutes, with times", "domctl logs web-1 --since=10m --timestamps"),
)
ABOUT = (
    "Print what a domain wrote to its console. That is recorded where the spec says so:\n\n"
    "   serials:\n   - name: main\n     record: true"
)


def configure(flags: Flags) -> None:
    flags.describe("NAME [options]", ABOUT, EXAMPLES)
    flags.switch("-f", "--follow", text="Go on with what comes, until interrupted.")
    flags.value("--tail", default=-1, to=int, text="Only so many of the last lines. -1: all.")
    flags.value("--since", default=0.0, to=duration, text="Only lines that are no older, as 5s, 2m or 3h.")
    flags.value("--since-time", text="Only lines since this time, as 2026-01-31T00:00:00Z.")
    flags.switch("--timestamps", text="The time before each line.")
    flags.value("--limit-bytes", default=0, to=int, text="No more than so many bytes. 0: no limit.")
    flags.value("-c", "--console", text="The console's name in the spec. By default, the first recorded one.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    (name,) = domain_names(args.words, "name one domain: domctl logs NAME", most=1)
    if args.since and args.since_time:
        raise UsageError("at most one of --since and --since-time may be given")
    query = [
        ("follow", "true" if args.follow else ""),
        ("tailLines", str(args.tail) if args.tail >= 0 else ""),
        ("sinceSeconds", str(max(1, round(args.since))) if args.since else ""),
        ("sinceTime", args.since_time),
        ("timestamps", "true" if args.timestamps else ""),
        ("limitBytes", str(args.limit_bytes) if args.limit_bytes > 0 else ""),
        ("container", args.console),
    ]
    client = connect(args)
    path = DOMAINS.path(client.namespace, name, "log")
    for piece in client.pieces(path, [one for one in query if one[1]]):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return 0
