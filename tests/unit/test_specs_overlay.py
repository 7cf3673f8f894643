"""The XML fragment of a spec: useful things get through, nothing that reaches the host does."""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree

import pytest

from specs import overlay
from specs.domain import Domain
from specs.domainxml import RenderRefused
from specs.validate import decode
from tests.specscase import BRIDGE, IMAGES, domain, rendered


def with_fragment(fragment: str) -> dict[str, Any]:
    return domain(
        disks=[{"name": "root", "source": {"file": f"{IMAGES}/a"}}],
        interfaces=[{"name": "net0", "bridge": BRIDGE}],
        serials=[{"name": "ser0"}],
        xml=fragment,
    )


def problems(fragment: str) -> list[str]:
    """What is against a fragment, whenever it is found: with the spec, or when it is merged."""
    decoded, found = decode(with_fragment(fragment))
    if isinstance(decoded, Domain):
        try:
            rendered(decoded)
        except RenderRefused as error:
            return [str(problem) for problem in error.problems]
    return [str(problem) for problem in found]


def merged(fragment: str) -> ElementTree.Element:
    decoded, found = decode(with_fragment(fragment))
    assert isinstance(decoded, Domain), found
    return ElementTree.fromstring(rendered(decoded).xml)


def in_devices(inner: str) -> str:
    return f"<devices>{inner}</devices>"


def of_disk(inner: str) -> str:
    return in_devices(f"<disk><alias name='ua-root'/>{inner}</disk>")


