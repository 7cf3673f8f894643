"""`domctl describe`: one object for people: what is wanted, what is, why not, and what happened.

Laid out as kubectl does, with conditions as a table, since their messages are where the controller says why
it does not act. Everything shown is free of control characters.
"""

from __future__ import annotations

import sys
from base64 import b64decode

from controller.cli import lists
from controller.cli.client import Client, connect
from controller.cli.errors import CliError, Reported, StatusError, UsageError, printable, rendered
from controller.cli.resources import EVENTS
from controller.cli.table import NONE, Grid
from specs.ages import age

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

ABOUT = (
    """Show details of one or many objects: spec, status, conditions with their reasons, and recent events."""
)
EXAMPLES = (
    ("Describe a domain", "domctl describe domain web-1"),
    ("Describe a node", "domctl describe node/hv1"),
    ("Describe all domains with a label", "domctl describe domains -l app=web"),
)
_ACRONYMS = {
    "uid": "UID",
    "uuid": "UUID",
    "uri": "URI",
    "api": "API",
    "ip": "IP",
    "url": "URL",
    "xml": "XML",
    "cpu": "CPU",
    "numa": "NUMA",
    "macs": "MACs",
    "os": "OS",
}
_HIDDEN = ("annotations", "labels", "managedFields", "name", "namespace")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_ANNOTATION_WIDTH = 140


