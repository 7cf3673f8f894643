"""Every way in which a migration can have broken off (safety: table M), made on real hosts, and cleared up.

A migration is asked for and under way; its controller is killed, and the job is aborted, so that an intent
stands in etcd whose end nobody saw. Then both hosts are put into the state of one row of the table, and a new
controller, which knows nothing but etcd and what the hosts show, has to do what the row says.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt
import msgspec
import pytest

from controller.model import Assignment, Copy
from tests.e2e.client import MIGRATIONS, Object, is_ready, reason
from tests.e2e.cluster import IMAGES, Cluster
from tests.e2e.moving import ENDED, FULL, coming, filled, has_job, ready_to_tick, slow, ticks
from tests.e2e.serve import until
from tests.etcdserver import EtcdServer
from tests.labhost import CommandError, LabHost
from tests.oracle import watching

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.long, pytest.mark.timeout(300)]

NAME = "moved"
SETTLE_S = 90.0
Shape = Callable[[LabHost, str, LabHost], None]


# -- what a host can be made to show; the domain's definition, and the other host, are given -------------


def active(_host: LabHost, _xml: str, _other: LabHost) -> None:
    """It runs there already, without a definition."""


def started(host: LabHost, xml: str, _other: LabHost) -> None:
    _start(host, xml)
    host.virsh("undefine", NAME)


def started_persistent(host: LabHost, xml: str, _other: LabHost) -> None:
    _start(host, xml)


def absent(host: LabHost, _xml: str, _other: LabHost) -> None:
    _clear(host)


def _clear(host: LabHost) -> None:
    with contextlib.suppress(CommandError):
        host.virsh("destroy", NAME)
    with contextlib.suppress(CommandError):
        host.virsh("undefine", NAME)


def shut_off(host: LabHost, xml: str, _other: LabHost) -> None:
    """Defined, for no known reason."""
    _clear(host)
    host.define(xml)


def destroyed(host: LabHost, xml: str, _other: LabHost) -> None:
    """It ended there before everybody's eyes, and its definition is there."""
    host.define(xml)
    host.virsh("destroy", NAME)


def killed(host: LabHost, xml: str, _other: LabHost) -> None:
    """Its QEMU died before everybody's eyes, and its definition is there."""
    host.define(xml)
    for pid in host.qemu_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: _state(host) == "shut off", 20, "libvirt does not notice its end")


def moved_away(host: LabHost, xml: str, other: LabHost) -> None:
    """Somebody migrated it and left its definition behind; what arrived has ended since."""
    host.define(xml)
    host.virsh("migrate-setspeed", NAME, "1000")
    host.virsh("migrate", "--live", "--p2p", NAME, other.uri)
    assert "migrated" in host.virsh("domstate", "--reason", NAME)
    _clear(other)


def moved_and_stands(host: LabHost, xml: str, other: LabHost) -> None:
    """It has left, as domctl has it leave, but for the definition, which says that it was migrated."""
    _let_stand(host, xml, other)


def moved_wholly_and_stands(host: LabHost, xml: str, other: LabHost) -> None:
    """It has left just as domctl has it leave."""
    _let_stand(host, xml, other, "--undefinesource")


def _let_stand(host: LabHost, xml: str, other: LabHost, *how: str) -> None:
    host.define(xml)
    host.virsh("migrate-setspeed", NAME, "1000")
    host.virsh("migrate", "--live", "--p2p", "--suspend", "--persistent", *how, NAME, other.uri)
    assert _state(other) == "paused"


def in_migration(host: LabHost, xml: str, _other: LabHost) -> None:
    """Paused for a migration that nobody is at work on."""
    _paused(host, xml, "migration")


def post_copy(host: LabHost, xml: str, _other: LabHost) -> None:
    _paused(host, xml, "post-copy")


def standing(host: LabHost, xml: str, _other: LabHost) -> None:
    """Paused as what has arrived is, until the controller lets it go."""
    _start(host, xml, "--paused")


def unreachable(host: LabHost, _xml: str, _other: LabHost) -> None:
    """Nobody can know that nothing of it is there."""
    _clear(host)
    host.cut()


