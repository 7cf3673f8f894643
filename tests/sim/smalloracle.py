"""What may be done in a small world, said a second time: by the protocol, in the words of the world.

Nothing here asks the plan or its evidence. `wrong` names the invariant that a verdict breaks, or is empty.
Where the plan is more careful than it must be, this does not complain, but for L4: what is not as wanted has
an action or a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from controller.model import Assignment, IntentKind, Rule
from controller.plan.types import Action, ActionKind, Reason, Verdict
from tests.sim.small import EPOCH, MOVED, STATES, Obs, Promise, World

PROVING: Final = frozenset({"ended", "destroyed", "ended-by-crash", "saved"})
HOLDS_DISKS: Final = frozenset({"running", "user-paused", "crashed", "ending", "postcopy"})
IN_MIGRATION: Final = frozenset({"migrating", "starting", "stuck-start"})
INACTIVE: Final = frozenset(s for s, (_, _, active) in STATES.items() if not active)

ASKS_A_NODE: Final = frozenset(
    {
        ActionKind.START,
        ActionKind.DEFINE,
        ActionKind.SHUTDOWN,
        ActionKind.DESTROY,
        ActionKind.PAUSE,
        ActionKind.RESUME,
        ActionKind.SAVE,
        ActionKind.FORGET,
        ActionKind.DROP_SAVED,
        ActionKind.REBOOT,
        ActionKind.RESET,
        ActionKind.REVOKE,
        ActionKind.MARK,
        ActionKind.AUTOSTART,
        ActionKind.HAND_BACK,
        ActionKind.MIGRATE,
        ActionKind.ABORT,
        ActionKind.GO_ON,
        ActionKind.UNPLANT,
    }
)
TAKES_AWAY: Final = frozenset({ActionKind.SHUTDOWN, ActionKind.DESTROY, ActionKind.REVOKE})
NEEDS_QUIET: Final = frozenset(
    {
        *TAKES_AWAY,
        ActionKind.RELEASE,
        ActionKind.RESUME,
        ActionKind.SAVE,
        ActionKind.DROP_SAVED,
        ActionKind.FORGET,
        ActionKind.MIGRATE,
        ActionKind.ABORT,
        ActionKind.GO_ON,
        ActionKind.UNPLANT,
    }
)
RUNS: Final = frozenset({"running", "paused", "transient"})
OFF: Final = frozenset({"shutoff", "transient, off"})


def wrong(world: World, verdict: Verdict) -> str:
    """The first invariant that this verdict breaks, with a word on how; "" if it breaks none."""
    if verdict.deferred is not None and verdict.deferred.reason is Reason.INTERNAL:
        return f"the plan failed: {verdict.deferred.message}"
    if verdict.action is None:
        return _silent(world, verdict)
    for rule in ALWAYS:
        broken = rule(world, verdict.action)
        if broken:
            return broken
    return _JUDGES[verdict.action.kind](world, verdict.action)


# --- what can be said of a host


def on(world: World, node: str) -> Obs:
    """What is known of a node that is not registered is what was seen there last."""
    obs = world.on(node)
    return obs if registered(world, node) else msgspec.structs.replace(obs, link="gone")


def known(obs: Obs) -> bool:
    """It was read after everything that was sent to it."""
    return obs.link == "ready"


def absent(obs: Obs) -> bool:
    return known(obs) and not obs.seen


def registered(world: World, node: str) -> bool:
    return not (node == "b" and world.aside == "b is not registered")


def _other(node: str) -> str:
    return "b" if node == "a" else "a"


def _nodes(world: World) -> list[str]:
    return [n for n in ("a", "b") if registered(world, n)]


def _candidates(world: World) -> tuple[str, ...]:
    return world.promise.candidates if world.promise is not None else ()


def _tombstone(world: World) -> bool:
    """What an object that stands undeleted says counts more than a record of its deletion: that is what a
    store holds that was set back."""
    recorded = world.wanted == "none" and world.promise is not None and world.promise.tombstone
    return recorded or world.wanted in ("deleted", "orphaned")


def _proved_gone(world: World, node: str) -> bool:
    """A human vouched, and it stands in the assignment."""
    if world.promise is None or node in world.promise.candidates:
        return False
    return world.promise.proof in (f"{node}:R3", f"{node}:resolved!")


def _may_hold(world: World, node: str) -> bool:
    """As far as was ever seen, the domain or its definition is there."""
    return bool(on(world, node).seen) and not (not known(on(world, node)) and _proved_gone(world, node))


# --- what holds for every action


def _held(world: World, action: Action) -> str:
    if world.aside == "store held":
        return "I11: the store is not trusted"
    if world.aside == "unreadable":
        return "I11: a promise that cannot be read is none"
    if world.promise is not None and any(
        on(world, n).mark == "future" and on(world, n).seen and not _stale_word(world, n) for n in ("a", "b")
    ):
        return "restored store: a mark is ahead of its epoch"
    after = action.after
    if after is not None and world.promise is not None and after.epoch < EPOCH:
        return "I5: the epoch falls"
    return ""


def _stale_word(world: World, node: str) -> bool:
    """What was last seen there counts no more: somebody vouched for it since."""
    return not known(on(world, node)) and _proved_gone(world, node)


def _known(world: World, action: Action) -> str:
    """I3: nothing is sent to a host that was not read since the last change."""
    if action.kind not in ASKS_A_NODE:
        return ""
    if not registered(world, action.node):
        return "I3: the node is not registered"
    if not known(on(world, action.node)):
        return f"I3: {action.node} is {on(world, action.node).link}"
    if world.aside == f"{action.node} observe only":
        return "an observe-only node is changed"
    return ""


def _ours(world: World, action: Action) -> str:
    """I10."""
    foreign = [n for n in ("a", "b") if on(world, n).seen and on(world, n).mark == "foreign"]
    if action.kind in ASKS_A_NODE and any(not _stale_word(world, n) for n in foreign):
        return "I10: it carries the mark of another cluster"
    if world.promise is None and action.kind in ASKS_A_NODE:
        if action.kind not in (ActionKind.START, ActionKind.DEFINE):
            return "I10: nothing was promised, so nothing there is ours"
        if any(on(world, n).seen for n in ("a", "b")):
            return "I10: the UUID is in use, and not by us"
    return ""


def _explicit(world: World, action: Action) -> str:
    """I11: a missing object takes nothing away."""
    takes = action.kind in NEEDS_QUIET or action.kind in (ActionKind.FINISH, ActionKind.HAND_BACK)
    said = action.consumes or world.word == f"keep {_other(action.node)}"  # by a human, of this very copy
    if takes and world.wanted == "none" and not _tombstone(world) and not said:
        return "I11: the object is missing, not deleted"
    if action.kind in (ActionKind.FINISH, ActionKind.HAND_BACK) and not _tombstone(world):
        return "I11: nobody deleted it"
    return ""


def _quiet(world: World, action: Action) -> str:
    """Safety 4: late commands of the former leader may still arrive. None starts the source of a migration
    again that is gone from there, so what stands at the target need not wait."""
    if world.resigned or action.kind not in NEEDS_QUIET:
        return ""
    intent = action.after.intent if action.after is not None else None
    if action.kind is ActionKind.GO_ON and intent is not None and action.node == intent.target:
        return ""
    resolved = action.kind is ActionKind.RELEASE and action.consumes
    return "" if resolved else "safety 4: within the quiet time"


def _disk(world: World, action: Action) -> str:
    """What the guest wrote since is where somebody moved its disk, and not where its spec says."""
    gives = action.kind in (ActionKind.START, ActionKind.DEFINE, ActionKind.MIGRATE)
    if world.aside not in MOVED or world.promise is None or not gives:
        return ""
    seen = known(on(world, "a")) and on(world, "a").seen
    return "a disk that was moved by hand is put back" if seen or world.aside != MOVED[0] else ""


ALWAYS: Final = (_held, _known, _ours, _explicit, _quiet, _disk)


# --- one kind each


def _start(world: World, action: Action) -> str:
    node, other = action.node, _other(action.node)
    if world.wanted not in RUNS or _tombstone(world):
        return f"I11: it should be {world.wanted}"
    broken = _sole_candidate(world, action)
    if broken:
        return broken
    if on(world, node).seen and on(world, node).seen not in INACTIVE:
        return "I1: it is active there already"
    if _may_hold(world, other):
        return f"I2: {other} was last seen to have it"
    if world.aside == f"{node} in quarantine" and node not in _candidates(world):
        return "I15: the node is in quarantine"
    if world.aside == "never again" and world.promise is not None and _rests(world, world.promise, node):
        return "it ended, and is to rest"
    if on(world, node).seen == "saved" and world.aside == "older memory":
        return "it goes on with an older definition, and nobody was told"
    assert action.after is not None
    if action.after.intent is None or action.after.intent.kind is not IntentKind.START:
        return "I20: no intent is recorded"
    if world.promise is not None and action.after.epoch <= EPOCH:
        return "I2: the epoch does not rise"
    if world.promise is None:
        return ""
    return "" if _may_start(world, world.promise, node) else "I22: there is no evidence that it ended"


def _rests(world: World, promise: Promise, node: str) -> bool:
    """It ran, and what is known of its end is noted, or seen, or its node was taken for dead."""
    if promise.ended:
        return on(world, node).seen != "saved"
    ran = promise.started and not promise.stopped and not promise.intent
    left = "a:R3" in promise.proof and not promise.candidates
    return ran and (left or (bool(promise.candidates) and on(world, "a").seen in INACTIVE - {"saved"}))


def _sole_candidate(world: World, action: Action) -> str:
    assert action.after is not None
    if action.after.candidates != (action.node,):
        return f"I2: {action.after.candidates} may hold it"
    if any(c != action.node for c in _candidates(world)):
        return "I2: a candidate is left without a proof"
    return ""


def _may_start(world: World, promise: Promise, node: str) -> bool:
    """I22, but for a domain that no node may hold and that left each by a full proof."""
    vanished = promise.proof.endswith("!")
    if not promise.candidates:
        return not (promise.started and vanished) or is_absent_everywhere(world, node)
    if world.aside == "migration seen":  # I22: and its end was not
        return world.word == f"keep {node}"
    here = on(world, node)
    if not vanished:
        if node == "a" and world.end == "shutdown now":
            return True
        if here.seen in PROVING:
            return True
        carries = here.mark in ("right", "old live") and promise.intent == f"start@{node}"
        if here.seen == "off-unknown" and carries:
            return True
    return is_absent_everywhere(world, node)


def is_absent_everywhere(world: World, home: str) -> bool:
    """Two complete listings of all that answer, the second after the first, and no sign between. Where a
    migration was seen, or they are made by hand, of all that there are."""
    if world.signs != "old" or not world.resigned:
        return False
    moves = world.aside in ("hand migrations", "migration seen")
    for node in _nodes(world):
        obs = on(world, node)
        if known(obs):
            if obs.seen and (node != home or obs.seen not in INACTIVE):
                return False
            continue
        vouched = world.word in (f"not on {node}", f"dead {node}")
        must = moves or node in _candidates(world) or node == home
        if obs.link == "awaiting" or (must and not vouched):
            return False
    return True


def _define(world: World, action: Action) -> str:
    if world.wanted not in (*RUNS, "saved", "shutoff") or _tombstone(world):
        return f"I11: it should be {world.wanted}"
    other = _other(action.node)
    if _may_hold(world, other):
        return f"I2: {other} was last seen to have it"
    if on(world, action.node).seen in IN_MIGRATION:
        return "safety 5: a migration is under way"
    return _sole_candidate(world, action)


def _stop(world: World, action: Action) -> str:
    """SHUTDOWN and DESTROY."""
    here, other = on(world, action.node), on(world, _other(action.node))
    if _stale_word(world, _other(action.node)):
        other = Obs("gone")
    if here.seen in INACTIVE or not here.seen:
        return "it is not active there"
    if _undoes_a_start(world, action):
        return ""
    if "postcopy" in (here.seen, other.seen):
        return "after post-copy no side is whole"
    migrating = here.seen in IN_MIGRATION or (known(other) and other.seen in IN_MIGRATION)
    kept = world.word == f"keep {_other(action.node)}" and known(other) and other.seen in HOLDS_DISKS
    if kept and action.kind is ActionKind.DESTROY:
        return ""
    if migrating:
        return "safety 5: a migration is under way"
    both = here.seen in HOLDS_DISKS and other.seen in HOLDS_DISKS
    dead = world.word == f"dead {_other(action.node)}" and not known(other)  # what was seen there is no more
    if both and not dead:
        return "a duplicate is destroyed without a human's word"
    if _tombstone(world):
        return ""
    if world.wanted in OFF and world.promise is not None and action.node == "a":
        return ""
    return "I11: nobody wants it stopped"


def _pause(world: World, action: Action) -> str:
    assert action.after is not None
    if world.wanted != "paused" or _tombstone(world):
        return f"I11: it should be {world.wanted}"
    if not action.after.paused:
        return "a pause that nobody will know for domctl's own"
    return _alone(world, action, "running")


def _resume(world: World, action: Action) -> str:
    """One that domctl paused and that is to run; or any, so that it hears that it is to stop."""
    assert world.promise is not None
    own = world.wanted in ("running", "transient") and not _tombstone(world) and world.promise.paused
    stops = world.wanted in OFF or _tombstone(world)
    if not own and not stops:
        return "it was paused by hand, and nobody wants it stopped"
    return _alone(world, action, "user-paused")


def _forget(world: World, action: Action) -> str:
    if world.wanted != "transient" or _tombstone(world):
        return f"safety 2: it should be {world.wanted}"
    if on(world, "a").extra == "transient":
        return "it is transient already"
    return _alone(world, action, *HOLDS_DISKS - {"postcopy"})


def _save(world: World, action: Action) -> str:
    if world.wanted != "saved" or _tombstone(world):
        return f"I11: it should be {world.wanted}"
    return _alone(world, action, *HOLDS_DISKS - {"postcopy"})


def _drop(world: World, action: Action) -> str:
    """A user's request, and nothing else, throws saved memory away."""
    if world.aside != "asked to drop-saved":
        return "R1: nobody asked to throw its memory away"
    if on(world, action.node).seen != "saved":
        return "there is nothing to throw away"
    return _recorded(action, "drop-saved")


