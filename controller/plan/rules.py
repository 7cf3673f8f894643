"""The ordered table of rules: the first that speaks decides what a domain's case is and what is due.

Order is the safety argument. First come holds on everything, then signs that a domain may run twice, then
nodes that cannot be read, then the removal of capabilities, and only then starting and stopping. Each rule
carries the story of what it prevents. A rule answers None when it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from controller import keys
from controller.model import BY_WORD, Intent, IntentKind, Proof, Rule
from controller.plan import actions, disks, notes, states
from controller.plan.case import Case
from controller.plan.evidence import (
    Absent,
    Known,
    Unknown,
    is_void,
    keeps_nothing,
    late_commands,
    observe,
    observe_only_hold,
    proof_holds,
    quiet,
    undefine_proves,
)
from controller.plan.migrating import own_migration
from controller.plan.present import active, inactive, missing_at_home
from controller.plan.removal import dead_or, deleting, unexpected_copy
from controller.plan.snapshot import Backoff
from controller.plan.twice import armed, duplicate, keep_one, moved_away, word_over
from controller.plan.types import Action, ActionKind, Answer, Deferred, Reason, Situation, Verdict
from controller.plan.unplaced import unplaced
from specs.requests import instant_of

HEEDED_WITHIN_S: Final = 600.0  # of a guest that was asked to shut down, and then not to


@dataclass(frozen=True, slots=True)
class PlanRule:
    situation: Situation
    story: str
    apply: Callable[[Case], Answer]


def store_hold(case: Case) -> Answer:
    if not case.snap.hold:
        return None
    return Deferred(Reason.STORE_NOT_TRUSTED, case.snap.hold, command="domctl store ack")


def unreadable(case: Case) -> Answer:
    if case.uuid not in case.snap.unreadable:
        return None
    return Deferred(
        Reason.ASSIGNMENT_UNREADABLE,
        "its assignment in etcd cannot be read, so where it may be is not known; nothing is changed",
        command=f"restore the key /domctl/assignments/{case.uuid} from a backup",
    )


def foreign_mark(case: Case) -> Answer:
    for node, seen in sorted(case.all_sightings.items()):
        for mark in (seen.detail.config_mark, seen.detail.live_mark):
            if mark is not None and mark.cluster != case.snap.cluster:
                return Deferred(
                    Reason.FOREIGN_MARK,
                    f"on {node} this domain carries the mark of another cluster ({mark.cluster})",
                    command="release it there first",
                )
    return None


def epoch_ahead(case: Case) -> Answer:
    known = case.assignment.epoch if case.held is not None else -1
    if case.held is None:
        return None
    for node, seen in sorted(case.all_sightings.items()):
        for mark in (seen.detail.config_mark, seen.detail.live_mark):
            if mark is not None and mark.uuid == case.uuid and mark.epoch > known:
                return Deferred(
                    Reason.STORE_RESTORED,
                    f"on {node} this domain carries epoch {mark.epoch}, the store knows {known}: "
                    "the store is older than the hosts",
                    command="domctl store ack",
                )
    return None


def postcopy(case: Case) -> Answer:
    """Memory is on both sides: neither copy is whole, and resuming or ending either may lose the guest."""
    for node, seen in sorted(case.all_sightings.items()):
        if seen.record.reason.startswith("postcopy"):
            return Deferred(
                Reason.POSTCOPY,
                f"a post-copy migration that domctl did not start is under way or failed on {node}",
                command="end it by hand; neither side is touched",
                relist=tuple(case.all_sightings),
                retry_after_s=10.0,
            )
    return None


def interrupted_start(case: Case) -> Answer:
    """libvirtd died within our create(): QEMU stands paused (starting-up) and nobody will let it go. Its live
    copy carries the epoch of the open start intent, so it was made from the definition given here and is no
    incoming migration. It never ran: it is destroyed, and started again as if it had ended at home."""
    seen = case.own_sighting if case.held is not None else None
    intent = case.assignment.intent if case.held is not None else None
    if seen is None or intent is None or not seen.in_migration:
        return None
    if any(other.record.active or other.record.reason == "migrated" for _, other in case.others):
        return None  # a definition alone, on a host that came back, is no other end of a migration
    if case.stored is None and not case.deleting:
        return None  # a missing object takes nothing away (I11)
    live = seen.detail.live_mark
    ours = live is not None and live.uuid == case.uuid and live.epoch == intent.epoch
    starts = intent.kind is IntentKind.START and intent.node == case.node
    if not starts or not ours or seen.record.reason != "starting-up":
        return None
    if case.snap.nodes[case.node].node.spec.observe_only is True:
        return observe_only_hold(case.node)
    left_s = seen.since + case.snap.timing.stuck_s - case.snap.now
    if left_s > 0:
        return Deferred(
            Reason.STARTING_UP,
            f"its start on {case.node} has not come to an end; it is undone in {left_s:.0f} s",
            relist=(case.node,),
            retry_after_s=min(left_s, 5.0),
        )
    failed = case.snap.backoffs.get(case.uuid)
    if failed is not None and failed.until > case.snap.now:
        return _stuck_start(case, failed)
    undone_before = failed is not None and failed.until > seen.since + case.snap.timing.stuck_s
    stuck = _stuck_start(case, failed) if failed is not None and undone_before else None
    why = "its start was interrupted: it is paused and never ran"
    return quiet(case.snap, (case.node,)) or actions.undo_start(case, why, stuck)


def _stuck_start(case: Case, failed: Backoff) -> Deferred:
    """Seen with libvirt 9.0: killed before it noted QEMU's process id, it keeps the domain as starting for
    ever, over restarts too, and answers every change with a job time-out."""
    file = f"/run/libvirt/qemu/{case.assignment.libvirt_name}.xml"
    return Deferred(
        Reason.STUCK_START,
        f"its start on {case.node} was interrupted and libvirtd does not let go of it ({failed.message})",
        command=f"on the host: stop libvirtd, check that no QEMU runs it, remove {file}, start libvirtd",
        retry_after_s=max(failed.until - case.snap.now, 0.0),
    )


def migrating(case: Case) -> Answer:
    for node, seen in sorted(case.all_sightings.items()):
        view = case.snap.views.get(node)
        if seen.in_migration and view is not None and view.answers:
            elsewhere = [n for n, other in case.all_sightings.items() if n != node and other.active]
            return Deferred(
                Reason.MIGRATION_IN_PROGRESS,
                f"paused by a migration on {node} that domctl did not start; it is left alone",
                command=_ends_migration(node, elsewhere[0])
                if elsewhere
                else f"virsh resume or virsh destroy on {node}, once it is clear where it should run",
                relist=tuple(case.all_sightings),
                retry_after_s=5.0,
            )
    return None


def _ends_migration(paused: str, runs: str) -> str:
    """One that goes on needs no help; one that stalls never ends by itself (seed 58 of moves_stalled)."""
    return (
        f"wait while virsh domjobinfo on {runs} shows that it goes on, or virsh domjobabort there; where it "
        f"shows none: virsh destroy on {paused}"
    )


def own_change_pending(case: Case) -> Answer:
    for (uuid, node), _ in case.snap.awaiting.items() if case.held is None else ():
        if uuid == case.uuid:
            return Deferred(Reason.AWAITING_OBSERVATION, f"waiting for node {node}", retry_after_s=1.0)
    if case.held is None:
        return None
    for node in {*case.assignment.candidates, case.node}:
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown) and seen.deferred.reason is Reason.AWAITING_OBSERVATION:
            return seen.deferred
    return None


def object_missing(case: Case) -> Answer:
    if case.stored is not None or case.deleting:
        return None
    return Deferred(
        Reason.OBJECT_MISSING,
        "the object is gone without having been deleted; its domain is left alone",
        command=f"restore {_object_key(case)} in etcd from a backup; or, to give the domain up, delete "
        f"{keys.assignment(case.uuid)}, and no host is changed",
    )


def _object_key(case: Case) -> str:
    namespace, _, name = case.key.partition("/")
    return keys.object_key("domains", namespace, name)


def returned(case: Case) -> Answer:
    """A node that was taken for dead holds the domain after all (F29)."""
    if case.held is None:
        return None
    for proof in case.assignment.proofs:
        if proof.rule not in BY_WORD or proof.node in case.assignment.candidates:
            continue
        seen = observe(case.snap, case.uuid, proof.node)
        used = bool(case.assignment.candidates)
        if isinstance(seen, Known) or (not used and isinstance(seen, Absent)):
            return notes.reclaim(case, proof.node, f"node {proof.node} answers again")
        if isinstance(seen, Absent):
            return notes.drop_proof(case, proof.node, f"node {proof.node} answers, and does not have it")
        if _spoke(case, proof):
            return notes.reclaim(case, proof.node, f"no word that it is not on {proof.node} stands any more")
    return None


def _spoke(case: Case, proof: Proof) -> bool:
    """Whether a node that does not answer spoke since it was taken for dead, or nobody says so any more, and
    that matters: nothing was started on the strength of that word yet, or it has still to be, or it was seen
    there. A Node that is not registered any more took the word with it."""
    snap, intent = case.snap, case.assignment.intent
    said = proof.rule is Rule.CONFIRMED_DEAD and proof.node in snap.nodes
    withdrawn = said and (proof.node not in snap.dead or is_void(snap, proof))
    spoke = not proof_holds(snap, case.uuid, proof)
    if not case.assignment.candidates:
        return withdrawn or spoke
    runs = case.own_sighting is not None and case.own_sighting.active
    begins = not proof.used or (intent is not None and intent.kind is IntentKind.START)
    return (withdrawn and begins and not runs) or (spoke and (not runs or proof.node in case.all_sightings))


def disks_moved(case: Case) -> Answer:
    """Written down before anything else is done about it."""
    found = disks.moved(case)
    return notes.disks_moved(case, found) if found != case.assignment.moved_disks else None


def elsewhere(case: Case) -> Answer:
    """Somebody moved it by hand, or a lost migration ended there. That is written down before anything else:
    the next leader may find that node silent and the domain's home empty."""
    strangers = [n for n in case.active_on if n != case.node]
    if not strangers:
        return None
    node = strangers[0]
    if node not in case.assignment.candidates:
        return notes.reclaim(case, node, f"it runs on {node}")
    seen = observe(case.snap, case.uuid, node)
    if isinstance(seen, Unknown):
        return dead_or(case, node, seen.deferred)
    return Deferred(
        Reason.RUNS_ELSEWHERE,
        f"it runs on {node}, not on {case.node} where domctl put it; it is left alone",
        command=f"domctl resolve {case.command_target} --keep {node}",
    )


