"""One host as checks see it, what they must know before they look, and how they write commands.

`Seen` is a host within its round. The `needs` of checks are here: each answers "", what would be needed, or
None (see `findings`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from controller.doctor.facts import Host, Round
from controller.doctor.findings import Mend
from drivers.inspection import Inspection

_SHOWN = 5
_CONNECT_FIRST = "a connection to libvirtd"


@dataclass(frozen=True, slots=True)
class Seen:
    host: Host
    round: Round

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def inspection(self) -> Inspection:
        assert self.host.inspection is not None, "what needs an inspection says so in `needs`"
        return self.host.inspection

    def virsh(self, *words: str) -> Mend:
        return Mend(" ".join(["virsh", "-c", *(shlex.quote(w) for w in (self.host.subject.uri, *words))]))

    def here(self, command: str) -> Mend:
        return Mend(command)

    def on_host(self, command: str) -> Mend:
        return Mend(command, self.host.place)


def set_values(file: str, **values: str) -> str:
    """The shell command that sets keys of one of libvirt's configuration files, and has them read again.
    Guests live on when libvirtd is restarted."""
    path = f"/etc/libvirt/{file}"
    old = "; ".join(f"/^{key} *=/d" for key in values)
    new = "".join(f'{key} = "{value}"\\n' for key, value in values.items())
    return f"sed -i '{old}' {path} && printf '{new}' >> {path} && systemctl restart libvirtd"


def listed(names: Iterable[str]) -> str:
    """At most a handful of names, and how many more there are."""
    every = sorted(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def version(text: str) -> tuple[int, ...]:
    """() where there is none."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())


# -- what must be known to look --------------------------------------------------------------------------


def always(_seen: Seen) -> str | None:
    return ""


def connected(seen: Seen) -> str | None:
    return "" if seen.host.inspection is not None else _CONNECT_FIRST


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the inspection; of these drivers only, if any are named."""

    name: str
    drivers: tuple[str, ...] = ()

    def __call__(self, seen: Seen) -> str | None:
        found = seen.host.inspection
        if found is None:
            return _CONNECT_FIRST
        if self.drivers and found.facts.driver not in self.drivers:
            return None
        why = found.unread.get(self.name)
        return "" if why is None else f"an answer of libvirtd: {why}"


def has_transport(seen: Seen) -> str | None:
    uri = seen.host.uri
    return None if uri is None or uri.transport == "local" else connected(seen)


def has_certificates(seen: Seen) -> str | None:
    uri = seen.host.uri
    return None if uri is None or uri.transport != "tls" else connected(seen)


def is_reached(seen: Seen) -> str | None:
    """Whether we may come in is only known once somebody answered."""
    failure = seen.host.failure
    return "" if failure is None or failure.kind == "auth" else _CONNECT_FIRST