def _once(world: World, action: Action) -> str:
    """Reboot and reset."""
    if world.aside != f"asked to {action.kind}":
        return f"nobody asked to {action.kind} it"
    if world.wanted not in ("running", "transient") or _tombstone(world):
        return f"I11: it should be {world.wanted}"
    return _alone(world, action, "running") or _recorded(action, action.kind)


def _recorded(action: Action, name: str) -> str:
    """Before it is sent, so that nobody sends it again."""
    assert action.after is not None
    return "" if name in action.after.requests else "it would be done twice"


def _alone(world: World, action: Action, *seen: str) -> str:
    """It stands at home like this, and nothing is known to be elsewhere."""
    other = _other(action.node)
    if (action.node != "a" and not _tombstone(world)) or on(world, action.node).seen not in seen:
        return f"it is not {' or '.join(seen)} there"
    if _may_hold(world, other) and on(world, other).seen not in INACTIVE:
        return f"I2: {other} may have it running"
    return ""


def _undoes_a_start(world: World, action: Action) -> bool:
    """A create() that a dying daemon left half-done: it never ran."""
    here = on(world, action.node)
    return (
        action.kind is ActionKind.DESTROY
        and action.node == "a"
        and here.seen == "stuck-start"
        and here.mark == "right"
        and world.promise is not None
        and world.promise.intent == "start@a"
        and on(world, "b").seen in ("", *INACTIVE - {"migrated-away"})
    )


