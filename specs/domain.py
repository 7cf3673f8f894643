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

DomainStateName = Literal["running", "paused", "saved", "shutoff"]
LOOPBACK = "127.0.0.1"
ACTIVE_STATES = frozenset({"running", "paused"})
"""States in which a domain has a guest: it must be started to come there."""
DomainType = Literal["qemu", "kvm", "lxc", "xen", "vz", "test"]

_DEVICE_WORDS = "lower-case letters, digits and '-', beginning and ending with a letter or digit, at most 32"
_PATH_WORDS = "an absolute path such as /var/lib/libvirt/images/a.img"
_INSIDE_WORDS = "an absolute path inside the container, such as /sbin/init"
_VARIABLE_WORDS = "without '<', '>' and '&', which libvirt does not escape there"
_MAC_WORDS = "a unicast MAC address in lower case such as 52:54:00:12:34:56"
_MODEL_WORDS = "letters, digits, '-' and '_', at most 32"
_TARGET_WORDS = "a device name such as vda, sdb, hdc, fda or xvda"
_SERIAL_WORDS = "letters, digits, blanks and '_.+-', at most 36"


def _word(limit: int) -> dict[str, str]:
    return {"words": f"letters, digits, '.', '_' and '-', at most {limit}"}


DeviceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$", extra={"words": _DEVICE_WORDS})
]
HostPath = Annotated[str, Meta(pattern=r"^/[^\x00-\x1f]*$", max_length=1024, extra={"words": _PATH_WORDS})]
InsidePath = Annotated[
    str, Meta(pattern=r"^/[^\x00-\x1f]*$", max_length=1024, extra={"words": _INSIDE_WORDS})
]
MacAddress = Annotated[
    str, Meta(pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$", extra={"words": _MAC_WORDS})
]
MachineName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", extra=_word(64))]
NetworkName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", extra=_word(64))]
BridgeName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,15}$", extra=_word(15))]
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$", extra={"words": _MODEL_WORDS})]
TargetName = Annotated[str, Meta(pattern=r"^(vd|sd|hd|fd|xvd)[a-z]{1,2}$", extra={"words": _TARGET_WORDS})]
SecretName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$",
        max_length=253,
        extra={"words": "the name of a Secret"},
    ),
]
SecretKeyName = Annotated[
    str, Meta(pattern=r"^[-._a-zA-Z0-9]{1,253}$", extra={"words": "letters, digits and '-._', at most 253"})
]
Address = Annotated[
    str, Meta(pattern=r"^[0-9a-f:.]{2,45}$", extra={"words": "an IP address such as 127.0.0.1"})
]
Argument = Annotated[str, Meta(max_length=2048)]
# libvirt 9.0 writes these into XML of its own as they are, and reads that again: what looks like an element
# there becomes one.
Variable = Annotated[str, Meta(pattern=r"^[^<>&]*$", max_length=2048, extra={"words": _VARIABLE_WORDS})]
SerialNumber = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_. +-]{1,36}$", extra={"words": _SERIAL_WORDS})]


class OperatingSystem(Struct, frozen=True, kw_only=True):
    """What boots, or what a container runs: libvirt's <os>.

    arch: The processor's architecture; x86_64 when left out, the host's own for a container.
    machine: QEMU's machine type, such as pc, q35, virt; the host's default when left out. For type xen xenfv,
        xenpv or xenpvh; when left out, xenpv with a kernel, xenfv without.
    kernel: A kernel to boot directly: a path on the host, under the node's allowedPaths.
    initrd: The initial file system for kernel: a path on the host, under the node's allowedPaths.
    cmdline: The command line for kernel.
    boot: The devices to boot from, in this order.
    init: For containers, the program to run as process 1: a path inside the container; /sbin/init when left
        out. It is asked to stop by SIGTERM.
    init_args: Its arguments.
    init_env: Its environment, besides what libvirt sets. Values cannot have '<', '>' or '&'.
    init_dir: The directory it starts in.
    """

    arch: Literal["x86_64", "i686", "aarch64", "riscv64", "ppc64le", "s390x"] | UnsetType = UNSET
    machine: MachineName | UnsetType = UNSET
    kernel: HostPath | UnsetType = UNSET
    initrd: HostPath | UnsetType = UNSET
    cmdline: Annotated[str, Meta(max_length=2048)] | UnsetType = UNSET
    boot: Annotated[list[Literal["hd", "cdrom", "network", "fd"]], Meta(max_length=4)] | UnsetType = UNSET
    init: InsidePath | UnsetType = UNSET
    init_args: Annotated[list[Argument], Meta(max_length=64)] | UnsetType = UNSET
    init_env: dict[str, Variable] | UnsetType = UNSET
    init_dir: InsidePath | UnsetType = UNSET


