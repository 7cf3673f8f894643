"""Starting a process that stays, such that no crash in between leaves one that nobody knows of.

The new process waits until its pid and start time are on disk, and goes away by itself if its parent dies
before. `lab up` can thus be killed at any moment, and the next one finds all that is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import kernel
from .processes import identify, record

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


def fork_recorded(
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
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # programs would inherit that Python ignores it
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
