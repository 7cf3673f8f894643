"""Passwords of a domain's screens: which Secrets a spec names, and how their values come into its XML.

XML is planned, compared and kept without them. What of a Secret a plan may know is `SecretFacts`: a version,
which moves with its data and is part of a definition's digest, and what each value is fit for. The values
themselves are read where a definition is sent to libvirt, put into it by `with_passwords`, and kept nowhere
else; they are put into every definition that is sent, whatever it was made from.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from msgspec import UnsetType

from specs.domain import DomainSpec
from specs.mark import parse_xml
from specs.problems import Keys, Problem

DEFAULT_KEY: Final = "password"
VNC_LIMIT: Final = 8  # characters: the protocol looks at no more, and libvirt refuses more
_LIMITS: Final[Mapping[str, int]] = {"vnc": VNC_LIMIT, "spice": 256}


class Unfit(ValueError):
    """A value that cannot be a password; the text says why, and never what it is."""


@dataclass(frozen=True, slots=True)
class SecretUse:
    """The screen of kind `screen` has its password at `key` of Secret `name`, in the domain's namespace."""

    screen: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class SecretFacts:
    """Of one Secret: `version` tells whether its data is what it was, and nothing of it. `unfit`: by key and
    kind of screen, why that value cannot be its password ("" where it can)."""

    version: str
    unfit: Mapping[tuple[str, str], str]


def uses_of(spec: DomainSpec) -> tuple[SecretUse, ...]:
    """The values that a spec names."""
    return tuple(use for _, use in _uses(spec))


def _uses(spec: DomainSpec) -> Iterator[tuple[Keys, SecretUse]]:
    for index, one in enumerate(() if isinstance(spec.graphics, UnsetType) else spec.graphics):
        named = one.password_secret
        if not isinstance(named, UnsetType):
            key = DEFAULT_KEY if isinstance(named.key, UnsetType) else named.key
            yield ("spec", "graphics", index, "passwordSecret"), SecretUse(one.type, named.name, key)


def facts_of(body: Mapping[str, Any]) -> SecretFacts:
    """What may be known of a stored Secret."""
    metadata, data = body["metadata"], body.get("data") or {}
    unfit = {(key, screen): _why_unfit(value, screen) for key, value in data.items() for screen in _LIMITS}
    return SecretFacts(f"{metadata.get('uid', '')}:{metadata.get('generation', 0)}", unfit)


def _why_unfit(value: object, screen: str) -> str:
    try:
        password(value, screen)
    except Unfit as error:
        return str(error)
    return ""


def password(value: object, screen: str) -> str:
    """A value of a Secret's data as the password of a screen. Raises Unfit."""
    try:
        text = base64.b64decode(value if isinstance(value, str) else "", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unfit("is not text") from None
    if not text:
        raise Unfit("is empty")
    if not text.isprintable():
        raise Unfit("has characters that cannot be typed, such as a line's end")
    if len(text) > _LIMITS[screen]:
        raise Unfit(f"is longer than the {_LIMITS[screen]} characters that {screen} can have")
    return text


def problems_of(spec: DomainSpec, facts: Mapping[str, SecretFacts]) -> Iterator[Problem]:
    """What keeps the named values from being used. `facts` is by name, of the domain's namespace."""
    for keys, use in _uses(spec):
        found = facts.get(use.name)
        if found is None:
            why = f"there is no Secret {use.name} in its namespace"
        elif (use.key, use.screen) not in found.unfit:
            why = f"Secret {use.name} has no key {use.key}"
        else:
            why = found.unfit[use.key, use.screen]
            why = why and f"key {use.key} of Secret {use.name} {why}"
        if why:
            yield Problem(keys, why)


def versions_of(spec: DomainSpec, facts: Mapping[str, SecretFacts]) -> str:
    """What a definition's digest covers of the Secrets that it uses."""
    found = ((use, facts.get(use.name)) for use in uses_of(spec))
    return "".join(f"\n{use}@{one.version}" for use, one in found if one is not None)


def with_passwords(xml: str, passwords: Mapping[str, str]) -> str:
    """XML with the passwords of its screens, by kind. Raises LookupError when it has no such screen: it must
    not be sent with one that is open to everybody."""
    if not passwords:
        return xml
    root = parse_xml(xml)
    for screen, text in passwords.items():
        found = [one for one in root.iterfind("devices/graphics") if one.get("type") == screen]
        if not found:
            raise LookupError(f"the definition has no screen of type {screen}")
        for one in found:
            one.set("passwd", text)
    return ElementTree.tostring(root, encoding="unicode")


def passwords_in(xml: str) -> tuple[str, ...]:
    """Those that `with_passwords` has put there: for taking them out of what a host answers."""
    if "passwd=" not in xml:
        return ()
    return tuple(text for one in parse_xml(xml).iterfind("devices/graphics") if (text := one.get("passwd")))
