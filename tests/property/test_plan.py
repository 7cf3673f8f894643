"""What every plan keeps, whatever the cluster looks like: invented clusters of two or three nodes and one or
two domains, in every mixture of assignments, sightings, links, decisions and intents that can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from controller.model import IntentKind, Proof, Rule
from controller.plan import plan
from controller.plan.snapshot import Sighting, Snapshot
from controller.plan.types import Action, ActionKind, Reason, Verdict
from specs.domain import ACTIVE_STATES
from specs.requests import ANNOTATIONS
from tests.unit.plancase import NOW, WALL, Cluster

UUIDS = tuple(f"d0d0d0d0-0000-4000-8000-00000000000{i}" for i in range(1, 3))
NODES = ("a", "b", "c")
STATES = (
    ("running", "booted", True),
    ("running", "migrated", True),
    ("paused", "user", True),
    ("paused", "migration", True),
    ("paused", "starting-up", True),
    ("crashed", "panicked", True),
    ("shutdown", "user", True),
    ("shutoff", "shutdown", False),
    ("shutoff", "destroyed", False),
    ("shutoff", "crashed", False),
    ("shutoff", "migrated", False),
    ("shutoff", "unknown", False),
)
SENT = frozenset(ActionKind) - {ActionKind.RELEASE, ActionKind.RECORD, ActionKind.FINISH}
TAKING = frozenset(
    {
        *(ActionKind.DESTROY, ActionKind.SHUTDOWN, ActionKind.RESUME, ActionKind.REVOKE),
        *(ActionKind.HAND_BACK, ActionKind.SAVE, ActionKind.DROP_SAVED, ActionKind.FORGET),
    }
)
ASKED_FOR = {
    ActionKind.REBOOT: ANNOTATIONS["reboot"],
    ActionKind.RESET: ANNOTATIONS["reset"],
    ActionKind.DROP_SAVED: ANNOTATIONS["drop-saved"],
}

nodes = st.sampled_from(NODES)
some_nodes = st.lists(nodes, unique=True, max_size=2).map(tuple)


@st.composite
def assigned(draw: st.DrawFn) -> dict[str, Any]:
    proofs = draw(st.lists(st.tuples(nodes, st.sampled_from(Rule), st.booleans()), max_size=2))
    return {
        "node": draw(nodes),
        "candidates": draw(some_nodes),
        "started": draw(st.booleans()),
        "stopped": draw(st.booleans()),
        "paused": draw(st.booleans()),
        "saved": draw(st.sampled_from(("", "a digest of before"))),
        "autostart": draw(st.booleans()),
        "tombstone": draw(st.sampled_from((False, False, False, True))),
        "proofs": tuple(Proof(node=n, rule=r, epoch=2, at="then", vanished=v) for n, r, v in proofs),
    }


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    cluster = Cluster()
    for name in NODES:
        cluster.node(name, observeOnly=draw(st.sampled_from((False, False, False, True))))
        if draw(st.booleans()):
            cluster.silent(name)
    cluster.resigned = draw(st.booleans())
    for uuid in UUIDS:
        _domain(draw, cluster, uuid)
    cluster.given(signs={UUIDS[0]: draw(st.sampled_from((980.0, 994.0, 999.0)))})
    if draw(st.booleans()):
        cluster.dead(draw(nodes))
    return cluster


def _domain(draw: st.DrawFn, cluster: Cluster, uuid: str) -> None:
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if draw(st.sampled_from((0, 0, 1))) else {}
    policy = draw(st.sampled_from(("Always", "Never")))
    wanted = draw(st.sampled_from(("running", "paused", "saved", "shutoff")))
    persistence = "persistent" if wanted == "saved" else draw(st.sampled_from(("persistent", "transient")))
    asked = draw(st.sampled_from(("", "", *ANNOTATIONS.values())))
    meta |= {"annotations": {asked: WALL}} if asked else {}
    cluster.domain(uuid, f"n{uuid[-1]}", meta, state=wanted, restartPolicy=policy, persistence=persistence)
    has_assignment = draw(st.booleans())
    if has_assignment:
        cluster.assigned(uuid=uuid, **draw(assigned()))
        if draw(st.booleans()):
            kind, epoch = draw(st.sampled_from(IntentKind)), draw(st.sampled_from((2, 3)))
            cluster.intends(kind, draw(nodes), epoch, uuid)
    for name in draw(some_nodes):
        state, why, is_active = draw(st.sampled_from(STATES))
        is_saved = not is_active and draw(st.booleans())
        since = draw(st.sampled_from((900.0, 998.0)))
        bare = {"persistent": False, "config_xml": None, "config_mark": None}
        how = bare if is_active and draw(st.sampled_from((0, 0, 1))) else {"managed_save": is_saved}
        cluster.seen(name, state, why, uuid, active=is_active, since=since, **how)
    if has_assignment and draw(st.sampled_from((0, 0, 1))):
        cluster.given(awaiting={(uuid, draw(nodes)): draw(st.sampled_from((990.0, 999.0)))})
    if draw(st.sampled_from((0, 0, 1))):
        cluster.domains.pop(uuid)


def verdicts(cluster: Cluster) -> dict[str, Verdict]:
    return dict(plan(cluster.snapshot(), UUIDS))


def _expect_states_kept(snap: Snapshot, action: Action, seen: Mapping[str, Sighting]) -> None:
    """What is saved, transient, started at boot or asked for once."""
    annotations = (
        snap.domains[action.uuid].domain.metadata.annotations if action.uuid in snap.domains else UNSET
    )
    if action.kind in ASKED_FOR:
        assert annotations is not UNSET and ASKED_FOR[action.kind] in annotations, "nobody asked for it"
        assert action.after is not None and str(action.kind) in action.after.requests, "it is not noted"
    if action.kind is ActionKind.FORGET:
        assert seen[action.node].record.active, "what is off would be lost by it"
    if action.kind is ActionKind.AUTOSTART:
        assert not action.autostart, "I7: nobody asked for it"
    if action.kind is ActionKind.SAVE:
        assert snap.domains[action.uuid].domain.spec.state == "saved", "nobody wants it saved"
    if action.kind is ActionKind.REVOKE:
        assert not seen[action.node].detail.managed_save, "its memory would be in the way, or lost"


@settings(max_examples=800, deadline=None)
@given(clusters())
def test_no_plan_breaks_an_invariant(cluster: Cluster) -> None:
    snap = cluster.snapshot()
    for uuid, verdict in verdicts(cluster).items():
        action = verdict.action
        if action is None:
            continue
        held = snap.assignments.get(uuid)
        proofs = held.assignment.proofs if held else ()
        dead = {p.node for p in proofs if p.rule in (Rule.CONFIRMED_DEAD, Rule.RESOLVED)}
        dead = {n for n in dead if not snap.views[n].answers}  # what was last seen there counts no more
        seen = {n: s for n, s in snap.sightings.get(uuid, {}).items() if n not in dead}
        if action.kind in SENT:
            assert snap.views[action.node].answers, f"I3: {action.node} does not answer"
            spec = snap.nodes[action.node].node.spec
            assert spec.observe_only is not True, "an observeOnly node is changed"
        if action.kind in (ActionKind.START, ActionKind.DEFINE):
            assert action.after is not None
            assert action.after.candidates == (action.node,), "I2: somebody else may hold it"
            assert not action.after.tombstone, "a deleted domain is given out again"
        if action.kind is ActionKind.START:
            assert not any(s.record.active for s in seen.values()), "I1: it is active already"
            assert not any(n != action.node for n in seen), "I2: another node has a definition"
            domain = snap.domains[uuid].domain
            assert domain.spec.state in ACTIVE_STATES
        _expect_states_kept(snap, action, seen)
        if action.kind in TAKING and not cluster.resigned:
            assert False, f"safety §4: {action.kind} within the quiet time"  # noqa: B011
        if action.kind is ActionKind.REVOKE:
            assert not seen[action.node].record.active, "R1 is for inactive definitions"
        if action.kind is ActionKind.FINISH and uuid in snap.assignments:
            assert not any(snap.views[n].answers for n in seen), "it is still seen somewhere"


@st.composite
def leaving(draw: st.DrawFn) -> Cluster:
    """A domain that is off and has to go from one node or the other, in front of drivers of both kinds."""
    cluster = Cluster()
    for name in NODES:
        cluster.node(name).able(name, draw(st.sampled_from(("qemu", "xen"))))
    meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if draw(st.sampled_from((0, 0, 0, 1))) else {}
    placement = {"placement": {"node": draw(nodes)}} if draw(st.booleans()) else {}
    state = draw(st.sampled_from(("running", "shutoff")))
    cluster.domain(UUIDS[0], "n1", meta, state=state, **placement)
    candidates = draw(st.sampled_from((("a",), ("a", "b"))))
    started = draw(st.sampled_from((True, True, True, False)))
    cluster.assigned("a", UUIDS[0], candidates=candidates, started=started)
    for name in draw(some_nodes):
        cluster.seen(name, "shutoff", draw(st.sampled_from(("shutdown", "migrated", "unknown"))), UUIDS[0])
    return cluster


@settings(max_examples=300, deadline=None)
@given(leaving())
def test_no_domain_leaves_a_node_by_an_undefine_that_proves_nothing(cluster: Cluster) -> None:
    """R1 needs a driver whose create and undefine were raced, unless nothing is started after it."""
    action = cluster.verdict(UUIDS[0]).action
    if action is None or action.kind not in (ActionKind.REVOKE, ActionKind.RELEASE):
        return
    assert action.kind is ActionKind.REVOKE or _rule_of(action) is Rule.ABSENT
    able, held = cluster.views[action.node].capabilities, cluster.assignments[UUIDS[0]].assignment
    assert able is not None
    ends = cluster.domains[UUIDS[0]].domain.metadata.deletion_timestamp is not UNSET
    assert able.raced_create_undefine or ends or not held.started, f"left {action.node}: {action.why}"


def _rule_of(action: Action) -> Rule:
    assert action.after is not None
    return next(p.rule for p in action.after.proofs if p.node == action.node)


@settings(max_examples=500, deadline=None)
@given(clusters())
def test_every_domain_that_is_not_as_wanted_has_an_action_or_a_reason(cluster: Cluster) -> None:
    """L4; and a reason that a human must end says how."""
    for uuid, verdict in verdicts(cluster).items():
        if verdict.action is not None:
            continue
        if verdict.deferred is not None:
            needs_human = verdict.deferred.reason in (
                Reason.NODE_UNREACHABLE,
                Reason.DUPLICATE,
                Reason.RUNS_ELSEWHERE,
                Reason.NODE_NOT_READ,
                Reason.OBJECT_MISSING,
                Reason.MIGRATION_IN_PROGRESS,
            )
            assert verdict.deferred.message
            assert verdict.deferred.command or not needs_human, verdict.deferred
            continue
        stored, held = cluster.domains.get(uuid), cluster.assignments.get(uuid)
        if stored is None:
            assert held is None or held.assignment.tombstone
            continue
        if stored.domain.spec.persistence == "transient" and stored.domain.spec.state == "shutoff":
            assert not cluster.sightings.get(uuid, {}).get(held.assignment.node if held is not None else "")
            continue
        home = cluster.sightings.get(uuid, {}).get(held.assignment.node) if held is not None else None
        assert home is not None and home.record.active == (stored.domain.spec.state in ACTIVE_STATES)
        if stored.domain.spec.state == "paused":
            assert home.record.state == "paused"
        if stored.domain.spec.state == "saved":
            assert home.detail.managed_save


@settings(max_examples=300, deadline=None)
@given(clusters())
def test_a_domains_verdict_does_not_depend_on_what_else_is_planned(cluster: Cluster) -> None:
    """The union over dirty keys equals the full plan, but for placements, which count for each other."""
    together = verdicts(cluster)
    for uuid in UUIDS:
        alone = plan(cluster.snapshot(), [uuid])[uuid]
        held = cluster.assignments.get(uuid)
        if held is not None and held.assignment.candidates:
            assert alone == together[uuid]


@settings(max_examples=200, deadline=None)
@given(clusters())
def test_the_same_snapshot_gives_the_same_plan(cluster: Cluster) -> None:
    assert verdicts(cluster) == verdicts(cluster)


def test_the_clock_of_these_clusters_is_the_plans_input() -> None:
    assert Cluster().snapshot().now == NOW
