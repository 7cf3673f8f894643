"""What `metadata` must be beyond its types: names, label syntax as on Kubernetes, sizes, scope.

Works on the cleaned value of `specs.walker`, which may still hold what was wrong; only what has the right
type is looked at here, the rest was reported before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from specs.meta import NAME_PATTERN, NAME_WORDS
from specs.problems import Keys, shown
from specs.walker import Report

MAX_ANNOTATION_BYTES: Final = 256 * 1024
_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_PREFIX_PART = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PREFIX = re.compile(rf"{_PREFIX_PART}(\.{_PREFIX_PART})*")
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Names that only ever stand in a path and a key of the store, such as system:discovery.
_PATH_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:]{0,251}[A-Za-z0-9])?\Z")
_PATH_WORDS: Final = "letters, digits and '-._:', beginning and ending with a letter or digit, at most 253"
_DOTTED_WORDS: Final = "DNS labels of lower-case letters, digits and '-', joined by '.', at most 253"
_WORD_RULE: Final = (
    "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit, at most 63"
)


def key_fault(key: str) -> str | None:
    """What is wrong with the key of a label, taint or annotation; None if nothing."""
    prefix, slash, word = key.rpartition("/")
    if slash and (len(prefix) > 253 or _PREFIX.fullmatch(prefix) is None):
        return f"has the key {shown(key)}, whose part before '/' must be a DNS name"
    if _WORD.fullmatch(word) is None:
        return f"has the key {shown(key)}, keys must be {_WORD_RULE}"
    return None


def value_fault(value: str) -> str | None:
    if value and _WORD.fullmatch(value) is None:
        return f"must be empty or {_WORD_RULE}, is {shown(value)}"
    return None


def check_labels(labels: object, keys: Keys, report: Report) -> None:
    """Labels, and selectors, which are written as labels are."""
    if not isinstance(labels, Mapping):
        return
    for key, value in labels.items():
        fault = key_fault(key) if isinstance(key, str) else None
        if fault is not None:
            report.add(keys, fault)
        wrong = value_fault(value) if isinstance(value, str) else None
        if wrong is not None:
            report.add((*keys, key), wrong)


def check_metadata(
    metadata: object, namespaced: bool, report: Report, *, path_name: bool = False, dotted: bool = False
) -> None:
    if not isinstance(metadata, Mapping):
        return
    name = metadata.get("name")
    if dotted:
        if isinstance(name, str) and (len(name) > 253 or _PREFIX.fullmatch(name) is None):
            report.add(("metadata", "name"), f"must be {_DOTTED_WORDS}, is {shown(name)}")
    elif not path_name:
        _check_name(name, ("metadata", "name"), report)
    elif isinstance(name, str) and _PATH_NAME.match(name) is None:
        report.add(("metadata", "name"), f"must be {_PATH_WORDS}, is {shown(name)}")
    _check_namespace(metadata.get("namespace"), namespaced, report)
    uid = metadata.get("uid")
    if isinstance(uid, str) and _UUID.fullmatch(uid) is None:
        report.add(("metadata", "uid"), f"must be a UUID in lower case, is {shown(uid)}")
    check_labels(metadata.get("labels"), ("metadata", "labels"), report)
    _check_annotations(metadata.get("annotations"), report)
    _check_finalizers(metadata.get("finalizers"), report)
    _check_owners(metadata.get("ownerReferences"), report)


def _check_name(name: object, keys: Keys, report: Report) -> None:
    if isinstance(name, str) and _NAME.match(name) is None:
        report.add(keys, f"must be {NAME_WORDS}, is {shown(name)}")


def _check_namespace(namespace: object, namespaced: bool, report: Report) -> None:
    keys = ("metadata", "namespace")
    if namespaced:
        _check_name(namespace, keys, report)
    elif namespace:
        report.add(keys, "must be left out: objects of this kind are in no namespace", "FieldValueForbidden")


def _check_annotations(annotations: Any, report: Report) -> None:
    if not isinstance(annotations, Mapping):
        return
    keys = ("metadata", "annotations")
    size = 0
    for key, value in annotations.items():
        fault = key_fault(key) if isinstance(key, str) else None
        if fault is not None:
            report.add(keys, fault)
        size += sum(len(text.encode("utf-8", "replace")) for text in (key, value) if isinstance(text, str))
    if size > MAX_ANNOTATION_BYTES:
        report.add(keys, f"has {size} bytes in all, at most {MAX_ANNOTATION_BYTES} are allowed")


def _check_owners(owners: Any, report: Report) -> None:
    listed = owners if isinstance(owners, list) else ()
    named = [one.get("name") for one in listed if isinstance(one, Mapping) and one.get("controller") is True]
    if len(named) > 1:
        both = " and ".join(shown(name) for name in named[:2])
        message = f"only one reference can have controller set to true, found true in those of {both}"
        report.add(("metadata", "ownerReferences"), message)


def _check_finalizers(finalizers: Any, report: Report) -> None:
    for index, name in enumerate(finalizers if isinstance(finalizers, list) else ()):
        if isinstance(name, str) and key_fault(name) is not None:
            report.add(
                ("metadata", "finalizers", index),
                f"must be a name such as example.org/done, is {shown(name)}",
            )
