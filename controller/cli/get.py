"""`domctl get`: tables as the server lays them out, objects in any format, and both as they change.

A table watch prints each row as it changes; after a gap (410) it lists again and prints only rows that differ
from what was shown.
"""

from __future__ import annotations

import sys
import time

from controller.cli import lists, output, table
from controller.cli.client import JSON, TABLE, connect
from controller.cli.errors import CliError, StatusError, UsageError, report
from controller.cli.watch import Scope, deadline, follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

ABOUT = """Display one or many resources.

 Prints a table of the most important information about the specified resources. REASON says why an object is
 not as desired, and why nothing is being done about it."""
EXAMPLES = (
    ("List all domains of the current namespace", "domctl get domains"),
    ("List the domains of all namespaces with more columns", "domctl get domains -A -o wide"),
    ("Watch the domains that have a label", "domctl get domains -l app=web -w"),
    ("List the domains on one node", "domctl get domains -A --field-selector status.node=hv1"),
    ("Show one domain as YAML", "domctl get domain web-1 -o yaml"),
    ("Show where a domain is", "domctl get domain web-1 -o jsonpath='{.status.node}'"),
    ("Choose columns", "domctl get domains -o custom-columns=NAME:.metadata.name,NODE:.status.node"),
    ("What the controller has promised, by UUID", "domctl get assignments"),
)


def configure(flags: Flags) -> None:
    flags.describe("(-f FILENAME | TYPE[,TYPE] [NAME…] | TYPE/NAME…) [flags] [options]", ABOUT, EXAMPLES)
    flags.switch("-A", "--all-namespaces", text="List the requested objects across all namespaces.")
    lists.configure_files(flags)
    lists.configure_selectors(flags)
    flags.value("-o", "--output", text=f"Output format. One of: {output.FORMATS}.")
    flags.switch("-w", "--watch", text="After listing the requested objects, watch for changes.")
    flags.switch("--watch-only", text="Watch for changes without listing first.")
    flags.switch("--output-watch-events", text="Output watch event objects when --watch is used.")
    flags.switch("--no-headers", text="Don't print headers.")
    flags.switch("--show-labels", text="Show all labels as the last column.")
    flags.switch("--show-kind", text="List the resource type with the name.")
    flags.switch("--show-managed-fields", text="Keep the managedFields when printing JSON or YAML.")
    flags.switch("--ignore-not-found", text="Return exit code 0 if an object does not exist.")
    flags.values("-L", "--label-columns", text="Labels that are presented as columns.")
    flags.value("--sort-by", text="Sort the list by this field, a JSONPath (e.g. '{.metadata.name}').")
    flags.value(
        "--chunk-size", default=lists.PAGE, to=int, text="Read lists in pages of this size; 0: whole."
    )
    flags.connection()


def run(args: argparse.Namespace) -> int:
    wanted = output.Format(args.output, managed_fields=args.show_managed_fields)
    client = connect(args)
    targets = lists.targets(client, args, args.words)
    if any(names for _, names in targets):
        lists.no_selectors_with_names(args)
        if args.all_namespaces and any(r.namespaced for r, _ in targets):
            raise UsageError("a resource cannot be retrieved by name across all namespaces")
    if args.watch or args.watch_only:
        return _watch(client, args, wanted, targets)
    return _tables(client, args, targets) if wanted.is_table else _objects(client, args, wanted, targets)


def _namespace(client: Client, args: argparse.Namespace, resource: Resource) -> str:
    return client.namespace if resource.namespaced and not args.all_namespaces else ""


def _options(args: argparse.Namespace, resource: Resource, *, several: bool) -> table.Options:
    options = table.Options()
    options.wide = args.output == "wide"
    options.headers = not args.no_headers
    options.with_namespace = args.all_namespaces and resource.namespaced
    options.show_labels = args.show_labels
    options.label_columns = [label for value in args.label_columns for label in value.split(",")]
    options.name_prefix = f"{resource.word}/" if several or args.show_kind else ""
    options.with_event = args.output_watch_events
    return options