class DiskSource(Struct, frozen=True, kw_only=True):
    """Exactly one of `file` and `block`: a path on the host, under the node's allowedPaths.

    file: An image file.
    block: A block device.
    shared: True says that every node reaches the same storage at this path; otherwise the disk, unless it
        is read-only, pins its domain to its node.
    """

    file: HostPath | UnsetType = UNSET
    block: HostPath | UnsetType = UNSET
    shared: bool | UnsetType = UNSET


class Disk(Struct, frozen=True, kw_only=True):
    """One disk, CD-ROM or floppy drive: libvirt's <disk>.

    name: Its name in this domain; it becomes the alias `ua-<name>`, by which the device is found again.
    device: What the guest sees: disk (also when left out), cdrom or floppy.
    source: Where its contents are; only a cdrom or floppy drive may be empty.
    format: The image's format; raw when left out (ploop for the files of type vz). It is never guessed from
        the contents.
    bus: virtio when left out; sata for a cdrom, fdc for a floppy drive. For type xen it is xen, ide for a
        cdrom; for type vz sata.
    target: The name that the guest may see, such as vda; the next free one when left out.
    cache: QEMU's cache mode; QEMU's default when left out.
    read_only: The guest cannot write to it.
    shareable: Several domains may use it at a time.
    serial: The serial number that the guest sees.
    """

    name: DeviceName
    device: Literal["disk", "cdrom", "floppy"] | UnsetType = UNSET
    source: DiskSource | UnsetType = UNSET
    format: Literal["raw", "qcow2", "vmdk", "ploop"] | UnsetType = UNSET
    bus: Literal["virtio", "sata", "scsi", "ide", "usb", "fdc", "xen"] | UnsetType = UNSET
    target: TargetName | UnsetType = UNSET
    cache: Literal["none", "writeback", "writethrough", "directsync", "unsafe"] | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    shareable: bool | UnsetType = UNSET
    serial: SerialNumber | UnsetType = UNSET


class FilesystemSource(Struct, frozen=True, kw_only=True):
    """A directory of the host.

    dir: Its path, under the node's allowedPaths.
    shared: True says that every node reaches the same directory at this path; otherwise it pins the container
        to its node, unless it is read-only.
    """

    dir: HostPath
    shared: bool | UnsetType = UNSET


class Filesystem(Struct, frozen=True, kw_only=True):
    """One file system that a container sees: libvirt's <filesystem>. One has the target /, its root.

    target: Where the container sees it: a path inside the container, by which it is found again.
    type: mount, a directory of the host, when left out; or ram, an empty one in the host's memory.
    source: The directory of the host, for type mount.
    size: How much it may hold, for type ram, such as 64Mi.
    read_only: The container cannot write to it.
    """

    target: InsidePath
    type: Literal["mount", "ram"] | UnsetType = UNSET
    source: FilesystemSource | UnsetType = UNSET
    size: Annotated[Quantity, Meta(extra={"format": "memory"})] | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET


class Interface(Struct, frozen=True, kw_only=True):
    """One network interface: libvirt's <interface>. Exactly one of `network` and `bridge`.

    name: Its name in this domain; it becomes the alias `ua-<name>`.
    network: A libvirt network of the host.
    bridge: A bridge of the host.
    mac: Its MAC address; chosen by domctl and kept in status when left out.
    model: What the guest sees; virtio when left out, Xen's own for type xen. A container has none.
    """

    name: DeviceName
    network: NetworkName | UnsetType = UNSET
    bridge: BridgeName | UnsetType = UNSET
    mac: MacAddress | UnsetType = UNSET
    model: ModelName | UnsetType = UNSET


