"""What a connection may use of this machine: files by which we and a host know each other, and programs.

Whoever may write Nodes names files of the controller's machine, and a key or a password that is sent to a
host of his choice is his. So a Node may only name files below `files_under`, looked at after all symbolic
links, and programs of `commands`, letter by letter; both stand in the server's own configuration, as do the
files of `defaults`, for Nodes that name none. What is secret must be readable by its owner alone.

Files are looked at anew by every opening, so that a renewed certificate is used by the next one. Errors say
which file and what to do; nothing of their content is ever in a message.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from drivers.errors import AuthFailed, Cause, Unsupported
from drivers.hypervisor import Credentials

MAX_AUTH_BYTES = 4096
FIELDS = {
    "known_hosts": "knownHosts",
    "key_file": "keyFile",
    "pki_dir": "pkiDir",
    "auth_file": "authFile",
    "command": "command",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The configuration's word. `private_dir`: where files for children may be made (None: a directory for
    temporary files); it is ours alone."""

    files_under: tuple[str, ...] = ()
    defaults: Credentials = field(default_factory=Credentials)
    commands: frozenset[str] = frozenset()
    private_dir: Path | None = None

    def path(self, credentials: Credentials, name: str, needed_for: str) -> str:
        """The file or directory for `name`, there and readable. Raises AuthFailed, or Unsupported for one
        that must not be used."""
        named, ours = str(getattr(credentials, name)), str(getattr(self.defaults, name))
        if not named and not ours:
            raise AuthFailed(
                f"spec.connection.{FIELDS[name]} is needed for {needed_for}, or a default for it in the "
                "controller's configuration",
                cause=Cause.CREDENTIALS_MISSING,
            )
        if named and not self._is_allowed(named):
            allowed = ", ".join(self.files_under) or "it names none"
            raise Unsupported(
                f"spec.connection.{FIELDS[name]} names {named}, which is not below a directory of "
                f"connections.filesUnder in the controller's configuration ({allowed})",
                cause=Cause.CREDENTIALS_NOT_ALLOWED,
            )
        return readable(named or ours)

    def _is_allowed(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(directory)) for directory in self.files_under)

    def program(self, command: str) -> str:
        """A command that the configuration allows, there and executable. Raises Unsupported."""
        if command not in self.commands:
            allowed = ", ".join(sorted(self.commands)) or "it allows none"
            raise Unsupported(
                f"spec.connection.command {command or '(none)'} is not in connections.commands of the "
                f"controller's configuration ({allowed}), and it would run on the controller's machine",
                cause=Cause.COMMAND_NOT_ALLOWED,
            )
        if not os.access(command, os.X_OK) or not Path(command).is_file():
            raise Unsupported(
                f"spec.connection.command {command}: no such program, or it is not executable",
                cause=Cause.COMMAND_NOT_ALLOWED,
            )
        return command


def readable(path: str) -> str:
    """The path again. Raises AuthFailed."""
    if not os.path.exists(path):
        raise unfit(f"{path}: no such file on the controller's machine")
    if not os.access(path, os.R_OK):
        raise unfit(f"{path}: the controller may not read it")
    return path


def secret(path: str) -> str:
    """The path of a file that nobody but its owner can read. Raises AuthFailed."""
    readable(path)
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise unfit(f"{path}: others can read or write this secret; to mend this: chmod 600 {path}")
    return path


def read_password(path: str) -> tuple[str, str]:
    """(username, password) of a file in YAML. Raises AuthFailed."""
    wanted = f"{path}: must hold two lines, username: NAME and password: SECRET, in YAML"
    try:
        with open(secret(path), "rb") as file:
            text = file.read(MAX_AUTH_BYTES)
        found: Any = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError):
        raise unfit(wanted) from None  # the parser's own words quote the file
    if not isinstance(found, dict) or set(found) != {"username", "password"}:
        raise unfit(wanted)
    if not all(isinstance(value, str) and value for value in found.values()):
        raise unfit(f"{wanted}; what looks like a number or a truth value needs quotes")
    return found["username"], found["password"]


def unfit(message: str) -> AuthFailed:
    return AuthFailed(message, cause=Cause.CREDENTIALS_MISSING)
