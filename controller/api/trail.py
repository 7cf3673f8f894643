"""The audit trail of requests: what a change leaves in the audit log, and what a refusal leaves.

A change has a line before it acts and one when it was answered; without the first it is refused (I20). A
request that was refused for who asked (401, 403) leaves one line, whatever its verb, an impersonation that
was not allowed too; so does a dry run, which changes nothing. Lines of either are rationed by user, those of
the unknown together, so that nobody can push the log's older lines out of its files by what he may not do;
the next line says how many were left out.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from aiohttp import web

from controller.api import errors
from controller.api.audit import AuditLog, event
from controller.api.auth import ANONYMOUS
from controller.api.errors import ApiError
from controller.api.rates import Buckets
from controller.api.requests import Call, parse_target, verb_of
from controller.world import World

log = logging.getLogger(__name__)

REFUSALS: Final = frozenset({401, 403})
_URI: Final = 512  # characters of one
_BURST: Final = 100
_EACH_S: Final = 1.0  # after the burst, one line of a refusal of one user in so many seconds

Act = Callable[[], Awaitable[web.StreamResponse]]


class Trail:
    def __init__(self, audit_log: AuditLog, world: World) -> None:
        self._log = audit_log
        self._world = world
        self._ration = Buckets(world.now, 1 / _EACH_S, _BURST)
        self._left_out: dict[str, int] = {}

    def close(self) -> None:
        self._log.close()

    async def change(self, call: Call, act: Act) -> web.StreamResponse:
        """Nothing changes that is not in the audit log first. Raises ApiError."""
        received_at = self._world.wall()

        async def record(decision: dict[str, Any]) -> None:
            self._must(call, "RequestReceived", received_at, {"requestObject": decision})
            await self._log.sync()

        call.record = record
        self._must(call, "RequestReceived", received_at, {})

        def ended(code: int, why: str) -> None:
            with contextlib.suppress(ApiError):  # what was done was done; its beginning is in the log
                self._must(call, "ResponseComplete", received_at, _answered(call, code, why))

        return await _to_its_end(act, ended)

    async def dry_run(self, call: Call, act: Act) -> web.StreamResponse:
        """One line for what changes nothing, once it was answered. Raises ApiError."""
        return await _to_its_end(act, partial(self._rationed, call, "dry-runs"))

    def refusal(self, call: Call, error: ApiError) -> None:
        """One line for a request that acted in nothing. It is refused whether or not this can be written."""
        if not call.target.plural:
            with contextlib.suppress(ApiError):
                call.target = parse_target(call.request.path)
                call.verb = verb_of(call.request.method, call.target, call.query)
        self._rationed(call, "refusals", error.code, error.message)

    def _rationed(self, call: Call, what: str, code: int, why: str) -> None:
        name = f"{what}/" + ("" if call.user == ANONYMOUS else (call.impersonator or call.user).name)
        if self._ration.wait_s(name) > 0:
            # The names are bounded as those of the buckets are: by what is remembered of them.
            if len(self._left_out) < self._ration.kept:
                self._left_out[name] = self._left_out.get(name, 0) + 1
            return
        more = _answered(call, code, why)
        if left_out := self._left_out.pop(name, 0):
            more["annotations"][f"domctl.io/{what}-left-out"] = str(left_out)
        with contextlib.suppress(ApiError):
            self._must(call, "ResponseComplete", self._world.wall(), more)

    def _must(self, call: Call, stage: str, received_at: str, more: dict[str, Any]) -> None:
        facts = {**_facts(call), **more}
        if call.request_id:
            facts["annotations"] = {"domctl.io/request-id": call.request_id, **facts.get("annotations", {})}
        try:
            self._log.write(
                event(
                    audit_id=call.audit_id,
                    stage=stage,
                    verb=call.verb,
                    user=call.impersonator or call.user,
                    times=(received_at, self._world.wall()),
                    **facts,
                )
            )
        except OSError as error:
            log.error("the audit log cannot be written", extra={"error": str(error)})
            raise errors.unavailable("the audit log cannot be written, so nothing may be changed") from None


async def _to_its_end(act: Act, ended: Callable[[int, str], None]) -> web.StreamResponse:
    """Act, and tell with which code, and message of a refusal, that ended, however it did."""
    code, why = 500, ""
    try:
        answer = await act()
        code = answer.status
    except ApiError as error:
        code, why = error.code, error.message
        raise
    finally:
        ended(code, why)
    return answer


def _answered(call: Call, code: int, why: str) -> dict[str, Any]:
    """What came of it. `why` is the message of a refusal; it names no values of objects for 401 and 403."""
    refused = code in REFUSALS
    status: dict[str, Any] = {"metadata": {}, "code": code}
    if code >= 400:
        status["status"] = "Failure"
    if refused:
        status["message"] = why[:1024]
    decision = {} if code == 401 else {"authorization.k8s.io/decision": "forbid" if refused else "allow"}
    reason = why[:1024] if refused else call.allowed_by
    if decision and reason:
        decision["authorization.k8s.io/reason"] = reason
    return {"responseStatus": status, "annotations": decision}


def _facts(call: Call) -> dict[str, Any]:
    target, request = call.target, call.request
    reference = {
        "resource": target.plural,
        "namespace": target.namespace,
        "name": target.name or call.created,
        "apiGroup": target.group,
        "apiVersion": target.version,
        "subresource": target.subresource,
    }
    acted_as = call.user if call.impersonator is not None else None
    return {
        "impersonatedUser": acted_as and {"username": acted_as.name, "groups": list(acted_as.groups)},
        "requestURI": request.path_qs[:_URI],
        "objectRef": {k: v for k, v in reference.items() if v},
        "sourceIPs": [request.remote] if request.remote else [],
        "userAgent": request.headers.get("User-Agent", "")[:256],
    }
