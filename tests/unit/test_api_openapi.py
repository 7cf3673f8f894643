"""Requests made by schemathesis from the OpenAPI documents that the server itself serves: no answer is a 500.

Half of what comes fits the schemas and half breaks them in one place; half of it is about objects that are
there. Whatever it is, the answer is a Status or what the document promises. A bounded number of requests
from fixed seeds, many more with --long.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from controller.api import discovery, openapi, openapiv2
from controller.api.requests import flag
from controller.api.resources import GROUPS
from drivers.memory import MemoryStore
from tests.apiserver import DOMAINS, NODES, Api, domain, node, scaled_kind, serving

pytestmark = pytest.mark.filterwarnings("default")  # of schemathesis' own making
THERE = ("web-1", "hv1", "view", "default")


class Server:
    """A whole server in a thread of its own, so that requests can be made as by another program."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: concurrent.futures.Future[Api] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self.api = self._started.result(60)
        self.session = requests.Session()
        self.session.trust_env = False  # nor a bundle of authorities that the environment names
        pki = self.api.pki
        self.session.verify = str(pki.ca_cert)
        self.session.cert = (str(pki.admin_cert), str(pki.admin_key))

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        store = MemoryStore(self._loop.time)
        try:
            async with serving(store, self._directory) as api:
                await api.call("POST", DOMAINS, domain())
                await api.call("POST", NODES, node())
                self._started.set_result(api)
                await self._end.wait()
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        await store.close()

    def stop(self) -> None:
        self.session.close()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("openapi"))
    yield found
    found.stop()


def _operations(group: str) -> list[Any]:
    schema = schemathesis.openapi.from_dict(openapi.document(group))
    return [found.ok() for found in schema.get_all_operations()]


def _answered(server: Server, case: Any, about: str | None) -> None:
    if about is not None and "name" in case.path_parameters:
        case.path_parameters["name"] = about
        case.path_parameters.update({"namespace": "default"} if "namespace" in case.path_parameters else {})
    query = dict(case.query or {})
    if flag({name: str(value) for name, value in query.items()}, "watch"):
        query["timeoutSeconds"] = 1
    case.query = query
    try:
        reply = case.call(
            base_url=server.api.url, session=server.session, verify=server.session.verify, timeout=20
        )
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
        return  # what cannot be sent needs no answer
    told = f"{case.as_curl_command()[:2000]}\n{reply.status_code} {reply.text[:2000]}"
    assert reply.status_code < 500, told
    if reply.status_code >= 400 and case.method.upper() != "HEAD":
        body = reply.json()
        assert (body["kind"], body["code"]) == ("Status", reply.status_code), told
        assert body["message"], told


def _run(server: Server, group: str, examples: int) -> None:
    operations = _operations(group)
    assert len(operations) >= 2
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of([one.as_strategy(generation_mode=mode) for one in operations for mode in modes])

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, about=st.sampled_from([None, None, None, None, *THERE]))
    def run(case: Any, about: str | None) -> None:
        _answered(server, case, about)

    run()


@pytest.mark.parametrize("group", list(openapi.PREFIXES), ids=lambda group: group or "core")
def test_no_request_that_the_document_allows_or_almost_allows_fails(server: Server, group: str) -> None:
    _run(server, group, 150)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", list(openapi.PREFIXES), ids=lambda group: group or "core")
def test_no_request_fails_in_the_long_run(server: Server, group: str) -> None:
    _run(server, group, 3000)


_METHOD = {"create": "post", "update": "put", "patch": "patch", "delete": "delete", "get": "get"}


@pytest.mark.parametrize("group", ["", *GROUPS], ids=lambda group: group or "core")
def test_all_that_discovery_names_is_described(group: str) -> None:
    listed = discovery.resource_list(group)["resources"]
    document: Any = openapi.document(group) if listed else {"paths": {}}
    root = f"/{openapi.document_path(group)}"
    for one in listed:
        plural, _, subresource = one["name"].partition("/")
        scope = f"{root}/namespaces/{{namespace}}" if one["namespaced"] else root
        collection, item = f"{scope}/{plural}", f"{scope}/{plural}/{{name}}"
        for verb in one["verbs"]:
            posted = verb == "create" and not subresource
            all_of_them = verb in {"list", "deletecollection"} or posted
            path = collection if all_of_them else f"{item}/{subresource}".rstrip("/")
            method = {"list": "get", "watch": "get", "deletecollection": "delete"}.get(verb) or _METHOD[verb]
            if verb == "watch":
                path = collection
            assert method in document["paths"].get(path, {}), (one["name"], verb)


def test_every_schema_that_is_named_is_there_and_every_operation_has_a_name_of_its_own() -> None:
    names: list[str] = []
    for group in openapi.PREFIXES:
        document = openapi.document(group)
        named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
        assert named <= set(document["components"]["schemas"]), group
        names += [
            one["operationId"]
            for item in document["paths"].values()
            for m, one in item.items()
            if m in _METHOD.values()
        ]
    assert len(names) == len(set(names))
    assert len(names) > 100


def test_scale_is_described_of_what_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/apis/domctl.io/v1/namespaces/{namespace}/domains/{name}/scale"
    assert path not in openapi.document("domctl.io")["paths"]
    scaled_kind(monkeypatch)
    monkeypatch.setattr(openapi, "RESOURCES", discovery.RESOURCES)
    document = openapi.document("domctl.io")
    assert set(document["paths"][path]) == {"get", "put", "patch", "parameters"}
    assert "io.k8s.api.autoscaling.v1.Scale" in document["components"]["schemas"]


def test_the_second_version_leads_from_a_described_field_to_its_schema() -> None:
    """Its clients follow no reference that is wrapped for its description, as version 3 wants it: kubectl
    1.20 would explain, check and merge nothing below a kind."""
    reference = {"$ref": "#/components/schemas/io.domctl.v1.ObjectMeta"}
    wrapped = openapiv2._schema({"description": "The envelope.", "allOf": [reference]})
    assert wrapped == openapiv2._schema({**reference, "description": "The envelope."})
    assert b"#/definitions/io.domctl.v1.ObjectMeta" in wrapped and b"The envelope." in wrapped