def _tables(client: Client, args: argparse.Namespace, targets: Sequence[tuple[Resource, list[str]]]) -> int:
    failed: list[CliError] = []
    shown = 0
    for resource, names in targets:
        found, missing = _collect(client, args, resource, names, TABLE)
        failed += missing
        rows = _as_table(found)
        if args.sort_by:
            _sort(rows, args.sort_by)
        printer = table.Printer(_options(args, resource, several=len(targets) > 1))
        lines = printer.lines(rows)
        if lines:
            sys.stdout.write("\n" if shown else "")
            sys.stdout.write("".join(f"{line}\n" for line in lines))
        shown += len(lines)
    if not shown and not failed and not args.ignore_not_found:
        sys.stderr.write(_nothing(client, args, targets))
    report(failed)
    return 0


def _nothing(client: Client, args: argparse.Namespace, targets: Sequence[tuple[Resource, list[str]]]) -> str:
    inside = not args.all_namespaces and any(resource.namespaced for resource, _ in targets)
    return f"No resources found in {client.namespace} namespace.\n" if inside else "No resources found\n"


def _objects(
    client: Client,
    args: argparse.Namespace,
    wanted: output.Format,
    targets: Sequence[tuple[Resource, list[str]]],
) -> int:
    failed: list[CliError] = []
    found: list[tuple[Resource, dict[str, Any]]] = []
    for resource, names in targets:
        one, missing = _collect(client, args, resource, names, JSON)
        failed += missing
        found += [(resource, item) for item in lists.items(one)]
    single = len(targets) == 1 and len(targets[0][1]) == 1
    if found or not (single or failed):
        if args.sort_by:
            key = _sort_key(args.sort_by)
            found.sort(key=lambda pair: key(pair[1]))
        values = [value for _, value in found]
        value = values[0] if single else output.as_list(values)
        if wanted.columns:
            sys.stdout.write(output.custom_table(wanted, value, headers=not args.no_headers))
        elif wanted.kind == "name":
            sys.stdout.write("".join(output.write(wanted, one, resource) for resource, one in found))
        else:
            sys.stdout.write(output.write(wanted, value, targets[0][0]))
    report(failed)
    return 0


def _collect(
    client: Client, args: argparse.Namespace, resource: Resource, names: Sequence[str], accept: str
) -> tuple[dict[str, Any], list[CliError]]:
    """A List or Table of all, or of the names, and what could not be had of these."""
    namespace = _namespace(client, args, resource)
    query = [("includeObject", "Object")] if args.sort_by and accept == TABLE else []
    if not names:
        query += lists.selectors(args)
        return lists.read(client, resource.path(namespace), query, accept, max(args.chunk_size, 0)), []
    whole: dict[str, Any] = {}
    failed: list[CliError] = []
    for name in names:
        try:
            one = client.get(resource.path(namespace, name), query, accept)
        except StatusError as error:
            if not (error.is_not_found and args.ignore_not_found):
                failed.append(error)
            continue
        part = one if one.get("kind") == "Table" else {"kind": "List", "items": [one]}
        key = "rows" if "rows" in part else "items"
        whole = {**part, **whole, key: [*(whole.get(key) or []), *(part.get(key) or [])]}
    return whole, failed


def _as_table(found: dict[str, Any]) -> dict[str, Any]:
    return found if found.get("kind") == "Table" or not found else table.of_objects(lists.items(found))


def _sort(rows: dict[str, Any], by: str) -> None:
    key = _sort_key(by)
    rows["rows"] = sorted(rows.get("rows") or [], key=lambda row: key(row.get("object") or {}))


