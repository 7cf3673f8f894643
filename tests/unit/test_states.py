"""Every pair of (wanted, seen): what is due for a domain to come into the state that its spec names."""

from __future__ import annotations

import msgspec
import pytest

from controller.model import Answered, IntentKind, Proof, Rule
from controller.plan.aspects import aspects
from controller.plan.case import Case
from controller.plan.snapshot import Held, Ladder
from controller.plan.types import Action, ActionKind, Reason, Situation
from tests.unit.plancase import NOW, UUID, Cluster

SEEN = {
    "running": ("running", "booted"),
    "ending": ("shutdown", "user"),
    "paused": ("paused", "user"),
    "faulted": ("paused", "ioerror"),
    "saving": ("paused", "save"),
    "panicked": ("crashed", "panicked"),
    "asleep": ("pmsuspended", "unknown"),
    "ended": ("shutoff", "shutdown"),
    "destroyed": ("shutoff", "destroyed"),
    "saved": ("shutoff", "saved"),
}


def cluster(wanted: str, seen: str, **promised: object) -> Cluster:
    state, reason = SEEN[seen]
    made = Cluster().node("a").node("b").domain(state=wanted).assigned("a", **promised)
    return made.seen("a", state, reason, managed_save=seen == "saved")


def action(made: Cluster) -> Action:
    verdict = made.verdict()
    assert verdict.action is not None, verdict
    return verdict.action


@pytest.mark.parametrize(
    ("wanted", "seen", "paused", "due"),
    [
        ("running", "running", False, None),
        ("running", "ending", False, Reason.SHUTTING_DOWN),
        ("running", "paused", True, ActionKind.RESUME),
        ("running", "paused", False, Reason.PAUSED_BY_HAND),
        ("running", "faulted", True, ActionKind.RESUME),
        ("running", "faulted", False, Reason.PAUSED_ON_ERROR),
        ("running", "saving", True, Reason.JOB_IN_PROGRESS),
        ("running", "panicked", True, Reason.CRASHED_PRESERVED),
        ("running", "asleep", True, Reason.SUSPENDED),
        ("running", "ended", False, ActionKind.START),
        ("running", "destroyed", False, ActionKind.START),
        ("paused", "running", False, ActionKind.PAUSE),
        ("paused", "running", True, ActionKind.PAUSE),
        ("paused", "ending", False, Reason.SHUTTING_DOWN),
        ("paused", "paused", True, None),
        ("paused", "paused", False, ActionKind.RECORD),
        ("paused", "faulted", True, None),
        ("paused", "saving", True, Reason.JOB_IN_PROGRESS),
        ("paused", "panicked", True, Reason.CRASHED_PRESERVED),
        ("paused", "asleep", True, Reason.SUSPENDED),
        ("paused", "ended", False, ActionKind.START),
        ("paused", "destroyed", False, ActionKind.START),
        ("running", "saved", False, ActionKind.RECORD),
        ("paused", "saved", False, ActionKind.RECORD),
        ("saved", "running", False, ActionKind.SAVE),
        ("saved", "ending", False, Reason.SHUTTING_DOWN),
        ("saved", "paused", True, ActionKind.SAVE),
        ("saved", "paused", False, ActionKind.SAVE),
        ("saved", "faulted", False, ActionKind.SAVE),
        ("saved", "saving", False, Reason.JOB_IN_PROGRESS),
        ("saved", "panicked", False, Reason.CRASHED_PRESERVED),
        ("saved", "asleep", False, Reason.SUSPENDED),
        ("saved", "ended", False, ActionKind.RECORD),
        ("saved", "saved", False, ActionKind.RECORD),
        ("shutoff", "saved", False, ActionKind.RECORD),
        ("shutoff", "running", False, ActionKind.SHUTDOWN),
        ("shutoff", "ending", False, ActionKind.SHUTDOWN),
        ("shutoff", "paused", True, ActionKind.RESUME),
        ("shutoff", "paused", False, ActionKind.RESUME),
        ("shutoff", "faulted", False, ActionKind.SHUTDOWN),
        ("shutoff", "panicked", False, ActionKind.DESTROY),
        ("shutoff", "ended", False, ActionKind.RECORD),
        ("shutoff", "destroyed", False, ActionKind.RECORD),
    ],
)
def test_for_each_wish_and_sight_one_thing_is_due(
    wanted: str, seen: str, paused: bool, due: ActionKind | Reason | None
) -> None:
    verdict = cluster(wanted, seen, paused=paused).verdict()
    found = verdict.action.kind if verdict.action else verdict.deferred.reason if verdict.deferred else None
    assert found == due, verdict
    assert (found is None) == (verdict.situation is Situation.CONVERGED)


