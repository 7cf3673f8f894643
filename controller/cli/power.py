"""`domctl start`, `shutdown`, `pause`, `resume`, `save`, `restore`, and `reboot`, `reset`, `drop-saved`.

The first say what state a domain should be in: they only change `spec.state`, and the controller does the
rest. The others ask for something once, by an annotation whose value is the present time. What was changed is
printed. When the file that the domain was applied from names the state too, the next apply will set it back:
that is said.
"""

from __future__ import annotations

import datetime
import sys

from controller.cli import merge3, until
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words, wait_ready
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, Reported, printable, rendered
from controller.cli.flags import duration
from controller.cli.resources import DOMAINS, domain_names

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
    "domctl save": "saved",
    "domctl restore": "running",
}
REQUESTS = {
    "domctl resume": "resume",
    "domctl restore": "restore",
    "domctl reboot": "reboot",
    "domctl reset": "reset",
    "domctl drop-saved": "drop-saved",
}
ONLY_WHERE_HELD = {"resume": ("PausedByHand", "PausedOnError")}
DEFAULT_STATE = "running"
UNDER_WAY = "begun"
ABOUT = {
    "domctl start": "Ask for domains to run: sets spec.state to running.",
    "domctl shutdown": "Ask for domains to be shut down: sets spec.state to shutoff.\n\n"
    " The guest is asked as spec.shutdown says, and is off at the latest when the grace time is over.",
    "domctl pause": "Ask for domains to stand still: sets spec.state to paused.\n\n"
    " A paused guest keeps its memory and its disks. One that is off is started first.",
    "domctl resume": "Ask for paused domains to go on: sets spec.state to running.\n\n"
    " One that was paused by hand, or because a disk failed, is resumed once.",
    "domctl save": "Ask for domains to be saved: sets spec.state to saved.\n\n"
    " The guest's memory goes to its host's disk, and the next start goes on from there.",
    "domctl restore": "Ask for saved domains to go on: sets spec.state to running.\n\n"
    " Also where the definition changed since: the guest goes on with the one that it was saved with.",
    "domctl reboot": "Ask guests to start again, once.\n\n A guest may ignore it. What came of it stands in"
    " status.requests.",
    "domctl reset": "Press the reset button of domains, once.\n\n The guest is not asked. What came of it"
    " stands in status.requests.",
    "domctl drop-saved": "Throw the saved memory of domains away, once.\n\n"
    " What the guest had in memory is lost, and its disks are as after a power cut.",
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
    flags.switch("--wait", text="Wait until the domains are as asked for, or the requests are answered.")
    flags.value("--timeout", default=120.0, to=duration, text="How long --wait waits. Negative: for a week.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    names = domain_names(args.words, f"name at least one domain: {args.command} NAME…")
    client = connect(args)
    changed: list[until.Awaited] = []
    asked: list[until.Awaited] = []
    failed = 0
    for name in names:
        try:
            uid, request = _ask(client, name, args.command, dry_run)
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed += 1
            continue
        changed.append(until.Awaited(DOMAINS, client.namespace, name, uid))
        if request:
            asked.append(until.Awaited(DOMAINS, client.namespace, name, uid))
    if args.wait and dry_run == "none":
        failed += _wait_answered(client, asked, REQUESTS.get(args.command, ""), args.timeout)
        if args.command in STATES:
            failed += wait_ready(client, changed, args.timeout)
    if failed:
        raise Reported
    return 0


def _wait_answered(client: Client, asked: list[until.Awaited], request: str, timeout_s: float) -> int:
    """Until each request was answered, whatever the answer is; how many were not. A state that was shown
    before the request says nothing of it."""
    if not asked:
        return 0

    def tell(one: until.Awaited) -> None:
        sys.stdout.write(f"{one.label} {request}: {printable(_outcome(one.last or {}, request))}\n")
        sys.stdout.flush()

    wait = until.Wait(client, lambda value: value is not None and bool(_outcome(value, request)), timeout_s)
    wait.on_met = tell
    left = wait.run(asked)
    for one in left:
        sys.stderr.write(f"error: {request} of {one.label} was not answered: {until.reason_of(one.last)}\n")
    return len(left)


def _outcome(value: dict[str, Any], request: str) -> str:
    """What became of the request that stands in the object; "" while it is under way."""
    wanted = (value["metadata"].get("annotations") or {}).get(f"domctl.io/{request}-at")
    for answered in (value.get("status") or {}).get("requests") or ():
        if answered.get("name") == request and answered.get("value") == wanted:
            outcome = str(answered.get("outcome") or "")
            return "" if outcome == UNDER_WAY else outcome
    return ""


def _ask(client: Client, name: str, verb: str, dry_run: str) -> tuple[str, str]:
    """Returns the uid, and the request that was made. Raises StatusError."""
    path = DOMAINS.path(client.namespace, name)
    live: dict[str, Any] = client.get(path)
    before = str((live.get("spec") or {}).get("state") or DEFAULT_STATE)
    state = STATES.get(verb, before)
    request = _request(verb, live)
    label = f"{DOMAINS.word}/{printable(name)}"
    uid = str(live["metadata"].get("uid") or "")
    if before == state and not request:
        sys.stdout.write(f"{label} unchanged (spec.state is {state})\n")
        return uid, ""
    change: dict[str, Any] = {} if before == state else {"spec": {"state": state}}
    if request:
        change["metadata"] = {"annotations": {f"domctl.io/{request}-at": _now()}}
    if dry_run != "client":
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        query += [("dryRun", "All")] if dry_run == "server" else []
        client.call("PATCH", path, query, change, content_type=MERGE_PATCH)
    if before != state:
        sys.stdout.write(f"{label} spec.state: {before} -> {state}{dry_words(dry_run)}\n")
    if request:
        sys.stdout.write(f"{label} asked for: {request}{dry_words(dry_run)}\n")
    sys.stdout.flush()
    if before != state and (what_next := next_apply(live)):
        sys.stderr.write(f"Warning: {label}: spec.state also stands in what {what_next} to {before}\n")
    return uid, request


def _request(verb: str, live: dict[str, Any]) -> str:
    """What the verb asks for once; "" where its state says all."""
    request = REQUESTS.get(verb, "")
    where = ONLY_WHERE_HELD.get(request)
    if where is not None and (live.get("status") or {}).get("reason") not in where:
        return ""
    return request


def _now() -> str:
    """To the microsecond: each time that is asked is a request of its own."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def next_apply(live: dict[str, Any]) -> str:
    """Who applied `spec.state` from a file, and what applying it again will do; "" where nobody did."""
    for entry in live["metadata"].get("managedFields") or ():
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        manager = str(entry.get("manager") or "")
        if "f:state" in fields and entry.get("operation") == "Apply" and manager != FIELD_MANAGER:
            return f'"{printable(manager)}" applied; its next apply is a conflict, or with force sets it back'
    before = merge3.last_applied(live) or {}
    return "a file applied, and the next apply sets it back" if "state" in (before.get("spec") or {}) else ""
