"""`domctl api-resources` and `domctl api-versions`: the kinds that the server serves, and in which groups."""

from __future__ import annotations

import sys

from controller.cli.client import connect
from controller.cli.errors import UsageError, printable
from controller.cli.flags import listed
from controller.cli.table import Grid

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags

    Object = dict[str, Any]

EXAMPLES = (
    ("Print the supported API resources", "domctl api-resources"),
    ("With the verbs of each", "domctl api-resources -o wide"),
)


VERSIONS = "domctl api-versions"


def configure(flags: Flags) -> None:
    if flags.command == VERSIONS:
        about = "Print the supported API versions on the server, in the form of group/version."
        flags.describe("[options]", about, (("Print them", VERSIONS),))
        flags.connection(namespace=False)
        return
    flags.describe("[options]", "Print the supported API resources on the server.", EXAMPLES)
    flags.value("--api-group", default=None, text="Only resources of this group.")
    flags.values("--verbs", text="Only resources that have all of these verbs.")
    flags.values("--categories", text="Only resources that are in all of these categories.")
    flags.switch("--no-headers", text="Don't print headers.")
    flags.value("-o", "--output", text="Output format: wide or name.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    if args.command == VERSIONS:
        return _print_versions(connect(args))
    if args.output not in {"", "wide", "name"}:
        raise UsageError(f"--output {args.output} is not available")
    client = connect(args)
    found = [(api, entry) for api in _versions(client) for entry in _entries(client, api)]
    if args.api_group is not None:
        found = [(api, entry) for api, entry in found if api.rpartition("/")[0] == args.api_group]
    for key, wanted in (("verbs", listed(args.verbs)), ("categories", listed(args.categories))):
        found = [(api, entry) for api, entry in found if set(wanted) <= set(entry.get(key) or ())]
    found.sort(key=lambda one: (one[0].rpartition("/")[0], str(one[1]["name"])))
    if args.output == "name":
        names = [f"{entry['name']}.{api.rpartition('/')[0]}".rstrip(".") for api, entry in found]
        sys.stdout.write("".join(f"{printable(name)}\n" for name in names))
        return 0
    rows = [] if args.no_headers else [["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]]
    for api, entry in found:
        namespaced = "true" if entry.get("namespaced") else "false"
        short = ",".join(entry.get("shortNames") or ())
        rows.append([entry["name"], short, api, namespaced, entry["kind"]])
    if args.output == "wide":
        more = [] if args.no_headers else [["VERBS", "CATEGORIES"]]
        more += [[",".join(entry.get(key) or ()) for key in ("verbs", "categories")] for _, entry in found]
        rows = [[*row, *extra] for row, extra in zip(rows, more, strict=True)]
    sys.stdout.write("".join(f"{printable(line)}\n" for line in Grid().lines(rows)))
    return 0


def _print_versions(client: Client) -> int:
    groups = client.get("/apis").get("groups") or []
    known = [str(one["groupVersion"]) for group in groups for one in group["versions"]]
    known += client.get("/api").get("versions") or []
    sys.stdout.write("".join(f"{printable(one)}\n" for one in sorted(known)))
    return 0


def _versions(client: Client) -> list[str]:
    """Of the core group and of all others, the preferred ones."""
    core = client.get("/api").get("versions") or []
    groups = client.get("/apis").get("groups") or []
    return [*core, *(str(group["preferredVersion"]["groupVersion"]) for group in groups)]


def _entries(client: Client, api: str) -> list[Object]:
    found: Object = client.get(f"/apis/{api}" if "/" in api else f"/api/{api}")
    return [entry for entry in found.get("resources") or () if "/" not in entry["name"]]