def test_that_domctl_paused_a_domain_is_recorded_before_it_is_sent() -> None:
    due = action(cluster("paused", "running"))
    assert due.after is not None and due.after.paused
    assert due.after.intent is not None and due.after.intent.kind is IntentKind.PAUSE
    assert due.settled is not None and due.settled.paused and due.settled.intent is None


def test_after_a_resume_a_pause_by_hand_is_no_longer_domctls() -> None:
    due = action(cluster("running", "paused", paused=True))
    assert due.settled is not None and not due.settled.paused


def test_a_domain_that_somebody_resumed_is_forgotten_as_paused_only_once_no_late_command_can_come() -> None:
    fresh = cluster("running", "running", paused=True)
    assert fresh.verdict().action is None
    fresh.seen("a", "running", "unpaused", since=NOW - 100)
    due = action(fresh)
    assert due.kind is ActionKind.RECORD and due.after is not None and not due.after.paused


def test_a_paused_guest_is_resumed_once_so_that_it_hears_and_then_asked() -> None:
    made = cluster("shutoff", "paused").given(ladders={UUID: Ladder(0, NOW - 1000)})
    assert action(made).kind is ActionKind.DESTROY


def test_a_paused_guest_that_is_to_be_destroyed_anyway_is_not_resumed_for_it() -> None:
    made = Cluster().node("a").domain(state="shutoff", shutdown=[{"method": "destroy"}]).assigned("a")
    assert action(made.seen("a", "paused", "user")).kind is ActionKind.DESTROY


def test_a_paused_guest_that_may_have_another_copy_is_not_resumed_to_hear() -> None:
    """Of a migration that etcd has forgotten it may be the end that was left (drill twice, seed 30)."""
    made = Cluster().node("a").node("b").domain(meta={"deletionTimestamp": "now"}).seen("a", "paused", "user")
    assert action(made.assigned("a")).kind is ActionKind.RESUME
    assert action(made.assigned("a", candidates=("a", "b")).silent("b")).kind is ActionKind.SHUTDOWN


def test_nothing_is_resumed_while_late_commands_of_another_leader_may_come() -> None:
    made = cluster("running", "paused", paused=True)
    made.resigned = False
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.QUIET_TIME


@pytest.mark.parametrize(
    ("kind", "wanted", "seen", "closes"),
    [
        (IntentKind.PAUSE, "paused", "running", False),
        (IntentKind.PAUSE, "paused", "paused", True),
        (IntentKind.PAUSE, "running", "running", True),
        (IntentKind.RESUME, "running", "paused", False),
        (IntentKind.RESUME, "running", "running", True),
        (IntentKind.RESUME, "paused", "paused", True),
        (IntentKind.SAVE, "saved", "running", False),
        (IntentKind.SAVE, "running", "running", True),
        (IntentKind.REBOOT, "running", "running", True),
        (IntentKind.DROP_SAVED, "running", "ended", True),
    ],
)
def test_an_interrupted_call_is_closed_when_its_aim_is_there_or_gone(
    kind: IntentKind, wanted: str, seen: str, closes: bool
) -> None:
    due = action(cluster(wanted, seen, paused=True).intends(kind, "a"))
    assert (due.kind is ActionKind.RECORD) == closes


def test_a_domain_that_ends_while_it_is_being_paused_ended_by_itself() -> None:
    made = Cluster().node("a").domain(state="paused", restartPolicy="Never").assigned("a")
    made.seen("a", "shutoff", "crashed").intends(IntentKind.PAUSE, "a")
    verdict = made.verdict()
    while verdict.action is not None and verdict.action.kind is ActionKind.RECORD:
        assert verdict.action.after is not None
        made.assignments[UUID] = Held(verdict.action.after, 6)
        verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.COMPLETED


# --- saved memory


