"""All roles, bindings and tokens, as of now: what every request is judged by, without a read of the store.

Listed once and then kept by the hubs that serve watches. Every replica has its own, so a change holds a
moment after it was answered, as on Kubernetes. Each also keeps the rules of ClusterRoles that are made of
others. While the store does not answer, what was known goes on to
hold. What cannot be read is left out: a role or binding grants nothing then, a token is nobody's (and the
administrators' certificates work whatever stands in the store).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controller.api import aggregation, roles, selectors
from controller.api.auth import AUTHENTICATED
from controller.api.errors import ApiError
from controller.api.rbac import Ask, Binding, Holder, Policy, Rules, User, Verdict
from controller.api.reading import Reader
from controller.api.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    TOKENS,
    Resource,
)
from controller.api.watch import Event, Hub
from controller.objects import Body, Conflict, NotFound, Objects, StoredObject
from drivers.errors import StoreError
from specs.token import TOKEN_FORM
from specs.validate import Unknown, decode

log = logging.getLogger(__name__)

KEPT: Final = (CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS, TOKENS)
FIRST_S: Final = 5.0  # how long a server that starts waits for what it is to judge by
_RETRY_S: Final = 1.0
_TOKEN: Final = re.compile(TOKEN_FORM, re.ASCII)


@dataclass(frozen=True, slots=True)
class _Token:
    sha256: str
    user: User
    expires: str


class Rights:
    def __init__(self, objects: Objects, reader: Reader, hubs: Mapping[tuple[str, str], Hub]) -> None:
        self._objects = objects
        self._reader = reader
        self._hubs = hubs
        self._bodies: dict[str, dict[str, Body]] = {resource.plural: {} for resource in KEPT}
        self._policy = Policy()
        self._tokens: dict[str, _Token] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when all is known, or after FIRST_S: until then only administrators have rights."""
        known = [asyncio.Event() for _ in KEPT]
        self._tasks = [
            asyncio.create_task(self._keep(resource, event), name=f"rights-{resource.plural}")
            for resource, event in zip(KEPT, known, strict=True)
        ]
        try:
            async with asyncio.timeout(FIRST_S):
                for event in known:
                    await event.wait()
        except TimeoutError:
            log.warning("roles could not be read yet: only administrators have rights")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def decide(self, user: User, ask: Ask) -> Verdict:
        return self._policy.decide(user, ask)

    def rules_of(self, user: User, namespace: str) -> Rules:
        return self._policy.rules_of(user, namespace)

    def role(self, namespace: str, name: str) -> Rules | None:
        """The rules of a Role, or of a ClusterRole when `namespace` is ""; None when there is none."""
        return self._policy.roles.get((namespace, name))

    def bearer(self, token: str) -> User | None:
        """Whose token it is; None when it is nobody's, or no longer. The hash finds it: what the time of that
        search could tell is of the hash, and leads to no token."""
        if not _TOKEN.fullmatch(token):
            return None
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = self._tokens.get(digest)
        if found is None or not hmac.compare_digest(found.sha256, digest):
            return None
        # Both are UTC in one form, so that text compares as time does.
        return found.user if self._objects.world.wall() < found.expires else None

    async def _keep(self, resource: Resource, known: asyncio.Event) -> None:
        """List, follow, and begin again whenever that ends."""
        while True:
            try:
                if resource is CLUSTER_ROLES:
                    await roles.ensure(self._objects)
                await self._follow(resource, known)
            except (ApiError, StoreError) as error:
                log.warning("following rights failed", extra={"of": resource.plural, "error": error.message})
            except Exception:  # the boundary of this task: rights must never stand still for good
                log.exception("following rights failed", extra={"of": resource.plural})
            await asyncio.sleep(_RETRY_S)

    async def _follow(self, resource: Resource, known: asyncio.Event) -> None:
        listed = await self._reader.all(resource, "", selectors.parse("", "", resource.fields))
        hub = self._hubs[resource.group, resource.plural]
        await hub.begin(listed.revision)
        if not hub.reaches(listed.revision):
            return
        subscription = hub.attach(listed.revision, own=True)
        try:
            bodies = {o.key: o.body for o in listed.items if self._readable(o)}
            self._bodies[resource.plural] = bodies
            self._rebuild()
            known.set()
            while True:
                if resource is CLUSTER_ROLES:
                    await self._gather(bodies)
                if await subscription.wait():
                    for event in subscription.take().events:
                        self._note(bodies, event)
                    self._rebuild()
        finally:
            hub.detach(subscription)

    async def _gather(self, bodies: Mapping[str, Body]) -> None:
        """Write the rules of roles that are made of others where they are not what these have, but only over
        what was looked at: else an event is under way, and it is gone over again. Raises StoreError."""
        for name, rules in aggregation.gathered(bodies.values()):
            with contextlib.suppress(Conflict, NotFound):
                current = await self._objects.get(CLUSTER_ROLES, "", name)
                if current.body == bodies.get(current.key) and not current.terminating:
                    await self._objects.replace(CLUSTER_ROLES, current, {**current.body, "rules": rules})

    def _note(self, bodies: dict[str, Body], event: Event) -> None:
        if event.now is not None and self._readable(event.now):
            bodies[event.key] = event.now.body
        else:
            bodies.pop(event.key, None)

    def _readable(self, stored: StoredObject) -> bool:
        if stored.problem:
            return False
        typed, problems = decode(stored.body, Unknown.IGNORE)
        if typed is None:
            wrong = "; ".join(map(str, problems))[:500]
            log.error("what cannot be read grants nothing", extra={"key": stored.key, "problem": wrong})
        return typed is not None

    def _rebuild(self) -> None:
        found = self._bodies
        self._policy = Policy(
            {
                (body["metadata"].get("namespace", ""), body["metadata"]["name"]): roles.rules_in(body)
                for resource in (ROLES, CLUSTER_ROLES)
                for body in found[resource.plural].values()
            },
            tuple(
                _binding(body)
                for resource in (CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS)
                for body in found[resource.plural].values()
            ),
        )
        tokens = [_token(body["spec"]) for body in found[TOKENS.plural].values()]
        bearers = Counter(token.sha256 for token in tokens)
        # A secret of two is nobody's: else whoever reads the hash could become another's bearer, or he his.
        self._tokens = {token.sha256: token for token in tokens if bearers[token.sha256] == 1}


def _binding(body: Mapping[str, Any]) -> Binding:
    metadata, role = body["metadata"], body["roleRef"]
    holders = tuple(
        Holder(subject["kind"], subject["name"], subject.get("namespace") or "")
        for subject in body.get("subjects") or ()
    )
    return Binding(metadata["name"], metadata.get("namespace", ""), role["kind"], role["name"], holders)


def _token(spec: Mapping[str, Any]) -> _Token:
    groups = (*(spec.get("groups") or ()), AUTHENTICATED)
    return _Token(spec["sha256"], User(spec["user"], tuple(dict.fromkeys(groups))), spec["expires"])
