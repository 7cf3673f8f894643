"""A host's power switch: its namespaces, its init, its libvirtd.

A host is one process, its init: PID 1 of a PID namespace, with mount, UTS and network namespaces around
it. It only reaps, at once, as a child subreaper does (where orphans fall to a slow PID 1, libvirt sees a
destroyed QEMU as a zombie and waits 2 s for it). SIGKILL to it is a power cut: the kernel ends all
that runs below it, guests too, and takes mounts and interfaces away. libvirtd is not its child but is
started into the namespaces from outside, so that it can be killed, frozen and started again while guests
run on.

`boot` and `start_daemon` run in processes of their own (`lab _boot`, `lab _daemon`), since a process
cannot come back from a PID namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import cgroups, kernel
from .layout import BINDS, SHARED_VIEW, Host, Lab
from .processes import Process, identify, record, recorded

HOST_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWCGROUP
)
_SHARED = SHARED_VIEW.removeprefix("/run/")
_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def boot_switch(record_file: Path) -> None:
    """Hold a fresh network namespace until killed. `record_file` exists once it is there."""

    def hold(ready: Callable[[], None]) -> None:
        ready()
        _reap_forever()

    kernel.unshare(kernel.CLONE_NEWNET)
    _fork_recorded(record_file, record_file.with_suffix(".log"), hold)


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
    _fork_recorded(host.init_file, host.dir / "init.log", be_init)


def start_daemon(lab: Lab, host: Host, init: Process) -> None:
    """Start libvirtd inside the host; returns when it is recorded, not when it answers."""

    def be_libvirtd(ready: Callable[[], None]) -> None:
        kernel.setns(init.pid, "mnt", "net", "uts", "cgroup")
        os.chdir("/")
        os.umask(0o022)
        ready()
        os.execvpe("libvirtd", ["libvirtd", "--listen"], ENVIRONMENT)  # noqa: S606 - no shell is wanted

    group = cgroups.group(lab.cgroup(host))
    group.join()
    group.join_leaf()
    # The PID namespace comes first: it applies to the child forked next, whose parent, once this
    # process has gone, is the host's init.
    kernel.setns(init.pid, "pid")
    _fork_recorded(host.daemon_file, host.dir / "libvirtd.out", be_libvirtd, adopted=True)


def power_off(lab: Lab, host: Host) -> None:
    """Pull the plug: returns when nothing of the host runs any more."""
    init = recorded(host.init_file)
    if init is not None:
        init.kill()
    cgroups.group(lab.cgroup(host)).remove()


def _fork_recorded(
    record_file: Path, log: Path, body: Callable[[Callable[[], None]], None], adopted: bool = False
) -> None:
    """Fork a daemon that runs `body(ready)`, and return once it called ready(). It starts only after its
    pid was recorded, and only if this process lives to record it: there is no unrecorded daemon.
    `adopted`: it becomes a child of the init of its PID namespace, by a fork in between. (An orphan
    falls to the reaper of its late parent's namespace, and a zombie of another reaper would hold up the
    end of this one.)"""
    kernel.die_with_parent()
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    child = os.fork()
    if child == 0:
        ours.close()
        if adopted and os.fork() != 0:
            os._exit(0)
        _be_daemon(theirs, log, body)
    theirs.close()
    if adopted:
        os.waitpid(child, 0)
    # The daemon's first byte carries its pid, which the kernel translates to what it is out here.
    _, credentials, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(_UCRED.size))
    process = identify(_UCRED.unpack(credentials[0][2])[0]) if credentials else None
    if process is None:
        sys.exit("the new process died at once")
    record(record_file, process)
    ours.sendall(b"g")
    answer = b"".join(iter(lambda: ours.recv(4096), b""))
    if answer != b"ok":
        sys.exit(answer.decode(errors="replace") or f"process {process.pid} died at its start")


def _be_daemon(parent: socket.socket, log: Path, body: Callable[[Callable[[], None]], None]) -> NoReturn:
    def ready() -> None:
        parent.sendall(b"ok")
        parent.close()

    try:
        parent.sendall(b"p")
        if parent.recv(1) == b"g":
            os.setsid()
            _redirect(log)
            body(ready)
    except BaseException:  # noqa: BLE001 - nothing may escape into the parent's code after a fork
        with contextlib.suppress(OSError):
            parent.sendall(traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(1)


def _redirect(log: Path) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)


def _clear_run(lab: Lab, host: Host) -> None:
    """/run is empty after a power cut; all else a host keeps."""
    run = host.dir / "run"
    shutil.rmtree(run, ignore_errors=True)
    for name in ("libvirt", "user", "lock", _SHARED):
        (run / name).mkdir(parents=True)
    lab.shared.mkdir(exist_ok=True)
    for target, _ in BINDS:
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
    for target, own in BINDS:
        kernel.mount(str(host.dir / own), target, flags=kernel.MS_BIND | kernel.MS_REC)


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
