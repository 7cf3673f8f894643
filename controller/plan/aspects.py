"""Conditions beside Ready: what is worth knowing of a domain whether or not anything is due for it.

Each is (type, status, reason, message), computed from a case as rules see it. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from controller.plan import states
from controller.plan.case import Case
from specs.domain import effective_shutdown, restarts_elsewhere

Truth = Literal["True", "False", "Unknown"]
Aspect = tuple[str, Truth, str, str]


def aspects(case: Case) -> tuple[Aspect, ...]:
    found = (_saved_memory(case), _room(case), _failover(case), _agent(case))
    return tuple(one for one in found if one is not None)


def _saved_memory(case: Case) -> Aspect | None:
    """There is some, and with which definition it goes on."""
    if case.held is None or not case.is_saved:
        return None
    lacks = states.otherwise(case)
    if not lacks:
        message = f"its memory is saved on {case.node}; the next start goes on from there"
        return "SavedMemory", "True", "OfThisDefinition", message
    target = case.command_target
    return (
        "SavedMemory",
        "True",
        "OfOlderDefinition",
        f"its memory was saved with an older definition ({lacks}), and goes on with that one: "
        f"domctl restore {target} to let it, domctl drop-saved {target} to boot anew",
    )


def _room(case: Case) -> Aspect | None:
    """Whether the host could be asked for room before its memory was saved."""
    if case.held is None or not case.assignment.save_room:
        return None
    if case.assignment.save_room == "checked":
        return "SaveRoom", "True", "Checked", f"{case.node} had room for its memory"
    return (
        "SaveRoom",
        "Unknown",
        "NotChecked",
        f"whether {case.node} had room was not known: no active storage pool there has libvirt's directory "
        "of saved memory for its target",
    )


def _failover(case: Case) -> Aspect | None:
    """What recovery.onNodeFailure: Restart can do today."""
    if case.stored is None or not restarts_elsewhere(case.stored.domain.spec):
        return None
    message = (
        "it is started elsewhere once its node was confirmed dead by hand (domctl node confirm-dead): "
        "nothing fences nodes yet"
    )
    return "FailsOver", "False", "NeedsConfirmDead", message


AGENT: Mapping[str, tuple[Truth, str, str]] = MappingProxyType(
    {
        "connected": ("True", "Connected", "the guest's agent has opened its channel"),
        "disconnected": (
            "False",
            "NotConnected",
            "nobody in the guest has opened the agent's channel, so a shutdown passes its step agent over: "
            "install qemu-guest-agent in the guest and start it, or wait until the guest has booted",
        ),
        "unknown": ("Unknown", "NotTold", "the host does not tell whether the agent's channel is open"),
        "": (
            "False",
            "NoChannel",
            "it was started without a channel for its agent, so a shutdown passes its step agent over: "
            "domctl shutdown {target}, then domctl start {target}",
        ),
    }
)


def _agent(case: Case) -> Aspect | None:
    """Of a domain that runs and is to be asked to stop by its agent: whether that would hear."""
    seen = case.all_sightings.get(case.node) if case.held is not None else None
    if case.stored is None or seen is None or not seen.record.active:
        return None
    if all(rung.method != "agent" for rung in effective_shutdown(case.stored.domain.spec)):
        return None
    view = case.snap.views.get(case.node)
    if view is None or not view.answers:
        return "AgentConnected", "Unknown", "NodeUnreachable", f"{case.node} does not answer"
    status, reason, message = AGENT.get(seen.detail.agent, AGENT["unknown"])
    return "AgentConnected", status, reason, message.format(target=case.command_target)
