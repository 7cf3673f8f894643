"""The mark between data and XML."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs.mark import MARK_NAMESPACE, MAX_XML_BYTES, Mark, UntrustedXml, element, find, payload

MARK = Mark("c1", "11111111-1111-4111-8111-111111111111", 7, "sha256:ab")


def domain(metadata: str) -> str:
    return f"<domain type='qemu'><name>a</name><metadata>{metadata}</metadata></domain>"


def test_a_mark_that_was_written_is_found() -> None:
    assert find(domain(element(MARK))) == MARK


_plain = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=40)


@given(cluster=_plain, digest=_plain, epoch=st.integers(0, 10**17))
def test_no_text_breaks_out_of_a_mark(cluster: str, digest: str, epoch: int) -> None:
    mark = Mark(cluster, MARK.uuid, epoch, digest)
    assert find(domain(element(mark) + "<other/>")) == mark


def test_the_payload_carries_no_namespace_because_libvirt_adds_it() -> None:
    assert payload(MARK).startswith("<domain cluster=")
    assert "xmlns" not in payload(MARK)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<other/>",
        f'<x:domain xmlns:x="{MARK_NAMESPACE}2" cluster="c" uuid="u" epoch="1" digest="d"/>',
        f'<x:domain xmlns:x="{MARK_NAMESPACE}" uuid="u" epoch="1" digest="d"/>',
        f'<x:domain xmlns:x="{MARK_NAMESPACE}" cluster="c" uuid="u" epoch="-1" digest="d"/>',
        f'<x:domain xmlns:x="{MARK_NAMESPACE}" cluster="c" uuid="u" epoch="\uff11" digest="d"/>',
        f'<x:domain xmlns:x="{MARK_NAMESPACE}" cluster="c" uuid="u" epoch="{"9" * 19}" digest="d"/>',
        f'<x:domain xmlns:x="{MARK_NAMESPACE}" cluster="{"c" * 300}" uuid="u" epoch="1" digest="d"/>',
        f'<x:other xmlns:x="{MARK_NAMESPACE}" cluster="c" uuid="u" epoch="1" digest="d"/>',
    ],
)
def test_what_is_not_wholly_our_mark_is_none(metadata: str) -> None:
    assert find(domain(metadata)) is None


def test_a_mark_outside_metadata_is_none() -> None:
    assert find(f"<domain>{element(MARK)}</domain>") is None


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE d [<!ENTITY a "{MARK_NAMESPACE}">]><domain/>',
        f"<domain>{MARK_NAMESPACE}",
        f"<domain>{MARK_NAMESPACE}{'x' * MAX_XML_BYTES}</domain>",
    ],
)
def test_a_document_that_deserves_no_trust_is_not_parsed(text: str) -> None:
    with pytest.raises(UntrustedXml):
        find(text)
