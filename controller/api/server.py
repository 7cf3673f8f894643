"""The API server: HTTPS, who asks, what for, and an answer in Kubernetes' manner to everything.

A request passes in this order: identity, right, audit (if it would change something), the verb. Verbs are
generic over the table in `controller.api.resources`. Any replica serves; nothing is kept here that is not
in the store. There is no plain HTTP but an optional listener on loopback for metrics alone. `/metrics` on
the API itself needs a client certificate like all the rest; only health and version are open.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from controller.api import errors, health, parts, patch, warned
from controller.api.accepting import Former, check_accepted
from controller.api.admission import Admission
from controller.api.applying import Applier
from controller.api.audit import KEPT, MAX_BYTES, AuditLog
from controller.api.auth import ANONYMOUS, OPEN_PATHS, identify, may_impersonate, wanted_user
from controller.api.bearers import Bearers
from controller.api.compression import compressed
from controller.api.consoles import Consoles
from controller.api.deletable import Deletable
from controller.api.deleting import Deleter
from controller.api.documents import DOCUMENTS
from controller.api.errors import ApiError
from controller.api.facade.evictions import Evictions
from controller.api.facade.namespaces import Namespaces
from controller.api.facade.notes import Notes
from controller.api.facade.top import Top
from controller.api.facade.usage import METRICS
from controller.api.flow import Flow
from controller.api.guard import Guard, authorize_call
from controller.api.listening import HTTP_LOG, Listener, tls_context
from controller.api.meters import make_meters
from controller.api.operations import Operations, is_operation
from controller.api.reading import Reader
from controller.api.requests import (
    JSON,
    Call,
    Target,
    error_response,
    is_terminal,
    json_response,
    media_type,
    parse_target,
    read_body,
    verb_of,
)
from controller.api.resources import CORE_EVENTS, DOMAINS, NAMESPACES, PODS, RESOURCES
from controller.api.reviews import Reviews, review_of
from controller.api.rights import Rights
from controller.api.scaling import Scaler
from controller.api.streaming import Streamer
from controller.api.trail import REFUSALS, Trail
from controller.api.turnstile import Turnstile
from controller.api.watch import Hub
from controller.api.writing import Writer
from controller.consoles.desk import Desk
from controller.figures import Board
from controller.limits import Bounds
from controller.objects import Corrupt, Objects
from controller.oidc import OidcConfig
from controller.pki import Pki
from drivers.errors import Compacted, StoreError, StoreUnavailable

log = logging.getLogger(__name__)

IDLE_S: Final = 30.0  # a connection without a complete request head for so long is closed
_SHUTDOWN_S: Final = 2.0
_CALL: Final = web.RequestKey("call", Call)
_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """`metrics_listen`: host (loopback only) and port of a plain listener for /metrics. `allow_xml`:
    whether `spec.xml` is accepted. `sealed`: whether the store is encrypted; else no Secret is taken.
    `audit_bytes` and `audit_kept`: how large an audit log becomes, and how many old ones are kept.
    `render_metrics`: what /metrics shows, in parts (by default, the registry). `figures`: how busy nodes and
    domains are (by default, another replica knows)."""

    host: str
    port: int
    pki: Pki
    audit_log: Path
    version: str
    audit_bytes: int = MAX_BYTES
    audit_kept: int = KEPT
    allow_xml: bool = False
    sealed: bool = False
    metrics_listen: tuple[str, int] | None = None
    bounds: Bounds = field(default_factory=Bounds)
    render_metrics: Callable[[], Iterable[bytes]] | None = None
    oidc: OidcConfig | None = None
    figures: Board | None = None


class ApiServer:
    """`checks` are those of /readyz. `desk` has the consoles read here. `address` is where it listens
    once started (port 0 becomes real)."""

    def __init__(
        self,
        objects: Objects,
        registry: CollectorRegistry,
        config: ApiConfig,
        checks: Mapping[str, health.Check],
        desk: Desk | None = None,
    ) -> None:
        if config.metrics_listen is not None and not _is_loopback(config.metrics_listen[0]):
            raise ValueError("metricsListen has no authentication and must be a loopback address")
        self._objects = objects
        self._render = config.render_metrics or (lambda: [generate_latest(registry)])
        self._config = config
        self._checks = checks
        self._meters = make_meters(registry)
        self._hubs = {
            (r.group, r.plural): Hub(objects.store, r, config.bounds.watch_queue)
            for r in RESOURCES
            if "watch" in r.verbs
        }
        self._flow = Flow(objects.world.now, config.bounds)
        self._former = Former()
        self._turns = Turnstile(objects.world.now)
        self._health_turns = Turnstile(objects.world.now)
        self._reader = Reader(objects, self._turns.turn)
        self._streamer = Streamer(objects, self._reader, self._hubs, self._turns.turn)
        admission = Admission(objects, allow_xml=config.allow_xml, sealed=config.sealed)
        self._rights = Rights(objects, self._reader, self._hubs)
        self._namespaces = Namespaces(
            objects, NAMESPACES, [r for r in RESOURCES if r.struct and r.namespaced]
        )
        guard = Guard(self._rights)
        self._writer = Writer(objects, admission, guard, self._namespaces, config.bounds)
        self._notes = Notes(objects, self._namespaces, config.bounds)
        self._scaler = Scaler(self._writer, config.bounds)
        self._deleter = Deleter(
            objects, self._reader, Deletable(objects, self._namespaces), guard, config.bounds
        )
        self._applier = Applier(objects, admission, self._writer, config.bounds)
        self._operations = Operations(objects)
        self._top = Top(objects, self._reader, config.figures or Board(objects.world.now))
        bounds = config.bounds
        desk = desk or Desk(objects.world.wall, bounds.console_bytes, bounds.consoles_bytes)
        self._consoles = consoles = Consoles(objects, desk, self._turns.turn)
        self._actions: dict[tuple[str, str, str], Callable[[Call], Awaitable[web.StreamResponse]]] = {
            ("", PODS.plural, "eviction"): Evictions(objects, self._reader).handle,
            ("", PODS.plural, "log"): self._watched(consoles.log),
            ("", PODS.plural, "attach"): self._watched(consoles.attach),
            (DOMAINS.group, DOMAINS.plural, "log"): self._watched(consoles.log),
            (DOMAINS.group, DOMAINS.plural, "console"): self._watched(consoles.attach),
        }
        self._bearers = Bearers(self._rights, config.oidc, objects.world)
        self._reviews = Reviews(self._rights, self._bearers)
        self._runners: list[web.AppRunner] = []
        self._listeners: list[Listener] = []
        self._trail: Trail | None = None
        self.address: tuple[str, int] = (config.host, config.port)
        self.metrics_address = config.metrics_listen or ("", 0)

    async def start(self) -> None:
        """Raises OSError when it cannot listen."""
        config = self._config
        audit_log = AuditLog(config.audit_log, max_bytes=config.audit_bytes, kept=config.audit_kept)
        self._trail = Trail(audit_log, self._objects.world)
        await self._bearers.start()
        await self._rights.start()
        self._namespaces.start()
        context = tls_context(config.pki)
        self.address = (
            config.host,
            await self._listen(self._serve, (config.host, config.port), context),
        )
        if config.metrics_listen is not None:
            port = await self._listen(self._serve_metrics, config.metrics_listen, None)
            self.metrics_address = (config.metrics_listen[0], port)

    async def stop(self) -> None:
        """Stop listening, end all watches, let running requests end."""
        await asyncio.gather(*(listener.stop() for listener in self._listeners))
        await self._rights.stop()
        await self._namespaces.stop()
        await self._bearers.stop()
        await asyncio.gather(*(hub.stop() for hub in self._hubs.values()))
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        self._listeners.clear()
        self._runners.clear()
        if self._trail is not None:
            self._trail.close()

    async def _listen(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        where: tuple[str, int],
        context: ssl.SSLContext | None,
    ) -> int:
        """The port on which it listens."""
        app = web.Application(client_max_size=self._config.bounds.body_bytes)
        app.router.add_route("*", r"/{path:[\s\S]*}", handler)  # a path may hold a line feed
        app.on_response_prepare.append(_name)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=HTTP_LOG,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=_SHUTDOWN_S,
            auto_decompress=False,  # it unpacks on the loop, without bound, what nobody reads, too
        )
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        listener = Listener(runner.server, context, self._config.bounds.connections, self._turns)
        self._listeners.append(listener)
        await listener.start(*where)
        return listener.port

    async def _serve_metrics(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/metrics":
            return error_response(errors.by_code(404))
        return await self._metrics(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """The outermost: whatever happens, there is an answer, an audit id and a metric."""
        started_at = self._objects.world.now()
        audit_id = self._objects.world.new_id()
        call = Call(request, Target(), request.method.lower(), ANONYMOUS, audit_id, _unaudited)
        request[_CALL] = call
        health = call.path in OPEN_PATHS
        await (self._health_turns if health else self._turns).turn()
        try:
            answer = await self._answer(call)
            if not answer.prepared:
                await self._former.form(request, answer)  # what is refused, which is small
                await compressed(request, answer)
                for warning in warned.headers((*call.doubled, *call.warnings)):
                    answer.headers.add("Warning", warning)
                await _send(request, answer)
        finally:
            call.leave()
        resource = "" if call.target.resource is None else call.target.resource.plural
        verb = call.verb if call.target.plural else "other"
        self._meters.requests.labels(verb, resource, str(answer.status)).inc()
        if verb != "watch" and not call.target.subresource.startswith(("log", "attach", "console")):
            self._meters.seconds.labels(verb).observe(self._objects.world.now() - started_at)
        return answer

    async def _answer(self, call: Call) -> web.StreamResponse:
        try:
            return await self._admit(call)
        except ApiError as error:
            if error.code in REFUSALS and not call.audited:
                assert self._trail is not None
                self._trail.refusal(call, error)
            return error_response(error)
        except web.HTTPException as error:
            return error_response(errors.by_code(error.status))
        except StoreUnavailable as error:
            log.warning("the store did not answer a request", extra={"error": error.message})
            unsure = error.maybe_committed
            return error_response(
                errors.outcome_unknown() if unsure else errors.unavailable("the store does not answer")
            )
        except Compacted:
            return error_response(errors.expired("the revision asked for is gone: list again"))
        except StoreError as error:
            log.error(
                "the store refused a request", extra={"error": error.message, "audit_id": call.audit_id}
            )
            return error_response(errors.internal(call.audit_id))
        except Corrupt as error:
            return error_response(ApiError(500, "InternalError", f"{error}; it is left as it is"))
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has gone
        except Exception:  # the last boundary: a bug must not cut the connection without a word
            log.exception("a request failed", extra={"audit_id": call.audit_id, "path": call.request.path})
            return error_response(errors.internal(call.audit_id))

    async def _admit(self, call: Call) -> web.StreamResponse:
        request, path = call.request, call.path
        if path in OPEN_PATHS:
            return await self._open(request, path)
        user = await identify(request, self._bearers)
        if user is None:
            raise errors.unauthorized()
        call.user = user
        call.passage = self._flow.enter(user)
        other = wanted_user(request)
        if other is not None:
            call.user, call.impersonator = other, user
            may_impersonate(user, other, self._rights)
        call.target = parse_target(request.path)
        call.verb = verb_of(request.method, call.target, request.query)
        if request.method in _CHANGING:
            # Before a seat is taken: who sends slowly keeps nobody waiting but himself.
            await read_body(request, self._config.bounds.body_bytes)
        await call.passage.sit()
        try:
            acts = request.method in _CHANGING or is_terminal(call.target)
            if not acts or review_of(call) is not None:
                return await self._dispatch(call)
            assert self._trail is not None
            call.audited = True
            noted = self._trail.dry_run if _is_dry_run(call) else self._trail.change
            return await noted(call, lambda: self._dispatch(call))
        finally:
            call.passage.stand()

    async def _open(self, request: web.Request, path: str) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            raise errors.method_not_allowed()
        if path == "/version":
            return json_response(health.version(self._config.version))
        if path == "/readyz":
            return await health.ready(self._checks, verbose="verbose" in request.query)
        return health.live()

    async def _dispatch(self, call: Call) -> web.StreamResponse:
        call.allowed_by = authorize_call(self._rights, call)
        if call.target.plural:
            check_accepted(call)
            answer = await self._object(call)
        else:
            answer = await self._document(call)
        await self._former.form(call.request, answer)  # while it has a seat: this takes long
        return answer

    async def _document(self, call: Call) -> web.StreamResponse:
        path = call.path
        if call.request.method not in {"GET", "HEAD"}:
            raise errors.method_not_allowed() if path in DOCUMENTS else errors.by_code(404)
        if path in DOCUMENTS:
            found = DOCUMENTS[path](call.request)
            if path.startswith("/api") and found.headers["Content-Type"] == JSON:
                check_accepted(call)
            return found
        if path == "/metrics":
            call.stand()  # what follows waits for its client, and works in turns
            return await self._metrics(call.request)
        raise errors.by_code(404)

    async def _object(self, call: Call) -> web.StreamResponse:
        target = call.target
        if is_operation(call):
            return await self._operations.handle(call)
        action = self._actions.get((target.group, target.plural, target.subresource))
        if action is not None:
            return await action(call)
        if (question := review_of(call)) is not None:
            return await self._reviews.handle(call, question)
        if target.group == METRICS:
            return await self._top.handle(call)
        resource = target.resource
        if resource is None:
            raise errors.by_code(404)
        if target.subresource and target.subresource not in resource.subresources:
            raise errors.by_code(404)
        if call.verb not in resource.verbs:
            raise errors.method_not_allowed(resource.refusals.get(call.verb, ""))
        if call.verb == "watch":
            return await self._watch(call)
        if target.subresource == "scale":
            return await self._scaler.handle(call)
        if call.verb == "list":
            return await self._reader.list(call)
        if call.verb == "get":
            return await self._reader.get(call)
        return await self._change(call)

    async def _change(self, call: Call) -> web.StreamResponse:
        target, writer = call.target, self._writer
        if call.verb == "create":
            if target.name or (call.resource.namespaced and not target.namespace):
                raise errors.method_not_allowed()
            if call.resource is CORE_EVENTS:
                return await self._notes.handle(call)
            return await writer.create(call)
        if call.verb == "deletecollection" and (target.namespace or not call.resource.namespaced):
            return await self._deleter.collection(call)
        if not target.name:
            raise errors.method_not_allowed()
        if call.verb == "update":
            return await writer.update(call)
        if call.resource is CORE_EVENTS:
            return await self._notes.handle(call)
        if call.verb == "patch":
            applies = media_type(call.request) == patch.APPLY
            if applies and call.stored.struct is None:
                raise patch.unsupported()  # without a schema nobody can say whose a field is
            return await (self._applier.apply(call) if applies else writer.patch(call))
        if target.subresource:
            raise errors.method_not_allowed()
        return await self._deleter.delete(call)

    async def _watch(self, call: Call) -> web.StreamResponse:
        return await self._watched(self._streamer.watch)(call)

    def _watched(
        self, serve: Callable[[Call], Awaitable[web.StreamResponse]]
    ) -> Callable[[Call], Awaitable[web.StreamResponse]]:
        """What may last counts among the watches of its client."""

        async def counted(call: Call) -> web.StreamResponse:
            with self._flow.watching(call.impersonator or call.user):
                return await serve(call)

        return counted

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        self._meters.watchers.set(sum(hub.clients for hub in self._hubs.values()))
        self._meters.consoles.set(self._consoles.clients)
        self._meters.quarantined.set(self._objects.quarantined_total)
        return await health.metrics(request, self._render, self._turns.turn)


async def _send(request: web.Request, answer: web.StreamResponse) -> None:
    """Write the answer out here, where it still counts as its client's, and not for ever."""
    try:
        async with asyncio.timeout(parts.WRITE_S):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        pass  # the client has gone


async def _name(request: web.Request, answer: web.StreamResponse) -> None:
    """Every answer tells by which id it is found in the log, and gives the client's own back."""
    answer.headers.setdefault("Cache-Control", "no-cache, private")  # Secrets, too, pass through proxies
    call: Call | None = request.get(_CALL)
    if call is not None:
        answer.headers["Audit-Id"] = call.audit_id
        answer.headers["X-Request-Id"] = call.request_id or call.audit_id


def _is_dry_run(call: Call) -> bool:
    try:
        return call.request.method in _CHANGING and call.dry_run  # a terminal knows none
    except ApiError:
        return False  # it will be refused, and is a change until then


async def _unaudited(decision: dict[str, Any]) -> None:
    raise AssertionError("a decision outside an audited request")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
