"""OpenAPI v2, which kubectl 1.20 to 1.28 asks for, as protobuf: they read no other form.

Made from the v3 document of `controller.api.openapi`, as far as those clients look: definitions with their
group, version and kind, and the query parameters of each PATCH. Field numbers are those of gnostic's
`openapiv2/OpenAPIv2.proto`; the encoder is a few lines because only strings, flags and messages occur.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from controller.api import openapi

# Never what a client asked for: a parameter `@v1.0` in the media type is more than kubectl can parse.
CONTENT_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_OLD: Final = "#/components/schemas/"
_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}

Schema = Mapping[str, Any]


@lru_cache(maxsize=1)
def encoded() -> bytes:
    documents = [openapi.document(group) for group in openapi.PREFIXES]
    schemas = {name: one for d in documents for name, one in d["components"]["schemas"].items()}
    items = {path: item for d in documents for path, item in d["paths"].items()}
    definitions = b"".join(_bytes(1, _named(name, _schema(one))) for name, one in schemas.items())
    paths = b"".join(_bytes(2, _named(path, _path(item))) for path, item in items.items())
    info = _text(1, "domctl") + _text(2, "v1")
    return _text(1, "2.0") + _bytes(2, info) + _bytes(8, paths) + _bytes(9, definitions)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode()) if value else b""


def _true(field: int) -> bytes:
    return _varint(field << 3) + b"\x01"


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _bytes(2, value)


def _extensions(field: int, schema: Schema) -> Iterable[bytes]:
    """Vendor extensions are YAML in protobuf, and JSON is YAML."""
    for name, value in schema.items():
        if name.startswith("x-"):
            yield _bytes(field, _named(name, _text(2, json.dumps(value))))


def _schema(schema: Schema) -> bytes:
    parts: list[bytes] = []
    whole = schema.get("allOf", ())
    # A description beside a reference: v3 has to wrap the reference for it, and these clients follow none
    # that is wrapped.
    if reference := schema.get("$ref") or (whole[0].get("$ref") if len(whole) == 1 else None):
        parts.append(_text(1, str(reference).replace(_OLD, "#/definitions/")))
    parts.append(_text(2, str(schema.get("format", ""))))
    parts.append(_text(4, str(schema.get("description", ""))))
    parts += [_text(19, name) for name in schema.get("required", ())]
    additional = schema.get("additionalProperties")
    if isinstance(additional, Mapping):
        parts.append(_bytes(21, _bytes(1, _schema(additional))))
    elif additional is True:
        parts.append(_bytes(21, _true(2)))
    if isinstance(kind := schema.get("type"), str):
        parts.append(_bytes(22, _text(1, kind)))
    if isinstance(items := schema.get("items"), Mapping):
        parts.append(_bytes(23, _bytes(1, _schema(items))))
    if properties := schema.get("properties"):
        fields = b"".join(_bytes(1, _named(name, _schema(one))) for name, one in properties.items())
        parts.append(_bytes(25, fields))
    parts += _extensions(31, schema)
    return b"".join(parts)


def _path(item: Mapping[str, Any]) -> bytes:
    return b"".join(
        _bytes(number, _operation(item[method])) for method, number in _METHODS.items() if method in item
    )


def _operation(operation: Mapping[str, Any]) -> bytes:
    parts = [_text(5, operation["operationId"])]
    for parameter in operation["parameters"]:
        query = _text(2, "query") + _text(4, parameter["name"]) + _text(6, "string")
        # ParametersItem.parameter → Parameter.non_body_parameter → query_parameter_sub_schema
        parts.append(_bytes(8, _bytes(1, _bytes(2, _bytes(3, query)))))
    answer = _named("200", _bytes(1, _text(1, "OK")))
    parts.append(_bytes(9, _bytes(1, answer)))
    parts += _extensions(13, operation)
    return b"".join(parts)
