"""Specs: all problems at once, each with its field; what has none becomes a typed object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from specs import kinds
from specs.domain import Domain, libvirt_name, pinning_directories, pinning_disks
from specs.node import Node
from specs.problems import Problem, errors, formatted
from specs.validate import Unknown, decode, immutable_problems, load_file_objects
from tests.specscase import EXAMPLES, domain, loaded, node

DISK = {"name": "root", "source": {"file": "/i/a"}}
NET = {"name": "n", "network": "default"}
ROOT: dict[str, Any] = {"target": "/", "source": {"dir": "/i/root"}}
MOUNT: dict[str, Any] = {"target": "/data", "source": {"dir": "/i/data"}}


def found(value: object) -> list[str]:
    return [str(problem) for problem in decode(value)[1]]


def disks(*given: Any) -> dict[str, Any]:
    return domain(disks=list(given))


def box(**fields: Any) -> dict[str, Any]:
    return domain(**{"type": "lxc", "filesystems": [ROOT], **fields})


def meta(**fields: Any) -> dict[str, Any]:
    return domain() | {"metadata": {"name": "d", **fields}}


def asked(request: str, at: str = "2026-01-31T12:00:00Z", **spec: Any) -> dict[str, Any]:
    metadata = {"name": "d", "annotations": {f"domctl.io/{request}-at": at}}
    return domain(**spec) | {"metadata": metadata}


def nic(**fields: Any) -> dict[str, Any]:
    return domain(interfaces=[{"name": "n", "network": "default", **fields}])


# (what is sent, the one field that is wrong, words of the message)
WRONG: list[tuple[object, str, str]] = [
    # the envelope
    (3, "", "must be an object, is 3"),
    ([], "", "must be an object, is a list"),
    ({"kind": "Domain"}, "apiVersion", "is required: domctl.io/v1"),
    (domain() | {"apiVersion": "v1"}, "apiVersion", 'must be domctl.io/v1 for a Domain, is "v1"'),
    (domain() | {"apiVersion": "domctl.io/v2"}, "apiVersion", "has only this version"),
    (domain() | {"kind": "Pod"}, "kind", 'must be Domain, Migration, Node or Token, is "Pod"'),
    (domain() | {"kind": None}, "kind", "is required"),
    (domain() | {"apiVersion": "apps/v1"}, "apiVersion", "rbac.authorization.k8s.io/v1 or v1, is"),
    (domain() | {"apiVersion": "v1", "kind": "Pod"}, "kind", "must be Namespace, ConfigMap or Secret, is"),
    (domain() | {"data": {}}, "data", "unknown field"),
    ({**domain(), "spec": None}, "spec", "is required"),
    ({**domain(), "spec": "x"}, "spec", 'must be an object, is "x"'),
    # metadata
    (domain() | {"metadata": {}}, "metadata.name", "is required"),
    (meta(name="Web_1"), "metadata.name", "lower-case letters, digits and '-'"),
    (meta(name="web-1\n"), "metadata.name", "lower-case letters"),
    (meta(name=".."), "metadata.name", "lower-case letters"),
    (meta(name="a.b"), "metadata.name", "lower-case letters"),
    (meta(name="-a"), "metadata.name", "lower-case letters"),
    (meta(name="a" * 64), "metadata.name", "at most 63"),
    (meta(name=""), "metadata.name", "lower-case letters"),
    (meta(name=7), "metadata.name", "must be text (put it in quotes), is 7"),
    (meta(namespace="Team"), "metadata.namespace", "lower-case letters"),
    (meta(uid="x"), "metadata.uid", "must be a UUID in lower case"),
    (
        meta(
            ownerReferences=[
                {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": name, "controller": True}
                for name in ("a", "b")
            ]
        ),
        "metadata.ownerReferences",
        'only one reference can have controller set to true, found true in those of "a" and "b"',
    ),
    (meta(labels={"a": 3}), "metadata.labels.a", "must be text (put it in quotes), is 3"),
    (meta(labels={"a": "b c"}), "metadata.labels.a", "must be empty or letters"),
    (meta(labels={"a": "x" * 64}), "metadata.labels.a", "at most 63"),
    (meta(labels={"a b": "c"}), "metadata.labels", 'has the key "a b"'),
    (meta(labels={"a/b/c": "c"}), "metadata.labels", "whose part before '/'"),
    (meta(labels={"Team.org/x": "c"}), "metadata.labels", "whose part before '/'"),
    (meta(labels={"/x": "c"}), "metadata.labels", "whose part before '/'"),
    (meta(labels={"x/": "c"}), "metadata.labels", "keys must be"),
    (meta(labels=["a"]), "metadata.labels", "must be an object, is a list"),
    (meta(annotations={"!": "c"}), "metadata.annotations", "has the key"),
    (meta(annotations={"a": "x" * 262_144}), "metadata.annotations", "at most 262144 are allowed"),
    (meta(finalizers=["a b"]), "metadata.finalizers[0]", "must be a name"),
    (meta(namespcae="x"), "metadata.namespcae", "did you mean namespace?"),
    # types, enums, ranges
    (domain(vcpus=0), "spec.vcpus", "must be between 1 and 4096, is 0"),
    (domain(vcpus=4097), "spec.vcpus", "must be between 1 and 4096, is 4097"),
    (domain(vcpus=1.5), "spec.vcpus", "must be a whole number, is 1.5"),
    (domain(vcpus="2"), "spec.vcpus", 'must be a whole number, is "2"'),
    (domain(vcpus=True), "spec.vcpus", "must be a whole number, is true"),
    (domain(vcpus=None), "spec.vcpus", "must be a whole number, is null"),
    (domain(vcpus=10**400), "spec.vcpus", "must fit in 64 bits"),
    (domain(vcpus=float("nan")), "spec.vcpus", "must be a whole number"),
    (domain(state="on"), "spec.state", 'saved or shutoff, is "on"'),
    (domain(state=True), "spec.state", "saved or shutoff, is true"),
    (domain(state={}), "spec.state", "saved or shutoff, is an object"),
    (domain(type="KVM"), "spec.type", "did you mean kvm?"),
    (domain(restartPolicy="always"), "spec.restartPolicy", "did you mean Always?"),
    (domain(memory=None), "spec.memory", "must be a quantity such as 512Mi, is null"),
    (domain(memory=[1]), "spec.memory", "must be a quantity such as 512Mi, is a list"),
    (domain(memory=1.5), "spec.memory", "must be a quantity"),
    (domain(memory="512MB"), "spec.memory", "did you mean 512Mi for powers of 1024?"),
    (domain(memory="1023Ki"), "spec.memory", "must be between 1Mi and 64Ti, is 1023Ki"),
    (domain(memory="65Ti"), "spec.memory", "must be between 1Mi and 64Ti, is 65Ti"),
    (domain(memory=512), "spec.memory", "did you forget Mi?"),
    (domain(memory=-1), "spec.memory", "must be between 1Mi and 64Ti, is -1"),
    (domain(memory="1048576500m"), "spec.memory", "not a whole number of bytes"),
    (domain(xml=5), "spec.xml", "must be text"),
    (domain(disks={}), "spec.disks", "must be a list, is an object"),
    (domain(disks=[DISK] * 65), "spec.disks", "has 65 items, at most 64 are allowed"),
    # os
    (domain(os={"arch": "x86"}), "spec.os.arch", "must be aarch64"),
    (domain(os={"machine": "pc q"}), "spec.os.machine", "letters, digits, '.', '_' and '-'"),
    (domain(os={"kernel": "vmlinuz"}), "spec.os.kernel", "must be an absolute path"),
    (domain(os={"kernel": "/b/../v"}), "spec.os.kernel", "'..' as a component"),
    (domain(os={"kernel": "/b/./v"}), "spec.os.kernel", "'..' as a component"),
    (domain(os={"kernel": "/b//v"}), "spec.os.kernel", "'//'"),
    (domain(os={"kernel": "/b/"}), "spec.os.kernel", "end in '/'"),
    (domain(os={"kernel": "/b\n"}), "spec.os.kernel", "must be an absolute path"),
    (domain(os={"kernel": "/b\ud800"}), "spec.os.kernel", "U+D800, which cannot stand in XML"),
    (domain(os={"kernel": "/b\x7f"}), "spec.os.kernel", "U+007F, which cannot stand in XML"),
    (domain(os={"kernel": "/" + "b" * 256}), "spec.os.kernel", "longer than 255 bytes"),
    (domain(os={"kernel": "/b" * 600}), "spec.os.kernel", "at most 1024 are allowed"),
    (domain(os={"initrd": "/b/i"}), "spec.os.initrd", "needs os.kernel"),
    (domain(os={"cmdline": "quiet"}), "spec.os.cmdline", "needs os.kernel"),
    (domain(os={"kernel": "/k", "cmdline": "a\nb"}), "spec.os.cmdline", "one line"),
    (domain(os={"kernel": "/k", "boot": ["hd"]}), "spec.os.boot", "cannot stand beside os.kernel"),
    (domain(os={"boot": ["hd", "hd"]}), "spec.os.boot", "names a device twice"),
    (domain(os={"boot": ["dvd"]}), "spec.os.boot[0]", "must be cdrom, fd, hd or network"),
    (domain(os={"loader": "/x"}), "spec.os.loader", "unknown field"),
    # disks
    (
        disks({"name": "root"}),
        "spec.disks[0].source",
        "is required: only a cdrom or floppy drive may be empty",
    ),
    (disks({"name": "root", "source": {}}), "spec.disks[0].source", "exactly one of file and block"),
    (
        disks({"name": "root", "source": {"file": "/a", "block": "/b"}}),
        "spec.disks[0].source",
        "exactly one of file and block",
    ),
    (disks({"name": "root", "source": {"file": "a.img"}}), "spec.disks[0].source.file", "absolute path"),
    (disks({"name": "root", "source": {"file": "/a/../b"}}), "spec.disks[0].source.file", "'..'"),
    (disks({"name": "root", "source": {"block": "/dev/../b"}}), "spec.disks[0].source.block", "'..'"),
    (disks({"name": "root", "source": {"fiel": "/a", "block": "/b"}}), "spec.disks[0].source.fiel", "file?"),
    (disks({"name": "Root", "source": {"file": "/a"}}), "spec.disks[0].name", "lower-case letters"),
    (disks({"source": {"file": "/a"}}), "spec.disks[0].name", "is required"),
    (disks(DISK, {**DISK, "source": {"file": "/b"}}), "spec.disks[1].name", "unique among all devices"),
    (disks(DISK, {**DISK, "name": "b"}), "spec.disks[1].source.file", "may be written to"),
    (disks({**DISK, "bus": "nvme"}), "spec.disks[0].bus", "must be fdc"),
    (disks({**DISK, "bus": "fdc"}), "spec.disks[0].bus", "for a disk, is fdc"),
    (disks({"name": "c", "device": "cdrom", "bus": "virtio"}), "spec.disks[0].bus", "for a cdrom"),
    (
        disks({"name": "c", "device": "cdrom", "readOnly": False}),
        "spec.disks[0].readOnly",
        "always read-only",
    ),
    (disks({**DISK, "bus": "sata", "readOnly": True}), "spec.disks[0].readOnly", "not possible"),
    (disks({**DISK, "target": "sda"}), "spec.disks[0].target", "must begin with vd on the bus virtio"),
    (disks({**DISK, "target": "vdA"}), "spec.disks[0].target", "a device name such as vda"),
    (
        disks({**DISK, "target": "vda"}, {"name": "b", "source": {"file": "/b"}, "target": "vda"}),
        "spec.disks[1].target",
        "is there twice: vda",
    ),
    (disks({**DISK, "serial": "a<b"}), "spec.disks[0].serial", "letters, digits, blanks"),
    (disks({**DISK, "readOnly": "yes"}), "spec.disks[0].readOnly", "must be true or false"),
    (disks(DISK, "x"), "spec.disks[1]", "must be an object"),
    # interfaces
    (domain(interfaces=[{"name": "n"}]), "spec.interfaces[0]", "exactly one of network and bridge"),
    (nic(bridge="br0"), "spec.interfaces[0]", "exactly one of network and bridge"),
    (nic(mac="52:54:00:12:34:5"), "spec.interfaces[0].mac", "a unicast MAC address"),
    (nic(mac="53:54:00:12:34:56"), "spec.interfaces[0].mac", "a unicast MAC address"),
    (nic(mac="52:54:00:12:34:AB"), "spec.interfaces[0].mac", "in lower case"),
    (nic(mac="00:00:00:00:00:00"), "spec.interfaces[0].mac", "all zeros"),
    (nic(mac=41135085296), "spec.interfaces[0].mac", "must be text (put it in quotes)"),
    (nic(model="<e1000>"), "spec.interfaces[0].model", "letters, digits"),
    (domain(interfaces=[{"name": "n", "bridge": "b" * 16}]), "spec.interfaces[0].bridge", "at most 15"),
    # serials and consoles
    (domain(serials=[{"name": "s", "type": "file"}]), "spec.serials[0].path", "is required for type file"),
    (
        domain(serials=[{"name": "s", "type": "file", "path": "/var/lib/libvirt/images/x", "record": True}]),
        "spec.serials[0].record",
        "is for type pty only: what goes to a file of the host is not read by domctl",
    ),
    (
        domain(type="test", consoles=[{"name": "c", "record": True}]),
        "spec.consoles[0].record",
        "is not possible for type test: its driver opens no consoles",
    ),
    (domain(serials=[{"name": "s", "path": "/x"}]), "spec.serials[0].path", "for type file only"),
    (domain(serials=[{"name": "s", "append": True}]), "spec.serials[0].append", "for type file only"),
    (domain(consoles=[{"name": "s", "type": "tcp"}]), "spec.consoles[0].type", "must be file or pty"),
    (
        domain(serials=[{"name": "s", "type": "file", "path": "/a/../b"}]),
        "spec.serials[0].path",
        "'..' as a component",
    ),
    (
        domain(serials=[{"name": "s"}], consoles=[{"name": "s"}]),
        "spec.consoles[0].name",
        "also in spec.serials",
    ),
    # the ladder
    (domain(shutdown=[]), "spec.shutdown", "at least 1 item"),
    (domain(shutdown=[{}]), "spec.shutdown[0].method", "is required"),
    (domain(shutdown=[{"method": "kill"}]), "spec.shutdown[0].method", "must be acpi, agent or destroy"),
    (domain(shutdown=[{"method": "destroy"}, {"method": "acpi"}]), "spec.shutdown[1]", "never be reached"),
    (
        domain(shutdown=[{"method": "destroy", "timeoutSeconds": 1}]),
        "spec.shutdown[0].timeoutSeconds",
        "nothing",
    ),
    (
        domain(shutdown=[{"method": "acpi", "timeoutSeconds": -1}]),
        "spec.shutdown[0].timeoutSeconds",
        "0 and 86400",
    ),
    # placement
    (domain(placement={"node": "a.b"}), "spec.placement.node", "lower-case letters"),
    (domain(placement={"nodeSelector": {"a": "b c"}}), "spec.placement.nodeSelector.a", "must be empty or"),
    (domain(placement={"nodeSelector": {" ": "b"}}), "spec.placement.nodeSelector", "has the key"),
    # what comes later
    (domain(type="openvz"), "spec.type", "use vz or lxc"),
    (domain(type="parallels"), "spec.type", "use vz"),
    # containers, and what other types rule out
    (domain(type="lxc"), "spec.filesystems", "every file of it"),
    (domain(type="lxc", filesystems=[MOUNT]), "spec.filesystems", "every file of it"),
    (box(filesystems=[{"target": "/", "type": "ram", "size": "1Mi"}]), "spec.filesystems[0].type", "mount"),
    (box(filesystems=[ROOT, ROOT]), "spec.filesystems[1].target", "is there twice"),
    (box(filesystems=[ROOT, {**MOUNT, "target": "/a/../b"}]), "spec.filesystems[1].target", "'.' or '..'"),
    (box(filesystems=[ROOT, {**MOUNT, "target": "a"}]), "spec.filesystems[1].target", "inside the container"),
    (
        box(filesystems=[ROOT, {"target": "/a", "source": {"dir": "/x/../etc"}}]),
        "spec.filesystems[1].source.dir",
        "'.' or '..'",
    ),
    (box(filesystems=[ROOT, {"target": "/a"}]), "spec.filesystems[1].source", "required for type mount"),
    (box(filesystems=[ROOT, {"target": "/a", "type": "ram"}]), "spec.filesystems[1].size", "type ram"),
    (box(filesystems=[ROOT, {**MOUNT, "size": "1Mi"}]), "spec.filesystems[1].size", "not for type mount"),
    (
        box(filesystems=[ROOT, {"target": "/a", "type": "ram", "size": "1Ki"}]),
        "spec.filesystems[1].size",
        "1Mi",
    ),
    (box(filesystems=[ROOT, {**MOUNT, "type": "bind"}]), "spec.filesystems[1].type", "mount or ram"),
    (box(disks=[DISK]), "spec.disks", "spec.filesystems"),
    (box(serials=[{"name": "s"}]), "spec.serials", "consoles"),
    (box(consoles=[{"name": "s", "type": "file", "path": "/a"}]), "spec.consoles[0].type", "pty"),
    (box(interfaces=[{**NET, "model": "virtio"}]), "spec.interfaces[0].model", "veth"),
    (box(os={"kernel": "/a"}), "spec.os.kernel", "boot nothing"),
    (box(os={"boot": ["hd"]}), "spec.os.boot", "boot nothing"),
    (box(os={"machine": "pc"}), "spec.os.machine", "boot nothing"),
    (box(os={"init": "sbin/init"}), "spec.os.init", "inside the container"),
    (box(os={"init": "/a/./b"}), "spec.os.init", "'.' or '..'"),
    (box(os={"init": "/"}), "spec.os.init", "the directory /"),
    (box(os={"initEnv": {"1A": "x"}}), "spec.os.initEnv", "begin with no digit"),
    (box(os={"initEnv": {"A": "<x/>"}}), "spec.os.initEnv.A", "does not escape"),
    (box(shutdown=[{"method": "agent"}]), "spec.shutdown[0].method", "SIGTERM"),
    (domain(filesystems=[ROOT]), "spec.filesystems", "for containers"),
    (domain(os={"init": "/sbin/init"}), "spec.os.init", "for containers"),
    (domain(type="xen", disks=[{**DISK, "bus": "virtio"}]), "spec.disks[0].bus", "must be xen or ide"),
    (domain(type="xen", disks=[{**DISK, "format": "vmdk"}]), "spec.disks[0].format", "must be raw or qcow2"),
    (
        domain(type="xen", disks=[{"name": "f", "device": "floppy"}]),
        "spec.disks[0].device",
        "xen driver has none",
    ),
    (domain(type="xen", os={"boot": ["hd", "fd"]}), "spec.os.boot[1]", "no floppy"),
    (domain(type="xen", os={"machine": "pc"}), "spec.os.machine", "must be xenfv, xenpv, xenpvh"),
    (domain(type="xen", os={"machine": "xenpvh"}), "spec.os.machine", "needs os.kernel"),
    (domain(type="xen", os={"machine": "xenfv", "kernel": "/k"}), "spec.os.machine", "leave it out"),
    (domain(type="vz", disks=[{**DISK, "format": "raw"}]), "spec.disks[0].format", "must be ploop"),
    (domain(type="vz", serials=[{"name": "s", "type": "pty"}]), "spec.serials[0].type", "use type file"),
    (domain(type="vz", serials=[{"name": "s"}]), "spec.serials[0].type", "use type file"),
    (domain(type="vz", consoles=[{"name": "s"}]), "spec.consoles", "serial ports only"),
    (domain(disks=[{**DISK, "bus": "xen"}]), "spec.disks[0].bus", "must be virtio"),
    (domain(disks=[{**DISK, "format": "ploop"}]), "spec.disks[0].format", "must be raw"),
    (domain(uuid="x"), "spec.uuid", "cannot be adopted"),
    (domain(libvirtName="x"), "spec.libvirtName", "cannot be adopted"),
    (domain(persistence="transient", state="saved"), "spec.state", "a transient domain has no definition"),
    (domain(recovery={"onNodeFailure": "Restart"}, state="saved"), "spec.state", "Restart makes it"),
    (
        domain(recovery={"onNodeFailure": "Restart"}, persistence="persistent"),
        "spec.persistence",
        "cannot be persistent beside recovery.onNodeFailure: Restart",
    ),
    (domain(recovery={"autostart": True}), "spec.recovery.autostart", "needs placement.node"),
    (
        domain(recovery={"autostart": True}, placement={"node": "a"}, persistence="transient"),
        "spec.recovery.autostart",
        "is not for transient domains",
    ),
    (domain(recovery={"autostart": "yes"}), "spec.recovery.autostart", "must be"),
    (asked("reboot", "now"), "metadata.annotations[domctl.io/reboot-at]", "must be a time such as"),
    (asked("reset", "2026-01-31"), "metadata.annotations[domctl.io/reset-at]", "must be a time such as"),
    (asked("reset", type="test"), "metadata.annotations[domctl.io/reset-at]", "domain of type test"),
    (domain(update={"strategy": "Never"}), "spec.update", "not supported yet"),
    (domain(drift="Absorb"), "spec.drift", "not supported yet"),
    (domain(reconcile="Report"), "spec.reconcile", "not supported yet"),
    (domain(placement={"affinity": {}}), "spec.placement.affinity", "use placement.nodeSelector"),
    (domain(placement={"spread": []}), "spec.placement.spread", "use placement.nodeSelector"),
    (domain(placement={"tolerations": []}), "spec.placement.tolerations", "not supported yet"),
    (node(maintenance=True), "spec.maintenance", "use unschedulable"),
    (node(fencing={}), "spec.fencing", "only an operator"),
    (node(migrationURI="qemu+tcp://x/system?command=y"), "spec.migrationURI", "no parameters"),
    # nodes
    ({**node(), "metadata": {"name": "n", "namespace": "x"}}, "metadata.namespace", "in no namespace"),
    (node(uri=""), "spec.uri", "must not be empty"),
    (node(uri="http://x/"), "spec.uri", ""),
    (node(uri="qemu+ssh://x/system?command=/bin/sh"), "spec.uri", "spec.connection"),
    (node(uri="qemu+ext://x/system"), "spec.connection.command", "required for transport ext"),
    (
        node(uri="qemu+tls://x/system", connection={"keyFile": "/a"}),
        "spec.connection.keyFile",
        "is for transport ssh, and spec.uri says tls",
    ),
    (node(connection={"authFile": "/a"}), "spec.connection.authFile", "is for transport tcp or tls"),
    (
        node(uri="qemu+ssh://x/system", connection={"command": "/bin/nc"}),
        "spec.connection.command",
        "is for transport ext",
    ),
    (
        node(uri="qemu+ssh://x/system", connection={"keyFile": "/a/../b"}),
        "spec.connection.keyFile",
        "must not contain '..'",
    ),
    (node(uri="qemu+ssh://x/system", connection={"keyFile": "a b"}), "spec.connection.keyFile", "absolute"),
    (
        node(uri="qemu+tls://x/system", connection={"password": "x"}),
        "spec.connection.password",
        "unknown field",
    ),
    (node(uri="qemu+ext://x/system?command=/bin/sh"), "spec.uri", ""),
    (node(uri="qemu+tcp://10.0.0.1/system"), "spec.insecure", "whoever reaches that port is root"),
    (node(uri="qemu+tcp://10.0.0.1/system", insecure=False), "spec.insecure", "must be true"),
    (node(allowedPaths=["/"]), "spec.allowedPaths[0]", "every file of the host"),
    (node(allowedPaths=["/a/"]), "spec.allowedPaths[0]", "end in '/'"),
    (node(allowedPaths=["/a", "/a"]), "spec.allowedPaths[1]", "is there twice"),
    (node(allowedPaths=["a"]), "spec.allowedPaths[0]", "absolute path"),
    (node(overcommit={"vcpus": 0}), "spec.overcommit.vcpus", "must be between 0.1 and 64, is 0"),
    (node(overcommit={"memory": "2"}), "spec.overcommit.memory", "must be a number"),
    (node(reserved={"memory": "-1Gi"}), "spec.reserved.memory", "must not be negative"),
    (node(reserved={"memory": "1GB"}), "spec.reserved.memory", "must be a quantity"),
    (node(reserved={"vcpus": -1}), "spec.reserved.vcpus", "between 0 and 4096"),
    (node(taints=[{"key": "a b", "effect": "NoSchedule"}]), "spec.taints[0].key", "keys must be"),
    (node(taints=[{"key": "a", "value": "b c", "effect": "NoSchedule"}]), "spec.taints[0].value", "must be"),
    (node(taints=[{"key": "a", "effect": "NoExecute"}]), "spec.taints[0].effect", "moved off a node"),
    (node(taints=[{"key": "a", "effect": "NoSchedule"}] * 2), "spec.taints[1]", "is there twice"),
]


@pytest.mark.parametrize(("value", "path", "words"), WRONG)
def test_one_mistake_is_one_problem_at_its_field(value: object, path: str, words: str) -> None:
    decoded, problems = decode(value)
    assert decoded is None
    assert [problem.path for problem in problems] == [path], found(value)
    assert words in problems[0].message


RIGHT: list[object] = [
    domain(),
    domain(vcpus=2.0, memory=1e9),
    domain(memory=1 << 20),
    domain(memory="64Ti"),
    box(),
    box(filesystems=[{"target": "/t", "type": "ram", "size": "1Mi"}, MOUNT, ROOT]),
    box(os={"init": "/i", "initArgs": ["<", ""], "initEnv": {"_a": "'\""}, "initDir": "/"}, disks=[]),
    domain(type="xen", disks=[DISK], os={"kernel": "/k"}),
    domain(
        type="vz", disks=[{**DISK, "format": "ploop"}], serials=[{"name": "s", "type": "file", "path": "/l"}]
    ),
    domain(os={"kernel": "/b/vmlinuz-6.1 (1)", "initrd": "/b/ü.gz", "cmdline": "a=\"b\" <&> 'c'"}),
    disks({"name": "c", "device": "cdrom"}, {"name": "f", "device": "floppy"}),
    disks({**DISK, "readOnly": True}, {**DISK, "name": "again", "readOnly": True}),
    domain(shutdown=[{"method": "agent", "timeoutSeconds": 0}, {"method": "acpi"}]),
    domain(
        consoles=[{"name": "c"}], serials=[{"name": "s", "type": "file", "path": "/a/b", "append": False}]
    ),
    domain(xml="<title>a</title>"),
    meta(labels={"app.kubernetes.io/name": "web", "empty": "", "A_b.c-9": "X"}, annotations={"a": "b\n c/d"}),
    meta(creationTimestamp=None, managedFields=[{"manager": "x", "fieldsV1": {"f:spec": {}}}], selfLink="/x"),
    domain() | {"status": None},
    domain()
    | {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}},
    node(),
    node(uri="qemu+tcp://192.0.2.1:16509/system", insecure=True),
    node(uri="qemu+tcp://192.0.2.1/system", connection={"authFile": "/etc/domctl/hosts/h1.yaml"}),
    node(uri="qemu+tls://h1/system", connection={"pkiDir": "/etc/domctl/hosts/pki"}),
    node(uri="qemu+tls://h1/system"),
    node(
        uri="qemu+ssh://virt@h1:2222/system", connection={"knownHosts": "/e/known_hosts", "keyFile": "/e/k"}
    ),
    node(uri="qemu+ext://h1/system", connection={"command": "/usr/local/libexec/reach-host"}),
    node(
        overcommit={"vcpus": 1.5, "memory": 1},
        reserved={"memory": "1Gi", "vcpus": 0},
        allowedPaths=["/a", "/a/b"],
    ),
    node(
        taints=[{"key": "a.b/c", "effect": "NoSchedule"}, {"key": "c", "value": "", "effect": "NoSchedule"}]
    ),
]


@pytest.mark.parametrize("value", RIGHT)
def test_what_has_no_problem_is_a_typed_object_that_says_the_same(value: dict[str, Any]) -> None:
    decoded, problems = decode(value)
    assert problems == []
    assert isinstance(decoded, Domain | Node)
    again = msgspec.json.decode(msgspec.json.encode(decoded), type=type(decoded))
    assert again == decoded
    assert decode(msgspec.to_builtins(decoded))[0] == decoded


def test_all_problems_are_told_at_once_and_semantic_ones_beside_wrong_types() -> None:
    value = domain(vcpus=0, Memory=1, disks=[{"name": "a", "source": {"file": 3}}, DISK, DISK], shutdown="x")
    assert [problem.path for problem in decode(value)[1]] == [
        "spec.vcpus",
        "spec.Memory",
        "spec.disks[0].source.file",
        "spec.shutdown",
        "spec.disks[2].source.file",
        "spec.disks[2].name",
    ]


def test_the_number_of_problems_is_bounded() -> None:
    assert len(decode(domain(**{f"f{i}": 1 for i in range(5000)}))[1]) == 200


def test_depth_is_bounded_where_no_schema_bounds_it() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert found(meta(managedFields=[{"x": deep}])) == [
        "metadata.managedFields[0].x: is nested more than 64 deep"
    ]


@pytest.mark.parametrize("mode", Unknown)
def test_unknown_fields_are_refused_or_told_or_pruned(mode: Unknown) -> None:
    decoded, problems = decode(domain(colour="red"), mode)
    assert (decoded is None) == (mode is Unknown.STRICT)
    assert [p.warning for p in problems] == {"Strict": [False], "Warn": [True], "Ignore": []}[mode.value]
    assert decoded is None or b"colour" not in msgspec.json.encode(decoded)


@pytest.mark.parametrize("mode", Unknown)
def test_fields_that_come_later_are_refused_whatever_becomes_of_unknown_ones(mode: Unknown) -> None:
    assert decode(domain(update={"strategy": "Never"}), mode)[0] is None


CHANGES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    (domain(), domain(vcpus=2), []),
    (domain(type="qemu"), domain(type="kvm"), []),
    (domain(type="qemu"), domain(type="test"), ["spec.type"]),
    (domain(), domain("other"), ["metadata.name"]),
    (meta(namespace="default"), meta(), []),
    (meta(), meta(namespace="default"), []),
    (meta(), meta(namespace="team"), ["metadata.namespace"]),
    (meta(uid="0dc3a83f-4e35-59f2-9add-b49a5058ba9f"), meta(), []),
    (
        meta(uid="0dc3a83f-4e35-59f2-9add-b49a5058ba9f"),
        meta(uid="1dc3a83f-4e35-59f2-9add-b49a5058ba9f"),
        ["metadata.uid"],
    ),
    (domain("n"), node(), ["kind"]),
    (node(), node(uri="qemu:///session"), []),
]


@pytest.mark.parametrize(("old", "new", "paths"), CHANGES)
def test_identity_and_driver_cannot_be_changed(
    old: dict[str, Any], new: dict[str, Any], paths: list[str]
) -> None:
    before, after = decode(old)[0], decode(new)[0]
    assert before is not None
    assert after is not None
    assert [problem.path for problem in immutable_problems(before, after)] == paths


FILE = """\
# web
apiVersion: domctl.io/v1
kind: Domain
metadata:
  name: web-1
