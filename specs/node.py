"""The kind Node: one libvirt host, reached by a URI, with what may be placed on it.

Cluster-scoped. `status` is what the host said last, and conditions say whether it may be trusted.
Fencing, maintenance and migration addresses come with the features that use them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from specs.domain import HostPath
from specs.meta import API_VERSION, Condition, ObjectMeta, Quantity, Struct


class Taint(Struct, frozen=True, kw_only=True):
    """Nothing new is placed on a node with a NoSchedule taint; what runs there stays."""

    key: Annotated[str, Meta(min_length=1, max_length=253)]
    value: str | UnsetType = UNSET
    effect: Literal["NoSchedule"]


class Overcommit(Struct, frozen=True, kw_only=True):
    """How much may be promised for each unit there is: 4 means four vCPUs for each CPU. Default: vcpus 4,
    memory 1."""

    vcpus: Annotated[float, Meta(gt=0, le=64)] | UnsetType = UNSET
    memory: Annotated[float, Meta(gt=0, le=8)] | UnsetType = UNSET


class Reserved(Struct, frozen=True, kw_only=True):
    """What the host keeps for itself."""

    vcpus: Annotated[int, Meta(ge=0, le=4096)] | UnsetType = UNSET
    memory: Quantity | UnsetType = UNSET


class NodeSpec(Struct, frozen=True, kw_only=True):
    """`insecure: true` is needed for a TCP URI, which has no authentication: whoever reaches that port is
    root there. `observeOnly`: a read-only connection, nothing is placed or changed. `allowedPaths`: the only
    host directories that disks, kernels and serial files of domains may name."""

    uri: Annotated[str, Meta(min_length=1, max_length=512)]
    unschedulable: bool | UnsetType = UNSET
    taints: list[Taint] | UnsetType = UNSET
    overcommit: Overcommit | UnsetType = UNSET
    reserved: Reserved | UnsetType = UNSET
    allowed_paths: list[HostPath] | UnsetType = UNSET
    observe_only: bool | UnsetType = UNSET
    insecure: bool | UnsetType = UNSET


class NodeResources(Struct, frozen=True, kw_only=True):
    vcpus: int = 0
    memory_bytes: int = 0


class NodeStatus(Struct, frozen=True, kw_only=True):
    """Facts as libvirt reports them; `allocatable` is capacity with overcommit, less what is reserved;
    `allocated` counts assigned domains and foreign ones."""

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
    api_version: Literal["domctl.io/v1"] = API_VERSION
    kind: Literal["Node"] = "Node"
    metadata: ObjectMeta
    spec: NodeSpec
    status: NodeStatus | UnsetType = UNSET
