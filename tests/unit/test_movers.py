"""When a migration is looked at, and what a look leaves in the cache: reads cost hosts that are at work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from controller import keys
from controller import movers as module
from controller.cache import Cache, Setting
from controller.limits import Timing
from controller.model import Assignment, Intent, IntentKind
from controller.movers import Movers
from controller.plan.snapshot import Held, Link, MoveWatch, NodeView, Policy, StoredMigration, Term
from controller.plan.types import Action, ActionKind
from drivers.errors import HostFailed, HypervisorError, NoDomain, PeerUnreachable
from drivers.hypervisor import Detail, EventKind, HostEvent, Job, Move, Outcome, Permit, Record, Result
from specs.migration import Migration
from tests.unit.plancase import UUID

REQUEST = "eeeeeeee-0000-4000-8000-000000000001"
RUNNING = Record(UUID, "web", "running", "booted", True)
LONG_S = 3600.0


def detail(at: float, record: Record = RUNNING) -> Detail:
    return Detail(
        record=record,
        sent_at=at,
        persistent=True,
        autostart=False,
        managed_save=False,
        config_xml=None,
        live_xml=None,
        config_mark=None,
        live_mark=None,
        vcpus=1,
        memory_bytes=1,
    )


@dataclass
class Host:
    """A session to one host: whether the domain is there, and what was asked."""

    name: str
    there: bool
    asked: list[str]
    record: Record = RUNNING
    call: asyncio.Future[Result] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_open: bool = True

    @property
    def target(self) -> Any:
        return SimpleNamespace(node=self.name)

    async def detail(self, _uuid: str, _known: Detail | None = None) -> Detail:
        self.asked.append(f"read {self.name}")
        if not self.there:
            raise NoDomain("it is not there")
        return detail(0.0, self.record)

    async def job(self, _uuid: str, *, completed: bool = False) -> Job | None:
        self.asked.append(f"{'result' if completed else 'job'} {self.name}")
        return Job("migration-out", 1.0, 1, 1, 2) if self.there and not completed else None

    async def migrate(self, *_: object) -> Result:
        return await self.call


class World:
    """A cache in which a domain moves from `a` to `b`, two hosts, and the movers between them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.clock = 100.0
        setting = Setting("c", Term(0.0, True), Timing(), Policy(), self.now, lambda: "then")
        self.cache = Cache(setting, lambda _key: None)
        self.a, self.b = Host("a", True, self.asked), Host("b", False, self.asked)
        for name in ("a", "b"):
            self.cache.views[name] = NodeView(
                link=Link.READY, session=1, identity_pinned=True, reads=((1.0, 1.0),)
            )
        self.intent = Intent(
            kind=IntentKind.MIGRATE,
            node="a",
            epoch=4,
            op="o",
            why="",
            at="",
            target="b",
            request=REQUEST,
            goes_on=True,
        )
        after = Assignment(
            cluster="c",
            uuid=UUID,
            namespace="default",
            name="web",
            libvirt_name="web",
            node="a",
            epoch=4,
            candidates=("a", "b"),
            intent=self.intent,
        )
        self.cache.assignments[UUID] = Held(after, 1)
        move = Move(target_uri="qemu+tcp://b/system", persistent_xml=None, limit_s=LONG_S)
        self.action = Action(
            kind=ActionKind.MIGRATE,
            uuid=UUID,
            key="default/web",
            node="a",
            why="",
            before_revision=1,
            object_revision=1,
            generation=1,
            after=after,
            target="b",
            move=move,
        )
        hosts = {"a": self.a, "b": self.b}
        observer = SimpleNamespace(session=hosts.get)
        self.movers = Movers(self.cache, observer, self.now, lambda: None, lambda _known, _node: None)  # type: ignore[arg-type]

    def now(self) -> float:
        self.clock += 0.001
        return self.clock

    def recorded(self) -> None:
        self.cache.moves.moving[UUID] = self.intent
        self.cache.moves.news.set()

    def send(self) -> None:
        self.recorded()
        self.movers.send_off(self.action, self.a, Permit(LONG_S))  # type: ignore[arg-type]

    def arrive(self) -> None:
        """The call returns, and the domain is on the other host."""
        self.a.there, self.b.there = False, True
        self.a.call.set_result(Result(Outcome.DONE))

    def hear(self, kind: EventKind) -> None:
        self.cache.heard("b", 1, HostEvent(UUID, "web", kind, "migrated", self.now()))

    @property
    def watch(self) -> MoveWatch:
        return self.cache.moves.watches[UUID]


