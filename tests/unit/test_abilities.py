"""Drivers that cannot do all that QEMU's can: what is not asked of them, and what is said instead."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from controller.model import IntentKind
from controller.plan.aspects import aspects
from controller.plan.case import Case
from controller.plan.snapshot import Ladder
from controller.plan.types import ActionKind, Deferred, Reason
from drivers.hypervisor import Capabilities, StopMethod
from tests.unit.plancase import NOW, UUID, Cluster, capabilities

RACED = capabilities("qemu")
UNRACED = capabilities("xen")


def able(cluster: Cluster, node: str, what: Capabilities | None) -> Cluster:
    cluster.views[node] = msgspec.structs.replace(cluster.views[node], capabilities=what)
    return cluster


def shut_off_on_a(**spec: object) -> Cluster:
    made = Cluster().node("a").node("b").domain(state="shutoff", **spec).assigned("a", stopped=True)
    return made.seen("a", "shutoff", "shutdown")


def must_leave_a(what: Capabilities | None) -> Cluster:
    return able(shut_off_on_a(placement={"node": "b"}), "a", what)


def deferred(cluster: Cluster) -> Deferred:
    verdict = cluster.verdict()
    assert verdict.deferred is not None, verdict
    return verdict.deferred


def kind(cluster: Cluster) -> ActionKind | None:
    action = cluster.verdict().action
    return None if action is None else action.kind


@pytest.mark.parametrize("what", [UNRACED, None])
def test_a_domain_leaves_no_node_by_the_undefine_of_a_driver_that_was_never_raced(
    what: Capabilities | None,
) -> None:
    hold = deferred(must_leave_a(what))
    assert hold.reason is Reason.DRIVER_UNPROVED
    assert hold.command.startswith("domctl node confirm-dead a")
    assert kind(must_leave_a(RACED)) is ActionKind.REVOKE


def test_nor_by_having_vanished_from_there() -> None:
    def vanished(what: Capabilities) -> Cluster:
        made = Cluster().node("a").node("b").domain(placement={"node": "b"}).assigned("a")
        return able(made, "a", what)

    assert deferred(vanished(UNRACED)).reason is Reason.DRIVER_UNPROVED
    assert kind(vanished(RACED)) is ActionKind.RELEASE


def test_nor_does_a_second_definition_there_stop_holding_it() -> None:
    def twice(what: Capabilities) -> Cluster:
        return able(shut_off_on_a().seen("b", "shutoff", "shutdown"), "b", what)

    assert deferred(twice(UNRACED)).reason is Reason.DRIVER_UNPROVED
    assert kind(twice(RACED)) is ActionKind.REVOKE


def test_nor_a_node_that_only_may_have_one() -> None:
    def maybe(what: Capabilities) -> Cluster:
        made = Cluster().node("a").node("b").domain().assigned("a", candidates=("a", "b"))
        return able(made.seen("a", "shutoff", "shutdown"), "b", what)

    assert deferred(maybe(UNRACED)).reason is Reason.DRIVER_UNPROVED
    assert kind(maybe(RACED)) is ActionKind.RELEASE


def test_what_was_never_asked_to_run_leaves_like_any_other() -> None:
    made = Cluster().node("a").node("b").domain(state="shutoff", placement={"node": "b"})
    made = able(made.assigned("a", started=False).seen("a", "shutoff", "unknown"), "a", UNRACED)
    assert kind(made) is ActionKind.REVOKE


def test_a_node_that_was_confirmed_dead_is_left_whatever_its_driver() -> None:
    made = must_leave_a(UNRACED).silent("a").dead("a")
    assert kind(made) is ActionKind.RELEASE


def test_a_deleted_domain_is_undefined_by_any_driver_for_nothing_starts_after_it() -> None:
    made = Cluster().node("a").domain(meta={"deletionTimestamp": "2026-01-01T00:00:00Z"}).assigned("a")
    made = able(made.seen("a", "shutoff", "shutdown"), "a", UNRACED)
    assert kind(made) is ActionKind.REVOKE


def test_a_domain_stays_and_is_started_again_at_home_whatever_its_driver() -> None:
    made = Cluster().node("a").node("b").domain().assigned("a").seen("a", "shutoff", "crashed")
    assert kind(able(made, "a", UNRACED)) is ActionKind.START


def test_nothing_is_placed_where_definitions_keep_no_mark() -> None:
    made = able(Cluster().node("a").domain(), "a", dataclasses.replace(RACED, keeps_metadata=False))
    assert "keep no mark" in deferred(made).message


def test_a_live_copy_is_not_marked_where_the_driver_cannot() -> None:
    def stale(what: Capabilities) -> Cluster:
        made = Cluster().node("a").domain().assigned("a").seen("a", live_mark=None)
        return able(made, "a", what)

    assert kind(stale(RACED)) is ActionKind.MARK
    assert kind(stale(UNRACED)) is None and stale(UNRACED).verdict().deferred is None


LADDER = [{"method": "agent", "timeoutSeconds": 5}, {"method": "acpi"}, {"method": "destroy"}]


def test_a_rung_that_the_driver_has_not_is_passed_over_at_once() -> None:
    made = Cluster().node("a").domain(state="shutoff", shutdown=LADDER).assigned("a").seen("a")
    first = made.verdict().action
    other = able(made, "a", UNRACED).verdict().action
    assert first is not None and first.method is StopMethod.AGENT
    assert other is not None and (other.method, other.step) == (StopMethod.ACPI, 1)


def test_a_ladder_without_a_rung_that_the_driver_has_is_told_as_such() -> None:
    made = Cluster().node("a").domain(state="shutoff", shutdown=LADDER[:1]).assigned("a").seen("a")
    assert deferred(able(made, "a", UNRACED)).reason is Reason.UNSUPPORTED
    made.given(ladders={UUID: Ladder(step=0, asked_at=NOW - 100)})
    assert deferred(made).reason is Reason.SHUTDOWN_IGNORED


def test_pausing_is_not_asked_of_a_driver_that_cannot() -> None:
    made = Cluster().node("a").domain(state="paused").assigned("a").seen("a")
    assert kind(made) is ActionKind.PAUSE
    made = able(made, "a", dataclasses.replace(RACED, suspend=False))
    assert deferred(made).reason is Reason.UNSUPPORTED


def test_a_pause_that_its_daemon_forgot_is_made_again_before_it_is_undone() -> None:
    """LXC: after libvirtd was started anew, a frozen container is called running; resuming it is an error."""
    made = Cluster().node("a").domain().assigned("a", paused=True).seen("a", "running", "unknown")
    assert kind(able(made, "a", RACED)) is not ActionKind.PAUSE
    action = able(made, "a", capabilities("lxc")).verdict().action
    assert action is not None and action.kind is ActionKind.PAUSE
    assert action.settled is not None and action.settled.paused
    again = Cluster().node("a").domain().assigned("a", paused=True).seen("a", "paused", "user")
    assert kind(able(again, "a", capabilities("lxc"))) is ActionKind.RESUME
    held = made.assignments[UUID].assignment
    assert held.intent is None or held.intent.kind is not IntentKind.PAUSE


def test_an_agent_is_waited_for_no_longer_than_its_step_lasts() -> None:
    """libvirt waits a minute for the guest's end; what answers at once keeps the driver's own deadline."""
    ladder = [{"method": "agent", "timeoutSeconds": 5}, {"method": "acpi", "timeoutSeconds": 5}]
    made = Cluster().node("a").node("b").domain(state="shutoff", shutdown=ladder).assigned("a").seen("a")
    limits = []
    for ladders in ({}, {UUID: Ladder(step=0, asked_at=NOW - 6)}):
        action = made.given(ladders=ladders).verdict().action
        assert action is not None
        limits.append((action.method, action.limit_s))
    assert limits == [(StopMethod.AGENT, 5.0), (StopMethod.ACPI, None)]


@pytest.mark.parametrize(
    ("agent", "status", "said"),
    [
        ("connected", "True", "opened its channel"),
        ("disconnected", "False", "install qemu-guest-agent"),
        ("unknown", "Unknown", "does not tell"),
        ("", "False", "domctl shutdown web, then domctl start web"),
    ],
)
def test_whether_the_agent_of_a_ladder_would_hear_is_told(agent: str, status: str, said: str) -> None:
    made = Cluster().node("a").domain(shutdown=LADDER).assigned("a").seen("a", agent=agent)
    found = {aspect[0]: aspect for aspect in aspects(Case(made.snapshot(), UUID))}["AgentConnected"]
    assert found[1] == status and said in found[3]


def test_nothing_is_told_of_an_agent_that_nobody_asks_for_or_of_a_domain_that_is_off() -> None:
    unasked = Cluster().node("a").domain().assigned("a").seen("a")
    off = Cluster().node("a").domain(shutdown=LADDER).assigned("a").seen("a", "shutoff", "shutdown")
    for made in (unasked, off):
        assert "AgentConnected" not in [aspect[0] for aspect in aspects(Case(made.snapshot(), UUID))]
    silent = Cluster().node("a").domain(shutdown=LADDER).assigned("a").seen("a").silent("a")
    found = {aspect[0]: aspect for aspect in aspects(Case(silent.snapshot(), UUID))}["AgentConnected"]
    assert found[1:3] == ("Unknown", "NodeUnreachable")
