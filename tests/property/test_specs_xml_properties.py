"""What holds for every definition that is rendered, whatever its spec and its fragment of XML say."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from specs import overlay, paths
from specs.domain import Domain
from specs.domainxml import RenderRefused, render
from specs.mark import Mark, find
from specs.overlayforms import Allowed, Form
from specs.overlaygrammar import DOMAIN
from specs.validate import decode, load_file_objects
from specs.xmldiff import missing
from tests.specscase import CLUSTER, IMAGES, OVERLAY, domain, uuid_of

NAME = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
PATH = st.sampled_from(
    [
        f"{IMAGES}/a",
        f"{IMAGES}/b c.img",
        f"{IMAGES}/é/d",
        "/etc/shadow",
        f"{IMAGES}/../x",
        f"{IMAGES}2/x",
        "/",
        "x",
    ]
)

# XML


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Domains of any hardware; most are right but for their paths."""
    names = iter(draw(st.lists(NAME, min_size=8, max_size=8, unique=True)))
    disk = st.fixed_dictionaries(
        {"source": st.fixed_dictionaries({"file": PATH})},
        optional={
            "bus": st.sampled_from(["virtio", "scsi", "usb"]),
            "serial": st.just("S 1"),
            "shareable": st.booleans(),
        },
    )
    devices: dict[str, Any] = {
        "disks": [{"name": next(names), **draw(disk)} for _ in range(draw(st.integers(0, 3)))],
        "interfaces": [{"name": next(names), "bridge": "br0"} for _ in range(draw(st.integers(0, 2)))],
        "serials": [
            {"name": next(names), "type": "file", "path": draw(PATH)} for _ in range(draw(st.integers(0, 2)))
        ],
    }
    os = st.fixed_dictionaries({"kernel": PATH}, optional={"cmdline": st.text(max_size=20)})
    return domain(
        vcpus=draw(st.integers(1, 8)),
        memory=draw(st.integers(1 << 20, 1 << 30)),
        **devices,
        **({"os": draw(os)} if draw(st.booleans()) else {}),
    )


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20) | st.sampled_from(
    ["</initarg><init>/x</init>", "&amp;", "<x/>", "]]>", "../x"]
)
INSIDE = st.sampled_from(["/a", "/a/b", "/b [c]", "/a/../x", "x", "/"])


@st.composite
def containers(draw: st.DrawFn) -> dict[str, Any]:
    """Containers; most are right but for their paths and their texts."""
    mounts = st.fixed_dictionaries(
        {"target": INSIDE, "source": st.fixed_dictionaries({"dir": PATH})},
        optional={"readOnly": st.booleans()},
    )
    ram = st.fixed_dictionaries({"target": INSIDE, "type": st.just("ram"), "size": st.just("1Mi")})
    root = {"target": "/", "source": {"dir": draw(st.sampled_from([f"{IMAGES}/a", f"{IMAGES}/b c"]))}}
    os = st.fixed_dictionaries(
        {},
        optional={
            "init": INSIDE,
            "initArgs": st.lists(TEXT, max_size=3),
            "initEnv": st.dictionaries(st.sampled_from(["A", "_b2", "2", "x y", "a'>"]), TEXT, max_size=2),
            "initDir": INSIDE,
        },
    )
    return domain(
        type="lxc",
        memory="16Mi",
        os=draw(os),
        filesystems=[*draw(st.lists(mounts | ram, max_size=3)), *([root] if draw(st.booleans()) else [])],
        **({"interfaces": [{"name": "n", "bridge": "br0"}]} if draw(st.booleans()) else {}),
        **({"xml": "<title>/t</title>"} if draw(st.booleans()) else {}),
    )


@st.composite
def machines_elsewhere(draw: st.DrawFn) -> dict[str, Any]:
    """Domains for Xen and Virtuozzo, of which nothing but the schema can tell whether they are right."""
    kind = draw(st.sampled_from(["xen", "vz"]))
    disk = st.fixed_dictionaries(
        {"source": st.fixed_dictionaries({draw(st.sampled_from(["file", "block"])): PATH})},
        optional={
            "bus": st.sampled_from(["xen", "sata", "ide", "scsi"]),
            "format": st.sampled_from(["raw", "qcow2", "ploop"]),
            "device": st.sampled_from(["disk", "cdrom"]),
        },
    )
    os = st.fixed_dictionaries(
        {}, optional={"kernel": PATH, "machine": st.sampled_from(["xenpv", "xenfv", "xenpvh"])}
    )
    names = iter("abcdefgh")
    return domain(
        type=kind,
        vcpus=draw(st.integers(1, 8)),
        disks=[{"name": next(names), **draw(disk)} for _ in range(draw(st.integers(0, 3)))],
        interfaces=[{"name": next(names), "bridge": "br0"} for _ in range(draw(st.integers(0, 2)))],
        serials=[{"name": next(names), "type": "file", "path": draw(PATH)}] if draw(st.booleans()) else [],
        **({"os": draw(os)} if draw(st.booleans()) else {}),
    )


