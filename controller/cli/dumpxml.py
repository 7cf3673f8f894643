"""`domctl dumpxml`: the libvirt XML that a domain becomes, from the server's object or from a file.

It is made here, by the same code as the controller's, and is what domctl would define: not what a host says,
which adds addresses and defaults of its own (`virsh dumpxml`), and without domctl's mark, whose values only
the controller knows. Host paths are checked against the node that the domain is on, if any. Passwords
of screens are masked, but for who asks for them and may read the Secrets that have them.
"""

from __future__ import annotations

import os
import sys
import uuid
from xml.etree import ElementTree

from msgspec import UnsetType

from controller.cli import manifests
from controller.cli.client import Client, connect
from controller.cli.errors import CliError, Reported, StatusError, UsageError, printable, rendered
from controller.cli.lists import configure_files
from controller.cli.resources import DOMAINS, NODES, SECRETS, domain_names
from specs.domain import Domain
from specs.domainxml import RenderRefused, render
from specs.graphics import SecretUse, Unfit, password, uses_of, with_passwords
from specs.macs import choose_mac
from specs.mark import MARK_NAMESPACE, Mark
from specs.problems import Problem
from specs.redaction import MASK
from specs.validate import Unknown, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from controller.cli.flags import Flags

    Passwords = Callable[[str, SecretUse], str]

EXAMPLES = (
    ("Of a domain", "domctl dumpxml web-1"),
    ("Of a file, without a server", "domctl dumpxml -f web.yaml"),
    (
        "What differs from what its host has",
        "domctl dumpxml web-1 | diff - <(virsh dumpxml --inactive web-1)",
    ),
    ("With the passwords of its screens", "domctl dumpxml web-1 --security-info"),
)


def configure(flags: Flags) -> None:
    about = (
        "Print the libvirt XML that domctl makes of domains.\n\n"
        " Addresses that the spec leaves open are those that domctl tries first."
    )
    flags.describe("(NAME… | -f FILENAME) [options]", about, EXAMPLES)
    configure_files(flags)
    flags.switch("--security-info", text="Include passwords, for who may read the Secrets that have them.")
    flags.connection()


def run(args: argparse.Namespace) -> int:
    if bool(args.words) == bool(args.filename):
        raise UsageError("name domains, or files with -f")
    failed = False
    for value, allowed in _files(args) if args.filename else _named(args):
        try:
            sys.stdout.write(xml_of(value, allowed, _secrets(args) if args.security_info else _masked))
        except CliError as error:
            sys.stdout.flush()
            sys.stderr.write(rendered(error))
            failed = True
    if failed:
        raise Reported
    return 0


def _files(args: argparse.Namespace) -> list[tuple[dict[str, Any], list[str] | None]]:
    found = manifests.load(args.filename, recursive=args.recursive)
    return [(dict(one.raw), None) for one in found if one.resource.kind == DOMAINS.kind]


def _named(args: argparse.Namespace) -> list[tuple[dict[str, Any], list[str] | None]]:
    client = connect(args)
    found = []
    for name in domain_names(args.words, "name domains, or files with -f"):
        value: dict[str, Any] = client.get(DOMAINS.path(client.namespace, name))
        found.append((value, _allowed(client, str((value.get("status") or {}).get("node") or ""))))
    return found


def _allowed(client: Client, node: str) -> list[str] | None:
    """The directories of its node; None where it is on none or its node is not to be read."""
    try:
        spec = client.get(NODES.path(name=node)).get("spec") or {} if node else None
    except StatusError as error:
        if error.code not in {403, 404}:
            raise
        spec = None
    return None if spec is None else list(spec.get("allowedPaths") or ())


def _masked(namespace: str, use: SecretUse) -> str:
    return MASK


def _secrets(args: argparse.Namespace) -> Passwords:
    """Read as who asks: the server has no way around his rights."""
    client = connect(args)

    def read(namespace: str, use: SecretUse) -> str:
        data = client.get(SECRETS.path(namespace or client.namespace, use.name)).get("data") or {}
        try:
            return password(data.get(use.key), use.screen)
        except Unfit as error:
            raise CliError(f"key {use.key} of Secret {use.name} {error}") from None

    return read


def xml_of(value: dict[str, Any], allowed: list[str] | None, passwords: Passwords = _masked) -> str:
    """Indented, ending in a newline. `allowed` None: every path is. Raises CliError with all problems."""
    given = {k: v for k, v in value.items() if k != "status"}
    domain, problems = decode(given, Unknown.IGNORE)
    name = printable(str((value.get("metadata") or {}).get("name")))
    if not isinstance(domain, Domain):
        raise CliError(f"{name}: " + "; ".join(map(str, problems)))
    uid = domain.metadata.uid
    known = str(uuid.uuid5(uuid.NAMESPACE_URL, name)) if isinstance(uid, UnsetType) else uid
    try:
        made = render(
            domain,
            uuid=known,
            mark=Mark("", known, 0, ""),
            macs=_macs(domain, known),
            allowed_paths=sorted(_folders(given.get("spec"))) if allowed is None else allowed,
            xml_overlay_allowed=True,
        )
    except RenderRefused as refused:
        raise CliError(f"{name}: " + "; ".join(_shown(one) for one in refused.problems)) from None
    namespace = "" if isinstance(domain.metadata.namespace, UnsetType) else domain.metadata.namespace
    found = {use.screen: passwords(namespace, use) for use in uses_of(domain.spec)}
    return _indented(with_passwords(made.xml, found), keep_uuid=not isinstance(uid, UnsetType))


def _folders(part: object) -> set[str]:
    """Those of all paths that stand in a spec."""
    if isinstance(part, dict | list):
        inside = part.values() if isinstance(part, dict) else part
        return set().union(*(_folders(one) for one in inside))
    return {part, os.path.dirname(part)} if isinstance(part, str) and part.startswith("/") else set()


def _macs(domain: Domain, known: str) -> dict[str, str]:
    interfaces = domain.spec.interfaces
    if isinstance(interfaces, UnsetType):
        return {}
    return {one.name: choose_mac(known, one.name) for one in interfaces if isinstance(one.mac, UnsetType)}


def _shown(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}"


def _indented(xml: str, *, keep_uuid: bool) -> str:
    root = ElementTree.fromstring(xml)  # noqa: S314 - made here
    for metadata in root.findall("metadata"):
        for mark in metadata.findall(f"{{{MARK_NAMESPACE}}}domain"):
            metadata.remove(mark)
        if len(metadata) == 0:
            root.remove(metadata)
    if not keep_uuid:  # made up, where there is no object yet
        for element in root.findall("uuid"):
            root.remove(element)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
