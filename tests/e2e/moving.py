"""Migrations as tests ask for them and follow them, and a guest that takes its time to move."""

from __future__ import annotations

import re
import time

from tests.e2e.client import MIGRATIONS, Object
from tests.e2e.cluster import IMAGES, Cluster, with_tick_images
from tests.e2e.serve import until
from tests.labhost import CommandError, LabHost

ENDED = ("Succeeded", "Failed", "Aborted")
SPEED = 10  # MiB/s: 6 s for the 60 MiB of the image that fills its memory
FULL = {"ticking": True, "image": "full.img", "memory": "64Mi"}


def asked(cluster: Cluster, domain: str, **spec: object) -> str:
    """A Migration, by its name."""
    name = f"{domain}-{time.monotonic_ns()}"
    body = {
        "apiVersion": "domctl.io/v1",
        "kind": "Migration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"domain": domain, **spec},
    }
    cluster.controller.api().create(MIGRATIONS, body)
    return name


def status(cluster: Cluster, name: str) -> Object:
    return dict(cluster.controller.api().get(f"{MIGRATIONS}/{name}").get("status") or {})


def ended(cluster: Cluster, name: str, timeout_s: float = 40.0) -> Object:
    """Its status, once it has come to its end."""

    def is_over() -> bool:
        return status(cluster, name).get("phase") in ENDED

    until(is_over, timeout_s, lambda: f"{status(cluster, name)}\n{cluster.controller.tail()}")
    return status(cluster, name)


def home(cluster: Cluster, domain: str) -> str:
    return str(cluster.domain(domain)["status"]["node"])


def another(cluster: Cluster, domain: str) -> str:
    """A node that it is not on."""
    return next(name for name in cluster.nodes if name != home(cluster, domain))


def ready_to_tick(cluster: Cluster) -> None:
    """Every host has the ticking guests, of which none has written anything yet."""
    for written in with_tick_images(cluster.hosts).values():
        for file in written.iterdir():
            file.unlink()


def ticks(host: LabHost, name: str) -> list[int]:
    """What its ticking guest has counted there."""
    file = host.path(f"{IMAGES}/ticks/{name}")
    return (
        [int(n) for n in re.findall(r"TICK (\d+)\n", file.read_text(errors="replace"))]
        if file.exists()
        else []
    )


def filled(cluster: Cluster, name: str) -> LabHost:
    """Its host, once its guest counts: from then on there is something to copy."""
    host = cluster.host_of(name)
    until(lambda: ticks(host, name), 20, lambda: f"its guest is silent\n{cluster.story(name)}")
    return host


def slow(host: LabHost, name: str) -> None:
    host.virsh("migrate-setspeed", name, str(SPEED))


def coming(host: LabHost, name: str) -> bool:
    """Something of it is active there."""
    return name in host.virsh("list", "--name").split()


def has_job(host: LabHost, name: str) -> bool:
    try:
        return "Unbounded" in host.virsh("domjobinfo", name)
    except CommandError:
        return False
