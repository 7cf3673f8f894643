"""The fragment of libvirt XML in `spec.xml`, merged over what the other fields generate.

Until its elements can be checked, every fragment is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from specs.problems import Problem


def check(fragment: str) -> list[Problem]:
    return [Problem(("spec", "xml"), "is not supported yet", "FieldValueForbidden")]


def merge(root: ElementTree.Element, fragment: str, allowed_paths: Sequence[str]) -> list[Problem]:
    return check(fragment)
