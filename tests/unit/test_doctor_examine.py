"""How `domctl doctor` gathers its facts: every host for itself, within bounds, and closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from controller.doctor import examine
from controller.doctor.examine import Examination, Request
from controller.doctor.facts import Failure, Round, Subject
from drivers.errors import AuthFailed, Cause, HostFailed, HypervisorError, Unreachable, Unsupported
from drivers.hypervisor import Target
from drivers.inspection import CpuFit, CpuOffer, Inspection
from drivers.shell import Answer, Destination, ShellFailed
from tests.doctorcase import FACTS, INSPECTION

HV1, HV2 = Subject("hv1", "qemu+tcp://hv1/system"), Subject("hv2", "qemu+tcp://hv2/system")


@dataclass
class FakeSession:
    target: Target
    closed: bool = False
    is_open: bool = True

    async def close(self) -> None:
        self.closed = True


@dataclass
class World:
    """Opener, Inspector and Shell in one. `wrong`: host → what opening or inspecting it raises."""

    wrong_open: dict[str, HypervisorError] = field(default_factory=dict)
    wrong_look: dict[str, HypervisorError] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    fit: CpuFit | HypervisorError = CpuFit.IDENTICAL
    inspections: dict[str, Inspection] = field(default_factory=dict)
    sessions: list[FakeSession] = field(default_factory=list)
    shell: Callable[[Sequence[str]], Answer] | None = None

    async def open(self, target: Target, _sink: object) -> Any:
        if target.node in self.wrong_open:
            raise self.wrong_open[target.node]
        self.sessions.append(FakeSession(target))
        return self.sessions[-1]

    async def inspect(self, session: Any) -> Inspection:
        if session.target.node in self.stuck:
            await asyncio.Event().wait()
        if session.target.node in self.wrong_look:
            raise self.wrong_look[session.target.node]
        return self.inspections.get(session.target.node, INSPECTION)

    async def compare_cpu(self, _session: Any, _wanted: CpuOffer) -> CpuFit:
        if isinstance(self.fit, HypervisorError):
            raise self.fit
        return self.fit

    async def baseline_cpu(self, _session: Any, _offers: Sequence[CpuOffer]) -> str:
        return "<cpu>\n  <model>kvm64</model>\n</cpu>"

    async def run(self, _to: Destination, argv: Sequence[str]) -> Answer:
        assert self.shell is not None, "not asked for"
        return self.shell(argv)

    async def examined(self, *subjects: Subject, **request: Any) -> Round:
        made = Examination(self, self, self, lambda _: None, lambda: "id")  # type: ignore[arg-type]
        return await made.run(Request(subjects, **request))


def failing(error: HypervisorError, phase: str) -> HypervisorError:
    error.phase = phase
    return error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            failing(Unreachable("x", cause=Cause.NAME_UNKNOWN), "resolving its name"),
            Failure("unreachable", "name", "x", "NameUnknown"),
        ),
        (failing(Unreachable("x"), "connecting to its port"), Failure("unreachable", "port", "x")),
        (failing(Unreachable("x"), "shaking hands for TLS"), Failure("unreachable", "handshake", "x")),
        (failing(Unreachable("x"), "waiting for libvirt to answer"), Failure("unreachable", "open", "x")),
        (AuthFailed("x"), Failure("auth", "", "x")),
        (Unsupported("x"), Failure("uri", "", "x")),
        (HostFailed("x"), Failure("failed", "", "x")),
    ],
)
async def test_why_there_is_no_session_is_kept(error: HypervisorError, failure: Failure) -> None:
    found = await World(wrong_open={"hv1": error}).examined(HV1, HV2)
    assert found.hosts[0].failure == failure and found.hosts[0].inspection is None
    assert found.hosts[1].inspection == INSPECTION, "the other one is looked at all the same"
    assert found.pairs == ()


async def test_a_host_that_does_not_end_to_tell_costs_its_bound_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "HOST_S", 0.05)
    world = World(stuck={"hv1"})
    found = await world.examined(HV1, HV2)
    assert found.hosts[0].failure is not None and "within 0.05 s" in found.hosts[0].failure.message
    assert found.hosts[1].inspection == INSPECTION
    assert all(session.closed for session in world.sessions)


async def test_sessions_are_closed_also_when_it_is_given_up() -> None:
    world = World(stuck={"hv1"})
    task = asyncio.create_task(world.examined(HV1, HV2))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.sessions) == 2 and all(session.closed for session in world.sessions)


async def test_hosts_of_one_driver_are_compared_in_both_directions() -> None:
    found = await World().examined(HV1, HV2)
    assert [(pair.source, pair.target, pair.cpu) for pair in found.pairs] == [
        ("hv1", "hv2", CpuFit.IDENTICAL),
        ("hv2", "hv1", CpuFit.IDENTICAL),
    ]
    assert {pair.probe_unread for pair in found.pairs} == {"--probe"}


async def test_where_processors_differ_what_both_have_is_named() -> None:
    found = await World(fit=CpuFit.INCOMPATIBLE).examined(HV1, HV2)
    assert found.pairs[0].baseline == "<cpu> <model>kvm64</model> </cpu>"


async def test_a_comparison_that_failed_is_not_made_up() -> None:
    found = await World(fit=HostFailed("busy")).examined(HV1, HV2)
    assert found.pairs[0].cpu is None and "busy" in found.pairs[0].cpu_unread


async def test_hosts_of_two_drivers_are_no_pair() -> None:
    lxc = replace(INSPECTION, facts=replace(FACTS, driver="lxc"))
    assert (await World(inspections={"hv2": lxc}).examined(HV1, HV2)).pairs == ()


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"read_only": True}, "leave to change hv1 and hv2"),
        ({"uri": "qemu:///system"}, "spec.migrationURI"),
    ],
)
async def test_a_probe_that_cannot_be_made_says_what_it_needs(changes: dict[str, Any], needs: str) -> None:
    found = await World().examined(replace(HV1, **changes), replace(HV2, **changes), probe=True)
    assert needs in found.pairs[0].probe_unread and found.pairs[0].probe is None


# -- ssh -------------------------------------------------------------------------------------------------

BY_SSH = replace(HV1, ssh=Destination("hv1"))


def clock_only(argv: Sequence[str]) -> Answer:
    if argv[0] == "date":
        return Answer(0, "100.0", "", 100.0, 100.0)
    raise ShellFailed("ssh hv1: no answer within 15 s")


async def test_one_command_that_fails_leaves_the_others() -> None:
    (found,) = (await World(shell=clock_only).examined(BY_SSH)).hosts
    assert found.shell is not None and found.shell.clock is not None and found.shell_failure == ""
    assert "no answer within" in found.shell.unread["units"]


async def test_without_a_way_nothing_more_is_tried_and_libvirt_is_asked_all_the_same() -> None:
    tried: list[Sequence[str]] = []

    def closed(argv: Sequence[str]) -> Answer:
        tried.append(argv)
        raise ShellFailed("ssh hv1: Connection refused")

    (found,) = (await World(shell=closed).examined(BY_SSH)).hosts
    assert (found.shell, found.shell_failure) == (None, "ssh hv1: Connection refused")
    assert len(tried) == 1 and found.inspection == INSPECTION
