"""A process is its pid and its start time, for pids come round again.

Every process the lab will ever signal is recorded as such a pair, and signalled through a pidfd taken
before the start time was compared: a recycled pid is never hit. A zombie counts as ended: its resources
are gone, and where PID 1 reaps slowly it lingers for seconds.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """`started` is field 22 of /proc/PID/stat: clock ticks since boot."""

    pid: int
    started: int

    def state(self) -> str:
        """The kernel's letter (R, S, D, T, ...), or "" once it has ended."""
        found = _stat(self.pid)
        if found is None or found[1] != self.started or found[0] in "ZX":
            return ""
        return found[0]

    def is_alive(self) -> bool:
        return self.state() != ""

    def send(self, signum: signal.Signals) -> bool:
        """True if the signal reached this very process."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():
                return False
            signal.pidfd_send_signal(fd, signum)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def wait_end(self, timeout_s: float | None) -> bool:
        """True once the process has ended; false if it outlived the timeout (None: none)."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.is_alive():
                return True
            return bool(select.select([fd], [], [], timeout_s)[0])
        finally:
            os.close(fd)

    def wait_stopped(self, timeout_s: float = 5.0) -> None:
        """After SIGSTOP: the kernel stops threads in their own time. TimeoutError if it does not, or if the
        process has ended."""
        ends_at = time.monotonic() + timeout_s
        while self.state() != "T":
            if time.monotonic() > ends_at:
                raise TimeoutError(f"process {self.pid} was not stopped by SIGSTOP within {timeout_s:.0f} s")
            time.sleep(0.005)

    def kill(self, timeout_s: float = 20.0) -> None:
        """SIGKILL, and return when it has ended; TimeoutError if the kernel could not end it."""
        if self.send(signal.SIGKILL) and not self.wait_end(timeout_s):
            raise TimeoutError(f"process {self.pid} survived SIGKILL for {timeout_s:.0f} s")


def identify(pid: int) -> Process | None:
    """The process that has this pid now."""
    found = _stat(pid)
    return None if found is None else Process(pid, found[1])


def record(path: Path, process: Process) -> None:
    """Write the pair so that a reader sees all of it or nothing."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(f"{process.pid} {process.started}\n")
    part.rename(path)


def recorded(path: Path) -> Process | None:
    """The pair in this file; None if there is none."""
    try:
        pid, started = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return Process(int(pid), int(started))


def sharing_pid_namespace(init: Process) -> list[int]:
    """Pids (as this machine sees them) of all that runs in the PID namespace of `init`, it included.
    Processes in namespaces nested deeper (LXC guests) are not listed; they end with it all the same."""
    try:
        wanted = os.readlink(f"/proc/{init.pid}/ns/pid")
    except OSError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                    found.append(int(entry))
            except OSError:
                continue  # ended meanwhile, or a zombie
    return sorted(found) if init.is_alive() else []


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return fields[0], int(fields[19])
