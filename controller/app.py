"""The composition root: `domctl serve`. The only module that names concrete drivers.

Order of start: configuration, private etcd if no endpoints are given, the store's examination, the cluster's
id, certificates and kubeconfig, the API server, then the election; the leader's parts are put together in
`controller.leader`. Order of stop: the election resigns if it may, then the API, the nodes, the store.
Time, ids and everything outside come in through here, so that the rest runs under any clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from controller import collector, keys, pki
from controller import config as configuration
from controller.api.server import ApiConfig, ApiServer
from controller.config import ConfigError, ControllerConfig, file_memory
from controller.consoles.desk import Desk
from controller.election import Election, Leadership
from controller.faults import Faults
from controller.figures import Board
from controller.leader import Office, reign
from controller.logs import set_up
from controller.meteredstore import MeteredStore
from controller.metrics import Metrics
from controller.model import ClusterRecord
from controller.objects import Objects
from controller.plan.snapshot import Policy
from controller.sealedstore import SealedStore
from controller.storewatch import StoreWatch
from controller.world import World
from drivers.errors import DriverError, HypervisorError, StoreError
from drivers.etcd import EtcdConfig, EtcdStore, PrivateEtcd
from drivers.hypervisor import Credentials
from drivers.libvirt import Access, LibvirtHypervisor
from drivers.store import Compare, Put, Store
from specs.uri import is_plain_file

log = logging.getLogger(__name__)

VERSION = "0.1.0"
CALL_ERRORS = {kind.__name__: kind for kind in HypervisorError.__subclasses__()}
FILES = 65536
FAULT_POINT = "DOMCTL_FAULT_POINT"  # a test's way to kill this process at one step (controller.faults)


def serve(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT. Exit status 0 after an orderly stop, 1 when it could not start."""
    try:
        settings = configuration.load(args)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    set_up(settings.log_level)
    settings = _with_files(settings)
    try:
        asyncio.run(_serve(settings))
    except (DriverError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _with_files(settings: ControllerConfig) -> ControllerConfig:
    """As many open files as this process may have (systemd gives 1024 unless asked); clients get at most half
    of them, for the store, the hosts and the logs need some too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    connections = min(settings.bounds.connections, wanted // 2)
    return replace(settings, bounds=replace(settings.bounds, connections=connections))


@dataclass(slots=True)
class Readiness:
    """What /readyz asks."""

    store: Store
    leading: bool = False
    synced: bool = False

    def set_synced(self, synced: bool) -> None:
        self.synced = synced

    async def store_answers(self) -> str | None:
        try:
            await self.store.status()
        except StoreError as error:
            return error.message
        return None

    async def informer_synced(self) -> str | None:
        """A replica that does not lead has nothing to sync."""
        return None if self.synced or not self.leading else "the informer has not listed the store yet"

    def checks(self) -> Mapping[str, Callable[[], Awaitable[str | None]]]:
        return {"store": self.store_answers, "informer": self.informer_synced}


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the leader fills and the API shows, in memory alone."""

    desk: Desk
    figures: Board


async def _serve(settings: ControllerConfig) -> None:
    world = _world()
    metrics = Metrics(world.now, VERSION)
    async with contextlib.AsyncExitStack() as stack:
        sealed = SealedStore(await _open_store(settings, stack), settings.encryption_keys)
        store = MeteredStore(sealed, metrics, world)
        storewatch = StoreWatch(*file_memory(settings.data_dir / "store-memory.json"))
        await storewatch.examine(store)
        await sealed.examine()
        cluster = await _cluster_id(store, world)
        objects = Objects(store, world)
        readiness = Readiness(store)
        desk = Desk(world.wall, settings.bounds.console_bytes, settings.bounds.consoles_bytes)
        figures = Board(world.now)
        server = _api_server(settings, objects, metrics, readiness, _Shown(desk, figures))
        await server.start()
        stack.push_async_callback(server.stop)
        _write_kubeconfig(settings, server.address)
        hypervisor = LibvirtHypervisor(meter=_libvirt_meter(metrics), access=_access(settings))
        stack.push_async_callback(hypervisor.close)
        office = Office(
            store=store,
            objects=objects,
            hypervisor=hypervisor,
            world=world,
            timing=settings.timing,
            bounds=settings.bounds,
            policy=Policy(
                settings.policy.hand_migrations,
                settings.xml_overlay.allowed,
                settings.policy.migrations_per_node,
            ),
            metrics=metrics,
            storewatch=storewatch,
            cluster=cluster,
            faults=Faults(os.environ.get(FAULT_POINT, "")),
            on_synced=readiness.set_synced,
            desk=desk,
            figures=figures,
        )
        log.info("serving", extra={"address": f"{server.address[0]}:{server.address[1]}", "cluster": cluster})
        collector.settle()
        await _lead_until_stopped(settings, office, readiness, sealed)


async def _open_store(settings: ControllerConfig, stack: contextlib.AsyncExitStack) -> Store:
    """The configured etcd, or a private one with its data in the data directory."""
    if settings.store.endpoints:
        etcd = settings.store.etcd_config(EtcdConfig)
    else:
        private = PrivateEtcd(settings.data_dir / "etcd", binary=settings.store.binary)
        await private.start()
        stack.push_async_callback(private.stop)
        etcd = private.config
    store = EtcdStore(etcd)
    stack.push_async_callback(store.close)
    return store


async def _cluster_id(store: Store, world: World) -> str:
    """This cluster's id: chosen once, by whoever comes first."""
    record = ClusterRecord(id=world.new_id(), created_at=world.wall())
    await store.txn([Compare(keys.CLUSTER, 0)], [Put(keys.CLUSTER, msgspec.json.encode(record))])
    kv = await store.get(keys.CLUSTER)
    if kv is None:
        raise StoreError("the cluster's id vanished from the store while it was being written")
    return msgspec.json.decode(kv.value, type=ClusterRecord).id


def _api_server(
    settings: ControllerConfig,
    objects: Objects,
    metrics: Metrics,
    readiness: Readiness,
    shown: _Shown,
) -> ApiServer:
    host, port = settings.listen
    made = pki.ensure(settings.data_dir, host, port, datetime.datetime.now(datetime.UTC))
    api = ApiConfig(
        host=host,
        port=port,
        pki=made,
        audit_log=settings.data_dir / "audit.log",
        audit_bytes=settings.audit.max_bytes,
        audit_kept=settings.audit.kept,
        version=VERSION,
        allow_xml=settings.xml_overlay.allowed,
        sealed=bool(settings.encryption_keys),
        metrics_listen=settings.metrics_listen,
        render_metrics=metrics.parts,
        bounds=settings.bounds,
        oidc=settings.oidc,
        figures=shown.figures,
    )
    return ApiServer(objects, metrics.registry, api, readiness.checks(), shown.desk)


def _write_kubeconfig(settings: ControllerConfig, address: tuple[str, int]) -> None:
    """Once the port is known: with port 0 it was chosen by the kernel."""
    host, port = address
    made = pki.ensure(settings.data_dir, host, port, datetime.datetime.now(datetime.UTC))
    pki.write_kubeconfig(made, pki.server_url(host, port))


async def _lead_until_stopped(
    settings: ControllerConfig, office: Office, readiness: Readiness, sealed: SealedStore
) -> None:
    async def lead(leadership: Leadership) -> None:
        await _seal_all(sealed, office, leadership)
        readiness.leading = True
        office.metrics.leading(True)
        try:
            await reign(office, leadership).run()
        finally:
            readiness.leading = False
            office.metrics.leading(False)

    identity = office.world.new_id()
    election = Election(
        office.store, office.world, settings.timing, identity, socket.gethostname(), office.storewatch
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [
        asyncio.create_task(stop.wait(), name="stop"),
        asyncio.create_task(_campaign(election, lead), name="election"),
        asyncio.create_task(office.storewatch.run(office.store), name="storewatch"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        log.info("stopped")


async def _seal_all(sealed: SealedStore, office: Office, leadership: Leadership) -> None:
    """After a change of keys; before this leader reads what it rewrites, for a promise that changes under a
    leader stops it. What fails is done in the next term: the values are readable all along."""
    if not office.storewatch.may_mutate:
        return
    try:
        count = await sealed.rewrite(leadership.fence)
    except StoreError as error:
        log.warning("values could not be encrypted anew", extra={"error": error.message})
    else:
        if count:
            log.info("values were encrypted with the first key", extra={"count": count})


async def _campaign(election: Election, lead: Callable[[Leadership], Awaitable[None]]) -> None:
    """Term after term: a lost one is followed by the next candidacy."""
    while True:
        await election.run(lead)


def _libvirt_meter(metrics: Metrics) -> Callable[[str, str, str, float], None]:
    def meter(node: str, call: str, result: str, seconds: float) -> None:
        error = None if result == "done" else CALL_ERRORS.get(result, HypervisorError)(result)
        metrics.libvirt_call(node, call, seconds, error)

    return meter


def _access(settings: ControllerConfig) -> Access:
    """What connections may use of this machine. What a killed predecessor left for its children goes."""
    data_dir, allowed = settings.data_dir.absolute(), settings.connections
    links = data_dir / "links"
    shutil.rmtree(links, ignore_errors=True)
    return Access(
        files_under=allowed.files_under or (str(data_dir / "hosts"),),
        defaults=Credentials(**allowed.defaults),
        commands=allowed.commands,
        private_dir=links if is_plain_file(str(links)) else None,
    )


def _world() -> World:
    def wall() -> str:
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return World(
        now=asyncio.get_running_loop().time,
        wall=wall,
        new_id=lambda: str(uuid.uuid4()),
        cpu=time.thread_time,
    )
