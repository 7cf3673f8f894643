"""The few system calls that Python 3.11's `os` lacks: unshare, setns, mount, umount2, prctl.

Thin: each raises OSError with the call's name and target. Flags are the kernel's own numbers.
"""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SLAVE = 0x80000

_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(pid: int, *kinds: str) -> None:
    """Enter these namespaces of a process; a PID namespace is entered only by children forked later."""
    # All are opened first: once inside a mount namespace, /proc may be another.
    opened = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    try:
        for fd, kind in zip(opened, kinds, strict=True):
            _check(_libc.setns(fd, 0), f"setns {kind} of {pid}")
    finally:
        for fd in opened:
            os.close(fd)


def mount(source: str, target: str, fstype: str = "none", flags: int = 0, data: str = "") -> None:
    code = _libc.mount(
        source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    _check(code, f"mount {source} on {target}")


def detach(target: str) -> None:
    """Take a mount and all below it out of this mount namespace."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")


def die_with_parent() -> None:
    """SIGKILL to this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl PDEATHSIG")


def become_subreaper() -> None:
    """Orphans below this process become its children, to be reaped by it at once."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl CHILD_SUBREAPER")


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
