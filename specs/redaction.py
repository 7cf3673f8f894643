"""What must not be seen, taken out of what is: one table of places and forms, for everything that leaves.

Applied to log lines, errors of hosts and of the store as they are made (`drivers.errors`), Events, the audit
log, refusals, what a host has where drift is told, and XML that is shown. Others guard before it: XML that is
planned with has no passwords (`specs.graphics`), and that of hosts is never read with its own. So what is met
here was written by hand where no secret belongs, or quoted by a host.

Names count, not looks: `passwd='x'`, `"password": "x"`, `password=x`. What is only named beside a word
(`password: is required`) stays, for messages must be readable. Idempotent; never fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final
from xml.etree import ElementTree

from specs.mark import UntrustedXml, parse_xml

MASK: Final = "***"
MAX_TEXT: Final = 64 << 10  # no message is longer; what is left of one is not shown
SECRET_NAMES: Final = (
    *("passwd", "password", "passphrase", "passcode", "client_secret", "secret_key", "private_key"),
    *("api_key", "access_token", "refresh_token", "id_token"),
)
"""Attributes of libvirt's XML, members of JSON and parameters of URIs and commands whose value is secret; and
what ends so, as `vnc_password`."""
SECRET_TEXTS: Final = ("cookie", "password", "passphrase")
"""Elements of libvirt's XML whose text is secret."""
SECRET_ENTRIES: Final = ("entry",)
"""The same, in XML alone: what sysinfo and fwcfg tell a guest at boot, often to let somebody in."""

_NAME: Final = "(?:" + "|".join(name.replace("_", "[-_]?") for name in SECRET_NAMES) + ")"
# In quotes: to the quote that ends it by the rules of strings; if none does, to the next one, or to the end.
_QUOTED: Final = r"""(["'])(?:(?>(?:\\.|(?!\2)[^\\])*)\2|(?:(?!\2).)*\2?)"""
_ESCAPED: Final = r'\\"(?>(?:\\\\\\\\|\\\\\\"|(?!\\").)*)\\"'  # in a string within a string
_WORD: Final = "[A-Za-z0-9_-]"
_FORMS: Final[tuple[tuple[str, str], ...]] = (
    (rf"({_NAME}(?:\\\")?\s{{0,3}}[=:]\s{{0,3}}){_ESCAPED}", rf'\1\\"{MASK}\\"'),
    (rf"({_NAME}[\"']?\s{{0,3}}[=:]\s{{0,3}}){_QUOTED}", rf"\1\2{MASK}\2"),
    (rf"({_NAME}=)[^\s\"'<>]+", rf"\1{MASK}"),  # a parameter, an option of a command
    (r"([?&][\w.-]{0,40}(?:token|secret)=)[^&#\s\"'<>]+", rf"\1{MASK}"),  # of a query
    (r"(\bsecret,[^\s\"']{0,200}?\bdata=)[^\s,\"'<]+", rf"\1{MASK}"),  # QEMU's own objects
    (rf"(<(?:{'|'.join(SECRET_TEXTS)})\b[^<>]{{0,256}}>)[^<]+", rf"\1{MASK}"),
    (
        r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/@:\"']{0,256}:)[^\s/@\"']{1,1024}@",
        rf"\1{MASK}@",
    ),  # a URI's user information
    (r"(\bauthorization:\s{0,3}(?:bearer|basic)\s{1,3}|\bbearer\s{1,3})[a-z0-9._~+/=-]{16,}", rf"\1{MASK}"),
    (r"\bdomctl-[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])", MASK),
    (  # a JWT; looked for once a word, and not at each `eyJ` of it, of which a hostile text is full
        rf"(?<![\w-])(?={_WORD}++\.eyJ{_WORD}{{8,}}+\.{_WORD})((?:{_WORD}*?-)??)"
        rf"eyJ{_WORD}{{8,}}+\.{_WORD}++\.{_WORD}+",
        rf"\1{MASK}",
    ),
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END).)*(?:-----END [A-Z ]*PRIVATE KEY-----)?", MASK),
)
_PATTERNS: Final = tuple((re.compile(form, re.IGNORECASE | re.DOTALL), text) for form, text in _FORMS)
_SHORT: Final = 64  # characters of a name that is worth remembering
_SECRET_NAME: Final = re.compile(_NAME + r"\Z", re.IGNORECASE)
# Lines without any of these are the most by far, and need no closer look.
_MAYBE: Final = re.compile(
    r"pass|://[^\s/]*@|key|secret|token|cookie|bearer|authorization|domctl-[a-z0-9_-]{43}|eyJ", re.IGNORECASE
)


def redacted(text: str) -> str:
    """A text without the secrets that it gives the name of, nor what is beyond MAX_TEXT characters."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + MASK
    if _MAYBE.search(text) is None:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted_value(value: Any) -> Any:
    """The same for what is made of objects, lists and texts; members with a secret name are masked whole."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret_name(key) and one else redacted_value(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted_value(one) for one in value]
    return value


def is_secret_name(name: object) -> bool:
    """Whether what is called so, a member of JSON or a variable of an environment, holds a secret."""
    if not isinstance(name, str):
        return False
    return _names_a_secret(name) if len(name) < _SHORT else _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=1024)  # an audit line has the same thirty names as the one before
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def is_secret_attribute(name: str) -> bool:
    """Whether an attribute of libvirt's XML holds a secret."""
    return name.lower() in SECRET_NAMES


def redacted_xml(xml: str) -> str:
    """A domain's XML without its secrets. What cannot be read as XML is masked as a whole."""
    try:
        root = parse_xml(xml)
    except UntrustedXml:
        return MASK
    for element in root.iter():
        for name in element.attrib:
            if is_secret_attribute(name):
                element.set(name, MASK)
        if element.tag in (*SECRET_TEXTS, *SECRET_ENTRIES) and (element.text or "").strip():
            element.text = MASK
        for name, text in element.attrib.items():
            element.set(name, redacted(text))
    return ElementTree.tostring(root, encoding="unicode")


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without these very values, and their usual spellings; for where they are known."""
    spelled = {form(one) for one in secrets if one for form in _SPELLINGS}
    for one in sorted(spelled, key=len, reverse=True):
        text = text.replace(one, MASK)
    return redacted(text)


def _xml(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&apos;")):
        text = text.replace(char, entity)
    return text


_SPELLINGS: Final[tuple[Callable[[str], str], ...]] = (
    lambda text: text,
    _xml,
    lambda text: _xml(text).replace("&apos;", "'"),
    lambda text: _xml(text).replace("&apos;", "'").replace("&quot;", '"'),
    lambda text: text.replace("\\", "\\\\").replace('"', '\\"'),
)