def _revoke(world: World, action: Action) -> str:
    here, other = on(world, action.node), on(world, _other(action.node))
    if here.seen not in INACTIVE:
        return "R1: not a definition that is inactive"
    if known(other) and other.seen in IN_MIGRATION:
        return "safety 5: cleaning up during a migration kills it"
    assert action.after is not None and action.settled is not None and world.promise is not None
    if action.node not in action.after.candidates or not {*_candidates(world)} <= {*action.after.candidates}:
        return "I2: a candidate is left before there is a proof"
    if action.after.epoch <= EPOCH:
        return "I2: the epoch does not rise"
    proof = next((p for p in action.settled.proofs if p.node == action.node), None)
    if proof is None:
        return "R1: no proof is recorded"
    if world.promise.started and here.seen not in PROVING and not proof.vanished:
        return "I22: a state that proves nothing is taken for a proof"
    leaves = world.aside == "must leave a" or world.wanted == "transient, off"
    if action.node == "a" and not _tombstone(world) and not leaves:
        return "it is taken from its own place"
    return ""


def _release(world: World, action: Action) -> str:
    """A node leaves the candidates and is not asked: by a proof that is at hand."""
    obs, node = on(world, action.node), action.node
    assert action.after is not None
    proof = next((p for p in action.after.proofs if p.node == node), None)
    if proof is None:
        return "I2: a candidate is left without a proof"
    if {*_candidates(world)} - {node} != {*action.after.candidates} - {node}:
        return "I2: another candidate goes with it"
    if proof.rule is Rule.CONFIRMED_DEAD:
        if world.word != f"dead {node}" or known(obs):
            return "R3: the node was not confirmed dead, or answers"
        return "" if obs.extra != "autostart" else "R3: its definition has autostart set"
    if proof.rule is Rule.RESOLVED:
        ok = world.word == f"not on {node}" and not known(obs) and proof.vanished
        return "" if ok else "nobody said that it is not there, or the node answers"
    if not absent(obs):
        return "I3: the node was not read as without it"
    if not proof.vanished and not (_tombstone(world) and _gone_for_good(world)):
        return "I22: what vanished is taken for ended"
    return ""


