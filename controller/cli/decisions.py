"""The ways out of a hold: an operator says what no machine can find out.

`node confirm-dead`, `node replace`, `resolve` and `store ack` send the operator's word to the server, which
keeps it with his name. They are never guessed, repeated or implied: the first two ask for the node's name to
be typed, because a node that is only cut off and taken for dead has its domains running twice.
"""

from __future__ import annotations

import sys

from controller.cli.client import Client, connect
from controller.cli.errors import CliError, StatusError, UsageError, printable
from controller.cli.flags import listed
from controller.cli.lists import items, read
from controller.cli.resources import ASSIGNMENTS, DOMAINS, GROUP, NODES, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

CONFIRM_DEAD, REPLACE = "domctl node confirm-dead", "domctl node replace"
RESOLVE, STORE_ACK = "domctl resolve", "domctl store ack"
STORE_ACKS = f"/apis/{GROUP}/{VERSION}/storeacks"
_SHOWN_DOMAINS = 20
ABOUT = {
    CONFIRM_DEAD: """Vouch for a node being dead: powered off, and staying off until it is looked at.

 The controller cannot tell a dead node from one that is only cut off. After this, domains of that node that
 may be moved are started elsewhere. If the node still runs, they run twice and destroy their disks. Be sure:
 look at its power, not at the network. The word ends when the node answers again.""",
    REPLACE: """Vouch for a node being dead, and for nothing on its disks ever starting again.

 Like confirm-dead, for a host that is gone for good: its disks are wiped, or it never boots again. Domains
 that would have started with it (recovery.autostart) may then start elsewhere; deleted ones are forgotten.
 Once nothing is assigned to it, delete the Node and register the new machine.""",
    RESOLVE: """Say what the controller cannot find out about one domain.

 --not-on NODE… vouches that the domain is neither running nor defined on those nodes: it counts as if they
 had been read. --keep NODE chooses the copy that stays when a domain is there twice, or when it is not known
 which side has its newest data; the other copy is destroyed. A domain whose object is deleted is named
 assignment/UUID.""",
    STORE_ACK: """Accept that the store was restored or replaced, and let the controller act again.

 The controller stops all changes when what it reads from the store is older than what it wrote. It also waits
 for every node to be read first; nodes that cannot be read are named with --not-read.""",
}
USAGE = {
    CONFIRM_DEAD: "NODE [--reason TEXT] [--yes | --withdraw] [options]",
    REPLACE: "NODE [--reason TEXT] [--yes] [options]",
    RESOLVE: "DOMAIN (--not-on NODE… | --keep NODE) [--reason TEXT] [options]",
    STORE_ACK: "[--not-read NODE…] [--reason TEXT] [options]",
}
EXAMPLES = {
    CONFIRM_DEAD: (
        ("A node whose power is off", 'domctl node confirm-dead hv3 --reason "PSU burnt"'),
        ("It was a mistake", "domctl node confirm-dead hv3 --withdraw"),
    ),
    REPLACE: (("A host that went to scrap", 'domctl node replace hv3 --reason "burnt out"'),),
    RESOLVE: (
        ("Somebody looked: it is on neither node", "domctl resolve web-1 --not-on hv2 hv3"),
        ("Keep the copy that is on hv1", "domctl resolve web-1 --keep hv1"),
        ("A domain that is deleted already", "domctl resolve assignment/UUID --not-on hv3"),
    ),
    STORE_ACK: (
        ("After a restore", "domctl store ack"),
        ("hv7 no longer exists", "domctl store ack --not-read hv7"),
    ),
}


def configure(flags: Flags) -> None:
    flags.describe(USAGE[flags.command], ABOUT[flags.command], EXAMPLES[flags.command])
    flags.value("--reason", text="Why; kept with the decision.")
    if flags.command in (CONFIRM_DEAD, REPLACE):
        flags.switch("--yes", text="Do not ask for the node's name.")
    if flags.command == CONFIRM_DEAD:
        flags.switch("--withdraw", text="Take the word back, while nothing was done because of it.")
    elif flags.command == RESOLVE:
        flags.values("--not-on", nargs="+", text="Nodes that the domain is not on.")
        flags.value("--keep", text="The node whose copy stays.")
    else:
        flags.values("--not-read", nargs="+", text="Nodes that need not be read.")
    flags.connection(namespace=flags.command == RESOLVE)


