"""Migrations under way: the calls that this leader has out, and what the hosts say of each.

For every assignment whose intent is to migrate there is one watcher, whoever sent the migration: while its
own call is out it asks the source how far the job has come; afterwards it reads source and target again and
again, the target's request sent after the source's reply, until the plan has closed the intent. What was read
goes to the cache like any other observation, and `MoveWatch` says in which order it was read. Nothing is
decided here, and nothing is concluded from what the call returned, but that it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from controller.cache import Cache
from controller.model import Intent
from controller.observer import Observer
from controller.plan.snapshot import MoveWatch
from controller.plan.types import Action
from drivers.errors import HypervisorError, NoDomain
from drivers.hypervisor import Job, Outcome, Permit, Result, Session

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Movers:
    """`begin` and `end` count calls that are out, as the executor does."""

    cache: Cache
    observer: Observer
    now: Callable[[], float]
    begin: Callable[[], None]
    end: Callable[[bool], None]
    _calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _followers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _closed: bool = False

    async def run(self) -> None:
        """Follow every migration that stands in etcd, until cancelled."""
        try:
            while True:
                for uuid in self.cache.moving:
                    if uuid not in self._followers:
                        self._follow(uuid)
                self.cache.moved.clear()
                await self.cache.moved.wait()
        finally:
            await self._close()

    def send_off(self, action: Action, session: Session, permit: Permit) -> None:
        """Send a migration that was recorded. Returns at once."""
        uuid, view = action.uuid, self.cache.view(action.target)
        now = self.now()
        self.begin()
        watch = MoveWatch(in_flight=True, still_since=now, began_at=now, target_session=view.session)
        self.cache.watched(uuid, watch)
        task = asyncio.create_task(self._call(action, session, permit), name=f"migrate {uuid}")
        self._calls[uuid] = task
        if uuid not in self._followers:
            self._follow(uuid)

    async def _call(self, action: Action, session: Session, permit: Permit) -> None:
        """The call, from its sending to its end."""
        assert action.move is not None and action.after is not None and action.after.intent is not None
        uuid, epoch = action.uuid, action.after.intent.epoch
        known = False
        result = Result(Outcome.AMBIGUOUS)
        try:
            result = await session.migrate(uuid, action.move, permit)
            known = result.outcome is not Outcome.AMBIGUOUS
        finally:
            self.end(known)
            self._calls.pop(uuid, None)
            for node in (action.node, action.target):
                self.cache.await_observation(uuid, node)
            intent = self.cache.moving.get(uuid)
            if intent is not None and intent.epoch == epoch:
                self._over(uuid, result)
                self._nudge(uuid)

    def _over(self, uuid: str, result: Result) -> None:
        error = result.error
        said = "" if error is None else error.message
        level = logging.INFO if result.outcome is Outcome.DONE else logging.WARNING
        log.log(level, "migration call ended", extra={"uuid": uuid, "how": result.outcome.value, "why": said})
        self._note(
            uuid,
            in_flight=False,
            over_at=self.now(),
            unsure=result.outcome is Outcome.AMBIGUOUS,
            error=said,
            rejected=result.outcome is Outcome.REJECTED,
            no_path=error is not None and "unable to connect to server" in said,
            asked_at=None,
            job=None,
            read=None,
            answered_at=None,
        )

    def _note(self, uuid: str, **changed: object) -> None:
        watch = replace(self.cache.watches.get(uuid, MoveWatch()), **changed)  # type: ignore[arg-type]
        self.cache.watched(uuid, watch)

    # --- following

    def _follow(self, uuid: str) -> None:
        if self._closed:
            return
        task = asyncio.create_task(self._guarded(uuid), name=f"follow {uuid}")
        self._followers[uuid] = task

    def _nudge(self, uuid: str) -> None:
        """Look now: begin anew rather than wait for the next round."""
        follower = self._followers.pop(uuid, None)
        if follower is not None:
            follower.cancel()
        self._follow(uuid)

    async def _guarded(self, uuid: str) -> None:
        me = asyncio.current_task()
        try:
            while (intent := self.cache.moving.get(uuid)) is not None:
                try:
                    await self._round(uuid, intent)
                except HypervisorError as error:
                    log.debug("migration cannot be looked at", extra={"uuid": uuid, "why": error.message})
                except Exception:
                    log.exception("following a migration failed", extra={"uuid": uuid})  # and is tried again
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            if self._followers.get(uuid) is me:
                del self._followers[uuid]

    async def _round(self, uuid: str, intent: Intent) -> None:
        watch = self.cache.watches.get(uuid, MoveWatch())
        source = self.observer.session(intent.node)
        if watch.in_flight:
            if source is not None:
                await self._ask(uuid, source)
            return
        sent_at = await self._read(uuid, intent.node)
        if watch.unsure and watch.answered_at is None and sent_at is not None and sent_at > watch.over_at:
            self._note(uuid, answered_at=self.now())
        if source is not None and sent_at is not None:
            await self._ask(uuid, source)
        then_at = await self._read(uuid, intent.target)
        await self._ask_result(uuid, intent)
        if sent_at is not None and then_at is not None:
            self._note(uuid, read=(sent_at, then_at))

    async def _read(self, uuid: str, node: str) -> float | None:
        """One domain on one node, handed to the cache; when the request was sent. None: the node did not
        answer on a connection that was good before and after."""
        session, view = self.observer.session(node), self.cache.view(node)
        if session is None or not view.answers:
            return None
        sent_at = self.now()
        try:
            detail = await session.detail(uuid)
        except NoDomain:
            detail = None
        if not session.is_open or self.cache.view(node).session != view.session:
            return None
        self.cache.glanced(node, uuid, detail, sent_at)
        return sent_at

    async def _ask(self, uuid: str, source: Session) -> None:
        """What the source is doing with it. A domain that is not there has no job."""
        asked_at = self.now()
        job: Job | None
        try:
            job = await source.job(uuid)
        except NoDomain:
            job = None
        before = self.cache.watches.get(uuid, MoveWatch())
        if job is not None and job.operation != "migration-out":
            job = None if before.in_flight else job
        still = job is not None and before.job is not None and not _has_moved(before.job, job)
        still_since = before.still_since if still or (job is None and before.in_flight) else asked_at
        self._note(uuid, asked_at=asked_at, job=job, still_since=still_since)

    async def _ask_result(self, uuid: str, intent: Intent) -> None:
        """libvirt leaves the figures of a migration at its target."""
        session = self.observer.session(intent.target)
        sighting = self.cache.seen.find(uuid, intent.target)
        watch = self.cache.watches.get(uuid, MoveWatch())
        if session is None or sighting is None or not sighting.active or watch.result is not None:
            return
        with suppress(HypervisorError):
            self._note(uuid, result=await session.job(uuid, completed=True))

    async def _close(self) -> None:
        """The term is over: libvirt goes on with what it began, and the next leader follows it."""
        self._closed = True
        tasks = [*self._calls.values(), *self._followers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _has_moved(before: Job, after: Job) -> bool:
    return (before.processed_bytes, before.remaining_bytes) != (after.processed_bytes, after.remaining_bytes)
