"""What was measured of libvirt and cannot be said in the contract, of migrations as both ends
show them: each test is one such fact, and the simulated host must show it."""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from drivers.errors import HypervisorError, NoDomain
from drivers.hypervisor import EventKind, State
from tests import virtualtime
from tests.sim import definition
from tests.sim.domain import Change
from tests.sim.migration import Manner, Migration
from tests.sim.twohosts import (
    HERE,
    MARK,
    OTHER,
    PAUSED,
    QUIET,
    THERE,
    UUID,
    XML,
    Ends,
    Lab,
    now,
    simulated,
    until,
)
from tests.sim.virsh import Virsh


async def _migrating(
    lab: Lab, manner: Manner | None = None
) -> tuple[asyncio.Task[HypervisorError | None], Migration]:
    await lab.running()
    manner = manner or Manner(copy_s=10)
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, manner))
    await until(lambda: UUID in lab.other.domains)
    return moving, lab.host.operations.migrations[UUID]


@simulated
async def test_a_migration_shows_on_both_ends_until_it_is_over(lab: Lab) -> None:
    await lab.open("h1")
    await lab.open("h2")
    moving, _ = await _migrating(lab)
    arriving = lab.other.domains[UUID].detail()
    assert (arriving.record.active, arriving.persistent, arriving.live_mark) == (True, False, MARK)
    seen = [lab.ends()]
    while not moving.done():
        if lab.ends() != seen[-1]:
            seen.append(lab.ends())
        assert not (lab.host.active(UUID) and lab.other.active(UUID))
        await asyncio.sleep(0.01)
    assert await moving is None
    assert seen == [(HERE, PAUSED), (PAUSED, PAUSED), (PAUSED, THERE)]
    assert lab.ends() == (None, THERE)
    assert lab.other.domains[UUID].detail().config_mark == MARK
    await asyncio.sleep(1)
    told = lab.events()
    for earlier, later in itertools.pairwise(
        [(EventKind.SUSPENDED, "migrated"), (EventKind.RESUMED, "migrated"), (EventKind.STOPPED, "migrated")]
    ):
        assert told.index(earlier) < told.index(later)


@simulated
async def test_a_source_that_keeps_its_definition_is_shut_off_as_migrated(lab: Lab) -> None:
    moving, _ = await _migrating(lab, Manner(undefine_source=False, copy_s=10))
    await moving
    assert lab.ends() == ((State.SHUTOFF, "migrated"), THERE)


@simulated
async def test_a_stale_definition_may_stay_at_the_source(lab: Lab) -> None:
    lab.host.temper.stale_definition = 1.0
    moving, _ = await _migrating(lab)
    assert await moving is None
    assert lab.ends() == ((State.SHUTOFF, "unknown"), THERE)


@simulated
async def test_a_transient_domain_arrives_transient(lab: Lab) -> None:
    await lab.running()
    await lab.virsh.undefine(UUID)
    assert await lab.virsh.migrate(UUID, lab.other, Manner(persist=False)) is None
    assert lab.ends() == (None, THERE)
    assert lab.other.domains[UUID].config is None


Hit = Callable[[Lab], object]
HITS: dict[str, tuple[Hit, float, Ends]] = {
    "the link between them is cut": (lambda lab: lab.network.cut("h1", "h2"), 31.6, (HERE, None)),
    "the source's daemon is killed": (lambda lab: lab.host.kill_daemon(), 0, (HERE, None)),
    "the target's daemon is killed": (lambda lab: lab.other.kill_daemon(), 0, (HERE, PAUSED)),
    "the source's daemon is frozen": (lambda lab: lab.host.freeze(), 31.6, (HERE, None)),
    "the target's daemon is frozen": (lambda lab: lab.other.freeze(), 31.6, (HERE, PAUSED)),
    "the target loses its power": (lambda lab: lab.other.power_off(), 31.6, (HERE, None)),
    "the guest crashes": (lambda lab: lab.host.crash_guest(UUID), 1.2, ((State.SHUTOFF, "crashed"), None)),
    "the target's copy is killed": (lambda lab: lab.other.crash_guest(UUID), 1.2, (HERE, None)),
}


