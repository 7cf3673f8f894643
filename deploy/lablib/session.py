"""Hosts without root: session-mode libvirtd processes, each with directories and a socket of its own.

Such a host is a smaller thing than one in namespaces: it shares the machine's network, so its link cannot
be cut and domains have neither the `default` network nor migration; it is reached by a UNIX socket. What
remains true: its own `host_uuid`, domains and storage; a libvirtd that can be killed, frozen and started
again while guests live on; a power cut that ends all of it.

Its init is a child subreaper. Only a parent's descendants fall to it, so here init itself starts libvirtd,
on SIGUSR1. A power cut kills init's descendants until there are none, then init.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import kernel
from .config import ENVIRONMENT
from .daemon import fork_recorded
from .layout import Host
from .processes import Process, identify, record, recorded

START_TIMEOUT_S = 20.0
# A socket's path may have 107 bytes, and QEMU's monitor has the longest.
MAX_DIRECTORY = 107 - len("/etc/libvirt/qemu/lib/domain-9999-12345678901234567890/monitor.sock")


def uri(directory: Path) -> str:
    return f"qemu+unix:///session?socket={socket_path(directory)}"


def socket_path(directory: Path) -> Path:
    return directory / "run/libvirt/libvirt-sock"


def environment(host: Host) -> dict[str, str]:
    """What makes a libvirt program this host's."""
    own = {"CONFIG_HOME": "etc", "CACHE_HOME": "cache", "DATA_HOME": "lib", "RUNTIME_DIR": "run"}
    places = {f"XDG_{kind}": str(host.dir / name) for kind, name in own.items()}
    return {**ENVIRONMENT, "HOME": str(host.dir / "lib"), **places}


def boot(host: Host) -> None:
    """Start a host's init; returns when it is recorded and ready for start()."""
    shutil.rmtree(host.dir / "run", ignore_errors=True)
    (host.dir / "run/libvirt").mkdir(parents=True)

    def be_init(ready: Callable[[], None]) -> None:
        kernel.become_subreaper()
        wanted = {signal.SIGCHLD, signal.SIGUSR1}
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        ready()
        while True:
            if signal.sigwait(wanted) == signal.SIGUSR1:
                _start_libvirtd(host)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass

    fork_recorded(host.init_file, host.dir / "init.log", be_init)


def start_daemon(host: Host, init: Process) -> None:
    """Have init start libvirtd; returns when it is recorded, not when it answers."""
    before = recorded(host.daemon_file)
    init.send(signal.SIGUSR1)
    deadline = time.monotonic() + START_TIMEOUT_S
    while recorded(host.daemon_file) == before:
        if not init.is_alive() or time.monotonic() > deadline:
            raise TimeoutError(f"{host.name} did not start its libvirtd in {START_TIMEOUT_S:.0f} s")
        time.sleep(0.01)


def power_off(host: Host) -> None:
    """End all of a host. If its init was killed by others, guests may have been left: those as well."""
    init = recorded(host.init_file)
    if init is not None and init.is_alive():
        while found := [child for child in descendants(init.pid) if child.is_alive()]:
            for child in found:
                child.kill()
        init.kill()
    for orphan in _orphans(host):
        orphan.kill()


def descendants(pid: int) -> list[Process]:
    """Of this process, at any depth, it not included."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{int(entry)}/stat").read_text()
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found: list[int] = []
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return [process for process in map(identify, found) if process is not None]


def _start_libvirtd(host: Host) -> None:
    with (host.dir / "libvirtd.out").open("a") as log:
        started = subprocess.Popen(
            ["libvirtd"], env=environment(host), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd="/", start_new_session=True, preexec_fn=_unblock,  # noqa: PLW1509 - init has one thread
        )  # fmt: skip
    process = identify(started.pid)
    if process is not None:
        record(host.daemon_file, process)
    started.returncode = 0  # reaped by init's loop like all others, not by Popen


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGUSR1})


def _orphans(host: Host) -> list[Process]:
    """libvirtd and QEMU processes of this host wherever they hang: their environment names its directory."""
    mark = f"={host.dir}/".encode()
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            process = identify(int(entry))
            name = Path(f"/proc/{int(entry)}/comm").read_text()
            is_ours = mark in Path(f"/proc/{int(entry)}/environ").read_bytes()
            if process is not None and is_ours and name.startswith(("libvirtd", "qemu-system", "dnsmasq")):
                found.append(process)
    return found
