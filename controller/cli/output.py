"""`-o`: how objects that are not shown as a table are written.

yaml and json give one object for one name and a List otherwise; `name`, `jsonpath=…` and `custom-columns=…`
are for scripts. managedFields are left out unless asked for. The format is checked before a server is asked.
"""

from __future__ import annotations

from controller.cli.errors import CliError, printable
from controller.cli.table import Grid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from controller.cli import jsonpath
    from controller.cli.resources import Resource

FORMATS = "(json, yaml, name, wide, jsonpath=…, jsonpath-as-json=…, custom-columns=…)"
_SUCCESSIVE = ("json", "yaml", "name", "jsonpath", "jsonpath-as-json")
_WITH_ARGUMENT = ("jsonpath", "jsonpath-as-json", "custom-columns", "jsonpath-file", "custom-columns-file")


class Format:
    """A checked `-o`. `kind` is "" or "wide" for tables."""

    def __init__(self, option: str, *, managed_fields: bool = False) -> None:
        kind, _, argument = option.partition("=")
        self.kind = kind
        self.managed_fields = managed_fields
        self.template: jsonpath.Template | None = None
        self.columns: list[tuple[str, jsonpath.Template]] = []
        if kind not in {"", "wide", "json", "yaml", "name", *_WITH_ARGUMENT}:
            raise CliError(
                f'unable to match a printer suitable for the output format "{option}", '
                f"allowed formats are: {FORMATS}"
            )
        if kind in _WITH_ARGUMENT and not argument:
            raise CliError(f"{kind} format specified but no template given: write {kind}=…")
        if kind.endswith("-file"):
            argument = _content(argument)
            self.kind = kind.removesuffix("-file")
        if not self.is_template:
            return
        from controller.cli import jsonpath  # noqa: PLC0415 - not for tables

        if self.kind.startswith("jsonpath"):
            self.template = jsonpath.Template(argument if "{" in argument else jsonpath.relaxed(argument))
        else:
            self.columns = _columns(argument)

    @property
    def is_template(self) -> bool:
        return self.kind in {"jsonpath", "jsonpath-as-json", "custom-columns"}

    @property
    def is_table(self) -> bool:
        return self.kind in {"", "wide"}


def write(chosen: Format, value: dict[str, Any], resource: Resource) -> str:
    """`value` (an object or a List) in the chosen format, ending in a newline where one belongs."""
    if chosen.kind == "name":
        return "".join(f"{named(one, resource)}\n" for one in _items(value))
    if not chosen.managed_fields:
        value = without_managed_fields(value)
    if chosen.kind == "yaml":
        from specs import yamlout  # noqa: PLC0415 - slow to load

        return yamlout.dump(value)
    if chosen.kind == "json":
        return as_json(value)
    if chosen.kind == "jsonpath-as-json" and chosen.template:
        return as_json(chosen.template.values(value))
    if chosen.template:
        return chosen.template.render(value)
    raise AssertionError(f"{chosen.kind} is written by another function")


class Documents:
    """Objects that are written one after the other, as they come. Raises CliError for a format in which that
    cannot be: before anything is asked for, and so before anything is changed."""

    def __init__(self, option: str) -> None:
        self._chosen = Format(option)
        self._first = True
        if self.kind not in _SUCCESSIVE:
            raise CliError(f"--output {option} is not available here: write json, yaml, name or jsonpath=…")

    @property
    def kind(self) -> str:
        return self._chosen.kind

    def text(self, value: dict[str, Any], resource: Resource) -> str:
        mark = "---\n" if self.kind == "yaml" and not self._first else ""
        self._first = False
        return mark + write(self._chosen, value, resource)


def custom_rows(chosen: Format, value: dict[str, Any]) -> list[list[str]]:
    """The cells of custom columns, without headings."""
    return [[_cell(template, one) for _, template in chosen.columns] for one in _items(value)]


def custom_table(chosen: Format, value: dict[str, Any], *, headers: bool) -> str:
    rows = custom_rows(chosen, value)
    if headers:
        rows.insert(0, [name for name, _ in chosen.columns])
    return "".join(f"{line}\n" for line in Grid().lines(rows))


def named(value: dict[str, Any], resource: Resource) -> str:
    name = str((value.get("metadata") or {}).get("name", ""))
    return f"{resource.word}/{printable(name)}"


def as_json(value: object) -> str:
    import json  # noqa: PLC0415

    return json.dumps(value, indent=4, ensure_ascii=False, sort_keys=True) + "\n"


def without_managed_fields(value: dict[str, Any]) -> dict[str, Any]:
    if "items" in value and value.get("kind", "").endswith("List"):
        return {**value, "items": [without_managed_fields(item) for item in value["items"]]}
    meta = value.get("metadata")
    if not isinstance(meta, dict) or "managedFields" not in meta:
        return value
    return {**value, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}}


def as_list(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "items": list(objects), "kind": "List", "metadata": {"resourceVersion": ""}}


def _items(value: dict[str, Any]) -> list[dict[str, Any]]:
    if value.get("kind", "").endswith("List") and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


def _cell(template: jsonpath.Template, value: object) -> str:
    from controller.cli import jsonpath  # noqa: PLC0415

    found = template.values(value)
    return printable(",".join(jsonpath.text(one) for one in found)) if found else "<none>"


def _columns(argument: str) -> list[tuple[str, jsonpath.Template]]:
    from controller.cli import jsonpath  # noqa: PLC0415

    columns = []
    lines = argument.strip().splitlines()
    if len(lines) == 2:  # a file: names above, paths below
        pairs = list(zip(lines[0].split(), lines[1].split(), strict=False))
    else:
        pairs = [(name, path) for name, _, path in (part.partition(":") for part in argument.split(","))]
    for name, path in pairs:
        if not name or not path:
            raise CliError(f'custom-columns: "{name}" must be NAME:.path.to.field')
        columns.append((name, jsonpath.Template(jsonpath.relaxed(path))))
    return columns


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"unable to read {path}: {getattr(error, 'strerror', '') or error}") from None
