"""The XML of domains: what libvirt's own schema accepts, the same every time, and nothing outside bounds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from lxml import etree

from specs.digest import digest
from specs.domain import Domain, OperatingSystem, effective_type
from specs.domainxml import Rendered, RenderRefused, machine_of, render
from specs.hypervisors import HYPERVISORS
from specs.macs import choose_mac
from specs.mark import Mark, find
from specs.validate import decode
from tests.specscase import CLUSTER, GOLDEN, IMAGES, cases, domain, rendered, uuid_of

RNG = "/usr/share/libvirt/schemas/domain.rng"
CASES = cases()


def typed(value: dict[str, Any]) -> Domain:
    decoded, problems = decode(value)
    assert isinstance(decoded, Domain), problems
    return decoded


def xml_of(**spec: Any) -> ElementTree.Element:
    return ElementTree.fromstring(rendered(typed(domain(**spec))).xml)


def refused(value: Domain, allowed: list[str], overlay: bool = True, **macs: str) -> list[str]:
    uuid = uuid_of("d")
    with pytest.raises(RenderRefused) as caught:
        render(
            value,
            uuid=uuid,
            mark=Mark(CLUSTER, uuid, 1, ""),
            macs=macs,
            allowed_paths=allowed,
            xml_overlay_allowed=overlay,
        )
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", CASES)
def test_a_definition_is_what_the_golden_file_says(name: str) -> None:
    assert rendered(CASES[name]).xml + "\n" == (GOLDEN / f"{name}.desired.xml").read_text()


@pytest.mark.parametrize(
    ("xml", "machine"),
    [
        ("<domain><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os></domain>", "pc-q35-7.2"),
        ("<domain><os><type>exe</type></os></domain>", ""),
        ("<domain><os><type machine='a b'>hvm</type></os></domain>", ""),
        ("<domain/>", ""),
        ("<domain>", ""),
        ("<!DOCTYPE x><domain><os><type machine='pc'/></os></domain>", ""),
    ],
)
def test_the_machine_of_a_hosts_document_is_read_if_there_is_one(xml: str, machine: str) -> None:
    assert machine_of(xml) == machine


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    try:
        return etree.RelaxNG(etree.parse(RNG))
    except OSError:
        pytest.skip(f"libvirt's schema is not installed: {RNG}")


@pytest.mark.parametrize("name", CASES)
def test_a_definition_is_valid_by_libvirts_own_schema(name: str, schema: etree.RelaxNG) -> None:
    schema.assertValid(etree.fromstring(rendered(CASES[name]).xml))


RUN = [name for name, one in CASES.items() if HYPERVISORS[effective_type(one.spec)].run]


def test_every_type_has_a_definition_that_is_compared() -> None:
    assert {effective_type(one.spec) for one in CASES.values()} == set(HYPERVISORS) - {"kvm"}


@pytest.mark.parametrize("name", RUN)
def test_what_libvirt_made_of_a_definition_has_our_mark_with_its_digest(name: str) -> None:
    for kind in ("inactive", "live"):
        assert find((GOLDEN / f"{name}.{kind}.xml").read_text()) == Mark(
            CLUSTER, uuid_of(name), 3, rendered(CASES[name]).digest
        )


def test_the_digest_covers_everything_but_the_epoch() -> None:
    one = CASES["rich"]
    first, second = rendered(one, epoch=1), rendered(one, epoch=2)
    assert first.digest == second.digest
    assert first.xml.replace('epoch="1"', 'epoch="2"') == second.xml
    assert re.fullmatch(r"[0-9a-f]{32}", first.digest)
    assert rendered(CASES["rich-q35"]).digest != first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"vcpus": 2},
        {"memory": "65Mi"},
        {"type": "kvm"},
        {"os": {"machine": "q35"}},
        {"serials": [{"name": "s"}]},
    ],
)
def test_every_change_of_hardware_changes_the_digest(change: dict[str, Any]) -> None:
    assert rendered(typed(domain(**change))).digest != rendered(typed(domain())).digest


@pytest.mark.parametrize(
    "change",
    [
        {"state": "shutoff"},
        {"restartPolicy": "Never"},
        {"placement": {"node": "a"}},
        {"shutdown": [{"method": "destroy"}]},
        {"deletionPolicy": "Orphan"},
        {"memory": 64 << 20},
        {"vcpus": 1},
    ],
)
def test_what_is_not_hardware_does_not_change_the_digest(change: dict[str, Any]) -> None:
    assert rendered(typed(domain(**change))).digest == rendered(typed(domain())).digest


def test_memory_is_rounded_up_to_what_qemu_gives() -> None:
    for memory, kib in (("100M", 98304), ("64Mi", 65536), (1048577, 2048), ("1Mi", 1024)):
        assert xml_of(memory=memory).findtext("memory") == str(kib)
        assert xml_of(memory=memory).findtext("currentMemory") == str(kib)


def test_targets_are_the_next_free_of_their_bus() -> None:
    disks = [
        {"name": "a", "source": {"file": f"{IMAGES}/a"}},
        {"name": "b", "source": {"file": f"{IMAGES}/b"}, "target": "vda"},
        {"name": "c", "source": {"file": f"{IMAGES}/c"}},
        {"name": "d", "device": "cdrom"},
        {"name": "e", "source": {"file": f"{IMAGES}/e"}, "bus": "scsi"},
        {"name": "f", "device": "floppy"},
        {"name": "g", "source": {"file": f"{IMAGES}/g"}, "bus": "ide"},
    ]
    found = [target.get("dev") for target in xml_of(disks=disks).iterfind("devices/disk/target")]
    assert found == ["vdb", "vda", "vdc", "sda", "sdb", "fda", "hda"]


def test_sixty_four_disks_have_targets_of_their_own() -> None:
    disks = [{"name": f"d{i}", "source": {"file": f"{IMAGES}/{i}"}} for i in range(64)]
    found = [target.get("dev") for target in xml_of(disks=disks).iterfind("devices/disk/target")]
    assert len(set(found)) == 64
    assert found[25:27] == ["vdz", "vdaa"]


def test_the_image_format_is_always_explicit() -> None:
    disks = [
        {"name": "a", "source": {"file": f"{IMAGES}/a"}},
        {"name": "b", "source": {"block": f"{IMAGES}/b"}},
    ]
    assert [driver.get("type") for driver in xml_of(disks=disks).iterfind("devices/disk/driver")] == [
        "raw",
        "raw",
    ]


def test_text_of_the_spec_stays_text() -> None:
    line = """</cmdline><devices><emulator>/bin/sh</emulator></devices> "&lt;' ]]>"""
    found = xml_of(os={"kernel": f"{IMAGES}/k", "cmdline": line})
    assert found.findtext("os/cmdline") == line
    assert found.find("devices/emulator") is None
    path = f"{IMAGES}/a\"'><&,b.img"
    disk = xml_of(disks=[{"name": "a", "source": {"file": path}}]).find("devices/disk/source")
    assert disk is not None
    assert disk.get("file") == path


