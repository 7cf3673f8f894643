"""Tables on a terminal, as kubectl lays them out.

Columns and cells come from the server (meta.k8s.io Table); here they are only aligned: three spaces between
columns, none at the end. A column's width is remembered over a watch, so that later rows stand under earlier
ones. Cells are one line without control characters, whatever the server was given by users or hosts.
"""

from __future__ import annotations

from controller.cli.errors import printable
from specs.ages import age

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_GAP = 3
_LEAST = 6
_EVENT_WIDTH = len("MODIFIED") + _GAP
NONE = "<none>"


class Options:
    """What the user wants to see beside the server's columns."""

    def __init__(self) -> None:
        self.wide = False
        self.headers = True
        self.with_namespace = False
        self.show_labels = False
        self.label_columns: Sequence[str] = ()
        self.name_prefix = ""  # `domain.domctl.io/` when several types share the output
        self.with_event = False


class Grid:
    """Lines of cells with remembered widths."""

    def __init__(self, widths: Sequence[int] = ()) -> None:
        self._widths = list(widths)

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        for row in rows:
            self._widths += [0] * (len(row) - len(self._widths))
            for column, cell in enumerate(row[:-1]):
                needed = max(len(cell) + _GAP, _LEAST)
                self._widths[column] = max(self._widths[column], needed)
        return [self._line(row) for row in rows]

    def _line(self, row: Sequence[str]) -> str:
        padded = [cell.ljust(self._widths[column]) for column, cell in enumerate(row[:-1])]
        return "".join([*padded, row[-1] if row else ""])


class Printer:
    """Turns Tables into lines; the first that is not empty brings the headers."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._grid = Grid([_EVENT_WIDTH] if options.with_event else [])
        self._columns: list[dict[str, Any]] = []
        self._headed = not options.headers

    def lines(self, table: dict[str, Any], event: str = "") -> list[str]:
        """The rows of `table` as lines. Watches give columns only with the first event."""
        self._columns = table.get("columnDefinitions") or self._columns
        rows = table.get("rows") or []
        if not rows:
            return []
        wanted = [i for i, c in enumerate(self._columns) if self._options.wide or not c.get("priority")]
        cells = [self._cells(row, wanted, event) for row in rows]
        if not self._headed:
            self._headed = True
            cells.insert(0, self._headings(wanted))
        return self._grid.lines(cells)

    def _headings(self, wanted: Sequence[int]) -> list[str]:
        options = self._options
        names = ["EVENT"] if options.with_event else []
        names += ["NAMESPACE"] if options.with_namespace else []
        names += [str(self._columns[i].get("name", "")).upper() for i in wanted]
        names += [label.rpartition("/")[2].upper() for label in options.label_columns]
        return [*names, "LABELS"] if options.show_labels else names

    def _cells(self, row: dict[str, Any], wanted: Sequence[int], event: str) -> list[str]:
        options = self._options
        meta = (row.get("object") or {}).get("metadata") or {}
        labels = meta.get("labels") or {}
        given = row.get("cells") or []
        cells = [event] if options.with_event else []
        cells += [cell_text(meta.get("namespace"))] if options.with_namespace else []
        for position in wanted:
            text = cell_text(given[position] if position < len(given) else None)
            is_name = self._columns[position].get("format") == "name" or position == 0
            cells.append(options.name_prefix + text if is_name else text)
        cells += [cell_text(labels.get(label, "")) for label in options.label_columns]
        return [*cells, label_text(labels)] if options.show_labels else cells


def cell_text(value: object) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    first, newline, _ = text.partition("\n")
    return printable(f"{first}..." if newline else text)


def label_text(labels: dict[str, str]) -> str:
    return printable(",".join(f"{k}={v}" for k, v in sorted(labels.items()))) or NONE


def of_objects(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A Table made here, for a server that makes none: NAME and AGE."""
    columns = [{"name": "Name", "format": "name"}, {"name": "Age"}]
    rows = []
    for one in objects:
        meta = one.get("metadata") or {}
        rows.append({"cells": [meta.get("name"), age(meta.get("creationTimestamp"))], "object": one})
    return {"kind": "Table", "columnDefinitions": columns, "rows": rows}
