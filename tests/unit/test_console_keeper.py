"""The keeper of consoles over simulated hosts: what it opens, where, and what comes of it when things end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller.cache import Cache
from controller.consoles import keeper
from controller.consoles.desk import Desk
from controller.consoles.keeper import BUSY, Keeper
from controller.observer import Observer
from drivers.hypervisor import ConsoleOutput, Permit, Session, Target
from specs.domain import CharacterDevice, DomainSpec
from tests.contract.worlds import UUID, SimWorld, domain_xml
from tests.sim.host import SimHost, Temper
from tests.sim.hypervisor import SimHypervisor
from tests.sim.network import Network, Pace

SERIAL = "<devices><serial type='pty'><alias name='ua-main'/></serial></devices>"


def spec(*, record: bool) -> DomainSpec:
    return DomainSpec(memory="32Mi", serials=[CharacterDevice(name="main", record=record)])


@dataclass
class Scene:
    """Two hosts, a keeper, and what it believes of them: the truth, as soon as `look` is called."""

    hosts: dict[str, SimHost]
    hypervisor: SimHypervisor
    desk: Desk
    sessions: dict[str, Session] = field(default_factory=dict)
    cache: Any = None
    keeper: Any = None
    task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for name in self.hosts:
            await self.connect(name)
        stored = SimpleNamespace(domain=SimpleNamespace(spec=spec(record=True)))
        self.cache = SimpleNamespace(
            synced=True,
            domains={UUID: stored},
            assignments={},
            seen=SimpleNamespace(by_uuid={}),
            view=lambda _node: SimpleNamespace(answers=True, why=""),
        )
        observer = SimpleNamespace(session=self.session)
        self.keeper = Keeper(cast(Cache, self.cache), cast(Observer, observer), self.desk)
        self.task = asyncio.create_task(self.keeper.run())

    async def connect(self, name: str) -> None:
        target = Target(name, f"qemu+tcp://{name}/system")
        self.sessions[name] = await self.hypervisor.open(target, lambda _session, _events: None)

    def session(self, node: str) -> Session | None:
        session = self.sessions[node]
        return session if session.is_open else None

    def want(self, *, record: bool) -> None:
        self.cache.domains[UUID] = SimpleNamespace(domain=SimpleNamespace(spec=spec(record=record)))
        self.look()

    def look(self) -> None:
        """Something changed, and was read."""
        seen = {}
        for name, host in self.hosts.items():
            domain = host.domains.get(UUID)
            if domain is not None:
                seen[name] = SimpleNamespace(record=domain.record, in_migration=domain.in_migration)
        self.cache.seen.by_uuid = {UUID: seen}
        self.keeper.look(UUID)

    async def run(self, node: str) -> None:
        session, leave = self.sessions[node], Permit(time.monotonic() + 60)
        await session.define(domain_xml(SimWorld(), more=SERIAL), leave)
        await session.create(UUID, leave)
        self.look()

    async def end(self, node: str) -> None:
        await self.sessions[node].destroy(UUID, Permit(time.monotonic() + 60))
        self.look()

    @property
    def log(self) -> str:
        tape = self.desk.find(UUID, "main")
        return "" if tape is None else b"".join(data for _, _, data in tape.ring.pieces()).decode()

    @property
    def why(self) -> str:
        tape = self.desk.find(UUID, "main")
        return "no tape" if tape is None else tape.why

    async def hears(self, node: str, word: str) -> None:
        """The guest writes until it is heard; it may be too early."""
        for _ in range(500):
            self.hosts[node].terminals.write(UUID, f"{word}\n".encode())
            await asyncio.sleep(0.02)
            if word in self.log:
                return
        raise AssertionError(f"{word} was not heard: {self.log!r} {self.why}")

    async def until_why(self, said: str) -> None:
        for _ in range(500):
            if said in self.why:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{said!r} was not said, but {self.why!r}")


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    pace = Pace(fastest_s=0.00001, slowest_s=0.0001, tail_s=0.002)
    temper = Temper(pace=0.01, event_loss=0.0, event_late=0.0, torn_list_s=(0.0001, 0.001))
    network = Network(Random("network"), time.monotonic, pace)
    hosts = {
        name: SimHost(name, network, time.monotonic, Random(name), temper=temper) for name in ("h1", "h2")
    }
    hypervisor = SimHypervisor("c1", hosts, network, time.monotonic, Random("c1"), lambda _sent: None)
    made = Scene(hosts, hypervisor, Desk(lambda: "2026-11-28T11:00:00Z", each=1 << 16, total=1 << 20))
    await made.start()
    yield made
    if made.task is not None:
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)
    await hypervisor.close()


async def test_a_recorded_console_is_read_as_soon_as_its_domain_runs_and_again_when_it_starts_again(
    scene: Scene,
) -> None:
    scene.look()
    await scene.until_why("the domain is not running")
    await scene.run("h1")
    await scene.hears("h1", "first run")
    await scene.end("h1")
    await scene.until_why("the domain is not running")
    await scene.run("h1")
    await scene.hears("h1", "second run")
    assert scene.log.index("first run") < scene.log.index("[domctl: read again, on node h1")


async def test_a_console_follows_its_domain_to_another_node(scene: Scene) -> None:
    await scene.run("h1")
    await scene.hears("h1", "here")
    await scene.run("h2")  # as a migration has it: there before it is gone here
    await scene.end("h1")
    await scene.hears("h2", "there")
    assert "[domctl: read again, on node h2" in scene.log


async def test_who_reads_it_already_is_waited_for_and_never_thrown_out(scene: Scene) -> None:
    heard: list[object] = []
    scene.cache.domains.clear()
    await scene.run("h1")
    other = await scene.sessions["h1"].console(UUID, "ua-main", heard.append)
    scene.want(record=True)
    await scene.until_why(BUSY)
    scene.hosts["h1"].terminals.write(UUID, b"for him")
    await asyncio.sleep(0.05)
    assert heard == [ConsoleOutput(b"for him")]
    await other.close()
    await scene.hears("h1", "for us")


async def test_a_daemon_that_died_is_only_a_gap(scene: Scene) -> None:
    await scene.run("h1")
    await scene.hears("h1", "before")
    scene.hosts["h1"].kill_daemon()
    await asyncio.sleep(0.05)
    scene.look()
    await scene.until_why("its node h1 does not answer")
    scene.hosts["h1"].start_daemon()
    await scene.connect("h1")
    scene.look()
    await scene.hears("h1", "after")
    assert "[domctl: read again" in scene.log


async def test_what_is_not_to_be_recorded_any_more_is_forgotten_and_free(scene: Scene) -> None:
    await scene.run("h1")
    await scene.hears("h1", "secret")
    scene.want(record=False)
    for _ in range(500):
        if scene.desk.find(UUID, "main") is None:
            break
        await asyncio.sleep(0.02)
    assert scene.desk.find(UUID, "main") is None
    await asyncio.sleep(0.05)
    await scene.sessions["h1"].console(UUID, "ua-main", lambda _event: None)


async def test_a_console_whose_reading_failed_of_a_bug_is_read_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "MAX_PAUSE_S", 0.05)
    session = scene.sessions["h1"]
    scene.sessions["h1"] = cast(Session, SimpleNamespace(is_open=True))  # it has no consoles
    scene.look()
    await session.define(domain_xml(SimWorld(), more=SERIAL), Permit(time.monotonic() + 60))
    await session.create(UUID, Permit(time.monotonic() + 60))
    scene.look()
    await scene.until_why("reading it failed")
    assert [record.message for record in caplog.records if record.exc_info] != []
    scene.sessions["h1"] = session
    await scene.hears("h1", "nothing happened")


async def test_when_its_term_is_over_it_lets_go_of_all_consoles_and_the_next_leader_has_them(
    scene: Scene,
) -> None:
    await scene.run("h1")
    await scene.hears("h1", "old leader")
    assert scene.task is not None
    scene.task.cancel()
    await asyncio.gather(scene.task, return_exceptions=True)
    assert not scene.desk.serving
    other = SimHypervisor("c2", scene.hosts, scene.hypervisor._network, time.monotonic, Random("c2"), print)
    follower = Scene(scene.hosts, other, Desk(scene.desk.wall, each=1 << 16, total=1 << 20))
    await follower.start()
    follower.look()
    await follower.hears("h1", "new leader")
    assert "old leader" not in follower.log and "new leader" not in scene.log
    assert follower.task is not None
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    await other.close()