OUTSIDE = [
    ({"os": {"kernel": "/etc/k", "initrd": "/etc/i"}}, ["spec.os.kernel", "spec.os.initrd"]),
    ({"disks": [{"name": "a", "source": {"file": "/etc/shadow"}}]}, ["spec.disks[0].source.file"]),
    ({"disks": [{"name": "a", "source": {"block": "/dev/sda"}}]}, ["spec.disks[0].source.block"]),
    ({"serials": [{"name": "a", "type": "file", "path": "/root/x"}]}, ["spec.serials[0].path"]),
    ({"consoles": [{"name": "a", "type": "file", "path": "/root/x"}]}, ["spec.consoles[0].path"]),
    ({"disks": [{"name": "a", "source": {"file": IMAGES + "2/a"}}]}, ["spec.disks[0].source.file"]),
    (
        {
            "type": "lxc",
            "filesystems": [
                {"target": "/", "source": {"dir": f"{IMAGES}/a"}},
                {"target": "/b", "source": {"dir": "/root"}},
                {"target": "/c", "source": {"dir": "/etc"}},
            ],
        },
        ["spec.filesystems[1].source.dir", "spec.filesystems[2].source.dir"],
    ),
]


@pytest.mark.parametrize(("spec", "fields"), OUTSIDE)
def test_a_path_outside_the_allowed_ones_is_refused(spec: dict[str, Any], fields: list[str]) -> None:
    problems = refused(typed(domain(**spec)), [IMAGES])
    assert [problem.split(":")[0] for problem in problems] == fields
    assert "not under the node's allowedPaths" in problems[0]


