"""Disks that somebody moved by hand: never defined back, never booted from what the spec says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.model import Assignment, IntentKind, MovedDisk, Proof, Rule
from controller.plan import disks
from controller.plan.case import Case
from controller.plan.snapshot import Held
from controller.plan.types import ActionKind, Reason, Verdict
from specs.disksources import disk_sources, source_in
from specs.mark import Mark
from tests.unit.plancase import CLUSTER, UUID, Cluster, expect_action, expect_hold
from tests.unit.test_departing import request

BASE, OVERLAY, THIRD = "/srv/root.qcow2", "/srv/root.s1", "/srv/other.qcow2"
SNAPSHOT = {"root": MovedDisk(source=OVERLAY, defined=True)}


def root(file: str = BASE, **more: Any) -> dict[str, Any]:
    return {"name": "root", "source": {"file": file, "format": "qcow2", "shared": True}, **more}


def world(file: str = BASE, **spec: Any) -> Cluster:
    """Two nodes, and the domain as domctl gave it to a, with its disk on BASE."""
    cluster = Cluster().node("a", allowedPaths=["/srv"]).node("b", allowedPaths=["/srv"])
    cluster.domain(disks=[root()], **spec).assigned("a")
    xml, digest = cluster.rendered("a")
    cluster.assigned("a", config=xml, digest=digest)
    return cluster if file == BASE else cluster.domain(disks=[root(file)], **spec)


def seen(cluster: Cluster, config: str | None, live: str | None, **how: Any) -> Cluster:
    """What a shows: a definition and a running copy with the disk on these, else as domctl gave them."""
    held = cluster.assignments[UUID].assignment
    assert held.config is not None
    mark = Mark(CLUSTER, UUID, held.epoch, held.digest)
    xmls = [None if at is None else held.config.replace(BASE, at) for at in (config, live)]
    state = {"state": "running", "reason": "booted"} if live else {"state": "shutoff", "reason": "crashed"}
    return cluster.seen(
        "a",
        **state,
        xml=held.config,
        config_xml=xmls[0],
        live_xml=xmls[1],
        persistent=config is not None,
        config_mark=mark if config is not None else None,
        live_mark=mark if live is not None else None,
        **how,
    )


def recorded(cluster: Cluster) -> Assignment:
    """Carry out what is to be recorded, and nothing else; returns the assignment."""
    verdict = cluster.verdict()
    assert verdict.action is not None
    assert verdict.action.kind is ActionKind.RECORD, verdict.action
    return settle(cluster, verdict)


def settle(cluster: Cluster, verdict: Verdict) -> Assignment:
    action = verdict.action
    assert action is not None
    after = action.settled if action.settled is not None else action.after
    assert after is not None
    cluster.assignments[UUID] = Held(after, 6)
    return after


def snapshotted(**spec: Any) -> Cluster:
    """An external snapshot of the running domain, written down."""
    cluster = seen(world(**spec), OVERLAY, OVERLAY)
    assert recorded(cluster).moved_disks == SNAPSHOT
    return cluster


def test_a_running_domain_on_a_snapshot_is_left_as_it_is_and_told_with_the_ways_out() -> None:
    verdict = snapshotted().verdict()
    assert verdict.deferred is not None
    assert verdict.deferred.reason is Reason.DISK_MOVED_BY_HAND
    for said in ("disk root", OVERLAY, BASE, "at a"):
        assert said in verdict.deferred.message
    assert verdict.deferred.command == (
        "virsh blockcommit web vda --active --pivot on a, or set spec.disks[root].source to /srv/root.s1"
    )


def test_it_is_not_booted_from_the_base_once_it_ended() -> None:
    cluster = seen(snapshotted(), OVERLAY, None)
    verdict = cluster.verdict()
    assert verdict.deferred is not None
    assert verdict.deferred.reason is Reason.DISK_MOVED_BY_HAND
    assert "virsh start" in verdict.deferred.command


def test_a_snapshot_of_a_domain_that_is_off_is_held_too() -> None:
    cluster = seen(world(), OVERLAY, None)
    assert recorded(cluster).moved_disks == SNAPSHOT
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_one_that_is_wanted_off_is_not_defined_with_the_base_and_counts_as_stopped() -> None:
    cluster = seen(world(state="shutoff"), OVERLAY, None)
    recorded(cluster)
    assert recorded(cluster).stopped
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_it_is_stopped_when_that_is_wanted_for_nothing_is_lost_by_that() -> None:
    cluster = snapshotted(state="shutoff")
    expect_action(cluster, ActionKind.SHUTDOWN)


def test_autostart_is_cleared_all_the_same() -> None:
    expect_action(seen(snapshotted(), OVERLAY, OVERLAY, autostart=True), ActionKind.AUTOSTART)
    expect_action(seen(snapshotted(), OVERLAY, None, autostart=True), ActionKind.AUTOSTART)


def test_other_drift_waits_while_it_is_held() -> None:
    cluster = snapshotted()
    sighting = cluster.sightings[UUID]["a"]
    assert sighting.detail.config_xml is not None
    more = sighting.detail.config_xml.replace("<vcpu>1</vcpu>", "<vcpu>3</vcpu>")
    assert more != sighting.detail.config_xml
    seen(cluster, OVERLAY, OVERLAY)
    detail = msgspec.structs.replace(cluster.sightings[UUID]["a"].detail, config_xml=more)
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(sighting, detail=detail)
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


@pytest.mark.parametrize("mode", ["Live", "Cold"])
def test_it_is_not_moved_either_way(mode: str) -> None:
    cluster = snapshotted()
    cluster.given(requests={"default/web": (request(node="b", mode=mode),)})
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)
    expect_hold(seen(cluster, OVERLAY, None), Reason.DISK_MOVED_BY_HAND)


def test_it_does_not_leave_a_node_that_fits_no_more() -> None:
    expect_hold(seen(snapshotted(placement={"node": "b"}), OVERLAY, None), Reason.DISK_MOVED_BY_HAND)


def test_a_commit_back_into_the_base_ends_the_hold() -> None:
    cluster = seen(snapshotted(), BASE, BASE)
    assert recorded(cluster).moved_disks == {}
    assert cluster.verdict().situation == "Converged"


def test_a_definition_that_somebody_set_back_ends_the_hold_while_it_is_off() -> None:
    cluster = seen(snapshotted(), BASE, None)
    assert recorded(cluster).moved_disks == {}
    expect_action(cluster, ActionKind.START)


def test_the_spec_set_to_where_the_disk_is_ends_the_hold() -> None:
    cluster = snapshotted().domain(disks=[root(OVERLAY)])
    assert recorded(cluster).moved_disks == {}
    expect_action(cluster, ActionKind.DEFINE)
    settle(cluster, cluster.verdict())
    held = cluster.assignments[UUID].assignment
    assert held.config is not None
    assert OVERLAY in held.config
    assert held.older_disks == {}


def test_the_spec_set_to_a_third_image_does_not() -> None:
    expect_hold(snapshotted().domain(disks=[root(THIRD)]), Reason.DISK_MOVED_BY_HAND)


def test_a_commit_after_the_spec_followed_is_a_move_by_hand_again() -> None:
    cluster = snapshotted().domain(disks=[root(OVERLAY)])
    recorded(cluster)
    held = settle(cluster, cluster.verdict())
    assert held.config is not None
    cluster.seen("a", xml=held.config.replace(OVERLAY, BASE))
    assert recorded(cluster).moved_disks["root"].source == BASE
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_a_change_of_the_spec_is_applied_while_it_runs_and_when_it_is_off() -> None:
    expect_action(seen(world(THIRD), BASE, BASE), ActionKind.DEFINE)
    expect_action(seen(world(THIRD), BASE, None), ActionKind.START)


def test_what_a_change_of_the_spec_replaced_is_no_move_while_it_is_in_use() -> None:
    """Recorded, interrupted, carried out, and waiting for the next start: at no time taken for a hand's."""
    cluster = seen(world(THIRD), BASE, BASE)
    action = cluster.verdict().action
    assert action is not None
    assert action.after is not None
    assert action.after.older_disks == {"root": (BASE,)}
    cluster.assignments[UUID] = Held(action.after, 6)
    assert recorded(cluster).intent is None
    expect_action(cluster, ActionKind.DEFINE)
    held = settle(cluster, cluster.verdict())
    assert held.config is not None
    cluster.seen("a", xml=held.config, live_xml=held.config.replace(THIRD, BASE))
    detail = cluster.sightings[UUID]["a"].detail
    mark = Mark(CLUSTER, UUID, held.epoch, held.digest)
    detail = msgspec.structs.replace(detail, config_mark=mark, live_mark=mark)
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(cluster.sightings[UUID]["a"], detail=detail)
    verdict = cluster.verdict()
    assert verdict.situation == "Converged"
    assert verdict.pending