def home_unknown(case: Case) -> Answer:
    if not isinstance(case.own, Unknown) or case.node not in case.assignment.candidates:
        return None
    return dead_or(case, case.node, case.own.deferred)


def home_observe_only(case: Case) -> Answer:
    stored = case.snap.nodes.get(case.node)
    if stored is None or stored.node.spec.observe_only is not True:
        return None
    return observe_only_hold(case.node)


def stray(case: Case) -> Answer:
    """Another node may hold a definition, which is the capability to run: it goes before anything starts."""
    for node, sighting in case.others:
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown):
            return dead_or(case, node, seen.deferred)
        if case.snap.nodes[node].node.spec.observe_only is True:
            return observe_only_hold(node)
        if not sighting.record.active:
            kept = states.save_in_the_way(case, node, sighting)
            late = kept or _not_yet(case, node)
            return late or actions.revoke(case, node, f"its place is {case.node}")
    for node in case.assignment.candidates:
        if node == case.node:
            continue
        seen = observe(case.snap, case.uuid, node)
        if isinstance(seen, Unknown):
            return dead_or(case, node, seen.deferred)
        late = _not_yet(case, node)
        return late or actions.release(case, node, Rule.ABSENT, f"read as absent from {node}", vanished=True)
    return None


def _not_yet(case: Case, node: str) -> Deferred | None:
    """Whether it may leave a node that is not its place by an undefine, or by being absent there."""
    proves = undefine_proves(case.snap, case.assignment, node)
    return proves or late_commands(case.snap, case.uuid, (node,))


