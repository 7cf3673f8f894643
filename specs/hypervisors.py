"""What each type of domain is, to libvirt: which driver runs it, and what a spec of that type cannot ask for.

One row a type. What the type alone rules out is refused when the object is written, with the reason and,
where there is one, the way to have it (`specs.typerules`); what depends on the host's driver and version is
in the drivers' own tables of capabilities. qemu, kvm, lxc and test are run by the tests; xen and vz are known
from libvirt's documentation, schema and source, and were never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_PC_BUSES: Final = {
    "disk": ("virtio", "sata", "scsi", "ide", "usb"),
    "cdrom": ("sata", "scsi", "ide", "usb"),
    "floppy": ("fdc",),
}


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """`driver`: libvirt's name for the driver that runs it. `container`: it shares the kernel of its host
    (<os><type>exe). `buses`: of each kind of disk; the first is meant when none is named. `formats`: of disks
    that are files, the first likewise; `other_formats`: of block devices and CD images. `model`: of
    interfaces, "" for libvirt's own choice. `cannot`: fields of spec by their path, and values as
    `path=value`, each with what is said of it. `run`: whether any of this was ever run on such a host."""

    driver: str
    container: bool = False
    emulated: bool = False
    run: bool = True
    buses: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType(_PC_BUSES))
    formats: tuple[str, ...] = ("raw", "qcow2", "vmdk")
    other_formats: tuple[str, ...] = ("raw", "qcow2", "vmdk")
    model: str = "virtio"
    cannot: Mapping[str, str] = field(default_factory=dict)


_CONTAINERS_ONLY: Final = {
    "filesystems": "is for containers (type lxc): what a machine sees of its host are disks",
    **dict.fromkeys(
        ("os.init", "os.initArgs", "os.initEnv", "os.initDir"),
        "is for containers (type lxc): a machine boots from a disk, or os.kernel",
    ),
}
_NO_AGENT: Final = "cannot be asked for: libvirt's {} driver knows no guest agent; use acpi"
_NO_BOOT: Final = "is not for containers, which boot nothing: they run os.init on the kernel of their host"

_LXC: Final = {
    "graphics": "is not for containers, which have no screen",
    "disks": "cannot be given to a container: name directories of the host in spec.filesystems",
    "serials": "cannot be given to a container: it has consoles",
    "interfaces.model": "is for emulated cards: a container has one end of a veth pair",
    **dict.fromkeys(("os.machine", "os.kernel", "os.initrd", "os.cmdline", "os.boot"), _NO_BOOT),
    "consoles.type=file": "is not possible for a container: libvirt's lxc driver has terminals (pty) only",
    "shutdown.method=agent": "cannot be asked for: libvirt's lxc driver knows no guest agent; "
    "acpi sends SIGTERM to the container's init",
    "onCrash": "is not for containers: it is their host that panics",
    "state=saved": '"saved" is not possible for a container: libvirt\'s lxc driver cannot save memory',
}
_NO_CONSOLE: Final = "is not possible for type {}: its driver opens no consoles"
_TEST: Final = {
    **_CONTAINERS_ONLY,
    "shutdown.method=agent": _NO_AGENT.format("test"),
    **dict.fromkeys(("consoles.record", "serials.record"), _NO_CONSOLE.format("test")),
}
_XEN: Final = {
    **_CONTAINERS_ONLY,
    "shutdown.method=agent": _NO_AGENT.format("xen"),
    "graphics": "is not supported yet for type xen, which was never run",
    "os.boot=fd": '"fd" is not possible: Xen boots no floppy disks',
}
_VZ: Final = {
    **_CONTAINERS_ONLY,
    "graphics": "is not supported yet for type vz, which was never run",
    "consoles": "cannot be given to a domain of type vz: its driver has serial ports only",
    "serials.type=pty": "is not possible for type vz, whose driver knows no terminals: use type file",
    **dict.fromkeys(
        ("os.machine", "os.kernel", "os.initrd", "os.cmdline"), "is not known to libvirt's vz driver"
    ),
    "disks.cache": "is not known to libvirt's vz driver",
    "disks.readOnly": "is not known to libvirt's vz driver",
    "disks.shareable": "is not known to libvirt's vz driver",
    "shutdown.method=agent": _NO_AGENT.format("vz"),
}

HYPERVISORS: Final[Mapping[str, Hypervisor]] = MappingProxyType(
    {
        "qemu": Hypervisor("qemu", emulated=True, cannot=_CONTAINERS_ONLY),
        "kvm": Hypervisor("qemu", emulated=True, cannot=_CONTAINERS_ONLY),
        "lxc": Hypervisor("lxc", container=True, model="", cannot=_LXC),
        "test": Hypervisor("test", cannot=_TEST),
        "xen": Hypervisor(
            "xen",
            run=False,
            buses=MappingProxyType({"disk": ("xen", "ide", "scsi"), "cdrom": ("ide", "scsi"), "floppy": ()}),
            formats=("raw", "qcow2"),
            other_formats=("raw", "qcow2"),
            model="",
            cannot=_XEN,
        ),
        "vz": Hypervisor(
            "vz",
            run=False,
            buses=MappingProxyType({"disk": ("sata", "scsi", "ide"), "cdrom": ("sata", "ide"), "floppy": ()}),
            formats=("ploop",),
            other_formats=("raw",),
            cannot=_VZ,
        ),
    }
)

DRIVER_OF_TYPE: Final[Mapping[str, str]] = MappingProxyType(
    {name: one.driver for name, one in HYPERVISORS.items()}
)