def saved(wanted: str = "running", *, changed: bool = False, **promised: object) -> Cluster:
    """Saved by domctl, with the definition that is wanted, or with one of before."""
    made = Cluster().node("a").node("b").domain(state=wanted, memory="32Mi").assigned("a")
    xml, digest = made.rendered("a")
    made.assigned("a", **{"saved": digest, "digest": digest, "stopped": True, **promised})
    made.seen("a", "shutoff", "saved", managed_save=True, saved_xml=xml)
    return made.domain(state=wanted, memory="48Mi") if changed else made


def test_saved_memory_is_started_from_and_forgotten_once_it_runs() -> None:
    due = action(saved())
    assert due.kind is ActionKind.START and due.after is not None and due.after.saved
    assert due.settled is not None and not due.settled.saved


def test_saved_memory_of_an_older_definition_is_told_before_it_is_started_from() -> None:
    verdict = saved(changed=True).verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.SAVED_OTHERWISE
    assert "memory is " in verdict.deferred.message
    assert "domctl restore web" in verdict.deferred.command and "drop-saved web" in verdict.deferred.command


def test_while_it_is_saved_the_new_definition_is_planted_and_the_older_memory_is_told() -> None:
    made = saved("saved", changed=True)
    assert action(made).kind is ActionKind.DEFINE
    older = made.sightings[UUID]["a"].detail.saved_xml
    made.seen("a", "shutoff", "saved", managed_save=True, saved_xml=older)
    found = {aspect[0]: aspect for aspect in aspects(Case(made.snapshot(), UUID))}
    assert found["SavedMemory"][2] == "OfOlderDefinition"
    assert "domctl drop-saved web" in found["SavedMemory"][3]


def test_saved_memory_whose_definition_is_not_told_is_not_started_from_after_a_change() -> None:
    made = saved(changed=True)
    made.seen("a", "shutoff", "saved", managed_save=True, saved_xml=None)
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.SAVED_OTHERWISE


def test_what_a_host_saved_with_changes_pending_goes_on_as_it_was() -> None:
    """libvirt-guests saves everything when a host goes down: that is no reason to keep it down."""
    made = saved(changed=True)
    _, digest = made.rendered("a")
    made.assigned("a", saved="", digest=digest)
    due = action(made)
    assert due.kind is ActionKind.RECORD and due.after is not None and due.after.saved == digest
    made.assigned("a", saved=digest, digest=digest)
    assert action(made).kind is ActionKind.START


AT = "2026-01-31T12:00:00Z"


def asked(made: Cluster, name: str, at: str = AT) -> Cluster:
    spec = msgspec.to_builtins(made.domains[UUID].domain.spec)
    key = f"domctl.io/{name}-at"
    return made.domain(meta={"annotations": {key: at}}, **spec)


def test_a_user_may_have_it_go_on_with_its_older_definition() -> None:
    due = action(asked(saved(changed=True), "restore"))
    assert due.kind is ActionKind.START and due.after is not None
    assert due.after.requests["restore"].outcome == "done"


def test_saved_memory_that_cannot_be_read_is_not_started_from_again_and_again() -> None:
    made = saved().given(unreadable_saves={UUID: "failed to read qemu header"})
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.SAVE_UNREADABLE
    assert "domctl drop-saved web" in verdict.deferred.command
    assert action(asked(made, "drop-saved")).kind is ActionKind.DROP_SAVED


@pytest.mark.parametrize("wanted", ["running", "paused", "saved", "shutoff"])
def test_saved_memory_is_thrown_away_by_request_and_never_otherwise(wanted: str) -> None:
    verdict = saved(wanted).verdict()
    assert verdict.action is None or verdict.action.kind is not ActionKind.DROP_SAVED
    due = action(asked(saved(wanted), "drop-saved"))
    assert due.kind is ActionKind.DROP_SAVED and due.after is not None and due.settled is not None
    assert due.after.requests["drop-saved"].outcome == "begun"
    assert due.settled.requests["drop-saved"].outcome == "done" and not due.settled.saved


def test_what_was_off_when_it_was_to_be_saved_is_started_again_whatever_its_policy() -> None:
    made = Cluster().node("a").domain(state="saved", restartPolicy="Never").assigned("a")
    made.seen("a", "shutoff", "crashed")
    due = action(made)
    assert due.kind is ActionKind.RECORD and due.after is not None and due.after.stopped
    made.assigned("a", stopped=True)
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.NOTHING_TO_SAVE
    assert action(made.domain(restartPolicy="Never")).kind is ActionKind.START