def _gone_for_good(world: World) -> bool:
    assert world.promise is not None
    return not world.promise.started or is_absent_everywhere(world, "a")


def _record(world: World, action: Action) -> str:
    """Only the assignment changes: it may take a node in, but let none go."""
    assert action.after is not None and world.promise is not None
    after: Assignment = action.after
    if not {*_candidates(world)} <= {*after.candidates}:
        return "I2: a candidate is left without a proof"
    if after.node != "a" and not (world.word == f"keep {after.node}" and _runs_for_sure(world, after.node)):
        return "it is given to a node where it was not seen to run"
    before = world.promise.proof.partition(":")[0]
    dropped = bool(before) and not any(p.node == before for p in after.proofs)
    if dropped and before not in after.candidates and not absent(on(world, before)):
        return "a proof is dropped though its node was not read as without it"
    closes = world.promise.intent.startswith("start") and after.intent is None
    if closes and after.node == "a" and on(world, "a").seen in INACTIVE and world.wanted in RUNS:
        return "I22b: an open start intent is forgotten"
    return ""


def _runs_for_sure(world: World, node: str) -> bool:
    return known(on(world, node)) and on(world, node).seen in HOLDS_DISKS


def _touch(world: World, action: Action) -> str:
    """MARK and AUTOSTART."""
    if not on(world, action.node).seen or (action.node != "a" and not _disarms(world, action)):
        return "it is not there"
    if action.autostart and (world.aside != "autostart wanted" or world.wanted != "running"):
        return "I7: autostart is set, and nobody wants it"
    return "safety 5: a migration is under way" if on(world, action.node).seen in IN_MIGRATION else ""


