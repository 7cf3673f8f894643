"""The election: at most one leader acts, and every other replica knows that it does not (safety §4).

Place in the flow: `run` campaigns for the leader key with a lease, and for each term runs `lead` with a
`Leadership`, the right to write (its `token` fences every transaction) and to mutate (`permit`). A term
begins by a transaction that also records who leads now and reads who led before, so that the new leader
knows whether its predecessor resigned. Every renewal is a keep-alive and a new random heartbeat, written
over the last one in a fenced transaction; only both together extend the local deadline.

*Lost* is final: the key is gone or another's, and `lead` is cancelled. *No permit* is for now: the last
renewal was sent too long ago or the store is not trusted; the term goes on if a later renewal shows that
the lease never ended. A lease is no proof of exclusivity to the hosts: see the quiet time in the plan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from controller import keys
from controller.limits import Timing
from controller.model import LeaderRecord
from controller.storewatch import Horizon, StoreTrust, StoreWatch
from controller.watching import watching
from controller.words import Clock
from controller.world import World
from drivers.errors import LeaseLost, StoreError, StoreUnavailable
from drivers.hypervisor import Permit
from drivers.store import ChangeSet, Compare, Delete, KeyValue, Put, Store

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0  # a follower reads the leader key this often beside its watch: one cheap get
PAUSE_S: Final = 0.5  # between attempts while the store does not answer
RESIGN_TIMEOUT_S: Final = 3.0


@dataclass(slots=True, eq=False)
class Leadership:
    """One term. `token`: the leader key's create revision; `lease`: what it hangs on. `previous`: who led
    before; None: nobody ever, or the record cannot be read (then `predecessor_resigned` is False).
    `elected_at`: monotonic seconds.

    Mutating calls are counted, because only a leader without outstanding or unknown ones may resign: its
    commands could otherwise arrive while the next leader, trusting the resignation, already acts. `unknown`:
    the nodes that did not answer to one, when that was given up, and when they answered a list since."""

    token: int
    elected_at: float
    previous: LeaderRecord | None
    predecessor_resigned: bool
    world: World
    storewatch: StoreWatch
    store: Store
    record: LeaderRecord
    lease: int
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    renewed: asyncio.Event = field(default_factory=asyncio.Event)  # set by the first renewal
    deadline_s: float = 0.0
    outstanding: int = 0
    unknown: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    resigning: bool = False
    clock: Clock = field(default_factory=Clock)
    quiet_over: bool = False  # no late command of a former leader can arrive any more

    def __post_init__(self) -> None:
        self.quiet_over = self.predecessor_resigned

    @property
    def fence(self) -> tuple[Compare, ...]:
        """What holds while the leader key is of this term. In a restored store another leader's key may have
        its create revision (seed 5 of moves_unheard), but not hang on its lease."""
        return Compare(keys.LEADER, self.token, on="create"), Compare(keys.LEADER, self.lease, on="lease")

    def owns(self, leader: KeyValue | None) -> bool:
        return leader is not None and (leader.create_revision, leader.lease) == (self.token, self.lease)

    @property
    def is_valid(self) -> bool:
        """Whether the lease certainly still holds, by the local clock."""
        return not self.lost.is_set() and self.world.now() < self.deadline_s

    def permit(self) -> Permit | None:
        """Leave to begin one mutating call now, or None (I4). Call `begin_mutation` before the next await."""
        if self.is_valid and not self.resigning and self.storewatch.may_mutate:
            return Permit(not_after_s=self.deadline_s)
        return None

    def horizon(self) -> Horizon:
        return self.storewatch.horizon()._replace(sent_at=self.world.now())

    def answered(self, revision: int, before: Horizon, *, wrote: bool) -> None:
        """Every answer tells of a restored store, and the next heartbeat may be many calls to hosts later."""
        self.storewatch.answered(revision, before, wrote=wrote)
        self.clock.answered(before.sent_at, revision)

    def begin_mutation(self) -> None:
        self.outstanding += 1

    def end_mutation(self, known: bool, node: str) -> None:
        """A mutating call came back, or its caller was cancelled. `known` False: its command may still arrive
        at `node` (AMBIGUOUS, or cancelled while it was on its way)."""
        self.outstanding -= 1
        assert self.outstanding >= 0, "more mutations ended than began"
        if not known:
            self.unknown[node] = (self.world.now(), None)

    def note_answers(self, reads: Callable[[str], Reads], quiet_s: Callable[[str], float]) -> None:
        """What a node had received before it answered a list is carried out within its quiet time from then,
        which is what a successor would wait for; so nothing is unknown any more after that."""
        for node, (ended_at, answered_at) in tuple(self.unknown.items()):
            sent_at, heard_at = reads(node)[-1] if reads(node) else (ended_at, ended_at)
            if answered_at is None and sent_at > ended_at:
                self.unknown[node] = (ended_at, heard_at)
            elif answered_at is not None and self.world.now() - answered_at > quiet_s(node):
                del self.unknown[node]

    def lose(self, why: str) -> None:
        """End the term, for good."""
        if not self.lost.is_set():
            log.warning("leadership lost", extra={"token": self.token, "why": why})
            self.lost.set()

    async def resign(self) -> bool:
        """Hand over, so that the next leader need not wait: delete the leader key and say so, in one fenced
        transaction. False, and the lease is left to run out, if a mutating call of this term is still on
        its way or unknown, or if the store does not answer. Nothing may be mutated afterwards."""
        self.resigning = True
        if self.lost.is_set() or self.outstanding or self.unknown:
            return False
        farewell = msgspec.structs.replace(self.record, resigned=self.quiet_over, at=self.world.wall())
        try:
            result = await self.store.txn(
                self.fence,
                [Delete(keys.LEADER), Put(keys.LAST_LEADER, msgspec.json.encode(farewell))],
            )
        except StoreError as error:
            log.warning("could not resign; the lease runs out", extra={"error": error.message})
            return False
        self.lost.set()
        return result.ok


Reads = Sequence[tuple[float, float]]  # of a node: when its lists were sent, and answered
Lead = Callable[[Leadership], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Election:
    """One replica's candidacy. `identity` is unique to this process."""

    store: Store
    world: World
    timing: Timing
    identity: str
    host: str
    storewatch: StoreWatch

    async def run(self, lead: Lead) -> None:
        """Campaign and lead, term after term, until cancelled or until `lead` returns or raises. `lead` is
        cancelled when leadership is lost. When this is cancelled while leading, `lead` is too, and after it
        ended the leader resigns if it may."""
        while True:
            leadership, lease = await self._campaign()
            if not await self._reign(leadership, lease, lead):
                return

    # --- getting elected

    async def _campaign(self) -> tuple[Leadership, int]:
        complained = False
        while True:
            try:
                await self._vacancy()
                elected = await self._stand()
            except StoreError as error:
                log.log(
                    logging.DEBUG if complained else logging.WARNING,
                    "cannot campaign",
                    extra={"error": error.message},
                )
                complained = True
                await asyncio.sleep(PAUSE_S)
                continue
            if elected is not None:
                log.info("elected", extra={"token": elected[0].token, "identity": self.identity})
                return elected

    async def _vacancy(self) -> None:
        """Return when nobody holds the leader key. The watch makes it quick, the polling certain: a watch
        on a frozen member says nothing. It begins where the key was read, for the key itself is as old as
        the term, and etcd may have compacted what was then, or would look through all that came since."""
        page = await self.store.page(keys.LEADER, limit=1)
        if not page.items:
            return
        async with watching(self.store, keys.LEADER, page.revision) as changes:
            gone = asyncio.create_task(_deletion(changes), name="leader-gone")
            try:
                while not gone.done() and await self.store.get(keys.LEADER) is not None:
                    await asyncio.wait({gone}, timeout=LOOK_EVERY_S)
                if gone.done():
                    gone.result()
            finally:
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)

    async def _stand(self) -> tuple[Leadership, int] | None:
        """Try once to put the leader key; None if somebody else was quicker."""
        asked_at = self.world.now()
        lease = await self.store.grant(self.timing.lease_ttl_s)
        last = await self.store.get(keys.LAST_LEADER)
        record = LeaderRecord(id=self.identity, host=self.host, at=self.world.wall())
        value = msgspec.json.encode(record)
        try:
            result = await self.store.txn(
                [
                    Compare(keys.LEADER, 0, on="create"),
                    Compare(keys.LAST_LEADER, last.mod_revision if last else 0),
                ],
                [Put(keys.LEADER, value, lease=lease), Put(keys.LAST_LEADER, value)],
            )
        except StoreUnavailable as error:
            if not error.maybe_committed:
                raise
            token = await self._token_of(lease, until=asked_at + self.timing.lease_ttl_s)
        else:
            token = result.revision if result.ok else 0
        if not token:
            await self.store.revoke(lease)  # else a late commit could still bring us to power unawares
            return None
        previous = _decode(last)
        return (
            Leadership(
                token=token,
                elected_at=self.world.now(),
                previous=previous,
                predecessor_resigned=self._was_never_led(last)
                or (previous is not None and previous.resigned),
                world=self.world,
                storewatch=self.storewatch,
                store=self.store,
                record=record,
                lease=lease,
            ),
            lease,
        )

    def _was_never_led(self, last: KeyValue | None) -> bool:
        """Nobody led before, if the store is new and this replica remembers no leader's heartbeat in it: one
        that lost what it held says the same."""
        new = (StoreTrust.NEW, StoreTrust.UNEXAMINED, StoreTrust.TRUSTED)  # trusted: looked at twice by now
        return last is None and self.storewatch.trust in new and not self.storewatch.saw_a_leader

    async def _token_of(self, lease: int, until: float) -> int:
        """The reply to our candidacy was lost: the key's lease tells whether it is ours, by a lease that
        nobody else has. Returns its create revision, or 0."""
        while True:
            try:
                leader = await self.store.get(keys.LEADER)
            except StoreUnavailable:
                if self.world.now() >= until:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            return leader.create_revision if leader is not None and leader.lease == lease else 0

    # --- leading

    async def _reign(self, leadership: Leadership, lease: int, lead: Lead) -> bool:
        """Lead until lost or until `lead` ends; returns whether to campaign again."""
        renewing = asyncio.create_task(self._renew(leadership, lease), name="election-renew")
        leading = asyncio.create_task(_lead_once_renewed(leadership, lead), name="election-lead")
        losing = asyncio.create_task(leadership.lost.wait(), name="election-lost")
        try:
            await asyncio.wait({renewing, leading, losing}, return_when=asyncio.FIRST_COMPLETED)
            if renewing.done():
                renewing.result()  # a bug ended it, for it goes on until the term ends
            finished = leading.done() and not leadership.lost.is_set()
            if finished:
                leading.result()
        finally:
            clean = await _ended(leading)
            if clean and not leadership.lost.is_set():
                await _step_down(leadership)
            leadership.lost.set()
            await _ended(losing)
            await _ended(renewing)
        return not finished

    async def _renew(self, leadership: Leadership, lease: int) -> None:
        """Keep the lease and the heartbeat going until the term ends. A store that does not answer is asked
        again and again: permits stop by themselves at the deadline."""
        pulse = _Pulse()
        complained = False
        while not leadership.lost.is_set():
            sent_at = self.world.now()
            try:
                async with asyncio.timeout(self.timing.renew_every_s):
                    ttl_s = await self.store.keep_alive(lease)
                    await self._beat(leadership, pulse)
            except LeaseLost as error:
                leadership.lose(error.message)
                return
            except (StoreError, TimeoutError) as error:
                level = logging.DEBUG if complained else logging.WARNING
                log.log(level, "cannot renew the leader's lease", extra={"error": str(error) or "time-out"})
                complained = True
                await asyncio.sleep(PAUSE_S)
                continue
            if leadership.lost.is_set():
                return
            if complained:
                log.info("the leader's lease is renewed again", extra={"token": leadership.token})
                complained = False
            margin_s = self.timing.lease_ttl_s - self.timing.act_within_s
            leadership.deadline_s = sent_at + min(self.timing.act_within_s, ttl_s - margin_s)
            leadership.renewed.set()
            await asyncio.sleep(max(0.0, sent_at + self.timing.renew_every_s - self.world.now()))

    async def _beat(self, leadership: Leadership, pulse: _Pulse) -> None:
        """Write a new heartbeat over the last one. Only the leader writes it, so any other value there than
        one it tried to write comes out of a backup."""
        if pulse.revision is None:
            await self.storewatch.examine(self.store)  # judged before its heartbeat is overwritten
            found = await self.store.get(keys.HEARTBEAT)
            pulse.revision = found.mod_revision if found is not None else 0
            pulse.past = self.storewatch.past
        while True:
            before = leadership.horizon()
            value = self.world.new_id()
            pulse.tried.add(value.encode())
            result = await self.store.txn(
                [*leadership.fence, Compare(keys.HEARTBEAT, pulse.revision)],
                [Put(keys.HEARTBEAT, value.encode())],
            )
            if result.ok:
                pulse.revision, pulse.past = result.revision, self.storewatch.past
                pulse.tried.clear()
                self.storewatch.renewed(result.revision, value, before)
                leadership.clock.answered(before.sent_at, result.revision)
                return
            if not leadership.owns(result.current.get(keys.LEADER)):
                leadership.lose("the leader key is not of this term")
                return
            found = result.current.get(keys.HEARTBEAT)
            known = found is not None and found.value in pulse.tried
            if not known and pulse.past == self.storewatch.past:
                self.storewatch.note_restored("the store's heartbeat is not the one that this leader wrote")
            pulse.revision = found.mod_revision if found is not None else 0
            pulse.past = self.storewatch.past


