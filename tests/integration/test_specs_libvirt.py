"""Definitions on real hosts: libvirt takes each, starts it, and nothing of it is drift afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import libvirt
import pytest

from specs.domain import effective_type
from specs.domainxml import Rendered
from specs.hypervisors import DRIVER_OF_TYPE
from specs.mark import find
from specs.xmldiff import missing
from tests.furnished import furnished
from tests.labhost import Lab, LabHost
from tests.specscase import cases, rendered

CASES = cases()


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[LabHost]:
    with furnished(lab) as made:
        yield made


def check(connection: libvirt.virConnect, definition: Rendered) -> None:
    handle = connection.defineXMLFlags(definition.xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        inactive = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        handle.create()
        live = handle.XMLDesc(0)
        again = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        for actual in (inactive, live, again):
            assert missing(definition.xml, actual) == ()
            mark = find(actual)
            assert mark is not None
            assert mark.digest == definition.digest
        handle.destroy()
        redefined = connection.defineXMLFlags(definition.xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        assert redefined.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == inactive
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            handle.destroy()
        handle.undefine()


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        (kind, name)
        for name, one in CASES.items()
        if (kind := DRIVER_OF_TYPE[effective_type(one.spec)]) in ("qemu", "lxc")
    ],
)
def test_a_host_takes_every_definition_and_none_of_it_drifts(driver: str, name: str, host: LabHost) -> None:
    with libvirt.open(host.uri.replace("qemu", driver, 1)) as connection:
        check(connection, rendered(CASES[name]))


def test_the_test_driver_takes_its_definition_and_nothing_drifts() -> None:
    with libvirt.open("test:///default") as connection:
        check(connection, rendered(CASES["test-1"]))
