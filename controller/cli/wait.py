"""`domctl wait`: until objects meet a condition, are created, or are gone."""

from __future__ import annotations

import sys

from controller.cli import jsonpath, lists, until
from controller.cli.client import connect
from controller.cli.errors import CliError, Reported, StatusError, UsageError, printable
from controller.cli.flags import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from controller.cli.client import Client
    from controller.cli.flags import Flags

ABOUT = """Wait for a condition on one or many objects.

 The condition must hold for what the object's spec says now. When time is up, the object's own reason is
 printed and the exit code is 1."""
EXAMPLES = (
    (
        "Wait until a domain is as its spec says",
        "domctl wait domain/web-1 --for=condition=Ready --timeout=60s",
    ),
    ("Wait until all domains with a label are", "domctl wait domains -l app=web --for=condition=Ready"),
    ("Wait until a domain is gone", "domctl wait domain/web-1 --for=delete"),
    ("Wait for a value", "domctl wait domain/web-1 --for=jsonpath='{.status.state}'=shutoff"),
)


def configure(flags: Flags) -> None:
    usage = "(-f FILENAME | TYPE/NAME… | TYPE NAME… | TYPE (-l label | --all)) --for=CONDITION [options]"
    flags.describe(usage, ABOUT, EXAMPLES)
    flags.value(
        "--for", text="What to wait for: create|delete|condition=NAME[=VALUE]|jsonpath='{PATH}'[=VALUE]"
    )
    flags.value(
        "--timeout",
        default=30.0,
        to=duration,
        text="How long to wait. Zero means check once and don't wait, negative means wait for a week.",
    )
    flags.switch("--all", text="Select all objects of the type in the namespace.")
    flags.switch("-A", "--all-namespaces", text="With -l or --all: across all namespaces.")
    lists.configure_files(flags)
    lists.configure_selectors(flags)
    flags.connection()


def run(args: argparse.Namespace) -> int:
    met = goal(getattr(args, "for"))
    client = connect(args)
    awaited = _awaited(client, args)
    creating = getattr(args, "for") == "create"
    removing = getattr(args, "for") == "delete"
    wait = until.Wait(client, met, args.timeout)
    wait.on_met = _met
    if not creating:
        awaited = [one for one in awaited if _is_there(client, one, removing=removing)]
    left = wait.run(awaited)
    for one in left:
        sys.stderr.write(f"error: timed out waiting for the condition on {one.resource.plural}/{one.name}")
        sys.stderr.write(f": {_why(one.last, getattr(args, 'for'))}\n" if not removing or one.last else "\n")
    if left:
        raise Reported
    return 0


def _why(value: until.Object | None, awaited: str) -> str:
    """What the object says of itself; if it has no such condition at all, those that it has."""
    kind, _, rest = awaited.partition("=")
    name = rest.partition("=")[0]
    if value is None or kind != "condition" or until.condition(value, name) is not None:
        return until.reason_of(value)
    there = ", ".join(until.conditions(value)) or "none yet"
    return f"it has no condition {printable(name)} (there are: {there}); {until.reason_of(value)}"


def _is_there(client: Client, one: until.Awaited, *, removing: bool) -> bool:
    """Raises NotFound as kubectl does, but for what should be gone. From here on it is this very object."""
    try:
        value = client.get(one.resource.path(one.namespace, one.name))
    except StatusError as error:
        if removing and error.is_not_found:
            _met(one)
            return False
        raise
    one.uid = str(value["metadata"].get("uid") or "") if removing else ""
    return True


def _met(one: until.Awaited) -> None:
    sys.stdout.write(f"{one.label} condition met\n")
    sys.stdout.flush()


def _awaited(client: Client, args: argparse.Namespace) -> list[until.Awaited]:
    found: list[until.Awaited] = []
    selecting = args.all or args.selector or args.field_selector
    for resource, names in lists.targets(client, args, args.words):
        namespace = (resource.within or client.namespace) if resource.namespaced else ""
        if names:
            lists.no_selectors_with_names(args)
            found += [until.Awaited(resource, namespace, name) for name in names]
            continue
        if not selecting:
            raise UsageError("resource(s) were provided, but no name was specified: give names, -l or --all")
        inside = "" if args.all_namespaces else namespace
        listed = lists.read(client, resource.path(inside), lists.selectors(args))
        for one in lists.items(listed):
            meta = one["metadata"]
            found.append(
                until.Awaited(resource, str(meta.get("namespace") or ""), meta["name"], meta.get("uid", ""))
            )
    if not found:
        if getattr(args, "for") == "delete":
            return []
        raise CliError("no matching resources found")
    return found


def goal(text: str) -> until.Met:
    """The predicate that `--for` asks for. Raises UsageError."""
    kind, _, rest = text.partition("=")
    if text == "delete":
        return lambda value: value is None
    if text == "create":
        return lambda value: value is not None
    if kind == "condition" and rest:
        name, _, wanted = rest.partition("=")
        return lambda value: value is not None and until.is_condition(value, name, wanted or "True")
    if kind == "jsonpath" and rest:
        return _path_goal(rest)
    raise UsageError(
        f'unrecognized condition: "{text}": must be create, delete, condition=NAME[=VALUE] '
        "or jsonpath='{PATH}'=VALUE"
    )


def _path_goal(rest: str) -> until.Met:
    path, wanted = rest, None
    closed = rest.find("}")
    cut = rest.find("=", closed + 1) if closed >= 0 else rest.find("=")
    if cut >= 0:
        path, wanted = rest[:cut], rest[cut + 1 :]
    template = jsonpath.Template(jsonpath.relaxed(path.strip("'\"")))

    def met(value: until.Object | None) -> bool:
        found: Sequence[object] = template.values(value) if value is not None else []
        return (
            bool(found) if wanted is None else [jsonpath.text(one) for one in found] == [wanted.strip("'\"")]
        )

    return met