def _start(host: LabHost, xml: str, *how: str) -> None:
    host.define(xml)
    host.virsh("start", NAME, *how)


def _paused(host: LabHost, xml: str, why: str) -> None:
    if coming(host, NAME):
        host.virsh("suspend", NAME)
    else:
        _start(host, xml, "--paused")
        host.virsh("undefine", NAME)
    host.pretend(NAME, why)


# -- the table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """`ends_on`: where the domain runs when all is cleared up (source, target, or either); `held`: the
    reasons one of which domctl gives instead, doing nothing. `guest`: whose guest goes on, `source`'s or
    `target`'s; empty: a new one is started. `copy`: what was recorded of the copy at the target. `paused`: by
    its user, who wants it so."""

    source: Shape
    target: Shape
    ends_on: str = ""
    guest: str = ""
    held: tuple[str, ...] = ()
    on_doubt: str = "Reboot"
    copy: Copy = Copy.STANDING
    paused: bool = False

    @property
    def state(self) -> str:
        return "paused" if self.paused else "running"


TABLE = {
    "post-copy anywhere": Row(post_copy, absent, held=("PostCopy",)),
    "active without a job, and absent": Row(active, absent, "either", "source"),
    "active without a job, and a definition": Row(active, shut_off, "either", "source"),
    "active without a job, and one left in migration": Row(active, in_migration, "either", "source"),
    "left in migration, and active": Row(in_migration, started, "target", "target"),
    "left in migration, and active with a definition": Row(
        in_migration, started_persistent, "target", "target"
    ),
    "left in migration, and absent": Row(in_migration, absent, "either", "source", on_doubt="Hold"),
    "left in migration, and absent since it may go on, in doubt": Row(
        in_migration, absent, held=("MigrationDoubt",), on_doubt="Hold", copy=Copy.LET_GO
    ),
    "left in migration, and absent since it may go on, to be started again": Row(
        in_migration, absent, "source", copy=Copy.LET_GO
    ),
    "both left in migration": Row(in_migration, in_migration, "either"),
    "absent, and active": Row(absent, started, "target", "target"),
    "a definition, and active": Row(shut_off, started, "target", "target"),
    "absent, and a definition of what never went on": Row(absent, shut_off, "source"),
    "absent, and a definition of what may have gone on": Row(absent, shut_off, "target", copy=Copy.LET_GO),
    "left in migration, and a definition of what never went on": Row(
        in_migration, shut_off, "either", "source"
    ),
    "left in migration, and a definition of what may have gone on": Row(
        in_migration, shut_off, "target", copy=Copy.LET_GO
    ),
    "a definition, and a definition of what never went on": Row(shut_off, shut_off, "source"),
    "a definition, and a definition of what may have gone on": Row(
        shut_off, shut_off, "target", copy=Copy.LET_GO
    ),
    "absent, and left in migration": Row(absent, in_migration, "either"),
    "a definition, and left in migration": Row(shut_off, in_migration, "either"),
    "ended at the source, and absent": Row(destroyed, absent, "either"),
    "killed at the source, and absent": Row(killed, absent, "either"),
    "migrated from the source by hand, and absent": Row(moved_away, absent, held=("RunsElsewhere",)),
    "a definition for no known reason, and absent": Row(shut_off, absent, "either"),
    "absent everywhere": Row(absent, absent, "either"),
    "active on both": Row(active, started, held=("Duplicate",)),
    "paused by its user on both": Row(active, standing, "target", "target", paused=True),
    "active, and a copy that stands": Row(active, standing, "either", "source"),
    "left in migration, and a copy that stands": Row(in_migration, standing, "target", "target"),
    "absent, and a copy that stands, in doubt": Row(
        absent, standing, held=("MigrationDoubt",), on_doubt="Hold"
    ),
    "absent, and a copy that stands, to be started again": Row(absent, standing, "either"),
    "a definition for no known reason, and a copy that stands, in doubt": Row(
        shut_off, standing, held=("MigrationDoubt",), on_doubt="Hold"
    ),
    "a definition for no known reason, and a copy that stands, to be started again": Row(
        shut_off, standing, "source"
    ),
    "a definition that was migrated, and a copy that stands": Row(
        moved_and_stands, absent, "target", "target", on_doubt="Hold"
    ),
    "absent, and a copy that stands, which its host knows to have had all in time": Row(
        moved_wholly_and_stands, absent, "target", "target", on_doubt="Hold"
    ),
    "unreachable, and a copy that stands": Row(unreachable, standing, held=("NodeUnreachable",)),
    "unreachable, and active": Row(unreachable, started, "target", "target"),
    "unreachable, and absent": Row(unreachable, absent, held=("NodeUnreachable",)),
    "unreachable, and a definition": Row(unreachable, shut_off, held=("NodeUnreachable",)),
    "unreachable, and left in migration": Row(unreachable, in_migration, held=("NodeUnreachable",)),
    "active, and unreachable": Row(active, unreachable, held=("NodeUnreachable",)),
    "left in migration, and unreachable": Row(in_migration, unreachable, held=("NodeUnreachable",)),
    "absent, and unreachable": Row(absent, unreachable, held=("NodeUnreachable",)),
}


@pytest.mark.parametrize("what", TABLE)
def test_a_migration_that_broke_off_is_cleared_up_as_the_table_says(
    stored_cluster: Cluster, etcd: EtcdServer, what: str
) -> None:
    row, cluster = TABLE[what], stored_cluster
    source, target = broken_off(cluster, row)
    noted(etcd, source, row)
    xml = source.virsh("dumpxml", "--inactive", "--migratable", NAME)
    row.target(target, xml, source)
    row.source(source, xml, target)
    here = {"source": source, "target": target}.get(row.guest)
    run = _run(here) if here is not None else ""
    cluster.controller.start()
    if row.held:
        held(cluster, row)
        return
    settled(cluster, row, source, target)
    if here is not None:
        found = cluster.the_copy(NAME)
        if found.host == here:
            assert found.run == run, "its guest was lost"
        else:  # it was tried once more, and has moved on
            assert phase(cluster) == "Succeeded"


def test_a_job_that_runs_on_without_its_controller_is_followed_to_its_end(cluster: Cluster) -> None:
    source, target = under_way(cluster, "Hold")
    cluster.controller.kill()
    assert has_job(source, NAME)
    cluster.controller.start()
    until(lambda: phase(cluster) == "Succeeded", SETTLE_S, lambda: cluster.story(NAME))
    cluster.wait_ready(NAME, timeout_s=SETTLE_S)
    assert cluster.verify(NAME).host == target


def test_a_target_that_takes_over_late_runs_nothing_beside_its_source(
    cluster: Cluster, tmp_path: Path
) -> None:
    """libvirt's own switch-over would: its daemon is frozen just then, for longer than the source waits."""
    source, target = under_way(cluster, "Hold")
    daemon = int((target.directory / "libvirtd.pid").read_text().split()[0])
    written = {host.name: host.path(f"{IMAGES}/ticks") for host in (source, target)}
    with watching(written, tmp_path / "seen"):
        _at_switch_over(source)
        os.kill(daemon, signal.SIGSTOP)
        until(lambda: _state(source) == "running", 40, "its source does not go on")
        time.sleep(6)
        os.kill(daemon, signal.SIGCONT)
        until(lambda: phase(cluster) in ENDED, SETTLE_S, lambda: cluster.story(NAME))
        cluster.wait_ready(NAME, timeout_s=SETTLE_S)
    found = cluster.verify(NAME)
    assert (ticks(source, NAME) + ticks(target, NAME)).count(0) == 1, "its guest was lost"
    assert found.host == target, "it was tried once more"


