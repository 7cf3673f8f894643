"""Domains whose definitions are tested: the examples, and some that use every field of their type.

Each is rendered with a UUID, mark and MACs of its own that never change, so that the result can be kept in
tests/golden/domainxml: NAME.desired.xml is what we render, NAME.inactive.xml and NAME.live.xml are what
libvirt 9.0 made of it. `tests/golden/domainxml/make URI` makes them again on a host. Of xen and vz there is
only what we render: no such host was ever asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from specs.domain import Domain
from specs.domainxml import Rendered, render
from specs.macs import choose_mac
from specs.mark import Mark
from specs.problems import formatted
from specs.validate import load_file_objects

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLES: Final = ROOT / "specs" / "examples"
GOLDEN: Final = ROOT / "tests" / "golden" / "domainxml"
IMAGES: Final = "/var/lib/libvirt/images"
CLUSTER: Final = "cluster-1"

# What the definitions name below IMAGES on a host, with sizes in bytes. kernel must be a real one.
FILES: Final = {
    **dict.fromkeys(("tick.img", "data.img", "sat.img", "usb.img", "cd.img", "initrd"), 1 << 20),
    "fd.img": 1440 << 10,
}
ROOT_DIRECTORY: Final = "box-1"  # of a container; its init is that of tests.containers
DIRECTORIES: Final = (ROOT_DIRECTORY, "box-data", "box ro")
BRIDGE: Final = "br0"
NETWORK: Final = "default"

_EVERY_FIELD = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: NAME, namespace: team-b}
spec:
  type: qemu
  vcpus: 2
  memory: 100M
  os: {arch: x86_64, machine: MACHINE, boot: [hd, cdrom, network]}
  disks:
    - name: root
      source: {file: /var/lib/libvirt/images/root.qcow2}
      format: qcow2
      cache: none
      serial: WD-1 a
    - {name: data, source: {file: /var/lib/libvirt/images/data.img}, bus: scsi, shareable: true}
    - {name: sat, source: {file: /var/lib/libvirt/images/sat.img}, bus: sata}
    - {name: usb, source: {file: /var/lib/libvirt/images/usb.img}, bus: usb}
    - {name: block, source: {block: /var/lib/libvirt/images/loop0}, target: vdx, readOnly: true}
    - {name: cd, device: cdrom}
    - {name: cd2, device: cdrom, source: {file: /var/lib/libvirt/images/cd.img}}
    FLOPPY
  interfaces:
    - {name: net0, bridge: br0}
    - {name: net1, network: default, mac: 52:54:00:12:34:56, model: e1000}
  serials:
    - {name: ser0, type: file, path: /var/lib/libvirt/images/rich.log, append: true}
    - {name: ser1}
  consoles:
    - {name: con0}
    - {name: con1, type: file, path: /var/lib/libvirt/images/rich.con}
"""
_FLOPPY = "- {name: fd, device: floppy, source: {file: /var/lib/libvirt/images/fd.img}}"
_KERNEL = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: kernel}
spec:
  type: qemu
  memory: 128Mi
  os:
    kernel: /var/lib/libvirt/images/vmlinuz
    initrd: /var/lib/libvirt/images/initrd
    cmdline: console=ttyS0 a="b" <&> x
  serials: [{name: ser0}]
"""
_AGENT = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: agent}
spec:
  type: qemu
  memory: 32Mi
  onCrash: preserve
  onReboot: destroy
  shutdown: [{method: agent, timeoutSeconds: 5}, {method: destroy}]
"""
_TEST = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: test-1}
spec:
  type: test
  vcpus: 2
  memory: 32Mi
  os: {boot: [hd]}
  disks:
    - {name: a, source: {file: /var/lib/libvirt/images/data.img}}
    - {name: c, device: cdrom}
  interfaces: [{name: n, network: default}]
  serials: [{name: s}]
  consoles: [{name: co}]
"""
_CONTAINER = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: box-rich, namespace: team-b}
spec:
  type: lxc
  vcpus: 2
  memory: 48Mi
  os:
    arch: x86_64
    init: /init
    initArgs: ["a b", "<&>", "-x"]
    initEnv: {B_2: "2 'ü' 3", A: "1"}
    initDir: /data
  filesystems:
    - {target: /data, source: {dir: /var/lib/libvirt/images/box-data, shared: true}}
    - {target: /, source: {dir: /var/lib/libvirt/images/box-1}}
    - {target: "/data/ro [x]", source: {dir: /var/lib/libvirt/images/box ro}, readOnly: true}
    - {target: /tmp, type: ram, size: 10M}
  interfaces:
    - {name: net0, bridge: br0}
    - {name: net1, network: default, mac: 52:54:00:12:34:57}
  consoles: [{name: con0}, {name: con1, type: pty}]
  xml: <title>a box</title><cputune><shares>512</shares></cputune>
"""
_XEN = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: xen-rich}
spec:
  type: xen
  vcpus: 2
  memory: 1Gi
  os: {arch: x86_64, boot: [cdrom, hd]}
  disks:
    - {name: root, source: {file: /var/lib/libvirt/images/root.qcow2}, format: qcow2}
    - {name: data, source: {block: /var/lib/libvirt/images/loop0, shared: true}, readOnly: true}
    - {name: old, source: {file: /var/lib/libvirt/images/data.img}, bus: ide}
    - {name: cd, device: cdrom}
  interfaces:
    - {name: net0, bridge: xenbr0}
    - {name: net1, network: default, model: e1000}
  serials: [{name: ser0}]
  consoles: [{name: con0}]
---
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: xen-pv}
spec:
  type: xen
  memory: 256Mi
  os:
    kernel: /var/lib/libvirt/images/vmlinuz
    initrd: /var/lib/libvirt/images/initrd
    cmdline: root=/dev/xvda console=hvc0
  disks: [{name: root, source: {file: /var/lib/libvirt/images/data.img}}]
  consoles: [{name: con0}]
---
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: xen-pvh}
spec:
  type: xen
  memory: 256Mi
  os: {kernel: /var/lib/libvirt/images/vmlinuz, machine: xenpvh}
"""
_VZ = """
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: vz-rich}
spec:
  type: vz
  vcpus: 2
  memory: 1Gi
  os: {arch: x86_64, boot: [hd, cdrom]}
  disks:
    - {name: root, source: {file: /var/lib/libvirt/images/root.hdd}}
    - {name: data, source: {block: /var/lib/libvirt/images/loop0}, bus: scsi, serial: WD-2}
    - {name: cd, device: cdrom, source: {file: /var/lib/libvirt/images/cd.img}}
  interfaces:
    - {name: net0, bridge: br0}
    - {name: net1, network: default, model: e1000}
  serials: [{name: ser0, type: file, path: /var/lib/libvirt/images/vz.log}]
"""
OVERLAY: Final = """\
<!-- a comment --><title>Web / server</title><description>a &lt; b</description>
<iothreads>2</iothreads>
<vcpu cpuset="0-1"/>
<memoryBacking>
  <nosharepages/><source type="memfd"/><access mode="shared"/><allocation mode="ondemand"/>
</memoryBacking>
<cputune>
  <vcpupin vcpu="0" cpuset="0"/><vcpupin vcpu="1" cpuset="1"/><emulatorpin cpuset="0-1"/>
  <iothreadpin iothread="1" cpuset="0"/>
</cputune>
<os><bootmenu enable="yes" timeout="3000"/><bios rebootTimeout="0"/></os>
<features>
  <pae/><apic eoi="on"/><kvm><hidden state="on"/></kvm><pmu state="off"/><vmport state="off"/>
  <hyperv mode="custom">
    <relaxed state="on"/><vapic state="on"/><spinlocks state="on" retries="8191"/>
  </hyperv>
