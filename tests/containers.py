"""Root directories for containers: a static busybox, and an init that says what it lived through.

`make_root` needs no network and no package but busybox-static. The init appends to /log, on the container's
root and so in a file of the host: `start` with its arguments, then `TICK n` twenty times a second, and `TERM`
when it is asked to stop; /net names the interfaces that it sees. With the argument `deaf` it ignores SIGTERM,
with `end` it ends when `let_end` tells it to, with `fail` so, too, but with exit code 1, and with `reboot` it
asks for a reboot then. Its next run has to be told again.

`let_end` waits until libvirt can notice the end: the controller process of a container hears of its init's
death only once it has a handler for SIGCHLD, which it installs last of all, after the start was reported
done. Where it was kept from running just then until init had ended, libvirt called the container running for
good (libvirt 9.0: 3 of 31 with the controller stopped for a second within its start; seen on busy machines).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
LOG = "log"
_APPLETS = ("sh", "sleep", "usleep", "reboot", "cat", "rm")
_DIRECTORIES = ("bin", "dev", "proc", "sys", "etc", "run", "tmp", "data")
_INIT = """\
#!/bin/sh
if [ "$1" = deaf ]; then trap '' TERM; else trap 'echo TERM >> /log; exit 0' TERM; fi
for one in /sys/class/net/*; do echo "${one##*/}"; done > /net
echo "start $*" >> /log
n=0
while :; do
    echo "TICK $n" >> /log
    n=$((n + 1))
    usleep 50000
    if [ -e /go ]; then
        rm /go
        case "$1" in end) exit 0;; fail) exit 1;; reboot) reboot -f;; esac
    fi
done
"""


def make_root(root: Path) -> None:
    """Lay one out; what is there already is replaced."""
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in _APPLETS:
        (root / "bin" / applet).unlink(missing_ok=True)
        (root / "bin" / applet).symlink_to("busybox")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    (root / LOG).unlink(missing_ok=True)
    (root / "go").unlink(missing_ok=True)


def let_end(root: Path, name: str) -> None:
    """Have the init of the container of this name, which runs, do what its argument says."""
    too_late = time.monotonic() + 20
    while not any(_hears_of_children(process) for process in _controllers(name)):
        assert time.monotonic() < too_late, f"the controller of {name} hears of no end"
        time.sleep(0.02)
    (root / "go").touch()


def _controllers(name: str) -> Iterator[Path]:
    """Libvirt's process beside each container of this name, in /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"libvirt_lxc") and name.encode() in words:
            yield process


def _hears_of_children(process: Path) -> bool:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught & 1 << signal.SIGCHLD - 1)


def lived(root: Path) -> list[str]:
    """What its init wrote, but for the ticks."""
    return [line for line in _lines(root) if not line.startswith("TICK")]


def ticks(root: Path) -> int:
    return sum(line.startswith("TICK") for line in _lines(root))


def _lines(root: Path) -> list[str]:
    try:
        return (root / LOG).read_text().splitlines()
    except FileNotFoundError:
        return []
