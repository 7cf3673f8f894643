"""What may be done about a migration in a small world, said a second time: table M in the words of the world.

As in `tests.sim.smalloracle`, whose rules hold here too: nothing asks the plan, `wrong` names what a verdict
breaks, and a plan that is more careful than it must be is not complained of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from controller.model import Copy
from controller.plan.types import Action, ActionKind, Verdict
from tests.sim import smalloracle
from tests.sim.small import EPOCH
from tests.sim.smallmoves import MoveWorld
from tests.sim.smalloracle import (
    ALWAYS,
    HOLDS_DISKS,
    IN_MIGRATION,
    PROVING,
    RUNS,
    is_absent_everywhere,
    known,
    on,
)

ACTIVE, MIG, ENDED, OFF, ABSENT, UNKNOWN = "active", "paused by it", "ended", "off", "absent", "unknown"
STANDS = "standing, and it has not run"
SHUTOFF: Final = (ENDED, OFF)
_TAKES_DOWN: Final = (ActionKind.SHUTDOWN, ActionKind.DESTROY)


def wrong(case: MoveWorld, verdict: Verdict) -> str:
    """The first rule that this verdict breaks, with a word on how; "" if it breaks none."""
    action = verdict.action
    if action is None and case.is_recorded:
        said = verdict.deferred is not None and verdict.deferred.message
        return "" if said else "L4: an open migration, and nothing is said"
    if action is None or not (case.is_recorded or action.kind is ActionKind.MIGRATE):
        return smalloracle.wrong(_without_it(case, action), verdict)
    for rule in ALWAYS:
        broken = rule(case.world, action)
        if broken:
            return broken
    return _JUDGES[action.kind](case, action) if action.kind in _JUDGES else f"table M has no {action.kind}"


def _without_it(case: MoveWorld, action: Action | None) -> smalloracle.World:
    """Before it begins, what is asked for stands for what is wanted: a domain that is off leaves its node,
    and one that is moved cold is taken down first."""
    world = case.world
    away = case.asked in ("live", "live to b", "cold") and world.aside in (
        "",
        "hand migrations",
        "a in quarantine",
    )
    if away and action is not None and action.kind is ActionKind.REVOKE:
        return msgspec.structs.replace(world, aside="must leave a")
    stops = action is not None and action.kind in (ActionKind.RESUME, *_TAKES_DOWN)
    if stops and case.asked == "cold" and world.wanted in RUNS:
        return msgspec.structs.replace(world, wanted="shutoff")
    return world


# --- what can be said of an end


def _end(case: MoveWorld, node: str) -> str:
    obs = on(case.world, node)
    if not known(obs):
        return ABSENT if _is_dead(case, node) else UNKNOWN
    if obs.seen in HOLDS_DISKS:
        return STANDS if node == "b" and _stands(case) and case.copy != "let-go" else ACTIVE
    if obs.seen in IN_MIGRATION:
        return MIG
    if not obs.seen:
        return ABSENT
    return ENDED if obs.seen in PROVING else OFF


def _stands(case: MoveWorld) -> bool:
    """At the target, as it arrived there, for all that is known of it."""
    here = on(case.world, "b")
    return known(here) and here.seen == "user-paused" and case.copy != "none" and case.heard != "resumed"


def _ran_on(case: MoveWorld) -> bool:
    """At the source, after its memory was copied: unless something tells that it did not."""
    if case.copy == "whole" or _is_kept(case, "b"):
        return False
    here, mine = on(case.world, "a"), case.call != "another's"
    if _end(case, "a") == ENDED:
        return not (case.left == "heard" and mine)
    says = known(here) and here.seen == "migrated-away"
    return case.left in ("nothing", "late") and not says


def _is_dead(case: MoveWorld, node: str) -> bool:
    return case.world.word == f"dead {node}" and on(case.world, node).link == "silent"


def _is_kept(case: MoveWorld, node: str) -> bool:
    return case.world.word == f"keep {node}"


def _may_have_run(case: MoveWorld) -> bool:
    """On the target: unless this leader heard all of it, and never that it went on there; or it was to stand
    there until it is let go, and was not, and its guest did not shut itself down there."""
    if case.copy != "none":
        ended_itself = on(case.world, "b").seen == "ended"
        return case.heard == "resumed" or case.copy == "let-go" or ended_itself
    unbroken = case.heard == "unbroken" and case.call != "another's"
    return not (unbroken and on(case.world, "b").link != "silent")


def _is_deleted(case: MoveWorld) -> bool:
    """And nothing of it is to stay."""
    return case.world.wanted == "deleted"


def _starts_no_more(case: MoveWorld) -> bool:
    return case.world.wanted in ("deleted", "orphaned")


def _reboots(case: MoveWorld) -> bool:
    """One that is to be handed back is not ended to be started again."""
    return case.reboots and not _starts_no_more(case)


def _unsettled(case: MoveWorld) -> str:
    """It may still be under way, or was not read from source to target since."""
    if case.call == "sent":
        return "I8: its call has not returned"
    ends = (_end(case, "a"), _end(case, "b"))
    if ends[0] in (ACTIVE, MIG) and case.job != "none":
        return "I8: the source shows a job, or was not asked for one"
    if UNKNOWN in ends or any(_is_dead(case, n) for n in ("a", "b")):
        return ""
    if case.read != "since" or case.world.signs == "fresh":
        return "I8: its ends were not read, the source first"
    return "safety 4: the call may still arrive" if case.call == "late" else ""


def _is_to_end(case: MoveWorld) -> bool:
    return case.asked == "abort" or _starts_no_more(case)


def _is_stuck(case: MoveWorld) -> bool:
    return case.job == "stuck"


def _old_disks(case: MoveWorld) -> bool:
    """Those of the source, if the target ran and wrote to copies."""
    return case.copies and _may_have_run(case) and not _is_kept(case, "a") and not _starts_no_more(case)


# --- one kind each


def _migrate(case: MoveWorld, action: Action) -> str:
    world, after, move = case.world, action.after, action.move
    if case.asked not in ("live", "live to b") or world.wanted not in ("running", "paused", "transient"):
        return "nobody asked for it, or it is not to run"
    if world.promise is None or world.promise.candidates != ("a",) or action.node != "a":
        return "I2: it may be elsewhere than at its source"
    if on(world, "a").seen not in ("running", "user-paused"):
        return "it does not run there"
    if _end(case, "b") != ABSENT or _is_dead(case, "b"):
        return "safety 5: its target was not read as without it"
    if world.aside == "b observe only":
        return "an observe-only node is changed"
    if world.second == "fills both":
        return "there is no room at its target"
    assert after is not None and after.intent is not None and move is not None
    if (after.intent.node, after.intent.target, after.candidates) != ("a", "b", ("a", "b")):
        return "I20: both ends are not recorded before it is sent"
    if after.epoch <= EPOCH or after.node != "a":
        return "I2: the epoch does not rise, or its place moves before it does"
    if (move.persistent_xml is None) != (world.wanted == "transient"):
        return "safety 5: it arrives without its definition, or a transient one with"
    return ""


def _abort(case: MoveWorld, action: Action) -> str:
    here, there = _end(case, "a"), _end(case, "b")
    if action.node != "a":
        return "a job is ended at its source"
    if not _is_to_end(case) and not _is_stuck(case):
        return "nobody wants it ended, and it gets on"
    if case.call != "sent" and case.job not in ("running", "stuck"):
        return "there is no such job"
    if here != ACTIVE and not (here == MIG and there in (MIG, ABSENT) and _is_stuck(case)):
        return "I9: it is just switching over"
    if (action.target == "b") != (there == MIG and on(case.world, "b").extra != "transient"):
        return "safety 5: after it, what is defined at the target could be started, and nothing else is to go"
    return ""


def _let_go(case: MoveWorld, action: Action) -> str:
    after = action.after
    if not _stands(case):
        return "it does not stand there"
    if _end(case, "a") not in (ABSENT, *SHUTOFF):
        return "I1: its source may run, or go on"
    if after is None or after.intent is None or after.intent.copy is not Copy.LET_GO:
        return "I20: that it may run there is not recorded before it does"
    if case.copy != "let-go":
        if case.copy == "old" or _is_kept(case, "a"):
            return "I9: it must never go on"
        if _ran_on(case):
            return "I9: its source may have run since this copy was made"
    return _unsettled(case)


def _go_on(case: MoveWorld, action: Action) -> str:
    if action.node == "b":
        return _let_go(case, action)
    if action.node != "a" or (_end(case, "a"), _end(case, "b")) != (MIG, ABSENT):
        return "I9: only a source that stands paused, and whose target is gone, goes on"
    if on(case.world, "a").extra == "just":
        return "libvirt shows it so in the course of things"
    if _is_kept(case, "b") or _is_deleted(case):
        return "I9: it is not to go on there"
    if _may_have_run(case) and not _is_kept(case, "a"):
        return "I9: its target may have run and written"
    return _unsettled(case)


def _unplant(case: MoveWorld, action: Action) -> str:
    here, other = _end(case, action.node), _end(case, "b" if action.node == "a" else "a")
    if here not in SHUTOFF:
        return "it is not an inactive definition"
    if _is_kept(case, action.node) and other != ACTIVE:
        return "an operator said that it is this one that stays"
    if action.node == "a" and other != ACTIVE:
        b_is_right = other in SHUTOFF and (_may_have_run(case) or _is_kept(case, "b"))
        taken = b_is_right or (other == ABSENT and _is_kept(case, "b"))
        if not taken:
            return "the source's is taken away, and its target never ran"
        if other in SHUTOFF and case.copies and not _is_kept(case, "b") and not _is_deleted(case):
            return "which disks are right is not known"
    ran = _may_have_run(case) and not _is_kept(case, "a")
    if action.node == "b" and other != ACTIVE and ran:
        return "the target's is taken away, and it may have run there"
    if other == UNKNOWN:
        return "I3: the other end was not read"
    return _unsettled(case)


def _destroy(case: MoveWorld, action: Action) -> str:
    """An end that is paused, and must not go on; of two that are active only by a human's word."""
    node, other = action.node, "b" if action.node == "a" else "a"
    here, there, seen = _end(case, node), _end(case, other), on(case.world, node).seen
    if STANDS in (here, there):
        return _destroy_beside_or_of(case, action, here, there)
    if here == ACTIVE and there == ACTIVE:
        paused = (seen, on(case.world, other).seen) == ("user-paused", "user-paused")
        arrived = node == "a" and paused and case.heard != "resumed"
        if not _is_kept(case, other) and not arrived:
            return "I1: a duplicate is destroyed without a human's word"
        return "" if _is_kept(case, other) else _unsettled(case)
    if here != MIG or there == UNKNOWN:
        return "I9: it is not an end that the migration left paused, or the other was not read"
    if node == "b":
        return _unsettled(case) if seen == "stuck-start" else "it may still arrive"
    if on(case.world, "a").extra == "just" and there == ABSENT:
        return "libvirt shows it so in the course of things"
    if there != ACTIVE and _is_kept(case, "a") and not _is_deleted(case):
        return "an operator said that it is this one that stays"
    gone = there == ABSENT and not (_is_deleted(case) or _is_kept(case, "b"))
    if gone and not (_reboots(case) and _may_have_run(case)):
        return "I9: the only copy of its memory is thrown away"
    if gone and _old_disks(case):
        return "it would start again with disks that may be old"
    if there in SHUTOFF and not _may_have_run(case) and not _is_kept(case, "b"):
        return "I9: its target never ran"
    return _unsettled(case)


