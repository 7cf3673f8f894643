"""Who asks, and whether they may. Identity is the client certificate: CN is the user, each O a group.

There is no anonymous access but to health and version. Until roles exist, the group of administrators may
do everything and everybody else nothing, whatever certificate they hold: what is not allowed is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from controller.api.errors import Subject, forbidden

ADMIN_GROUPS: Final = frozenset({"domctl:admins", "system:masters"})
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz", "/version", "/livez/ping"})


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()

    @property
    def is_admin(self) -> bool:
        return not ADMIN_GROUPS.isdisjoint(self.groups)


ANONYMOUS: Final = User("system:anonymous", ("system:unauthenticated",))


def authorize(user: User, verb: str, subject: Subject) -> None:
    """Raises ApiError (403)."""
    if not user.is_admin:
        raise forbidden(user.name, verb, subject, "only members of domctl:admins have rights here")


def identify(request: web.Request) -> User | None:
    """The user behind a request, None when no certificate was shown. The TLS layer has verified it: its
    issuer, its validity and that it is a client's."""
    transport = request.transport
    peer: dict[str, Any] | None = None if transport is None else transport.get_extra_info("peercert")
    if not peer:
        return None
    names: dict[str, list[str]] = {}
    for relative in peer.get("subject", ()):
        for attribute, value in relative:
            names.setdefault(attribute, []).append(value)
    common_names = names.get("commonName", [])
    if len(common_names) != 1 or not common_names[0]:
        return None
    return User(common_names[0], (*names.get("organizationName", ()), "system:authenticated"))
