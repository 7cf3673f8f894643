"""The kind Domain: one libvirt domain, in libvirt's own element names.

`effective_*` functions give the meaning of what is left out; the spec itself is never changed. Fields
whose meaning comes later are known by name in `specs.validate` and refused with a reason. The XML that a
Domain becomes is made in `specs.domainxml`; semantic checks are in `specs.validate`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from specs.meta import API_VERSION, Condition, Name, ObjectMeta, Quantity, Struct

DomainStateName = Literal["running", "shutoff"]
DomainType = Literal["qemu", "kvm", "lxc", "test"]
DeviceName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]
HostPath = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f]*$", max_length=1024)]
MacAddress = Annotated[str, Meta(pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")]


class OperatingSystem(Struct, frozen=True, kw_only=True):
    """<os>: what boots. `kernel`, `initrd` are paths on the host, under the node's allowedPaths."""

    arch: Literal["x86_64", "i686", "aarch64", "riscv64", "ppc64le", "s390x"] | UnsetType = UNSET
    machine: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | UnsetType = UNSET
    kernel: HostPath | UnsetType = UNSET
    initrd: HostPath | UnsetType = UNSET
    cmdline: Annotated[str, Meta(max_length=2048)] | UnsetType = UNSET
    boot: list[Literal["hd", "cdrom", "network", "fd"]] | UnsetType = UNSET


class DiskSource(Struct, frozen=True, kw_only=True):
    """Exactly one of `file` and `block`: a path on the host, under the node's allowedPaths. `shared: true`
    says that every node reaches the same storage there; otherwise the disk pins its domain to its node."""

    file: HostPath | UnsetType = UNSET
    block: HostPath | UnsetType = UNSET
    shared: bool | UnsetType = UNSET


class Disk(Struct, frozen=True, kw_only=True):
    """<disk>. `name` becomes the alias `ua-<name>`, by which the device is found again."""

    name: DeviceName
    device: Literal["disk", "cdrom", "floppy"] | UnsetType = UNSET
    source: DiskSource | UnsetType = UNSET
    format: Literal["raw", "qcow2", "vmdk"] | UnsetType = UNSET
    bus: Literal["virtio", "sata", "scsi", "ide", "usb", "fdc"] | UnsetType = UNSET
    target: Annotated[str, Meta(pattern=r"^(vd|sd|hd|fd)[a-z]{1,2}$")] | UnsetType = UNSET
    cache: Literal["none", "writeback", "writethrough", "directsync", "unsafe"] | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    shareable: bool | UnsetType = UNSET
    serial: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_. +-]{1,36}$")] | UnsetType = UNSET


class Interface(Struct, frozen=True, kw_only=True):
    """<interface>. Exactly one of `network` and `bridge`. A `mac` left out is chosen and kept by domctl."""

    name: DeviceName
    network: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | UnsetType = UNSET
    bridge: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,15}$")] | UnsetType = UNSET
    mac: MacAddress | UnsetType = UNSET
    model: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | UnsetType = UNSET


class CharacterDevice(Struct, frozen=True, kw_only=True):
    """<serial> or <console>. `file` (with `path`, under the node's allowedPaths) or `pty`."""

    name: DeviceName
    type: Literal["pty", "file"] | UnsetType = UNSET
    path: HostPath | UnsetType = UNSET
    append: bool | UnsetType = UNSET


class Placement(Struct, frozen=True, kw_only=True):
    """Where it may run: labels that a node must have, or one node as a hard constraint."""

    node_selector: dict[str, str] | UnsetType = UNSET
    node: Name | UnsetType = UNSET


class ShutdownStep(Struct, frozen=True, kw_only=True):
    """One rung of the ladder: ask in this way, wait so long, then the next. `destroy` waits for nothing."""

    method: Literal["agent", "acpi", "destroy"]
    timeout_seconds: Annotated[int, Meta(ge=0, le=86400)] | UnsetType = UNSET


