"""The operator: reads what each domain's status says, and does what the message says ends the hold.

He knows nothing of the controller's insides: the message's own command is parsed and carried out, with the
records that the API writes and with virsh. What he is told to make sure of ("once it is clear that it runs
nowhere else", a host that is off for good) he looks up in the truth, as somebody who walks to the machines
would. A text that he cannot follow leads nowhere, and the run does not converge (L4).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from controller.api.resources import DOMAINS, NODES
from controller.plan.types import Reason
from drivers.hypervisor import State
from specs.requests import ANNOTATIONS
from tests.sim.cluster import Cluster
from tests.sim.hands import Hands
from tests.sim.people import Api, Body

TO_END = "; to end this: "
OTHER_CLUSTER = re.compile(r"the store holds (no )?cluster")
LOOKS_EVERY_S = 6.0
IN_WORDS = (Reason.NO_NODE_FITS, Reason.BACKING_OFF)  # reasons whose text says what is in the way
PATIENCE_S = 20.0  # a hold that is younger may end by itself
MIGRATION_PATIENCE_S = 60.0
AGAIN_S = 45.0  # the same command is not given again sooner


@dataclass
class Operator:
    cluster: Cluster
    api: Api
    hands: Hands
    busy: dict[str, None]  # domains that somebody is at by hand
    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _did: dict[tuple[str, str], float] = field(default_factory=dict)
    _lost: dict[str, None] = field(default_factory=dict)
    _began_anew: int = 0
    not_understood: dict[str, None] = field(default_factory=dict)

    async def run(self) -> None:
        while True:
            await self.cluster.sleep(LOOKS_EVERY_S)
            if self.cluster.etcd.running:
                await self.look()

    async def look(self) -> None:
        for node, body in self.cluster.objects("nodes").items():
            found = LEFT_SAVED.search(_said(body)[1])
            if found is not None:
                await self.hands.managedsave_remove(node, found["uuid"])
        for name, body in self.cluster.objects("domains").items():
            if name in self.busy:
                continue
            said = _said(body)
            key = (name, said[0])
            now = self.cluster.clock()
            for old in [k for k in self._since if k[0] == name and k != key]:
                del self._since[old]
            since = self._since.setdefault(key, now)
            if TO_END not in said[1] and said[0] not in IN_WORDS:
                continue
            if now - since < PATIENCE_S:
                continue
            await self._answer(name, body, said[1])

    async def _answer(self, name: str, body: Body, message: str) -> None:
        text, _, command = message.partition(TO_END)
        if self._did.get((name, command), -1e9) > self.cluster.clock() - AGAIN_S:
            return
        for pattern, way in WAYS:
            found = pattern.search(command or text)
            if found is None:
                continue
            self._did[(name, command)] = self.cluster.clock()
            if await way(self, name, body, found):
                self.cluster.trace.say("operator", f"answers {name}: {found.group()}")
            else:
                self._did.pop((name, command))
            return
        self.not_understood[command] = None

    # --- ways: each answers whether anything was done

    async def _confirm_dead(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """Only of a machine that is off."""
        node = found["node"]
        host = self.cluster.hosts.get(node)
        if host is None or host.powered or not await self.api.confirm_dead(node):
            return False
        self.hands.taken_for_dead[node] = None
        return True

    async def _dead_or_not_on(self, name: str, body: Body, found: re.Match[str]) -> bool:
        if await self._confirm_dead(name, body, found):
            return True
        uuid = body["metadata"]["uid"]
        nodes = tuple(found["nodes"].split())
        if any(uuid in self.cluster.hosts[n].domains for n in nodes if n in self.cluster.hosts):
            return False
        if any(self._may_receive(uuid) for _ in nodes):
            return False
        return await self.api.resolve(name, not_on=nodes)

    def _may_receive(self, uuid: str) -> bool:
        """Whether a migration of it is under way anywhere."""
        return any(
            uuid in host.domains and host.domains[uuid].in_migration for host in self.cluster.hosts.values()
        )

    async def _keep(self, name: str, body: Body, found: re.Match[str]) -> bool:
        node, uuid = found["node"], body["metadata"]["uid"]
        active = self.cluster.active_on(uuid)
        if self._may_receive(uuid) or any(host != node for host in active):
            return False
        return await self.api.resolve(name, keep=node)

    async def _decide_doubt(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """A source that stands paused: whoever looks at its disks sees whether the target wrote to them."""
        node, uuid = found["node"], body["metadata"]["uid"]
        if self.hands.migrates(uuid) or any(host != node for host in self.cluster.active_on(uuid)):
            return False
        domain = self.cluster.hosts[node].domains.get(uuid)
        if domain is not None and (domain.handed_over or domain.is_old):
            if found["other"]:
                return await self.api.resolve(name, keep=found["other"])
            return await self.api.edit(DOMAINS, name, _reboot_in_doubt, "migration.onDoubt Reboot")
        return await self.api.resolve(name, keep=node)

    async def _choose(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """Two copies: the one on the domain's own node stays, or that which runs, if the other never ran."""
        uuid = body["metadata"]["uid"]
        standing = [name for name, host in self.cluster.hosts.items() if host.stands(uuid)]
        active, held = self.cluster.active_on(uuid) or standing, self.cluster.assignment(uuid)
        if len(standing) < 2:
            return False
        keep = held.node if held is not None and held.node in active else active[0]
        return await self.api.resolve(name, keep=keep)

    async def _right_disks(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """Disks of its own, which were copied: whoever looks sees which are the newer."""
        uuid = body["metadata"]["uid"]
        node = self.cluster.disks_at.get(uuid, "")
        if not node or self.hands.migrates(uuid) or any(on != node for on in self.cluster.active_on(uuid)):
            return False
        return await self.api.resolve(name, keep=node)

    async def _acknowledge(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """A store of another cluster, or of none, is for processes that begin with it: all begin anew."""
        if OTHER_CLUSTER.search(_said(body)[1]) and self._began_anew != self.cluster.pasts:
            self._began_anew = self.cluster.pasts
            for replica in self.cluster.replicas.values():
                replica.kill()
            await self.cluster.sleep(1.0)
            for replica in self.cluster.replicas.values():
                if not replica.lives:
                    replica.start()
            return True
        return await self.api.acknowledge()

    async def _register(self, name: str, body: Body, found: re.Match[str]) -> bool:
        node = found["node"]
        return await self.api.create(NODES, node, {"uri": f"qemu+tcp://{node}/system", "insecure": True})

    async def _resume_or_destroy(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """A copy that a migration left paused: where another runs, or took over the disks, it goes."""
        uuid, node = body["metadata"]["uid"], found["node"]
        host = self.cluster.hosts.get(node)
        domain = host.domains.get(uuid) if host is not None else None
        if host is None or domain is None or not domain.in_migration or self.hands.migrates(uuid):
            return False
        elsewhere = [n for n in self.cluster.active_on(uuid) if n != node]
        others = [n for n, h in self.cluster.hosts.items() if n != node and uuid in h.domains]
        if elsewhere or others or domain.handed_over or domain.reason == "starting-up":
            return await self.hands.destroy(node, uuid)
        return await self.hands.resume(node, uuid)

    async def _abort_or_destroy(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """A migration of nobody's that does not go on is ended at its source; a copy that one left goes."""
        uuid, runs, node = body["metadata"]["uid"], found["runs"], found["node"]
        if not self.hands.migrates(uuid):
            return await self.hands.destroy(node, uuid)
        return self.hands.stalls(uuid) and await self.hands.abort(runs, uuid)

    async def _virsh(self, name: str, body: Body, found: re.Match[str]) -> bool:
        uuid, node = body["metadata"]["uid"], found["node"]
        host = self.cluster.hosts.get(node)
        domain = host.domains.get(uuid) if host is not None else None
        if domain is None:
            return False
        if found["cure"] == "destroy":
            return await self.hands.destroy(node, uuid)
        if domain.state is not State.PAUSED or self.cluster.active_on(uuid) != [node]:
            return False
        return await self.hands.resume(node, uuid)

    async def _stop_and_start(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """domctl shutdown, then domctl start."""

        def state(wanted: str) -> Callable[[Body], Any]:
            return lambda b: b["spec"].update(state=wanted)

        if not await self.api.edit(DOMAINS, name, state("shutoff"), "domctl shutdown"):
            return False
        uuid = body["metadata"]["uid"]
        for _ in range(40):
            await self.cluster.sleep(3.0)
            if not self.cluster.active_on(uuid) and _said(self._body(name))[0] in ("Shutoff", "shutoff"):
                break
            if (self._body(name).get("spec") or {}).get("state") != "shutoff":
                return True  # somebody changed his mind
        return await self.api.edit(DOMAINS, name, state("running"), "domctl start")

    async def _start_and_save(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """domctl start, then domctl save."""
        if not await self.api.edit(
            DOMAINS, name, lambda b: b["spec"].update(state="running"), "domctl start"
        ):
            return False
        for _ in range(40):
            await self.cluster.sleep(3.0)
            if _said(self._body(name))[0] == "Running":
                break
        else:
            return True  # what holds its start is answered first
        return await self.api.edit(DOMAINS, name, lambda b: b["spec"].update(state="saved"), "domctl save")

    async def _ask(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """domctl resume, restore or drop-saved."""
        what = found["what"]

        def change(b: Body) -> None:
            b["metadata"].setdefault("annotations", {})[ANNOTATIONS[what]] = self.cluster.world_of(
                "user"
            ).wall()
            if what != "drop-saved":
                b["spec"]["state"] = "running"

        return await self.api.edit(DOMAINS, name, change, f"domctl {what}")

    def _body(self, name: str) -> Body:
        return self.cluster.objects("domains").get(name, {"metadata": {}})

    async def _share(self, name: str, body: Body, found: re.Match[str]) -> bool:
        def change(b: Body) -> None:
            for disk in b["spec"].get("disks", []):
                disk["source"]["shared"] = True

        return await self.api.edit(DOMAINS, name, change, "source.shared")

    async def _follow_disk(self, name: str, body: Body, found: re.Match[str]) -> bool:
        def change(b: Body) -> None:
            for disk in b["spec"].get("disks", []):
                if disk["name"] == found["disk"]:
                    disk["source"]["file"] = found["path"]

        return await self.api.edit(DOMAINS, name, change, f"its disk is {found['path']}")

    async def _remove_save(self, name: str, body: Body, found: re.Match[str]) -> bool:
        return await self.hands.managedsave_remove(found["node"], body["metadata"]["uid"])

    async def _make_room(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """Somebody else's domain, or one that etcd has forgotten, stands where ours should."""
        done = False
        for node, holder in _holders(found, self.cluster):
            ours = holder in self.cluster.assignments()
            if not ours and holder in self.cluster.hosts[node].domains:
                done |= await self.hands.destroy(node, holder)
                done |= await self.hands.managedsave_remove(node, holder)
                done |= await self.hands.undefine(node, holder)
        return done

    async def _remove_copies(self, name: str, body: Body, found: re.Match[str]) -> bool:
        uuid = body["metadata"]["uid"]
        done = False
        for node in found["nodes"].split(" and "):
            host = self.cluster.hosts.get(node)
            if host is not None and uuid in host.domains:
                await self.hands.destroy(node, uuid)
                done |= uuid not in host.domains or await self.hands.undefine(node, uuid)
        return done

    async def _remove_saved_copy(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """An operator who does not want it: with one that was to go on, it would be for him to say so."""
        uuid, node = body["metadata"]["uid"], found["node"]
        await self.hands.managedsave_remove(node, uuid)
        return await self.hands.undefine(node, uuid)

    async def _undefine_copies(self, name: str, body: Body, found: re.Match[str]) -> bool:
        uuid = body["metadata"]["uid"]
        held = self.cluster.assignment(uuid)
        done = False
        for node, host in self.cluster.hosts.items():
            if held is not None and node != held.node and uuid in host.domains:
                done |= await self.hands.undefine(node, uuid)
        return done

    async def _start_anew(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """libvirtd does not let go of an interrupted start: its own note of it is removed."""
        return await self.hands.forget_stuck_start(found["node"], body["metadata"]["uid"])

    async def _replace(self, name: str, body: Body, found: re.Match[str]) -> bool:
        """Its disks are wiped, and then it is said so: not of one that has somebody's memory, saved there."""
        host = self.cluster.hosts.get(found["node"])
        if host is None or host.powered or any(d.saved is not None for d in host.domains.values()):
            return False
        host.domains.clear()
        self.hands.taken_for_dead[host.name] = None
        return await self.api.confirm_dead(host.name, wiped=True)


LEFT_SAVED = re.compile(r"virsh managedsave-remove (?P<uuid>[0-9a-f-]{36}) on")


def _said(body: Body) -> tuple[str, str]:
    status = body.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "Ready":
            return str(status.get("reason", "")), str(condition.get("message", ""))
    return "", ""


def _holders(found: re.Match[str], cluster: Cluster) -> list[tuple[str, str]]:
    """(node, uuid) of the domains that a message complains of."""
    if "uuid" in found.groupdict() and found["uuid"]:
        return [(found["node"], found["uuid"])]
    name = found["name"]
    return [
        (node, domain.uuid)
        for node, host in cluster.hosts.items()
        if (domain := host.named(name)) is not None
    ]


Way = Callable[[Operator, str, Body, re.Match[str]], Awaitable[bool]]


def _reboot_in_doubt(body: Body) -> None:
    body["spec"]["migration"] = {"onDoubt": "Reboot"}


WAYS: tuple[tuple[re.Pattern[str], Way], ...] = (
    (
        re.compile(r"confirm-dead (?P<node>\S+), or domctl resolve \S+ -n \S+ --not-on (?P<nodes>.+)"),
        Operator._dead_or_not_on,
    ),
    (re.compile(r"^domctl node confirm-dead (?P<node>\S+)"), Operator._confirm_dead),
    (re.compile(r"^domctl store ack"), Operator._acknowledge),
    (
        re.compile(
            r"^domctl resolve \S+( -n \S+)? --keep (?P<node>h\d+) to let it go on"
            r"(, or --keep (?P<other>h\d+) to start)?"
        ),
        Operator._decide_doubt,
    ),
    (re.compile(r"^domctl resolve \S+( -n \S+)? --keep (?P<node>h\d+)"), Operator._keep),
    (re.compile(r"^domctl resolve \S+( -n \S+)? --keep NODE: the node whose disks"), Operator._right_disks),
    (re.compile(r"^domctl resolve \S+( -n \S+)? --keep NODE"), Operator._choose),
    (re.compile(r"^register node (?P<node>\S+) again"), Operator._register),
    (
        re.compile(
            r"^wait while virsh domjobinfo on (?P<runs>\S+) .* none: virsh destroy on (?P<node>\S+)",
        ),
        Operator._abort_or_destroy,
    ),
    (re.compile(r"^virsh resume or virsh destroy on (?P<node>\S+),"), Operator._resume_or_destroy),
    (re.compile(r"^virsh (?P<cure>resume|destroy|dompmwakeup) on (?P<node>[^\s,]+)"), Operator._virsh),
    (re.compile(r"^domctl shutdown \S+( -n \S+)?, then domctl start"), Operator._stop_and_start),
    (re.compile(r"^domctl start \S+( -n \S+)?, then domctl save"), Operator._start_and_save),
    (re.compile(r"^domctl (?P<what>resume|restore|drop-saved) "), Operator._ask),
    (re.compile(r"^set source.shared"), Operator._share),
    (re.compile(r"set spec\.disks\[(?P<disk>[^\]]+)\]\.source to (?P<path>\S+)"), Operator._follow_disk),
    (re.compile(r"virsh managedsave-remove on (?P<node>[^\s;,]+)"), Operator._remove_save),
    (re.compile(r"undefine on (?P<node>\S+): .*managed save image exists"), Operator._remove_save),
    (re.compile(r"^virsh destroy and virsh undefine on (?P<nodes>.+?), if"), Operator._remove_copies),
    (re.compile(r"^virsh undefine --managed-save on (?P<node>\S+?),"), Operator._remove_saved_copy),
    (re.compile(r"^rename or undefine (?P<uuid>\S+) on (?P<node>\S+)"), Operator._make_room),
    (re.compile(r"has another domain named (?P<name>[^\s;]+)"), Operator._make_room),
    (re.compile(r"^undefine the copies"), Operator._undefine_copies),
    (re.compile(r"^on the host: stop libvirtd, .* on (?P<node>\S+)"), Operator._start_anew),
    (re.compile(r"^domctl node replace (?P<node>[^\s,]+)"), Operator._replace),
)
