"""`token create`: a bearer token, made here, printed once, and known to the server by its hash alone.

The token is 256 bits of the operating system's randomness; only its hash is sent, so that no log and no
backup of the server can hold it. `domctl get tokens` lists what there is, `domctl delete token` ends one.
"""

from __future__ import annotations

import sys

from controller.cli.client import connect
from controller.cli.errors import CliError, UsageError
from controller.cli.flags import duration, listed
from controller.cli.kubeconfig import target
from controller.cli.resources import GROUP, TOKENS, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

COMMAND = "domctl token create"
_ABOUT = """Make a token for a user or a program, and print it. It cannot be shown again.

 What its bearer may do is said by roles and their bindings. To make one takes the right to impersonate USER
 and each GROUP."""
_CLUSTER = ("server", "certificate-authority", "certificate-authority-data", "tls-server-name")


def configure(flags: Flags) -> None:
    flags.describe(
        "USER [--group GROUP…] [--duration TIME] [options]",
        _ABOUT,
        (
            (
                "A token for a program, in a file that only you can read",
                f"(umask 077; {COMMAND} ci >ci.token)",
            ),
            ("A kubeconfig for a colleague", f"{COMMAND} ann --group dev -o kubeconfig >ann.kubeconfig"),
        ),
    )
    flags.values("--group", text="A group that its bearer is in; may be repeated.")
    flags.value("--duration", default="720h", text="How long it is good for, such as 1h or 8760h.")
    flags.value("--name", text="The name of the Token object; made from USER when left out.")
    flags.value("-o", "--output", text="token, which is the default, or kubeconfig.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    if len(args.words) != 1:
        raise UsageError(f"name one user: {COMMAND} USER")
    if args.output not in {"", "token", "kubeconfig"}:
        raise UsageError(f'unknown output format "{args.output}": must be token or kubeconfig')
    import hashlib  # noqa: PLC0415
    import secrets  # noqa: PLC0415

    user = args.words[0]
    secret = f"domctl-{secrets.token_urlsafe(32)}"
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Token",
        "metadata": {"name": args.name or _name(user, secrets.token_hex(4))},
        "spec": {
            "user": user,
            "groups": listed(args.group),
            "expires": _expiry(args.duration),
            "sha256": hashlib.sha256(secret.encode()).hexdigest(),
        },
    }
    created = connect(args).call("POST", TOKENS.path(), (), body)
    sys.stdout.write(_kubeconfig(args, user, secret) if args.output == "kubeconfig" else f"{secret}\n")
    name, expires = created["metadata"]["name"], created["spec"]["expires"]
    sys.stderr.write(f"{TOKENS.word}/{name} created, good until {expires}; it is not shown again\n")
    return 0


def _name(user: str, ending: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in user.lower()).strip("-")
    return f"{plain[:50].strip('-') or 'token'}-{ending}"


def _expiry(text: str) -> str:
    import datetime  # noqa: PLC0415

    length_s = duration(text)
    if length_s <= 0:
        raise UsageError(f'--duration "{text}" must be more than nothing')
    try:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=length_s)
    except OverflowError:
        raise UsageError(f'--duration "{text}" is too long') from None
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def _kubeconfig(args: argparse.Namespace, user: str, secret: str) -> str:
    """The server that was asked, with this token and nothing else of whoever made it."""
    import json  # noqa: PLC0415

    chosen = target(args)
    cluster: dict[str, Any] = {name: chosen.cluster[name] for name in _CLUSTER if chosen.cluster.get(name)}
    if not cluster.get("server"):
        raise CliError("the kubeconfig names no server")
    context = {"cluster": "domctl", "user": user, "namespace": chosen.namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "domctl", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": secret}}],
        "contexts": [{"name": "domctl", "context": context}],
        "current-context": "domctl",
    }
    return json.dumps(config, indent=2) + "\n"