class CharacterDevice(Struct, frozen=True, kw_only=True):
    """One serial port (<serial>) or paravirtual console (<console>); a container's terminal.

    name: Its name in this domain; it becomes the alias `ua-<name>`.
    type: pty, a terminal of the host, when left out; or file.
    path: The file of type file, under the node's allowedPaths.
    append: The file is continued at the next start, not emptied.
    record: domctl keeps the last of what the guest writes there, for `domctl logs` and `kubectl logs`. For
        type pty.
    """

    name: DeviceName
    type: Literal["pty", "file"] | UnsetType = UNSET
    path: HostPath | UnsetType = UNSET
    append: bool | UnsetType = UNSET
    record: bool | UnsetType = UNSET


class SecretKey(Struct, frozen=True, kw_only=True):
    """One value of a Secret in the domain's own namespace.

    name: The Secret.
    key: The key in its data; password when left out.
    """

    name: SecretName
    key: SecretKeyName | UnsetType = UNSET


class Graphics(Struct, frozen=True, kw_only=True):
    """A screen that can be reached over the network: libvirt's <graphics>. Its port is chosen by the host.

    type: vnc or spice; one of each.
    listen: The address of the host that it listens at; 127.0.0.1 when left out. Any other than a loopback
        address needs passwordSecret.
    password_secret: Where its password stands; there is none when left out. A new value holds from the next
        start on.
    """

    type: Literal["vnc", "spice"]
    listen: Address | UnsetType = UNSET
    password_secret: SecretKey | UnsetType = UNSET


class Placement(Struct, frozen=True, kw_only=True):
    """Where the domain may run.

    node_selector: Labels that a node must have.
    node: The one node it may run on.
    """

    node_selector: dict[str, str] | UnsetType = UNSET
    node: Name | UnsetType = UNSET


class ShutdownStep(Struct, frozen=True, kw_only=True):
    """One rung of the ladder: ask in this way, wait so long, then the next.

    method: agent asks the guest's agent, acpi presses the power button, destroy pulls the plug.
    timeout_seconds: How long to wait before the next rung; 60 when left out. destroy waits for nothing.
    """

    method: Literal["agent", "acpi", "destroy"]
    timeout_seconds: Annotated[int, Meta(ge=0, le=86400)] | UnsetType = UNSET


class MigrationPolicy(Struct, frozen=True, kw_only=True):
    """What is done where a migration broke off and cannot be cleared up by reading both hosts.

    on_doubt: When the target may have run and is gone, and the source stands paused: Hold, also when left
        out, leaves that to an operator; Reboot destroys the paused copy and starts the domain again.
    """

    on_doubt: Literal["Hold", "Reboot"] | UnsetType = UNSET


class Recovery(Struct, frozen=True, kw_only=True):
    """What becomes of the domain when its node dies, or boots.

    on_node_failure: Hold, also when left out: it waits for its node. Restart: it is started elsewhere once
        its node is known to be dead, and runs transient, so that a host which comes back has nothing to
        start.
    autostart: True: its host starts it at boot, though domctl be down. Only for a domain that
        placement.node keeps on one node.
    """

    on_node_failure: Literal["Hold", "Restart"] | UnsetType = UNSET
    autostart: bool | UnsetType = UNSET


