"""A controller with real hosts as its nodes, and both sides to be asked: domctl, and the hosts themselves."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.client import DOMAINS, EVENTS, MIGRATIONS, NODES, ApiError, Object, condition, is_ready, reason
from tests.e2e.serve import Controller, until
from tests.labhost import LAB, LabHost

IMAGES = "/var/lib/libvirt/images"
MUTATING = (
    *("define", "create", "shutdown", "destroy", "undefine", "set_mark", "set_autostart"),
    *("suspend", "resume", "save", "drop_saved", "reboot", "reset", "migrate", "abort_job"),
)
CONVERGE_S = 30.0


@dataclass(frozen=True)
class Copy:
    """A domain as its host shows it. `run`: libvirt's id of this very run, "-" when it does not run."""

    host: LabHost
    uuid: str
    name: str
    state: str
    run: str
    is_persistent: bool


class Cluster:
    """Nodes n1, n2, … are the hosts in order."""

    def __init__(self, controller: Controller, hosts: tuple[LabHost, ...]) -> None:
        self.controller = controller
        self.hosts = hosts
        self.nodes = {f"n{i + 1}": host for i, host in enumerate(hosts)}

    # --- what is wanted ---------------------------------------------------------------------------------

    def join(self, *, ready: Iterable[str] | None = None) -> None:
        """Register all hosts, and wait until the nodes named (all, by default) are Ready."""
        self.controller.apply(*(node(name, host.uri) for name, host in self.nodes.items()))
        for name in self.nodes if ready is None else ready:
            self.wait_node(name)

    def apply(self, *names: str, **spec: Any) -> None:
        """Domains of the least kind, each with these fields of spec."""
        self.controller.apply(*(domain(name, **spec) for name in names))

    def run(self, *names: str, **spec: Any) -> None:
        self.apply(*names, **spec)
        self.wait_ready(*names)

    def delete(self, name: str) -> None:
        self.controller.api().delete(f"{DOMAINS}/{name}")

    def clear(self) -> None:
        """No domain of anybody's on the hosts, and none that is wanted."""
        api = self.controller.api()
        for item in api.get(MIGRATIONS)["items"]:
            api.delete(f"{MIGRATIONS}/{item['metadata']['name']}")
        names = [item["metadata"]["name"] for item in api.get(DOMAINS)["items"]]
        for name in names:
            self.delete(name)
        self.wait_gone(*names)
        for host in self.hosts:
            host.clear()

    # --- what domctl says -------------------------------------------------------------------------------

    def node(self, name: str) -> Object:
        return dict(self.controller.api().get(f"{NODES}/{name}"))

    def domain(self, name: str) -> Object:
        return dict(self.controller.api().get(f"{DOMAINS}/{name}"))

    def exists(self, name: str) -> bool:
        try:
            self.domain(name)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def wait_ready(self, *names: str, timeout_s: float = CONVERGE_S) -> None:
        for name in names:
            self._wait_one(name, timeout_s)

    def _wait_one(self, name: str, timeout_s: float) -> None:
        until(lambda: is_ready(self.domain(name)), timeout_s, lambda: self.story(name))

    def wait_node(self, name: str, timeout_s: float = CONVERGE_S) -> None:
        until(lambda: is_ready(self.node(name)), timeout_s, lambda: f"not Ready: {self.node(name)}")

    def wait_reason(self, name: str, wanted: str, timeout_s: float = CONVERGE_S) -> Object:
        """The domain, once it gives this reason."""
        until(lambda: reason(self.domain(name)) == wanted, timeout_s, lambda: self.story(name))
        return self.domain(name)

    def wait_gone(self, *names: str, timeout_s: float = CONVERGE_S) -> None:
        for name in names:
            self._wait_one_gone(name, timeout_s)

    def _wait_one_gone(self, name: str, timeout_s: float) -> None:
        until(lambda: not self.exists(name), timeout_s, lambda: self.story(name))

    def message(self, name: str) -> str:
        return str(condition(self.domain(name), "Ready").get("message", ""))

    def events(self, name: str) -> list[Object]:
        items = self.controller.api().get(EVENTS)["items"]
        return [item for item in items if item["involvedObject"]["name"] == name]

    def mutations(self) -> float:
        """Mutating calls to libvirt since the controller's start."""
        counts = "domctl_libvirt_rpc_duration_seconds_count{"
        samples = self.controller.api().metrics().items()
        return sum(
            value
            for name, value in samples
            if name.startswith(counts) and any(f'call="{call}"' in name for call in MUTATING)
        )

    def story(self, name: str) -> str:
        """All that explains a domain that is not as expected."""
        shown = self.domain(name).get("status") if self.exists(name) else "no such domain"
        return f"{name}: {shown}\nhosts: {self.copies(name)}\nlog: {self.controller.tail()}"

    # --- what the hosts say -----------------------------------------------------------------------------

    def copies(self, name: str) -> list[Copy]:
        """Every domain of this name on any host that answers."""
        return [copy for host in self.hosts for copy in copies(host) if copy.name == name]

    def the_copy(self, name: str) -> Copy:
        """The one there is; AssertionError if there are more, or none."""
        found = self.copies(name)
        assert len(found) == 1, f"{name} is wanted on exactly one host: {found}"
        return found[0]

    def host_of(self, name: str) -> LabHost:
        return self.the_copy(name).host

    def still(self, before: Copy) -> None:
        """Its host knows it as it was: the same run, and nowhere else."""
        assert self.copies(before.name) == [before], "it was touched"

    def verify(self, name: str, *, same_run: Copy | None = None, state: str = "running") -> Copy:
        """One persistent copy with the domain's UUID in this state; if asked, still the very same run."""
        copy = self.the_copy(name)
        assert copy.uuid == self.domain(name)["metadata"]["uid"]
        assert copy.state == state and copy.is_persistent, self.story(name)
        if same_run is not None:
            assert (copy.host, copy.run) == (same_run.host, same_run.run), "it was restarted, or moved"
        return copy


