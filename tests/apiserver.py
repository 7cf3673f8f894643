"""A whole API server for tests: over HTTPS on loopback, before any Store, with a client that trusts it.

`serving` starts one and stops it. `Api.call` is one request as the administrator; `Api.watch` an open
watch, event by event. Nothing of the server is replaced.
"""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from controller import keys, pki
from controller.api import discovery, resources
from controller.api.resources import Scale
from controller.api.server import ApiConfig, ApiServer
from controller.consoles.desk import Desk
from controller.figures import Board
from controller.limits import Bounds
from controller.metrics import Metrics
from controller.model import Assignment
from controller.objects import Objects
from controller.oidc import OidcConfig
from controller.world import World
from drivers.store import Put, Store

V1 = "/apis/domctl.io/v1"
DOMAINS = f"{V1}/namespaces/default/domains"
NODES = f"{V1}/nodes"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def scaled_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains that can be scaled, until there is a kind that can: their vcpus are their replicas."""
    scale = Scale(("spec", "vcpus"), ("status", "vcpus"), ("metadata", "annotations", "selector"))
    kind = replace(resources.DOMAINS, scale=scale)
    monkeypatch.setitem(resources.BY_PATH, (kind.group, kind.plural), kind)
    others = [r for r in resources.RESOURCES if r is not resources.DOMAINS]
    monkeypatch.setattr(discovery, "RESOURCES", (kind, *others))


def real_world() -> World:
    def wall() -> str:
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return World(asyncio.get_running_loop().time, wall, lambda: str(uuid.uuid4()), time.thread_time)


def domain(name: str = "web-1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": name},
        "spec": {"memory": "64Mi", **spec},
    }


def node(name: str = "hv1", uri: str = "") -> dict[str, Any]:
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"uri": uri or f"qemu+tcp://{name}/system", "insecure": True},
    }


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str
    warnings: tuple[str, ...] = ()

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def rv(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def causes(self) -> dict[str, str]:
        return {c["field"]: c["message"] for c in self.body["details"]["causes"]}


@dataclass
class Api:
    server: ApiServer
    store: Store
    objects: Objects
    pki: pki.Pki
    url: str
    session: aiohttp.ClientSession
    audit_log: Path
    registry: CollectorRegistry
    figures: Board

    async def call(
        self, method: str, path: str, body: Any = None, *, type: str = "application/json", **headers: str
    ) -> Reply:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if data is not None:
            sent["Content-Type"] = type
        stream = None if data is None else io.BytesIO(data)
        async with self.session.request(method, self.url + path, data=stream, headers=sent) as response:
            warnings = tuple(response.headers.getall("Warning", []))
            return Reply(response.status, response.headers.copy(), await response.text(), warnings)

    @asynccontextmanager
    async def watch(self, path: str, **headers: str) -> AsyncGenerator[AsyncIterator[Any], None]:
        async with self.session.get(self.url + path, headers=headers) as response:
            assert response.status == 200, await response.text()

            async def events() -> AsyncIterator[Any]:
                async for line in response.content:
                    yield json.loads(line)

            yield events()
            response.close()

    async def put_raw(self, key: str, value: bytes) -> None:
        await self.store.txn([], [Put(key, value)])


def client_context(ca: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


@dataclass(frozen=True)
class Options:
    allow_xml: bool = False
    sealed: bool = True
    metrics_listen: tuple[str, int] | None = None
    bounds: Bounds = field(default_factory=Bounds)
    oidc: OidcConfig | None = None
    leads: bool = True  # it has figures, as the replica that leads
    checks: Mapping[str, Any] = field(default_factory=dict)
    desk: Desk | None = None
    metrics: Metrics | None = None  # else the registry is shown


@asynccontextmanager
async def serving(store: Store, directory: Path, options: Options | None = None) -> AsyncGenerator[Api, None]:
    options = options or Options()
    now = datetime.datetime.now(datetime.UTC)
    files = pki.ensure(directory, "127.0.0.1", 0, now)
    objects, metrics = Objects(store, real_world()), options.metrics
    registry = CollectorRegistry() if metrics is None else metrics.registry
    figures = Board(objects.world.now, is_kept=options.leads)
    config = ApiConfig(
        "127.0.0.1",
        0,
        files,
        directory / "audit.log",
        "0.1.0",
        allow_xml=options.allow_xml,
        sealed=options.sealed,
        metrics_listen=options.metrics_listen,
        render_metrics=None if metrics is None else metrics.parts,
        bounds=options.bounds,
        oidc=options.oidc,
        figures=figures,
    )
    server = ApiServer(objects, registry, config, options.checks, options.desk)
    await server.start()
    files = pki.ensure(directory, *server.address, now)
    connector = aiohttp.TCPConnector(ssl=client_context(files.ca_cert, files.admin_cert, files.admin_key))
    url = pki.server_url(*server.address)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Api(server, store, objects, files, url, session, config.audit_log, registry, figures)
    finally:
        await server.stop()


async def put_assignment(api: Api, uuid: str, node: str, **more: Any) -> None:
    record = Assignment(
        cluster="c",
        uuid=uuid,
        namespace="default",
        name="web-1",
        libvirt_name="web-1",
        node=node,
        epoch=1,
        candidates=(node,),
        **more,
    )
    await api.put_raw(keys.assignment(uuid), msgspec.json.encode(record))
