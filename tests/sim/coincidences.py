"""Drills of what comes together rarely: each makes possible what the protocol speaks of in one sentence.

Like those of `drills`, but for worlds in which several things must fit: a name that leads to another machine,
a replica without memory before a store that was set back, a move behind a cut, a second copy started by hand.
An unmutated controller stands them all; what it must not do is said in the checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

from controller import keys
from controller.api.resources import DOMAINS, MIGRATIONS, NODES
from drivers.store import Compare, TxnResult, Write
from tests.sim.cluster import Replica
from tests.sim.converged import is_met, says_ready
from tests.sim.domain import Change
from tests.sim.drills import Drill, Drills, Moment
from tests.sim.host import SimHost
from tests.sim.migration import Manner
from tests.sim.people import Body
from tests.sim.workload import FIRST_HOSTS, SPARE_HOST

OFF_WITHIN_S = 25.0
ENDS = 9  # destroys, in one run of a drill
MOVES = 7  # migrations, in one
DEFINED_LATE_S = (1.0, 1.5)
DEFINED_LONG_AFTER_S = (8.0, 12.0)
BROKEN_AFTER_S = 30.0  # keep-alive has given the connections up by then


async def another_machine(drills: Drills, rng: Random) -> None:
    """A Node's URI leads to another machine for a while, which has nothing of what runs on the first."""
    cluster, found = drills.cluster, await drills.some_uuid(rng)
    if found is None or drills.hands.guard.moves or SPARE_HOST in cluster.objects("nodes"):
        return
    node = found[1].name

    def leads_to(host: str) -> Callable[[Body], object]:
        return lambda body: body["spec"].update(uri=f"qemu+tcp://{host}/system")

    if not await drills.api.edit(NODES, node, leads_to(SPARE_HOST), f"leads to {SPARE_HOST}"):
        return
    await cluster.sleep(rng.uniform(20.0, 40.0))
    while node in cluster.objects("nodes") and not await drills.api.edit(
        NODES, node, leads_to(node), "leads where it should"
    ):
        await cluster.sleep(1.0)


async def moved_behind_a_cut(drills: Drills, rng: Random, *, is_silent: bool = False) -> None:
    """What is off, for all that domctl knows, is started and moved by hand behind a cut; of both ends the one
    that it left answers first. Only where moves by hand are declared. Perhaps its definition stays where it
    was, or a user sends it to a third node meanwhile. Somebody had said of the target, for nothing and before
    all this, that the domain is not there: that word must be used up by now, though its node was silent since
    (`is_silent`)."""
    cluster, found = drills.cluster, await drills.some_uuid(rng)
    if found is None or not cluster.policy.hand_migrations or drills.hands.busy:
        return
    (uuid, home), name = found, cluster.trace.named(found[0])
    drills.hands.busy[name] = None
    try:
        await _behind_a_cut(drills, rng, uuid, home, is_silent=is_silent)
    finally:
        del drills.hands.busy[name]


async def _behind_a_cut(drills: Drills, rng: Random, uuid: str, home: SimHost, *, is_silent: bool) -> None:
    cluster, name = drills.cluster, drills.cluster.trace.named(uuid)
    others = {n for n in cluster.objects("nodes") if n in cluster.hosts} - {home.name}
    target = cluster.hosts[rng.choice(sorted(others))]
    if is_silent:
        for replica in cluster.replicas:
            cluster.network.cut(replica, target.name)
        await cluster.sleep(BROKEN_AFTER_S)
    await drills.api.resolve(name, not_on=(target.name,))
    await drills.api.edit(DOMAINS, name, _state("shutoff"), "shutoff")
    await cluster.sleep(OFF_WITHIN_S)
    body, domain = cluster.objects("domains").get(name), home.domains.get(uuid)
    dead = cluster.etcd.peek(keys.CONFIRMED_DEAD + target.name)  # whoever starts something there lied
    if body is None or not (says_ready(body) and is_met(cluster, body)) or domain is None or dead:
        for replica in cluster.replicas if is_silent else ():
            cluster.network.heal(replica, target.name)
        return
    drills.say(f"nobody hears of {home.name} and {target.name} while {name} is moved")
    for replica in cluster.replicas:
        cluster.network.cut(replica, home.name)
        cluster.network.cut(replica, target.name)
    await cluster.sleep(BROKEN_AFTER_S)
    virsh = drills.hands.on(home.name)
    if await virsh.start(uuid) is None:
        await virsh.migrate(uuid, target, Manner(undefine_source=rng.random() < 0.5))
    wish: Body = {"state": "running"}
    third = sorted(others - {target.name})
    if third and rng.random() < 0.5:
        wish["placement"] = {"node": rng.choice(third)}
    await drills.api.edit(DOMAINS, name, lambda body: body["spec"].update(wish), f"{wish}")
    for replica in cluster.replicas:
        cluster.network.heal(replica, home.name)
    await cluster.sleep(rng.uniform(30.0, 50.0))
    for replica in cluster.replicas:
        cluster.network.heal(replica, target.name)


