"""Block devices that all hosts of a lab share: loop devices on files in the lab's directory.

libvirt migrates a domain with a writable disk only where it deems that safe: a block device with cache
none is, a file on each host's own directories is not. Which loop devices are a lab's is asked of the
kernel (their backing file lies in its directory), so that no record can be lost.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .layout import Lab


class DiskError(Exception):
    """losetup refused; the message is its own."""


def add(lab: Lab, size_bytes: int) -> str:
    """A new device of this size, zeroed and sparse; its path is the same on the machine and every host."""
    directory = lab.dir / "disks"
    directory.mkdir(exist_ok=True)
    image = directory / f"disk{len(list(directory.iterdir())) + 1}.img"
    with image.open("xb") as file:
        file.truncate(size_bytes)
    return _losetup("--find", "--show", str(image)).strip()


def remove_all(directory: Path) -> None:
    """Detach every loop device whose file lies in this lab's directory."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if backing.read_text().startswith(f"{directory}/disks/"):
            _losetup("--detach", f"/dev/{backing.parent.parent.name}")


def _losetup(*args: str) -> str:
    done = subprocess.run(["losetup", *args], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise DiskError(f"losetup {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout
