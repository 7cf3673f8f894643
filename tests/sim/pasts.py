"""Drills about an etcd that was set back, and about whoever cannot know it.

What a restored store has forgotten is known to replicas that saw more of it, and to hosts. These drills take
one after the other away. They are kept apart from `drills`, where what meets a command on its way stands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from controller import keys
from controller.api.resources import DOMAINS
from drivers.memory import Backup
from drivers.store import ChangeSet, Compare, KeyValue, TxnResult, Write
from tests.sim.cluster import Cluster, Replica
from tests.sim.converged import is_met, says_ready

if TYPE_CHECKING:
    from tests.sim.drills import Drills

SPEC = {"type": "qemu", "memory": "32Mi"}
PLACED_S = 8.0
CLIENT = "drill"
ON_ITS_WAY_S = 0.0001  # less than any message takes
BEAT_WITHIN_S = 12.0
LAPSED_WITHIN_S = 40.0  # a lease of 15 s, and the next leader
ELECTED_WITHIN_S = 8.0  # before the term of who cannot hear runs out
ANSWERED_S = 0.1  # by then its answer has come


async def old_memory(drills: Drills, rng: Random) -> None:
    """Who died before a backup was taken leads after it was restored, and acknowledged. To him the store is
    as he knew it; that a domain of it runs is known to its host alone, which does not answer."""
    cluster = drills.cluster
    leader = cluster.leader
    if leader is None or not cluster.etcd.running or drills.hands.guard.moves:
        return
    old = next((r for name, r in sorted(cluster.replicas.items()) if r is not leader and r.lives), None)
    if old is None:
        return
    old.kill()
    past = cluster.pasts
    made = await _backed_up_when_new(drills, f"o{rng.randrange(1000)}")
    if made is None or cluster.pasts != past or drills.hands.guard.moves:
        await _again(cluster, old)
        return
    name, backup = made
    active = cluster.active_on(cluster.objects("domains")[name]["metadata"]["uid"])
    cluster.trace.say(
        "DRILL", f"etcd is set back to when {name} was new, now on {active}; {old.name} is away"
    )
    _set_back(cluster, backup)
    await cluster.sleep(rng.uniform(4.0, 12.0))
    await drills.api.acknowledge()
    others = [r for r in cluster.replicas.values() if r is not old and r.lives]
    for replica in others:
        replica.kill()
    for host in active:
        cluster.network.isolate(host)
    cluster.trace.say("DRILL", f"it was acknowledged; {old.name} comes alone, and {active} does not answer")
    await _again(cluster, old)
    await cluster.sleep(rng.uniform(80.0, 110.0))
    for host in active:
        cluster.network.rejoin(host)
    for replica in others:
        await _again(cluster, replica)


async def between_beats(drills: Drills, rng: Random) -> None:
    """etcd is set back just after a heartbeat, to some seconds before, while a wish that the backup does not
    know is on its way to the leader. His lease stands in the backup, too: he goes on."""
    cluster, leader, found = drills.cluster, drills.cluster.leader, await drills.some_uuid(rng)
    if leader is None or found is None or drills.hands.guard.moves:
        return
    uuid, name = found[0], cluster.trace.named(found[0])
    body = cluster.objects("domains").get(name)
    if body is None or not (is_met(cluster, body) and says_ready(body)):
        return
    backup, past, standing = cluster.etcd.snapshot(), cluster.pasts, _standing(cluster, uuid)
    if not await _heartbeat(cluster, leader.name):
        return
    if cluster.pasts != past or _standing(cluster, uuid) != standing or drills.hands.guard.moves:
        return
    if set(cluster.objects("nodes")) != cluster.nodes_in(backup):
        return

    def wished(client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult) -> None:
        if client == CLIENT and result.ok and writes and cluster.pasts == past:
            cluster.trace.say("DRILL", f"etcd is set back to when nobody wanted {name} to be off")
            asyncio.get_running_loop().call_later(ON_ITS_WAY_S, _set_back, cluster, backup)

    cluster.etcd.listeners.append(wished)
    await drills.api.edit(DOMAINS, name, lambda body: body["spec"].update(state="shutoff"), "shutoff")
    cluster.etcd.listeners.remove(wished)


async def twice(drills: Drills, rng: Random) -> None:
    """etcd is set back and acknowledged, and set back once more, to a time after the word, when a domain had
    no place yet. Who led is gone, and the others, who heard no word, find the first one in the backup."""
    cluster, known = drills.cluster, set(drills.cluster.objects("nodes"))
    backup, past = cluster.etcd.snapshot(), cluster.pasts
    await cluster.sleep(rng.uniform(10.0, 20.0))

    def goes_on(pasts: int) -> bool:
        calm = cluster.leader is not None and cluster.etcd.running and not drills.hands.guard.moves
        return calm and cluster.pasts == pasts and set(cluster.objects("nodes")) == known

    if not goes_on(past) or cluster.nodes_in(backup) != known:
        return
    cluster.trace.say("DRILL", "etcd is set back")
    _set_back(cluster, backup)
    await cluster.sleep(rng.uniform(25.0, 35.0))  # a leader is there again
    await drills.api.acknowledge()
    await cluster.sleep(rng.uniform(5.0, 10.0))
    made = await _backed_up_when_new(drills, f"t{rng.randrange(1000)}")
    leader = cluster.leader
    if made is None or leader is None or not goes_on(past + 1):
        return
    others = [r for r in cluster.replicas.values() if r is not leader]
    if not any(r.runs and r.ways.good and cluster.network.up(r.name, "etcd") for r in others):
        return  # where nobody is left who saw the time that is lost, README promises nothing
    name, backup = made
    active = cluster.active_on(cluster.objects("domains")[name]["metadata"]["uid"])
    cluster.trace.say(
        "DRILL", f"etcd is set back again, to when {name} was new, now on {active}; {leader.name} is gone"
    )
    for host in active:
        cluster.network.isolate(host)
    _set_back(cluster, backup)
    leader.kill()
    await cluster.sleep(rng.uniform(60.0, 90.0))
    for host in active:
        cluster.network.rejoin(host)
    await _again(cluster, leader)


async def word_forgotten(drills: Drills, rng: Random) -> None:
    """etcd is set back, and acknowledged; and then to the same backup again, which has not that word. Who
    leads still remembers it, at a revision that this store does not have yet."""
    cluster, past = drills.cluster, drills.cluster.pasts
    reasons = {(body.get("status") or {}).get("reason") for body in cluster.objects("domains").values()}
    if "StoreNotTrusted" in reasons or cluster.leader is None:
        return
    backup, known = cluster.etcd.snapshot(), set(cluster.objects("nodes"))
    await cluster.sleep(rng.uniform(2.0, 6.0))
    calm = cluster.leader is not None and cluster.etcd.running and cluster.pasts == past
    if not calm or drills.hands.guard.moves or cluster.nodes_in(backup) != known:
        return
    cluster.trace.say("DRILL", "etcd is set back")
    _set_back(cluster, backup)
    await cluster.sleep(rng.uniform(6.0, 12.0))
    await drills.api.acknowledge()
    await cluster.sleep(rng.uniform(1.0, 8.0))
    if cluster.leader is None or drills.hands.guard.moves or cluster.pasts != past + 1:
        return
    cluster.trace.say("DRILL", "etcd is set back to the same backup again")
    _set_back(cluster, backup)


async def elected_again(drills: Drills, rng: Random) -> None:
    """Who leads is gone, another is elected, and etcd is set back to just before that. Whoever came back
    meanwhile is elected there, by a key of the same create revision; then the other one is heard of again,
    whose lease stood in the backup."""
    cluster, leader, known = drills.cluster, drills.cluster.leader, set(drills.cluster.objects("nodes"))
    if leader is None or not cluster.etcd.running or drills.hands.guard.moves:
        return
    leader.kill()
    past, backup = cluster.pasts, await _just_before_an_election(cluster)
    second = cluster.leader
    await _again(cluster, leader)
    await cluster.sleep(rng.uniform(1.0, 3.0))
    calm = backup is not None and cluster.etcd.running and cluster.pasts == past
    if backup is None or second is None or not calm or drills.hands.guard.moves:
        return
    if cluster.leader is not second or cluster.nodes_in(backup) != known:
        return
    cluster.network.cut(second.name, "etcd")
    cluster.trace.say("DRILL", f"etcd is set back to just before {second.name} was elected, who cannot hear")
    _set_back(cluster, backup)
    with suppress(TimeoutError):
        async with asyncio.timeout(ELECTED_WITHIN_S):
            while cluster.etcd.peek(keys.LEADER) is None:
                await cluster.sleep(ANSWERED_S)
    cluster.network.heal(second.name, "etcd")


async def _just_before_an_election(cluster: Cluster) -> Backup | None:
    """Wait for one; etcd as it was one revision before, the new leader's lease included."""
    latest: deque[Backup] = deque([cluster.etcd.snapshot()], maxlen=2)
    elected = asyncio.Event()

    def changed(change_set: ChangeSet) -> None:
        latest.append(cluster.etcd.snapshot())
        if any(change.kv.key == keys.LEADER and change.kind == "put" for change in change_set.changes):
            elected.set()
            cluster.etcd.on_change.remove(changed)

    cluster.etcd.on_change.append(changed)
    try:
        async with asyncio.timeout(LAPSED_WITHIN_S):
            await elected.wait()
    except TimeoutError:
        cluster.etcd.on_change.remove(changed)
        return None
    before, after = latest
    return replace(before, leases=after.leases)


