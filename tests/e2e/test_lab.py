"""A lab with doors, as the README offers it: registered by each of its ways, and a domain moved by each."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.client import DOMAINS, NODES, is_ready
from tests.e2e.cluster import domain
from tests.e2e.conftest import QUICK
from tests.e2e.serve import CHECKOUT, DOMCTL, Controller, until
from tests.etcdserver import require_etcd
from tests.labhost import LAB, Lab

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.timeout(300)]
NAMES = ("lab-1", "lab-2")


def blocks() -> list[str]:
    """The README's, in order."""
    text = (CHECKOUT / "README.md").read_text()
    marked = re.search(r"<!-- lab: .*?-->(.*?)<!-- end of the lab -->", text, re.DOTALL)
    assert marked, "the README marks where its words on the lab begin and end"
    return re.findall(r"^```sh\n(.*?)^```$", marked[1], re.DOTALL | re.MULTILINE)


def run(block: str, base: Path, **environ: str) -> None:
    """With labs in `base` instead of where everybody's are."""
    here = re.sub(r"\./deploy/lab (\w+)", rf"{LAB} \1 --dir {base}", block).replace(
        "/run/domctl-lab", str(base)
    )
    done = subprocess.run(
        ["bash", "-c", f"set -eux; set -o pipefail\n{here}"], cwd=base, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PATH": f"{DOMCTL.parent}:{os.environ['PATH']}", **environ},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture
def base(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """Asks for the session's lab only to be skipped with it."""
    yield tmp_path
    subprocess.run([str(LAB), "down", "--dir", str(tmp_path)], check=True, capture_output=True)


def nodes(base: Path, transport: str) -> list[dict[str, Any]]:
    shown = subprocess.run(
        [str(LAB), "status", "--dir", str(base), "--transport", transport],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [one for one in yaml.safe_load_all(shown.stdout) if one]


@pytest.mark.long
def test_hosts_of_a_lab_are_registered_and_a_domain_is_moved_by_every_way(base: Path, place: Path) -> None:
    require_etcd()
    up, tried = blocks()
    run(up, base)
    allowed = yaml.safe_load((base / "lab/clients/domctl.yaml").read_text())
    controller = Controller(place, {**QUICK, **allowed}).start()
    try:
        run(tried, base, KUBECONFIG=str(controller.kubeconfig))
        controller.apply(domain("hello"))
        for transport in ("tls", "tcp", "ssh"):
            wanted = {one["metadata"]["name"]: one for one in nodes(base, transport)}
            assert tuple(wanted) == NAMES
            controller.apply(*wanted.values())
            for name, node in wanted.items():
                until(lambda: reached(controller, name, node["spec"]["uri"]), 40, controller.tail)  # noqa: B023
            until(lambda: is_ready(controller.api().get(f"{DOMAINS}/hello")), 60, controller.tail)
            before = placed(controller)
            controller.domctl("migrate", "hello", "--wait", "--timeout=50s")
            until(lambda: {before, placed(controller)} == set(NAMES), 10, controller.tail)  # noqa: B023
    finally:
        controller.stop()


def placed(controller: Controller) -> str:
    return str(controller.api().get(f"{DOMAINS}/hello")["status"].get("node"))


def reached(controller: Controller, name: str, uri: str) -> bool:
    node = controller.api().get(f"{NODES}/{name}")
    return node.get("status", {}).get("uri") == uri and is_ready(node)
