"""Drift: nothing where libvirt only added, everything that somebody changed, in words of the spec."""

from __future__ import annotations

import pytest

from specs.domain import effective_type
from specs.hypervisors import HYPERVISORS
from specs.mark import UntrustedXml
from specs.xmldiff import Difference, field_of, missing
from tests.specscase import GOLDEN, IMAGES, cases, rendered

NAMES = tuple(name for name, one in cases().items() if HYPERVISORS[effective_type(one.spec)].run)


def golden(name: str, kind: str) -> str:
    return (GOLDEN / f"{name}.{kind}.xml").read_text()


@pytest.mark.parametrize("kind", ["desired", "inactive", "live"])
@pytest.mark.parametrize("name", NAMES)
def test_what_libvirt_made_of_a_definition_is_no_drift(name: str, kind: str) -> None:
    assert missing(golden(name, "desired"), golden(name, kind)) == ()


@pytest.mark.parametrize("kind", ["inactive", "live"])
def test_an_epoch_or_digest_in_the_mark_is_no_drift(kind: str) -> None:
    actual = golden("rich", kind).replace('epoch="3"', 'epoch="9"').replace('digest="', 'digest="f')
    assert missing(golden("rich", "desired"), actual) == ()


# (what is replaced in libvirt's XML of `rich`, by what, the path, desired, actual)
CHANGES = [
    ("domain type='qemu'", "domain type='kvm'", "@type", "qemu", "kvm"),
    (">98304</memory>", ">65536</memory>", "memory", "98304 KiB", "65536 KiB"),
    ("KiB'>98304</mem", "MiB'>95</mem", "memory", "98304 KiB", "95 MiB"),
    ("KiB'>98304</cur", "KiB'>98303</cur", "currentMemory", "98304 KiB", "98303 KiB"),
    (">2</vcpu>", ">3</vcpu>", "vcpu", "2", "3"),
    ("'static'>2<", "'static' current='1'>2<", "vcpu", "2", "1 of 2"),
    ("'pc-i440fx-7.2'", "'pc-q35-7.2'", "os/type/@machine", "pc", "pc-q35-7.2"),
    ("arch='x86_64'", "arch='i686'", "os/type/@arch", "x86_64", "i686"),
    ("<boot dev='network'/>", "", "os/boot", "hd,cdrom,network", "hd,cdrom"),
    ("<acpi/>", "", "features/acpi", "present", "absent"),
    ("offset='utc'", "offset='localtime'", "clock/@offset", "utc", "localtime"),
    ("<on_reboot>restart", "<on_reboot>destroy", "on_reboot", "restart", "destroy"),
    ("team-b.rich<", "evil<", "name", "team-b.rich", "evil"),
    ("root.qcow2'", "b'", "devices/disk[ua-root]/source/@file", f"{IMAGES}/root.qcow2", f"{IMAGES}/b"),
    ("type='qcow2'", "type='raw'", "devices/disk[ua-root]/driver/@type", "qcow2", "raw"),
    ("dev='vdx'", "dev='vdy'", "devices/disk[ua-block]/target/@dev", "vdx", "vdy"),
    (" bus='usb'", " bus='sata'", "devices/disk[ua-usb]/target/@bus", "usb", "sata"),
    ("WD-1 a", "WD-2", "devices/disk[ua-root]/serial", "WD-1 a", "WD-2"),
    ("<shareable/>", "", "devices/disk[ua-data]/shareable", "present", "absent"),
    ("'ua-fd'", "'ua-other'", "devices/disk[ua-fd]", "present", "absent"),
    (":34:56", ":34:57", "devices/interface[ua-net1]/mac/@address", "52:54:00:12:34:56", "52:54:00:12:34:57"),
    ("bridge='br0'", "bridge='br1'", "devices/interface[ua-net0]/source/@bridge", "br0", "br1"),
    ("'e1000'", "'virtio'", "devices/interface[ua-net1]/model/@type", "e1000", "virtio"),
    ("rich.con'", "x'", "devices/console[ua-con1]/source/@path", f"{IMAGES}/rich.con", f"{IMAGES}/x"),
    ("'ua-ser1'", "'ua-x'", "devices/serial[ua-ser1]", "present", "absent"),
    ("'virtio-scsi'", "'lsilogic'", "devices/controller[scsi,0]/@model", "virtio-scsi", "lsilogic"),
    ('"cluster-1"', '"other"', "metadata/mark/@cluster", "cluster-1", "other"),
]


@pytest.mark.parametrize("kind", ["inactive", "live"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change[2]))
def test_a_change_behind_our_back_is_one_difference(
    change: tuple[str, str, str, str, str], kind: str
) -> None:
    old, new, path, desired, actual = change
    changed = golden("rich", kind).replace(old, new)
    assert changed != golden("rich", kind)
    assert missing(golden("rich", "desired"), changed) == (Difference(path, desired, actual),)


