"""The API server on a real etcd, as a process of its own that says how it fares: `served.py DIR ENDPOINT N`.

It prints its URL, and for each line on its standard input what happened since the line before, as JSON: the
longest that the loop did not come back to a task that sleeps a millisecond (by the clock, and by the
processor time of its thread, which other programs of the machine have no part in), processor time, memory.
`Served` starts one. `fill` writes domains as the controller leaves them, and what it promised of them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import requests

from controller import collector, keys
from controller.birth import newborn
from controller.figures import Board, Reading, Use
from controller.metrics import Metrics
from controller.model import Assignment
from controller.objects import encode
from controller.pki import Pki
from controller.world import World
from drivers.etcd import EtcdConfig, EtcdStore
from drivers.hypervisor import DomainFigures, Figures, HostFigures
from drivers.store import Put
from tests.apiserver import Options, domain, real_world, serving

PAUSE_S = 0.001
BATCH = 100  # objects written in one transaction


async def fill(endpoint: str, count: int, *, assigned: bool = False) -> None:
    """Domains d00000 and on, labelled app=a0 to a9, on hv0 to hv8; with assignments if wanted."""
    store, world = EtcdStore(EtcdConfig(endpoints=(endpoint,))), real_world()
    first = [_domain(n, world) for n in range(90)]  # what differs between the others is put in as text
    writes: list[Put] = []
    for n in range(count):
        name, uid = f"d{n:05}", uid_of(n)
        value = first[n % 90].replace(b"NAME", name.encode()).replace(b"UID", uid.encode())
        writes.append(Put(keys.object_key("domains", "default", name), value))
        if assigned:
            node = f"hv{n % 9}"
            record = Assignment(
                cluster="c",
                uuid=uid,
                namespace="default",
                name=name,
                libvirt_name=name,
                node=node,
                epoch=1,
                candidates=(node,),
            )
            writes.append(Put(keys.assignment(uid), msgspec.json.encode(record)))
        if len(writes) >= BATCH or n == count - 1:
            await store.txn([], writes)
            writes = []
    await store.close()


def _domain(n: int, world: World) -> bytes:
    body = domain("NAME", vcpus=2, interfaces=[{"name": "net0", "network": "default"}])
    body["metadata"] |= {"namespace": "default", "labels": {"app": f"a{n % 10}"}}
    body = newborn("Domain", body, replace(world, new_id=lambda: "UID"))
    body["status"] |= {"state": "running", "node": f"hv{n % 9}", "phase": "Running", "reason": "Running"}
    return encode(body)


def uid_of(n: int) -> str:
    return f"{n:08x}-0000-4000-8000-000000000000"


class Loop:
    """What the loop was kept from since it was last asked."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._wall_s = self._cpu_s = 0.0
        self._began = time.process_time()

    async def watch(self) -> None:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(PAUSE_S)
            self._wall_s = max(self._wall_s, time.perf_counter() - wall - PAUSE_S)
            self._cpu_s = max(self._cpu_s, time.thread_time() - cpu)

    def told(self) -> dict[str, float]:
        found = {
            "stall_ms": self._cpu_s * 1000,
            "stall_wall_ms": self._wall_s * 1000,
            "cpu_s": time.process_time() - self._began,
            "rss_mb": _status_mb("VmRSS"),
            "peak_mb": _status_mb("VmHWM"),
        }
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._forget()
        return found


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def fill_figures(metrics: Metrics, board: Board, count: int, at: float) -> None:
    """What the leader would know of `fill`'s domains, for /metrics and metrics.k8s.io."""
    for number in range(9):
        names = {uid_of(n): ("default", f"d{n:05}") for n in range(number, count, 9)}
        of = tuple(DomainFigures(uuid, 1000.25, 64 << 20, 64 << 20) for uuid in names)
        figures = Figures(at, at, of, HostFigures(123.5, 1 << 30, 4 << 30))
        metrics.figures.put(f"hv{number}", figures, names)
        uses = dict.fromkeys(names, Use(0.25, 64 << 20))
        board.put(f"hv{number}", Reading("2026-01-01T00:00:00Z", 30, math.inf, Use(1, 1 << 30), uses))
        for name in names.values():
            metrics.domain(*name, "running", ready=True)
        for call in ("open", "list", "state", "xml", "define", "create", "stats", "events"):
            metrics.libvirt_call(f"hv{number}", call, 0.01, None)


async def serve(directory: Path, endpoint: str, count: int) -> None:
    store, loop = EtcdStore(EtcdConfig(endpoints=(endpoint,))), Loop()
    metrics = Metrics(asyncio.get_running_loop().time, "bench")
    async with serving(store, directory, Options(metrics=metrics)) as api:
        fill_figures(metrics, api.figures, count, api.objects.world.now())
        gc.collect()
        collector.settle()  # as `domctl serve` does
        watching = asyncio.create_task(loop.watch())
        print(api.url, flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while await reader.readline():
            print(json.dumps(loop.told()), flush=True)
        watching.cancel()
    await store.close()


class Served:
    """One server, which ends with this."""

    def __init__(self, directory: Path, endpoint: str, shown: int = 0) -> None:
        """`shown`: of how many domains it has metrics and figures."""
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(directory), endpoint, str(shown)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONASYNCIODEBUG": ""},
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "it did not start"

    def told(self) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print("", file=self.process.stdin, flush=True)
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def session(pki: Pki) -> requests.Session:
    """The administrator's."""
    made = requests.Session()
    made.trust_env = False
    made.verify, made.cert = str(pki.ca_cert), (str(pki.admin_cert), str(pki.admin_key))
    return made


def reading(reply: Any) -> int:
    """Read an answer to its end, keeping nothing; its size."""
    return sum(len(part) for part in reply.iter_content(1 << 20))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
