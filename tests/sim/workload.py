"""What users do in ten minutes: create, edit, stop, start, delete and create again; nodes change, too.

Drawn from the seed before the run and carried out at their times, each as a request that may fail. At the
end `settle` asks for nothing that the cluster cannot give: nodes are schedulable again and have their
labels, and every domain fits somewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from controller.api.resources import DOMAINS, MIGRATIONS, NODES
from specs.migration import FINISHED
from specs.requests import ANNOTATIONS
from tests.sim.cluster import Cluster
from tests.sim.people import Api, Body

DOMAIN_NAMES = ("d1", "d2", "d3", "d4", "d5", "d6")
FIRST_HOSTS = ("h1", "h2", "h3", "h4")
SPARE_HOST = "h5"
ZONES = {"h1": "a", "h2": "a", "h3": "b", "h4": "b", "h5": "b"}
LENGTH_S = 600.0
EDITS = 14
MOVES = 5

Step = Callable[[], Awaitable[object]]
STAYS_S = (0, 30, 300, None)  # requests, one after the other, when they have ended


class Workload:
    """`steps` are (time, what to do), in order."""

    def __init__(self, cluster: Cluster, api: Api) -> None:
        self._cluster, self._api = cluster, api
        self._rng: Random = cluster.random("workload")
        self._moves: Random = cluster.random("moves")
        self._asked = 0
        self.steps: list[tuple[float, Step]] = []

    # --- the beginning

    def node_spec(self, name: str) -> Body:
        own: Body = {"uri": f"qemu+tcp://{name}/system", "insecure": True}
        if self._cluster.hosts[name].relayed:
            ways = {"knownHosts": "/etc/domctl/known_hosts", "keyFile": "/etc/domctl/id"}
            own = {"uri": f"qemu+ssh://root@{name}/system", "connection": ways}
            own["migrationURI"] = f"qemu+tcp://{name}/system"
        return {**own, "allowedPaths": ["/srv"]}

    def domain_spec(self) -> Body:
        rng = self._rng
        spec: Body = {"type": "qemu", "memory": rng.choice(["32Mi", "64Mi", "128Mi"])}
        timeout = rng.choice([3, 10, 20])
        spec["shutdown"] = [{"method": "acpi", "timeoutSeconds": timeout}, {"method": "destroy"}]
        if rng.random() < 0.25:
            spec["state"] = rng.choice(["shutoff", "paused", "saved"])
        if rng.random() < 0.3:
            spec["restartPolicy"] = rng.choice(["OnFailure", "Never"])
        if rng.random() < 0.4:
            spec["interfaces"] = [{"name": "net0", "network": "default"}]
        if rng.random() < 0.3:
            spec["placement"] = {"nodeSelector": {"zone": rng.choice("ab")}}
        if rng.random() < 0.2:
            spec["disks"] = [
                {"name": "root", "source": {"file": f"/srv/{rng.randrange(100)}.img", "shared": True}}
            ]
        if rng.random() < 0.2 and spec.get("state") != "saved":
            spec |= rng.choice([{"persistence": "transient"}, {"recovery": {"onNodeFailure": "Restart"}}])
        elif rng.random() < 0.15:
            spec["placement"] = {"node": rng.choice(FIRST_HOSTS)}
            spec["recovery"] = {"autostart": True}
        return spec

    async def populate(self) -> None:
        for name in FIRST_HOSTS:
            await self._api.create(NODES, name, self.node_spec(name), {"zone": ZONES[name]})
        for name in DOMAIN_NAMES[:4]:
            await self._api.create(DOMAINS, name, self.domain_spec())

    def draw(self) -> None:
        rng = self._rng
        for name in DOMAIN_NAMES[4:]:
            self._at(rng.uniform(20.0, 300.0), self._creation(name))
        for _ in range(EDITS):
            kind = rng.choices(*_KINDS)[0]
            self._at(rng.uniform(20.0, LENGTH_S), getattr(self, kind)())
        for _ in range(self._moves.randint(0, MOVES)):
            self._at(self._moves.uniform(20.0, LENGTH_S), self._move())
        self.steps.sort(key=lambda step: step[0])

    def _at(self, when: float, step: Step) -> None:
        self.steps.append((when, step))

    async def something(self, rng: Random) -> None:
        """One thing more, now: it makes the controller act."""
        name = rng.choice(DOMAIN_NAMES)
        body = self._cluster.objects("domains").get(name) if self._cluster.etcd.running else None
        if body is None:
            await self._creation(name)()
        elif rng.random() < 0.2:
            await self._api.delete(DOMAINS, name)
        elif (body["spec"].get("state") or "running") == "running" and rng.random() < 0.7:
            await self._api.edit(DOMAINS, name, _shutoff, "shutoff")
            if rng.random() < 0.5:
                await self._cluster.sleep(rng.choice([0.1, 3.0, 12.0]))
                await self._api.edit(DOMAINS, name, _running, "running")
        else:
            memory = rng.choice(["48Mi", "96Mi", "160Mi"])
            await self._api.edit(DOMAINS, name, lambda b: b["spec"].update(memory=memory), memory)
            await self._api.edit(DOMAINS, name, _running, "running")

    # --- what is done

    def _creation(self, name: str) -> Step:
        spec = self.domain_spec()
        return lambda: self._api.create(DOMAINS, name, spec)

    def _state(self) -> Step:
        name = self._rng.choice(DOMAIN_NAMES)
        state = self._rng.choice(["running", "shutoff", "paused", "saved"])
        return self._editing(name, lambda body: body["spec"].update(state=state), f"state {state}")

    def _asks(self) -> Step:
        """A request: mostly while it can be carried out."""
        name, what = self._rng.choice(DOMAIN_NAMES), self._rng.choice(list(ANNOTATIONS))
        return self._editing(name, partial(_ask, what, self._cluster.world_of("user").wall), what)

    def _sleeps(self) -> Step:
        """Saved for a while, perhaps with another definition beside it, and on again."""
        name, memory = self._rng.choice(DOMAIN_NAMES), self._rng.choice(["48Mi", "96Mi", ""])
        pause_s = self._rng.choice([0.5, 5.0, 15.0])

        async def work() -> None:
            await self._api.edit(DOMAINS, name, lambda b: b["spec"].update(state="saved"), "saved")
            await self._cluster.sleep(pause_s)
            if memory:
                await self._api.edit(DOMAINS, name, lambda b: b["spec"].update(memory=memory), memory)
            await self._api.edit(DOMAINS, name, _running, "running")

        return work

    def _persistence(self) -> Step:
        name, how = self._rng.choice(DOMAIN_NAMES), self._rng.choice(["transient", "persistent"])

        def change(body: Body) -> None:
            body["spec"].pop("recovery", None)
            if body["spec"].get("state") != "saved":
                body["spec"]["persistence"] = how

        return self._editing(name, change, how)

    def _memory(self) -> Step:
        name, memory = self._rng.choice(DOMAIN_NAMES), self._rng.choice(["48Mi", "96Mi", "160Mi"])
        return self._editing(name, lambda body: body["spec"].update(memory=memory), f"memory {memory}")

    def _place(self) -> Step:
        name, zone = self._rng.choice(DOMAIN_NAMES), self._rng.choice("ab")
        placement = {"nodeSelector": {"zone": zone}}

        def change(body: Body) -> None:
            body["spec"]["placement"] = placement

        return self._editing(name, change, f"zone {zone}")

    def _move_cold(self) -> Step:
        """Stop it, send it elsewhere, start it again."""
        name, node = self._rng.choice(DOMAIN_NAMES), self._rng.choice(FIRST_HOSTS)
        pause_s = self._rng.choice([0.0, 0.2, 5.0, 20.0])

        def change(body: Body) -> None:
            body["spec"].update(state="shutoff", placement={"node": node})

        async def work() -> None:
            if await self._api.edit(DOMAINS, name, change, f"shutoff, to {node}"):
                await self._cluster.sleep(pause_s)
                await self._api.edit(DOMAINS, name, _running, "running")

        return work

    def _move(self) -> Step:
        """A Migration: to some node or anywhere, live or cold; now and then it is to be ended soon after."""
        rng = self._moves
        domain, node = rng.choice(DOMAIN_NAMES), rng.choice((*FIRST_HOSTS, SPARE_HOST, ""))
        cold, ended_after_s = rng.random() < 0.2, rng.choice([0.0, 0.0, 0.0, 1.0, 6.0, 20.0])

        async def work() -> None:
            await self.move(domain, node, cold=cold, ended_after_s=ended_after_s)

        return work

    async def own_disk(self, domain: str) -> None:
        """One that runs, leaves no definition where it ends, and has a disk on its host's own storage."""
        disk = {"name": "root", "source": {"file": f"/srv/own/{domain}.img"}}
        spec: Body = {"type": "qemu", "memory": "32Mi", "persistence": "transient", "disks": [disk]}
        await self._api.create(DOMAINS, domain, spec)

    async def move(
        self, domain: str, node: str, *, cold: bool = False, copies: bool = False, ended_after_s: float = 0.0
    ) -> None:
        self._asked += 1
        name = f"m{self._asked}"
        spec: Body = {"domain": domain}
        if node:
            spec["node"] = node
        if cold:
            spec["mode"] = "Cold"
        if copies:
            spec["copyStorage"] = True
        if (stays_s := STAYS_S[self._asked % len(STAYS_S)]) is not None:
            spec["ttlSecondsAfterFinished"] = stays_s
        if not await self._api.create(MIGRATIONS, name, spec) or not ended_after_s:
            return
        await self._cluster.sleep(ended_after_s)
        await self._api.edit(MIGRATIONS, name, _ended, "abort")

    async def end_moves(self, domain: str) -> None:
        """Whatever Migration of it has not ended is to be."""
        for name, body in self._cluster.objects("migrations").items():
            if body["spec"]["domain"] == domain and (body.get("status") or {}).get("phase") not in FINISHED:
                await self._api.edit(MIGRATIONS, name, _ended, "abort")

    def _bounce(self) -> Step:
        """Down and up again faster than anything can follow."""
        name = self._rng.choice(DOMAIN_NAMES)
        pauses = [self._rng.choice([0.0, 0.05, 0.5, 3.0]) for _ in range(2)]

        async def work() -> None:
            for pause_s in pauses:
                await self._api.edit(DOMAINS, name, _shutoff, "shutoff")
                await self._cluster.sleep(pause_s)
                await self._api.edit(DOMAINS, name, _running, "running")
                await self._cluster.sleep(pause_s)

        return work

    def _recreate(self) -> Step:
        """Delete, and create again under the same name as soon as it is gone."""
        name, spec = self._rng.choice(DOMAIN_NAMES), self.domain_spec()

        async def work() -> None:
            if not await self._api.delete(DOMAINS, name):
                return
            for _ in range(60):
                await self._cluster.sleep(5.0)
                if self._cluster.etcd.running and name not in self._cluster.objects("domains"):
                    await self._api.create(DOMAINS, name, spec)
                    return

        return work

    def _cordon(self) -> Step:
        name, off = self._rng.choice(FIRST_HOSTS), self._rng.random() < 0.6

        def change(body: Body) -> None:
            body["spec"]["unschedulable"] = off

        return lambda: self._api.edit(NODES, name, change, f"unschedulable {off}")

    def _relabel(self) -> Step:
        name, zone = self._rng.choice(FIRST_HOSTS), self._rng.choice("ab")

        def change(body: Body) -> None:
            body["metadata"].setdefault("labels", {})["zone"] = zone

        return lambda: self._api.edit(NODES, name, change, f"zone {zone}")

    def _join(self) -> Step:
        async def work() -> None:
            await self._api.create(NODES, SPARE_HOST, self.node_spec(SPARE_HOST), {"zone": ZONES[SPARE_HOST]})

        return work

    def _leave(self) -> Step:
        """A node is emptied as far as that goes without force, and deleted."""
        name = self._rng.choice((*FIRST_HOSTS, SPARE_HOST))

        async def work() -> None:
            await self._api.edit(NODES, name, _cordoned, "unschedulable True")
            await self._cluster.sleep(1.0)
            await self._api.delete(NODES, name)

        return work

    def _editing(self, name: str, change: Callable[[Body], Any], what: str) -> Step:
        return lambda: self._api.edit(DOMAINS, name, change, what)

    # --- the end

    async def settle(self) -> bool:
        """Let everything be possible. False: the API did not answer, ask again."""
        cluster, api = self._cluster, self._api
        done = True
        nodes = cluster.objects("nodes")
        for name in FIRST_HOSTS:
            if name not in nodes:
                done &= await api.create(NODES, name, self.node_spec(name), {"zone": ZONES[name]})
        for name, body in nodes.items():
            if "deletionTimestamp" in body["metadata"]:
                done &= name not in FIRST_HOSTS
                continue
            zone = ZONES[name]
            own = self.node_spec(name) if name in FIRST_HOSTS else body["spec"]
            closed = body["spec"].get("unschedulable") or body["metadata"]["labels"].get("zone") != zone
            if closed or body["spec"]["uri"] != own["uri"]:
                done &= await api.edit(NODES, name, partial(_open, zone, own["uri"]), "as in the beginning")
        for name in DOMAIN_NAMES:
            if name not in cluster.objects("domains"):
                done &= await api.create(DOMAINS, name, self.domain_spec())
        return done


_KINDS = (
    [
        "_state",
        "_asks",
        "_sleeps",
        "_persistence",
        "_memory",
        "_place",
        "_move_cold",
        "_bounce",
        "_recreate",
        "_cordon",
        "_relabel",
        "_join",
        "_leave",
    ],
    [6, 4, 2, 2, 3, 2, 4, 2, 4, 2, 2, 1, 1],
)


def _ask(what: str, now: Callable[[], str], body: Body) -> None:
    body["metadata"].setdefault("annotations", {})[ANNOTATIONS[what]] = now()


def _running(body: Body) -> None:
    body["spec"]["state"] = "running"


def _ended(body: Body) -> None:
    body["spec"]["abort"] = True


def _shutoff(body: Body) -> None:
    body["spec"]["state"] = "shutoff"


def _cordoned(body: Body) -> None:
    body["spec"]["unschedulable"] = True


def _open(zone: str, uri: str, body: Body) -> None:
    body["spec"].update(unschedulable=False, uri=uri)
    body["metadata"].setdefault("labels", {})["zone"] = zone
