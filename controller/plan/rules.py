"""The ordered table of rules: the first that speaks decides what a domain's case is and what is due.

Order is the safety argument. First come holds on everything, then signs that a domain may run twice, then
nodes that cannot be read, then the removal of capabilities, and only then starting and stopping. Each rule
carries the story of what it prevents. A rule answers None when it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from controller.model import IntentKind, Rule
from controller.plan import actions, moves, states
from controller.plan.case import Case
from controller.plan.departing import target_of
from controller.plan.evidence import (
    Absent,
    Known,
    Unknown,
    absent_everywhere,
    forgotten_nowhere,
    late_commands,
    observe,
    observe_only_hold,
    quiet,
    undefine_proves,
)
from controller.plan.migrating import own_migration
from controller.plan.place import Demand, place
from controller.plan.present import active, inactive, missing_at_home
from controller.plan.removal import dead_or, deleting, unexpected_copy
from controller.plan.snapshot import Backoff
from controller.plan.types import Action, Deferred, Reason, Situation, Verdict
from specs.domain import pinning_directories, pinning_disks

Answer = Action | Deferred | Verdict | None


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
            return moves.note_home(case, decision.keep, why)
        return actions.reassign(case, decision.keep, why)
    others = [n for n in case.active_on if n != decision.keep]
    for node in others:
        seen = observe(case.snap, case.uuid, node)
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
        clear = moves.clear_end(case, node, why) if ends else actions.destroy(case, node, 0, why)
        return quiet(case.snap, (node,)) or clear
    if ends:
        return None  # the word is used up by the transaction that closes the migration
    return actions.used_up(case, f"only the copy on {decision.keep} is active")


def armed(case: Case) -> Answer:
    """Somebody moved it by hand, and its old home kept a definition that starts by itself: the next boot of
    that host would run it twice (seed 105953). Nothing else is concluded from that."""
    moved = case.uuid in case.snap.migrated
    for node, last in sorted(case.all_sightings.items()) if case.held is not None else ():
        seen = observe(case.snap, case.uuid, node)
        if not isinstance(seen, Known) or last.record.active or not last.detail.autostart:
            continue
        runs_elsewhere = any(other != node for other in case.active_on)
        if (moved or runs_elsewhere) and case.snap.nodes[node].node.spec.observe_only is not True:
            return actions.disarm(case, node, "it may run elsewhere, and would start here at a boot")
    return None


def duplicate(case: Case) -> Answer:
    if len(case.active_on) < 2:
        return None
    return Deferred(
        Reason.DUPLICATE,
        f"active on {' and '.join(case.active_on)} at once; nothing is destroyed automatically",
        command=f"domctl resolve {case.command_target} --keep NODE",
        relist=case.active_on,
        retry_after_s=5.0,
    )


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
            return Deferred(
                Reason.MIGRATION_IN_PROGRESS,
                f"paused by a migration on {node} that domctl did not start; it is left alone",
                command=f"virsh resume or virsh destroy on {node}, once it is clear where it should run",
                relist=tuple(case.all_sightings),
                retry_after_s=5.0,
            )
    return None


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
        command=f"domctl apply it again under the same uid {case.uuid}, or undefine the domain by hand",
    )


def returned(case: Case) -> Answer:
    """A node that was taken for dead holds the domain after all (F29)."""
    if case.held is None:
        return None
    for proof in case.assignment.proofs:
        if proof.rule not in (Rule.CONFIRMED_DEAD, Rule.RESOLVED) or proof.node in case.assignment.candidates:
            continue
        seen = observe(case.snap, case.uuid, proof.node)
        used = bool(case.assignment.candidates)
        view = case.snap.views.get(proof.node)
        if proof.rule is Rule.CONFIRMED_DEAD and not used and view is not None and view.denies:
            return actions.reclaim(case, proof.node, f"something answers in the place of {proof.node}")
        if isinstance(seen, Known) or (not used and isinstance(seen, Absent)):
            return actions.reclaim(case, proof.node, f"node {proof.node} answers again")
        if isinstance(seen, Absent):
            return actions.drop_proof(case, proof.node, f"node {proof.node} answers, and does not have it")
    return None


def unplaced(case: Case) -> Answer:
    """No assignment, or one that has been proved to be nowhere: choose a node."""
    if case.held is not None and case.assignment.candidates:
        return None
    assert case.stored is not None
    if case.held is not None and case.node in case.all_sightings:
        return actions.reclaim(case, case.node, f"it is on {case.node} again")
    if case.others:
        return None
    anywhere = _may_be_anywhere(case)
    if anywhere is not None:
        return anywhere
    pinned = _storage_pin(case)
    if pinned is not None:
        return pinned
    if case.is_transient and case.wanted not in states.RUNS:
        return states.nowhere(case)
    chosen = _chosen(case)
    if isinstance(chosen, Deferred):
        return chosen
    seen = observe(case.snap, case.uuid, chosen)
    if isinstance(seen, Unknown):
        return seen.deferred
    wanted = case.desired(chosen, 1)
    if wanted.rendered is None:
        return Deferred(Reason.SPEC_REFUSED, f"on {chosen}: {wanted.problem}")
    stall = case.snap.stalls.get(case.uuid)
    if stall is not None and stall.digest == wanted.rendered.digest and stall.node == chosen:
        return Deferred(Reason.REJECTED, stall.message)
    if case.wanted in states.RUNS:
        return actions.start(case, chosen, f"placed on {chosen}")
    return actions.define(case, chosen, f"placed on {chosen}")


def _may_be_anywhere(case: Case) -> Deferred | None:
    """Nothing holds it, by a promise that was never made or by proofs: None if that is enough."""
    assert case.stored is not None
    if case.held is None:
        return forgotten_nowhere(case.snap, case.stored)
    if case.assignment.started and any(p.vanished for p in case.assignment.proofs):
        absent = absent_everywhere(case.snap, case.held, case.node)
        return absent if isinstance(absent, Deferred) else None
    return None


def _chosen(case: Case) -> str | Deferred:
    """A node that was asked for by a Migration of a domain that does not run, else the best."""
    assert case.stored is not None
    request = case.request if case.held is not None else None
    if request is not None:
        target = target_of(case, request)
        if isinstance(target, str):
            return target
    demand = Demand.of(case.uuid, case.stored.domain.metadata, case.stored.domain.spec)
    return place(case.snap, demand, only=_disks_at(case))


def _storage_pin(case: Case) -> Deferred | None:
    """After a dead node: a domain with a disk of that host's own cannot run elsewhere."""
    if case.held is None or case.stored is None:
        return None
    spec = case.stored.domain.spec
    disks = (*pinning_disks(spec), *pinning_directories(spec))
    dead = [p.node for p in case.assignment.proofs if p.rule is not Rule.REVOKED]
    if not disks or not dead:
        return None
    return Deferred(
        Reason.PINNED_BY_STORAGE,
        f"disks {', '.join(disks)} are on {case.node}'s own storage, so it cannot run elsewhere",
        command="set source.shared of these to true if every node reaches them",
    )