async def moved_from_sight(drills: Drills, rng: Random) -> None:
    """Somebody moves a domain by hand to a host that no controller reaches. Who leads hears its home tell
    that it left; then another leads, who finds its home without it."""
    cluster, ends, led_by = drills.cluster, await drills.ends_of_a_move(rng), _reign(drills)
    if ends is None or not led_by or cluster.policy.hand_migrations:  # declared, silence alone holds it
        return
    uuid, source, target = ends
    body = cluster.objects("domains").get(cluster.trace.named(uuid), {})
    if not says_ready(body):
        return
    async with drills.moving():
        drills.say(f"nobody hears of {target.name} while {uuid} is moved there from {source.name}")
        for replica in cluster.replicas:
            cluster.network.cut(replica, target.name)
        await cluster.sleep(BROKEN_AFTER_S)
        answer = None
        if _reign(drills) == led_by and cluster.etcd.running:
            before, source.temper = source.temper, replace(source.temper, event_loss=0.0, event_late=0.0)
            answer = await drills.hands.on(source.name).migrate(uuid, target, Manner(undefine_source=True))
            await cluster.sleep(rng.uniform(15.0, 25.0))
            source.temper = before
    leader = cluster.leader
    if answer is None and leader is not None and _reign(drills) == led_by:  # else nobody saw it go
        leader.kill()
        await drills.again(leader, 1.0)
        await cluster.sleep(rng.uniform(80.0, 100.0))
    for replica in cluster.replicas:
        cluster.network.heal(replica, target.name)


def _reign(drills: Drills) -> tuple[str, int] | tuple[()]:
    """Which process leads, if etcd can be asked."""
    leader = drills.cluster.leader if drills.cluster.etcd.running else None
    return () if leader is None else (leader.name, leader.starts)


async def doubled(drills: Drills, rng: Random) -> None:
    """Somebody starts a second copy by hand, and no event tells of it before it runs. What follows for this
    domain is his (I1), but that domctl ends neither copy unasked."""
    cluster, found = drills.cluster, await drills.some_uuid(rng)
    if found is None or drills.hands.guard.moves:
        return
    uuid, home = found
    others = [n for n in cluster.objects("nodes") if n in cluster.hosts and n != home.name]
    other = cluster.hosts[rng.choice(sorted(others))]
    if other.daemon != "up" or uuid in other.domains:
        return
    before, other.temper.event_loss = other.temper.event_loss, 1.0
    cluster.doubled.add(uuid)
    await drills.hands.on(home.name).copy_definition(uuid, drills.hands.on(other.name))
    drills.say(f"{uuid} is started on {other.name}, too")
    await drills.hands.on(other.name).start(uuid)
    other.temper.event_loss = before


async def own_disk(drills: Drills, rng: Random) -> None:
    """A domain with a disk on its host's own storage is to be elsewhere, and then runs on where it is."""
    cluster, name = drills.cluster, f"o{rng.randrange(1000)}"
    disk = {"name": "root", "source": {"file": "/srv/own/root.img"}}
    if not await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", "disks": [disk]}):
        return
    await cluster.sleep(15.0)
    body = cluster.objects("domains").get(name) if cluster.etcd.running else None
    at = [] if body is None else cluster.active_on(body["metadata"]["uid"])
    others = [n for n in cluster.objects("nodes") if n in cluster.hosts and n not in at]
    if len(at) != 1 or not others:
        return
    away = {"state": "shutoff", "placement": {"node": rng.choice(sorted(others))}}
    await drills.api.edit(DOMAINS, name, lambda body: body["spec"].update(away), f"{away}")
    await cluster.sleep(12.0)
    await drills.api.edit(DOMAINS, name, _state("running"), "running")
    await cluster.sleep(12.0)
    back = {"node": at[0]}
    await drills.api.edit(DOMAINS, name, lambda body: body["spec"].update(placement=back), f"to {back}")


