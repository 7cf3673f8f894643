"""The copy that a migration leaves standing at its target: when it goes on, and when it must never.

libvirt itself runs both copies where the target is frozen or cut off at the switch-over for as long as the
source waits for it (27 s), and then goes on: the source runs again, and the target carries out what it had
received. So no target starts its copy by itself. It goes on once both ends were read after the call was
over, the source has nothing that runs, and it is known that what is gone from there did not run after its
memory was copied: old memory must not meet disks that went on. Where nothing tells that, it is a doubt like
others.

No quiet time is waited for: nothing that a former leader may have sent for this migration starts the source
again, for its domain is gone from there (§4); the guest stands still meanwhile.
"""

from __future__ import annotations

from typing import Final

from controller.model import Copy
from controller.plan import moves
from controller.plan.ends import End, Ends
from controller.plan.evidence import observe_only_hold, quiet
from controller.plan.types import Action, Deferred, Reason

TIMELY_S: Final = 20.0  # a source waits for its target for 27 s at least (measured)


def may(ends: Ends, node: str) -> Deferred | None:
    """Nothing is destroyed, undefined or resumed while a former leader's commands may still arrive (§4), nor
    on a node that is only to be looked at."""
    return only_looked_at(ends, node) or quiet(ends.case.snap, (node,))


def only_looked_at(ends: Ends, node: str) -> Deferred | None:
    stored = ends.case.snap.nodes.get(node)
    return observe_only_hold(node) if stored is not None and stored.node.spec.observe_only is True else None


def let_go(ends: Ends) -> Action | Deferred:
    """The source has nothing that runs: the last step of a migration."""
    case = ends.case
    if ends.kept == ends.source:
        return _destroy(ends, f"an operator said that it belongs on {ends.source}")
    if ends.intent.copy is Copy.OLD:
        return _destroy(ends, f"it ran on {ends.source} since this copy was made")
    why = _handed_over(ends)
    if why:
        return go_on_at_target(ends, why)
    if ends.is_taken_away:
        return _destroy(ends, "it is deleted")
    if ends.reboots and not ends.intent.copies:
        return _destroy(ends, f"it may have run on {ends.source} since, and migration.onDoubt is Reboot")
    return Deferred(
        Reason.MIGRATION_DOUBT,
        f"it stands paused on {ends.target}; it is gone from {ends.source}, but may have run there since",
        command=f"domctl resolve {case.command_target} --keep {ends.target} to let it go on{ends.or_else}",
    )


def go_on_at_target(ends: Ends, why: str) -> Action | Deferred:
    """Again and again, until it is read or heard to run: that it may is recorded first, and stays so."""
    return only_looked_at(ends, ends.target) or moves.let_go(ends.case, ends.target, why)


def old_copy(ends: Ends) -> Action | Deferred:
    """The source goes on: libvirt gave the migration up, and whatever stands at the target never ran."""
    return _destroy(ends, f"{ends.both}: the migration failed, and this copy never ran")


def beside_paused_source(ends: Ends) -> Action | Deferred:
    """The target has all of it and the source stands: nothing ran since. The source's is ended first."""
    if ends.intent.copy is Copy.OLD:
        return old_copy(ends)
    why = f"it stands on {ends.target}, where it was migrated to"
    return may(ends, ends.source) or moves.clear_end(ends.case, ends.source, why, Copy.WHOLE)


def _destroy(ends: Ends, why: str) -> Action | Deferred:
    return may(ends, ends.target) or moves.clear_end(ends.case, ends.target, why, Copy.OLD)


def _handed_over(ends: Ends) -> str:
    """How it is known that the source did not run on after its memory was copied; "" if it is not."""
    intent, watch, snap = ends.intent, ends.watch, ends.case.snap
    if ends.kept == ends.target:
        return f"an operator said that it belongs on {ends.target}"
    if intent.copy is Copy.WHOLE:
        return f"it stood on {ends.source} until it was ended there"
    seen, end = ends.sighting(ends.source), snap.ends.get((ends.case.uuid, ends.source))
    left = end is not None and end.at >= watch.began_at and end.detail == "migrated"
    left = left or watch.done or (seen is not None and seen.record.reason == "migrated")
    if left and ends.at_source is not End.ENDED:
        return f"{ends.source} said that it has left"
    told_ms = watch.result.downtime_ms if watch.result is not None else None
    if told_ms is None or told_ms > TIMELY_S * 1000:
        return ""  # whoever is late was given up
    resumed_at = snap.resumes.get((ends.case.uuid, ends.source), -1.0)
    if ends.is_heard(ends.source, watch.source_session) and resumed_at < watch.began_at:
        return f"{ends.source} was heard all along, and never that it went on there"
    if ends.at_source is not End.ENDED:
        return f"{ends.target} had all of it {told_ms} ms after it stood still on {ends.source}"
    return ""
