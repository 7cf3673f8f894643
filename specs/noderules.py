"""What a Node's spec must be beyond its types: a URI of the whitelist, what its transport needs, sound paths,
taints and amounts.

Works on the cleaned value of `specs.walker`; see `specs.metarules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from specs import metarules, paths, quantity
from specs.node import CONTROLLER_PATH
from specs.problems import Keys, shown
from specs.uri import is_plain_file, parse_migration_uri, parse_uri
from specs.walker import Report


def check_node(spec: object, report: Report) -> None:
    if not isinstance(spec, Mapping):
        return
    _check_uri(spec, report)
    _check_migration_uri(spec.get("migrationURI"), report)
    _check_allowed_paths(spec.get("allowedPaths"), report)
    _check_taints(spec.get("taints"), report)
    reserved = spec.get("reserved")
    if isinstance(reserved, Mapping):
        _check_amount(reserved.get("memory"), ("spec", "reserved", "memory"), report)


def _check_uri(spec: Mapping[str, Any], report: Report) -> None:
    uri = spec.get("uri")
    if not isinstance(uri, str) or not uri:
        return
    try:
        parsed = parse_uri(uri)
    except ValueError as error:
        report.add(("spec", "uri"), str(error))
        return
    connection = spec.get("connection")
    given = connection if isinstance(connection, Mapping) else {}
    _check_connection(given, parsed.transport, report)
    if parsed.transport == "tcp" and "authFile" not in given and spec.get("insecure") is not True:
        message = (
            "must be true for a TCP URI without connection.authFile, which has no authentication: "
            "whoever reaches that port is root on the host"
        )
        report.add(("spec", "insecure"), message, "FieldValueRequired")
    if parsed.transport == "ext" and "command" not in given:
        report.add(("spec", "connection", "command"), "is required for transport ext", "FieldValueRequired")


TRANSPORTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "knownHosts": ("ssh",),
    "keyFile": ("ssh",),
    "pkiDir": ("tls",),
    "authFile": ("tcp", "tls"),
    "command": ("ext",),
}


_PATH: Final = re.compile(CONTROLLER_PATH, re.ASCII)


def _check_connection(given: Mapping[str, Any], transport: str, report: Report) -> None:
    for name, value in given.items():
        keys = ("spec", "connection", name)
        fitting = TRANSPORTS_OF.get(name)
        if fitting is not None and transport not in fitting:
            report.add(keys, f"is for transport {' or '.join(fitting)}, and spec.uri says {transport}")
        elif isinstance(value, str) and _PATH.fullmatch(value) and not is_plain_file(value):
            report.add(keys, f"must not contain '..' or '//', nor end in '/': {shown(value)}")


def _check_migration_uri(uri: object, report: Report) -> None:
    if not isinstance(uri, str) or not uri:
        return
    try:
        parse_migration_uri(uri)
    except ValueError as error:
        report.add(("spec", "migrationURI"), str(error))


def _check_allowed_paths(allowed: Any, report: Report) -> None:
    seen: set[str] = set()
    for index, path in enumerate(allowed if isinstance(allowed, list) else ()):
        keys = ("spec", "allowedPaths", index)
        if not isinstance(path, str) or not path.startswith("/"):
            continue
        if path == "/":
            report.add(keys, "must not be '/': that would allow every file of the host")
        elif (fault := paths.fault(path)) is not None:
            report.add(keys, f"must {fault}, is {shown(path)}")
        elif path in seen:
            report.add(keys, f"is there twice: {shown(path)}", "FieldValueDuplicate")
        seen.add(path)


def _check_taints(taints: Any, report: Report) -> None:
    seen: set[tuple[object, object]] = set()
    for index, taint in enumerate(taints if isinstance(taints, list) else ()):
        if not isinstance(taint, Mapping):
            continue
        keys: Keys = ("spec", "taints", index)
        key, value = taint.get("key"), taint.get("value")
        if isinstance(key, str) and key and (fault := metarules.key_fault(key)) is not None:
            report.add((*keys, "key"), fault)
        if isinstance(value, str) and (fault := metarules.value_fault(value)) is not None:
            report.add((*keys, "value"), fault)
        pair = (str(key), str(taint.get("effect")))
        if pair in seen:
            report.add(keys, f"is there twice: {shown(key)} with the same effect", "FieldValueDuplicate")
        seen.add(pair)


def _check_amount(memory: object, keys: Keys, report: Report) -> None:
    if isinstance(memory, bool) or not isinstance(memory, str | int):
        return
    try:
        amount = quantity.to_bytes(memory)
    except ValueError as error:
        report.add(keys, str(error))
        return
    if amount < 0:
        report.add(keys, f"must not be negative, is {memory}")