async def all_at_once(drills: Drills, rng: Random) -> None:
    """More domains are to be off at once than may be destroyed in a minute."""
    cluster, wish = drills.cluster, {"type": "qemu", "memory": "32Mi", "shutdown": [{"method": "destroy"}]}
    names = [f"a{number}" for number in range(ENDS)]
    for name in names:
        if not cluster.etcd.running or name not in cluster.objects("domains"):
            await drills.api.create(DOMAINS, name, wish)
    await cluster.sleep(20.0)
    for name in names:
        await drills.api.edit(DOMAINS, name, _state("shutoff"), "shutoff")
    await cluster.sleep(90.0)
    for name in () if cluster.healed else names:
        await drills.api.edit(DOMAINS, name, _state("running"), "running")


async def deleted_unheard(drills: Drills, rng: Random) -> None:
    """A domain is moved by hand, no event tells of it, and it is deleted when the host that it left was read
    again; the other one may have to be read for that."""
    cluster, ends = drills.cluster, await drills.ends_of_a_move(rng)
    if ends is None:
        return
    uuid, source, target = ends
    for host in (source, target):
        host.temper.event_loss, host.temper.copy_s = 1.0, (0.2, 1.0)
    async with drills.moving():
        drills.say(f"{uuid} is moved from {source.name} to {target.name}")
        if await drills.hands.on(source.name).migrate(uuid, target) is None:
            source.kill_daemon()
            source.start_daemon()
            await cluster.sleep(rng.uniform(0.0, 6.0))
            await drills.api.delete(DOMAINS, cluster.trace.named(uuid))
            await cluster.sleep(30.0)
    for host in (source, target):
        host.temper.event_loss, host.temper.copy_s = 0.02, (5.0, 25.0)


async def all_to_one(drills: Drills, rng: Random) -> None:
    """More domains are to go to one host than may move there at once."""
    cluster, names = drills.cluster, [f"b{number}" for number in range(MOVES)]
    if rng.random() < 0.5:
        return  # often enough, and so many domains make a run slow
    for name in names:
        if not cluster.etcd.running or name not in cluster.objects("domains"):
            await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi"})
    await cluster.sleep(20.0)
    target, number = rng.choice(FIRST_HOSTS), rng.randrange(1000)
    for name in names:
        await drills.api.create(MIGRATIONS, f"{name}-{number}", {"domain": name, "node": target})
    await cluster.sleep(60.0)


async def overtaken(drills: Drills, rng: Random) -> None:
    """A list is taken before a domain is defined, and comes only after the answer to its start: the last that
    is heard of this host for a while, for no event tells of the start, and libvirtd stops as soon as the list
    has gone. Somebody sends the domain elsewhere just then, or deletes it. The leader's own record of the
    start is slow, so that nothing was read of the domain in between."""
    cluster, hands = drills.cluster, drills.hands
    leader = cluster.leader
    nodes = sorted(n for n in cluster.objects("nodes") if n in cluster.hosts) if cluster.etcd.running else []
    if leader is None or len(nodes) < 2 or hands.guard.moves:
        return
    host = cluster.hosts[rng.choice(nodes)]
    virsh, theirs = hands.on(host.name), f"ffffffff-0000-4000-8000-{rng.getrandbits(48):012x}"
    if host.daemon != "up" or await virsh.foreign(theirs, f"theirs-{theirs[-6:]}") is not None:
        return
    name, wish = f"l{rng.randrange(1000)}", {"placement": {"node": host.name}}
    before, host.temper.define_s = host.temper.define_s, DEFINED_LATE_S
    creating = asyncio.create_task(
        drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", **wish})
    )
    met = await drills.moment("intent start", name=name)
    await creating
    if met is not None and met[2] is host:
        away = rng.choice([other for other in nodes if other != host.name])
        await _overtake(drills, met, theirs, away if rng.random() < 0.5 else "")
    host.temper.define_s = before
    await cluster.sleep(rng.uniform(15.0, 25.0))
    host.thaw()
    await virsh.remove(theirs)
    await cluster.sleep(20.0)
    if not cluster.healed:
        await drills.api.delete(DOMAINS, name)


