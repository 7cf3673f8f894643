"""One host's ground truth: a machine with power or without, a libvirtd that is up or not, and its domains.

Guests outlive libvirtd; nothing outlives the machine but definitions. What a guest does by itself is true at
once and seen by libvirtd when it runs and gets round to it. Events go to every connection that listens, each
of them lost or late by the host's own chance; those of one connection stay in order. What libvirtd does when
it is asked stands in `operations`, how requests reach it in `desk`, what guests do by themselves in `guests`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from drivers.hypervisor import EventKind, HostFacts, State
from tests.sim import definition
from tests.sim.connection import Connection, Settle
from tests.sim.consoles import Terminals
from tests.sim.desk import Desk
from tests.sim.domain import Change, SimDomain
from tests.sim.guests import Guests
from tests.sim.job import JobLock
from tests.sim.network import Network
from tests.sim.operations import Operations

Daemon = Literal["up", "down", "frozen", "starting"]
Range = tuple[float, float]


@dataclass(slots=True)
class Temper:
    """How a host behaves: durations in seconds, chances from 0 to 1. `pace` scales the durations of what
    libvirtd does itself, not its limits."""

    pace: float = 1.0
    event_loss: float = 0.02
    event_late: float = 0.05
    event_late_s: float = 3.0
    torn_list: float = 0.3  # lists that take their records at two instants
    torn_list_s: Range = (0.001, 0.05)
    define_s: Range = (0.01, 0.06)
    launch_s: Range = (0.05, 0.4)  # create, until QEMU is there and paused
    start_s: Range = (0.1, 1.2)  # and until it runs
    destroy_s: Range = (0.2, 0.8)
    destroy_stuck_s: float = 11.8
    undefine_s: Range = (0.005, 0.05)
    metadata_s: Range = (0.002, 0.015)
    save_s: Range = (0.3, 1.5)
    save_room: int | None = None  # what a storage pool says of the directory of saved memory
    no_room: bool = False  # and what is true
    corrupt_saves: bool = False
    obeys_s: Range = (1.0, 6.0)  # how long a guest takes to shut down when asked
    deaf: float = 0.15  # guests that do not listen
    agent_s: Range = (3.0, 20.0)  # how long a guest takes to start its agent, where it has a channel for one
    notices_s: Range = (0.0, 1.2)  # how long libvirtd takes to see a guest's end
    boot_s: Range = (4.0, 12.0)
    first_answer_s: Range = (1.0, 4.0)
    stuck_start: float = 0.0  # interrupted starts that libvirtd never lets go of
    refuses_starts: str = ""  # why every start fails
    copy_s: Range = (5.0, 25.0)  # a migration until its switch-over
    stalls: float = 0.0  # migrations whose guest is faster than the copying
    grows: bool = False  # and those copy on and on, where others stand still
    job_s: Range = (0.0, 0.0)  # how long QEMU takes to tell of a migration
    stale_definition: float = 0.1  # sources that keep what UNDEFINE_SOURCE was to take
    late_s: Range = (0.0, 0.0)  # how long a thawed libvirtd takes to begin what it was asked while frozen
    left_paused: float = 0.1  # of switch-overs that are disturbed: sources that stay paused


class SimHost:
    def __init__(
        self,
        name: str,
        network: Network,
        clock: Callable[[], float],
        rng: Random,
        *,
        uuid: str = "",
        temper: Temper | None = None,
    ) -> None:
        self.name = name
        self.network = network
        self.clock = clock
        self.rng = rng
        self.temper = temper or Temper()
        number = "".join(f"{byte:02x}" for byte in name.encode()).rjust(12, "0")[-12:]
        self.uuid = uuid or f"aaaaaaaa-0000-4000-8000-{number}"
        self.powered, self.died_at = True, 0.0
        self.relayed = False  # whether it is reached through ssh, by sockets that are not libvirt's
        self.daemon: Daemon = "up"
        self.incarnation = 1  # of libvirtd
        self.domains: dict[str, SimDomain] = {}
        self.listeners: list[Callable[[Change], None]] = []
        self.locks: dict[str, JobLock] = {}
        self.connections: dict[Connection, None] = {}
        self.operations = Operations(self)
        self.desk = Desk(self)
        self.guests = Guests(self)
        self.terminals = Terminals(self)
        self.broken: dict[object, Callable[[str], None]] = {}  # migrations: told of power, kill, freeze, thaw
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._asleep: list[Callable[[], None]] = []  # what libvirtd will do when it runs
        self._waking: asyncio.TimerHandle | None = None
        self._booting: asyncio.TimerHandle | None = None
        self._fresh_boot = False
        self._ids = 0

    # --- the machine

    def power_off(self) -> None:
        """The plug is pulled: no guest, no daemon, and nothing on the network says so."""
        if not self.powered:
            return
        self.powered, self.died_at = False, self.clock()
        self.network.darken(self.name)
        self._stop_daemon()
        for connection in list(self.connections):
            connection.vanish()
        self.connections.clear()
        self._tell_migrations("power")
        for domain in list(self.domains.values()):
            if domain.live is not None:
                self.end(domain, "unknown", None, "host", "power")
        self._clear_boot()

    def power_on(self) -> None:
        if self.powered:
            return
        self.powered, self._fresh_boot = True, True
        self.network.lighten(self.name)
        self._booting = self.later(self.temper.boot_s, self.start_daemon)

    def _clear_boot(self) -> None:
        if self._booting is not None:
            self._booting.cancel()
            self._booting = None

    # --- libvirtd

    def kill_daemon(self) -> None:
        """SIGKILL: every connection ends, guests run on, and a create under way stays as far as it came."""
        if self.daemon == "down":
            return
        self._stop_daemon()
        for connection in list(self.connections):
            connection.reset()
        self.connections.clear()
        for domain in self.domains.values():
            if domain.in_migration and domain.reason == "starting-up":
                domain.starts_stuck = self.rng.random() < self.temper.stuck_start
        self._tell_migrations("killed")

    def _stop_daemon(self) -> None:
        self.daemon = "down"
        self.incarnation += 1
        self.locks = {}
        self._asleep.clear()
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        self.desk.clear()

    def start_daemon(self) -> None:
        """It accepts connections at once, and answers after it has looked around."""
        if not self.powered or self.daemon != "down":
            return
        self._clear_boot()
        self.daemon = "starting"
        self._waking = self.later(self.temper.first_answer_s, self._come_up)

    def _come_up(self) -> None:
        """Why domains are shut off is forgotten over a restart; what ended meanwhile is found."""
        self._waking = None
        self.daemon = "up"
        for domain in list(self.domains.values()):
            domain.completed = None
            if domain.live is None:
                domain.become(State.SHUTOFF, "unknown")
            elif domain.state is State.PAUSED and domain.reason == "save":
                domain.become(State.RUNNING, "save-canceled")
        self._tell_migrations("up")
        for domain in list(self.domains.values()):
            if domain.gone:
                self.guests.notice_late(domain)
        if self._fresh_boot:
            self._fresh_boot = False
            for domain in list(self.domains.values()):
                if domain.autostart and domain.live is None:
                    self.start(domain, "host", "autostart")
        self._wake()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.daemon not in ("up", "starting"):
            return
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
            self._asleep.insert(0, self._restart)
        self.daemon = "frozen"
        for connection in list(self.connections):
            connection.attend()
        self._tell_migrations("frozen")

    def _restart(self) -> None:
        self.daemon = "starting"
        self._waking = self.later(self.temper.first_answer_s, self._come_up)

    def thaw(self) -> None:
        if self.daemon != "frozen":
            return
        self.daemon = "up"
        for connection in list(self.connections):
            connection.attend()
        self._tell_migrations("thawed")
        self._wake()

    def _wake(self) -> None:
        asleep, self._asleep = self._asleep, []
        for number, due in enumerate(asleep):
            if self.daemon == "down":
                return
            if self.daemon != "up":
                self._asleep = asleep[number:] + self._asleep
                return
            due()

    def when_up(self, due: Callable[[], None]) -> None:
        """Do it when libvirtd runs: now, or when it has thawed or started; never if it is killed before."""
        if self.daemon == "up":
            due()
        elif self.daemon != "down":
            self._asleep.append(due)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """A worker of libvirtd: it dies with it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            raise AssertionError("the simulated libvirtd failed") from task.exception()

    def lock(self, uuid: str) -> JobLock:
        found = self.locks.get(uuid)
        if found is None:
            found = self.locks[uuid] = JobLock(self.rng)
        return found

    def _tell_migrations(self, what: str) -> None:
        for told in list(self.broken.values()):
            told(what)

    # --- what connections ask

    def receive(self, connection: Connection, call: str, arguments: tuple[Any, ...], settle: Settle) -> None:
        self.desk.receive(connection, call, arguments, settle)

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    # --- domains, at once

    def active(self, uuid: str) -> bool:
        """The guest exists and holds its disks; a domain that a migration paused does not."""
        domain = self.domains.get(uuid)
        return domain is not None and domain.holds_disks

    def stands(self, uuid: str) -> bool:
        """The guest exists, wherever its disks are: a domain that a migration paused does not count."""
        domain = self.domains.get(uuid)
        return (
            domain is not None
            and domain.live is not None
            and not (domain.gone or domain.in_migration or domain.handed_over)
        )

    def is_paused(self, uuid: str) -> bool:
        """The guest exists and stands still because somebody wanted that, whoever has its disks."""
        domain = self.domains.get(uuid)
        if domain is None or domain.live is None or domain.gone:
            return False
        return domain.state is State.PAUSED and not domain.in_migration

    def named(self, name: str) -> SimDomain | None:
        for domain in self.domains.values():
            if domain.name == name:
                return domain
        return None

    def changed(self, domain: SimDomain, what: str, by: str, reason: str = "") -> None:
        if self.listeners:
            change = Change(self.clock(), self.name, domain.uuid, domain.name, what, by, reason)
            for listener in self.listeners:
                listener(change)

    def say(self, domain: SimDomain, kind: EventKind, detail: str) -> None:
        """An event, to everybody who listens: lost or late for each by itself."""
        if self.daemon == "down":
            return
        if self.daemon != "up":
            self._asleep.append(partial(self.say, domain, kind, detail))
            return
        temper = self.temper
        for connection in self.connections:
            if connection.hear is None:
                continue
            draw = self.rng.random()
            if draw < temper.event_loss:
                continue
            late = draw < temper.event_loss + temper.event_late
            delay_s = self.rng.random() * temper.event_late_s if late else 0.0
            connection.tell(delay_s, domain.uuid, domain.name, kind, detail)

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def launch(self, domain: SimDomain, by: str) -> None:
        """QEMU is there, paused, with the definition's live copy."""
        document = domain.saved or domain.config
        assert document is not None
        domain.live = definition.live(document, self.next_id())
        domain.gone, domain.stuck, domain.asked, domain.handed_over = "", False, False, False
        domain.came_from, domain.is_old = None, False
        domain.starts_stuck, domain.completed = False, None
        domain.agent_up = False
        domain.boots += 1
        domain.deaf = self.rng.random() < self.temper.deaf
        domain.become(State.PAUSED, "starting-up")
        self.changed(domain, "launched", by)

    def start(self, domain: SimDomain, by: str, reason: str = "") -> None:
        """From shut off, or launched, to running."""
        if domain.live is None:
            self.launch(domain, by)
        how = "booted" if domain.saved is None else "restored"
        halted = domain.saved is not None and domain.saved_paused
        domain.saved, domain.saved_paused = None, False
        if halted:
            domain.become(State.PAUSED, "user")
        else:
            domain.become(State.RUNNING, how)
        self.changed(domain, "started", by, reason or how)
        self.say(domain, EventKind.RESUMED, "unpaused")
        self.say(domain, EventKind.STARTED, how)
        if domain.agent:
            self.later(self.temper.agent_s, partial(self.guests.agent_comes_up, domain, domain.boots))

    def end(self, domain: SimDomain, reason: str, event: str | None, by: str, why: str = "") -> None:
        """It does not run any more, and libvirtd knows. A transient domain is gone with it."""
        noticed, domain.gone = bool(domain.gone), ""
        at_end, domain.at_end = domain.at_end, None
        self.operations.answered(domain, False)
        domain.live = None
        self.terminals.ended(domain.uuid)
        domain.stuck = domain.asked = domain.handed_over = domain.starts_stuck = domain.is_old = False
        domain.came_from = None
        domain.become(State.SHUTOFF, reason)
        if not noticed:
            self.changed(domain, "stopped", by, why or reason)
        if event is not None:
            self.say(domain, EventKind.STOPPED, event)
        if domain.config is None and self.domains.get(domain.uuid) is domain:
            del self.domains[domain.uuid]
            self.changed(domain, "vanished", by)
        if at_end is not None:
            at_end()

    # --- what guests do by themselves: see `guests`

    def crash_guest(self, uuid: str) -> None:
        self.guests.crash(uuid)

    def poweroff_guest(self, uuid: str) -> None:
        self.guests.poweroff(uuid)

    def panic_guest(self, uuid: str) -> None:
        self.guests.panic(uuid)

    def stick_guest(self, uuid: str) -> None:
        self.guests.stick(uuid)

    def unstick_guest(self, uuid: str) -> None:
        self.guests.unstick(uuid)

    def facts(self, uri: str) -> HostFacts:
        running = sum(
            definition.known(domain.live).memory_bytes for domain in self.domains.values() if domain.live
        )
        return HostFacts(
            host_uuid=self.uuid,
            driver="qemu",
            mode="system",
            hostname=self.name,
            uri=uri,
            libvirt_version="9.0.0",
            hypervisor_version="7.2.22",
            arch="x86_64",
            cpu_model="EPYC",
            cpus=16,
            max_vcpus=255,
            memory_bytes=64 << 30,
            free_memory_bytes=(64 << 30) - running,
            numa_cells=1,
            encrypted=False,
            secure=False,
            domain_types=("kvm", "qemu"),
            machines=("pc", "pc-i440fx-7.2", "pc-q35-7.2", "q35"),
        )

    def seconds(self, between: Range) -> float:
        return self.rng.uniform(*between) * self.temper.pace

    def later(self, between: Range, due: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self.seconds(between), due)