def _at_switch_over(source: LabHost) -> None:
    """At once: it lasts a fraction of a second."""
    raw = libvirt.open(source.uri)
    try:
        domain, too_late = raw.lookupByName(NAME), time.monotonic() + 30
        while domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
            assert time.monotonic() < too_late, "it does not switch over"
            time.sleep(0.0005)
    finally:
        raw.close()


# -- how ---------------------------------------------------------------------------------------------


def under_way(cluster: Cluster, on_doubt: str, *, paused: bool = False) -> tuple[LabHost, LabHost]:
    """Source and target of a migration that is at work."""
    ready_to_tick(cluster)
    cluster.run(NAME, **FULL, migration={"onDoubt": on_doubt})
    source = filled(cluster, NAME)
    if paused:
        cluster.controller.domctl("pause", NAME, "--wait", "--timeout=20s")
    slow(source, NAME)
    node, target = next((name, host) for name, host in cluster.nodes.items() if host != source)
    spec = {"domain": NAME, "node": node}
    wanted = {"apiVersion": "domctl.io/v1", "kind": "Migration", "metadata": {"name": "m"}, "spec": spec}
    cluster.controller.api().create(MIGRATIONS, wanted)
    until(lambda: coming(target, NAME), 30, lambda: cluster.story(NAME))
    return source, target


