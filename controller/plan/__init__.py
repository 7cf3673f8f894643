"""plan(snapshot, dirty): from what is wanted, promised and seen to actions and deferrals. Pure.

Read in order: `snapshot` (the input), `types` (the output), `evidence` (what may be concluded), `case`
(one domain's facts), `rules` (the ordered table) with `removal`, `present`, `resting`, `place`, `actions` and
`notes`, each with its `premises` (what must still be so when it is recorded); `departing` and `migrating`
(how a migration begins, and what became of it: table M) with `ends`, `standing` and `moves`. Nothing here
knows asyncio, time, chance or I/O; the same snapshot gives the same plan on every controller.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping

import msgspec

from controller.model import Intent
from controller.plan.case import Case
from controller.plan.place import capacity_group
from controller.plan.rules import judge
from controller.plan.snapshot import UNSEEN, Snapshot, Usage
from controller.plan.types import ActionKind, Deferred, Reason, Situation, Verdict


def plan(
    snap: Snapshot, dirty: Iterable[str], enough: Callable[[], bool] = lambda: False
) -> Mapping[str, Verdict]:
    """A verdict for each dirty UUID, or for the first of them: up to the one after which it was `enough`.
    Placements made on the way count for those that follow, so that one plan never fills a node twice; keys
    are taken in order, so that the result does not depend on arrival."""
    usage = dict(snap.usage)
    macs: ChainMap[str, str] = ChainMap({}, snap.macs)  # type: ignore[arg-type]
    moving = dict(snap.moving)
    working = msgspec.structs.replace(snap, usage=usage, macs=macs, moving=moving, shared={})
    verdicts: dict[str, Verdict] = {}
    for uuid in sorted(set(dirty)):
        verdict = _judged(working, uuid)
        verdicts[uuid] = verdict
        _admit(working, usage, macs, moving, verdict)
        if enough():
            break
    return verdicts


def _judged(snap: Snapshot, uuid: str) -> Verdict:
    """One domain that cannot be judged, for whatever reason, must not keep all others from it."""
    try:
        return judge(Case(snap, uuid))
    except Exception as error:  # noqa: BLE001 - nothing is done for it, and that is said
        message = f"domctl cannot plan for it, which is a bug: {type(error).__name__}: {error}"
        return Verdict(Situation.HELD, deferred=Deferred(Reason.INTERNAL, message, retry_after_s=60.0))


def _admit(
    snap: Snapshot,
    usage: dict[str, Usage],
    macs: MutableMapping[str, str],
    moving: dict[str, Intent],
    verdict: Verdict,
) -> None:
    """Count what a planned placement, or migration, will take."""
    action = verdict.action
    if action is None or action.after is None:
        return
    for mac in action.reserve:
        macs[mac] = action.uuid
    held = snap.assignments.get(action.uuid)
    if action.kind is ActionKind.MIGRATE and action.after.intent is not None:
        moving[action.uuid] = action.after.intent
    elif held is not None and held.assignment.candidates:
        return
    to = action.target or action.node
    group = capacity_group(snap.views.get(to, UNSEEN), to)
    usage[group] = usage.get(group, Usage()).plus(action.after.vcpus, action.after.memory_bytes)