class DomainSpec(Struct, frozen=True, kw_only=True):
    """What is wanted of one domain.

    state: running, also when left out; paused, its guest in memory and its processors standing still;
        saved, its memory on its host's disk, from where the next start goes on; or shutoff.
    type: The hypervisor: kvm when left out; qemu is software emulation; lxc, a container; xen; vz, Virtuozzo
        (OpenVZ's successor); test, libvirt's own mock.
    vcpus: The number of virtual CPUs, 1 to 4096; 1 when left out.
    memory: The guest's memory, 1Mi to 64Ti, such as 512Mi or 4Gi. QEMU gives it in whole MiB, rounded up.
    os: What boots.
    disks: Its disks, CD-ROM and floppy drives.
    filesystems: What a container sees of its host's directories, its root among them.
    interfaces: Its network interfaces.
    serials: Its serial ports.
    consoles: Its paravirtual consoles (virtio, xen); the terminals of a container, which has one if none is
        named.
    graphics: Its screens, reached over the network.
    placement: Where it may run.
    persistence: persistent, also when left out: its definition stands on its host. transient: it stands in
        etcd alone, and its host has nothing that could be started without domctl, nor saved.
    recovery: What becomes of it when its node dies, or boots.
    restart_policy: What to do when the guest ends by itself while state is running: Always start it again,
        also when left out, only OnFailure, or Never. That it may rest is written down, and holds whatever
        restarts, boots or dies later, and wherever it moves, until it is shut off and started, or the policy
        is changed. OnFailure starts it again unless it is known to have shut itself down: an end of which
        nobody can tell how it came (its host lost power; or it ended while nobody led, and libvirtd was
        started anew) is a failure. Never starts it once: any end is the last one, that of its node, too,
        unless recovery.onNodeFailure is Restart.
    on_crash: What libvirt does when the guest panics (it hears of that from a panic device): destroy, also
        when left out, ends it; preserve keeps it, with its disks, for inspection.
    on_reboot: What libvirt does when the guest starts itself again: restart, also when left out, lets it;
        destroy ends it, so that restartPolicy speaks.
    shutdown: How it is stopped, rung by rung; when left out, acpi with 60 s of grace, then destroy.
    migration: How it is moved while it runs.
    deletion_policy: What deleting this object does: Delete takes the domain away and keeps its storage;
        Orphan hands it back as it is.
    xml: A fragment of libvirt XML, merged over what the other fields generate. Only certain elements are
        allowed, and only where the server's configuration allows the field at all.
    """

    state: DomainStateName | UnsetType = UNSET
    type: DomainType | UnsetType = UNSET
    vcpus: Annotated[int, Meta(ge=1, le=4096)] | UnsetType = UNSET
    memory: Annotated[Quantity, Meta(extra={"format": "memory"})]
    os: OperatingSystem | UnsetType = UNSET
    disks: Annotated[list[Disk], Meta(max_length=64)] | UnsetType = UNSET
    filesystems: Annotated[list[Filesystem], Meta(max_length=32)] | UnsetType = UNSET
    interfaces: Annotated[list[Interface], Meta(max_length=32)] | UnsetType = UNSET
    serials: Annotated[list[CharacterDevice], Meta(max_length=4)] | UnsetType = UNSET
    consoles: Annotated[list[CharacterDevice], Meta(max_length=8)] | UnsetType = UNSET
    graphics: Annotated[list[Graphics], Meta(max_length=2)] | UnsetType = UNSET
    placement: Placement | UnsetType = UNSET
    persistence: Literal["persistent", "transient"] | UnsetType = UNSET
    recovery: Recovery | UnsetType = UNSET
    restart_policy: Literal["Always", "OnFailure", "Never"] | UnsetType = UNSET
    on_crash: Literal["destroy", "preserve"] | UnsetType = UNSET
    on_reboot: Literal["restart", "destroy"] | UnsetType = UNSET
    shutdown: Annotated[list[ShutdownStep], Meta(min_length=1, max_length=8)] | UnsetType = UNSET
    migration: MigrationPolicy | UnsetType = UNSET
    deletion_policy: Literal["Delete", "Orphan"] | UnsetType = UNSET
    xml: Annotated[str, Meta(max_length=65536)] | UnsetType = UNSET


class PendingField(Struct, frozen=True, kw_only=True):
    """A field whose new value waits for the next start.

    field: Its path in spec.
    live: What the running domain has.
    desired: What it will have.
    """

    field: str
    live: str
    desired: str