def made(value: dict[str, Any]) -> str | None:
    decoded, _ = decode(value)
    if not isinstance(decoded, Domain):
        return None
    uuid = uuid_of("d")
    interfaces = decoded.spec.interfaces if isinstance(decoded.spec.interfaces, list) else []
    try:
        return render(
            decoded,
            uuid=uuid,
            mark=Mark(CLUSTER, uuid, 1, ""),
            macs={one.name: f"52:54:00:00:00:{index:02x}" for index, one in enumerate(interfaces)},
            allowed_paths=[IMAGES],
            xml_overlay_allowed=True,
        ).xml
    except RenderRefused:
        return None


DENIED_TAGS = frozenset(
    [
        "emulator",
        "loader",
        "nvram",
        "hostdev",
        "filesystem",
        "seclabel",
        "script",
        "auth",
        "secret",
        "backingStore",
        "tpm",
        "shmem",
        "redirdev",
        "commandline",
        "sysinfo",
        "launchSecurity",
        "numa",
        "maxMemory",
        "smartcard",
    ]
)


def check_definition(xml: str) -> None:
    """What every definition of ours must be, whatever the user wrote."""
    root = ElementTree.fromstring(xml)
    mark = find(xml)
    assert mark is not None
    assert (mark.cluster, mark.uuid, root.findtext("uuid")) == (CLUSTER, uuid_of("d"), uuid_of("d"))
    assert len(root.findall("metadata")) == len(root.findall("name")) == len(root.findall("uuid")) == 1
    assert len(root.findall("memory")) == len(root.findall("vcpu")) == 1
    inside = check_container(root)
    for element in root.iter():
        if element in inside:
            continue
        assert element.tag not in DENIED_TAGS
        assert element.tag.startswith("{https://domctl.io/") or not element.tag.startswith("{")
        assert "passwd" not in element.attrib
        assert element.get("listen", "127.0.0.1") in ("127.0.0.1", "::1", "localhost")
        if element.tag == "listen":
            assert element.get("address", "127.0.0.1") in ("127.0.0.1", "::1", "localhost")
        values = [*element.attrib.values()]
        if element.tag not in ("title", "description", "cmdline"):
            values.append((element.text or "").strip())
        for value in values:
            allowed = paths.is_allowed(value, [IMAGES]) or value in ("/dev/urandom", "/dev/random")
            assert allowed or not value.startswith("/")
            assert ".." not in value.split("/")


def check_container(root: ElementTree.Element) -> set[ElementTree.Element]:
    """The elements that speak of the inside of a container, after looking at what they say of its host."""
    filesystems = root.findall("devices/filesystem")
    assert (root.get("type") == "lxc") == bool(filesystems)
    if not filesystems:
        return set()
    roots = [one for one in filesystems if one.find("target[@dir='/']") is not None]
    assert [one.get("type") for one in roots] == ["mount"], "it would see the root of its host"
    for one in filesystems:
        source = one.find("source")
        assert source is not None
        assert "dir" not in source.attrib or paths.is_allowed(source.attrib["dir"], [IMAGES])
        assert set(source.attrib) in ({"dir"}, {"usage", "units"})
    for variable in root.iterfind("os/initenv"):  # which libvirt 9.0 writes without escaping
        assert not set("<>&'") & set(variable.get("name", ""))
        assert not set("<>&") & set(variable.text or "")
    said = [one for tag in ("init", "initarg", "initenv", "initdir") for one in root.iterfind(f"os/{tag}")]
    return {*said, *(inner for one in filesystems for inner in one.iter())}


RNG = Path("/usr/share/libvirt/schemas/domain.rng")


@functools.cache
def schema() -> etree.RelaxNG | None:
    return etree.RelaxNG(etree.parse(str(RNG))) if RNG.exists() else None


@given(specs() | containers() | machines_elsewhere())
@settings(max_examples=200)
def test_no_definition_names_a_path_outside_the_allowed_ones(value: dict[str, Any]) -> None:
    xml = made(value)
    if xml is not None:
        check_definition(xml)
        assert missing(xml, xml) == ()
        known = schema()
        if known is not None:
            known.assertValid(etree.fromstring(xml))


