"""`domctl top`: how busy nodes and domains are, as the leader's figures say.

Laid out as `kubectl top` does, of Domains by their own names. What is not known is <unknown> for a node, and
a domain that nothing is known of is not shown; neither is ever a zero.
"""

from __future__ import annotations

import sys

from controller.cli import lists
from controller.cli.client import connect
from controller.cli.errors import CliError, UsageError, printable
from controller.cli.resources import DOMAINS, NODES, find
from controller.cli.table import Grid
from specs.quantity import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags

    Object = dict[str, Any]
    Row = tuple[str, str, float, float]  # namespace, name, processors, bytes

EXAMPLES = (
    ("How busy each node is, and how much of it that is", "domctl top nodes"),
    (
        "The domains of all namespaces, those first that take most memory",
        "domctl top domains -A --sort-by=memory",
    ),
    ("One domain", "domctl top domain web-1"),
)
_METRICS = "/apis/metrics.k8s.io/v1beta1"
_SORTS = ("", "cpu", "memory")
_NOT_YET = "metrics not available yet"
_UNKNOWN = "<unknown>"
_MIB = 1 << 20


def configure(flags: Flags) -> None:
    flags.describe("(nodes|domains) [NAME…] [options]", "Show how busy nodes or domains are.", EXAMPLES)
    flags.switch("-A", "--all-namespaces", text="Show the domains of all namespaces.")
    flags.value("-l", "--selector", text="Selector (label query) to filter on.")
    flags.value("--sort-by", text="Sort by cpu or memory, the largest first.")
    flags.switch("--no-headers", text="Don't print headers.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    if args.sort_by not in _SORTS:
        raise UsageError("--sort-by accepts only cpu or memory")
    if not args.words:
        raise UsageError("say of what: domctl top nodes, or domctl top domains")
    if args.selector and args.words[1:]:
        raise UsageError("name cannot be provided when a selector is specified")
    client = connect(args)
    resource = find(client, args.words[0])
    if resource is NODES:
        lines = _nodes(client, args)
    elif resource is DOMAINS:
        lines = _domains(client, args)
    else:
        raise UsageError(f"only nodes and domains have figures, not {resource.plural}")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return 0


def _nodes(client: Client, args: argparse.Namespace) -> list[str]:
    query = _query(args)
    found = [
        ("", item["metadata"]["name"], *_used([item])) for item in _read(client, f"{_METRICS}/nodes", query)
    ]
    known = {item["metadata"]["name"]: item for item in _read(client, "/api/v1/nodes", query)}
    names = args.words[1:]
    _check(names, known)
    rows = [
        [
            name,
            *(f"{_milli(cpu)}m", _percent(cpu, known, name, "cpu")),
            *(f"{int(memory) // _MIB}Mi", _percent(memory, known, name, "memory")),
        ]
        for _, name, cpu, memory in _sorted(found, args.sort_by)
        if not names or name in names
    ]
    if not rows:
        raise CliError(_NOT_YET)
    told = {row[0] for row in rows}
    rows += [
        [name, *[_UNKNOWN] * 4] for name in sorted(known) if name not in told and (not names or name in names)
    ]
    head = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]
    return Grid().lines(rows if args.no_headers else [head, *rows])


def _domains(client: Client, args: argparse.Namespace) -> list[str]:
    namespace, names = client.namespace, args.words[1:]
    if args.all_namespaces and names:
        raise UsageError("a resource cannot be retrieved by name across all namespaces")
    path = f"{_METRICS}/pods" if args.all_namespaces else f"{_METRICS}/namespaces/{namespace}/pods"
    found = [
        (item["metadata"]["namespace"], _domain_of(item), *_used(item["containers"]))
        for item in _read(client, path, _query(args))
    ]
    _check(names, {row[1]: row for row in found})
    rows = [
        [*([row[0]] if args.all_namespaces else []), row[1], f"{_milli(row[2])}m", f"{int(row[3]) // _MIB}Mi"]
        for row in _sorted(found, args.sort_by)
        if not names or row[1] in names
    ]
    if not rows:
        where = "" if args.all_namespaces else f" in {printable(namespace)} namespace"
        sys.stderr.write(f"No figures of domains{where} yet\n")
        return []
    head = [*(["NAMESPACE"] if args.all_namespaces else []), "NAME", "CPU(cores)", "MEMORY(bytes)"]
    return Grid().lines(rows if args.no_headers else [head, *rows])


def _query(args: argparse.Namespace) -> list[tuple[str, str]]:
    return [("labelSelector", args.selector)] if args.selector else []


def _read(client: Client, path: str, query: Sequence[tuple[str, str]]) -> list[Object]:
    return lists.items(lists.read(client, path, query))


def _check(names: Sequence[str], known: dict[str, Any]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise CliError(f"nothing is known of {', '.join(missing)}")


def _domain_of(item: Object) -> str:
    """A pod is a picture of the Domain that owns it."""
    owners = item["metadata"].get("ownerReferences") or [{}]
    return str(owners[0].get("name") or item["metadata"]["name"])


def _used(parts: Sequence[Object]) -> tuple[float, float]:
    cpu, memory = (sum(float(parse(part["usage"][what])) for part in parts) for what in ("cpu", "memory"))
    return cpu, memory


def _sorted(rows: Sequence[Row], by: str) -> list[Row]:
    if by:
        return sorted(rows, key=lambda row: (-(row[2] if by == "cpu" else row[3]), row[:2]))
    return sorted(rows, key=lambda row: row[:2])


def _milli(cores: float) -> int:
    """Rounded up, as kubectl does."""
    return -int(-cores * 1000 // 1)


def _percent(used: float, nodes: dict[str, Object], name: str, what: str) -> str:
    status = (nodes.get(name) or {}).get("status") or {}
    total = (status.get("allocatable") or {}).get(what)
    return f"{int(used * 100 / float(parse(total)))}%" if total and float(parse(total)) else _UNKNOWN
