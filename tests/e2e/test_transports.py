"""One host, registered by one transport after the other, as its administrator would see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doors import CLIENT, Doors
from tests.e2e.client import NODES, condition, is_ready
from tests.e2e.conftest import QUICK
from tests.e2e.serve import Controller, until
from tests.etcdserver import require_etcd

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(180)]

NODE = f"{NODES}/h"


@pytest.fixture
def controller(doors: Doors, place: Path) -> Iterator[Controller]:
    require_etcd()
    connections = {
        "filesUnder": [str(doors.files)],
        "knownHosts": str(doors.files / "known_hosts"),
        "commands": [str(doors.files / "ext")],
    }
    made = Controller(place, {**QUICK, "connections": connections})
    try:
        yield made.start()
    finally:
        made.stop()


def node(doors: Doors, transport: str, **connection: str) -> dict[str, Any]:
    return {
        "apiVersion": "domctl.io/v1",
        "kind": "Node",
        "metadata": {"name": "h"},
        "spec": {
            "uri": doors.uri(transport),
            "connection": {name: str(doors.files / path) for name, path in connection.items()},
        },
    }


def test_a_host_is_managed_over_every_transport_and_says_what_is_wrong(
    controller: Controller, doors: Doors
) -> None:
    """F45: each mistake is named on the Node, domains there are held, and the right files end it."""
    api = controller.api()

    def ready(transport: str, *, encrypted: bool) -> dict[str, Any]:
        def holds() -> dict[str, Any] | None:
            found: dict[str, Any] = api.get(NODE)
            same = found["status"].get("uri") == doors.uri(transport) if "status" in found else False
            return found if same and is_ready(found) else None

        found = until(holds, 20, lambda: str(api.get(NODE).get("status")))
        assert (found["status"]["encrypted"], found["status"]["secure"]) == (encrypted, transport != "ext")
        assert not condition(found, "Insecure")
        return found

    def refused(reason: str) -> str:
        holds = lambda: (api.get(NODE).get("status") or {}).get("reason") == reason  # noqa: E731
        until(holds, 20, lambda: str(api.get(NODE).get("status")))
        found = api.get(NODE)
        assert (condition(found, "Ready")["status"], condition(found, "Stalled")["status"]) == (
            "False",
            "True",
        )
        return str(condition(found, "Ready")["message"])

    controller.apply(node(doors, "tls", pkiDir="pki"))
    certificates = condition(ready("tls", encrypted=True), "CertificateExpiring")
    assert certificates["status"] == "False" and f"CN={CLIENT}" in certificates["message"]
    controller.apply(node(doors, "tls", pkiDir="pki-stranger"))
    assert "tls_allowed_dn_list" in refused("ClientRefused")
    controller.apply(node(doors, "tls", pkiDir="pki-other"))
    assert "must hold the CA which issued" in refused("ServerCertificateUntrusted")
    controller.apply(node(doors, "tls", pkiDir="pki-expired"))
    assert "put a new one" in refused("ClientCertificateExpired")
    controller.apply(node(doors, "ssh", keyFile="client_key"))
    assert not condition(ready("ssh", encrypted=False), "CertificateExpiring")
    controller.apply(node(doors, "ssh", keyFile="client_key", knownHosts="known_hosts-changed"))
    assert "ssh-keygen -f" in refused("HostKeyChanged")
    warned = controller.run("node", "confirm-dead", "h", "--yes")
    assert "something answers" in warned.stderr
    controller.apply(node(doors, "tcp", authFile="auth-wrong.yaml"))
    assert "saslpasswd2" in refused("PasswordRefused")
    controller.apply(node(doors, "tcp", authFile="auth.yaml"))
    ready("tcp", encrypted=True)
    controller.apply(node(doors, "ext", command="no-such-program"))
    assert "connections.commands" in refused("CommandNotAllowed")
    controller.apply(node(doors, "ext", command="ext"))
    ready("ext", encrypted=False)
    controller.apply(node(doors, "unix"))
    ready("unix", encrypted=False)
    controller.apply(node(doors, "ext", command="ext"))
    ready("ext", encrypted=False)
    shown = controller.domctl("get", "nodes")
    assert "Ready" in shown
    left = list((controller.data_dir / "links").iterdir())
    assert len(left) == 1, "one opening's files, for as long as it lasts"
    controller.kill()
    until(lambda: not _children_of_links(controller), 10, "the children did not die with their controller")
    controller.start()
    until(lambda: _children_of_links(controller), 20, "it does not reach the host again")
    assert not left[0].exists()


def _children_of_links(controller: Controller) -> list[str]:
    """Processes that a script of the data directory became: known by the ids that these wrote."""
    found = []
    for file in (controller.data_dir / "links").glob("*/pid"):
        pid = file.read_text().strip()
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "virt-ssh-helper" in name or "ssh" in name:
            found.append(pid)
    return found
