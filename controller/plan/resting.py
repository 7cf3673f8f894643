"""Whether a domain that does not run is to rest: what restartPolicy makes of how it ended, and for how long.

That it may rest is recorded in its assignment (`ended`) as soon as the policy says so, for what tells of
its end does not last: libvirtd forgets the reason when it starts anew, a transient domain leaves no trace,
and what a leader heard dies with it. From then on it rests, wherever its definition is taken, until it was
seen to run, is stopped because that is wanted, or another policy has it started.

An end of which nobody knows how it came is none that OnFailure may take for success, and under Never it is an
end like any other: what must not run twice says Never.
"""

from __future__ import annotations

from typing import Final

from controller.model import Intent, IntentKind, Rule
from controller.plan import states
from controller.plan.case import Case
from controller.plan.evidence import is_away
from controller.plan.snapshot import Sighting
from controller.plan.types import Deferred, Reason
from specs.domain import RestartPolicy, effective_restart_policy, restarts_elsewhere

ENDS_NOTHING: Final = (states.CALLS | {IntentKind.DEFINE}) - {IntentKind.SAVE}
LEFT_BY_RUNS: Final = frozenset({"shutdown", "crashed"})
UNKNOWN: Final = "unknown"
WITH_ITS_NODE: Final = "its node was confirmed dead"
SUCCESS: Final = frozenset({"shutdown"})
"""Ends that are no failure: the guest shut itself down."""


def how_it_ended(case: Case, seen: Sighting | None) -> str:
    """In libvirt's word, or one of ours; "" if it did not end by itself: it was never started, somebody asked
    for it, or its memory is saved. `seen`: as it stands at home, None if it is not there."""
    was = case.assignment
    if case.is_saved:
        return ""
    if was.ended:
        return was.ended
    if _ran_unseen(case, seen):
        return seen.record.reason if seen is not None else ""
    asked = was.intent is not None and was.intent.kind not in ENDS_NOTHING
    if asked or not was.started or was.stopped:
        return ""
    if not was.candidates:
        return WITH_ITS_NODE if _died_with_its_node(case) else ""
    return (seen.record.reason if seen is not None else _witnessed(case)) or UNKNOWN


def _ran_unseen(case: Case, seen: Sighting | None) -> bool:
    """A start of which nothing was heard any more: its definition is there, and the domain stands as only a
    run can leave it, and as it did not stand before. Where it stood so before, too, nobody can tell whether
    it ran once more, and what must not run twice did."""
    intent = case.assignment.intent
    if intent is None or intent.kind is not IntentKind.START or seen is None or seen.record.active:
        return False
    mark, reason = seen.detail.config_mark, seen.record.reason
    if mark is None or mark.epoch != intent.epoch or reason not in LEFT_BY_RUNS:
        return False
    return reason != intent.before or (_is_unanswered(case, intent) and _runs_once(case))


def _is_unanswered(case: Case, intent: Intent) -> bool:
    """Its start may have been sent, by this leader or the one before, and nobody heard what came of it."""
    inherited = case.snap.inherited.get(case.uuid) == intent.op
    return inherited or (case.uuid, intent.node) in case.snap.unanswered


def _runs_once(case: Case) -> bool:
    spec = case.stored.domain.spec if case.stored is not None else None
    return spec is not None and effective_restart_policy(spec) is RestartPolicy.NEVER


def _witnessed(case: Case) -> str:
    end = case.snap.ends.get((case.uuid, case.node))
    return end.detail if end is not None else ""


def _died_with_its_node(case: Case) -> bool:
    """It left its node by an operator's word alone. Nobody knows whether it had ended before; to be started
    elsewhere all the same is for its spec to say. What somebody had moved away did not die there."""
    assert case.stored is not None
    if is_away(case.snap, case.assignment):
        return False
    left = any(p.node == case.node and p.rule is Rule.CONFIRMED_DEAD for p in case.assignment.proofs)
    never = effective_restart_policy(case.stored.domain.spec) is RestartPolicy.NEVER
    return left and never and not restarts_elsewhere(case.stored.domain.spec)


def rest(case: Case, seen: Sighting | None) -> Deferred | None:
    """What its policy says while it should run and does not; None: nothing that keeps it from a start."""
    if case.held is None or case.wanted not in states.RUNS:
        return None
    assert case.stored is not None
    policy, how = effective_restart_policy(case.stored.domain.spec), how_it_ended(case, seen)
    if not how or policy is RestartPolicy.ALWAYS:
        return None
    if policy is RestartPolicy.ON_FAILURE and how not in SUCCESS:
        return None
    return Deferred(
        Reason.COMPLETED,
        f"it ended ({how}) and restartPolicy is {policy}",
        command=f"domctl shutdown {case.command_target}, then domctl start, to run it again",
    )
