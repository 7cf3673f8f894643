"""`domctl apply`: make the server's objects say what files say.

All files are checked first; then each object is created, or patched by the three-way merge that kubectl
uses, over kubectl's own annotation. One object that fails does not keep the others back. What was applied
before is compared with what stands there at the moment of patching: a conflict is computed anew, never
forced.
"""

from __future__ import annotations

import sys

from controller.cli import changes, manifests, merge3, output, until
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import Reported, StatusError, UsageError, rendered
from controller.cli.flags import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags
    from controller.cli.manifests import Manifest

    Object = dict[str, Any]

ABOUT = """Create objects, or change them to what files say.

 All documents are checked before anything is sent; problems are named as file:line:column. Fields that other
 users or the controller set are left alone, and fields that were applied before and are no longer in the file
 are removed. The same objects can be applied with kubectl."""
EXAMPLES = (
    ("Apply a file", "domctl apply -f web.yaml"),
    (
        "Apply a directory and those below it, and wait",
        "domctl apply -R -f specs/ --wait",
    ),
    ("Apply what another command writes", "generate | domctl apply -f -"),
    ("Let the server check, and change nothing", "domctl apply -f web.yaml --dry-run=server"),
)
FIELD_MANAGER = "domctl-client-side-apply"
_CONFLICTS = 5  # as often as kubectl tries
_FIELD_VALIDATION = {"strict": "Strict", "warn": "Warn", "ignore": "Ignore"}


def configure(flags: Flags) -> None:
    flags.describe("(-f FILENAME | -f DIRECTORY | -f -) [-R] [options]", ABOUT, EXAMPLES)
    changes.configure_files(flags)
    changes.configure_dry_run(flags)
    flags.value(
        "--validate", default="strict", text="What becomes of unknown fields: strict, warn or ignore."
    )
    flags.value(
        "--field-manager", default=FIELD_MANAGER, text="Name of the manager used to track field ownership."
    )
    flags.switch("--server-side", text="Not supported yet.")
    flags.value("-o", "--output", text="Output format: json, yaml or name.")
    flags.switch("--wait", text="Wait until all applied objects are Ready.")
    flags.value("--timeout", default=60.0, to=duration, text="How long --wait waits. Negative: for a week.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    if args.server_side:
        raise UsageError("--server-side is not supported yet; leave it out")
    if args.words:
        raise UsageError(f"Unexpected args: {args.words}; files are named with -f")
    dry_run = changes.checked_dry_run(args)
    wanted = output.Format(args.output) if args.output else None
    found = manifests.load(args.filename, recursive=args.recursive, check=args.validate)
    client = connect(args)
    applier = Applier(client, args.field_manager, dry_run, _FIELD_VALIDATION[args.validate])
    placed = [(one, manifests.namespace_for(one, client.namespace, args.namespace)) for one in found]
    waiting: list[until.Awaited] = []
    failed = 0
    for one, namespace in placed:
        try:
            what, value = applier.apply(one, namespace)
        except StatusError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error.while_(f"error when applying {one.place}")))
            failed += 1
            continue
        _show(wanted, one, what + changes.dry_words(dry_run), value)
        uid = str((value.get("metadata") or {}).get("uid") or "")
        waiting.append(until.Awaited(one.resource, namespace, one.name, uid))
    if args.wait and dry_run == "none":
        failed += changes.wait_ready(client, waiting, args.timeout)
    if failed:
        raise Reported
    return 0


def _show(wanted: output.Format | None, one: Manifest, what: str, value: Object) -> None:
    if wanted is not None and wanted.kind != "":
        sys.stdout.write(output.write(wanted, value, one.resource))
    else:
        sys.stdout.write(f"{one.label} {what}\n")
    sys.stdout.flush()


class Applier:
    """Applies one object at a time. With dry_run "client" nothing is sent but reads."""

    def __init__(self, client: Client, field_manager: str, dry_run: str, validation: str = "Strict") -> None:
        self._client = client
        self._dry_run = dry_run
        self._query = [("fieldManager", field_manager), ("fieldValidation", validation)]
        if dry_run == "server":
            self._query.append(("dryRun", "All"))

    def apply(self, one: Manifest, namespace: str) -> tuple[str, Object]:
        """created, configured or unchanged, with the object as it then is. Raises StatusError."""
        wanted = merge3.with_last_applied(one.raw, namespace)
        for attempt in range(_CONFLICTS):
            live = self.live(one, namespace)
            try:
                return (
                    self._patch(one, namespace, wanted, live)
                    if live
                    else self._create(one, namespace, wanted)
                )
            except StatusError as error:
                racing = error.reason == "Conflict" or (error.reason == "AlreadyExists" and not live)
                if not racing or attempt == _CONFLICTS - 1:
                    raise
        raise AssertionError("unreachable")

    def live(self, one: Manifest, namespace: str) -> Object | None:
        try:
            found: Object = self._client.get(one.resource.path(namespace, one.name))
        except StatusError as error:
            if error.is_not_found:
                return None
            raise
        return found

    def _create(self, one: Manifest, namespace: str, wanted: Object) -> tuple[str, Object]:
        if self._dry_run == "client":
            return "created", wanted
        return "created", self._client.call("POST", one.resource.path(namespace), self._query, wanted)

    def _patch(self, one: Manifest, namespace: str, wanted: Object, live: Object) -> tuple[str, Object]:
        patch = merge3.three_way(merge3.last_applied(live), wanted, live)
        if not patch:
            return "unchanged", live
        if live["metadata"].get("deletionTimestamp"):
            sys.stderr.write(f"Warning: {one.label} is being deleted; the change does not bring it back\n")
        if self._dry_run == "client":
            return "configured", merge3.applied(live, patch)
        path = one.resource.path(namespace, one.name)
        after: Object = self._client.call("PATCH", path, self._query, patch, content_type=MERGE_PATCH)
        same = after["metadata"].get("resourceVersion") == live["metadata"].get("resourceVersion")
        return ("unchanged" if same and self._dry_run == "none" else "configured"), after
