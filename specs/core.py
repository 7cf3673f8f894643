"""Kinds of Kubernetes' core group that are kept here as they are: Namespace and ConfigMap (Secret: see
`specs.secret`).

A namespace parts names, rights and selectors; it holds no settings of its own. It need not be created: the
server makes it when the first object is put into it (`controller.api.facade.namespaces`). A ConfigMap is text
that clients keep, such as what `kubectl apply --applyset` knows of a set; domctl itself reads none, and it is
no place for secrets. The other core kinds are pictures of domctl's own objects and never stored; see
`controller.api.facade`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import UNSET, UnsetType

from specs.meta import ObjectMeta, Struct
from specs.problems import Problem, shown
from specs.walker import Report

CORE_API_VERSION: Final = "v1"
KEY_WORDS: Final = "letters, digits and '-._', at most 253"
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")


class NamespaceSpec(Struct, frozen=True, kw_only=True):
    """Nothing that domctl heeds; there because clients of Kubernetes send it.

    finalizers: Taken and kept, without an effect.
    """

    finalizers: list[str] | UnsetType = UNSET


class Namespace(Struct, frozen=True, kw_only=True):
    """Parts the names of domains, migrations, roles and so on; rights can be given for one.

    api_version: v1.
    kind: Namespace.
    metadata: The envelope.
    spec: Nothing that domctl heeds.
    """

    api_version: Literal["v1"]
    kind: Literal["Namespace"]
    metadata: ObjectMeta
    spec: NamespaceSpec | UnsetType = UNSET


class ConfigMap(Struct, frozen=True, kw_only=True):
    """Text under keys, for clients to keep; domctl itself reads none. No place for secrets.

    api_version: v1.
    kind: ConfigMap.
    metadata: The envelope.
    data: Text by its key.
    binary_data: Bytes by their key, in base64.
    immutable: True says that data and binaryData can never be changed again, nor this.
    """

    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: ObjectMeta
    data: dict[str, str] | UnsetType = UNSET
    binary_data: dict[str, str] | UnsetType = UNSET
    immutable: bool | UnsetType = UNSET


def is_key(key: str) -> bool:
    """Whether a ConfigMap or Secret may have it."""
    return _KEY.fullmatch(key) is not None and key not in {".", ".."}


def check_config_map(value: Mapping[str, Any], report: Report) -> None:
    """What its fields mean together, by Kubernetes' rules."""
    found = {field: value.get(field) for field in ("data", "binaryData")}
    maps = {field: one for field, one in found.items() if isinstance(one, Mapping)}
    for field, one in maps.items():
        for key in one:
            if not is_key(key):
                report.add((field,), f"has the key {shown(key)}, keys must be {KEY_WORDS}")
    for key in maps.get("data", {}).keys() & maps.get("binaryData", {}).keys():
        report.add(("data",), f"has the key {shown(key)}, which binaryData has too", "FieldValueDuplicate")
    for key, text in maps.get("binaryData", {}).items():
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            report.add(("binaryData", key), "must be base64")


def immutable_config(old: ConfigMap, new: ConfigMap) -> list[Problem]:
    """What may not be changed once it was said to be so."""
    if old.immutable is not True:
        return []
    fields = ("data", "binary_data", "immutable")
    words = {"binary_data": "binaryData"}
    return [
        Problem((words.get(field, field),), "cannot be changed: it is immutable", "FieldValueForbidden")
        for field in fields
        if getattr(old, field) != getattr(new, field)
    ]