@pytest.mark.parametrize("allowed", [[], ["/"], ["/var/lib/../lib"], ["relative"], [""]])
def test_without_a_sound_allowed_path_nothing_is_allowed(allowed: list[str]) -> None:
    value = typed(domain(disks=[{"name": "a", "source": {"file": f"{IMAGES}/a"}}]))
    assert len(refused(value, allowed)) == 1


def test_an_object_that_was_never_validated_still_cannot_leave_the_allowed_paths() -> None:
    value = typed(domain(disks=[{"name": "a", "source": {"file": f"{IMAGES}/a"}}]))
    raw = {"source": {"file": f"{IMAGES}/../../../etc/shadow"}, "name": "a"}
    stored = msgspec.convert(
        {**msgspec.to_builtins(value), "spec": {"memory": 1 << 20, "disks": [raw]}}, Domain
    )
    assert "must not contain '.' or '..'" in refused(stored, [IMAGES])[0]


def stored(**spec: Any) -> Domain:
    """As it would be read from the store: never validated."""
    whole = {"memory": 1 << 20, **spec}
    return msgspec.convert({**msgspec.to_builtins(typed(domain())), "spec": whole}, Domain)


ROOT = {"target": "/", "source": {"dir": f"{IMAGES}/a"}}
ROOTLESS = [
    [],
    [{"target": "/data", "source": {"dir": f"{IMAGES}/a"}}],
    [{"target": "/"}],
    [{"target": "/", "type": "ram", "size": "1Mi"}],
]


@pytest.mark.parametrize("filesystems", ROOTLESS)
def test_a_container_without_a_root_of_its_own_is_never_rendered(filesystems: list[dict[str, Any]]) -> None:
    for value in (stored(type="lxc", filesystems=filesystems), stored(type="lxc")):
        assert "would get the root of its host" in refused(value, [IMAGES])[0]


@pytest.mark.parametrize(
    "environment",
    [{"A": "</initenv></os><devices/>"}, {"A": "&amp;"}, {"A'><x y='": "1"}, {"A B": "1"}, {"": "1"}],
)
def test_an_environment_that_libvirt_would_read_as_xml_is_never_rendered(environment: dict[str, str]) -> None:
    value = stored(type="lxc", filesystems=[ROOT])
    os = OperatingSystem(init_env=environment)
    value = msgspec.structs.replace(value, spec=msgspec.structs.replace(value.spec, os=os))
    assert "does not escape" in refused(value, [IMAGES])[0]


def test_a_container_is_given_a_terminal_and_an_init_when_none_are_named() -> None:
    found = xml_of(type="lxc", filesystems=[ROOT])
    assert found.findtext("os/init") == "/sbin/init"
    assert [one.get("type") for one in found.iterfind("devices/console/target")] == ["lxc"]
    assert [one.tag for one in found.iterfind("devices/*")] == ["filesystem", "console"]


def test_a_container_is_never_on_the_network_of_its_host() -> None:
    for interfaces in ([], [{"name": "n", "bridge": "br0"}]):
        found = xml_of(type="lxc", filesystems=[ROOT], interfaces=interfaces)
        assert found.find("features/privnet") is not None