def finish_intent(case: Case) -> Answer:
    """A former leader's intent whose aim is there, or a stop that came to its end: only the record moves."""
    intent, seen = case.assignment.intent, case.own_sighting
    if intent is None or seen is None:
        return None
    begun = intent.kind in (IntentKind.START, IntentKind.DEFINE)
    if begun and seen.record.active and case.wanted in states.RUNS:
        was_started = intent.kind is IntentKind.START
        return notes.started(case) if was_started else notes.close_intent(case, "it runs", stopped=False)
    mark = seen.detail.config_mark
    defined = mark is not None and (mark.epoch, mark.digest) == (intent.epoch, case.assignment.digest)
    if intent.kind is IntentKind.DEFINE and defined:
        return notes.close_intent(case, "it is defined")
    if intent.kind is IntentKind.STOP and not seen.record.active:
        # Asked for here, if perhaps no longer wanted, or to be moved: it did not end by itself.
        asked = case.wanted == "shutoff" or intent.node == case.node
        return notes.close_intent(case, "it stopped", stopped=asked)
    if intent.kind is IntentKind.STOP and _not_heeded(case, intent):
        return notes.close_intent(case, "it was not heeded, and is wanted no more")
    return states.finish(case, seen)


def _not_heeded(case: Case, intent: Intent) -> bool:
    """A stop that was taken back long ago: an end that comes now is the guest's own."""
    since = instant_of(intent.at)
    late = since is not None and case.snap.wall_s - since > HEEDED_WITHIN_S
    return late and case.wanted in states.RUNS and case.uuid not in case.snap.ladders


