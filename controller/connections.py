"""The configuration's section on connections: what of the controller's machine may be used to reach hosts.

    connections:
      filesUnder: [hosts]            # where files may stand that Nodes name in spec.connection
      knownHosts: hosts/known_hosts  # for Nodes that name none; and so keyFile (ssh) and pkiDir (tls)
      keyFile: hosts/id_ed25519
      pkiDir: hosts/pki
      commands: [/usr/local/libexec/reach-host]  # the only programs that +ext may run here

Whoever may write Nodes chooses a host, and what is shown to that host: so it is not he who decides which
files and programs of this machine there are to choose from. Paths are relative to the configuration file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import UNSET, UnsetType

from specs.meta import Struct
from specs.problems import Keys
from specs.uri import is_plain_file

Add = Callable[[Keys, str], None]
"""Reports a problem at its place."""


class ConnectionsSection(Struct, frozen=True, kw_only=True):
    files_under: list[str] | UnsetType = UNSET
    known_hosts: str | UnsetType = UNSET
    key_file: str | UnsetType = UNSET
    pki_dir: str | UnsetType = UNSET
    commands: list[str] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class ConnectionsConfig:
    """`files_under`: directories; none: `hosts` in the data directory. `defaults`: paths, by the names of
    `drivers.hypervisor.Credentials`."""

    files_under: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    commands: frozenset[str] = frozenset()


_DEFAULTS: Final = (
    ("known_hosts", "knownHosts", "file"),
    ("key_file", "keyFile", "file"),
    ("pki_dir", "pkiDir", "directory"),
)


def checked(section: ConnectionsSection, directory: Path, add: Add) -> ConnectionsConfig:
    """`directory`: that of the configuration file."""

    def place(path: str, name: str, kind: str = "") -> str:
        """An absolute path that libvirt and ssh can be given; `kind`: it must be there, and as what."""
        found = Path(os.path.abspath(directory / path))
        keys = ("connections", name)
        if not is_plain_file(str(found)):
            add(keys, f"must be a path of letters, digits and . _ + @ : / -, is {found}")
        elif (kind == "file" and not found.is_file()) or (kind == "directory" and not found.is_dir()):
            add(keys, f"no such {kind}: {found}")
        return str(found)

    under = () if isinstance(section.files_under, UnsetType) else section.files_under
    commands = () if isinstance(section.commands, UnsetType) else section.commands
    for command in commands:
        if not is_plain_file(command):
            message = "must be absolute paths of plain characters, without arguments"
            add(("connections", "commands"), f"{message}, is {command}")
    return ConnectionsConfig(
        files_under=tuple(place(path, "filesUnder") for path in under),
        defaults={
            name: place(path, camel, kind)
            for name, camel, kind in _DEFAULTS
            if isinstance(path := getattr(section, name), str) and path
        },
        commands=frozenset(commands),
    )
