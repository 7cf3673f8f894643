"""A control group of each host's own, for its containers.

Ids of containers are pids, and these repeat from host to host; in one tree two hosts' containers of one
name would share a group, and one host's power cut would leave its groups in the way. So each host's
processes live below a group of their own, which a cgroup namespace makes look like the root. QEMU needs
none of this, and where groups cannot be made (in some containers) only LXC is missing.

With v1 hierarchies the unified one beside them is left out of a host's view: libvirt would mix the two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from . import kernel

ROOT = Path("/sys/fs/cgroup")
BUSY_S = 5.0
LEAF = "init"  # v2: a group that has processes cannot give controllers to its children


@dataclass(frozen=True)
class Group:
    """A group of this name in each hierarchy: `directories` as the machine sees them."""

    directories: tuple[Path, ...]
    unified: bool

    def join(self) -> None:
        """Move this process into it, making it if need be."""
        for directory in self.directories:
            directory.mkdir(exist_ok=True)
            _inherit_cpuset(directory)
            (directory / "cgroup.procs").write_text(f"{os.getpid()}\n")

    def join_leaf(self) -> None:
        """v2 only, and only after the cgroup namespace was made: leave the namespace's root empty."""
        for directory in self.directories if self.unified else ():
            leaf = directory / LEAF
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(f"{os.getpid()}\n")

    def thaw(self) -> None:
        """A container that was paused is frozen, and what is frozen does not even die."""
        for directory in self.directories:
            for path, _, files in os.walk(directory):
                for name, go in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                    if name in files:
                        with contextlib.suppress(OSError):  # a hierarchy's root cannot be written to; or gone
                            Path(path, name).write_text(go)

    def remove(self) -> None:
        """With all groups below; they must have no processes any more. The kernel may keep a group busy for a
        moment after its last process was reaped."""
        ends_at = time.monotonic() + BUSY_S
        for directory in self.directories:
            for path, _, _ in os.walk(directory, topdown=False):
                _remove(path, ends_at)

    def mount_view(self, root: Path) -> None:
        """Put the groups where libvirt will look for them; `root` is /sys/fs/cgroup of a /sys being made."""
        if self.unified:
            for directory in self.directories:
                kernel.mount(str(directory), str(root), flags=kernel.MS_BIND)
            return
        strict = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("tmpfs", str(root), "tmpfs", strict, "mode=755")
        for directory in self.directories:
            place = directory.parent.name
            (root / place).mkdir()
            kernel.mount(str(directory), str(root / place), flags=kernel.MS_BIND)
            for controller in place.split(",") if "," in place else ():
                (root / controller).symlink_to(place)  # cpu and cpuacct -> cpu,cpuacct


def _remove(path: str, ends_at: float) -> None:
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > ends_at:
                raise
            time.sleep(0.05)
        else:
            return


def group(name: str) -> Group:
    """The group of this name in each hierarchy that is in use here; an empty one if there is none."""
    v1 = []
    unified = False
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup" and Path(place).parent == ROOT:
            v1.append(Path(place))
        unified = unified or (kind == "cgroup2" and Path(place) == ROOT)
    parents = list(dict.fromkeys(v1)) if v1 else [ROOT] if unified else []
    usable = tuple(parent / name for parent in parents if os.access(parent, os.W_OK))
    return Group(usable, unified=not v1)


def _inherit_cpuset(directory: Path) -> None:
    """v1: a new cpuset has no processors and takes no process until it is given some."""
    for name in ("cpuset.mems", "cpuset.cpus"):
        with contextlib.suppress(FileNotFoundError):
            if not (directory / name).read_text().strip():
                (directory / name).write_text((directory.parent / name).read_text())
