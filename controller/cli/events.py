"""`domctl events`: what happened, the latest last, of all objects or of one.

Laid out as `kubectl events` does. `-w` goes on with what happens from then on.
"""

from __future__ import annotations

import sys
import time

from controller.cli import lists, output
from controller.cli.client import connect
from controller.cli.describe import event_age, event_time
from controller.cli.errors import StatusError, UsageError, printable
from controller.cli.resources import EVENTS, find
from controller.cli.table import Grid
from controller.cli.watch import Scope, deadline, follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags

    Object = dict[str, Any]

EXAMPLES = (
    ("List the events of the current namespace", "domctl events"),
    ("Those of one domain, and what happens from now on", "domctl events --for domain/web-1 --watch"),
    ("Only warnings, of all namespaces", "domctl events -A --types=Warning"),
)
_COLUMNS = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
_TYPES = ("normal", "warning")


def configure(flags: Flags) -> None:
    flags.describe("[(-o|--output=)json|yaml|name] [--for TYPE/NAME] [options]", "Display events.", EXAMPLES)
    flags.value("--for", text="Filter events to only those of this object: TYPE/NAME.")
    flags.values("--types", text="Output only events of given types: Normal, Warning.")
    flags.switch("-A", "--all-namespaces", text="List the events of all namespaces.")
    flags.switch("-w", "--watch", text="After listing the events, watch for more.")
    flags.switch("--no-headers", text="Don't print headers.")
    flags.value("-o", "--output", text="Output format: json, yaml, name, jsonpath=….")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    wanted = output.Format(args.output)
    if wanted.kind == "custom-columns":
        raise UsageError("--output custom-columns is not available here: get events -o custom-columns=…")
    if args.words:
        raise UsageError(f"unexpected words: {' '.join(args.words)}; name an object with --for TYPE/NAME")
    types = {kind.lower() for value in args.types for kind in value.split(",") if kind}
    if types - set(_TYPES):
        raise UsageError(
            f'valid --types are Normal or Warning, not "{", ".join(sorted(types - set(_TYPES)))}"'
        )
    client = connect(args)
    path = EVENTS.path("" if args.all_namespaces else client.namespace)
    query = _selector(client, getattr(args, "for"))
    listed = lists.read(client, path, query)
    found = [one for one in lists.items(listed) if _is_of(one, types)]
    found.sort(key=event_time)
    if not wanted.is_table:
        sys.stdout.write(output.write(wanted, output.as_list(found), EVENTS))
        return 0
    where = "any namespace" if args.all_namespaces else f"{printable(client.namespace)} namespace"
    if not found and not args.watch:
        sys.stderr.write(f"No events found in {where}.\n")
        return 0
    printer = _Printer(with_namespace=args.all_namespaces, headers=not args.no_headers)
    printer.show(found)
    if args.watch:
        _watch(client, Scope(path, query), listed, printer, types)
    return 0


def _selector(client: Client, subject: str) -> list[tuple[str, str]]:
    if not subject:
        return []
    kind, _, name = subject.partition("/")
    if not name:
        raise UsageError("--for must be in resource/name form")
    resource = find(client, kind)
    api = f"{resource.group}/{resource.version}" if resource.group else resource.version
    parts = {"kind": resource.kind, "apiVersion": api, "name": name}
    return [("fieldSelector", ",".join(f"involvedObject.{key}={value}" for key, value in parts.items()))]


def _is_of(event: Object, types: set[str]) -> bool:
    return not types or str(event.get("type") or "").lower() in types


def _watch(client: Client, scope: Scope, listed: Object, printer: _Printer, types: set[str]) -> None:
    until = deadline(client)
    while until is None or time.monotonic() < until:
        try:
            for kind, event in follow(client, scope, lists.revision(listed), until):
                if kind != "DELETED" and _is_of(event, types):
                    printer.show([event])
        except StatusError as error:
            if not error.is_expired:
                raise
        listed = lists.read(client, scope.path, scope.query)


class _Printer:
    """Rows under headings that are printed once."""

    def __init__(self, *, with_namespace: bool, headers: bool) -> None:
        self._with_namespace = with_namespace
        self._headed = not headers
        self._grid = Grid()

    def show(self, events: Sequence[Object]) -> None:
        rows = [self._row(event) for event in events]
        if rows and not self._headed:
            self._headed = True
            rows.insert(0, [*(["NAMESPACE"] if self._with_namespace else []), *_COLUMNS])
        sys.stdout.write("".join(f"{line}\n" for line in self._grid.lines(rows)))
        sys.stdout.flush()

    def _row(self, event: Object) -> list[str]:
        about = event.get("involvedObject") or {}
        cells = [str(event["metadata"].get("namespace") or "")] if self._with_namespace else []
        cells += [event_age(event), str(event.get("type") or ""), str(event.get("reason") or "")]
        cells += [f"{about.get('kind', '')}/{about.get('name', '')}", str(event.get("message") or "").strip()]
        return [printable(cell) for cell in cells]
