"""`domctl label` and `domctl annotate`: set or take away labels or annotations of objects.

kubectl's words and its care: a value that is there already is only changed with --overwrite. Only the named
keys are sent, so that nobody else's are touched.
"""

from __future__ import annotations

import sys

from controller.cli import lists
from controller.cli.changes import checked_dry_run, configure_dry_run, dry_words
from controller.cli.client import MERGE_PATCH, Client, connect
from controller.cli.errors import CliError, StatusError, UsageError, printable, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any

    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

    Object = dict[str, Any]
    Change = dict[str, str | None]

ANNOTATE = "domctl annotate"


class Words:
    """What differs between the two verbs."""

    def __init__(self, field: str, one: str, done: str) -> None:
        self.field = field
        self.one = one
        self.done = done


_WORDS = {
    "domctl label": Words("labels", "label", "labeled"),
    ANNOTATE: Words("annotations", "annotation", "annotated"),
}


def configure(flags: Flags) -> None:
    words, verb = _WORDS[flags.command], flags.command
    flags.describe(
        "(-f FILENAME | TYPE NAME… | TYPE/NAME… | TYPE (-l label | --all)) KEY=VALUE… KEY-… [options]",
        f"Set {words.field} on objects, or take them away by KEY-.\n\n"
        " A value that is there is only changed with --overwrite.",
        (
            ("Set one on a domain", f"{verb} domain web-1 example.org/tier=front"),
            ("Change it", f"{verb} domain web-1 example.org/tier=back --overwrite"),
            ("Take it away from all domains", f"{verb} domains --all example.org/tier-"),
            ("Show them", f"{verb} domain web-1 --list"),
        ),
    )
    flags.switch("--overwrite", text=f"Change {words.field} that have another value.")
    flags.switch("--list", text=f"Display the {words.field} of the objects.")
    flags.value("--resource-version", text="Change an object only if it is still of this version.")
    flags.switch("--all", text="Select all objects of the type in the namespace.")
    flags.switch("-A", "--all-namespaces", text="With -l or --all: across all namespaces.")
    flags.value("--field-manager", text="Name of the manager used to track field ownership.")
    flags.value("-o", "--output", text='Output mode. Use "-o name" for shorter output (resource/name).')
    lists.configure_files(flags)
    lists.configure_selectors(flags)
    configure_dry_run(flags)
    flags.connection()


def run(args: argparse.Namespace) -> int:
    words = _WORDS[args.command]
    dry_run = checked_dry_run(args)
    if args.output not in {"", "name"}:
        raise UsageError(f"unexpected -o output mode: {args.output}. We only support '-o name'")
    objects, change = _parted(args.words, words)
    if not objects and not args.filename:
        raise UsageError("one or more resources must be specified as <resource> <name> or <resource>/<name>")
    if not change and not args.list:
        raise UsageError(f"at least one {words.one} update is required")
    client = connect(args)
    failed: list[CliError] = []
    found = list(_found(client, args, objects, failed))
    for resource, value in found:
        if args.list:
            _list(resource, value, words, headed=len(found) > 1)
            continue
        try:
            what = _changed(client, args, resource, value, change)
        except CliError as error:
            failed.append(error)
            continue
        name = f"{resource.word}/{printable(value['metadata']['name'])}"
        sys.stdout.write(f"{name}\n" if args.output else f"{name} {what}{dry_words(dry_run)}\n")
    report(failed)
    return 0


def _parted(given: Sequence[str], words: Words) -> tuple[list[str], Change]:
    """The objects' words, and what is to become of which key (None: taken away). Raises UsageError."""
    objects: list[str] = []
    change: Change = {}
    for word in given:
        key, equals, value = word.partition("=")
        if equals and key:
            _once(change, key, value, words)
        elif word.endswith("-") and len(word) > 1:
            _once(change, word[:-1], None, words)
        elif change or equals:
            raise UsageError(f"expected KEY=VALUE or KEY-, not {word!r}, after the objects")
        else:
            objects.append(word)
    return objects, change


def _once(change: Change, key: str, value: str | None, words: Words) -> None:
    if key in change and (change[key] is None) != (value is None):
        raise UsageError(f"can not both modify and remove a {words.one} in the same command")
    change[key] = value


def _found(
    client: Client, args: argparse.Namespace, words: Sequence[str], failed: list[CliError]
) -> Iterator[tuple[Resource, Object]]:
    selecting = args.all or args.selector or args.field_selector
    for resource, names in lists.targets(client, args, words):
        namespace = client.namespace if resource.namespaced else ""
        if not names:
            if not selecting:
                raise UsageError("resource(s) were provided, but no name was specified")
            path = resource.path("" if args.all_namespaces else namespace)
            for one in lists.items(lists.read(client, path, lists.selectors(args))):
                yield resource, one
            continue
        if selecting:
            raise UsageError("name cannot be provided when a selector is specified")
        for name in names:
            try:
                yield resource, client.get(resource.path(namespace, name))
            except StatusError as error:
                failed.append(error)


def _list(resource: Resource, value: Object, words: Words, *, headed: bool) -> None:
    meta, kind = value["metadata"], f"{resource.kind}.{resource.group}".rstrip(".")
    if headed:
        sys.stdout.write(f"Listing {words.field} for {kind}/{printable(meta['name'])}:\n")
    for key, text in sorted((meta.get(words.field) or {}).items()):
        sys.stdout.write(f"{' ' if headed else ''}{printable(f'{key}={text}')}\n")


def _changed(
    client: Client, args: argparse.Namespace, resource: Resource, value: Object, change: Change
) -> str:
    """labeled, unlabeled, not labeled or annotated. Raises CliError."""
    words, meta = _WORDS[args.command], value["metadata"]
    there: dict[str, str] = meta.get(words.field) or {}
    taken = [k for k, v in change.items() if v is not None and k in there and there[k] != v]
    if taken and not args.overwrite:
        raise CliError(_in_the_way(words, [(key, there[key]) for key in taken]))
    if words.one == "label":
        for key in (key for key, wanted in change.items() if wanted is None and key not in there):
            sys.stdout.write(f'label "{printable(key)}" not found.\n')
    needed = {key: wanted for key, wanted in change.items() if there.get(key) != wanted}
    if needed:
        patch: Object = {words.field: needed}
        if args.resource_version:
            patch["resourceVersion"] = args.resource_version
        if args.dry_run != "client":
            query = [("fieldManager", args.field_manager or f"domctl-{words.one}")]
            query += [("dryRun", "All")] if args.dry_run == "server" else []
            path = resource.path(str(meta.get("namespace") or ""), meta["name"])
            client.call("PATCH", path, query, {"metadata": patch}, content_type=MERGE_PATCH)
    if words.one != "label":
        return words.done
    if not needed:
        return "not labeled"
    return "unlabeled" if None in needed.values() else "labeled"


def _in_the_way(words: Words, taken: Sequence[tuple[str, str]]) -> str:
    """In kubectl's words, which differ between the two."""
    said = "; ".join(f"'{key}' already has a value ({value})" for key, value in taken)
    if words.one == "label":
        return f"{said}, and --overwrite is false"
    return f"--overwrite is false but found the following declared annotation(s): {said}"