@pytest.mark.parametrize("what", HITS)
def test_a_migration_that_fails_while_it_copies_leaves_the_domain_where_it_was(what: str) -> None:
    hit, after_s, ends = HITS[what]

    @simulated
    async def run(lab: Lab) -> None:
        moving, migration = await _migrating(lab, Manner(copy_s=50))
        began = now()
        hit(lab)
        await until(migration.done.done)
        assert now() - began == pytest.approx(after_s, abs=0.1) or now() - began < after_s < 2
        await asyncio.sleep(2)
        assert lab.ends() == ends
        lab.network.heal_all()
        for host in lab.hosts.values():
            host.thaw()
            host.start_daemon()
        await asyncio.sleep(10)
        assert lab.ends() == (ends[0], None)
        assert await moving is not None
        assert all(not host.broken for host in lab.hosts.values())

    run()


def test_a_disturbed_switch_over_never_runs_the_domain_twice() -> None:
    """60 torture runs; what they leave: one side running, a source that stays paused, a stale definition."""
    ends: collections.Counter[Ends] = collections.Counter()
    hits = [hit for what, (hit, _, _) in HITS.items() if "daemon" in what or "link" in what]

    async def trial(number: int) -> None:
        lab = Lab(seed=number, temper=replace(QUIET, left_paused=0.4))
        moving, migration = await _migrating(lab, Manner(copy_s=5))

        def look(_change: Change) -> None:
            assert not (lab.host.active(UUID) and lab.other.active(UUID))

        for host in lab.hosts.values():
            host.listeners.append(look)
        phase = "switching" if number % 2 else "arrived"
        while migration.phase != phase and not moving.done():  # noqa: ASYNC110 - it is a moment
            await asyncio.sleep(0.01)
        hits[number // 2 % len(hits)](lab)
        await asyncio.sleep(60)
        lab.network.heal_all()
        for host in lab.hosts.values():
            host.thaw()
            host.start_daemon()
        await asyncio.sleep(60)
        assert moving.done()
        ends[lab.ends()] += 1

    async def trials() -> None:
        for number in range(80):
            await trial(number)

    virtualtime.run(trials())
    canceled = (State.RUNNING, "migration-canceled")
    assert set(ends) == {
        (canceled, None),
        (PAUSED, None),
        (PAUSED, THERE),
        ((State.SHUTOFF, "unknown"), THERE),
    }


@pytest.mark.parametrize("misfortune", ["frozen", "cut off"])
@pytest.mark.parametrize("stands", [False, True])
def test_a_target_that_takes_over_late_runs_beside_its_source_unless_it_was_to_stand(
    misfortune: str, stands: bool
) -> None:
    """Measured, with a target frozen for 38 s: both guests ticked, or the source's alone."""

    @simulated
    async def run(lab: Lab) -> None:
        moving, migration = await _migrating(lab, Manner(copy_s=5, stands=stands, by_hand=False))
        await until(lambda: migration.phase == "switching")
        if misfortune == "frozen":
            lab.other.freeze()
        else:
            lab.network.cut("h1", "h2")
        error = await moving
        assert error is not None and error.code == 38
        await asyncio.sleep(2)
        canceled = (State.RUNNING, "migration-canceled")
        assert lab.ends() == (canceled, PAUSED)
        lab.other.thaw()
        lab.network.heal_all()
        await asyncio.sleep(2)
        assert lab.ends() == (canceled, (State.PAUSED, "user") if stands else THERE)
        assert (lab.host.active(UUID), lab.other.active(UUID)) == (True, not stands)
        told = lab.other.domains[UUID].completed
        assert told is not None and told.downtime_ms is not None and told.downtime_ms > 30_000
        assert all(not host.broken for host in lab.hosts.values())

    run()


@simulated
async def test_a_target_that_is_killed_before_it_takes_over_late_never_does(lab: Lab) -> None:
    moving, migration = await _migrating(lab, Manner(copy_s=5, stands=True, by_hand=False))
    await until(lambda: migration.phase == "switching")
    lab.other.freeze()
    await moving
    lab.other.kill_daemon()
    lab.other.start_daemon()
    await asyncio.sleep(5)
    assert lab.ends() == ((State.RUNNING, "migration-canceled"), None)
    assert all(not host.broken for host in lab.hosts.values())


@simulated
async def test_a_copy_that_was_to_stand_does_so_until_it_is_resumed(lab: Lab) -> None:
    moving, _ = await _migrating(lab, Manner(copy_s=5, stands=True))
    await moving
    assert lab.ends() == (None, (State.PAUSED, "user"))
    assert not lab.other.active(UUID)
    assert await Virsh(lab.other, Random(1)).resume(UUID) is None
    assert lab.other.active(UUID)


@simulated
async def test_an_aborted_migration_leaves_the_source_running(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    error = await lab.virsh.abort(UUID)
    assert error is None or error.code == 78
    assert (await moving) is not None
    await asyncio.sleep(2)
    assert lab.ends() == (HERE, None)


@simulated
async def test_destroying_the_target_kills_the_migration_and_not_the_domain(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await Virsh(lab.other, Random(1)).destroy(UUID) is None
    error = await moving
    assert error is not None
    assert error.code == 9
    assert lab.ends() == (HERE, None)


@simulated
async def test_destroying_the_source_ends_the_domain_everywhere(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await lab.virsh.destroy(UUID) is None
    assert await moving is not None
    await asyncio.sleep(2)
    assert lab.ends() == ((State.SHUTOFF, "destroyed"), None)


@simulated
async def test_a_create_on_the_target_queues_behind_the_migration(lab: Lab) -> None:
    _, migration = await _migrating(lab, Manner(copy_s=22))
    began = now()
    error = await Virsh(lab.other, Random(1)).start(UUID)
    assert now() - began > 20
    assert error is not None
    assert error.code == 55
    assert migration.phase in {"arrived", "over"}


@simulated
async def test_a_define_on_the_target_queues_behind_the_migration(lab: Lab) -> None:
    await _migrating(lab, Manner(copy_s=22))
    began = now()
    error = await Virsh(lab.other, Random(1)).define(XML)
    assert now() - began > 20
    assert error is not None
    assert error.code == 9


@simulated
async def test_a_create_on_an_old_definition_at_the_target_runs_it_when_the_migration_aborts(
    lab: Lab,
) -> None:
    """The reason why a target must have no capability of its own: both run."""
    await Virsh(lab.other, Random(1)).define(XML)
    await lab.running()
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, Manner(copy_s=22)))
    await until(lambda: lab.stands("h2") == PAUSED)
    late = asyncio.create_task(Virsh(lab.other, Random(1)).start(UUID))
    await asyncio.sleep(5)
    await lab.virsh.abort(UUID)
    await moving
    assert await late is None
    assert lab.ends() == (HERE, HERE)


@simulated
async def test_a_late_create_on_a_source_without_definition_finds_no_domain(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    late = asyncio.create_task(lab.virsh.start(UUID))
    await moving
    error = await late
    assert isinstance(error, NoDomain)


@simulated
async def test_a_domain_paused_by_its_user_stays_so_on_both_ends(lab: Lab) -> None:
    await lab.running()
    await lab.virsh.suspend(UUID)
    user = (State.PAUSED, "user")
    moving = asyncio.create_task(lab.virsh.migrate(UUID, lab.other, Manner(copy_s=10)))
    await until(lambda: lab.stands("h2") == PAUSED)
    assert lab.stands("h1") == user
    assert await moving is None
    assert lab.ends() == (None, user)


@simulated
async def test_a_suspend_during_a_migration_looks_like_the_migrations_own(lab: Lab) -> None:
    moving, _ = await _migrating(lab)
    assert await lab.virsh.suspend(UUID) is None
    assert lab.ends() == (PAUSED, PAUSED)
    await moving
    assert lab.ends() == (None, (State.PAUSED, "user"))


@pytest.mark.parametrize(("there", "code"), [("same", 55), ("name", 9), ("uuid", 9)])
def test_what_stands_in_a_migrations_way_is_said_before_it_begins(there: str, code: int) -> None:
    @simulated
    async def run(lab: Lab) -> None:
        await lab.running()
        other = Virsh(lab.other, Random(1))
        uuid, name = {"same": (UUID, "one"), "name": (OTHER, "one"), "uuid": (UUID, "two")}[there]
        await other.define(definition.plain(uuid, name))
        if there == "same":
            await other.start(uuid)
        error = await lab.virsh.migrate(UUID, lab.other)
        assert error is not None
        assert error.code == code
        assert lab.stands() == HERE

    run()


@simulated
async def test_a_domain_with_snapshots_cannot_migrate(lab: Lab) -> None:
    await lab.running()
    lab.host.domains[UUID].snapshots = 1
    error = await lab.virsh.migrate(UUID, lab.other)
    assert error is not None
    assert error.code == 55
