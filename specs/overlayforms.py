"""The forms that a value in an XML fragment may have, and how the allow list of elements is written.

See `specs.overlaygrammar`. Nothing but free text (title, description) and the two random devices matches
anything with a leading `/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Form:
    """What a value may look like, as a pattern and in words."""

    pattern: re.Pattern[str]
    words: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """One element: its attributes, its children, its text. `key`: the attributes that tell siblings apart
    (none: there is one). `match`: how a device finds what it changes: an `existing` one by alias, or it is a
    `new` one beside the others."""

    attributes: Mapping[str, Form] = field(default_factory=dict)
    children: Mapping[str, Allowed] = field(default_factory=dict)
    text: Form | None = None
    key: tuple[str, ...] = ()
    match: str = ""


def form(pattern: str, words: str) -> Form:
    return Form(re.compile(pattern, re.ASCII), words)


def choice(*values: str) -> Form:
    return form("|".join(re.escape(value) for value in values), " or ".join(filter(None, values)))


WORD = form(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", "a word of letters, digits and '_.+-'")
TEXT = form(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]{0,4096}", "text")
PHRASE = form(r"[A-Za-z0-9 _.+-]{1,64}", "letters, digits, blanks and '_.+-'")
# Counts are small: libvirt makes an array or a controller for each, and a huge one takes libvirtd down.
COUNT = form(r"[0-9]{1,2}", "a number below 100")
NUMBER = form(r"[0-9]{1,12}", "a number")
SIGNED = form(r"-?[0-9]{1,12}", "a number")
HEX = form(r"0x[0-9a-fA-F]{1,4}|[0-9]{1,3}", "a number below 1000, or 0x and at most 4 digits")
WIDE_HEX = form(r"0x[0-9a-fA-F]{1,8}", "0x and at most 8 digits")
SWITCH = choice("on", "off", "yes", "no")
CPUS = form(r"[0-9,^-]{1,256}", "a list of CPUs such as 0-3,^2")
UNIT = choice("b", "bytes", "KB", "MB", "GB", "k", "KiB", "M", "MiB", "G", "GiB")
LOOPBACK = choice("127.0.0.1", "::1", "localhost")
ALIAS = form(r"ua-[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?", "ua- and the name of a device")
PORT = form(r"-1|59[0-9][0-9]|[6-9][0-9]{3}|[1-5][0-9]{4}", "-1 or a port from 5900 on")
ZONE = form(r"[A-Za-z_]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}", "a time zone such as Europe/Berlin")


def switches(*names: str) -> dict[str, Allowed]:
    return {name: Allowed({"state": SWITCH}) for name in names}


def numbers(*names: str, unit: bool = False) -> dict[str, Allowed]:
    return {name: Allowed({"unit": UNIT} if unit else {}, text=NUMBER) for name in names}
