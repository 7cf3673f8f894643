"""What an operator's word justifies holds only while the word stands: it is among what is compared."""

from __future__ import annotations

import pytest

from controller import keys
from controller.model import Proof, Rule
from controller.plan.types import Action, ActionKind
from tests.unit.movecase import MIG, USER, moving, with_ends
from tests.unit.plancase import UUID, Cluster, running_on_a, two_nodes

OFF = ("shutoff", "destroyed")
ENDS = {
    "a copy that stands is not to go on": with_ends(moving(goes_on=True), None, USER).resolved(keep="a"),
    "a copy that stands is to go on": with_ends(moving(goes_on=True), None, USER).resolved(keep="b"),
    "a paused source is to be ended": with_ends(moving(), MIG, None).resolved(keep="b"),
    "a paused source is to go on": with_ends(moving(), MIG, None).resolved(keep="a"),
    "copied disks, and it is off at its source": with_ends(moving(copies=True), OFF, None).resolved(keep="b"),
    "it is off at its target": with_ends(moving(), None, ("shutoff", "unknown")).resolved(keep="a"),
}


def action_of(cluster: Cluster) -> Action:
    action = cluster.verdict().action
    assert action is not None
    return action


@pytest.mark.parametrize("name", ENDS)
def test_no_end_of_a_migration_is_touched_for_a_word_that_stands_no_more(name: str) -> None:
    action = action_of(ENDS[name])
    assert keys.resolution(UUID) in [premise.key for premise in action.premises]


def test_what_was_moved_out_of_sight_starts_where_it_is_said_to_belong_only_while_that_is_said() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="then", vanished=True)
    cluster = two_nodes().node("c").domain().assigned("a", candidates=(), away=True, proofs=(proof,))
    action = action_of(cluster.silent("a").dead("a").resolved(keep="b"))
    assert action.kind is ActionKind.START and action.node == "b"
    assert keys.resolution(UUID) in [premise.key for premise in action.premises]


def test_a_domain_leaves_a_dead_node_only_while_that_is_said_to_be_dead() -> None:
    action = action_of(running_on_a().silent("a").dead("a"))
    assert action.kind is ActionKind.RELEASE
    assert [premise.key for premise in action.premises] == [keys.confirmed_dead("a")]


def test_a_proof_that_nothing_rests_on_ends_with_its_word() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="then", wiped=True)
    cluster = Cluster().node("a").domain().assigned("a", candidates=(), proofs=(proof,)).silent("a")
    assert action_of(cluster).kind is ActionKind.RECORD
    after = action_of(cluster).after
    assert after is not None and after.candidates == ("a",) and not after.proofs
