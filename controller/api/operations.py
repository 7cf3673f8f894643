"""Operators' decisions: the ways out of a hold. The API writes them, the leader obeys (safety: R3, I22).

    POST|DELETE …/nodes/NAME/confirmdead              the node is off for good, or: it is not after all
                                                      {"wiped": true}: replaced, its disks never start again
    POST …/namespaces/NS/domains/NAME/resolve         {"notOn": [NODE…]} or {"keep": NODE}
    POST …/assignments/UUID/resolve                   the same for a domain whose object is gone
    POST …/storeacks                                  {"nodes": [NODE…]}: the store was restored, go on

Each is a `model.Decision` under its own key, with who decided, when and why, and stands in the audit log,
synced to the disk, before it stands in the store. Every node named must be registered: a mistyped name
must not pass for a proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from controller import keys
from controller.api import errors
from controller.api.errors import Cause, Subject
from controller.api.requests import Call, as_object, is_name, json_response, read_json
from controller.api.resources import ASSIGNMENTS, DOMAINS, NODES
from controller.model import Decision
from controller.objects import NotFound, Objects, StoredObject
from drivers.errors import SAID_BY_HOST
from drivers.store import Compare, Delete, Put
from specs.meta import API_VERSION, GROUP

STORE_ACKS: Final = "storeacks"
CONFIRM_DEAD: Final = "confirmdead"
RESOLVE: Final = "resolve"
_LIMIT: Final = 64 << 10
_MAX_NODES: Final = 10_000
_MAX_REASON: Final = 1024


@dataclass(frozen=True, slots=True)
class _Body:
    """What an operator sent, with its problems."""

    fields: dict[str, Any]
    causes: list[Cause]

    def names(self, field: str) -> tuple[str, ...]:
        value = self.fields.get(field, [])
        if not isinstance(value, list) or len(value) > _MAX_NODES or not all(is_name(v) for v in value):
            self.causes.append(
                Cause(
                    field, f"must be a list of at most {_MAX_NODES} names of nodes", "FieldValueTypeInvalid"
                )
            )
            return ()
        return tuple(dict.fromkeys(value))

    def text(self, field: str) -> str:
        value = self.fields.get(field, "")
        if not isinstance(value, str) or len(value) > _MAX_REASON:
            message = f"must be text of at most {_MAX_REASON} characters"
            self.causes.append(Cause(field, message, "FieldValueTypeInvalid"))
            return ""
        return value

    def flag(self, field: str) -> bool:
        value = self.fields.get(field, False)
        if not isinstance(value, bool):
            self.causes.append(Cause(field, "must be true or false", "FieldValueTypeInvalid"))
        return value is True


def is_operation(call: Call) -> bool:
    """At its own path alone: who may do everything in another group, or in a namespace, decides nothing."""
    target = call.target
    if target.group != GROUP:
        return False
    if target.plural == STORE_ACKS:
        return not target.name and not target.namespace
    return (target.plural, target.subresource) in {
        (NODES.plural, CONFIRM_DEAD),
        (DOMAINS.plural, RESOLVE),
        (ASSIGNMENTS.plural, RESOLVE),
    }


class Operations:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def handle(self, call: Call) -> web.Response:
        target, method = call.target, call.request.method
        if target.subresource == CONFIRM_DEAD and method == "DELETE":
            return await self._withdraw(call)
        if method != "POST":
            raise errors.method_not_allowed()
        if target.plural == STORE_ACKS:
            return await self._acknowledge(call)
        if target.subresource == CONFIRM_DEAD:
            return await self._confirm_dead(call)
        return await self._resolve(call)

    async def _confirm_dead(self, call: Call) -> web.Response:
        body = await self._read(call, ("reason", "wiped"))
        reason, wiped = body.text("reason"), body.flag("wiped")
        _refuse(call, body.causes)
        try:
            node = await self._objects.get(NODES, "", call.target.name)
        except NotFound:
            raise errors.not_found(call.subject) from None
        if _is_ready(node.body):
            call.warnings.append(
                f"node {node.name} was Ready when last seen: if it answers, this decision is void"
            )
        if _denies(node.body):
            call.warnings.append(
                f"something answers at the address of node {node.name}, but not as it should "
                f"({node.body['status']['reason']}): while it does, this decision is void. Mend that; or "
                "take the host off the network; or, if another machine has its address now, change spec.uri"
            )
        call.warnings += [
            f"node {other} is of the same host and was Ready when last seen: while it answers, the host is "
            "not dead, and this decision is void"
            for other in await self._kin_ready(node)
        ]
        decision = self._decision(call, reason=reason, node=node.name, wiped=wiped)
        # The Node must be the one that was looked at, not another that took its name.
        same = Compare(node.key, node.create_revision, on="create")
        return await self._record(call, keys.confirmed_dead(node.name), decision, [same])

    async def _kin_ready(self, node: StoredObject) -> list[str]:
        """The other nodes of this node's host, another driver or mode of it, that were last seen Ready."""
        host = _host_of(node.body)
        others = (await self._objects.list(NODES)).items if host else ()
        return [
            o.name for o in others if o.name != node.name and _host_of(o.body) == host and _is_ready(o.body)
        ]

    async def _withdraw(self, call: Call) -> web.Response:
        key = keys.confirmed_dead(call.target.name)
        kv = await self._objects.store.get(key)
        if kv is None:
            raise errors.not_found(Subject("confirmations", call.target.name))
        if not call.dry_run:
            await call.record({"withdrawn": {"node": call.target.name}})
            result = await self._objects.store.txn([Compare(key, kv.mod_revision)], [Delete(key)])
            if not result.ok:
                raise errors.conflict(call.subject)
        return json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def _resolve(self, call: Call) -> web.Response:
        body = await self._read(call, ("notOn", "keep", "reason"))
        not_on, keep, reason = body.names("notOn"), body.text("keep"), body.text("reason")
        if bool(not_on) == bool(keep):
            body.causes.append(
                Cause("", "exactly one of notOn (a list of nodes) and keep (a node) must be given")
            )
        body.causes.extend(await self._unregistered((*not_on, keep) if keep else not_on, "notOn"))
        _refuse(call, body.causes)
        uuid = await self._uuid(call)
        key = keys.resolution(uuid)
        standing = await self._objects.store.get(key)
        if standing is not None and not_on:
            not_on = _united(standing.value, not_on)
        decision = self._decision(call, reason=reason, not_on=not_on, keep=keep)
        seen = Compare(key, 0 if standing is None else standing.mod_revision)
        return await self._record(call, key, decision, [seen])

    async def _uuid(self, call: Call) -> str:
        target = call.target
        if target.plural == ASSIGNMENTS.plural:
            if await self._objects.store.get(keys.assignment(target.name)) is None:
                raise errors.not_found(call.subject)
            return target.name
        try:
            return (await self._objects.get(DOMAINS, target.namespace, target.name)).uid
        except NotFound:
            raise errors.not_found(call.subject) from None

    async def _acknowledge(self, call: Call) -> web.Response:
        body = await self._read(call, ("nodes", "reason"))
        nodes, reason = body.names("nodes"), body.text("reason")
        body.causes.extend(await self._unregistered(nodes, "nodes"))
        _refuse(call, body.causes)
        decision = self._decision(call, reason=reason, nodes=nodes)
        return await self._record(call, keys.STORE_ACK, decision, [])

    async def _read(self, call: Call, known: Sequence[str]) -> _Body:
        value = await read_json(call, limit=_LIMIT)
        fields = {} if value is None else as_object(value)
        fields = {k: v for k, v in fields.items() if k not in {"apiVersion", "kind", "metadata"}}
        causes = [
            Cause(name[:80], f"unknown field, known are {', '.join(known)}", "FieldValueForbidden")
            for name in fields
            if name not in known
        ]
        return _Body(fields, causes)

    async def _unregistered(self, names: Sequence[str], field: str) -> list[Cause]:
        """Of names that are fit to be keys, those of no Node, readable or not. One by one: all Nodes at once
        are read and parsed in one go."""
        return [
            Cause(field, f"no node is registered under the name {name!r}", "FieldValueNotFound")
            for name in names
            if await self._objects.store.get(NODES.key("", name)) is None
        ]

    def _decision(self, call: Call, **parts: Any) -> Decision:
        return Decision(by=call.user.name, at=self._objects.world.wall(), **parts)

    async def _record(
        self, call: Call, key: str, decision: Decision, compares: Sequence[Compare]
    ) -> web.Response:
        body = {
            "apiVersion": API_VERSION,
            "kind": "Decision",
            "metadata": {"creationTimestamp": decision.at},
            "decision": msgspec.to_builtins(decision),
        }
        if not call.dry_run:
            await call.record(body["decision"])
            result = await self._objects.store.txn(compares, [Put(key, msgspec.json.encode(decision))])
            if not result.ok:
                raise errors.conflict(call.subject)
        return json_response(body, status=201)


def _refuse(call: Call, causes: Sequence[Cause]) -> None:
    if causes:
        raise errors.invalid(Subject("Decision", call.target.name), causes)


def _united(standing: bytes, not_on: tuple[str, ...]) -> tuple[str, ...]:
    """With what was resolved before and is not yet used. What cannot be read is replaced."""
    try:
        earlier = msgspec.json.decode(standing, type=Decision).not_on
    except msgspec.DecodeError:
        earlier = ()
    return tuple(dict.fromkeys((*earlier, *not_on)))


def _denies(body: dict[str, Any]) -> bool:
    status = body.get("status") or {}
    return status.get("phase") == "Refused" and status.get("reason") in SAID_BY_HOST


def _host_of(body: dict[str, Any]) -> str:
    return str((body.get("status") or {}).get("hostUuid") or "")


def _is_ready(body: dict[str, Any]) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