def configure(flags: Flags) -> None:
    flags.describe("(-f FILENAME | TYPE [NAME… | -l label] | TYPE/NAME…) [options]", ABOUT, EXAMPLES)
    lists.configure_files(flags)
    lists.configure_selectors(flags)
    flags.switch("-A", "--all-namespaces", text="Describe the objects of all namespaces.")
    flags.switch("--show-events", default=True, text="Display the events of the described object.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    client = connect(args)
    failed: list[CliError] = []
    texts: list[str] = []
    for resource, names in lists.targets(client, args, args.words):
        for value in _values(client, args, resource, names, failed):
            events = _events(client, resource, value) if args.show_events else None
            texts.append("".join(f"{line}\n" for line in described(value, events)))
    sys.stdout.write("\n\n".join(texts))
    sys.stdout.flush()
    for error in failed:
        sys.stderr.write(rendered(error))
    if not texts and not failed:
        sys.stderr.write(f"No resources found in {client.namespace} namespace.\n")
    if failed:
        raise Reported
    return 0


def _values(
    client: Client, args: argparse.Namespace, resource: Resource, names: Sequence[str], failed: list[CliError]
) -> Iterator[dict[str, Any]]:
    namespace = client.namespace if resource.namespaced else ""
    if not names:
        path = resource.path("" if args.all_namespaces else namespace)
        yield from lists.items(lists.read(client, path, lists.selectors(args)))
        return
    lists.no_selectors_with_names(args)
    if args.all_namespaces and resource.namespaced:
        raise UsageError("a resource cannot be retrieved by name across all namespaces")
    for name in names:
        try:
            yield client.get(resource.path(namespace, name))
        except StatusError as error:
            begun = _beginning(client, resource.path(namespace), name) if error.is_not_found else []
            if not begun:
                failed.append(error)
            yield from begun


def _beginning(client: Client, path: str, prefix: str) -> list[dict[str, Any]]:
    """As kubectl has it: where none has a name, it may be the beginning of several."""
    there = lists.items(lists.read(client, path))
    return [one for one in there if str(one["metadata"]["name"]).startswith(prefix)]


def _events(client: Client, resource: Resource, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of this very object; of an object without a namespace they are kept in `default`."""
    meta = value["metadata"]
    wanted = {"name": meta.get("name"), "kind": value.get("kind") or resource.kind, "uid": meta.get("uid")}
    if meta.get("namespace"):
        wanted["namespace"] = meta["namespace"]
    selector = ",".join(f"involvedObject.{key}={value}" for key, value in wanted.items() if value)
    path = EVENTS.path(str(meta.get("namespace") or "default"))
    return lists.items(lists.read(client, path, [("fieldSelector", selector)]))


def described(value: Mapping[str, Any], events: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The lines for one object. `events` None: not asked for."""
    meta = value.get("metadata") or {}
    status = dict(value.get("status") or {})
    conditions = status.pop("conditions", None)
    head = {"Name": meta.get("name"), "Namespace": meta.get("namespace")}
    lines = _pairs({key: text for key, text in head.items() if text}, 14)
    lines += _several("Labels:", [f"{k}={v}" for k, v in sorted((meta.get("labels") or {}).items())])
    lines += _several("Annotations:", _annotations(meta.get("annotations") or {}))
    lines += _pairs({"API Version": value.get("apiVersion"), "Kind": value.get("kind")}, 14)
    lines += _section("Metadata", {k: v for k, v in meta.items() if k not in _HIDDEN})
    for key, part in _seen(value).items():
        if key not in {"apiVersion", "kind", "metadata", "status"}:
            lines += _section(title(key), part)
    lines += _section("Status", status) if status else []
    if conditions:
        lines += ["Conditions:", *_condition_lines(conditions)]
    if events is not None:
        lines += ["Events:", *_event_lines(events)] if events else ["Events:  <none>"]
    return lines


def _seen(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of what a Secret holds only how much it is, as kubectl has it."""
    data = value.get("data")
    if value.get("kind") != "Secret" or not isinstance(data, dict):
        return value
    return {**value, "data": {key: f"{len(b64decode(text))} bytes" for key, text in data.items()}}


def _annotations(given: Mapping[str, str]) -> list[str]:
    shown = []
    for key, value in sorted(given.items()):
        if key != _LAST_APPLIED:
            text = f"{key}: {value}"
            shown.append(text if len(text) <= _ANNOTATION_WIDTH else text[:_ANNOTATION_WIDTH] + "...")
    return shown


def _several(label: str, texts: Sequence[str]) -> list[str]:
    first, *rest = [printable(text) for text in texts] or [NONE]
    return [label.ljust(14) + first, *(" " * 14 + text for text in rest)]


def _section(name: str, part: object) -> list[str]:
    if isinstance(part, dict | list):
        return [f"{name}:", *_nested(part, "  ")]
    return [f"{name}:  {_scalar(part)}"]


def _pairs(pairs: Mapping[str, object], width: int) -> list[str]:
    return [f"{key}:".ljust(width) + _scalar(value) for key, value in pairs.items()]


def _nested(part: object, indent: str) -> list[str]:
    """A map or list under its title: scalars of one map are aligned, items of a list begin with a dash."""
    lines: list[str] = []
    if isinstance(part, list):
        for item in part:
            inner = _nested(item, "") if isinstance(item, dict | list) else [_scalar(item)]
            lines += [f"{indent}{'- ' if i == 0 else '  '}{line}" for i, line in enumerate(inner or ["{}"])]
        return lines
    assert isinstance(part, dict)
    plain = [key for key, value in part.items() if not isinstance(value, dict | list)]
    width = max((len(title(key)) for key in plain), default=0) + 3
    for key, value in sorted(part.items()):
        if isinstance(value, dict | list) and value:
            lines += [f"{indent}{title(key)}:", *_nested(value, indent + "  ")]
        elif isinstance(value, str) and "\n" in value.strip():
            lines += [
                f"{indent}{title(key)}:",
                *(f"{indent}  {printable(line)}" for line in value.splitlines()),
            ]
        else:
            lines.append(f"{indent}{f'{title(key)}:'.ljust(width)}{_scalar(value) if value != [] else NONE}")
    return lines


def _scalar(value: object) -> str:
    if value is None or value == {}:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(str(value).strip("\n"))


def title(key: str) -> str:
    """`creationTimestamp` as "Creation Timestamp"; keys that are no field names stay as they are."""
    if not key.isalnum() or not key[:1].islower():
        return printable(key)
    words: list[str] = []
    for char in key:
        if char.isupper() or not words:
            words.append("")
        words[-1] += char
    return " ".join(_ACRONYMS.get(word.lower(), word[:1].upper() + word[1:]) for word in words)


def _condition_lines(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["Type", "Status", "Age", "Reason", "Message"], ["----", "------", "---", "------", "-------"]]
    for one in conditions:
        texts = [one.get("type"), one.get("status"), age(one.get("lastTransitionTime")), one.get("reason")]
        rows.append(
            [*(printable(str(text or "")) for text in texts), printable(str(one.get("message") or ""))]
        )
    return [f"  {line}".rstrip() for line in Grid().lines(rows)]


def _event_lines(events: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["Type", "Reason", "Age", "From", "Message"], ["----", "------", "---", "----", "-------"]]
    for one in sorted(events, key=event_time):
        source = one.get("reportingComponent") or (one.get("source") or {}).get("component") or ""
        texts = [
            one.get("type"),
            one.get("reason"),
            event_age(one),
            source,
            str(one.get("message") or "").strip(),
        ]
        rows.append([printable(str(text or "")) for text in texts])
    return [f"  {line}".rstrip() for line in Grid().lines(rows)]


def event_time(event: Mapping[str, Any]) -> str:
    keys = ("lastTimestamp", "eventTime", "firstTimestamp")
    return next(
        (str(event[key]) for key in keys if event.get(key)), str(event["metadata"].get("creationTimestamp"))
    )


def event_age(event: Mapping[str, Any]) -> str:
    count, first = event.get("count") or 1, event.get("firstTimestamp")
    last = age(event_time(event))
    return f"{last} (x{count} over {age(first)})" if isinstance(count, int) and count > 1 and first else last
