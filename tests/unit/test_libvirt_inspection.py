"""What a host's own documents tell before it is trusted, as libvirt 9.0 writes them."""

from __future__ import annotations

import pytest

from drivers.inspection import CpuOffer, Pages, SecurityModel
from drivers.libvirt.inspection import parse_cpu_offer, parse_host
from specs.mark import UntrustedXml

HOST = """
<capabilities><host>
  <cpu><arch>x86_64</arch><model>EPYC</model></cpu>
  <topology><cells num='2'>
    <cell id='0'><pages unit='KiB' size='4'>1000</pages><pages unit='KiB' size='2048'>3</pages></cell>
    <cell id='1'><pages unit='KiB' size='4'>500</pages><pages unit='KiB' size='2048'>4</pages></cell>
  </cells></topology>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi>
    <baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64055:+108</baselabel></secmodel>
</host>
<guest><os_type>hvm</os_type><arch name='i686'><machine canonical='pc-i440fx-6.2'>pc</machine></arch></guest>
<guest><os_type>hvm</os_type><arch name='x86_64'>
  <machine maxCpus='255'>pc-i440fx-7.2</machine><machine canonical='pc-i440fx-7.2'>pc</machine>
  <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine></arch></guest>
</capabilities>"""

OFFER = """
<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>kvm</domain>
<machine>pc-i440fx-7.2</machine><arch>x86_64</arch>
<cpu><mode name='host-passthrough' supported='yes'/>
<mode name='host-model' supported='%s'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
<feature policy='require' name='x2apic'/></mode></cpu></domainCapabilities>"""


def test_pages_of_all_cells_are_counted_together() -> None:
    assert parse_host(HOST)["pages"] == (Pages(4096, 1500), Pages(2 << 20, 7))


def test_security_models_come_with_the_label_of_their_guests() -> None:
    assert parse_host(HOST)["security"] == (SecurityModel("apparmor"), SecurityModel("dac", "+64055:+108"))


def test_aliases_are_those_of_the_hosts_own_architecture() -> None:
    assert parse_host(HOST)["aliases"] == {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}


def test_the_processor_of_host_model_becomes_one_that_can_be_compared() -> None:
    found = parse_cpu_offer(OFFER % "yes")
    assert (found.arch, found.machine, found.virt_type) == ("x86_64", "pc-i440fx-7.2", "kvm")
    assert (found.model, found.vendor) == ("EPYC", "AMD")
    assert found.model_xml.startswith("<cpu><model") and 'name="x2apic"' in found.model_xml


def test_without_host_model_there_is_nothing_to_compare() -> None:
    assert parse_cpu_offer(OFFER % "no") == CpuOffer("x86_64", "pc-i440fx-7.2", "kvm")


@pytest.mark.parametrize("parse", [parse_host, parse_cpu_offer])
def test_documents_with_a_dtd_are_not_read(parse: object) -> None:
    with pytest.raises(UntrustedXml):
        parse("<!DOCTYPE x []><x/>")  # type: ignore[operator]
