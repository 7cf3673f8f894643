"""The steps of an action that ask a node: one mutation each, with a permit of the lease (I4).

What was done, or may have been done, is Unknown until a listing sent afterwards shows it (I6): whatever a
node answers, the domain there awaits an observation. What a refusal means for later attempts is noted here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from controller.hands import NEVER_ASKED, Ending, Halt, Hands, Progress, Report, RungRefused
from controller.passwords import passwords_for, unquoted
from controller.plan.evidence import Known, Unknown, observe
from controller.plan.snapshot import Ladder, Stall
from controller.plan.types import Action, ActionKind
from controller.recording import audit
from drivers.errors import (
    Advice,
    DiskLocked,
    HostFailed,
    HypervisorError,
    NoDomain,
    SaveUnreadable,
    Unsupported,
)
from drivers.hypervisor import Outcome, Permit, Result, Session
from specs.graphics import with_passwords

log = logging.getLogger(__name__)

MINUTE_S: Final = 60.0
AHEAD_S: Final = 1.0  # by then a request waits its turn at its host, if it is not answered
GIVE_CAPABILITY: Final = ("define", "create")  # carried out late, they let a domain run where it was


@dataclass(slots=True)
class Calls:
    hands: Hands
    _destroys: deque[float] = field(default_factory=deque)
    _destroying: int = 0

    async def define(self, progress: Progress) -> None:
        planned = progress.action.xml
        assert planned is not None
        passwords = await passwords_for(self.hands, progress.action)
        xml = with_passwords(planned, passwords)

        async def send(session: Session, permit: Permit) -> Result:
            return unquoted(await session.define(xml, permit), passwords.values())

        await self._mutate(progress, "define", send)

    async def create(self, progress: Progress) -> None:
        uuid, cache, now = progress.action.uuid, self.hands.cache, self.hands.world.now()
        end, restarts = cache.seen.ends.get((uuid, progress.action.node)), cache.attempts.restarts.get(uuid)
        if end is not None and (
            restarts is None or restarts.count <= 1
        ):  # later ones have a crash loop's pauses
            self.hands.reacted(now - end.at)
        await self._mutate(progress, "create", lambda s, permit: s.create(uuid, permit))
        cache.attempts.started(uuid, self.hands.world.now())
        cache.attempts.unreadable_saves.pop(uuid, None)

    async def ask(self, progress: Progress) -> None:
        action = progress.action
        method = action.method
        assert method is not None
        self.hands.cache.attempts.ladders[action.uuid] = Ladder(action.step, self.hands.world.now())
        try:
            await self._mutate(
                progress,
                "shutdown",
                lambda s, permit: s.shutdown(action.uuid, method, permit, action.limit_s),
            )
        except RungRefused:
            self.hands.cache.attempts.ladders[action.uuid] = Ladder(action.step, NEVER_ASKED)
            raise

    async def destroy(self, progress: Progress) -> None:
        """Bounded per minute in the whole cluster (I13). A minute counts from the end of the call, for it may
        have been sent long after it was decided on."""
        now = self.hands.world.now()
        while self._destroys and self._destroys[0] < now - MINUTE_S:
            self._destroys.popleft()
        lately = len(self._destroys) + self._destroying
        if lately >= self.hands.bounds.destroys_per_minute:
            message = f"{lately} domains were destroyed in the last minute: this one waits"
            raise Halt(Report(Ending.FAILED, message))
        self._destroying += 1
        uuid = progress.action.uuid
        try:
            await self._mutate(progress, "destroy", lambda s, permit: s.destroy(uuid, permit))
        finally:
            self._destroying -= 1
            self._destroys.append(self.hands.world.now())

    async def suspend(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "suspend", lambda s, permit: s.suspend(uuid, permit))

    async def resume(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "resume", lambda s, permit: s.resume(uuid, permit))

    async def room(self, progress: Progress) -> None:
        """Whether the host's disk has room for the guest's memory, where the host can tell."""
        action = progress.action
        session = self.hands.observer.session(action.node)
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {action.node} is lost"))
        try:
            free = await session.save_room()
        except HypervisorError as error:
            raise Halt(Report(Ending.FAILED, f"{action.node} was asked for room: {error.message}")) from None
        progress.room = "unchecked" if free is None else "checked"
        if free is not None and free < action.room_bytes:
            needs = action.room_bytes >> 20
            message = f"{action.node} has {free >> 20} MiB free for saved memory, it needs {needs}"
            raise Halt(Report(Ending.FAILED, message))

    async def save(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "save", lambda s, permit: s.save(uuid, permit))

    async def drop_saved(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "drop_saved", lambda s, permit: s.drop_saved(uuid, permit))
        self.hands.cache.attempts.unreadable_saves.pop(uuid, None)

    async def reboot(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "reboot", lambda s, permit: s.reboot(uuid, permit))

    async def reset(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "reset", lambda s, permit: s.reset(uuid, permit))

    async def undefine(self, progress: Progress) -> None:
        uuid = progress.action.uuid
        await self._mutate(progress, "undefine", lambda s, permit: s.undefine(uuid, permit))

    async def mark(self, progress: Progress) -> None:
        """Both copies of the definition, where there are two."""
        action = progress.action
        sighting = self.hands.cache.seen.find(action.uuid, action.node)
        live = sighting is not None and sighting.record.active
        config = sighting is not None and sighting.detail.persistent
        audit(action)
        await self._mutate(
            progress,
            "metadata",
            lambda s, permit: s.set_mark(action.uuid, action.mark, live=live, config=config, permit=permit),
        )

    async def autostart(self, progress: Progress) -> None:
        uuid, on = progress.action.uuid, progress.action.autostart
        await self._mutate(progress, "autostart", lambda s, permit: s.set_autostart(uuid, on, permit))

    async def listed(self, progress: Progress) -> None:
        """R1c: a complete list, sent after the reply, in which the domain is neither active nor defined."""
        action = progress.action
        if not await self.hands.observer.fresh(action.node):
            raise Halt(Report(Ending.FAILED, f"node {action.node} did not answer the list after undefine"))
        seen = observe(self.hands.cache.snapshot(), action.uuid, action.node)
        if isinstance(seen, Unknown):
            raise Halt(Report(Ending.FAILED, seen.deferred.message))
        if isinstance(seen, Known):
            raise Halt(Report(Ending.STALE, f"it is still on {action.node}"))

    async def abort(self, progress: Progress) -> None:
        """A definition at the target goes with it (safety §5). It cannot go before, for libvirt keeps whoever
        changes the domain there waiting until the migration has ended: so it is asked to go, and then the job
        is ended. A start that comes after finds no domain. One that waits beside the undefine may go first
        (3 of 10 trials): late commands, which the plan waited for, are over, so it is none of ours."""
        uuid, target = progress.action.uuid, progress.action.target
        clearing: asyncio.Task[None] | None = None
        if target:
            undefine = self._mutate(
                progress, "undefine", lambda s, permit: s.undefine(uuid, permit), node=target
            )
            clearing = asyncio.create_task(undefine, name=f"clear {target}")
        try:
            if clearing is not None:
                await asyncio.wait({clearing}, timeout=AHEAD_S)
                if clearing.done():
                    clearing.result()
            await self._mutate(progress, "abort", lambda s, permit: s.abort_job(uuid, permit))
        finally:
            if clearing is not None:  # it has a deadline of its own, and its outcome is heard in any case
                await asyncio.wait({clearing})
        if clearing is not None:
            clearing.result()

    async def _mutate(
        self,
        progress: Progress,
        call: str,
        send: Callable[[Session, Permit], Awaitable[Result]],
        *,
        node: str = "",
    ) -> None:
        """Send one mutation to the action's node, or to another. Whatever the answer, the domain there is
        Unknown until it was read."""
        action, hands = progress.action, self.hands
        node = node or action.node
        session, permit = hands.observer.session(node), hands.permit()
        if permit is None:
            raise Halt(Report(Ending.FAILED, "the lease is too close to its end to act"))
        if session is None:
            raise Halt(Report(Ending.FAILED, f"the connection to node {node} is lost"))
        hands.begin()
        if action.kind is ActionKind.START:
            hands.cache.seen.expectations.hold(action.uuid, node)
        progress.touched = list(dict.fromkeys((*progress.touched, node)))
        known = False
        try:
            result = await send(session, permit)
            known = result.outcome is not Outcome.AMBIGUOUS
        finally:
            hands.end(known, node)
            if not known and call in GIVE_CAPABILITY:
                hands.cache.seen.expectations.doubt(action.uuid, node, hands.world.now())
            hands.cache.await_observation(action.uuid, node)
        if result.outcome is not Outcome.DONE:
            self._refused(action, call, result, node)

    def _refused(self, action: Action, call: str, result: Result, node: str) -> None:
        error = result.error
        message = f"{call} on {node}: {error.message if error is not None else result.outcome.value}"
        if isinstance(error, NoDomain):  # somebody took it away just now: look again, nothing failed
            raise Halt(Report(Ending.STALE, message))
        stalled = error is not None and error.advice is Advice.STALL and result.outcome is Outcome.REJECTED
        attempts = self.hands.cache.attempts
        if isinstance(error, SaveUnreadable):
            attempts.unreadable_saves[action.uuid] = message
        if isinstance(error, Unsupported):
            attempts.unsupported[action.uuid, node, call] = message
        log.warning("libvirt refused", extra={"domain": action.key, "why": message})
        if stalled and action.mark is not None and call in ("define", "create"):
            self.hands.cache.attempts.stalls[action.uuid] = Stall(action.node, action.mark.digest, message)
        locked = isinstance(error, DiskLocked)
        ending = Report(Ending.REJECTED if stalled else Ending.FAILED, message, locked)
        raise RungRefused(ending) if isinstance(error, Unsupported | HostFailed) else Halt(ending)
