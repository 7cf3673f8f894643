"""Gathering the facts: every host at the same time, each within bounds, through the ports.

A host that does not answer costs its deadline and nobody else's time. Sessions stay open until the round is
over, since hosts are then compared with each other; all are closed before the facts are handed over.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from controller.doctor.contents import PROBE_PREFIX
from controller.doctor.facts import NO_CLUSTER, ClusterFacts, Failure, Host, Pair, Round, Subject
from controller.doctor.probe import MEMORY_MIB, Way, guest, probe
from controller.doctor.shell import COMMANDS, ShellFacts, facts_of
from drivers.errors import AuthFailed, HypervisorError, SpecRejected, Unreachable, Unsupported
from drivers.hypervisor import Credentials, EventSink, Session, Target
from drivers.inspection import CpuFit, CpuOffer, Inspection, Inspector
from drivers.shell import Destination, Shell, ShellFailed
from specs.uri import parse_migration_uri, parse_uri

AT_ONCE = 16  # hosts looked at together, and pairs of them
SHELLS_AT_ONCE = 4  # sshd lets ten in at once that are not known yet
HOST_S = 90.0  # a host's parts together; each has a deadline of its own
MIGRATING = ("qemu",)  # drivers that migrate running domains
VIRT_TYPES = ("kvm", "qemu")  # the best first
_UNTOLD = "the host-model processor of both, which libvirt does not tell"

# What an opening was doing when it ended, in three words for people.
_PHASES = {
    "resolving its name": "name",
    "connecting to its port": "port",
    "connecting": "port",
    "shaking hands for TLS": "handshake",
}
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
    probe: bool = False
    files_under: tuple[str, ...] = ()  # directories, and files, that connections may use
    commands: frozenset[str] = frozenset()


@dataclass(slots=True)
class Examination:
    """One round. `say` tells the user what is about to happen, where that matters; `new_id` gives UUIDs."""

    opener: Opener
    inspector: Inspector
    shell: Shell
    say: Callable[[str], None]
    new_id: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time
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
        pairs = await self._probes(request, {host.name: host for host in hosts}, pairs)
        return Round(tuple(hosts), pairs, request.cluster, request.cluster_unread, self.wall_s())

    async def _host(self, subject: Subject) -> Host:
        by_libvirt, by_ssh = await asyncio.gather(self._by_libvirt(subject), self._by_ssh(subject))
        facts, failure = by_ssh
        return replace(by_libvirt, shell=facts, shell_failure=failure)

    async def _by_ssh(self, subject: Subject) -> tuple[ShellFacts | None, str]:
        """The facts, or why there are none. The first command shows whether there is a way at all."""
        if subject.ssh is None:
            return None, ""
        to = subject.ssh
        (first, argv), *others = COMMANDS.items()
        limit = asyncio.Semaphore(SHELLS_AT_ONCE)
        unanswered: dict[str, str] = {}
        try:
            answers = {first: await self.shell.run(to, argv)}
        except ShellFailed as failed:
            return None, failed.message

        async def ask(name: str, argv: Sequence[str]) -> None:
            async with limit:
                try:
                    answers[name] = await self.shell.run(to, argv)
                except ShellFailed as failed:
                    unanswered[name] = f"an answer ({failed.message})"

        await asyncio.gather(*(ask(name, argv) for name, argv in others))
        return facts_of(answers, unanswered), ""

    async def _by_libvirt(self, subject: Subject) -> Host:
        began = self.clock()
        try:
            session = await self.opener.open(_target(subject), _ignore)
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
        limit = asyncio.Semaphore(AT_ONCE)

        async def compare(one: Host, other: Host) -> Pair:
            async with limit:
                return await self._pair(one, other)

        return tuple(await asyncio.gather(*(compare(one, other) for one, other in ordered)))

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

    # -- probes --------------------------------------------------------------------------------------

    async def _probes(
        self, request: Request, hosts: dict[str, Host], pairs: tuple[Pair, ...]
    ) -> tuple[Pair, ...]:
        """One after the other: two migrations at once would be in each other's way."""
        ready = [_prospect(pair, hosts[pair.source], hosts[pair.target], request) for pair in pairs]
        to_do = sum(not pair.probe_unread and bool(pair.peer_uri) for pair in ready)
        if to_do:
            self.say(
                f"probe: {to_do} times, a guest without disks ({MEMORY_MIB} MiB, named {PROBE_PREFIX}…) is "
                "started on one host, migrated to another and removed again"
            )
        return tuple([await self._probed(hosts, pair) for pair in ready])

    async def _probed(self, hosts: dict[str, Host], pair: Pair) -> Pair:
        if pair.probe_unread or not pair.peer_uri:
            return pair
        self.say(f"probe: {pair.source} -> {pair.target}")
        source, target = _read(hosts[pair.source]).facts, _read(hosts[pair.target]).facts
        types = [word for word in VIRT_TYPES if word in source.domain_types and word in target.domain_types]
        way = Way(pair.source, pair.target, pair.peer_uri, types or VIRT_TYPES[-1:], self._session(hosts))
        return replace(pair, probe=await probe(way, guest(self.new_id(), source.arch)))

    def _session(self, hosts: dict[str, Host]) -> Callable[[str], Awaitable[Session]]:
        async def session(name: str) -> Session:
            if not self.sessions[name].is_open:
                subject = hosts[name].subject
                self.sessions[name] = await self.opener.open(_target(subject), _ignore)
            return self.sessions[name]

        return session


