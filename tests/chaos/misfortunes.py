"""What can befall a migration: each of these is brought over it at a drawn moment, lasts a while, and ends.

`hit` returns when its effect is complete; what it made is undone by `World.heal`, whatever it was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import World

Hit = Callable[[World], None]


@dataclass(frozen=True)
class Misfortune:
    """`lasts_s`: between which times it is left so. `moment`: the only one at which it comes, if there is
    one, and then with no delay."""

    hit: Hit
    lasts_s: tuple[float, float]
    moment: str = ""


def _signal_qemu(of: str, number: signal.Signals) -> Hit:
    def hit(world: World) -> None:
        for pid in world.qemu_pids(of):
            os.kill(pid, number)

    return hit


def _both(one: Hit, other: Hit) -> Hit:
    def hit(world: World) -> None:
        one(world)
        other(world)

    return hit


def _cut(of: str) -> Hit:
    return lambda world: world.host(of).cut(blackhole=True)


def _kill_daemon(of: str) -> Hit:
    return lambda world: world.host(of).kill_libvirtd()


def _freeze_daemon(of: str) -> Hit:
    return lambda world: world.host(of).freeze()


def _signal_daemon(of: str, number: signal.Signals) -> Hit:
    """At once, where the lab's own way begins with a process that takes longer than a switch-over."""
    return lambda world: os.kill(world.daemon_pid(of), number)


def _power_off(of: str) -> Hit:
    return lambda world: world.host(of).poweroff()


def _kill_leader(world: World) -> None:
    world.leader().kill()


def _freeze_leader(world: World) -> None:
    os.kill(world.leader().pid, signal.SIGSTOP)


def _kill_controllers(world: World) -> None:
    for controller in world.controllers:
        if controller.process is not None:
            controller.kill()


def _abort(world: World) -> None:
    world.abort()


BRIEF, WHILE, LONG = (0.0, 2.0), (2.0, 12.0), (10.0, 40.0)
STALL = (45.0, 60.0)  # longer than a job may stand still

MISFORTUNES = {
    "nothing": Misfortune(lambda _world: None, (0.0, 0.0)),
    "aborted": Misfortune(_abort, (0.0, 0.0), "copying"),
    "source daemon killed": Misfortune(_kill_daemon("source"), WHILE),
    "target daemon killed": Misfortune(_kill_daemon("target"), WHILE),
    "both daemons killed": Misfortune(_both(_kill_daemon("source"), _kill_daemon("target")), WHILE),
    "source daemon frozen": Misfortune(_freeze_daemon("source"), LONG),
    "target daemon frozen": Misfortune(_freeze_daemon("target"), LONG),
    "target daemon frozen at the switch-over": Misfortune(
        _signal_daemon("target", signal.SIGSTOP), LONG, "switching"
    ),
    "target daemon killed at the switch-over": Misfortune(
        _signal_daemon("target", signal.SIGKILL), WHILE, "switching"
    ),
    "source daemon killed at the switch-over": Misfortune(
        _signal_daemon("source", signal.SIGKILL), WHILE, "switching"
    ),
    "source guest killed": Misfortune(_signal_qemu("source", signal.SIGKILL), BRIEF),
    "target guest killed": Misfortune(_signal_qemu("target", signal.SIGKILL), BRIEF),
    "source guest frozen": Misfortune(_signal_qemu("source", signal.SIGSTOP), LONG),
    "target guest frozen": Misfortune(_signal_qemu("target", signal.SIGSTOP), LONG),
    "target guest frozen till its job is ended": Misfortune(
        _signal_qemu("target", signal.SIGSTOP), STALL, "copying"
    ),
    "source cut off": Misfortune(_cut("source"), LONG),
    "target cut off": Misfortune(_cut("target"), LONG),
    "both cut off": Misfortune(_both(_cut("source"), _cut("target")), LONG),
    "source without power": Misfortune(_power_off("source"), WHILE),
    "target without power": Misfortune(_power_off("target"), WHILE),
    "leader killed": Misfortune(_kill_leader, WHILE),
    "leader frozen": Misfortune(_freeze_leader, LONG),
    "all controllers killed": Misfortune(_kill_controllers, WHILE),
    "leader and source daemon killed": Misfortune(_both(_kill_leader, _kill_daemon("source")), WHILE),
    "leader and target daemon killed": Misfortune(_both(_kill_leader, _kill_daemon("target")), WHILE),
    "leader killed, source cut off": Misfortune(_both(_kill_leader, _cut("source")), LONG),
    "leader killed, target cut off": Misfortune(_both(_kill_leader, _cut("target")), LONG),
}
