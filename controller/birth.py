"""How an object begins: what the server puts beside a user's words when it creates one.

Pure but for the ids and the time, which come from `World`. The user's `spec` is taken as it is; uid,
creation time, generation, the finalizer that only the leader may take away, and a first status whose
conditions say that nothing has been done yet (`Ready=Unknown`) are the server's. So no object is ever
without conditions, and no client mistakes "not looked at" for "fine".
"""

from __future__ import annotations

from typing import Any, Final

from controller.world import World
from specs.kinds import KIND_OF
from specs.meta import FINALIZER

NODE_FINALIZER: Final = "domctl.io/node"
PENDING: Final = "Pending"

# Only the leader takes these away, once nothing of the object is left on any host.
FINALIZERS: Final = {"Domain": FINALIZER, "Node": NODE_FINALIZER}

COUNTED: Final = ("Secret",)

_SERVERS_METADATA = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "selfLink",
)


def newborn(kind: str, body: dict[str, Any], world: World) -> dict[str, Any]:
    """A complete new object from what the user sent; the user's uid and status are not taken. A kind without
    a status has no generation either: nobody observes it. A Secret has: its users go by it."""
    now = world.wall()
    given = {k: v for k, v in body["metadata"].items() if k not in _SERVERS_METADATA}
    if kind in KIND_OF and not KIND_OF[kind].has_status:
        counted = {"generation": 1} if kind in COUNTED else {}
        return {**body, "metadata": {**given, "uid": world.new_id(), "creationTimestamp": now, **counted}}
    metadata = {**given, "uid": world.new_id(), "creationTimestamp": now, "generation": 1}
    finalizer = FINALIZERS.get(kind)
    if finalizer is not None:
        asked = metadata.get("finalizers") or []
        metadata["finalizers"] = asked if finalizer in asked else [*asked, finalizer]
    return {**body, "metadata": metadata, "status": first_status(now)}


def first_status(now: str) -> dict[str, Any]:
    """Nothing has been looked at yet: kstatus' InProgress, with a reason."""
    states = (("Ready", "Unknown"), ("Reconciling", "True"), ("Stalled", "False"))
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": PENDING,
            "message": "Waiting for the controller",
            "lastTransitionTime": now,
            "observedGeneration": 0,
        }
        for kind, status in states
    ]
    return {"observedGeneration": 0, "phase": PENDING, "reason": PENDING, "conditions": conditions}