def _disks_at(case: Case) -> str:
    """A transient domain leaves its node whenever it is off, and its disks stay there: "" if it has none."""
    if case.held is None or not case.assignment.started or not case.is_transient:
        return ""
    assert case.stored is not None
    spec = case.stored.domain.spec
    return case.node if pinning_disks(spec) or pinning_directories(spec) else ""


def elsewhere(case: Case) -> Answer:
    """Somebody moved it by hand, or a lost migration ended there. That is written down before anything else:
    the next leader may find that node silent and the domain's home empty."""
    strangers = [n for n in case.active_on if n != case.node]
    if not strangers:
        return None
    node = strangers[0]
    if node not in case.assignment.candidates:
        return actions.reclaim(case, node, f"it runs on {node}")
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
        return actions.close_intent(case, "it runs", stopped=False)
    mark = seen.detail.config_mark
    defined = mark is not None and (mark.epoch, mark.digest) == (intent.epoch, case.assignment.digest)
    if intent.kind is IntentKind.DEFINE and defined:
        return actions.close_intent(case, "it is defined")
    if intent.kind is IntentKind.STOP and not seen.record.active:
        return actions.close_intent(case, "it stopped", stopped=case.wanted == "shutoff")
    return states.finish(case, seen)


def gone_from_home(case: Case) -> Answer:
    return missing_at_home(case) if isinstance(case.own, Absent) else None


def inactive_at_home(case: Case) -> Answer:
    seen = case.own_sighting
    return inactive(case, seen) if seen is not None and not seen.record.active else None


