"""What a host has already: its domains, storage pools and networks, and its memory.

A table of checks over `Seen`, in two halves of one subject: what domctl must not touch, and what its domains
would need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from controller.doctor.findings import Check, Finding, Severity
from controller.doctor.seen import Part, Seen, listed
from drivers.inspection import HostObject, Resident

PROBE_PREFIX = "domctl-doctor-"  # of the names of guests that --probe makes
_LITTLE_FREE = 0.05
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def called(domain: Resident) -> str:
    """A word that names it in a command; hosts choose names, and not only plain ones."""
    return domain.name if _PLAIN.fullmatch(domain.name) else domain.uuid


def _is_ours(seen: Seen, resident: Resident) -> bool:
    cluster = seen.round.cluster
    return bool(resident.cluster) if cluster is None else resident.uuid in cluster.domains


def _autostart(seen: Seen) -> Iterator[Finding]:
    wanted = {} if seen.round.cluster is None else seen.round.cluster.domains
    for one in seen.inspection.residents:
        if not one.autostart or wanted.get(one.uuid, False) or one.name.startswith(PROBE_PREFIX):
            continue
        ours = _is_ours(seen, one)
        yield Finding(
            seen=f"domain {one.name} has autostart set",
            why="libvirtd starts it at boot before anybody is asked: after a power cut it runs twice if it "
            "was started elsewhere meanwhile" + ("" if ours else "; domctl never touches it, it is not ours"),
            mend=(seen.virsh("autostart", "--disable", called(one)),),
            severity=Severity.ERROR if ours else Severity.WARNING,
        )


def _residents(seen: Seen) -> Iterator[Finding]:
    inspection = seen.inspection
    foreign = [one for one in inspection.residents if not _is_ours(seen, one)]
    foreign = [one for one in foreign if not one.name.startswith(PROBE_PREFIX)]
    unmarked = [one for one in foreign if not one.cluster]
    if unmarked:
        running = sum(one.active for one in unmarked)
        yield Finding(
            seen=f"{len(unmarked)} domains that are not domctl's, {running} of them active: "
            + listed(one.name for one in unmarked),
            why="they count as used capacity and are never touched; their names and UUIDs are taken",
            mend=(seen.virsh("list", "--all"),),
        )
    for cluster in sorted({one.cluster for one in foreign if one.cluster}):
        names = listed(one.name for one in foreign if one.cluster == cluster)
        yield Finding(
            seen=f"domains with the mark of cluster {cluster}: {names}",
            why="another controller manages this host, or did: two must not manage one host",
            mend=(seen.virsh("list", "--all"),),
            severity=Severity.WARNING,
        )
    if inspection.residents_left_out:
        yield Finding(
            seen=f"{inspection.residents_left_out} more domains were not looked at",
            why="their autostart and their marks are not known",
            mend=(seen.virsh("list", "--all", "--autostart"),),
        )


def _left_probes(seen: Seen) -> Iterator[Finding]:
    for one in seen.inspection.residents:
        if one.name.startswith(PROBE_PREFIX):
            yield Finding(
                seen=f"{one.name}, a guest of `domctl doctor --probe`, is still there",
                why="an earlier probe was killed before it could clean up; the guest has no disk and no use",
                mend=(seen.virsh("destroy" if one.active else "undefine", one.uuid),),
            )


def _inactive(
    what: str, option: str, start: str, found: Iterable[HostObject], seen: Seen
) -> Iterator[Finding]:
    for one in found:
        words = [
            word
            for word, bad in (("inactive", not one.active), ("not started at boot", not one.autostart))
            if bad
        ]
        if not words:
            continue
        commands = [(start, not one.active), (start.replace("start", "autostart"), not one.autostart)]
        yield Finding(
            seen=f"{what} {one.name} is {' and '.join(words)}",
            why=f"domains that name this {what} cannot start while it is inactive",
            mend=tuple(
                seen.virsh(command, f"--{option}={one.name}") for command, needed in commands if needed
            ),
            severity=Severity.INFO if one.active else Severity.WARNING,
        )


def _pools(seen: Seen) -> Iterator[Finding]:
    return _inactive("storage pool", "pool", "pool-start", seen.inspection.pools, seen)


def _networks(seen: Seen) -> Iterator[Finding]:
    return _inactive("network", "network", "net-start", seen.inspection.networks, seen)


def _memory(seen: Seen) -> Iterator[Finding]:
    facts = seen.inspection.facts
    if facts.memory_bytes and 0 < facts.free_memory_bytes < _LITTLE_FREE * facts.memory_bytes:
        yield Finding(
            seen=f"{facts.free_memory_bytes >> 20} MiB of {facts.memory_bytes >> 20} MiB are free",
            why="domctl places by what it promised, not by what is free: starts may fail for want of memory",
            mend=(seen.on_host("ps -eo rss,pid,comm --sort=-rss | head"),),
        )
    small = min((page.size_bytes for page in seen.inspection.pages), default=0)
    for page in seen.inspection.pages:
        if page.size_bytes > small and page.count:
            yield Finding(
                seen=f"{page.count * page.size_bytes >> 20} MiB are set aside as pages of "
                f"{page.size_bytes >> 20} MiB",
                why="only domains with <hugepages/> get them, yet they count as the host's memory: reserve "
                "them in the Node's spec.reserved.memory",
                mend=(seen.virsh("freepages", "--all"),),
                severity=Severity.INFO,
            )


CONTENT_CHECKS: tuple[Check[Seen], ...] = (
    Check("autostart", Severity.WARNING, Part("residents"), _autostart),
    Check("domains", Severity.INFO, Part("residents"), _residents),
    Check("left-probes", Severity.WARNING, Part("residents"), _left_probes),
    Check("storage-pools", Severity.WARNING, Part("pools"), _pools),
    Check("networks", Severity.WARNING, Part("networks"), _networks),
    Check("memory", Severity.WARNING, Part("capabilities"), _memory),
)