def test_mount_points_come_before_what_is_mounted_below_them() -> None:
    targets = ["/a/b/c", "/a", "/", "/a/b"]
    filesystems = [{"target": one, "source": {"dir": f"{IMAGES}/x"}} for one in targets]
    found = xml_of(type="lxc", filesystems=filesystems).iterfind("devices/filesystem/target")
    assert [one.get("dir") for one in found] == ["/", "/a", "/a/b", "/a/b/c"]


def test_a_fragment_may_tune_a_container_but_brings_it_no_directory() -> None:
    value = {"type": "lxc", "filesystems": [ROOT]}
    assert xml_of(**value, xml="<cputune><shares>9</shares></cputune>").findtext("cputune/shares") == "9"
    fragment = "<devices><filesystem><source dir='/'/><target dir='/host'/></filesystem></devices>"
    assert "filesystem" in refused(stored(**value, xml=fragment), [IMAGES])[0]


def test_a_guest_of_xen_is_what_its_machine_and_kernel_say() -> None:
    kernel = {"kernel": f"{IMAGES}/k"}
    for os, kind, machine in (
        ({}, "hvm", "xenfv"),
        (kernel, "linux", "xenpv"),
        ({**kernel, "machine": "xenpvh"}, "xenpvh", "xenpvh"),
    ):
        found = xml_of(type="xen", os=os).find("os/type")
        assert found is not None
        assert (found.text, found.get("machine")) == (kind, machine)


def test_an_interface_needs_an_address_that_was_reserved() -> None:
    value = typed(domain(interfaces=[{"name": "a", "bridge": "br0"}, {"name": "b", "bridge": "br0"}]))
    assert refused(value, [], a="52:54:00:00:00:01") == [
        "spec.interfaces[1].mac: is left open, and none was reserved"
    ]


def test_all_that_is_against_rendering_is_told_at_once() -> None:
    value = typed(
        domain(os={"kernel": "/a"}, interfaces=[{"name": "a", "bridge": "br0"}], xml="<title>a</title>")
    )
    problems = refused(value, [IMAGES], overlay=False)
    assert [problem.split(":")[0] for problem in problems] == [
        "spec.os.kernel",
        "spec.interfaces[0].mac",
        "spec.xml",
    ]


def test_a_fragment_is_refused_unless_the_server_allows_it() -> None:
    value = typed(domain(xml="<title>a</title>"))
    assert refused(value, [], overlay=False) == ["spec.xml: is not allowed by the server's configuration"]
    assert "<title>a</title>" in rendered(value).xml


def test_the_mark_must_be_the_domains_own() -> None:
    with pytest.raises(AssertionError, match="clone"):
        render(
            typed(domain()),
            uuid=uuid_of("a"),
            mark=Mark(CLUSTER, uuid_of("b"), 1, ""),
            macs={},
            allowed_paths=[],
            xml_overlay_allowed=False,
        )


def test_names_on_the_host_are_the_objects_and_their_namespaces() -> None:
    value = typed(domain("web"))
    assert ElementTree.fromstring(rendered(value).xml).findtext("name") == "web"
    meta = value.metadata.__class__(name="web", namespace="team")
    other = Domain(metadata=meta, spec=value.spec)
    assert ElementTree.fromstring(rendered(other).xml).findtext("name") == "team.web"


def test_chosen_addresses_are_unicast_stable_and_differ_by_domain_device_and_attempt() -> None:
    base = choose_mac("0DC3A83F-4e35-59f2-9add-b49a5058ba9f", "net0")
    assert base == choose_mac("0dc3a83f-4e35-59f2-9add-b49a5058ba9f", "net0", 0) == "52:54:00:49:01:f3"
    others = {choose_mac(f"{i}", device, n) for i in range(20) for device in "ab" for n in range(5)}
    assert len(others) == 200
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac) for mac in others)


def test_the_digest_is_that_of_the_text() -> None:
    assert digest("") == "e3b0c44298fc1c149afbf4c8996fb924"
    assert replace(Rendered("", ""), digest=digest("a")).digest != digest("b")
