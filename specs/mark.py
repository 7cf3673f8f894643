"""The mark: our element in a domain's <metadata>, which says whose the domain is.

Every domain that we define carries `{cluster, uuid, epoch, digest}` in its persistent and its live XML
(safety: "whose a domain is"). Here are the mark itself and the pure functions between it and XML:
`element` and `payload` write it, `find` reads it out of a whole domain document that a host sent. Hosts
are not trusted: a document with a DTD, of more than MAX_XML_BYTES, or not well-formed is refused, and an
element of ours that does not carry all four values in a form that we write ourselves is no mark. What a
mark means (ours, foreign, a clone's copy) is decided elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

MARK_NAMESPACE = "https://domctl.io/xmlns/mark/1"
MARK_KEY = "domctl"  # the namespace's prefix, `key` of virDomainSetMetadata
MAX_XML_BYTES = 4 * 1024 * 1024  # libvirt's own messages end at 4 MiB strings

_EPOCH = re.compile(r"[0-9]{1,18}", re.ASCII)
_FORBIDDEN = ("<!DOCTYPE", "<!ENTITY")
_MAX_VALUE = 256


@dataclass(frozen=True, slots=True)
class Mark:
    """Our element in a domain's <metadata>: whose it is, as of which epoch, defined from which digest."""

    cluster: str
    uuid: str
    epoch: int
    digest: str


class UntrustedXml(ValueError):
    """A document that we do not parse: too large, with a DTD, or not well-formed."""


def parse_xml(text: str) -> ElementTree.Element:
    """Parse XML that came from elsewhere. Raises UntrustedXml.

    Entities can only be declared in a DTD, and no domain XML has one, so both words are refused before
    the parser sees them; nothing in libvirt's output can contain a bare `<!` but comments and CDATA.
    """
    if len(text) > MAX_XML_BYTES:
        raise UntrustedXml(f"XML of {len(text)} characters, at most {MAX_XML_BYTES} are read")
    for word in _FORBIDDEN:
        if word in text:
            raise UntrustedXml(f"XML with {word} is not read")
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - no DTD can reach it, see above
    except ElementTree.ParseError as error:
        raise UntrustedXml(f"XML is not well-formed: {error}") from None


def element(mark: Mark) -> str:
    """The mark as it stands in <metadata>."""
    return f'<{MARK_KEY}:domain xmlns:{MARK_KEY}="{MARK_NAMESPACE}" {_attributes(mark)}/>'


def payload(mark: Mark) -> str:
    """The mark as virDomainSetMetadata wants it: libvirt adds MARK_KEY and MARK_NAMESPACE itself, and
    refuses an element that has them already."""
    return f"<domain {_attributes(mark)}/>"


def _attributes(mark: Mark) -> str:
    values = {"cluster": mark.cluster, "uuid": mark.uuid, "epoch": str(mark.epoch), "digest": mark.digest}
    return " ".join(f"{name}={quoteattr(value)}" for name, value in values.items())


def find(domain_xml: str) -> Mark | None:
    """The mark in a domain's XML, None if it has none. Raises UntrustedXml."""
    if MARK_NAMESPACE not in domain_xml:  # most foreign domains: no need to parse
        return None
    metadata = parse_xml(domain_xml).find("metadata")
    found = None if metadata is None else metadata.find(f"{{{MARK_NAMESPACE}}}domain")
    return None if found is None else _read(found)


def _read(found: ElementTree.Element) -> Mark | None:
    cluster, uuid, epoch, digest = (found.get(name, "") for name in ("cluster", "uuid", "epoch", "digest"))
    if not cluster or not uuid or max(map(len, (cluster, uuid, digest))) > _MAX_VALUE:
        return None
    return Mark(cluster, uuid.lower(), int(epoch), digest) if _EPOCH.fullmatch(epoch) else None
