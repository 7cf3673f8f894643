"""What there is: classic and aggregated discovery, from the table of resources.

kubectl asks `/api` and `/apis` for the aggregated form first (the answer's Content-Type must say which it
is) and falls back to one document per group and version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from controller.api.requests import json_response
from controller.api.resources import (
    GROUPS,
    QUESTIONS,
    RESOURCES,
    SCALE_GROUP,
    SCALE_KIND,
    Question,
    Resource,
    group_version,
    version_of,
)
from specs.meta import VERSION

_DISCOVERY: Final = "apidiscovery.k8s.io"


def of_group(group: str) -> list[Resource]:
    return [r for r in RESOURCES if r.group == group]


def questions_of(group: str) -> list[Question]:
    return [q for q in QUESTIONS if q.group == group]


def api(request: web.Request) -> web.Response:
    """/api: the core group."""
    return _aggregated(request, ("",)) or json_response(
        {
            "kind": "APIVersions",
            "versions": [VERSION],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": request.host}],
        }
    )


def apis(request: web.Request) -> web.Response:
    """/apis: all others."""
    return _aggregated(request, GROUPS) or json_response(
        {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_document(group) for group in GROUPS]}
    )


def group_document(group: str) -> dict[str, Any]:
    version = {"groupVersion": group_version(group), "version": version_of(group)}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": [version],
        "preferredVersion": version,
    }


def resource_list(group: str) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    for resource in of_group(group):
        listed.append(
            {
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
                **_optional(resource),
            }
        )
        listed.extend(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                **_kind_of(resource, name),
                "verbs": ["get", "patch", "update"],
            }
            for name in resource.subresources
        )
        listed.extend(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "group": other,
                "version": VERSION,
                "kind": kind,
                "verbs": ["create"],
            }
            for name, (other, kind) in resource.actions.items()
        )
        listed.extend(
            {
                "name": f"{resource.plural}/{name}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": list(verbs),
            }
            for name, (kind, verbs) in resource.streams.items()
        )
    for question in questions_of(group):
        listed.append(
            {
                "name": question.plural,
                "singularName": question.kind.lower(),
                "namespaced": question.namespaced,
                "kind": question.kind,
                "verbs": ["create"],
            }
        )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group),
        "resources": listed,
    }


def _kind_of(resource: Resource, subresource: str) -> dict[str, str]:
    """What a subresource is read and written as: its group and version only where they are others'."""
    if subresource == "scale":
        return {"group": SCALE_GROUP, "version": VERSION, "kind": SCALE_KIND}
    return {"kind": resource.kind}


def _optional(resource: Resource) -> Mapping[str, Any]:
    parts = {"shortNames": list(resource.short_names), "categories": list(resource.categories)}
    return {k: v for k, v in parts.items() if v}


def _aggregated(request: web.Request, groups: Sequence[str]) -> web.Response | None:
    accept = request.headers.get("Accept", "")
    version = next((v for v in ("v2", "v2beta1") if f"g={_DISCOVERY};v={v};" in accept.replace(" ", "")), "")
    if not version:
        return None
    response = json_response(
        {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"{_DISCOVERY}/{version}",
            "metadata": {},
            "items": [
                {
                    "metadata": {"name": group, "creationTimestamp": None} if group else {},
                    "versions": [
                        {
                            "version": version_of(group),
                            "freshness": "Current",
                            "resources": [
                                *(_discovered(r) for r in of_group(group)),
                                *(_asked(q) for q in questions_of(group)),
                            ],
                        }
                    ],
                }
                for group in groups
            ],
        }
    )
    response.headers["Content-Type"] = f"application/json;g={_DISCOVERY};v={version};as=APIGroupDiscoveryList"
    return response


def _asked(question: Question) -> dict[str, Any]:
    return {
        "resource": question.plural,
        "responseKind": {"group": question.group, "version": VERSION, "kind": question.kind},
        "scope": "Namespaced" if question.namespaced else "Cluster",
        "singularResource": question.kind.lower(),
        "verbs": ["create"],
    }


def _discovered(resource: Resource) -> dict[str, Any]:
    kind = {"group": resource.group, "version": version_of(resource.group), "kind": resource.kind}
    document = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
        **_optional(resource),
    }
    subresources = [
        *(
            {
                "subresource": name,
                "responseKind": {**kind, **_kind_of(resource, name)},
                "verbs": ["get", "patch", "update"],
            }
            for name in resource.subresources
        ),
        *(
            {
                "subresource": name,
                "responseKind": {"group": group, "version": VERSION, "kind": action},
                "verbs": ["create"],
            }
            for name, (group, action) in resource.actions.items()
        ),
        *(
            {"subresource": name, "responseKind": {**kind, "kind": other}, "verbs": list(verbs)}
            for name, (other, verbs) in resource.streams.items()
        ),
    ]
    if subresources:
        document["subresources"] = subresources
    return document