@dataclass(slots=True)
class _Pulse:
    """The heartbeat's mod revision as this leader knows it, of which past of the store (see StoreWatch), and
    values whose replies were lost."""

    revision: int | None = None
    past: int = 0
    tried: set[bytes] = field(default_factory=set)


async def _deletion(changes: AsyncIterator[ChangeSet]) -> None:
    async for change_set in changes:
        if any(change.kind == "delete" for change in change_set.changes):
            return


async def _lead_once_renewed(leadership: Leadership, lead: Lead) -> None:
    await leadership.renewed.wait()
    await lead(leadership)


async def _step_down(leadership: Leadership) -> None:
    try:
        async with asyncio.timeout(RESIGN_TIMEOUT_S):
            resigned = await leadership.resign()
    except TimeoutError:
        resigned = False
    log.info("leadership ended", extra={"token": leadership.token, "resigned": resigned})


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Cancel a task and wait for its end; False if it ended by an error."""
    task.cancel()
    await asyncio.wait({task})
    if task.cancelled() or task.exception() is None:
        return True
    log.debug("ended by an error", extra={"task": task.get_name()}, exc_info=task.exception())
    return False


def _decode(kv: KeyValue | None) -> LeaderRecord | None:
    """Who led last; what cannot be read counts as nobody known, and as not resigned."""
    if kv is None:
        return None
    try:
        return msgspec.json.decode(kv.value, type=LeaderRecord)
    except msgspec.DecodeError:
        return None
