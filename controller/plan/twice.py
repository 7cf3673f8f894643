"""Signs that a domain runs twice, or may: copies that somebody moved or started, and words about them.

Rules of the table (see `rules`), before any that starts or ends something by a spec. None of them ends a copy
unless an operator said which stays; what they learn of moves by hand is written down while it is known, for
later leaders may see nothing of it.
"""

from __future__ import annotations

from controller.plan import actions, moves, notes
from controller.plan.case import Case
from controller.plan.evidence import (
    Known,
    Unknown,
    is_away,
    is_dead,
    keeps_nothing,
    not_on,
    observe,
    observe_only_hold,
    quiet,
)
from controller.plan.types import Answer, Deferred, Reason


def keep_one(case: Case) -> Answer:
    """`domctl resolve --keep NODE`: the operator names the copy that stays. Acted on only while both sides
    are read, the kept one later than the other was seen; used up once no other copy is active."""
    decision = case.snap.resolutions.get(case.uuid)
    if decision is None or not decision.keep or case.held is None:
        return None
    kept = observe(case.snap, case.uuid, decision.keep)
    if not isinstance(kept, Known) or not kept.sighting.active:
        return None
    move = case.open_move
    ends = () if move is None else (move.node, move.target)
    if case.node != decision.keep:
        why = f"{decision.by} resolved: keep it on {decision.keep}"
        if decision.keep in ends:  # table M has the end of its migration to judge
            return actions.resting_on(case, moves.note_home(case, decision.keep, why), decision)
        return notes.reassign(case, decision.keep, why)
    others = [n for n in case.active_on if n != decision.keep]
    for node in others:
        seen = observe(case.snap, case.uuid, node)
        if _is_gone(case, node):
            continue
        if isinstance(seen, Unknown):
            return seen.deferred
        if case.snap.nodes[node].node.spec.observe_only is True:
            return observe_only_hold(node)
        if kept.sighting.seen_at <= case.all_sightings[node].since:
            return Deferred(
                Reason.READING_ALL_NODES,
                f"reading {decision.keep} once more before {node} is cleared",
                relist=(decision.keep, node),
                retry_after_s=1.0,
            )
        why = f"{decision.by} resolved: keep the one on {case.node}"
        late = quiet(case.snap, (node,))
        if late is not None:
            return late
        if ends and node in ends:
            return moves.clear_end(case, node, why)
        return actions.resting_on(case, actions.destroy(case, node, 0, why), decision)
    if ends:
        return None  # the word is used up by the transaction that closes the migration
    return notes.used_up(case, f"only the copy on {decision.keep} is active")


def word_over(case: Case) -> Answer:
    """A word that stands after its incident would speak of the next, of which nobody has said anything."""
    return _met(case) or _answered(case)


def _answered(case: Case) -> Answer:
    """`domctl resolve --not-on NODE`, and that node answered since: struck out before anything rests on it,
    lest a later leader, who finds it silent again, takes the word for a reading of then."""
    decision = case.snap.resolutions.get(case.uuid)
    if case.held is None or decision is None or not decision.not_on:
        return None
    stands = not_on(case.snap, case.uuid)
    if stands == decision.not_on:
        return None
    answered = ", ".join(node for node in decision.not_on if node not in stands)
    return notes.word_over(case, stands, f"{answered} answered, and speaks for itself")


def _met(case: Case) -> Answer:
    """It runs at home alone, as was read since the word was given: whatever the word was for is over, or was
    a mistake, and what happens here next is another incident, of which nobody has said anything."""
    decision = case.snap.resolutions.get(case.uuid)
    if case.held is None or decision is None or case.open_move is not None or case.deleting:
        return None
    was, own, since = case.assignment, case.own_sighting, case.snap.resolved_since
    alone = own is not None and own.active and case.active_on == (was.node,) == was.candidates
    if own is None or not alone or is_away(case.snap, was):
        return None
    if decision.keep and not keeps_nothing(case.snap, case.uuid, decision.keep):
        return None
    named = (*decision.not_on, decision.keep)
    if own.seen_at <= max(since.get((case.uuid, node), 0.0) for node in named):
        return None
    return notes.used_up(case, f"it runs on {was.node} alone: nobody need say where it is, or is not")


def armed(case: Case) -> Answer:
    """Somebody moved it by hand, and its old home kept a definition that starts by itself: the next boot of
    that host would run it twice (seed 105953). Nothing else is concluded from that."""
    if case.held is None:
        return None
    moved = is_away(case.snap, case.assignment)
    for node, last in sorted(case.all_sightings.items()):
        seen = observe(case.snap, case.uuid, node)
        if not isinstance(seen, Known) or last.record.active or not last.detail.autostart:
            continue
        runs_elsewhere = any(other != node for other in case.active_on)
        if (moved or runs_elsewhere) and case.snap.nodes[node].node.spec.observe_only is not True:
            return actions.disarm(case, node, "it may run elsewhere, and would start here at a boot")
    return None


def moved_away(case: Case) -> Answer:
    """Somebody moved it by hand, and nobody saw where to. Written down while it is known: once its home is
    dead, or another leads, nothing tells of it any more, and its promise alone would start it again."""
    if case.held is None or not case.assignment.started:
        return None
    own = case.own_sighting
    if case.assignment.away:
        home = case.active_on == (case.node,)  # not where its migration has paused it
        return notes.away(case, False, f"it runs on {case.node}") if home else None
    shown = own is not None and not own.record.active and own.record.reason == "migrated"
    if case.active_on or not (shown or case.uuid in case.snap.migrated):
        return None
    return notes.away(case, True, f"it was migrated away from {case.node}, and where to was not seen")


def _is_gone(case: Case, node: str) -> bool:
    """What answers is not gone, whatever is said of it."""
    return is_dead(case.snap, node) and isinstance(observe(case.snap, case.uuid, node), Unknown)


def duplicate(case: Case) -> Answer:
    if sum(not _is_gone(case, node) for node in case.active_on) < 2:
        return None
    return Deferred(
        Reason.DUPLICATE,
        f"active on {' and '.join(case.active_on)} at once; nothing is destroyed automatically",
        command=f"domctl resolve {case.command_target} --keep NODE",
        relist=case.active_on,
        retry_after_s=5.0,
    )
