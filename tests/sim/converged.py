"""Whether the world is as users want it, by ground truth: what L1 and L4 ask.

A world has converged when every domain is as its object says and says so, stands on its own node alone,
and nothing of what went wrong is left: no tombstone, no quarantine, no word that a machine is dead.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from controller import keys
from controller.model import Assignment
from drivers.hypervisor import State
from specs.migration import FINISHED
from tests.sim.cluster import Cluster

GOES_WITHIN_S = 5.0  # of its time
IN_THE_WAY = frozenset(
    {
        "NotPlaced",
        "NoNodeFits",
        "NoSuchDomain",
        "PinnedByStorage",
        "HasSnapshots",
        "DefinedNowhere",
        "PathInUse",
        "RunsElsewhere",
    }
)


def _conditions(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in (body.get("status") or {}).get("conditions") or []}


def message_of(body: dict[str, Any]) -> str:
    return str(_conditions(body).get("Ready", {}).get("message", ""))


def says_ready(body: dict[str, Any]) -> bool:
    ready = _conditions(body).get("Ready", {})
    current = (body.get("status") or {}).get("observedGeneration") == body["metadata"].get("generation")
    return bool(ready.get("status") == "True" and current)


def is_met(cluster: Cluster, body: dict[str, Any]) -> bool:
    """Whether the hosts have it as the object says."""
    meta = body["metadata"]
    if meta.get("deletionTimestamp"):
        return False
    active = cluster.active_on(meta["uid"])
    wanted = body["spec"].get("state") or "running"
    if wanted == "shutoff":
        return not active
    if wanted == "saved":
        held = cluster.assignment(meta["uid"])
        home = None if held is None else cluster.hosts[held.node].domains.get(meta["uid"])
        return not active and home is not None and home.saved is not None
    if wanted == "paused":  # one that arrived and never ran stands, and holds no disk yet (seed 600125)
        active = [host for host, truth in cluster.hosts.items() if truth.stands(meta["uid"])]
        if not active:  # one that was handed over, to where it did not run either, is as good
            active = [host for host, truth in cluster.hosts.items() if truth.is_paused(meta["uid"])]
    if len(active) != 1:
        return False
    seen = cluster.hosts[active[0]].domains[meta["uid"]]
    return (seen.state is State.PAUSED) == (wanted == "paused")


def transient(spec: dict[str, Any]) -> bool:
    restarts = (spec.get("recovery") or {}).get("onNodeFailure") == "Restart"
    return (spec.get("persistence") or ("transient" if restarts else "")) == "transient"


def what_is_left(cluster: Cluster) -> list[str]:
    """Why the world has not converged (L1); empty if it has."""
    left: list[str] = []
    assignments = cluster.assignments()
    domains = cluster.objects("domains")
    uids = {body["metadata"]["uid"] for body in domains.values()}
    for name, body in domains.items():
        uuid = body["metadata"]["uid"]
        reason = (body.get("status") or {}).get("reason", "")
        said = f"{reason}: {message_of(body)}"
        if not is_met(cluster, body):
            left.append(f"{name} is not as wanted ({said})")
        elif not says_ready(body):
            left.append(f"{name} is as wanted and does not say so ({said})")
        elif transient(body["spec"]) and body["spec"].get("state") == "shutoff":
            on = [host for host, truth in cluster.hosts.items() if uuid in truth.domains]
            left += [f"{name} is off, and defined on {host}" for host in on]
        elif (held := assignments.get(uuid)) is None:
            left.append(f"{name} has no assignment")
        else:
            left += _misplaced(cluster, name, body, held)
    stray = assignments.keys() - uids - cluster.lost
    left += [f"the assignment of {assignments[u].name} is left ({u})" for u in sorted(stray)]
    left += _moves_left(cluster) + _shutting_down(cluster)
    left += [f"{key} is left" for key, _ in cluster.stored(keys.CONFIRMED_DEAD)]
    gone = given_up(cluster)
    left += [f"{keys.QUARANTINE}{name} is left" for name in _quarantined(cluster) if name not in gone]
    return left


def _shutting_down(cluster: Cluster) -> list[str]:
    """On a slow host a guest may take minutes to what it was asked for and is not any more (seed 1105833)."""
    now = cluster.clock()
    guests = ((host, domain) for host in cluster.hosts.values() for domain in host.domains.values())
    return [
        f"the guest of {domain.name} on {host.name} still shuts down"
        for host, domain in guests
        if domain.live is not None and not domain.gone and domain.obeys_at > now
    ]


def given_up(cluster: Cluster) -> set[str]:
    """Dead machines whose Nodes were deleted since: what stands on one is nobody's, and should it ever be
    registered again, nothing is placed there before it was cleared (seed 603313)."""
    return set(_quarantined(cluster)) - set(cluster.objects("nodes"))


def _quarantined(cluster: Cluster) -> list[str]:
    return [key.rpartition("/")[2] for key, _ in cluster.stored(keys.QUARANTINE)]


def _moves_left(cluster: Cluster) -> list[str]:
    """A request ends, or says what is in its way; and does not stay longer than it is to."""
    held_up = _held_up(cluster)
    return [
        *(
            f"migration {name} has not ended ({status.get('phase')}: {status.get('reason')})"
            for name, (domain, status) in _said_of_moves(cluster).items()
            if status.get("phase") not in FINISHED and domain not in held_up
        ),
        *(
            f"migration {name} ended, and its time is over"
            for name, body in cluster.objects("migrations").items()
            if is_over(cluster, body, GOES_WITHIN_S)
        ),
    ]


def is_over(cluster: Cluster, body: dict[str, Any], late_s: float = 0.0) -> bool:
    """Whether a Migration has ended and was to stay no longer than it did since, and that so long ago."""
    spec, status = body["spec"], body.get("status") or {}
    if "ttlSecondsAfterFinished" not in spec or status.get("phase") not in FINISHED:
        return False
    how = "Complete" if status["phase"] == "Succeeded" else "Failed"
    at = status.get("completedAt") or _conditions(body)[how]["lastTransitionTime"]
    now = datetime.fromisoformat(cluster.world_of("user").wall())
    return (now - datetime.fromisoformat(at)).total_seconds() >= spec["ttlSecondsAfterFinished"] + late_s


def moves_wait(cluster: Cluster) -> bool:
    """Whether what is in the way of a migration may end by itself: room that another domain leaves is seen
    at the next resync."""
    return bool(_held_up(cluster))


def _held_up(cluster: Cluster) -> set[str]:
    said = _said_of_moves(cluster).values()
    return {domain for domain, status in said if status.get("reason") in IN_THE_WAY}


def _said_of_moves(cluster: Cluster) -> dict[str, tuple[str, dict[str, Any]]]:
    """By name: the domain, and the status."""
    return {
        name: (body["spec"]["domain"], (body.get("status") or {}))
        for name, body in cluster.objects("migrations").items()
    }


def _misplaced(cluster: Cluster, name: str, body: dict[str, Any], held: Assignment) -> list[str]:
    left = []
    uuid, spec = body["metadata"]["uid"], body["spec"]
    gone = given_up(cluster)
    on = [host for host, truth in cluster.hosts.items() if uuid in truth.domains and host not in gone]
    if on != [held.node]:
        left.append(f"{name} is on {on}, its place is {held.node}")
    elif held.candidates != (held.node,):
        left.append(f"{name} may be on {held.candidates}")
    else:
        domain = cluster.hosts[held.node].domains[uuid]
        starts = (spec.get("recovery") or {}).get("autostart") is True
        if domain.autostart != (starts and (spec.get("state") or "running") == "running"):
            left.append(f"{name} has autostart {'set' if domain.autostart else 'not set'}")
        if (domain.config is None) != transient(spec):
            left.append(f"{name} is {'transient' if domain.config is None else 'persistent'}")
    return left