# The same of `box-rich`, a container, for which libvirt keeps no aliases.
IN_A_CONTAINER = [
    ("<init>/init", "<init>/bin/sh", "os/init", "/init", "/bin/sh"),
    ("<initarg>-x", "<initarg>-y", "os/initarg", "'a b' '<&>' '-x'", "'a b' '<&>' '-y'"),
    ("<initarg>-x</initarg>", "", "os/initarg", "'a b' '<&>' '-x'", "'a b' '<&>'"),
    ("<initdir>/data", "<initdir>/", "os/initdir", "/data", "/"),
    ("name='A'>1", "name='A'>2", "os/initenv[A]", "1", "2"),
    ("box-data'", "etc'", "devices/filesystem[/data]/source/@dir", f"{IMAGES}/box-data", f"{IMAGES}/etc"),
    ("<readonly/>", "", "devices/filesystem[/data/ro [x]]/readonly", "present", "absent"),
    ("<target dir='/'/>", "<target dir='/x'/>", "devices/filesystem[/]", "present", "absent"),
    ("usage='9766'", "usage='1'", "devices/filesystem[/tmp]/source/@usage", "9766", "1"),
    ("bridge='br0'", "bridge='br1'", "devices/interface[ua-net0]/source/@bridge", "br0", "br1"),
]


@pytest.mark.parametrize("kind", ["inactive", "live"])
@pytest.mark.parametrize("change", IN_A_CONTAINER, ids=lambda change: str(change[2]))
def test_a_change_of_a_container_is_one_difference(change: tuple[str, str, str, str, str], kind: str) -> None:
    old, new, path, desired, actual = change
    changed = golden("box-rich", kind).replace(old, new)
    assert changed != golden("box-rich", kind)
    assert missing(golden("box-rich", "desired"), changed) == (Difference(path, desired, actual),)


FIELDS = [
    ("os/init", "spec.os.init"),
    ("os/initarg", "spec.os.initArgs"),
    ("os/initenv[A]", "spec.os.initEnv"),
    ("os/initdir", "spec.os.initDir"),
    ("devices/filesystem[/a/b [c]]", "spec.filesystems[/a/b [c]]"),
    ("devices/filesystem[/]/source/@dir", "spec.filesystems[/].source.dir"),
    ("devices/filesystem[/a]/readonly", "spec.filesystems[/a].readOnly"),
    ("devices/filesystem[/a]/source/@usage", "spec.filesystems[/a].size"),
    ("@type", "spec.type"),
    ("name", "metadata.name"),
    ("memory", "spec.memory"),
    ("currentMemory", "spec.memory"),
    ("vcpu", "spec.vcpus"),
    ("os/type/@machine", "spec.os.machine"),
    ("os/boot", "spec.os.boot"),
    ("os/cmdline", "spec.os.cmdline"),
    ("devices/disk[ua-root]", "spec.disks[root]"),
    ("devices/disk[ua-root]/source", "spec.disks[root].source"),
    ("devices/disk[ua-root]/source/@file", "spec.disks[root].source.file"),
    ("devices/disk[ua-root]/source/@dev", "spec.disks[root].source.block"),
    ("devices/disk[ua-root]/driver/@type", "spec.disks[root].format"),
    ("devices/disk[ua-root]/target/@bus", "spec.disks[root].bus"),
    ("devices/disk[ua-root]/readonly", "spec.disks[root].readOnly"),
    ("devices/disk[ua-root]/iotune/total_bytes_sec", "spec.disks[root]"),
    ("devices/interface[ua-a-b]/mac/@address", "spec.interfaces[a-b].mac"),
    ("devices/interface[ua-n]/source/@network", "spec.interfaces[n].network"),
    ("devices/interface[ua-n]/model/@type", "spec.interfaces[n].model"),
    ("devices/serial[ua-s]/source/@path", "spec.serials[s].path"),
    ("devices/console[ua-s]/@type", "spec.consoles[s].type"),
    ("features/acpi", "domain/features/acpi"),
    ("devices/controller[usb,0]/@model", "domain/devices/controller[usb,0]/@model"),
    ("metadata/mark/@uuid", "domain/metadata/mark/@uuid"),
]


@pytest.mark.parametrize(("path", "field"), FIELDS)
def test_a_difference_is_named_by_the_field_that_says_it(path: str, field: str) -> None:
    assert field_of(path) == Difference(path, "", "").field == field


