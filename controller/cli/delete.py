"""`domctl delete`: ask for objects to be removed, and wait until they are gone.

A domain is gone when the controller has proved that nothing of it is left on any host; its storage is kept.
While that is held up, the object's own reason is shown.
"""

from __future__ import annotations

import sys

from controller.cli import destroying, lists, until
from controller.cli.changes import (
    checked_dry_run,
    configure_dry_run,
    dry_words,
    wait_gone,
)
from controller.cli.client import Client, connect
from controller.cli.destroying import Doomed
from controller.cli.errors import CliError, Reported, StatusError, UsageError, printable, rendered
from controller.cli.flags import duration
from controller.cli.resources import Resource, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from controller.cli.flags import Flags

ABOUT = """Delete objects by file or by name. The storage of domains is never removed.

 The command returns when the objects are gone. A domain whose node does not answer is not gone until the node
 does, or until somebody vouches for it (domctl node confirm-dead, domctl resolve).

 More than a few objects are only deleted with --allow-destroy."""
EXAMPLES = (
    ("Delete a domain", "domctl delete domain web-1"),
    ("Delete what a file names", "domctl delete -f web.yaml"),
    ("Delete all domains with a label", "domctl delete domains -l app=web --allow-destroy 20"),
    ("Do not wait", "domctl delete domain web-1 --wait=false"),
)


def configure(flags: Flags) -> None:
    flags.describe(
        "(-f FILENAME | TYPE NAME… | TYPE/NAME… | TYPE (-l label | --all)) [options]", ABOUT, EXAMPLES
    )
    lists.configure_files(flags)
    configure_dry_run(flags)
    destroying.configure(flags)
    lists.configure_selectors(flags)
    flags.switch("--all", text="Delete all objects of the type in the namespace.")
    flags.switch("-A", "--all-namespaces", text="With -l or --all: across all namespaces.")
    flags.switch("--wait", default=True, text="Wait for the objects to be gone before returning.")
    flags.value("--timeout", default=0.0, to=duration, text="How long to wait. Zero: as long as it takes.")
    flags.switch("--ignore-not-found", text='Treat "resource not found" as a successful delete.')
    flags.value("-o", "--output", text='Output mode. Use "-o name" for shorter output (resource/name).')
    flags.connection()


def run(args: argparse.Namespace) -> int:
    dry_run = checked_dry_run(args)
    if args.output not in {"", "name"}:
        raise UsageError(f"unexpected -o output mode: {args.output}. We only support '-o name'")
    client = connect(args)
    doomed = _doomed(client, args)
    destroying.check(doomed, args.allow_destroy, dry_run)
    waiting: list[until.Awaited] = []
    failed: list[CliError] = []
    for one in doomed:
        try:
            uid = destroying.delete(client, one, dry_run)
        except StatusError as error:
            if not (error.is_not_found and (args.ignore_not_found or one.uid)):
                failed.append(error)
            continue
        if args.output:
            sys.stdout.write(f"{one.label}\n")
        else:
            sys.stdout.write(f'{one.resource.word} "{printable(one.name)}" deleted{dry_words(dry_run)}\n')
        waiting.append(until.Awaited(one.resource, one.namespace, one.name, uid))
    sys.stdout.flush()
    for failure in failed:
        sys.stderr.write(rendered(failure))
    late = wait_gone(client, waiting, args.timeout or -1.0) if args.wait and dry_run == "none" else 0
    if failed or late:
        raise Reported
    if not doomed and not args.ignore_not_found:
        sys.stderr.write("No resources found\n")
    return 0


def _doomed(client: Client, args: argparse.Namespace) -> list[Doomed]:
    selected = args.selector or args.field_selector or args.all
    if args.filename:
        if args.words or selected:
            raise UsageError("when -f is provided as argument, no other arguments are allowed")
        from controller.cli import manifests  # noqa: PLC0415 - slow to load

        files = manifests.load_names(args.filename, recursive=args.recursive)
        return [
            Doomed(f.resource, manifests.namespace_for(f, client.namespace, args.namespace), f.name)
            for f in files
        ]
    found: list[Doomed] = []
    for resource, names in named(client, args.words):
        namespace = client.namespace if resource.namespaced else ""
        if names:
            if selected:
                raise UsageError("name cannot be provided when a selector is specified")
            found += [Doomed(resource, namespace, name) for name in names]
        elif selected:
            found += _selected(client, args, resource, namespace)
        else:
            raise UsageError("resource(s) were provided, but no name was specified: give names, -l or --all")
    return found


def _selected(client: Client, args: argparse.Namespace, resource: Resource, namespace: str) -> list[Doomed]:
    """What is there now, each by its uid."""
    listed = lists.read(
        client, resource.path("" if args.all_namespaces else namespace), lists.selectors(args)
    )
    metas = [item["metadata"] for item in lists.items(listed)]
    return [
        Doomed(resource, str(meta.get("namespace") or ""), meta["name"], str(meta.get("uid") or ""))
        for meta in metas
    ]