def _destroy_beside_or_of(case: MoveWorld, action: Action, here: str, there: str) -> str:
    """One end is a copy that stands."""
    after = action.after
    assert after is not None and after.intent is not None
    if action.node == "a":
        if _is_kept(case, "b") and here == ACTIVE:
            return ""
        if here != MIG or case.copy == "old":
            return "I9: it is not an end that the migration left paused"
        if after.intent.copy is not Copy.WHOLE:
            return "I20: whoever leads next does not know that nothing ran since"
        return _unsettled(case)
    if there == UNKNOWN:
        return "I3: the source was not read"
    if _is_kept(case, "a") and there == ACTIVE:
        return ""
    if after.intent.copy is not Copy.OLD:
        return "I20: whoever leads next does not know that it must never run"
    goes = there == ACTIVE or case.copy == "old" or _is_kept(case, "a")
    unasked = case.copies or not (_reboots(case) or _is_deleted(case))
    if not goes and (not _ran_on(case) or (unasked and not _is_deleted(case))):
        return "I9: the only copy of its memory is thrown away"
    return _unsettled(case)


def _record(case: MoveWorld, action: Action) -> str:
    after = action.after
    assert after is not None
    here, there = _end(case, "a"), _end(case, "b")
    for node in {"a", "b"} - {*after.candidates}:
        if _end(case, node) != ABSENT:
            return "I2: a candidate is left that was not read as absent"
    if after.intent is not None:
        noted = after.node == "b" and there == ACTIVE and here == UNKNOWN
        kept = _is_kept(case, after.node) and _end(case, after.node) in (ACTIVE, STANDS)
        return (
            "" if after.node == "a" or noted or kept else "it is given to a node where it was not seen to run"
        )
    if _is_kept(case, after.node) and _end(case, after.node) == ACTIVE:
        return ""
    if UNKNOWN in (here, there):
        return "I8: it is closed, and an end was not read"
    if action.is_clear and OFF in (here, there) and there != OFF:
        return "I22: what vanished is taken for ended"
    return (_closed_away if after.node == "b" else _closed_at_home)(case, here, there) or _unsettled(case)


