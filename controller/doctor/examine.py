"""Gathering the facts: every host at the same time, each within bounds, through the ports.

A host that does not answer costs its deadline and nobody else's time. Sessions stay open until the round is
over, since hosts are then compared with each other; all are closed before the facts are handed over.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from controller.doctor.facts import NO_CLUSTER, ClusterFacts, Failure, Host, Pair, Round, Subject
from drivers.errors import AuthFailed, HypervisorError, SpecRejected, Unreachable, Unsupported
from drivers.hypervisor import EventSink, Session, Target
from drivers.inspection import CpuFit, CpuOffer, Inspection, Inspector

AT_ONCE = 16  # hosts looked at together
HOST_S = 90.0  # a host's parts together; each has a deadline of its own
_UNTOLD = "the host-model processor of both, which libvirt does not tell"

# What an opening was doing when it ended, in three words for people.
_PHASES = {"resolving its name": "name", "connecting to its port": "port", "connecting": "port"}
_KINDS: tuple[tuple[type[HypervisorError], str], ...] = (
    (AuthFailed, "auth"),
    (SpecRejected, "uri"),
    (Unsupported, "uri"),
    (Unreachable, "unreachable"),
)


class Opener(Protocol):
    async def open(self, target: Target, sink: EventSink) -> Session: ...


@dataclass(frozen=True, slots=True)
class Request:
    subjects: tuple[Subject, ...]
    cluster: ClusterFacts | None = None
    cluster_unread: str = NO_CLUSTER


@dataclass(slots=True)
class Examination:
    """One round. `say` tells the user what is about to happen, where that matters."""

    opener: Opener
    inspector: Inspector
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sessions: dict[str, Session] = field(default_factory=dict)

    async def run(self, request: Request) -> Round:
        try:
            return await self._run(request)
        finally:
            await asyncio.gather(*(session.close() for session in self.sessions.values()))

    async def _run(self, request: Request) -> Round:
        limit = asyncio.Semaphore(AT_ONCE)

        async def look(subject: Subject) -> Host:
            async with limit:
                return await self._host(subject)

        hosts = await asyncio.gather(*(look(subject) for subject in request.subjects))
        pairs = await self._pairs([host for host in hosts if host.inspection is not None])
        return Round(tuple(hosts), pairs, request.cluster, request.cluster_unread)

    async def _host(self, subject: Subject) -> Host:
        began = self.clock()
        try:
            session = await self.opener.open(Target(subject.name, subject.uri, subject.read_only), _ignore)
        except HypervisorError as error:
            return Host(subject, failure=_failure(error))
        self.sessions[subject.name] = session
        opened_in_s = self.clock() - began
        try:
            async with asyncio.timeout(HOST_S):
                return Host(subject, await self.inspector.inspect(session), opened_in_s=opened_in_s)
        except HypervisorError as error:
            return Host(subject, failure=_failure(error), opened_in_s=opened_in_s)
        except TimeoutError:
            slow = Failure("failed", "", f"it did not tell of itself within {HOST_S:g} s")
            return Host(subject, failure=slow, opened_in_s=opened_in_s)

    # -- pairs ---------------------------------------------------------------------------------------

    async def _pairs(self, hosts: Sequence[Host]) -> tuple[Pair, ...]:
        """Those between which a domain could be moved at all: of one driver."""
        ordered = [
            (one, other)
            for one, other in itertools.permutations(hosts, 2)
            if _read(one).facts.driver == _read(other).facts.driver
        ]
        return tuple([await self._pair(one, other) for one, other in ordered])

    async def _pair(self, source: Host, target: Host) -> Pair:
        pair = Pair(source.name, target.name)
        wanted, there = _read(source).cpu, _read(target).cpu
        if not wanted.model_xml or not there.model_xml:
            needs = _UNTOLD if _read(source).facts.driver == "qemu" else ""
            return replace(pair, cpu_unread=needs)
        asked = replace(there, model_xml=wanted.model_xml)
        try:
            fit = await self.inspector.compare_cpu(self.sessions[target.name], asked)
        except HypervisorError as error:
            return replace(pair, cpu_unread=f"an answer of {target.name}: {error.message}")
        if fit is not CpuFit.INCOMPATIBLE:
            return replace(pair, cpu=fit)
        return replace(pair, cpu=fit, baseline=await self._baseline(target.name, (there, wanted)))

    async def _baseline(self, asked: str, offers: tuple[CpuOffer, CpuOffer]) -> str:
        try:
            xml = await self.inspector.baseline_cpu(self.sessions[asked], offers)
        except HypervisorError:
            return ""  # it is a suggestion; that they differ is said in any case
        return " ".join(xml.split())


def _read(host: Host) -> Inspection:
    assert host.inspection is not None, "only hosts that were reached are compared"
    return host.inspection


def _failure(error: HypervisorError) -> Failure:
    kind = next((word for type_, word in _KINDS if isinstance(error, type_)), "failed")
    phase = _PHASES.get(error.phase, "open") if error.phase else ""
    return Failure(kind, phase, error.message)


def _ignore(_session: object, _events: object) -> None:
    """Events are for controllers; a look is over in seconds."""
