"""The clock of the benchmarks: connections of its own that time what the hosts report, for both sides alike.

An `Observer` hears every lifecycle event of every host on libvirt's own event loop, in a thread. It acts
too, for it is also the one who breaks things. It must exist before any other connection of its process is
opened, since libvirt wants its event loop first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import libvirt

GONE = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
BACK = (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_DEFINED)


@dataclass(frozen=True)
class Seen:
    """One event. `at`: monotonic seconds when it was heard; `kind`: virDomainEventType."""

    at: float
    name: str
    kind: int


class Observer:
    def __init__(self, uris: Iterable[str]) -> None:
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_loop, name="libvirt-events", daemon=True).start()
        self._changed = threading.Condition()
        self._seen: list[Seen] = []
        self.hosts = [libvirt.open(uri) for uri in uris]
        for host in self.hosts:
            host.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._hear, None)

    def _hear(
        self, _host: libvirt.virConnect, domain: libvirt.virDomain, kind: int, _detail: int, _opaque: object
    ) -> None:
        with self._changed:
            self._seen.append(Seen(time.monotonic(), domain.name(), kind))
            self._changed.notify_all()

    def forget(self) -> None:
        with self._changed:
            self._seen.clear()

    def seen(self) -> list[Seen]:
        with self._changed:
            return list(self._seen)

    def wait_running(self, names: Iterable[str], timeout_s: float) -> float:
        """Wait until all of `names` were heard to start since `forget`, and to be defined again if they were
        undefined. When the last of that was heard."""
        missing = set(names)

        def all_run() -> bool:
            missing.difference_update(running_again(self._seen))
            return not missing

        wanted = set(missing)
        with self._changed:
            if not self._changed.wait_for(all_run, timeout_s):
                raise TimeoutError(f"not running after {timeout_s:.0f} s: {', '.join(sorted(missing))}")
            return max(s.at for s in self._seen if s.name in wanted and s.kind in BACK)

    def disturb(self, destroyed: Iterable[str], undefined: Iterable[str]) -> float:
        """Destroy all of both and undefine the second, all at once. When the first end was heard."""
        where = {d.name(): d for host in self.hosts for d in host.listAllDomains(0)}
        undefined = set(undefined)
        victims = [*destroyed, *undefined]

        def break_one(name: str) -> None:
            where[name].destroy()
            if name in undefined:
                where[name].undefine()

        self.forget()
        with ThreadPoolExecutor(len(victims)) as pool:
            list(pool.map(break_one, victims))
        with self._changed:
            if not self._changed.wait_for(lambda: any(s.kind in GONE for s in self._seen), 10):
                raise TimeoutError("libvirt did not report what was destroyed")
            return min(s.at for s in self._seen if s.kind in GONE)

    def definitions(self) -> list[dict[str, str]]:
        """The persistent XML of every domain by name, host by host."""
        flag = libvirt.VIR_DOMAIN_XML_INACTIVE
        return [{d.name(): d.XMLDesc(flag) for d in host.listAllDomains(0)} for host in self.hosts]

    def sound(self) -> Mapping[str, int]:
        """How many hosts each domain runs on and is defined at."""
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE | libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT
        names = [d.name() for host in self.hosts for d in host.listAllDomains(flags)]
        return {name: names.count(name) for name in names}

    def clear(self) -> None:
        """Every domain of every host ended and undefined."""
        for host in self.hosts:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(_remove, host.listAllDomains(0)))


def running_again(seen: Iterable[Seen]) -> set[str]:
    """Those whose last word is that they started, and that they are defined if that was said of them."""
    runs: dict[str, bool] = {}
    lost: set[str] = set()
    for event in seen:
        match event.kind:
            case libvirt.VIR_DOMAIN_EVENT_STARTED:
                runs[event.name] = True
            case libvirt.VIR_DOMAIN_EVENT_STOPPED:
                runs[event.name] = False
            case libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
                lost.add(event.name)
            case libvirt.VIR_DOMAIN_EVENT_DEFINED:
                lost.discard(event.name)
    return {name for name, is_running in runs.items() if is_running} - lost


def _remove(domain: libvirt.virDomain) -> None:
    if domain.isActive():
        domain.destroy()
    domain.undefine()


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