def stands_at_the_target(world: World) -> list[bool]:
    """What is there is paused; for each time that it is asked how it went, whether both ends were read."""
    world.b.record = Record(UUID, "web", "paused", "user", True)
    found: list[bool] = []

    async def job(_uuid: str, *, completed: bool = False) -> Job | None:
        if completed:
            found.append(world.watch.read is not None)
        return None

    world.b.job = job  # type: ignore[method-assign]
    return found


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110 - what is waited for is state, of many kinds
            await asyncio.sleep(0.005)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Nothing is looked at because time has passed, unless a test says so."""
    for name in ("LOOK_EVERY_S", "PROGRESS_EVERY_S", "FIRST_PROGRESS_S"):
        monkeypatch.setattr(module, name, LONG_S)
    made = World()
    term = asyncio.create_task(made.movers.run())
    yield made
    term.cancel()
    await asyncio.gather(term, return_exceptions=True)


async def test_neither_end_is_read_while_the_call_is_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PROGRESS_S", 0.01)
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 0.01)
    world.cache.glanced("a", UUID, detail(1.0), 1.0)
    world.send()
    for kind in (EventKind.STARTED, EventKind.SUSPENDED, EventKind.DEFINED, EventKind.RESUMED):
        world.hear(kind)
    await until(lambda: world.asked.count("job a") > 2)
    assert world.watch.job is not None, "its progress is known"
    assert not [asked for asked in world.asked if asked.startswith("read")]


async def test_what_is_over_soon_is_never_asked_how_far_it_has_come(world: World) -> None:
    world.send()
    await asyncio.sleep(0.02)
    assert world.asked == []


async def test_both_ends_are_read_once_when_the_call_is_over_and_the_source_first(world: World) -> None:
    world.send()
    await asyncio.sleep(0.01)
    world.arrive()
    await until(lambda: world.watch.read is not None)
    await asyncio.sleep(0.02)
    assert world.asked == ["read a", "read b", "result b"]
    assert world.watch.read is not None and world.watch.read[0] > world.watch.over_at


@pytest.mark.parametrize(
    ("error", "copied", "no_path"),
    [
        (PeerUnreachable("authentication failed"), 0, True),
        (PeerUnreachable("client socket is closed"), 1, False),
        (HostFailed("internal error: qemu"), 0, False),
    ],
)
async def test_what_libvirt_says_of_the_other_host_tells_that_there_is_no_path(
    world: World, error: HypervisorError, copied: int, no_path: bool
) -> None:
    world.send()
    await asyncio.sleep(0.01)
    job = Job("migration-out", 1.0, copied, 1, 2)
    world.cache.watched(UUID, dataclasses.replace(world.watch, job=job))
    world.a.call.set_result(Result(Outcome.AMBIGUOUS, error))
    await until(lambda: not world.watch.in_flight)
    assert world.watch.no_path is no_path


async def test_both_ends_are_read_again_as_soon_as_something_is_heard(world: World) -> None:
    world.send()
    await asyncio.sleep(0.01)
    world.arrive()
    await until(lambda: world.watch.read is not None)
    world.hear(EventKind.RESUMED)
    heard_at = world.clock
    await until(lambda: world.watch.read is not None and world.watch.read[0] > heard_at)


@pytest.mark.parametrize("is_ours", [True, False])
async def test_what_a_target_is_made_of_is_read_anew_until_this_leaders_own_call_is_over(
    world: World, is_ours: bool
) -> None:
    """Seed 1006981: a new leader had read it while it still arrived, and missed the mark that came last."""
    knew: list[bool] = []
    read = world.b.detail

    async def detail(uuid: str, known: Detail | None = None) -> Detail:
        knew.append(known is not None)
        return await read(uuid, known)

    world.b.detail = detail  # type: ignore[method-assign]
    if is_ours:
        world.send()
        await asyncio.sleep(0.01)
        world.arrive()
    else:
        world.b.there = True
        world.recorded()
    for times in (1, 2):
        await until(lambda times=times: len(knew) >= times)  # type: ignore[misc]
        world.hear(EventKind.RESUMED)
    assert knew[:2] == [False, is_ours]


async def test_what_is_found_out_of_a_migration_that_was_closed_is_nobodys(world: World) -> None:
    """Else the next one of this domain would begin with it, and count for no budget (all_to_one)."""
    slow = asyncio.get_running_loop().create_future()

    async def detail(_uuid: str, _known: Detail | None = None) -> Detail:
        world.asked.append("read b")
        await slow
        raise NoDomain("it is not there")

    world.b.detail = detail  # type: ignore[method-assign]
    world.recorded()
    await until(lambda: "read b" in world.asked)
    closed = msgspec.structs.replace(world.action.after, intent=None)
    world.cache.wrote({keys.assignment(UUID): msgspec.json.encode(closed)}, 9)
    assert UUID not in world.cache.moves.watches
    slow.set_result(None)
    await asyncio.sleep(0.02)
    assert UUID not in world.cache.moves.watches


async def test_a_change_of_ours_at_one_end_is_read_at_once(world: World) -> None:
    world.recorded()
    await until(lambda: UUID in world.cache.moves.watches and world.watch.read is not None)
    world.cache.await_observation(UUID, "b")
    changed_at = world.clock
    world.cache.moves.news.set()
    await until(lambda: world.watch.read is not None and world.watch.read[0] > changed_at)
    assert (UUID, "b") not in world.cache.seen.expectations.pending


async def test_both_ends_are_read_when_a_migration_under_way_is_to_be_ended(world: World) -> None:
    world.send()
    await asyncio.sleep(0.01)
    body = {
        "metadata": {"name": "m", "namespace": "default", "uid": REQUEST, "generation": 1},
        "spec": {"domain": "web", "abort": True},
    }
    stored = StoredMigration(msgspec.convert(body, Migration), 3)
    world.cache.migrations.by_uid[REQUEST] = stored
    world.clock += LONG_S  # since it was last looked at
    world.cache.moves.news.set()
    await until(lambda: world.watch.read is not None)
    assert world.watch.in_flight


async def test_a_migration_that_stands_still_is_read_so_that_it_can_be_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PROGRESS_S", 0.01)
    monkeypatch.setattr(module, "PROGRESS_EVERY_S", 0.01)
    world.cache.glanced("a", UUID, detail(1.0), 1.0)
    world.send()
    await until(lambda: world.asked.count("job a") > 1)
    world.clock += 2 * module.DOUBT_S
    await until(lambda: world.watch.read is not None)


async def test_steps_that_this_leader_is_carrying_out_are_not_watched(world: World) -> None:
    world.cache.moves.leaving.add(UUID)
    world.recorded()
    await asyncio.sleep(0.02)
    assert world.asked == []
    world.cache.moves.leaving.discard(UUID)  # they ended before anything was sent
    world.cache.moves.news.set()
    await until(lambda: UUID in world.cache.moves.watches and world.watch.read is not None)


async def test_a_guest_that_waits_to_be_let_go_does_not_wait_for_the_figures(world: World) -> None:
    read_when_asked = stands_at_the_target(world)
    world.send()
    world.arrive()
    await until(lambda: bool(read_when_asked))
    assert read_when_asked == [True]
    assert world.watch.done


async def test_where_nothing_tells_that_the_call_was_carried_out_the_figures_come_first(world: World) -> None:
    read_when_asked = stands_at_the_target(world)
    world.send()
    world.a.there, world.b.there = False, True
    world.a.call.set_result(Result(Outcome.FAILED))
    await until(lambda: bool(read_when_asked))
    assert read_when_asked == [False]
