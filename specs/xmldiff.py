"""Drift: what a definition sets that a host's XML does not have.

`missing` looks for each element and attribute of the desired XML in the actual one, inactive or live; what
libvirt adds is no drift, and neither is what somebody added, for only what the spec says is compared.
Devices are matched by their alias `ua-<name>`; where they have lost it, or libvirt keeps none (lxc), by
position among the devices of their tag, but file systems by their target. The arguments of a container's
init count as one list. Spellings of one value are equal: units, machine types that stand for a version,
letter case of addresses, numbers in decimal and hexadecimal. Of our mark only whose the domain is counts:
its epoch has rules of its own, and its digest says which definition was given, not what became of it, so
a device that a spec no longer names is found by comparing digests, not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from specs.mark import MARK_NAMESPACE, parse_xml
from specs.redaction import MASK, is_secret_attribute, is_secret_name, redacted

_Element = ElementTree.Element
PRESENT: Final = "present"
ABSENT: Final = "absent"

_MARK: Final = f"{{{MARK_NAMESPACE}}}domain"
_UNITS: Final = {
    "b": 1,
    "bytes": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "k": 2**10,
    "KiB": 2**10,
    "M": 2**20,
    "MiB": 2**20,
    "G": 2**30,
    "GiB": 2**30,
    "T": 2**40,
    "TiB": 2**40,
}
_MACHINES: Final = {"pc": "pc-i440fx-", "q35": "pc-q35-"}
# What tells siblings of one tag apart, where it is neither an alias nor their position.
_KEYS: Final = {
    "controller": ("type", "index"),
    "timer": ("name",),
    "feature": ("name",),
    "initenv": ("name",),
    "vcpupin": ("vcpu",),
    "cell": ("id",),
    "graphics": ("type",),
}
# A container's directories carry no alias: their place in the container tells them apart.
_TARGETED: Final = {"filesystem": "dir"}
_EXPANDED_CPU: Final = ("host-model", "host-passthrough", "maximum")


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is below <domain>: `memory`, `devices/disk[ua-root]/source/@file`. For an element that is not
    there at all, desired is "present" and actual "absent"."""

    path: str
    desired: str
    actual: str

    @property
    def field(self) -> str:
        return field_of(self.path)


def missing(desired_xml: str, actual_xml: str) -> tuple[Difference, ...]:
    """All that `desired_xml` sets and `actual_xml` has not. Raises specs.mark.UntrustedXml for XML from a
    host that is not to be read."""
    desired, actual = parse_xml(desired_xml), parse_xml(actual_xml)
    found = _Comparison(live=actual.get("id") is not None).element(desired, actual, "")
    return tuple(Difference(one.path, redacted(one.desired), redacted(one.actual)) for one in found)


@dataclass(frozen=True, slots=True)
class _Comparison:
    live: bool

    def element(self, desired: _Element, actual: _Element, path: str) -> Iterator[Difference]:
        if self.live and desired.tag == "cpu":
            yield from self._live_cpu(desired, actual, path)
            return
        for name, value in desired.attrib.items():
            if name == "unit" and desired.text:
                continue  # compared with its number
            if is_secret_attribute(name):
                continue  # hosts are not asked for it
            found = actual.get(name)
            if found is None:
                yield Difference(f"{path}/@{name}".lstrip("/"), value, ABSENT)
            elif not _same_attribute(desired.tag, name, value, found):
                yield Difference(f"{path}/@{name}".lstrip("/"), value, found)
        yield from _text(desired, actual, path)
        yield from self._children(desired, actual, path)

    def _live_cpu(self, desired: _Element, actual: _Element, path: str) -> Iterator[Difference]:
        """A running domain shows what its CPU came to: modes become a model, optional features are decided,
        every check is full. What it was asked for can still be told from its model and its topology."""
        for tag in ("model", "topology"):
            wanted, given = desired.find(tag), actual.find(tag)
            if wanted is None or (tag == "model" and desired.get("mode") in _EXPANDED_CPU):
                continue
            if given is None:
                yield Difference(f"{path}/{tag}", PRESENT, ABSENT)
            elif tag == "model":
                yield from _text(wanted, given, f"{path}/{tag}")
            else:
                yield from self.element(wanted, given, f"{path}/{tag}")

    def _children(self, desired: _Element, actual: _Element, path: str) -> Iterator[Difference]:
        for tag in dict.fromkeys(child.tag for child in desired):
            wanted, given = desired.findall(tag), actual.findall(tag)
            if tag == _MARK:
                yield from _mark(wanted[0], given)
            elif tag == "alias":
                continue  # how devices are matched, not what they are
            elif tag == "boot" and desired.tag == "os":
                yield from _boot_order(wanted, given)
            elif tag == "initarg":
                yield from _arguments(wanted, given)
            else:
                for child, match in zip(wanted, _matches(wanted, given), strict=True):
                    below = f"{path}/{_label(child, wanted)}".lstrip("/")
                    if match is None:
                        yield Difference(below, PRESENT, ABSENT)
                    else:
                        yield from self.element(child, match, below)


