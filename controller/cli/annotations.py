"""Problems of files, in the forms that forges show beside the line in question.

    json     a list of {file, line, column, field, message, severity}
    github   workflow commands: `::error file=…,line=…,col=…::…`
    gitlab   a code quality report

Each is complete by itself, and empty where there is no problem. What a file says cannot end a line of it:
what GitHub would read as a command of its own is escaped as GitHub does it.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from specs.problems import Problem

_COMMAND = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY = {**_COMMAND, ":": "%3A", ",": "%2C"}


def _json(found: Sequence[Problem]) -> str:
    listed = [
        {
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "field": one.path,
            "message": one.message,
            "severity": "warning" if one.warning else "error",
        }
        for one in found
    ]
    return json.dumps(listed, indent=2) + "\n"


def _github(found: Sequence[Problem]) -> str:
    lines = []
    for one in found:
        place = {"file": one.file, "line": one.line, "col": one.column}
        where = ",".join(
            f"{name}={_escaped(str(value), _PROPERTY)}" for name, value in place.items() if value
        )
        lines.append(f"::{'warning' if one.warning else 'error'} {where}::{_escaped(str(one), _COMMAND)}\n")
    return "".join(lines)


def _gitlab(found: Sequence[Problem]) -> str:
    import hashlib  # noqa: PLC0415 - only here

    listed = [
        {
            "description": str(one),
            "check_name": "domctl validate",
            "fingerprint": hashlib.sha256(f"{one.file}\0{one.line}\0{one}".encode()).hexdigest(),
            "severity": "minor" if one.warning else "critical",
            "location": {"path": one.file, "lines": {"begin": max(one.line, 1)}},
        }
        for one in found
    ]
    return json.dumps(listed, indent=2) + "\n"


def _escaped(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(char, char) for char in text)


FORMATS: dict[str, Callable[[Sequence[Problem]], str]] = {
    "json": _json,
    "github": _github,
    "gitlab": _gitlab,
}