VALUES = st.sampled_from(
    [
        "1",
        "on",
        "none",
        "x",
        "ua-root",
        "/etc/shadow",
        "../../x",
        "0.0.0.0",
        "127.0.0.1",
        "vnc",
        "&lt;",
        "file:///x",
        "/dev/urandom",
        "raw",
        "qemu",
        "4294967295",
        "~/x",
        "é",
        "spice",
        "address",
        "random",
        "",
        "a\nb",
        f"{IMAGES}/a",
    ]
)
TAGS = st.sampled_from(
    [
        "alias",
        "source",
        "driver",
        "target",
        "model",
        "backend",
        "listen",
        "metadata",
        "name",
        "uuid",
        "x:y",
        "domain",
        "boot",
        "address",
        "serial",
        *DOMAIN.children,
        *DOMAIN.children["devices"].children,
        *sorted(DENIED_TAGS),
    ]
)
ATTRIBUTES = st.sampled_from(
    [
        "type",
        "name",
        "file",
        "dev",
        "path",
        "dir",
        "source",
        "model",
        "passwd",
        "listen",
        "address",
        "index",
        "mode",
        "socket",
        "state",
        "bus",
        "placement",
        "cache",
        "xmlns:x",
        "xmlns",
        "offset",
        "cpuset",
    ]
)


@st.composite
def wild_xml(draw: st.DrawFn, depth: int = 0) -> str:
    tag = draw(TAGS)
    attributes = "".join(
        f" {name}='{draw(VALUES)}'" for name in draw(st.lists(ATTRIBUTES, max_size=3, unique=True))
    )
    inner = "".join(draw(st.lists(wild_xml(depth + 1), max_size=3))) if depth < 3 else ""
    noise = draw(st.sampled_from(["", "", "", "<!-- x -->", "<?x y?>", "<![CDATA[/etc/shadow]]>"]))
    return f"<{tag}{attributes}>{noise}{draw(VALUES) if draw(st.booleans()) else ''}{inner}</{tag}>"


def _text_of(form: Form) -> st.SearchStrategy[str]:
    return st.from_regex(form.pattern, fullmatch=True).filter(lambda text: len(text) < 200)


@st.composite
def grammatical(draw: st.DrawFn, tag: str, allowed: Allowed) -> str:
    """A fragment that the grammar allows, as a user who knows it would try to abuse it."""
    names = (
        draw(st.lists(st.sampled_from(sorted(allowed.attributes)), unique=True)) if allowed.attributes else []
    )
    attributes = "".join(f" {name}={_quoted(draw(_text_of(allowed.attributes[name])))}" for name in names)
    children = (
        draw(st.lists(st.sampled_from(sorted(allowed.children)), max_size=3, unique=True))
        if allowed.children
        else []
    )
    inner = "".join(draw(grammatical(name, allowed.children[name])) for name in children if name != "alias")
    text = _escaped(draw(_text_of(allowed.text))) if allowed.text is not None else ""
    alias = {"disk": "<alias name='ua-root'/>", "interface": "<alias name='ua-net0'/>"}.get(tag, "")
    return f"<{tag}{attributes}>{text}{alias if allowed.match == 'existing' else ''}{inner}</{tag}>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace('"', "&quot;") + '"'


def with_fragment(fragment: str) -> dict[str, Any]:
    return domain(
        disks=[{"name": "root", "source": {"file": f"{IMAGES}/a"}}],
        interfaces=[{"name": "net0", "bridge": "br0"}],
        xml=fragment,
    )


@given(wild_xml() | st.lists(wild_xml(), max_size=3).map("".join))
@settings(max_examples=200)
def test_no_wild_fragment_brings_anything_denied_into_a_definition(fragment: str) -> None:
    xml = made(with_fragment(fragment))
    if xml is not None:
        check_definition(xml)


@given(grammatical("domain", DOMAIN))
@settings(max_examples=150)
def test_what_the_grammar_allows_is_merged_harmlessly(fragment: str) -> None:
    xml = made(with_fragment(fragment))
    if not overlay.check(fragment):
        assert xml is not None
        check_definition(xml)
        assert missing(xml, xml) == ()
        assert made(with_fragment(fragment)) == xml


@given(
    st.integers(0, len(OVERLAY)),
    st.sampled_from(["", "<", ">", "'", '"', "/", "<x>", "&", "</devices>", "<!--"]),
)
def test_a_broken_fragment_is_refused_or_harmless(place: int, piece: str) -> None:
    fragment = OVERLAY[:place] + piece + OVERLAY[place + 1 :]
    value = with_fragment(fragment)
    value["spec"]["vcpus"] = 2
    xml = made(value)
    if xml is not None:
        check_definition(xml)


@given(st.text(max_size=60))
def test_any_text_is_a_fragment_or_a_problem(text: str) -> None:
    assert isinstance(overlay.check(text), list)


def test_a_yaml_writers_text_of_an_example_is_the_same_object() -> None:
    value = with_fragment(OVERLAY)
    value["spec"]["vcpus"] = 2
    objects, problems = load_file_objects(yaml.safe_dump(value), "x")
    assert problems == []
    assert objects[0].value == decode(value)[0]
