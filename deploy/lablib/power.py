"""A host's power switch: its namespaces, its init, its libvirtd.

A host is one process, its init: PID 1 of a PID namespace, with mount, UTS and network namespaces around
it. It only reaps, at once, as a child subreaper does (where orphans fall to a slow PID 1, libvirt sees a
destroyed QEMU as a zombie and waits 2 s for it). SIGKILL to it is a power cut: the kernel ends all
that runs below it, guests too, and takes mounts and interfaces away. libvirtd (and sshd, in a lab with
doors) is not its child but is started into the namespaces from outside, so that it can be killed, frozen
and started again while guests run on.

`boot` and `start_daemon` run in processes of their own (`lab _boot`, `lab _daemon`), since a process
cannot come back from a PID namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, kernel
from .config import ENVIRONMENT
from .daemon import fork_recorded
from .layout import BINDS, DOOR_BINDS, SHARED_VIEW, SSHD_CONF, Host, Lab
from .processes import Process, recorded

HOST_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWCGROUP
)
_SHARED = SHARED_VIEW.removeprefix("/run/")


def boot_switch(record_file: Path) -> None:
    """Hold a fresh network namespace until killed. `record_file` exists once it is there."""

    def hold(ready: Callable[[], None]) -> None:
        ready()
        _reap_forever()

    kernel.unshare(kernel.CLONE_NEWNET)
    fork_recorded(record_file, record_file.with_suffix(".log"), hold)


def boot_host(lab: Lab, host: Host) -> None:
    """Make a host's namespaces; returns when its init is recorded and its mounts are done."""
    _clear_run(lab, host)
    group = cgroups.group(lab.cgroup(host))
    group.remove()

    def be_init(ready: Callable[[], None]) -> None:
        socket.sethostname(host.name)
        _mount_view(lab, host, group)
        ready()
        _reap_forever()

    group.join()
    kernel.unshare(HOST_NAMESPACES)
    group.join_leaf()
    fork_recorded(host.init_file, host.dir / "init.log", be_init)


@dataclass(frozen=True)
class Daemon:
    """A program that runs in a host. `record` and `log`: files in the host's directory."""

    command: tuple[str, ...]
    record: str
    log: str


LIBVIRTD = Daemon(("libvirtd", "--listen"), record="libvirtd.pid", log="libvirtd.out")
# sshd executes itself anew for each connection, so it wants to know where it is.
SSHD = Daemon(("/usr/sbin/sshd", "-D", "-e", "-f", SSHD_CONF), record="sshd.pid", log="sshd.log")


def start_daemon(lab: Lab, host: Host, init: Process, daemon: Daemon) -> None:
    """Start it inside the host; returns when it is recorded, not when it answers."""

    def be_daemon(ready: Callable[[], None]) -> None:
        kernel.setns(init.pid, "mnt", "net", "uts", "cgroup")
        os.chdir("/")
        os.umask(0o022)
        ready()
        os.execvpe(daemon.command[0], daemon.command, ENVIRONMENT)  # noqa: S606 - no shell is wanted

    group = cgroups.group(lab.cgroup(host))
    group.join()
    group.join_leaf()
    # The PID namespace comes first: it applies to the child forked next, whose parent, once this
    # process has gone, is the host's init.
    kernel.setns(init.pid, "pid")
    fork_recorded(host.dir / daemon.record, host.dir / daemon.log, be_daemon, adopted=True)


def power_off(lab: Lab, host: Host) -> None:
    """Pull the plug: returns when nothing of the host runs any more."""
    init, group = recorded(host.init_file), cgroups.group(lab.cgroup(host))
    if init is not None:
        init.send(signal.SIGKILL)  # all are dying when the frozen ones thaw: nothing runs on for a moment
        group.thaw()
        init.kill()
    group.remove()


def _clear_run(lab: Lab, host: Host) -> None:
    """/run is empty after a power cut; all else a host keeps."""
    run = host.dir / "run"
    shutil.rmtree(run, ignore_errors=True)
    for name in ("libvirt", "user", "lock", "sshd", _SHARED):
        (run / name).mkdir(parents=True)
    lab.shared.mkdir(exist_ok=True)
    for target, _ in _binds(lab):
        Path(target).mkdir(parents=True, exist_ok=True)  # all but /run the package's own, where it has them


def _mount_view(lab: Lab, host: Host, group: cgroups.Group) -> None:
    """What the host sees: its own /proc, /sys, libvirt directories, /run and /etc/hosts."""
    # Slave, not private: what the machine unmounts must not stay busy in here.
    kernel.mount("none", "/", flags=kernel.MS_SLAVE | kernel.MS_REC)
    strict = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", strict)
    own_sys = host.dir / "sys"
    own_sys.mkdir(exist_ok=True)
    kernel.mount("sysfs", str(own_sys), "sysfs", strict)  # one that shows this namespace's interfaces
    group.mount_view(own_sys / "fs/cgroup")
    kernel.detach("/sys")
    kernel.mount(str(own_sys), "/sys", flags=kernel.MS_MOVE)
    for name in ("hosts", "passwd", "group"):
        kernel.mount(str(host.dir / name), f"/etc/{name}", flags=kernel.MS_BIND)
    kernel.mount(str(lab.shared), str(host.dir / "run" / _SHARED), flags=kernel.MS_BIND)
    for target, own in _binds(lab):
        kernel.mount(str(host.dir / own), target, flags=kernel.MS_BIND | kernel.MS_REC)


def _binds(lab: Lab) -> tuple[tuple[str, str], ...]:
    return (*(DOOR_BINDS if lab.transports else ()), *BINDS)


def _reap_forever() -> None:
    kernel.become_subreaper()  # orphans that entered by nsenter from a foreign parent come here too
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})
