"""The kind Node: one libvirt host, reached by a URI, with what may be placed on it.

Cluster-scoped. `status` is what the host said last, and conditions say whether it may be trusted.
Fencing, maintenance and migration addresses come with the features that use them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from specs.domain import HostPath
from specs.meta import API_VERSION, Condition, ObjectMeta, Quantity, Struct

CONTROLLER_PATH = r"^/[A-Za-z0-9._+@:/-]*$"
ControllerPath = Annotated[
    str,
    Meta(
        pattern=CONTROLLER_PATH,
        max_length=1024,
        extra={"words": "an absolute path of letters, digits and . _ + @ : / -"},
    ),
]


class Taint(Struct, frozen=True, kw_only=True):
    """Nothing new is placed on a node with a NoSchedule taint; what runs there stays.

    key: As a label's key.
    value: As a label's value.
    effect: NoSchedule.
    """

    key: Annotated[str, Meta(min_length=1, max_length=253)]
    value: str | UnsetType = UNSET
    effect: Literal["NoSchedule"]


class Overcommit(Struct, frozen=True, kw_only=True):
    """How much may be promised for each unit there is.

    vcpus: 4, also when left out, means four vCPUs for each CPU.
    memory: 1 when left out: no more than there is.
    """

    vcpus: Annotated[float, Meta(ge=0.1, le=64)] | UnsetType = UNSET
    memory: Annotated[float, Meta(ge=0.1, le=8)] | UnsetType = UNSET


class Reserved(Struct, frozen=True, kw_only=True):
    """What the host keeps for itself.

    vcpus: CPUs; none when left out.
    memory: Such as 2Gi; none when left out.
    """

    vcpus: Annotated[int, Meta(ge=0, le=4096)] | UnsetType = UNSET
    memory: Annotated[Quantity, Meta(extra={"format": "reserved"})] | UnsetType = UNSET


class Connection(Struct, frozen=True, kw_only=True):
    """What the controller and the host know each other by: files of the controller's machine, below the
    directories that its configuration allows. Each belongs to certain transports. Secrets stand in the files,
    never here.

    known_hosts: For ssh: OpenSSH's known_hosts file with the host's key. No other key is accepted.
    key_file: For ssh: the private key, without passphrase and readable by its owner alone.
    pki_dir: For tls: a directory with cacert.pem, clientcert.pem and clientkey.pem.
    auth_file: For tcp and tls: a YAML file with username and password, which the host asks for by SASL.
    command: For ext: the program that connects. It must stand in connections.commands of the configuration.
    """

    known_hosts: ControllerPath | UnsetType = UNSET
    key_file: ControllerPath | UnsetType = UNSET
    pki_dir: ControllerPath | UnsetType = UNSET
    auth_file: ControllerPath | UnsetType = UNSET
    command: ControllerPath | UnsetType = UNSET


class NodeSpec(Struct, frozen=True, kw_only=True):
    """How a host is reached, and what may be placed on it.

    uri: libvirt's URI of the host: qemu+tls://host/system, qemu+ssh://user@host/system, ...
    connection: What the controller and the host know each other by; not needed for unix.
    unschedulable: Nothing new is placed here; what runs here stays.
    taints: Reasons to place nothing here.
    overcommit: How much may be promised for each unit there is.
    reserved: What the host keeps for itself.
    allowed_paths: The only host directories that disks, kernels and serial files of domains may name.
    observe_only: A read-only connection: nothing is placed or changed.
    migrationURI: What the libvirtd of another host opens to migrate a domain here, with credentials that it
        has itself, such as qemu+tls://host/system; when left out, uri, where that names a host.
    insecure: Must be true for a TCP URI without connection.authFile: whoever reaches that port is root.
    """

    uri: Annotated[str, Meta(min_length=1, max_length=512)]
    connection: Connection | UnsetType = UNSET
    unschedulable: bool | UnsetType = UNSET
    taints: Annotated[list[Taint], Meta(max_length=64)] | UnsetType = UNSET
    overcommit: Overcommit | UnsetType = UNSET
    reserved: Reserved | UnsetType = UNSET
    allowed_paths: Annotated[list[HostPath], Meta(max_length=64)] | UnsetType = UNSET
    observe_only: bool | UnsetType = UNSET
    migration_uri: Annotated[str, Meta(min_length=1, max_length=512)] | UnsetType = msgspec.field(
        name="migrationURI", default=UNSET
    )
    insecure: bool | UnsetType = UNSET


class NodeResources(Struct, frozen=True, kw_only=True):
    """An amount of what a node has.

    vcpus: Virtual CPUs.
    memory_bytes: Memory in bytes.
    """

    vcpus: int = 0
    memory_bytes: int = 0


class NodeStatus(Struct, frozen=True, kw_only=True):
    """What the host said last, and whether that may be trusted.

    observed_generation: The generation of spec that this status speaks of.
    phase: One word for tables.
    reason: Why the node is not ready, one word.
    host_uuid: The host's own UUID.
    driver: libvirt's driver: qemu, lxc, test, xen, vz.
    mode: system or session.
    hostname: The host's name for itself.
    uri: libvirt's canonical URI.
    libvirt_version: The version of libvirtd.
    hypervisor_version: The version of the hypervisor.
    arch: The architecture of the host.
    cpu_model: The model of its CPU.
    cpus: How many CPUs it has.
    max_vcpus: How many virtual CPUs one domain may have.
    memory_bytes: Its memory.
    free_memory_bytes: Its free memory when last asked.
    numa_cells: How many NUMA cells it has.
    encrypted: Whether libvirt itself encrypts the connection; over ssh it does not, for ssh does.
    secure: Whether the connection is out of reach of others: encrypted, a socket of this machine, or ssh.
    allocatable: Capacity with overcommit, less what is reserved.
    allocated: What assigned domains and foreign ones take.
    domains: How many of our domains are assigned to it.
    foreign_domains: How many domains it has that are not ours.
    orphans: UUIDs of domains with our mark but no object.
    conditions: Ready, Reconciling, Stalled and further aspects.
    """

    observed_generation: int | UnsetType = UNSET
    phase: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    host_uuid: str | UnsetType = UNSET
    driver: str | UnsetType = UNSET
    mode: str | UnsetType = UNSET
    hostname: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    libvirt_version: str | UnsetType = UNSET
    hypervisor_version: str | UnsetType = UNSET
    arch: str | UnsetType = UNSET
    cpu_model: str | UnsetType = UNSET
    cpus: int | UnsetType = UNSET
    max_vcpus: int | UnsetType = UNSET
    memory_bytes: int | UnsetType = UNSET
    free_memory_bytes: int | UnsetType = UNSET
    numa_cells: int | UnsetType = UNSET
    encrypted: bool | UnsetType = UNSET
    secure: bool | UnsetType = UNSET
    allocatable: NodeResources | UnsetType = UNSET
    allocated: NodeResources | UnsetType = UNSET
    domains: int | UnsetType = UNSET
    foreign_domains: int | UnsetType = UNSET
    orphans: list[str] | UnsetType = UNSET
    conditions: list[Condition] | UnsetType = UNSET


class Node(Struct, frozen=True, kw_only=True):
    """One libvirt host, reached by a URI.

    api_version: domctl.io/v1.
    kind: Node.
    metadata: The envelope; its labels are what domains select by.
    spec: How it is reached and what may be placed on it.
    status: What the host said last; written by the controller.
    """

    api_version: Literal["domctl.io/v1"] = API_VERSION
    kind: Literal["Node"] = "Node"
    metadata: ObjectMeta
    spec: NodeSpec
    status: NodeStatus | UnsetType = UNSET