def test_a_start_forgets_what_was_replaced() -> None:
    cluster = seen(world(THIRD), BASE, None)
    action = cluster.verdict().action
    assert action is not None
    assert action.settled is not None
    assert (action.after.older_disks if action.after else None) == {"root": (BASE,)}
    assert action.settled.older_disks == {}


def test_a_transient_domain_that_ended_takes_nothing_with_it_that_was_written_down() -> None:
    cluster = seen(world(persistence="transient"), None, OVERLAY)
    assert recorded(cluster).moved_disks == {"root": MovedDisk(source=OVERLAY)}
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)
    cluster.sightings.clear()
    cluster.witnessed("a", "crashed")
    verdict = cluster.verdict()
    assert verdict.deferred is not None
    assert verdict.deferred.reason is Reason.DISK_MOVED_BY_HAND
    assert verdict.deferred.command == "set spec.disks[root].source to /srv/root.s1"
    expect_action_after_spec(cluster, persistence="transient")


def expect_action_after_spec(cluster: Cluster, **spec: Any) -> None:
    cluster.domain(disks=[root(OVERLAY)], **spec)
    recorded(cluster)
    expect_action(cluster, ActionKind.START)


def test_a_lost_definition_is_not_made_again_with_the_base() -> None:
    cluster = snapshotted()
    cluster.sightings.clear()
    cluster.witnessed("a", "crashed")
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)
    cluster = snapshotted(state="shutoff")
    cluster.sightings.clear()
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_it_is_not_started_elsewhere_from_the_base_when_its_node_died() -> None:
    cluster = snapshotted().silent("a").dead("a")
    verdict = cluster.verdict()
    assert verdict.action is not None
    assert verdict.action.kind is ActionKind.RELEASE
    settle(cluster, verdict)
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_a_definition_alone_that_domctl_made_meanwhile_does_not_end_the_hold() -> None:
    """Only the running copy was seen on the snapshot: what stands defined beside it says nothing."""
    cluster = seen(world(), BASE, OVERLAY)
    assert recorded(cluster).moved_disks == {"root": MovedDisk(source=OVERLAY)}
    expect_hold(seen(cluster, BASE, None), Reason.DISK_MOVED_BY_HAND)


