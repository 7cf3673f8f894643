"""A lab host with all that the definitions of `tests.specscase` name: files, a block device, roots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import libvirt

from tests.containers import make_root
from tests.labhost import Guest, Lab, LabHost
from tests.specscase import BRIDGE, DIRECTORIES, FILES, IMAGES, NETWORK, ROOT_DIRECTORY


@contextlib.contextmanager
def furnished(lab: Lab) -> Iterator[LabHost]:
    """The first host, empty of domains before and after."""
    host = lab.hosts[0]
    lab.reset()
    images = host.path(IMAGES)
    images.mkdir(parents=True, exist_ok=True)
    for name, size in FILES.items():
        with (images / name).open("wb") as file:
            file.truncate(size)
    for name in DIRECTORIES:
        (images / name).mkdir(exist_ok=True)
    make_root(images / ROOT_DIRECTORY)
    (images / "vmlinuz").write_bytes(Path(host.path(Guest.KERNEL)).read_bytes())
    host.run("qemu-img", "create", "-q", "-f", "qcow2", f"{IMAGES}/root.qcow2", "10M")
    (images / "loop.img").write_bytes(bytes(1 << 20))
    loop = host.run("losetup", "--find", "--show", f"{IMAGES}/loop.img").strip()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(host.run, "losetup", "--detach", loop)
        host.run("ln", "-sf", loop, f"{IMAGES}/loop0")
        host.run("ip", "link", "add", BRIDGE, "type", "bridge")
        cleanup.callback(host.run, "ip", "link", "delete", BRIDGE)
        network = host.directory / "network.xml"
        network.write_text(f"<network><name>{NETWORK}</name><bridge name='virbr77'/></network>")
        with libvirt.open(host.uri) as connection:
            found = [one.name() for one in connection.listAllNetworks()]
        if NETWORK not in found:
            host.virsh("net-define", str(network))
            cleanup.callback(host.virsh, "net-undefine", NETWORK)
            host.virsh("net-start", NETWORK)
            cleanup.callback(host.virsh, "net-destroy", NETWORK)
        yield host
        lab.reset()
