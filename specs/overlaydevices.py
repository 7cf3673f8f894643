"""The devices that an XML fragment may add or change, and which of their properties.

See `specs.overlaygrammar`. Of disks and interfaces only tuning: what they are connected to stands in the
spec, where placement and the node's allowedPaths see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from specs.overlayforms import (
    ALIAS,
    COUNT,
    HEX,
    LOOPBACK,
    NUMBER,
    PORT,
    SWITCH,
    WIDE_HEX,
    WORD,
    Allowed,
    Form,
    choice,
    form,
    numbers,
)

_ADDRESS = Allowed(
    {
        "type": choice("pci", "drive", "usb", "virtio-serial", "isa", "ccw", "spapr-vio", "virtio-mmio"),
        "multifunction": SWITCH,
        **dict.fromkeys(("domain", "bus", "slot", "function", "iobase", "irq"), HEX),
        **dict.fromkeys(("cssid", "ssid", "devno"), HEX),
        **dict.fromkeys(("controller", "target", "unit"), COUNT),
        "reg": WIDE_HEX,
        "port": form(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}", "a port"),
    }
)
_DEVICE: Final[Mapping[str, Allowed]] = {"alias": Allowed({"name": ALIAS}), "address": _ADDRESS}
_VIRTIO: Final[Mapping[str, Form]] = dict.fromkeys(("iommu", "ats", "packed", "page_per_vq"), SWITCH)
_BOOT = Allowed({"order": COUNT})

_DISK = Allowed(
    match="existing",
    children={
        **_DEVICE,
        "boot": _BOOT,
        "driver": Allowed(
            {
                "io": choice("threads", "native", "io_uring"),
                "error_policy": choice("stop", "report", "ignore", "enospace"),
                "rerror_policy": choice("stop", "report", "ignore"),
                "discard": choice("unmap", "ignore"),
                "detect_zeroes": choice("on", "off", "unmap"),
                **dict.fromkeys(("ioeventfd", "event_idx"), SWITCH),
                **dict.fromkeys(("iothread", "queues"), COUNT),
                "queue_size": NUMBER,
                **_VIRTIO,
            }
        ),
        "target": Allowed({"rotation_rate": NUMBER}),
        "iotune": Allowed(
            children={
                **numbers(
                    *(
                        f"{scope}_{what}_sec{suffix}"
                        for scope in ("total", "read", "write")
                        for what in ("bytes", "iops")
                        for suffix in ("", "_max", "_max_length")
                    ),
                    "size_iops_sec",
                ),
                "group_name": Allowed(text=WORD),
            }
        ),
        "blockio": Allowed({"logical_block_size": NUMBER, "physical_block_size": NUMBER}),
        "geometry": Allowed(
            {"cyls": NUMBER, "heads": NUMBER, "secs": NUMBER, "trans": choice("auto", "none", "lba")}
        ),
        "wwn": Allowed(text=form(r"[0-9a-fA-F]{16}", "16 hexadecimal digits")),
        "vendor": Allowed(text=form(r"[A-Za-z0-9 ]{1,8}", "at most 8 letters and digits")),
        "product": Allowed(text=form(r"[A-Za-z0-9 ]{1,16}", "at most 16 letters and digits")),
    },
)
_OFFLOADS: Final = dict.fromkeys(("csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf"), SWITCH)
_SHAPE: Final = dict.fromkeys(("average", "peak", "burst", "floor"), NUMBER)
_INTERFACE = Allowed(
    match="existing",
    children={
        **_DEVICE,
        "boot": _BOOT,
        "driver": Allowed(
            {
                "name": choice("vhost", "qemu"),
                "txmode": choice("iothread", "timer"),
                **dict.fromkeys(("rx_queue_size", "tx_queue_size"), NUMBER),
                "queues": COUNT,
                **dict.fromkeys(("ioeventfd", "event_idx"), SWITCH),
                **_VIRTIO,
            },
            {"host": Allowed(_OFFLOADS), "guest": Allowed(_OFFLOADS)},
        ),
        "mtu": Allowed({"size": NUMBER}),
        "bandwidth": Allowed(children={"inbound": Allowed(_SHAPE), "outbound": Allowed(_SHAPE)}),
        "link": Allowed({"state": choice("up", "down")}),
        "port": Allowed({"isolated": SWITCH}),
        "acpi": Allowed({"index": COUNT}),
    },
)
_CONTROLLER = Allowed(
    {
        "type": choice("usb", "scsi", "virtio-serial", "pci", "sata", "ide"),
        "index": COUNT,
        "model": WORD,
        "ports": COUNT,
        "vectors": COUNT,
    },
    {
        **_DEVICE,
        "driver": Allowed(
            {
                **dict.fromkeys(("cmd_per_lun", "max_sectors"), NUMBER),
                **dict.fromkeys(("queues", "iothread"), COUNT),
                "ioeventfd": SWITCH,
                **_VIRTIO,
            }
        ),
        "model": Allowed({"name": WORD}),
        "target": Allowed(
            {**dict.fromkeys(("chassisNr", "chassis", "port", "busNr"), HEX), "hotplug": SWITCH}
        ),
        "master": Allowed({"startport": COUNT}),
    },
    key=("type", "index"),
)
_GRAPHICS = Allowed(
    {
        "type": choice("vnc", "spice"),
        **dict.fromkeys(("port", "tlsPort", "websocket"), PORT),
        "autoport": SWITCH,
        "listen": LOOPBACK,
        "keymap": form(r"[a-z]{2}(-[a-z]{2})?", "a keyboard such as en-us"),
        "sharePolicy": choice("allow-exclusive", "force-shared", "ignore"),
        "defaultMode": choice("secure", "insecure", "any"),
    },
    {
        "listen": Allowed({"type": choice("address", "none"), "address": LOOPBACK}),
        "image": Allowed({"compression": WORD}),
        "jpeg": Allowed({"compression": WORD}),
        "zlib": Allowed({"compression": WORD}),
        "playback": Allowed({"compression": SWITCH}),
        "streaming": Allowed({"mode": WORD}),
        "mouse": Allowed({"mode": WORD}),
        "clipboard": Allowed({"copypaste": SWITCH}),
        "filetransfer": Allowed({"enable": SWITCH}),
    },
    key=("type",),
)
_VIDEO = Allowed(
    match="new",
    children={
        **_DEVICE,
        "model": Allowed(
            {
                "type": choice("vga", "cirrus", "virtio", "qxl", "bochs", "ramfb", "vmvga", "none"),
                **dict.fromkeys(("vram", "ram", "vgamem"), NUMBER),
                "heads": COUNT,
                "primary": SWITCH,
            },
            {"resolution": Allowed({"x": NUMBER, "y": NUMBER})},
        ),
    },
)
_RNG = Allowed(
    {"model": choice("virtio", "virtio-transitional", "virtio-non-transitional")},
    {
        **_DEVICE,
        "rate": Allowed({"bytes": NUMBER, "period": NUMBER}),
        "backend": Allowed(
            {"model": choice("random", "builtin")}, text=choice("/dev/urandom", "/dev/random", "")
        ),
    },
    match="new",
)
_CHANNEL = Allowed(
    {"type": choice("unix", "spicevmc")},
    {
        **_DEVICE,
        "target": Allowed(
            {
                "type": choice("virtio"),
                "name": form(
                    r"[a-z][a-z0-9_]{0,15}(\.[a-z0-9_]{1,16}){1,5}", "a name such as org.qemu.guest_agent.0"
                ),
            }
        ),
    },
    match="new",
)
DEVICES: Final[Mapping[str, Allowed]] = {
    "disk": _DISK,
    "interface": _INTERFACE,
    "controller": _CONTROLLER,
    "graphics": _GRAPHICS,
    "video": _VIDEO,
    "rng": _RNG,
    "channel": _CHANNEL,
    "input": Allowed(
        {
            "type": choice("mouse", "tablet", "keyboard"),
            "bus": choice("usb", "ps2", "virtio"),
            "model": choice("virtio", "virtio-transitional", "virtio-non-transitional"),
        },
        _DEVICE,
        match="new",
    ),
    "sound": Allowed(
        {"model": WORD},
        {**_DEVICE, "codec": Allowed({"type": choice("duplex", "micro", "output")})},
        match="new",
    ),
    "audio": Allowed({"id": COUNT, "type": choice("none", "spice")}, key=("id",)),
    "watchdog": Allowed(
        {"model": WORD, "action": choice("reset", "shutdown", "poweroff", "none", "inject-nmi")},
        _DEVICE,
        match="new",
    ),
    "memballoon": Allowed(
        {
            "model": choice("virtio", "virtio-transitional", "virtio-non-transitional", "none"),
            "autodeflate": SWITCH,
            "freePageReporting": SWITCH,
        },
        {**_DEVICE, "stats": Allowed({"period": NUMBER}), "driver": Allowed(_VIRTIO)},
    ),
    "panic": Allowed({"model": choice("isa", "pseries", "hyperv", "s390", "pvpanic")}, _DEVICE, match="new"),
    "vsock": Allowed({"model": choice("virtio")}, {**_DEVICE, "cid": Allowed({"auto": choice("yes")})}),
    "iommu": Allowed(
        {"model": choice("intel", "smmuv3", "virtio")},
        {
            "driver": Allowed(
                {
                    **dict.fromkeys(("intremap", "caching_mode", "eim", "iotlb"), SWITCH),
                    "aw_bits": NUMBER,
                }
            )
        },
    ),
}
