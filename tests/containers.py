"""Root directories for containers: a static busybox, and an init that says what it lived through.

`make_root` needs no network and no package but busybox-static. The init appends to /log, on the container's
root and so in a file of the host: `start` with its arguments, then `TICK n` twenty times a second, and `TERM`
when it is asked to stop; /net names the interfaces that it sees. With the argument `deaf` it ignores SIGTERM,
with `end` it ends after a third of a second, with `fail` so, too, but with exit code 1, and with `reboot` it
asks for a reboot then.
"""

from __future__ import annotations

from pathlib import Path

BUSYBOX = Path("/bin/busybox")
LOG = "log"
_APPLETS = ("sh", "sleep", "usleep", "reboot", "cat")
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
    if [ $n = 6 ]; then
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