class RequestStatus(Struct, frozen=True, kw_only=True):
    """What became of one request. One is carried out if its value is later than all that were answered, not
    older than ten minutes when it can be, and not more than a minute ahead of the controller's clock.

    name: reboot, reset, resume, restore or drop-saved.
    value: The annotation's value that it was made with.
    outcome: begun, done, or why it was not done.
    at: When that was written down.
    """

    name: str
    value: str
    outcome: str
    at: str


class DomainStatus(Struct, frozen=True, kw_only=True):
    """What is. `state` and `reason` are libvirt's words, or Unknown and Absent with ours.

    observed_generation: The generation of spec that this status speaks of.
    phase: One word for tables.
    reason: Why it is not as desired, one word.
    node: The node it is assigned to.
    state: libvirt's state.
    state_reason: libvirt's reason for it.
    uuid: Its libvirt UUID.
    epoch: The epoch of its assignment.
    digest: The digest of the definition that was made from spec.
    macs: The MAC addresses that were chosen, by interface.
    restarts: How often it was started again.
    requests: What became of requests (annotations such as domctl.io/reboot-at).
    pending: What waits for the next start.
    conditions: Ready, Reconciling, Stalled and further aspects.
    """

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
    requests: list[RequestStatus] | UnsetType = UNSET
    pending: list[PendingField] | UnsetType = UNSET
    conditions: list[Condition] | UnsetType = UNSET


class Domain(Struct, frozen=True, kw_only=True):
    """One libvirt domain that should exist, on a host chosen by the controller, in the state that spec says.

    api_version: domctl.io/v1.
    kind: Domain.
    metadata: The envelope.
    spec: What is wanted.
    status: What is; written by the controller.
    """

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


def is_transient(spec: DomainSpec) -> bool:
    """Asked for, or since it is to be started elsewhere when its node dies."""
    if not isinstance(spec.persistence, UnsetType):
        return spec.persistence == "transient"
    return restarts_elsewhere(spec)


def restarts_elsewhere(spec: DomainSpec) -> bool:
    return not isinstance(spec.recovery, UnsetType) and spec.recovery.on_node_failure == "Restart"


def wants_autostart(spec: DomainSpec) -> bool:
    """Only while it is to run: a host must not start at boot what is to be off."""
    asked = not isinstance(spec.recovery, UnsetType) and spec.recovery.autostart is True
    return asked and effective_state(spec) == "running"


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


def effective_on_doubt(spec: DomainSpec) -> Literal["Hold", "Reboot"]:
    if isinstance(spec.migration, UnsetType) or isinstance(spec.migration.on_doubt, UnsetType):
        return "Hold"
    return spec.migration.on_doubt


def effective_deletion_policy(spec: DomainSpec) -> Literal["Delete", "Orphan"]:
    return "Delete" if isinstance(spec.deletion_policy, UnsetType) else spec.deletion_policy


def libvirt_name(meta: ObjectMeta) -> str:
    """The domain's name on its host: `name` in namespace default, `namespace.name` elsewhere. Neither part
    has a dot, so no two objects share one."""
    namespace = "default" if isinstance(meta.namespace, UnsetType) else meta.namespace
    return meta.name if namespace == "default" else f"{namespace}.{meta.name}"


def pinning_disks(spec: DomainSpec) -> tuple[str, ...]:
    """Names of disks on a host's own storage: with one, the domain stays where its disk is. What the guest
    cannot write to holds nothing that could be left behind."""
    disks = () if isinstance(spec.disks, UnsetType) else spec.disks
    return tuple(
        d.name
        for d in disks
        if not isinstance(d.source, UnsetType)
        and d.source.shared is not True
        and d.read_only is not True
        and d.device != "cdrom"
    )


def pinning_directories(spec: DomainSpec) -> tuple[str, ...]:
    """The same for containers: targets of directories on a host's own storage that it may write to."""
    filesystems = () if isinstance(spec.filesystems, UnsetType) else spec.filesystems
    return tuple(
        f.target
        for f in filesystems
        if not isinstance(f.source, UnsetType) and f.source.shared is not True and f.read_only is not True
    )
