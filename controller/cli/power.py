"""`domctl start`, `shutdown`, `pause` and `resume`: say what state a domain should be in.

All of them only change `spec.state`; the controller does the rest. What was changed is printed. When the
file that the domain was applied from names the state too, the next apply will set it back: that is said.
"""

from __future__ import annotations

import sys

from controller.cli import merge3, until
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words, wait_ready
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, Reported, UsageError, printable, rendered
from controller.cli.flags import duration
from controller.cli.resources import DOMAINS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

FIELD_MANAGER = "domctl"
STATES = {
    "domctl start": "running",
    "domctl shutdown": "shutoff",
    "domctl pause": "paused",
    "domctl resume": "running",
}
DEFAULT_STATE = "running"
ABOUT = {
    "domctl start": "Ask for domains to run: sets spec.state to running.",
    "domctl shutdown": "Ask for domains to be shut down: sets spec.state to shutoff.\n\n"
    " The guest is asked as spec.shutdown says, and is off at the latest when the grace time is over.",
    "domctl pause": "Ask for domains to stand still: sets spec.state to paused.\n\n"
    " A paused guest keeps its memory and its disks. One that is off is started first.",
    "domctl resume": "Ask for paused domains to go on: sets spec.state to running.",
}


def configure(flags: Flags) -> None:
    verb = flags.command
    short = verb.removeprefix("domctl ")
    examples = (
        (f"{short.capitalize()} a domain", f"{verb} web-1"),
        ("Several, and wait until it is so", f"{verb} web-1 web-2 --wait"),
    )
    flags.describe("NAME… [options]", ABOUT[verb], examples)
    configure_dry_run(flags)
    flags.switch("--wait", text="Wait until the domains are as asked for.")
    flags.value("--timeout", default=120.0, to=duration, text="How long --wait waits. Negative: for a week.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    state = STATES[args.command]
    dry_run = checked_dry_run(args)
    names = [name.removeprefix("domain/").removeprefix("domains/") for name in args.words]
    if not names or not all(names):
        raise UsageError(f"name at least one domain: {args.command} NAME…")
    client = connect(args)
    changed: list[until.Awaited] = []
    failed = 0
    for name in names:
        try:
            uid = _set(client, name, state, dry_run)
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed += 1
            continue
        changed.append(until.Awaited(DOMAINS, client.namespace, name, uid))
    if args.wait and dry_run == "none":
        failed += wait_ready(client, changed, args.timeout)
    if failed:
        raise Reported
    return 0


def _set(client: Client, name: str, state: str, dry_run: str) -> str:
    """Returns the uid. Raises StatusError."""
    path = DOMAINS.path(client.namespace, name)
    live: dict[str, Any] = client.get(path)
    before = str((live.get("spec") or {}).get("state") or DEFAULT_STATE)
    label = f"{DOMAINS.word}/{printable(name)}"
    uid = str(live["metadata"].get("uid") or "")
    if before == state:
        sys.stdout.write(f"{label} unchanged (spec.state is {state})\n")
        return uid
    if dry_run != "client":
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        query += [("dryRun", "All")] if dry_run == "server" else []
        client.call("PATCH", path, query, {"spec": {"state": state}}, content_type=MERGE_PATCH)
    sys.stdout.write(f"{label} spec.state: {before} -> {state}{dry_words(dry_run)}\n")
    sys.stdout.flush()
    if owner := owner_of_state(live):
        sys.stderr.write(
            f"Warning: {label}: spec.state also stands in what {owner} applied, and the next apply "
            f"sets it back to {before}\n"
        )
    return uid


def owner_of_state(live: dict[str, Any]) -> str:
    """Who applied `spec.state` from a file and will do so again; "" for nobody."""
    for entry in live["metadata"].get("managedFields") or ():
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        manager = str(entry.get("manager") or "")
        if "f:state" in fields and entry.get("operation") == "Apply" and manager != FIELD_MANAGER:
            return f'"{printable(manager)}"'
    before = merge3.last_applied(live) or {}
    return "a file" if "state" in (before.get("spec") or {}) else ""