</features>
<cpu mode="custom" match="exact" check="none">
  <model fallback="allow">qemu64</model><topology sockets="1" dies="1" cores="2" threads="1"/>
  <feature policy="disable" name="svm"/>
</cpu>
<clock offset="timezone" timezone="Europe/Berlin">
  <timer name="rtc" tickpolicy="catchup"/><timer name="hpet" present="no"/>
</clock>
<pm><suspend-to-mem enabled="no"/></pm>
<devices>
  <disk>
    <alias name="ua-root"/><driver iothread="1" discard="unmap" queues="2"/><boot order="1"/>
    <iotune><total_bytes_sec>10000000</total_bytes_sec></iotune>
  </disk>
  <interface>
    <alias name="ua-net0"/><driver queues="2" name="vhost"/><mtu size="1400"/><link state="up"/>
    <boot order="2"/>
  </interface>
  <controller type="usb" index="0" model="qemu-xhci"/>
  <controller type="scsi" index="0" model="virtio-scsi"><driver iothread="2"/></controller>
  <input type="tablet" bus="usb"><alias name="ua-tablet"/></input>
  <graphics type="vnc" autoport="yes"/>
  <video><model type="vga" vram="16384" heads="1" primary="yes"/></video>
  <rng model="virtio"><rate bytes="1024" period="1000"/><backend model="random">/dev/urandom</backend></rng>
  <channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>
  <watchdog model="i6300esb" action="reset"/>
  <memballoon model="virtio" autodeflate="on"><stats period="5"/></memballoon>
  <panic model="isa"/>
  <sound model="ich6"/><audio id="1" type="none"/>
</devices>
"""


def domain(name: str = "d", /, **spec: Any) -> dict[str, Any]:
    """A Domain as JSON: 64 MiB of type qemu and what else is given, by its name on the wire."""
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Domain",
        "metadata": {"name": name},
        "spec": {"type": "qemu", "memory": "64Mi", **spec},
    }


def node(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Node",
        "metadata": {"name": "n"},
        "spec": {"uri": "qemu:///system", **spec},
    }


def loaded(text: str) -> tuple[Domain, ...]:
    objects, problems = load_file_objects(text, "case.yaml")
    assert not problems, [formatted(problem) for problem in problems]
    return tuple(one.value for one in objects if isinstance(one.value, Domain))


def uuid_of(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def rendered(one: Domain, epoch: int = 3) -> Rendered:
    identity = uuid_of(one.metadata.name)
    interfaces = one.spec.interfaces if isinstance(one.spec.interfaces, list) else []
    return render(
        one,
        uuid=identity,
        mark=Mark(CLUSTER, identity, epoch, ""),
        macs={interface.name: choose_mac(identity, interface.name) for interface in interfaces},
        allowed_paths=[IMAGES],
        xml_overlay_allowed=True,
    )


def cases() -> Mapping[str, Domain]:
    """Every definition, by its name."""
    with_overlay = domain(
        "overlay",
        vcpus=2,
        disks=[{"name": "root", "source": {"file": f"{IMAGES}/data.img"}}],
        interfaces=[{"name": "net0", "bridge": BRIDGE}],
        xml=OVERLAY,
    )
    texts = [
        *(
            path.read_text()
            for path in sorted((*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("containers/*.yaml")))
        ),
        _EVERY_FIELD.replace("NAME", "rich").replace("MACHINE", "pc").replace("FLOPPY", _FLOPPY),
        _EVERY_FIELD.replace("NAME", "rich-q35").replace("MACHINE", "q35").replace("FLOPPY", ""),
        _KERNEL,
        _AGENT,
        _TEST,
        _CONTAINER,
        _XEN,
        _VZ,
        msgspec.json.encode(with_overlay).decode(),
    ]
    return {one.metadata.name: one for text in texts for one in loaded(text)}
