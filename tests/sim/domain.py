"""A domain as its host has it, and what can be asked of it without waiting.

`config` is the persistent definition, `live` the running one. `gone` says that the guest has ended while
libvirtd has not noticed: until it does, it shows the domain as before. The record is made anew only when
something changed, for it is listed far more often than it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from drivers.hypervisor import Detail, Job, Record, State
from tests.sim import definition

MIGRATION_REASONS = ("migration", "starting-up")


class Change(Struct, frozen=True):
    """Something changed on a host. `by`: a client, virsh, host (the guest's own end, autostart, power) or
    migration."""

    at: float
    host: str
    uuid: str
    name: str
    what: str
    by: str
    reason: str = ""


@dataclass(slots=True, eq=False)
class SimDomain:
    uuid: str
    name: str
    config: str | None = None
    live: str | None = None
    state: State = State.SHUTOFF
    reason: str = "unknown"
    autostart: bool = False
    saved: str | None = None  # the live document in a managed save
    saved_paused: bool = False  # its processors stood still when it was saved
    snapshots: int = 0
    gone: str = ""
    stuck: bool = False
    thawed_at: float = -1e9  # when it was stuck last
    deaf: bool = False
    asked: bool = False  # to shut down
    obeys_at: float = 0.0  # and when it will have done so
    boots: int = 0  # tells one life of the guest from the next
    handed_over: bool = False  # a migration's source after its target took the disks
    came_from: SimDomain | None = (
        None  # a migration's target that stands: it has not run, nor taken the disks
    )
    is_old: bool = False  # the source ran on since this copy of its memory was made
    starts_stuck: bool = False  # libvirtd lost the start half-way and answers every change with a time-out
    agent_up: bool = False  # the guest's agent has opened its channel, where there is one
    completed: Job | None = None  # the last migration, as this side tells of it
    moved_to: str = ""  # the image that somebody put its disk on by hand: what it wrote since is there alone
    at_end: Callable[[], None] | None = None  # who else is to know when it ends
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        self.become(self.state, self.reason)

    def become(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self.record = Record(self.uuid, self.name, state, reason, state is not State.SHUTOFF)

    @property
    def in_migration(self) -> bool:
        return self.state is State.PAUSED and self.reason in MIGRATION_REASONS

    @property
    def holds_disks(self) -> bool:
        """Ground truth of I1."""
        away = self.gone or self.in_migration or self.handed_over or self.came_from is not None
        return self.live is not None and not away

    def detail(self) -> Detail:
        shown = self.live or self.config
        assert shown is not None, "a domain has a definition or a live copy"
        known = definition.known(shown)
        return Detail(
            record=self.record,
            sent_at=0.0,
            persistent=self.config is not None,
            autostart=self.autostart,
            managed_save=self.saved is not None,
            config_xml=self.config,
            live_xml=self.live,
            config_mark=None if self.config is None else definition.known(self.config).mark,
            live_mark=None if self.live is None else definition.known(self.live).mark,
            vcpus=known.vcpus,
            memory_bytes=known.memory_bytes,
            snapshots=self.snapshots,
            saved_xml=self.saved,
            agent=self.agent,
        )

    @property
    def agent(self) -> str:
        """Of its channel, as `Detail.agent` has it."""
        if self.live is None or not definition.known(self.live).has_agent:
            return ""
        return "connected" if self.agent_up else "disconnected"


def dated(detail: Detail, sent_at: float) -> Detail:
    return replace(detail, sent_at=sent_at)


ASKED_OF_GUESTS: Final = ("asked to stop", "paused", "resumed")
THAWS_S: Final = 1.0  # a guest that goes on has answered by then all that waited for it


def waited_in_guest(change: Change, domain: SimDomain | None, now: float) -> bool:
    """Whether this was asked of a guest that was stuck until just now: that stands in its own socket, and no
    daemon can take it back (seeds 600290, 1008692)."""
    return change.what in ASKED_OF_GUESTS and domain is not None and now - domain.thawed_at < THAWS_S
