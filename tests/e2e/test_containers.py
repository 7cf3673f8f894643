"""Containers through `domctl serve`: hosts that are a qemu node and an lxc node each, and what they lived.

Evidence is what libvirt's lxc driver says, and what each container's init wrote into a file of its host.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.containers import let_end, lived, make_root, ticks
from tests.e2e.client import DOMAINS, MIGRATIONS, condition, is_ready, reason
from tests.e2e.cluster import IMAGES, Cluster, node
from tests.e2e.conftest import QUICK
from tests.e2e.serve import Controller, until
from tests.etcdserver import require_etcd
from tests.labhost import SHARED_VIEW, Lab, LabHost

PATHS = [IMAGES, SHARED_VIEW]


class Containers:
    """Two hosts; n1 and n2 are their qemu nodes, c1 and c2 their lxc nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.hosts = {f"c{i + 1}": host for i, host in enumerate(cluster.hosts)}
        self.made: list[Path] = []

    def join(self) -> None:
        for number, host in enumerate(self.cluster.hosts, 1):
            container_node = node(f"c{number}", lxc(host), allowedPaths=PATHS)
            container_node["metadata"]["labels"]["example.org/kind"] = "lxc"
            self.cluster.controller.apply(node(f"n{number}", host.uri), container_node)
        for name in ("n1", "n2", "c1", "c2"):
            self.cluster.wait_node(name)

    def root(self, name: str, *nodes: str) -> Path:
        """A root of this name on these nodes' hosts, or on storage that both share."""
        places = [self.hosts[one].path(f"{IMAGES}/{name}") for one in nodes]
        for place in places or [self.cluster.hosts[0].path(f"{SHARED_VIEW}/{name}")]:
            make_root(place)
            self.made.append(place)
        return self.made[-1]

    def apply(self, name: str, *arguments: str, shared: bool = False, **spec: Any) -> None:
        source = {
            "dir": f"{SHARED_VIEW if shared else IMAGES}/{name}",
            **({"shared": True} if shared else {}),
        }
        whole = {
            "type": "lxc",
            "memory": "32Mi",
            "os": {"init": "/init", "initArgs": list(arguments)},
            "filesystems": [{"target": "/", "source": source}],
            "shutdown": [{"method": "acpi", "timeoutSeconds": 1}, {"method": "destroy"}],
            **spec,
        }
        self.cluster.controller.apply(
            {"apiVersion": "domctl.io/v1", "kind": "Domain", "metadata": {"name": name}, "spec": whole}
        )

    def run(self, name: str, *arguments: str, **spec: Any) -> Path:
        """A container on c1, once it is Ready; its root."""
        root = self.root(name, "c1")
        self.apply(name, *arguments, placement={"node": "c1"}, **spec)
        self.cluster.wait_ready(name)
        return root

    def seen(self, name: str) -> dict[str, int]:
        """libvirt's state of it on each lxc node that knows it."""
        found = {}
        for one, host in self.hosts.items():
            with libvirt.open(lxc(host)) as connection:
                for domain in (d for d in connection.listAllDomains() if d.name() == name):
                    with contextlib.suppress(libvirt.libvirtError):  # a transient one went since
                        found[one] = domain.state()[0]
        return found

    def until_seen(self, name: str, states: dict[str, int], timeout_s: float = 15) -> None:
        until(lambda: self.seen(name) == states, timeout_s, lambda: f"{self.seen(name)}\n{self.story(name)}")

    def story(self, name: str) -> str:
        status = self.cluster.domain(name).get("status") if self.cluster.exists(name) else "no such domain"
        return f"{name}: {status}\nlog: {self.cluster.controller.tail()}"

    def until_reason(self, name: str, wanted: str, timeout_s: float = 40) -> None:
        until(lambda: reason(self.cluster.domain(name)) == wanted, timeout_s, lambda: self.story(name))

    def clear(self) -> None:
        for host in self.hosts.values():
            with libvirt.open(lxc(host)) as connection:
                for domain in connection.listAllDomains():
                    is_persistent = domain.isPersistent()  # one that is not is gone with its run
                    if domain.isActive():
                        domain.destroy()
                    if is_persistent:
                        domain.undefine()
        for place in self.made:
            shutil.rmtree(place)


def lxc(host: LabHost) -> str:
    return host.uri.replace("qemu", "lxc", 1)


RUNNING, PAUSED, SHUTOFF = (
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF,
)


