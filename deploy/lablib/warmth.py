"""What libvirt found out about QEMU, kept for the next lab.

A libvirtd that starts without its cache runs every QEMU binary to ask what it can do: 1.5 s of processor
time a host, and minutes for a suite that makes several labs. The answers are libvirt's own files; it checks
for itself whether they still hold (binary, versions, kernel, KVM) and asks anew if not. They stand in
/var/cache, may be removed at any time, and are all that a lab leaves behind.
"""

from __future__ import annotations

import os
from pathlib import Path

from .layout import Host

CACHE = Path("/var/cache/domctl-lab")


def is_kept() -> bool:
    return any(CACHE.glob("*.xml"))


def give(host: Host) -> None:
    """Lay what is kept before a libvirtd that has not asked yet."""
    own = _capabilities(host)
    if not own.exists():
        own.mkdir(parents=True)
        for path in CACHE.glob("*.xml"):
            (own / path.name).write_bytes(path.read_bytes())


def keep(host: Host) -> None:
    """Keep what the host's libvirtd has found out, if that is news."""
    for path in _capabilities(host).glob("*.xml"):
        kept = CACHE / path.name
        text = path.read_bytes()
        if not kept.exists() or kept.read_bytes() != text:
            CACHE.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{path.name}.{host.name}.{os.getpid()}")
            part.write_bytes(text)
            part.rename(kept)


def _capabilities(host: Host) -> Path:
    return host.dir / "cache/qemu/capabilities"