def _mark(wanted: _Element, given: Sequence[_Element]) -> Iterator[Difference]:
    if not given:
        yield Difference("metadata/mark", PRESENT, ABSENT)
        return
    for name in ("cluster", "uuid"):
        desired, actual = wanted.get(name, ""), given[0].get(name, "")
        if desired.lower() != actual.lower():
            yield Difference(f"metadata/mark/@{name}", desired, actual)


def _boot_order(wanted: Sequence[_Element], given: Sequence[_Element]) -> Iterator[Difference]:
    desired, actual = (",".join(one.get("dev", "") for one in order) for order in (wanted, given))
    if desired != actual:
        yield Difference("os/boot", desired, actual or ABSENT)


def _arguments(wanted: Sequence[_Element], given: Sequence[_Element]) -> Iterator[Difference]:
    """The whole list: one more would be an argument that nobody asked for."""
    desired, actual = (" ".join(repr(one.text or "") for one in order) for order in (wanted, given))
    if desired != actual:
        yield Difference("os/initarg", desired, actual or ABSENT)


def _text(desired: _Element, actual: _Element, path: str) -> Iterator[Difference]:
    wanted, given = (desired.text or "").strip(), (actual.text or "").strip()
    if desired.tag == "vcpu" and desired.get("current") is None and actual.get("current", given) != given:
        yield Difference(path, wanted, f"{actual.get('current')} of {given}")
    elif wanted and not _same_text(desired, wanted, actual, given):
        if desired.tag == "initenv" and is_secret_name(desired.get("name")):
            yield Difference(path, MASK, MASK)  # that it differs is no secret
        else:
            yield Difference(path, _with_unit(desired, wanted), _with_unit(actual, given))


def _with_unit(element: _Element, text: str) -> str:
    unit = element.get("unit")
    return f"{text} {unit}" if unit is not None else text


def _same_text(desired: _Element, wanted: str, actual: _Element, given: str) -> bool:
    if wanted == given and desired.get("unit", "KiB") == actual.get("unit", "KiB"):
        return True
    if desired.tag == "uuid":
        return wanted.lower() == given.lower()
    if desired.get("unit") is not None:
        amounts = {
            _amount(text, one.get("unit", "KiB")) for text, one in ((wanted, desired), (given, actual))
        }
        return len(amounts) == 1 and None not in amounts
    return False


def _amount(text: str, unit: str) -> int | None:
    factor = _UNITS.get(unit)
    return int(text) * factor if factor is not None and re.fullmatch(r"[0-9]{1,19}", text) else None


def _same_attribute(tag: str, name: str, desired: str, actual: str) -> bool:
    if desired == actual:
        return True
    if name == "machine" and tag == "type":
        return actual.startswith(_MACHINES.get(desired, f"{desired}-")) and actual[-1:].isdigit()
    if tag == "mac" and name == "address":
        return desired.lower() == actual.lower()
    numbers = _number(desired), _number(actual)
    return numbers[0] is not None and numbers[0] == numbers[1]


def _number(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text) else None


# Which sibling is which


def _alias(element: _Element) -> str | None:
    found = element.find("alias")
    name = None if found is None else found.get("name")
    return name if name is not None and name.startswith("ua-") else None


def _key(element: _Element) -> tuple[str | None, ...] | None:
    if element.tag in _TARGETED:
        target = element.find("target")
        return None if target is None else (target.get(_TARGETED[element.tag]),)
    names = _KEYS.get(element.tag)
    if names is None:
        return None
    key = tuple(element.get(name) for name in names)
    return key if any(part is not None for part in key) else None


