"""OpenAPI v3 of the served kinds, from their types: what kubectl validates, explains and applies by.

kubectl finds a kind's schema and its PATCH operation by `x-kubernetes-group-version-kind`, and checks there
that the server knows `fieldValidation` and `dryRun`. Every `$ref` leads somewhere: some clients refuse a
whole server for one that does not. How lists merge under apply is said in `specs.schema`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Final

import msgspec

from controller.api.resources import RESOURCES, Resource
from specs.meta import GROUP, VERSION
from specs.schema import components

_PREFIX: Final = "io.domctl.v1."
_GVK: Final = "x-kubernetes-group-version-kind"
DOCUMENT_PATH: Final = f"apis/{GROUP}/{VERSION}"
ROOT: Final = "/" + DOCUMENT_PATH


@lru_cache(maxsize=1)
def encoded() -> bytes:
    return msgspec.json.encode(document())


def index() -> dict[str, Any]:
    digest = hashlib.sha256(encoded()).hexdigest()[:32].upper()
    return {
        "paths": {
            DOCUMENT_PATH: {"serverRelativeURL": f"/openapi/v3/{DOCUMENT_PATH}?hash={digest}"},
        }
    }


def document() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for resource in RESOURCES:
        if resource.struct is not None:
            paths.update(_paths(resource))
    return {
        "openapi": "3.0.0",
        "info": {"title": "domctl", "version": VERSION},
        "paths": paths,
        "components": {"schemas": components(_PREFIX)},
    }


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": VERSION, "kind": resource.kind}


def _parameter(name: str, where: str, kind: str = "string") -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": where, "schema": {"type": kind, "uniqueItems": True}}
    if where == "path":
        parameter["required"] = True
    return parameter


_WRITE_PARAMETERS: Final = ("dryRun", "fieldManager", "fieldValidation")


def _paths(resource: Resource) -> dict[str, Any]:
    scope = f"{ROOT}/namespaces/{{namespace}}" if resource.namespaced else ROOT
    collection, item = f"{scope}/{resource.plural}", f"{scope}/{resource.plural}/{{name}}"
    paths = {
        collection: {
            "get": _operation(resource, "list", "list"),
            "post": _operation(resource, "create", "post", body=True),
            "parameters": [_parameter("namespace", "path")] if resource.namespaced else [],
        }
    }
    for suffix in ("", "/status"):
        verb_suffix = "Status" if suffix else ""
        paths[item + suffix] = {
            "get": _operation(resource, f"read{verb_suffix}", "get"),
            "put": _operation(resource, f"replace{verb_suffix}", "put", body=True),
            "patch": _operation(resource, f"patch{verb_suffix}", "patch"),
            "parameters": [
                _parameter("name", "path"),
                *([_parameter("namespace", "path")] if resource.namespaced else []),
            ],
        }
    paths[item]["delete"] = _operation(resource, "delete", "delete")
    if resource.namespaced:
        paths[f"{ROOT}/{resource.plural}"] = {
            "get": _operation(resource, "listForAllNamespaces", "list"),
            "parameters": [],
        }
    return paths


def _operation(resource: Resource, name: str, action: str, *, body: bool = False) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{_PREFIX}{resource.kind}"}
    writes = action in {"post", "put", "patch", "delete"}
    operation: dict[str, Any] = {
        "operationId": f"{name}DomctlIoV1{resource.kind}",
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
        "x-kubernetes-action": action,
        _GVK: _gvk(resource),
        "parameters": [_parameter(p, "query") for p in (_WRITE_PARAMETERS if writes else ("pretty",))],
    }
    if action == "list":
        listed = {"$ref": f"#/components/schemas/{_PREFIX}{resource.kind}List"}
        operation["responses"] = {
            "200": {"description": "OK", "content": {"application/json": {"schema": listed}}}
        }
    if body:
        operation["requestBody"] = {"content": {"application/json": {"schema": reference}}, "required": True}
    if action == "patch":
        operation["parameters"].append(_parameter("force", "query", "boolean"))
        schema = {"type": "object"}
        operation["requestBody"] = {
            "content": {
                "application/json-patch+json": {"schema": {"type": "array", "items": schema}},
                "application/merge-patch+json": {"schema": schema},
                "application/apply-patch+yaml": {"schema": schema},
            },
            "required": True,
        }
    return operation
