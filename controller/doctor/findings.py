"""What a check says, and how a table of checks is gone through.

A check is a row: its name, how grave a finding is, what must be known to look at all, and the look itself.
`needs` answers "" when it can be looked at, what would be needed when it cannot, and None when the question
has no meaning for this host. Every row that applies ends in exactly one of three: findings, passed, or not
checked; nothing is passed over in silence.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Severity(enum.StrEnum):
    ERROR = "error"  # a promise would be broken, or it will not work
    WARNING = "warning"  # it works, and is weaker than it should be
    INFO = "info"  # worth knowing


@dataclass(frozen=True, slots=True)
class Mend:
    """A command. `on`: the host it is run on, "" for here (wherever domctl runs)."""

    command: str
    on: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` and `severity` are filled in from the row unless a look says otherwise."""

    seen: str
    why: str
    mend: tuple[Mend, ...]
    severity: Severity | None = None
    check: str = ""


@dataclass(frozen=True, slots=True)
class NotChecked:
    check: str
    needs: str


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    name: str
    severity: Severity
    needs: Callable[[T], str | None]
    look: Callable[[T], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one host or one pair, in the order of the table."""

    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.findings + other.findings, self.passed + other.passed, self.not_checked + other.not_checked
        )

    @property
    def has_errors(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def judge(checks: Sequence[Check[T]], subject: T) -> Verdict:
    findings: list[Finding] = []
    passed: list[str] = []
    not_checked: list[NotChecked] = []
    for check in checks:
        needed = check.needs(subject)
        if needed is None:
            continue
        if needed:
            not_checked.append(NotChecked(check.name, needed))
            continue
        found = [
            Finding(one.seen, one.why, one.mend, one.severity or check.severity, check.name)
            for one in check.look(subject)
        ]
        findings += found
        if not found:
            passed.append(check.name)
    return Verdict(tuple(findings), tuple(passed), tuple(not_checked))
