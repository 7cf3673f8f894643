"""What a verdict becomes in the status of a Domain."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from controller.plan.snapshot import Backoff, MoveWatch
from controller.plan.types import ActionKind, Reason
from controller.status import domain_status
from tests.unit.movecase import COMING, MIG, RUNNING, USER, moving, with_ends
from tests.unit.plancase import NOW, UUID, interrupted

MOVING = MoveWatch(in_flight=True, still_since=NOW)


@pytest.mark.parametrize(
    ("source", "for_s", "spec", "ready"),
    [
        (RUNNING, 60, {}, "True"),
        (MIG, 1, {}, "True"),
        (MIG, 60, {}, "False"),
        (USER, 60, {}, "False"),
        (("crashed", "panicked"), 60, {}, "False"),
        (RUNNING, 60, {"state": "paused"}, "False"),
    ],
)
def test_a_domain_that_moves_is_ready_only_while_it_runs(
    source: tuple[str, str], for_s: float, spec: dict[str, str], ready: str
) -> None:
    """L4, seeds 102556 and 1102887: somebody had paused it by hand, before it moved or while it did, and for
    its whole way it was called ready."""
    cluster = with_ends(moving(MOVING, **spec), source, COMING, since=NOW - for_s)
    verdict, snap = cluster.verdict(), cluster.snapshot()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.MIGRATING, verdict
    conditions = domain_status(snap, UUID, verdict).conditions
    assert isinstance(conditions, list)
    assert {c.type: c.status for c in conditions}["Ready"] == ready


def test_a_domain_that_is_to_be_deleted_is_not_ready_while_it_is_on_its_way() -> None:
    """L4, seed 5 of moves_stalled: it was called ready in the moment before its end was read."""
    cluster = with_ends(moving(MOVING), RUNNING, COMING)
    verdict, stored = cluster.verdict(), cluster.domains[UUID]
    metadata = msgspec.structs.replace(stored.domain.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    domain = msgspec.structs.replace(stored.domain, metadata=metadata)
    cluster.domains[UUID] = dataclasses.replace(stored, domain=domain)
    conditions = domain_status(cluster.snapshot(), UUID, verdict).conditions
    assert isinstance(conditions, list)
    assert {c.type: c.status for c in conditions}["Ready"] == "False"


def test_a_domain_that_was_moving_and_is_nowhere_is_not_ready() -> None:
    """L4, seed 109927: its source had lost it, and its target was read for the first time after long."""
    cluster = moving()
    watch = MoveWatch(over_at=NOW - 20.0)
    cluster.given(watches={UUID: watch})
    verdict, snap = cluster.verdict(), cluster.snapshot()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.MIGRATING, verdict
    conditions = domain_status(snap, UUID, verdict).conditions
    assert isinstance(conditions, list)
    assert {c.type: c.status for c in conditions}["Ready"] == "False"


def test_a_start_that_is_not_let_go_of_keeps_its_reason_while_its_end_is_tried_again() -> None:
    """It alternated with Stopping, each turn."""
    shown = []
    for until, due in ((NOW + 1, None), (NOW - 0.1, ActionKind.DESTROY)):
        cluster = interrupted(NOW - 60).given(
            backoffs={UUID: Backoff(1, until, "destroy on a: job time-out")}
        )
        verdict, snap = cluster.verdict(), cluster.snapshot()
        assert (verdict.action.kind if verdict.action is not None else None) is due
        status = domain_status(snap, UUID, verdict)
        assert isinstance(status.conditions, list)
        stands = {c.type: (c.status, c.reason, c.message) for c in status.conditions}
        shown.append((status.phase, status.reason, stands))
    assert shown[0] == shown[1]
    assert shown[0][:2] == ("Stalled", "StuckStart")


def test_the_first_end_of_an_interrupted_start_is_shown_as_what_it_is() -> None:
    """That its start failed before, with the daemon, says nothing of its end."""
    cluster = interrupted(NOW - 60).given(
        backoffs={UUID: Backoff(1, NOW - 58, "create on a: connection lost")}
    )
    verdict, snap = cluster.verdict(), cluster.snapshot()
    assert domain_status(snap, UUID, verdict).reason == "Stopping"