def broken_off(cluster: Cluster, row: Row) -> tuple[LabHost, LabHost]:
    source, target = under_way(cluster, row.on_doubt, paused=row.paused)
    cluster.controller.kill()
    source.virsh("domjobabort", NAME)
    until(lambda: NAME not in target.virsh("list", "--all", "--name").split(), 20, "its target stays")
    until(lambda: _state(source) == row.state, 20, "its source is not as it was")
    return source, target


def noted(etcd: EtcdServer, source: LabHost, row: Row) -> None:
    """What the controller that died had recorded of the copy."""
    key = f"/domctl/assignments/{source.virsh('domuuid', NAME).strip()}"
    was = msgspec.json.decode(etcd.get(key), type=Assignment)
    assert was.intent is not None and was.intent.goes_on != row.paused
    intent = msgspec.structs.replace(was.intent, copy=row.copy)
    etcd.put(key, msgspec.json.encode(msgspec.structs.replace(was, intent=intent)))


def held(cluster: Cluster, row: Row) -> None:
    """domctl says why it does nothing, and does nothing."""
    until(lambda: reason(shown(cluster)) in row.held, SETTLE_S, lambda: f"{shown(cluster).get('status')}")
    calls = cluster.mutations()
    time.sleep(5)
    assert reason(shown(cluster)) in row.held, f"{shown(cluster).get('status')}"
    assert cluster.mutations() == calls, "it was to wait"


def settled(cluster: Cluster, row: Row, source: LabHost, target: LabHost) -> None:
    ends = {"source": (source,), "target": (target,), "either": (source, target)}[row.ends_on]

    names = {name for name, host in cluster.nodes.items() if host in ends}

    def is_home() -> bool:
        return shown(cluster).get("status", {}).get("node") in names

    def well() -> bool:
        return is_home() and is_ready(shown(cluster)) and phase(cluster) in ENDED

    if row.source is unreachable:  # what it shows when it answers is still a matter of the migration
        until(is_home, SETTLE_S, lambda: f"{shown(cluster).get('status')}")
        assert phase(cluster) not in ENDED
        source.heal()
    until(well, SETTLE_S, lambda: f"{shown(cluster).get('status')}")
    until(lambda: len(cluster.copies(NAME)) == 1, 30, lambda: cluster.story(NAME))
    assert cluster.verify(NAME, state=row.state).host in ends, cluster.story(NAME)


def shown(cluster: Cluster) -> Object:
    return cluster.domain(NAME)


def phase(cluster: Cluster) -> str:
    migration = cluster.controller.api().get(f"{MIGRATIONS}/m")
    return str(migration.get("status", {}).get("phase", "Pending"))


def _state(host: LabHost) -> str:
    return host.virsh("domstate", NAME).strip()


def _run(host: LabHost) -> str:
    """libvirt's id of the run there, or nothing."""
    try:
        found = re.search(r"^Id: +(\S+)", host.virsh("dominfo", NAME), re.MULTILINE)
    except CommandError:
        return ""
    return found[1] if found else ""
