"""Hosts compared with each other and with the Nodes that are registered: one identity each, and what they
have in common.

Two tables: `AMONG_CHECKS` says things of one host in the light of all, `PAIR_CHECKS` of one ordered pair:
from which host, to which, a domain would be migrated.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from controller.doctor.facts import Host, Pair, Registered, Round
from controller.doctor.findings import Check, Finding, Mend, Severity
from controller.doctor.hostchecks import SET_HOST_UUID
from controller.doctor.probed import Attempt, diagnose
from controller.doctor.seen import Seen, connected, listed, version
from drivers.hypervisor import HostFacts
from drivers.inspection import CpuFit, Inspection


def _identity(facts: HostFacts) -> tuple[str, str, str]:
    return (facts.host_uuid, facts.driver, facts.mode)


def _others(seen: Seen) -> list[Host]:
    return [host for host in seen.round.hosts if host is not seen.host and host.inspection is not None]


def _registered(seen: Seen) -> list[Registered]:
    """Nodes other than this host's own."""
    cluster = seen.round.cluster
    subject = seen.host.subject
    nodes = () if cluster is None else cluster.nodes
    return [n for n in nodes if n.node != subject.node and (subject.node or n.uri != subject.uri)]


# -- identity --------------------------------------------------------------------------------------------


def _has_identity(seen: Seen) -> str | None:
    needed = connected(seen)
    return None if needed == "" and not seen.inspection.facts.host_uuid else needed


def _has_cluster(seen: Seen) -> str | None:
    return _has_identity(seen) or (seen.round.cluster_unread if seen.round.cluster is None else "")


def _duplicate_given(seen: Seen) -> Iterator[Finding]:
    mine = _identity(seen.inspection.facts)
    for other in _others(seen):
        assert other.inspection is not None, "_others gives those that were reached"
        if _identity(other.inspection.facts) == mine:
            yield _duplicate(seen, other.name, other.inspection.facts.hostname)


def _duplicate_registered(seen: Seen) -> Iterator[Finding]:
    mine = _identity(seen.inspection.facts)
    given = {host.subject.node for host in _others(seen)}
    for node in _registered(seen):
        if (node.host_uuid, node.driver, node.mode) == mine and node.node not in given:
            yield _duplicate(seen, f"Node {node.node} ({node.uri})", "")


def _duplicate(seen: Seen, other: str, hostname: str) -> Finding:
    mine = seen.inspection.facts
    named = f"; it calls itself {hostname}, this one {mine.hostname}" if hostname else ""
    return Finding(
        seen=f"host_uuid {mine.host_uuid} is that of {other} too{named}",
        why="either it is the same host under two names, or one is a clone of the other: domctl refuses the "
        "second Node, and libvirt does not migrate between hosts of one host_uuid",
        mend=(seen.on_host(SET_HOST_UUID),),
    )


# -- versions --------------------------------------------------------------------------------------------


def _has_company(seen: Seen) -> str | None:
    needed = connected(seen)
    if needed:
        return needed
    return "" if _peers(seen) else "a second host of this driver, given or registered"


def _peers(seen: Seen) -> list[tuple[str, str, str]]:
    """(name, libvirt's version, the hypervisor's version) of others with this driver."""
    driver = seen.inspection.facts.driver
    found = [(h.name, h.inspection.facts) for h in _others(seen) if h.inspection is not None]
    peers = [(n, f.libvirt_version, f.hypervisor_version) for n, f in found if f.driver == driver]
    given = {name for name, *_ in peers} | {h.subject.uri for h in seen.round.hosts}
    for node in _registered(seen):
        if node.driver == driver and node.hypervisor_version and not {node.node, node.uri} & given:
            peers.append((node.node, node.libvirt_version, node.hypervisor_version))
    return peers


def _skew(seen: Seen) -> Iterator[Finding]:
    facts = seen.inspection.facts
    newest = max(_peers(seen), key=lambda peer: (version(peer[2]), version(peer[1]), peer[0]))
    name, libvirt, hypervisor = newest
    if version(facts.hypervisor_version) < version(hypervisor):
        yield Finding(
            seen=f"{facts.driver.upper()} {facts.hypervisor_version}; {name} has {hypervisor}",
            why="domains that were started on the newer one may not be migrated to the older one",
            mend=(seen.on_host("apt-get install --only-upgrade qemu-system-x86 libvirt-daemon-system"),),
        )
    elif version(facts.libvirt_version) < version(libvirt):
        yield Finding(
            seen=f"libvirt {facts.libvirt_version}; {name} has {libvirt}",
            why="definitions of the newer one may name what the older one does not know",
            mend=(seen.on_host("apt-get install --only-upgrade libvirt-daemon-system"),),
            severity=Severity.INFO,
        )


def _models(seen: Seen) -> dict[str, str]:
    """Processors of registered Nodes that were not named too, as the cluster saw them."""
    driver = seen.inspection.facts.driver
    given = {host.subject.uri for host in seen.round.hosts}
    return {n.node: n.cpu_model for n in _registered(seen) if n.driver == driver and n.uri not in given}


def _has_models(seen: Seen) -> str | None:
    needed = _has_cluster(seen)
    if needed or needed is None:
        return needed
    known = any(_models(seen).values()) and seen.inspection.facts.cpu_model
    return "" if known else "other registered Nodes whose processors are known"


