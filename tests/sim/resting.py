"""Drills of guests that end by themselves and are to rest: what tells of their end goes, and they rest on.

libvirtd forgets over a restart why a domain is off, a transient one leaves no trace, a leader takes with it
what it heard, a definition made anew says nothing, and a dead host neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from controller.api.resources import DOMAINS, MIGRATIONS
from tests.sim.drills import Drill, Drills
from tests.sim.host import SimHost

SHOWN_WITHIN_S = 40
LATER_S = 25.0


async def at_rest(drills: Drills, rng: Random) -> None:
    """It ends, says that it rests, and then whatever told how it ended is gone."""
    cluster, found = drills.cluster, await drills.some_uuid(rng)
    if found is None or not cluster.etcd.running or drills.hands.busy or drills.hands.guard.moves:
        return
    (uuid, home), name = found, cluster.trace.named(found[0])
    drills.hands.busy[name] = None
    try:
        wish = {"state": "running", "restartPolicy": rng.choice(["Never", "OnFailure"])}
        await drills.api.edit(DOMAINS, name, lambda body: body["spec"].update(wish), f"{wish}")
        await cluster.sleep(2.0)
        home.poweroff_guest(uuid)
        if await _says_that_it_rests(drills, name):
            await WAYS[rng.choice(sorted(WAYS))](drills, name, home)
            await cluster.sleep(LATER_S)
    finally:
        del drills.hands.busy[name]


async def _says_that_it_rests(drills: Drills, name: str) -> bool:
    for _ in range(SHOWN_WITHIN_S):
        await drills.cluster.sleep(1.0)
        body = drills.cluster.objects("domains").get(name) if drills.cluster.etcd.running else None
        if body is not None and (body.get("status") or {}).get("reason") == "Completed":
            drills.say(f"{name} rests")
            return True
    return False


async def _daemon_anew(drills: Drills, name: str, home: SimHost) -> None:
    home.kill_daemon()
    await drills.cluster.sleep(1.0)
    home.start_daemon()


async def _led_anew(drills: Drills, name: str, home: SimHost) -> None:
    leader = drills.cluster.leader
    if leader is not None:
        leader.kill()
        await drills.again(leader, 5.0)
        await drills.cluster.sleep(LATER_S)
    await _daemon_anew(drills, name, home)


async def _to_move(drills: Drills, name: str, home: SimHost) -> None:
    await drills.api.create(MIGRATIONS, f"rest-{name}", {"domain": name, "mode": "Cold"})
    await drills.cluster.sleep(LATER_S)


async def _dead(drills: Drills, name: str, home: SimHost) -> None:
    drills.say(f"{home.name} has no power, for good")
    home.power_off()
    await drills.cluster.sleep(LATER_S)
    if await drills.api.confirm_dead(home.name):
        drills.hands.taken_for_dead[home.name] = None
    await drills.cluster.sleep(2 * LATER_S)
    drills.hands.power_on(home)


WAYS: dict[str, Callable[[Drills, str, SimHost], Awaitable[None]]] = {
    "a new libvirtd": _daemon_anew,
    "a new leader": _led_anew,
    "a migration": _to_move,
    "a dead host": _dead,
}

RESTING: dict[str, Drill] = {"at_rest": at_rest}
"""name: how it is made."""
