"""All verdicts of a round as plain values: what `-o json` shows, and what the text is laid out from.

Pure. `exit_code`: 0 nothing is wrong, 1 there are findings of severity error, 2 a host could not be reached
at all (nothing is known of it then, whatever was found elsewhere).
"""

from __future__ import annotations

from typing import Any

from controller.doctor.among import AMONG_CHECKS, PAIR_CHECKS, SeenPair
from controller.doctor.contents import CONTENT_CHECKS
from controller.doctor.facts import Host, Pair, Round
from controller.doctor.findings import Finding, Mend, Verdict, judge
from controller.doctor.hostchecks import HOST_CHECKS
from controller.doctor.seen import Seen
from controller.doctor.shellchecks import SHELL_CHECKS

API_VERSION = "doctor.domctl.io/v1"
OF_ONE_HOST = (*HOST_CHECKS, *CONTENT_CHECKS, *AMONG_CHECKS, *SHELL_CHECKS)
NOTHING_WRONG, WRONG, UNREACHED = 0, 1, 2
_ANOTHER_HOST = "another host: name two or more"


def report(seen: Round) -> dict[str, Any]:
    hosts = [(host, judge(OF_ONE_HOST, Seen(host, seen))) for host in seen.hosts]
    pairs = [(pair, judge(PAIR_CHECKS, SeenPair(pair, seen))) for pair in seen.pairs]
    verdicts = [verdict for _, verdict in hosts] + [verdict for _, verdict in pairs]
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    by_severity = {word: sum(f.severity == word for f in findings) for word in ("error", "warning", "info")}
    return {
        "apiVersion": API_VERSION,
        "kind": "DoctorReport",
        "hosts": [_host(host, verdict) for host, verdict in hosts],
        "pairs": [_pair(pair, verdict) for pair, verdict in pairs],
        "notChecked": [] if len(seen.hosts) > 1 else [{"check": "pairs", "needs": _ANOTHER_HOST}],
        "summary": {
            "hosts": len(seen.hosts),
            "unreached": sum(host.inspection is None for host in seen.hosts),
            **by_severity,
            "notChecked": sum(len(verdict.not_checked) for verdict in verdicts) + (len(seen.hosts) == 1),
        },
    }


def exit_code(made: dict[str, Any]) -> int:
    if made["summary"]["unreached"]:
        return UNREACHED
    return WRONG if made["summary"]["error"] else NOTHING_WRONG


def _host(host: Host, verdict: Verdict) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": host.name,
        "uri": host.subject.uri,
        "reached": host.inspection is not None,
    }
    if host.inspection is not None:
        facts = host.inspection.facts
        shown["facts"] = {
            "hostname": facts.hostname,
            "hostUuid": facts.host_uuid,
            "driver": facts.driver,
            "mode": facts.mode,
            "libvirtVersion": facts.libvirt_version,
            "hypervisorVersion": facts.hypervisor_version,
            "arch": facts.arch,
            "cpuModel": host.inspection.cpu.model or facts.cpu_model,
            "cpus": facts.cpus,
            "memoryBytes": facts.memory_bytes,
            "encrypted": facts.encrypted,
            "secure": facts.secure,
            "domains": len(host.inspection.residents) + host.inspection.residents_left_out,
        }
    return shown | _verdict(verdict)


def _pair(pair: Pair, verdict: Verdict) -> dict[str, Any]:
    shown: dict[str, Any] = {"from": pair.source, "to": pair.target}
    if pair.probe is not None and not pair.probe.stage:
        shown["probe"] = {
            "type": pair.probe.virt_type,
            "seconds": round(pair.probe.took_s, 3),
            "downtimeMs": pair.probe.downtime_ms,
        }
    return shown | _verdict(verdict)


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "findings": [_finding(one) for one in verdict.findings],
        "passed": list(verdict.passed),
        "notChecked": [{"check": one.check, "needs": one.needs} for one in verdict.not_checked],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "severity": str(finding.severity),
        "seen": finding.seen,
        "why": finding.why,
        "mend": [_mend(one) for one in finding.mend],
    }


def _mend(mend: Mend) -> dict[str, str]:
    return {"command": mend.command, "on": mend.on} if mend.on else {"command": mend.command}