def run(args: argparse.Namespace) -> int:
    if args.command in (CONFIRM_DEAD, REPLACE):
        return _confirm_dead(args)
    return _resolve(args) if args.command == RESOLVE else _store_ack(args)


def _confirm_dead(args: argparse.Namespace) -> int:
    if len(args.words) != 1:
        raise UsageError(f"name one node: {args.command} NODE")
    client = connect(args)
    node = args.words[0].removeprefix("node/").removeprefix("nodes/")
    client.get(NODES.path("", node))
    is_replaced = args.command == REPLACE
    if not is_replaced and args.withdraw:
        client.call("DELETE", NODES.path("", node, "confirmdead"))
        sys.stdout.write(f"{NODES.word}/{node} no longer confirmed dead\n")
        return 0
    if not args.yes:
        _ask(client, node)
    body = {"reason": args.reason, **({"wiped": True} if is_replaced else {})}
    client.call("POST", NODES.path("", node, "confirmdead"), (), body)
    sys.stdout.write(f"{NODES.word}/{node} confirmed {'dead and wiped' if is_replaced else 'dead'}\n")
    return 0


def _ask(client: Client, node: str) -> None:
    """Returns only when the node's name was typed."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise CliError(
            "this asks for the node's name on a terminal, and stdin is none",
            hint="use --yes if you are sure that the node is powered off",
        )
    sys.stderr.write(f'If node "{node}" still runs, its domains will run twice and destroy their disks.\n')
    domains = _domains_of(client, node)
    if domains:
        more = f" and {len(domains) - _SHOWN_DOMAINS} more" if len(domains) > _SHOWN_DOMAINS else ""
        sys.stderr.write(f"Domains on it: {', '.join(domains[:_SHOWN_DOMAINS])}{more}\n")
    sys.stderr.write("Type the node's name to confirm that it is powered off: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != node:
        raise CliError("that is not the node's name; nothing was done")


def _domains_of(client: Client, node: str) -> list[str]:
    found = []
    for one in items(read(client, ASSIGNMENTS.path())):
        status: dict[str, Any] = one.get("status") or {}
        if node == status.get("node") or node in (status.get("candidates") or ()):
            found.append(printable(f"{status.get('namespace', '')}/{status.get('name', '')}"))
    return sorted(found)


def _resolve(args: argparse.Namespace) -> int:
    not_on = listed(args.not_on)
    if bool(not_on) == bool(args.keep):
        raise UsageError("say either --not-on NODE… or --keep NODE")
    if len(args.words) != 1:
        raise UsageError(f"name one domain, before --not-on: {RESOLVE} DOMAIN --not-on NODE…")
    client = connect(args)
    word = args.words[0].removeprefix("domain/").removeprefix("domains/")
    kind, slash, uuid = word.partition("/")
    if slash and kind not in ASSIGNMENTS.names:
        raise UsageError(f'"{word}" is neither a domain\'s name nor assignment/UUID')
    path = ASSIGNMENTS.path("", uuid, "resolve") if slash else DOMAINS.path(client.namespace, word, "resolve")
    body: dict[str, Any] = {"notOn": not_on} if not_on else {"keep": args.keep}
    body["reason"] = args.reason
    try:
        client.call("POST", path, (), body)
    except StatusError as error:
        if error.is_not_found and not slash:
            error.hint = "a domain that was deleted is named assignment/UUID; see domctl get assignments"
        raise
    label = f"{ASSIGNMENTS.word}/{uuid}" if slash else f"{DOMAINS.word}/{word}"
    said = f"not on {', '.join(not_on)}" if not_on else f"keep {args.keep}"
    sys.stdout.write(f"{label} resolved: {said}\n")
    return 0


def _store_ack(args: argparse.Namespace) -> int:
    if args.words:
        raise UsageError(f"unexpected words: {' '.join(args.words)}")
    client = connect(args)
    nodes = listed(args.not_read)
    client.call("POST", STORE_ACKS, (), {"nodes": nodes, "reason": args.reason})
    sys.stdout.write(f"store acknowledged{', not read: ' + ', '.join(nodes) if nodes else ''}\n")
    return 0