def _standing(cluster: Cluster, uuid: str) -> tuple[KeyValue | None, KeyValue | None]:
    """What a leader's transaction compares: whose term it is, and the domain's assignment."""
    return cluster.etcd.peek(keys.LEADER), cluster.etcd.peek(keys.assignment(uuid))


async def _heartbeat(cluster: Cluster, leader: str) -> bool:
    """Wait for its next."""
    beat = asyncio.Event()

    def heard(client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult) -> None:
        if client == leader and result.ok and any(write.key == keys.HEARTBEAT for write in writes):
            beat.set()

    cluster.etcd.listeners.append(heard)
    try:
        async with asyncio.timeout(BEAT_WITHIN_S):
            await beat.wait()
        await cluster.sleep(ANSWERED_S)
    except TimeoutError:
        return False
    finally:
        cluster.etcd.listeners.remove(heard)
    return True


async def _backed_up_when_new(drills: Drills, name: str) -> tuple[str, Backup] | None:
    """A domain that runs by now, and a backup of when it had no place yet. None: it cannot be restored, for
    it knows other nodes (whoever restores a backup registers what came since), or the domain is gone."""
    cluster = drills.cluster
    backups: list[Backup] = []

    def remember(
        client: str, compares: Sequence[Compare], writes: Sequence[Write], result: TxnResult
    ) -> None:
        if client == CLIENT and result.ok and writes and not backups:
            backups.append(cluster.etcd.snapshot())

    cluster.etcd.listeners.append(remember)
    created = await drills.api.create(DOMAINS, name, SPEC)
    cluster.etcd.listeners.remove(remember)
    await cluster.sleep(PLACED_S)
    if not created or name not in cluster.objects("domains") or cluster.etcd.peek(keys.CLUSTER) is None:
        return None
    if set(cluster.objects("nodes")) != cluster.nodes_in(backups[0]):
        return None
    return name, backups[0]


def _set_back(cluster: Cluster, backup: Backup) -> None:
    cluster.pasts += 1
    cluster.etcd.restore(backup)
    cluster.notes.restored()


async def _again(cluster: Cluster, replica: Replica) -> None:
    await cluster.sleep(0.0)
    if not replica.lives:
        replica.start()
