"""Connections through a child process: ssh, and programs that the configuration allows (ext).

libvirt starts the child itself, by the name in `command=`; it is given a script of ours, in a directory that
is made for one opening and that nobody else can enter. The script leaves its process id there and becomes,
in the same process, ssh with a configuration of ours beside it, or the allowed program. So the child is
known: a connection is severed by killing it, which frees every thread that waits for it.

The child dies with its controller, however that ends: it asks the kernel for a SIGKILL when its parent is
gone. Its parent is the *thread* that dialled; therefore the opening's thread stays until the connections are
closed (`stay`). Should the controller be killed in the instant before the child has asked, nothing was sent
yet, and the child ends by itself at the end of its input. Killing ssh throws away what it had not sent: its
socket comes from `dial`, with the options that our own sockets have.

A known_hosts file and nothing else decides which host is the right one; ssh asks nobody, tries one key, and
gives up on a silent host by itself. User configuration, agents, forwardings and shared connections are off.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from drivers.libvirt import dial

SSH, SETPRIV, ENV = "/usr/bin/ssh", "/usr/bin/setpriv", "/usr/bin/env"
DIE_WITH_PARENT = (SETPRIV, "--pdeathsig", "KILL", "--")
_PID, _SCRIPT, _CONFIG, _KNOWN_HOSTS = "pid", "connect", "config", "known"

SSH_CONFIG: Mapping[str, str] = {
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "UpdateHostKeys": "no",
    "VerifyHostKeyDNS": "no",
    "CheckHostIP": "no",
    "CanonicalizeHostname": "no",
    "BatchMode": "yes",
    "PreferredAuthentications": "publickey",
    "PubkeyAuthentication": "yes",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "HostbasedAuthentication": "no",
    "GSSAPIAuthentication": "no",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
    "ControlMaster": "no",
    "ControlPath": "none",
    "PermitLocalCommand": "no",
    "Tunnel": "no",
    "RequestTTY": "no",
    "Compression": "no",
    "ConnectionAttempts": "1",
    "ConnectTimeout": "4",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
    "ProxyUseFdpass": "yes",
}


class Child:
    """The process that carries one connection."""

    def __init__(self, descriptor: int, on_release: Callable[[], None]) -> None:
        self._descriptor = descriptor  # a pidfd: it never means another process
        self._on_release = on_release
        self._lock = threading.Lock()
        self._released = False

    def tune(self) -> None:
        return

    def sever(self) -> None:
        with self._lock:
            if not self._released:
                self._kill()

    def release(self) -> None:
        """libvirt ends the child when it closes; what it has forgotten does not live on."""
        with self._lock:
            if self._released:
                return
            self._kill()
            os.close(self._descriptor)
            self._released = True
        self._on_release()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


class TunnelBeneath:
    """The children of one opening, in a directory of theirs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changed = threading.Condition()
        self._alive = 0

    def begin(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._directory / _PID).unlink()

    def grip(self) -> Child | None:
        """The script writes its id before all else, but perhaps not yet when an opening is given up."""
        try:
            pid = int((self._directory / _PID).read_text())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        if not _is_ours(pid):
            os.close(descriptor)
            return None
        with self._changed:
            self._alive += 1
        return Child(descriptor, self._gone)

    def _gone(self) -> None:
        with self._changed:
            self._alive -= 1
            self._changed.notify_all()

    def stay(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._alive == 0)
        shutil.rmtree(self._directory, ignore_errors=True)


def _is_ours(pid: int) -> bool:
    """Whether it is a child of this process: nobody else's process is ever killed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[1]) == os.getpid()


def missing(*programs: str) -> str:
    """What this machine lacks to start a child, in words; "" if nothing."""
    lacking = [program for program in programs if not os.access(program, os.X_OK)]
    return f"the controller's machine has no {' and no '.join(lacking)}" if lacking else ""


def ssh(private_dir: Path | None, known_hosts: str, key_file: str) -> tuple[str, TunnelBeneath]:
    """(what libvirt's `command=` is to be, what carries its connections)."""
    directory = _directory(private_dir)
    dialler = [sys.executable, "-I", "-S", str(Path(dial.__file__).resolve())]
    options = {
        "UserKnownHostsFile": _KNOWN_HOSTS,
        "IdentityFile": key_file,
        # ssh replaces %h and %p; the rest is read by a shell, and only by it.
        "ProxyCommand": f"{shlex.join(dialler).replace('%', '%%')} %h %p",
        **SSH_CONFIG,
    }
    lines = "".join(f"    {name} {value}\n" for name, value in options.items())
    (directory / _CONFIG).write_text(f"Host *\n{lines}", encoding="utf-8")
    # libvirt hears nothing of a child that says more than 1 KiB. Of a changed host key ssh says nearly that,
    # and names this file three times: so it is one by a short name, where ssh is.
    (directory / _KNOWN_HOSTS).symlink_to(os.path.abspath(known_hosts))
    return _script(directory, [ENV, "-C", str(directory), SSH, "-F", str(directory / _CONFIG)], '"$@"')


def ext(private_dir: Path | None, command: str, host: str, port: int) -> tuple[str, TunnelBeneath]:
    """The allowed program, with the URI's host and port as its arguments where there are any."""
    told = [argument for argument in (host, str(port or "")) if argument]
    return _script(_directory(private_dir), [command, *told])


def _script(directory: Path, command: list[str], more: str = "") -> tuple[str, TunnelBeneath]:
    script = directory / _SCRIPT
    text = (
        "#!/bin/sh\n"
        f"echo $$ >{shlex.quote(str(directory / _PID))} || exit 255\n"
        "SHELL=/bin/sh; export SHELL\n"
        f"exec {shlex.join([*DIE_WITH_PARENT, *command])} {more}\n"
    )
    script.write_text(text, encoding="utf-8")
    script.chmod(0o700)
    return str(script), TunnelBeneath(directory)


def _directory(private_dir: Path | None) -> Path:
    if private_dir is not None:
        private_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="link-", dir=private_dir))
