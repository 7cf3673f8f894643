"""Definitions on real hosts: libvirt takes each, starts it, and nothing of it is drift afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from specs.domain import effective_type
from specs.domainxml import Rendered
from specs.mark import find
from specs.xmldiff import missing
from tests.labhost import Guest, Lab, LabHost
from tests.specscase import BRIDGE, FILES, IMAGES, NETWORK, cases, rendered

CASES = cases()


@pytest.fixture(scope="module")
def furnished(lab: Lab) -> Iterator[LabHost]:
    """A host with all that the definitions name."""
    host = lab.hosts[0]
    lab.reset()
    images = host.path(IMAGES)
    images.mkdir(parents=True, exist_ok=True)
    for name, size in FILES.items():
        with (images / name).open("wb") as file:
            file.truncate(size)
    (images / "vmlinuz").write_bytes(Path(host.path(Guest.KERNEL)).read_bytes())
    host.run("qemu-img", "create", "-q", "-f", "qcow2", f"{IMAGES}/root.qcow2", "10M")
    (images / "loop.img").write_bytes(bytes(1 << 20))
    loop = host.run("losetup", "--find", "--show", f"{IMAGES}/loop.img").strip()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(host.run, "losetup", "--detach", loop)
        host.run("ln", "-sf", loop, f"{IMAGES}/loop0")
        host.run("ip", "link", "add", BRIDGE, "type", "bridge")
        cleanup.callback(host.run, "ip", "link", "delete", BRIDGE)
        network = host.directory / "network.xml"
        network.write_text(f"<network><name>{NETWORK}</name><bridge name='virbr77'/></network>")
        with libvirt.open(host.uri) as connection:
            found = [one.name() for one in connection.listAllNetworks()]
        if NETWORK not in found:
            host.virsh("net-define", str(network))
            cleanup.callback(host.virsh, "net-undefine", NETWORK)
            host.virsh("net-start", NETWORK)
            cleanup.callback(host.virsh, "net-destroy", NETWORK)
        yield host
        lab.reset()


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


@pytest.mark.parametrize("name", [name for name, one in CASES.items() if effective_type(one.spec) == "qemu"])
def test_qemu_takes_every_definition_and_none_of_it_drifts(name: str, furnished: LabHost) -> None:
    with libvirt.open(furnished.uri) as connection:
        check(connection, rendered(CASES[name]))


def test_the_test_driver_takes_its_definition_and_nothing_drifts() -> None:
    with libvirt.open("test:///default") as connection:
        check(connection, rendered(CASES["test-1"]))
