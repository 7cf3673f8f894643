"""What there is to read but objects: the documents of discovery and OpenAPI, by their paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from controller.api import discovery, openapi, openapiv2
from controller.api.requests import json_response
from controller.api.resources import GROUPS, group_version

Document = Callable[[web.Request], web.Response]


def _group_document(group: str) -> Document:
    return lambda request: json_response(discovery.group_document(group))


def _resource_list(group: str) -> Document:
    return lambda request: json_response(discovery.resource_list(group))


def _openapi(group: str) -> Document:
    return lambda request: web.Response(body=openapi.encoded(group), content_type="application/json")


DOCUMENTS: Final[Mapping[str, Document]] = {
    "/": lambda request: json_response({"paths": sorted(DOCUMENTS)}),
    "/api": discovery.api,
    "/apis": discovery.apis,
    "/api/v1": lambda request: json_response(discovery.resource_list("")),
    "/openapi/v3": lambda request: json_response(openapi.index()),
    "/openapi/v2": lambda request: web.Response(
        body=openapiv2.encoded(), headers={"Content-Type": openapiv2.CONTENT_TYPE}
    ),
    **{f"/apis/{group}": _group_document(group) for group in GROUPS},
    **{f"/apis/{group_version(group)}": _resource_list(group) for group in GROUPS},
    **{f"/openapi/v3/{openapi.document_path(group)}": _openapi(group) for group in openapi.PREFIXES},
}
