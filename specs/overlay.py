"""The fragment of libvirt XML in `spec.xml`, merged over what the other fields generate.

For what has no typed field. A fragment is `<domain>…</domain>` or the elements inside of it. It comes from
users and ends in libvirtd, which runs as root, so three nets stand one behind the other (I19). The text:
no DTD, no entities, no namespaces, bounded in size, depth and count. The grammar: an *allow* list of
elements, attributes and the form of their values, in which no path, program, foreign address, secret or
name can be written (`specs.overlaygrammar`). The construction: nothing of the user's tree is taken over;
elements are built anew from what the grammar names, so comments, processing instructions and whatever a
parser may hide do not get through. At last the merged document is searched for denied elements and for
paths outside the node's allowedPaths, by rules of its own.

Devices of the spec are found by their alias (`<alias name="ua-root"/>`); disks and interfaces cannot be
added here, because placement counts on the spec's. Elements that occur once are merged attribute by
attribute and child by child.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from typing import Final
from xml.etree import ElementTree

from specs import paths
from specs.mark import UntrustedXml, parse_xml
from specs.overlayforms import Allowed
from specs.overlaygrammar import DOMAIN, REFUSED
from specs.problems import MAX_PROBLEMS, Problem, shown

MAX_CHARACTERS: Final = 64 * 1024
MAX_DEPTH: Final = 12
MAX_ELEMENTS: Final = 1000
MAX_NEW_DEVICES: Final = 32

_KEYS: Final = ("spec", "xml")
_Element = ElementTree.Element
# The last net: what never stands in a definition of ours, however it came there.
_NEVER: Final = frozenset(
    {
        *("emulator", "loader", "nvram", "hostdev", "filesystem", "shmem", "redirdev", "smartcard", "tpm"),
        *("seclabel", "launchSecurity", "sysinfo", "bootloader", "script", "downscript", "auth", "secret"),
        *("encryption", "backingStore", "commandline", "mirror", "resource", "parallel", "maxMemory", "numa"),
    }
)
_INIT: Final = ("init", "initarg", "initenv", "initdir")
_FREE_TEXT: Final = frozenset({"title", "description", "cmdline"})
_RANDOM: Final = ("/dev/urandom", "/dev/random")


def check(fragment: str) -> list[Problem]:
    """All that is against a fragment, whatever it is merged over."""
    try:
        root = _parsed(fragment)
    except ValueError as error:
        return [_problem("", str(error))]
    return list(islice(_against(root, DOMAIN, ""), MAX_PROBLEMS))


def merge(root: _Element, fragment: str, allowed_paths: Sequence[str]) -> list[Problem]:
    """Merge a fragment into a generated domain, in place. After a problem `root` is of no use."""
    problems = check(fragment)
    if not problems:
        inside = _inside_a_container(root)
        _merge_children(root, _parsed(fragment), DOMAIN, problems)
        _listen_locally(root)
        problems += _unique_aliases(root)
        problems += _last_net(root, allowed_paths, inside)
    return problems


def _problem(path: str, message: str) -> Problem:
    return Problem(_KEYS, f"{path}: {message}" if path else message, "FieldValueForbidden")


# The text


def _parsed(fragment: str) -> _Element:
    """The fragment below one <domain>. Raises ValueError with words for the user."""
    if len(fragment) > MAX_CHARACTERS:
        raise ValueError(f"has {len(fragment)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        root = parse_xml(fragment)
    except UntrustedXml:
        root = None
    if root is None or root.tag != "domain":
        try:
            root = parse_xml(f"<domain>{fragment}</domain>")
        except UntrustedXml as error:
            raise ValueError(str(error)) from None
    _bound(root)
    return root


def _bound(root: _Element) -> None:
    """Count and depth, without recursion: everything after this may recurse."""
    level, depth, count = [root], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} deep")
        if count > MAX_ELEMENTS:
            raise ValueError(f"has more than {MAX_ELEMENTS} elements")
        level = [child for element in level for child in element]


# The grammar


def _against(element: _Element, allowed: Allowed, path: str) -> Iterator[Problem]:
    for name, value in element.attrib.items():
        form = allowed.attributes.get(name)
        if form is None:
            known = ", ".join(allowed.attributes) or "none"
            yield _problem(f"{path}/@{_shown_name(name)}".lstrip("/"), _refusal(f"@{name}", name, known))
        elif form.pattern.fullmatch(value) is None:
            yield _problem(f"{path}/@{name}", f"must be {form.words}, is {shown(value)}")
    text = (element.text or "").strip()
    if text and allowed.text is None:
        yield _problem(path, f"must not contain text, has {shown(text)}")
    elif allowed.text is not None and allowed.text.pattern.fullmatch(text) is None:
        yield _problem(path, f"must be {allowed.text.words}, is {shown(text)}")
    yield from _against_children(element, allowed, path)
    if allowed.match == "existing" and element.find("alias") is None:
        yield _problem(path, 'needs <alias name="ua-…"/> with the name of a device of the spec')


def _against_children(element: _Element, allowed: Allowed, path: str) -> Iterator[Problem]:
    seen: set[tuple[str, ...]] = set()
    for child in element:
        below = f"{path}/{_shown_name(child.tag)}".lstrip("/")
        if (child.tail or "").strip():
            yield _problem(path, f"must not contain text, has {shown(child.tail)}")
        inner = allowed.children.get(child.tag)
        if inner is None:
            known = ", ".join(allowed.children) or "nothing"
            yield _problem(below, _refusal(child.tag, child.tag, known))
            continue
        yield from _against(child, inner, below)
        if not inner.match:
            key = (child.tag, *(child.get(name, "") for name in inner.key))
            if key in seen:
                yield _problem(below, "is there twice")
            seen.add(key)


def _shown_name(name: str) -> str:
    return shown(name).strip('"')


def _refusal(known_as: str, name: str, allowed: str) -> str:
    if name.startswith("{"):
        return "is in a namespace, which a fragment may not use"
    reason = REFUSED.get(known_as)
    if reason is not None:
        return f"is not allowed: {reason}"
    close = difflib.get_close_matches(name[:64], allowed.split(", "), n=1)
    hint = f"did you mean {close[0]}?" if close else f"allowed here: {allowed}"
    return f"is not on the list of what a fragment may set, {hint}"


# The construction


def _merge_children(target: _Element, source: _Element, allowed: Allowed, problems: list[Problem]) -> None:
    for child in source:
        inner = allowed.children[child.tag]
        place = _counterpart(target, child, inner, problems)
        if place is None:
            continue
        for name in inner.attributes:
            value = child.get(name)
            if value is not None:
                place.set(name, value)
        text = (child.text or "").strip()
        if text and inner.text is not None:
            place.text = text
        _merge_children(place, child, inner, problems)


def _counterpart(
    target: _Element, child: _Element, allowed: Allowed, problems: list[Problem]
) -> _Element | None:
    """What an element is merged into: an existing one, or a new and empty one."""
    siblings = target.findall(child.tag)
    if allowed.match:
        alias = _alias(child)
        found = next((one for one in siblings if alias is not None and _alias(one) == alias), None)
        if found is None and allowed.match == "existing":
            problems.append(
                _problem(f"devices/{child.tag}", f"the spec has no {child.tag} with the alias {alias}")
            )
            return None
    else:
        key = [child.get(name) for name in allowed.key]
        found = next((one for one in siblings if [one.get(name) for name in allowed.key] == key), None)
    return ElementTree.SubElement(target, child.tag) if found is None else found


def _alias(element: _Element) -> str | None:
    alias = element.find("alias")
    return None if alias is None else alias.get("name")


def _listen_locally(root: _Element) -> None:
    """Without an address a host may be configured to listen for everyone, and there is no password."""
    for graphics in root.iterfind("devices/graphics"):
        if graphics.get("listen") is None and graphics.find("listen") is None:
            graphics.set("listen", "127.0.0.1")
        for listen in graphics.iterfind("listen"):
            if listen.get("type", "address") == "address":
                listen.set("type", "address")
                listen.set("address", listen.get("address") or graphics.get("listen") or "127.0.0.1")


# The last net


def _unique_aliases(root: _Element) -> Iterator[Problem]:
    seen: set[str] = set()
    devices = root.find("devices")
    for device in devices if devices is not None else ():
        alias = _alias(device)
        if alias is not None and alias in seen:
            yield _problem(f"devices/{device.tag}", f"the alias {alias} is there twice")
        seen.add(alias or "")
    if devices is not None and sum(len(devices.findall(tag)) for tag in _NEW) > MAX_NEW_DEVICES:
        yield _problem("devices", f"has more than {MAX_NEW_DEVICES} new devices")


_NEW: Final = tuple(tag for tag, inner in DOMAIN.children["devices"].children.items() if inner.match == "new")


def _inside_a_container(root: _Element) -> frozenset[_Element]:
    """What the spec's own fields made of a container's file systems and its init, before anything of the
    user's tree was merged. Their paths are inside the container, or were checked; no grammar reaches them."""
    found = [one for filesystem in root.iterfind("devices/filesystem") for one in filesystem.iter()]
    return frozenset((*found, *(one for tag in _INIT for one in root.iterfind(f"os/{tag}"))))


def _last_net(root: _Element, allowed_paths: Sequence[str], inside: Set[_Element]) -> Iterator[Problem]:
    for element in root.iter():
        if element in inside:
            continue
        if element.tag in _NEVER or element.tag.startswith("{"):
            yield _problem(_shown_name(element.tag), "is never allowed")
        values = list(element.attrib.values())
        if element.tag not in _FREE_TEXT:
            values.append((element.text or "").strip())
        for value in values:
            if _is_path(value) and not paths.is_allowed(value, allowed_paths) and value not in _RANDOM:
                yield _problem(element.tag, paths.refusal(value, allowed_paths))


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~")) or "../" in value or ":/" in value