def _sort_key(by: str) -> Callable[[object], tuple[int, float, str]]:
    from controller.cli import jsonpath  # noqa: PLC0415

    template = jsonpath.Template(jsonpath.relaxed(by))

    def key(value: object) -> tuple[int, float, str]:
        found = template.values(value)
        if not found:
            return (0, 0.0, "")
        if isinstance(found[0], int | float):
            return (1, float(found[0]), "")
        return (2, 0.0, jsonpath.text(found[0]))

    return key


def _watch(
    client: Client,
    args: argparse.Namespace,
    wanted: output.Format,
    targets: Sequence[tuple[Resource, list[str]]],
) -> int:
    if len(targets) != 1 or len(targets[0][1]) > 1:
        raise UsageError("you may only specify a single resource type, and one name at most, with --watch")
    resource, names = targets[0]
    query = [lists.by_name(names[0])] if names else lists.selectors(args)
    path = resource.path(_namespace(client, args, resource))
    show = _Show(args, wanted, resource)
    scope = Scope(path, query, TABLE if wanted.is_table else JSON)
    if names and not args.ignore_not_found:
        client.get(resource.path(_namespace(client, args, resource), names[0]))  # NotFound, as without -w
    quiet = args.watch_only
    until = deadline(client)
    while until is None or time.monotonic() < until:
        listed = lists.read(client, path, query, scope.accept)
        show.listed(listed, quiet=quiet)
        quiet = False
        try:
            for event, value in follow(client, scope, lists.revision(listed), until):
                show.event(event, value)
        except StatusError as error:
            if not error.is_expired:
                raise
    return 0


class _Show:
    """What a watch has printed: rows by object, each with the version that was shown."""

    def __init__(self, args: argparse.Namespace, wanted: output.Format, resource: Resource) -> None:
        self._wanted = wanted
        self._resource = resource
        self._printer = table.Printer(_options(args, resource, several=False))
        self._grid = table.Grid()
        self._headed = args.no_headers
        self._with_event = args.output_watch_events
        self._versions: dict[tuple[str, str], str] = {}

    def listed(self, listed: dict[str, Any], *, quiet: bool) -> None:
        """Print what is new since it was last shown, all of it at first."""
        if not self._wanted.is_table:
            for one in lists.items(listed):
                if self._is_news("ADDED", one) and not quiet:
                    self._object("ADDED", one)
            return
        rows = _as_table(listed)
        fresh = [row for row in rows.get("rows") or [] if self._is_news("ADDED", row.get("object") or {})]
        self._print(self._printer.lines({**rows, "rows": [] if quiet else fresh}, "ADDED"))

    def event(self, event: str, value: dict[str, Any]) -> None:
        if self._wanted.is_table:
            rows = value if value.get("kind") == "Table" else table.of_objects([value])
            for row in rows.get("rows") or ():
                self._is_news(event, row.get("object") or {})
            self._print(self._printer.lines(rows, event))
        elif self._is_news(event, value):
            self._object(event, value)

    def _is_news(self, event: str, value: dict[str, Any]) -> bool:
        meta = value.get("metadata") or {}
        key = (str(meta.get("namespace", "")), str(meta.get("name", "")))
        version = str(meta.get("resourceVersion", ""))
        if event == "DELETED":
            self._versions.pop(key, None)
            return True
        known = self._versions.get(key)
        self._versions[key] = version
        return known != version or not version

    def _object(self, event: str, value: dict[str, Any]) -> None:
        if self._wanted.columns:
            rows = output.custom_rows(self._wanted, value)
            if not self._headed:
                rows.insert(0, [name for name, _ in self._wanted.columns])
                self._headed = True
            self._print(self._grid.lines(rows))
            return
        if self._with_event and self._wanted.kind in {"json", "yaml"}:
            value = {"type": event, "object": value}
        text = output.write(self._wanted, value, self._resource)
        sys.stdout.write(f"---\n{text}" if self._wanted.kind == "yaml" and self._headed else text)
        self._headed = self._headed or self._wanted.kind == "yaml"
        sys.stdout.flush()

    def _print(self, lines: Sequence[str]) -> None:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