def _matches(wanted: Sequence[_Element], given: Sequence[_Element]) -> list[_Element | None]:
    """The counterpart of each wanted element: by alias, by key, else by position among the rest."""
    by_alias = {_alias(one): one for one in reversed(given)}
    by_key = {_key(one): one for one in reversed(given)}
    found: list[_Element | None] = []
    for one in wanted:
        alias, key = _alias(one), _key(one)
        found.append(by_alias.get(alias) if alias else by_key.get(key) if key else None)
    rest = iter(_rest(wanted, given, found))
    for index, one in enumerate(wanted):
        if found[index] is None and _key(one) is None:
            found[index] = next(rest, None)
    return found


def _rest(
    wanted: Sequence[_Element], given: Sequence[_Element], found: Iterable[_Element | None]
) -> list[_Element]:
    """Who may stand in by position: not what is matched, nor what carries the alias of another device."""
    taken = {id(one) for one in found if one is not None}
    named = any(_alias(one) for one in given)
    aliased = any(_alias(one) for one in wanted)
    return [one for one in given if id(one) not in taken and not (aliased and named)]


def _label(element: _Element, siblings: Sequence[_Element]) -> str:
    alias, key = _alias(element), _key(element)
    if alias or key:
        return f"{element.tag}[{alias or ','.join(part or '' for part in key or ())}]"
    return element.tag if len(siblings) == 1 else f"{element.tag}[{list(siblings).index(element)}]"


# What users call it

_FIELDS: Final = {
    "@type": "spec.type",
    "name": "metadata.name",
    "uuid": "metadata.uid",
    "memory": "spec.memory",
    "currentMemory": "spec.memory",
    "vcpu": "spec.vcpus",
    "os/type/@arch": "spec.os.arch",
    "os/type/@machine": "spec.os.machine",
    "os/kernel": "spec.os.kernel",
    "os/initrd": "spec.os.initrd",
    "os/cmdline": "spec.os.cmdline",
    "os/init": "spec.os.init",
    "os/initdir": "spec.os.initDir",
    "os/boot": "spec.os.boot",
}
_INIT: Final = {"initarg": "spec.os.initArgs", "initenv": "spec.os.initEnv"}
_LISTS: Final = {
    "disk": "disks",
    "filesystem": "filesystems",
    "interface": "interfaces",
    "serial": "serials",
    "console": "consoles",
}
_BELOW: Final = {
    "disk": {
        "@device": "device",
        "@type": "source",
        "source": "source",
        "source/@file": "source.file",
        "source/@dev": "source.block",
        "driver/@type": "format",
        "driver/@cache": "cache",
        "target/@dev": "target",
        "target/@bus": "bus",
        "readonly": "readOnly",
        "shareable": "shareable",
        "serial": "serial",
    },
    "interface": {
        "mac/@address": "mac",
        "source/@network": "network",
        "source/@bridge": "bridge",
        "model/@type": "model",
    },
    "serial": {"@type": "type", "source/@path": "path", "source/@append": "append"},
    "console": {"@type": "type", "source/@path": "path", "source/@append": "append"},
    "filesystem": {
        "@type": "type",
        "source": "source",
        "source/@dir": "source.dir",
        "source/@usage": "size",
        "readonly": "readOnly",
    },
}


def field_of(path: str) -> str:
    """The field of the object that a path comes from, `spec.disks[root].source.file`; for what no field says
    (it is generated, or from spec.xml) the path itself, as `domain/clock/@offset`."""
    found = re.match(r"devices/(disk|interface|serial|console)\[ua-([^\]]+)\](?:/(.*))?", path)
    if found is None:
        found = re.match(r"devices/(filesystem)\[(.*)\](?:/(.*))?\Z", path)
    if found is None:
        listed = re.match(r"os/(initarg|initenv)\b", path)
        return _INIT[listed[1]] if listed is not None else _FIELDS.get(path, f"domain/{path}")
    field = f"spec.{_LISTS[found[1]]}[{found[2]}]"
    below = _BELOW[found[1]].get(found[3] or "")
    return f"{field}.{below}" if below else field
