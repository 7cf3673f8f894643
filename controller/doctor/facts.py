"""What a look at hosts found out: values only, gathered by `examine`, judged by the tables of checks.

`Host` is one of the hosts that were named, `Pair` an ordered pair of them (from where, to where),
`Registered` what the cluster knows of its Nodes without asking their hosts. None stands for *was not looked
at*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.doctor.shell import ShellFacts
from drivers.hypervisor import Credentials
from drivers.inspection import CpuFit, Inspection
from drivers.shell import Destination
from specs.uri import ParsedUri, parse_uri

NO_CLUSTER = "a kubeconfig of the cluster"


def credentials(named: Mapping[str, str]) -> Credentials:
    """Of a Node's spec.connection, by its field names."""
    return Credentials(
        known_hosts=named.get("knownHosts", ""),
        key_file=named.get("keyFile", ""),
        pki_dir=named.get("pkiDir", ""),
        auth_file=named.get("authFile", ""),
        command=named.get("command", ""),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A host as it was named: by a Node (`node` is its name) or by a URI."""

    name: str
    uri: str
    node: str = ""
    read_only: bool = False
    insecure: bool = False  # the Node says that it knows
    migration_uri: str = ""  # the Node's own
    ssh: Destination | None = None
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def ssh_text(self) -> str:
        return "" if self.ssh is None else self.ssh.text


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no session. `kind`: unreachable, auth, uri or failed; `phase`: name, port, handshake, open
    or ""; `cause`: a word of `drivers.errors.Cause`, "" where it is not known better."""

    kind: str
    phase: str
    message: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """One of those named. `shell_failure`: why there are no facts by ssh although they were asked for."""

    subject: Subject
    inspection: Inspection | None = None
    failure: Failure | None = None
    opened_in_s: float = 0.0
    shell: ShellFacts | None = None
    shell_failure: str = ""

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def place(self) -> str:
        """As people know it, for commands to be run there."""
        if self.subject.node:
            return self.subject.node
        hostname = self.inspection.facts.hostname if self.inspection is not None else ""
        return hostname or (self.uri.host if self.uri is not None else "") or self.name

    @property
    def uri(self) -> ParsedUri | None:
        try:
            return parse_uri(self.subject.uri)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Registered:
    """A Node's spec and status, as the cluster has them."""

    node: str
    uri: str
    host_uuid: str = ""
    driver: str = ""
    mode: str = ""
    libvirt_version: str = ""
    hypervisor_version: str = ""
    cpu_model: str = ""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """`domains`: libvirt's UUID of each domain of the cluster → whether its spec wants autostart."""

    nodes: tuple[Registered, ...] = ()
    domains: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """How a guest's migration went. `stage`: where it ended (name, define, start, undefine, migrate, arrive,
    read), "" if it arrived; `refused`: the virtualisation that did not start, and why; `left_on`: hosts that
    it may still be on."""

    stage: str = ""
    message: str = ""
    took_s: float = 0.0
    downtime_ms: int | None = None
    virt_type: str = ""
    refused: str = ""
    uuid: str = ""
    name: str = ""
    left_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """`cpu`: how the target's processor compares with the source's; None with the reason in `cpu_unread`.
    `baseline`: a <cpu> that both have, where they differ. `probe_unread`: what a probe would need, "" where
    it has no meaning; `peer_uri`: what the source's libvirtd opened for it."""

    source: str
    target: str
    cpu: CpuFit | None = None
    cpu_unread: str = ""
    baseline: str = ""
    peer_uri: str = ""
    probe: Probe | None = None
    probe_unread: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One examination. `cluster` None: no cluster was asked, `cluster_unread` says why."""

    hosts: tuple[Host, ...]
    pairs: tuple[Pair, ...] = ()
    cluster: ClusterFacts | None = None
    cluster_unread: str = NO_CLUSTER
    wall_s: float = 0.0  # since the epoch

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)
