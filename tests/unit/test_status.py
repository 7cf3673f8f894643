"""What a verdict becomes in the status of a Domain."""

from __future__ import annotations

import pytest

from controller.plan.snapshot import MoveWatch
from controller.plan.types import Reason
from controller.status import domain_status
from tests.unit.movecase import COMING, MIG, RUNNING, USER, moving, with_ends
from tests.unit.plancase import NOW, UUID

MOVING = MoveWatch(in_flight=True, still_since=NOW)


@pytest.mark.parametrize(
    ("source", "spec", "ready"),
    [
        (RUNNING, {}, "True"),
        (MIG, {}, "True"),
        (USER, {}, "False"),
        (("crashed", "panicked"), {}, "False"),
        (RUNNING, {"state": "paused"}, "False"),
    ],
)
def test_a_domain_that_moves_is_ready_only_while_it_runs(
    source: tuple[str, str], spec: dict[str, str], ready: str
) -> None:
    """L4, seed 102556: somebody had paused it by hand, and for its whole way it was called ready."""
    cluster = with_ends(moving(MOVING, **spec), source, COMING)
    verdict, snap = cluster.verdict(), cluster.snapshot()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.MIGRATING, verdict
    conditions = domain_status(snap, UUID, verdict).conditions
    assert isinstance(conditions, list)
    assert {c.type: c.status for c in conditions}["Ready"] == ready


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