def _model(seen: Seen) -> Iterator[Finding]:
    mine = seen.inspection.facts.cpu_model
    others: dict[str, list[str]] = {}
    for node, model in _models(seen).items():
        if model and model != mine:
            others.setdefault(model, []).append(node)
    for model, nodes in sorted(others.items()):
        names = " ".join(shlex.quote(name) for name in (seen.name, *sorted(nodes)))
        yield Finding(
            seen=f"its processor is a {mine}, and a {model} on {listed(nodes)}",
            why="domains with cpu mode host-model or host-passthrough may not be migrated between them",
            mend=(seen.here(f"domctl doctor {names}"),),
        )


AMONG_CHECKS: tuple[Check[Seen], ...] = (
    Check("host-uuid-unique", Severity.ERROR, _has_identity, _duplicate_given),
    Check("host-uuid-registered", Severity.ERROR, _has_cluster, _duplicate_registered),
    Check("version-skew", Severity.WARNING, _has_company, _skew),
    Check("cpu-registered", Severity.INFO, _has_models, _model),
)


# -- pairs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SeenPair:
    pair: Pair
    round: Round

    @property
    def source(self) -> Inspection:
        return _inspected(self.round.host(self.pair.source))

    @property
    def target(self) -> Inspection:
        return _inspected(self.round.host(self.pair.target))


def _inspected(host: Host) -> Inspection:
    assert host.inspection is not None, "only hosts that were reached are paired"
    return host.inspection


def _has_machines(seen: SeenPair) -> str | None:
    unread = seen.source.unread.get("capabilities") or seen.target.unread.get("capabilities")
    if unread:
        return f"capabilities of both: {unread}"
    return "" if seen.source.facts.machines and seen.target.facts.machines else None


def _machines(seen: SeenPair) -> Iterator[Finding]:
    source, target = seen.source, seen.target
    show = Mend(f"virsh -c {shlex.quote(seen.round.host(seen.pair.target).subject.uri)} capabilities")
    if source.facts.arch != target.facts.arch:
        yield Finding(
            seen=f"{seen.pair.source} is {source.facts.arch}, {seen.pair.target} is {target.facts.arch}",
            why="a running domain cannot change its architecture",
            mend=(show,),
        )
        return
    if not set(source.facts.machines) & set(target.facts.machines):
        yield Finding(
            seen="they have no machine type in common",
            why="no domain can be migrated between them",
            mend=(show,),
        )
        return
    for alias, canonical in sorted(source.aliases.items()):
        if canonical not in target.facts.machines:
            yield Finding(
                seen=f"machine {alias} is {canonical} on {seen.pair.source}, which {seen.pair.target} lacks",
                why=f"domains started there as {alias} cannot be migrated here; name one that both have in "
                "spec.os.machine: "
                + listed(
                    name
                    for name in set(source.facts.machines) & set(target.facts.machines)
                    if name not in source.aliases
                ),
                mend=(Mend("apt-get install --only-upgrade qemu-system-x86", seen.pair.target),),
                severity=Severity.WARNING,
            )


def _has_cpu(seen: SeenPair) -> str | None:
    if seen.pair.cpu is not None:
        return ""
    return seen.pair.cpu_unread or None


def _cpu(seen: SeenPair) -> Iterator[Finding]:
    if seen.pair.cpu is not CpuFit.INCOMPATIBLE:
        return
    baseline = f"; a processor that both have: {seen.pair.baseline}" if seen.pair.baseline else ""
    uri = seen.round.host(seen.pair.source).subject.uri
    yield Finding(
        seen=f"{seen.pair.target} does not offer all of the processor of {seen.pair.source} "
        f"({seen.source.cpu.model or 'unknown'}, there {seen.target.cpu.model or 'unknown'})",
        why="domains with cpu mode host-model or host-passthrough that were started there cannot be migrated "
        f"here{baseline}",
        mend=(Mend(f"virsh -c {shlex.quote(uri)} domcapabilities"),),
    )


def _has_probe(seen: SeenPair) -> str | None:
    if seen.pair.probe is not None:
        return ""
    return seen.pair.probe_unread or None


def _migration(seen: SeenPair) -> Iterator[Finding]:
    source, target = seen.round.host(seen.pair.source), seen.round.host(seen.pair.target)
    assert seen.pair.probe is not None, "_has_probe says so"
    return diagnose(Attempt(seen.pair.probe, source, target, source.place, target.place, seen.pair.peer_uri))


def _removed(seen: SeenPair) -> Iterator[Finding]:
    probe = seen.pair.probe
    assert probe is not None, "_has_probe says so"
    for name in probe.left_on:
        uri = shlex.quote(seen.round.host(name).subject.uri)
        yield Finding(
            seen=f"{probe.name} could not be removed from {name}, or not be seen to be gone",
            why="it has no disk and ends by itself within half a minute, unless its host stands still",
            mend=(Mend(f"virsh -c {uri} destroy {probe.uuid}"),),
        )


PAIR_CHECKS: tuple[Check[SeenPair], ...] = (
    Check("machines", Severity.ERROR, _has_machines, _machines),
    Check("cpu", Severity.WARNING, _has_cpu, _cpu),
    Check("migration", Severity.ERROR, _has_probe, _migration),
    Check("probe-removed", Severity.ERROR, _has_probe, _removed),
)
