"""What holds for every spec, text and fragment, not only for those that somebody thought of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import msgspec
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specs import overlay, paths, quantity, yamldoc
from specs.domain import Domain
from specs.domainxml import RenderRefused, render
from specs.mark import Mark, find
from specs.node import Node
from specs.overlayforms import Allowed, Form
from specs.overlaygrammar import DOMAIN
from specs.schema import components
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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


# Quantities


@given(
    st.from_regex(
        r"[+-]?[0-9]{1,6}(\.[0-9]{0,4})?([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?", fullmatch=True
    )
)
def test_the_canonical_form_of_a_quantity_is_the_same_number_and_stays_as_it_is(text: str) -> None:
    try:
        written = quantity.canonical(text)
    except ValueError as error:
        assert "finer" in str(error) or "exponent" in str(error)
        return
    assert quantity.parse(written) == quantity.parse(text)
    assert quantity.canonical(written) == written


@given(st.text(max_size=70))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    try:
        quantity.parse(text)
    except ValueError as error:
        assert str(error)


# YAML


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t1.~<", max_size=60))
@settings(max_examples=300)
def test_no_text_makes_the_reader_raise_and_what_it_reads_has_places(text: str) -> None:
    loaded = yamldoc.load(text)
    lines = text.count("\n") + 2
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in loaded.problems)
    for document in loaded.documents:
        for keys in _paths(document.value):
            line, column = document.position(keys)
            assert 1 <= line <= lines
            assert column >= 1


def _paths(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*keys, key))


WRITTEN = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(WRITTEN, max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc xyz:-{'\"é", max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), PLAIN, min_size=1, max_size=4))
def test_what_json_or_a_yaml_writer_wrote_is_read_back(value: dict[str, Any]) -> None:
    as_json = msgspec.json.encode(value)
    found = yamldoc.load(as_json)
    assert found.problems == ()
    assert found.documents[0].value == value
    indented = msgspec.json.format(as_json)
    assert yamldoc.load(indented).documents[0].value == value


# Validation


def _shapes(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that often fit a schema and often do not."""
    if "$ref" in schema:
        return _shapes(known[schema["$ref"].rpartition("/")[2]], known, depth)
    if "allOf" in schema:
        return _shapes(schema["allOf"][0], known, depth)
    properties = schema.get("properties")
    if properties and depth < 6:
        parts = {name: _shapes(inner, known, depth + 1) for name, inner in properties.items()}
        required = {name: parts.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(required, optional=parts) | JSON
    if schema.get("type") == "array":
        return st.lists(_shapes(schema["items"], known, depth + 1), max_size=2) | JSON
    choices: list[st.SearchStrategy[Any]] = [JSON, st.sampled_from(["a", "32Mi", "/a/b", "0", 1, 2.0, True])]
    if "enum" in schema:
        choices += [st.sampled_from(schema["enum"])] * 3
    if "pattern" in schema:
        choices += [st.from_regex(schema["pattern"], fullmatch=False)]
    return st.one_of(choices)


SCHEMAS = components()


@given(st.one_of(_shapes(SCHEMAS["Domain"], SCHEMAS), _shapes(SCHEMAS["Node"], SCHEMAS), JSON))
@settings(max_examples=150)
def test_any_value_is_an_object_or_problems_and_never_an_exception(value: Any) -> None:
    decoded, problems = decode(value)
    assert (decoded is None) == bool(problems)
    assert all(str(problem) and problem.message.isprintable() for problem in problems)
    if decoded is not None:
        assert isinstance(decoded, Domain | Node)
        assert decode(msgspec.to_builtins(decoded))[0] == decoded


@given(st.text(max_size=40), st.sampled_from(["name", "namespace", "uid"]))
@example("web-1\n", "name")
def test_no_odd_text_gets_into_an_identity(text: str, field: str) -> None:
    value = domain()
    value["metadata"][field] = text
    decoded, _ = decode(value)
    if decoded is not None:
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(text) <= 63


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_file_is_objects_or_problems(text: str | bytes) -> None:
    objects, problems = load_file_objects(text, "f")
    assert objects == []
    assert all(problem.file == "f" for problem in problems)


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
    for element in root.iter():
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


@given(specs())
def test_no_definition_names_a_path_outside_the_allowed_ones(value: dict[str, Any]) -> None:
    xml = made(value)
    if xml is not None:
        check_definition(xml)
        assert missing(xml, xml) == ()


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


# Paths


@given(st.text("/.a~", max_size=12), st.lists(st.text("/.a", max_size=6), max_size=3))
def test_an_allowed_path_lies_below_an_allowed_directory_however_it_is_resolved(
    path: str, allowed: list[str]
) -> None:
    if paths.is_allowed(path, allowed):
        parts = path.split("/")
        assert ".." not in parts
        assert any(parts[: len(one.split("/"))] == one.split("/") and one not in ("", "/") for one in allowed)
