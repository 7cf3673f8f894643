"""`auth can-i` and `auth whoami`: who one is to the server, and what one may do there.

The server answers, by the rules that it judges requests by. As kubectl's: `yes` or `no` on stdout, and exit
code 1 with `no`.
"""

from __future__ import annotations

import sys

from controller.cli import output
from controller.cli.client import Client, connect
from controller.cli.errors import UsageError, printable
from controller.cli.resources import DOMAINS, find
from controller.cli.table import Grid

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

CAN_I, WHOAMI = "domctl auth can-i", "domctl auth whoami"
_AUTHORIZATION, _AUTHENTICATION = "authorization.k8s.io/v1", "authentication.k8s.io/v1"
_VIRTUAL = ("users", "groups", "storeacks")  # rights that are on no objects


def configure(flags: Flags) -> None:
    if flags.command == WHOAMI:
        examples = [("By the kubeconfig in use", WHOAMI)]
        flags.describe("[options]", "Show the user and the groups that the server takes one for.", examples)
        flags.value("-o", "--output", text="One of 'yaml' or 'json'.")
    else:
        flags.describe(
            "VERB [TYPE[/SUBRESOURCE] | TYPE NAME | TYPE/NAME | PATH] [options]",
            "Say whether one may do something. --list shows all that one may do in a namespace.",
            [
                ("Whether domains can be created in this namespace", f"{CAN_I} create domains"),
                ("Whether raw XML may be set", f"{CAN_I} use domains --subresource=xml"),
                ("Everything", f"{CAN_I} --list"),
            ],
        )
        flags.value("--subresource", text="What of the object: xml, uri, confirmdead, …")
        flags.switch("--list", text="Show all that one may do.")
        flags.switch("-A", "--all-namespaces", text="Whether it is so in all namespaces.")
        flags.switch("-q", "--quiet", text="Print nothing; the exit code tells.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    client = connect(args)
    if args.command == WHOAMI:
        return _whoami(client, args.output)
    if args.list:
        return _list(client)
    return _can_i(client, args)


def _post(client: Client, api_version: str, kind: str, spec: dict[str, Any]) -> Any:
    path = f"/apis/{api_version}/{kind.lower()}s"
    return client.call("POST", path, (), {"apiVersion": api_version, "kind": kind, "spec": spec})


def _whoami(client: Client, wanted: str) -> int:
    if wanted not in {"", "json", "yaml"}:
        raise UsageError("--output must be 'yaml' or 'json'")
    answer = _post(client, _AUTHENTICATION, "SelfSubjectReview", {})
    if wanted:
        shown = {key: value for key, value in answer.items() if key != "spec"}
        sys.stdout.write(output.write(output.Format(wanted), shown, DOMAINS))
        return 0
    found = answer["status"]["userInfo"]
    groups = " ".join(found.get("groups") or ())
    rows = [["ATTRIBUTE", "VALUE"], ["Username", found["username"]], ["Groups", f"[{groups}]"]]
    _print(rows)
    return 0


def _can_i(client: Client, args: argparse.Namespace) -> int:
    if not 2 <= len(args.words) <= 3:
        raise UsageError(f"say a verb and what it is about: {CAN_I} VERB TYPE [NAME]")
    verb, what = args.words[:2]
    if what.startswith("/"):
        spec: dict[str, Any] = {"nonResourceAttributes": {"verb": verb, "path": what}}
    else:
        spec = {"resourceAttributes": _attributes(client, args, verb, what)}
    allowed = bool(_post(client, _AUTHORIZATION, "SelfSubjectAccessReview", spec)["status"].get("allowed"))
    if not args.quiet:
        sys.stdout.write("yes\n" if allowed else "no\n")
    return 0 if allowed else 1


def _attributes(client: Client, args: argparse.Namespace, verb: str, what: str) -> dict[str, str]:
    word, _, name = what.partition("/")
    if len(args.words) == 3:
        name = args.words[2]
    asked = {"verb": verb, "name": name, "subresource": args.subresource}
    if word == "*":
        return {**asked, "resource": "*", "group": "*"}
    if word in _VIRTUAL:
        return {**asked, "resource": word, "group": "domctl.io" if word == "storeacks" else ""}
    resource = find(client, word)
    scoped = resource.namespaced and not args.all_namespaces
    namespace = client.namespace if scoped else ""
    return {**asked, "resource": resource.plural, "group": resource.group, "namespace": namespace}


def _list(client: Client) -> int:
    found = _post(client, _AUTHORIZATION, "SelfSubjectRulesReview", {"namespace": client.namespace})["status"]
    rows = [["Resources", "Non-Resource URLs", "Resource Names", "Verbs"]]
    for rule in found.get("resourceRules") or ():
        for group in rule.get("apiGroups") or [""]:
            suffix = f".{group}" if group else ""
            for resource in rule.get("resources") or ():
                plain, slash, sub = resource.partition("/")
                shown = f"{plain}{suffix}{slash}{sub}"
                rows.append([shown, "[]", _words(rule.get("resourceNames")), _words(rule["verbs"])])
    for rule in found.get("nonResourceRules") or ():
        rows.append(["", _words(rule.get("nonResourceURLs")), "[]", _words(rule["verbs"])])
    _print(rows)
    return 0


def _print(rows: list[list[str]]) -> None:
    lines = Grid().lines([[printable(cell) for cell in row] for row in rows])
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def _words(values: Any) -> str:
    return f"[{' '.join(values or ())}]"
