"""Reading collections: selectors, pages, and the objects that a command's words or files name.

Lists are read in pages at one revision; when that is gone in between (410) the list is read again as a
whole, so that a result is never a mixture.
"""

from __future__ import annotations

from controller.cli.client import JSON
from controller.cli.errors import StatusError, UsageError
from controller.cli.resources import named

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from controller.cli.client import Client
    from controller.cli.flags import Flags
    from controller.cli.resources import Resource

    Query = Sequence[tuple[str, str]]

PAGE = 500


def configure_files(flags: Flags) -> None:
    flags.values(
        "-f", "--filename", text="The files that contain the objects: a file, a directory, or - for stdin."
    )
    flags.switch("-R", "--recursive", text="Process the directories of -f recursively.")


def targets(
    client: Client, args: argparse.Namespace, words: Sequence[str]
) -> list[tuple[Resource, list[str]]]:
    """What `words` or else the files of -f name; of files only kind, name and namespace count. Raises
    CliError."""
    if not args.filename:
        return named(client, words)
    if words:
        raise UsageError("when -f is provided as argument, no other arguments are allowed")
    from controller.cli import manifests  # noqa: PLC0415 - slow to load

    found: dict[tuple[str, str], tuple[Resource, list[str]]] = {}
    for one in manifests.load_names(args.filename, recursive=args.recursive):
        namespace = manifests.namespace_for(one, client.namespace, args.namespace)
        place = (one.resource.word, namespace)
        found.setdefault(place, (one.resource.inside(namespace), []))[1].append(one.name)
    return list(found.values())


def configure_selectors(flags: Flags) -> None:
    flags.value(
        "-l",
        "--selector",
        text="Selector (label query) to filter on, supports '=', '==', '!=', 'in', "
        "'notin'.(e.g. -l key1=value1,key2=value2,key3 in (value3))",
    )
    flags.value(
        "--field-selector",
        text="Selector (field query) to filter on, supports '=', '==', and '!='. "
        "The server knows a few fields per type, metadata.name among them.",
    )


def selectors(args: argparse.Namespace) -> list[tuple[str, str]]:
    given = (("labelSelector", args.selector), ("fieldSelector", args.field_selector))
    return [(name, value) for name, value in given if value]


def by_name(name: str) -> tuple[str, str]:
    return ("fieldSelector", f"metadata.name={name}")


def no_selectors_with_names(args: argparse.Namespace) -> None:
    if args.selector or args.field_selector:
        raise UsageError("name cannot be provided when a selector is specified")


def read(
    client: Client, path: str, query: Query = (), accept: str = JSON, page: int = PAGE
) -> dict[str, Any]:
    """The whole collection, as a List or a Table; resourceVersion is that of all of it."""
    asked = [*query, ("limit", str(page))] if page else list(query)
    whole: dict[str, Any] = client.get(path, asked, accept)
    part = whole
    while token := (part.get("metadata") or {}).get("continue"):
        try:
            part = client.get(path, [*asked, ("continue", token)], accept)
        except StatusError as error:
            if not error.is_expired:
                raise
            return read(client, path, query, accept, page=0)
        key = "rows" if "rows" in whole else "items"
        whole[key] = [*(whole.get(key) or []), *(part.get(key) or [])]
    return whole


def revision(collection: dict[str, Any]) -> str:
    return str((collection.get("metadata") or {}).get("resourceVersion") or "")


def items(collection: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a List; a server may leave kind and apiVersion to the list."""
    kind, api = str(collection.get("kind") or ""), collection.get("apiVersion")
    found: list[dict[str, Any]] = collection.get("items") or []
    if kind.endswith("List") and kind != "List":
        return [{"apiVersion": api, "kind": kind.removesuffix("List"), **one} for one in found]
    return found