def copies(host: LabHost) -> list[Copy]:
    found = []
    for line in host.virsh("list", "--all", "--uuid", "--name").splitlines():
        if line.strip():
            uuid, name = line.split(maxsplit=1)
            rows = (row.partition(":") for row in host.virsh("dominfo", uuid).splitlines())
            about = {key.strip(): value.strip() for key, _, value in rows}
            found.append(
                Copy(host, uuid, name.strip(), about["State"], about["Id"], about["Persistent"] == "yes")
            )
    return found


def domain(name: str, **spec: Any) -> Object:
    """`ticking=True`: it boots the ticking guest, or that of `image`, and writes to a file of its name on its
    host."""
    whole: Object = {"type": "qemu", "memory": "32Mi", "shutdown": [{"method": "destroy"}]}
    image = spec.pop("image", "tick.img")
    if spec.pop("ticking", False):
        source = {"file": f"{IMAGES}/{image}", "shared": True}
        whole |= {
            "os": {"boot": ["hd"]},
            "disks": [
                {"name": "root", "source": source, "format": "raw", "readOnly": True, "shareable": True}
            ],
            "serials": [{"name": "ticks", "type": "file", "path": f"{IMAGES}/ticks/{name}", "append": True}],
        }
    whole |= spec
    return {"apiVersion": "domctl.io/v1", "kind": "Domain", "metadata": {"name": name}, "spec": whole}


def node(name: str, uri: str, **spec: Any) -> Object:
    whole = {"uri": uri, "insecure": True, "allowedPaths": [IMAGES], "overcommit": {"vcpus": 32}, **spec}
    labels = {"node": name}
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": whole,
    }


def with_tick_images(hosts: Iterable[LabHost]) -> dict[str, Path]:
    """Put the ticking guests on every host; where each host's guests write to, by its name."""
    where = {}
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([str(LAB), "guest", "--out", made], check=True, capture_output=True)
        images = {path.name: path.read_bytes() for path in Path(made).glob("*.img")}
    for host in hosts:
        for name, image in images.items():
            host.path(f"{IMAGES}/{name}").write_bytes(image)
        ticks = host.path(f"{IMAGES}/ticks")
        ticks.mkdir(exist_ok=True)
        where[host.name] = ticks
    return where