def active_at_home(case: Case) -> Answer:
    seen = case.own_sighting
    assert seen is not None
    return active(case, seen)


RULES: tuple[PlanRule, ...] = (
    PlanRule(Situation.HELD, "a restored or foreign store would undo what happened since", store_hold),
    PlanRule(Situation.HELD, "a corrupt promise is not the lack of one (I11)", unreadable),
    PlanRule(Situation.FOREIGN, "two clusters managing one host must not fight over a domain", foreign_mark),
    PlanRule(Situation.HELD, "a mark from the future says that etcd was restored", epoch_ahead),
    PlanRule(Situation.UNKNOWN, "acting twice on one observation repeats the action", own_change_pending),
    PlanRule(Situation.MIGRATING, "after post-copy no side is whole", postcopy),
    PlanRule(Situation.DUPLICATE, "an operator said which copy stays", keep_one),
    PlanRule(Situation.MIGRATING, "what a migration came to is read, never guessed (I8)", own_migration),
    PlanRule(Situation.ELSEWHERE, "a host that boots starts what autostart is set for", armed),
    PlanRule(Situation.DUPLICATE, "two guests on one disk: destroying the wrong one loses data", duplicate),
    PlanRule(Situation.STOPPED, "a daemon that dies within create() leaves it paused", interrupted_start),
    PlanRule(Situation.MIGRATING, "cleaning up a copy during a migration kills the migration", migrating),
    PlanRule(Situation.ABANDONED, "a wiped prefix must not delete a cluster (I11)", object_missing),
    PlanRule(Situation.UNKNOWN, "a node taken for dead came back with its domains", returned),
    PlanRule(Situation.DELETING, "a deletion ends only with proof of absence", deleting),
    PlanRule(Situation.FOREIGN, "a UUID that is in use was not put there by us", unexpected_copy),
    PlanRule(Situation.NEW, "nothing holds it: choose a node", unplaced),
    PlanRule(Situation.ELSEWHERE, "an admin's migration is not a missing domain", elsewhere),
    PlanRule(Situation.UNKNOWN, "unreachable is not absent (I3)", home_unknown),
    PlanRule(Situation.HELD, "observeOnly nodes are never changed", home_observe_only),
    PlanRule(Situation.STRAY, "a definition elsewhere can be started by anyone (I2)", stray),
    PlanRule(Situation.DRIFTED, "an intent left open would count as evidence later (I22b)", finish_intent),
    PlanRule(Situation.MISSING, "what vanished may run elsewhere: evidence before a start", gone_from_home),
    PlanRule(Situation.STOPPED, "it stands at home and does not run", inactive_at_home),
    PlanRule(Situation.DRIFTED, "it runs at home: compare only what the spec says", active_at_home),
)


NEED_ASSIGNMENT = frozenset(
    {
        elsewhere,
        home_unknown,
        home_observe_only,
        stray,
        finish_intent,
        gone_from_home,
        inactive_at_home,
        active_at_home,
    }
)


def _paused(case: Case) -> Deferred | None:
    """After a failure nothing is tried for this domain, whatever it is, before its pause is over."""
    failed = case.snap.backoffs.get(case.uuid)
    if failed is None or failed.until <= case.snap.now:
        return None
    return Deferred(
        Reason.BACKING_OFF,
        f"{failed.message}; tried {failed.count} times",
        retry_after_s=failed.until - case.snap.now,
    )


def _word_used_up(case: Case, answer: Verdict) -> Verdict | None:
    """`--not-on` counts as a read of nodes that did not answer, in one incident. Where that ended otherwise,
    the word must not count in the next, of which nobody has said anything (seed of moved_behind_a_cut)."""
    decision = case.snap.resolutions.get(case.uuid)
    if answer.situation is not Situation.CONVERGED or case.held is None or decision is None or decision.keep:
        return None
    paused = _paused(case)
    if paused is not None:
        return msgspec.structs.replace(answer, again_after_s=paused.retry_after_s)
    action = actions.used_up(case, "it is as wanted: nobody need say any more where it is not")
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
            answer = _paused(case) or answer
        if isinstance(answer, Action):
            return Verdict(rule.situation, action=answer)
        return Verdict(rule.situation, deferred=answer)
    raise AssertionError(f"no rule speaks for {case.uuid}")