def _prospect(pair: Pair, source: Host, target: Host, request: Request) -> Pair:
    """Over which URI a probe would go, or what it would need."""
    if _read(source).facts.driver not in MIGRATING:
        return pair
    if not request.probe:
        return replace(pair, probe_unread="--probe")
    read_only = [host.name for host in (source, target) if host.subject.read_only]
    if read_only:
        leave = f"leave to change {' and '.join(read_only)}: observeOnly forbids it"
        return replace(pair, probe_unread=leave)
    peer_uri = peer_uri_of(target.subject)
    if not peer_uri:
        way = f"a way to {target.name} for other hosts: spec.migrationURI of its Node"
        return replace(pair, probe_unread=way)
    return replace(pair, peer_uri=peer_uri)


def destination(text: str, uri: str, config: str = "", *, of: Credentials | None = None) -> Destination:
    """`[USER@][HOST][:PORT]` of --ssh. What is left out is that of the host's URI; without a `config` the
    files are those that `of` names. Raises ValueError."""
    user, _, rest = text.rpartition("@")
    host, colon, number = rest.partition(":") if rest.count(":") == 1 else (rest, "", "")
    parsed = parse_uri(uri)
    port = int(number) if number.isdecimal() else 0
    if colon and not port:
        raise ValueError(f"the port must be a number, is {number!r}")
    if not host and not parsed.host:
        raise ValueError(f"{uri} names no host: write --ssh {text or '[USER@]'}HOST")
    if not host and parsed.transport == "ssh":
        user, port = user or parsed.user, port or parsed.port
    files = ("", "") if config or of is None else (of.known_hosts, of.key_file)
    return Destination(host.strip("[]") or parsed.host, user, port, config, *files)


def peer_uri_of(subject: Subject) -> str:
    """What another host's libvirtd opens: the Node's migrationURI, else its URI without what is ours alone;
    "" if that names no host."""
    try:
        return parse_migration_uri(subject.migration_uri or subject.uri.partition("?")[0])
    except ValueError:
        return ""


def _target(subject: Subject) -> Target:
    return Target(subject.name, subject.uri, subject.read_only, subject.credentials)


def _read(host: Host) -> Inspection:
    assert host.inspection is not None, "only hosts that were reached are compared"
    return host.inspection


def _failure(error: HypervisorError) -> Failure:
    kind = next((word for type_, word in _KINDS if isinstance(error, type_)), "failed")
    phase = _PHASES.get(error.phase, "open") if error.phase else ""
    return Failure(kind, phase, error.message, str(error.cause or ""))


def _ignore(_session: object, _events: object) -> None:
    """Events are for controllers; a look is over in seconds."""
