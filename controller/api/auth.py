"""Who asks, and whether they may.

Identity is a client certificate (CN is the user, each O a group) or a bearer token (`specs.token`, or
a JWT of the configured issuer). There is
no anonymous access but to health and version. Everything else needs a right, which `controller.api.rbac`
finds in roles and bindings; what is not allowed is refused. Who may `impersonate` others acts with their
rights and no longer with his own, and the audit log names both.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from aiohttp import web

from controller.api import errors
from controller.api.errors import ApiError, Subject
from controller.api.rbac import ADMIN_GROUPS, Ask, User, Verdict

__all__ = [
    "ADMIN_GROUPS",
    "ANONYMOUS",
    "OPEN_PATHS",
    "User",
    "authorize",
    "identify",
    "may_impersonate",
    "wanted_user",
]

OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz", "/version", "/livez/ping"})
AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
ANONYMOUS: Final = User("system:anonymous", (UNAUTHENTICATED,))
_EVERYBODY: Final = frozenset({AUTHENTICATED, UNAUTHENTICATED})
_IMPERSONATE: Final = "impersonate-"
_MAX_GROUPS: Final = 100
_SURROGATES: Final = re.compile("[\ud800-\udfff]")  # what a header is read as that is no text


class Judge(Protocol):
    """`controller.api.rights`."""

    def decide(self, user: User, ask: Ask) -> Verdict: ...


class Registrar(Protocol):
    """`controller.api.bearers`."""

    async def user(self, token: str) -> User | None: ...


def authorize(judge: Judge, user: User, ask: Ask, why: str = "") -> str:
    """By what it is allowed. Raises ApiError (403), which says what is missing and, if `why` is given, for
    what it is needed."""
    verdict = judge.decide(user, ask)
    if not verdict.allowed:
        raise refused(user, ask, why or verdict.reason)
    return verdict.reason


def refused(user: User, ask: Ask, why: str = "") -> ApiError:
    if ask.path:
        words = f'User "{user.name}" cannot {ask.verb} path "{ask.path}"'
    else:
        where = f'in the namespace "{ask.namespace}"' if ask.namespace else "at the cluster scope"
        what = f'resource "{ask.combined}" in API group "{ask.group}"'
        words = f'User "{user.name}" cannot {ask.verb} {what} {where}'
    subject = Subject(ask.resource, ask.name, ask.group)
    return errors.forbidden(subject, f"{words}: {why}" if why else words)


async def identify(request: web.Request, bearers: Registrar) -> User | None:
    """The user behind a request, None when he showed nothing or nothing that is valid. A certificate comes
    before a token, as on Kubernetes."""
    found = _certified(request)
    if found is not None:
        return found
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return await bearers.user(secret.strip()) if scheme.lower() == "bearer" else None


def _certified(request: web.Request) -> User | None:
    """By the certificate of the connection. The TLS layer has verified it: its issuer, its validity and that
    it is a client's."""
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
    return User(common_names[0], (*names.get("organizationName", ()), AUTHENTICATED))


def wanted_user(request: web.Request) -> User | None:
    """Whom the request wants to be taken for; None when it asks for nothing of the kind. A header that is not
    understood is refused, for it would act with more rights than it means to. Raises ApiError."""
    asked = {name.lower() for name in request.headers if name.lower().startswith(_IMPERSONATE)}
    if not asked:
        return None
    unknown = asked - {"impersonate-user", "impersonate-group"}
    name = request.headers.get("Impersonate-User", "")
    groups = request.headers.getall("Impersonate-Group", [])
    if unknown:
        raise errors.bad_request(f"{', '.join(sorted(unknown))}: only a user and groups can be impersonated")
    if not name or len(groups) > _MAX_GROUPS:
        raise errors.bad_request("Impersonate-Group is of use with an Impersonate-User only")
    if any(_SURROGATES.search(one) for one in (name, *groups)):
        raise errors.bad_request("the names that are to be impersonated must be UTF-8")
    everybody = AUTHENTICATED if name != ANONYMOUS.name else UNAUTHENTICATED
    return User(name, tuple(dict.fromkeys((*groups, everybody))))


def may_impersonate(user: User, wanted: User, judge: Judge) -> None:
    """Raises ApiError (403). What everybody is who is somebody needs no right."""
    authorize(judge, user, impersonation("users", wanted.name))
    for group in wanted.groups:
        if group not in _EVERYBODY:
            authorize(judge, user, impersonation("groups", group))


def impersonation(resource: str, name: str) -> Ask:
    """The right to be taken for a user or a member of a group."""
    return Ask("impersonate", "", resource, name=name)
