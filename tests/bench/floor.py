"""The floor: what a hand-written threaded script takes that makes only the needed libvirt calls.

Run by `tests/bench/converge` as a process of its own: `floor.py ARGUMENTS.json`, where the file holds the
mode and, by host URI and name, the XML of each domain that shall run. It opens its connections and says
`ready` before anything counts, so neither the interpreter's start nor connecting is part of the figures.

    create   waits for a line on stdin, lists what is there, defines and creates what is missing, and
             prints `done FIRST`: monotonic seconds of its first call
    repair   stays: on the event of a domain's end or loss it creates it again, defining it if need be

Eight threads per host share two connections (libvirtd runs five calls of one at once).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt

THREADS = 8
CONNECTIONS = 2
VALIDATE = libvirt.VIR_DOMAIN_DEFINE_VALIDATE

XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
</domain>
"""


class Host:
    """One host, and the XML of each domain that shall run there, by name."""

    def __init__(self, uri: str, wanted: dict[str, str]) -> None:
        self.wanted = wanted
        self.connections = [libvirt.open(uri) for _ in range(CONNECTIONS)]
        self.pool = ThreadPoolExecutor(THREADS)
        self.busy: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def create(self) -> None:
        there = {d.name() for d in self.connections[0].listAllDomains(0)}
        missing = [name for name in self.wanted if name not in there]
        list(self.pool.map(self.define_and_create, missing))

    def define_and_create(self, name: str) -> None:
        connection = self.connections[hash(name) % CONNECTIONS]
        connection.defineXMLFlags(self.wanted[name], VALIDATE).create()

    def watch(self) -> None:
        self.connections[0].domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None
        )

    def _hear(
        self, _host: libvirt.virConnect, domain: libvirt.virDomain, kind: int, _detail: int, _opaque: object
    ) -> None:
        if kind == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self.pool.submit(self.restart, domain)
        elif kind == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self.pool.submit(self.define_again, domain)

    def restart(self, domain: libvirt.virDomain) -> None:
        """Create; a domain that is gone is the other event's business."""
        with self.busy[domain.name()]:
            _create(domain)

    def define_again(self, domain: libvirt.virDomain) -> None:
        name = domain.name()
        with self.busy[name]:
            defined = self.connections[1].defineXMLFlags(self.wanted[name], VALIDATE)
            _create(defined)


def _create(domain: libvirt.virDomain) -> None:
    try:
        domain.create()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_loop, daemon=True).start()
    hosts = [Host(uri, wanted) for uri, wanted in asked["hosts"].items()]
    if asked["mode"] == "repair":
        for host in hosts:
            host.watch()
    print("ready", flush=True)
    for _ in sys.stdin:
        first = time.monotonic()
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(Host.create, hosts))
        print(f"done {first}", flush=True)


if __name__ == "__main__":
    main()