def test_a_deleted_domain_with_saved_memory_waits_for_a_word() -> None:
    made = saved()
    made.domain(meta={"deletionTimestamp": AT})
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.SAVE_IN_THE_WAY


def test_a_guest_that_was_paused_when_it_was_saved_is_resumed_when_it_is_to_run() -> None:
    assert action(cluster("saved", "paused")).after.paused  # type: ignore[union-attr]
    due = action(saved(paused=True))
    assert due.settled is not None and due.settled.paused


def test_what_a_host_cannot_do_is_not_asked_for_again() -> None:
    made = cluster("saved", "running").given(unsupported={(UUID, "a", "save"): "no"})
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.UNSUPPORTED


# --- requests


@pytest.mark.parametrize(("name", "kind"), [("reboot", ActionKind.REBOOT), ("reset", ActionKind.RESET)])
def test_a_request_is_carried_out_once_for_each_value(name: str, kind: ActionKind) -> None:
    made = asked(cluster("running", "running"), name)
    due = action(made)
    assert due.kind is kind and due.after is not None and due.settled is not None
    assert due.after.requests[name].value == AT and due.after.requests[name].outcome == "begun"
    assert due.settled.requests[name].outcome == "done" and due.settled.intent is None
    made.assigned("a", requests=due.after.requests)
    assert made.verdict().situation is Situation.CONVERGED
    assert action(asked(made, name, "2026-01-31T12:00:01Z")).kind is kind


def test_a_request_that_was_interrupted_is_never_sent_again() -> None:
    made = asked(cluster("running", "running"), "reboot")
    begun = action(made).after
    assert begun is not None
    made.assigned("a", requests=begun.requests).intends(IntentKind.REBOOT, "a")
    due = action(made)
    assert due.kind is ActionKind.RECORD and due.after is not None and due.after.intent is None
    assert due.after.requests["reboot"].outcome == "interrupted: whether it came is not known"
    made.assigned("a", requests=due.after.requests)
    assert made.verdict().action is None


@pytest.mark.parametrize(
    ("name", "wanted", "seen", "outcome"),
    [
        ("reboot", "paused", "running", "not done, spec.state is paused"),
        ("reboot", "running", "ended", "not done, it does not run"),
        ("reset", "running", "panicked", "not done, it is crashed (panicked)"),
        ("resume", "running", "running", "not done, it is not paused, or is to be"),
        ("restore", "running", "running", "not done, it is not to be started"),
        ("drop-saved", "running", "running", "not done, it has no saved memory"),
    ],
)
def test_what_cannot_be_done_now_is_answered_and_not_kept_for_later(
    name: str, wanted: str, seen: str, outcome: str
) -> None:
    due = action(asked(cluster(wanted, seen), name))
    assert due.kind is ActionKind.RECORD and due.after is not None
    assert due.after.requests[name].outcome == outcome


