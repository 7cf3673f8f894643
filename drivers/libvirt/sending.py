"""A mutation in its worker thread: found, allowed, sent, and what its answer means.

It is sent only if its permit still holds at the last moment, by the same clock that the permit was given by
(safety: I4), and only if nobody has given it up before. What was never sent is Failed; which outcome an error
of what was sent means stands in `errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drivers.errors import CallTimedOut, HypervisorError, PermitExpired
from drivers.hypervisor import Outcome, Permit, Result
from drivers.libvirt.errors import outcome
from drivers.libvirt.lane import Gate
from drivers.libvirt.link import attempt
from drivers.libvirt.reads import Clock

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Reply:
    """From the worker thread of a mutation: whether it was sent, and what came back."""

    sent: bool
    error: HypervisorError | None


@dataclass(frozen=True, slots=True)
class Sending:
    raw: Any
    call: str
    prepare: Callable[[Any], Call]
    gate: Gate
    permit: Permit
    clock: Clock


def send(what: Sending) -> Reply:
    """In the worker thread. Nothing may come between the look at the clock and the C call."""
    call = attempt(what.raw, what.call, lambda: what.prepare(what.raw))
    if isinstance(call, HypervisorError):
        return Reply(False, call)
    if not what.gate.enter():
        return Reply(False, CallTimedOut(f"{what.call}: given up before it was sent"))
    answer = attempt(what.raw, what.call, lambda: _fire(what, call))
    if isinstance(answer, PermitExpired):
        return Reply(False, answer)
    return Reply(True, answer if isinstance(answer, HypervisorError) else None)


def _fire(what: Sending, call: Call) -> object:
    late_s = what.clock() - what.permit.not_after_s
    if late_s >= 0:
        return PermitExpired(f"{what.call}: not sent, the leave to act had ended {late_s:.3f} s before")
    return call()


def result_of(reply: Reply) -> Result:
    if reply.error is None:
        return Result(Outcome.DONE)
    found = outcome(reply.error)
    if not reply.sent and found is Outcome.AMBIGUOUS:
        found = Outcome.FAILED
    return Result(found, reply.error)
