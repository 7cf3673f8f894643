"""Objects as YAML that every reader takes the same way.

Laid out as kubectl does it (keys sorted, lists not indented, long texts as blocks). Strings that look like
something else to YAML 1.1, to YAML 1.2 (`1e3`, `0o17`, `on`, `52:54:00:12:34:56`) or to kubectl's reader,
which is both and more (`y`, `0X1F`), are quoted, since all of them are about.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_CORE_SCALAR = re.compile(
    r"null|Null|NULL|~|true|True|TRUE|false|False|FALSE|[yYnN]|[-+]?0[xXbBoO][0-9a-fA-F_]+"
    r"|[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9_]+)?"
    r"|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
)
_WIDTH = 1 << 20  # lines are never folded


def dump(value: object) -> str:
    """One document, without a marker before it."""
    return yaml.dump(value, Dumper=_DUMPER, default_flow_style=False, allow_unicode=True, width=_WIDTH)


def _string(dumper: Any, text: str) -> Any:
    tag = "tag:yaml.org,2002:str"
    if _CORE_SCALAR.fullmatch(text) or dumper.resolve(yaml.ScalarNode, text, (True, False)) != tag:
        return dumper.represent_scalar(tag, text, style='"')
    if not text.replace("\n", "").isprintable():
        return dumper.represent_scalar(tag, text, style='"')  # with escapes: line breaks of Unicode, controls
    if "\n" in text and not any(line != line.rstrip() for line in text.split("\n")):
        return dumper.represent_scalar(tag, text, style="|")
    return dumper.represent_scalar(tag, text)


def _dumper() -> Any:
    """A dumper of our own: representers are kept per class."""
    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    made: Any = type("Dumper", (base,), {"ignore_aliases": lambda self, data: True})
    made.add_representer(str, _string)
    return made


_DUMPER = _dumper()