@pytest.mark.parametrize("at", [AT, "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_a_request_in_the_manifest_of_a_new_domain_is_no_request(at: str) -> None:
    due = action(asked(Cluster().node("a").domain(), "reboot", at))
    assert due.kind is ActionKind.START and due.after is not None
    assert due.after.requests["reboot"].outcome == "asked for before it was first started"
    made = asked(cluster("running", "running"), "reboot").assigned("a", requests=due.after.requests)
    assert (made.verdict().action is not None) == (at != AT), "what is later is asked for"


def answered(made: Cluster) -> dict[str, Answered]:
    """What is due is a request, and this is what is then known of all."""
    due = action(made)
    assert due.after is not None
    made.assigned("a", requests=due.after.requests)
    return due.after.requests


EARLIER, LATER = "2026-01-31T11:59:00Z", "2026-01-31T12:00:02Z"


@pytest.mark.parametrize("name", ["reboot", "reset"])
def test_a_value_of_before_that_comes_back_asks_for_nothing(name: str) -> None:
    """A commit that is taken back, or an old manifest that is applied again."""
    made = asked(cluster("running", "running"), name, EARLIER)
    assert answered(made)[name].outcome == "begun"
    assert answered(asked(made, name, LATER))[name].outcome == "begun"
    for again in (EARLIER, LATER, AT):
        told = answered(asked(made, name, again))[name]
        assert (told.value, told.outcome) == (again, f"not done, the one of {LATER} was answered before")
        assert made.verdict().situation is Situation.CONVERGED, "and is told once"
    assert answered(asked(made, name, "2026-01-31T12:00:03Z"))[name].outcome == "begun"


def test_saved_memory_is_not_thrown_away_by_a_request_of_before() -> None:
    made = asked(saved(), "drop-saved")
    made.assigned("a", requests={"drop-saved": Answered(value=LATER, outcome="done", at=LATER)})
    assert action(made).kind is ActionKind.RECORD
    assert answered(made)["drop-saved"].outcome.startswith("not done, ")


@pytest.mark.parametrize("same", ["2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00.000000Z"])
def test_values_are_compared_as_times(same: str) -> None:
    made = asked(cluster("running", "running"), "reset")
    assert answered(made)["reset"].outcome == "begun"
    assert answered(asked(made, "reset", same))["reset"].outcome.startswith("not done, ")
    assert answered(asked(made, "reset", "2026-01-31T13:00:01+01:00"))["reset"].outcome == "begun"


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        ("2026-01-31T11:50:06Z", "begun"),
        ("2026-01-31T11:50:04Z", "not done, asked for 10m ago"),
        ("2026-01-29T10:00:00Z", "not done, asked for 2d2h ago"),
        ("2026-01-31T12:01:05Z", "begun"),
        ("2026-01-31T12:01:06Z", "not done, its time is 61s ahead of the controller's clock"),
    ],
)
@pytest.mark.parametrize("name", ["reset", "reboot"])
def test_a_request_that_had_to_wait_for_long_or_is_of_a_wrong_clock_is_not_carried_out(
    name: str, at: str, outcome: str
) -> None:
    made = asked(cluster("running", "running"), name, at).silent("a")
    assert made.verdict().action is None
    assert answered(made.answering("a"))[name].outcome == outcome


def test_a_request_of_a_time_to_come_keeps_no_other_from_being_later() -> None:
    made = asked(cluster("running", "running"), "reset", EARLIER)
    assert answered(made)["reset"].outcome == "begun"
    ahead = "2027-01-01T00:00:00Z"
    assert "ahead of" in answered(asked(made, "reset", ahead))["reset"].outcome
    assert answered(asked(made, "reset", EARLIER))["reset"].outcome.startswith("not done, the one of")
    assert answered(asked(made, "reset", LATER))["reset"].outcome == "begun"


def test_a_start_that_was_held_for_long_goes_on_from_older_memory_only_if_that_is_asked_for_anew() -> None:
    made = asked(saved(changed=True), "restore", "2026-01-31T11:00:00Z")
    assert answered(made)["restore"].outcome == "not done, asked for 60m ago"


def test_an_answer_of_before_is_read_as_the_latest() -> None:
    old = msgspec.json.decode(b'{"value": "2026-01-31T12:00:00Z", "outcome": "done"}', type=Answered)
    made = cluster("running", "running").assigned("a", requests={"reset": old})
    assert answered(asked(made, "reset", EARLIER))["reset"].outcome.startswith("not done, ")
    assert answered(asked(made, "reset", LATER))["reset"].outcome == "begun"


def test_a_domain_that_was_paused_by_hand_is_resumed_by_request() -> None:
    due = action(asked(cluster("running", "paused"), "resume"))
    assert due.kind is ActionKind.RECORD and due.after is not None and due.after.paused


# --- transient domains, and those that start at boot


def transient(**spec: object) -> Cluster:
    return Cluster().node("a").node("b").domain(persistence="transient", **spec)


def test_a_transient_domain_is_started_like_any_other_and_then_its_definition_is_taken_away() -> None:
    assert action(transient()).kind is ActionKind.START
    due = action(transient().assigned("a").seen("a"))
    assert due.kind is ActionKind.FORGET and due.node == "a"
    assert due.after is not None and due.after.candidates == ("a",) and not due.after.proofs


def undefined(made: Cluster) -> Cluster:
    return made.seen("a", persistent=False, config_xml=None, config_mark=None)


def test_a_transient_domain_that_runs_is_as_wanted() -> None:
    assert undefined(transient().assigned("a")).verdict().situation is Situation.CONVERGED


