"""A domain on its way from one host to another, peer to peer, whoever set it going: virsh, or the port.

It passes four phases, and every one of them shows on both ends:

    copying    source running; target paused (migration), active, without definition (or with an old one)
    switching  source paused (migration) as well
    arrived    target running (migrated), with the definition; for a moment beside the paused source
    over       source shut off (migrated), or gone; sometimes a stale definition stays there

The daemons of both ends drive it and must be in contact: without it (link cut, frozen, power lost) it fails
after 31.6 s, when a daemon is killed at once. Until `arrived` the source goes on and the target's copy is
removed, by its own daemon, when that can. A source that was paused then goes on, or rarely stays paused; one
whose target has arrived never runs again (0 of 60 torture runs): it stays paused, or is found shut off with
its definition still there.

But where the target was asked to take over and is frozen, or cut off, for longer than the source waits, it
does so late, when it goes on: beside the source, which goes on too. What was asked for with `stands` has then
a copy that stands paused (user) there, as any other has at the end; without, both run.

The source shows a job from the first moment until it is gone, also while it is paused beside its target that
runs; at the target libvirt refuses to tell of a job, until that has arrived. How it went is kept at the
target (and at the source, if anything of it is left), until its libvirtd ends. A guest that is stopped
answers nobody, and so holds its migration up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from drivers.errors import HypervisorError
from drivers.hypervisor import EventKind, Job, State
from tests.sim import definition
from tests.sim.definition import refusal
from tests.sim.domain import SimDomain
from tests.sim.job import ARRIVAL, JobLock

if TYPE_CHECKING:
    from tests.sim.host import SimHost

CONTACT_S = 31.6
NOTICES_S = 1.2  # how long an end takes to clear up after the other's daemon died
SWITCH_S = (0.05, 0.3)
CONFIRM_S = (0.2, 1.6)
NO_ROUTE_S = 3.1
STUCK_S = 1.0  # how often a migration that is held up by a stopped guest tries again
ROUND_S = 5.0  # in which all of a guest's memory is sent once, where it writes faster than that
BY = "migration"


@dataclass(frozen=True, slots=True)
class Manner:
    """How it was asked for. `persistent_xml`: what is planted at the target instead of the source's own
    definition. `copy_s`: until the switch-over, instead of what the source's temper draws. `stands`: it
    arrives paused. `by_hand`: it is spared a target that takes over late, which is for whoever asks for
    migrations behind domctl's back to see to."""

    persist: bool = True
    undefine_source: bool = True
    copy_s: float = 0.0
    persistent_xml: str | None = None
    copy_disks: tuple[str, ...] = ()
    stands: bool = False
    by_hand: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """A job lock, and whose turn it is."""

    lock: JobLock
    turn: int

    def release(self) -> None:
        self.lock.release(self.turn)