def gone_from_home(case: Case) -> Answer:
    return missing_at_home(case) if isinstance(case.own, Absent) else None


def inactive_at_home(case: Case) -> Answer:
    seen = case.own_sighting
    return inactive(case, seen) if seen is not None and not seen.record.active else None


def runs_again(case: Case) -> Answer:
    """Somebody else started it: the next end is not to be taken for the one before."""
    was, seen = case.assignment, case.own_sighting
    noted = was.ended or was.stopped
    if seen is None or not seen.active or not noted or was.intent is not None or case.wanted == "shutoff":
        return None
    return notes.running(case)


def active_at_home(case: Case) -> Answer:
    seen = case.own_sighting
    assert seen is not None
    return active(case, seen)


RULES: tuple[PlanRule, ...] = (
    PlanRule(Situation.HELD, "a restored or foreign store would undo what happened since", store_hold),
    PlanRule(Situation.HELD, "a corrupt promise is not the lack of one (I11)", unreadable),
    PlanRule(Situation.FOREIGN, "two clusters managing one host must not fight over a domain", foreign_mark),
    PlanRule(Situation.HELD, "a mark from the future says that etcd was restored", epoch_ahead),
    PlanRule(Situation.HELD, "a word for a node that could not be read ends when it is", word_over),
    PlanRule(Situation.UNKNOWN, "acting twice on one observation repeats the action", own_change_pending),
    PlanRule(Situation.MIGRATING, "after post-copy no side is whole", postcopy),
    PlanRule(Situation.DUPLICATE, "an operator said which copy stays", keep_one),
    PlanRule(Situation.MIGRATING, "what a migration came to is read, never guessed (I8)", own_migration),
    PlanRule(Situation.ELSEWHERE, "a host that boots starts what autostart is set for", armed),
    PlanRule(Situation.ELSEWHERE, "a dead home tells nothing of where its guest went", moved_away),
    PlanRule(Situation.DUPLICATE, "two guests on one disk: destroying the wrong one loses data", duplicate),
    PlanRule(Situation.STOPPED, "a daemon that dies within create() leaves it paused", interrupted_start),
    PlanRule(Situation.MIGRATING, "cleaning up a copy during a migration kills the migration", migrating),
    PlanRule(Situation.ABANDONED, "a wiped prefix must not delete a cluster (I11)", object_missing),
    PlanRule(Situation.UNKNOWN, "a node taken for dead came back with its domains", returned),
    PlanRule(Situation.DELETING, "a deletion ends only with proof of absence", deleting),
    PlanRule(Situation.FOREIGN, "a UUID that is in use was not put there by us", unexpected_copy),
    PlanRule(Situation.DRIFTED, "a guest's writes are where its disk is, not where its spec is", disks_moved),
    PlanRule(Situation.NEW, "nothing holds it: choose a node", unplaced),
    PlanRule(Situation.ELSEWHERE, "an admin's migration is not a missing domain", elsewhere),
    PlanRule(Situation.UNKNOWN, "unreachable is not absent (I3)", home_unknown),
    PlanRule(Situation.HELD, "observeOnly nodes are never changed", home_observe_only),
    PlanRule(Situation.STRAY, "a definition elsewhere can be started by anyone (I2)", stray),
    PlanRule(Situation.DRIFTED, "an intent left open would count as evidence later (I22b)", finish_intent),
    PlanRule(Situation.MISSING, "what vanished may run elsewhere: evidence before a start", gone_from_home),
    PlanRule(Situation.STOPPED, "it stands at home and does not run", inactive_at_home),
    PlanRule(Situation.DRIFTED, "what was noted of one end would be taken for the next", runs_again),
    PlanRule(Situation.DRIFTED, "it runs at home: compare only what the spec says", active_at_home),
)