async def _overtake(drills: Drills, met: tuple[Moment, Replica, SimHost], theirs: str, away: str) -> None:
    """`theirs`: a domain there that is none of ours. `away`: where ours is to go, "" if it is deleted."""
    cluster, (moment, leader, host) = drills.cluster, met
    uuid, name = moment.uuid, cluster.trace.named(moment.uuid)
    started = asyncio.Event()

    def changed(change: Change) -> None:
        if change.uuid == uuid and change.what == "started":
            started.set()

    host.listeners.append(changed)
    host.desk.keep_lists()
    await drills.hands.on(host.name).set_mark(
        theirs, None, live=False, config=True
    )  # it is heard, and listed
    loss, host.temper.event_loss = host.temper.event_loss, 1.0
    with suppress(TimeoutError):
        async with asyncio.timeout(10.0):
            await started.wait()
    host.listeners.remove(changed)
    leader.ways.delay, leader.ways.delay_s = 1.0, 2.0
    await cluster.sleep(0.15)
    if host.desk.let_lists_go() and started.is_set():
        drills.say(f"a list of {host.name} comes, of before {name} was there")
        await cluster.sleep(0.1)
        host.freeze()
        leader.ways.delay, leader.ways.delay_s = 0.0, 12.0
        if away:
            await drills.api.edit(DOMAINS, name, _placed_on(away), f"to {away}")
        else:
            await drills.api.delete(DOMAINS, name)
    leader.ways.delay, leader.ways.delay_s = 0.0, 12.0
    host.temper.event_loss = loss


async def defined_late(drills: Drills, rng: Random) -> None:
    """Somebody undefines what runs. Its host is frozen in the moment in which it is sent the definition
    again, and carries that out long after it was read anew; the domain is to move away meanwhile (seed
    102947)."""
    cluster, found = drills.cluster, await drills.some_uuid(rng)
    if found is None or drills.hands.guard.moves:
        return
    name, home = cluster.trace.named(found[0]), found[1]
    before, home.temper.define_s = home.temper.define_s, DEFINED_LONG_AFTER_S
    meeting = asyncio.create_task(drills.moment("define", name=name))
    await drills.hands.on(home.name).undefine(found[0])
    met = await meeting
    if met is not None and met[2] is home and home.daemon == "up":
        home.freeze()
        await drills.api.create(MIGRATIONS, f"late-{rng.randrange(1000)}", {"domain": name})
        await cluster.sleep(BROKEN_AFTER_S)
        home.thaw()
    await cluster.sleep(40.0)
    home.temper.define_s = before


async def look_unheard(drills: Drills, rng: Random) -> None:
    """A domain is to be off while its definition is on its way, of which a late watch says nothing; the reply
    to the second look, which would, is lost (seed 804901)."""
    cluster, name = drills.cluster, f"u{rng.randrange(1000)}"
    if not cluster.etcd.running or drills.hands.guard.moves:
        return
    meeting = asyncio.create_task(drills.moment("intent start", name=name))
    await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi"})
    met = await meeting
    if met is None:
        return
    moment, leader, host = met

    def looked(client: str, compares: Sequence[Compare], writes: Sequence[Write], _: TxnResult) -> None:
        key = keys.assignment(moment.uuid)
        if client == leader.name and not writes and any(compare.key == key for compare in compares):
            leader.ways.lose_reply = 0.0

    before, host.temper.define_s = host.temper.define_s, DEFINED_LATE_S
    leader.ways.lag_s = 8.0
    await drills.api.edit(DOMAINS, name, _state("shutoff"), "shutoff")
    await cluster.sleep(1.0)
    cluster.etcd.listeners.append(looked)
    leader.ways.lose_reply = 1.0
    await cluster.sleep(8.0)
    cluster.etcd.listeners.remove(looked)
    leader.ways.lose_reply = leader.ways.lag_s = 0.0
    host.temper.define_s = before


async def left_armed(drills: Drills, rng: Random) -> None:
    """A domain that starts with its host is moved by hand, and its definition stays behind. domctl sees where
    it runs; then the host that it left boots (seed 105953)."""
    async with _armed(drills, rng, "b") as armed:
        if armed is None:
            return
        by_hand = drills.hands.on(armed.home.name)
        moved = await by_hand.migrate(armed.uuid, armed.target, Manner(undefine_source=False)) is None
        if moved and await _is_led(drills, armed.home, for_s=25):
            await _boots(drills, armed)


