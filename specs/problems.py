"""What is wrong with an input: one problem, its place, and how it reads.

Every check in `specs` returns `Problem`s instead of raising at the first, so that a user sees all of them
at once, and the API turns the same list into the causes of a 422. A problem is an error unless it is a
warning. Positions are known when the object came from text (`specs.yamldoc`); 0 means unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Keys = tuple[str | int, ...]
# The cause types of Kubernetes' Status, so that clients which read them find what they know.
Reason = Literal[
    "FieldValueInvalid",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueTypeInvalid",
]
MAX_PROBLEMS: Final = 200  # of one object; who has more has another file in hand
_MAX_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """`keys` is the path as map keys and list indices; `line` and `column` count from 1, in `file`."""

    keys: Keys
    message: str
    reason: Reason = "FieldValueInvalid"
    line: int = 0
    column: int = 0
    warning: bool = False
    file: str = ""
    unknown: bool = False  # it is about a field that nothing has

    @property
    def path(self) -> str:
        return path_text(self.keys)

    @property
    def strict(self) -> str:
        """Of an unknown field, what Kubernetes' strict decoding says of it, and the hint."""
        hint = self.message.partition(", ")[2]
        return f'unknown field "{self.path}"' + (f" ({hint})" if hint else "")

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.keys else self.message


def path_text(keys: Keys) -> str:
    """`spec.disks[1].source.file`; keys that are not plain words stand in brackets, as labels do."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.replace("_", "").isalnum() and key.isascii():
            text += f".{key}" if text else key
        else:
            text += f"[{shown(key).strip(chr(34))}]"
    return text


def formatted(problem: Problem) -> str:
    """`file:line:column: spec.vcpus: must be between 1 and 4096, is 0`, without what is not known."""
    place = [problem.file] if problem.file else []
    if problem.line:
        place += [str(problem.line), str(problem.column)]
    prefix = ":".join(place) + ": " if place else ""
    return f"{prefix}{'warning: ' if problem.warning else ''}{problem}"


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Without the warnings."""
    return [problem for problem in problems if not problem.warning]


def shown(value: object) -> str:
    """A value as a message may quote it: short, on one line, without control characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if not isinstance(value, str):
        text = str(value) if not isinstance(value, int) or abs(value) < 10**_MAX_SHOWN else "a huge number"
        return text[:_MAX_SHOWN]
    cut = value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cut) + '"'