NEED_ASSIGNMENT = frozenset(
    {
        disks_moved,
        elsewhere,
        home_unknown,
        home_observe_only,
        stray,
        finish_intent,
        gone_from_home,
        inactive_at_home,
        runs_again,
        active_at_home,
    }
)


def _paused(case: Case, kind: ActionKind) -> Deferred | None:
    """After a failure nothing is tried for this domain, whatever it is, before its pause is over. What was
    seen is written down all the same: an image lock that held (F33) is just when somebody has it elsewhere,
    and the next leader may see nothing of that."""
    pauses = case.snap.unwritten if kind is ActionKind.RECORD else case.snap.backoffs
    failed = pauses.get(case.uuid)
    if failed is None or failed.until <= case.snap.now:
        return None
    left_s = failed.until - case.snap.now
    said = f"{failed.message}; tried {failed.count} times"
    if failed.disk_locked:  # the last line of defence held: something else runs with its disk
        way = "find what else has its disk open, on any host that reaches it (lslocks), and end that"
        return Deferred(Reason.DISK_LOCKED, said, command=way, retry_after_s=left_s)
    return Deferred(Reason.BACKING_OFF, said, retry_after_s=left_s)


def _word_used_up(case: Case, answer: Verdict) -> Verdict | None:
    """`--not-on` counts as a read of nodes that did not answer, in one incident. Where that ended otherwise,
    the word must not count in the next, of which nobody has said anything (seed of moved_behind_a_cut)."""
    decision = case.snap.resolutions.get(case.uuid)
    if answer.situation is not Situation.CONVERGED or case.held is None or decision is None:
        return None
    if decision.keep and not keeps_nothing(case.snap, case.uuid, decision.keep):
        return None
    paused = _paused(case, ActionKind.RECORD)
    if paused is not None:
        return msgspec.structs.replace(answer, again_after_s=paused.retry_after_s)
    action = notes.used_up(case, "it is as wanted: nobody need say any more where it is not")
    return Verdict(Situation.DRIFTED, action=action)


def judge(case: Case) -> Verdict:
    """Apply the table. The last rules cover everything that is left, so every case ends in a verdict (L4)."""
    if case.held is None and case.stored is None and case.uuid not in case.snap.unreadable:
        return Verdict(Situation.CONVERGED, note="no such domain")
    for rule in RULES:
        if rule.apply in NEED_ASSIGNMENT and case.held is None:
            continue
        answer = rule.apply(case)
        if answer is None:
            continue
        if isinstance(answer, Verdict):
            return _word_used_up(case, answer) or answer
        if isinstance(answer, Action):
            answer = _paused(case, answer.kind) or answer
        if isinstance(answer, Action):
            return Verdict(rule.situation, action=answer)
        return Verdict(rule.situation, deferred=answer)
    raise AssertionError(f"no rule speaks for {case.uuid}")
