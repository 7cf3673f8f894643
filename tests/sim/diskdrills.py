"""Drills of disks: what an administrator or a backup tool does with them while domctl looks elsewhere.

A guest goes on in another image than its spec says, and libvirt tells nobody of it; then it ends, soon or
late, noticed before or not. What it wrote since is there alone. Or a stranger's disk stands where a guest's
own is to be copied to.
"""

from __future__ import annotations

from random import Random

from controller.api.resources import DOMAINS, MIGRATIONS
from tests.sim import definition
from tests.sim.converged import is_met, says_ready
from tests.sim.drills import Drill, Drills

READY_WITHIN_S = 60
ENDS_WITHIN_S = 90.0
COPIED_WITHIN_S = 25.0


async def on_a_snapshot(drills: Drills, rng: Random) -> None:
    """An external snapshot of a running domain, and its end before anybody committed that."""
    cluster, name = drills.cluster, f"s{rng.randrange(1000)}"
    image = f"/srv/{name}.img"
    disk = {"name": "root", "source": {"file": image, "shared": True}}
    if not await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", "disks": [disk]}):
        return
    home = await _home(drills, name)
    if not home:
        return
    uuid = cluster.objects("domains")[name]["metadata"]["uid"]
    await drills.hands.on(home).snapshot(uuid, image, f"/srv/{name}.s1")
    drills.say(f"{name} goes on in a snapshot on {home}")
    await cluster.sleep(rng.uniform(0.0, ENDS_WITHIN_S))
    if uuid in cluster.hosts[home].domains:
        await drills.hands.destroy(home, uuid)


async def copied_over(drills: Drills, rng: Random) -> None:
    """A domain is to move with its disk to where a stranger, defined and off, has one of the same path."""
    cluster, name = drills.cluster, f"w{rng.randrange(1000)}"
    image = f"/srv/own/{name}.img"
    disk = {"name": "root", "source": {"file": image}}
    if not await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", "disks": [disk]}):
        return
    home = await _home(drills, name)
    others = [n for n in cluster.objects("nodes") if n in cluster.hosts and n != home] if home else []
    if not others:
        return
    target, stranger = rng.choice(sorted(others)), f"ffffffff-0000-4000-8000-{rng.getrandbits(48):012x}"
    holds = f"<devices><disk><source file='{image}'/><target dev='vda'/></disk></devices>"
    if await drills.hands.on(target).define(definition.plain(stranger, f"has-{name}", devices=holds)):
        return
    if await _is_read(drills, target):
        move = {"domain": name, "node": target, "copyStorage": True}
        await drills.api.create(MIGRATIONS, f"m-{name}", move)
        await cluster.sleep(rng.uniform(5.0, COPIED_WITHIN_S))
    await drills.hands.undefine(target, stranger)


async def _is_read(drills: Drills, node: str) -> bool:
    """Whether who leads lists this host soon."""
    cluster, since = drills.cluster, drills.cluster.clock()
    for _ in range(READY_WITHIN_S):
        await cluster.sleep(1.0)
        leader = cluster.leader
        if leader is not None and drills.hands.read_at(leader.name, node) > since:
            return True
    return False


async def _home(drills: Drills, name: str) -> str:
    """Where it runs, once it does so and says so; "" if that does not come."""
    cluster = drills.cluster
    for _ in range(READY_WITHIN_S):
        await cluster.sleep(1.0)
        body = cluster.objects("domains").get(name) if cluster.etcd.running else None
        if body is not None and says_ready(body) and is_met(cluster, body):
            (home,) = cluster.active_on(body["metadata"]["uid"])
            return home
    return ""


DISK_DRILLS: dict[str, Drill] = {"on_a_snapshot": on_a_snapshot, "copied_over": copied_over}
"""name: how it is made."""
