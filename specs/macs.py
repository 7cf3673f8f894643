"""MAC addresses that domctl chooses: derived, so that the same device gets the same one after any loss.

52:54:00 is QEMU's prefix. That no two devices of a cluster share an address is ensured elsewhere, by a
transaction; when it finds one taken, it asks for the next attempt.
"""

from __future__ import annotations

import hashlib


def choose_mac(uuid: str, device_name: str, attempt: int = 0) -> str:
    """The MAC address to try for a device of a domain, at the given attempt."""
    seed = f"{uuid.lower()}/{device_name}/{attempt}".encode()
    tail = hashlib.sha256(seed).digest()[:3]
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)