QEMU = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
DENIED = [
    # programs, firmware, the host
    (in_devices("<emulator>/bin/sh</emulator>"), "devices/emulator: is not allowed: names a program"),
    ("<os><loader readonly='yes'>/x</loader></os>", "os/loader: is not allowed"),
    ("<os><nvram template='/x'>/y</nvram></os>", "os/nvram: is not allowed"),
    ("<os firmware='efi'/>", "os/@firmware: is not on the list"),
    ("<bootloader>/bin/sh</bootloader>", "bootloader: is not allowed"),
    (f"<domain {QEMU}><qemu:commandline><qemu:arg value='x'/></qemu:commandline></domain>", "namespace"),
    (f"<qemu:commandline {QEMU}/>", "is in a namespace"),
    ("<commandline/>", "commandline: is not on the list"),
    (f"<domain {QEMU} qemu:x='1'/>", "is in a namespace"),
    ("<domain xmlns='http://x'><title>a</title></domain>", "is in a namespace"),
    (in_devices("<hostdev mode='subsystem' type='pci'/>"), "devices/hostdev: is not allowed"),
    (in_devices("<filesystem/>"), "devices/filesystem: is not allowed"),
    (in_devices("<shmem name='x'/>"), "devices/shmem: is not allowed"),
    (in_devices("<redirdev bus='usb' type='tcp'/>"), "devices/redirdev: is not allowed"),
    (in_devices("<smartcard mode='host'/>"), "devices/smartcard: is not allowed"),
    (in_devices("<tpm model='tpm-tis'/>"), "devices/tpm: is not allowed"),
    (in_devices("<memory model='dimm'/>"), "devices/memory: is not allowed"),
    (in_devices("<parallel type='file'/>"), "devices/parallel: is not allowed"),
    ("<resource><partition>/m</partition></resource>", "resource: is not allowed"),
    ("<seclabel type='none'/>", "seclabel: is not allowed"),
    ("<launchSecurity type='sev'/>", "launchSecurity: is not allowed"),
    ("<sysinfo type='fwcfg'><entry name='a' file='/etc/shadow'/></sysinfo>", "sysinfo: is not allowed"),
    ("<memoryBacking><locked/></memoryBacking>", "memoryBacking/locked: is not allowed"),
    ("<memoryBacking><source type='file'/></memoryBacking>", "must be anonymous or memfd"),
    ("<blkiotune><device><path>/dev/sda</path></device></blkiotune>", "blkiotune/device: is not on the list"),
    # identity, and what typed fields say
    ("<name>x</name>", "name: is not allowed: is given by the controller"),
    ("<uuid>x</uuid>", "uuid: is not allowed"),
    ("<metadata/>", "metadata: is not allowed: carries the mark"),
    ("<domain type='lxc'/>", "@type: is not on the list"),
    ("<memory>1</memory>", "memory: is not allowed"),
    ("<vcpu>9</vcpu>", "vcpu: must not contain text"),
    ("<cpu><numa><cell id='0' cpus='0' memory='1' unit='TiB'/></numa></cpu>", "would replace spec.memory"),
    ("<os><kernel>/x</kernel></os>", "os/kernel: is not allowed: belongs to a field"),
    ("<os><type>exe</type></os>", "os/type: is not on the list"),
    (
        "<on_crash>preserve</on_crash>",
        "on_crash: is not allowed: is steered by spec.onReboot and spec.onCrash",
    ),
    # disks
    (of_disk("<source file='/etc/shadow'/>"), "devices/disk/source: is not allowed"),
    (of_disk("<source startupPolicy='optional'/>"), "devices/disk/source: is not allowed"),
    (of_disk("<backingStore type='file'/>"), "devices/disk/backingStore: is not allowed"),
    (of_disk("<mirror/>"), "devices/disk/mirror: is not allowed"),
    (of_disk("<driver type='qcow2'/>"), "devices/disk/driver/@type: is not on the list"),
    (of_disk("<driver cache='unsafe'/>"), "devices/disk/driver/@cache: is not allowed"),
    (of_disk("<target dev='sda'/>"), "devices/disk/target/@dev: is not allowed"),
    (of_disk("<shareable/>"), "devices/disk/shareable: is not allowed: is spec.disks[].shareable"),
    (of_disk("<transient/>"), "devices/disk/transient: is not allowed"),
    (of_disk("<auth username='x'/>"), "passwords are refused"),
    (of_disk("<encryption format='luks'/>"), "passwords are refused"),
    (
        in_devices("<disk type='block'><alias name='ua-root'/></disk>"),
        "devices/disk/@type: is not on the list",
    ),
    (in_devices("<disk/>"), "needs <alias name="),
    (in_devices("<disk><alias name='ua-other'/></disk>"), "the spec has no disk with the alias ua-other"),
    (in_devices("<disk><alias name='ua-net0'/></disk>"), "the spec has no disk with the alias ua-net0"),
    (in_devices("<disk><alias name='virtio-disk0'/></disk>"), "must be ua- and the name of a device"),
    # other devices
    (in_devices("<interface type='user'><alias name='ua-net0'/></interface>"), "interface/@type: is not on"),
    (in_devices("<interface><alias name='ua-net0'/><script path='/x'/></interface>"), "names a program"),
    (in_devices("<interface><alias name='ua-net0'/><source bridge='b'/></interface>"), "belongs to a field"),
    (in_devices("<interface><alias name='ua-net0'/><mac address='0'/></interface>"), "belongs to a field"),
    (in_devices("<interface><alias name='ua-net0'/><target dev='eth0'/></interface>"), "target: is not on"),
    (in_devices("<interface><alias name='ua-net0'/><rom file='/x'/></interface>"), "rom: is not on the list"),
    (
        in_devices("<interface><alias name='ua-net0'/><vlan><tag id='1'/></vlan></interface>"),
        "vlan: is not on",
    ),
    (
        in_devices("<serial type='tcp'><source host='0.0.0.0' service='1'/></serial>"),
        "serial: is not allowed",
    ),
    (in_devices("<serial type='pty'><source path='/dev/sda'/></serial>"), "serial: is not allowed"),
    (in_devices("<console type='dev'><source path='/dev/tty1'/></console>"), "console: is not allowed"),
    (in_devices("<channel type='unix'><source path='/x'/></channel>"), "channel/source: is not allowed"),
    (in_devices("<channel type='tcp'/>"), "channel/@type: must be unix or spicevmc"),
    (
        in_devices("<channel type='unix'><target type='virtio' name='../../x'/></channel>"),
        "@name: must be a name",
    ),
    (in_devices("<graphics type='vnc' listen='0.0.0.0'/>"), "graphics/@listen: must be 127.0.0.1"),
    (
        in_devices("<graphics type='vnc'><listen type='address' address='::'/></graphics>"),
        "@address: must be",
    ),
    (in_devices("<graphics type='vnc'><listen type='network' network='n'/></graphics>"), "@type: must be"),
    (in_devices("<graphics type='vnc' socket='/x'/>"), "graphics/@socket: is not on the list"),
    (in_devices("<graphics type='vnc' passwd='secret'/>"), "graphics/@passwd: is not allowed: passwords"),
    (in_devices("<graphics type='sdl' display=':0'/>"), "graphics/@type: must be vnc or spice"),
    (in_devices("<graphics type='spice'><gl rendernode='/dev/dri/x'/></graphics>"), "gl: is not on the list"),
    (
        in_devices("<rng><backend model='random'>/etc/shadow</backend></rng>"),
        "must be /dev/urandom or /dev/random",
    ),
    (in_devices("<rng><backend model='random'>/dev/../etc/shadow</backend></rng>"), "must be /dev/urandom"),
    (in_devices("<rng><backend model='egd' type='tcp'/></rng>"), "backend/@model: must be random or builtin"),
    (in_devices("<input type='evdev'><source dev='/dev/input/event0'/></input>"), "input/@type: must be"),
    (in_devices("<input type='tablet'><alias name='ua-root'/></input>"), "the alias ua-root is there twice"),
    (in_devices("<watchdog model='i6300esb' action='dump'/>"), "watchdog/@action: must be"),
    (in_devices("<vsock><cid auto='no' address='3'/></vsock>"), "vsock/cid"),
    (in_devices("<audio id='1' type='file'/>"), "audio/@type: must be none or spice"),
    (in_devices("<video><model type='vga'/><driver name='vhostuser'/></video>"), "video/driver: is not on"),
    # numbers that take a host down
    (in_devices("<controller type='pci' index='100000'/>"), "controller/@index: must be a number below 100"),
    (of_disk("<driver queues='4000000000'/>"), "queues: must be a number below 100"),
    (of_disk("<address type='drive' controller='99999'/>"), "@controller: must be a number below 100"),
    ("<iothreads>1000000</iothreads>", "iothreads: must be a number below 100"),
    ("<cputune><shares>-1</shares></cputune>", "shares: must be a number"),
    # values
    ("<clock offset='timezone' timezone='/etc/passwd'/>", "timezone: must be a time zone"),
    ("<clock offset='timezone' timezone='../passwd'/>", "timezone: must be a time zone"),
    ("<clock offset='timezone' timezone='a/../b'/>", "timezone: must be a time zone"),
    ("<cpu><model>a\nb</model></cpu>", "cpu/model: must be a word"),
    ("<Devices/>", "Devices: is not on the list of what a fragment may set, did you mean devices?"),
    # the text
    ("<title>a", "XML is not well-formed"),
    ("</domain><domain>", "XML is not well-formed"),
    ("</domain><emulator/><domain>", "XML is not well-formed"),
    ("<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><title>&x;</title></domain>", "DOCTYPE"),
    ("<title>&undefined;</title>", "XML is not well-formed"),
    ("<title>&#0;</title>", "XML is not well-formed"),
    ("words", "must not contain text"),
    (in_devices("words<video/>"), "devices: must not contain text"),
    (in_devices("<video/>words"), "devices: must not contain text"),
    ("<pm/>words", "must not contain text"),
    ("<title>a<b/></title>", "title/b: is not on the list"),
    ("<pm/><pm/>", "pm: is there twice"),
    ("<cpu><feature name='a'/><feature name='a'/></cpu>", "cpu/feature: is there twice"),
    (in_devices("<video/>" * 33), "more than 32 new devices"),
    ("<pm/>" * 1001, "has more than 1000 elements"),
    ("<a>" * 13 + "</a>" * 13, "is nested more than 12 deep"),
    ("<a>" * 9000 + "</a>" * 9000, "is nested more than 12 deep"),
    ("<title>" + "x" * 65_536 + "</title>", "at most 65536 are allowed"),
    ("<title>" + "x" * 5000 + "</title>", "title: must be text"),
]