def test_a_disk_that_was_moved_in_the_definition_alone_is_held() -> None:
    cluster = seen(world(), OVERLAY, BASE)
    assert recorded(cluster).moved_disks == SNAPSHOT
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_an_open_intent_of_a_former_leader_is_no_way_around() -> None:
    cluster = seen(snapshotted(), OVERLAY, None).intends(IntentKind.START, "a")
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)


def test_a_deletion_goes_its_way() -> None:
    cluster = snapshotted(shutdown=[{"method": "destroy"}])
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["domctl.io/undefine"]}
    cluster.domain(disks=[root()], shutdown=[{"method": "destroy"}], meta=deleted)
    expect_action(cluster, ActionKind.DESTROY)


def test_a_medium_changed_by_hand_is_drift_as_ever() -> None:
    cluster = Cluster().node("a", allowedPaths=["/srv"])
    media = [{"name": "root", "device": "cdrom", "source": {"file": BASE}}]
    cluster.domain(disks=media).assigned("a")
    xml, digest = cluster.rendered("a")
    cluster.assigned("a", config=xml, digest=digest)
    expect_action(seen(cluster, THIRD, THIRD), ActionKind.DEFINE)


def test_a_disk_that_was_detached_by_hand_is_given_again() -> None:
    cluster = seen(world(), BASE, BASE)
    sighting = cluster.sightings[UUID]["a"]
    assert sighting.detail.config_xml is not None
    begin, end = sighting.detail.config_xml.index("<disk "), sighting.detail.config_xml.index("</disk>")
    without = sighting.detail.config_xml[:begin] + sighting.detail.config_xml[end + len("</disk>") :]
    detail = msgspec.structs.replace(sighting.detail, config_xml=without, live_xml=without)
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(sighting, detail=detail)
    expect_action(cluster, ActionKind.DEFINE)