class Migration:
    """One migration. `phase` and `done` are there to look at."""

    def __init__(self, source: SimHost, target: SimHost, uuid: str, manner: Manner) -> None:
        self.source = source
        self.target = target
        self.uuid = uuid
        self.manner = manner
        self.phase = "asking"
        self.done: asyncio.Future[HypervisorError | None] = asyncio.get_running_loop().create_future()
        self._leaving: SimDomain
        self._arriving: SimDomain
        self._departure: Held
        self._arrival: Held
        self._timer: asyncio.TimerHandle | None = None
        self._contact: asyncio.TimerHandle | None = None
        self._due: Callable[[], None] | None = None  # a step that waits for contact
        self._owed: dict[SimHost, Callable[[], None]] = {}  # what a daemon does once it is up again
        self._began_at = 0.0
        self._copy_s = 0.0
        self.stalls = False  # the guest is faster than the copying, which never ends
        self._switched_at = 0.0
        self._paused_by_user = False
        self._broken = False  # an end lost its power: it will never be in contact again

    # --- asking both ends

    async def run(self, departure: Held) -> HypervisorError | None:
        """In a worker of the source's libvirtd, which holds the domain's job lock."""
        source, target = self.source, self.target
        leaving = source.domains[self.uuid]
        if leaving.snapshots:
            said = f"cannot migrate domain with {leaving.snapshots} snapshots"
            raise refusal(55, f"Requested operation is not valid: {said}")
        assert leaving.live is not None
        if not set(definition.known(leaving.live).local_disks) <= set(self.manner.copy_disks):
            raise refusal(81, "Unsafe migration: Migration without shared storage is unsafe")
        if source.uuid == target.uuid:
            raise refusal(1, "internal error: Attempt to migrate guest to the same host")
        if not self._in_contact():
            await asyncio.sleep(NO_ROUTE_S)
            raise refusal(38, "unable to connect to server: No route to host", origin=7)
        await source.network.pass_(source.name, target.name)
        self._check_target(leaving)
        lock, incarnation = target.lock(self.uuid), target.incarnation
        arrival = Held(lock, await lock.acquire(ARRIVAL))
        try:
            if not arrival.turn:
                raise refusal(68, "Timed out during operation: cannot acquire state change lock")
            self._check_target(leaving)
            if leaving.live is None or leaving.gone or incarnation != target.incarnation:
                raise refusal(9, "operation failed: domain is not running")
            self._begin(leaving, departure, arrival)
        except BaseException:
            arrival.release()
            raise
        return await asyncio.shield(self.done)

    def _check_target(self, leaving: SimDomain) -> None:
        there = self.target.domains.get(self.uuid)
        if there is not None and there.live is not None:
            raise refusal(55, f"Requested operation is not valid: domain '{there.name}' is already active")
        named = self.target.named(leaving.name)
        if (there is not None and there.name != leaving.name) or (
            named is not None and named.uuid != self.uuid
        ):
            raise refusal(9, f"operation failed: domain '{leaving.name}' already exists")

    def _begin(self, leaving: SimDomain, departure: Held, arrival: Held) -> None:
        target, source = self.target, self.source
        assert leaving.live is not None
        arriving = target.domains.get(self.uuid)
        if arriving is None:
            arriving = target.domains[self.uuid] = SimDomain(self.uuid, leaving.name)
        arriving.live = definition.live(leaving.live, target.next_id())
        arriving.boots += 1
        arriving.gone, arriving.stuck, arriving.asked = "", False, False
        arriving.came_from, arriving.is_old = None, False
        arriving.deaf, arriving.agent_up = leaving.deaf, False
        arriving.become(State.PAUSED, "migration")
        target.changed(arriving, "arriving", BY)
        target.say(arriving, EventKind.STARTED, "migrated")
        self._leaving, self._arriving = leaving, arriving
        self._paused_by_user = leaving.state is State.PAUSED
        leaving.at_end = self._source_ended
        arriving.at_end = self._target_ended
        self._departure, self._arrival = departure, arrival
        departure.lock.yields = partial(self._fail, 9, "operation failed: domain was destroyed")
        arrival.lock.yields = partial(self._fail, 9, "operation failed: migration out job: failed", keep=True)
        source.broken[self] = self._source_told
        target.broken[self] = self._target_told
        source.network.follow(self, source.name, target.name, self._link)
        self.phase = "copying"
        self._began_at = source.clock()
        self._copy_s = self.manner.copy_s or source.seconds(source.temper.copy_s)
        ours = self.manner.persistent_xml is not None  # an administrator would end one that never does
        self.stalls = ours and bool(source.temper.stalls) and source.rng.random() < source.temper.stalls
        if not self.stalls:
            self._after(self._copy_s, self._switch)

    def job(self) -> Job:
        """As the source tells of it."""
        if self.phase == "asking":
            return Job("migration-out", 0.0, 0, 0, 0)
        total = self._bytes()
        elapsed_s = self.source.clock() - self._began_at
        if self.stalls and self.source.temper.grows and self.phase == "copying":
            rounds = elapsed_s / ROUND_S
            return Job("migration-out", elapsed_s, int(total * rounds), total // 2 + int(rounds) % 7, total)
        share = 1.0 if self.phase != "copying" else min(elapsed_s / self._copy_s, 0.5 if self.stalls else 1.0)
        copied = int(total * share)
        return Job("migration-out", elapsed_s, copied, total - copied, total)

    def _bytes(self) -> int:
        live = self._leaving.live or self._arriving.live
        return 0 if live is None else definition.known(live).memory_bytes

    def _told(self, operation: str) -> Job:
        """What is kept of it once it is over."""
        now, total = self.source.clock(), self._bytes()
        downtime_ms = round((now - self._switched_at) * 1000)
        return Job(operation, now - self._began_at, total, 0, total, downtime_ms)

    # --- the phases

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._step, step)

    def _step(self, step: Callable[[], None]) -> None:
        """A step of both ends together, when they are in contact and their guests answer."""
        if self._leaving.stuck or self._arriving.stuck:
            self._after(STUCK_S, step)
        elif self._in_contact():
            step()
        else:
            self._due = step

    def _switch(self) -> None:
        leaving = self._leaving
        if leaving.gone:
            self._fail(9, "operation failed: domain is no longer running")
            return
        self.phase = "switching"
        self._switched_at = self.source.clock()
        if not self._paused_by_user:
            leaving.become(State.PAUSED, "migration")
            self.source.changed(leaving, "paused", BY)
            self.source.say(leaving, EventKind.SUSPENDED, "migrated")
        self._after(self.source.seconds(SWITCH_S), self._arrive)

    def _arrive(self) -> None:
        leaving, arriving = self._leaving, self._arriving
        if leaving.gone:
            self._fail(9, "operation failed: domain is no longer running")
            return
        self.phase = "arrived"
        arriving.at_end = None
        leaving.handed_over = self._paused_by_user or not self.manner.stands
        leaving.completed = self._told("migration-out")
        self._take_over()
        self._after(self.source.seconds(CONFIRM_S), self._confirm)

    def _take_over(self) -> None:
        """At the target: all of it is there, and runs, or stands."""
        target, leaving, arriving = self.target, self._leaving, self._arriving
        arriving.completed = self._told("migration-in")
        if self.manner.persist:
            assert arriving.live is not None
            planted = self.manner.persistent_xml or leaving.config or arriving.live
            target.operations.put(definition.inactive(planted), BY)
        if self._paused_by_user or self.manner.stands:
            arriving.become(State.PAUSED, "user")
            arriving.came_from = None if leaving.handed_over else leaving
            if self._paused_by_user and not leaving.handed_over:  # late: nobody will resume it
                leaving.at_end = partial(setattr, arriving, "came_from", None)
            target.say(arriving, EventKind.SUSPENDED, "paused")
        else:
            arriving.become(State.RUNNING, "migrated")
            target.say(arriving, EventKind.RESUMED, "migrated")
        arriving.agent_up = leaving.agent_up
        target.changed(arriving, "started", BY, "migrated")
        self._arrival.release()

    def _confirm(self) -> None:
        source, leaving = self.source, self._leaving
        leaving.at_end = None
        stale = source.rng.random() < source.temper.stale_definition
        if leaving.config is not None and self.manner.undefine_source and not stale:
            source.operations.take_away(leaving, BY)
        source.end(leaving, "unknown" if stale and leaving.config else "migrated", "migrated", BY)
        self._over(None)

    # --- when it goes wrong

    def abort(self) -> HypervisorError | None:
        """`domjobabort` at the source."""
        if self.phase == "arrived":
            return refusal(55, "Requested operation is not valid: no job is active on the domain")
        self._fail(78, "operation aborted: migration out job: canceled by client")
        return None

    def suspend(self, by: str) -> bool:
        """`virsh suspend` at the source, while it copies: it looks like the migration's own pause."""
        if self.phase != "copying" or self._paused_by_user or self._leaving.gone:
            return False
        self._paused_by_user = True
        self._leaving.become(State.PAUSED, "migration")
        self.source.changed(self._leaving, "paused", by)
        self.source.say(self._leaving, EventKind.SUSPENDED, "paused")
        return True

    def _fail(self, code: int, said: str, *, keep: bool = False) -> None:
        """Before it arrived: the source goes on, and the target's copy is removed, each by its own daemon.
        `keep`: the target's copy is being destroyed by somebody else."""
        if self.phase in {"arrived", "over"}:
            return
        self._forget_ends()
        if self._leaving.in_migration:
            self._at(self.source, self._resume_source)
        if keep:
            self._arrival.release()
        else:  # whoever waits there waits until it is removed
            self._at(self.target, self._remove_arriving)
        self._over(refusal(code, said, origin=7 if code == 38 else 10))

    def _forget_ends(self) -> None:
        self._leaving.at_end = self._arriving.at_end = None

    def _resume_source(self) -> None:
        """It goes on, or stays paused for ever."""
        source, leaving = self.source, self._leaving
        if leaving.live is None or leaving.gone or not leaving.in_migration:
            return
        if self._paused_by_user:
            leaving.become(State.PAUSED, "user")
            return
        if source.rng.random() < source.temper.left_paused:
            return
        self._arriving.is_old = self._arriving.live is not None
        leaving.become(State.RUNNING, "migration-canceled")
        source.changed(leaving, "resumed", BY)
        source.say(leaving, EventKind.RESUMED, "migrated")

    def _remove_arriving(self) -> None:
        arriving = self._arriving
        if arriving.live is not None and arriving.in_migration:
            self.target.end(arriving, "failed", "failed", BY)
        self._arrival.release()

    def _lose_source(self) -> None:
        """The target has arrived and nobody told the source: it never runs again."""
        source, leaving = self.source, self._leaving
        if leaving.live is None:
            return
        if source.rng.random() < source.temper.left_paused:
            return
        source.end(leaving, "unknown", "failed", BY)

    def _source_ended(self) -> None:
        """Crashed, destroyed or without power."""
        if self.phase in {"copying", "switching"}:
            self._fail(9, "operation failed: domain is not running")
        else:
            self._over(None)

    def _target_ended(self) -> None:
        self._fail(9, "operation failed: migration failed: guest unexpectedly quit", keep=True)

    # --- contact

    def _in_contact(self) -> bool:
        source, target = self.source, self.target
        link = not self._broken and source.network.up(source.name, target.name)
        return link and source.daemon == "up" and target.daemon == "up"

    def _link(self, _up: bool) -> None:
        if self._owed.get(self.target) == self._take_over_late:
            self._may_still_take_over("link")
        self._attend()

    def _attend(self) -> None:
        """Something changed that contact depends on."""
        if self.phase == "over":
            return
        if self._in_contact():
            if self._contact is not None:
                self._contact.cancel()
                self._contact = None
            step, self._due = self._due, None
            if step is not None:
                step()
        elif self._contact is None:
            self._contact = asyncio.get_running_loop().call_later(CONTACT_S, self._lost)

    def _lost(self) -> None:
        self._contact = None
        if self.phase == "arrived":
            self._leave_arrived()
        elif self._is_asked_for():
            self._give_up()
        else:
            self._fail(38, "operation failed: migration out job: connection lost")

    def _is_asked_for(self) -> bool:
        """The target has been asked to take over, will see that, and cannot answer yet."""
        asked = self._due == self._arrive and not self.manner.by_hand
        return asked and self.source.daemon == "up" and self.target.daemon in ("up", "frozen")

    def _give_up(self) -> None:
        """The source does not wait any longer."""
        self._forget_ends()
        self._at(self.source, self._resume_source)
        self._owed[self.target] = self._take_over_late
        self._arrival.lock.yields = self._never_take_over
        self._over(refusal(38, "internal error: client socket is closed", origin=7))
        self.source.network.follow(self, self.source.name, self.target.name, self._link)

    def _take_over_late(self) -> None:
        arriving = self._arriving
        if arriving.live is not None and arriving.in_migration and not arriving.gone:
            self._take_over()
        else:
            self._arrival.release()

    def _never_take_over(self) -> None:
        """Its copy is being destroyed."""
        self._owed.pop(self.target, None)
        self._arrival.release()
        self.source.network.unfollow(self, self.source.name, self.target.name)
        self._settle_debts()

    def _may_still_take_over(self, what: str) -> None:
        """Something became of the target, or of the way to it, that was asked and has not done it."""
        target = self.target
        if what in ("killed", "power"):
            self._owed[target] = self._remove_arriving  # what it had received is gone
        elif target.daemon == "up" and self.source.network.up(self.source.name, target.name):
            self._owed.pop(target)()
        else:
            return
        self.source.network.unfollow(self, self.source.name, target.name)
        self._settle_debts()

    def _leave_arrived(self) -> None:
        self._forget_ends()
        self._at(self.source, self._lose_source)
        self._over(refusal(38, "internal error: client socket is closed", origin=7))

    def _source_told(self, what: str) -> None:
        self._hears(self.source, what)

    def _target_told(self, what: str) -> None:
        self._hears(self.target, what)

    def _hears(self, host: SimHost, what: str) -> None:
        if host is self.target and self._owed.get(host) == self._take_over_late:
            self._may_still_take_over(what)
        elif what in {"up", "thawed"}:
            owed = self._owed.pop(host, None)
            if owed is not None:
                owed()
                self._settle_debts()
        if self.phase == "over":
            return
        if what == "power":
            self._broken = True
            self._forget_ends()
        if what == "killed":
            if self.phase == "arrived":
                self._leave_arrived()
            else:
                self._fail(38, "End of file while reading data")
        else:
            self._attend()

    def _at(self, host: SimHost, do: Callable[[], None]) -> None:
        """As soon as that host's daemon can: now, when it thaws, or when it is up again."""
        if host.daemon == "up":
            asyncio.get_running_loop().call_later(host.rng.random() * NOTICES_S, self._at_last, host, do)
        elif host.powered:
            self._owed[host] = do
            host.broken[self] = self._source_told if host is self.source else self._target_told

    def _at_last(self, host: SimHost, do: Callable[[], None]) -> None:
        if host.daemon == "up":
            do()
        else:
            self._at(host, do)

    # --- the end

    def _over(self, error: HypervisorError | None) -> None:
        self.phase = "over"
        for timer in (self._timer, self._contact):
            if timer is not None:
                timer.cancel()
        self._due = None
        self._departure.release()
        self.source.network.unfollow(self, self.source.name, self.target.name)
        self._settle_debts()
        if not self.done.done():
            self.done.set_result(error)

    def _settle_debts(self) -> None:
        for host in (self.source, self.target):
            if host not in self._owed:
                host.broken.pop(self, None)