@pytest.mark.parametrize(("fragment", "words"), DENIED)
def test_what_reaches_the_host_or_the_spec_is_refused_with_a_reason(fragment: str, words: str) -> None:
    started = time.process_time()
    found = problems(fragment)
    assert found
    assert all(problem.startswith("spec.xml: ") for problem in found)
    assert any(words in problem for problem in found)
    assert time.process_time() - started < 2


def test_all_that_is_against_a_fragment_is_told_at_once() -> None:
    found = problems("<name/><os><loader/></os>" + in_devices("<emulator/><graphics passwd='x'/>"))
    assert len(found) == 4
    assert len(problems("<cpu>" + "<x/>" * 900 + "</cpu>")) == 200


def test_a_secret_is_not_repeated_in_the_message() -> None:
    assert "hunter2" not in str(problems(in_devices("<graphics type='vnc' passwd='hunter2'/>")))


URANDOM = "<rng><backend model='random'>/dev/urandom</backend></rng>"
XHCI = {"type": "usb", "index": "0", "model": "qemu-xhci"}
LOCAL = {"type": "vnc", "listen": "127.0.0.1"}


def vnc(listen: str) -> str:
    return in_devices(f"<graphics type='vnc'>{listen}</graphics>")


MERGED: list[tuple[str, str, dict[str, str], str | None]] = [
    ("<title>a &lt; b</title>", "title", {}, "a < b"),
    ("<domain><title>a</title></domain>", "title", {}, "a"),
    ("<?xml version='1.0'?><domain><title>a</title></domain>", "title", {}, "a"),
    ("<!-- c --><?php p?><title>a<!-- c -->b</title>", "title", {}, "ab"),
    ("<clock offset='localtime'/>", "clock", {"offset": "localtime"}, None),
    ("<clock><timer name='hpet' present='no'/></clock>", "clock", {"offset": "utc"}, None),
    ("<features><apic eoi='on'/></features>", "features/apic", {"eoi": "on"}, None),
    ("<vcpu cpuset='0-1'/>", "vcpu", {"cpuset": "0-1"}, "1"),
    (
        of_disk("<driver io='native'/>"),
        "devices/disk/driver",
        {"name": "qemu", "type": "raw", "io": "native"},
        None,
    ),
    (of_disk("<boot order='1'/>"), "devices/disk/boot", {"order": "1"}, None),
    (of_disk(""), "devices/disk/source", {"file": f"{IMAGES}/a"}, None),
    (in_devices("<controller type='usb' index='0' model='qemu-xhci'/>"), "devices/controller", XHCI, None),
    (in_devices(URANDOM), "devices/rng/backend", {"model": "random"}, "/dev/urandom"),
    (vnc(""), "devices/graphics", LOCAL, None),
    (
        vnc("<listen type='address'/>"),
        "devices/graphics/listen",
        {"type": "address", "address": "127.0.0.1"},
        None,
    ),
    (vnc("<listen address='::1'/>"), "devices/graphics/listen", {"type": "address", "address": "::1"}, None),
    (vnc("<listen type='none'/>"), "devices/graphics/listen", {"type": "none"}, None),
]