def _disarms(world: World, action: Action) -> bool:
    """A definition that stands where it may not belong would start a second one at the next boot there."""
    here, other = on(world, action.node), on(world, _other(action.node))
    clears = action.kind is ActionKind.AUTOSTART and not action.autostart
    elsewhere = world.aside == "migration seen" or other.seen in HOLDS_DISKS
    return clears and elsewhere and here.seen in INACTIVE and here.extra == "autostart"


def _hand_back(world: World, action: Action) -> str:
    if world.wanted != "orphaned" or _may_hold(world, _other(action.node)):
        return "nobody asked to keep it, or not this copy"
    return ""


def _finish(world: World, action: Action) -> str:
    if world.promise is None:
        return ""
    if _candidates(world):
        return f"I2: {_candidates(world)} may still hold it"
    if any(_may_hold(world, n) for n in _nodes(world)):
        return "it is still seen"
    unproved = world.promise.started and world.promise.proof.endswith("!")
    if unproved and not is_absent_everywhere(world, "a"):
        return "I22: it vanished, and may be anywhere"
    dead = world.promise.proof.endswith("R3")
    return "I15: the tombstone goes before the dead node answered" if dead and action.after is None else ""


_JUDGES: Final[dict[ActionKind, Callable[[World, Action], str]]] = {
    ActionKind.START: _start,
    ActionKind.DEFINE: _define,
    ActionKind.SHUTDOWN: _stop,
    ActionKind.DESTROY: _stop,
    ActionKind.PAUSE: _pause,
    ActionKind.RESUME: _resume,
    ActionKind.SAVE: _save,
    ActionKind.FORGET: _forget,
    ActionKind.DROP_SAVED: _drop,
    ActionKind.REBOOT: _once,
    ActionKind.RESET: _once,
    ActionKind.REVOKE: _revoke,
    ActionKind.RELEASE: _release,
    ActionKind.RECORD: _record,
    ActionKind.MARK: _touch,
    ActionKind.AUTOSTART: _touch,
    ActionKind.HAND_BACK: _hand_back,
    ActionKind.FINISH: _finish,
}