def _closed_away(case: MoveWorld, here: str, there: str) -> str:
    if here != ABSENT:
        return "I8: it is done, and the source has it"
    if there == ABSENT:
        kept = _is_kept(case, "b") and is_absent_everywhere(case.world, "b")
        return "" if kept else "I22: it is not there"
    if there in (MIG, STANDS):
        return "I8: it has not arrived, or does not go on"
    if there in SHUTOFF and _is_kept(case, "a"):
        return "an operator said that it belongs to its source"
    ran = _may_have_run(case) or _is_kept(case, "b")
    return "" if there == ACTIVE or ran else "it never ran there"


def _closed_at_home(case: MoveWorld, here: str, there: str) -> str:
    if there != ABSENT:
        return "I8: it has failed, and the target has it"
    if here == MIG:
        return "I9: it stands paused"
    if not case.world.resigned:
        return "safety 4: within the quiet time"
    if here == ACTIVE:
        return ""
    if _old_disks(case):
        return "it would start again with disks that may be old"
    if here == ABSENT and not _starts_no_more(case) and not is_absent_everywhere(case.world, "a"):
        return "I22: it vanished, and may be anywhere"
    return ""


_JUDGES: Final[dict[ActionKind, Callable[[MoveWorld, Action], str]]] = {
    ActionKind.MIGRATE: _migrate,
    ActionKind.ABORT: _abort,
    ActionKind.GO_ON: _go_on,
    ActionKind.UNPLANT: _unplant,
    ActionKind.DESTROY: _destroy,
    ActionKind.RECORD: _record,
}