@pytest.fixture(scope="module")
def boxes(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """One controller for all these tests; each has containers of its own names."""
    require_etcd()
    lab.reset()
    controller = Controller(tmp_path_factory.mktemp("boxes"), QUICK)
    made = Containers(Cluster(controller, lab.hosts[:2]))
    try:
        controller.start()
        made.join()
        yield made
    finally:
        controller.stop()
        made.clear()


def advances(count: Callable[[], int]) -> bool:
    before = count()
    time.sleep(0.3)
    return count() > before


def test_a_container_goes_to_an_lxc_node_and_a_machine_to_a_qemu_node(boxes: Containers) -> None:
    root = boxes.run("box", "a b", "<c>")
    boxes.cluster.run("machine", placement={"node": "n1"})
    until(lambda: ticks(root) > 1, 5, "its init writes nothing")
    assert lived(root) == ["start a b <c>"]
    assert (root / "net").read_text().split() == ["lo"], "it is on the network of its host"
    assert boxes.seen("box") == {"c1": RUNNING}
    misplaced = {"node": "n1"}
    boxes.apply("nowhere", placement=misplaced)
    boxes.until_reason("nowhere", "NoNodeFits")
    assert "runs qemu, not lxc" in boxes.cluster.message("nowhere")


def test_the_two_nodes_of_one_host_have_one_capacity(boxes: Containers) -> None:
    """Both count what runs on either."""
    boxes.run("counted")
    boxes.cluster.run("counted-too", placement={"node": "n1"})

    def allocated(name: str) -> Any:
        return boxes.cluster.node(name)["status"]["allocated"]

    until(lambda: allocated("n1") == allocated("c1"), 10, lambda: f"{allocated('n1')} {allocated('c1')}")
    here = allocated("c1")
    assert here["memoryBytes"] >= 2 * (32 << 20)
    statuses = {name: boxes.cluster.node(name)["status"] for name in ("n1", "c1", "c2")}
    assert statuses["n1"]["hostUuid"] == statuses["c1"]["hostUuid"] != statuses["c2"]["hostUuid"]
    assert (statuses["n1"]["driver"], statuses["c1"]["driver"]) == ("qemu", "lxc")


def test_a_container_whose_init_ends_is_started_again_as_its_policy_says(boxes: Containers) -> None:
    always = boxes.run("always", "end")
    let_end(always, "always")
    until(lambda: len(lived(always)) >= 2, 15, lambda: boxes.story("always"))
    never = boxes.run("never", "end", restartPolicy="Never")
    let_end(never, "never")
    boxes.until_reason("never", "Completed")
    # libvirt says of every container that ends by itself that it shut down, whatever its init's exit code.
    failing = boxes.run("failing", "fail", restartPolicy="OnFailure")
    let_end(failing, "failing")
    boxes.until_reason("failing", "Completed")
    host = boxes.hosts["c1"]
    host.kill_libvirtd()  # from now on it calls them shut off for a reason that is not known
    host.restart_libvirtd()
    boxes.cluster.controller.stop()
    boxes.cluster.controller.start()
    boxes.cluster.wait_node("c1")
    boxes.run("always-too")  # so all that is due was seen
    for name in ("never", "failing"):
        boxes.until_reason(name, "Completed")
    assert lived(never) == ["start end"] and lived(failing) == ["start fail"], "they are to rest"


def test_a_container_that_reboots_itself_is_the_same_run(boxes: Containers) -> None:
    root = boxes.run("rebooting", "reboot")
    let_end(root, "rebooting")
    until(lambda: len(lived(root)) >= 2, 10, lambda: boxes.story("rebooting"))
    assert boxes.seen("rebooting") == {"c1": RUNNING}
    assert is_ready(boxes.cluster.domain("rebooting"))


def test_a_container_is_not_asked_to_reboot_for_it_would_not_hear(boxes: Containers) -> None:
    root = boxes.run("asked")
    boxes.cluster.controller.domctl("reboot", "asked")
    why = "lxc cannot ask a guest to start again"
    until(lambda: why in str(boxes.cluster.domain("asked")["status"]), 10, lambda: boxes.story("asked"))
    with libvirt.open(lxc(boxes.hosts["c1"])) as connection:
        assert connection.lookupByName("asked").reboot(0) == 0, "libvirt says that it was asked"
    assert advances(lambda: ticks(root))
    assert lived(root) == ["start "]


def test_acpi_is_a_signal_to_init_and_a_deaf_one_is_destroyed(boxes: Containers) -> None:
    polite, deaf = boxes.run("polite"), boxes.run("deaf", "deaf")
    until(lambda: ticks(polite) and ticks(deaf), 5, "no ticks")
    for name in ("polite", "deaf"):
        boxes.cluster.controller.domctl("shutdown", name)
    for name in ("polite", "deaf"):
        boxes.until_seen(name, {"c1": SHUTOFF})
    assert lived(polite)[-1] == "TERM"
    assert lived(deaf) == ["start deaf"]
    boxes.cluster.controller.domctl("start", "polite")
    until(lambda: lived(polite)[-1] == "start ", 15, lambda: boxes.story("polite"))


def test_a_paused_container_stands_still_over_a_restart_of_libvirtd_and_goes_on(boxes: Containers) -> None:
    root = boxes.run("frozen")
    boxes.cluster.controller.domctl("pause", "frozen")
    boxes.until_seen("frozen", {"c1": PAUSED})
    assert not advances(lambda: ticks(root))
    host = boxes.hosts["c1"]
    host.kill_libvirtd()
    host.restart_libvirtd()
    boxes.cluster.wait_node("c1")
    boxes.until_seen("frozen", {"c1": PAUSED})  # libvirt calls it running at first
    assert not advances(lambda: ticks(root))
    host.kill_libvirtd()
    boxes.apply("frozen", placement={"node": "c1"}, state="running")
    host.restart_libvirtd()
    until(lambda: advances(lambda: ticks(root)), 20, lambda: boxes.story("frozen"))
    boxes.cluster.wait_ready("frozen")
    assert lived(root) == ["start "], "it was started anew"


def test_what_somebody_changes_is_put_back(boxes: Containers) -> None:
    boxes.run("drifting")
    with libvirt.open(lxc(boxes.hosts["c1"])) as connection:
        domain = connection.lookupByName("drifting")

        def config() -> str:
            return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

        connection.defineXML(config().replace(f"{IMAGES}/drifting", "/"))
        until(lambda: f"{IMAGES}/drifting" in config(), 15, lambda: boxes.story("drifting"))
        domain.undefine()
        until(domain.isPersistent, 15, lambda: boxes.story("drifting"))
    assert boxes.seen("drifting") == {"c1": RUNNING}


def test_a_container_on_shared_storage_moves_when_it_is_off_and_one_on_its_hosts_own_does_not(
    boxes: Containers,
) -> None:
    root = boxes.root("moving")
    boxes.apply("moving", shared=True, placement={"node": "c1"})
    boxes.cluster.wait_ready("moving")
    boxes.run("staying")
    for name, shared in (("moving", True), ("staying", False)):
        boxes.apply(name, shared=shared, placement={"node": "c1"}, state="shutoff")
    for name, shared in (("moving", True), ("staying", False)):
        boxes.until_seen(name, {"c1": SHUTOFF})
        boxes.apply(name, shared=shared, placement={"node": "c2"}, state="running")
    boxes.until_seen("moving", {"c2": RUNNING})
    boxes.until_reason("staying", "PinnedByStorage")
    assert boxes.seen("staying") == {"c1": SHUTOFF}
    until(lambda: len(lived(root)) > 2, 15, lambda: boxes.story("moving"))  # it runs before its init does
    assert lived(root) == ["start ", "TERM", "start "]


def test_a_container_is_moved_cold_and_not_live(boxes: Containers) -> None:
    root = boxes.root("going")
    boxes.apply("going", shared=True, placement={"nodeSelector": {"example.org/kind": "lxc"}})
    boxes.cluster.wait_ready("going")
    source = boxes.cluster.domain("going")["status"]["node"]
    target = "c2" if source == "c1" else "c1"
    boxes.cluster.controller.domctl("migrate", "going", "--to", target)

    def told() -> str:
        return str(boxes.cluster.controller.api().get(MIGRATIONS))

    until(lambda: "cannot move a running domain" in told(), 10, told)
    boxes.cluster.controller.domctl("migrate", "--abort", "going")
    boxes.cluster.controller.domctl("migrate", "going", "--to", target, "--cold")
    boxes.until_seen("going", {target: RUNNING})
    until(lambda: lived(root) == ["start ", "TERM", "start "], 10, lambda: str(lived(root)))


def test_a_transient_container_is_defined_nowhere_while_it_is_off(boxes: Containers) -> None:
    root = boxes.run("passing-by", persistence="transient")
    with libvirt.open(lxc(boxes.hosts["c1"])) as connection:
        domain = connection.lookupByName("passing-by")
        until(lambda: not domain.isPersistent(), 10, lambda: boxes.story("passing-by"))
    boxes.cluster.controller.domctl("shutdown", "passing-by")
    boxes.until_seen("passing-by", {})
    boxes.cluster.controller.domctl("start", "passing-by")
    boxes.until_seen("passing-by", {"c1": RUNNING})
    until(lambda: lived(root) == ["start ", "TERM", "start "], 10, lambda: str(lived(root)))


def test_a_deleted_container_is_gone_and_its_files_stay(boxes: Containers) -> None:
    root = boxes.run("passing")
    boxes.cluster.delete("passing")
    boxes.cluster.wait_gone("passing")
    assert boxes.seen("passing") == {}
    assert lived(root) == ["start ", "TERM"]


def test_what_a_container_cannot_have_is_refused_with_the_reason(boxes: Containers) -> None:
    def refusal(**spec: Any) -> str:
        with pytest.raises(AssertionError) as caught:
            boxes.apply("refused", **spec)
        return str(caught.value)

    assert "would get that of its host" in refusal(filesystems=[])
    assert "cannot save memory" in refusal(state="saved")
    assert "spec.filesystems" in refusal(disks=[{"name": "a", "source": {"file": f"{IMAGES}/a"}}])
    assert "SIGTERM" in refusal(shutdown=[{"method": "agent"}])
    assert (
        boxes.cluster.controller.api().get(f"{DOMAINS}?fieldSelector=metadata.name%3Drefused")["items"] == []
    )


def test_a_directory_that_the_node_does_not_allow_is_never_given_to_a_container(boxes: Containers) -> None:
    boxes.apply("outside", filesystems=[{"target": "/", "source": {"dir": "/etc"}}])
    boxes.until_reason("outside", "SpecRefused")
    assert (
        "not under the node's allowedPaths" in condition(boxes.cluster.domain("outside"), "Ready")["message"]
    )
    assert boxes.seen("outside") == {}
