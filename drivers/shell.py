"""The Shell port: one read-only command on a host, by argument list, and what it answered.

For what libvirt's API does not tell (`domctl doctor --ssh`); the controller itself never uses it. Commands
come from fixed tables in our code, never from a user, a spec or a host. Answers are bounded in time and size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from drivers.errors import DriverError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?", re.ASCII)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", re.ASCII)


class ShellFailed(DriverError):
    """There is no way to run commands there, or this one did not end; what a command that ran says is an
    Answer, whatever its code."""


@dataclass(frozen=True, slots=True)
class Destination:
    """`user` and `port`: "" and 0 for what ssh itself would take. `config`: a file for ssh's -F."""

    host: str
    user: str = ""
    port: int = 0
    config: str = ""
    known_hosts: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for what could be an option or a command to ssh."""
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"{self.host!r} is no name or address of a host")
        if self.user and not _USER.fullmatch(self.user):
            raise ValueError(f"{self.user!r} is no user's name")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"the port must be between 1 and 65535, is {self.port}")

    @property
    def text(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


@dataclass(frozen=True, slots=True)
class Answer:
    """`out` and `err` end where the bound was; `began_at` and `ended_at` are our wall clock, in seconds."""

    code: int
    out: str
    err: str
    began_at: float
    ended_at: float


class Shell(Protocol):
    async def run(self, to: Destination, argv: Sequence[str]) -> Answer:
        """Raises ShellFailed."""
        ...
