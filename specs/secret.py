"""The kind Secret of Kubernetes' core group: bytes that nobody sees who may not read Secrets.

Data stands in base64; `stringData` is a way to write it and never kept (`without_string_data`). Values of its
data are in no problem, whatever is wrong with them. That a server takes one at all only where its store is
encrypted is `controller.api.admission`'s rule. Domains name Secrets where a password belongs into their XML
(`specs.domain.SecretKey`); in ConfigMaps and in `spec.xml` there is no place for one.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from specs.core import KEY_WORDS, is_key
from specs.meta import ObjectMeta, Struct
from specs.problems import Problem, shown
from specs.walker import Report

OPAQUE: Final = "Opaque"
VALUES: Final = ("data", "stringData")
"""The fields whose values no message may show."""
MAX_SECRET_BYTES: Final = 1 << 20  # Kubernetes' own limit; the server's for one document is lower
_REQUIRED: Final = "FieldValueRequired"


class Secret(Struct, frozen=True, kw_only=True):
    """Bytes under keys that only those see who may read Secrets. A server whose store is not encrypted takes
    none.

    api_version: v1.
    kind: Secret.
    metadata: The envelope.
    type: What it is for, as on Kubernetes: Opaque when left out. It cannot be changed.
    data: Bytes by their key, in base64.
    string_data: Text by its key, put into data when it is written and never shown.
    immutable: True says that data can never be changed again, nor this.
    """

    api_version: Literal["v1"]
    kind: Literal["Secret"]
    metadata: ObjectMeta
    type: Annotated[str, Meta(max_length=253)] | UnsetType = UNSET
    data: dict[str, str] | UnsetType = UNSET
    string_data: dict[str, str] | UnsetType = UNSET
    immutable: bool | UnsetType = UNSET


def without_string_data(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same with `stringData` in `data`, where it wins. What is no text stays, to be refused by name."""
    texts, data = body.get("stringData"), body.get("data")
    if not isinstance(texts, Mapping) or not (data is None or isinstance(data, Mapping)):
        return dict(body)
    known = {key: text for key, text in texts.items() if isinstance(text, str)}
    merged = dict(data or {}) | {key: _encoded(text) for key, text in known.items()}
    rest = {key: text for key, text in texts.items() if key not in known}
    kept = {key: value for key, value in body.items() if key not in VALUES}
    return {**kept, **({"data": merged} if merged else {}), **({"stringData": rest} if rest else {})}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def completed(body: Mapping[str, Any]) -> dict[str, Any]:
    """As it is stored: with the type that Kubernetes gives what has none."""
    found = without_string_data(body)
    return found if found.get("type") else {**found, "type": OPAQUE}


def check_secret(value: Mapping[str, Any], report: Report) -> None:
    """What its fields mean together, by Kubernetes' rules."""
    size = 0
    for field in VALUES:
        one = value.get(field)
        for key, text in one.items() if isinstance(one, Mapping) else ():
            if not is_key(key):
                report.add((field,), f"has the key {shown(key)}, keys must be {KEY_WORDS}")
            content = _content(field, text)
            if content is None and isinstance(text, str):
                report.add((field, key), "must be base64")
            size += len(content or b"")
    if size > MAX_SECRET_BYTES:
        report.add(("data",), f"has {size} bytes in all, at most {MAX_SECRET_BYTES} are allowed")
    rule = _TYPES.get(str(value.get("type")))
    if rule is not None:
        rule(value, report)


def _content(field: str, text: object) -> bytes | None:
    """The bytes of one value; None if there is no telling."""
    if not isinstance(text, str):
        return None
    if field == "stringData":
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _named(value: Mapping[str, Any], key: str) -> bytes | None:
    """What it has under `key`; None where it has nothing of that name, b"" where it cannot be read."""
    for field in reversed(VALUES):
        one = value.get(field)
        if isinstance(one, Mapping) and key in one:
            return _content(field, one[key]) or b""
    return None


def _all_of(*keys: str) -> Callable[[Mapping[str, Any], Report], None]:
    def check(value: Mapping[str, Any], report: Report) -> None:
        for key in keys:
            if _named(value, key) is None:
                report.add(("data", key), f"is required for type {value['type']}", _REQUIRED)

    return check


def _one_of(*keys: str) -> Callable[[Mapping[str, Any], Report], None]:
    def check(value: Mapping[str, Any], report: Report) -> None:
        if all(_named(value, key) is None for key in keys):
            message = f"{' or '.join(keys)} is required for type {value['type']}"
            report.add(("data",), message, _REQUIRED)

    return check


def _json(key: str) -> Callable[[Mapping[str, Any], Report], None]:
    def check(value: Mapping[str, Any], report: Report) -> None:
        content = _named(value, key)
        if content is None:
            report.add(("data", key), f"is required for type {value['type']}", _REQUIRED)
            return
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            report.add(("data", key), "must be JSON")

    return check


_TYPES: Final[Mapping[str, Callable[[Mapping[str, Any], Report], None]]] = MappingProxyType(
    {
        "kubernetes.io/tls": _all_of("tls.crt", "tls.key"),
        "kubernetes.io/ssh-auth": _all_of("ssh-privatekey"),
        "kubernetes.io/basic-auth": _one_of("username", "password"),
        "kubernetes.io/dockerconfigjson": _json(".dockerconfigjson"),
        "kubernetes.io/dockercfg": _json(".dockercfg"),
    }
)


def fixed_secret(old: Secret, new: Secret) -> list[Problem]:
    """What may not be changed: what it is for, and all of it once it was said to be immutable."""
    problems = []
    if (old.type or OPAQUE) != (new.type or OPAQUE):
        problems.append(Problem(("type",), "cannot be changed", "FieldValueForbidden"))
    if old.immutable is True:
        problems += [
            Problem((field,), "cannot be changed: it is immutable", "FieldValueForbidden")
            for field in ("data", "immutable")
            if getattr(old, field) != getattr(new, field)
        ]
    return problems
