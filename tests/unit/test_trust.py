"""An operator's `store ack`: it counts where it stands in the store that is there now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from controller import keys
from controller.ledger import Commit, CommitOutcome
from controller.model import Decision
from controller.trust import TrustKeeper
from drivers.store import Compare


class Ledger:
    def __init__(self, outcome: CommitOutcome) -> None:
        self.outcome = outcome
        self.asked: list[Compare] = []

    async def commit(self, compares: list[Compare], writes: list[Any]) -> Commit:
        assert not writes
        self.asked += compares
        return Commit(self.outcome)


class Watch:
    trust, may_create, sentence = None, True, ""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def would_count(self, revision: int) -> bool:
        return True

    def acknowledge(self, decision: Decision, revision: int) -> bool:
        self.accepted.append(revision)
        return True


@pytest.mark.parametrize(
    ("outcome", "accepted"),
    [(CommitOutcome.DONE, [232]), (CommitOutcome.REFUSED, []), (CommitOutcome.UNKNOWN, [])],
)
async def test_a_word_that_the_cache_remembers_of_a_lost_store_counts_for_nothing(
    outcome: CommitOutcome, accepted: list[int]
) -> None:
    """Seed 102638: revision 232 of the store that was lost is more than any of the new one."""
    cache = SimpleNamespace(
        synced=True,
        ahead={},
        assignments={},
        hold="",
        store_ack=Decision(by="op", at="t"),
        revision_of=lambda key: 232 if key == keys.STORE_ACK else 0,
    )
    ledger, watch = Ledger(outcome), Watch()
    keeper = TrustKeeper(cache, ledger, watch)  # type: ignore[arg-type]
    await keeper.refresh()
    assert ledger.asked == [Compare(keys.STORE_ACK, 232)]
    assert watch.accepted == accepted
