"""`domctl version`: of this program and of the server."""

from __future__ import annotations

import sys

from controller.cli import output
from controller.cli.client import connect
from controller.cli.errors import CliError, Reported, UsageError, printable, rendered

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from controller.cli.flags import Flags

EXAMPLES = (
    ("Print the client and server versions", "domctl version"),
    ("Print the client's version, without a server", "domctl version --client -o json"),
)


def configure(flags: Flags) -> None:
    flags.describe("[options]", "Print the client and server version information.", EXAMPLES)
    flags.switch("--client", text="If true, shows client version only (no server required).")
    flags.value("-o", "--output", text="One of 'yaml' or 'json'.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    if args.output not in {"", "json", "yaml"}:
        raise UsageError("--output must be 'yaml' or 'json'")
    found: dict[str, Any] = {"clientVersion": client_version()}
    failure: CliError | None = None
    if not args.client:
        try:
            found["serverVersion"] = connect(args).get("/version")
        except CliError as error:  # the client's version is shown all the same
            failure = error
    if args.output == "json":
        sys.stdout.write(output.as_json(found))
    elif args.output == "yaml":
        from specs import yamlout  # noqa: PLC0415

        sys.stdout.write(yamlout.dump(found))
    else:
        for name, value in found.items():
            words = "Client" if name == "clientVersion" else "Server"
            sys.stdout.write(f"{words} Version: {printable(str(value.get('gitVersion', 'unknown')))}\n")
    if failure is not None:
        sys.stdout.flush()
        sys.stderr.write(rendered(failure))
        raise Reported
    return 0


def client_version() -> dict[str, str]:
    import importlib.metadata  # noqa: PLC0415
    import platform  # noqa: PLC0415

    try:
        version = importlib.metadata.version("domctl")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        version = "0.0.0"
    major, minor, *_ = version.split(".")
    return {
        "gitVersion": f"v{version}",
        "major": major,
        "minor": minor,
        "platform": f"{sys.platform}/{platform.machine()}",
        "pythonVersion": platform.python_version(),
    }