class DomainSpec(Struct, frozen=True, kw_only=True):
    """What is wanted of one domain. `vcpus`: 1 to 4096. `memory`: 1Mi to 64Ti."""

    state: DomainStateName | UnsetType = UNSET
    type: DomainType | UnsetType = UNSET
    vcpus: Annotated[int, Meta(ge=1, le=4096)] | UnsetType = UNSET
    memory: Quantity
    os: OperatingSystem | UnsetType = UNSET
    disks: list[Disk] | UnsetType = UNSET
    interfaces: list[Interface] | UnsetType = UNSET
    serials: list[CharacterDevice] | UnsetType = UNSET
    consoles: list[CharacterDevice] | UnsetType = UNSET
    placement: Placement | UnsetType = UNSET
    restart_policy: Literal["Always", "OnFailure", "Never"] | UnsetType = UNSET
    shutdown: list[ShutdownStep] | UnsetType = UNSET
    deletion_policy: Literal["Delete", "Orphan"] | UnsetType = UNSET
    xml: Annotated[str, Meta(max_length=65536)] | UnsetType = UNSET


class PendingField(Struct, frozen=True, kw_only=True):
    """A field whose new value waits for the next start."""

    field: str
    live: str
    desired: str


class DomainStatus(Struct, frozen=True, kw_only=True):
    """What is. `state` and `reason` are libvirt's words, or Unknown and Absent with ours."""

    observed_generation: int | UnsetType = UNSET
    phase: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    node: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    state_reason: str | UnsetType = UNSET
    uuid: str | UnsetType = UNSET
    epoch: int | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    macs: dict[str, str] | UnsetType = UNSET
    restarts: int | UnsetType = UNSET
    pending: list[PendingField] | UnsetType = UNSET
    conditions: list[Condition] | UnsetType = UNSET


class Domain(Struct, frozen=True, kw_only=True):
    api_version: Literal["domctl.io/v1"] = API_VERSION
    kind: Literal["Domain"] = "Domain"
    metadata: ObjectMeta
    spec: DomainSpec
    status: DomainStatus | UnsetType = UNSET


class RestartPolicy(enum.StrEnum):
    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


DEFAULT_SHUTDOWN = (ShutdownStep(method="acpi", timeout_seconds=60), ShutdownStep(method="destroy"))


def effective_state(spec: DomainSpec) -> DomainStateName:
    return "running" if isinstance(spec.state, UnsetType) else spec.state


def effective_type(spec: DomainSpec) -> DomainType:
    return "kvm" if isinstance(spec.type, UnsetType) else spec.type


def effective_vcpus(spec: DomainSpec) -> int:
    return 1 if isinstance(spec.vcpus, UnsetType) else spec.vcpus


def effective_restart_policy(spec: DomainSpec) -> RestartPolicy:
    return (
        RestartPolicy.ALWAYS
        if isinstance(spec.restart_policy, UnsetType)
        else RestartPolicy(spec.restart_policy)
    )


def effective_shutdown(spec: DomainSpec) -> tuple[ShutdownStep, ...]:
    """The ladder: by default ACPI with 60 s of grace, then destroy."""
    return DEFAULT_SHUTDOWN if isinstance(spec.shutdown, UnsetType) else tuple(spec.shutdown)


def effective_deletion_policy(spec: DomainSpec) -> Literal["Delete", "Orphan"]:
    return "Delete" if isinstance(spec.deletion_policy, UnsetType) else spec.deletion_policy


def libvirt_name(meta: ObjectMeta) -> str:
    """The domain's name on its host: `name` in namespace default, `namespace.name` elsewhere. Neither part
    has a dot, so no two objects share one."""
    namespace = "default" if isinstance(meta.namespace, UnsetType) else meta.namespace
    return meta.name if namespace == "default" else f"{namespace}.{meta.name}"


def pinning_disks(spec: DomainSpec) -> tuple[str, ...]:
    """Names of disks on a host's own storage: with one, the domain stays where its disk is."""
    disks = () if isinstance(spec.disks, UnsetType) else spec.disks
    return tuple(
        d.name
        for d in disks
        if not isinstance(d.source, UnsetType) and d.source.shared is not True and d.read_only is not True
    )