# --- doing nothing


def _silent(world: World, verdict: Verdict) -> str:
    """L4."""
    deferred = verdict.deferred
    if deferred is not None:
        return "" if deferred.message else "L4: a reason without a word"
    if world.wanted == "none" and world.promise is None:
        return ""
    here = on(world, "a")
    if _tombstone(world):
        kept = world.promise is not None and world.promise.proof.endswith("R3") and world.wanted == "none"
        return "" if kept else "L4: it is to be deleted, and nothing happens"
    if world.promise is not None and world.promise.tombstone:
        return "I11: the record of a deletion stays that is none"
    if world.wanted == "transient, off" and not _may_hold(world, "a") and not _may_hold(world, "b"):
        stopped = world.promise is None or (world.promise.stopped and not world.promise.intent)
        unread = bool(_candidates(world)) and not known(here)
        return "" if stopped and not unread else "L4: it is not known to be off"
    if world.promise is None or _candidates(world) != ("a",) or not known(here):
        return "L4: it is not known to be as wanted"
    if world.aside in MOVED and here.seen:
        return "L4: its disk is not where its spec says, and nothing is said"
    if world.wanted in ("running", "transient"):
        fine = here.seen == "running" and here.mark == "right"
    elif world.wanted == "paused":
        fine = here.seen == "user-paused" and here.mark == "right" and world.promise.paused
    elif world.wanted == "saved":
        fine = here.seen == "saved" and here.mark == "right" and world.promise.stopped
    else:
        fine = here.seen in INACTIVE and here.mark == "right" and world.promise.stopped
    starts = world.aside == "autostart wanted" and world.wanted == "running"
    fine = fine and (here.extra == "transient") == (world.wanted == "transient")
    fine = fine and (here.extra == "autostart") == starts
    return "" if fine and not _may_hold(world, "b") else "L4: it is not as wanted, and nothing is said"