spec:
  memory: 32Mi
  vcpus: 0
  disks:
    - name: root
      source: {file: rel}
---
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: web-2}
spec: {memory: 32Mi}
---
apiVersion: domctl.io/v1
kind: Domain
metadata: {name: web-3}
spec:
  memory: 32Mi
  memory: 64Mi
"""


def test_problems_of_a_file_read_as_file_line_column_field_and_what_is_wrong() -> None:
    objects, problems = load_file_objects(FILE, "web.yaml")
    assert [formatted(problem) for problem in problems] == [
        "web.yaml:8:3: spec.vcpus: must be between 1 and 4096, is 0",
        "web.yaml:11:16: spec.disks[0].source.file: must be an absolute path such as "
        '/var/lib/libvirt/images/a.img, is "rel"',
        'web.yaml:23:3: spec: the key "memory" is there twice, first in line 22',
    ]
    assert [(one.value.metadata.name, one.line) for one in objects] == [("web-2", 13)]


def test_an_object_with_a_duplicate_key_is_never_handed_on() -> None:
    objects, problems = load_file_objects(FILE.split("---")[2], "x")
    assert (objects, len(problems)) == ([], 1)


def test_a_list_is_taken_apart_with_places() -> None:
    item = "{apiVersion: domctl.io/v1, kind: Node, metadata: {name: a}, spec: {}}"
    problems = load_file_objects(f"apiVersion: v1\nkind: List\nitems:\n- {item}\n", "l")[1]
    assert [formatted(problem) for problem in problems] == ["l:4:63: items[0].spec.uri: is required"]


def test_the_same_object_twice_in_a_file_is_told() -> None:
    twice = (EXAMPLES / "db.yaml").read_text() + "---\n" + (EXAMPLES / "db.yaml").read_text()
    problems = load_file_objects(twice, "db.yaml")[1]
    assert [p.message for p in problems] == ['Domain "db-1" is there twice, first in line 3']


def test_every_example_is_right() -> None:
    for path in EXAMPLES.rglob("*.yaml"):
        assert load_file_objects(path.read_text(), path.name)[1] == [], path


def test_every_example_has_a_name_of_its_own_on_any_host() -> None:
    names = [
        libvirt_name(one.metadata) for path in EXAMPLES.glob("*.yaml") for one in loaded(path.read_text())
    ]
    assert len(names) == len(set(names)) >= 6
    assert "team-a.tick-1" in names


def test_no_kind_is_in_the_category_all() -> None:
    assert all("all" not in kind.categories for kind in kinds.KINDS)


PINNING = [
    ({}, True),
    ({"source": {"file": "/a", "shared": True}}, False),
    ({"readOnly": True}, False),
    ({"device": "cdrom"}, False),
]


@pytest.mark.parametrize(("fields", "pins"), PINNING)
def test_a_disk_pins_its_domain_if_it_is_local_and_can_be_written(fields: dict[str, Any], pins: bool) -> None:
    decoded = decode(disks({**DISK, **fields}))[0]
    assert isinstance(decoded, Domain)
    assert pinning_disks(decoded.spec) == (("root",) if pins else ())


@pytest.mark.parametrize(
    ("fields", "pins"),
    [({}, True), ({"readOnly": True}, False), ({"source": {"dir": "/i/root", "shared": True}}, False)],
)
def test_a_directory_pins_its_container_if_it_is_local_and_can_be_written(
    fields: dict[str, Any], pins: bool
) -> None:
    decoded = decode(box(filesystems=[{**ROOT, **fields}]))[0]
    assert isinstance(decoded, Domain)
    assert pinning_directories(decoded.spec) == (("/",) if pins else ())


def test_warnings_are_no_errors() -> None:
    warning, error = Problem(("a",), "x", warning=True), Problem(("b",), "y")
    assert errors([warning, error]) == [error]
    assert formatted(warning) == "warning: a: x"


def test_paths_with_odd_keys_are_shown_in_brackets() -> None:
    problem = Problem(("metadata", "labels", "app.kubernetes.io/name\n"), "x")
    assert problem.path == "metadata.labels[app.kubernetes.io/name\\x0a]"


@pytest.mark.parametrize("path", sorted((EXAMPLES / "states").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_of_states_have_no_problems(path: Path) -> None:
    objects, problems = load_file_objects(path.read_text(), path.name)
    assert objects and not problems


def test_what_clients_alone_read_may_have_any_character() -> None:
    text = "a\x1b[31m\x00\x7f\x85\ufffe"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "annotations": {"a": text}}}
    assert [str(one) for one in decode({**config, "data": {"k": text}})[1]] == []
    assert [str(one) for one in decode(meta(annotations={"a": text}))[1]] == []
    assert "cannot stand in text" in str(decode({**config, "data": {"k": "\udc80"}})[1][0])


def test_all_kinds_are_named_to_who_names_no_group() -> None:
    _, problems = decode({"kind": "Pod", "metadata": {"name": "a"}})
    assert [str(one) for one in problems] == [
        "apiVersion: is required: domctl.io/v1",
        "kind: must be Domain, Migration, Node, Token, ClusterRole, ClusterRoleBinding, Role, RoleBinding, "
        'Namespace, ConfigMap or Secret, is "Pod"',
    ]
