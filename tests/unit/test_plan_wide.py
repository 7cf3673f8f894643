"""Clusters of 2,500 hosts: what a plan costs there, and that its passes leave the event loop to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from controller.cache import DOMAIN_KEY, Cache, Setting
from controller.limits import Timing
from controller.metrics import Metrics
from controller.plan import plan
from controller.plan.snapshot import Policy, Snapshot, Term
from controller.plan.types import Reason, Verdict
from controller.reconciler import Parts, Reconciler
from controller.turns import Turns
from controller.workqueue import Backoff, WorkQueue
from controller.world import World
from tests.unit.plancase import CLUSTER, NOW, Cluster

HOSTS, RACK, EACH = 2500, 30, 10
STANDSTILL_S = 0.05


def uuid_of(number: int) -> str:
    return f"d0d0d0d0-0000-4000-8000-{number:012d}"


@cache
def hosts() -> Cluster:
    """They are listed every 5 s, one after another within a second."""
    cluster = Cluster()
    for number in range(HOSTS):
        sent = [NOW - 1.5 - 5.0 * back + number / HOSTS for back in range(15, -1, -1)]
        cluster.node(f"n{number}").answering(f"n{number}", tuple((at, at + 0.3) for at in sent))
    return cluster


def wide() -> Cluster:
    return Cluster(nodes=dict(hosts().nodes), views=dict(hosts().views))


def rack_that_lost_power(sign_at: float) -> tuple[Cluster, list[str]]:
    """Its hosts are back, and each of their domains is off without saying why. `sign_at`: when the first of
    them was seen so, and the others within a second."""
    cluster = wide()
    uuids = [uuid_of(number) for number in range(RACK * EACH)]
    for number, uuid in enumerate(uuids):
        node = f"n{number // EACH}"
        cluster.domain(uuid, f"d{number}").assigned(node, uuid, name=f"d{number}", libvirt_name=f"d{number}")
        cluster.seen(node, "shutoff", "unknown", uuid, xml="<domain/>")
    return cluster.given(signs={u: sign_at + n / len(uuids) for n, u in enumerate(uuids)}), uuids


def planned(cluster: Cluster, uuids: Iterable[str]) -> tuple[dict[str, Verdict], float]:
    """The verdicts, and the seconds of computing that they took."""
    snap = cluster.snapshot()
    began = time.thread_time()
    verdicts = dict(plan(snap, uuids))
    return verdicts, time.thread_time() - began


def test_a_rack_that_lost_power_waits_for_two_rounds_of_all_hosts_at_a_bearable_cost() -> None:
    for sign_at in (NOW - 1.0, NOW - 6.0):  # no round is over; one is, and the other is not
        verdicts, spent_s = planned(*rack_that_lost_power(sign_at))
        reasons = {v.deferred.reason if v.deferred else None for v in verdicts.values()}
        assert reasons == {Reason.READING_ALL_NODES}
        assert spent_s < 2.0, f"{len(verdicts)} domains on {HOSTS} hosts: {spent_s:.1f} s"


def test_a_rack_that_was_read_as_absent_everywhere_starts_at_a_bearable_cost() -> None:
    verdicts, spent_s = planned(*rack_that_lost_power(NOW - 60.0))
    started = [v.action for v in verdicts.values() if v.action is not None]
    assert len(started) == RACK * EACH
    assert all(len(action.why) < 300 and "and 2492 more" in action.why for action in started)
    assert spent_s < 4.0, f"{len(verdicts)} domains on {HOSTS} hosts: {spent_s:.1f} s"


@dataclass
class Given:
    """A cache that was filled by hand."""

    cluster: Cluster
    cache: Cache
    snapshots: int = 0

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return self.cluster.snapshot()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


@dataclass
class Heard:
    """Takes the place of everything that is told what was planned."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    looks: list[set[str]] = field(default_factory=list)

    def want(self, uuid: str, verdict: Verdict) -> None:
        self.verdicts[uuid] = verdict

    def look(self, nodes: Iterable[str], _uuid: str = "") -> None:
        self.looks.append(set(nodes))


@dataclass
class Scene:
    cluster: Cluster
    cpu: Any = time.thread_time
    heard: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        now = asyncio.get_running_loop().time
        setting = Setting(CLUSTER, Term(0.0, True), Timing(), Policy(), now, str)
        self.queue = WorkQueue(now, Metrics(now, "0").queue("domains"), Backoff())
        self.given = Given(self.cluster, Cache(setting, self.queue.add))
        parts = Parts(
            cast(Any, self.given), self.queue, cast(Any, self.heard), cast(Any, None), cast(Any, None),
            cast(Any, None), cast(Any, self.heard), Metrics(now, "0"), World(now, str, str, self.cpu),
        )  # fmt: skip
        self.reconciler = Reconciler(parts, lambda _: None, Turns(1, 1))


async def longest_standstill_s(work: asyncio.Task[Any]) -> float:
    """The most that is computed between two turns of the loop, until `work` is done."""
    longest, before = 0.0, time.thread_time()
    while not work.done():
        await asyncio.sleep(0)
        after = time.thread_time()
        longest, before = max(longest, after - before), after
    return longest


async def test_a_pass_over_a_rack_that_lost_power_gives_the_loop_back_every_few_milliseconds() -> None:
    cluster, uuids = rack_that_lost_power(NOW - 6.0)
    scene = Scene(cluster)
    for uuid in uuids:
        scene.queue.add(DOMAIN_KEY + uuid)
    longest_s = await longest_standstill_s(asyncio.create_task(scene.reconciler.one_pass()))
    assert set(scene.heard.verdicts) == set(uuids)
    assert scene.given.snapshots > 1, "what comes later in a pass is judged by what is known by then"
    assert longest_s < STANDSTILL_S, f"the loop stood still for {longest_s * 1000:.0f} ms"


async def test_a_pass_whose_term_ended_between_two_slices_begins_nothing_more() -> None:
    cluster = Cluster().node("a")
    uuids = [uuid_of(number) for number in range(3)]
    for number, uuid in enumerate(uuids):
        cluster.domain(uuid, f"d{number}", memory="64Gi")
    steps = iter(range(100))
    scene = Scene(cluster, cpu=lambda: next(steps))
    for uuid in uuids:
        scene.queue.add(DOMAIN_KEY + uuid)
    pass_ = asyncio.create_task(scene.reconciler.one_pass())
    await asyncio.sleep(0)
    scene.queue.shut_down()
    await pass_
    assert list(scene.heard.verdicts) == uuids[:1]
