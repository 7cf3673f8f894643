"""Migrations under way: the calls that this leader has out, and what the hosts say of each.

For every assignment whose intent is to migrate there is one watcher, whoever sent the migration: while its
own call is out it asks the source now and then how far the job has come, and leaves both ends alone unless it
is to be ended, for every read holds up the hosts that are at work on it; afterwards it reads source and
target again, the target's request sent after the source's reply, at once and whenever something was heard of
it, until the plan has closed the intent. What was read goes to the cache like any other observation, and
`MoveWatch` says in which order it was read. Nothing is decided here, and nothing is concluded from what the
call returned, but that it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from msgspec import UnsetType

from controller.cache import Cache
from controller.model import Intent
from controller.observer import Observer
from controller.passwords import unquoted
from controller.plan.ends import USER_PAUSED
from controller.plan.migrating import does_not_converge
from controller.plan.snapshot import MoveWatch
from controller.plan.types import Action
from drivers.errors import HypervisorError, NoDomain, PeerUnreachable
from drivers.hypervisor import Job, Outcome, Permit, Result, Session
from specs.graphics import passwords_in

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
PROGRESS_EVERY_S = 1.0
FIRST_PROGRESS_S = 2.0  # most are over by then, and nobody had to be asked
TOGETHER_S = 0.01  # the end of a call and its event come within this, and are looked at once
DOUBT_S = 10.0  # without progress for so long it may have to be ended


@dataclass(slots=True)
class _Follower:
    """`looked_at`: when its last look began."""

    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: float = float("-inf")


@dataclass(slots=True)
class Movers:
    """`begin` and `end` count calls that are out, as the executor does."""

    cache: Cache
    observer: Observer
    now: Callable[[], float]
    begin: Callable[[], None]
    end: Callable[[bool, str], None]
    _calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _followers: dict[str, _Follower] = field(default_factory=dict)
    _closed: bool = False

    async def run(self) -> None:
        """Follow every migration that stands in etcd, until cancelled."""
        try:
            while True:
                for uuid, intent in self.cache.moves.moving.items():
                    if uuid in self.cache.moves.leaving:
                        continue  # its steps are this leader's own, and under way
                    follower = self._followers.get(uuid)
                    if follower is None:
                        self._follow(uuid)
                    elif self._is_due(uuid, intent, follower.looked_at):
                        follower.wake.set()
                self.cache.moves.news.clear()
                await self.cache.moves.news.wait()
        finally:
            await self._close()

    def send_off(self, action: Action, session: Session, permit: Permit) -> None:
        """Send a migration that was recorded. Returns at once."""
        uuid, now = action.uuid, self.now()
        self.begin()
        watch = MoveWatch(
            in_flight=True,
            still_since=now,
            began_at=now,
            source_session=self.cache.view(action.node).session,
            target_session=self.cache.view(action.target).session,
        )
        self.cache.watched(uuid, watch)
        task = asyncio.create_task(self._call(action, session, permit), name=f"migrate {uuid}")
        self._calls[uuid] = task
        if uuid not in self._followers:
            self._follow(uuid, after_s=FIRST_PROGRESS_S)

    async def _call(self, action: Action, session: Session, permit: Permit) -> None:
        """The call, from its sending to its end."""
        assert action.move is not None and action.after is not None and action.after.intent is not None
        uuid, epoch = action.uuid, action.after.intent.epoch
        known = False
        result = Result(Outcome.AMBIGUOUS)
        try:
            planted = passwords_in(action.move.persistent_xml or "")
            result = unquoted(await session.migrate(uuid, action.move, permit), planted)
            known = result.outcome is not Outcome.AMBIGUOUS
        finally:
            self.end(known, action.node)
            self._calls.pop(uuid, None)
            for node in (action.node, action.target):
                self.cache.await_observation(uuid, node)
            intent = self.cache.moves.moving.get(uuid)
            if intent is not None and intent.epoch == epoch:
                self._over(uuid, epoch, result)
                self._nudge(uuid)

    def _over(self, uuid: str, epoch: int, result: Result) -> None:
        error = result.error
        said = "" if error is None else error.message
        level = logging.INFO if result.outcome is Outcome.DONE else logging.WARNING
        log.log(level, "migration call ended", extra={"uuid": uuid, "how": result.outcome.value, "why": said})
        self._note(
            uuid,
            epoch,
            in_flight=False,
            over_at=self.now(),
            done=result.outcome is Outcome.DONE,
            unsure=result.outcome is Outcome.AMBIGUOUS,
            error=said,
            rejected=result.outcome is Outcome.REJECTED,
            no_path=isinstance(error, PeerUnreachable) and not self._has_begun(uuid),
            asked_at=None,
            job=None,
            read=None,
            answered_at=None,
        )

    def _has_begun(self, uuid: str) -> bool:
        """For all that was seen of its progress: then it is not that the hosts do not reach each other."""
        job = self.cache.moves.watches.get(uuid, MoveWatch()).job
        return job is not None and job.processed_bytes > 0

    def _note(self, uuid: str, epoch: int, **changed: object) -> None:
        """What was found out of the migration of this epoch: nothing to any other, nor to none."""
        intent = self.cache.moves.moving.get(uuid)
        if intent is None or intent.epoch != epoch:
            return
        watch = replace(self.cache.moves.watches.get(uuid, MoveWatch()), **changed)  # type: ignore[arg-type]
        self.cache.watched(uuid, watch)

    # --- following

    def _follow(self, uuid: str, after_s: float = 0.0) -> None:
        if self._closed:
            return
        follower = self._followers[uuid] = _Follower()
        follower.task = asyncio.create_task(self._guarded(uuid, follower, after_s), name=f"follow {uuid}")

    def _nudge(self, uuid: str) -> None:
        """Look now: begin anew rather than wait for an answer that tells nothing any more."""
        follower = self._followers.pop(uuid, None)
        if follower is not None and follower.task is not None:
            follower.task.cancel()
        self._follow(uuid)

    def _is_due(self, uuid: str, intent: Intent, looked_at: float) -> bool:
        """Whether something was heard of it, or done to it, since it was looked at; or it is to be ended."""
        watch, seen = self.cache.moves.watches.get(uuid, MoveWatch()), self.cache.seen
        if watch.in_flight:
            return self._is_to_end(uuid, intent, watch) and self.now() - looked_at > LOOK_EVERY_S
        done_at = (seen.expectations.pending.get((uuid, n), 0.0) for n in (intent.node, intent.target))
        return max(seen.heard_at.get(uuid, 0.0), *done_at) > looked_at

    def _is_to_end(self, uuid: str, intent: Intent, watch: MoveWatch) -> bool:
        """What is to be ended is judged by both ends as they are now."""
        request, stored = self.cache.migrations.by_uid.get(intent.request), self.cache.domains.get(uuid)
        aborted = request is not None and request.migration.spec.abort is True
        deleted = stored is not None and not isinstance(stored.domain.metadata.deletion_timestamp, UnsetType)
        return aborted or deleted or self.now() - watch.still_since > DOUBT_S or does_not_converge(watch.job)

    async def _guarded(self, uuid: str, me: _Follower, after_s: float) -> None:
        try:
            await _pause(me.wake, after_s)
            while (intent := self.cache.moves.moving.get(uuid)) is not None:
                if me.wake.is_set():
                    await asyncio.sleep(TOGETHER_S)
                me.wake.clear()
                me.looked_at = self.now()
                try:
                    await self._round(uuid, intent)
                except HypervisorError as error:
                    log.debug("migration cannot be looked at", extra={"uuid": uuid, "why": error.message})
                except Exception:
                    log.exception("following a migration failed", extra={"uuid": uuid})  # and is tried again
                watch = self.cache.moves.watches.get(uuid)
                in_flight = watch is not None and watch.in_flight
                await _pause(me.wake, PROGRESS_EVERY_S if in_flight else LOOK_EVERY_S)
        finally:
            if self._followers.get(uuid) is me:
                del self._followers[uuid]

    async def _round(self, uuid: str, intent: Intent) -> None:
        watch = self.cache.moves.watches.get(uuid, MoveWatch())
        source = self.observer.session(intent.node)
        if watch.in_flight:
            if source is not None:
                self._note(uuid, intent.epoch, **await self._job(uuid, source))
            if not self._is_to_end(uuid, intent, self.cache.moves.watches.get(uuid, watch)):
                return
        news: dict[str, object] = {}
        try:
            asks = source is not None and not watch.in_flight and _may_be_at_it(watch)
            told = await self._job(uuid, source) if asks and source is not None else {}
            sent_at = await self._read(uuid, intent.node)
            if sent_at is not None:
                news |= told
            if watch.unsure and watch.answered_at is None and sent_at is not None and sent_at > watch.over_at:
                news["answered_at"] = self.now()
            then_at = await self._read(uuid, intent.target, again=watch.done and watch.read is not None)
            if sent_at is not None and then_at is not None:
                news["read"] = (sent_at, then_at)
                if watch.done and intent.goes_on and self._stands(uuid, intent.target):
                    self._note(uuid, intent.epoch, **news)  # its guest waits to be let go
                    news = {}
            if not watch.in_flight:
                news |= await self._result(uuid, intent, watch)
        finally:
            if news:
                self._note(uuid, intent.epoch, **news)

    async def _read(self, uuid: str, node: str, *, again: bool = False) -> float | None:
        """One domain on one node, handed to the cache; when the request was sent. None: the node did not
        answer on a connection that was good before and after. `again`: what it is made of was read already
        since the call was over, and whether it runs is all that is asked."""
        session, view = self.observer.session(node), self.cache.view(node)
        if session is None or not view.answers:
            return None
        sent_at = self.now()
        seen = self.cache.seen.find(uuid, node) if again else None
        try:
            detail = await session.detail(uuid, None if seen is None else seen.detail)
        except NoDomain:
            detail = None
        if not session.is_open or self.cache.view(node).session != view.session:
            return None
        self.cache.glanced(node, uuid, detail, sent_at)
        return sent_at

    async def _job(self, uuid: str, source: Session) -> dict[str, object]:
        """What the source is doing with it, asked before its state is read: one that shows no job and then is
        active was given up. The other way round a switch-over between the two would look the same."""
        asked_at = self.now()
        try:
            job = await source.job(uuid)
        except NoDomain:
            return {}  # what is read next says so, or that it is back and to be asked for again
        before = self.cache.moves.watches.get(uuid, MoveWatch())
        if job is not None and job.operation != "migration-out":
            job = None if before.in_flight else job
        still = job is not None and before.job is not None and not _has_moved(before.job, job)
        still_since = before.still_since if still or (job is None and before.in_flight) else asked_at
        return {"asked_at": asked_at, "job": job, "still_since": still_since}

    async def _result(self, uuid: str, intent: Intent, watch: MoveWatch) -> dict[str, object]:
        """libvirt leaves the figures of a migration at its target."""
        session = self.observer.session(intent.target)
        sighting = self.cache.seen.find(uuid, intent.target)
        if session is None or sighting is None or not sighting.active or watch.result is not None:
            return {}
        with suppress(HypervisorError):
            return {"result": await session.job(uuid, completed=True)}
        return {}

    def _stands(self, uuid: str, node: str) -> bool:
        seen = self.cache.seen.find(uuid, node)
        return seen is not None and (seen.record.state, seen.record.reason) == USER_PAUSED

    async def _close(self) -> None:
        """The term is over: libvirt goes on with what it began, and the next leader follows it."""
        self._closed = True
        tasks = [*self._calls.values(), *(f.task for f in self._followers.values() if f.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _may_be_at_it(watch: MoveWatch) -> bool:
    """A call that succeeded left nothing at its source; only where that shows otherwise is it asked for."""
    return not watch.done or watch.read is not None


async def _pause(wake: asyncio.Event, seconds: float) -> None:
    """Until it is woken, or so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()


def _has_moved(before: Job, after: Job) -> bool:
    return (before.processed_bytes, before.remaining_bytes) != (after.processed_bytes, after.remaining_bytes)