SAME = [
    ("KiB'>98304</mem", "b'>100663296</mem"),
    ("KiB'>98304</mem", "MiB'>96</mem"),
    ("KiB'>98304</mem", "M'>96</mem"),
    ("52:54:00:35:63:6e", "52:54:00:35:63:6E"),
    ("db0f9e2a-", "DB0F9E2A-"),
    ("<acpi/>", "<acpi/><pae/>"),
    ("type='raw'", "type='raw' cache='none'"),
    ("<devices>", "<devices><disk type='file'><alias name='ua-hot'/><source file='/x'/></disk>"),
    ("<devices>", "<title>\n</title><devices>"),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_another_spelling_or_an_addition_is_no_drift(old: str, new: str) -> None:
    changed = golden("rich", "inactive").replace(old, new)
    assert changed != golden("rich", "inactive")
    assert missing(golden("rich", "desired"), changed) == ()


def test_a_lost_mark_is_drift() -> None:
    actual = golden("web-1", "inactive")
    start, end = actual.index("<metadata>"), actual.index("</metadata>")
    bare = actual[:start] + actual[end + len("</metadata>") :]
    assert missing(golden("web-1", "desired"), bare) == (Difference("metadata", "present", "absent"),)


def test_the_order_of_devices_is_no_drift_but_that_of_boot_devices_is() -> None:
    desired, actual = golden("rich", "desired"), golden("rich", "inactive")
    first, second = (
        actual.index("    <interface type='bridge'>"),
        actual.index("    <interface type='network'>"),
    )
    end = actual.index("\n    <serial") + 1
    swapped = actual[:first] + actual[second:end] + actual[first:second] + actual[end:]
    assert missing(desired, swapped) == ()
    reordered = actual.replace("<boot dev='hd'/>", "").replace(
        "<boot dev='cdrom'/>", "<boot dev='cdrom'/><boot dev='hd'/>"
    )
    assert [found.actual for found in missing(desired, reordered)] == ["cdrom,hd,network"]


def test_devices_without_aliases_are_matched_by_position() -> None:
    bare = golden("test-1", "inactive")
    for name in ("a", "c", "n", "s", "co"):
        bare = bare.replace(f"<alias name='ua-{name}'/>", "")
    desired = golden("test-1", "desired")
    assert [found.path for found in missing(desired, bare)] == ["devices/console[ua-co]/target/@type"]
    one = bare.replace("data.img", "x.img")
    assert "devices/disk[ua-a]/source/@file" in [found.path for found in missing(desired, one)]


MACHINES = [
    ("pc", "pc-i440fx-7.2", True),
    ("pc", "pc-i440fx-noble", False),
    ("pc", "pc-q35-7.2", False),
    ("q35", "pc-q35-8.1", True),
    ("virt", "virt-7.2", True),
    ("s390-ccw-virtio", "s390-ccw-virtio-7.2", True),
    ("pc-i440fx-7.2", "pc-i440fx-7.2", True),
    ("pc-i440fx-7.2", "pc-i440fx-7.1", False),
]


@pytest.mark.parametrize(("desired", "actual", "same"), MACHINES)
def test_a_machine_name_stands_for_its_versions(desired: str, actual: str, same: bool) -> None:
    text = "<domain><os><type machine='{}'>hvm</type></os></domain>"
    assert (missing(text.format(desired), text.format(actual)) == ()) == same


CPUS = [
    ("<cpu mode='host-model'/>", "<cpu mode='custom'><model>Skylake</model></cpu>", True),
    ("<cpu mode='host-passthrough'/>", "<cpu mode='custom'><model>x</model></cpu>", True),
    ("<cpu><model>a</model></cpu>", "<cpu check='full'><model fallback='forbid'>a</model></cpu>", True),
    ("<cpu><model>a</model></cpu>", "<cpu><model>b</model></cpu>", False),
    ("<cpu><topology cores='2'/></cpu>", "<cpu><topology cores='1'/></cpu>", False),
    ("<cpu><topology cores='2'/></cpu>", "<cpu/>", False),
]


@pytest.mark.parametrize(("desired", "actual", "same"), CPUS)
def test_a_running_domain_may_show_what_its_cpu_came_to(desired: str, actual: str, same: bool) -> None:
    found = missing(f"<domain>{desired}</domain>", f"<domain id='1'>{actual}</domain>")
    assert (found == ()) == same


@pytest.mark.parametrize(
    "text", ["", "<domain>", "<!DOCTYPE x><domain/>", "<domain>" + "x" * (5 << 20) + "</domain>"]
)
def test_xml_that_is_not_to_be_read_is_refused(text: str) -> None:
    with pytest.raises(UntrustedXml):
        missing(rendered(cases()["web-1"]).xml, text)


def test_a_deep_document_from_a_host_does_no_harm() -> None:
    deep = "<domain>" + "<a>" * 200_000 + "</a>" * 200_000 + "</domain>"
    assert missing("<domain><name>x</name></domain>", deep) == (Difference("name", "present", "absent"),)