async def armed_behind_a_cut(drills: Drills, rng: Random) -> None:
    """A domain that starts with its host is moved by hand while nobody hears of either end; its definition
    stays, and a new libvirtd there has forgotten where it went. That host is read first, and boots later.
    Only where moves by hand are declared, for else nothing holds it."""
    cluster = drills.cluster
    if not cluster.policy.hand_migrations:
        return
    async with _armed(drills, rng, "c") as armed:
        if armed is None:
            return
        name, uuid, home, target = armed
        async with drills.moving():
            drills.say(f"nobody hears of {home.name} and {target.name} while {name} is moved")
            for replica in cluster.replicas:
                cluster.network.cut(replica, home.name)
                cluster.network.cut(replica, target.name)
            await cluster.sleep(BROKEN_AFTER_S)
            answer = await drills.hands.on(home.name).migrate(uuid, target, Manner(undefine_source=False))
            home.kill_daemon()
            home.start_daemon()
            for replica in cluster.replicas:
                cluster.network.heal(replica, home.name)
            await cluster.sleep(5.0)  # until the new one is up
            led = answer is None and await _is_led(drills, home, for_s=40)
        if led:
            await _boots(drills, armed)
        for replica in cluster.replicas:
            cluster.network.heal(replica, target.name)


class _Armed(NamedTuple):
    name: str
    uuid: str
    home: SimHost
    target: SimHost


@asynccontextmanager
async def _armed(drills: Drills, rng: Random, letter: str) -> AsyncIterator[_Armed | None]:
    """A new domain that runs and starts with its host, and another host for it; it is in nobody else's hands.
    None where that does not come about."""
    cluster, hands, name = drills.cluster, drills.hands, f"{letter}{rng.randrange(1000)}"
    nodes = sorted(n for n in cluster.objects("nodes") if n in cluster.hosts) if cluster.etcd.running else []
    if len(nodes) < 2 or hands.guard.moves:
        yield None
        return
    home, target = (cluster.hosts[n] for n in rng.sample(nodes, 2))
    wish = {"placement": {"node": home.name}, "recovery": {"autostart": True}}
    if not await drills.api.create(DOMAINS, name, {"type": "qemu", "memory": "32Mi", **wish}):
        yield None
        return
    hands.busy[name] = None
    await cluster.sleep(10.0)
    body = cluster.objects("domains").get(name) if cluster.etcd.running else None
    if body is not None and is_met(cluster, body) and {home.daemon, target.daemon} == {"up"}:
        uuid = body["metadata"]["uid"]
        cluster.doubled.add(uuid)  # a host that boots before a leader could disarm it starts a second one
        yield _Armed(name, uuid, home, target)
    else:
        yield None
    del hands.busy[name]


async def _boots(drills: Drills, armed: _Armed) -> None:
    """The host that it left, which somebody had the time to disarm."""
    drills.cluster.doubled.discard(armed.uuid)
    armed.home.power_off()
    await drills.cluster.sleep(10.0)
    drills.hands.power_on(armed.home)
    await drills.cluster.sleep(20.0)


async def _is_led(drills: Drills, host: SimHost, for_s: int) -> bool:
    """Somebody led for so many seconds without a break, and could ask this host and act on what it said."""
    cluster, first = drills.cluster, drills.cluster.leader
    for _ in range(for_s):
        leader = cluster.leader
        up = leader is not None and host.daemon == "up" and cluster.network.up(leader.name, host.name)
        if leader is not first or not up or not cluster.etcd.running or cluster.pasts:
            return False
        await cluster.sleep(1.0)
    return True


def _placed_on(node: str) -> Callable[[Body], object]:
    return lambda body: body["spec"].update(placement={"node": node})


def _state(state: str) -> Callable[[Body], object]:
    return lambda body: body["spec"].update(state=state)


COINCIDENCES: dict[str, Drill] = {
    "armed_behind_a_cut": armed_behind_a_cut,
    "moved_from_sight": moved_from_sight,
    "another_machine": another_machine,
    "set_back_unremembered": partial(Drills.set_back, is_remembered=False),
    "moved_behind_a_cut": moved_behind_a_cut,
    "word_of_a_silent_node": partial(moved_behind_a_cut, is_silent=True),
    "doubled": doubled,
    "own_disk": own_disk,
    "all_at_once": all_at_once,
    "overtaken": overtaken,
    "defined_late": defined_late,
    "look_unheard": look_unheard,
    "left_armed": left_armed,
    "deleted_unheard": deleted_unheard,
    "all_to_one": all_to_one,
}
"""name: how it is made."""
