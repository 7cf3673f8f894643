"""`domctl explain`: what the fields of a kind mean, as the server's own schema says.

The document is OpenAPI v3 of the kind's group, found as kubectl finds it, and laid out as kubectl does.
"""

from __future__ import annotations

import sys
import textwrap

from controller.cli.client import Client, connect
from controller.cli.errors import CliError, UsageError, printable
from controller.cli.resources import Resource, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from controller.cli.flags import Flags

    Schema = Mapping[str, Any]

EXAMPLES = (
    ("The fields of a domain", "domctl explain domain"),
    ("Of a part of it", "domctl explain domain.spec.disks"),
    ("All of them, down to the last", "domctl explain domain --recursive"),
)
_REF = "#/components/schemas/"
_WIDTH = 80
_FEW = 4


def configure(flags: Flags) -> None:
    flags.describe(
        "TYPE[.FIELD…] [options]", "Describe the fields of a kind and of what is in them.", EXAMPLES
    )
    flags.switch("--recursive", text="Print the names of all fields, however deep.")
    flags.value("--api-version", text="Use this API version of the type: GROUP/VERSION, or v1.")
    flags.connection(namespace=False)


def run(args: argparse.Namespace) -> int:
    if len(args.words) != 1:
        raise UsageError("You must specify the type of resource to explain: TYPE or TYPE.FIELD…")
    client = connect(args)
    resource, fields = _split(client, args.words[0], args.api_version)
    explained = _Explained(_document(client, resource))
    sys.stdout.write(f"GROUP:      {resource.group}\n" if resource.group else "")
    sys.stdout.write(f"KIND:       {resource.kind}\nVERSION:    {resource.version}\n\n")
    lines = explained.lines(resource, fields, recursive=args.recursive)
    sys.stdout.write("".join(f"{printable(line, keep=chr(9))}\n" for line in lines))
    return 0


def _split(client: Client, text: str, api_version: str) -> tuple[Resource, list[str]]:
    """`domain.spec.disks`, or with the group, `domains.domctl.io.spec`, as the kind and its fields."""
    word, *fields = text.split(".")
    if api_version:
        of_group, _, version = api_version.rpartition("/")
        word = f"{word}.{version}.{of_group}"
    resource = find(client, word)
    group = resource.group.split(".") if resource.group else []
    for qualifier in (group, [resource.version, *group]):
        if qualifier and fields[: len(qualifier)] == qualifier:
            return resource, fields[len(qualifier) :]
    return resource, fields


def _document(client: Client, resource: Resource) -> Schema:
    base = f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"
    paths = client.get("/openapi/v3").get("paths") or {}
    entry = paths.get(base)
    if not entry:
        raise CliError(f"the server has no description of {resource.qualified}")
    found: Schema = client.get(str(entry["serverRelativeURL"]))
    return found


class _Explained:
    """One document."""

    def __init__(self, document: Schema) -> None:
        self._schemas: Mapping[str, Schema] = (document.get("components") or {}).get("schemas") or {}

    def lines(self, resource: Resource, fields: Sequence[str], *, recursive: bool) -> list[str]:
        """Raises CliError."""
        schema = self._kind(resource)
        field: Schema | None = None
        for name in fields:
            properties = self._resolved(_inside(schema, self._resolved(schema))).get("properties") or {}
            if name not in properties:
                raise CliError(f'field "{name}" does not exist')
            field = schema = properties[name]
        lines: list[str] = []
        if field is not None:
            lines += [f"FIELD: {fields[-1]} <{self._type(field)}>"]
            values = self._resolved(field).get("enum")
            lines += ["ENUM:", *(f"    {value}" for value in sorted(values))] if values else ["", ""][:1]
            lines += [""]
        inner = self._resolved(_inside(schema, self._resolved(schema)))
        lines += ["DESCRIPTION:", *self._texts(schema, inner), "    "]
        if inner.get("properties"):
            lines += ["FIELDS:", *self._fields(inner, "  ", recursive=recursive, above=())]
        return [*lines, ""]

    def _kind(self, resource: Resource) -> Schema:
        wanted = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        for schema in self._schemas.values():
            if wanted in (schema.get("x-kubernetes-group-version-kind") or ()):
                return schema
        raise CliError(f"the server has no description of {resource.qualified}")

    def _resolved(self, schema: Schema) -> Schema:
        """Behind `$ref`, also where it stands in `allOf` beside a description."""
        reference = _reference(schema)
        return self._resolved(self._schemas.get(reference, {})) if reference else schema

    def _type(self, schema: Schema) -> str:
        reference = _reference(schema)
        resolved = self._resolved(schema)
        if resolved.get("type") == "array":
            return f"[]{self._type(resolved.get('items') or {})}"
        if isinstance(resolved.get("additionalProperties"), dict):
            return f"map[string]{self._type(resolved['additionalProperties'])}"
        if reference:
            return reference.rpartition(".")[2]
        kind = str(resolved.get("type") or "Object")
        return "Object" if kind == "object" else kind

    def _texts(self, schema: Schema, inner: Schema) -> list[str]:
        """The field's own words, then those of what it holds."""
        texts = [str(one.get("description") or "") for one in (schema, inner)]
        texts = [text for text in dict.fromkeys(texts) if text] or ["<empty>"]
        return [line for text in texts for line in wrapped(text, "    ")]

    def _fields(self, schema: Schema, indent: str, *, recursive: bool, above: tuple[int, ...]) -> list[str]:
        lines: list[str] = []
        required = schema.get("required") or ()
        for name, field in sorted((schema.get("properties") or {}).items()):
            resolved = self._resolved(field)
            must = " -required-" if name in required else ""
            lines.append(f"{indent}{name}\t<{self._type(field)}>{must}")
            if values := resolved.get("enum"):
                shown = sorted(values)
                few = ", ".join(shown[:_FEW]) + (", ...." if len(shown) > _FEW else "")
                lines.append(f"{indent}enum: {few}")
            if not recursive:
                lines += [*wrapped(str(field.get("description") or "<no description>"), indent + "  "), ""]
                continue
            inner = self._resolved(_inside(field, resolved))
            if inner.get("properties") and id(inner) not in above:
                inside = (*above, id(inner))
                lines += self._fields(inner, indent + "  ", recursive=True, above=inside)
        return lines


def _inside(schema: Schema, resolved: Schema) -> Schema:
    """What a list or map holds; else itself."""
    for key in ("items", "additionalProperties"):
        if isinstance(resolved.get(key), dict):
            return dict(resolved[key])
    return schema


def _reference(schema: Schema) -> str:
    whole: list[Any] = schema.get("allOf") or []
    reference = schema.get("$ref") or (whole[0].get("$ref") if len(whole) == 1 else "")
    return str(reference or "").removeprefix(_REF)


def wrapped(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [indent]
