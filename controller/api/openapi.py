"""OpenAPI v3 of the served kinds, from their types: what kubectl validates, explains and applies by.

kubectl finds a kind's schema and its PATCH operation by `x-kubernetes-group-version-kind`, and checks there
that the server knows `fieldValidation` and `dryRun`. Every `$ref` leads somewhere: some clients refuse a
whole server for one that does not. How lists merge under apply is said in `specs.schema`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from controller.api.facade.usage import METRICS
from controller.api.openapirest import GVK as _GVK
from controller.api.openapirest import parameter, rest
from controller.api.requests import JSON, YAML
from controller.api.resources import (
    AUTHENTICATION,
    AUTHORIZATION,
    RESOURCES,
    Resource,
    group_version,
    version_of,
)
from specs.core import CORE_API_VERSION
from specs.event import Event
from specs.kinds import KINDS, Kind
from specs.meta import API_VERSION, GROUP, VERSION
from specs.rights import RBAC_GROUP
from specs.schema import components

PREFIXES: Final = {
    GROUP: "io.domctl.v1.",
    RBAC_GROUP: "io.k8s.api.rbac.v1.",
    "": "io.k8s.api.core.v1.",
    METRICS: "io.k8s.metrics.pkg.apis.metrics.v1beta1.",
    AUTHORIZATION: "io.k8s.api.authorization.v1.",
    AUTHENTICATION: "io.k8s.api.authentication.v1.",
}
# Kept as they are told, and no kinds for files: see `specs.event`.
_EVENTS: Final = {
    group: Kind("Event", "events", "event", (), True, Event, (), api_version)
    for group, api_version in ((GROUP, API_VERSION), ("", CORE_API_VERSION))
}
_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def document_path(group: str) -> str:
    return f"apis/{group_version(group)}" if group else f"api/{VERSION}"


@lru_cache(maxsize=len(PREFIXES))
def encoded(group: str) -> bytes:
    return msgspec.json.encode(document(group))


def index() -> dict[str, Any]:
    paths = {}
    for group in PREFIXES:
        digest = hashlib.sha256(encoded(group)).hexdigest()[:32].upper()
        path = document_path(group)
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def document(group: str) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    pictures: dict[str, Any] = {}
    resources = [resource for resource in RESOURCES if resource.group == group]
    for resource in resources:
        served = _paths(resource)
        if resource.struct is None and (resource.source is None or group == METRICS):
            served = _as_served(resource, served)
        paths.update(served)
        if resource.description:
            pictures.update(_picture(resource))
    kinds = [kind for kind in KINDS if kind.group == group]
    if group in _EVENTS:
        kinds.append(_EVENTS[group])
    more, schemas = rest(group, PREFIXES[group], f"/{document_path(group)}", resources)
    found = components(PREFIXES[group], kinds) if kinds else {}
    return {
        "openapi": "3.0.0",
        "info": {"title": "domctl", "version": version_of(group)},
        "paths": {**paths, **more},
        "components": {"schemas": {**found, **pictures, **schemas}},
    }


def _as_served(resource: Resource, paths: dict[str, Any]) -> dict[str, Any]:
    """Without the operations that are not: of kinds that are no more than read, or noted."""
    return {
        path: {
            part: one
            for part, one in item.items()
            if part == "parameters" or _VERB_OF[one["x-kubernetes-action"]] in resource.verbs
        }
        for path, item in paths.items()
    }


def _picture(resource: Resource) -> dict[str, Any]:
    """Of a kind whose schema is Kubernetes', and of which only some fields are ever there. Its operations are
    listed although some are refused: kubectl looks at PATCH before it sends anything."""
    prefix = PREFIXES[resource.group]
    name, anything, text = prefix + resource.kind, _ANYTHING, {"type": "string"}
    schema = {
        "description": resource.description,
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            **(_usage(resource) if resource.group == METRICS else _as_kubernetes(prefix)),
        },
        _GVK: [_gvk(resource)],
    }
    listed = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}
    properties = {"apiVersion": text, "kind": text, "metadata": anything, "items": listed}
    gvk = [{**_gvk(resource), "kind": f"{resource.kind}List"}]
    return {name: schema, f"{name}List": {"type": "object", "properties": properties, _GVK: gvk}}


def _as_kubernetes(prefix: str) -> dict[str, Any]:
    metadata = {"$ref": f"#/components/schemas/{prefix}ObjectMeta"}
    return {"metadata": metadata, "spec": _ANYTHING, "status": _ANYTHING}


def _usage(resource: Resource) -> dict[str, Any]:
    """Of kinds that can only be read."""

    def text(words: str) -> dict[str, Any]:
        return {"description": words, "type": "string"}

    amounts = {"cpu": text("Processors, as a quantity."), "memory": text("Bytes, as a quantity.")}
    usage = {"description": "What was used.", "type": "object", "properties": amounts}
    common = {
        "metadata": _ANYTHING,
        "timestamp": text("The end of the window."),
        "window": text("How long it was measured."),
    }
    if not resource.namespaced:
        return {**common, "usage": usage}
    item = {"type": "object", "properties": {"name": text("Always domain."), "usage": usage}}
    containers = {"description": "One: the domain.", "type": "array", "items": item}
    return {**common, "containers": containers}


def _gvk(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": version_of(resource.group), "kind": resource.kind}


_GROUP_WORDS: Final = {
    GROUP: "DomctlIoV1",
    RBAC_GROUP: "RbacAuthorizationV1",
    "": "CoreV1",
    METRICS: "MetricsV1beta1",
}
_VERB_OF: Final = {"put": "update", "post": "create"} | {
    action: action for action in ("get", "list", "patch", "delete", "deletecollection")
}
_WRITE: Final = {"dryRun": "string", "fieldManager": "string", "fieldValidation": "string"}
_SELECT: Final = {
    "continue": "string",
    "fieldSelector": "string",
    "labelSelector": "string",
    "limit": "integer",
    "resourceVersion": "string",
    "resourceVersionMatch": "string",
    "timeoutSeconds": "integer",
}
_DELETE: Final = {"dryRun": "string", "gracePeriodSeconds": "integer", "propagationPolicy": "string"}
_QUERY: Final[Mapping[str, Mapping[str, str]]] = {  # by action: the parameters with their types
    "get": {"pretty": "string"},
    "list": {
        **_SELECT,
        "allowWatchBookmarks": "boolean",
        "sendInitialEvents": "boolean",
        "watch": "boolean",
        "pretty": "string",
    },
    "post": _WRITE,
    "put": _WRITE,
    "patch": {**_WRITE, "force": "boolean"},
    "delete": _DELETE,
    "deletecollection": {**_SELECT, **_DELETE},
}


def _paths(resource: Resource) -> dict[str, Any]:
    root = "/" + document_path(resource.group)
    scope = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
    collection, item = f"{scope}/{resource.plural}", f"{scope}/{resource.plural}/{{name}}"
    paths: dict[str, Any] = {
        collection: {
            "get": _operation(resource, "list", "list"),
            "post": _operation(resource, "create", "post", body=True),
            "parameters": [parameter("namespace", "path")] if resource.namespaced else [],
        }
    }
    if "deletecollection" in resource.verbs:
        paths[collection]["delete"] = _operation(resource, "deleteCollection", "deletecollection")
    for suffix in ("", "/status") if resource.has_status else ("",):
        verb_suffix = "Status" if suffix else ""
        paths[item + suffix] = {
            "get": _operation(resource, f"read{verb_suffix}", "get"),
            "put": _operation(resource, f"replace{verb_suffix}", "put", body=True),
            "patch": _operation(resource, f"patch{verb_suffix}", "patch"),
            "parameters": [
                parameter("name", "path"),
                *([parameter("namespace", "path")] if resource.namespaced else []),
            ],
        }
    paths[item]["delete"] = _operation(resource, "delete", "delete")
    if resource.namespaced:
        paths[f"{root}/{resource.plural}"] = {
            "get": _operation(resource, "listForAllNamespaces", "list"),
            "parameters": [],
        }
    return paths


def _documents(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {media: {"schema": schema} for media in (JSON, YAML)}


def _operation(resource: Resource, name: str, action: str, *, body: bool = False) -> dict[str, Any]:
    schema_name = PREFIXES[resource.group] + resource.kind
    reference = {"$ref": f"#/components/schemas/{schema_name}"}
    operation: dict[str, Any] = {
        "operationId": f"{name}{_GROUP_WORDS[resource.group]}{resource.kind}",
        "responses": {"200": {"description": "OK", "content": _documents(reference)}},
        "x-kubernetes-action": action,
        _GVK: _gvk(resource),
        "parameters": [parameter(p, "query", kind) for p, kind in _QUERY[action].items()],
    }
    if action == "delete":  # a Status, or the object while its finalizers are not done
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        operation["responses"]["200"]["content"] = _documents(anything)
    if action in {"list", "deletecollection"}:
        listed = {"$ref": f"#/components/schemas/{schema_name}List"}
        operation["responses"]["200"]["content"] = _documents(listed)
    if body:
        operation["requestBody"] = {"content": _documents(reference), "required": True}
    if action == "patch":
        schema = {"type": "object"}
        content: dict[str, Any] = {
            "application/json-patch+json": {"schema": {"type": "array", "items": schema}},
            "application/merge-patch+json": {"schema": schema},
            "application/apply-patch+yaml": {"schema": schema},
        }
        if resource.group != GROUP:  # kubectl knows these kinds, and patches them in its own way
            content["application/strategic-merge-patch+json"] = {"schema": schema}
        operation["requestBody"] = {"content": content, "required": True}
    return operation
