"""Definitions on real hosts: libvirt takes each, starts it, and nothing of it is drift afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import libvirt
import pytest
from msgspec.structs import replace

from specs.domain import Graphics, SecretKey, effective_type
from specs.domainxml import Rendered
from specs.graphics import passwords_in, with_passwords
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


def test_libvirt_keeps_the_password_of_a_screen_and_shows_it_to_nobody_who_does_not_ask() -> None:
    screens = (
        Graphics(type="vnc", listen="0.0.0.0", password_secret=SecretKey(name="a")),
        Graphics(type="spice"),
    )
    one = CASES["test-1"]
    planned = rendered(replace(one, spec=replace(one.spec, graphics=list(screens))))
    with libvirt.open("test:///default") as connection:
        handle = connection.defineXML(with_passwords(planned.xml, {"vnc": "hunter2"}))
        try:
            handle.create()
            for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
                shown = handle.XMLDesc(flags)
                assert missing(planned.xml, shown) == () and "hunter2" not in shown
            assert passwords_in(handle.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)) == ("hunter2",)
        finally:
            handle.destroy()
            handle.undefine()


def test_the_test_driver_takes_its_definition_and_nothing_drifts() -> None:
    with libvirt.open("test:///default") as connection:
        check(connection, rendered(CASES["test-1"]))
