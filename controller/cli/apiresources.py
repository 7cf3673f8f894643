"""`domctl api-resources`: the kinds that the server serves."""

from __future__ import annotations

import sys

from controller.cli.client import connect
from controller.cli.errors import UsageError, printable
from controller.cli.resources import GROUP, VERSION
from controller.cli.table import Grid

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags

EXAMPLES = (
    ("Print the supported API resources", "domctl api-resources"),
    ("With the verbs of each", "domctl api-resources -o wide"),
)


def configure(flags: Flags) -> None:
    flags.describe("[options]", "Print the supported API resources on the server.", EXAMPLES)
    flags.switch("--no-headers", text="Don't print headers.")
    flags.value("-o", "--output", text="Output format: wide or name.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    if args.output not in {"", "wide", "name"}:
        raise UsageError(f"--output {args.output} is not available")
    api = f"{GROUP}/{VERSION}"
    entries = connect(args).get(f"/apis/{api}").get("resources") or []
    entries = sorted(
        (entry for entry in entries if "/" not in entry["name"]), key=lambda entry: str(entry["name"])
    )
    if args.output == "name":
        sys.stdout.write("".join(f"{printable(entry['name'])}.{GROUP}\n" for entry in entries))
        return 0
    rows = [] if args.no_headers else [["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]]
    for entry in entries:
        namespaced = "true" if entry.get("namespaced") else "false"
        short = ",".join(entry.get("shortNames") or ())
        rows.append([entry["name"], short, api, namespaced, entry["kind"]])
    if args.output == "wide":
        verbs = [] if args.no_headers else ["VERBS"]
        verbs += [",".join(entry.get("verbs") or ()) for entry in entries]
        rows = [[*row, verb] for row, verb in zip(rows, verbs, strict=True)]
    sys.stdout.write("".join(f"{printable(line)}\n" for line in Grid().lines(rows)))
    return 0