@pytest.mark.parametrize(("fragment", "path", "attributes", "text"), MERGED)
def test_what_a_fragment_sets_is_merged_into_what_is_there(
    fragment: str, path: str, attributes: dict[str, str], text: str | None
) -> None:
    found = merged(fragment).findall(path)
    assert [(one.attrib, one.text) for one in found] == [(attributes, text)]


def test_new_devices_stand_beside_each_other_and_existing_ones_are_found_by_alias() -> None:
    fragment = in_devices(
        "<input type='tablet'/><input type='mouse'/><input type='tablet'><alias name='ua-t'/></input>"
    )
    assert len(merged(fragment).findall("devices/input")) == 3
    assert len(merged(of_disk("<boot order='1'/>")).findall("devices/disk")) == 1


def test_an_empty_fragment_changes_nothing() -> None:
    plain = {**with_fragment(""), "spec": {k: v for k, v in with_fragment("")["spec"].items() if k != "xml"}}
    expected = decode(plain)[0]
    assert isinstance(expected, Domain)
    for fragment in ("", "  \n", "<!-- c -->", "<domain/>", "<devices/>"):
        assert ElementTree.tostring(merged(fragment)) == ElementTree.tostring(
            ElementTree.fromstring(rendered(expected).xml)
        )


@pytest.mark.parametrize(
    "inner",
    [
        "<devices><emulator>/bin/sh</emulator></devices>",
        "<devices><disk><source file='/etc/shadow'/></disk></devices>",
        "<os><kernel>/etc/shadow</kernel></os>",
        "<x y='~/.ssh/id'/>",
        "<x y='a/../../b'/>",
        "<x>file:///etc/shadow</x>",
        "<x xmlns='urn:x'/>",
        "<cpu><numa/></cpu>",
    ],
)
def test_the_last_net_finds_what_the_grammar_should_have_stopped(inner: str) -> None:
    root = ElementTree.fromstring(f"<domain>{inner}</domain>")
    assert overlay.merge(root, "", [IMAGES])
