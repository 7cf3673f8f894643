"""The floor of migrating: what a hand-written threaded script takes that makes only the needed libvirt calls.

Run by `tests/bench/migrate` as a process of its own: `movefloor.py SOURCE-URI TARGET-URI NAME...`. It
connects and says `ready` before anything counts; on a line on stdin it migrates every domain of these names,
peer to peer, each in a thread and on a connection of its own (on a shared one libvirt's client before 10.0
may send a call late), and prints `done FIRST LAST`: monotonic seconds of its first call and of the last
one's return.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import libvirt

CALLS_A_CONNECTION = 1
FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
)

XML = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
</domain>
"""


def main() -> None:
    source, target, *names = sys.argv[1:]
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connections = [libvirt.open(source) for _ in range(-(-len(names) // CALLS_A_CONNECTION))]

    def move(number: int) -> None:
        domain = connections[number // CALLS_A_CONNECTION].lookupByName(names[number])
        domain.migrateToURI3(target, {}, FLAGS)

    print("ready", flush=True)
    for _ in sys.stdin:
        first = time.monotonic()
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(move, range(len(names))))
        print(f"done {first} {time.monotonic()}", flush=True)


if __name__ == "__main__":
    main()