def test_a_moved_disk_holds_its_domain_when_its_home_was_dead_and_is_no_node_any_more() -> None:
    proof = Proof(node="a", rule=Rule.CONFIRMED_DEAD, epoch=3, at="now", wiped=True)
    cluster = world().assigned("a", candidates=(), proofs=(proof,), moved_disks=SNAPSHOT)
    del cluster.nodes["a"], cluster.views["a"]
    expect_hold(cluster, Reason.DISK_MOVED_BY_HAND)
    deferred = cluster.verdict().deferred
    assert deferred is not None and deferred.command == f"set spec.disks[root].source to {OVERLAY}"
    cluster.domain(disks=[root(OVERLAY)])
    assert recorded(cluster).moved_disks == {}
    cluster.assigned("a", candidates=(), proofs=(proof,))
    expect_action(cluster, ActionKind.START, "b")


def test_a_copy_to_a_block_device_is_a_move() -> None:
    cluster = seen(world(), BASE, BASE)
    sighting = cluster.sightings[UUID]["a"]
    xml = sighting.detail.config_xml
    assert xml is not None
    xml = xml.replace(f'file="{BASE}"', 'dev="/dev/vg/root"').replace('type="file"', 'type="block"')
    assert "/dev/vg/root" in xml
    detail = msgspec.structs.replace(sighting.detail, config_xml=xml, live_xml=xml)
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(sighting, detail=detail)
    assert recorded(cluster).moved_disks["root"].source == "/dev/vg/root"


def test_nothing_is_concluded_where_it_is_not_known_what_was_given() -> None:
    cluster = world()
    cluster.assigned("a", config=None, digest="")
    cluster.seen("a", xml="<domain><devices/></domain>")
    assert disks.moved(Case(cluster.snapshot(), UUID)) == {}


@pytest.mark.parametrize(
    ("element", "source"),
    [
        ('type="file"><source file="/srv//a/../b" index="2"/>', "/srv/b"),
        ('type="block"><source dev="/dev/sda"/>', "/dev/sda"),
        ('type="volume"><source pool="p" volume="v" index="1"/>', "pool=p volume=v"),
        ('type="network"><source protocol="rbd" name="n"><host name="h"/></source>', "name=n protocol=rbd"),
        ('type="file">', ""),
    ],
)
def test_sources_of_each_type_are_read(element: str, source: str) -> None:
    xml = f'<domain><devices><disk {element}<target dev="vda"/></disk></devices></domain>'
    assert [(d.name, d.source) for d in disk_sources(xml)] == [("vda", source)]


def test_disks_are_matched_by_name_before_their_target() -> None:
    def disk(name: str, target: str, file: str) -> str:
        alias = f'<alias name="{name}"/>' if name else ""
        return f'<disk><source file="{file}"/><target dev="{target}"/>{alias}</disk>'

    def of(*disks: str) -> str:
        return f"<domain><devices>{''.join(disks)}</devices></domain>"

    wanted = disk_sources(of(disk("ua-root", "vda", "/a")))[0]
    assert source_in(wanted, disk_sources(of(disk("", "vda", "/b"), disk("ua-root", "sda", "/c")))) == "/c"
    assert source_in(wanted, disk_sources(of(disk("virtio-disk0", "vda", "/b")))) == "/b"
    assert source_in(wanted, disk_sources(of(disk("", "vdb", "/b")))) == ""
