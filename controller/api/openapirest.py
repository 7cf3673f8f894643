"""OpenAPI of what is served beside whole objects: a part of `controller.api.openapi`.

Questions that are posted and never kept, the doors by which an operator decides, evictions, scale, and the
streams of consoles. Their bodies are Kubernetes' own, of which only the outline is said here: what is in them
is checked where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from controller.api.operations import CONFIRM_DEAD, RESOLVE
from controller.api.resources import (
    POLICY,
    QUESTIONS,
    SCALE_GROUP,
    SCALE_KIND,
    Resource,
    group_version,
    version_of,
)
from specs.meta import GROUP

GVK: Final = "x-kubernetes-group-version-kind"
_ANYTHING: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXT: Final = {"type": "string"}
_NAMES: Final = {"type": "array", "items": _TEXT}
_EVICTION: Final = "io.k8s.api.policy.v1.Eviction"
_SCALE: Final = "io.k8s.api.autoscaling.v1.Scale"
_DECISION: Final = "Decision"
_DECIDES: Final[Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {  # by plural: subresource, methods
    "nodes": ((CONFIRM_DEAD, ("post", "delete")),),
    "domains": ((RESOLVE, ("post",)),),
    "assignments": ((RESOLVE, ("post",)),),
}
_FLAG, _COUNT = "boolean", "integer"
_LOG: Final = {
    "container": "string",
    "follow": _FLAG,
    "limitBytes": _COUNT,
    "previous": _FLAG,
    "sinceSeconds": _COUNT,
    "tailLines": _COUNT,
    "timestamps": _FLAG,
}
_ATTACH: Final = {"container": "string", **dict.fromkeys(("stdin", "stdout", "stderr", "tty"), _FLAG)}
_WRITE: Final = {"dryRun": "string", "fieldManager": "string", "fieldValidation": "string"}


def parameter(name: str, where: str, kind: str = "string") -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "in": where, "schema": {"type": kind, "uniqueItems": True}}
    if where == "path":
        made["required"] = True
    return made


def rest(
    group: str, prefix: str, root: str, resources: list[Resource]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paths and schemas. `prefix` stands before the schemas' names, `root` before paths."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for question in QUESTIONS:
        if question.group != group:
            continue
        scope = f"{root}/namespaces/{{namespace}}" if question.namespaced else root
        gvk = _gvk(group, question.kind)
        schemas[prefix + question.kind] = _decision(gvk) if group == GROUP else _posted(gvk, "spec", "status")
        paths[f"{scope}/{question.plural}"] = {
            "post": _operation(f"create{question.kind}", prefix + question.kind, gvk, posted=True),
            "parameters": [parameter("namespace", "path")] if question.namespaced else [],
        }
    for resource in resources:
        for path, item, found in _of(resource, prefix):
            scope = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
            named = ("name", "namespace") if resource.namespaced else ("name",)
            item["parameters"] = [parameter(name, "path") for name in named]
            paths[f"{scope}/{resource.plural}/{{name}}/{path}"] = item
            schemas |= found
    return paths, schemas


def _of(resource: Resource, prefix: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The doors of one kind: the end of the path, its operations, their schemas."""
    found: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    if resource.group == GROUP:
        for name, methods in _DECIDES.get(resource.plural, ()):
            item = {
                method: _operation(
                    f"{method}{resource.kind}{name.capitalize()}",
                    prefix + _DECISION,
                    _gvk(GROUP, _DECISION),
                    posted=method == "post",
                )
                for method in methods
            }
            found.append((name, item, {}))
    for name, (group, kind) in resource.actions.items():
        gvk = _gvk(group, kind)
        schema = _EVICTION if group == POLICY else prefix + kind
        operation = _operation(f"create{resource.kind}{kind}", schema, gvk, _WRITE, posted=True)
        found.append((name, {"post": operation}, {schema: _posted(gvk, "deleteOptions")}))
    for name, (kind, verbs) in resource.streams.items():
        asked = [method for verb, method in (("get", "get"), ("create", "post")) if verb in verbs]
        found.append((name, {m: _stream(resource, name, kind, m) for m in asked}, {}))
    if resource.scale is not None:
        gvk = _gvk(SCALE_GROUP, SCALE_KIND)
        operations = {
            method: _operation(f"{method}{resource.kind}Scale", _SCALE, gvk, _WRITE, posted=method == "put")
            for method in ("get", "put", "patch")
        }
        found.append(("scale", operations, {_SCALE: _posted(gvk, "spec", "status")}))
    return found


def _gvk(group: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": version_of(group), "kind": kind}


def _posted(gvk: dict[str, str], *parts: str) -> dict[str, Any]:
    return {
        "description": f"{gvk['kind']} of {group_version(gvk['group'])}, as Kubernetes has it.",
        "type": "object",
        "properties": {
            "apiVersion": _TEXT,
            "kind": _TEXT,
            "metadata": _ANYTHING,
            **dict.fromkeys(parts, _ANYTHING),
        },
        GVK: [gvk],
    }


def _decision(gvk: dict[str, str]) -> dict[str, Any]:
    return {
        "description": "What an operator decides. Which fields it has depends on where it is posted.",
        "type": "object",
        "properties": {
            "reason": {"description": "Why, for the audit log.", **_TEXT},
            "wiped": {"description": "Of a node: its disks never start again.", "type": "boolean"},
            "notOn": {"description": "Of a domain: nodes on which it certainly is not.", **_NAMES},
            "keep": {"description": "Of a domain: the node whose copy is the right one.", **_TEXT},
            "nodes": {"description": "Of the store: nodes that need not be read first.", **_NAMES},
        },
        GVK: [gvk],
    }


def _operation(
    name: str,
    schema: str,
    gvk: dict[str, str],
    query: Mapping[str, str] | None = None,
    *,
    posted: bool,
) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    content = {"application/json": {"schema": reference}}
    operation: dict[str, Any] = {
        "operationId": name,
        "responses": {"200": {"description": "OK", "content": content}},
        GVK: gvk,
        "parameters": [parameter(word, "query", kind) for word, kind in (query or {}).items()],
    }
    if posted:
        operation["x-kubernetes-action"] = "post"
        operation["requestBody"] = {"content": content}
    if name.startswith("patch"):
        operation["requestBody"] = {"content": {"application/merge-patch+json": {"schema": _ANYTHING}}}
    return operation


def _stream(resource: Resource, name: str, kind: str, method: str) -> dict[str, Any]:
    told = {"description": "What was written, as text.", "content": {"text/plain": {"schema": _TEXT}}}
    opened = {"description": "A WebSocket, v5.channel.k8s.io."}
    return {
        "operationId": f"{method}{resource.kind}{name.capitalize()}",
        "responses": {"200": told} if name == "log" else {"101": opened},
        GVK: _gvk(resource.group, kind),
        "parameters": [
            parameter(word, "query", sort) for word, sort in (_LOG if name == "log" else _ATTACH).items()
        ],
    }
