"""Disks are copied to no path that another domain has at the target, whatever that domain does just now."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.model import MovedDisk
from controller.plan.snapshot import Held
from controller.plan.types import ActionKind, Reason
from tests.unit.plancase import OTHER, UUID, Cluster, expect_action
from tests.unit.test_departing import asked, request, said

ROOT = "/srv/root.img"
DISKS = [{"name": "root", "source": {"file": ROOT}}]
CD = [{"name": "cd", "device": "cdrom", "source": {"file": ROOT}}]


def copying(**spec: Any) -> Cluster:
    """web runs on a, and is to move to b with its disk."""
    return asked(request(node="b", copyStorage=True), **{"disks": DISKS, **spec})


def refused(cluster: Cluster, node: str = "b") -> str:
    """What the Migration says, while its domain is well."""
    assert cluster.verdict().action is None
    status = said(cluster, request(node="b", copyStorage=True))
    assert status.reason == Reason.PATH_IN_USE
    (message,) = {str(c.message) for c in status.conditions or () if c.type == "Ready"} or {""}
    assert f"on {node}" in message
    return message


def foreign(cluster: Cluster, xml: str, *, node: str = "b", runs: bool = False) -> Cluster:
    """A domain that domctl does not know."""
    cluster.seen(node, "running" if runs else "shutoff", "booted", OTHER, xml=xml)
    sighting = cluster.sightings[OTHER][node]
    record = msgspec.structs.replace(sighting.record, name="stranger")
    cluster.sightings[OTHER][node] = msgspec.structs.replace(sighting, record=record)
    return cluster


def with_disk(source: str, **more: str) -> str:
    inner = "".join(more.values())
    return f"<domain><devices><disk>{source}{inner}<target dev='vda'/></disk></devices></domain>"


def test_nothing_is_in_the_way_of_a_path_that_no_other_domain_has() -> None:
    cluster = foreign(copying(), with_disk("<source file='/srv/other.img'/>"))
    expect_action(cluster, ActionKind.MIGRATE)


def test_a_domain_of_ours_that_is_off_at_the_target_keeps_its_disk() -> None:
    cluster = copying().domain(OTHER, "db", disks=DISKS, state="shutoff")
    cluster.assigned("b", OTHER, name="db", libvirt_name="db", stopped=True)
    message = refused(cluster)
    assert f"{ROOT} on b is a disk of domain db" in message
    assert "another path" in message


@pytest.mark.parametrize(
    "xml",
    [
        with_disk(f"<source file='{ROOT}'/>"),
        with_disk("<source file='/srv//x/../root.img' index='1'/>"),
        with_disk(
            "<source file='/srv/over.s1'/>", chain=f"<backingStore><source file='{ROOT}'/></backingStore>"
        ),
        with_disk(f"<source dev='{ROOT}'/>"),
    ],
)
@pytest.mark.parametrize("runs", [True, False])
def test_a_strangers_disk_is_not_written_over_however_it_is_named(xml: str, runs: bool) -> None:
    assert ROOT in refused(foreign(copying(), xml, runs=runs))


def test_what_runs_on_a_path_that_its_definition_names_no_more_keeps_it() -> None:
    cluster = foreign(copying(), with_disk("<source file='/srv/next.img'/>"), runs=True)
    sighting = cluster.sightings[OTHER]["b"]
    detail = msgspec.structs.replace(sighting.detail, live_xml=with_disk(f"<source file='{ROOT}'/>"))
    cluster.sightings[OTHER]["b"] = msgspec.structs.replace(sighting, detail=detail)
    refused(cluster)


@pytest.mark.parametrize("read", [True, False])
def test_what_saved_memory_goes_on_with_is_not_written_over(read: bool) -> None:
    cluster = foreign(copying(), with_disk("<source file='/srv/next.img'/>"))
    sighting = cluster.sightings[OTHER]["b"]
    saved = with_disk(f"<source file='{ROOT}'/>") if read else None
    detail = msgspec.structs.replace(sighting.detail, managed_save=True, saved_xml=saved)
    cluster.sightings[OTHER]["b"] = msgspec.structs.replace(sighting, detail=detail)
    assert (ROOT if read else "could not be read") in refused(cluster)


def test_a_block_device_is_compared_too() -> None:
    cluster = Cluster().node("a", allowedPaths=["/dev"]).node("b", allowedPaths=["/dev"])
    cluster.domain(disks=[{"name": "root", "source": {"block": "/dev/vg/root"}}]).assigned("a").seen("a")
    cluster.given(requests={"default/web": (request(node="b", copyStorage=True),)})
    expect_action(cluster, ActionKind.MIGRATE)
    refused(foreign(cluster, with_disk("<source dev='/dev/vg/root'/>")))


@pytest.mark.parametrize("disks", [DISKS, CD])
def test_what_is_promised_to_the_target_counts_though_it_is_not_seen_there(disks: list[Any]) -> None:
    cluster = copying().domain(OTHER, "db", disks=disks)
    refused(cluster.assigned("c", OTHER, name="db", candidates=("b", "c")))


def test_a_transient_domain_that_is_off_has_its_disk_where_it_was() -> None:
    cluster = copying().domain(OTHER, "db", disks=DISKS, persistence="transient", state="shutoff")
    refused(cluster.assigned("b", OTHER, name="db", candidates=(), stopped=True))


def test_what_was_given_last_counts_and_what_a_hand_moved_it_to() -> None:
    cluster = copying().domain(OTHER, "db")
    refused(cluster.assigned("b", OTHER, name="db", config=with_disk(f"<source file='{ROOT}'/>")))
    moved = {"root": MovedDisk(source=ROOT, defined=True)}
    refused(cluster.assigned("b", OTHER, name="db", moved_disks=moved))


def test_one_that_is_elsewhere_is_not_in_the_way() -> None:
    cluster = copying().domain(OTHER, "db", disks=DISKS).assigned("c", OTHER, name="db")
    expect_action(foreign(cluster, with_disk(f"<source file='{ROOT}'/>"), node="c"), ActionKind.MIGRATE)


def test_another_node_of_the_same_host_has_the_same_files() -> None:
    cluster = foreign(copying(), with_disk(f"<source file='{ROOT}'/>"), node="c")
    views = cluster.views
    assert views["c"].facts is not None
    assert views["b"].facts is not None
    same = msgspec.structs.replace(views["c"], facts=views["b"].facts)
    cluster.views["c"] = same
    refused(cluster, node="c")


@pytest.mark.parametrize("xml", ["<!DOCTYPE d><domain/>", None])
def test_a_domain_whose_disks_cannot_be_read_is_not_taken_for_one_without(xml: str | None) -> None:
    cluster = foreign(copying(), "<domain/>")
    sighting = cluster.sightings[OTHER]["b"]
    detail = msgspec.structs.replace(sighting.detail, config_xml=xml, live_xml=None)
    cluster.sightings[OTHER]["b"] = msgspec.structs.replace(sighting, detail=detail)
    assert "could not be read" in refused(cluster)


def test_the_path_that_it_runs_on_counts_and_not_only_the_one_of_its_spec() -> None:
    """A change of its source waits for its next start: libvirt copies what is running."""
    cluster = copying()
    held = cluster.assignments[UUID].assignment
    older = {"root": ("/srv/live.img",)}
    xml, digest = cluster.rendered("a")
    held = msgspec.structs.replace(held, config=xml, digest=digest, older_disks=older)
    cluster.assignments[UUID] = Held(held, 5)
    sighting = cluster.sightings[UUID]["a"]
    detail = msgspec.structs.replace(sighting.detail, live_xml=xml.replace(ROOT, "/srv/live.img"))
    cluster.sightings[UUID]["a"] = msgspec.structs.replace(sighting, detail=detail)
    expect_action(cluster, ActionKind.MIGRATE)
    refused(foreign(cluster, with_disk("<source file='/srv/live.img'/>")))


def test_a_migration_that_copies_nothing_asks_nothing() -> None:
    shared = [{"name": "root", "source": {"file": ROOT, "shared": True}}]
    cluster = asked(request(node="b"), disks=shared)
    expect_action(foreign(cluster, with_disk(f"<source file='{ROOT}'/>")), ActionKind.MIGRATE)
