"""The small Linux again, with a guest agent and deaf to ACPI: it ends, or boots again, only when its agent is
told to.

`agent.gz` is the initramfs of `guest` with a second archive behind it, as the kernel allows: QEMU's own agent
with the libraries that it needs here, the module of its channel, and an init of its own. One word on the
kernel's command line says what becomes of the agent, once it has opened its channel:

- `agent=answers` (or none): it does what it is told;
- `agent=deaf`: it answers, but the guest does not end when it is asked to;
- `agent=stuck`: it is stopped, and answers nothing, while its channel stays open;
- `agent=dead`: it has ended, and its channel is closed.

The serial port has `AGENT <word>` when that has come about, then ticks as the small Linux has them. 160 MiB.
"""

from __future__ import annotations

import gzip
import re
import stat
import subprocess
from pathlib import Path

from .guest import TICKS, Cpio, GuestError, Guests, find_kernel, module_files, modules_in_order

PROGRAM = Path("/usr/sbin/qemu-ga")
CHANNEL = "org.qemu.guest_agent.0"
_MODULES = ("virtio_pci", "virtio_console")

_INIT = f"""\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /var /sbin
/bin/busybox ln -s /run /var/run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
while read -r module; do insmod "/modules/$module" || echo "no $module"; done < /modules/agent
how=answers
for word in $(cat /proc/cmdline); do case $word in agent=*) how=${{word#agent=}} ;; esac; done
printf '#!/bin/sh\\ncase " $* " in *" -r "*) exec reboot -f ;; esac\\npoweroff -f\\n' > /sbin/shutdown
[ $how != deaf ] || printf '#!/bin/sh\\n' > /sbin/shutdown
chmod +x /sbin/shutdown
port=
while [ -z "$port" ]; do
    port=$(grep -l {CHANNEL} /sys/class/virtio-ports/*/name 2>/dev/null)
    usleep 20000
done
port=${{port%/name}}
qemu-ga -m virtio-serial -p "/dev/${{port##*/}}" > /dev/ttyS0 2>&1 &
agent=$!
until ls -l /proc/$agent/fd | grep -q vport; do usleep 20000; done
case $how in stuck) kill -STOP $agent ;; dead) kill -KILL $agent ;; esac
echo "AGENT $how" > /dev/ttyS0
{TICKS}"""


def make(guests: Guests) -> Path | None:
    """`agent.gz` beside the others; None where the agent is not installed."""
    if not PROGRAM.exists():
        return None
    path = guests.initramfs.with_name("agent.gz")
    path.write_bytes(_archive(guests.initramfs.read_bytes(), find_kernel()[1]))
    return path


def _archive(base: bytes, release: str) -> bytes:
    """`base`: the small Linux' initramfs, of the kernel of this release."""
    made = Cpio()
    for name in ("usr", "usr/sbin", "usr/bin"):
        made.add(name, stat.S_IFDIR | 0o755)
    made.add("init", stat.S_IFREG | 0o755, _INIT.encode())
    made.add("usr/bin/qemu-ga", stat.S_IFREG | 0o755, PROGRAM.read_bytes())
    done: set[str] = set()
    for path in _libraries(PROGRAM):
        _add_directories(made, Path(path).parent, done)
        made.add(path.lstrip("/"), stat.S_IFREG | 0o755, Path(path).read_bytes())
    module_files(made, modules_in_order(Path("/lib/modules") / release, _MODULES), "agent")
    return base + gzip.compress(made.finish(), 1, mtime=0)


def _libraries(program: Path) -> list[str]:
    """The loader and all that it would load, by the paths at which it looks for them."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False, timeout=30)
    found = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, flags=re.MULTILINE)
    if done.returncode != 0 or not found:
        raise GuestError(f"ldd does not say what {program} needs: {done.stderr.strip()}")
    return found


def _add_directories(made: Cpio, path: Path, done: set[str]) -> None:
    for parent in (*reversed(path.parents), path):
        name = str(parent).lstrip("/")
        if name and name not in done:
            done.add(name)
            made.add(name, stat.S_IFDIR | 0o755)