@pytest.mark.parametrize("how", [{"persistence": "transient"}, {"recovery": {"onNodeFailure": "Restart"}}])
def test_what_is_to_be_started_elsewhere_runs_transient(how: dict[str, object]) -> None:
    made = Cluster().node("a").domain(**how).assigned("a").seen("a")
    assert action(made).kind is ActionKind.FORGET
    found = {aspect[0]: aspect for aspect in aspects(Case(made.snapshot(), UUID))}
    assert ("FailsOver" in found) == ("recovery" in how)


def test_a_domain_that_is_to_be_persistent_again_is_defined() -> None:
    made = undefined(Cluster().node("a").domain().assigned("a"))
    assert action(made).kind is ActionKind.DEFINE


def test_the_definition_stays_while_late_commands_of_another_leader_may_come() -> None:
    made = transient().assigned("a").seen("a")
    made.resigned = False
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.QUIET_TIME


def test_snapshots_keep_a_domain_persistent() -> None:
    verdict = transient().assigned("a").seen("a", snapshots=1).verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.PINNED_BY_STORAGE


def test_a_transient_domain_that_is_off_is_defined_nowhere() -> None:
    off = transient(state="shutoff")
    assert off.verdict().situation is Situation.CONVERGED, "nor is it placed"
    assert action(off.assigned("a").seen("a", "shutoff", "shutdown")).kind is ActionKind.REVOKE
    off.sightings.clear()
    due = action(off)
    assert due.kind is ActionKind.RECORD and due.after is not None and due.after.stopped
    assert off.assigned("a", stopped=True).verdict().situation is Situation.CONVERGED


def test_a_transient_domain_that_vanished_unseen_is_looked_for_everywhere_first() -> None:
    made = transient().assigned("a").given(signs={UUID: 999.0})
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.READING_ALL_NODES
    assert action(transient().assigned("a").witnessed("a", "crashed")).kind is ActionKind.START


def test_a_transient_domain_goes_back_to_where_its_disks_are() -> None:
    disk = {"name": "root", "source": {"file": "/i/a.img"}}
    made = Cluster().node("a", allowedPaths=["/i"]).node("b", allowedPaths=["/i"])
    made.domain(persistence="transient", disks=[disk])
    for home in ("a", "b"):
        proof = Proof(node=home, rule=Rule.REVOKED, epoch=4, at="then")
        made.assigned(home, candidates=(), proofs=(proof,), stopped=True)
        assert action(made).node == home


def pinned(state: str = "running", **spec: object) -> Cluster:
    spec = {"placement": {"node": "a"}, "recovery": {"autostart": True}, **spec}
    return Cluster().node("a").node("b").domain(state=state, **spec).assigned("a")


def test_a_pinned_domain_may_start_at_boot_and_that_is_recorded_before_it_is_set() -> None:
    due = action(pinned().seen("a"))
    assert due.kind is ActionKind.AUTOSTART and due.autostart
    assert due.after is not None and due.after.autostart
    assert pinned().assigned("a", autostart=True).seen("a", autostart=True).verdict().action is None


@pytest.mark.parametrize("state", ["paused", "shutoff"])
def test_what_is_not_to_run_does_not_start_at_boot(state: str) -> None:
    how = ("shutoff", "shutdown") if state == "shutoff" else ("paused", "user")
    made = pinned(state).assigned("a", autostart=True, paused=True, stopped=state == "shutoff")
    made.seen("a", *how, autostart=True)
    due = action(made)
    assert due.kind is ActionKind.AUTOSTART and not due.autostart
    assert due.after is not None and due.after.autostart, "until it is known to be cleared"
    assert due.settled is not None and not due.settled.autostart


def test_a_dead_node_whose_definition_may_start_at_boot_is_not_given_up() -> None:
    """Safety 3: though no leader ever saw the flag."""
    made = pinned().assigned("a", autostart=True).silent("a").dead("a")
    verdict = made.verdict()
    assert verdict.deferred is not None and verdict.deferred.reason is Reason.AUTOSTART_ON_DEAD_NODE
    assert verdict.deferred.command.startswith("domctl node replace a")


def test_a_dead_node_whose_disks_are_wiped_starts_nothing_by_itself() -> None:
    due = action(pinned().assigned("a", autostart=True).silent("a").dead("a", wiped=True))
    assert due.after is not None and "a" not in due.after.candidates
    assert [(p.node, p.rule) for p in due.after.proofs] == [("a", Rule.CONFIRMED_DEAD)]
